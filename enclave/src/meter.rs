//! What requests took and how they ended, for the parent's metrics and its log.
//!
//! ```text
//! request ─▶ RequestEvent ─▶ Meter: histograms, outcomes by key store ──┐
//!                             ├ refused? ─▶ Reporter: a line            ├─▶ Gauges::snapshot ─▶ control connection ─▶ parent
//!                             └ wanted?  ─▶ Tracer: a trace             │
//! clock, NSM, audit logs, directory, custodians, kinds of alarms ───────┘
//! ```
//!
//! Guarantees: a request costs additions to atomics and reads of tables that are replaced, never changed: no lock, and no memory
//! once its key store has had a request, a line of the log aside. Requests without a valid signature are counted apart, and change nothing
//! else. What leaves names key stores, operations, error names and `kmsRequestId`: no principal, no external key, no
//! ARN. Assumes: nothing. Refuses: more key stores than one boot can have.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_link::PrintableText;
use holdfast_link::control::{
    BOUNDS_US, Histogram as Told, KeyStoreMetrics, LeaseMetrics, METRICS_FORMAT, Metrics, OPERATIONS, OUTCOMES,
    RefusedRequest, STAGES,
};
use holdfast_link::limits::{METRICS_KEY_STORES_MAX, METRICS_LEASES_MAX};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits::AUDIT_LOGS_MAX;
use holdfast_shared::xks::{ErrorName, Operation};

use crate::audit::AuditLogs;
use crate::clock::Clock as _;
use crate::clock::attested::AttestedClock;
use crate::directory::{Directory, ServedKeyStore};
use crate::nsm::Nsm;
use crate::report::Reporter;
use crate::traces::Tracer;
use crate::xks::{Outcome, RequestEvent, RequestObserver};

/// See [`Told`].
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len()],
    above: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS_US.partition_point(|bound| *bound < took_us);
        self.buckets.get(place).unwrap_or(&self.above).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }

    fn told(&self) -> Told {
        Told { buckets: self.buckets.each_ref().map(load), above: load(&self.above), sum_us: load(&self.sum_us) }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Requests of one key store.
#[derive(Debug, Default)]
struct Requests {
    /// With a valid signature, by operation and outcome.
    signed: [[AtomicU64; OUTCOMES.len()]; OPERATIONS.len()],
    /// Without one, by outcome.
    unsigned: [AtomicU64; OUTCOMES.len()],
}

/// See the module.
pub(crate) struct Meter {
    reporter: Reporter,
    tracer: Arc<Tracer>,
    handshake: Histogram,
    latency: [[Histogram; STAGES.len()]; OPERATIONS.len()],
    requests: ArcSwap<HashMap<KeyStoreId, Arc<Requests>>>,
}

/// The place in [`OPERATIONS`].
const fn place(operation: Operation) -> usize {
    match operation {
        Operation::GetKeyMetadata => 0,
        Operation::Encrypt => 1,
        Operation::Decrypt => 2,
        Operation::GetHealthStatus => 3,
    }
}

/// The place in [`OUTCOMES`]; none for what is no answer of the API.
fn ended(outcome: Outcome) -> Option<usize> {
    match outcome {
        Outcome::Success => Some(0),
        Outcome::Error(name) => ErrorName::ALL.iter().position(|other| *other == name).map(|place| place + 1),
        Outcome::Proof | Outcome::MethodNotAllowed | Outcome::Misdirected | Outcome::Aborted => None,
    }
}

impl Meter {
    pub(crate) fn new(reporter: Reporter, tracer: Arc<Tracer>) -> Self {
        let (handshake, latency, requests) = (Histogram::default(), Default::default(), ArcSwap::default());
        Self { reporter, tracer, handshake, latency, requests }
    }

    /// Counts a request: under its operation if it is signed.
    fn count(&self, key_store: KeyStoreId, signed: Option<Operation>, outcome: usize) {
        let add = |requests: &Requests| {
            let outcomes = match signed {
                Some(operation) => requests.signed.get(place(operation)),
                None => Some(&requests.unsigned),
            };
            if let Some(counter) = outcomes.and_then(|outcomes| outcomes.get(outcome)) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        };
        if let Some(requests) = self.requests.load().get(&key_store) {
            return add(requests);
        }
        // Its first request. Another thread may be at the same place: whose table is replaced first, stays.
        self.requests.rcu(|known| {
            let mut known = HashMap::clone(known);
            if known.len() < AUDIT_LOGS_MAX {
                known.entry(key_store).or_default();
            }
            known
        });
        if let Some(requests) = self.requests.load().get(&key_store) {
            add(requests);
        }
    }
}

impl RequestObserver for Meter {
    fn observe(&self, event: RequestEvent) {
        let (Some(key_store), Some(operation)) = (event.key_store, event.operation) else { return };
        let is_signed = event.times.is_authenticated();
        if let Some(outcome) = ended(event.outcome) {
            self.count(key_store, is_signed.then_some(operation), outcome);
        }
        // Whatever strangers do, it changes no latency and writes no line.
        if !is_signed {
            return;
        }
        if let Some(stages) = self.latency.get(place(operation)) {
            for (histogram, took) in stages.iter().zip(event.times.by_stage()) {
                if let Some(took) = took {
                    histogram.observe(took);
                }
            }
        }
        if let Outcome::Error(name) = event.outcome {
            self.reporter.refused(key_store, || RefusedRequest {
                key_store_id: (*key_store.as_bytes()).into(),
                operation: operation.as_str().into(),
                error: name.as_str().into(),
                kms_request_id: event.kms_request_id.map(|id| id.as_str().into()),
                latency_ms: event.latency_ms,
            });
        }
        // After the line: that one is not asked for by anybody, and must not lack a place.
        self.tracer.consider(key_store, operation, &event);
    }

    fn shook_hands(&self, took: Duration) {
        self.handshake.observe(took);
    }
}

/// Whatever there is to measure.
pub(crate) struct Gauges {
    pub(crate) meter: Arc<Meter>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) clock: Arc<AttestedClock>,
    pub(crate) audit: Arc<AuditLogs>,
    pub(crate) nsm: Nsm,
}

impl Gauges {
    /// What there is now.
    pub(crate) fn snapshot(&self) -> Metrics {
        let (clock_drift_ms, clock_anchor_age_ms) = self.clock.last_anchor();
        let (nsm_waiting, nsm_strangers_waiting) = self.nsm.waiting();
        let stores = self.directory.stores();
        let mut leases_left = METRICS_LEASES_MAX;
        Metrics {
            format: METRICS_FORMAT,
            program: PrintableText::new(env!("CARGO_PKG_VERSION")),
            is_clock_healthy: self.clock.is_healthy(),
            clock_drift_ms,
            clock_anchor_age_ms,
            nsm_waiting: number(nsm_waiting),
            nsm_strangers_waiting: number(nsm_strangers_waiting),
            audit_share_bytes: number(self.audit.share_bytes()),
            handshake: self.meter.handshake.told(),
            latency: self.meter.latency.each_ref().map(|stages| stages.each_ref().map(Histogram::told)),
            key_stores: stores
                .iter()
                .take(METRICS_KEY_STORES_MAX)
                .map(|store| self.of(store, &mut leases_left))
                .collect(),
            key_stores_left_out: number(stores.len().saturating_sub(METRICS_KEY_STORES_MAX)),
        }
    }

    fn of(&self, store: &ServedKeyStore, leases_left: &mut usize) -> KeyStoreMetrics {
        let known = self.meter.requests.load();
        let known = known.get(&store.id);
        let leases: Vec<_> = (1..)
            .zip(store.fleet.leases(self.clock.monotonic_ms()))
            .take(*leases_left)
            .map(|(custodian, (remaining_ms, granted_ms))| LeaseMetrics { custodian, remaining_ms, granted_ms })
            .collect();
        *leases_left = leases_left.saturating_sub(leases.len());
        KeyStoreMetrics {
            key_store_id: (*store.id.as_bytes()).into(),
            requests: known.map_or([[0; OUTCOMES.len()]; OPERATIONS.len()], |requests| {
                requests.signed.each_ref().map(|outcomes| outcomes.each_ref().map(load))
            }),
            unsigned: known.map_or([0; OUTCOMES.len()], |requests| requests.unsigned.each_ref().map(load)),
            certificate_remaining_ms: store.tls.not_after_ms().saturating_sub(self.clock.wall_ms()),
            credential_age_ms: store
                .credentials
                .oldest_ms()
                .map(|made_ms| self.clock.wall_ms().saturating_sub(made_ms)),
            audit_queue_bytes: number(store.audit.queued_bytes()),
            audit_unwitnessed: store.audit.unwitnessed(),
            audit_unwitnessed_age_ms: store.audit.unwitnessed_age_ms(),
            alarms: store.tally.alarms().counts(),
            leases,
        }
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use holdfast_link::control::{ALARMS, KeyStoreState, ToParent};
    use holdfast_shared::alarm::AlarmKind;

    use super::*;
    use crate::clock::SteppedClock;
    use crate::report::StoreReport;
    use crate::xks::{LoggedRequestId, Stage, Stopwatch};

    fn event(outcome: Outcome, is_authenticated: bool) -> RequestEvent {
        let mut watch = Stopwatch::start();
        if is_authenticated {
            watch.lap(Stage::Body);
            watch.lap(Stage::Signature);
        }
        RequestEvent {
            key_store: Some(KeyStoreId([7; 32])),
            operation: Some(Operation::Decrypt),
            kms_request_id: Some(LoggedRequestId::new("request 1")),
            outcome,
            latency_ms: 3,
            times: watch.stop(),
        }
    }

    fn meter(reporter: Reporter) -> Meter {
        let tracer = Tracer::new(reporter.clone(), Arc::new(SteppedClock::at(0)));
        Meter::new(reporter, Arc::new(tracer))
    }

    #[test]
    fn the_places_are_those_of_the_link() {
        for operation in [Operation::GetKeyMetadata, Operation::Encrypt, Operation::Decrypt, Operation::GetHealthStatus]
        {
            assert_eq!(OPERATIONS[place(operation)], operation.as_str());
        }
        assert_eq!(OUTCOMES[ended(Outcome::Success).unwrap()], "success");
        for name in ErrorName::ALL {
            assert_eq!(OUTCOMES[ended(Outcome::Error(name)).unwrap()], name.as_str());
        }
    }

    #[test]
    fn kinds_of_alarms_are_those_of_the_link() {
        assert_eq!(ALARMS, AlarmKind::ALL.map(AlarmKind::name));
    }

    #[test]
    fn a_duration_falls_into_the_bucket_of_the_next_bound() {
        for (took_us, expected) in [(0, 0), (50, 0), (51, 1), (100_000, 11), (100_001, 12), (1_000_000, 15)] {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_micros(took_us));
            let told = histogram.told();
            assert_eq!((told.buckets[expected], told.above, told.sum_us), (1, 0, took_us), "{took_us} us");
        }
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(1_000_001));
        assert_eq!((histogram.told().above, histogram.told().sum_us), (1, 1_000_001));
    }

    #[test]
    fn outcomes_are_counted_for_each_key_store_and_strangers_change_nothing_else() {
        let (reporter, mut lines) = Reporter::new();
        let served = StoreReport { state: KeyStoreState::Serving, version: None, lease_expires_ms: None, reason: None };
        reporter.set(KeyStoreId([7; 32]), served);
        lines.try_recv().unwrap();
        let meter = meter(reporter);
        let error = ErrorName::AccessDeniedException;
        meter.observe(event(Outcome::Success, true));
        meter.observe(event(Outcome::Error(error), true));
        meter.observe(event(Outcome::Error(ErrorName::AuthenticationFailedException), false));
        meter.observe(event(Outcome::Aborted, false));
        meter.observe(RequestEvent { key_store: None, ..event(Outcome::Success, true) });
        meter.observe(event(Outcome::Error(ErrorName::ThrottlingException), false));
        let known = meter.requests.load();
        let counted: u64 = known.values().flat_map(|requests| requests.signed.iter().flatten()).map(load).sum();
        let unsigned: u64 = known.values().flat_map(|requests| &requests.unsigned).map(load).sum();
        assert_eq!((known.len(), counted, unsigned), (1, 2, 2));
        let throttled = ended(Outcome::Error(ErrorName::ThrottlingException)).unwrap();
        assert_eq!(load(&known[&KeyStoreId([7; 32])].unsigned[throttled]), 1);
        let decrypts = &known[&KeyStoreId([7; 32])].signed[2];
        assert_eq!((load(&decrypts[0]), load(&decrypts[ended(Outcome::Error(error)).unwrap()])), (1, 1));
        let totals: u64 = meter.latency[2][6].told().buckets.iter().sum();
        assert_eq!(totals, 2, "of those with a signature");
        let line = lines.try_recv().unwrap();
        let expected = RefusedRequest {
            key_store_id: [7; 32].into(),
            operation: "Decrypt".into(),
            error: "AccessDeniedException".into(),
            kms_request_id: Some("request?1".into()),
            latency_ms: 3,
        };
        assert_eq!(line, ToParent::Refusal(expected));
        assert!(lines.try_recv().is_err(), "one line, of the one that was refused");
    }

    #[test]
    fn there_are_no_more_key_stores_than_a_boot_can_have() {
        let (reporter, _lines) = Reporter::new();
        let meter = meter(reporter);
        for number in 0..u16::try_from(AUDIT_LOGS_MAX).unwrap() + 2 {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            meter.count(KeyStoreId(id), Some(Operation::Encrypt), 0);
        }
        assert_eq!(meter.requests.load().len(), AUDIT_LOGS_MAX);
    }
}
