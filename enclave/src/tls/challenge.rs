//! The answer to TLS-ALPN-01 (RFC 8737): a handshake that shows a challenge, and nothing else.
//!
//! Guarantees: its configuration speaks `acme-tls/1` alone, and those of served hosts never do, so that no request comes over a
//! connection that was made for a challenge; its certificate's key is drawn anew and is nobody's identity. Refuses: sessions.

use std::sync::Arc;

use holdfast_shared::xks::HostName;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::crypto::ring::sign;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;

use super::{AttestedTime, OneIdentity, TlsError, provider};
use crate::clock::Clock;

/// The protocol's name (RFC 8737, section 6.2).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// What a validation of `host_name` is shown.
pub(crate) fn challenge_config(
    host_name: &HostName,
    key_authorization_sha256: &[u8; 32],
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| TlsError::PrivateKey)?;
    // RFC 8737, section 3: the name alone, and the critical extension acmeIdentifier.
    let mut params = CertificateParams::new(vec![host_name.as_str().to_owned()]).map_err(|_| TlsError::Certificate)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(key_authorization_sha256)];
    let certificate = params.self_signed(&key).map_err(|_| TlsError::Certificate)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = sign::any_supported_type(&key).map_err(|_| TlsError::PrivateKey)?;
    // rustls' own check of the pair would stumble over the critical extension, which no verifier of certificates knows.
    let identity = OneIdentity(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)));
    let time = Arc::new(AttestedTime(Arc::clone(clock)));
    let mut config = ServerConfig::builder_with_details(Arc::new(provider()), time)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Configuration)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(identity));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
