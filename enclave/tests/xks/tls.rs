//! TLS as KMS meets it: suites, protocols, names, sessions, and how connections end.

mod clients;
mod hello;
mod leftovers;
mod sessions;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use holdfast_enclave::directory::ServedKeyStore;
use holdfast_enclave::server::{ConnectionError, ServerLimits};
use holdfast_enclave::tls::{TlsIdentity, provider};
use holdfast_enclave::xks::OpenGuard;
use holdfast_shared::keystore::ClientAuthentication;
use holdfast_shared::secrets::SecretBytes;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, CipherSuite, ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Call, HOST, PREFIX, World, encrypt_body, key_store};
use crate::wire::{Client, Served, connect, connect_with, pipe, provider_with};

/// Both versions that are spoken.
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A key store that serves with the world's keys and lease.
fn store(world: &World, id: u8, prefix: &str, setting: Option<&Arc<ClientAuthentication>>) -> Arc<ServedKeyStore> {
    let host = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    Arc::new(ServedKeyStore {
        client_authentication: setting.map(Arc::clone),
        guard: Arc::new(OpenGuard),
        gate: Arc::clone(&world.gate),
        keys: Arc::clone(&world.keys),
        ..key_store(id, 1, HOST, prefix, &host.tls)
    })
}

/// A client of one version that trusts the test's authority and has no certificate.
fn client(world: &World, provider: CryptoProvider, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(world.ca.root.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn health(prefix: &str) -> Call {
    let call = Call::new("health", &json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } }));
    Call { path: format!("{prefix}/kms/xks/v1/health"), ..call }
}

/// A request of HTTP/1.1 as bytes.
fn bytes_of(call: &Call) -> Vec<u8> {
    let request = call.signed();
    let mut text = format!("{} {} HTTP/1.1\r\ncontent-length: {}\r\n", call.method, call.path, call.body.len());
    for (name, value) in request.headers() {
        let _ = write!(text, "{name}: {}\r\n", value.to_str().unwrap());
    }
    text.push_str("\r\n");
    text.push_str(&call.body);
    text.into_bytes()
}

/// What a client meets that sends a request right behind its last message of the handshake.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Status(u16),
    Alert(AlertDescription),
    Other(String),
}

impl Met {
    fn error(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            _ => Self::Other(error.to_string()),
        }
    }
}

async fn meet(world: &World, config: &ClientConfig, call: &Call) -> Met {
    let (stream, _served) = pipe(world.context());
    let mut stream = match connect_with(config.clone(), HOST, stream).await {
        Ok(stream) => stream,
        Err(error) => return Met::error(&error),
    };
    if let Err(error) = stream.write_all(&bytes_of(call)).await {
        return Met::error(&error);
    }
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    while answer.len() < b"HTTP/1.1 200".len() {
        match stream.read_buf(&mut answer).await {
            Ok(0) => return Met::Other("an end without an answer".to_owned()),
            Ok(_) => {}
            Err(error) => return Met::error(&error),
        }
    }
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    status.map_or_else(|| Met::Other(String::from_utf8_lossy(&answer).into_owned()), Met::Status)
}

/// A certificate for an RSA key: the enclave makes P-256 keys, but what it is given it can serve.
fn rsa_identity(world: &World) -> Arc<TlsIdentity> {
    let pkcs8 = include_bytes!("../vectors/rsa-2048.pk8");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
    let key = rcgen::KeyPair::from_der_and_sign_algo(&key, &rcgen::PKCS_RSA_SHA256).unwrap();
    let chain = vec![world.ca.sign(&rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap(), &key)];
    Arc::new(TlsIdentity::new(chain, &SecretBytes::new(pkcs8.to_vec()), 2).unwrap())
}

/// "TLS 1.2 or later with at least one of these cipher suites": all four, with a key that fits, and no fifth.
#[tokio::test]
async fn each_suite_of_the_specification_is_negotiated_and_no_other() {
    use cipher_suite as suite;
    let world = World::new();
    let ecdsa = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    let rsa = Arc::new(key_store(1, 1, HOST, PREFIX, &rsa_identity(&world)));
    let cases = [
        (suite::TLS13_AES_256_GCM_SHA384, true, true),
        (suite::TLS13_CHACHA20_POLY1305_SHA256, true, true),
        (suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, true, false),
        (suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, false, true),
        (suite::TLS13_AES_128_GCM_SHA256, false, false),
        (suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false, false),
        (suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, false, false),
        (suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, false, false),
        (suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, false, false),
    ];
    for (store, kind) in [(ecdsa, 0), (rsa, 1)] {
        world.directory.replace(vec![store]).unwrap();
        for (suite, with_ecdsa, with_rsa) in cases {
            let version = if suite.tls13().is_some() { &TLS13 } else { &TLS12 };
            let (stream, _served) = pipe(world.context());
            let result = connect_with(client(&world, provider_with(suite), version), HOST, stream).await;
            let expected = if kind == 0 { with_ecdsa } else { with_rsa };
            match result {
                Ok(stream) => {
                    let negotiated = stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite());
                    assert!(expected && negotiated == Some(suite.suite()), "{suite:?} {kind}");
                }
                Err(error) => {
                    let alert = Met::error(&error);
                    assert!(!expected, "{suite:?} {kind}: {alert:?}");
                    assert_eq!(alert, Met::Alert(AlertDescription::HandshakeFailure), "{suite:?}");
                }
            }
        }
    }
    let offered: Vec<_> = provider().cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).collect();
    let four = [
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ];
    assert_eq!(offered, four);
}

/// The protocol that was chosen, if one was, or why there is no connection.
type Chosen = Result<Option<&'static str>, Met>;

/// "The XKS proxy MUST be able to fall back to HTTP 1.1": also for clients that know no ALPN. A client that insists on
/// something else is told so (RFC 7301, section 3.2).
#[tokio::test]
async fn http_1_1_is_what_remains() {
    let refused = Err(Met::Alert(AlertDescription::NoApplicationProtocol));
    let cases: [(&[&str], Chosen); 8] = [
        (&[], Ok(None)),
        (&["http/1.1"], Ok(Some("http/1.1"))),
        (&["h2"], Ok(Some("h2"))),
        (&["http/1.1", "h2"], Ok(Some("h2"))),
        (&["h3", "http/1.1"], Ok(Some("http/1.1"))),
        (&["http/1.0", "x", "http/1.1"], Ok(Some("http/1.1"))),
        (&["h3"], refused),
        (&["http/1.0", "H2"], Err(Met::Alert(AlertDescription::NoApplicationProtocol))),
    ];
    let world = World::new();
    for version in VERSIONS {
        for (offered, expected) in &cases {
            let mut config = client(&world, provider(), version);
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let (stream, _served) = pipe(world.context());
            let chosen = match connect_with(config, HOST, stream).await {
                Ok(stream) => {
                    let chosen =
                        stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap());
                    let protocol = chosen.clone().unwrap_or_default();
                    assert_eq!(Client::over(stream, &protocol).await.call(&health(PREFIX)).await.0, 200, "{offered:?}");
                    Ok(chosen)
                }
                Err(error) => Err(Met::error(&error)),
            };
            assert_eq!(chosen.as_ref().map(Option::as_deref), expected.as_ref().map(|name| *name), "{offered:?}");
        }
    }
}

#[tokio::test]
async fn the_whole_chain_is_sent() {
    let world = World::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = world.ca.sign(&rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap(), &key);
    let chain = vec![leaf, world.ca.root.to_vec()];
    let identity = TlsIdentity::new(chain.clone(), &SecretBytes::new(key.serialize_der()), 2).unwrap();
    world.directory.replace(vec![Arc::new(key_store(1, 1, HOST, PREFIX, &Arc::new(identity)))]).unwrap();
    for version in VERSIONS {
        let (stream, _served) = pipe(world.context());
        let stream = connect_with(client(&world, provider(), version), HOST, stream).await.unwrap();
        let sent: Vec<_> = stream.get_ref().1.peer_certificates().unwrap().iter().map(|part| part.to_vec()).collect();
        assert_eq!(sent, chain);
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let (mut client, _served) = Client::open(&world, protocol).await;
        for number in 0..100 {
            let call = Call::new("keys/enabled/encrypt", &encrypt_body(&[number], b""));
            assert_eq!(client.call(&call).await.0, 200, "{protocol} {number}");
        }
    }
}

/// However a connection ends, its client is told that it is the end: an answer that is cut off cannot pass for a whole one.
#[tokio::test(start_paused = true)]
async fn every_end_is_announced() {
    let unsigned = Call { secret: "x".repeat(43), ..health(PREFIX) };
    let part = format!("POST {PREFIX}/kms/xks/v1/health HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\n12");
    let cases = [
        ("nothing but a handshake", "http/1.1", Vec::new()),
        ("the same with HTTP/2", "h2", Vec::new()),
        ("a signed request", "http/1.1", bytes_of(&health(PREFIX))),
        ("one that nobody signed", "http/1.1", bytes_of(&unsigned)),
        ("half a head", "http/1.1", b"POST /kms HTTP/1.1\r\nHo".to_vec()),
        ("half a body", "http/1.1", part.into_bytes()),
        ("not HTTP", "http/1.1", b"\0\0\0\0\r\n\r\n".to_vec()),
    ];
    for (what, protocol, bytes) in cases {
        let world = World::new();
        let (mut stream, served) = connect(&world, protocol).await;
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        // rustls reports an end without close_notify as an error.
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer).await;
        assert!(end.is_ok(), "{what}: {end:?} after {:?}", String::from_utf8_lossy(&answer));
        drop(stream);
        let _ = served.done.await;
    }
}

/// The same when the server drains.
#[tokio::test(start_paused = true)]
async fn a_drain_is_announced() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let limits = ServerLimits { drain: Duration::from_secs(1), ..ServerLimits::default() };
        let (stream, Served { drain, done }) = pipe(world.context_with(limits));
        let mut config = client(&world, provider(), &TLS13);
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let mut stream = connect_with(config, HOST, stream).await.unwrap();
        drain.send(true).unwrap();
        let end = stream.read_to_end(&mut Vec::new()).await;
        assert!(end.is_ok(), "{protocol}: {end:?}");
        drop(stream);
        let _ = done.await;
    }
}

/// A client that goes on sending does not keep a connection that is over.
#[tokio::test(start_paused = true)]
async fn what_comes_after_the_end_is_bounded() {
    let world = World::new();
    let (mut stream, served) = pipe(world.context());
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // More than the limit, and never an end.
    let flood = tokio::spawn(async move { while stream.write_all(&[0; 16 * 1024]).await.is_ok() {} });
    assert!(matches!(served.done.await.unwrap(), Err(ConnectionError::Handshake(_))));
    flood.await.unwrap();
    let (mut stream, served) = pipe(world.context());
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(served.done.await.unwrap(), Err(ConnectionError::Handshake(_))), "nor does a silent one");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert arrived: {answer:?}");
}
