//! The certificate of the endpoint.
//!
//! Guarantees: one certificate for `localhost` and 127.0.0.1, under a root that outlives restarts.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{KmsShareError, TLS_ROOT_FILE, TLS_ROOT_KEY_FILE, write_private};

/// A certificate that is made now under the root in the folder, which is made on first use.
pub(super) fn tls(state: &Path) -> Result<Arc<ServerConfig>, KmsShareError> {
    let (certificate, key) = (state.join(TLS_ROOT_FILE), state.join(TLS_ROOT_KEY_FILE));
    let root_key = if key.exists() {
        KeyPair::from_pem(&std::fs::read_to_string(&key).map_err(KmsShareError::at(&key))?)?
    } else {
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        write_private(&key, root_key.serialize_pem().as_bytes())?;
        let pem = root_parameters().self_signed(&root_key)?.pem();
        std::fs::write(&certificate, pem).map_err(KmsShareError::at(&certificate))?;
        root_key
    };
    let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    leaf.not_before = date_time_ymd(2020, 1, 1);
    leaf.not_after = date_time_ymd(2049, 12, 31);
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(root_parameters(), root_key))?;
    let leaf_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], leaf_key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

fn root_parameters() -> CertificateParams {
    let mut root = CertificateParams::default();
    root.distinguished_name = DistinguishedName::new();
    root.distinguished_name.push(DnType::CommonName, "holdfast-dev kms-share, trust it nowhere else");
    root.not_before = date_time_ymd(2020, 1, 1);
    root.not_after = date_time_ymd(2049, 12, 31);
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    root
}
