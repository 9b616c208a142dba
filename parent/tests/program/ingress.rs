//! Clients' connections.

use std::process::Stdio;

use holdfast_link::Listener;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::fixture::{Options, Parent, noise, read_all, soon, write_files};

fn with(top: &str) -> Options {
    Options { top: top.to_owned(), ..Options::default() }
}

#[tokio::test]
async fn a_question_and_its_answer_pass() {
    let parent = Parent::start(Options::default()).await;
    let enclave = parent.enclave_ingress().await;
    let mut client = parent.client().await;
    client.write_all(b"question").await.unwrap();
    let mut stream = soon(enclave.accept()).await.unwrap();
    let mut question = [0; 8];
    soon(stream.read_exact(&mut question)).await.unwrap();
    assert_eq!(&question, b"question");
    stream.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    soon(client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"answer");
    // The connection stays open for more.
    client.write_all(b"more").await.unwrap();
    let mut more = [0; 4];
    soon(stream.read_exact(&mut more)).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"");
    drop(stream);
    assert_eq!(read_all(&mut client).await, b"");
    drop(client);
    parent.counted("ingress_bytes_to_enclave", 12).await;
    parent.counted("ingress_bytes_to_client", 6).await;
    assert_eq!(parent.status().await["connections"], 0);
}

/// Sends and receives at the same time, in pieces, so that both directions stall now and then.
async fn exchange(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    out: Vec<u8>,
    expected: Vec<u8>,
    piece: usize,
) {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        for part in out.chunks(piece) {
            write.write_all(part).await.unwrap();
        }
        write
    });
    let mut received = Vec::new();
    let mut buffer = vec![0; piece / 3 + 1];
    while received.len() < expected.len() {
        let count = soon(read.read(&mut buffer)).await.unwrap();
        assert_ne!(count, 0, "the stream ended after {} bytes", received.len());
        received.extend_from_slice(&buffer[..count]);
    }
    assert!(received == expected);
    let mut write = soon(sending).await.unwrap();
    write.shutdown().await.unwrap();
    assert_eq!(soon(read.read(&mut buffer)).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_streams_pass_unchanged_both_ways_at_once() {
    let parent = Parent::start(Options::default()).await;
    let enclave = parent.enclave_ingress().await;
    let (up, down) = (noise(1, 24 * 1024 * 1024 + 7), noise(2, 16 * 1024 * 1024 + 3));
    let client = parent.client().await;
    let client = tokio::spawn(exchange(client, up.clone(), down.clone(), 70_001));
    let stream = soon(enclave.accept()).await.unwrap();
    exchange(stream, down, up, 4_099).await;
    soon(client).await.unwrap();
}

#[tokio::test]
async fn a_stalled_client_holds_its_sender_back_and_loses_nothing() {
    let parent = Parent::start(Options::default()).await;
    let enclave = parent.enclave_ingress().await;
    let mut client = parent.client().await;
    client.write_all(b"x").await.unwrap();
    let mut stream = soon(enclave.accept()).await.unwrap();
    let all = noise(3, 64 * 1024 * 1024);
    let copy = all.clone();
    let sending = tokio::spawn(async move {
        stream.write_all(&copy).await.unwrap();
        drop(stream);
    });
    // Nobody reads: the kernel's buffers fill, and the program takes only what it can pass on.
    let mut before = u64::MAX;
    loop {
        let resident = resident_kib(&parent);
        assert!(resident < 60 * 1024, "the program holds {resident} KiB while a client does not read");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if resident == before {
            break;
        }
        before = resident;
    }
    assert!(!sending.is_finished());
    let received = read_all(&mut client).await;
    assert!(received == all);
    sending.await.unwrap();
}

/// proc(5): `VmRSS` in /proc/PID/status, in KiB.
fn resident_kib(parent: &Parent) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", parent.child.id().unwrap())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_last_bytes_of_the_enclave_arrive_while_the_client_still_sends() {
    let parent = Parent::start(Options::default()).await;
    let enclave = parent.enclave_ingress().await;
    for _ in 0..20 {
        let mut client = parent.client().await;
        client.write_all(&noise(4, 100_000)).await.unwrap();
        let mut stream = soon(enclave.accept()).await.unwrap();
        // As a TLS server does that refuses a handshake: reads a little, sends an alert, closes.
        stream.read_u8().await.unwrap();
        stream.write_all(b"alert").await.unwrap();
        drop(stream);
        assert_eq!(read_all(&mut client).await, b"alert");
    }
}

/// As after a network's short outage: all connections are opened anew in the same moment.
#[tokio::test]
async fn clients_that_come_back_all_at_once_are_served() {
    const CLIENTS: usize = 300;
    let parent = Parent::start(Options::default()).await;
    let enclave = parent.enclave_ingress().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let address = parent.listen;
        clients.spawn(async move {
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            client.write_all(b"question").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
            client
        });
    }
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = soon(enclave.accept()).await.unwrap();
        soon(stream.read_exact(&mut [0; 8])).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        streams.push(stream);
    }
    let clients = soon(clients.join_all()).await;
    assert_eq!(parent.status().await["connections"], CLIENTS);
    drop((clients, streams));
}

#[tokio::test]
async fn the_enclave_hears_of_a_client_only_once_it_speaks() {
    let parent = Parent::start(Options::default()).await;
    let enclave = parent.enclave_ingress().await;
    let silent = parent.client().await;
    parent.counted("ingress_accepted", 1).await;
    let mut speaking = parent.client().await;
    speaking.write_all(b"s").await.unwrap();
    let mut first = soon(enclave.accept()).await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b's');
    drop(silent);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed() {
    let parent = Parent::start(with("first_byte_timeout_ms = 50")).await;
    let mut client = parent.client().await;
    assert_eq!(read_all(&mut client).await, b"");
    parent.counted("ingress_first_byte_timeout", 1).await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_on_both_sides() {
    let parent = Parent::start(with("idle_timeout_ms = 100")).await;
    let enclave = parent.enclave_ingress().await;
    let mut client = parent.client().await;
    client.write_all(b"x").await.unwrap();
    let mut stream = soon(enclave.accept()).await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"x");
    assert_eq!(read_all(&mut client).await, b"");
    parent.counted("ingress_idle", 1).await;
}

async fn speak(parent: &Parent, enclave: &Listener) -> (tokio::net::TcpStream, holdfast_link::Stream) {
    let mut client = parent.client().await;
    client.write_all(b"x").await.unwrap();
    (client, soon(enclave.accept()).await.unwrap())
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once() {
    let parent = Parent::start(with("max_connections = 2")).await;
    let enclave = parent.enclave_ingress().await;
    let first = speak(&parent, &enclave).await;
    let second = speak(&parent, &enclave).await;
    let mut third = parent.client().await;
    // The end may come as a reset where our byte was on its way.
    assert!(matches!(soon(third.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    parent.counted("ingress_over_cap", 1).await;
    assert_eq!(parent.status().await["connections"], 2);
    drop(first);
    crate::fixture::until(|| async { parent.status().await["connections"] == 1 }).await;
    drop(speak(&parent, &enclave).await);
    drop(second);
}

/// Those that say nothing, however many, keep nobody out, and cost nobody that is being relayed its place.
#[tokio::test]
async fn silent_clients_make_place_for_others() {
    let parent = Parent::start(with("max_connections = 4\nfirst_byte_timeout_ms = 3600000")).await;
    let enclave = parent.enclave_ingress().await;
    let mut relayed = speak(&parent, &enclave).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(parent.client().await);
    }
    parent.counted("ingress_displaced", 17).await;
    for client in &mut silent[..17] {
        assert!(matches!(soon(client.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    }
    let second = speak(&parent, &enclave).await;
    // The last one before it is still there, and is relayed as soon as it speaks.
    silent[19].write_all(b"x").await.unwrap();
    let mut stream = soon(enclave.accept()).await.unwrap();
    soon(stream.read_exact(&mut [0; 1])).await.unwrap();
    relayed.0.write_all(b"more").await.unwrap();
    soon(relayed.1.read_exact(&mut [0; 4])).await.unwrap();
    assert_eq!(parent.status().await["counters"]["ingress_over_cap"], 0);
    drop(second);
}

#[tokio::test]
async fn with_too_few_file_descriptors_fewer_clients_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_files(folder.path(), &with("max_connections = 60000"));
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -n 200 && exec \"$0\" --config \"$1\""])
        .arg(env!("CARGO_BIN_EXE_holdfast-parent"))
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let warning = loop {
        let line = soon(lines.next_line()).await.unwrap().expect("it ended without a word");
        if line.contains("too few file descriptors") {
            break line;
        }
    };
    assert!(warning.contains("allowed=200") && warning.contains("taking=42"), "{warning}");
}

#[tokio::test]
async fn a_client_is_closed_when_there_is_no_enclave() {
    let parent = Parent::start(Options::default()).await;
    let mut client = parent.client().await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(read_all(&mut client).await, b"");
    parent.counted("ingress_enclave_unreachable", 1).await;
    // The next client is served when the enclave is back.
    let enclave = parent.enclave_ingress().await;
    drop(speak(&parent, &enclave).await);
}

#[tokio::test]
async fn the_log_holds_no_bytes_of_the_traffic() {
    let parent = Parent::start(Options::default()).await;
    let enclave = parent.enclave_ingress().await;
    let mut client = parent.client().await;
    client.write_all(b"MARKER-OF-THE-CLIENT").await.unwrap();
    let mut stream = soon(enclave.accept()).await.unwrap();
    stream.write_all(b"MARKER-OF-THE-ENCLAVE").await.unwrap();
    drop(stream);
    read_all(&mut client).await;
    drop(client);
    crate::fixture::until(|| async { parent.log().contains("a client's connection ended") }).await;
    assert!(!parent.log().contains("MARKER"));
}

/// Anybody can connect; what the log says of the enclave must not grow with it.
#[tokio::test]
async fn clients_cannot_fill_the_log() {
    let parent = Parent::start(Options::default()).await;
    let refused = async |total| {
        for _ in 0..10 {
            let mut client = parent.client().await;
            client.write_all(b"hello").await.unwrap();
            assert_eq!(read_all(&mut client).await, b"");
        }
        parent.counted("ingress_enclave_unreachable", total).await;
    };
    let said = |text: &str| parent.log().matches(text).count();
    refused(10).await;
    assert_eq!(said("takes no client"), 1, "{}", parent.log());
    let enclave = parent.enclave_ingress().await;
    parent.client().await.write_all(b"hello").await.unwrap();
    soon(enclave.accept()).await.unwrap();
    drop(enclave);
    refused(20).await;
    assert_eq!((said("takes clients again"), said("takes no client")), (1, 2), "{}", parent.log());
}

/// A client that has had its last byte and is only waited for makes place, too; what it sent and was sent has been counted by then.
#[tokio::test]
async fn what_moved_is_counted_although_another_takes_the_place() {
    let parent = Parent::start(with("max_connections = 1")).await;
    let enclave = parent.enclave_ingress().await;
    let (mut client, mut stream) = speak(&parent, &enclave).await;
    soon(stream.read_exact(&mut [0; 1])).await.unwrap();
    stream.write_all(b"answer").await.unwrap();
    drop(stream);
    assert_eq!(read_all(&mut client).await, b"answer");
    let serving = tokio::spawn(async move {
        let mut stream = enclave.accept().await.unwrap();
        stream.write_all(b"y").await.unwrap();
        stream
    });
    // Until the first is known to be only waited for, there is no place.
    let newcomer = loop {
        let mut newcomer = parent.client().await;
        // It may be closed already.
        let _ = newcomer.write_all(b"x").await;
        if matches!(soon(newcomer.read(&mut [0; 1])).await, Ok(1)) {
            break newcomer;
        }
    };
    parent.counted("ingress_bytes_to_client", 6).await;
    parent.counted("ingress_bytes_to_enclave", 1).await;
    drop((client, newcomer, serving.await.unwrap()));
    parent.counted("ingress_bytes_to_client", 7).await;
    parent.counted("ingress_bytes_to_enclave", 2).await;
}
