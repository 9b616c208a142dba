//! The log of one key store in this boot.
//!
//! Guarantees: a [`Receipt`] exists only for a record that is in the tree; entries are hashed, queued and numbered in one step, so
//! that the parent gets exactly the tree's leaves; nothing is added after the closing. The lock is held for encrypting and hashing
//! one record, and never across an await. What happened and finds no room is kept aside, and written as soon as there is some. Refuses:
//! requests for which there is no room, and successes while something is kept aside or too much is unwitnessed.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_shared::audit::entry::{FORMAT, Opening};
use holdfast_shared::audit::{
    AuditMode, AuditSettings, Entry, Event, LogId, PreviousHead, Record, RequestRecord, SegmentKey, Terms, Tree,
    Unsealed,
};
use holdfast_shared::cbor;
use holdfast_shared::ids::{BlobId, CommandId};
use holdfast_shared::limits::{AUDIT_DURABLE_WAIT_MS, AUDIT_QUEUE_MAX, AUDIT_QUEUE_RESERVE, PENDING_COMMANDS_MAX};
use tokio::sync::watch;

use super::aside::Aside;
use super::logs::Shared;
use super::queue::{Queue, cost};
use super::repeats::{Repeat, Repeats};
use super::segment::{NextSegment, Readers};
use super::unwitnessed::Unwitnessed;

mod heads;
mod supply;

pub use heads::Head;

/// Why there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unrecorded {
    /// There is no key to write under: the key store is not in service, or the boot ends.
    #[error("the audit log is not open")]
    Closed,
    /// The parent has not stored what it was given.
    #[error("the parent stores too little of the audit log, or too slowly")]
    Full,
    /// Custodians have not acknowledged what there is.
    #[error("too much of the audit log has no witness")]
    Unwitnessed,
    /// The record could not be encrypted.
    #[error("a record of the audit log could not be encrypted")]
    Sealing,
}

/// See the module.
#[derive(Debug)]
pub struct AuditLog {
    id: LogId,
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// Requests without a valid signature since they were last recorded.
    refused: AtomicU64,
    /// The index that the parent wants next: everything below is on its disk.
    stored: watch::Sender<u64>,
    /// The size of the newest checkpoint that enough custodians acknowledged.
    witnessed: watch::Sender<u64>,
    head: watch::Sender<Option<Arc<Head>>>,
    /// Held while a head is signed, so that heads come one after another: the time of the last one.
    signing: Mutex<u64>,
}

#[derive(Debug, Default)]
struct State {
    tree: Tree,
    queue: Queue,
    unwitnessed: Unwitnessed,
    /// The index after the last entry that was ever sent.
    sent: u64,
    /// Somebody waits until the parent has stored everything below.
    awaited: u64,
    writing: Option<Writing>,
    /// Of the segment that comes next.
    segment: u32,
    /// As they were recorded last.
    settings: Option<AuditSettings>,
    /// The newest version that was recorded, and the commands that it knows.
    version: Option<(BlobId, BTreeSet<CommandId>)>,
    aside: Aside,
    repeats: Repeats,
    /// When refusals were last counted, monotonic.
    counted_ms: u64,
    is_closed: bool,
}

/// What an entry has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// What need not happen.
    Request,
    /// That it did not happen. Who is denied chooses how many of these there are: half of the room is for others.
    Refusal,
    /// What has happened already: a part of each share is kept for it.
    Event,
    /// The end of the log, which always has some.
    Closing,
}

/// What records are written under.
#[derive(Debug)]
struct Writing {
    key: SegmentKey,
    terms: Terms,
    readers: Readers,
}

/// Proof that a record is in the tree, and on the parent's disk where that is asked for.
#[derive(Debug)]
pub struct Receipt(Record);

impl Receipt {
    /// Of which record.
    pub(crate) const fn record(&self) -> &Record {
        &self.0
    }
}

/// A record in the tree, which may not be on the parent's disk yet.
#[derive(Debug)]
#[must_use]
pub struct Pending {
    record: Record,
    /// What the parent has stored, and what it has to: in mode strict.
    awaited: Option<(watch::Receiver<u64>, u64)>,
}

impl Pending {
    /// The receipt, if nothing has to be waited for.
    ///
    /// # Errors
    /// The same again if the parent has to store the record first.
    pub fn settled(self) -> Result<Receipt, Self> {
        if self.awaited.is_none() { Ok(Receipt(self.record)) } else { Err(self) }
    }

    /// Waits until the record is as safe as the mode demands.
    ///
    /// # Errors
    /// [`Unrecorded::Full`] if the parent does not store it in time. The record stays.
    pub async fn kept(self) -> Result<Receipt, Unrecorded> {
        let Some((mut stored, index)) = self.awaited else { return Ok(Receipt(self.record)) };
        let stored = stored.wait_for(|next| *next > index);
        let in_time = tokio::time::timeout(Duration::from_millis(AUDIT_DURABLE_WAIT_MS), stored).await;
        if matches!(in_time, Ok(Ok(_))) { Ok(Receipt(self.record)) } else { Err(Unrecorded::Full) }
    }
}

/// What a version says of itself.
#[derive(Debug)]
pub struct VersionInService {
    /// The version, from 1.
    pub version: u64,
    /// The sealed key store of that version.
    pub blob_id: BlobId,
    /// The commands that it remembers.
    pub executed: Vec<CommandId>,
    /// Its audit settings.
    pub settings: Option<AuditSettings>,
}

impl AuditLog {
    pub(super) fn new(id: LogId, shared: Arc<Shared>) -> Self {
        let (stored, witnessed) = (watch::Sender::new(0), watch::Sender::new(0));
        let (state, refused, head) = (Mutex::default(), AtomicU64::new(0), watch::Sender::new(None));
        Self { id, shared, state, refused, stored, witnessed, head, signing: Mutex::new(0) }
    }

    /// Which log.
    #[must_use]
    pub const fn id(&self) -> LogId {
        self.id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- Requests ----------------------------------------------------------------------------------------------------------

    /// Records a request that will be answered with 200.
    ///
    /// # Errors
    /// [`Unrecorded`]: then it must not be.
    pub fn success(&self, record: RequestRecord) -> Result<Pending, Unrecorded> {
        let record = self.record(Event::Request(Box::new(record)));
        let mut state = self.lock();
        state.check(self.shared.now_ms())?;
        let mode = state.writing.as_ref().ok_or(Unrecorded::Closed)?.terms.mode;
        let index = self.seal(&mut state, &record, Room::Request)?;
        state.unwitnessed.succeeded();
        let is_awaited = mode == AuditMode::Strict;
        if is_awaited {
            state.awaited = index.saturating_add(1);
        }
        drop(state);
        self.shared.grew(self.id.key_store_id, is_awaited);
        let awaited = is_awaited.then(|| (self.stored.subscribe(), index));
        Ok(Pending { record, awaited })
    }

    /// Records a request that is refused, or counts it with others like it. The answer waits for nothing.
    ///
    /// # Errors
    /// [`Unrecorded`]: then the refusal must not be told either.
    pub fn refusal(&self, record: RequestRecord) -> Result<(), Unrecorded> {
        let mut state = self.lock();
        if state.writing.is_none() {
            return Err(Unrecorded::Closed);
        }
        if state.repeats.count(&record) {
            return Ok(());
        }
        let repeat = Repeat::of(&record);
        let record = self.record(Event::Request(Box::new(record)));
        self.seal(&mut state, &record, Room::Refusal)?;
        state.repeats.add(repeat);
        drop(state);
        self.shared.grew(self.id.key_store_id, false);
        Ok(())
    }

    /// Counts a request without a valid signature.
    pub fn unauthenticated(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn record(&self, what: Event) -> Record {
        Record { at_ms: self.shared.wall_ms(), what }
    }

    // --- Everything else ---------------------------------------------------------------------------------------------------

    /// Records what has happened already. Before the log is open that is left to its opening, which says how things stand.
    pub(crate) fn note(&self, what: Event) {
        self.note_in(&mut self.lock(), what);
        self.shared.grew(self.id.key_store_id, false);
    }

    fn note_in(&self, state: &mut State, what: Event) {
        if state.writing.is_none() {
            return;
        }
        let record = self.record(what);
        self.catch_up(state);
        if !state.aside.is_empty() || self.seal(state, &record, Room::Event).is_err() {
            // It happened and cannot be refused: what can be is, until this is in the log.
            state.aside.keep(record);
        }
    }

    /// Writes what is kept aside, as far as there is room.
    fn catch_up(&self, state: &mut State) {
        while state.writing.is_some()
            && let Some(record) = state.aside.first().cloned()
            && self.seal(state, &record, Room::Event).is_ok()
        {
            state.aside.written();
        }
    }

    /// Writes what was counted only. Where there is no room it is counted on: anybody can make the enclave count.
    fn tell_counted(&self, state: &mut State, room: Room) {
        self.tell_repeats(state, room);
        if state.writing.is_none() {
            return;
        }
        let refused_unauthenticated = self.refused.swap(0, Ordering::Relaxed);
        let record = self.record(Event::Uncounted { refused_unauthenticated });
        if refused_unauthenticated > 0 && self.seal(state, &record, room).is_err() {
            self.refused.fetch_add(refused_unauthenticated, Ordering::Relaxed);
        }
    }

    fn tell_repeats(&self, state: &mut State, room: Room) {
        if state.writing.is_none() {
            return;
        }
        for repeat in state.repeats.take() {
            let record = self.record(Event::Request(Box::new(repeat.record())));
            if self.seal(state, &record, room).is_err() {
                state.repeats.add(repeat);
            }
        }
    }

    /// Whether records are written to these readers on these terms.
    pub(crate) fn is_written_for(&self, readers: &Readers, terms: Terms) -> bool {
        let state = self.lock();
        state.writing.as_ref().is_some_and(|writing| writing.readers == *readers && writing.terms == terms)
    }

    /// The number of the segment that comes next.
    #[must_use]
    pub fn next_segment(&self) -> u32 {
        self.lock().segment
    }

    /// Puts a version's terms in force and records it: with a new segment where there is one, and with the opening if this is the
    /// first. `previous` are the heads of earlier boots, `standing` what else holds already.
    ///
    /// # Errors
    /// [`Unrecorded`]: then the version must not be served.
    pub fn enter(
        &self,
        version: &VersionInService,
        next: Option<NextSegment>,
        previous: impl FnOnce() -> Vec<PreviousHead>,
        standing: impl FnOnce() -> Vec<Event>,
    ) -> Result<(), Unrecorded> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.is_closed {
            return Err(Unrecorded::Closed);
        }
        let is_first = state.tree.size() == 0;
        let was_dormant = state.writing.is_none();
        if is_first && next.is_some() {
            let opening = self.opening(previous());
            self.append(state, &cbor::encode(&opening), Room::Event)?;
            state.settings.clone_from(&version.settings);
        }
        if let Some(next) = next {
            if next.number != state.segment {
                return Err(Unrecorded::Closed);
            }
            self.append(state, &cbor::encode(&next.entry), Room::Event)?;
            state.segment = state.segment.saturating_add(1);
            state.writing = Some(Writing { key: next.key, terms: next.terms, readers: next.readers });
        }
        if state.writing.is_none() {
            return Err(Unrecorded::Closed);
        }
        self.catch_up(state);
        if state.settings != version.settings {
            state.settings.clone_from(&version.settings);
            self.note_in(state, Event::Setting { settings: version.settings.clone() });
        }
        let known = state.version.as_ref();
        if was_dormant || known.is_none_or(|(blob_id, _)| *blob_id != version.blob_id) {
            let new = |id: &&CommandId| known.is_some_and(|(_, executed)| !executed.contains(*id));
            let commands = version.executed.iter().filter(new).take(PENDING_COMMANDS_MAX).copied().collect();
            let (number, blob_id) = (version.version, version.blob_id);
            state.version = Some((blob_id, version.executed.iter().copied().collect()));
            self.note_in(state, Event::Version { version: number, blob_id, commands });
        }
        if was_dormant {
            for event in standing() {
                self.note_in(state, event);
            }
        }
        drop(guard);
        self.shared.grew(self.id.key_store_id, false);
        Ok(())
    }

    fn opening(&self, previous: Vec<PreviousHead>) -> Entry {
        Entry::Opening(Opening {
            format: FORMAT,
            key_store_id: self.id.key_store_id,
            boot_id: self.id.boot_id,
            audit_public_key: self.shared.public_key(),
            opened_ms: self.shared.wall_ms(),
            previous,
        })
    }

    /// Forgets the key to write under: the key store left, and may come back. The log goes on then, in a new segment.
    pub(crate) fn rest(&self) {
        let mut state = self.lock();
        if state.writing.is_none() {
            return;
        }
        self.catch_up(&mut state);
        self.tell_counted(&mut state, Room::Event);
        self.end_segment(state);
    }

    /// The boot ends: nothing comes after this. A log that has no entry stays without one.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if state.is_closed || state.tree.size() == 0 {
            return;
        }
        self.catch_up(&mut state);
        self.tell_counted(&mut state, Room::Event);
        // Where something is missing for good, the boot ends unclosed, and whoever verifies the log hears of it.
        if state.aside.is_empty() && !state.repeats.is_owed() {
            state.is_closed = self.append(&mut state, &cbor::encode(&Entry::Closing), Room::Closing).is_ok();
        }
        self.end_segment(state);
    }

    fn end_segment(&self, mut state: MutexGuard<'_, State>) {
        state.writing = None;
        state.awaited = state.tree.size();
        drop(state);
        self.sign_head();
        self.shared.grew(self.id.key_store_id, true);
    }

    // --- The tree ------------------------------------------------------------------------------------------------------------

    fn seal(&self, state: &mut State, record: &Record, room: Room) -> Result<u64, Unrecorded> {
        if state.writing.is_none() {
            return Err(Unrecorded::Closed);
        }
        let unsealed = Unsealed::of(record).map_err(|_| Unrecorded::Sealing)?;
        let most = cost(unsealed.leaf_len_max());
        // Before it is sealed: an index whose nonce was used must get its entry.
        self.reserve(state, most, room)?;
        let key = state.writing.as_ref().map(|writing| &writing.key);
        let leaf = key.and_then(|key| key.seal(&self.id, state.tree.size(), unsealed).ok());
        let spare = leaf.as_ref().map_or(most, |leaf| most.saturating_sub(cost(leaf.len())));
        self.shared.free_room(spare);
        leaf.map(|leaf| self.push(state, leaf)).ok_or(Unrecorded::Sealing)
    }

    fn append(&self, state: &mut State, leaf: &[u8], room: Room) -> Result<u64, Unrecorded> {
        self.reserve(state, cost(leaf.len()), room)?;
        Ok(self.push(state, leaf.to_vec()))
    }

    /// Takes room for a leaf that costs so much.
    fn reserve(&self, state: &State, cost: usize, room: Room) -> Result<(), Unrecorded> {
        if state.is_closed {
            return Err(Unrecorded::Closed);
        }
        let total = if room == Room::Closing { usize::MAX } else { AUDIT_QUEUE_MAX };
        let has_room = state.queue.has_room(cost, self.bound(room)) && self.shared.take_room(cost, total);
        if has_room { Ok(()) } else { Err(Unrecorded::Full) }
    }

    /// Makes a leaf part of the tree. There is room for it.
    fn push(&self, state: &mut State, leaf: Vec<u8>) -> u64 {
        let index = state.tree.append(&leaf);
        state.queue.push(Bytes::from(leaf));
        state.unwitnessed.grew(self.shared.now_ms());
        index
    }

    /// Bytes that this log may keep for the parent.
    fn bound(&self, room: Room) -> usize {
        match room {
            Room::Request => self.shared.share().saturating_sub(AUDIT_QUEUE_RESERVE),
            Room::Refusal => self.bound(Room::Request) / 2,
            Room::Event => self.shared.share(),
            Room::Closing => usize::MAX,
        }
    }
}

impl State {
    /// Whether a request may be answered with 200, as far as the past is concerned.
    fn check(&self, now_ms: u64) -> Result<(), Unrecorded> {
        let bounds = self.writing.as_ref().ok_or(Unrecorded::Closed)?.terms.max_unwitnessed;
        if !self.aside.is_empty() {
            return Err(Unrecorded::Full);
        }
        let is_old = self.unwitnessed.age_ms(now_ms) > u64::from(bounds.seconds).saturating_mul(1000);
        if is_old || self.unwitnessed.successes() >= bounds.records {
            return Err(Unrecorded::Unwitnessed);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
