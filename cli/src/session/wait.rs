//! Waiting for an enclave: pauses that grow, a deadline, and a line for people now and then.

use std::time::{Duration, Instant};

/// First and longest pause between two looks.
const POLL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long nothing is said about waiting.
const QUIET: Duration = Duration::from_secs(1);
/// How often a line is said.
const EVERY: Duration = Duration::from_secs(10);

/// How long to wait for an enclave, and whom to tell.
#[derive(Clone, Copy)]
pub struct Wait<'a> {
    /// At most this long.
    pub timeout: Duration,
    /// Receives a line now and then.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

impl Wait<'_> {
    /// Without telling anybody.
    #[must_use]
    pub const fn silent(timeout: Duration) -> Self {
        Wait { timeout, progress: &|_| {} }
    }
}

/// The time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOver {
    /// How long was waited.
    pub seconds: u64,
}

/// A wait that goes on.
pub struct Patience<'a> {
    wait: Wait<'a>,
    started: Instant,
    pause: Duration,
    said: Option<Instant>,
}

impl<'a> Patience<'a> {
    /// Starts now.
    #[must_use]
    pub fn new(wait: Wait<'a>) -> Self {
        Self { wait, started: Instant::now(), pause: POLL.0, said: None }
    }

    /// Sleeps for a moment.
    ///
    /// # Errors
    /// [`TimeOver`] when there is no time left.
    pub async fn pause(&mut self, whom: &str) -> Result<(), TimeOver> {
        let waited = self.started.elapsed();
        let Some(left) = self.wait.timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
            return Err(TimeOver { seconds: self.wait.timeout.as_secs() });
        };
        if waited >= QUIET && self.said.is_none_or(|said| said.elapsed() >= EVERY) {
            self.said = Some(Instant::now());
            let (waited, timeout) = (waited.as_secs(), self.wait.timeout.as_secs());
            (self.wait.progress)(&format!("waiting for {whom} ({waited} s of at most {timeout} s)"));
        }
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = self.pause.saturating_mul(3).checked_div(2).unwrap_or(POLL.1).min(POLL.1);
        Ok(())
    }
}
