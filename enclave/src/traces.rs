//! Single requests, for the parent's traces: a sample, and besides those that were refused or slow.
//!
//! Guarantees: without the parent's order nothing is told, and a request costs one look at an atomic; with one, a request that is not told
//! costs one addition more. What is told is what [`RequestTrace`] has room for, and no more often than the order says and
//! [`TRACES_PER_SECOND_MAX`](holdfast_link::limits::TRACES_PER_SECOND_MAX) allows. Assumes: requests without a valid signature are not shown to it. Refuses:
//! one key store more than half of what there may be, so that its refusals do not hide the others.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use holdfast_link::control::{RequestTrace, TracingOrder};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::xks::Operation;

use crate::clock::Clock;
use crate::report::Reporter;
use crate::xks::{Outcome, RequestEvent};

/// See the module.
pub(crate) struct Tracer {
    reporter: Reporter,
    clock: Arc<dyn Clock>,
    /// One of so many is told; 0 while nobody wants any.
    one_in: AtomicU32,
    slow_us: AtomicU64,
    /// Requests that were seen while there was an order.
    seen: AtomicU32,
}

impl Tracer {
    /// Tells nothing until it is ordered to.
    pub(crate) fn new(reporter: Reporter, clock: Arc<dyn Clock>) -> Self {
        let (one_in, slow_us, seen) = (AtomicU32::new(0), AtomicU64::new(0), AtomicU32::new(0));
        Self { reporter, clock, one_in, slow_us, seen }
    }

    /// Tells what the order says from now on.
    pub(crate) fn follow(&self, order: TracingOrder) {
        let TracingOrder { one_in, per_second, slow_ms } = order;
        self.reporter.allow_traces(per_second, self.clock.monotonic_ms());
        self.slow_us.store(u64::from(slow_ms).saturating_mul(1000), Ordering::Relaxed);
        self.one_in.store(one_in, Ordering::Relaxed);
    }

    /// Tells nothing from now on.
    pub(crate) fn stop(&self) {
        self.one_in.store(0, Ordering::Relaxed);
        self.reporter.allow_traces(0, self.clock.monotonic_ms());
    }

    /// Tells of a request with a valid signature, if it is one of those.
    pub(crate) fn consider(&self, key_store: KeyStoreId, operation: Operation, event: &RequestEvent) {
        let one_in = self.one_in.load(Ordering::Relaxed);
        if one_in > 0 && (self.is_sampled(one_in) | self.is_notable(event)) {
            self.reporter.trace(key_store, || self.trace(key_store, operation, event));
        }
    }

    fn is_sampled(&self, one_in: u32) -> bool {
        self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(one_in)
    }

    fn is_notable(&self, event: &RequestEvent) -> bool {
        let [.., total] = event.times.by_stage();
        event.outcome != Outcome::Success || total.map_or(0, micros) >= self.slow_us.load(Ordering::Relaxed)
    }

    fn trace(&self, key_store: KeyStoreId, operation: Operation, event: &RequestEvent) -> RequestTrace {
        let stages_us = event.times.by_stage().map(|took| took.map(micros));
        let [.., total_us] = stages_us;
        let outcome = match event.outcome {
            Outcome::Error(name) => name.as_str(),
            // A valid signature leads to no other.
            Outcome::Success | Outcome::Proof | Outcome::MethodNotAllowed | Outcome::Misdirected | Outcome::Aborted => {
                "success"
            }
        };
        RequestTrace {
            key_store_id: (*key_store.as_bytes()).into(),
            operation: operation.as_str().into(),
            outcome: outcome.into(),
            kms_request_id: event.kms_request_id.map(|id| id.as_str().into()),
            began_us: self.clock.wall_ms().saturating_mul(1000).saturating_sub(total_us.unwrap_or(0)),
            stages_us,
        }
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use holdfast_link::control::{KeyStoreState, ToParent};
    use holdfast_shared::xks::ErrorName;
    use tokio::sync::mpsc;

    use super::*;
    use crate::clock::SteppedClock;
    use crate::report::StoreReport;
    use crate::xks::{LoggedRequestId, Stage, Stopwatch};

    const NOW_MS: u64 = 1_700_000_000_000;

    fn id(n: u8) -> KeyStoreId {
        KeyStoreId([n; 32])
    }

    fn tracer(stores: u8) -> (Tracer, Reporter, mpsc::Receiver<ToParent>) {
        let (reporter, mut lines) = Reporter::new();
        for n in 1..=stores {
            let state = KeyStoreState::Serving;
            reporter.set(id(n), StoreReport { state, version: None, lease_expires_ms: None, reason: None });
            lines.try_recv().unwrap();
        }
        (Tracer::new(reporter.clone(), Arc::new(SteppedClock::at(NOW_MS))), reporter, lines)
    }

    async fn event(outcome: Outcome, body_ms: u64) -> RequestEvent {
        let mut watch = Stopwatch::start();
        tokio::time::advance(Duration::from_millis(body_ms)).await;
        watch.lap(Stage::Body);
        watch.lap(Stage::Signature);
        RequestEvent {
            key_store: None,
            operation: None,
            kms_request_id: Some(LoggedRequestId::new("id")),
            outcome,
            latency_ms: 0,
            times: watch.stop(),
        }
    }

    fn told(lines: &mut mpsc::Receiver<ToParent>) -> usize {
        core::iter::from_fn(|| lines.try_recv().ok()).filter(|line| matches!(line, ToParent::Trace(_))).count()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_told_without_an_order_or_after_it_ended() {
        let (tracer, _, mut lines) = tracer(1);
        let refused = event(Outcome::Error(ErrorName::AccessDeniedException), 900).await;
        tracer.consider(id(1), Operation::Decrypt, &refused);
        assert_eq!(told(&mut lines), 0);
        tracer.follow(TracingOrder { one_in: 1, per_second: 10, slow_ms: 100 });
        tracer.consider(id(1), Operation::Decrypt, &refused);
        let expected = RequestTrace {
            key_store_id: [1; 32].into(),
            operation: "Decrypt".into(),
            outcome: "AccessDeniedException".into(),
            kms_request_id: Some("id".into()),
            began_us: NOW_MS * 1000 - 900_000,
            stages_us: [Some(900_000), Some(0), None, None, None, None, Some(900_000)],
        };
        assert_eq!(lines.try_recv().unwrap(), ToParent::Trace(expected));
        tracer.stop();
        tracer.consider(id(1), Operation::Decrypt, &refused);
        assert_eq!(told(&mut lines), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_is_told_and_what_was_refused_or_slow() {
        let (tracer, _, mut lines) = tracer(1);
        tracer.follow(TracingOrder { one_in: 10, per_second: 100, slow_ms: 100 });
        let consider = |event: &RequestEvent, times: u8| {
            (0..times).for_each(|_| tracer.consider(id(1), Operation::Encrypt, event));
        };
        consider(&event(Outcome::Success, 99).await, 40);
        assert_eq!(told(&mut lines), 4, "one in ten");
        consider(&event(Outcome::Success, 100).await, 3);
        assert_eq!(told(&mut lines), 3, "slow ones");
        consider(&event(Outcome::Error(ErrorName::InvalidCiphertextException), 0).await, 3);
        assert_eq!(told(&mut lines), 3, "refused ones");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_no_more_than_ordered_and_one_key_store_gets_half() {
        let (tracer, reporter, mut lines) = tracer(3);
        let order = TracingOrder { one_in: 1, per_second: 11, slow_ms: 100 };
        tracer.follow(order);
        let success = event(Outcome::Success, 0).await;
        let flood = |n: u8| (0..100).for_each(|_| tracer.consider(id(n), Operation::Encrypt, &success));
        for second in 1..=2 {
            reporter.states(1_000 * second);
            flood(1);
            assert_eq!(told(&mut lines), 6);
            flood(2);
            flood(3);
            assert_eq!(told(&mut lines), 5);
        }
        // A parent that repeats its order, or connects again and again, gets no more.
        tracer.stop();
        tracer.follow(order);
        reporter.states(2_500);
        flood(1);
        assert_eq!(told(&mut lines), 0);
        assert_eq!(reporter.traces_dropped(), 2 * (300 - 11) + 100);
        assert_eq!(reporter.dropped(), 0, "they are no lines of the log");
    }
}
