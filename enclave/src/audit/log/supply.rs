//! What the parent gets of a log, and what it has stored.

use bytes::Bytes;

use super::{AuditLog, Room};

impl AuditLog {
    /// Index of the first entry that the parent may not have.
    pub(in crate::audit) fn first_kept(&self) -> u64 {
        self.lock().queue.first()
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.lock().tree.size()
    }

    /// At most `count` entries from an index on, of those that the parent may not have.
    #[must_use]
    pub fn entries(&self, from: u64, count: usize) -> Vec<Bytes> {
        self.lock().queue.from(from, count)
    }

    /// Whether somebody waits until entries from `next` on are stored: a request, the end of the boot, or requests that soon have no
    /// room.
    pub(in crate::audit) fn awaits(&self, next: u64) -> bool {
        let state = self.lock();
        state.awaited > next || state.queue.bytes() > self.bound(Room::Request) / 2
    }

    /// Everything below `next` was sent. What was not, the parent cannot have.
    pub(in crate::audit) fn sent(&self, next: u64) {
        let mut state = self.lock();
        state.sent = state.sent.max(next);
    }

    /// The index after the last entry that was ever sent.
    pub(in crate::audit) fn sent_until(&self) -> u64 {
        self.lock().sent
    }

    /// Everything below `next` is on the parent's disk.
    pub fn stored(&self, next: u64) {
        let mut state = self.lock();
        self.shared.free_room(state.queue.stored(next));
        self.catch_up(&mut state);
        drop(state);
        self.stored.send_if_modified(|known| {
            let is_newer = next > *known;
            *known = next.max(*known);
            is_newer
        });
    }

    /// Waits until the parent has stored everything, and enough custodians know of it where any are asked.
    pub(in crate::audit) async fn settled(&self) {
        let size = self.size();
        let (mut stored, mut witnessed) = (self.stored.subscribe(), self.witnessed.subscribe());
        // The senders live as long as this log.
        let _ = stored.wait_for(|next| *next >= size).await;
        if self.head.receiver_count() > 0 {
            let _ = witnessed.wait_for(|known| *known >= size).await;
        }
    }

    /// Bytes of entries that the parent has not stored, with what they cost.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().queue.bytes()
    }
}
