//! The enclave's clock: monotonic time anchored to the timestamps of NSM documents.
//!
//! Guarantees: wall time comes from the NSM alone, never from the parent; monotonic time never runs behind NSM time by more
//! than [`DRIFT_MAX_MS`] after an anchor, counted from the boot, so that a stopped or slowed processor cannot lengthen a lease. Assumes:
//! [`AttestedClock::anchor`] is called about once a minute. Refuses: to call itself healthy when NSM time and its own
//! disagree by more than [`DRIFT_MAX_MS`] over one such interval.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::Clock;

/// How far NSM time and ours may drift apart between two anchors, in milliseconds. A quartz that is off by 100 ppm loses 6 ms
/// a minute; a document takes some milliseconds to make.
pub const DRIFT_MAX_MS: u64 = 2_000;

/// See the module.
#[derive(Debug)]
pub struct AttestedClock {
    start: Instant,
    /// What NSM time was at `start`.
    start_ms: u64,
    /// Added to the time since `start`, so that monotonic time catches up with NSM time.
    ahead_ms: AtomicU64,
    /// Wall time minus monotonic time.
    offset_ms: AtomicU64,
    healthy: AtomicBool,
    /// By how much the last anchor disagreed with the one before.
    drift_ms: AtomicU64,
    /// When it was made, monotonic.
    anchored_ms: AtomicU64,
}

/// The moment now, on the processor's own clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place where this clock is read to be anchored")]
pub fn moment() -> Instant {
    Instant::now()
}

impl AttestedClock {
    /// A clock anchored to a document that was asked for at `asked` and said `timestamp_ms`.
    #[must_use]
    pub fn anchored(timestamp_ms: u64, asked: Instant) -> Self {
        Self {
            start: asked,
            start_ms: timestamp_ms,
            ahead_ms: AtomicU64::new(0),
            offset_ms: AtomicU64::new(timestamp_ms),
            healthy: AtomicBool::new(true),
            drift_ms: AtomicU64::new(0),
            anchored_ms: AtomicU64::new(0),
        }
    }

    /// Anchors anew to a document that was asked for at monotonic time `asked_ms`. Returns the drift since the last anchor.
    pub fn anchor(&self, timestamp_ms: u64, asked_ms: u64) -> u64 {
        let expected = self.offset_ms.load(Ordering::SeqCst).saturating_add(asked_ms);
        let drift_ms = expected.abs_diff(timestamp_ms);
        self.healthy.store(drift_ms <= DRIFT_MAX_MS, Ordering::SeqCst);
        // From the start and not from the last anchor: many small delays add up.
        let behind_ms = timestamp_ms.saturating_sub(self.start_ms).saturating_sub(asked_ms);
        if behind_ms > DRIFT_MAX_MS {
            // NSM time ran on while ours stood still: monotonic time makes the same step, and leases end when they should.
            self.ahead_ms.fetch_add(behind_ms, Ordering::SeqCst);
            self.offset_ms.store(self.start_ms, Ordering::SeqCst);
        } else {
            self.offset_ms.store(timestamp_ms.saturating_sub(asked_ms), Ordering::SeqCst);
        }
        self.drift_ms.store(drift_ms, Ordering::Relaxed);
        self.anchored_ms.store(self.monotonic_ms(), Ordering::Relaxed);
        drift_ms
    }

    /// There was no anchor when there should have been one.
    pub fn doubt(&self) {
        self.healthy.store(false, Ordering::SeqCst);
    }

    /// By how much the last anchor disagreed with the one before, and how long ago it was made, in milliseconds.
    pub fn last_anchor(&self) -> (u64, u64) {
        let age_ms = self.monotonic_ms().saturating_sub(self.anchored_ms.load(Ordering::Relaxed));
        (self.drift_ms.load(Ordering::Relaxed), age_ms)
    }
}

impl Clock for AttestedClock {
    fn monotonic_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        elapsed.saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        self.offset_ms.load(Ordering::Relaxed).saturating_add(self.monotonic_ms())
    }

    fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_within_the_bound_moves_wall_time_only() {
        let clock = AttestedClock::anchored(1_000_000, moment());
        let asked = clock.monotonic_ms();
        assert!(clock.anchor(1_000_500 + asked, asked) <= DRIFT_MAX_MS);
        assert!(clock.is_healthy());
        assert!(clock.wall_ms() >= 1_000_500);
        assert!(clock.monotonic_ms() < 100_000, "monotonic time did not jump");
    }

    #[test]
    fn time_that_stood_still_is_made_up_for_and_reported() {
        let clock = AttestedClock::anchored(1_000_000, moment());
        let before = clock.monotonic_ms();
        clock.anchor(1_000_000 + 3_600_000, before);
        assert!(!clock.is_healthy());
        assert!(clock.last_anchor().0 > 3_500_000, "and by how much is told");
        assert!(clock.monotonic_ms() >= before + 3_500_000, "a lease of an hour has ended");
        let now = clock.monotonic_ms();
        clock.anchor(clock.wall_ms(), now);
        assert!(clock.is_healthy(), "the next anchor agrees");
    }

    #[test]
    fn time_that_runs_a_little_slow_is_made_up_for_as_it_adds_up() {
        let clock = AttestedClock::anchored(1_000_000, moment());
        // Ours runs 1.5 s a minute slow: each anchor is within the bound.
        let mut nsm_ms = 1_000_000;
        for _ in 0..600 {
            nsm_ms += 60_000;
            let asked_ms = clock.monotonic_ms();
            // What our clock would show: it is moved by what was made up for and by 58.5 s a minute.
            clock.ahead_ms.fetch_add(58_500, Ordering::SeqCst);
            assert!(clock.anchor(nsm_ms, asked_ms + 58_500) < 60_000);
            assert!(clock.is_healthy());
        }
        let passed_ms = nsm_ms - 1_000_000;
        assert!(clock.monotonic_ms() + DRIFT_MAX_MS >= passed_ms, "{} of {passed_ms}", clock.monotonic_ms());
        assert!(clock.wall_ms().abs_diff(nsm_ms) <= DRIFT_MAX_MS);
    }

    #[test]
    fn time_that_ran_backwards_is_reported_and_leaves_monotonic_time_alone() {
        let clock = AttestedClock::anchored(1_000_000_000, moment());
        let before = clock.monotonic_ms();
        clock.anchor(500_000_000, before);
        assert!(!clock.is_healthy());
        assert!(clock.monotonic_ms() >= before);
        assert!(clock.wall_ms() < 500_100_000);
    }
}
