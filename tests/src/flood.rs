//! Clients that cost more than they should, and one that behaves as KMS does while they are at it.
//!
//! Guarantees: a [`Flood`] goes on until it is dropped, and ends with it; a [`Witness`] sends signed requests all the time, on
//! connections that it keeps and on new ones, tries a request once more on a new connection as KMS does, and keeps every
//! failure, and how long each answer took. What is printed of that is a measurement of one run on one machine, shared with
//! the attackers and everything else that runs there; nothing is asserted of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::load::{Line, Mode};
use crate::random::random_bytes;
use crate::system::{Caller, REGION};
use crate::wait::until;

pub mod attack;

pub use attack::Attack;

/// Longest wait for one answer. KMS waits 250 ms; a busy machine is no fault of the proxy's.
const ANSWER: Duration = Duration::from_secs(20);
/// Pause between two requests of a witness.
const PACE: Duration = Duration::from_millis(10);

/// Raises this process's own limit of file descriptors as far as it goes.
///
/// # Panics
/// If that is less than needed, saying so.
pub fn need_files(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    assert!(allowed >= needed, "this test needs {needed} file descriptors and may have {allowed}: see `ulimit -Hn`");
    if limit.current.is_some_and(|current| current < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum }).unwrap();
    }
}

/// An attack by many clients at once.
pub struct Flood {
    rounds: Arc<AtomicU64>,
    _clients: JoinSet<()>,
}

impl Flood {
    /// So many clients, each round after round with a pause between them.
    #[must_use]
    pub fn start(attack: Attack, target: &Caller, clients: usize, pause: Duration) -> Self {
        let rounds = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for number in 0..clients {
            let (target, rounds) = (target.clone(), Arc::clone(&rounds));
            running.spawn(async move {
                // Not all in the same moment.
                sleep(pause * u32::try_from(number).unwrap() / u32::try_from(clients).unwrap()).await;
                loop {
                    rounds.fetch_add(1, Ordering::Relaxed);
                    // However it ends for the attacker.
                    let _ = attack.round(&target).await;
                    sleep(pause).await;
                }
            });
        }
        Self { rounds, _clients: running }
    }

    /// How often a client has begun.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits until so many rounds have begun.
    pub async fn has_begun(&self, rounds: u64) {
        until(&format!("{rounds} rounds of the flood"), || async { (self.rounds() >= rounds).then_some(()) }).await;
    }
}

struct Watched {
    caller: Caller,
    key: String,
    stopped: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    latencies: Vec<Duration>,
    retries: u64,
    failures: Vec<String>,
}

/// See the module.
pub struct Witness {
    watched: Arc<Watched>,
    clients: JoinSet<()>,
}

impl Witness {
    /// Starts one client for each mode.
    #[must_use]
    pub fn start(caller: &Caller, key: &str, modes: &[Mode]) -> Self {
        let watched = Arc::new(Watched {
            caller: caller.clone(),
            key: key.to_owned(),
            stopped: AtomicBool::new(false),
            seen: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        for mode in modes {
            clients.spawn(watch(Arc::clone(&watched), *mode));
        }
        Self { watched, clients }
    }

    fn answered(&self) -> usize {
        self.watched.seen.lock().unwrap().latencies.len()
    }

    /// Waits for so many more answers, prints how long they took, and fails if one failed.
    pub async fn report(&self, what: &str, answers: usize) {
        let goal = self.answered() + answers;
        until(&format!("{answers} more answers during {what}"), || async {
            self.assert_unharmed(what);
            (self.answered() >= goal).then_some(())
        })
        .await;
        self.assert_unharmed(what);
        let mut seen = std::mem::take(&mut *self.watched.seen.lock().unwrap());
        seen.latencies.sort_unstable();
        let at = |hundredths: usize| {
            let index = (seen.latencies.len() * hundredths / 100).min(seen.latencies.len() - 1);
            seen.latencies[index].as_secs_f64() * 1000.0
        };
        eprintln!(
            "{what}: {} answers, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms, {} sent again (on this machine, in this run)",
            seen.latencies.len(),
            at(50),
            at(99),
            at(100),
            seen.retries,
        );
    }

    fn assert_unharmed(&self, what: &str) {
        let failures = self.watched.seen.lock().unwrap().failures.clone();
        assert!(failures.is_empty(), "{what}: beside {} answers: {failures:?}", self.answered());
    }

    /// Stops, and fails if a request has failed.
    pub async fn finish(mut self) {
        self.watched.stopped.store(true, Ordering::SeqCst);
        while self.clients.join_next().await.is_some() {}
        self.assert_unharmed("the end");
    }
}

async fn watch(watched: Arc<Watched>, mode: Mode) {
    let client = watched.caller.client();
    let path = client.path(&format!("keys/{}/encrypt", watched.key));
    let body = json!({
        "requestMetadata": {
            "awsPrincipalArn": "arn:aws:iam::123456789012:user/witness",
            "kmsKeyArn": format!("arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-000000000000"),
            "kmsOperation": "Encrypt",
            "kmsRequestId": hex::encode(random_bytes::<16>()),
        },
        "plaintext": "SGVsbG8gV29ybGQh",
        "encryptionAlgorithm": "AES_GCM",
    });
    let mut kept = None;
    while !watched.stopped.load(Ordering::SeqCst) {
        let request = client.signed(&Method::POST, &path, body.to_string().into(), SystemTime::now()).unwrap();
        let started = Instant::now();
        let mut result = attempt(&watched, mode, &mut kept, request.clone()).await;
        let first = result.clone();
        if result.is_err() {
            result = attempt(&watched, mode, &mut kept, request).await;
        }
        let took = started.elapsed();
        {
            let mut seen = watched.seen.lock().unwrap();
            seen.retries += u64::from(first.is_err());
            match result {
                Ok(()) => seen.latencies.push(took),
                Err(error) => seen.failures.push(format!("{mode:?}: {}; again: {error}", first.unwrap_err())),
            }
        }
        sleep(PACE).await;
    }
}

async fn attempt(
    watched: &Watched,
    mode: Mode,
    kept: &mut Option<Line>,
    request: Request<Bytes>,
) -> Result<(), String> {
    let exchange = async {
        let mut line = if let Some(line) = kept.take() {
            line
        } else {
            let mut wire = watched.caller.wire();
            wire.http2 = mode == Mode::Http2;
            Line::over(&wire).await?
        };
        let (status, answer) = line.send(request).await?;
        if status != StatusCode::OK {
            return Err(format!("{status}: {answer}"));
        }
        *kept = Some(line).filter(|_| mode != Mode::Fresh);
        Ok(())
    };
    timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")))
}

/// Reads until the other side ends the connection.
async fn until_ended(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// Sends one byte after the other until the other side has enough.
async fn drip(stream: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes.iter().cycle() {
        stream.write_u8(*byte).await?;
        stream.flush().await?;
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn tls(target: &Caller, http2: bool) -> Result<TlsStream<TcpStream>, String> {
    let mut wire = target.wire();
    wire.http2 = http2;
    wire.connect().await
}
