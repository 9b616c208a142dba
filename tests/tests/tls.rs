//! TLS and TCP through the real programs: what a client sees when it is refused, and when a connection ends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use holdfast_tests::curl::version;
use holdfast_tests::system::{HOST_NAME, Options, System};
use holdfast_tests::wait::{soon, until};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const KMS: &str = "cks.kms.us-east-1.amazonaws.com";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A private key and its certificate, as files for curl and as values for rustls.
struct Holder {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    certificate_file: PathBuf,
    key_file: PathBuf,
}

struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// Writes its certificate beside.
    fn new(file: &Path) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "client authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self(Issuer::new(params, key))
    }

    fn certify(&self, system: &System, file: &str, common_name: &str) -> Holder {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let (certificate_file, key_file) =
            (system.layout.path(&format!("{file}.pem")), system.layout.path(&format!("{file}-key.pem")));
        std::fs::write(&certificate_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Holder { certificate: certificate.der().clone(), key: key.serialize_der(), certificate_file, key_file }
    }
}

fn client(system: &System, version: &'static SupportedProtocolVersion, holder: Option<&Holder>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(system.authority.certificate_der.clone())).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match holder {
        Some(holder) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(holder.key.clone()));
            builder.with_client_auth_cert(vec![holder.certificate.clone()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn connect(system: &System, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(system.listen).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from(HOST_NAME).unwrap(), stream).await
}

fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// The alert that a client meets which sends so many bytes right behind its last message of the handshake.
async fn alert_behind(system: &System, config: &Arc<ClientConfig>, bytes: usize) -> Option<AlertDescription> {
    let mut stream = match connect(system, config).await {
        Ok(stream) => stream,
        Err(error) => return alert(&error),
    };
    let bytes = [b"POST / HTTP/1.1\r\n".as_slice(), &vec![b'x'; bytes]].concat();
    // The writes may already meet the end of the connection; what counts is what is there to read.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.flush().await;
    let error = stream.read_to_end(&mut Vec::new()).await.err()?;
    alert(&error)
}

fn signed_health(system: &System) -> Request<Bytes> {
    let client = system.client();
    let body = json!({ "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": "1" } }).to_string();
    client.signed(&Method::POST, &client.path("health"), body.into(), SystemTime::now()).unwrap()
}

fn curl(system: &System, flags: &[&str]) -> Output {
    let _ = version();
    let user = format!("{}:{}", system.credential.access_key_id, system.credential.secret_access_key);
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "%{http_code}"]);
    command.args(["--aws-sigv4", "aws:amz:us-east-1:kms-xks-proxy", "--user", &user]);
    command.arg("--cacert").arg(&system.authority.certificate_file);
    command.args(["--header", "Content-Type: application/json"]);
    command.args(["--data", r#"{"requestMetadata":{"kmsOperation":"KmsHealthCheck","kmsRequestId":"1"}}"#]);
    command.args(flags).arg(format!("https://{HOST_NAME}:{}/kms/xks/v1/health", system.listen.port()));
    command.output().unwrap()
}

fn with_certificate<'h>(flags: &[&'h str], holder: &'h Holder) -> Vec<&'h str> {
    let file = |path: &'h Path| path.to_str().unwrap();
    [flags, &["--cert", file(&holder.certificate_file), "--key", file(&holder.key_file)]].concat()
}

/// "The XKS proxy MUST terminate the TLS handshake": and the client learns why, over TCP, the parent and a Unix socket, also
/// when its request is on the way already. In TLS 1.3 the client believes by then that the handshake has succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_certificate_is_told_so() {
    let system = System::start(Options::default()).await;
    let ca = system.layout.path("clients.pem");
    let authority = Authority::new(&ca);
    let stranger = Authority::new(&system.layout.path("strangers.pem"));
    let kms = authority.certify(&system, "kms", KMS);
    let refused = [authority.certify(&system, "mallory", "mallory"), stranger.certify(&system, "stranger", KMS)];
    // Off by default: nobody is asked for a certificate.
    assert_eq!(curl(&system, &[]).stdout.last_chunk(), Some(b"200"));
    system.order(&["client-auth", "set", "--ca", ca.to_str().unwrap(), "--common-name", KMS]);
    until("certificates are asked for", || async {
        let stream = connect(&system, &client(&system, &TLS12, None)).await;
        stream.err().filter(|error| alert(error) == Some(AlertDescription::CertificateRequired))
    })
    .await;

    for version in VERSIONS {
        let config = client(&system, version, None);
        assert_eq!(alert_behind(&system, &config, 100).await, Some(AlertDescription::CertificateRequired));
        for holder in &refused {
            let config = client(&system, version, Some(holder));
            // From nothing over a request to more than every buffer on the way holds.
            for bytes in [0, 100, 10_000, 100_000, 200_000] {
                for attempt in 0..4 {
                    let met = soon("an end", alert_behind(&system, &config, bytes)).await;
                    assert_eq!(met, Some(AlertDescription::HandshakeFailure), "{version:?} {bytes} {attempt}");
                }
            }
        }
        let stream = connect(&system, &client(&system, version, Some(&kms))).await.unwrap();
        assert_eq!(requests(&system, stream, 1, false).await, [StatusCode::OK]);
    }
    for flags in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let good = curl(&system, &with_certificate(flags, &kms));
        assert_eq!(good.stdout.last_chunk(), Some(b"200"), "{}", String::from_utf8_lossy(&good.stderr));
        for holder in &refused {
            let bad = curl(&system, &with_certificate(flags, holder));
            let complaint = String::from_utf8_lossy(&bad.stderr);
            assert!(complaint.contains("alert handshake failure"), "{flags:?}: {complaint}");
        }
    }
    system.order(&["client-auth", "clear"]);
    until("certificates are asked for no more", || async {
        (curl(&system, &[]).stdout.last_chunk() == Some(b"200")).then_some(())
    })
    .await;
}

/// Sends signed requests one after the other over a connection.
async fn requests(system: &System, stream: TlsStream<TcpStream>, count: usize, http2: bool) -> Vec<StatusCode> {
    let mut statuses = Vec::new();
    let io = TokioIo::new(stream);
    if http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..count {
            sender.ready().await.unwrap();
            let answer = sender.send_request(signed_health(system).map(Full::new)).await.unwrap();
            statuses.push(answer.status());
            answer.into_body().collect().await.unwrap();
        }
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..count {
            sender.ready().await.unwrap();
            let answer = sender.send_request(in_origin_form(signed_health(system))).await.unwrap();
            statuses.push(answer.status());
            answer.into_body().collect().await.unwrap();
        }
    }
    statuses
}

fn in_origin_form(request: Request<Bytes>) -> Request<Full<Bytes>> {
    let mut request = request.map(Full::new);
    let host = request.uri().authority().unwrap().as_str().parse().unwrap();
    request.headers_mut().insert(header::HOST, host);
    *request.uri_mut() = request.uri().path().parse().unwrap();
    request
}

/// One connection carries many requests, refusals tell why, suites are those of the specification, and every end of a
/// connection is announced.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_refused_and_ended_in_order() {
    // Longer than the enclave keeps a connection of HTTP/1.1 for a last request.
    let mut system = System::start(Options { drain_timeout_ms: 30_000, ..Options::default() }).await;
    kept(&system).await;
    refused_names_and_protocols(&system).await;
    suites(&system);
    ended(&mut system).await;
}

async fn kept(system: &System) {
    for version in VERSIONS {
        for http2 in [false, true] {
            let mut config = Arc::unwrap_or_clone(client(system, version, None));
            config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
            let stream = connect(system, &Arc::new(config)).await.unwrap();
            assert!(requests(system, stream, 50, http2).await.iter().all(|status| *status == StatusCode::OK));
        }
    }
}

async fn refused_names_and_protocols(system: &System) {
    for version in VERSIONS {
        let config = client(system, version, None);
        for name in ["xks.example.com", "127.0.0.1"] {
            let stream = TcpStream::connect(system.listen).await.unwrap();
            let name = ServerName::try_from(name).unwrap();
            let error = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.unwrap_err();
            assert_eq!(alert(&error), Some(AlertDescription::UnrecognisedName), "{error}");
        }
        let mut other = Arc::unwrap_or_clone(config);
        other.alpn_protocols = vec![b"h3".to_vec()];
        let error = connect(system, &Arc::new(other)).await.unwrap_err();
        assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol), "{error}");
    }
}

/// By OpenSSL's names, from a client of OpenSSL's.
fn suites(system: &System) {
    let tls12 = |suite| ["--tlsv1.2", "--tls-max", "1.2", "--ciphers", suite];
    let tls13 = |suite| ["--tlsv1.3", "--tlsv1.3", "--tlsv1.3", "--tls13-ciphers", suite];
    for (flags, taken) in [
        (tls12("ECDHE-ECDSA-AES256-GCM-SHA384"), true),
        // The enclave makes P-256 keys, so that this one finds no certificate.
        (tls12("ECDHE-RSA-AES256-GCM-SHA384"), false),
        (tls12("ECDHE-ECDSA-AES128-GCM-SHA256"), false),
        (tls12("ECDHE-ECDSA-CHACHA20-POLY1305"), false),
        (tls12("ECDHE-ECDSA-AES256-SHA384"), false),
        (tls13("TLS_AES_256_GCM_SHA384"), true),
        (tls13("TLS_CHACHA20_POLY1305_SHA256"), true),
        (tls13("TLS_AES_128_GCM_SHA256"), false),
    ] {
        let output = curl(system, &flags);
        let complaint = String::from_utf8_lossy(&output.stderr);
        if taken {
            assert_eq!(output.stdout.last_chunk(), Some(b"200"), "{flags:?}: {complaint}");
        } else {
            assert!(complaint.contains("alert handshake failure"), "{flags:?}: {complaint}");
        }
    }
    let old = curl(system, &["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]);
    let complaint = String::from_utf8_lossy(&old.stderr);
    assert!(complaint.contains(" alert "), "TLS 1.1: {complaint}");
}

async fn ended(system: &mut System) {
    // The client asks for the end.
    let mut stream = connect(system, &client(system, &TLS13, None)).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let close = format!("POST / HTTP/1.1\r\nHost: {HOST_NAME}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(close.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // rustls reports an end without close_notify as an error.
    soon("the end", stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));

    // Bytes that are not HTTP.
    let mut stream = connect(system, &client(system, &TLS12, None)).await.unwrap();
    let _ = stream.write_all(&vec![0; 70_000]).await;
    soon("the end", stream.read_to_end(&mut Vec::new())).await.unwrap();

    // The parent is told to stop, and has the enclave drain.
    let mut idle = connect(system, &client(system, &TLS13, None)).await.unwrap();
    let parent = system.parent.take().unwrap();
    let ending = tokio::task::spawn_blocking(move || parent.terminate());
    soon("the end", idle.read_to_end(&mut Vec::new())).await.unwrap();
    drop(idle);
    assert!(ending.await.unwrap().success());
}

/// Nagle's algorithm waits for more bytes to send: each TCP connection that our programs accept or open turns it off.
#[test]
fn every_tcp_connection_sends_at_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut accepted, mut opened) = (0, 0);
    for member in ["shared", "link", "client", "enclave", "parent", "custodian", "cli", "devkit"] {
        for path in sources(&root.join(member).join("src")) {
            if path.ends_with("tests.rs") || path.parent().is_some_and(|folder| folder.ends_with("tests")) {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let program = text.split("\nmod tests {").next().unwrap_or_default();
            // Listeners of the link take no TCP.
            let accepts = program.contains(".accept()") && program.contains("TcpListener");
            let opens = program.contains("TcpStream::connect");
            (accepted, opened) = (accepted + usize::from(accepts), opened + usize::from(opens));
            if accepts || opens {
                let prepared = program.contains("prepare(&") || program.contains("set_nodelay(true)");
                assert!(prepared, "{}", path.display());
            }
        }
    }
    assert_eq!((accepted, opened), (5, 10), "of files; a new one needs the option too");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}
