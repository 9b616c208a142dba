//! How far long work is, on standard error: a bar on a terminal, a line now and then elsewhere, nothing for what is soon done.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::output::tell;

/// How often a bar is drawn anew.
const BAR_EACH: Duration = Duration::from_millis(100);
/// How often a line is written.
const LINE_EACH: Duration = Duration::from_secs(2);
/// Characters of the bar.
const WIDTH: u64 = 40;

/// See the module.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    all: u64,
    is_terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    done: u64,
    told: Instant,
    is_drawn: bool,
}

impl Progress {
    /// Of work on so many bytes.
    #[must_use]
    pub fn of(what: &'static str, all: u64) -> Self {
        let state = State { done: 0, told: Instant::now(), is_drawn: false };
        Self { what, all, is_terminal: io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// So many more are done.
    pub fn add(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done = state.done.saturating_add(bytes);
        let pause = if self.is_terminal { BAR_EACH } else { LINE_EACH };
        if state.told.elapsed() < pause {
            return;
        }
        state.told = Instant::now();
        let line = line(self.what, state.done, self.all);
        if !self.is_terminal {
            return tell(&format!("holdfast: {line}"));
        }
        state.is_drawn = true;
        let bar = "#".repeat(usize::try_from(part(WIDTH, state.done, self.all)).unwrap_or(0));
        let _ = write!(io::stderr().lock(), "\r[{bar:<40}] {line}");
    }
}

impl Drop for Progress {
    /// Takes the bar away.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.is_drawn {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn part(of: u64, done: u64, all: u64) -> u64 {
    of.saturating_mul(done).checked_div(all).unwrap_or(of).min(of)
}

fn line(what: &str, done: u64, all: u64) -> String {
    format!("{what}: {} % of {} MiB", part(100, done, all), all >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (done, all, expected) in [
            (0, 1 << 20, "reading: 0 % of 1 MiB"),
            (1 << 20, 3 << 20, "reading: 33 % of 3 MiB"),
            (9 << 20, 3 << 20, "reading: 100 % of 3 MiB"),
            (0, 0, "reading: 100 % of 0 MiB"),
        ] {
            assert_eq!(line("reading", done, all), expected);
        }
    }
}
