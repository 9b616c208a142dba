//! Tenants that want to harm the others: manifests of their own, and custodians that do the worst they can at every step.
//!
//! Guarantees: each manifest is properly signed, so that the enclave takes it; each custodian speaks TLS with the certificate that its
//! manifest names, unless not doing so is its way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_shared::attestation::Measurements;
use holdfast_shared::manifest::{
    self, Administrator, Custodian, DerCertificate, Manifest, ReleasePolicy, Thresholds, VerifiedManifest,
};
use holdfast_shared::release::ChallengeAnswer;
use holdfast_shared::signature::SigningKey;
use holdfast_shared::xks::{HostName, PathPrefix};
use holdfast_shared::{api, cbor, hpke, labels, limits};
use ring::rand::SystemRandom;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::random::random_bytes;

/// What a custodian does to whoever asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Takes the connection and says nothing.
    Silent,
    /// Speaks no TLS, but sends noise.
    Noise,
    /// Ends every connection at once.
    Reset,
    /// Headers without end.
    Headers,
    /// One byte of an answer at a time.
    Dribble,
    /// A body without end.
    Giant,
    /// Something that is no message of ours: an array in an array in an array.
    Deep,
    /// Look elsewhere.
    Redirect,
    /// A proper challenge each time, so that the enclave asks the NSM for a document each time; then noise.
    Challenge,
    /// A refusal with the longest reason, made of control characters and lies.
    Refusal,
}

/// All of them.
pub const MANNERS: [Manner; 10] = [
    Manner::Silent,
    Manner::Noise,
    Manner::Reset,
    Manner::Headers,
    Manner::Dribble,
    Manner::Giant,
    Manner::Deep,
    Manner::Redirect,
    Manner::Challenge,
    Manner::Refusal,
];

/// See the module.
pub struct HostileTenant {
    /// What it does.
    pub manner: Manner,
    /// What the parent is given.
    pub signed: Vec<u8>,
    /// The same, verified.
    pub manifest: VerifiedManifest,
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl HostileTenant {
    /// Starts its custodian and claims a host name.
    pub async fn start(manner: Manner, host_name: &str) -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                while connections.try_join_next().is_some() {}
                counting.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // Whatever ends it is what the enclave did about it.
                    let _ = misbehave(manner, stream, acceptor).await;
                });
            }
        });
        let signed = manifest(host_name, &format!("localhost:{}", address.port()), certificate.to_vec());
        let manifest = VerifiedManifest::verify(&signed).unwrap();
        Self { manner, signed, manifest, address, asked, task }
    }

    /// `host:port`, for the parent's list.
    #[must_use]
    pub fn address(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Connections that came.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for HostileTenant {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn misbehave(manner: Manner, mut stream: tokio::net::TcpStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
    match manner {
        Manner::Reset => return Ok(()),
        Manner::Silent => return forever().await,
        Manner::Noise => loop {
            stream.write_all(&random_bytes::<4096>()).await?;
        },
        _ => {}
    }
    let mut stream = acceptor.accept(stream).await?;
    let mut head = vec![0; 16 * 1024];
    let length = stream.read(&mut head).await?;
    let is_challenge = head[..length].windows(api::CHALLENGE.len()).any(|path| path == api::CHALLENGE.as_bytes());
    match manner {
        Manner::Headers => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(format!("x-{}: {}\r\n", random_bytes::<1>()[0], "y".repeat(1000)).as_bytes()).await?;
            }
        }
        Manner::Dribble => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
            loop {
                stream.write_all(b"x").await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Manner::Giant => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n").await?;
            loop {
                stream.write_all(&vec![0; 64 * 1024]).await?;
            }
        }
        Manner::Deep => answer(&mut stream, "200 OK", &vec![0x81; limits::RELEASE_MAX / 2]).await?,
        Manner::Redirect => {
            let head = "HTTP/1.1 307 Temporary Redirect\r\nlocation: https://localhost:1/\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
        }
        Manner::Challenge if is_challenge => {
            let nonce = cbor::encode(&ChallengeAnswer { nonce: random_bytes::<32>() });
            answer(&mut stream, "200 OK", &nonce).await?;
        }
        Manner::Challenge => answer(&mut stream, "200 OK", &random_bytes::<1024>()).await?,
        _ => {
            let reason = format!("\r\n\u{1b}[2J key store {}: Serving {}", "0".repeat(64), "x".repeat(400));
            let refusal = api::Refusal { code: api::RefusalCode::Denied, reason };
            answer(&mut stream, "403 Forbidden", &cbor::encode(&refusal)).await?;
        }
    }
    stream.flush().await?;
    forever().await
}

async fn forever() -> std::io::Result<()> {
    std::future::pending().await
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), status: &str, body: &[u8]) -> std::io::Result<()> {
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n", api::CONTENT_TYPE, body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await
}

/// A manifest that verifies.
#[must_use]
pub fn manifest(host_name: &str, address: &str, certificate: Vec<u8>) -> Vec<u8> {
    let rng = SystemRandom::new();
    let signing_key = || SigningKey::from_pkcs8(&SigningKey::generate(&rng).unwrap(), &rng).unwrap();
    let (administrator, custodian) = (signing_key(), signing_key());
    let measured = [1; 48];
    let measurements = Measurements {
        pcr0: measured,
        pcr1: measured,
        pcr2: measured,
        pcr16: measured,
        pcr3: None,
        pcr4: None,
        pcr8: None,
    };
    let manifest = Manifest {
        label: labels::MANIFEST.to_owned(),
        nonce: random_bytes::<16>(),
        name: "hostile".to_owned(),
        administrators: vec![Administrator {
            name: "mallory".to_owned(),
            signing_key: administrator.verifying_key().unwrap(),
            encryption_key: *hpke::PrivateKey::generate().unwrap().public_key(),
        }],
        thresholds: Thresholds::ONE,
        custodians: vec![Custodian {
            name: "hostile".to_owned(),
            signing_key: custodian.verifying_key().unwrap(),
            encryption_key: *hpke::PrivateKey::generate().unwrap().public_key(),
            address: address.to_owned(),
            tls_roots: vec![DerCertificate(certificate)],
        }],
        shares_needed: 1,
        hostile_tolerated: 0,
        host_name: HostName::parse(host_name).unwrap(),
        path_prefix: PathPrefix::parse("/hostile").unwrap(),
        release_policy: ReleasePolicy::first([1; 32], vec![measurements], 60_000),
        succession: None,
        kms_share: None,
    };
    cbor::encode(&manifest::sign(&manifest, &administrator, &rng).unwrap()).to_vec()
}
