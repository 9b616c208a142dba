//! Entries that the parent has not stored yet.
//!
//! Guarantees: entries leave in the order of their indices and only once they are said to be durable; what is kept is within the
//! bound that each addition names. Assumes: indices are those of the tree, one after another.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes that an entry costs besides its own: its place in the queue and its allocation.
const ENTRY_COST: usize = 64;
/// Bytes that the record of a request usually takes.
pub(super) const USUAL_COST: usize = 512 + ENTRY_COST;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Bytes>,
    /// Index of the first one that is kept.
    first: u64,
    bytes: usize,
}

impl Queue {
    /// Whether what costs so much has room within `bound`.
    pub(super) const fn has_room(&self, cost: usize, bound: usize) -> bool {
        self.bytes.saturating_add(cost) <= bound
    }

    pub(super) fn push(&mut self, entry: Bytes) {
        self.bytes = self.bytes.saturating_add(cost(entry.len()));
        self.entries.push_back(entry);
    }

    /// Index of the first entry that is kept.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    /// Bytes that are kept, with what they cost.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops everything below `next`. Returns what it cost.
    pub(super) fn stored(&mut self, next: u64) -> usize {
        let before = self.bytes;
        while self.first < next
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(cost(entry.len()));
            self.first = self.first.saturating_add(1);
        }
        if self.entries.is_empty() {
            // What a burst took is given back.
            self.entries.shrink_to_fit();
        }
        before.saturating_sub(self.bytes)
    }

    /// The entries from index `from` on, at most so many.
    pub(super) fn from(&self, from: u64, count: usize) -> Vec<Bytes> {
        let Ok(skipped) = usize::try_from(from.saturating_sub(self.first)) else { return Vec::new() };
        self.entries.iter().skip(skipped).take(count).cloned().collect()
    }
}

/// Bytes that an entry of this length takes.
pub(super) const fn cost(length: usize) -> usize {
    length.saturating_add(ENTRY_COST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_until_they_are_durable() {
        let mut queue = Queue::default();
        for n in 0..5_u8 {
            assert!(queue.has_room(cost(10), 5 * (10 + ENTRY_COST)));
            queue.push(Bytes::from(vec![n; 10]));
        }
        assert!(!queue.has_room(cost(10), 5 * (10 + ENTRY_COST)), "the sixth has none");
        let firsts = |queue: &Queue, from, count| queue.from(from, count).iter().map(|e| e[0]).collect::<Vec<_>>();
        assert_eq!(firsts(&queue, 0, 9), [0, 1, 2, 3, 4]);
        assert_eq!(firsts(&queue, 3, 1), [3]);
        assert_eq!(queue.stored(2), 2 * (10 + ENTRY_COST));
        assert_eq!((queue.first(), queue.bytes()), (2, 3 * (10 + ENTRY_COST)));
        queue.stored(1);
        assert_eq!(firsts(&queue, 0, 9), [2, 3, 4], "what is gone is gone");
        assert_eq!(firsts(&queue, 4, 9), [4]);
        queue.stored(u64::MAX);
        assert_eq!((queue.first(), queue.bytes()), (5, 0), "never beyond what there was");
    }
}
