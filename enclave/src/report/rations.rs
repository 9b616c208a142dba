//! How many lines about its requests, and how many traces of them, each key store may still have.
//!
//! Guarantees: to spend is a look into a table that is replaced, never changed, and one addition to an atomic: no lock on the path of a
//! request. However often the parent orders traces or connects anew, there are no more of them between two refills, and so at most twice as
//! many in any one second. Assumes: [`Rations::refill`] is called once a second. Refuses: lines about key stores that nobody added.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_shared::ids::KeyStoreId;

/// Lines about refused requests of one key store that may come at once; as many as [`REFUSALS_PER_SECOND`] more may come each second.
const REFUSALS_MAX: u32 = 50;
const REFUSALS_PER_SECOND: u32 = 10;

/// Time between two refills of traces, in milliseconds: below the second between two states, so that none of these is missed.
const TRACES_REFILL_MS: u64 = 900;

/// What one key store has left.
#[derive(Debug)]
struct Ration {
    refusals: AtomicU32,
    traces: AtomicU32,
}

type Stores = HashMap<KeyStoreId, Arc<Ration>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rations {
    stores: ArcSwap<Stores>,
    /// Traces in each second, of all key stores together, of which one has half at most.
    traces_per_second: AtomicU32,
    /// What is left of them.
    traces: AtomicU32,
    /// When they may be refilled, monotonic.
    traces_refill_ms: AtomicU64,
}

impl Rations {
    /// The key store may have lines from now on.
    pub(super) fn add(&self, id: KeyStoreId) {
        if !self.stores.load().contains_key(&id) {
            let (refusals, traces) = (AtomicU32::new(REFUSALS_MAX), AtomicU32::new(self.traces_of_one()));
            let ration = Arc::new(Ration { refusals, traces });
            self.stores.rcu(|known| {
                let mut known = Stores::clone(known);
                known.entry(id).or_insert_with(|| Arc::clone(&ration));
                known
            });
        }
    }

    fn traces_of_one(&self) -> u32 {
        self.traces_per_second.load(Ordering::Relaxed).div_ceil(2)
    }

    /// Takes one line about a refused request.
    pub(super) fn spend_refusal(&self, id: &KeyStoreId) -> bool {
        self.stores.load().get(id).is_some_and(|ration| spend(&ration.refusals))
    }

    /// Takes one trace.
    pub(super) fn spend_trace(&self, id: &KeyStoreId) -> bool {
        self.stores.load().get(id).is_some_and(|ration| spend(&ration.traces) && spend(&self.traces))
    }

    /// No more than so many traces in a second from monotonic time `now_ms` on. An order brings some only where a refill is due.
    pub(super) fn allow_traces(&self, per_second: u32, now_ms: u64) {
        self.traces_per_second.store(per_second, Ordering::Relaxed);
        self.traces.fetch_min(per_second, Ordering::Relaxed);
        self.refill_traces(now_ms);
    }

    fn refill_traces(&self, now_ms: u64) {
        let per_second = self.traces_per_second.load(Ordering::Relaxed);
        let due_ms = self.traces_refill_ms.load(Ordering::Relaxed);
        let next_ms = now_ms.saturating_add(TRACES_REFILL_MS);
        if per_second == 0 || now_ms < due_ms {
            return;
        }
        // Another may have come first, with an order or with the second.
        let set = self.traces_refill_ms.compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed);
        if set.is_err() {
            return;
        }
        let of_one = self.traces_of_one();
        for ration in self.stores.load().values() {
            ration.traces.store(of_one, Ordering::Relaxed);
        }
        self.traces.store(per_second, Ordering::Relaxed);
    }

    /// A second is over, at monotonic time `now_ms`.
    pub(super) fn refill(&self, now_ms: u64) {
        for ration in self.stores.load().values() {
            let more = |left: u32| Some(left.saturating_add(REFUSALS_PER_SECOND).min(REFUSALS_MAX));
            // The function gives a value each time.
            let _ = ration.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
        self.refill_traces(now_ms);
    }

    /// Forgets the key stores that nobody wants served any more.
    pub(super) fn retain(&self, is_wanted: impl Fn(&KeyStoreId) -> bool) {
        self.stores.rcu(|known| {
            let mut known = Stores::clone(known);
            known.retain(|id, _| is_wanted(id));
            known
        });
    }
}

/// Takes one, if there is one.
fn spend(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}
