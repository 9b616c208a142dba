//! What clients do to a relay, and what fails in it.

use super::*;

/// A read ends at the mark of urgent data, however much comes behind it.
#[tokio::test]
async fn urgent_data_stops_nothing_and_keeps_its_place() {
    let ((mut client, initiator), (mut enclave, responder)) = (tcp().await, tcp().await);
    for end in [&client, &enclave] {
        send_urgent(end, b"before", b"!", b"after");
    }
    let relay = tokio::spawn(async move { relays().relay(initiator, responder, Vec::new(), LONG).await });
    for end in [&mut client, &mut enclave] {
        let mut bytes = [0; 12];
        timeout(LONG, end.read_exact(&mut bytes)).await.expect("a direction hangs").unwrap();
        assert_eq!(&bytes, b"before!after");
    }
    drop((client, enclave));
    assert_eq!(relay.await.unwrap().to_responder, 12);
}

/// The same while the relay reads, beside a connection of the same thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_data_disturbs_nobody() {
    const PIECES: u8 = 200;
    let relays = relays();
    let mut relayed = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..2 {
        let ((client, initiator), (enclave, responder)) = (tcp().await, unix());
        let relays = relays.clone();
        relayed.push(tokio::spawn(async move { relays.relay(initiator, responder, Vec::new(), LONG).await }));
        ends.push((client, enclave));
    }
    let mut exchanging = Vec::new();
    for (urgent, (mut client, mut enclave)) in [true, false].into_iter().zip(ends) {
        exchanging.push(tokio::spawn(async move {
            for piece in 0..PIECES {
                if urgent {
                    send_urgent(&client, &[piece], &[piece], &[piece]);
                } else {
                    client.write_all(&[piece; 3]).await.unwrap();
                }
                let mut bytes = [0; 3];
                timeout(LONG, enclave.read_exact(&mut bytes)).await.expect("a direction hangs").unwrap();
                assert_eq!(bytes, [piece; 3]);
                enclave.write_all(&bytes).await.unwrap();
                timeout(LONG, client.read_exact(&mut bytes)).await.expect("the answer hangs").unwrap();
            }
        }));
    }
    for one in exchanging {
        one.await.unwrap();
    }
    for one in relayed {
        let report = one.await.unwrap();
        assert_eq!((report.to_responder, report.to_initiator), (600, 600));
    }
}

/// Few bytes, for which a fresh socket has space.
fn send_urgent(stream: &TcpStream, before: &[u8], urgent: &[u8], after: &[u8]) {
    let socket = SockRef::from(stream);
    assert_eq!(socket.send(before).unwrap(), before.len());
    assert_eq!(socket.send_out_of_band(urgent).unwrap(), urgent.len());
    assert_eq!(socket.send(after).unwrap(), after.len());
}

/// Closes a connection so that the other side is told at once, and what it has not sent yet is gone (`SO_LINGER` of zero, socket(7)).
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Nothing is written to the initiator, and nothing is read from it: only its event tells.
#[tokio::test]
async fn a_reset_is_noticed_while_the_responder_does_not_read() {
    let ((mut client, initiator), (mut enclave, responder)) = (tcp().await, unix());
    SockRef::from(&responder).set_send_buffer_size(SMALL).unwrap();
    let relay = tokio::spawn(async move { relays().relay(initiator, responder, Vec::new(), 2 * LONG).await });
    client.write_all(&vec![7; RELAY_READ]).await.unwrap();
    enclave.readable().await.unwrap();
    reset(client);
    let report = timeout(LONG, relay).await.expect("the reset is not noticed").unwrap();
    assert_eq!(report.outcome, Outcome::Broken);
    assert!(report.to_responder < u64::try_from(RELAY_READ).unwrap(), "nothing is held: the test shows nothing");
    assert_eq!(rest(&mut enclave).await.len(), usize::try_from(report.to_responder).unwrap());
}

#[tokio::test]
async fn a_reset_is_noticed_after_the_initiators_end() {
    let ((mut client, initiator), (mut enclave, responder)) = (tcp().await, unix());
    let relay = tokio::spawn(async move { relays().relay(initiator, responder, Vec::new(), 2 * LONG).await });
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut enclave).await, b"question");
    reset(client);
    // Before the ten seconds are over that the answer has, and not as something that did not move.
    assert_eq!(timeout(LONG, relay).await.unwrap().unwrap().outcome, Outcome::Broken);
}

/// Epoll takes no regular file: an error that is no client's.
#[tokio::test]
async fn what_epoll_does_not_take_is_our_own_failure() {
    let file = || OwnedFd::from(tempfile::tempfile().unwrap());
    let (mut other, relayed) = unix();
    let report = relays().relay(relayed, file(), b"x".to_vec(), LONG).await;
    assert_eq!(report, Report { outcome: Outcome::Failed, to_responder: 0, to_initiator: 0 });
    assert_eq!(rest(&mut other).await, b"");
    let (mut other, relayed) = unix();
    assert_eq!(relays().relay(file(), relayed, Vec::new(), LONG).await.outcome, Outcome::Failed);
    assert_eq!(rest(&mut other).await, b"");
}
