//! The thread's work, done step by step here: what is due is due because the test says what time it is.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use socket2::SockRef;

use super::*;
use crate::limits::{RELAY_BUFFER, RELAY_READ};

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
        assert_eq!(end.write(&[7; 2 * RELAY_READ]).unwrap(), 2 * RELAY_READ);
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
    for one in outside.split_off(30).iter_mut() {
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
