//! What the tool does, one module for each group of commands.
//!
//! Every function returns data and prints nothing, so that other programs can use it; every report can be shown to a person
//! (`Display`) or a program (`Serialize`).

pub mod admin;
pub mod alarms;
pub mod attest;
pub mod attestation;
pub mod audit;
pub mod block;
pub mod budget;
pub mod client_auth;
pub mod config;
pub mod credential;
pub mod document;
pub mod explain_signature;
pub mod history;
pub mod key;
pub mod key_end;
pub mod kill;
pub mod kms;
pub mod limit;
pub mod manifest;
pub mod measurements;
pub mod orders;
pub mod policy;
pub mod provenance;
pub mod quota;
pub mod release;
pub mod release_policy;
pub mod spread;
pub mod status;
pub mod succession;
pub mod tls;

use core::fmt;

use holdfast_shared::command::Outcome;
use holdfast_shared::ids::CommandId;
use serde::Serialize;

use crate::evidence::Evidence;
use crate::session::{Completed, SessionError};

/// A command that was carried out and has nothing to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// What was done.
    pub done: String,
    /// The command.
    pub command_id: CommandId,
    /// Who says so.
    pub evidence: Evidence,
}

impl Done {
    fn new(done: String, completed: Completed) -> Result<Self, SessionError> {
        match completed.outcome {
            Outcome::Done => Ok(Self { done, command_id: completed.command_id, evidence: completed.evidence }),
            _ => Err(SessionError::OtherOutcome),
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  {}", self.done, self.evidence.summary())
    }
}
