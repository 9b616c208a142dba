//! The gate of one key store: may anything be answered with 200 at this moment?
//!
//! Guarantees: a check is two atomic loads and takes no lock; what a custodian reported as blocked stays blocked until a
//! newer epoch says otherwise; a gate starts closed. Assumes: times come from one [`crate::clock::Clock`], and lease
//! expiries were computed as the design, section 5, says. The gate is asked twice in each request: in order of precedence,
//! and again right before a 200 is written.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_shared::external_key::ExternalKeyId;

/// Why the gate is closed, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key store is blocked.
    #[error("the key store is blocked")]
    StoreBlocked,
    /// A lease that serving needs has expired, or none was granted yet.
    #[error("the lease has expired")]
    LeaseExpired,
    /// The key is blocked.
    #[error("the external key is blocked")]
    KeyBlocked,
}

/// The newest block overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Grows with every overlay that the administrators sign; 0 means that there has been none.
    pub epoch: u64,
    /// Whether the whole key store is blocked.
    pub store: bool,
    /// The blocked keys.
    pub keys: HashSet<ExternalKeyId>,
}

impl Blocks {
    fn follows(&self, current: &Self) -> bool {
        let adds = || self.store >= current.store && self.keys.is_superset(&current.keys);
        self.epoch > current.epoch || (self.epoch == current.epoch && adds())
    }
}

/// Lease and blocks of one key store.
#[derive(Debug, Default)]
pub struct Gate {
    lease_expires_ms: AtomicU64,
    blocks: ArcSwap<Blocks>,
}

impl Gate {
    /// A closed gate: no lease, no blocks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets when serving must stop: the earliest expiry among the leases that are needed, on the monotonic clock.
    pub fn set_lease_expiry(&self, monotonic_ms: u64) {
        self.lease_expires_ms.store(monotonic_ms, Ordering::Release);
    }

    /// When serving must stop, on the monotonic clock.
    #[must_use]
    pub fn lease_expiry_ms(&self) -> u64 {
        self.lease_expires_ms.load(Ordering::Acquire)
    }

    /// Applies an overlay if it is newer than the one in force, or of its epoch and blocks all that it does. Returns whether it was.
    pub fn apply(&self, blocks: Blocks) -> bool {
        let blocks = Arc::new(blocks);
        let before = self.blocks.rcu(|current| Arc::clone(if blocks.follows(current) { &blocks } else { current }));
        blocks.follows(&before)
    }

    /// The epoch of the overlay in force.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.blocks.load().epoch
    }

    /// Whether `key` is blocked, the store aside.
    #[must_use]
    pub fn blocks_key(&self, key: &ExternalKeyId) -> bool {
        self.blocks.load().keys.contains(key)
    }

    /// Whether a 200 may be written at `now_monotonic_ms`, for `key` if one is used.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now_monotonic_ms: u64, key: Option<&ExternalKeyId>) -> Result<(), Refusal> {
        let blocks = self.blocks.load();
        if blocks.store {
            return Err(Refusal::StoreBlocked);
        }
        if now_monotonic_ms >= self.lease_expiry_ms() {
            return Err(Refusal::LeaseExpired);
        }
        if key.is_some_and(|key| blocks.keys.contains(key)) {
            return Err(Refusal::KeyBlocked);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> ExternalKeyId {
        ExternalKeyId::parse(id).unwrap()
    }

    fn blocks(epoch: u64, store: bool, keys: &[&str]) -> Blocks {
        Blocks { epoch, store, keys: keys.iter().copied().map(key).collect() }
    }

    #[test]
    fn a_new_gate_is_closed() {
        assert_eq!(Gate::new().check(0, None), Err(Refusal::LeaseExpired));
    }

    #[test]
    fn refusals_in_order() {
        let gate = Gate::new();
        gate.set_lease_expiry(100);
        let id = key("k");
        assert_eq!(gate.check(99, Some(&id)), Ok(()));
        assert_eq!(gate.check(100, Some(&id)), Err(Refusal::LeaseExpired));
        assert!(gate.apply(blocks(1, false, &["k"])));
        assert_eq!(gate.check(99, Some(&id)), Err(Refusal::KeyBlocked));
        assert_eq!(gate.check(99, Some(&key("other"))), Ok(()));
        assert_eq!(gate.check(99, None), Ok(()));
        assert_eq!(gate.check(100, Some(&id)), Err(Refusal::LeaseExpired));
        assert!(gate.apply(blocks(2, true, &["k"])));
        assert_eq!(gate.check(100, Some(&id)), Err(Refusal::StoreBlocked));
    }

    #[test]
    fn old_overlays_change_nothing() {
        let gate = Gate::new();
        gate.set_lease_expiry(100);
        assert!(gate.apply(blocks(5, true, &[])));
        for epoch in [0, 4, 5] {
            assert!(!gate.apply(blocks(epoch, false, &[])), "{epoch}");
            assert_eq!(gate.check(0, None), Err(Refusal::StoreBlocked));
        }
        assert!(gate.apply(blocks(6, false, &[])));
        assert_eq!(gate.check(0, None), Ok(()));
        assert!(gate.apply(blocks(6, false, &["k"])), "another of that epoch adds to it");
        assert!(!gate.apply(blocks(6, false, &[])) && gate.blocks_key(&"k".parse().unwrap()), "and takes nothing away");
        assert_eq!(gate.epoch(), 6);
    }
}
