//! The whole device, from a guest's rings to Unix sockets, driven by vhost-user as QEMU does.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use holdfast_devkit::vsock::limits::TO_HOST_MAX;
use holdfast_devkit::vsock::listener_path;
use holdfast_devkit::vsock::mux::{HOST_CID, PARENT_CID};
use holdfast_devkit::vsock::packet::{Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

#[path = "vsock/driver.rs"]
mod driver;

use driver::{CEILING, Driver, GUEST_CID, Socket};

const PORT: u32 = 9000;
const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// The program, and the folder of its sockets.
struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast-dev"))
            .args(["vsock", "--socket", "vhost", "--guest", "vm", "--cid", &GUEST_CID.to_string()])
            .current_dir(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains("vhost") && line.contains("vm"), "{line}");
        // Whatever else it says is shown where the test fails.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        Self { child, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn driver(&self) -> Driver {
        Driver::connect(&self.path("vhost"), true)
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(listener_path(&self.path("vm"), port)).unwrap()
    }

    fn client(&self, greeting: &str) -> UnixStream {
        let mut client = UnixStream::connect(self.path("vm")).unwrap();
        client.set_read_timeout(Some(CEILING)).unwrap();
        // It may hang up before it has heard everything.
        let _ = client.write_all(greeting.as_bytes());
        client
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn accept(listener: &UnixListener) -> UnixStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(CEILING)).unwrap();
    stream
}

fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// The other end is gone, in either way that a Unix socket tells it.
fn assert_closed(stream: &mut UnixStream) {
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("still open: {other:?}"),
    }
}

/// Bytes that repeat nowhere near a buffer's length.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from((index * 7 + index / 251) % 256).unwrap()).collect()
}

#[test]
fn the_program_says_where_it_listens_and_ends_cleanly() {
    let mut program = Program::start();
    for name in ["vhost", "vm"] {
        assert_eq!(std::fs::metadata(program.path(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let mut driver = program.driver();
    assert_eq!(driver.guest_cid(), GUEST_CID);
    kill_process(Pid::from_child(&program.child), Signal::TERM).unwrap();
    assert!(program.child.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(program.folder.path()).unwrap().count(), 0);
}

#[test]
fn the_program_ends_without_a_machine_too() {
    let mut program = Program::start();
    kill_process(Pid::from_child(&program.child), Signal::INT).unwrap();
    assert!(program.child.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(program.folder.path()).unwrap().count(), 0);
}

#[test]
fn a_guest_reaches_listeners_at_both_context_ids_and_is_refused_elsewhere() {
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);
    for (cid, port, guest_port) in [(HOST_CID, PORT, 1), (PARENT_CID, PORT, 1), (PARENT_CID, PORT, 2)] {
        let mut socket = Socket::connect(&mut driver, cid, port, guest_port);
        let mut host = accept(&listener);
        socket.send(&mut driver, b"hello", &[44]);
        assert_eq!(read(&mut host, 5), b"hello");
        host.write_all(b"world").unwrap();
        assert_eq!(socket.hear(&mut driver), (Operation::Data, 0, b"world".to_vec()));
        drop(host);
        assert_eq!(socket.hear(&mut driver), (Operation::Shutdown, BOTH, vec![]));
        socket.tell(&mut driver, Operation::Reset);
    }
    for (cid, port) in [(HOST_CID, PORT + 1), (PARENT_CID, PORT + 1), (4, PORT), (GUEST_CID, PORT), (0, PORT)] {
        let mut socket = Socket::new(cid, port, 3);
        socket.tell(&mut driver, Operation::Request);
        assert_eq!(socket.hear(&mut driver), (Operation::Reset, 0, vec![]), "{cid}:{port}");
    }
}

/// Linux since 6.12 sends more than 32 KiB in pages: the header may share its descriptor, or be cut itself.
#[test]
fn a_packet_lies_in_any_number_of_descriptors() {
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);
    let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, 1);
    let mut host = accept(&listener);
    let payload = pattern(65_536);
    for cuts in [
        vec![],
        vec![44],
        vec![44, 32_768],
        vec![44 + 4096; 15],
        std::iter::once(44).chain(std::iter::repeat_n(4096, 15)).collect(),
        vec![1; 60],
        vec![10, 0, 34, 0, 65_535],
    ] {
        socket.send(&mut driver, &payload, &cuts);
        assert!(read(&mut host, payload.len()) == payload, "{cuts:?}");
        // Nobody answers a packet, but credit may be told.
        while socket.credit() < payload.len() * 2 {
            socket.tell(&mut driver, Operation::CreditRequest);
            assert_eq!(socket.hear(&mut driver).0, Operation::CreditUpdate);
        }
    }
}

/// Sends and takes back `total` bytes, with a host that echoes, within the credit of both sides.
fn echo(driver: &mut Driver, socket: &mut Socket, total: usize) {
    let bytes = pattern(total);
    let mut back = Vec::with_capacity(total);
    let mut sent = 0;
    while back.len() < total {
        let count = (total - sent).min(socket.credit()).min(65_536);
        if count > 0 && sent - back.len() < 300_000 {
            socket.send(driver, &bytes[sent..sent + count], &[44, 4096, 4096, 4096]);
            sent += count;
            continue;
        }
        let (operation, _, payload) = socket.hear(driver);
        match operation {
            Operation::Data => back.extend(payload),
            Operation::CreditUpdate => {}
            Operation::CreditRequest => socket.tell(driver, Operation::CreditUpdate),
            other => panic!("{other:?}"),
        }
        // The guest's kernel tells its room from time to time.
        if back.len() % 16 == 0 {
            socket.tell(driver, Operation::CreditUpdate);
        }
    }
    assert!(back == bytes);
}

fn echoing(mut host: UnixStream) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut writer = host.try_clone().unwrap();
        let count = std::io::copy(&mut host, &mut writer).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
        count
    })
}

#[test]
fn megabytes_there_and_back() {
    for event_idx in [true, false] {
        let program = Program::start();
        let mut driver = Driver::connect(&program.path("vhost"), event_idx);
        let listener = program.listen(PORT);
        let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, 1);
        let host = echoing(accept(&listener));
        let total = 8 << 20;
        echo(&mut driver, &mut socket, total);
        socket.shut_down(&mut driver, SHUTDOWN_SEND);
        loop {
            match socket.hear(&mut driver) {
                (Operation::Shutdown, flags, _) if flags == BOTH => break,
                (Operation::Shutdown | Operation::CreditUpdate, ..) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(usize::try_from(host.join().unwrap()).unwrap(), total);
    }
}

#[test]
fn a_host_that_does_not_read_stops_the_guest_and_nobody_else() {
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);
    let mut slow = Socket::connect(&mut driver, PARENT_CID, PORT, 1);
    let mut host = accept(&listener);
    // Fill the Unix socket, then the connection's buffer.
    let mut sent = Vec::new();
    loop {
        slow.tell(&mut driver, Operation::CreditRequest);
        while slow.hear(&mut driver).0 != Operation::CreditUpdate {}
        let count = slow.credit().min(65_536);
        if count == 0 {
            break;
        }
        let bytes = pattern(sent.len() + count).split_off(sent.len());
        slow.send(&mut driver, &bytes, &[44]);
        sent.extend(bytes);
    }
    assert!(sent.len() > usize::try_from(TO_HOST_MAX).unwrap());
    let mut other = Socket::connect(&mut driver, PARENT_CID, PORT, 2);
    let mut lively = accept(&listener);
    other.send(&mut driver, b"ping", &[]);
    assert_eq!(read(&mut lively, 4), b"ping");
    // What the guest wrote before it closed arrives, however late it is read.
    slow.shut_down(&mut driver, BOTH);
    slow.tell(&mut driver, Operation::Reset);
    assert!(read(&mut host, sent.len()) == sent);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_guest_that_does_not_read_stops_the_host() {
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);
    let mut socket = Socket::new(PARENT_CID, PORT, 1);
    socket.buf_alloc = 5000;
    socket.tell(&mut driver, Operation::Request);
    assert_eq!(socket.hear(&mut driver).0, Operation::Response);
    let host = accept(&listener);
    let total = 3 << 20;
    let writer = thread::spawn(move || {
        let mut host = host;
        host.write_all(&pattern(total)).unwrap();
        host
    });
    let mut back = Vec::new();
    while back.len() < total {
        let (operation, _, payload) = socket.hear(&mut driver);
        back.extend(payload);
        match operation {
            // The device asks when the room is used up, and only then is there room again.
            Operation::CreditRequest => {
                assert_eq!(back.len() % 5000, 0);
                socket.tell(&mut driver, Operation::CreditUpdate);
            }
            Operation::Data => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(back == pattern(total));
    drop(writer.join().unwrap());
}

#[test]
fn a_guest_that_runs_out_of_buffers_is_served_when_it_has_some() {
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);
    let mut socket = Socket::new(PARENT_CID, PORT, 1);
    socket.buf_alloc = 4 << 20;
    socket.tell(&mut driver, Operation::Request);
    assert_eq!(socket.hear(&mut driver).0, Operation::Response);
    let mut host = accept(&listener);
    let total = 2 << 20;
    let writer = thread::spawn(move || {
        host.write_all(&pattern(total)).unwrap();
        host
    });
    driver.wait_until_out_of_buffers();
    let mut back = Vec::new();
    while back.len() < total {
        back.extend(socket.hear(&mut driver).2);
    }
    assert!(back == pattern(total));
    drop(writer.join().unwrap());
}

#[test]
fn a_client_reaches_the_guest_or_is_hung_up_on() {
    let program = Program::start();
    assert_closed(&mut program.client("CONNECT 5000\n"));
    let mut driver = program.driver();
    // What the client says before the answer is the guest's.
    let mut client = program.client("CONNECT 5000\nearly");
    let mut socket = Socket::accept(&mut driver, 5000);
    let answer = format!("OK {}\n", socket.host_port);
    assert_eq!(read(&mut client, answer.len()), answer.as_bytes());
    assert_eq!(socket.hear(&mut driver), (Operation::Data, 0, b"early".to_vec()));
    socket.send(&mut driver, b"answer", &[20, 30]);
    assert_eq!(read(&mut client, 6), b"answer");

    let mut refused = program.client("CONNECT 5001\n");
    let (request, _) = driver.receive();
    driver.send(&request.refusal(), &[]);
    assert_closed(&mut refused);

    for greeting in [
        "CONNECT\n",
        "CONNECT \n",
        "CONNECT 4294967296\n",
        "CONNECT -1\n",
        "CONNECT +1\n",
        "connect 1\n",
        "GET / HTTP/1.1\r\n",
        "CONNECT 000000000000000001\n",
        "\n",
    ] {
        assert_closed(&mut program.client(greeting));
    }
    drop(client);
    assert_eq!(socket.hear(&mut driver), (Operation::Shutdown, BOTH, vec![]), "and nothing of the others before");
}

#[test]
fn a_client_that_leaves_before_the_guest_answers_is_withdrawn() {
    let program = Program::start();
    let mut driver = program.driver();
    let client = program.client("CONNECT 5000\n");
    let (request, _) = driver.receive();
    drop(client);
    let (reset, _) = driver.receive();
    assert_eq!((reset.operation, reset.src_port), (Operation::Reset.number(), request.src_port));
}

#[test]
fn each_half_ends_by_itself() {
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);

    // The guest ends first, then the host.
    let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, 1);
    let mut host = accept(&listener);
    socket.send(&mut driver, b"last", &[44]);
    socket.shut_down(&mut driver, SHUTDOWN_SEND);
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last");
    host.write_all(b"still here").unwrap();
    assert_eq!(socket.hear(&mut driver), (Operation::Data, 0, b"still here".to_vec()));
    host.shutdown(Shutdown::Write).unwrap();
    let mut flags = 0;
    while flags != BOTH {
        let (operation, told, _) = socket.hear(&mut driver);
        assert_eq!(operation, Operation::Shutdown);
        flags = told;
    }
    socket.tell(&mut driver, Operation::Reset);

    // The host ends first, then the guest.
    let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, 2);
    let mut host = accept(&listener);
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(socket.hear(&mut driver), (Operation::Data, 0, b"question".to_vec()));
    assert_eq!(socket.hear(&mut driver), (Operation::Shutdown, SHUTDOWN_SEND, vec![]));
    socket.send(&mut driver, b"answer", &[44]);
    assert_eq!(read(&mut host, 6), b"answer");
    socket.shut_down(&mut driver, BOTH);
    assert_eq!(socket.hear(&mut driver), (Operation::Reset, 0, vec![]));
    assert_eq!(host.read(&mut [0]).unwrap(), 0);

    // The guest receives no more: the host's writes fail.
    let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, 3);
    let mut host = accept(&listener);
    socket.shut_down(&mut driver, SHUTDOWN_RECEIVE);
    socket.send(&mut driver, b"sync", &[44]);
    assert_eq!(read(&mut host, 4), b"sync");
    assert_eq!(host.write_all(b"unwanted").unwrap_err().kind(), ErrorKind::BrokenPipe);

    // The host receives no more: the guest is told when it sends.
    let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, 4);
    let host = accept(&listener);
    host.shutdown(Shutdown::Read).unwrap();
    socket.send(&mut driver, b"unwanted", &[44]);
    assert_eq!(socket.hear(&mut driver), (Operation::Shutdown, SHUTDOWN_RECEIVE, vec![]));
}

#[test]
fn a_machine_that_goes_takes_its_connections_and_the_next_one_is_served() {
    let program = Program::start();
    let listener = program.listen(PORT);
    for _ in 0..3 {
        let mut driver = program.driver();
        for start in 0..3 {
            let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, 1);
            let mut host = accept(&listener);
            let mut client = program.client("CONNECT 5000\n");
            let accepted = Socket::accept(&mut driver, 5000);
            assert_eq!(read(&mut client, 3), b"OK ");
            socket.send(&mut driver, b"hello", &[44]);
            assert_eq!(read(&mut host, 5), b"hello");
            read(&mut client, accepted.host_port.to_string().len() + 1);
            if start == 2 {
                drop(driver);
                assert_closed(&mut host);
                assert_closed(&mut client);
                break;
            }
            // The guest resets its device.
            driver.stop();
            assert_closed(&mut host);
            assert_closed(&mut client);
            assert_closed(&mut program.client("CONNECT 5000\n"));
            driver.start();
        }
    }
}

#[test]
fn chains_that_hold_no_packet_come_back_and_harm_nothing() {
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);
    let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, 1);
    let mut host = accept(&listener);
    // Too short, or nothing that the device may read.
    for length in [0, 1, 43] {
        driver.send_bytes(&vec![0; length], &[]);
    }
    let (next, write, indirect) = (1, 2, 4);
    for (address, length, flags, following) in [
        (8 << 20, 44, write, 0),
        // Outside the memory, and around its end.
        (1 << 40, 44, 0, 0),
        ((16 << 20) - 10, 44, 0, 0),
        (u64::MAX - 10, 44, 0, 0),
        (8 << 20, u32::MAX, 0, 0),
        // A loop, and a way out of the table.
        (8 << 20, 1, next, 5),
        (8 << 20, 10, next, 60_000),
        // Indirect tables: nowhere, and of odd length.
        (1 << 40, 1600, indirect, 0),
        (8 << 20, 17, indirect, 0),
    ] {
        driver.write_descriptor(5, address, length, flags, following);
        driver.send_chain(5);
    }
    // Headers of every kind of nonsense.
    for seed in 0..200_usize {
        let mut bytes = pattern(44 + seed * 50);
        bytes.rotate_left(seed);
        driver.send_bytes(&bytes, &[seed]);
    }
    socket.send(&mut driver, b"unharmed", &[44]);
    assert_eq!(read(&mut host, 8), b"unharmed");
}

#[test]
fn a_ring_that_is_misused_stops_its_device_until_it_is_set_up_anew() {
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);
    Socket::connect(&mut driver, PARENT_CID, PORT, 1);
    let mut host = accept(&listener);
    // More buffers than the ring has.
    driver.claim_available(1000);
    assert_closed(&mut host);
    assert_closed(&mut program.client("CONNECT 5000\n"));
    driver.stop();
    driver.start();
    Socket::connect(&mut driver, PARENT_CID, PORT, 1);
    accept(&listener);
}

#[test]
fn many_connections_at_once() {
    const COUNT: u32 = 300;
    let program = Program::start();
    let mut driver = program.driver();
    let listener = program.listen(PORT);
    let mut open = Vec::new();
    for port in 0..COUNT {
        let mut socket = Socket::connect(&mut driver, PARENT_CID, PORT, port);
        let host = accept(&listener);
        socket.send(&mut driver, &port.to_le_bytes(), &[44]);
        open.push((socket, host));
    }
    for (index, (_, host)) in open.iter_mut().enumerate().rev() {
        assert_eq!(read(host, 4), u32::try_from(index).unwrap().to_le_bytes());
        host.write_all(&[1; 100]).unwrap();
    }
    let mut total = 0;
    while total < 100 * open.len() {
        total += driver.receive().1.len();
    }
    assert_eq!(total, 100 * open.len());
}
