//! The public proof: who gets a document, about what, and how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_nitro_enclaves_nsm_api::api::ErrorCode;
use bytes::Bytes;
use der::{Decode as _, Encode as _};
use holdfast_enclave::clock::Clock as _;
use holdfast_enclave::directory::ServedKeyStore;
use holdfast_shared::ids::{BlobId, KeyStoreId};
use holdfast_shared::limits::{PROOFS_PER_SECOND, PROOFS_PER_SECOND_AND_HOST};
use holdfast_shared::proof::{self, ConnectionUserData};
use holdfast_shared::{cbor, labels, sha256};
use serde_json::Value;

use crate::fixture::{Call, HOST, LEASE_MS, PREFIX, World, encrypt_body, health, key_store};
use crate::wire::{Client, client_config, connect_with, pipe};

const NONCE: [u8; 32] = [0x0E; 32];
/// The id of the world's key store.
const ID: KeyStoreId = KeyStoreId([1; 32]);

fn target(query: &str) -> String {
    format!("{}{query}", proof::PATH)
}

fn good() -> String {
    target(&format!("?nonce={}&key_store={ID}", hex::encode(NONCE)))
}

fn request(method: &str, target: &str, host: &str) -> http::Request<String> {
    http::Request::builder().method(method).uri(target).header("host", host).body(String::new()).unwrap()
}

async fn ask(client: &mut Client, method: &str, target: &str) -> http::Response<Bytes> {
    client.send(request(method, target, HOST)).await.unwrap()
}

/// Status and name of an error.
async fn refusal(client: &mut Client, method: &str, target: &str) -> (u16, String) {
    let response = ask(client, method, target).await;
    assert_eq!(response.headers()["content-type"], "application/json", "{method} {target}");
    let body: Value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    (response.status().as_u16(), body["errorName"].as_str().unwrap_or_default().to_owned())
}

/// Nonce, `user_data` and public key of the fixture's documents.
fn fields(document: &[u8]) -> [Option<Vec<u8>>; 3] {
    serde_json::from_slice(document).unwrap()
}

/// Adds a key store to those that the world serves, on the world's gate and keys if `served`.
fn another(world: &World, id: u8, host: &str, prefix: &str, served: bool) {
    let tls = world.ca.identity(host, 1);
    let mut store = key_store(id, 1, host, prefix, &tls);
    if served {
        store = ServedKeyStore { gate: Arc::clone(&world.gate), keys: Arc::clone(&world.keys), ..store };
    }
    let first = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    assert_eq!(world.directory.replace(vec![first, Arc::new(store)]).unwrap(), []);
}

/// The fields are those of DESIGN, section 7, over the key of the certificate that this client saw.
#[tokio::test]
async fn a_document_is_about_this_connection_and_this_key_store() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let (stream, _served) = crate::wire::connect(&world, protocol).await;
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let mut client = Client::over(stream, protocol).await;
        let response = ask(&mut client, "GET", &good()).await;
        assert_eq!(response.status(), 200, "{protocol}");
        assert_eq!(response.headers()["content-type"], "application/cbor");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let [nonce, user_data, public_key] = fields(response.body());
        assert_eq!(nonce.unwrap(), sha256(&[b"holdfast connection nonce v1", &NONCE]));
        assert_eq!(public_key, None);
        let leaf = x509_cert::Certificate::from_der(&leaf).unwrap();
        let key = leaf.tbs_certificate().subject_public_key_info().to_der().unwrap();
        let expected = ConnectionUserData {
            label: labels::ATTEST_CONNECTION.to_owned(),
            key_store_id: ID,
            version: 7,
            blob_id: BlobId([0xB7; 32]),
            tls_public_key_sha256: sha256(&[&key]),
        };
        assert_eq!(cbor::decode::<ConnectionUserData>(&user_data.unwrap()), Ok(expected));
        // The only key store under a host name need not be named.
        let unnamed = ask(&mut client, "GET", &target(&format!("?nonce={}", hex::encode(NONCE)))).await;
        assert_eq!(unnamed.status(), 200);
    }
}

#[tokio::test]
async fn what_is_not_the_request_is_refused_in_order() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let (mut client, _served) = Client::open(&world, protocol).await;
        let nonce = hex::encode(NONCE);
        let unknown = KeyStoreId([9; 32]);
        let table = [
            ("GET", good().replace("attestation", "attestations"), 404, "InvalidUriPathException"),
            ("GET", format!("{PREFIX}{}", good()), 404, "InvalidUriPathException"),
            ("GET", good().replace("/att", "//att"), 404, "InvalidUriPathException"),
            ("POST", good(), 405, "ValidationException"),
            ("PUT", target(""), 405, "ValidationException"),
            ("GET", target(""), 400, "ValidationException"),
            ("GET", target("?"), 400, "ValidationException"),
            ("GET", target("?nonce=00"), 400, "ValidationException"),
            ("GET", target(&format!("?nonce={}", nonce.to_ascii_uppercase())), 400, "ValidationException"),
            ("GET", target(&format!("?nonce={nonce}&key_store=1")), 400, "ValidationException"),
            ("GET", target(&format!("?nonce={nonce}&x=1")), 400, "ValidationException"),
            ("GET", target(&format!("?nonce={nonce}&key_store={unknown}")), 404, "InvalidUriPathException"),
        ];
        for (method, target, status, name) in table {
            assert_eq!(refusal(&mut client, method, &target).await, (status, name.to_owned()), "{method} {target}");
        }
        assert_eq!(ask(&mut client, "POST", &good()).await.headers()["allow"], "GET");
        let head = ask(&mut client, "HEAD", &good()).await;
        assert_eq!((head.status().as_u16(), head.body().len()), (405, 0));
        let mut with_body = request("GET", &good(), HOST);
        *with_body.body_mut() = "{}".to_owned();
        assert_eq!(client.send(with_body).await.unwrap().status(), 400);
        assert_eq!(world.context().counters()["requests_proof"], 0);
    }
}

/// A key store is found under the connection's own host name alone.
#[tokio::test]
async fn of_several_key_stores_the_one_that_is_named_is_spoken_for() {
    let world = World::new();
    another(&world, 2, HOST, "/tenant-2", true);
    let (mut client, _served) = Client::open(&world, "http/1.1").await;
    let unnamed = target(&format!("?nonce={}", hex::encode(NONCE)));
    assert_eq!(refusal(&mut client, "GET", &unnamed).await, (400, "ValidationException".to_owned()));
    for id in [1, 2] {
        let id = KeyStoreId([id; 32]);
        let document = ask(&mut client, "GET", &format!("{unnamed}&key_store={id}")).await;
        let [_, user_data, _] = fields(document.body());
        assert_eq!(cbor::decode::<ConnectionUserData>(&user_data.unwrap()).unwrap().key_store_id, id);
    }
    another(&world, 3, "other.example.com", "/tenant-1", true);
    let elsewhere = format!("{unnamed}&key_store={}", KeyStoreId([3; 32]));
    assert_eq!(refusal(&mut client, "GET", &elsewhere).await, (404, "InvalidUriPathException".to_owned()));
    let misdirected = client.send(request("GET", &good(), "other.example.com")).await.unwrap();
    assert_eq!(misdirected.status(), 421);
}

/// A certificate that comes into service later is not the one that this connection's client was shown.
#[tokio::test]
async fn a_connection_keeps_the_key_that_its_client_saw() {
    let world = World::new();
    let (stream, _served) = crate::wire::connect(&world, "http/1.1").await;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let mut client = Client::over(stream, "http/1.1").await;
    let first = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    let tls = world.ca.identity(HOST, 2);
    let renewed = key_store(1, 1, HOST, PREFIX, &tls);
    let renewed = ServedKeyStore { gate: Arc::clone(&first.gate), keys: Arc::clone(&first.keys), ..renewed };
    assert_eq!(world.directory.replace(vec![Arc::new(renewed)]).unwrap(), []);
    let (later, _served) = crate::wire::connect(&world, "http/1.1").await;
    let renewed = later.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let mut newcomer = Client::over(later, "http/1.1").await;
    for (client, leaf) in [(&mut client, shown), (&mut newcomer, renewed)] {
        let [_, user_data, _] = fields(ask(client, "GET", &good()).await.body());
        let user_data = cbor::decode::<ConnectionUserData>(&user_data.unwrap()).unwrap();
        assert_eq!(Some(user_data.tls_public_key_sha256), proof::tls_public_key_sha256(&leaf));
    }
}

/// Only what could be served with 200 is spoken for; and what changes while the NSM works counts.
#[tokio::test]
async fn no_document_without_lease_keys_and_an_unblocked_key_store() {
    let world = World::new();
    another(&world, 2, HOST, "/tenant-2", false);
    let (mut client, _served) = Client::open(&world, "http/1.1").await;
    let waiting = good().replace(&ID.to_string(), &KeyStoreId([2; 32]).to_string());
    let expired = (503, "DependencyTimeoutException".to_owned());
    assert_eq!(refusal(&mut client, "GET", &waiting).await, expired, "no lease yet");
    let second = world.directory.store(&HOST.parse().unwrap(), &"/tenant-2".parse().unwrap()).unwrap();
    second.gate.set_lease_expiry(LEASE_MS);
    assert_eq!(refusal(&mut client, "GET", &waiting).await, expired, "no keys yet");

    let (gate, clock) = (Arc::clone(&world.gate), world.clock.clone());
    *world.device.0.lock().unwrap() = Some(Box::new(move || {
        gate.set_lease_expiry(clock.monotonic_ms());
        None
    }));
    assert_eq!(refusal(&mut client, "GET", &good()).await, expired, "the lease ended meanwhile");
    *world.device.0.lock().unwrap() = None;
    assert_eq!(refusal(&mut client, "GET", &good()).await, expired);
    world.block_store();
    assert_eq!(refusal(&mut client, "GET", &good()).await, (400, "InvalidStateException".to_owned()));
    world.gate.set_lease_expiry(LEASE_MS);
    assert_eq!(refusal(&mut client, "GET", &good()).await, (400, "InvalidStateException".to_owned()));
}

#[tokio::test]
async fn an_nsm_that_refuses_is_an_internal_error() {
    let world = World::new();
    *world.device.0.lock().unwrap() = Some(Box::new(|| Some(ErrorCode::InternalError)));
    let (mut client, _served) = Client::open(&world, "http/1.1").await;
    assert_eq!(refusal(&mut client, "GET", &good()).await, (500, "InternalException".to_owned()));
}

/// So many per second for one host name, so many for all; KMS is served all the while.
#[tokio::test]
async fn documents_are_rationed_for_each_host_name_and_for_all() {
    let world = World::new();
    let hosts: Vec<String> = (0..PROOFS_PER_SECOND).map(|n| format!("h{n}.example.com")).collect();
    let mut stores: Vec<Arc<ServedKeyStore>> = Vec::new();
    stores.push(world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap());
    for (n, host) in hosts.iter().enumerate() {
        let store = key_store(u8::try_from(n).unwrap() + 10, 1, host, "", &world.ca.identity(host, 1));
        let (gate, keys) = (Arc::clone(&world.gate), Arc::clone(&world.keys));
        stores.push(Arc::new(ServedKeyStore { gate, keys, ..store }));
    }
    assert_eq!(world.directory.replace(stores.clone()).unwrap(), []);
    let context = world.context();
    let made = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&made);
    *world.device.0.lock().unwrap() = Some(Box::new(move || {
        counting.fetch_add(1, Ordering::Relaxed);
        None
    }));
    let taken = async |host: &str| {
        let (stream, _served) = pipe(Arc::clone(&context));
        let config = client_config(&world, holdfast_enclave::tls::provider(), &["http/1.1"]);
        let mut client = Client::over(connect_with(config, host, stream).await.unwrap(), "http/1.1").await;
        let target = target(&format!("?nonce={}", hex::encode(NONCE)));
        for taken in 0.. {
            let response = client.send(request("GET", &target, host)).await.unwrap();
            if response.status() != 200 {
                assert_eq!(
                    (response.status().as_u16(), &response.headers()["retry-after"]),
                    (429, &"1".parse().unwrap())
                );
                assert!(client.send(health_at(host)).await.unwrap().status() == 200, "KMS is served");
                return taken;
            }
        }
        unreachable!()
    };
    // What comes in the first millisecond is added to the burst (`xks::bucket`): here that rounds to nothing.
    let each = PROOFS_PER_SECOND_AND_HOST;
    for host in hosts.iter().take(usize::try_from(PROOFS_PER_SECOND / each).unwrap()) {
        assert_eq!(taken(host).await, each, "{host}");
    }
    assert_eq!(taken(HOST).await, 0, "all together have had theirs");
    world.clock.advance_ms(1000);
    assert_eq!(taken(&hosts[0]).await, each);
    assert_eq!(world.directory.replace(stores).unwrap(), []);
    assert_eq!(taken(&hosts[0]).await, 0, "a new table is no new ration");
    assert_eq!(u32::try_from(made.load(Ordering::Relaxed)).unwrap(), PROOFS_PER_SECOND + each);
}

/// Health of the key store under `host`, which has no path prefix unless it is the world's.
fn health_at(host: &str) -> http::Request<String> {
    let call = health();
    let path = if host == HOST { call.path.clone() } else { call.path.replace(PREFIX, "") };
    Call { host: host.to_owned(), path, ..call }.signed()
}

/// However many wait for a document, a signed request is answered while the NSM does nothing at all.
#[tokio::test]
async fn an_nsm_that_hangs_keeps_nobody_from_being_served() {
    let world = World::new();
    let (go, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    *world.device.0.lock().unwrap() = Some(Box::new(move || {
        let _ = held.lock().unwrap().recv();
        None
    }));
    let context = world.context();
    let mut waiting = Vec::new();
    for _ in 0..PROOFS_PER_SECOND_AND_HOST {
        let (stream, served) = pipe(Arc::clone(&context));
        let config = client_config(&world, holdfast_enclave::tls::provider(), &["http/1.1"]);
        let mut client = Client::over(connect_with(config, HOST, stream).await.unwrap(), "http/1.1").await;
        waiting.push((tokio::spawn(async move { refusal(&mut client, "GET", &good()).await }), served));
    }
    let (mut client, _served) = Client::open(&world, "http/1.1").await;
    let (status, _) = client.call(&Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b"aad"))).await;
    assert_eq!(status, 200);
    for (answer, _served) in waiting {
        assert_eq!(answer.await.unwrap(), (503, "DependencyTimeoutException".to_owned()));
    }
    drop(go);
}
