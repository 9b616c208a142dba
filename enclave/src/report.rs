//! What the enclave tells its parent: log lines, counters, and the state of each key store.
//!
//! Guarantees: telling never waits, and about a request it takes no lock; what does not fit is dropped and counted. Nothing secret gets here: lines are made from
//! fixed texts, identifiers and errors that hold no request data. Each key store has a budget of lines of its own, so that
//! none of them, whatever its custodian does, drowns what is said about another; the state of each is told in every status. A
//! key store that may not be served under its host name is never reported as serving.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_link::PrintableText;
use holdfast_link::control::{KeyStoreState, KeyStoreStatus, Level, RefusedRequest, RequestTrace, ToParent};
use holdfast_shared::ids::KeyStoreId;
use tokio::sync::mpsc;

mod rations;

use rations::Rations;

/// Lines that may wait for the parent.
const LINES_MAX: usize = 256;
/// Places for lines that those about single requests leave free.
const LINES_RESERVE: usize = LINES_MAX / 2;

/// A handle for telling. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter {
    lines: mpsc::Sender<ToParent>,
    dropped: Arc<AtomicU64>,
    traces_dropped: Arc<AtomicU64>,
    stores: Arc<Mutex<BTreeMap<KeyStoreId, Told>>>,
    rations: Arc<Rations>,
}

/// Lines about one key store that may come at once; one more may come with each status, which is each second.
const STORE_LINES_MAX: u32 = 20;

/// What was told about one key store.
struct Told {
    report: Option<StoreReport>,
    /// Why its host name is not its own.
    withheld: Option<String>,
    /// Lines that may still come.
    lines: u32,
}

impl Default for Told {
    fn default() -> Self {
        Self { report: None, withheld: None, lines: STORE_LINES_MAX }
    }
}

impl Told {
    /// What holds: a key store that is open and may not be served under its name does not serve.
    fn holds(&self) -> Option<(KeyStoreState, Option<u64>, Option<&str>)> {
        let report = self.report.as_ref()?;
        match (&self.withheld, report.state) {
            (Some(withheld), KeyStoreState::Serving | KeyStoreState::AwaitingCertificate) => {
                Some((KeyStoreState::Refused, report.version, Some(withheld)))
            }
            _ => Some((report.state, report.version, report.reason.as_deref())),
        }
    }
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
        let reporter = Self {
            lines,
            dropped: Arc::default(),
            traces_dropped: Arc::default(),
            stores: Arc::default(),
            rations: Arc::default(),
        };
        (reporter, receiver)
    }

    /// A line for the parent's log.
    pub(crate) fn log(&self, level: Level, line: &str) {
        let line = ToParent::Log { level, text: PrintableText::new(line) };
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A line about one key store, within its budget.
    pub(crate) fn log_about(&self, id: KeyStoreId, level: Level, line: &str) {
        let left = {
            let mut stores = self.lock();
            let told = stores.entry(id).or_default();
            let left = told.lines;
            told.lines = left.saturating_sub(1);
            left
        };
        match left {
            0 => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            1 => self.log(level, &format!("key store {id}: {line} (too many lines: the next ones are left out)")),
            _ => self.log(level, &format!("key store {id}: {line}")),
        }
    }

    /// A line about a refused request, within the key store's budget. The audit log has them all.
    pub(crate) fn refused(&self, id: KeyStoreId, line: impl FnOnce() -> RefusedRequest) {
        if !(self.rations.spend_refusal(&id) && self.tell_of_request(|| ToParent::Refusal(line()))) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A trace of a request, within what was allowed. It is no line of the log.
    pub(crate) fn trace(&self, id: KeyStoreId, trace: impl FnOnce() -> RequestTrace) {
        if !(self.rations.spend_trace(&id) && self.tell_of_request(|| ToParent::Trace(trace()))) {
            self.traces_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tell_of_request(&self, message: impl FnOnce() -> ToParent) -> bool {
        self.lines.capacity() > LINES_RESERVE && self.lines.try_send(message()).is_ok()
    }

    /// No more than so many traces in a second from monotonic time `now_ms` on.
    pub(crate) fn allow_traces(&self, per_second: u32, now_ms: u64) {
        self.rations.allow_traces(per_second, now_ms);
    }

    /// Traces dropped so far.
    pub(crate) fn traces_dropped(&self) -> u64 {
        self.traces_dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<KeyStoreId, Told>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sets a key store's state; a change is logged.
    pub(crate) fn set(&self, id: KeyStoreId, report: StoreReport) {
        self.change(id, |told| told.report = Some(report));
    }

    /// These key stores, and no others, may not be served under their host names. A change is logged.
    pub(crate) fn withhold(&self, mut withheld: BTreeMap<KeyStoreId, String>) {
        let known: Vec<_> = self.lock().keys().copied().collect();
        for id in known {
            let reason = withheld.remove(&id);
            self.change(id, |told| told.withheld = reason);
        }
        for (id, reason) in withheld {
            self.change(id, |told| told.withheld = Some(reason));
        }
    }

    fn change(&self, id: KeyStoreId, change: impl FnOnce(&mut Told)) {
        let mut stores = self.lock();
        let told = stores.entry(id).or_default();
        self.rations.add(id);
        let before = told.holds().map(|(state, version, reason)| (state, version, reason.map(str::to_owned)));
        let withheld_before = told.withheld.clone();
        change(told);
        let after = told.holds().map(|(state, version, reason)| (state, version, reason.map(str::to_owned)));
        // A collision is an alarm even before the key store is open.
        let alarm = told.withheld.clone().filter(|reason| withheld_before.as_ref() != Some(reason));
        let settled = withheld_before.is_some() && told.withheld.is_none();
        drop(stores);
        if let Some(reason) = alarm {
            self.log_about(id, Level::Error, &reason);
        } else if settled {
            self.log_about(id, Level::Info, "its host name is its own again");
        }
        if let Some((state, version, reason)) = after.filter(|after| before.as_ref() != Some(after)) {
            let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            self.log_about(id, level_of(state), &format!("{state:?}{version}{reason}"));
        }
    }

    /// Forgets the key stores that nobody wants served any more.
    pub(crate) fn retain(&self, is_wanted: impl Fn(&KeyStoreId) -> bool) {
        let mut stores = self.lock();
        stores.retain(|id, _| is_wanted(id));
        self.rations.retain(is_wanted);
    }

    /// The state of every key store at monotonic time `now_ms`. Told once a second; with it, each may log one more line.
    pub(crate) fn states(&self, now_ms: u64) -> Vec<KeyStoreStatus> {
        self.rations.refill(now_ms);
        let mut stores = self.lock();
        let mut states = Vec::with_capacity(stores.len());
        for (id, told) in stores.iter_mut() {
            told.lines = told.lines.saturating_add(1).min(STORE_LINES_MAX);
            let Some((state, version, reason)) = told.holds() else { continue };
            let expires_ms = told.report.as_ref().and_then(|report| report.lease_expires_ms);
            states.push(KeyStoreStatus {
                key_store_id: (*id.as_bytes()).into(),
                state,
                version,
                lease_remaining_ms: expires_ms.map(|expires_ms| expires_ms.saturating_sub(now_ms)),
                reason: reason.map(PrintableText::new),
            });
        }
        states
    }
}

const fn level_of(state: KeyStoreState) -> Level {
    match state {
        KeyStoreState::Serving | KeyStoreState::AwaitingCeremony | KeyStoreState::AwaitingCertificate => Level::Info,
        KeyStoreState::AwaitingCustodian | KeyStoreState::Blocked => Level::Warn,
        KeyStoreState::LeaseExpired | KeyStoreState::Refused => Level::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> KeyStoreId {
        KeyStoreId([n; 32])
    }

    fn report(state: KeyStoreState) -> StoreReport {
        StoreReport { state, version: Some(1), lease_expires_ms: None, reason: None }
    }

    fn lines(receiver: &mut mpsc::Receiver<ToParent>) -> Vec<(Level, String)> {
        let mut lines = Vec::new();
        while let Ok(ToParent::Log { level, text }) = receiver.try_recv() {
            lines.push((level, text.as_str().to_owned()));
        }
        lines
    }

    #[test]
    fn a_store_that_talks_too_much_silences_only_itself() {
        let (reporter, mut receiver) = Reporter::new();
        for _ in 0..1_000 {
            reporter.log_about(id(1), Level::Warn, "noise");
        }
        reporter.log_about(id(2), Level::Warn, "news");
        let told = lines(&mut receiver);
        assert_eq!(told.len(), 21, "twenty of the first, one of the second");
        assert!(told[19].1.ends_with("(too many lines: the next ones are left out)"));
        assert_eq!(told[20].1, format!("key store {}: news", id(2)));
        assert_eq!(reporter.dropped(), 980);
        reporter.states(0);
        reporter.log_about(id(1), Level::Warn, "a second later");
        assert_eq!(lines(&mut receiver).len(), 1);
    }

    #[test]
    fn refused_requests_are_told_within_a_budget_and_leave_room_for_other_lines() {
        let (reporter, mut receiver) = Reporter::new();
        let line = || RefusedRequest {
            key_store_id: [1; 32].into(),
            operation: "Decrypt".into(),
            error: "AccessDeniedException".into(),
            kms_request_id: None,
            latency_ms: 0,
        };
        let refuse = |store, times: u32| (0..times).for_each(|_| reporter.refused(store, line));
        refuse(id(9), 3);
        assert_eq!(reporter.dropped(), 3, "of a key store that nobody knows, nothing is told");
        for store in 1..=9 {
            reporter.set(id(store), report(KeyStoreState::Serving));
        }
        lines(&mut receiver);
        let status_under_way = reporter.lock();
        refuse(id(1), 60);
        drop(status_under_way);
        assert_eq!((receiver.len(), reporter.dropped()), (50, 13), "and waits for no lock");
        reporter.states(0);
        refuse(id(1), 60);
        assert_eq!((receiver.len(), reporter.dropped()), (60, 63), "ten more with a status");
        (2..=9).for_each(|store| refuse(id(store), 50));
        assert_eq!(receiver.len(), LINES_MAX - LINES_RESERVE);
        reporter.log(Level::Warn, "news");
        assert_eq!(receiver.len(), LINES_MAX - LINES_RESERVE + 1);
    }

    #[test]
    fn a_withheld_store_is_refused_and_alarmed_until_it_is_settled() {
        let (reporter, mut receiver) = Reporter::new();
        reporter.set(id(1), report(KeyStoreState::Serving));
        reporter.set(id(2), report(KeyStoreState::Blocked));
        lines(&mut receiver);
        let withheld: BTreeMap<_, _> = [1, 2, 3].map(|n| (id(n), "collision".to_owned())).into();
        reporter.withhold(withheld.clone());
        let states = reporter.states(0);
        let told: Vec<_> = states.iter().map(|s| (s.state, s.reason.as_ref().map(PrintableText::as_str))).collect();
        assert_eq!(
            told,
            [(KeyStoreState::Refused, Some("collision")), (KeyStoreState::Blocked, None)],
            "a block is the first reason; what has no report yet has no state"
        );
        let alarms = lines(&mut receiver)
            .into_iter()
            .filter(|(level, text)| *level == Level::Error && text.ends_with("collision"));
        assert!(alarms.count() >= 3);
        reporter.withhold(withheld);
        reporter.set(id(1), report(KeyStoreState::Serving));
        assert_eq!(lines(&mut receiver), [], "nothing changed");
        reporter.withhold(BTreeMap::new());
        assert_eq!(reporter.states(0)[0].state, KeyStoreState::Serving);
    }
}
