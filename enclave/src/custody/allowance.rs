//! How much work one key store may make: a bound on versions and commands for each, and one workshop for all.
//!
//! Guarantees: a key store whose custodian offers versions and commands without end gets its allowance and no more; heavy work
//! (opening, sealing and preparing a version) is done one piece at a time, on a thread that serves no request, and whoever waits
//! for it is let in in order of arrival, with one piece each: so a key store waits for at most one piece of each
//! other. Each key store has a share of memory that does not depend on what others take.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use holdfast_shared::limits::BLOB_MAX;
use tokio::sync::Semaphore;

use super::CustodyError;

/// Bytes of blobs that one key store may have worked on at once: 512 changes of a small one, 8 of the largest.
const BURST: u64 = 32 * 1024 * 1024;
/// The same in the long run, each second: 32 changes of a small key store, one of the largest in two seconds.
const PER_SECOND: u64 = 2 * 1024 * 1024;
/// What a version costs at least: signatures, an attestation, a write at the custodian.
const COST_MIN: u64 = 64 * 1024;

/// The allowance of one key store. A debt is allowed, and worked off before there is more.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
    debt: u64,
    filled_ms: u64,
}

impl Allowance {
    pub(super) const fn new(now_ms: u64) -> Self {
        Self { left: BURST, debt: 0, filled_ms: now_ms }
    }

    /// Whether nothing more may be begun now.
    pub(super) fn is_spent(&mut self, now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        let earned = passed_ms.saturating_mul(PER_SECOND) / 1000;
        self.filled_ms = now_ms;
        let paid = earned.min(self.debt);
        self.debt = self.debt.saturating_sub(paid);
        self.left = self.left.saturating_add(earned.saturating_sub(paid)).min(BURST);
        self.left == 0
    }

    /// Takes what work on a blob of this length costs.
    pub(super) fn charge(&mut self, blob_len: usize) {
        let cost = u64::try_from(blob_len).unwrap_or(u64::MAX).max(COST_MIN);
        let paid = cost.min(self.left);
        self.left = self.left.saturating_sub(paid);
        self.debt = self.debt.saturating_add(cost.saturating_sub(paid));
    }
}

/// Bytes of sealed key stores that one enclave promises room for: 64 of the largest. In memory, opened, each byte takes about
/// four, and a version on its way in as much again for a moment.
const ROOM: usize = 64 * BLOB_MAX;

/// What all key stores of an enclave work in.
pub(crate) struct Workshop {
    /// One piece of heavy work at a time; tokio's semaphore is fair.
    bench: Arc<Semaphore>,
    /// How many key stores are on the parent's list.
    key_stores: AtomicUsize,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        Self { bench: Arc::new(Semaphore::new(1)), key_stores: AtomicUsize::new(1) }
    }

    /// So many key stores share the room from now on.
    pub(crate) fn share_among(&self, key_stores: usize) {
        self.key_stores.store(key_stores.max(1), Ordering::Relaxed);
    }

    /// Bytes that a sealed key store may have here. It depends on how many there are, never on how large the others are.
    pub(super) fn share(&self) -> usize {
        ROOM.checked_div(self.key_stores.load(Ordering::Relaxed)).unwrap_or(BLOB_MAX).min(BLOB_MAX)
    }

    /// Does heavy work in its turn, where it delays no request. Whoever gives up waiting leaves the bench occupied until the piece
    /// is done.
    ///
    /// # Errors
    /// When the program ends, or the work panicked.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        piece: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CustodyError> {
        let turn = Arc::clone(&self.bench).acquire_owned().await.map_err(|_| CustodyError::Ending)?;
        let piece = move || {
            let done = piece();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(piece).await.map_err(|_| CustodyError::Ending)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_link::limits::KEY_STORES_MAX;

    use super::*;

    #[test]
    fn an_allowance_is_spent_and_comes_back() {
        let mut allowance = Allowance::new(1_000);
        let count = (0..).take_while(|_| !allowance.is_spent(1_000)).inspect(|_| ()).take(100_000);
        assert_eq!(count.count(), 100_000, "looking costs nothing");
        let mut begun = 0;
        while !allowance.is_spent(1_000) {
            allowance.charge(0);
            begun += 1;
        }
        assert_eq!(begun, 512);
        assert!(!allowance.is_spent(2_000));
        let mut begun = 0;
        while !allowance.is_spent(2_000) {
            allowance.charge(10);
            begun += 1;
        }
        assert_eq!(begun, 32, "in a second");
        assert!(!allowance.is_spent(u64::MAX), "never more than the burst, and no overflow");
    }

    #[test]
    fn a_debt_is_worked_off_first() {
        let mut allowance = Allowance::new(0);
        for _ in 0..9 {
            allowance.charge(BLOB_MAX);
        }
        assert!(allowance.is_spent(2_000), "one too many: two seconds");
        assert!(!allowance.is_spent(2_001));
    }

    #[tokio::test]
    async fn a_piece_that_nobody_waits_for_keeps_the_bench_until_it_is_done() {
        let workshop = Arc::new(Workshop::new());
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (finish, may_finish) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let workshop = Arc::clone(&workshop);
            let piece = move || {
                begun.send(()).unwrap();
                // An error as well: the test is over.
                let _ = may_finish.recv();
            };
            async move { workshop.work(piece).await }
        });
        tokio::task::spawn_blocking(move || has_begun.recv()).await.unwrap().unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(workshop.bench.available_permits(), 0, "the piece goes on");
        finish.send(()).unwrap();
        assert_eq!(workshop.work(|| 7).await.unwrap(), 7);
    }

    #[test]
    fn every_key_store_has_its_share() {
        let workshop = Workshop::new();
        for (key_stores, share) in
            [(0, BLOB_MAX), (1, BLOB_MAX), (64, BLOB_MAX), (128, BLOB_MAX / 2), (KEY_STORES_MAX, 256 * 1024)]
        {
            workshop.share_among(key_stores);
            assert_eq!(workshop.share(), share, "{key_stores}");
        }
    }
}
