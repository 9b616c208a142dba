//! The sink of audit logs: entries that the enclave encrypted go to files, and the enclave hears when they are on disk.
//!
//! Guarantees: no entry is said to be durable before it is on disk; one connection writes the logs of one boot at a time; nothing
//! is deleted unless `audit.keep_days` says so. Assumes: nothing of the entries, which nobody here can read.
//! Refuses: a folder that another process uses, and connections whose frames are out of order.
//!
//! ```text
//! enclave ─▶ session (reads frames) ─▶ Writer (a thread, and some that wait for the disk) ─▶ Log (files), heads (checkpoints)
//!         ◀─ durable ◀─────────────────┘
//! ```

use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_link::audit::{ToEnclave, ToParent};
use holdfast_link::limits::HANDSHAKE_TIMEOUT;
use holdfast_link::{FrameError, FrameReader, Stream, remedy, write_frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::config::AuditConfig;
use crate::door::Door;
use crate::limits::{
    ACCEPT_PAUSE, AUDIT_BATCH_INTERVAL, AUDIT_CONNECTIONS_MAX, AUDIT_END_TIMEOUT, AUDIT_HEADS_INTERVAL,
    AUDIT_QUEUE_FRAMES, CONTROL_WRITE_TIMEOUT,
};
use crate::state::{Slots, State};

mod boots;
mod care;
mod heads;
mod log;
mod view;
mod writer;

use boots::Boots;
pub(crate) use care::{care, look};
pub(crate) use view::{Page, View};
use writer::{Work, Writer, WriterEnd};

/// The file in the folder that this process has locked.
const LOCK: &str = "lock";

/// Why there is no sink.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The folder cannot be made or written.
    #[error("audit.folder = {}: {source}{}", folder.display(), remedy::of_folder(source))]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two programs would write over each other.
    #[error("audit.folder = {}: another process uses it", folder.display())]
    InUse {
        /// Which.
        folder: PathBuf,
    },
}

/// The folder of audit logs.
#[derive(Debug)]
pub(crate) struct Sink {
    folder: PathBuf,
    rotate_bytes: u64,
    keep_days: Option<u32>,
    state: Arc<State>,
    boots: Boots,
    connections: Slots,
    ending: watch::Sender<bool>,
    /// Locked until it is closed.
    _lock: File,
}

impl Sink {
    /// Makes the folder if it is missing, and takes hold of it.
    pub(crate) fn open(config: &AuditConfig, state: Arc<State>) -> Result<Self, SinkError> {
        let folder = config.folder.clone();
        let failed = |source| SinkError::Folder { folder: folder.clone(), source };
        log::make_folder(&folder).map_err(failed)?;
        let lock = log::options().write(true).create(true).truncate(false).open(folder.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SinkError::InUse { folder }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        log::sync_folder(&folder).map_err(failed)?;
        Ok(Self {
            folder,
            rotate_bytes: config.rotate_bytes,
            keep_days: config.keep_days,
            state,
            boots: Boots::default(),
            connections: Slots::new(AUDIT_CONNECTIONS_MAX),
            ending: watch::Sender::new(false),
            _lock: lock,
        })
    }

    /// Writes what has come, takes no more, and waits for the disk.
    pub(crate) async fn end(&self) {
        self.ending.send_replace(true);
        if timeout(AUDIT_END_TIMEOUT, self.connections.all_returned()).await.is_err() {
            tracing::error!("audit entries that came last are not on disk; no enclave was told that they are");
        }
    }
}

/// Accepts the enclaves' audit connections.
pub(crate) async fn serve(door: Door, sink: Arc<Sink>) {
    loop {
        match door.accept(&sink.state).await {
            Ok((stream, _)) => {
                if let Some(slot) = sink.connections.take() {
                    tokio::spawn(session(Arc::clone(&sink), stream, slot));
                } else {
                    sink.state.counters.audit_refused.increment();
                }
            }
            Err(error) => {
                sink.state.counters.accept_failed.increment();
                tracing::warn!(%error, "cannot accept an audit connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("the enclave closed it")]
    Closed,
    #[error("the enclave opened another")]
    Replaced,
    #[error("the program ends")]
    Ending,
    #[error("the enclave did not read in time")]
    NotRead,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Writer(#[from] WriterEnd),
}

async fn session(sink: Arc<Sink>, stream: Stream, slot: OwnedSemaphorePermit) {
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read);
    let counters = &sink.state.counters;
    let Ok(Ok(Some(ToParent::Hello { boot_id }))) = timeout(HANDSHAKE_TIMEOUT, reader.next()).await else {
        counters.audit_refused.increment();
        tracing::warn!("an audit connection did not begin with a hello");
        return;
    };
    let Some(claim) = sink.boots.claim(boot_id).await else { return };
    counters.audit_connected.increment();
    tracing::info!(%boot_id, "the enclave opened its audit connection");
    let (work, queue) = mpsc::channel(AUDIT_QUEUE_FRAMES);
    let (durable, answers) = mpsc::channel(AUDIT_QUEUE_FRAMES);
    let writer = Writer::new((sink.folder.clone(), sink.rotate_bytes), boot_id, Arc::clone(&sink.state), durable);
    let writing = tokio::task::spawn_blocking(move || writer.run(queue));
    let mut ending = sink.ending.subscribe();
    let end = tokio::select! {
        end = receive(&mut reader, work) => end,
        end = answer(&mut write, answers) => end,
        () = claim.replaced() => SessionEnd::Replaced,
        _ = ending.wait_for(|ending| *ending) => SessionEnd::Ending,
    };
    let end = match writing.await {
        Ok(Ok(())) => end,
        Ok(Err(fault)) => fault.into(),
        Err(_) => {
            tracing::error!("the thread that writes audit logs failed");
            end
        }
    };
    if matches!(end, SessionEnd::Frame(_) | SessionEnd::NotRead | SessionEnd::Writer(_)) {
        counters.audit_refused.increment();
    }
    tracing::warn!(%boot_id, reason = %end, "an audit connection ended");
    drop((claim, slot));
}

/// Hands over what comes, as fast as it is written.
async fn receive<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>, work: mpsc::Sender<Work>) -> SessionEnd {
    let mut heads = interval(AUDIT_HEADS_INTERVAL);
    heads.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batches = interval(AUDIT_BATCH_INTERVAL);
    batches.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let item = tokio::select! {
            frame = reader.next() => match frame {
                Ok(Some(frame)) => Work::Frame(frame),
                Ok(None) => return SessionEnd::Closed,
                Err(error) => return error.into(),
            },
            _ = batches.tick() => Work::Batch,
            _ = heads.tick() => Work::Heads,
        };
        if work.send(item).await.is_err() {
            // The writer ended and says why.
            return SessionEnd::Closed;
        }
    }
}

/// Tells the enclave what is durable.
async fn answer<W: AsyncWrite + Unpin>(write: &mut W, mut answers: mpsc::Receiver<ToEnclave>) -> SessionEnd {
    while let Some(message) = answers.recv().await {
        match timeout(CONTROL_WRITE_TIMEOUT, write_frame(write, &message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return SessionEnd::NotRead,
        }
    }
    SessionEnd::Closed
}
