//! Moves bytes between two connections.
//!
//! Guarantees: a connection that waits holds no buffer at all; what its writer does not take is held, at most
//! [`RELAY_READ`](crate::limits::RELAY_READ) bytes per direction, and at most [`RELAY_BUFFER`](crate::limits::RELAY_BUFFER) once many
//! connections hold something, so a slow reader slows its writer; the responder's last bytes (a TLS alert, say) reach the initiator,
//! because its side is shut down in order and then read for a moment, so that no reset overtakes them; nothing lives on without movement;
//! no connection keeps the others of its thread waiting.
//! Assumes: nothing about half-close. An initiator's is passed on, and the answer must then keep moving; a responder's end
//! is the end of the connection, as every TLS server's is after its `close_notify`.
//!
//! ```text
//! ingress, egress ── Start ─▶ lane (a thread, its own epoll) ── Report ─▶ ingress, egress
//!  (tasks)          Cut ─▶    connection: up, down; then linger
//! ```
//!
//! Relaying has threads of its own because a message is four system calls and little else: `docs/relay.md` says what that saves.

mod connection;
mod direction;
mod lane;
mod socket;
#[cfg(test)]
mod tests;

use core::num::NonZero;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::limits::{LINGER, LINGER_BYTES_MAX, RELAY_THREADS_MAX};
use lane::{Job, Lane};

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In order.
    Closed,
    /// Nothing moved for too long.
    Idle,
    /// The initiator's connection failed.
    Broken,
    /// The relay itself failed: the system refused something, or the thread ended.
    Failed,
}

/// What a relay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) to_responder: u64,
    pub(crate) to_initiator: u64,
}

/// The threads that relay. They end with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Relays {
    lanes: Arc<[Lane]>,
    /// The lane that is asked first; where several have equally few connections, they take turns.
    turn: Arc<AtomicUsize>,
}

/// Tells that a thread ended, which none does while it is needed.
#[derive(Debug)]
pub(crate) struct Ended(mpsc::Receiver<()>);

impl Ended {
    /// Returns once one ended.
    pub(crate) async fn any(mut self) {
        // Without senders all of them ended.
        let _ = self.0.recv().await;
    }
}

impl Relays {
    /// As many threads as there are processors, up to [`RELAY_THREADS_MAX`].
    ///
    /// # Errors
    /// When the system gives no thread or no file descriptor.
    pub(crate) fn start() -> io::Result<(Self, Ended)> {
        Self::start_threads(std::thread::available_parallelism().map_or(1, NonZero::get).min(RELAY_THREADS_MAX))
    }

    fn start_threads(threads: usize) -> io::Result<(Self, Ended)> {
        let (end, ended) = mpsc::channel(1);
        let lanes = (0..threads).map(|_| Lane::start(end.clone())).collect::<io::Result<_>>()?;
        Ok((Self { lanes, turn: Arc::default() }, Ended(ended)))
    }

    /// Relays between the side that opened the connection and the one that answers, until both directions ended or nothing
    /// moves for `idle`. `first` are bytes of the initiator that were read already.
    pub(crate) async fn relay(&self, initiator: OwnedFd, responder: OwnedFd, first: Vec<u8>, idle: Duration) -> Report {
        self.relay_then(initiator, responder, first, idle, |_| ()).await
    }

    /// The same; `ended` is told the report when nothing is relayed any more and the initiator is only waited for: the call may be abandoned
    /// while it waits. Abandoning it closes both sides.
    pub(crate) async fn relay_then(
        &self,
        initiator: OwnedFd,
        responder: OwnedFd,
        first: Vec<u8>,
        idle: Duration,
        ended: impl FnOnce(Report),
    ) -> Report {
        let (report, reported) = oneshot::channel();
        let (gone, closed) = oneshot::channel();
        let begun = self.lane().map(|lane| lane.begin(Job { initiator, responder, first, idle, report, gone }));
        // A thread that is gone took the connection with it.
        let lost = Report { outcome: Outcome::Failed, to_responder: 0, to_initiator: 0 };
        let report = reported.await.unwrap_or(lost);
        ended(report);
        // Nothing is ever sent: the connection is closed once the sender is gone.
        let _ = closed.await;
        if let Some(begun) = begun {
            begun.over();
        }
        report
    }

    /// The one with the fewest connections of those that run.
    fn lane(&self) -> Option<&Lane> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(self.lanes.len())?;
        let (before, from) = self.lanes.split_at_checked(turn)?;
        from.iter().chain(before).filter(|lane| lane.is_alive()).min_by_key(|lane| lane.load())
    }
}

/// Reads and throws away what still comes, for a bounded time and amount: closing a socket with unread bytes sends a reset
/// (RFC 1122 section 4.2.2.13), which destroys what still waits to be sent, and may destroy what was not read yet.
pub(crate) async fn linger<R: AsyncRead + Unpin>(reader: &mut R) {
    let discard = async {
        let mut buffer = vec![0; 4096];
        let mut rest = LINGER_BYTES_MAX;
        while rest > 0 {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => rest = rest.saturating_sub(count),
            }
        }
    };
    // Running out of time is one of the two ways in which this is meant to end.
    let _ = timeout(LINGER, discard).await;
}
