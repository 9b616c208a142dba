//! Many tenants in one enclave: nothing crosses, and none pays for what is done for another.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use holdfast_devkit::xks_client::{HttpVersion, XksAnswer};
use holdfast_tests::client::{Wire, WireAnswer};
use holdfast_tests::load::{Load, Mode};
use holdfast_tests::system::{AAD, Caller, KEY, Options, System, Tenant, TenantOptions, credential_of};
use holdfast_tests::wait::{soon, until};
use http::{Method, Request, StatusCode, Uri};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CLIENTS: [Mode; 4] = [Mode::Http1, Mode::Http2, Mode::Fresh, Mode::Http2];

/// Longest prefix that `XksProxyUriPath` has room for: 128 characters with `/kms/xks/v1`.
fn longest_prefix() -> String {
    format!("/{}", "p".repeat(128 - "/kms/xks/v1".len() - 1))
}

async fn metadata(caller: &Caller, key: &str) -> WireAnswer {
    send(caller, caller, &format!("keys/{key}/metadata")).await
}

/// A request to the host and path of `to`, signed with the credential of `by`.
async fn send(to: &Caller, by: &Caller, path: &str) -> WireAnswer {
    let caller = Caller { credential: by.credential.clone(), ..to.clone() };
    exchange(&caller.wire(), signed(&caller, path)).await
}

async fn exchange(wire: &Wire, request: Request<Bytes>) -> WireAnswer {
    soon("an answer", Box::pin(wire.send(request))).await.unwrap()
}

fn signed(caller: &Caller, path: &str) -> Request<Bytes> {
    let client = caller.client();
    let body = json!({ "requestMetadata": {
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/u", "kmsOperation": "DescribeKey", "kmsRequestId": "1",
    }});
    client.signed(&Method::POST, &client.path(path), body.to_string().into(), SystemTime::now()).unwrap()
}

fn error_of(answer: &XksAnswer) -> &str {
    answer.text("errorName").unwrap_or_default()
}

/// Nothing that a tenant can see tells of another: names, ids, keys, addresses.
fn assert_tells_nothing_of(answer: &[u8], other: &Tenant) {
    let text = String::from_utf8_lossy(answer).to_lowercase();
    let custodian = other.custodian.as_ref().map(holdfast_tests::system::CustodianProcess::address);
    for secret in [
        other.key_store_id().to_string(),
        other.caller.host_name.clone(),
        other.caller.credential.access_key_id.to_lowercase(),
        other.administrator.id().to_string(),
    ]
    .into_iter()
    .chain(custodian)
    {
        assert!(!text.contains(&secret), "{secret} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_one_tenant_is_reached_through_another() {
    let mut system = System::start(Options { path_prefix: "/a", ..Options::default() }).await;
    let first = system.caller();
    let bob = system.add_tenant(TenantOptions::new("bob").under(&longest_prefix())).await;
    let keys = vec![(KEY, "encrypt,decrypt"), ("carols-own", "encrypt,decrypt")];
    let shared = TenantOptions { shares_custodian: true, keys, ..TenantOptions::new("carol") };
    let carol = system.add_tenant(shared).await;

    // A key of another's through my path is a key that does not exist, byte for byte.
    let (others, nobodys) = (metadata(&bob.caller, "carols-own").await, metadata(&bob.caller, "nobodys").await);
    assert_eq!(others.status, StatusCode::NOT_FOUND);
    assert_eq!(others.json()["errorName"], "KeyNotFoundException");
    assert_eq!((others.status, others.body.clone()), (nobodys.status, nobodys.body));
    assert_eq!(metadata(&carol.caller, "carols-own").await.status, StatusCode::OK);

    // Another's credential on my path is one that nobody has, byte for byte.
    let mut unknown = carol.caller.clone();
    unknown.credential.access_key_id = "A".repeat(25);
    let with_others = send(&bob.caller, &carol.caller, "keys/both/metadata").await;
    let with_unknown = send(&bob.caller, &unknown, "keys/both/metadata").await;
    assert_eq!(with_others.status, StatusCode::UNAUTHORIZED);
    assert_eq!(with_others.json()["errorName"], "AuthenticationFailedException");
    assert_eq!((with_others.status, with_others.body.clone()), (with_unknown.status, with_unknown.body));

    // One id in two key stores names two keys.
    let encrypted = bob.caller.client().encrypt(KEY, b"bob's", Some(AAD)).await.unwrap();
    assert_eq!(encrypted.status, StatusCode::OK);
    let crossed = carol.caller.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
    assert_eq!((crossed.status, error_of(&crossed)), (StatusCode::BAD_REQUEST, "InvalidCiphertextException"));
    let opened = bob.caller.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
    assert_eq!(opened.bytes("plaintext").as_deref(), Some(b"bob's".as_slice()));

    // A path prefix counts under its own host only.
    let moved = Caller { path_prefix: bob.caller.path_prefix.clone(), ..carol.caller.clone() };
    let answer = send(&moved, &bob.caller, "keys/both/metadata").await;
    assert_eq!(
        (answer.status, answer.json()["errorName"].clone()),
        (StatusCode::NOT_FOUND, "InvalidUriPathException".into())
    );

    for answer in [&others, &with_others, &answer] {
        for tenant in [&bob, &carol] {
            assert_tells_nothing_of(&answer.body, tenant);
        }
    }
    let certificates: BTreeSet<_> = [&first, &bob.caller, &carol.caller]
        .map(|caller| {
            let client = caller.client();
            async move { client.health().await.unwrap().certificate_sha256 }
        })
        .into_iter()
        .collect::<tokio::task::JoinSet<_>>()
        .join_all()
        .await
        .into_iter()
        .collect();
    assert_eq!(certificates.len(), 3, "each host has its own certificate");
    connections_speak_for_one_host(&bob.caller, &carol.caller).await;
    Box::pin(sessions_do_not_cross(&bob.caller, &carol.caller)).await;
    the_operator_sees_ids(&system, &[&bob, &carol]).await;
    system.assert_no_panic();
}

/// SNI of one tenant, authority of another: 421, however well it is signed.
async fn connections_speak_for_one_host(bob: &Caller, carol: &Caller) {
    for http2 in [false, true] {
        // Signed for carol, with her credential, and valid there.
        let request = signed(carol, "keys/both/metadata");
        let direct = Wire { http2, ..carol.wire() };
        assert_eq!(exchange(&direct, clone_of(&request)).await.status, StatusCode::OK);
        let coalesced = Wire { http2, ..bob.wire() };
        let answer = exchange(&coalesced, clone_of(&request)).await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "HTTP/2: {http2}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("carol"));
    }
    // Nobody's certificate for nobody's name, and never carol's for bob's: the roots differ, so the handshake says so.
    let stranger = Wire { server_name: "nobody.test".to_owned(), ..bob.wire() };
    let error = stranger.connect().await.unwrap_err();
    assert!(error.to_lowercase().contains("unrecognised"), "{error}");
    let crossed = Wire { roots: carol.roots.clone(), ..bob.wire() };
    let error = crossed.connect().await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
}

fn clone_of(request: &Request<Bytes>) -> Request<Bytes> {
    let mut copy = Request::builder().method(request.method()).uri(Uri::clone(request.uri()));
    *copy.headers_mut().unwrap() = request.headers().clone();
    copy.body(request.body().clone()).unwrap()
}

/// The parent's operator reads ids, states and totals: nothing else of any tenant, and no count of one.
async fn the_operator_sees_ids(system: &System, tenants: &[&Tenant]) {
    let status = system.parent_status().await;
    let told = &status["enclave"]["status"];
    let known: BTreeSet<_> = ["key_store_id", "state", "version", "lease_remaining_ms", "reason"].into();
    for store in told["detail"].as_array().unwrap() {
        assert!(store.as_object().unwrap().keys().all(|field| known.contains(field.as_str())), "{store}");
    }
    let counters = told["counters"].as_object().unwrap();
    for tenant in tenants {
        let id = tenant.key_store_id().to_string();
        assert!(
            told["detail"].as_array().unwrap().iter().any(|store| store["key_store_id"] == Value::String(id.clone()))
        );
        assert!(counters.keys().all(|name| !name.contains(&id[..8]) && !name.contains("bob")), "{counters:?}");
        let texts = [status.to_string()].into_iter().chain(system.logs().into_iter().map(|(_, log)| log));
        for text in texts {
            for hidden in [&tenant.caller.credential.secret_access_key, &tenant.caller.credential.access_key_id] {
                assert!(!text.contains(hidden.as_str()), "{hidden} in a log or status");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_settles_who_a_host_name_belongs_to_and_otherwise_nobody_has_it() {
    let mut system = System::start(Options { provable: true, path_prefix: "/a", ..Options::default() }).await;
    let alice = Load::start("alice", &system.caller(), KEY, &CLIENTS[..2]);

    // Mallory claims alice's host, with a certificate of his own making. Hers is proven.
    let hijack = TenantOptions::new("mallory").at("localhost").under("/m");
    let mut mallory = system.new_tenant(hijack).await;
    mallory.enlist();
    mallory.prepare_quietly(&system);
    system.reports_of(mallory.key_store_id(), "Refused", "proven by another").await;
    let at_once = send(&system.caller(), &mallory.caller, "keys/both/metadata").await;
    assert_eq!(at_once.status, StatusCode::UNAUTHORIZED);
    let path = Caller { roots: system.caller().roots, ..mallory.caller.clone() };
    assert_eq!(send(&path, &mallory.caller, "keys/both/metadata").await.status, StatusCode::NOT_FOUND);

    // Where nobody proves anything, nobody is served, and the report says why.
    let bob = system.add_tenant(TenantOptions::new("bob").at("shared.test").under("/b")).await;
    let mut eve = system.new_tenant(TenantOptions::new("eve").at("shared.test").under("/e")).await;
    eve.enlist();
    for tenant in [&bob, &eve] {
        system.reports_of(tenant.key_store_id(), "Refused", "proven by none").await;
    }
    assert!(bob.caller.wire().connect().await.is_err(), "no handshake for a name that is nobody's");
    eve.prepare_quietly(&system);
    system.reports_of(eve.key_store_id(), "Refused", "proven by none").await;
    system.logged("parent", &format!("key store {}: host name collision", eve.key_store_id())).await;

    // It is settled the same way after a start, whoever is open first.
    alice.goes_on(10).await;
    let count = alice.finish().await;
    println!("{count} requests of alice's, none failed");
    system.start_enclave().await;
    system.serving().await;
    for (tenant, reason) in [(&mallory, "proven by another"), (&bob, "proven by none"), (&eve, "proven by none")] {
        system.reports_of(tenant.key_store_id(), "Refused", reason).await;
    }

    // The parent's operator settles it by taking a manifest away.
    eve.remove();
    bob.caller.serving().await;
    system.reports_of(bob.key_store_id(), "Serving", "").await;
    assert!(eve.caller.wire().connect().await.is_err());
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_owner_divides_a_host_by_prefixes_and_every_start_serves_the_same_certificate() {
    let mut system = System::start(Options { path_prefix: "/a", ..Options::default() }).await;
    let second = TenantOptions {
        administrator: Some(system.administrator.clone()),
        shares_custodian: true,
        own_authority: false,
        ..TenantOptions::new("second").at("localhost").under("/a/b")
    };
    let second = system.add_tenant(second).await;
    system.serving().await;
    let certificate = |caller: Caller| async move { caller.client().health().await.unwrap().certificate_sha256 };
    let served = certificate(system.caller()).await;
    assert_eq!(certificate(second.caller.clone()).await, served, "one certificate for the host");
    for _ in 0..2 {
        system.start_enclave().await;
        system.serving().await;
        second.caller.serving().await;
        assert_eq!(certificate(system.caller()).await, served);
    }
    // Two key stores of one owner are still two: keys and credentials do not cross.
    let answer = send(&second.caller, &system.caller(), "keys/both/metadata").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let encrypted = system.encrypt(KEY).await;
    let crossed = second.caller.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
    assert_eq!(error_of(&crossed), "InvalidCiphertextException");
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_come_and_go_under_load_and_cost_the_others_nothing() {
    let mut system = System::start(Options { path_prefix: "/a", ..Options::default() }).await;
    let bob = system.add_tenant(TenantOptions::new("bob").under("/b")).await;
    let loads = [Load::start("alice", &system.caller(), KEY, &CLIENTS), Load::start("bob", &bob.caller, KEY, &CLIENTS)];
    let unharmed = async || {
        for load in &loads {
            load.goes_on(5).await;
        }
    };
    unharmed().await;

    let short = TenantOptions { lease: "10s", ..TenantOptions::new("carol").under("/c") };
    let carol = system.add_tenant(short).await;
    unharmed().await;

    carol.carry_out(&["block", "--store"]);
    answered(&carol.caller, StatusCode::BAD_REQUEST, "InvalidStateException").await;
    carol.carry_out(&["unblock", "--store"]);
    carol.caller.serving().await;
    unharmed().await;

    let client = || carol.caller.client();
    let before = client().health().await.unwrap().certificate_sha256;
    carol.install_certificate(&system);
    until("another certificate", || async {
        (client().health().await.ok()?.certificate_sha256 != before).then_some(())
    })
    .await;
    unharmed().await;

    // Alice's credential is changed while she is called.
    let old = system.credential.clone();
    let new = credential_of(&system.order(&["credential", "create", "--show-secret"]));
    loads[0].sign_with(&new);
    unharmed().await;
    system.order(&["credential", "remove", &old.access_key_id]);
    unharmed().await;
    answered(&system.caller(), StatusCode::UNAUTHORIZED, "AuthenticationFailedException").await;

    gone(&system, &carol).await;
    unharmed().await;
    for load in loads {
        println!("{} requests, none failed", load.finish().await);
    }
    system.assert_no_panic();
}

async fn answered(caller: &Caller, status: StatusCode, name: &str) {
    until(&format!("{status} {name}"), || async {
        let answer = caller.client().encrypt(KEY, b"x", None).await.ok()?;
        (answer.status == status && error_of(&answer) == name).then_some(())
    })
    .await;
}

/// After its removal a tenant has no handshake, no path on connections that were open, no lease and no keys.
async fn gone(system: &System, carol: &Tenant) {
    let client = carol.caller.client().over(HttpVersion::Http1);
    assert_eq!(client.health().await.unwrap().status, StatusCode::OK);
    let stream = carol.caller.wire().connect().await.unwrap();
    let (mut open, connection) =
        hyper::client::conn::http1::handshake::<_, http_body_util::Full<Bytes>>(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    carol.remove();
    system.logged("parent", &format!("key store {}: no longer served", carol.key_store_id())).await;

    let error = carol.caller.wire().connect().await.unwrap_err();
    assert!(error.to_lowercase().contains("unrecognised"), "{error}");
    let mut request = signed(&carol.caller, "keys/both/metadata").map(http_body_util::Full::new);
    let host = request.uri().authority().unwrap().as_str().parse().unwrap();
    request.headers_mut().insert(http::header::HOST, host);
    *request.uri_mut() = request.uri().path().parse().unwrap();
    let answer = soon("an answer", open.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND, "on a connection that was open");
    until("nothing is reported of it", || async {
        system.reported(carol.key_store_id()).await.is_none().then_some(())
    })
    .await;

    // Nobody asks its custodian for anything any more: no lease is renewed.
    let holdfast_tests::system::Front::Tap(tap) = &carol.custodian.as_ref().unwrap().front else { unreachable!() };
    let asked = tap.recorded().len();
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(tap.recorded().len(), asked, "a third of its lease has passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_credentials_live_at_once_up_to_a_limit() {
    let system = System::start(Options::default()).await;
    let mut all = vec![system.credential.clone()];
    while all.len() < holdfast_shared::limits::CREDENTIALS_MAX {
        all.push(credential_of(&system.order(&["credential", "create", "--show-secret"])));
    }
    let refused = system.administrator.holdfast(&["credential", "create", "--json"]);
    assert_ne!(refused.code(), Some(0));
    assert!(refused.complaint().contains("remove one first"), "{}", refused.complaint());
    for credential in &all {
        let caller = Caller { credential: credential.clone(), ..system.caller() };
        until("every credential is live", || async {
            caller.client().health().await.ok().filter(|answer| answer.status == StatusCode::OK).map(drop)
        })
        .await;
    }
    system.order(&["credential", "remove", &all[0].access_key_id]);
    answered(&system.caller(), StatusCode::UNAUTHORIZED, "AuthenticationFailedException").await;
    let last = Caller { credential: all[1].clone(), ..system.caller() };
    assert_eq!(last.client().health().await.unwrap().status, StatusCode::OK);
}

/// Not asserted on, but printed: how long a hundred key stores take from the start of the enclave until all serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_hundred_key_stores_start_together() {
    let mut system = System::start(Options { path_prefix: "/a", ..Options::default() }).await;
    let mut tenants = Vec::new();
    for number in 0..100_u32 {
        let name: &'static str = Box::leak(format!("t{number}").into_boxed_str());
        let options = TenantOptions {
            administrator: Some(system.administrator.clone()),
            shares_custodian: true,
            own_authority: false,
            keys: if number % 10 == 0 { vec![(KEY, "encrypt,decrypt")] } else { Vec::new() },
            ..TenantOptions::new(name).at("localhost").under(&format!("/t/{number}"))
        };
        tenants.push(system.new_tenant(options).await);
    }
    let mut started = Instant::now();
    tenants.iter().for_each(Tenant::enlist);
    for tenant in &mut tenants {
        tenant.prepare_quietly(&system);
    }
    println!("ceremonies, certificates and keys: {:?}", started.elapsed());
    for count in [25, 100] {
        tenants[count..].iter().for_each(Tenant::remove);
        started = Instant::now();
        system.start_enclave().await;
        for tenant in &tenants[..count] {
            tenant.caller.serving().await;
        }
        let took = started.elapsed();
        println!("{count} key stores: all served after {took:?}, {:?} each", took / u32::try_from(count).unwrap());
        tenants[count..].iter().for_each(Tenant::enlist);
    }
    for tenant in tenants.iter().step_by(10) {
        let client = tenant.caller.client();
        let encrypted = client.encrypt(KEY, b"each its own", None).await.unwrap();
        assert_eq!(encrypted.status, StatusCode::OK, "{}", encrypted.body);
        assert_eq!(client.decrypt(KEY, &encrypted.body, None).await.unwrap().status, StatusCode::OK);
    }
    system.assert_no_panic();
}

/// A client that offers whatever session it has to whoever it calls.
#[derive(Debug)]
struct OneDrawer(rustls::client::ClientSessionMemoryCache, ServerName<'static>);

impl rustls::client::ClientSessionStore for OneDrawer {
    fn set_kx_hint(&self, _: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(self.1.clone(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(&self.1)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: rustls::client::Tls12ClientSessionValue) {
        self.0.set_tls12_session(self.1.clone(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&self.1)
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&self.1);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(self.1.clone(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&self.1)
    }
}

/// Sessions of one host offered to another: a full handshake. Offered to their own, they are resumed.
async fn sessions_do_not_cross(bob: &Caller, carol: &Caller) {
    for version in rustls::ALL_VERSIONS {
        let mut roots = rustls::RootCertStore::empty();
        for root in bob.roots.iter().chain(&carol.roots) {
            roots.add(root.clone().into()).unwrap();
        }
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let drawer = OneDrawer(rustls::client::ClientSessionMemoryCache::new(8), "drawer.test".try_into().unwrap());
        config.resumption = rustls::client::Resumption::store(Arc::new(drawer));
        let config = Arc::new(config);
        for (caller, expected) in [
            (bob, rustls::HandshakeKind::Full),
            (bob, rustls::HandshakeKind::Resumed),
            (carol, rustls::HandshakeKind::Full),
        ] {
            let stream = tokio::net::TcpStream::connect(caller.address).await.unwrap();
            let name = ServerName::try_from(caller.host_name.clone()).unwrap();
            let mut stream = tokio_rustls::TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.unwrap();
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            assert_eq!(kind, expected, "{:?} with {}", version.version, caller.host_name);
            // TLS 1.3 sends its tickets after the handshake; an answer comes after them.
            let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", caller.host_name);
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_exact(&mut [0; 12]).await.unwrap();
        }
    }
}
