//! How many lines about its requests, and how many traces of them, each key store may still have.
//!
//! Guarantees: to spend is a look into a table that is replaced, never changed, and one addition to an atomic: no lock on the path of a
//! request. Assumes: [`Rations::refill`] is called once a second. Refuses: lines about key stores that nobody added.

use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_shared::ids::KeyStoreId;

/// Lines about refused requests of one key store that may come at once; as many as [`REFUSALS_PER_SECOND`] more may come each second.
const REFUSALS_MAX: u32 = 50;
const REFUSALS_PER_SECOND: u32 = 10;

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
}

impl Rations {
    /// The key store may have lines from now on.
    pub(super) fn add(&self, id: KeyStoreId) {
        if !self.stores.load().contains_key(&id) {
            let ration = Arc::new(Ration { refusals: AtomicU32::new(REFUSALS_MAX), traces: AtomicU32::new(0) });
            ration.traces.store(self.traces_of_one(), Ordering::Relaxed);
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

    /// From now on there may be so many traces in a second.
    pub(super) fn allow_traces(&self, per_second: u32) {
        self.traces_per_second.store(per_second, Ordering::Relaxed);
        self.refill_traces();
    }

    fn refill_traces(&self) {
        let of_one = self.traces_of_one();
        for ration in self.stores.load().values() {
            ration.traces.store(of_one, Ordering::Relaxed);
        }
        self.traces.store(self.traces_per_second.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// A second is over.
    pub(super) fn refill(&self) {
        for ration in self.stores.load().values() {
            let more = |left: u32| Some(left.saturating_add(REFUSALS_PER_SECOND).min(REFUSALS_MAX));
            // The function gives a value each time.
            let _ = ration.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
        self.refill_traces();
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
