//! Writes what comes over one audit connection, on a thread of its own, and waits for the disk on several.
//!
//! Guarantees: the enclave is told that entries are durable only once they are. What somebody waits for is written at once, and what nobody
//! waits for together, [`AUDIT_BATCH_INTERVAL`] or [`AUDIT_BATCH_BYTES`] after it came, a few logs at a time, so that it never stands
//! before what is awaited; logs are opened a few at a time, too. A log that the disk does not take is tried again and holds up no other,
//! until more than [`AUDIT_PENDING_MAX`] wait: then nothing more is taken from the connection. A connection that ends meanwhile gets one
//! more attempt.
//! Refuses: entries out of order, logs that were not opened, more logs than [`AUDIT_LOGS_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{scope, sleep};

use holdfast_link::audit::{CheckpointText, ToEnclave, ToParent};
use holdfast_link::{BootId, KeyStoreId};
use tokio::sync::mpsc;

use super::heads;
use super::log::{Found, Log};
use crate::limits::{
    AUDIT_BATCH_BYTES, AUDIT_BATCH_INTERVAL, AUDIT_LOGS_MAX, AUDIT_PENDING_MAX, AUDIT_QUEUE_FRAMES, AUDIT_SYNC_THREADS,
};
use crate::state::State;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Work {
    /// What the enclave sent.
    Frame(ToParent),
    /// What nobody waits for is to be written, and what failed is to be tried again.
    Batch,
    /// The newest checkpoints are to be written.
    Heads,
}

/// Why writing ended before the connection did.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriterEnd {
    #[error("entries that do not come after those before them")]
    Order,
    #[error("frames of a log that is not open")]
    NotOpen,
    #[error("more than {AUDIT_LOGS_MAX} logs")]
    TooMany,
    #[error("the disk did not take the last entries: {0}")]
    Disk(io::Error),
}

/// The logs of one boot.
#[derive(Debug)]
pub(super) struct Writer {
    root: PathBuf,
    rotate_bytes: u64,
    boot_id: BootId,
    state: Arc<State>,
    /// Where the enclave is told.
    durable: mpsc::Sender<ToEnclave>,
    logs: BTreeMap<KeyStoreId, Open>,
    /// Logs that are to be opened next, and the first entry that the enclave has of each.
    opening: BTreeMap<KeyStoreId, u64>,
    /// The same of those that the disk did not let open.
    unopened: BTreeMap<KeyStoreId, u64>,
    /// Bytes of all logs that are to be written.
    pending: usize,
    /// Logs that are to be written at once.
    awaited: BTreeSet<KeyStoreId>,
    /// Logs that are to be written next.
    due: BTreeSet<KeyStoreId>,
}

/// A log, and its newest checkpoint that is not on disk.
#[derive(Debug)]
struct Open {
    log: Log,
    head: Option<CheckpointText>,
    /// Whether the checkpoint is to be written now.
    is_head_due: bool,
}

impl Open {
    const fn is_behind(&self) -> bool {
        self.log.is_pending() || (self.is_head_due && self.head.is_some())
    }
}

impl Writer {
    pub(super) fn new(
        (root, rotate_bytes): (PathBuf, u64),
        boot_id: BootId,
        state: Arc<State>,
        durable: mpsc::Sender<ToEnclave>,
    ) -> Self {
        let (logs, opening, unopened) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (awaited, due) = (BTreeSet::new(), BTreeSet::new());
        Self { root, rotate_bytes, boot_id, state, durable, logs, opening, unopened, pending: 0, awaited, due }
    }

    /// Works until nobody sends any more.
    pub(super) fn run(mut self, mut work: mpsc::Receiver<Work>) -> Result<(), WriterEnd> {
        let done = self.work_off(&mut work);
        self.state.audit.ended(self.boot_id, self.logs.len());
        done
    }

    fn work_off(&mut self, work: &mut mpsc::Receiver<Work>) -> Result<(), WriterEnd> {
        loop {
            // Once the connection has ended, nobody waits for logs to be opened.
            if work.is_closed() || (self.due.is_empty() && self.opening.is_empty()) {
                match work.blocking_recv() {
                    Some(item) => self.take(item)?,
                    None => return self.finish(),
                }
            }
            // What has come is looked at before anything is written: somebody may wait for it.
            let others = core::iter::from_fn(|| work.try_recv().ok());
            others.take(AUDIT_QUEUE_FRAMES).try_for_each(|item| self.take(item))?;
            self.step();
            while self.pending > AUDIT_PENDING_MAX && !work.is_closed() {
                sleep(AUDIT_BATCH_INTERVAL);
                self.write(self.behind());
            }
        }
    }

    /// Does all that somebody waits for, and a part of the rest.
    fn step(&mut self) {
        let awaited = core::mem::take(&mut self.awaited);
        self.write(awaited);
        self.open_some();
        let some = core::iter::from_fn(|| self.due.pop_first()).take(AUDIT_SYNC_THREADS).collect();
        self.write(some);
    }

    fn take(&mut self, item: Work) -> Result<(), WriterEnd> {
        match item {
            Work::Batch => {
                self.opening.append(&mut self.unopened);
                self.due = self.behind();
            }
            Work::Heads => {
                for open in self.logs.values_mut() {
                    open.is_head_due = open.head.is_some();
                }
                self.due = self.behind();
            }
            Work::Frame(ToParent::Hello { .. }) => return Err(WriterEnd::Order),
            Work::Frame(ToParent::Open { key_store_id, from }) => self.open(key_store_id, from)?,
            Work::Frame(ToParent::Append { key_store_id, first_index, is_awaited, entries }) => {
                let open = self.logs.get_mut(&key_store_id).ok_or(WriterEnd::NotOpen)?;
                let bytes = entries.as_bytes().len();
                if !open.log.append(first_index, entries) {
                    return Err(WriterEnd::Order);
                }
                self.pending = self.pending.saturating_add(bytes);
                if is_awaited {
                    self.awaited.insert(key_store_id);
                } else if self.pending > AUDIT_BATCH_BYTES {
                    self.due = self.behind();
                }
            }
            Work::Frame(ToParent::Head { key_store_id, checkpoint }) => {
                let open = self.logs.get_mut(&key_store_id).ok_or(WriterEnd::NotOpen)?;
                if checkpoint.is_last() {
                    open.is_head_due = true;
                    self.awaited.insert(key_store_id);
                }
                open.head = Some(checkpoint);
            }
        }
        Ok(())
    }

    /// Logs that are not on disk as a whole.
    fn behind(&self) -> BTreeSet<KeyStoreId> {
        self.logs.iter().filter(|(_, open)| open.is_behind()).map(|(key_store_id, _)| *key_store_id).collect()
    }

    fn folder_of(&self, key_store_id: KeyStoreId) -> PathBuf {
        self.root.join(key_store_id.to_string()).join(self.boot_id.to_string())
    }

    fn open(&mut self, key_store_id: KeyStoreId, from: u64) -> Result<(), WriterEnd> {
        if let Some(open) = self.logs.get(&key_store_id) {
            self.tell(key_store_id, open.log.next_index());
            return Ok(());
        }
        self.unopened.remove(&key_store_id);
        self.opening.insert(key_store_id, from);
        let logs = self.logs.len().saturating_add(self.opening.len()).saturating_add(self.unopened.len());
        if logs > AUDIT_LOGS_MAX { Err(WriterEnd::TooMany) } else { Ok(()) }
    }

    /// Opens a few logs, at the same time: the newest file of each is read as a whole, and after a reconnect an enclave opens all it has.
    fn open_some(&mut self) {
        let chosen = core::iter::from_fn(|| self.opening.pop_first()).take(AUDIT_SYNC_THREADS);
        let mut chosen: Vec<_> = chosen.map(|(key_store_id, from)| (key_store_id, from, None)).collect();
        at_once(&mut chosen, |(key_store_id, from, opened)| {
            *opened = Some(Log::open(&self.root, &self.folder_of(*key_store_id), *from, self.rotate_bytes));
        });
        for (key_store_id, from, opened) in chosen {
            match opened {
                Some(Ok((log, found))) => self.opened(key_store_id, log, &found),
                Some(Err(error)) => {
                    self.fails(key_store_id, &error);
                    self.unopened.insert(key_store_id, from);
                }
                None => {}
            }
        }
    }

    fn opened(&mut self, key_store_id: KeyStoreId, log: Log, found: &Found) {
        self.state.audit.works(self.boot_id, key_store_id);
        if found.torn_bytes > 0 {
            self.state.counters.audit_torn.increment();
            tracing::warn!(%key_store_id, bytes = found.torn_bytes, "an audit log ended within an entry; put aside");
        }
        if found.missing > 0 {
            self.state.counters.audit_gaps.increment();
            tracing::error!(%key_store_id, entries = found.missing, "entries of an audit log that were on disk are gone");
        }
        let next_index = log.next_index();
        self.logs.insert(key_store_id, Open { log, head: None, is_head_due: false });
        self.state.audit.log_opened();
        self.tell(key_store_id, next_index);
    }

    /// Brings these logs to disk, several at the same time, and tells the enclave of each as soon as it is there. Returns the first error;
    /// what failed stays to be written.
    fn write(&mut self, chosen: BTreeSet<KeyStoreId>) -> Option<io::Error> {
        let mut chosen: Vec<_> = chosen.into_iter().filter_map(|id| self.logs.remove_entry(&id)).collect();
        let pending =
            |chosen: &[(KeyStoreId, Open)]| chosen.iter().map(|(_, open)| open.log.pending_bytes()).sum::<usize>();
        let before = pending(&chosen);
        let error = Mutex::new(None);
        at_once(&mut chosen, |(key_store_id, open)| {
            if let Err(failed) = self.bring_to_disk(*key_store_id, open) {
                self.fails(*key_store_id, &failed);
                error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failed);
            }
        });
        let after = pending(&chosen);
        self.pending = self.pending.saturating_sub(before.saturating_sub(after));
        self.logs.extend(chosen);
        error.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn bring_to_disk(&self, key_store_id: KeyStoreId, open: &mut Open) -> io::Result<()> {
        let before = open.log.next_index();
        let written = open.log.commit();
        if open.log.next_index() > before {
            self.tell(key_store_id, open.log.next_index());
        }
        let written = written?;
        self.state.counters.audit_entries.add(written.entries);
        self.state.counters.audit_bytes.add(written.bytes);
        // A checkpoint on disk is about entries on disk.
        if open.is_head_due
            && let Some(head) = &open.head
        {
            heads::write(&self.folder_of(key_store_id), head)?;
            self.state.counters.audit_heads.increment();
            (open.head, open.is_head_due) = (None, false);
        }
        self.state.audit.works(self.boot_id, key_store_id);
        Ok(())
    }

    /// The connection has ended: everything is tried once.
    fn finish(&mut self) -> Result<(), WriterEnd> {
        for open in self.logs.values_mut() {
            open.is_head_due = true;
        }
        self.write(self.behind()).map_or(Ok(()), |error| Err(WriterEnd::Disk(error)))
    }

    fn fails(&self, key_store_id: KeyStoreId, error: &io::Error) {
        self.state.counters.audit_write_failed.increment();
        self.state.audit.fails(self.boot_id, key_store_id, error);
    }

    fn tell(&self, key_store_id: KeyStoreId, next_index: u64) {
        // Nobody hears it only where the connection has ended: then it is told at the next one.
        let _ = self.durable.blocking_send(ToEnclave::Durable { key_store_id, next_index });
    }
}

/// Does something with each, on several threads.
fn at_once<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let threads = items.len().min(AUDIT_SYNC_THREADS);
    let queue = Mutex::new(items.iter_mut());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work_off = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    scope(|scope| {
        // This thread is one of them.
        for _ in 1..threads {
            scope.spawn(work_off);
        }
        work_off();
    });
}

#[cfg(test)]
mod tests;
