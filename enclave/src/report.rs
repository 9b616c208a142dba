//! What the enclave tells its parent: log lines, counters, and the state of each key store.
//!
//! Guarantees: telling never waits; what does not fit is dropped and counted. Nothing secret gets here: lines are made from
//! fixed texts, identifiers and errors that hold no request data.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_link::PrintableText;
use holdfast_link::control::{KeyStoreState, KeyStoreStatus, Level, ToParent};
use holdfast_shared::ids::KeyStoreId;
use tokio::sync::mpsc;

/// Lines that may wait for the parent.
const LINES_MAX: usize = 256;

/// A handle for telling. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter {
    lines: mpsc::Sender<ToParent>,
    dropped: Arc<AtomicU64>,
    states: Arc<Mutex<BTreeMap<KeyStoreId, StoreReport>>>,
}

/// What is known about one key store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreReport {
    /// Where it stands.
    pub(crate) state: KeyStoreState,
    /// The version in service.
    pub(crate) version: Option<u64>,
    /// When its lease ends, monotonic.
    pub(crate) lease_expires_ms: Option<u64>,
    /// Why it is not serving.
    pub(crate) reason: Option<String>,
}

impl Reporter {
    /// A reporter and the lines that it produces.
    #[must_use]
    pub(crate) fn new() -> (Self, mpsc::Receiver<ToParent>) {
        let (lines, receiver) = mpsc::channel(LINES_MAX);
        let reporter = Self { lines, dropped: Arc::default(), states: Arc::default() };
        (reporter, receiver)
    }

    /// A line for the parent's log.
    pub(crate) fn log(&self, level: Level, line: &str) {
        let line = ToParent::Log { level, text: PrintableText::new(line) };
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sets a key store's state; a change is logged.
    pub(crate) fn set(&self, id: KeyStoreId, report: StoreReport) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let before = states.insert(id, report.clone());
        drop(states);
        if before.as_ref().map(|b| (b.state, &b.reason, b.version))
            != Some((report.state, &report.reason, report.version))
        {
            let level = match report.state {
                KeyStoreState::Serving | KeyStoreState::AwaitingCeremony | KeyStoreState::AwaitingCertificate => {
                    Level::Info
                }
                KeyStoreState::AwaitingCustodian | KeyStoreState::Blocked => Level::Warn,
                KeyStoreState::LeaseExpired | KeyStoreState::Refused => Level::Error,
            };
            let version = report.version.map(|version| format!(", version {version}")).unwrap_or_default();
            let reason = report.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            self.log(level, &format!("key store {id}: {:?}{version}{reason}", report.state));
        }
    }

    /// Forgets the key stores that nobody wants served any more.
    pub(crate) fn retain(&self, is_wanted: impl Fn(&KeyStoreId) -> bool) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| is_wanted(id));
    }

    /// The state of every key store at monotonic time `now_ms`.
    pub(crate) fn states(&self, now_ms: u64) -> Vec<KeyStoreStatus> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states
            .iter()
            .map(|(id, report)| KeyStoreStatus {
                key_store_id: (*id.as_bytes()).into(),
                state: report.state,
                version: report.version,
                lease_remaining_ms: report.lease_expires_ms.map(|expires| expires.saturating_sub(now_ms)),
                reason: report.reason.as_deref().map(PrintableText::new),
            })
            .collect()
    }
}
