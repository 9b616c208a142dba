//! Certificate and TLS configuration of the proxy.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Flaw, HOST_NAME};

const DAY: Duration = Duration::from_hours(24);

pub(super) struct Identity {
    pub(super) authority_pem: String,
    pub(super) config: ServerConfig,
}

impl Identity {
    pub(super) fn new(flaw: Flaw) -> Self {
        let (authority, authority_pem) = authority("the authority of a test");
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(flaw);
        let certificate = match flaw {
            Flaw::SelfSigned => leaf.self_signed(&key).unwrap(),
            Flaw::UnknownAuthority => leaf.signed_by(&key, &self::authority("nobody's").0).unwrap(),
            _ => leaf.signed_by(&key, &authority).unwrap(),
        };
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(provider(flaw)))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if flaw == Flaw::AsksForCertificate {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![if flaw == Flaw::Http2Only { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Self { authority_pem, config }
    }
}

fn provider(flaw: Flaw) -> CryptoProvider {
    let mut provider = default_provider();
    if flaw == Flaw::OtherSuite {
        provider.cipher_suites = vec![cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    }
    provider
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = parameters.self_signed(&key).unwrap().pem();
    (Issuer::new(parameters, key), pem)
}

fn leaf(flaw: Flaw) -> CertificateParams {
    let name = if flaw == Flaw::OtherName { "other.example.com" } else { HOST_NAME };
    let now = SystemTime::now();
    let (from, until) = match flaw {
        Flaw::Expired => (now - 3 * DAY, now - DAY),
        Flaw::NotYet => (now + DAY, now + 90 * DAY),
        Flaw::EndsFirst => (now + DAY, now - DAY),
        Flaw::Soon => (now - 3 * DAY, now + DAY),
        _ => (now - DAY, now + 90 * DAY),
    };
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = from.into();
    parameters.not_after = until.into();
    parameters
}
