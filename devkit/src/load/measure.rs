//! Latencies and outcomes, second by second.
//!
//! Guarantees: a latency is counted from the moment at which the request was meant to be sent. What was meant to be sent before the
//! measurement began is left out; what was still under way when it ended is waited for and counted.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::mix::Operation;

/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// The longest latency that is told apart, in nanoseconds: ten minutes.
const LONGEST_NS: u64 = 600_000_000_000;
/// Kinds of failures that are told apart.
const KINDS_MAX: usize = 50;

/// How a request ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What was wrong; none if the answer was good.
    pub(super) failure: Option<String>,
    /// Times that it was sent again.
    pub(super) retries: u32,
    /// Attempts that were given up because no answer came in time.
    pub(super) timeouts: u32,
}

/// Counts of outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Answered well.
    pub ok: u64,
    /// All others.
    pub failed: u64,
    /// Sent again.
    pub retries: u64,
    /// Attempts without an answer in time.
    pub timeouts: u64,
    /// Of the failed: never sent, because the schedule was too far ahead when the run ended.
    pub unsent: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.retries += other.retries;
        self.timeouts += other.timeouts;
        self.unsent += other.unsent;
    }
}

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        // With these bounds there is always a histogram; an automatic one would do as well.
        let bounded = Histogram::new_with_max(LONGEST_NS, DIGITS);
        Self(bounded.or_else(|_| Histogram::new(DIGITS)).unwrap_or_else(|_| unreachable_histogram()))
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanoseconds);
    }

    pub(super) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so that nothing is out of range.
        let _ = self.0.add(&other.0);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds, at a share of all between 0 and 1.
    pub(super) fn at(&self, share: f64) -> f64 {
        microseconds(self.0.value_at_quantile(share))
    }

    pub(super) fn mean(&self) -> f64 {
        self.0.mean() / 1_000.0
    }

    pub(super) fn max(&self) -> f64 {
        microseconds(self.0.max())
    }
}

#[expect(clippy::panic, reason = "three digits are within what a histogram can have, so that this is never called")]
fn unreachable_histogram() -> Histogram<u64> {
    panic!("no histogram has {DIGITS} significant digits")
}

/// A number as floating point: counts and times here are far below 2⁵³.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "there is no other conversion, and rounding is meant"
)]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

fn microseconds(nanoseconds: u64) -> f64 {
    float(nanoseconds) / 1_000.0
}

/// What happened in one second of the measurement.
#[derive(Clone, Debug)]
pub(super) struct Second {
    /// The group of clients.
    pub(super) group: usize,
    /// Since the measurement began.
    pub(super) number: u64,
    pub(super) counts: Counts,
    pub(super) latencies: Latencies,
    pub(super) failures: BTreeMap<String, u64>,
}

impl Second {
    pub(super) fn new(group: usize, number: u64) -> Self {
        Self { group, number, counts: Counts::default(), latencies: Latencies::new(), failures: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.latencies.add(&other.latencies);
        for (kind, count) in &other.failures {
            add_failure(&mut self.failures, kind, *count);
        }
    }
}

fn add_failure(failures: &mut BTreeMap<String, u64>, kind: &str, count: u64) {
    let full = failures.len() >= KINDS_MAX;
    match failures.get_mut(kind) {
        Some(known) => *known += count,
        None if full => *failures.entry("others".to_owned()).or_default() += count,
        None => _ = failures.insert(kind.to_owned(), count),
    }
}

/// What one thread saw of one group.
pub(super) struct Recorder {
    begin: Instant,
    end: Option<Instant>,
    current: Second,
    sender: Sender<Second>,
    /// By operation.
    pub(super) operations: BTreeMap<Operation, Latencies>,
    /// Answers that came while the measurement ran.
    pub(super) within: u64,
}

impl Recorder {
    pub(super) fn new(group: usize, begin: Instant, end: Option<Instant>, sender: Sender<Second>) -> Self {
        Self { begin, end, current: Second::new(group, 0), sender, operations: BTreeMap::new(), within: 0 }
    }

    /// A request that was meant to be sent at `intended` ended at `done`.
    pub(super) fn record(&mut self, operation: Operation, intended: Instant, done: Instant, outcome: &Outcome) {
        if done >= self.begin && self.end.is_none_or(|end| done <= end) {
            self.within += 1;
        }
        if intended < self.begin {
            return;
        }
        self.turn(done);
        let second = &mut self.current;
        second.counts.retries += u64::from(outcome.retries);
        second.counts.timeouts += u64::from(outcome.timeouts);
        let latency = done.saturating_duration_since(intended);
        if let Some(failure) = &outcome.failure {
            second.counts.failed += 1;
            add_failure(&mut second.failures, failure, 1);
        } else {
            second.counts.ok += 1;
            self.operations.entry(operation).or_insert_with(Latencies::new).record(latency);
        }
        // A failure took its time as well: leaving it out would make a slow server look fast.
        second.latencies.record(latency);
    }

    /// Requests that were never sent.
    pub(super) fn unsent(&mut self, count: u64, now: Instant) {
        if count > 0 {
            self.turn(now);
            self.current.counts.failed += count;
            self.current.counts.unsent += count;
            add_failure(&mut self.current.failures, "never sent: the schedule was too far ahead", count);
        }
    }

    /// Hands over the seconds that are over.
    pub(super) fn turn(&mut self, now: Instant) {
        let number = now.saturating_duration_since(self.begin).as_secs();
        if number > self.current.number {
            let next = Second::new(self.current.group, number);
            // Nobody listens any more once the run was given up.
            let _ = self.sender.send(core::mem::replace(&mut self.current, next));
        }
    }

    /// Hands over the rest.
    pub(super) fn finish(&mut self) {
        let empty = Second::new(self.current.group, self.current.number);
        let _ = self.sender.send(core::mem::replace(&mut self.current, empty));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut latencies = Latencies::new();
        for number in 1..=10_000 {
            latencies.record(Duration::from_micros(number));
        }
        let mut twice = latencies.clone();
        twice.add(&latencies);
        assert_eq!((latencies.count(), twice.count()), (10_000, 20_000));
        for (share, expected) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.999, 9_990.0), (1.0, 10_000.0)] {
            for latencies in [&latencies, &twice] {
                let found = latencies.at(share);
                assert!((found / expected - 1.0_f64).abs() <= 0.001, "{share}: {found}");
            }
        }
        latencies.record(Duration::from_hours(10));
        assert!(latencies.max() >= 599_000_000.0, "what is too long is kept as the longest");
    }

    #[test]
    fn what_was_meant_for_the_time_before_is_left_out_and_what_ends_after_is_counted() {
        let (sender, receiver) = channel();
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut recorder = Recorder::new(0, at(1_000), Some(at(3_000)), sender);
        let failed = Outcome { failure: Some("503 X".to_owned()), retries: 1, timeouts: 0 };
        let table = [(900, 950, None), (990, 1_100, None), (1_000, 1_500, Some(())), (2_900, 3_500, Some(()))];
        for (intended, done, _) in table {
            recorder.record(Operation::Decrypt, at(intended), at(done), &Outcome::default());
        }
        recorder.record(Operation::Decrypt, at(2_000), at(4_100), &failed);
        recorder.unsent(2, at(4_200));
        recorder.finish();
        drop(recorder);
        let seconds: Vec<Second> = receiver.iter().collect();
        let numbers: Vec<_> =
            seconds.iter().map(|second| (second.number, second.counts.ok, second.counts.failed)).collect();
        assert_eq!(numbers, [(0, 1, 0), (2, 1, 0), (3, 0, 3)]);
        let total = seconds.iter().fold(Second::new(0, 0), |mut total, second| {
            total.add(second);
            total
        });
        assert_eq!(total.counts, Counts { ok: 2, failed: 3, retries: 1, timeouts: 0, unsent: 2 });
        assert_eq!((total.failures["503 X"], total.latencies.count()), (1, 3));
        assert!((total.latencies.max() - 2_100_000.0).abs() < 3_000.0);
    }
}
