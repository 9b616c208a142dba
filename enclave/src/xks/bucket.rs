//! A token bucket without a lock.
//!
//! ```text
//! 1 ms = requests_per_second ticks          1 request = 1000 ticks
//! state = the tick up to which the bucket is spent; it may lie ahead of now by at most burst requests (and one millisecond)
//! ```
//! In these units the rate is exact, whatever it is. This is the generic cell rate algorithm (ITU-T I.371, annex A) on one atomic word.
//!
//! Guarantees: of any requests, from however many threads, no more pass in `t` ms than `burst + (t + 1) × requests_per_second / 1000`;
//! a refused request spends nothing; what is given back in the millisecond in which it was taken is as if it had never been. Given back
//! later, to a bucket that would have been full meanwhile, it is worth one request more. The clock counts milliseconds, so what comes in
//! during one is added to the burst: otherwise 1,800 requests per second with a burst of 1 would be 1,000.

use core::sync::atomic::{AtomicU64, Ordering};

use holdfast_shared::keystore::Quota;

/// Ticks of one request.
const REQUEST: u64 = 1000;

/// How fast a bucket fills, and how much it holds. What is left in it stands in a word of its own, which is 0 at first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    ticks_per_ms: u64,
    depth: u64,
}

impl Rate {
    pub(crate) fn new(quota: Quota) -> Self {
        let ticks_per_ms = u64::from(quota.requests_per_second);
        let depth = u64::from(quota.burst).saturating_mul(REQUEST).saturating_add(ticks_per_ms);
        Self { ticks_per_ms, depth }
    }

    /// The word after one more request, if there is one in the bucket.
    fn after(self, spent_until: u64, now_ms: u64) -> Option<u64> {
        let now = now_ms.saturating_mul(self.ticks_per_ms);
        let next = spent_until.max(now).saturating_add(REQUEST);
        (next <= now.saturating_add(self.depth)).then_some(next)
    }

    /// Whether there is one request in the bucket.
    pub(crate) fn has(self, spent_until: &AtomicU64, now_ms: u64) -> bool {
        self.after(spent_until.load(Ordering::Acquire), now_ms).is_some()
    }

    /// Takes one request out of the bucket, if there is one in it. `now_ms` may be older than what another thread saw.
    pub(crate) fn take(self, spent_until: &AtomicU64, now_ms: u64) -> bool {
        spent_until.fetch_update(Ordering::AcqRel, Ordering::Acquire, |spent| self.after(spent, now_ms)).is_ok()
    }

    /// Puts one request back that was taken.
    pub(crate) fn give_back(spent_until: &AtomicU64) {
        spent_until.fetch_sub(REQUEST, Ordering::AcqRel);
    }
}

/// A bucket that is full at first.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    spent_until: AtomicU64,
}

impl Bucket {
    pub(crate) fn new(quota: Quota) -> Self {
        Self { rate: Rate::new(quota), spent_until: AtomicU64::new(0) }
    }

    /// Takes one request out of the bucket, if there is one in it.
    pub(crate) fn take(&self, now_ms: u64) -> bool {
        self.rate.take(&self.spent_until, now_ms)
    }

    pub(crate) const fn rate(&self) -> Rate {
        self.rate
    }

    pub(crate) const fn cell(&self) -> &AtomicU64 {
        &self.spent_until
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;

    const fn quota(requests_per_second: u32, burst: u32) -> Quota {
        Quota { requests_per_second, burst }
    }

    fn taken(bucket: &Bucket, now_ms: u64, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(bucket.take(now_ms))).sum()
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rate_after_it() {
        // Requests per second, burst; then: at which millisecond how many of 5,000 pass.
        let table: &[(Quota, &[(u64, u32)])] = &[
            (quota(1, 1), &[(0, 1), (0, 0), (998, 0), (999, 1), (1998, 0), (1999, 1), (60_000, 1)]),
            (quota(10, 5), &[(0, 5), (98, 0), (99, 1), (198, 0), (300, 2), (10_000, 5)]),
            (quota(1000, 1), &[(0, 2), (1, 1), (2, 1), (10, 2)]),
            (quota(1800, 1), &[(0, 2), (1, 2), (2, 2), (3, 2), (4, 2), (5, 1), (6, 2)]),
            (quota(1_000_000, 1), &[(0, 1001), (1, 1000), (2, 1000)]),
        ];
        for (quota, steps) in table {
            let bucket = Bucket::new(*quota);
            for (step, (now_ms, expected)) in steps.iter().enumerate() {
                assert_eq!(taken(&bucket, *now_ms, 5000), *expected, "{quota:?}, step {step}");
            }
        }
    }

    #[test]
    fn the_end_of_time_is_no_special_case() {
        let bucket = Bucket::new(quota(1_000_000, 1_000_000));
        assert!(bucket.take(u64::MAX));
        let bucket = Bucket::new(quota(1, 1));
        assert!(bucket.take(5_000) && !bucket.take(0), "a reading older than another thread's finds an empty bucket");
        assert!(bucket.take(6_000));
    }

    #[test]
    fn threads_share_one_bucket() {
        let bucket = Bucket::new(quota(1, 1000));
        let passed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| passed.fetch_add(taken(&bucket, 7, 500), Ordering::SeqCst));
            }
        });
        assert_eq!(passed.into_inner(), 1000);
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let rate = Rate::new(quota(10, 3));
        let (kept, other) = (AtomicU64::new(0), AtomicU64::new(0));
        for now_ms in [0, 1, 150, 150, 151, 400, 5_000] {
            let (before, passes) = (rate.has(&kept, now_ms), rate.has(&other, now_ms));
            assert_eq!(before, passes);
            if rate.take(&kept, now_ms) {
                Rate::give_back(&kept);
            }
            assert_eq!(rate.take(&kept, now_ms), rate.take(&other, now_ms));
        }
    }

    proptest! {
        /// Whoever asks at any times gets in no span of time more than the bound, and whoever asks all the time gets the whole rate.
        #[test]
        fn never_more_than_the_bound_and_never_less_than_the_rate(
            requests_per_second in 1_u32..5_000,
            burst in 1_u32..50,
            steps in prop::collection::vec((0_u64..50, 0_u32..200), 1..60),
            greedy_ms in 1_u64..1_000,
        ) {
            let quota = quota(requests_per_second, burst);
            let bucket = Bucket::new(quota);
            let mut passed = Vec::new();
            let mut now_ms = 1_000_000;
            for (pause_ms, asked) in steps {
                now_ms += pause_ms;
                passed.push((now_ms, u64::from(taken(&bucket, now_ms, asked))));
            }
            for (from, (start_ms, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (end_ms, count) in &passed[from..] {
                    sum += count;
                    let most = u64::from(burst) * 1000 + (end_ms - start_ms + 1) * u64::from(requests_per_second);
                    prop_assert!(sum * 1000 <= most, "{} passed from {} to {} under {:?}", sum, start_ms, end_ms, quota);
                }
            }

            let bucket = Bucket::new(quota);
            let mut total = 0_u64;
            for ms in 0..=greedy_ms {
                while bucket.take(ms) {
                    total += 1;
                }
            }
            let (start, rate) = (u64::from(burst) * 1000, u64::from(requests_per_second));
            prop_assert_eq!(total, (start + (greedy_ms + 1) * rate) / 1000);
        }
    }
}
