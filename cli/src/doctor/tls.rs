//! TLS as KMS speaks it: versions, the specification's four cipher suites one by one, ALPN, and the chain of certificates.
//!
//! Guarantees: a handshake here shows no secret and sends no request, and takes any certificate, so that each fault can be told
//! from the others; requests go over connections whose certificate was verified ([`super::http`]).

use core::net::SocketAddr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_client::{Connect as _, Tcp};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, ProtocolVersion, SignatureScheme, SupportedCipherSuite};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use super::report::Finding;
use super::table::{Cause, causes};
use super::{Question, millis_of};

/// The specification's suites (section "API content type"), in its order.
pub(super) static SUITES: [SupportedCipherSuite; 4] = [
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
];
/// What KMS falls back to.
pub(super) const HTTP11: &[u8] = b"http/1.1";
/// What else ALPN may offer.
const HTTP2: &[u8] = b"h2";

/// What a handshake showed.
pub(super) struct Handshake {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) version: Option<ProtocolVersion>,
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) asks_for_certificate: bool,
    pub(super) tcp: Duration,
    pub(super) tls: Duration,
}

/// Why there was none.
pub(super) enum HandshakeError {
    Connect(io::Error),
    ConnectTimeout,
    Timeout,
    Tls(io::Error),
    Setup(String),
}

impl HandshakeError {
    /// What is wrong, and what was seen.
    pub(super) fn judged(&self) -> (&'static Cause, String) {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                (&causes::TCP_REFUSED, error.to_string())
            }
            Self::Connect(error) => (&causes::TCP_TIMEOUT, error.to_string()),
            Self::ConnectTimeout => (&causes::TCP_TIMEOUT, "no connection in time".to_owned()),
            Self::Timeout => (&causes::TLS_TIMEOUT, "no handshake in time".to_owned()),
            Self::Tls(error) => (cause_of(error), error.to_string()),
            Self::Setup(reason) => (&causes::TLS_REFUSED, reason.clone()),
        }
    }
}

/// What an error of a TLS handshake says of the other side.
fn cause_of(error: &io::Error) -> &'static Cause {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. }) => &causes::TLS_NOT_SPOKEN,
        Some(_) => &causes::TLS_REFUSED,
        None => &causes::TLS_CLOSED,
    }
}

/// One handshake with these suites and protocols.
pub(super) async fn handshake(
    question: &Question,
    address: SocketAddr,
    suites: &[SupportedCipherSuite],
    alpn: &[&[u8]],
) -> Result<Handshake, HandshakeError> {
    let setup = |reason: &dyn core::fmt::Display| HandshakeError::Setup(reason.to_string());
    let provider = Arc::new(CryptoProvider { cipher_suites: suites.to_vec(), ..default_provider() });
    let asked = Arc::new(Asked::default());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_client_cert_resolver(asked.clone());
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(question.endpoint.host.clone()).map_err(|error| setup(&error))?;
    let start = Instant::now();
    let stream = match tokio::time::timeout(question.timeout, Tcp.connect(&address.to_string())).await {
        Ok(stream) => stream.map_err(HandshakeError::Connect)?,
        Err(_) => return Err(HandshakeError::ConnectTimeout),
    };
    let tcp = start.elapsed();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = match tokio::time::timeout(question.timeout, connecting).await {
        Ok(stream) => stream.map_err(HandshakeError::Tls)?,
        Err(_) => return Err(HandshakeError::Timeout),
    };
    let tls = start.elapsed().saturating_sub(tcp);
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    Ok(Handshake {
        chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        version: session.protocol_version(),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        asks_for_certificate: asked.0.load(Ordering::Relaxed),
        tcp,
        tls,
    })
}

/// Takes any certificate, to be judged afterwards; that the other side has its key is checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Notes whether a client certificate was asked for, and shows none.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Connects as KMS would, then with each suite alone and with HTTP/1.1 alone. Nothing if there is no TLS at all.
pub(super) async fn judge(question: &Question, address: SocketAddr, findings: &mut Vec<Finding>) -> Option<Handshake> {
    let first = handshake(question, address, &SUITES, &[HTTP2, HTTP11]).await;
    match &first {
        Err(HandshakeError::Connect(_) | HandshakeError::ConnectTimeout) => {}
        Ok(done) => findings.push(judge_network(done.tcp)),
        Err(_) => findings.push(Finding::fine("tcp", address.to_string())),
    }
    let done = match first {
        Ok(done) => done,
        Err(error) => {
            findings.push(no_handshake(question, address, &error).await);
            return None;
        }
    };
    let version = done.version.map(|version| format!("{version:?}")).unwrap_or_default();
    findings.push(Finding::fine("tls", version));
    findings.push(suites(question, address).await);
    if done.asks_for_certificate {
        findings.push(Finding::of("client certificate", &causes::TLS_CLIENT_CERTIFICATE, "asked for"));
    }
    findings.push(fallback(question, address, &done).await);
    Some(done)
}

fn judge_network(tcp: Duration) -> Finding {
    /// Recommended round trip between AWS's data centre and the key manager (AWS KMS Developer Guide).
    const ROUND_TRIP: Duration = Duration::from_millis(35);
    let seen = format!("connected in {:.1} ms", millis_of(tcp));
    if tcp > ROUND_TRIP { Finding::of("tcp", &causes::NETWORK_FAR, seen) } else { Finding::fine("tcp", seen) }
}

/// Why the suites of KMS bring no session: whether others would, and whether it is ALPN that stands in the way.
async fn no_handshake(question: &Question, address: SocketAddr, error: &HandshakeError) -> Finding {
    let (cause, seen) = error.judged();
    let check =
        if matches!(error, HandshakeError::Connect(_) | HandshakeError::ConnectTimeout) { "tcp" } else { "tls" };
    if cause.id != causes::TLS_REFUSED.id {
        return Finding::of(check, cause, seen);
    }
    let others = default_provider().cipher_suites;
    match handshake(question, address, &others, &[]).await {
        Ok(_) => Finding::of("cipher suites", &causes::TLS_NO_SUITE, "other suites are accepted, these are not"),
        Err(_) => Finding::of(check, cause, seen),
    }
}

/// Offers each suite alone. One of them is enough.
async fn suites(question: &Question, address: SocketAddr) -> Finding {
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for suite in SUITES {
        let name = suite.suite().as_str().unwrap_or_default();
        match handshake(question, address, &[suite], &[HTTP11]).await {
            Ok(_) => taken.push(name),
            Err(_) => refused.push(name),
        }
    }
    if taken.is_empty() {
        // The first handshake may have been over HTTP/2 alone.
        return Finding::skipped("cipher suites", "none with HTTP/1.1 alone: see alpn");
    }
    Finding::fine("cipher suites", format!("{} (not: {})", taken.join(", "), refused.join(", ")))
}

/// Whether a client of HTTP/1.1 alone gets a session.
async fn fallback(question: &Question, address: SocketAddr, first: &Handshake) -> Finding {
    let name = |alpn: &Option<Vec<u8>>| alpn.as_deref().map_or("none".into(), String::from_utf8_lossy).into_owned();
    let both = name(&first.alpn);
    match handshake(question, address, &SUITES, &[HTTP11]).await {
        Ok(done) if done.alpn.as_deref().is_none_or(|chosen| chosen == HTTP11) => {
            Finding::fine("alpn", format!("of h2 and http/1.1: {both}; of http/1.1: {}", name(&done.alpn)))
        }
        Ok(done) => Finding::of("alpn", &causes::HTTP11_MISSING, format!("chose {}", name(&done.alpn))),
        Err(error) => Finding::of("alpn", &causes::HTTP11_MISSING, error.judged().1),
    }
}
