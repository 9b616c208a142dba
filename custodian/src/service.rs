//! The custodian's work, independent of HTTP: bytes of a request in, bytes of an answer or a [`ServiceError`] out.
//!
//! ```text
//! challenge ─nonce→ (enclave's document) ─→ release ─lease→ channel: watch, fetch, deposit, publish, copy, commit, report, retire, debit, tally
//! administrators ─→ manifests, successors, commands, blocks, policies, approvals, queries
//! ```
//!
//! Guarantees: what is acknowledged is on disk; a share leaves only for evidence that the policy in force accepts, and not
//! while the key store is blocked; a request that changes something is carried through even if its sender hangs up. Assumes:
//! the host's clock, the database and the key-encryption key are the owner's. Refuses: everything unproven, with a reason.

mod alarms;
mod approvals;
mod audit;
mod budgets;
mod ceremony;
mod challenge;
mod channel;
mod copies;
mod error;
mod evidence;
mod fleet;
mod grant;
mod lease;
mod membership;
mod news;
mod orders;
mod policies;
mod provenance;
mod queries;
mod release;
mod replicas;
mod succession;
mod versions;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use holdfast_shared::attestation::{RootError, TrustRoot};
use holdfast_shared::hpke::{self, HpkeError};
use holdfast_shared::ids::{AdministratorId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::limits;
use holdfast_shared::manifest::ManifestError;
use holdfast_shared::signature::{SignatureError, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::config::{AlarmsConfig, Config};
use crate::kek::{Kek, KekError, StorageKey, StorageKeyError};
use crate::rate::RateLimit;
use crate::state::{self, StateDirectory, StateError};
use crate::store::{Store, StoreError};
use challenge::Challenges;
use evidence::TrustRoots;
use lease::Lease;
use membership::{KeyStore, Membership};

pub use challenge::ChallengeError;
pub use error::ServiceError;
pub use release::ReleaseDenied;

/// Verifications of signatures that run at once.
const VERIFICATIONS_AT_ONCE: usize = 4;

/// Why a custodian cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key-encryption key, or what it wraps.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The signing key.
    #[error("signing key: {0}")]
    Signature(#[from] SignatureError),
    /// The encryption key.
    #[error("encryption key: {0}")]
    Hpke(#[from] HpkeError),
    /// The emulated root cannot be read.
    #[error("emulated_root: {}: {reason}", file.display())]
    EmulatedRoot {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A stored manifest does not verify.
    #[error("the stored manifest of key store {key_store_id} does not verify: {source}")]
    Manifest {
        /// The key store.
        key_store_id: KeyStoreId,
        /// Why.
        source: ManifestError,
    },
    /// Stored manifests name other custodians only.
    #[error("the stored manifests of key store {0} do not name this custodian; is this database another custodian's?")]
    NotOurs(KeyStoreId),
    /// A stored value is damaged.
    #[error("the stored {0} is damaged")]
    Damaged(&'static str),
    /// No randomness.
    #[error("the operating system gives no randomness")]
    Random,
}

impl From<StorageKeyError> for StartError {
    fn from(error: StorageKeyError) -> Self {
        match error {
            StorageKeyError::Kek(error) => Self::Kek(error),
            StorageKeyError::Store(error) => Self::Store(error),
        }
    }
}

/// A running custodian.
pub struct Custodian {
    id: CustodianId,
    name: String,
    signing_key: SigningKey,
    encryption_key: hpke::PrivateKey,
    administrators: BTreeSet<AdministratorId>,
    roots: TrustRoots,
    kek: Kek,
    storage_key: StorageKey,
    store: Arc<Store>,
    alarms: AlarmsConfig,
    clock: Arc<dyn Clock>,
    rng: SystemRandom,
    challenges: Challenges,
    challenge_rate: RateLimit,
    release_rate: RateLimit,
    unproven_rate: RateLimit,
    order_rate: RateLimit,
    verifications: Arc<Semaphore>,
    key_stores: RwLock<HashMap<KeyStoreId, Arc<KeyStore>>>,
    leases: Mutex<HashMap<LeaseId, Arc<Lease>>>,
    stopping: watch::Sender<bool>,
}

impl Custodian {
    /// Reads keys and database of an initialised custodian.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StartError> {
        let rng = SystemRandom::new();
        let state = StateDirectory::new(config.state.clone());
        state.check()?;
        let signing_key = SigningKey::from_pkcs8(&state::read_private(&state.signing_key())?, &rng)
            .map_err(|_| StateError::BadKey { file: state.signing_key() })?;
        let encryption_key = hpke::PrivateKey::from_bytes(&state::read_private_array(&state.encryption_key())?)?;
        let kek = Kek::open(&config.key_encryption_key, &state)?;
        let store = Arc::new(Store::configured(config, &state).await?);
        let id = CustodianId(signing_key.verifying_key()?.fingerprint());
        store.claim(id).await?;
        let storage_key = StorageKey::open(&store, &kek, id).await?;
        let challenges = Challenges::open(&store, &storage_key, id, &rng).await?;
        let now = Instant::now();
        let custodian = Self {
            id,
            name: config.name.clone(),
            signing_key,
            encryption_key,
            administrators: config.administrators.iter().copied().collect(),
            roots: TrustRoots::new(read_emulated_root(config)?),
            kek,
            storage_key,
            store,
            alarms: config.alarms.clone(),
            clock,
            rng,
            challenges,
            challenge_rate: RateLimit::new(limits::CHALLENGES_PER_SECOND, now),
            release_rate: RateLimit::new(limits::VERIFICATIONS_PER_SECOND, now),
            unproven_rate: RateLimit::new(limits::UNPROVEN_REFUSALS_PER_SECOND, now),
            order_rate: RateLimit::new(limits::ORDERS_PER_SECOND, now),
            verifications: Arc::new(Semaphore::new(VERIFICATIONS_AT_ONCE)),
            key_stores: RwLock::default(),
            leases: Mutex::default(),
            stopping: watch::Sender::new(false),
        };
        custodian.load_key_stores().await?;
        let custodian = Arc::new(custodian);
        custodian.follow();
        Ok(custodian)
    }

    async fn load_key_stores(&self) -> Result<(), StartError> {
        for stored in self.store.key_stores().await? {
            let key_store_id = stored.key_store_id;
            let membership =
                Membership::verify(&stored, self.id).map_err(|source| StartError::Manifest { key_store_id, source })?;
            // A custodian that was removed stays to answer queries; of one that never was any, this is not the database.
            let is_ours = stored.manifests.iter().any(|manifest| succession::names(&manifest.signed, self.id));
            if !is_ours && membership.places().all(|place| place.index.is_none()) {
                return Err(StartError::NotOurs(key_store_id));
            }
            self.remember(KeyStore::new(membership));
        }
        Ok(())
    }

    /// The custodian's id.
    #[must_use]
    pub const fn id(&self) -> CustodianId {
        self.id
    }

    /// Writes what an operator should see at the start: identity, key stores, trust roots, and a warning for an emulated one.
    ///
    /// # Errors
    /// [`ServiceError`] when the database fails.
    pub async fn announce(self: &Arc<Self>) -> Result<(), ServiceError> {
        tracing::info!(custodian_id = %self.id, name = self.name, administrators = self.administrators.len(), "custodian");
        tracing::info!(key = self.kek.describe(), "key-encryption key");
        if self.administrators.is_empty() {
            tracing::warn!("the configuration names no administrators: no manifest can be enrolled");
        }
        tracing::info!(sha256 = hex::encode(self.roots.aws().fingerprint()), "trust root: AWS Nitro Enclaves");
        if let Some(root) = self.roots.emulated() {
            let sha256 = hex::encode(root.fingerprint());
            tracing::warn!(
                "=========================================================================================="
            );
            tracing::warn!(sha256, "EMULATED TRUST ROOT: this custodian also trusts an emulator.");
            tracing::warn!(
                "Whoever runs the emulator can obtain the shares of every key store whose policy names this root."
            );
            tracing::warn!("This is for development. Remove `emulated_root` from the configuration for anything else.");
            tracing::warn!(
                "=========================================================================================="
            );
        }
        let key_stores: Vec<_> =
            self.key_stores.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for key_store in key_stores {
            let (policy, membership) = (self.policy(&key_store).await?, self.membership(&key_store).await?);
            tracing::info!(
                key_store_id = %key_store.id(),
                name = membership.manifest().manifest().name,
                home = membership.is_home(),
                member = membership.is_member(),
                manifest_sequence = membership.manifest().sequence(),
                policy_epoch = policy.epoch,
                trust_root = hex::encode(policy.trust_root),
                emulated_root = self.roots.is_emulated(&policy.trust_root),
                "key store"
            );
        }
        Ok(())
    }

    /// Whether the key-encryption key could be used the last time: without it no share is released.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.kek.is_usable()
    }

    /// Looks at the key-encryption key again and again.
    pub async fn watch_key_encryption_key(&self) {
        self.kek.watch().await;
    }

    /// Lets those who wait for news go, so that the service can end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// The database, for those who deliver alarms, and for tests and tools that look at the record.
    #[must_use]
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn known_key_store(&self, id: KeyStoreId) -> Option<Arc<KeyStore>> {
        self.key_stores.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn key_store(&self, id: KeyStoreId) -> Result<Arc<KeyStore>, ServiceError> {
        self.known_key_store(id).ok_or_else(|| {
            ServiceError::NotFound("this custodian does not know this key store; enrol its manifest first".to_owned())
        })
    }

    fn remember(&self, key_store: Arc<KeyStore>) {
        self.key_stores.write().unwrap_or_else(PoisonError::into_inner).entry(key_store.id()).or_insert(key_store);
    }

    fn wake_all(&self) {
        let key_stores = self.key_stores.read().unwrap_or_else(PoisonError::into_inner);
        key_stores.values().for_each(|key_store| key_store.wake());
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<LeaseId, Arc<Lease>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random<const N: usize>(&self) -> Result<[u8; N], ServiceError> {
        let mut bytes = [0; N];
        self.rng.fill(&mut bytes).map_err(|_| ServiceError::Internal("no randomness".to_owned()))?;
        Ok(bytes)
    }

    /// Runs work that takes a processor for a while, a few at once, whatever becomes of who asked.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let permit = Arc::clone(&self.verifications)
            .acquire_owned()
            .await
            .map_err(|_| ServiceError::Internal("is stopping".to_owned()))?;
        let custodian = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&custodian);
            drop(permit);
            result
        });
        task.await.map_err(|error| ServiceError::Internal(error.to_string()))
    }
}

/// Carries a change through even if the request's connection ends meanwhile: a commit and what follows from it in memory
/// belong together.
async fn carried_through<T: Send + 'static>(
    change: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::spawn(change).await.map_err(|error| ServiceError::Internal(error.to_string()))?
}

/// Reads the emulated root that the configuration names, if it names one.
///
/// # Errors
/// [`StartError::EmulatedRoot`].
pub fn read_emulated_root(config: &Config) -> Result<Option<TrustRoot>, StartError> {
    let Some(file) = &config.emulated_root else { return Ok(None) };
    let failed = |reason: String| StartError::EmulatedRoot { file: file.clone(), reason };
    let pem = fs::read(file).map_err(|error| failed(error.to_string()))?;
    TrustRoot::emulated_pem(&pem).map(Some).map_err(|error: RootError| failed(error.to_string()))
}
