//! `holdfast quota`: how often the key store's keys may be used.

use core::fmt;

use holdfast_shared::command::{Action, Outcome};
use holdfast_shared::keystore::Quota;
use serde::Serialize;

use super::Done;
use crate::evidence::Evidence;
use crate::session::{Completed, Session, SessionError, Wait};

/// The quota in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaReport {
    /// Nothing: there is no limit.
    pub quota: Option<QuotaLine>,
    /// Who says so.
    pub evidence: Evidence,
}

/// A limit, which each enclave applies for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaLine {
    /// Sustained.
    pub requests_per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
}

impl From<Quota> for QuotaLine {
    fn from(quota: Quota) -> Self {
        Self { requests_per_second: quota.requests_per_second, burst: quota.burst }
    }
}

impl QuotaReport {
    fn new(completed: Completed) -> Result<Self, SessionError> {
        let Outcome::Settings { quota, .. } = completed.outcome else { return Err(SessionError::OtherOutcome) };
        Ok(Self { quota: quota.map(QuotaLine::from), evidence: completed.evidence })
    }
}

impl fmt::Display for QuotaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quota {
            Some(QuotaLine { requests_per_second, burst }) => {
                writeln!(f, "{requests_per_second} requests per second, {burst} at once, in each enclave")?;
            }
            None => writeln!(f, "no quota")?,
        }
        write!(f, "  {}", self.evidence.summary())
    }
}

/// Sets the quota, or lifts it.
///
/// # Errors
/// [`SessionError`].
pub async fn set(session: &Session, quota: Option<Quota>, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = match quota {
        Some(quota) => {
            format!("quota set: {} requests per second, {} at once", quota.requests_per_second, quota.burst)
        }
        None => "quota cleared".to_owned(),
    };
    Done::new(done, session.order(Action::SetQuota { quota }, wait).await?)
}

/// Asks an enclave for the quota.
///
/// # Errors
/// [`SessionError`].
pub async fn show(session: &Session, wait: Wait<'_>) -> Result<QuotaReport, SessionError> {
    QuotaReport::new(session.order(Action::ShowSettings, wait).await?)
}
