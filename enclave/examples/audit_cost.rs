//! What the audit log costs a request: processor time of the thread that serves, TLS and HTTP included, without its records, in mode
//! relaxed and in mode strict, in one run.
//!
//! ```console
//! $ cargo run --release -p holdfast-enclave --example audit_cost
//! ```
//!
//! A request cannot be answered without a record, so its cost without one is that of relaxed less that of making the same records by
//! themselves. Entries are framed and written to a file as the parent gets them; the wait for the disk happens on another thread.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement stops where it fails, and prints")]

#[path = "../tests/xks/fixture.rs"]
#[expect(dead_code, reason = "most of it is for tests")]
mod fixture;
#[path = "../tests/xks/wire.rs"]
#[expect(dead_code, reason = "most of it is for tests")]
mod wire;

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use holdfast_enclave::audit::AuditLog;
use holdfast_link::audit::Entries;
use holdfast_shared::audit::{AuditMode, Operation, RequestRecord};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};

use fixture::{ACCESS_KEY_ID, Call, World, encrypt_body, key_id};
use wire::Client;

const REQUESTS: u32 = 20_000;
const CONNECTIONS: u32 = 8;
/// As the connection to the parent waits for more while nobody waits for it.
const LINGER: Duration = Duration::from_millis(10);

fn main() {
    let relaxed = serve(AuditMode::Relaxed);
    let strict = serve(AuditMode::Strict);
    let record = record();
    let none = relaxed - record;
    let line =
        |what: &str, cost: f64| println!("{what:<9} {cost:>8.2} µs of processor time, {:.3} of none", cost / none);
    println!("{REQUESTS} Encrypts of 4 KiB each, over {CONNECTIONS} connections of HTTP/1.1 with TLS:");
    line("none", none);
    line("relaxed", relaxed);
    line("strict", strict);
    println!("a record  {record:>8.2} µs");
}

/// A runtime whose thread does nothing but what is measured.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Microseconds that this thread has computed.
fn spent() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap()).as_secs_f64() * 1e6
}

/// What one request costs the thread that serves.
fn serve(mode: AuditMode) -> f64 {
    let world = Arc::new(World::with_audit(mode));
    runtime().block_on(async {
        let parent = tokio::spawn(keep(Arc::clone(&world.audit.log), mode));
        let (mut clients, mut connections) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let (stream, served) = wire::pipe(world.context());
            connections.push(served);
            let world = Arc::clone(&world);
            clients.push(std::thread::spawn(move || runtime().block_on(ask(&world, stream))));
        }
        let waiter = tokio::task::spawn_blocking(move || {
            for client in clients {
                client.join().unwrap();
            }
        });
        let before = spent();
        waiter.await.unwrap();
        let after = spent();
        drop(connections);
        parent.abort();
        (after - before) / f64::from(REQUESTS)
    })
}

async fn ask(world: &World, stream: tokio::io::DuplexStream) {
    let config = wire::client_config(world, holdfast_enclave::tls::provider(), &["http/1.1"]);
    let stream = wire::connect_with(config, fixture::HOST, stream).await.unwrap();
    let mut client = Client::over(stream, "http/1.1").await;
    let request = Call::new("keys/enabled/encrypt", &encrypt_body(&[7; 4096], b"aad")).signed();
    for _ in 0..REQUESTS / CONNECTIONS {
        let answer = client.send(request.clone()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

/// What one record costs: made by itself, kept and written as those of requests are.
fn record() -> f64 {
    let world = World::new();
    runtime().block_on(async {
        let log = Arc::clone(&world.audit.log);
        let parent = tokio::spawn(keep(Arc::clone(&log), AuditMode::Relaxed));
        let before = spent();
        for number in 0..REQUESTS {
            let record = RequestRecord {
                key: Some(key_id("enabled")),
                key_version: Some(2),
                latency_us: 300,
                kms_request_id: Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae".to_owned()),
                kms_operation: Some("Encrypt".to_owned()),
                principal: Some("arn:aws:iam::123456789012:user/Alice".to_owned()),
                kms_key_arn: Some(
                    "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab".to_owned(),
                ),
                ..RequestRecord::new(Operation::Encrypt, ACCESS_KEY_ID.parse().unwrap())
            };
            log.success(record).unwrap().kept().await.unwrap();
            if number % CONNECTIONS == 0 {
                tokio::task::yield_now().await;
            }
        }
        let after = spent();
        parent.abort();
        (after - before) / f64::from(REQUESTS)
    })
}

/// Frames what is new and stores it, again and again.
async fn keep(log: Arc<AuditLog>, mode: AuditMode) {
    let mut file = tempfile::tempfile().unwrap();
    let mut next = 0_u64;
    loop {
        let mut frame = Entries::new();
        for entry in log.entries(next, 256) {
            if frame.push(&entry).is_err() {
                break;
            }
        }
        if frame.is_empty() {
            let pause = if mode == AuditMode::Strict { Duration::from_micros(50) } else { LINGER };
            tokio::time::sleep(pause).await;
            continue;
        }
        next = next.saturating_add(u64::from(frame.count()));
        file = tokio::task::spawn_blocking(move || store(file, &frame)).await.unwrap();
        log.stored(next);
    }
}

fn store(mut file: File, frame: &Entries) -> File {
    file.write_all(frame.as_bytes()).unwrap();
    file.sync_data().unwrap();
    file
}
