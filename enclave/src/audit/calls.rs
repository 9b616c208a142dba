//! Which logs have something to send, and whose turn it is.
//!
//! Guarantees: a log that somebody waits for comes before the others; among those and among these each has its turn, and the others have
//! theirs even where somebody always waits.

use core::ops::Bound;
use std::collections::BTreeSet;

use holdfast_shared::ids::KeyStoreId;

/// Turns of logs that somebody waits for, after which another log has one.
const AWAITED_IN_A_ROW: u32 = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Calls {
    awaited: Turns,
    others: Turns,
    in_a_row: u32,
}

impl Calls {
    /// A log has something to send.
    pub(super) fn call(&mut self, id: KeyStoreId, is_awaited: bool) {
        if is_awaited {
            self.awaited.waiting.insert(id)
        } else {
            self.others.waiting.insert(id)
        };
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self) -> Option<KeyStoreId> {
        if self.in_a_row < AWAITED_IN_A_ROW
            && let Some(id) = self.awaited.next()
        {
            self.in_a_row = self.in_a_row.saturating_add(1);
            return Some(id);
        }
        self.in_a_row = 0;
        self.others.next().or_else(|| self.awaited.next())
    }
}

/// Logs that wait, in a circle.
#[derive(Debug, Default)]
struct Turns {
    waiting: BTreeSet<KeyStoreId>,
    last: Option<KeyStoreId>,
}

impl Turns {
    fn next(&mut self) -> Option<KeyStoreId> {
        let from = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.waiting.range((from, Bound::Unbounded)).next().or_else(|| self.waiting.first());
        let next = next.copied()?;
        self.waiting.remove(&next);
        self.last = Some(next);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> KeyStoreId {
        KeyStoreId([number; 32])
    }

    #[test]
    fn those_that_are_awaited_come_first_and_all_in_turn() {
        let mut calls = Calls::default();
        for (number, is_awaited) in [(1, false), (2, false), (3, true), (4, true), (1, false)] {
            calls.call(id(number), is_awaited);
        }
        assert_eq!(calls.next(), Some(id(3)));
        calls.call(id(3), true);
        assert_eq!(calls.next(), Some(id(4)), "the others' turn");
        assert_eq!([calls.next(), calls.next()], [Some(id(3)), Some(id(1))]);
        calls.call(id(1), false);
        assert_eq!([calls.next(), calls.next(), calls.next()], [Some(id(2)), Some(id(1)), None]);
    }

    #[test]
    fn those_that_nobody_waits_for_have_their_turn() {
        let mut calls = Calls::default();
        calls.call(id(1), false);
        let mut waited = 0;
        loop {
            calls.call(id(2), true);
            if calls.next() == Some(id(1)) {
                break;
            }
            waited += 1;
        }
        assert_eq!(waited, AWAITED_IN_A_ROW);
    }
}
