//! The connection on which the parent gets all logs (`holdfast_link::audit`).
//!
//! Guarantees: entries go out in order and without a gap, from where the parent says that it is; a head goes out after the entries that
//! it covers; logs take turns, a frame each, and those that somebody waits for come first. One frame at a time is held beside what the
//! logs hold. The connection may break and is made anew. Assumes: nothing: a parent that claims to
//! have stored what it was never sent is not listened to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_link::audit::{CheckpointText, Entries, PushError, ToEnclave, ToParent};
use holdfast_link::control::Level;
use holdfast_link::limits::HANDSHAKE_TIMEOUT;
use holdfast_link::{Address, FrameError, FrameReader, Stream, connect, write_frame};
use holdfast_shared::ids::KeyStoreId;
use tokio::io::{ReadHalf, WriteHalf};

use super::log::AuditLog;
use super::logs::AuditLogs;
use crate::report::Reporter;

/// The pause before the parent is connected to again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long more records are waited for while nobody waits for them, so that many share a frame and a write to the disk.
const LINGER: Duration = Duration::from_millis(10);
/// Entries that are taken out of a log at a time: the lock is held for that.
const BATCH: usize = 256;

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the parent cannot be reached")]
    Unreachable,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the parent closed it")]
    Closed,
    #[error("the parent did not answer in time")]
    Late,
    #[error("the parent claims to have what it was never sent")]
    Claim,
}

/// How far a log has got on this connection.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// The index to be sent next; nothing until the parent has said what it has.
    next: Option<u64>,
    /// Size of the head that was sent last.
    head: u64,
}

type Places = Mutex<BTreeMap<KeyStoreId, (Arc<AuditLog>, Progress)>>;

fn lock(places: &Places) -> MutexGuard<'_, BTreeMap<KeyStoreId, (Arc<AuditLog>, Progress)>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the parent supplied, for ever.
pub(crate) async fn keep_connected(logs: Arc<AuditLogs>, parent: Address, reporter: Reporter) {
    let mut was_connected = true;
    loop {
        let Err(ended) = attempt(&logs, &parent).await;
        let is_connected = !matches!(ended, Ended::Unreachable);
        // Once for each time that it goes away.
        if was_connected || is_connected {
            reporter.log(Level::Warn, &format!("the audit connection: {ended}; connecting again"));
        }
        was_connected = is_connected;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt(logs: &AuditLogs, parent: &Address) -> Result<core::convert::Infallible, Ended> {
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, connect(parent)).await;
    let stream = stream.map_err(|_| Ended::Late)?.map_err(|_| Ended::Unreachable)?;
    let (reader, mut writer) = tokio::io::split(stream);
    let boot_id = (*logs.boot_id.as_bytes()).into();
    write_frame(&mut writer, &ToParent::Hello { boot_id }).await?;
    let places = Places::default();
    tokio::select! {
        ended = take(logs, &places, FrameReader::new(reader)) => ended,
        ended = give(logs, &places, writer) => ended,
    }
}

/// Hears what is on the parent's disk.
async fn take(
    logs: &AuditLogs,
    places: &Places,
    mut reader: FrameReader<ReadHalf<Stream>>,
) -> Result<core::convert::Infallible, Ended> {
    loop {
        let Some(ToEnclave::Durable { key_store_id, next_index }) = reader.next().await? else {
            return Err(Ended::Closed);
        };
        let mut places = lock(places);
        let place = places.get_mut(&KeyStoreId(*key_store_id.as_bytes()));
        let (log, progress) = place.ok_or(Ended::Claim)?;
        // On this connection or an earlier one.
        if next_index > log.sent_until() {
            return Err(Ended::Claim);
        }
        log.stored(next_index);
        // What is not kept any more cannot be sent, even where it was sent on an earlier connection only.
        progress.next = Some(progress.next.unwrap_or(next_index).max(log.first_kept()));
        // It may go on from there; and what is stored may have made room for what was kept aside.
        let next = progress.next.unwrap_or_default();
        logs.shared.grew(log.id().key_store_id, log.size() > next && log.awaits(next));
    }
}

/// Sends what there is, and waits for more.
async fn give(
    logs: &AuditLogs,
    places: &Places,
    mut writer: WriteHalf<Stream>,
) -> Result<core::convert::Infallible, Ended> {
    for log in logs.all() {
        logs.shared.call(log.id().key_store_id, false);
    }
    loop {
        while let Some(log) = logs.shared.next_call().and_then(|id| logs.known(id)) {
            if let Some((frame, next)) = next_frame(places, &log) {
                write_frame(&mut writer, &frame).await?;
                logs.shared.call(log.id().key_store_id, log.awaits(next));
            }
        }
        logs.shared.grown.notified().await;
        let _ = tokio::time::timeout(LINGER, logs.shared.urgent.notified()).await;
    }
}

/// What a log has to send next, and the index after that. It is noted as sent already, since the answer may come at once.
fn next_frame(places: &Places, log: &Arc<AuditLog>) -> Option<(ToParent, u64)> {
    let id = log.id().key_store_id;
    let key_store_id = (*id.as_bytes()).into();
    let mut places = lock(places);
    let Some((_, progress)) = places.get_mut(&id) else {
        if log.size() == 0 {
            return None;
        }
        places.insert(id, (Arc::clone(log), Progress::default()));
        let from = log.first_kept();
        return Some((ToParent::Open { key_store_id, from }, from));
    };
    let next = progress.next?;
    let mut entries = Entries::new();
    for entry in log.entries(next, BATCH) {
        // A full frame leaves the rest for the next one. No entry of ours is too long or empty: theirs have no larger bound.
        if let Err(PushError::Full | PushError::Length { .. }) = entries.push(&entry) {
            break;
        }
    }
    if !entries.is_empty() {
        let is_awaited = log.awaits(next);
        let after = next.saturating_add(entries.count().into());
        progress.next = Some(after);
        log.sent(after);
        return Some((ToParent::Append { key_store_id, first_index: next, is_awaited, entries }, after));
    }
    let head = log.head().filter(|head| head.size > progress.head && head.size <= next)?;
    progress.head = head.size;
    Some((ToParent::Head { key_store_id, checkpoint: CheckpointText::new(&head.text).ok()? }, next))
}

#[cfg(test)]
mod tests;
