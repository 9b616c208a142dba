//! The signed heads of a log, and how far they are witnessed.

use std::sync::{Arc, PoisonError};

use holdfast_shared::audit::Checkpoint;
use tokio::sync::watch;

use super::{AuditLog, Room, Unrecorded};
use crate::audit::queue::USUAL_COST;

/// How often refusals without a record are counted in one.
const UNCOUNTED_INTERVAL_MS: u64 = 60_000;

/// A signed checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Entries.
    pub size: u64,
    /// The signed note.
    pub text: String,
}

impl AuditLog {
    /// What is done each second: a checkpoint if the log grew, and records of what had no room before, of refusals alike, and now and
    /// then of what was only counted.
    pub fn tick(&self) {
        let now_ms = self.shared.now_ms();
        let mut state = self.lock();
        self.catch_up(&mut state);
        if now_ms.saturating_sub(state.counted_ms) >= UNCOUNTED_INTERVAL_MS {
            state.counted_ms = now_ms;
            self.tell_counted(&mut state, Room::Refusal);
        } else {
            self.tell_repeats(&mut state, Room::Refusal);
        }
        drop(state);
        self.sign_head();
    }

    /// Signs a checkpoint, if there is something new to sign. Heads are signed one after another and their times never go back:
    /// otherwise an honest log would contradict itself, and custodians would keep that as evidence.
    pub(super) fn sign_head(&self) {
        let mut last_ms = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.head.borrow().as_ref().map_or(0, |head| head.size);
        let mut state = self.lock();
        let size = state.tree.size();
        if size == known {
            return;
        }
        state.unwitnessed.marked();
        let (root, closed) = (state.tree.root(), state.is_closed);
        drop(state);
        *last_ms = self.shared.wall_ms().max(*last_ms);
        let checkpoint = Checkpoint { log: self.id, size, root, time_ms: *last_ms, closed };
        let text = checkpoint.sign(self.shared.pair());
        self.head.send_replace(Some(Arc::new(Head { size, text })));
        drop(last_ms);
        self.shared.grew(self.id.key_store_id, closed);
    }

    /// The newest checkpoint, as it changes.
    pub(crate) fn heads(&self) -> watch::Receiver<Option<Arc<Head>>> {
        self.head.subscribe()
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn head(&self) -> Option<Arc<Head>> {
        self.head.borrow().clone()
    }

    /// Enough custodians acknowledged a checkpoint of this size.
    pub fn witnessed(&self, size: u64) {
        self.lock().unwitnessed.witnessed(size);
        self.witnessed.send_if_modified(|known| {
            let is_newer = size > *known;
            *known = size.max(*known);
            is_newer
        });
    }

    /// Why nothing is answered with 200, if it is so.
    #[must_use]
    pub fn refuses(&self) -> Option<Unrecorded> {
        let state = self.lock();
        let is_full = !state.queue.has_room(USUAL_COST, self.bound(Room::Request)) || !self.shared.has_room(USUAL_COST);
        state.check(self.shared.now_ms()).err().or(is_full.then_some(Unrecorded::Full))
    }

    /// Entries that no custodian vouches for.
    #[must_use]
    pub fn unwitnessed(&self) -> u64 {
        self.lock().unwitnessed.entries()
    }

    /// How long the oldest of them has waited, in milliseconds; 0 when there is none.
    #[must_use]
    pub fn unwitnessed_age_ms(&self) -> u64 {
        self.lock().unwitnessed.age_ms(self.shared.now_ms())
    }
}
