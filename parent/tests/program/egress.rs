//! The enclave's way out.

use holdfast_link::connect;
use holdfast_link::egress::{EgressError, EgressRefusal, open_egress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::fixture::{DEADLINE, Options, Parent, noise, read_all, soon, until};

fn with(egress: String) -> Options {
    Options { egress, ..Options::default() }
}

#[tokio::test]
async fn a_listed_destination_is_reached_and_bytes_pass_both_ways() {
    let remote = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = remote.local_addr().unwrap().port();
    let parent = Parent::start(with(format!("allow = [\"a.invalid:1\", \"localhost:{port}\"]"))).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = remote.accept().await.unwrap();
        let mut question = vec![0; 1_000_000];
        stream.read_exact(&mut question).await.unwrap();
        stream.write_all(&question).await.unwrap();
    });
    let mut stream = open_egress(&parent.address("egress.sock"), &format!("localhost:{port}"), DEADLINE).await.unwrap();
    let question = noise(5, 1_000_000);
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let (sent, answer) = tokio::join!(write.write_all(&question), read_all(&mut read));
    sent.unwrap();
    assert!(answer == question);
    soon(server).await.unwrap();
    drop(stream);
    parent.counted("egress_bytes_to_destination", 1_000_000).await;
    parent.counted("egress_bytes_to_enclave", 1_000_000).await;
}

#[tokio::test]
async fn every_other_destination_is_refused_with_its_reason() {
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open_port = open.local_addr().unwrap().port();
    let closed_port = {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        closed.local_addr().unwrap().port()
    };
    // The name "invalid" never resolves (RFC 6761 section 6.4).
    let allow = format!("allow = [\"localhost:{open_port}\", \"127.0.0.1:{closed_port}\", \"host.invalid:443\"]");
    let parent = Parent::start(with(allow)).await;
    for (destination, expected) in [
        (format!("127.0.0.1:{open_port}"), EgressRefusal::NotAllowed),
        (format!("localhost:{closed_port}"), EgressRefusal::NotAllowed),
        (format!("127.0.0.1:{closed_port}"), EgressRefusal::Unreachable),
        ("host.invalid:443".to_owned(), EgressRefusal::Unresolvable),
    ] {
        match open_egress(&parent.address("egress.sock"), &destination, DEADLINE).await {
            Err(EgressError::Refused(reason)) => assert_eq!(reason, expected, "{destination}"),
            other => panic!("{destination}: {other:?}"),
        }
    }
    parent.counted("egress_not_allowed", 2).await;
    parent.counted("egress_unreachable", 1).await;
    parent.counted("egress_unresolvable", 1).await;
    parent.counted("egress_connected", 0).await;
}

#[tokio::test]
async fn nothing_is_allowed_unless_it_is_listed() {
    let parent = Parent::start(Options::default()).await;
    let refused = open_egress(&parent.address("egress.sock"), "localhost:443", DEADLINE).await;
    assert!(matches!(refused, Err(EgressError::Refused(EgressRefusal::NotAllowed))));
}

#[tokio::test]
async fn beyond_the_cap_the_enclave_learns_why() {
    let remote = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = format!("localhost:{}", remote.local_addr().unwrap().port());
    let parent = Parent::start(with(format!("allow = [\"{destination}\"]\nmax_connections = 1"))).await;
    let address = parent.address("egress.sock");
    let first = open_egress(&address, &destination, DEADLINE).await.unwrap();
    let second = open_egress(&address, &destination, DEADLINE).await;
    assert!(matches!(second, Err(EgressError::Refused(EgressRefusal::Busy))), "{second:?}");
    drop(first);
    drop(soon(remote.accept()).await.unwrap());
    until(|| async { parent.status().await["egress_connections"] == 0 }).await;
    open_egress(&address, &destination, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn hostile_requests_end_only_their_own_connection() {
    let parent = Parent::start(Options::default()).await;
    let requests: [&[u8]; 5] = [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\x02{}",
        b"\0\0\0\x20{\"destination\":\"localhost:443\"}x",
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    for request in requests {
        let mut stream = soon(connect(&parent.address("egress.sock"))).await.unwrap();
        stream.write_all(request).await.unwrap();
        // The end may come as a reset where bytes were left unread.
        let ended = soon(stream.read(&mut [0; 1])).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    parent.counted("egress_malformed", 5).await;
    let refused = open_egress(&parent.address("egress.sock"), "localhost:443", DEADLINE).await;
    assert!(matches!(refused, Err(EgressError::Refused(EgressRefusal::NotAllowed))));
}

#[tokio::test]
async fn the_list_is_read_again_at_sighup_and_open_connections_stay() {
    let remote = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = remote.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        loop {
            let (mut stream, _) = remote.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let (first, second) = (format!("localhost:{port}"), format!("127.0.0.1:{port}"));
    let parent = Parent::start(with(format!("allow = [\"{first}\"]"))).await;
    let egress = parent.address("egress.sock");
    let mut open = open_egress(&egress, &first, DEADLINE).await.unwrap();
    assert!(open_egress(&egress, &second, DEADLINE).await.is_err());
    let file = parent.folder.path().join("parent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let reloaded = || async { open_egress(&egress, &second, DEADLINE).await.is_ok() };

    // A broken file changes nothing.
    std::fs::write(&file, "listen = 1").unwrap();
    parent.signal("HUP");
    until(|| async { parent.log().contains("the last list stays") }).await;
    assert!(!reloaded().await && open_egress(&egress, &first, DEADLINE).await.is_ok());

    std::fs::write(&file, text.replace(&first, &second)).unwrap();
    parent.signal("HUP");
    until(reloaded).await;
    assert!(open_egress(&egress, &first, DEADLINE).await.is_err(), "it left the list");
    open.write_all(b"still here").await.unwrap();
    let mut answer = [0; 10];
    soon(open.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"still here");
    echo.abort();
}
