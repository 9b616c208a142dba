//! The API over TLS and HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_enclave::server::{ConnectionError, ServerLimits, serve};
use holdfast_enclave::tls::provider;
use holdfast_enclave::xks::{Denial, Outcome};
use holdfast_shared::external_key::{Ciphertext, integrity::integrity_value};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::xks::{ErrorName, Operation};
use rustls::ProtocolVersion;
use rustls::crypto::ring::cipher_suite;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::fixture::{Call, HOST, PREFIX, World, bytes, decrypt_body, encrypt_body, key_store, metadata};
use crate::wire::{Client, client_config, connect, connect_with, handshake, pipe, provider_with};

#[tokio::test]
async fn every_operation_on_both_versions_of_http() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let (mut client, _served) = Client::open(&world, protocol).await;

        let (status, health) = client
            .call(&Call::new("health", &json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } })))
            .await;
        assert_eq!((status, health["xksProxyVendor"].as_str()), (200, Some("Holdfast")), "{protocol}");

        let body = json!({ "requestMetadata": metadata() });
        let (status, answer) = client.call(&Call::new("keys/enabled/metadata", &body)).await;
        let expected = json!({ "keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED" });
        assert_eq!((status, answer), (200, expected));

        for (plaintext, aad) in [(vec![7; 4300], vec![8; 8192]), (b"Hello World!".to_vec(), Vec::new())] {
            let call = Call::new("keys/enabled/encrypt", &encrypt_body(&plaintext, &aad));
            let (status, encrypted) = client.call(&call).await;
            assert_eq!(status, 200, "{encrypted}");
            let [ciphertext, metadata, iv, tag] =
                ["ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag"]
                    .map(|field| bytes(&encrypted[field]));
            assert_eq!((ciphertext.len(), metadata.len(), iv.len(), tag.len()), (plaintext.len(), 20, 12, 16));
            assert_eq!(metadata[..4], [1, 0, 0, 2], "the newest version encrypts");
            let message = Ciphertext { ciphertext: &ciphertext, metadata: &metadata, iv: &iv, tag: &tag };
            assert_eq!(bytes(&encrypted["ciphertextDataIntegrityValue"]), integrity_value(&aad, &message));

            let call = Call::new("keys/enabled/decrypt", &decrypt_body(&encrypted, &aad));
            let (status, decrypted) = client.call(&call).await;
            assert_eq!((status, bytes(&decrypted["plaintext"])), (200, plaintext));

            let call = Call::new("keys/enabled/decrypt", &decrypt_body(&encrypted, b"other"));
            let (status, error) = client.call(&call).await;
            assert_eq!((status, error["errorName"].as_str()), (400, Some("InvalidCiphertextException")));
            let call = Call::new("keys/blocked/decrypt", &decrypt_body(&encrypted, &aad));
            assert_eq!(client.call(&call).await.1["errorName"], "InvalidStateException");
        }
    }
}

/// Each error of the table that a request can cause, with status, name, and a message within the rules.
#[tokio::test]
async fn every_error_of_the_table() {
    let good = || Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b""));
    let to = |key: &str| Call::new(&format!("keys/{key}/encrypt"), &encrypt_body(b"text", b""));
    let raw = |body: &str| Call { body: body.to_owned(), ..good() };
    let mut unsupported = encrypt_body(b"text", b"");
    unsupported["ciphertextDataIntegrityValueAlgorithm"] = json!("SHA_1");
    let mut bad_tag = decrypt_body(&json!({}), b"");
    for (field, len) in [("ciphertext", 1), ("ciphertextMetadata", 20), ("initializationVector", 12)] {
        bad_tag[field] = encrypt_body(&vec![0; len], b"")["plaintext"].clone();
    }
    bad_tag["authenticationTag"] = encrypt_body(&[0; 16], b"")["plaintext"].clone();
    let mut sixteen = bad_tag.clone();
    sixteen["initializationVector"] = encrypt_body(&[0; 16], b"")["plaintext"].clone();

    let cases: Vec<(&str, Call, ErrorName)> = vec![
        ("not JSON", raw("{"), ErrorName::ValidationException),
        ("empty", raw(""), ErrorName::ValidationException),
        ("disabled", to("disabled"), ErrorName::InvalidStateException),
        ("bad tag", Call::new("keys/enabled/decrypt", &bad_tag), ErrorName::InvalidCiphertextException),
        ("16-byte IV", Call::new("keys/enabled/decrypt", &sixteen), ErrorName::InvalidCiphertextException),
        ("usage", to("decrypt-only"), ErrorName::InvalidKeyUsageException),
        ("signature", Call { secret: "x".repeat(43), ..good() }, ErrorName::AuthenticationFailedException),
        ("no such key", to("missing"), ErrorName::KeyNotFoundException),
        ("path", Call { path: "/kms/xks/v1/health".into(), ..good() }, ErrorName::InvalidUriPathException),
        ("query", Call { path: format!("{}?x=y", good().path), ..good() }, ErrorName::InvalidUriPathException),
        ("algorithm", Call::new("keys/enabled/encrypt", &unsupported), ErrorName::UnsupportedOperationException),
        ("body", raw(&" ".repeat(200_000)), ErrorName::UnsupportedOperationException),
    ];
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        for (what, call, expected) in &cases {
            let (mut client, _served) = Client::open(&world, protocol).await;
            let (status, answer) = client.call(call).await;
            assert_eq!((status, answer["errorName"].as_str()), (expected.status(), Some(expected.as_str())), "{what}");
            let message = answer["errorMessage"].as_str().unwrap();
            assert!(message.len() < 512 && message.bytes().all(|byte| (0x20..=0x7e).contains(&byte)), "{message}");
            assert_eq!(answer.as_object().unwrap().len(), 2);
        }
        let (mut client, _served) = Client::open(&world, protocol).await;
        *world.guard.denial.lock().unwrap() = Some(Denial::policy(None));
        assert_eq!(client.call(&good()).await.0, 403);
        *world.guard.denial.lock().unwrap() = Some(Denial::throttled("quota"));
        assert_eq!(client.call(&good()).await.0, 429);
        world.gate.set_lease_expiry(0);
        assert_eq!(client.call(&good()).await.0, 503);
    }
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let world = World::new();
    let (mut client, _served) = Client::open(&world, "h2").await;
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let call = Call { method, body: String::new(), ..Call::new("health", &json!({})) };
        let response = client.send(call.signed()).await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "POST"));
        let elsewhere = Call { path: "/elsewhere".into(), ..call };
        assert_eq!(client.call(&elsewhere).await.0, 404, "an unknown path comes first");
    }
}

#[tokio::test]
async fn only_the_four_cipher_suites() {
    let world = World::new();
    let cases = [
        (cipher_suite::TLS13_AES_256_GCM_SHA384, Some(ProtocolVersion::TLSv1_3)),
        (cipher_suite::TLS13_CHACHA20_POLY1305_SHA256, Some(ProtocolVersion::TLSv1_3)),
        (cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, Some(ProtocolVersion::TLSv1_2)),
        // The test's certificate is ECDSA, so the RSA suite is offered but cannot be chosen; see the next test.
        (cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, None),
        (cipher_suite::TLS13_AES_128_GCM_SHA256, None),
        (cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, None),
        (cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, None),
        (cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, None),
        (cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, None),
    ];
    for (suite, expected) in cases {
        assert_eq!(handshake(&world, suite).await, expected, "{:?}", suite.suite());
    }
}

#[test]
fn the_rsa_suite_is_offered() {
    let offered: Vec<_> = provider().cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).collect();
    assert!(offered.contains(&rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384));
    assert_eq!(offered.len(), 4);
}

#[tokio::test]
async fn unknown_hosts_get_no_handshake() {
    let world = World::new();
    let connect = |host: &'static str, sni: bool| {
        let (stream, served) = pipe(world.context());
        let mut config = client_config(&world, provider(), &["h2"]);
        config.enable_sni = sni;
        async move { (connect_with(config, host, stream).await, served.done.await.unwrap()) }
    };
    for (host, sni) in [("xks.example.org", true), (HOST, false), ("192.0.2.1", true)] {
        let (client, server) = connect(host, sni).await;
        let error = client.unwrap_err().to_string();
        assert!(error.contains("UnrecognisedName") || error.contains("unrecognized"), "{error}");
        assert!(matches!(server, Err(ConnectionError::UnknownHost)), "{server:?}");
    }
    let context = world.context();
    let (mut stream, served) = pipe(Arc::clone(&context));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: xks.example.com\r\n\r\n").await.unwrap();
    assert!(matches!(served.done.await.unwrap(), Err(ConnectionError::Handshake(_))));
    assert_eq!(context.counters()["handshakes_failed"], 1);
    assert_eq!(context.connections(), 0);
}

#[tokio::test]
async fn a_request_for_another_host_is_misdirected() {
    let world = World::new();
    let other = key_store(2, 1, "other.example.com", PREFIX, &world.ca.identity("other.example.com", 1));
    let first = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    assert_eq!(world.directory.replace(vec![first, Arc::new(other)]).unwrap(), []);
    for protocol in ["http/1.1", "h2"] {
        let (mut client, _served) = Client::open(&world, protocol).await;
        for (host, status) in [
            ("other.example.com", 421),
            ("unknown.example.com", 421),
            ("XKS.example.com", 200),
            ("xks.example.com:8443", 200),
        ] {
            let call = Call {
                host: host.to_owned(),
                ..Call::new("health", &json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } }))
            };
            assert_eq!(client.send(call.signed()).await.unwrap().status().as_u16(), status, "{protocol} {host}");
        }
    }
    // Two Host headers, or none.
    let (mut client, _served) = Client::open(&world, "http/1.1").await;
    let mut request = Call::new("health", &json!({})).signed();
    request.headers_mut().append("host", "other.example.com".parse().unwrap());
    assert_eq!(client.send(request).await.unwrap().status().as_u16(), 400);
    let mut request = Call::new("health", &json!({})).signed();
    request.headers_mut().remove("host");
    assert_eq!(client.send(request).await.unwrap().status().as_u16(), 400);
}

#[tokio::test]
async fn sessions_do_not_cross_hosts() {
    let world = World::new();
    let other = key_store(2, 1, "other.example.com", PREFIX, &world.ca.identity("other.example.com", 1));
    let first = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    assert_eq!(world.directory.replace(vec![first, Arc::new(other)]).unwrap(), []);
    // The client files sessions under the name that it asks for, so this shows that resumption works within a host; that
    // the stores are separate is `a_host_keeps_its_sessions_until_its_certificate_changes`.
    let config = client_config(&world, provider_with(cipher_suite::TLS13_AES_256_GCM_SHA384), &["h2"]);
    let mut kinds = BTreeMap::new();
    for (host, count) in [(HOST, 2), ("other.example.com", 2)] {
        for attempt in 0..count {
            let (stream, served) = pipe(world.context());
            let mut stream = connect_with(config.clone(), host, stream).await.unwrap();
            kinds.insert((host, attempt), stream.get_ref().1.handshake_kind().unwrap());
            assert!(stream.get_mut().1.early_data().is_none(), "{host}");
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
            drop(stream);
            let _ = served.done.await;
        }
    }
    for host in [HOST, "other.example.com"] {
        assert_eq!(kinds[&(host, 0)], rustls::HandshakeKind::Full, "{host}");
        assert_eq!(kinds[&(host, 1)], rustls::HandshakeKind::Resumed, "{host}");
    }
}

#[tokio::test]
async fn each_request_is_reported_once() {
    let world = World::new();
    let (mut client, _served) = Client::open(&world, "h2").await;
    client.call(&Call::new("keys/enabled/encrypt", &encrypt_body(b"secret text", b""))).await;
    client.call(&Call { secret: "x".repeat(43), ..Call::new("health", &json!({})) }).await;
    client.call(&Call { path: "/x".into(), ..Call::new("health", &json!({})) }).await;
    client.send(Call { method: "GET", ..Call::new("health", &json!({})) }.signed()).await.unwrap();
    let events = world.observer.0.lock().unwrap();
    let summary: Vec<_> = events
        .iter()
        .map(|event| {
            let id = event.kms_request_id.as_ref().map(|id| id.as_str().to_owned());
            (event.key_store, event.operation, id, event.outcome)
        })
        .collect();
    let store = Some(KeyStoreId([1; 32]));
    let id = Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae".to_owned());
    let expected = [
        (store, Some(Operation::Encrypt), id, Outcome::Success),
        (store, Some(Operation::GetHealthStatus), None, Outcome::Error(ErrorName::AuthenticationFailedException)),
        (None, None, None, Outcome::Error(ErrorName::InvalidUriPathException)),
        (None, None, None, Outcome::MethodNotAllowed),
    ];
    assert_eq!(summary, expected);
}

#[tokio::test(start_paused = true)]
async fn every_wait_for_the_client_ends() {
    let world = World::new();
    // Not a byte of a ClientHello.
    let (_stream, served) = pipe(world.context());
    assert!(matches!(served.done.await.unwrap(), Err(ConnectionError::HandshakeTimeout)));
    // A head that never ends.
    let (mut stream, served) = connect(&world, "http/1.1").await;
    stream.write_all(b"POST /kms HTTP/1.1\r\nHost:").await.unwrap();
    stream.flush().await.unwrap();
    assert!(matches!(served.done.await.unwrap(), Err(ConnectionError::Unproven)));
    // A body that never comes.
    let (mut stream, served) = connect(&world, "http/1.1").await;
    let head = format!("POST {PREFIX}/kms/xks/v1/health HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\n12");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    assert!(matches!(served.done.await.unwrap(), Err(ConnectionError::Http(_))));
    assert_eq!(world.observer.0.lock().unwrap().last().unwrap().outcome, Outcome::Aborted);
}

/// A place is for those who sign: whoever only keeps a connection alive (answering HTTP/2 pings, sending requests that
/// nobody signed) loses it, and so does who signs once and is silent, or never reads an answer.
#[tokio::test(start_paused = true)]
async fn a_connection_without_signed_requests_ends() {
    const LONG: Duration = Duration::from_hours(1);
    let health = || Call::new("health", &json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } }));
    let stranger = || Call { secret: "x".repeat(43), ..health() };
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        // Nothing but a handshake.
        let (_client, served) = Client::open(&world, protocol).await;
        assert!(timeout(LONG, served.done).await.is_ok(), "{protocol}");
        // Requests that nobody signed.
        let (mut client, served) = Client::open(&world, protocol).await;
        let mut requests = 0;
        while client.send(stranger().signed()).await.is_ok() {
            requests += 1;
            assert!(requests < 1000, "{protocol}");
            sleep(Duration::from_secs(1)).await;
        }
        assert!(timeout(LONG, served.done).await.is_ok(), "{protocol}");
        // Signed requests keep it, for a time.
        let (mut client, served) = Client::open(&world, protocol).await;
        for _ in 0..100 {
            assert_eq!(client.call(&health()).await.0, 200, "{protocol}");
            sleep(Duration::from_secs(30)).await;
        }
        assert!(timeout(LONG, served.done).await.is_ok(), "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_loses_its_connection() {
    let world = World::new();
    let (mut stream, served) = connect(&world, "http/1.1").await;
    let call = Call::new("health", &json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } }));
    let request = call.signed();
    let headers =
        request.headers().iter().map(|(name, value)| [name.as_str(), ": ", value.to_str().unwrap(), "\r\n"].concat());
    let head = format!("POST {} HTTP/1.1\r\ncontent-length: {}\r\n", request.uri(), request.body().len());
    let text = [head, headers.collect(), "\r\n".to_owned(), request.body().clone()].concat();
    // Until the answers fill every buffer, and the requests then every other.
    while let Ok(written) = timeout(Duration::from_secs(1), stream.write_all(text.as_bytes())).await {
        written.unwrap();
    }
    let end = timeout(Duration::from_hours(1), served.done).await;
    assert!(matches!(end, Ok(Ok(Err(ConnectionError::Silent)))), "{end:?}");
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_refused() {
    let world = World::new();
    let call = Call::new("health", &json!({}));
    for (protocol, headers) in [("http/1.1", 100), ("h2", 300)] {
        let (mut client, _served) = Client::open(&world, protocol).await;
        let mut request = call.signed();
        for number in 0..headers {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            request.headers_mut().insert(name, "v".repeat(64).parse().unwrap());
        }
        let status = client.send(request).await.map(|response| response.status().as_u16());
        assert!(matches!(status, Ok(431) | Err(_)), "{protocol}: {status:?}");
    }
}

#[tokio::test]
async fn draining_finishes_what_is_running() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let (mut client, served) = Client::open(&world, protocol).await;
        let call = Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b""));
        // The order to drain comes while the request is being worked on.
        let drain = served.drain;
        *world.guard.hook.lock().unwrap() = Some(Box::new(move || drain.send(true).unwrap()));
        assert_eq!(client.call(&call).await.0, 200, "{protocol}");
        // Either side may be the first to hang up; what matters is that nobody had to be cut off.
        assert!(!matches!(served.done.await.unwrap(), Err(ConnectionError::DrainTimeout)), "{protocol}");
        assert!(client.send(call.signed()).await.is_err(), "the connection is closed");
    }
}

/// A client of HTTP/1.1 that is about to send when the order to drain comes is answered, and told that this was the last time.
#[tokio::test]
async fn a_drain_takes_one_more_request_of_each_http_1_connection() {
    let world = World::new();
    let (mut client, served) = Client::open(&world, "http/1.1").await;
    let call = Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b""));
    let before = client.send(call.signed()).await.unwrap();
    assert!(before.headers().get("connection").is_none());
    served.drain.send(true).unwrap();
    // The connection's task sees the order before the request.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let last = client.send(call.signed()).await.unwrap();
    assert_eq!((last.status().as_u16(), &last.headers()["connection"]), (200, &"close".parse().unwrap()));
    assert!(!matches!(served.done.await.unwrap(), Err(ConnectionError::DrainTimeout)));
}

#[tokio::test]
async fn a_listener_of_the_link_is_served() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let address = holdfast_link::Address::unix(&folder.path().join("ingress")).unwrap();
    let listener = holdfast_link::Listener::bind(&address).await.unwrap();
    let (drain, draining) = watch::channel(false);
    let limits = ServerLimits { connections: 2, drain: Duration::from_secs(30), ..ServerLimits::default() };
    let server = tokio::spawn(serve(listener, world.context_with(limits), draining));
    for _ in 0..4 {
        let stream = holdfast_link::connect(&address).await.unwrap();
        let config = client_config(&world, provider(), &["http/1.1"]);
        let name = HOST.to_owned().try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let call = Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b""));
        let response = sender.send_request(call.signed()).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        drop(response);
        drop(sender);
        connection.await.unwrap().unwrap();
    }
    drain.send(true).unwrap();
    server.await.unwrap();
    assert!(holdfast_link::connect(&address).await.is_err(), "nothing listens any more");
}
