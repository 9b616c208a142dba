//! Round after round.
//!
//! Guarantees: a round each [`EVERY`] while all goes well; after failures of the whole store longer and longer pauses, up to [`PAUSE_MAX`]. The
//! first failure is told, and that it is over. From the moment at which the program was told to end, what goes on and the last round have
//! [`END_WITHIN`] together.

use core::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::upload::Pace;
use super::{StoreError, Summary};

/// Between rounds.
pub const EVERY: Duration = Duration::from_secs(10);
/// Between attempts while the store cannot be reached.
pub const PAUSE_MAX: Duration = Duration::from_mins(5);
/// Once the program was told to end, for the round that goes on and the last one. The unit's `TimeoutStopSec` is longer.
pub const END_WITHIN: Duration = Duration::from_mins(1);

/// Works until `ends` is over and one last round is done; false where that was not to be in time.
pub async fn watch(
    mut round: impl AsyncFnMut(Pace) -> Result<Summary, StoreError>,
    ends: impl Future<Output = ()>,
    say: &dyn Fn(&str),
) -> (Summary, bool) {
    let mut end = End { asked: Box::pin(ends), deadline: None };
    let (mut pauses, mut summary) = (Pauses::default(), Summary::default());
    loop {
        let is_last = end.deadline.is_some();
        let pace = if is_last { Pace::All } else { Pace::Paced };
        let done = tokio::select! {
            done = round(pace) => done,
            () = end.overdue() => {
                say("ends in the middle of a round: not everything was uploaded");
                return (summary, false);
            }
        };
        let is_done = done.is_ok();
        let (pause, line) = pauses.after(&done);
        if let Some(line) = line {
            say(&line);
        }
        if let Ok(done) = done {
            summary = summary.then(done);
        }
        if is_last {
            return (summary, is_done);
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = end.asked() => {}
        }
    }
}

/// When the program is to end.
struct End<F> {
    asked: Pin<Box<F>>,
    /// Once it was asked to.
    deadline: Option<Instant>,
}

impl<F: Future<Output = ()>> End<F> {
    async fn asked(&mut self) {
        if self.deadline.is_none() {
            self.asked.as_mut().await;
            self.deadline = Some(Instant::now() + END_WITHIN);
        }
    }

    /// Returns when it was asked to, and has had its time.
    async fn overdue(&mut self) {
        self.asked().await;
        if let Some(deadline) = self.deadline {
            sleep_until(deadline).await;
        }
    }
}

/// How long to wait after a round.
#[derive(Clone, Debug, Default)]
struct Pauses {
    failures: u32,
}

impl Pauses {
    /// What to wait for after a round, and what to tell.
    fn after<T>(&mut self, round: &Result<T, StoreError>) -> (Duration, Option<String>) {
        match round {
            Ok(_) => {
                let line = (core::mem::take(&mut self.failures) > 0).then(|| "uploads go on".to_owned());
                (EVERY, line)
            }
            Err(error) => {
                let line = (self.failures == 0).then(|| format!("{error}; trying again"));
                self.failures = self.failures.saturating_add(1);
                let pause = 2_u32.checked_pow(self.failures).and_then(|factor| EVERY.checked_mul(factor));
                (pause.unwrap_or(PAUSE_MAX).min(PAUSE_MAX), line)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_failures_are_told_once() {
        let failed = || Err::<(), _>(StoreError::Place("away".to_owned()));
        let mut pauses = Pauses::default();
        let mut after = |round| {
            let (pause, line) = pauses.after(&round);
            (pause.as_secs(), line.unwrap_or_default())
        };
        assert_eq!(after(Ok(())), (10, String::new()));
        assert_eq!(after(failed()), (20, "away; trying again".to_owned()));
        for seconds in [40, 80, 160, 300, 300] {
            assert_eq!(after(failed()), (seconds, String::new()));
        }
        assert_eq!(after(Ok(())), (10, "uploads go on".to_owned()));
        assert_eq!(after(failed()), (20, "away; trying again".to_owned()));
        let mut long = Pauses { failures: u32::MAX };
        assert_eq!(long.after(&failed()).0, PAUSE_MAX);
    }

    /// From when it is told to end, until it has ended; rounds take so long.
    async fn ending(round: Duration, told_after: Duration) -> (Duration, u64, bool) {
        let rounds = std::cell::Cell::new(0);
        let begun = Instant::now();
        let one = async |_| {
            sleep(round).await;
            rounds.set(rounds.get() + 1);
            Ok(Summary { written: 1, ..Summary::default() })
        };
        let (summary, is_done) = watch(one, sleep(told_after), &|_| {}).await;
        assert_eq!(summary.written, rounds.get());
        (begun.elapsed().saturating_sub(told_after), rounds.get(), is_done)
    }

    #[tokio::test(start_paused = true)]
    async fn one_wait_bounds_the_end() {
        let seconds = Duration::from_secs;
        // While it waits: one round, at once.
        assert_eq!(ending(seconds(1), seconds(5)).await, (seconds(1), 2, true));
        // In the middle of a round: what is left of it, and one more.
        assert_eq!(ending(seconds(20), seconds(5)).await, (seconds(35), 2, true));
        // Each of the two is short enough, and both together are not.
        assert_eq!(ending(seconds(50), seconds(5)).await, (END_WITHIN, 1, false));
        assert_eq!(ending(seconds(3600), seconds(5)).await, (END_WITHIN, 0, false));
    }

    #[test]
    fn the_unit_waits_longer() {
        let unit = include_str!("../../../../deploy/systemd/holdfast-audit-upload.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
        // What is read from a disk at that moment is not interrupted.
        assert!(Duration::from_secs(line.parse().unwrap()) >= END_WITHIN + Duration::from_secs(20), "{line}");
    }
}
