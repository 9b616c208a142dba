//! Custody of one key store, seen from the enclave: release, ceremony, lease, watch, commands.
//!
//! ```text
//!            ┌────────────── refused, unreachable: back off ───────────────┐
//!            ▼                                                             │
//! AwaitingCustodian ─ release ─┬─ blocked ─────────▶ Blocked ──── lifted ──┤
//!                              ├─ no share yet ────▶ AwaitingCeremony ─────┤
//!                              └─ share ─▶ unseal ─▶ Serving ─ watch ──────┤
//!                                                       │                  │
//!                                                  LeaseExpired ───────────┘
//! ```
//!
//! Guarantees: keys are installed only for the blob that the register names, opened under a root key that the share gave,
//! within an unexpired lease; versions never go back within a boot; at the end of the lease and on a block, root key and
//! external keys are dropped (and so zeroized) whatever else this task is waiting for, and with them the attested key, which opens
//! a recorded release; a lease is lengthened only by a release or renewal that was worth something; nobody's answers make a busy
//! loop, and no command stops another. Assumes: one custodian and one share
//! needed; manifests that say otherwise are refused by name.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{ClientError, Connect, CustodianClient};
use holdfast_link::control::{KeyStoreState, Level};
use holdfast_shared::api::RefusalCode;
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor::DecodeError;
use holdfast_shared::channel::{Ask, ChannelError, Reply};
use holdfast_shared::command::CommandError;
use holdfast_shared::hpke::{self, HpkeError};
use holdfast_shared::ids::{BlobId, BootId, CommandId, KeyStoreId};
use holdfast_shared::keystore::{self, KeyStoreError, OpenedKeyStore};
use holdfast_shared::manifest::{Custodian, VerifiedManifest};
use holdfast_shared::register::{self, RegisterEntry, RegisterError};
use holdfast_shared::release::{HeldShare, ReleaseError, ShareSet};
use holdfast_shared::secrets::Secret;

use crate::clock::Clock;
use crate::entropy::EntropyError;
use crate::nsm::{Nsm, NsmError};
use crate::report::{Reporter, StoreReport};

mod allowance;
mod ceremony;
mod commands;
pub(crate) mod health;
mod identity;
mod lease;
mod publish;
mod release;
mod served;
mod session;
mod watch;

pub(crate) use allowance::Workshop;
pub(crate) use served::ServedStore;

use allowance::Allowance;
use health::CustodianHealth;
use lease::LateAnswer;
use release::{Applicant, Granted, Released};
use served::Prepared;
use session::Session;
use watch::Ended;

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
    /// The share is not the one that was committed to.
    #[error("custodian {0} gave a wrong share")]
    WrongShare(String),
    /// There is a version, so there was a ceremony, and a share.
    #[error("the custodian has a version of the key store and no share of its root key")]
    NoShare,
    /// The register went back.
    #[error("the custodian offers version {offered}, but version {seen} was seen in this boot: a rollback")]
    Rollback { seen: u64, offered: u64 },
    /// The register went another way.
    #[error("the custodian offers another version {version} than the one that was seen in this boot: a fork")]
    Fork { version: u64 },
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
    /// The key store cannot be served.
    #[error("{0}")]
    Served(String),
}

impl CustodyError {
    /// Whether the custodian will not have this enclave.
    fn is_refusal(&self) -> bool {
        match self {
            Self::LeaseEnded(_) => true,
            Self::Client(ClientError::Refused { refusal, .. }) => refusal.code == RefusalCode::Denied,
            _ => false,
        }
    }

    /// Whether nothing more can be asked under the lease.
    fn ends_lease(&self) -> bool {
        matches!(self, Self::LeaseEnded(_) | Self::Client(ClientError::Refused { .. }))
    }
}

/// What all key stores of an enclave share.
pub(crate) struct Enclave {
    pub(crate) nsm: Nsm,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) reporter: Reporter,
    pub(crate) boot_id: BootId,
    pub(crate) audit_public_key: [u8; 32],
    pub(crate) workshop: Workshop,
}

/// What a release gave, while its lease lasts.
struct ReleasedKeys {
    root: Secret<32>,
    set: ShareSet,
    /// Opens the release, which the parent may have recorded: it goes when the root key goes.
    attested_key: Arc<hpke::PrivateKey>,
}

impl ReleasedKeys {
    fn with(self, entry: RegisterEntry, blob: Vec<u8>) -> Unsealed {
        let Self { root, set, attested_key } = self;
        Unsealed { root, set, attested_key, entry, blob }
    }
}

/// The root key and the newest version, while the lease lasts.
struct Unsealed {
    root: Secret<32>,
    set: ShareSet,
    attested_key: Arc<hpke::PrivateKey>,
    entry: RegisterEntry,
    blob: Vec<u8>,
}

impl Unsealed {
    /// For the next version.
    fn keys(&self) -> ReleasedKeys {
        ReleasedKeys {
            root: self.root.duplicate(),
            set: self.set.clone(),
            attested_key: Arc::clone(&self.attested_key),
        }
    }

    fn open(&self) -> Result<OpenedKeyStore, KeyStoreError> {
        keystore::open(&self.root, &self.entry, &self.blob)
    }

    /// From bytes to what can be served.
    fn prepare(&self, served: &ServedStore, now_ms: u64) -> Result<Prepared, CustodyError> {
        let opened = self.open()?;
        if opened.header.generation != self.set.generation {
            return Err(CustodyError::Generation { blob: opened.header.generation, share: self.set.generation });
        }
        served.prepare(opened.body, now_ms)
    }
}

/// The custody of one key store: see the module.
pub(crate) struct Custody<C> {
    enclave: Arc<Enclave>,
    manifest: VerifiedManifest,
    custodian: Custodian,
    client: Arc<CustodianClient<C>>,
    served: ServedStore,
    overlay: Option<BlockOverlay>,
    unsealed: Option<Arc<Unsealed>>,
    allowance: Allowance,
    /// The newest version seen in this boot.
    newest: Option<(u64, BlobId)>,
    handled: VecDeque<CommandId>,
    /// Commands to be looked at again at a later moment, monotonic.
    put_off: VecDeque<(CommandId, u64)>,
}

/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// After a lease that held this long, the pause starts from the shortest again.
const LONG_LEASE_MS: u64 = 60_000;
/// How often the end of the lease is looked at, besides every request looking at it.
const EXPIRY_POLL: Duration = Duration::from_millis(100);

impl<C: Connect + 'static> Custody<C> {
    pub(crate) fn new(
        enclave: Arc<Enclave>,
        manifest: VerifiedManifest,
        client: Arc<CustodianClient<C>>,
        custodian: Custodian,
        served: ServedStore,
    ) -> Self {
        Self {
            allowance: Allowance::new(enclave.clock.monotonic_ms()),
            enclave,
            manifest,
            custodian,
            client,
            served,
            overlay: None,
            unsealed: None,
            newest: None,
            handled: VecDeque::new(),
            put_off: VecDeque::new(),
        }
    }

    fn id(&self) -> KeyStoreId {
        self.manifest.id()
    }

    /// Runs until the task is dropped.
    pub(crate) async fn run(mut self) {
        let mut pause = PAUSES.0;
        self.report(KeyStoreState::AwaitingCustodian, None);
        loop {
            let expiry = expiry(self.served.clone(), Arc::clone(&self.enclave.clock));
            tokio::select! {
                () = self.attempt(&mut pause) => {}
                () = expiry => {
                    self.drop_keys();
                    self.served.end_lease();
                    self.report_unserved(KeyStoreState::LeaseExpired, "the lease expired without a renewal");
                }
            }
        }
    }

    /// One lease from its release to its failure, and the pause after it.
    async fn attempt(&mut self, pause: &mut Duration) {
        let started_ms = self.enclave.clock.monotonic_ms();
        let Err(error) = self.hold_lease().await else {
            *pause = PAUSES.0;
            tokio::time::sleep(*pause).await;
            // Every block that is lifted makes a version to be opened again: that, too, is within the allowance.
            while self.is_spent() {
                tokio::time::sleep(PAUSES.0).await;
            }
            return;
        };
        self.report_failure(&error);
        if self.enclave.clock.monotonic_ms().saturating_sub(started_ms) > LONG_LEASE_MS {
            *pause = PAUSES.0;
        }
        tokio::time::sleep(*pause).await;
        *pause = PAUSES.1.min(pause.saturating_mul(2));
    }

    fn drop_keys(&mut self) {
        self.unsealed = None;
        self.served.wipe();
    }

    fn report_failure(&mut self, error: &CustodyError) {
        let reason = error.to_string();
        let tell = if error.is_refusal() { CustodianHealth::refused } else { CustodianHealth::failed };
        self.served.custodian_health().for_each(tell);
        if let CustodyError::LeaseEnded(_) = error {
            self.drop_keys();
            self.served.end_lease();
            self.report(KeyStoreState::Refused, Some(&reason));
        } else if self.unsealed.is_some() {
            // The lease still runs: what was released may be used until it ends.
            self.log(Level::Warn, &format!("{reason}; serving on"));
        } else {
            let state = match self.newest {
                _ if error.is_refusal() => KeyStoreState::Refused,
                // It was served in this boot.
                Some(_) => KeyStoreState::LeaseExpired,
                None => KeyStoreState::AwaitingCustodian,
            };
            self.report_unserved(state, &reason);
        }
    }

    /// A block is the first reason not to serve, whatever else happens (design, section 3).
    fn report_unserved(&self, state: KeyStoreState, reason: &str) {
        let state = if self.is_blocked() { KeyStoreState::Blocked } else { state };
        self.report(state, Some(reason));
    }

    fn log(&self, level: Level, line: &str) {
        self.enclave.reporter.log_about(self.id(), level, line);
    }

    fn report(&self, state: KeyStoreState, reason: Option<&str>) {
        let report = StoreReport {
            state,
            version: self.unsealed.as_ref().map(|unsealed| unsealed.entry.version),
            lease_expires_ms: self.served.lease_expires_ms(),
            reason: reason.map(str::to_owned),
        };
        self.enclave.reporter.set(self.id(), report);
    }

    /// One release and everything until its lease ends or fails.
    async fn hold_lease(&mut self) -> Result<Ended, CustodyError> {
        let applicant = Applicant {
            nsm: &self.enclave.nsm,
            clock: &self.enclave.clock,
            client: &self.client,
            custodian: &self.custodian,
            key_store_id: self.id(),
            boot_id: self.enclave.boot_id,
            audit_public_key: self.enclave.audit_public_key,
        };
        let Granted { session, lease, released, policy_epoch } = release::obtain(&applicant).await?;
        self.log(Level::Info, &format!("lease granted under policy epoch {policy_epoch}"));
        if let Some(overlay) = &released.content.overlay {
            self.take_overlay(overlay);
        }
        self.put_off.clear();
        // What an earlier release gave is served for no longer because of one that proves to be worth nothing.
        self.served.shorten_lease(lease.expires_ms());
        if self.is_blocked() {
            drop(released);
        } else {
            self.unseal(&session, released).await?;
        }
        self.served.set_lease(lease.expires_ms());
        self.served.custodian_health().for_each(|custodian| custodian.answered(lease.sent_ms()));
        self.report_standing();
        self.watch(&session, lease).await
    }

    fn is_blocked(&self) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| overlay.store)
    }

    fn report_standing(&self) {
        if self.is_blocked() {
            self.report(KeyStoreState::Blocked, Some("an administrator blocked the key store"));
        } else if !self.served.has_certificate() {
            self.report(KeyStoreState::AwaitingCertificate, Some("no certificate is installed yet"));
        } else {
            self.report(KeyStoreState::Serving, None);
        }
    }

    /// From a share to served keys.
    async fn unseal(&mut self, session: &Session<C>, released: Released) -> Result<(), CustodyError> {
        let Released { content, attested_key } = released;
        let entry = content.register.map(|held| self.open_entry(&held.signed)).transpose()?;
        if entry.is_none() && self.newest.is_some() {
            return Err(CustodyError::Rollback { seen: self.newest_version(), offered: 0 });
        }
        let (root, set) = match content.shares.into_iter().next_back() {
            Some(held) => self.root_of(held)?,
            None if entry.is_some() => return Err(CustodyError::NoShare),
            None => {
                self.report(KeyStoreState::AwaitingCeremony, Some("drawing and depositing the root key"));
                ceremony::deposit_root(&self.enclave.nsm, session, &self.manifest).await?
            }
        };
        let (entry, blob) = if let Some(entry) = entry {
            let blob = self.fetch(session, &entry).await?;
            (entry, blob)
        } else {
            let first = ceremony::first_version(&self.enclave, session, &self.manifest, &root, &set).await?;
            (self.open_entry(&first.register)?, first.blob)
        };
        let attested_key = Arc::new(attested_key);
        self.adopt(ReleasedKeys { root, set, attested_key }.with(entry, blob)).await
    }

    fn root_of(&self, held: HeldShare) -> Result<(Secret<32>, ShareSet), CustodyError> {
        let wrong = || CustodyError::WrongShare(self.custodian.name.clone());
        let index = usize::from(held.share.index).checked_sub(1).ok_or_else(wrong)?;
        let commitment = held.set.commitments.get(index).ok_or_else(wrong)?;
        if commitment.0 != held.share.commitment() || held.set.shares_needed != self.manifest.manifest().shares_needed {
            return Err(wrong());
        }
        // With one share needed, the share is the root key (design, section 4).
        Ok((held.share.value, held.set))
    }

    fn open_entry(&self, signed: &[u8]) -> Result<RegisterEntry, CustodyError> {
        let entry = register::open(signed, self.id(), &self.custodian.signing_key)?;
        match self.newest {
            Some((seen, _)) if entry.version < seen => Err(CustodyError::Rollback { seen, offered: entry.version }),
            Some((seen, blob_id)) if entry.version == seen && entry.blob_id != blob_id => {
                Err(CustodyError::Fork { version: seen })
            }
            _ => Ok(entry),
        }
    }

    /// The newest version seen in this boot, 0 before the first.
    fn newest_version(&self) -> u64 {
        self.newest.map_or(0, |(version, _)| version)
    }

    fn note(&mut self, entry: &RegisterEntry) {
        if entry.version > self.newest_version() {
            self.newest = Some((entry.version, entry.blob_id));
        }
    }

    /// Opens a version and serves it. What this task is ended in the middle of is never served.
    async fn adopt(&mut self, unsealed: Unsealed) -> Result<(), CustodyError> {
        let (unsealed, served) = (Arc::new(unsealed), self.served.clone());
        let now_ms = self.enclave.clock.wall_ms();
        let opening = Arc::clone(&unsealed);
        self.allowance.charge(unsealed.blob.len());
        let prepared = self.enclave.workshop.work(move || opening.prepare(&served, now_ms)).await??;
        self.note(&unsealed.entry);
        self.served.install(prepared)?;
        self.unsealed = Some(unsealed);
        Ok(())
    }

    /// Fetches the blob of a version. Whether it is the right one is checked when it is opened.
    async fn fetch(&self, session: &Session<C>, entry: &RegisterEntry) -> Result<Vec<u8>, CustodyError> {
        match session.ask(&Ask::Fetch { blob_id: entry.blob_id }).await?.0 {
            Reply::Blob { blob, .. } => {
                self.check_room(blob.len())?;
                Ok(blob)
            }
            Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
            _ => Err(CustodyError::OtherAnswer),
        }
    }

    /// Whether a key store of this length has room here, beside all others.
    fn check_room(&self, length: usize) -> Result<(), CustodyError> {
        let share = self.enclave.workshop.share();
        if length > share { Err(CustodyError::NoRoom { length, share }) } else { Ok(()) }
    }
}

/// Returns when the lease has ended; never while there is none.
async fn expiry(served: ServedStore, clock: Arc<dyn Clock>) {
    loop {
        if served.lease_expires_ms().is_some_and(|expires_ms| clock.monotonic_ms() >= expires_ms) {
            return;
        }
        tokio::time::sleep(EXPIRY_POLL).await;
    }
}

#[cfg(test)]
mod tests;
