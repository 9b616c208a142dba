//! A development certificate authority in the state folder. It signs what it is asked to: its only client is `up`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use x509_cert::der::DecodePem;
use x509_cert::request::CertReq;

use super::layout::{Layout, LayoutError};

const DAY: Duration = Duration::from_hours(24);

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The authority's own key or certificate.
    #[error("the development authority: {0}")]
    Certificates(#[from] rcgen::Error),
    /// The request.
    #[error("the certificate signing request: {0}")]
    Request(&'static str),
}

const KEY: &str = "tls/ca-key.pem";
const CERTIFICATE: &str = "tls/ca.pem";

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, for clients to trust.
    pub certificate_file: PathBuf,
    /// The same in DER.
    pub certificate_der: Vec<u8>,
}

/// The public key of a request.
struct RequestedKey {
    point: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl Authority {
    /// The authority in the state folder, made on first use.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn load_or_create(layout: &Layout) -> Result<Self, AuthorityError> {
        if layout.read(KEY)?.is_none() || layout.read(CERTIFICATE)?.is_none() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            layout.write(KEY, key.serialize_pem().as_bytes(), 0o600)?;
            layout.write(CERTIFICATE, parameters().self_signed(&key)?.pem().as_bytes(), 0o644)?;
        }
        Self::of_state(layout.root())
    }

    /// The authority in the state folder of a system that another process keeps up.
    ///
    /// # Errors
    /// [`AuthorityError`], where there is none, too.
    pub fn of_state(state: &Path) -> Result<Self, AuthorityError> {
        let read = |name: &str| {
            let path = state.join(name);
            std::fs::read_to_string(&path).map_err(|source| LayoutError::Io { path, source })
        };
        let key = KeyPair::from_pem(&read(KEY)?)?;
        let certificate_der = holdfast_cli::commands::tls::parse_chain(read(CERTIFICATE)?.as_bytes())
            .ok()
            .and_then(|chain| chain.into_iter().next())
            .ok_or(AuthorityError::Request("ca.pem is not a certificate; remove the folder tls"))?
            .0;
        Ok(Self { issuer: Issuer::new(parameters(), key), certificate_file: state.join(CERTIFICATE), certificate_der })
    }

    /// Signs a certificate for the key in a request. The request came out of an attested enclave, so its key is taken as it is;
    /// the name is what the caller says, not what the request says.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn sign(&self, request_pem: &str, host_name: &str) -> Result<String, AuthorityError> {
        let now = SystemTime::now();
        self.sign_for(request_pem, host_name, (now - DAY)..(now + 3650 * DAY))
    }

    /// The same, valid for this time.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn sign_for(
        &self,
        request_pem: &str,
        host_name: &str,
        valid: Range<SystemTime>,
    ) -> Result<String, AuthorityError> {
        let request = CertReq::from_pem(request_pem).map_err(|_| AuthorityError::Request("is not PKCS #10 in PEM"))?;
        let key = requested_key(&request)?;
        let mut parameters = CertificateParams::new(vec![host_name.to_owned()])?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, host_name);
        parameters.not_before = valid.start.into();
        parameters.not_after = valid.end.into();
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        Ok(parameters.signed_by(&key, &self.issuer)?.pem())
    }
}

fn parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "holdfast-dev authority, trust it nowhere else");
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(2049, 12, 31);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

/// P-256 (65 bytes) or P-384 (97 bytes), uncompressed.
fn requested_key(request: &CertReq) -> Result<RequestedKey, AuthorityError> {
    let point = request.info.public_key.subject_public_key.raw_bytes().to_vec();
    let algorithm = match point.len() {
        65 => &PKCS_ECDSA_P256_SHA256,
        97 => &PKCS_ECDSA_P384_SHA384,
        _ => return Err(AuthorityError::Request("has no P-256 or P-384 key")),
    };
    Ok(RequestedKey { point, algorithm })
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    #[test]
    fn a_request_is_signed_for_the_name_and_verifies() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(folder.path()).unwrap();
        let first = Authority::load_or_create(&layout).unwrap();
        let again = Authority::load_or_create(&layout).unwrap();
        assert_eq!(first.certificate_der, again.certificate_der);
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::new(vec!["other".to_owned()]).unwrap().serialize_request(&key).unwrap();
            let pem = again.sign(&request.pem().unwrap(), "localhost").unwrap();
            let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let mut roots = rustls::RootCertStore::empty();
            roots.add(first.certificate_der.clone().into()).unwrap();
            let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
            let verifier =
                rustls::client::WebPkiServerVerifier::builder_with_provider(std::sync::Arc::new(roots), provider)
                    .build()
                    .unwrap();
            for (name, expected) in [("localhost", true), ("other", false)] {
                let name = ServerName::try_from(name).unwrap();
                let result = rustls::client::danger::ServerCertVerifier::verify_server_cert(
                    &*verifier,
                    &leaf,
                    &[],
                    &name,
                    &[],
                    UnixTime::now(),
                );
                assert_eq!(result.is_ok(), expected, "{name:?}: {result:?}");
            }
        }
        assert!(matches!(again.sign("nothing", "localhost"), Err(AuthorityError::Request(_))));
    }
}
