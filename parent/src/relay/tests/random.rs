//! Seeded: random sizes, stalls and ends, on sockets with small buffers. `HOLDFAST_TEST_SEED` repeats a run.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;

use super::*;

const CONNECTIONS: usize = 60;
/// Bytes of one direction at most.
const LENGTH_MAX: u64 = 400_000;

/// `SplitMix64`.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound).unwrap()
    }

    fn bytes(&mut self) -> Vec<u8> {
        // Small ones are as frequent as large ones.
        let bound = LENGTH_MAX >> self.below(16);
        (0..self.below(bound + 1)).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Pieces of all sizes.
    fn piece(&mut self) -> usize {
        let shift = self.below(16);
        1 + self.below(100_000 >> shift)
    }

    /// Now and then a little while, often nothing.
    async fn stall(&mut self) {
        match self.below(16) {
            0 => sleep(Duration::from_micros(self.next() % 3000)).await,
            1..4 => yield_now().await,
            _ => {}
        }
    }
}

/// How a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The client ends its side first, the enclave answers all the same.
    HalfClose,
    /// Both send what they have; then the enclave ends it.
    EnclaveEnds,
    /// The client goes while its own bytes, and the enclave's, are on their way.
    ClientGoes,
    /// The enclave goes so.
    EnclaveGoes,
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8], mut random: Random) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.piece().min(rest.len()));
        if writer.write_all(piece).await.is_err() {
            return false;
        }
        rest = after;
        random.stall().await;
    }
    true
}

/// At most `limit` bytes; fewer at the end or where the connection fails.
async fn receive<R: AsyncRead + Unpin>(reader: &mut R, limit: usize, mut random: Random) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < limit {
        let mut buffer = vec![0; random.piece().min(limit - received.len())];
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
        }
        random.stall().await;
    }
    received
}

/// One connection; gives what it moved, for the failure's message.
async fn connection(relays: Relays, mut random: Random) {
    let way = [Way::HalfClose, Way::EnclaveEnds, Way::ClientGoes, Way::EnclaveGoes][random.below(4)];
    let (client, initiator) = tcp().await;
    let (enclave, responder) = unix();
    for socket in [&initiator, &responder] {
        if random.below(2) == 0 {
            SockRef::from(socket).set_send_buffer_size(SMALL).unwrap();
        }
    }
    let (up, down) = (random.bytes(), random.bytes());
    let first = random.below(3) * up.len() / 4;
    let first_bytes = up[..first].to_vec();
    let relay = tokio::spawn(async move { relays.relay(initiator, responder, first_bytes, LONG).await });
    let (mut client_read, mut client_write) = client.into_split();
    let (mut enclave_read, mut enclave_write) = enclave.into_split();
    let fork = |random: &mut Random| Random(random.next());
    let (one, two, three, four) = (fork(&mut random), fork(&mut random), fork(&mut random), fork(&mut random));
    let orderly = matches!(way, Way::HalfClose | Way::EnclaveEnds);
    // Who goes reads no more than so much.
    let limit = |goes: Way, length: usize, random: &mut Random| {
        if way == goes { random.below(u64::try_from(length).unwrap() + 1) } else { usize::MAX }
    };
    let client_limit = limit(Way::ClientGoes, down.len(), &mut random);
    let enclave_limit = limit(Way::EnclaveGoes, up.len(), &mut random);
    let (client_up, expected_up) = (up[first..].to_vec(), up.clone());
    let (client_done, enclave_waits) = oneshot::channel();
    let client = async {
        let (sent, received) = tokio::join!(
            async {
                let sent = send(&mut client_write, &client_up, one).await;
                if way == Way::HalfClose {
                    client_write.shutdown().await.unwrap();
                }
                sent
            },
            receive(&mut client_read, client_limit, two),
        );
        drop((client_read, client_write));
        let _ = client_done.send(());
        (sent, received)
    };
    let enclave = async {
        let length = if way == Way::EnclaveEnds { expected_up.len() } else { enclave_limit };
        let (sent, received) =
            tokio::join!(send(&mut enclave_write, &down, three), receive(&mut enclave_read, length, four));
        if way == Way::ClientGoes {
            let _ = enclave_waits.await;
        }
        drop((enclave_read, enclave_write));
        (sent, received)
    };
    let ((up_sent, at_client), (down_sent, at_enclave), report) = tokio::join!(client, enclave, relay);
    let report = report.unwrap();
    assert!(expected_up.starts_with(&at_enclave), "{way:?}");
    assert!(down.starts_with(&at_client), "{way:?}");
    assert!(report.to_responder >= u64::try_from(at_enclave.len()).unwrap(), "{way:?} {report:?}");
    assert!(report.to_initiator >= u64::try_from(at_client.len()).unwrap(), "{way:?} {report:?}");
    if orderly {
        assert!(up_sent && down_sent && at_enclave == expected_up && at_client == down, "{way:?} {report:?}");
        let counted = (u64::try_from(expected_up.len()).unwrap(), u64::try_from(down.len()).unwrap());
        assert_eq!((report.to_responder, report.to_initiator), counted, "{way:?}");
        assert_eq!(report.outcome, Outcome::Closed, "{way:?}");
    }
}

async fn connections(count: usize) {
    let fresh = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    let seed = env::var("HOLDFAST_TEST_SEED").map_or_else(|_| fresh(), |seed| seed.parse().unwrap());
    println!("seed: HOLDFAST_TEST_SEED={seed}");
    let mut random = Random(seed);
    let relays = relays();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..count {
        all.spawn(connection(relays.clone(), Random(random.next())));
        // Not all begin at once.
        if all.len() >= 12 {
            timeout(LONG, all.join_next()).await.expect("a connection hangs").unwrap().unwrap();
        }
    }
    while let Some(result) = timeout(LONG, all.join_next()).await.expect("a connection hangs") {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_sizes_stalls_and_ends() {
    connections(CONNECTIONS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_whatever_the_sizes_stalls_and_ends() {
    connections(50 * CONNECTIONS).await;
}
