//! How many lines about its requests each key store may still have.
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

type Refusals = HashMap<KeyStoreId, Arc<AtomicU32>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rations(ArcSwap<Refusals>);

impl Rations {
    /// The key store may have lines from now on.
    pub(super) fn add(&self, id: KeyStoreId) {
        if !self.0.load().contains_key(&id) {
            self.0.rcu(|known| {
                let mut known = Refusals::clone(known);
                known.entry(id).or_insert_with(|| Arc::new(AtomicU32::new(REFUSALS_MAX)));
                known
            });
        }
    }

    /// Takes one line about a refused request.
    pub(super) fn spend_refusal(&self, id: &KeyStoreId) -> bool {
        self.0.load().get(id).is_some_and(|left| spend(left))
    }

    /// A second is over.
    pub(super) fn refill(&self) {
        for left in self.0.load().values() {
            refill(left, REFUSALS_PER_SECOND, REFUSALS_MAX);
        }
    }

    /// Forgets the key stores that nobody wants served any more.
    pub(super) fn retain(&self, is_wanted: impl Fn(&KeyStoreId) -> bool) {
        self.0.rcu(|known| {
            let mut known = Refusals::clone(known);
            known.retain(|id, _| is_wanted(id));
            known
        });
    }
}

/// Takes one, if there is one.
pub(crate) fn spend(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Gives more, up to a bound.
pub(crate) fn refill(left: &AtomicU32, more: u32, max: u32) {
    // The function gives a value each time.
    let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_add(more).min(max)));
}
