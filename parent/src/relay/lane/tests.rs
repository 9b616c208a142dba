//! The thread's work, done step by step here: what is due is due because the test says what time it is.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use socket2::SockRef;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::limits::{HALF_CLOSED_IDLE, LINGER, LINGER_BYTES_MAX, RELAY_BUFFER, RELAY_READ};
use crate::relay::{Ended, Relays};

const LONG: Duration = Duration::from_mins(1);
/// A socket's smallest buffer (socket(7)).
const SMALL: usize = 4608;

/// The outer ends of a connection, and what it tells.
struct Outside {
    client: UnixStream,
    enclave: UnixStream,
    report: oneshot::Receiver<Report>,
    gone: oneshot::Receiver<Infallible>,
}

fn worker() -> Worker {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    Worker::new(channel().1, bell).unwrap()
}

/// A socket that takes little before it has to be read: the outer end, and the one that is relayed.
fn narrow() -> (UnixStream, OwnedFd) {
    let (outer, inner) = UnixStream::pair().unwrap();
    outer.set_nonblocking(true).unwrap();
    SockRef::from(&inner).set_send_buffer_size(SMALL).unwrap();
    (outer, inner.into())
}

fn start(worker: &mut Worker, id: u64, first: Vec<u8>) -> Outside {
    let ((client, initiator), (enclave, responder)) = (narrow(), narrow());
    let (report, reported) = oneshot::channel();
    let (gone, closed) = oneshot::channel();
    worker.start(id, Job { initiator, responder, first, idle: LONG, report, gone });
    Outside { client, enclave, report: reported, gone: closed }
}

/// Works until there is nothing to do.
fn work(worker: &mut Worker) {
    let mut events = Vec::with_capacity(RELAY_EVENTS);
    loop {
        epoll::wait(&worker.desk.epoll, spare_capacity(&mut events), Some(&Timespec::default())).unwrap();
        if events.is_empty() {
            return;
        }
        assert!(worker.heed(&mut events));
    }
}

fn held(worker: &Worker) -> Vec<usize> {
    let relaying = worker.connections.values().filter_map(|seat| match &seat.stage {
        Stage::Relaying(connection, _) => Some(connection.up.held.size() + connection.down.held.size()),
        Stage::Lingering(_) => None,
    });
    relaying.collect()
}

/// What is there.
fn read_some(stream: &mut UnixStream, buffer: &mut [u8]) -> usize {
    match stream.read(buffer) {
        Ok(count) => count,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            0
        }
    }
}

/// A flood in both directions, of which nothing is read.
fn flood(worker: &mut Worker, id: u64) -> Outside {
    let mut outside = start(worker, id, vec![7; RELAY_BUFFER]);
    for end in [&mut outside.client, &mut outside.enclave] {
        assert_eq!(end.write(&vec![7; 2 * RELAY_READ]).unwrap(), 2 * RELAY_READ);
    }
    work(worker);
    outside
}

/// `docs/limits.md`: each direction 64 KiB, and 16 KiB once a thread's connections hold much.
#[test]
fn memory_is_bounded() {
    let mut worker = worker();
    worker.desk.held_much = 1024 * 1024;
    let much = worker.desk.held_much;
    let mut outside = Vec::new();
    for id in 0..60 {
        let before = worker.desk.held;
        outside.push(flood(&mut worker, id));
        let grown = worker.desk.held - before;
        assert!(grown > 0 && grown <= 2 * RELAY_READ, "{grown} bytes for a connection");
        if before >= much {
            assert!(grown <= 2 * RELAY_BUFFER, "{grown} bytes for a connection although {before} are held");
        }
        // A reader that takes a little frees nothing.
        for end in outside.last_mut().map(|outside| [&mut outside.client, &mut outside.enclave]).unwrap() {
            read_some(end, &mut [0; SMALL]);
        }
        work(&mut worker);
        assert_eq!(worker.desk.held, held(&worker).iter().sum::<usize>(), "what is counted is what is allocated");
    }
    assert!(worker.desk.held > much, "not enough is held: the test shows nothing");
    assert!(worker.desk.held < much + RELAY_READ + outside.len() * 2 * RELAY_BUFFER);

    // All is given back: by those that are read to the end, and by those that go.
    let mut buffer = vec![0; 4 * RELAY_READ];
    for one in &mut outside.split_off(30) {
        let mut idle = 0;
        while idle < 2 {
            let read = read_some(&mut one.client, &mut buffer) + read_some(&mut one.enclave, &mut buffer);
            idle = if read == 0 { idle + 1 } else { 0 };
            work(&mut worker);
        }
    }
    drop(outside);
    work(&mut worker);
    assert_eq!(worker.desk.held, 0);
}

/// Lets time pass.
fn later(worker: &mut Worker, time: Duration) {
    worker.desk.now += time;
    worker.expire();
}

const MOMENT: Duration = Duration::from_millis(1);

fn nearly(limit: Duration) -> Duration {
    limit.saturating_sub(MOMENT)
}

#[test]
fn half_a_connection_must_keep_moving() {
    let mut worker = worker();
    let mut outside = start(&mut worker, 1, Vec::new());
    later(&mut worker, nearly(LONG));
    outside.client.shutdown(Shutdown::Write).unwrap();
    work(&mut worker);
    assert_eq!(outside.enclave.read(&mut [0]).unwrap(), 0);
    later(&mut worker, nearly(HALF_CLOSED_IDLE));
    // What moves is waited for anew.
    outside.enclave.write_all(b"answer").unwrap();
    work(&mut worker);
    later(&mut worker, nearly(HALF_CLOSED_IDLE));
    assert!(outside.report.try_recv().is_err(), "it ends before its time");
    later(&mut worker, MOMENT);
    let report = outside.report.try_recv().unwrap();
    assert_eq!(report, Report { outcome: Outcome::Idle, to_responder: 0, to_initiator: 6 });
    assert!(worker.connections.is_empty() && worker.deadlines.is_empty());
}

/// The timer is set for the first of all deadlines, which a half-closed connection's may become.
#[test]
fn the_clock_is_set_to_the_first_deadline() {
    let mut worker = worker();
    worker.set_clock().unwrap();
    assert_eq!(worker.set_to, None);
    let first = start(&mut worker, 1, Vec::new());
    worker.set_clock().unwrap();
    assert_eq!(worker.set_to, Some(worker.desk.now + LONG));
    let _second = start(&mut worker, 2, Vec::new());
    first.client.shutdown(Shutdown::Write).unwrap();
    work(&mut worker);
    worker.set_clock().unwrap();
    let halfway = worker.desk.now + HALF_CLOSED_IDLE;
    assert_eq!(worker.set_to, Some(halfway));
    later(&mut worker, HALF_CLOSED_IDLE);
    assert_eq!(worker.connections.keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn an_initiator_is_waited_for_until_it_is_time() {
    let mut worker = worker();
    let Outside { mut client, enclave, mut report, mut gone } = start(&mut worker, 1, Vec::new());
    drop(enclave);
    work(&mut worker);
    assert_eq!(report.try_recv().unwrap().outcome, Outcome::Closed);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    later(&mut worker, nearly(LINGER));
    client.write_all(b"still here").unwrap();
    work(&mut worker);
    assert_eq!(gone.try_recv(), Err(TryRecvError::Empty), "it is closed before its time");
    later(&mut worker, MOMENT);
    assert_eq!(gone.try_recv(), Err(TryRecvError::Closed));
    assert!(client.write_all(b"x").is_err());
}

/// One that sends without end is not waited for any longer.
#[test]
fn an_initiator_is_not_read_without_end() {
    let mut worker = worker();
    let Outside { mut client, enclave, mut gone, .. } = start(&mut worker, 1, Vec::new());
    drop(enclave);
    work(&mut worker);
    let mut sent = 0;
    while let Ok(count) = client.write(&vec![7; RELAY_BUFFER]) {
        sent += count;
        work(&mut worker);
    }
    assert_eq!(gone.try_recv(), Err(TryRecvError::Closed));
    assert!((LINGER_BYTES_MAX..LINGER_BYTES_MAX + RELAY_READ).contains(&sent), "{sent} bytes were taken");
}

/// Epoll does not know a socket that was taken from it.
#[test]
fn what_epoll_refuses_later_is_our_own_failure() {
    let mut worker = worker();
    let mut outside = start(&mut worker, 1, Vec::new());
    let Stage::Relaying(connection, _) = &worker.connections[&1].stage else { panic!("it is relayed") };
    epoll::delete(&worker.desk.epoll, &connection.responder.fd).unwrap();
    // More than the responder takes, so that it must tell when there is space.
    outside.client.write_all(&vec![7; RELAY_READ]).unwrap();
    work(&mut worker);
    assert_eq!(outside.report.try_recv().unwrap().outcome, Outcome::Failed);
    assert_eq!(worker.desk.held, 0);
}

/// A Unix socket that is closed in order has no error; what was sent before is still for the responder.
#[test]
fn an_initiator_that_went_is_not_held_for_long() {
    let mut worker = worker();
    let mut outside = start(&mut worker, 1, Vec::new());
    outside.client.write_all(&vec![7; RELAY_READ]).unwrap();
    work(&mut worker);
    later(&mut worker, nearly(LONG));
    drop(outside.client);
    work(&mut worker);
    later(&mut worker, nearly(HALF_CLOSED_IDLE));
    assert!(outside.report.try_recv().is_err(), "it ends before its time");
    let taken = read_some(&mut outside.enclave, &mut vec![0; RELAY_READ]);
    work(&mut worker);
    later(&mut worker, nearly(HALF_CLOSED_IDLE));
    assert!(outside.report.try_recv().is_err(), "it ends although something moved");
    later(&mut worker, MOMENT);
    let report = outside.report.try_recv().unwrap();
    assert_eq!(report.outcome, Outcome::Idle);
    assert!(report.to_responder > u64::try_from(taken).unwrap());
    assert_eq!(worker.desk.held, 0);
}

/// A bug's panic, in a build that unwinds.
#[tokio::test]
async fn a_thread_that_panics_takes_its_connections_with_it_and_no_others() {
    let (end, ended) = mpsc::channel(1);
    let panicking = Lane::start_with(end.clone(), |worker| {
        let order = worker.orders.recv().unwrap();
        let Command::Start(id, job) = order else { panic!("a connection comes first") };
        worker.start(id, job);
        work(worker);
        panic!("as a bug would");
    });
    let lanes = Arc::from([panicking.unwrap(), Lane::start(end).unwrap()]);
    let relays = Relays { lanes, turn: Arc::default() };
    let ((mut client, initiator), (mut enclave, responder)) = (narrow(), narrow());
    let report = relays.relay(initiator, responder, Vec::new(), LONG).await;
    assert_eq!(report, Report { outcome: Outcome::Failed, to_responder: 0, to_initiator: 0 });
    for end in [&mut client, &mut enclave] {
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }
    // What watches the threads hears of it, and until it acts, others take what comes.
    tokio::time::timeout(LONG, Ended(ended).any()).await.unwrap();
    for _ in 0..4 {
        let ((mut client, initiator), (mut enclave, responder)) = (narrow(), narrow());
        client.shutdown(Shutdown::Write).unwrap();
        enclave.write_all(b"answer").unwrap();
        enclave.shutdown(Shutdown::Write).unwrap();
        let report = relays.relay(initiator, responder, b"question".to_vec(), LONG).await;
        assert_eq!(report, Report { outcome: Outcome::Closed, to_responder: 8, to_initiator: 6 });
        assert_eq!(enclave.read(&mut [0; 16]).unwrap(), 8);
        assert_eq!(client.read(&mut [0; 16]).unwrap(), 6);
    }
}
