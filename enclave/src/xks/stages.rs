//! How long a request took, and where.
//!
//! Guarantees: the stages that a request passed, and the one that refused it, add up to its total, a last rest aside; a lap costs one reading of the processor's clock.
//! Assumes: laps are taken in the order of the pipeline.

use core::time::Duration;

use tokio::time::Instant;

use super::observer::LoggedRequestId;

/// What a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The body arrives.
    Body,
    /// Client certificate and signature.
    Signature,
    /// The body is read.
    Parse,
    /// Block, lease, key, policy and limits.
    Guard,
    /// The cipher, and the answer is made.
    Cipher,
    /// The record.
    Audit,
}

/// What the stages took that a request passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    body: Option<Duration>,
    signature: Option<Duration>,
    parse: Option<Duration>,
    guard: Option<Duration>,
    cipher: Option<Duration>,
    audit: Option<Duration>,
    total: Duration,
}

impl StageTimes {
    /// In the order of [`holdfast_link::control::STAGES`].
    #[must_use]
    pub const fn by_stage(&self) -> [Option<Duration>; 7] {
        [self.body, self.signature, self.parse, self.guard, self.cipher, self.audit, Some(self.total)]
    }

    /// From the head to the answer.
    #[must_use]
    pub const fn total(&self) -> Duration {
        self.total
    }

    /// Whether the signature was valid.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.signature.is_some()
    }
}

/// Runs from a request's head on.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    began: Instant,
    last: Instant,
    times: StageTimes,
}

impl Stopwatch {
    /// Starts.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, times: StageTimes::default() }
    }

    /// A stage is over. It took the time since the one before.
    pub fn lap(&mut self, stage: Stage) {
        let now = Instant::now();
        let took = Some(now.saturating_duration_since(self.last));
        self.last = now;
        match stage {
            Stage::Body => self.times.body = took,
            Stage::Signature => self.times.signature = took,
            Stage::Parse => self.times.parse = took,
            Stage::Guard => self.times.guard = took,
            Stage::Cipher => self.times.cipher = took,
            Stage::Audit => self.times.audit = took,
        }
    }

    /// When the last stage was over.
    #[must_use]
    pub const fn last(&self) -> Instant {
        self.last
    }

    /// The request is refused: the time since the last stage went to the one after it. What refuses a health check after its body was
    /// read counts as guard.
    pub fn refused(&mut self) {
        let StageTimes { parse, guard, .. } = self.times;
        self.lap(match (parse, guard) {
            (None, _) => Stage::Parse,
            (Some(_), None) => Stage::Guard,
            (Some(_), Some(_)) => Stage::Cipher,
        });
    }

    /// From the head to the end of the last stage.
    #[must_use]
    pub fn so_far(&self) -> Duration {
        self.last.saturating_duration_since(self.began)
    }

    /// What it measured.
    #[must_use]
    pub fn stop(self) -> StageTimes {
        StageTimes { total: self.began.elapsed(), ..self.times }
    }
}

/// What the pipeline tells of a request besides its answer.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// `kmsRequestId`, once the body was parsed.
    pub kms_request_id: Option<LoggedRequestId>,
    /// Where the request's time went.
    pub watch: Stopwatch,
}

impl Note {
    /// Of a request whose head has arrived now.
    #[must_use]
    pub fn begin() -> Self {
        Self { kms_request_id: None, watch: Stopwatch::start() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn laps_add_up_and_what_was_not_passed_is_not_told() {
        let mut watch = Stopwatch::start();
        let step = Duration::from_millis(3);
        tokio::time::advance(step).await;
        watch.lap(Stage::Body);
        assert!(!watch.stop().is_authenticated());
        tokio::time::advance(2 * step).await;
        watch.lap(Stage::Signature);
        tokio::time::advance(step).await;
        let times = watch.stop();
        assert!(times.is_authenticated());
        assert_eq!(times.by_stage(), [Some(step), Some(2 * step), None, None, None, None, Some(4 * step)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_refuses_a_request_has_its_time() {
        let step = Duration::from_millis(3);
        let passed = [Stage::Parse, Stage::Guard];
        for (passed, expected) in [(&passed[..0], 2), (&passed[..1], 3), (&passed[..2], 4)] {
            let mut watch = Stopwatch::start();
            [Stage::Body, Stage::Signature].iter().chain(passed).for_each(|stage| watch.lap(*stage));
            tokio::time::advance(step).await;
            watch.refused();
            watch.lap(Stage::Audit);
            let mut times = watch.stop().by_stage();
            assert_eq!((times[expected].take(), times[5]), (Some(step), Some(Duration::ZERO)), "{passed:?}");
            assert!(times[..5].iter().flatten().all(Duration::is_zero));
        }
    }
}
