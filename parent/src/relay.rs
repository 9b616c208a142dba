//! Moves bytes between two connections.
//!
//! Guarantees: at most [`RELAY_BUFFER`] bytes are held per direction, so a slow reader slows its writer; the responder's
//! last bytes (a TLS alert, say) reach the initiator, because its side is shut down in order and then read for a moment,
//! so that no reset overtakes them; nothing lives on without movement.
//! Assumes: nothing about half-close. An initiator's is passed on, and the answer must then keep moving; a responder's end
//! is the end of the connection, as every TLS server's is after its `close_notify`.

use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::limits::{HALF_CLOSED_IDLE, LINGER, LINGER_BYTES_MAX, RELAY_BUFFER};

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In order.
    Closed,
    /// Nothing moved for too long.
    Idle,
    /// The initiator's connection failed.
    Broken,
}

/// What a relay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) to_responder: u64,
    pub(crate) to_initiator: u64,
}

/// How one direction ended. In each case its writer was shut down, so that the other side learns of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The reader's side sent its last byte.
    Eof,
    /// The reader's connection failed.
    ReadFailed,
    /// The writer's connection failed.
    WriteFailed,
}

/// When a byte last moved.
struct Activity {
    started: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { started: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn touch(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Returns once nothing has moved for `limit`.
    async fn idle(&self, limit: Duration) {
        loop {
            let quiet = self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed));
            match limit.checked_sub(Duration::from_millis(quiet)) {
                None | Some(Duration::ZERO) => return,
                Some(rest) => sleep(rest).await,
            }
        }
    }
}

/// Relays between the side that opened the connection and the one that answers, until both directions ended or nothing
/// moves for `idle`. `first` are bytes of the initiator that were read already.
pub(crate) async fn relay<I, R>(initiator: I, responder: R, first: Vec<u8>, idle: Duration) -> Report
where
    I: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    relay_then(initiator, responder, first, idle, || ()).await
}

/// The same; `ended` is called when nothing is relayed any more and the initiator is only waited for.
pub(crate) async fn relay_then<I, R>(
    initiator: I,
    responder: R,
    first: Vec<u8>,
    idle: Duration,
    ended: impl FnOnce(),
) -> Report
where
    I: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (mut initiator_read, mut initiator_write) = tokio::io::split(initiator);
    let (mut responder_read, mut responder_write) = tokio::io::split(responder);
    let activity = Activity::new();
    let (to_responder, to_initiator) = (AtomicU64::new(0), AtomicU64::new(0));
    let outcome = {
        let mut up = pin!(pump(&mut initiator_read, &mut responder_write, first, &activity, &to_responder));
        let mut down = pin!(pump(&mut responder_read, &mut initiator_write, Vec::new(), &activity, &to_initiator));
        let answered = tokio::select! {
            end = &mut up => match end {
                End::ReadFailed => Err(Outcome::Broken),
                // The responder may have closed its reading side only to say why: its last bytes still count.
                End::Eof | End::WriteFailed => {
                    activity.touch();
                    tokio::select! {
                        end = &mut down => Ok(end),
                        () = activity.idle(HALF_CLOSED_IDLE.min(idle)) => Err(Outcome::Idle),
                    }
                }
            },
            end = &mut down => Ok(end),
            () = activity.idle(idle) => Err(Outcome::Idle),
        };
        match answered {
            Ok(End::Eof | End::ReadFailed) => Outcome::Closed,
            Ok(End::WriteFailed) => Outcome::Broken,
            Err(outcome) => outcome,
        }
    };
    drop((responder_read, responder_write));
    ended();
    if outcome == Outcome::Closed {
        linger(&mut initiator_read).await;
    }
    Report {
        outcome,
        to_responder: to_responder.load(Ordering::Relaxed),
        to_initiator: to_initiator.load(Ordering::Relaxed),
    }
}

/// Moves one direction's bytes, those in `buffer` first, until it ends; then shuts the writer down.
async fn pump<R, W>(reader: &mut R, writer: &mut W, mut buffer: Vec<u8>, activity: &Activity, moved: &AtomicU64) -> End
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut written = write(writer, &buffer, activity, moved).await;
    buffer.resize(RELAY_BUFFER, 0);
    let end = loop {
        if written.is_err() {
            break End::WriteFailed;
        }
        match reader.read(&mut buffer).await {
            Ok(0) => break End::Eof,
            Err(_) => break End::ReadFailed,
            Ok(count) => {
                activity.touch();
                let bytes = buffer.get(..count).unwrap_or_default();
                written = write(writer, bytes, activity, moved).await;
            }
        }
    };
    // A connection that cannot be shut down is gone already.
    let _ = writer.shutdown().await;
    end
}

/// Writes all of `bytes`; each part that is taken counts as movement.
async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut bytes: &[u8],
    activity: &Activity,
    moved: &AtomicU64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = writer.write(bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        activity.touch();
        moved.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        bytes = bytes.get(count..).unwrap_or_default();
    }
    writer.flush().await
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

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use tokio::io::{DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpSocket};

    /// Only so that a broken build fails instead of hanging.
    const LONG: Duration = Duration::from_mins(1);

    fn start(first: &'static [u8], idle: Duration) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Report>) {
        let (client, initiator) = duplex(1024);
        let (responder, enclave) = duplex(1024);
        (client, enclave, tokio::spawn(async move { relay(initiator, responder, first.to_vec(), idle).await }))
    }

    async fn rest(stream: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn both_directions_pass_and_are_counted() {
        let (mut client, mut enclave, relay) = start(b"he", LONG);
        client.write_all(b"llo").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut enclave).await, b"hello");
        enclave.write_all(b"answer").await.unwrap();
        drop(enclave);
        assert_eq!(rest(&mut client).await, b"answer");
        drop(client);
        let report = relay.await.unwrap();
        assert_eq!(report, Report { outcome: Outcome::Closed, to_responder: 5, to_initiator: 6 });
    }

    #[tokio::test]
    async fn the_last_bytes_arrive_when_the_enclave_reads_no_more() {
        let (mut client, mut enclave, relay) = start(b"", LONG);
        enclave.write_all(b"alert").await.unwrap();
        drop(enclave);
        // The client goes on sending, as one does that has not seen the alert yet.
        for _ in 0..64 {
            if client.write_all(&[0; 1024]).await.is_err() {
                break;
            }
        }
        assert_eq!(rest(&mut client).await, b"alert");
        drop(client);
        assert_eq!(relay.await.unwrap().to_initiator, 5);
    }

    /// Linux drops what waits to be sent when a socket is closed with unread bytes (it then sends a reset).
    #[tokio::test]
    async fn no_reset_destroys_the_last_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let (client, accepted) = tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
        let (mut client, initiator) = (client.unwrap(), accepted.unwrap().0);
        SockRef::from(&initiator).set_send_buffer_size(512 * 1024).unwrap();
        let (responder, mut enclave) = duplex(1024);
        let relay = tokio::spawn(async move { relay(initiator, responder, Vec::new(), LONG).await });
        // More than the relay takes while the enclave does not read: the rest lies unread in its socket.
        client.write_all(&vec![7; 40_000]).await.unwrap();
        // More than the client's socket takes while it does not read: the rest waits to be sent.
        let answer = vec![9; 100_000];
        enclave.write_all(&answer).await.unwrap();
        drop(enclave);
        assert_eq!(relay.await.unwrap().outcome, Outcome::Closed);
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        assert!(bytes == answer, "{} bytes arrived", bytes.len());
    }

    #[tokio::test]
    async fn an_idle_relay_ends() {
        let (client, enclave, relay) = start(b"", Duration::from_millis(20));
        assert_eq!(relay.await.unwrap().outcome, Outcome::Idle);
        drop((client, enclave));
    }

    #[tokio::test]
    async fn a_half_closed_relay_ends_when_the_other_half_does_not_move() {
        let (mut client, enclave, relay) = start(b"", Duration::from_millis(50));
        client.shutdown().await.unwrap();
        assert_eq!(relay.await.unwrap().outcome, Outcome::Idle);
        drop(enclave);
    }

    #[tokio::test]
    async fn a_slow_reader_slows_its_writer() {
        let (mut client, mut enclave, relay) = start(b"", LONG);
        let flood = tokio::spawn(async move {
            let mut sent = 0usize;
            // 1 KiB in each of the two pipes and one buffer between: what is beyond that must wait.
            while let Ok(result) = timeout(Duration::from_millis(200), client.write(&[7; 1024])).await {
                sent += result.unwrap();
            }
            (sent, client)
        });
        let (sent, client) = flood.await.unwrap();
        assert!(sent <= RELAY_BUFFER + 2 * 1024, "{sent} bytes were taken although nobody read");
        drop(client);
        assert_eq!(rest(&mut enclave).await.len(), sent);
        drop(enclave);
        relay.await.unwrap();
    }
}
