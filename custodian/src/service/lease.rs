//! Leases in memory: who may speak on the sealed channel, until when, and which counters were used.

use core::num::NonZeroU32;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_shared::cbor;
use holdfast_shared::channel::ChannelError;
use holdfast_shared::hpke;
use holdfast_shared::ids::{BootId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::labels;
use holdfast_shared::limits::{COUNTER_WINDOW, ENCLAVE_SILENT_MS};
use holdfast_shared::release::ChannelKeys;
use holdfast_shared::secrets::Secret;
use zeroize::Zeroizing;

use super::evidence::Evidence;
use super::{Custodian, KeyStore, ServiceError, StartError};
use crate::kek::{KekError, StorageKey};
use crate::store::StoredLease;

/// Which counters of a lease were used. Concurrent requests overtake each other, so a message may come a little late; it may
/// not come twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayWindow {
    newest: u64,
    /// Bit `i`: `newest - i` was used.
    used: u64,
}

impl ReplayWindow {
    /// Everything up to `counter` counts as used.
    #[must_use]
    pub const fn after(counter: u64) -> Self {
        Self { newest: counter, used: u64::MAX }
    }

    /// Uses `counter`.
    ///
    /// # Errors
    /// [`ChannelError::Replayed`] when it was used, or is too far behind to know.
    pub fn accept(&mut self, counter: u64) -> Result<(), ChannelError> {
        let replayed = ChannelError::Replayed { last: self.newest, offered: counter };
        if let Some(ahead) = counter.checked_sub(self.newest)
            && ahead > 0
        {
            self.used = u32::try_from(ahead).ok().and_then(|ahead| self.used.checked_shl(ahead)).unwrap_or(0) | 1;
            self.newest = counter;
            return Ok(());
        }
        let behind = self.newest.saturating_sub(counter);
        if behind >= COUNTER_WINDOW {
            return Err(replayed);
        }
        let bit = u32::try_from(behind).ok().and_then(|behind| 1_u64.checked_shl(behind)).ok_or(replayed.clone())?;
        if self.used & bit != 0 {
            return Err(replayed);
        }
        self.used |= bit;
        Ok(())
    }
}

/// What changes about a lease.
#[derive(Debug)]
pub(super) struct LeaseState {
    pub(super) expires_ms: u64,
    pub(super) seen_ms: u64,
    pub(super) counters: ReplayWindow,
}

/// A lease that was granted.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) key_store: Arc<KeyStore>,
    pub(super) boot_id: BootId,
    pub(super) module_id: String,
    pub(super) evidence: Evidence,
    pub(super) document: Vec<u8>,
    pub(super) keys: ChannelKeys,
    pub(super) granted_ms: u64,
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
            expires_ms: stored.expires_ms,
            seen_ms: stored.seen_ms,
            counters: ReplayWindow::after(stored.counter),
        };
        Ok(Self {
            id: stored.lease_id,
            key_store,
            boot_id: stored.boot_id,
            module_id: stored.module_id,
            evidence,
            document: stored.document,
            keys,
            granted_ms: stored.granted_ms,
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
    /// Whether a lease has this id and has not ended: to refuse a long message before it is read.
    pub fn is_live(&self, id: LeaseId) -> bool {
        self.lease(id).is_ok()
    }

    /// A lease that has not ended.
    pub(super) fn lease(&self, id: LeaseId) -> Result<Arc<Lease>, ServiceError> {
        let now_ms = self.clock.now_ms();
        let lease = self.leases().get(&id).cloned();
        lease.filter(|lease| lease.state().expires_ms > now_ms).ok_or_else(|| {
            ServiceError::NotFound("this lease is unknown or has ended; ask for a new release".to_owned())
        })
    }

    /// How many enclaves serve a key store, as far as they have asked lately; whoever is told this is one of them.
    pub(super) fn enclaves_of(&self, key_store_id: KeyStoreId) -> NonZeroU32 {
        let now_ms = self.clock.now_ms();
        let leases = self.leases_of(key_store_id);
        let heard = |lease: &&Arc<Lease>| now_ms.saturating_sub(lease.state().seen_ms) <= ENCLAVE_SILENT_MS;
        let boots: BTreeSet<_> = leases.iter().filter(heard).map(|lease| lease.boot_id).collect();
        u32::try_from(boots.len()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
    }

    /// The leases of a key store that have not ended.
    pub(super) fn leases_of(&self, key_store_id: KeyStoreId) -> Vec<Arc<Lease>> {
        let now_ms = self.clock.now_ms();
        let mut leases: Vec<_> = self
            .leases()
            .values()
            .filter(|lease| lease.key_store.id() == key_store_id && lease.state().expires_ms > now_ms)
            .cloned()
            .collect();
        leases.sort_by_key(|lease| (lease.granted_ms, lease.id));
        leases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_used_once_and_may_come_a_little_late() {
        let table: [(u64, &[(u64, bool)]); 5] = [
            (0, &[(0, false), (1, true), (1, false), (2, true), (1, false)]),
            (0, &[(3, true), (1, true), (2, true), (2, false), (1, false), (3, false), (0, false)]),
            (10, &[(10, false), (9, false), (12, true), (11, true), (10, false), (11, false)]),
            (0, &[(COUNTER_WINDOW + 1, true), (1, false), (2, true), (2, false)]),
            (0, &[(u64::MAX, true), (u64::MAX, false), (u64::MAX - 1, true), (5, false)]),
        ];
        for (start, steps) in table {
            let mut window = ReplayWindow::after(start);
            for (counter, accepted) in steps {
                assert_eq!(window.accept(*counter).is_ok(), *accepted, "{counter} after {start}: {window:?}");
            }
        }
    }
}
