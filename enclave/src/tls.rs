//! TLS as KMS meets it (specification, section "API content type"; design, section 7).
//!
//! Guarantees: TLS 1.2 or 1.3 with the four suites of the specification and no other; HTTP/2 or HTTP/1.1; no early data;
//! sessions are resumed only within one host name and are kept in this enclave's memory, never in tickets that a key could
//! open later; time comes from [`Clock`]. Client certificates are asked for only where a key store under the host name
//! says so, and then nobody gets in without one. Refuses: a handshake without a server name, or for one that is not
//! served (see [`crate::server`]).

mod challenge;
mod client;
pub(crate) mod expiry;

use std::sync::Arc;
use std::time::Duration;

use der::Decode;
use holdfast_shared::proof;
use holdfast_shared::secrets::SecretBytes;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider, sign};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;

pub(crate) use challenge::{ACME_TLS, challenge_config};
pub use client::ClientCertificate;
pub(crate) use client::ClientSettings;

use self::client::ClientVerifier;
use crate::clock::Clock;

/// Sessions remembered per host name. KMS keeps connections open, so few are resumed.
const SESSIONS_PER_HOST: usize = 256;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate was given.
    #[error("the certificate chain is empty")]
    EmptyChain,
    /// The first certificate cannot be read.
    #[error("the first certificate of the chain cannot be read")]
    Certificate,
    /// The private key is not one that we can sign with.
    #[error("the private key is not usable")]
    PrivateKey,
    /// The private key does not belong to the first certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// rustls refused the configuration.
    #[error("the TLS configuration is refused: {0}")]
    Configuration(rustls::Error),
}

/// Certificate chain and private key of one host name.
#[derive(Debug)]
pub struct TlsIdentity {
    certified_key: Arc<CertifiedKey>,
    installed_ms: u64,
    not_after_ms: u64,
    public_key_sha256: [u8; 32],
}

impl TlsIdentity {
    /// Reads a chain of DER certificates, leaf first, and its PKCS #8 key. Of several identities for one host name, the one
    /// with the highest `installed_ms` is served.
    ///
    /// # Errors
    /// If chain or key is unusable, or the two do not belong together.
    pub fn new(chain: Vec<Vec<u8>>, key: &SecretBytes, installed_ms: u64) -> Result<Self, TlsError> {
        let leaf = chain.first().ok_or(TlsError::EmptyChain)?;
        let public_key_sha256 = proof::tls_public_key_sha256(leaf).ok_or(TlsError::Certificate)?;
        let leaf = x509_cert::Certificate::from_der(leaf).map_err(|_| TlsError::Certificate)?;
        let not_after = leaf.tbs_certificate().validity().not_after.to_unix_duration();
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose()));
        let key = sign::any_supported_type(&key).map_err(|_| TlsError::PrivateKey)?;
        let certified_key = CertifiedKey::new(chain, key);
        certified_key.keys_match().map_err(|_| TlsError::Mismatch)?;
        let not_after_ms = u64::try_from(not_after.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { certified_key: Arc::new(certified_key), installed_ms, not_after_ms, public_key_sha256 })
    }

    /// The certificates, leaf first.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    pub(crate) fn installed_ms(&self) -> u64 {
        self.installed_ms
    }

    /// SHA-256 of the DER of the subject public key info.
    pub(crate) fn public_key_sha256(&self) -> [u8; 32] {
        self.public_key_sha256
    }

    /// The last moment of the certificate, milliseconds since 1970.
    pub(crate) fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }
}

/// *ring*, with the four cipher suites that the specification lists.
#[must_use]
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        ..default_provider()
    }
}

/// The configuration of one host name. Each has its own session store, so no session crosses host names.
pub(crate) fn server_config(
    identity: &TlsIdentity,
    clients: &ClientSettings,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let time = Arc::new(AttestedTime(Arc::clone(clock)));
    let provider = Arc::new(provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ServerConfig::builder_with_details(provider, time)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Configuration)?;
    let builder = if clients.ask() {
        builder.with_client_cert_verifier(Arc::new(ClientVerifier::new(clients.clone(), algorithms)))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_cert_resolver(Arc::new(OneIdentity(Arc::clone(&identity.certified_key))));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    // No ticketer: with one, rustls would read the system clock to rotate its keys, and those keys would open old sessions.
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_PER_HOST);
    Ok(Arc::new(config))
}

/// Answers every handshake with one identity: the choice by server name was made before.
#[derive(Debug)]
struct OneIdentity(Arc<CertifiedKey>);

impl ResolvesServerCert for OneIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// [`Clock`] as rustls asks for it.
pub(crate) struct AttestedTime(pub(crate) Arc<dyn Clock>);

impl core::fmt::Debug for AttestedTime {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("AttestedTime")
    }
}

impl TimeProvider for AttestedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall_ms())))
    }
}
