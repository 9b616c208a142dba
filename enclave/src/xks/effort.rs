//! Processor time that a key store's policy may take.
//!
//! ```text
//! 1 µs of work = POLICY_TIME_SHARE µs that must pass before as much is there again
//! state = the moment up to which that time is spent; it may lie ahead of now by at most POLICY_TIME_BURST_US and one piece of work
//! ```
//! The bounds on a policy's text bound one decision; what it costs within them differs by a thousand, and refused requests are debited to no
//! quota. So it is measured, in time of the processor and not of the clock: whoever is interrupted pays for nothing.
//!
//! Guarantees: in any `t` µs, work takes no more than `(t + POLICY_TIME_BURST_US) / POLICY_TIME_SHARE`, and one piece of work for each thread.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use holdfast_shared::limits::{POLICY_TIME_BURST_US, POLICY_TIME_SHARE};
use rustix::time::{ClockId, clock_gettime};

/// Processor time that the calling thread has taken.
pub type Meter = fn() -> Duration;

/// The kernel's count of it.
pub(crate) fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Effort {
    meter: Meter,
    spent_until_us: AtomicU64,
}

impl Effort {
    pub(crate) const fn new(meter: Meter) -> Self {
        Self { meter, spent_until_us: AtomicU64::new(0) }
    }

    /// Does a piece of work if there is time left, and debits what it took.
    pub(crate) fn spend<T>(&self, now_ms: u64, work: impl FnOnce() -> T) -> Option<T> {
        // In microseconds.
        let present = now_ms.saturating_mul(1000);
        if self.spent_until_us.load(Ordering::Acquire) > present.saturating_add(POLICY_TIME_BURST_US) {
            return None;
        }
        let before = (self.meter)();
        let done = work();
        let took = (self.meter)().saturating_sub(before);
        let debit = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).saturating_mul(POLICY_TIME_SHARE);
        let _ = self
            .spent_until_us
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |spent| Some(spent.max(present).saturating_add(debit)));
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    thread_local! {
        static TAKEN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn work(duration: Duration) {
        TAKEN.set(TAKEN.get() + duration);
    }

    fn done(effort: &Effort, now_ms: u64, each: Duration, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(effort.spend(now_ms, || work(each)).is_some())).sum()
    }

    #[test]
    fn costly_work_is_held_to_its_share_and_cheap_work_never_notices() {
        let effort = Effort::new(|| TAKEN.get());
        let burst_ms = u32::try_from(POLICY_TIME_BURST_US / POLICY_TIME_SHARE / 1000).unwrap();
        let ten = Duration::from_millis(10);
        // What is exactly spent leaves room for one more, since nobody knows beforehand what it takes.
        assert_eq!(done(&effort, 5_000, ten, 1_000), burst_ms / 10 + 1);
        assert_eq!(done(&effort, 5_000, Duration::ZERO, 10), 0);
        for second in 1..10 {
            let passed = done(&effort, 5_000 + second * 1_000, ten, 1_000);
            assert_eq!(passed, u32::try_from(1_000 / POLICY_TIME_SHARE / 10).unwrap());
        }
        let effort = Effort::new(|| TAKEN.get());
        for ms in 0..3_000 {
            assert_eq!(done(&effort, ms, Duration::from_micros(100), 2), 2, "2,000 decisions of 100 µs a second");
        }
    }

    #[test]
    fn an_endless_piece_of_work_is_no_overflow() {
        let effort = Effort::new(|| TAKEN.get());
        assert_eq!(done(&effort, u64::MAX, Duration::from_secs(1 << 40), 2), 2);
        let effort = Effort::new(|| TAKEN.get());
        assert_eq!(done(&effort, 0, Duration::from_secs(1 << 40), 2), 1);
    }

    #[test]
    fn the_kernel_counts_what_this_thread_does() {
        let before = thread_time();
        let mut value = 1_u64;
        while thread_time() == before {
            value = core::hint::black_box(value.wrapping_mul(3));
        }
        assert!(thread_time() > before);
    }
}
