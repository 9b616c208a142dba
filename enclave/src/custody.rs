//! Custody of one key store, seen from the enclave: releases, ceremony, leases, versions, commands.
//!
//! ```text
//!   link to custodian 1 ─┐  releases, news   ┌────────┐   changes    ┌─────────────┐
//!   link to custodian 2 ─┼──────────────────▶│ ledger │─────────────▶│ coordinator │
//!   link to custodian n ─┘◀──────────────────│        │◀─────────────│             │
//!                            chores, orders  └────────┘ what to do   └─────────────┘
//!                                             │ gate, wipe                  │ prepared versions
//!                                             ▼                             ▼
//!                                                      served key store
//! ```
//!
//! Guarantees: keys are installed only for a version that enough custodians hold, opened under a root key that enough shares
//! gave, while enough leases last; versions never go back within a boot; at the end of the leases and on a block, root key, shares and
//! external keys are dropped (and so zeroized) whatever else is under way, and with them the attested keys, which open
//! recorded releases; a lease is lengthened only by a release or renewal that was worth something; nobody's answers make a busy
//! loop, no custodian delays another, and no command stops another.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{ClientError, Connect};
use holdfast_link::control::Level;
use holdfast_shared::api::RefusalCode;
use holdfast_shared::audit::SegmentError;
use holdfast_shared::cbor::DecodeError;
use holdfast_shared::channel::ChannelError;
use holdfast_shared::command::CommandError;
use holdfast_shared::hpke::HpkeError;
use holdfast_shared::ids::BootId;
use holdfast_shared::keystore::KeyStoreError;
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::register::RegisterError;
use holdfast_shared::release::ReleaseError;
use holdfast_shared::sharing::SharingError;

use crate::audit::{AuditLogs, Unrecorded};
use crate::clock::Clock;
use crate::entropy::EntropyError;
use crate::kms::{CredentialsSource, KmsError};
use crate::nsm::{Nsm, NsmError};
use crate::report::Reporter;

mod adopt;
mod allowance;
mod audit;
mod budgets;
mod ceremony;
mod commands;
mod coordinator;
mod docket;
pub(crate) mod health;
mod home;
mod identity;
mod kms;
mod lease;
mod ledger;
mod links;
mod publish;
mod release;
mod renewal;
mod rotate;
mod served;
mod session;
mod tally;
mod unseal;
mod upkeep;
mod watch;
mod witness;

pub(crate) use allowance::Workshop;
#[cfg(test)]
pub(crate) use identity::tls_key;
pub(crate) use served::ServedStore;

use coordinator::Coordinator;
use lease::LateAnswer;
use ledger::Ledger;

/// Why custody made no progress.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CustodyError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Nsm(#[from] NsmError),
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    #[error(transparent)]
    Late(#[from] LateAnswer),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    KeyStore(#[from] KeyStoreError),
    #[error(transparent)]
    Hpke(#[from] HpkeError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// The reply is to another request, or of another kind.
    #[error("the custodian's answer is not to this request")]
    OtherAnswer,
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// The share is not the one that was committed to.
    #[error("custodian {0} gave a wrong share")]
    WrongShare(String),
    /// There is a version, so there was a ceremony, and a share.
    #[error("the custodian has a version of the key store and no share of its root key")]
    NoShare,
    /// Too few shares of one set.
    #[error("{have} of {needed} shares of root key generation {generation} came")]
    FewShares { generation: u32, have: usize, needed: usize },
    /// The shares are not those that the key store was sealed with.
    #[error("the key store names another set of shares of its root key than custodians gave")]
    OtherShares,
    /// Too few custodians for what is to be done.
    #[error("{have} of {needed} custodians {what}")]
    FewCustodians { what: &'static str, have: usize, needed: usize },
    /// The register went back.
    #[error("version {offered} is the newest of {by}, but version {seen} was seen in this boot: a rollback")]
    Rollback { seen: u64, offered: u64, by: String },
    /// The register went another way.
    #[error("{by} has another version {version} than what was seen of {home}, which orders versions: a fork")]
    Fork { version: u64, by: String, home: String },
    /// Nobody gave the newest version's blob.
    #[error("no custodian that answers has version {version}")]
    NoBlob { version: u64 },
    /// A version made under a manifest that no custodian handed out yet.
    #[error("the newest version was made under manifest {sequence}, which no custodian has handed out yet")]
    ManifestMissing { sequence: u32 },
    /// The home custodian is away.
    #[error("the home custodian {0} does not answer; changes wait")]
    HomeAway(String),
    /// AWS KMS did not take, or give, its share.
    #[error("the share at AWS KMS: {0}")]
    Kms(#[from] KmsError),
    /// What KMS gave is not the share that was committed to.
    #[error("AWS KMS gave a wrong share")]
    WrongKmsShare,
    /// The keys went while it was worked on.
    #[error("what was begun is dropped: the keys were wiped meanwhile")]
    Wiped,
    /// A custodian that the manifest describes so that it cannot be reached.
    #[error("{0}")]
    Unusable(ClientError),
    /// Its time is over.
    #[error("the lease expired without a renewal")]
    Expired,
    /// A custodian's link ended; it says why itself.
    #[error("{0}")]
    LinkEnded(String),
    /// A custodian would not do it.
    #[error("refuses {0}")]
    Declined(String),
    /// The blob is sealed under another generation of the root key than the share's.
    #[error("the key store is sealed under root key generation {blob}, the share is of generation {share}")]
    Generation { blob: u32, share: u32 },
    /// The custodian ended the lease.
    #[error("the custodian ended the lease: {0}")]
    LeaseEnded(String),
    /// The custodian would not do it.
    #[error("the custodian refused: {0}")]
    Refused(String),
    /// The key store is larger than what each of so many may have.
    #[error("the key store has {length} bytes; with so many key stores in this enclave, each may have {share}")]
    NoRoom { length: usize, share: usize },
    /// The newest version cannot be served.
    #[error("{0}")]
    Unservable(String),
    /// Nothing is begun any more.
    #[error("the enclave ends")]
    Ending,
    /// What comes into service cannot be recorded.
    #[error(transparent)]
    Audit(#[from] Unrecorded),
    /// Nobody could read the audit log.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

impl CustodyError {
    /// Whether the custodian will not have this enclave.
    fn is_refusal(&self) -> bool {
        match self {
            Self::LeaseEnded(_) | Self::Unusable(_) => true,
            Self::Client(ClientError::Refused { refusal, .. }) => refusal.code == RefusalCode::Denied,
            _ => false,
        }
    }

    /// Whether no answer came.
    const fn is_silence(&self) -> bool {
        matches!(self, Self::Client(error) if !matches!(error, ClientError::Refused { .. }))
    }

    /// Whether nothing more can be asked under the lease.
    fn ends_lease(&self) -> bool {
        matches!(self, Self::LeaseEnded(_) | Self::Client(ClientError::Refused { .. }))
    }

    /// Whether the newest version cannot come into service here, as far as this enclave can tell.
    const fn ends_service(&self) -> bool {
        matches!(self, Self::Unservable(_) | Self::Audit(_) | Self::Segment(_))
    }

    /// Whether trying again is of use only after a custodian said something new.
    fn waits_for_custodians(&self) -> bool {
        matches!(
            self,
            Self::NoShare
                | Self::FewShares { .. }
                | Self::Rollback { .. }
                | Self::Fork { .. }
                | Self::NoBlob { .. }
                | Self::ManifestMissing { .. }
                | Self::HomeAway(_)
                | Self::Wiped
        )
    }
}

/// What all key stores of an enclave share.
pub(crate) struct Enclave {
    pub(crate) nsm: Nsm,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) reporter: Reporter,
    pub(crate) boot_id: BootId,
    /// The logs of this boot; their public key stands in every release document.
    pub(crate) audit: Arc<AuditLogs>,
    pub(crate) workshop: Workshop,
    /// For shares at AWS KMS; the parent hands them over, and they open nothing by themselves.
    pub(crate) aws_credentials: CredentialsSource,
}

/// The custody of one key store: see the module.
pub(crate) struct Custody<C> {
    ledger: Arc<Ledger<C>>,
    coordinator: Coordinator<C>,
}

/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often the end of the leases is looked at, besides every request looking at it.
const EXPIRY_POLL: Duration = Duration::from_millis(100);

impl<C: Connect + Clone + 'static> Custody<C> {
    /// Of a key store whose custodians are reached through `connector`.
    pub(crate) fn new(enclave: Arc<Enclave>, manifest: VerifiedManifest, connector: C, served: ServedStore) -> Self {
        let ledger = Arc::new(Ledger::new(enclave, manifest, served));
        Self { coordinator: Coordinator::new(Arc::clone(&ledger), connector), ledger }
    }

    /// Runs until the task is dropped.
    pub(crate) async fn run(self) {
        let Self { ledger, coordinator } = self;
        tokio::select! {
            () = coordinator.run() => {}
            () = expiry(&ledger) => {}
            () = witness::sign_heads(&ledger) => {}
            () = budgets::fill_purses(&ledger) => {}
            () = tally::tell_uses(&ledger) => {}
        }
    }
}

/// Ends what has expired, without end.
async fn expiry<C: Connect + 'static>(ledger: &Ledger<C>) {
    loop {
        if ledger.expire() {
            ledger.problem(&CustodyError::Expired.to_string());
            ledger.log(Level::Warn, "the leases expired without a renewal");
        }
        tokio::time::sleep(EXPIRY_POLL).await;
    }
}

#[cfg(test)]
mod tests;
