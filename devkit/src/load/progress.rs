//! A line each second on standard error.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use super::measure::Second;

/// Shows what the measured group does.
pub(super) struct Progress {
    name: String,
    quiet: bool,
    seconds: BTreeMap<u64, Second>,
    shown: Option<u64>,
}

impl Progress {
    pub(super) fn new(name: &str, quiet: bool) -> Self {
        Self { name: name.to_owned(), quiet, seconds: BTreeMap::new(), shown: None }
    }

    pub(super) fn take(&mut self, second: &Second) {
        if !self.quiet && second.group == 0 {
            let number = second.number;
            self.seconds.entry(number).or_insert_with(|| Second::new(0, number)).add(second);
        }
    }

    /// Shows the seconds that are over for everybody.
    pub(super) fn show(&mut self, now: Instant, begin: Instant) {
        // Threads hand over a second with their first request of the next.
        let over = now.saturating_duration_since(begin + Duration::from_millis(1_200)).as_secs();
        while let Some(entry) = self.seconds.first_entry()
            && (*entry.key() < over)
        {
            let second = entry.remove();
            if self.shown.is_none_or(|shown| second.number > shown) {
                self.shown = Some(second.number);
                let (counts, latencies) = (&second.counts, &second.latencies);
                let line = format!(
                    "{:<24} {:>4} s  {:>7} answered  {:>5} failed  p50 {:>7.0} µs  p99 {:>7.0} µs  max {:>8.0} µs\n",
                    self.name,
                    second.number + 1,
                    counts.ok,
                    counts.failed,
                    latencies.at(0.5),
                    latencies.at(0.99),
                    latencies.max()
                );
                // Nobody may be looking.
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
    }
}
