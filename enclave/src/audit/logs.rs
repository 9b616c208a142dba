//! All logs of this boot, and what they share: the signing key, the clock, memory, and the way to the parent.
//!
//! Guarantees: a key store that leaves and comes back goes on in the log that it had, so that no boot has two logs of one key store;
//! each key store has a share of the queue's memory, and all logs together, those of key stores that left included, keep no more than
//! [`AUDIT_QUEUE_MAX`]. Refuses: more logs than [`AUDIT_LOGS_MAX`] in one boot.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_shared::audit::LogId;
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::limits::{AUDIT_CLOSING_WAIT_MS, AUDIT_LOGS_MAX, AUDIT_QUEUE_MAX};
use ring::signature::Ed25519KeyPair;
use tokio::sync::Notify;

use super::calls::Calls;
use super::key::AuditKey;
use super::log::AuditLog;
use crate::clock::Clock;

/// How long a key store that leaves waits for its last records to arrive.
const LEAVING_WAIT: Duration = Duration::from_millis(500);

/// There are as many logs as one boot can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this boot has had {AUDIT_LOGS_MAX} key stores; for another one it must start anew")]
pub struct TooManyLogs;

/// What the logs share.
pub(super) struct Shared {
    key: AuditKey,
    clock: Arc<dyn Clock>,
    share: AtomicUsize,
    /// Bytes that all logs keep for the parent.
    queued: AtomicUsize,
    calls: Mutex<Calls>,
    /// Something is to be sent.
    pub(super) grown: Notify,
    /// Somebody waits for it.
    pub(super) urgent: Notify,
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }

    pub(super) fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    pub(super) const fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    pub(super) const fn pair(&self) -> &Ed25519KeyPair {
        self.key.pair()
    }

    /// Bytes that one log may keep for the parent.
    pub(super) fn share(&self) -> usize {
        self.share.load(Ordering::Relaxed)
    }

    /// Takes room in the memory of all logs, where there is some below `bound`. Returns whether there is.
    pub(super) fn take_room(&self, bytes: usize, bound: usize) -> bool {
        let taken = |queued: usize| Some(queued.saturating_add(bytes)).filter(|queued| *queued <= bound);
        self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Gives room back.
    pub(super) fn free_room(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether the logs together have room for so much.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.queued.load(Ordering::Relaxed).saturating_add(bytes) <= AUDIT_QUEUE_MAX
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log has more to send.
    pub(super) fn call(&self, id: KeyStoreId, is_awaited: bool) {
        self.calls().call(id, is_awaited);
    }

    /// Which log may send.
    pub(super) fn next_call(&self) -> Option<KeyStoreId> {
        self.calls().next()
    }

    /// A log has more to send, which whoever sends hears of.
    pub(super) fn grew(&self, id: KeyStoreId, is_awaited: bool) {
        self.call(id, is_awaited);
        if is_awaited {
            self.urgent.notify_one();
        }
        self.grown.notify_one();
    }
}

/// See the module.
#[derive(Debug)]
pub struct AuditLogs {
    pub(super) boot_id: BootId,
    pub(super) shared: Arc<Shared>,
    logs: Mutex<BTreeMap<KeyStoreId, Arc<AuditLog>>>,
}

impl AuditLogs {
    /// No log yet.
    #[must_use]
    pub fn new(key: AuditKey, boot_id: BootId, clock: Arc<dyn Clock>) -> Self {
        let (grown, urgent) = (Notify::new(), Notify::new());
        let (share, queued) = (AtomicUsize::new(AUDIT_QUEUE_MAX), AtomicUsize::new(0));
        let shared = Arc::new(Shared { key, clock, share, queued, calls: Mutex::default(), grown, urgent });
        Self { boot_id, shared, logs: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<KeyStoreId, Arc<AuditLog>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What checkpoints of this boot are verified with.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.shared.public_key()
    }

    /// The log of a key store.
    ///
    /// # Errors
    /// [`TooManyLogs`].
    pub fn of(&self, key_store_id: KeyStoreId) -> Result<Arc<AuditLog>, TooManyLogs> {
        let mut logs = self.lock();
        if let Some(log) = logs.get(&key_store_id) {
            return Ok(Arc::clone(log));
        }
        if logs.len() >= AUDIT_LOGS_MAX {
            return Err(TooManyLogs);
        }
        let id = LogId { key_store_id, boot_id: self.boot_id };
        let log = Arc::new(AuditLog::new(id, Arc::clone(&self.shared)));
        logs.insert(key_store_id, Arc::clone(&log));
        Ok(log)
    }

    /// The log that a key store has, if it has one.
    pub(super) fn known(&self, key_store_id: KeyStoreId) -> Option<Arc<AuditLog>> {
        self.lock().get(&key_store_id).map(Arc::clone)
    }

    /// All logs there are.
    pub(super) fn all(&self) -> Vec<Arc<AuditLog>> {
        self.lock().values().map(Arc::clone).collect()
    }

    /// So many key stores share the memory from now on.
    pub fn share_among(&self, key_stores: usize) {
        let share = AUDIT_QUEUE_MAX.checked_div(key_stores.max(1)).unwrap_or(AUDIT_QUEUE_MAX);
        self.shared.share.store(share, Ordering::Relaxed);
    }

    /// Bytes of entries that one log may keep for the parent.
    pub(crate) fn share_bytes(&self) -> usize {
        self.shared.share()
    }

    /// A key store left. Its log may go on later; until then it rests, once its last head is known or some time has passed.
    pub(crate) async fn leave(&self, log: &AuditLog) {
        log.rest();
        let _ = tokio::time::timeout(LEAVING_WAIT, log.settled()).await;
    }

    /// Closes all logs, and waits until the parent has stored them and custodians know their last heads, but not for ever.
    pub(crate) async fn close(&self) {
        let logs = self.all();
        for log in &logs {
            log.close();
        }
        let settled = async {
            for log in &logs {
                log.settled().await;
            }
        };
        // Whoever does not answer has a log without its end, as after a crash.
        let _ = tokio::time::timeout(Duration::from_millis(AUDIT_CLOSING_WAIT_MS), settled).await;
    }

    /// For the status: entries that wait for the parent in bytes, and entries without a witness.
    pub(crate) fn counters(&self) -> [(&'static str, u64); 2] {
        let logs = self.all();
        let queued = u64::try_from(self.shared.queued.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        let unwitnessed = logs.iter().map(|log| log.unwitnessed());
        [("audit_queue_bytes", queued), ("audit_unwitnessed", unwitnessed.max().unwrap_or(0))]
    }
}
