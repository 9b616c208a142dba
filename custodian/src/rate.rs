//! A token bucket: so many per second, and as many at once.
//!
//! Guarantees: an answer takes no lock for longer than a few additions and never waits. Global on purpose: a table of peers
//! would itself be something to flood.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Parts of a token: the bucket is refilled by the microsecond.
const PARTS: u64 = 1_000_000;

/// A limit on how often something may happen.
#[derive(Debug)]
pub struct RateLimit {
    per_second: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    refilled: Instant,
    parts: u64,
}

impl RateLimit {
    /// Allows `per_second` on average and at once.
    #[must_use]
    pub fn new(per_second: u32, now: Instant) -> Self {
        let per_second = u64::from(per_second);
        Self { per_second, state: Mutex::new(State { refilled: now, parts: per_second.saturating_mul(PARTS) }) }
    }

    /// Whether one more may happen at `now`.
    pub fn allow(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = u64::try_from(now.saturating_duration_since(state.refilled).as_micros()).unwrap_or(u64::MAX);
        let full = self.per_second.saturating_mul(PARTS);
        state.parts = state.parts.saturating_add(elapsed.saturating_mul(self.per_second)).min(full);
        state.refilled = now.max(state.refilled);
        match state.parts.checked_sub(PARTS) {
            Some(left) => {
                state.parts = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_empties_the_bucket_and_time_refills_it() {
        let start = Instant::now();
        let limit = RateLimit::new(10, start);
        let table = [(0, 10), (50, 0), (100, 1), (200, 1), (10_000, 10)];
        for (after_ms, allowed) in table {
            let now = start + Duration::from_millis(after_ms);
            let count = (0..20).filter(|_| limit.allow(now)).count();
            assert_eq!(count, allowed, "after {after_ms} ms");
        }
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let limit = RateLimit::new(1, start);
        assert!(limit.allow(start));
        assert!(!limit.allow(start.checked_sub(Duration::from_secs(5)).unwrap()));
    }
}
