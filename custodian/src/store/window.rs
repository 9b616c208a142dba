//! Which counters of a lease were used.
//!
//! Guarantees: no counter is accepted twice by one window. Requests overtake each other, so a message may come a little late.
//! The window of messages that change something is in the database, one for all replicas; each process has one more in
//! memory for every message, see `service/lease.rs`.

use holdfast_shared::limits::COUNTER_WINDOW;

/// A counter that was used, or is too far behind to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the counter {offered} was used before, or is too far behind {newest}")]
pub struct Replayed {
    /// The newest that was accepted.
    pub newest: u64,
    /// The message's.
    pub offered: u64,
}

/// Which counters of a lease were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayWindow {
    newest: u64,
    /// Bit `i`: `newest - i` was used.
    used: u64,
}

impl ReplayWindow {
    /// Everything up to `counter` counts as used.
    #[must_use]
    pub const fn after(counter: u64) -> Self {
        Self { newest: counter, used: u64::MAX }
    }

    /// As the database keeps it.
    pub(super) const fn stored(newest: u64, used: u64) -> Self {
        Self { newest, used }
    }

    /// The newest counter, and the bits of those behind it.
    pub(super) const fn parts(&self) -> (u64, u64) {
        (self.newest, self.used)
    }

    /// Uses `counter`.
    ///
    /// # Errors
    /// [`Replayed`] when it was used, or is too far behind to know.
    pub fn accept(&mut self, counter: u64) -> Result<(), Replayed> {
        let replayed = Replayed { newest: self.newest, offered: counter };
        if let Some(ahead) = counter.checked_sub(self.newest)
            && ahead > 0
        {
            self.used = u32::try_from(ahead).ok().and_then(|ahead| self.used.checked_shl(ahead)).unwrap_or(0) | 1;
            self.newest = counter;
            return Ok(());
        }
        let behind = self.newest.saturating_sub(counter);
        if behind >= COUNTER_WINDOW {
            return Err(replayed);
        }
        let bit = u32::try_from(behind).ok().and_then(|behind| 1_u64.checked_shl(behind)).ok_or(replayed)?;
        if self.used & bit != 0 {
            return Err(replayed);
        }
        self.used |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_used_once_and_may_come_a_little_late() {
        let table: [(u64, &[(u64, bool)]); 5] = [
            (0, &[(0, false), (1, true), (1, false), (2, true), (1, false)]),
            (0, &[(3, true), (1, true), (2, true), (2, false), (1, false), (3, false), (0, false)]),
            (10, &[(10, false), (9, false), (12, true), (11, true), (10, false), (11, false)]),
            (0, &[(COUNTER_WINDOW + 1, true), (1, false), (2, true), (2, false)]),
            (0, &[(u64::MAX, true), (u64::MAX, false), (u64::MAX - 1, true), (5, false)]),
        ];
        for (start, steps) in table {
            let mut window = ReplayWindow::after(start);
            for (counter, accepted) in steps {
                assert_eq!(window.accept(*counter).is_ok(), *accepted, "{counter} after {start}: {window:?}");
                let (newest, used) = window.parts();
                assert_eq!(ReplayWindow::stored(newest, used), window);
            }
        }
    }
}
