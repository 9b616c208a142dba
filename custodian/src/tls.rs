//! The HTTPS certificate: from the custodian's own authority, or from files.
//!
//! Guarantees: TLS 1.3 or 1.2 with ring; no tickets, no stored sessions, no early data; HTTP/1.1 only. The own authority's
//! certificate is what manifests pin, so the server certificate can be issued anew at every start, and its key never touches
//! the disk. HTTPS is defence in depth: what a release proves rests on signatures and HPKE.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::ids::CustodianId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::config::{Config, TlsSource};
use crate::state::{self, StateDirectory, StateError};

/// Life of the own authority. It names nobody outside and is replaced by a successor manifest.
const AUTHORITY_LIFE_DAYS: i64 = 20 * 365;
/// How far a certificate reaches back, for clocks that are behind.
const BACKDATE_DAYS: i64 = 1;

/// The fields that name files.
const CERTIFICATE: &str = "tls.certificate";
const PRIVATE_KEY: &str = "tls.private_key";
const ROOTS: &str = "tls.roots";

/// Why there is no HTTPS certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A private file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file cannot be used.
    #[error("{field} = {}: {reason}", file.display())]
    File {
        /// The configuration's field that names it, or what it is.
        field: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The configured private key cannot be read.
    #[error("{PRIVATE_KEY} = {0}")]
    PrivateKey(#[source] StateError),
    /// A certificate cannot be made.
    #[error("TLS certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The certificate does not fit its key, or TLS does not take it.
    #[error("TLS certificate: {0}; tls.private_key must be the key of the first certificate in tls.certificate")]
    Use(#[from] rustls::Error),
}

/// A new authority: its key and its certificate, in PEM.
///
/// # Errors
/// [`TlsError::Issue`].
pub fn make_authority(id: CustodianId, now_ms: u64) -> Result<(String, String), TlsError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = authority_params(id, now_ms).self_signed(&key)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

fn authority_params(id: CustodianId, now_ms: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Holdfast custodian {id}").chars().take(64).collect::<String>());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(now_ms);
    params
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn validity(now_ms: u64) -> (OffsetDateTime, OffsetDateTime) {
    let now = i64::try_from(now_ms / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    (now.saturating_sub(Duration::days(BACKDATE_DAYS)), now.saturating_add(Duration::days(AUTHORITY_LIFE_DAYS)))
}

/// The roots to which the HTTPS certificate chains, each in PEM: for the manifest.
///
/// # Errors
/// [`TlsError`].
pub fn roots(config: &Config, state: &StateDirectory) -> Result<Vec<String>, TlsError> {
    let roots = match &config.tls {
        TlsSource::OwnAuthority { .. } => certificates("the own authority", &state.ca())?,
        TlsSource::Files { roots, .. } => certificates(ROOTS, roots)?,
    };
    Ok(roots.iter().map(|der| pem(der)).collect())
}

/// The textual form of a certificate (RFC 7468), 64 characters a line.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while let Some((line, after)) = rest.split_at_checked(64) {
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    if !rest.is_empty() {
        out.push_str(rest);
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

fn certificates(field: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File { field, file: file.to_owned(), reason };
    let bytes = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() { Err(wrong("holds no PEM certificate".to_owned())) } else { Ok(certificates) }
}

/// The server's TLS settings.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(
    config: &Config,
    state: &StateDirectory,
    id: CustodianId,
    now_ms: u64,
) -> Result<Arc<ServerConfig>, TlsError> {
    match &config.tls {
        TlsSource::OwnAuthority { names } => settings(issue(state, names, id, now_ms)?),
        TlsSource::Files { certificate, private_key, .. } => {
            settings((certificates(CERTIFICATE, certificate)?, private_key_of(private_key)?))
        }
    }
}

/// Looks at the files that the configuration names, if it names any.
///
/// # Errors
/// [`TlsError`]: a file that cannot be used, or a key that is not the certificate's.
pub fn check_files(config: &Config) -> Result<(), TlsError> {
    if let TlsSource::Files { certificate, private_key, roots } = &config.tls {
        certificates(ROOTS, roots)?;
        settings((certificates(CERTIFICATE, certificate)?, private_key_of(private_key)?))?;
    }
    Ok(())
}

fn settings((chain, key): Chain) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Ok(Arc::new(tls))
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Issues a server certificate from the own authority.
fn issue(state: &StateDirectory, names: &[String], id: CustodianId, now_ms: u64) -> Result<Chain, TlsError> {
    let key_file = state.ca_key();
    let unusable = || TlsError::State(StateError::BadKey { file: key_file.clone() });
    let pem = state::read_private(&key_file)?;
    let pem = std::str::from_utf8(pem.expose()).map_err(|_| unusable())?;
    let issuer = Issuer::new(authority_params(id, now_ms), KeyPair::from_pem(pem).map_err(|_| unusable())?);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = named("Holdfast custodian");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = validity(now_ms);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![certificate.der().clone()], key))
}

fn private_key_of(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = state::read_private(file).map_err(TlsError::PrivateKey)?;
    PrivateKeyDer::from_pem_slice(bytes.expose()).map_err(|_| TlsError::File {
        field: PRIVATE_KEY,
        file: file.to_owned(),
        reason: "holds no private key in PEM".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_textual_form_reads_back() {
        for length in [1, 47, 48, 49, 96, 700] {
            let der = vec![0xA5; length];
            let text = pem(&der);
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(), der);
        }
    }
}
