//! The same over HTTPS, with the client that enclaves and administrators use.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use holdfast_client::{ClientError, CustodianClient, Tcp};
use holdfast_custodian::config::{Config, TlsSource};
use holdfast_custodian::{http_api, server, tls};
use holdfast_shared::api::{self, RefusalCode};
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::ids::{BootId, KeyStoreId, LeaseId};
use holdfast_shared::limits;
use holdfast_shared::manifest::{ManifestChain, ReleasePolicy};
use holdfast_shared::policy;
use holdfast_shared::release::{ChallengeAnswer, ChallengeRequest, PROTOCOL};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::world::{World, custodian_entry, rng};

const TIMEOUT: Duration = Duration::from_secs(30);

struct Service {
    world: World,
    client: CustodianClient<Tcp>,
    port: u16,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Service {
    async fn start() -> Self {
        let world = World::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = format!(
            "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:{port}\"\nstate = \"state\"\n\
             administrators = []\n"
        );
        let config = Config::parse(&world.directory.path().join("custodian.toml"), &text).unwrap();
        assert!(matches!(config.tls, TlsSource::OwnAuthority { .. }));
        let state = holdfast_custodian::state::StateDirectory::new(config.state.clone());
        let settings = tls::server_config(&config, &state, world.id(), world.now_ms()).unwrap();
        let router = http_api::router(Arc::clone(&world.custodian));
        let stop = watch::Sender::new(false);
        let stopped = stop.subscribe();
        let task = tokio::spawn(server::serve(listener, settings, router, Arc::clone(&world.custodian), stopped));
        let mut entry = custodian_entry(&world.record);
        entry.address = format!("localhost:{port}");
        let client = CustodianClient::new(Tcp, &entry).unwrap();
        Self { world, client, port, stop, task }
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        self.client.post(path, body, limits::CHANNEL_MESSAGE_MAX, TIMEOUT).await
    }

    async fn refusal(&self, path: &str, body: Vec<u8>) -> RefusalCode {
        match self.post(path, body).await {
            Err(error) => error.refusal().unwrap_or_else(|| panic!("not a refusal: {error}")).code,
            Ok(_) => panic!("{path} should refuse"),
        }
    }
}

#[tokio::test]
async fn each_path_answers_and_refuses_in_its_own_format() {
    let service = Service::start().await;
    let request = |key_store_id| cbor::encode(&ChallengeRequest { protocol: PROTOCOL, key_store_id }).to_vec();
    let answer = service.post(api::CHALLENGE, request(service.world.key_store_id)).await.unwrap();
    cbor::decode::<ChallengeAnswer>(&answer).unwrap();
    assert_eq!(service.post(api::MANIFESTS, service.world.signed_manifest()).await.unwrap(), b"");
    let table = [
        (api::CHALLENGE, request(KeyStoreId([1; 32])), RefusalCode::NotFound),
        (api::CHALLENGE, vec![0; 100], RefusalCode::Malformed),
        (api::CHALLENGE, vec![0; 200], RefusalCode::Malformed),
        (api::RELEASE, vec![0; 100], RefusalCode::Malformed),
        (api::RELEASE, vec![0; 60_000], RefusalCode::Malformed),
        (api::CHANNEL, vec![0; 100], RefusalCode::Malformed),
        (api::CHANNEL, vec![0; 1_000_000], RefusalCode::Malformed),
        (api::MANIFESTS, vec![0; 100], RefusalCode::Denied),
        (api::COMMANDS, vec![0; 100], RefusalCode::Malformed),
        (api::BLOCKS, vec![0; 100_000], RefusalCode::Malformed),
        (api::BLOCKS, vec![0; limits::BLOCK_OVERLAY_MAX + 1], RefusalCode::Malformed),
        (api::MANIFEST_CHAINS, vec![0; 100], RefusalCode::Malformed),
        (api::MANIFEST_CHAINS, vec![0; <ManifestChain as cbor::Message>::MAX + 1], RefusalCode::Malformed),
        (api::SUCCESSORS, vec![0; 100], RefusalCode::Malformed),
        (api::SUCCESSORS, vec![0; limits::MANIFEST_MAX + 1], RefusalCode::Malformed),
        (api::POLICIES, vec![0; 100], RefusalCode::Malformed),
        (api::POLICIES, vec![0; limits::MANIFEST_MAX + 1], RefusalCode::Malformed),
        (api::APPROVALS, vec![0; 100], RefusalCode::Malformed),
        (api::APPROVALS, vec![0; 4_000], RefusalCode::Malformed),
        (api::QUERIES, vec![0; 100], RefusalCode::Malformed),
        ("/v1/elsewhere", Vec::new(), RefusalCode::NotFound),
        ("/", Vec::new(), RefusalCode::NotFound),
    ];
    let policy = service.world.manifest.release_policy.clone();
    let update = service.world.update(ReleasePolicy { epoch: 2, ..policy });
    let update = policy::sign(&update, &service.world.alice.signing_key, &rng()).unwrap();
    assert_eq!(service.post(api::POLICIES, cbor::encode(&update).to_vec()).await.unwrap(), b"");
    let approval = service.world.approval(BootId([1; 16]), service.world.now_ms() + 1000, &service.world.alice);
    assert_eq!(service.post(api::APPROVALS, approval).await.unwrap(), b"");
    let (_, successor) = service.world.successor(|_| {}, &[&service.world.alice]);
    assert_eq!(service.post(api::SUCCESSORS, successor).await.unwrap(), b"");
    for (path, body, code) in table {
        let length = body.len();
        assert_eq!(service.refusal(path, body).await, code, "{path} with {length} bytes");
    }
    service.stop.send_replace(true);
    service.task.await.unwrap();
}

#[tokio::test]
async fn a_long_message_without_a_living_lease_is_not_read() {
    let service = Service::start().await;
    let mut enclave = service.world.obtain().await;
    let blob = vec![7; 200_000];
    let ask = Ask::Publish { version: 1, previous: None, blob, results: Vec::new(), evidence: Vec::new() };
    // With a lease it is read, and refused for what it says.
    let answer = service.post(api::CHANNEL, enclave.next(&ask)).await.unwrap();
    assert!(matches!(enclave.open(&answer, enclave.counter), Reply::Refused { lease_ended: false, .. }));
    enclave.content.lease_id = LeaseId([1; 16]);
    assert_eq!(service.refusal(api::CHANNEL, enclave.next(&ask)).await, RefusalCode::NotFound);
}

/// A body that never comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn strangers_who_send_long_bodies_slowly_keep_no_enclave_from_publishing() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    let service = TowerToHyperService::new(http_api::router(Arc::clone(&world.custodian)));
    let request = |path: &str, length: usize, body| {
        http::Request::post(path)
            .header("content-type", api::CONTENT_TYPE)
            .header("content-length", length)
            .body(body)
            .unwrap()
    };
    let mut strangers = JoinSet::new();
    for _ in 0..limits::CUSTODIAN_LARGE_BODIES_MAX {
        strangers.spawn(service.call(request(api::BLOCKS, 100_000, axum::body::Body::new(Never))));
    }
    tokio::task::yield_now().await;
    let ask =
        Ask::Publish { version: 1, previous: None, blob: vec![7; 200_000], results: Vec::new(), evidence: Vec::new() };
    let message = enclave.next(&ask);
    let answer = service.call(request(api::CHANNEL, message.len(), message.into()));
    let answer = tokio::time::timeout(TIMEOUT / 2, answer).await.expect("the enclave has to wait").unwrap();
    assert_eq!(answer.status(), http::StatusCode::OK);
    strangers.abort_all();
}

#[tokio::test]
async fn a_block_reaches_a_waiting_enclave_within_a_second() {
    let service = Service::start().await;
    let (mut enclave, _) = service.world.found().await;
    let seen = Seen { version: 1, ..Seen::default() };
    let message = enclave.next(&Ask::Watch { seen, renew: false });
    let waiting = service.post(api::CHANNEL, message);
    let blocking = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let overlay = service.world.signed_overlay(&service.world.overlay(1, true));
        service.post(api::BLOCKS, overlay).await.unwrap();
        Instant::now()
    };
    let (answer, blocked) = tokio::join!(waiting, blocking);
    assert!(blocked.elapsed() < Duration::from_secs(1));
    let reply = enclave.open(&answer.unwrap(), enclave.counter);
    assert!(matches!(reply, Reply::News { overlay: Some(_), .. }), "{reply:?}");
}

#[tokio::test]
async fn strangers_get_no_answer_outside_tls_and_http() {
    let service = Service::start().await;
    let mut plain = TcpStream::connect(("127.0.0.1", service.port)).await.unwrap();
    plain.write_all(b"POST /v1/challenge HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // The service goes on.
    let request =
        cbor::encode(&ChallengeRequest { protocol: PROTOCOL, key_store_id: service.world.key_store_id }).to_vec();
    service.post(api::CHALLENGE, request).await.unwrap();
}
