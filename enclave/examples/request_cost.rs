//! What a request costs the enclave in instructions, beside a bare server of hyper and rustls: for callgrind, which counts the same
//! whatever else the machine does (`scripts/request-cost`).
//!
//! ```console
//! $ cargo run --release -p holdfast-enclave --example request_cost -- encrypt http/1.1 32 100 1000
//! ```
//!
//! Client and server are tasks of one thread that take turns over a pipe in memory, always in the same order. The client runs inside
//! [`client_poll`], during which callgrind is told not to count. What is left is the server's: TLS, HTTP, the pipeline, policy, limits, the
//! record, and handing records on to the parent. Of two runs with different counts of requests, the difference is that of requests alone.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::large_futures,
    reason = "a measurement stops where it fails, prints, and is told what to measure"
)]

#[path = "../tests/xks/fixture.rs"]
#[expect(dead_code, reason = "most of it is for tests")]
mod fixture;
#[path = "../tests/xks/wire.rs"]
#[expect(dead_code, reason = "most of it is for tests")]
mod wire;

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_enclave::audit::AuditLog;
use holdfast_enclave::clock::SteppedClock;
use holdfast_enclave::tls::provider;
use holdfast_enclave::xks::{Guard, PolicyInForce, UseGuards, UseRules};
use holdfast_guard::Policy;
use holdfast_link::audit::Entries;
use holdfast_shared::audit::AuditMode;
use holdfast_shared::keystore::{Quota, UseLimits};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn as client;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

use fixture::{Call, HOST, WALL_MS, World, decrypt_body, encrypt_body, key_id};
use wire::Client;

/// Requests between two handovers of records to the parent.
const HANDOVER: u32 = 32;
/// Of 1,000,000 requests a second: the clock stands still, so a bucket has to hold them all.
const PLENTY: Quota = Quota { requests_per_second: 1_000_000, burst: 1_000_000 };
/// A policy of the usual kind.
const POLICY: &str = r#"
@id("own-account")
permit (principal, action, resource)
when { principal has account && principal.account == "123456789012" };
@id("own-region")
forbid (principal, action, resource)
unless { context has kmsRegion && context.kmsRegion == "us-east-2" };
"#;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, protocol, plaintext, aad, count] = arguments.as_slice() else {
        eprintln!("usage: request_cost encrypt|decrypt|bare-encrypt|bare-decrypt http/1.1|h2 PLAINTEXT AAD REQUESTS");
        std::process::exit(2);
    };
    let (plaintext, aad) = (vec![7; plaintext.parse().unwrap()], vec![8; aad.parse().unwrap()]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (operation, is_bare) = what.strip_prefix("bare-").map_or((what.as_str(), false), |operation| (operation, true));
    let plan = Plan { protocol: protocol.clone(), plaintext, aad, count: count.parse().unwrap() };
    let is_decrypt = operation == "decrypt";
    // Not the first thread: musl tells Cedar that it has hardly any stack. The enclave serves on others, too.
    let measured = std::thread::Builder::new().stack_size(4 * 1024 * 1024);
    let measured = measured.spawn(move || LocalSet::new().block_on(&runtime, plan.run(is_decrypt, is_bare)));
    measured.unwrap().join().unwrap();
    println!("{what} over {protocol}: {count} requests");
}

/// One run.
struct Plan {
    protocol: String,
    plaintext: Vec<u8>,
    aad: Vec<u8>,
    count: u32,
}

impl Plan {
    async fn run(self, is_decrypt: bool, is_bare: bool) {
        let world = Arc::new(World::with(AuditMode::Relaxed, Some(guard())));
        let handover = Arc::new(Notify::new());
        spawn_local(hand_over(Arc::clone(&world.audit.log), Arc::clone(&handover)));
        let encrypt = encrypt_body(&self.plaintext, &self.aad);
        let (mut client, _served) = Client::open(&world, &self.protocol).await;
        let (status, encrypted) = client.call(&Call::new("keys/enabled/encrypt", &encrypt)).await;
        assert_eq!(status, 200, "{encrypted}");
        let decrypt = decrypt_body(&encrypted, &self.aad);
        let (status, decrypted) = client.call(&Call::new("keys/enabled/decrypt", &decrypt)).await;
        assert_eq!((status, fixture::bytes(&decrypted["plaintext"])), (200, self.plaintext));
        let (call, answer) = if is_decrypt {
            (Call::new("keys/enabled/decrypt", &decrypt), decrypted)
        } else {
            (Call::new("keys/enabled/encrypt", &encrypt), encrypted)
        };
        let (stream, bare) = tokio::io::duplex(64 * 1024);
        let stream = if is_bare {
            spawn_local(serve_bare(bare, acceptor(&world), answer));
            stream
        } else {
            let (stream, served) = wire::pipe(world.context());
            spawn_local(served.done);
            core::mem::forget(served.drain);
            stream
        };
        let config = wire::client_config(&world, provider(), &[&self.protocol]);
        let request = call.signed();
        let protocol = self.protocol;
        let ask = async move {
            let stream = wire::connect_with(config, HOST, stream).await.unwrap();
            let mut client = open(stream, &protocol).await;
            for number in 0..self.count {
                let answer = client.send(request.clone()).await.unwrap();
                assert_eq!(answer.status(), 200);
                if number % HANDOVER == 0 {
                    handover.notify_one();
                }
            }
        };
        // What the client spawns is polled with it.
        let tasks = LocalSet::new();
        NotCounted(Box::pin(async move { tasks.run_until(ask).await })).await;
    }
}

/// As [`Client::over`], with all of its tasks on the client's own [`LocalSet`].
async fn open(stream: TlsStream<DuplexStream>, protocol: &str) -> Client {
    let io = TokioIo::new(stream);
    if protocol == "h2" {
        let (sender, connection) = client::http2::handshake(OnLocalSet, io).await.unwrap();
        spawn_local(connection);
        Client::Http2(sender)
    } else {
        let (sender, connection) = client::http1::handshake(io).await.unwrap();
        spawn_local(connection);
        Client::Http1(sender)
    }
}

#[derive(Clone, Copy)]
struct OnLocalSet;

impl<F: Future<Output: 'static> + 'static> Executor<F> for OnLocalSet {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

/// A policy and limits such as a key store has.
fn guard() -> Arc<dyn Guard> {
    // Callgrind has no clock of a thread to read.
    let guards = UseGuards::new(Arc::new(SteppedClock::at(WALL_MS)), || Duration::ZERO);
    let limits = UseLimits { per_key: Some(PLENTY), per_principal: Some(PLENTY), keys: Vec::new() };
    guards.guard(UseRules {
        policy: PolicyInForce::Valid(Box::new(Policy::parse(POLICY).unwrap())),
        quota: Some(PLENTY),
        limits: Some(limits),
        budgets: None,
        keys: vec![key_id("enabled")],
    })
}

/// Frames what is new, as the connection to the parent does, and takes it for stored.
async fn hand_over(log: Arc<AuditLog>, wanted: Arc<Notify>) {
    let mut next = 0_u64;
    loop {
        wanted.notified().await;
        let mut frame = Entries::new();
        for entry in log.entries(next, 256) {
            frame.push(&entry).unwrap();
        }
        next += u64::from(frame.count());
        core::hint::black_box(frame.as_bytes());
        log.stored(next);
    }
}

/// TLS as the enclave offers it.
fn acceptor(world: &World) -> TlsAcceptor {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let leaf = world.ca.sign(&params, &key);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.into()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// The bare server: reads a request and gives an answer of the same size as the real one.
async fn serve_bare(stream: DuplexStream, acceptor: TlsAcceptor, answer: Value) {
    let stream = acceptor.accept(stream).await.unwrap();
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let answer = Bytes::from(answer.to_string());
    let service = service_fn(move |request: http::Request<Incoming>| {
        let answer = answer.clone();
        async move {
            core::hint::black_box(request.into_body().collect().await?.to_bytes());
            let mut response = http::Response::new(Full::new(answer));
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
            Ok::<_, hyper::Error>(response)
        }
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        http2::Builder::new(TokioExecutor::new()).auto_date_header(false).serve_connection(io, service).await.unwrap();
    } else {
        http1::Builder::new().auto_date_header(false).serve_connection(io, service).await.unwrap();
    }
}

/// The client: polled where callgrind does not count.
struct NotCounted(Pin<Box<dyn Future<Output = ()>>>);

impl Future for NotCounted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        client_poll(self.0.as_mut(), cx)
    }
}

/// By this name callgrind knows what is the client's.
#[inline(never)]
fn client_poll(client: Pin<&mut dyn Future<Output = ()>>, cx: &mut Context<'_>) -> Poll<()> {
    core::hint::black_box(client.poll(cx))
}
