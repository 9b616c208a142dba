//! The relay between real sockets.

use std::os::unix::net::UnixStream as StdUnixStream;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::ingress::prepare;
use crate::limits::RELAY_READ;

mod faults;
mod random;

/// Only so that a broken build fails instead of hanging.
const LONG: Duration = Duration::from_mins(1);
/// A socket's smallest buffer (socket(7)).
const SMALL: usize = 4608;

/// A connection over a Unix socket: the outer end, and the one that is given to the relay.
fn unix() -> (UnixStream, OwnedFd) {
    let (outer, inner) = StdUnixStream::pair().unwrap();
    for end in [&outer, &inner] {
        end.set_nonblocking(true).unwrap();
    }
    (UnixStream::from_std(outer).unwrap(), inner.into())
}

/// The same over TCP, prepared as the program's connections are.
async fn tcp() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    let (client, accepted) = tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
    let accepted = accepted.unwrap().0;
    prepare(&accepted);
    (client.unwrap(), accepted.into_std().unwrap().into())
}

fn relays() -> Relays {
    Relays::start_threads(1).unwrap().0
}

fn start(first: &'static [u8], idle: Duration) -> (UnixStream, UnixStream, JoinHandle<Report>) {
    let (client, initiator) = unix();
    let (enclave, responder) = unix();
    let relays = relays();
    let relay = tokio::spawn(async move { relays.relay(initiator, responder, first.to_vec(), idle).await });
    (client, enclave, relay)
}

async fn rest<R: AsyncRead + Unpin>(stream: &mut R) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(LONG, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    bytes
}

/// Writes until nothing is taken any more.
async fn flood<W: AsyncWriteExt + Unpin>(stream: &mut W) -> usize {
    let mut sent = 0;
    while let Ok(result) = timeout(Duration::from_millis(200), stream.write(&[7; 1024])).await {
        sent += result.unwrap();
    }
    sent
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
    let (mut client, initiator) = tcp().await;
    SockRef::from(&initiator).set_send_buffer_size(512 * 1024).unwrap();
    let (mut enclave, responder) = unix();
    SockRef::from(&responder).set_send_buffer_size(SMALL).unwrap();
    let relay = tokio::spawn(async move { relays().relay(initiator, responder, Vec::new(), LONG).await });
    // More than the relay takes while the enclave does not read: the rest lies unread in its socket.
    client.write_all(&vec![7; RELAY_READ + 50_000]).await.unwrap();
    // More than the client's socket takes while it does not read: the rest waits to be sent.
    let answer = vec![9; 100_000];
    enclave.write_all(&answer).await.unwrap();
    drop(enclave);
    assert_eq!(relay.await.unwrap().outcome, Outcome::Closed);
    let bytes = rest(&mut client).await;
    assert!(bytes == answer, "{} bytes arrived", bytes.len());
}

#[tokio::test]
async fn an_idle_relay_ends() {
    let (client, enclave, relay) = start(b"", Duration::from_millis(20));
    assert_eq!(relay.await.unwrap().outcome, Outcome::Idle);
    drop((client, enclave));
}

#[tokio::test]
async fn what_moves_is_not_idle() {
    let (mut client, mut enclave, relay) = start(b"", Duration::from_millis(400));
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(1200) {
        client.write_all(b"x").await.unwrap();
        enclave.read_u8().await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    assert!(!relay.is_finished());
    assert_eq!(relay.await.unwrap().outcome, Outcome::Idle);
}

#[tokio::test]
async fn a_half_closed_relay_ends_when_the_other_half_does_not_move() {
    let (mut client, enclave, relay) = start(b"", Duration::from_millis(50));
    client.shutdown().await.unwrap();
    assert_eq!(relay.await.unwrap().outcome, Outcome::Idle);
    drop(enclave);
}

/// What the relay holds is what was sent and lies in neither socket.
#[tokio::test]
async fn a_slow_reader_slows_its_writer() {
    let (mut client, initiator) = unix();
    let (mut enclave, responder) = unix();
    let unread = initiator.try_clone().unwrap();
    let relay = tokio::spawn(async move { relays().relay(initiator, responder, Vec::new(), LONG).await });
    let sent = flood(&mut client).await;
    let before = rustix::io::ioctl_fionread(&unread).unwrap();
    let behind = rustix::io::ioctl_fionread(&enclave).unwrap();
    drop(unread);
    let held = u64::try_from(sent).unwrap() - before - behind;
    assert!(held > 0, "nothing waits in the relay: the test shows nothing");
    assert!(held <= u64::try_from(RELAY_READ).unwrap(), "{held} bytes are held although nobody reads");
    drop(client);
    assert_eq!(rest(&mut enclave).await.len(), sent);
    drop(enclave);
    relay.await.unwrap();
}

/// A Unix socket with bytes that its other side has not read is reset when that side goes.
#[tokio::test]
async fn an_initiator_that_fails_ends_it() {
    let (client, mut enclave, relay) = start(b"hello", LONG);
    enclave.write_all(b"never read").await.unwrap();
    enclave.read_exact(&mut [0; 5]).await.unwrap();
    while rustix::io::ioctl_fionread(&client).unwrap() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    drop(client);
    assert_eq!(rest(&mut enclave).await, b"");
    assert_eq!(relay.await.unwrap().outcome, Outcome::Broken);
}

#[tokio::test]
async fn abandoning_it_closes_both_sides() {
    let (mut client, mut enclave, relay) = start(b"", LONG);
    client.write_all(b"x").await.unwrap();
    enclave.read_u8().await.unwrap();
    relay.abort();
    assert_eq!(rest(&mut client).await, b"");
    assert_eq!(rest(&mut enclave).await, b"");
}

/// One that is only waited for can be abandoned, too: its place may be needed.
#[tokio::test]
async fn waiting_for_the_initiator_is_told_and_can_be_abandoned() {
    let (mut client, initiator) = unix();
    let (mut enclave, responder) = unix();
    let (told, mut waiting) = mpsc::channel(1);
    let relay = tokio::spawn(async move {
        relays().relay_then(initiator, responder, Vec::new(), LONG, move |report| told.try_send(report).unwrap()).await
    });
    enclave.write_all(b"answer").await.unwrap();
    drop(enclave);
    let report = timeout(LONG, waiting.recv()).await.unwrap().unwrap();
    assert_eq!(report, Report { outcome: Outcome::Closed, to_responder: 0, to_initiator: 6 });
    assert_eq!(rest(&mut client).await, b"answer");
    assert!(!relay.is_finished(), "it waits for the client");
    relay.abort();
    while client.write_all(b"x").await.is_ok() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn waiting_for_the_initiator_ends() {
    let (client, enclave, relay) = start(b"", LONG);
    drop(enclave);
    let report = timeout(10 * LINGER, relay).await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Closed);
    drop(client);
}

/// Two floods share a thread with small messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_keeps_nobody_waiting() {
    let relays = relays();
    let mut floods = Vec::new();
    for _ in 0..2 {
        let ((mut client, initiator), (mut enclave, responder)) = (unix(), unix());
        let relays = relays.clone();
        floods.push(tokio::spawn(async move { relays.relay(initiator, responder, Vec::new(), LONG).await }));
        floods.push(tokio::spawn(async move {
            let all = vec![1; 1024 * 1024];
            while client.write_all(&all).await.is_ok() {}
            Report { outcome: Outcome::Broken, to_responder: 0, to_initiator: 0 }
        }));
        tokio::spawn(async move {
            let mut buffer = vec![0; 1024 * 1024];
            while enclave.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        });
    }
    let ((mut client, initiator), (mut enclave, responder)) = (unix(), unix());
    let relay = tokio::spawn(async move { relays.relay(initiator, responder, Vec::new(), LONG).await });
    let exchange = async {
        for _ in 0..200 {
            client.write_all(b"question").await.unwrap();
            enclave.read_exact(&mut [0; 8]).await.unwrap();
            enclave.write_all(b"answer").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
        }
    };
    timeout(LONG, exchange).await.unwrap();
    drop((client, enclave));
    relay.await.unwrap();
    for flood in floods {
        assert!(!flood.is_finished());
        flood.abort();
    }
}

#[tokio::test]
async fn connections_are_spread_and_threads_end_with_the_last_handle() {
    let (relays, ended) = Relays::start_threads(2).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let ((client, initiator), (enclave, responder)) = (unix(), unix());
        let relays = relays.clone();
        let relay = tokio::spawn(async move { relays.relay(initiator, responder, b"x".to_vec(), LONG).await });
        waiting.push((client, enclave, relay));
    }
    for (_, enclave, _) in &mut waiting {
        timeout(LONG, enclave.read_u8()).await.unwrap().unwrap();
    }
    assert_eq!(relays.lanes.iter().map(Lane::load).collect::<Vec<_>>(), [5, 5]);
    drop(relays);
    for (client, enclave, relay) in waiting {
        drop((client, enclave));
        relay.await.unwrap();
    }
    timeout(LONG, ended.any()).await.unwrap();
}
