//! Who used which key of a key store since the home custodian was told last, and which kinds of alarms were raised in this boot.
//!
//! ```text
//! request ─▶ its record ─▶ UseTally ─ each 10 s ─▶ home custodian
//!                           │  ▲                         │ kinds
//!                           │  └─────────────────────────┘
//!                           └─▶ meter: kinds and counts ─▶ parent
//! ```
//!
//! Guarantees: memory is bounded whatever callers send, and those beyond the bounds are counted together; a user who is known already
//! is found by borrowed texts, so that counting takes a short lock and no memory; a use counts with the [`Receipt`] of its record only.
//! Assumes: whoever takes what is counted tells it to the home custodian. Refuses: nothing: no request fails because of this.

use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_shared::alarm::{TalliedUse, UseCount};
use holdfast_shared::audit::{Event, Operation, RequestRecord};
use holdfast_shared::xks::ErrorName;
use tokio::sync::Notify;

use crate::audit::Receipt;

mod alarms;
mod uses;

pub(crate) use alarms::AlarmCounts;
use uses::{Uses, Who};

const ONE_USED: UseCount = UseCount { used: 1, refused: 0 };
const ONE_REFUSED: UseCount = UseCount { used: 0, refused: 1 };
/// From this status on, an answer tells of a fault.
const FAULTS: u16 = 500;

/// See the module. Of one key store, over all its versions.
#[derive(Default)]
pub struct UseTally {
    uses: Mutex<Uses>,
    alarms: AlarmCounts,
    hurry: Notify,
}

/// Names nobody.
impl core::fmt::Debug for UseTally {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("UseTally").finish_non_exhaustive()
    }
}

impl UseTally {
    fn lock(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that was recorded as a success, if it used a key.
    pub(crate) fn used(&self, receipt: &Receipt) {
        let Event::Request(record) = &receipt.record().what else { return };
        if matches!(record.operation, Operation::Encrypt | Operation::Decrypt) {
            self.count(record, ONE_USED);
        }
    }

    /// Counts a request with a valid signature that is refused, if it names a key. A fault of ours is no refusal, and limits and budgets
    /// have alarms and metrics of their own.
    pub(crate) fn refused(&self, record: &RequestRecord) {
        let is_refusal = |error: ErrorName| error.status() < FAULTS && error != ErrorName::ThrottlingException;
        if record.error.is_some_and(is_refusal) {
            self.count(record, ONE_REFUSED);
        }
    }

    fn count(&self, record: &RequestRecord, count: UseCount) {
        if let Some(who) = Who::of(record) {
            self.lock().add(who, count);
        }
    }

    /// What was counted since the last time: by user, and of those beyond the bounds.
    #[must_use]
    pub fn take(&self) -> (Vec<TalliedUse>, UseCount) {
        core::mem::take(&mut *self.lock()).told()
    }

    /// The kinds of the alarms that were raised.
    pub(crate) const fn alarms(&self) -> &AlarmCounts {
        &self.alarms
    }

    /// Has what is counted told now: there will be no later.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Returns when there is a hurry.
    pub(crate) async fn hurried(&self) {
        self.hurry.notified().await;
    }
}

#[cfg(test)]
mod tests;
