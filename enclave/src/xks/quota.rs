//! The quota of a key store: a token bucket without a lock.
//!
//! ```text
//! 1 ms = requests_per_second ticks          1 request = 1000 ticks
//! state = the tick up to which the bucket is spent; it may lie ahead of now by at most burst requests (and one millisecond)
//! ```
//! In these units the rate is exact, whatever it is. This is the generic cell rate algorithm (ITU-T I.371, annex A) on one atomic word.
//!
//! Guarantees: of any requests, from however many threads, no more pass in `t` ms than `burst + (t + 1) × requests_per_second / 1000`;
//! a refused request spends nothing; no key store's bucket is another's. The clock counts milliseconds, so what comes in during one
//! is added to the burst: otherwise 1,800 requests per second with a burst of 1 would be 1,000. Assumes: the caller keeps one
//! [`Quotas`] for each key store over all its versions.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_shared::keystore::Quota;

use super::guard::{Denial, Guard, OpenGuard, Question};
use crate::clock::Clock;

/// Ticks of one request.
const REQUEST: u64 = 1000;

/// A bucket that is full at first.
#[derive(Debug)]
pub(crate) struct Bucket {
    spent_until: AtomicU64,
    ticks_per_ms: u64,
    depth: u64,
}

impl Bucket {
    pub(crate) fn new(quota: Quota) -> Self {
        let ticks_per_ms = u64::from(quota.requests_per_second);
        let depth = u64::from(quota.burst).saturating_mul(REQUEST).saturating_add(ticks_per_ms);
        Self { spent_until: AtomicU64::new(0), ticks_per_ms, depth }
    }

    /// Takes one request out of the bucket, if there is one in it. `now_ms` may be older than what another thread saw.
    pub(crate) fn take(&self, now_ms: u64) -> bool {
        let now = now_ms.saturating_mul(self.ticks_per_ms);
        let full = now.saturating_add(self.depth);
        let spend = |spent_until: u64| {
            let next = spent_until.max(now).saturating_add(REQUEST);
            (next <= full).then_some(next)
        };
        self.spent_until.fetch_update(Ordering::AcqRel, Ordering::Acquire, spend).is_ok()
    }
}

/// Lets as many requests pass as the quota says.
struct QuotaGuard {
    quota: Quota,
    bucket: Bucket,
    clock: Arc<dyn Clock>,
}

impl Guard for QuotaGuard {
    fn permit(&self, _: &Question<'_>) -> Result<(), Denial> {
        if self.bucket.take(self.clock.monotonic_ms()) { Ok(()) } else { Err(Denial::Throttled) }
    }
}

/// The guard of one key store over its versions: a new version with the same quota goes on with the same bucket.
pub(crate) struct Quotas {
    clock: Arc<dyn Clock>,
    current: Mutex<Option<Arc<QuotaGuard>>>,
}

impl Quotas {
    pub(crate) const fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, current: Mutex::new(None) }
    }

    /// The guard of a version with this quota.
    pub(crate) fn guard(&self, quota: Option<Quota>) -> Arc<dyn Guard> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(quota) = quota else {
            *current = None;
            return Arc::new(OpenGuard);
        };
        let kept = current.take().filter(|guard| guard.quota == quota);
        let guard = kept.unwrap_or_else(|| {
            Arc::new(QuotaGuard { quota, bucket: Bucket::new(quota), clock: Arc::clone(&self.clock) })
        });
        *current = Some(Arc::clone(&guard));
        guard
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;

    use holdfast_shared::external_key::ExternalKeyId;
    use holdfast_shared::ids::KeyStoreId;
    use holdfast_shared::sigv4::AccessKeyId;
    use holdfast_shared::xks::{self, Operation};
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SteppedClock;

    const fn quota(requests_per_second: u32, burst: u32) -> Quota {
        Quota { requests_per_second, burst }
    }

    fn permits(guard: &dyn Guard) -> bool {
        let body = br#"{"requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsOperation":"Encrypt","kmsRequestId":"1","kmsKeyArn":"arn:aws:kms:us-east-2:123456789012:/key/1"},"plaintext":"eA==","encryptionAlgorithm":"AES_GCM"}"#;
        let request = xks::parse_encrypt(body).unwrap();
        let question = Question {
            key_store: KeyStoreId([1; 32]),
            key: &ExternalKeyId::parse("a").unwrap(),
            operation: Operation::Encrypt,
            metadata: &request.metadata,
            access_key_id: &AccessKeyId::parse("AAAAABBBBBCCCCCDDDDD").unwrap(),
        };
        guard.permit(&question).is_ok()
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
    fn a_bucket_outlives_versions_until_its_quota_changes() {
        let clock = Arc::new(SteppedClock::at(0));
        let quotas = Quotas::new(clock.clone());
        let first = quotas.guard(Some(quota(1, 2)));
        assert!(permits(&*first) && permits(&*first) && !permits(&*first));
        let next = quotas.guard(Some(quota(1, 2)));
        assert!(!permits(&*next), "a new version is no new burst");
        let larger = quotas.guard(Some(quota(1, 3)));
        assert!(permits(&*larger), "another quota is another bucket");
        let none = quotas.guard(None);
        assert!((0..100).all(|_| permits(&*none)));
        clock.advance_ms(1000);
        assert!(permits(&*first) && !permits(&*first), "requests that still hold an old version spend its bucket");

        let other = Quotas::new(clock).guard(Some(quota(1, 2)));
        assert!(permits(&*other), "another key store's bucket is full");
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
