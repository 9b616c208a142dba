//! Leases: who may speak on the sealed channel, until when, and which counters were used.
//!
//! The database says which leases there are and when they end, for all replicas; memory keeps their keys. A message is taken
//! once by each process (the window in memory), and what it *changes* once by all replicas (the window in the database, in the
//! transaction that makes the change). A message that changes nothing, a plain watch or a fetch, can thus be replayed at another
//! replica or after a restart by somebody who recorded it. That gains nothing: the answer is sealed for the enclave and bound
//! to the counter, so that an enclave that has its answer does not open another; and a boot that is gone looks alive for as
//! long as its recorded messages last.
//!
//! The id of a lease is half random and half a MAC, so that strangers who make up ids cause no look into the database.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_shared::cbor;
use holdfast_shared::channel::OverlayId;
use holdfast_shared::hpke;
use holdfast_shared::ids::{BootId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::labels;
use holdfast_shared::query::Obeyed;
use holdfast_shared::release::ChannelKeys;
use holdfast_shared::secrets::Secret;
use zeroize::Zeroizing;

use super::evidence::Evidence;
use super::membership::KeyStore;
use super::{Custodian, ServiceError, StartError};
use crate::kek::{KekError, StorageKey};
use crate::store::{ReplayWindow, StoredLease};

/// How often the database is told that an enclave was heard: the rest of [`holdfast_shared::limits::ENCLAVE_SILENT_MS`] is longer than a watch is held.
const NOTE_SEEN_MS: u64 = 4_000;

/// What changes about a lease in memory.
#[derive(Debug)]
pub(super) struct LeaseState {
    pub(super) seen_ms: u64,
    /// What the database knows of it.
    pub(super) noted_ms: u64,
    pub(super) counters: ReplayWindow,
    /// The block overlay that the enclave said last it obeys, as the database has it.
    pub(super) obeys: Option<OverlayId>,
}

/// A lease that was granted.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) key_store: Arc<KeyStore>,
    pub(super) boot_id: BootId,
    pub(super) module_id: String,
    /// Verifies the boot's audit checkpoints.
    pub(super) audit_public_key: [u8; 32],
    pub(super) evidence: Evidence,
    pub(super) document: Vec<u8>,
    pub(super) keys: ChannelKeys,
    pub(super) state: Mutex<LeaseState>,
}

impl Lease {
    pub(super) fn restore(
        stored: StoredLease,
        key_store: Arc<KeyStore>,
        custodian_id: CustodianId,
        storage_key: &StorageKey,
    ) -> Result<Self, StartError> {
        let aad = aad(custodian_id, key_store.id(), stored.lease_id);
        let keys = storage_key.unwrap(&aad, &stored.channel_keys)?;
        let (ask, reply) = keys.expose().split_first_chunk::<32>().ok_or(StartError::Damaged("channel keys"))?;
        let keys = ChannelKeys { ask: secret(ask)?, reply: secret(reply)? };
        let evidence = cbor::decode(&stored.evidence).map_err(|_| StartError::Damaged("evidence"))?;
        let state = LeaseState {
            seen_ms: stored.times.seen_ms,
            noted_ms: stored.times.seen_ms,
            counters: stored.counters,
            obeys: stored.obeys.map(|obeyed| obeyed.overlay),
        };
        Ok(Self {
            id: stored.lease_id,
            key_store,
            boot_id: stored.boot_id,
            module_id: stored.module_id,
            audit_public_key: stored.audit_public_key,
            evidence,
            document: stored.document,
            keys,
            state: Mutex::new(state),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LeaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn secret(bytes: &[u8]) -> Result<Secret<32>, StartError> {
    Secret::fill_with(|own| {
        let source: &[u8; 32] = bytes.try_into().map_err(|_| StartError::Damaged("channel keys"))?;
        own.copy_from_slice(source);
        Ok(())
    })
}

/// Wraps the channel keys of a lease for the database.
pub(super) fn wrap_keys(
    keys: &ChannelKeys,
    custodian_id: CustodianId,
    key_store_id: KeyStoreId,
    lease_id: LeaseId,
    storage_key: &StorageKey,
) -> Result<Vec<u8>, KekError> {
    let both = Zeroizing::new([keys.ask.expose().as_slice(), keys.reply.expose()].concat());
    storage_key.wrap(&aad(custodian_id, key_store_id, lease_id), &both)
}

fn aad(custodian_id: CustodianId, key_store_id: KeyStoreId, lease_id: LeaseId) -> Vec<u8> {
    hpke::bind(labels::WRAP_LEASE, &[custodian_id.as_bytes(), key_store_id.as_bytes(), lease_id.as_bytes()])
}

impl Custodian {
    /// Refuses an id that no lease has which has not ended: to refuse a long message before it is read.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn check_live(&self, id: LeaseId) -> Result<(), ServiceError> {
        self.lease(id).await.map(|_| ())
    }

    /// A lease that has not ended, granted by this or another replica.
    pub(super) async fn lease(&self, id: LeaseId) -> Result<Arc<Lease>, ServiceError> {
        if !self.challenges.is_lease_id(id) {
            return Err(unknown_lease());
        }
        let now_ms = self.clock.now_ms();
        let known = self.leases().get(&id).cloned();
        if let Some(lease) = known {
            if self.store.lease_times(id, now_ms).await?.is_some() {
                return Ok(lease);
            }
            self.leases().remove(&id);
            return Err(unknown_lease());
        }
        let stored = self.store.lease(id, now_ms).await?.ok_or_else(unknown_lease)?;
        let key_store = self.key_store(stored.key_store_id)?;
        let lease = Lease::restore(stored, key_store, self.id, &self.storage_key)
            .map_err(|error| ServiceError::Internal(error.to_string()))?;
        Ok(Arc::clone(self.leases().entry(id).or_insert_with(|| Arc::new(lease))))
    }

    /// Notes that an enclave asked something, in the database now and then.
    pub(super) async fn note_seen(&self, lease: &Lease, now_ms: u64) -> Result<(), ServiceError> {
        let due = {
            let mut state = lease.state();
            state.seen_ms = state.seen_ms.max(now_ms);
            let due = now_ms.saturating_sub(state.noted_ms) >= NOTE_SEEN_MS;
            if due {
                state.noted_ms = now_ms;
            }
            due
        };
        if due {
            self.store.note_seen(lease.id, now_ms).await?;
        }
        Ok(())
    }

    /// Notes which block overlay an enclave obeys, when it is another one than before.
    pub(super) async fn note_obeyed(&self, lease: &Lease, obeys: Option<OverlayId>) -> Result<(), ServiceError> {
        let Some(overlay) = obeys.filter(|overlay| lease.state().obeys != Some(*overlay)) else { return Ok(()) };
        self.store.note_obeyed(lease.id, Obeyed { overlay, heard_ms: self.clock.now_ms() }).await?;
        // Only what is on disk is known: otherwise an attempt that failed would be the last.
        lease.state().obeys = Some(overlay);
        Ok(())
    }

    /// When this process last heard the enclave that holds a lease; 0 for never.
    pub(super) fn seen_here(&self, id: LeaseId) -> u64 {
        self.leases().get(&id).map_or(0, |lease| lease.state().seen_ms)
    }
}

fn unknown_lease() -> ServiceError {
    ServiceError::NotFound("this lease is unknown or has ended; ask for a new release".to_owned())
}
