//! How many enclaves serve a key store, as far as they have asked lately.
//!
//! Guarantees: a few are counted with each question; many, who all ask at once when there is news, are counted once for all of them,
//! and such a count is no older than [`FRESH`]. Assumes: whoever is told divides limits of use by it, for which that is near enough.

use core::num::NonZeroU32;
use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_shared::ids::LeaseId;
use holdfast_shared::limits::ENCLAVE_SILENT_MS;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::membership::KeyStore;
use super::{Custodian, ServiceError};

/// From so many on, a count is kept.
const MANY: u32 = 16;
/// For so long.
const FRESH: Duration = Duration::from_millis(250);

/// What was counted last of a key store, if it was many.
#[derive(Debug, Default)]
pub(super) struct FleetCount(Mutex<Option<Counted>>);

#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Instant,
    /// Leases end by the custodian's clock.
    now_ms: u64,
    enclaves: NonZeroU32,
}

impl Counted {
    fn new(enclaves: NonZeroU32, now_ms: u64) -> Option<Self> {
        (enclaves.get() >= MANY).then(|| Self { at: Instant::now(), now_ms, enclaves })
    }

    fn is_fresh(&self, now_ms: u64) -> bool {
        self.at.elapsed() < FRESH && u128::from(now_ms.abs_diff(self.now_ms)) < FRESH.as_millis()
    }
}

impl Custodian {
    /// How many enclaves serve a key store; whoever is told this is one of them.
    pub(super) async fn enclaves_of(&self, key_store: &KeyStore) -> Result<NonZeroU32, ServiceError> {
        // Whoever waits here finds what the one before counted.
        let mut kept = key_store.fleet.0.lock().await;
        let now_ms = self.clock.now_ms();
        if let Some(counted) = kept.filter(|counted| counted.is_fresh(now_ms)) {
            return Ok(counted.enclaves);
        }
        let holders = self.store.lease_holders(key_store.id(), now_ms).await?;
        let heard =
            |id: LeaseId, noted_ms: u64| now_ms.saturating_sub(noted_ms.max(self.seen_here(id))) <= ENCLAVE_SILENT_MS;
        let boots: BTreeSet<_> = holders
            .into_iter()
            .filter(|holder| heard(holder.lease_id, holder.seen_ms))
            .map(|holder| holder.boot_id)
            .collect();
        let enclaves = u32::try_from(boots.len()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        *kept = Counted::new(enclaves, now_ms);
        Ok(enclaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_count_of_many_is_kept_for_a_moment_of_both_clocks() {
        let few = NonZeroU32::new(MANY - 1).unwrap();
        assert!(Counted::new(few, 1_000).is_none());
        let many = Counted::new(NonZeroU32::new(MANY).unwrap(), 1_000).unwrap();
        for (now_ms, fresh) in [(1_000, true), (1_249, true), (751, true), (1_250, false), (750, false)] {
            assert_eq!(many.is_fresh(now_ms), fresh, "{now_ms}");
        }
        tokio::time::advance(FRESH.checked_sub(Duration::from_millis(1)).unwrap()).await;
        assert!(many.is_fresh(1_000));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!many.is_fresh(1_000));
    }
}
