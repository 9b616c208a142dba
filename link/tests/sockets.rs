//! Sockets of the link on the real kernel: Unix sockets and the hybrid protocol. Nothing here opens a vsock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use holdfast_link::egress::{EgressAnswer, EgressError, EgressRefusal, EgressRequest, open_egress};
use holdfast_link::{Address, BindError, ConnectError, Listener, connect, read_frame, write_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixSocket};

/// Only so that a broken build fails instead of hanging.
const DEADLINE: Duration = Duration::from_mins(1);

fn unix(folder: &tempfile::TempDir, name: &str) -> Address {
    Address::unix(&folder.path().join(name)).unwrap()
}

#[tokio::test]
async fn bytes_pass_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let address = unix(&folder, "s");
    let listener = Listener::bind(&address).await.unwrap();
    let (near, far) = tokio::join!(connect(&address), listener.accept());
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut question = String::new();
    far.read_to_string(&mut question).await.unwrap();
    far.write_all(b"answer").await.unwrap();
    drop(far);
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
}

/// Where many come at once, those beyond the queue wait for their turn, as they would over TCP.
#[tokio::test]
async fn a_full_queue_makes_connecting_wait() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixSocket::new_stream().unwrap();
    socket.bind(folder.path().join("s")).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = unix(&folder, "s");
    let mut waiting = Vec::new();
    let mut next = Box::pin(connect(&address));
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(50), &mut next).await {
        waiting.push(connected.unwrap());
        next = Box::pin(connect(&address));
    }
    assert!(!waiting.is_empty() && waiting.len() < 4, "{} are in a queue of one", waiting.len());
    let (accepted, connected) = tokio::join!(listener.accept(), tokio::time::timeout(DEADLINE, next));
    accepted.unwrap();
    connected.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_is_a_socket_that_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let address = unix(&folder, "s");
    let listener = Listener::bind(&address).await.unwrap();
    let (near, far) = tokio::join!(connect(&address), listener.accept());
    let mut near = std::os::unix::net::UnixStream::from(near.unwrap().into_fd().unwrap());
    assert_eq!(near.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    far.unwrap().write_all(b"x").await.unwrap();
    near.set_nonblocking(false).unwrap();
    near.read_exact(&mut [0; 1]).unwrap();
}

#[tokio::test]
async fn a_socket_file_is_private_and_goes_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let address = unix(&folder, "s");
    let listener = Listener::bind(&address).await.unwrap();
    let path = address.listen_path().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_listener_removes_only_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let address = unix(&folder, "s");
    let path = address.listen_path().unwrap();
    let first = Listener::bind(&address).await.unwrap();
    // Renamed, not removed, so that the file system cannot give the new file the old inode.
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    let second = Listener::bind(&address).await.unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    drop(first);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let stale = unix(&folder, "stale");
    drop(std::os::unix::net::UnixListener::bind(stale.listen_path().unwrap()).unwrap());
    assert!(stale.listen_path().unwrap().exists());
    let listener = Listener::bind(&stale).await.unwrap();
    assert!(matches!(Listener::bind(&stale).await, Err(BindError::InUse { .. })));
    drop(listener);

    let file = unix(&folder, "file");
    std::fs::write(file.listen_path().unwrap(), "precious").unwrap();
    assert!(matches!(Listener::bind(&file).await, Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(file.listen_path().unwrap()).unwrap(), "precious");

    let nowhere = Address::unix(Path::new("/nonexistent-folder/s")).unwrap();
    assert!(matches!(Listener::bind(&nowhere).await, Err(BindError::Io { .. })));
    assert!(matches!(connect(&nowhere).await, Err(ConnectError::Io { .. })));
}

/// A virtual machine monitor that answers every connection with `answer`, then echoes.
fn monitor(path: &Path, answer: &'static [u8]) -> tokio::task::JoinHandle<String> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut line = String::new();
        while !line.ends_with('\n') {
            line.push(char::from(stream.read_u8().await.unwrap()));
        }
        stream.write_all(answer).await.unwrap();
        line
    })
}

#[tokio::test]
async fn the_hybrid_protocol_consumes_its_answer_line_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.sock");
    let asked = monitor(&path, b"OK 1073741824\nfirst bytes of the machine");
    let mut stream = connect(&Address::hybrid(&path, 9001).unwrap()).await.unwrap();
    let mut bytes = String::new();
    stream.read_to_string(&mut bytes).await.unwrap();
    assert_eq!(asked.await.unwrap(), "CONNECT 9001\n");
    assert_eq!(bytes, "first bytes of the machine");
}

#[tokio::test]
async fn the_hybrid_protocol_refuses_other_answers() {
    let answers: [&[u8]; 5] = [b"", b"OK", b"ERR no\n", b"OK\n", b"OK 11111111111111111111111111111111111111111"];
    for (number, answer) in answers.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let asked = monitor(&path, answer);
        let result = connect(&Address::hybrid(&path, 52).unwrap()).await;
        assert!(matches!(result, Err(ConnectError::Hybrid { .. })), "answer {number}: {result:?}");
        asked.await.unwrap();
    }
}

#[tokio::test]
async fn a_hybrid_listener_takes_the_machines_connections() {
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&Address::hybrid(&folder.path().join("vm.sock"), 52).unwrap()).await.unwrap();
    let as_monitor = unix(&folder, "vm.sock_52");
    let (near, far) = tokio::join!(connect(&as_monitor), listener.accept());
    near.unwrap().write_all(b"x").await.unwrap();
    assert_eq!(far.unwrap().read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn egress_is_answered_and_then_raw() {
    let folder = tempfile::tempdir().unwrap();
    let address = unix(&folder, "egress");
    let listener = Listener::bind(&address).await.unwrap();
    let parent = tokio::spawn(async move {
        for answer in [EgressAnswer::Connected, EgressAnswer::Refused { reason: EgressRefusal::NotAllowed }] {
            let mut stream = listener.accept().await.unwrap();
            let request: EgressRequest = read_frame(&mut stream).await.unwrap().unwrap();
            assert_eq!(request.destination.as_str(), "custodian.example:443");
            write_frame(&mut stream, &answer).await.unwrap();
            stream.write_all(b"raw").await.unwrap();
        }
        drop(listener.accept().await.unwrap());
        // A parent that never answers.
        let silent = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(silent);
    });
    let destination = "custodian.example:443";
    let mut stream = open_egress(&address, destination, DEADLINE).await.unwrap();
    let mut raw = String::new();
    stream.read_to_string(&mut raw).await.unwrap();
    assert_eq!(raw, "raw");
    let refused = open_egress(&address, destination, DEADLINE).await;
    assert!(matches!(refused, Err(EgressError::Refused(EgressRefusal::NotAllowed))));
    let ended = open_egress(&address, destination, DEADLINE).await;
    assert!(matches!(ended, Err(EgressError::Ended | EgressError::Frame(_))));
    let timeout = open_egress(&address, destination, Duration::from_millis(20)).await;
    assert!(matches!(timeout, Err(EgressError::Timeout)));
    let invalid = open_egress(&address, "Custodian", DEADLINE).await;
    assert!(matches!(invalid, Err(EgressError::Destination(_))));
    parent.abort();
}
