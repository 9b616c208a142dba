//! Why a conversation failed, and two ways in which an order ends without a result.

use holdfast_client::ClientError;
use holdfast_shared::api::RefusalCode;
use holdfast_shared::block::BlockError;
use holdfast_shared::cbor::DecodeError;
use holdfast_shared::command::CommandError;
use holdfast_shared::ids::CommandId;
use holdfast_shared::manifest::ManifestError;
use holdfast_shared::policy::PolicyError;
use holdfast_shared::query::QueryError;
use holdfast_shared::register::RegisterError;
use holdfast_shared::signature::SignatureError;

use crate::evidence::EvidenceError;
use crate::home::HomeError;
use crate::words::OrderReport;

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The keys or the manifest.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The custodian cannot be reached, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is not the custodian's.
    #[error("the custodian's answer is refused: {0}")]
    Query(#[from] QueryError),
    /// The answer is to another question.
    #[error("the custodian answered another question than the one it was asked")]
    OtherAnswer,
    /// A command or a result breaks a rule.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A result that is not what it claims.
    #[error("the result is refused: {0}")]
    Decode(#[from] DecodeError),
    /// A result that no accepted enclave vouches for.
    #[error("the result is refused: {0}")]
    Evidence(#[from] EvidenceError),
    /// The custodian's block overlay is not signed by administrators.
    #[error("the custodian's answer is refused: {0}")]
    Block(#[from] BlockError),
    /// The custodian's register entry is not home's.
    #[error("the custodian's answer is refused: {0}")]
    Register(#[from] RegisterError),
    /// A release policy breaks a rule.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A successor manifest breaks a rule.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Signature(#[from] SignatureError),
    /// The key does not belong to an administrator of this key store.
    #[error(
        "the administrator {name} of this folder is not an administrator of the key store {key_store}; use the --home of one who is"
    )]
    NotAdministrator {
        /// Whose keys these are.
        name: String,
        /// The key store's name.
        key_store: String,
    },
    /// A statement that custodians take only with all its signatures.
    #[error(
        "{what} needs {needed} signatures in this key store: write it with --out FILE, have others sign it (holdfast sign FILE), then send it (holdfast send FILE)"
    )]
    MoreSignatures {
        /// What was to be sent.
        what: &'static str,
        /// How many it needs.
        needed: u8,
    },
    /// The order was sent, and enclaves carry it out once others have signed it.
    #[error("waits for the approval of other administrators")]
    Awaits(Box<OrderReport>),
    /// The order was only shown.
    #[error("not sent")]
    DryRun(Box<OrderReport>),
    /// `--if-state` for an order about no key.
    #[error("--if-state is for orders about one key")]
    NoKeyToCompare,
    /// The custodian does not know the command.
    #[error("the custodian does not know the command {0} (any more): it was never sent there, or it expired")]
    UnknownCommand(CommandId),
    /// No waiting command of that prefix.
    #[error("no waiting command begins with {0}; see them with: holdfast pending")]
    NoSuchPending(String),
    /// More than one.
    #[error("more than one waiting command begins with {0}; give more digits")]
    AmbiguousPending(String),
    /// Already signed by this administrator.
    #[error("this administrator has signed the command {0} already")]
    SignedAlready(CommandId),
    /// A person said no.
    #[error("not signed: {0}")]
    NotConfirmed(&'static str),
    /// No enclave has dealt with the command in time.
    #[error(
        "no enclave has carried out the command {command_id} within {seconds} s; it stays queued: look again with: holdfast command result {command_id}"
    )]
    Timeout {
        /// The command.
        command_id: CommandId,
        /// How long was waited.
        seconds: u64,
    },
    /// The ceremony has not taken place in time.
    #[error(
        "there was no ceremony within {seconds} s, so there is no credential yet: start an enclave with this manifest, then try again"
    )]
    NoCeremony {
        /// How long was waited.
        seconds: u64,
    },
    /// The conversation broke off after the command was sent.
    #[error(
        "{source}; the command {command_id} may have arrived, so do not repeat it: see what came of it with: holdfast command result {command_id}"
    )]
    Undecided {
        /// The command.
        command_id: CommandId,
        /// Why it broke off.
        source: ClientError,
    },
    /// The enclave said no.
    #[error("the enclave refused: {0}")]
    Refused(String),
    /// The enclave answered something else than the command asks for.
    #[error("the enclave answered with something else than the command asks for")]
    OtherOutcome,
    /// Nobody but the custodian can say that an overlay is in force, and it did not.
    #[error(
        "the custodian does not confirm the block overlay of epoch {ordered}: it shows {shown} as the one in force; what was ordered may not be in force: see holdfast status, and order it again"
    )]
    Unconfirmed {
        /// The epoch of the overlay that was sent.
        ordered: u64,
        /// The epoch that the custodian shows, 0 for none.
        shown: u64,
    },
    /// No lease that could take a credential.
    #[error("no enclave holds a lease, so there is none to encrypt the credential to; start one and try again")]
    NoLease,
    /// No custodian of that name.
    #[error("no custodian is named {name:?}; there are: {known}")]
    UnknownCustodian {
        /// What was given.
        name: String,
        /// The names.
        known: String,
    },
    /// No custodian answered at all.
    #[error("no custodian answered: {0}")]
    Nobody(String),
    /// The tool's own tasks.
    #[error("the tool was interrupted")]
    Interrupted,
}

impl SessionError {
    /// Whether a custodian said no.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Client(ClientError::Refused { .. })) && !self.is_passing()
    }

    /// Whether a custodian has this, or something newer, already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Client(ClientError::Refused { refusal, .. }) if refusal.code == RefusalCode::Conflict)
    }

    /// Whether the same may work a moment later: nobody said no.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Client(ClientError::Refused { refusal, .. }) => {
                matches!(refusal.code, RefusalCode::TooMany | RefusalCode::Internal)
            }
            Self::Client(ClientError::Unusable { .. }) => false,
            Self::Client(_) => true,
            _ => false,
        }
    }
}
