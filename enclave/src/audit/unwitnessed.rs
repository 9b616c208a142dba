//! How much of a log no custodian has vouched for, and since when.
//!
//! Guarantees: the age is never told younger than it is, and no success is left out of their number; memory is bounded: of many checkpoints that nobody acknowledged, those in
//! the middle are counted with the one before. Times are monotonic.

use std::collections::VecDeque;

/// Checkpoints that are told apart while none is acknowledged.
const MARKS_MAX: usize = 64;

/// Entries from an index on, and when the first of them was added.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: u64,
    since_ms: u64,
    /// Successes before it.
    successes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unwitnessed {
    /// Beginnings, oldest first: a new one after each checkpoint.
    stretches: VecDeque<Stretch>,
    size: u64,
    witnessed: u64,
    /// Entries that record a success.
    successes: u64,
    witnessed_successes: u64,
    /// Whether the next entry begins a stretch.
    is_marked: bool,
}

impl Unwitnessed {
    /// An entry was added.
    pub(super) fn grew(&mut self, now_ms: u64) {
        let has_room = self.is_marked && self.stretches.len() < MARKS_MAX;
        if self.stretches.is_empty() || has_room {
            self.stretches.push_back(Stretch { from: self.size, since_ms: now_ms, successes: self.successes });
        }
        self.is_marked = false;
        self.size = self.size.saturating_add(1);
    }

    /// What was added last is a success.
    pub(super) const fn succeeded(&mut self) {
        self.successes = self.successes.saturating_add(1);
    }

    /// A checkpoint of all there is was made.
    pub(super) const fn marked(&mut self) {
        self.is_marked = true;
    }

    /// Enough custodians acknowledged a checkpoint of this size.
    pub(super) fn witnessed(&mut self, size: u64) {
        self.witnessed = self.witnessed.max(size.min(self.size));
        while self.stretches.get(1).is_some_and(|next| next.from <= self.witnessed) {
            self.stretches.pop_front();
        }
        if let Some(oldest) = self.stretches.front().filter(|oldest| oldest.from <= self.witnessed) {
            self.witnessed_successes = self.witnessed_successes.max(oldest.successes);
        }
        if self.witnessed == self.size {
            self.witnessed_successes = self.successes;
            self.stretches.clear();
        }
    }

    /// How many entries.
    pub(super) const fn entries(&self) -> u64 {
        self.size.saturating_sub(self.witnessed)
    }

    /// How many of them are successes.
    pub(super) const fn successes(&self) -> u64 {
        self.successes.saturating_sub(self.witnessed_successes)
    }

    /// How long the oldest entry has waited.
    pub(super) fn age_ms(&self, now_ms: u64) -> u64 {
        self.stretches.front().map_or(0, |oldest| now_ms.saturating_sub(oldest.since_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_entry_without_a_witness_counts() {
        let mut log = Unwitnessed::default();
        assert_eq!((log.entries(), log.age_ms(1_000)), (0, 0));
        log.grew(1_000);
        log.grew(1_500);
        log.marked();
        assert_eq!((log.entries(), log.age_ms(2_000)), (2, 1_000));
        log.grew(3_000);
        log.witnessed(2);
        assert_eq!((log.entries(), log.age_ms(4_000)), (1, 1_000), "the third is of 3,000");
        log.witnessed(1);
        assert_eq!(log.entries(), 1, "never back");
        log.witnessed(9);
        assert_eq!((log.entries(), log.age_ms(9_000)), (0, 0), "never beyond what there is");
        log.grew(100_000);
        assert_eq!(log.age_ms(100_000), 0, "a log that rested is not old");
    }

    proptest! {
        /// Against a list of all times: the same number, never younger, never fewer successes; exact while there are few checkpoints.
        #[test]
        fn neither_age_nor_successes_are_told_less(steps in prop::collection::vec((0..3_u8, 0..50_u64), 0..400)) {
            let (mut log, mut times, mut now, mut witnessed, mut marks) = (Unwitnessed::default(), Vec::new(), 0, 0, vec![]);
            for (kind, amount) in steps {
                now += amount;
                match kind {
                    0 => {
                        log.grew(now);
                        if amount % 2 == 0 { log.succeeded(); }
                        times.push((now, amount % 2 == 0));
                    }
                    1 => { log.marked(); marks.push(times.len()); }
                    _ => if let Some(size) = marks.get(usize::try_from(amount).unwrap() % marks.len().max(1)) {
                        log.witnessed(u64::try_from(*size).unwrap());
                        witnessed = witnessed.max(*size);
                    },
                }
                prop_assert_eq!(log.entries(), u64::try_from(times.len() - witnessed).unwrap());
                let age = times.get(witnessed).map_or(0, |(time, _)| now - time);
                let successes = times[witnessed..].iter().filter(|(_, is_success)| *is_success).count();
                let successes = u64::try_from(successes).unwrap();
                prop_assert!(log.age_ms(now) >= age && log.successes() >= successes);
                prop_assert!(log.stretches.len() <= MARKS_MAX);
                if marks.len() < MARKS_MAX {
                    prop_assert_eq!((log.age_ms(now), log.successes()), (age, successes));
                }
            }
        }
    }
}
