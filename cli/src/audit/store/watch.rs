//! When the next round begins.
//!
//! Guarantees: a round each [`EVERY`] while all goes well; after failures of the whole store longer and longer pauses, up to [`PAUSE_MAX`]. The
//! first failure is told, and that it is over.

use std::time::Duration;

use super::StoreError;

/// Between rounds.
pub const EVERY: Duration = Duration::from_secs(10);
/// Between attempts while the store cannot be reached.
pub const PAUSE_MAX: Duration = Duration::from_mins(5);
/// How long all that is still done may take, once the program was told to end: the round that is under way, and a last one.
pub const LAST_ROUND_MAX: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    failures: u32,
}

impl Pauses {
    /// What to wait for after a round, and what to tell.
    pub fn after<T>(&mut self, round: &Result<T, StoreError>) -> (Duration, Option<String>) {
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
}
