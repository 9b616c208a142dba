//! Client certificates: optional mutual TLS (specification, section "Authentication").
//!
//! Guarantees: a certificate is accepted only if it chains to an authority that the owner named, is valid now on the
//! attested clock and good for client authentication, and the one common name of its subject is, byte for byte, one that
//! the *same* setting names. A certificate that is refused ends the handshake with `handshake_failure`. What was accepted
//! in the handshake is looked at again for each request: against the setting of that key store, as it is then.
//! Refuses: a subject with no common name or several, or one in any string type but `UTF8String` and `PrintableString`;
//! names in the `subjectAltName` extension count for nothing; chains longer than ours may be.

use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use der::asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use der::{Decode, Encode};
use holdfast_shared::keystore::ClientAuthentication;
use holdfast_shared::limits::{CERTIFICATE_CHAIN_MAX, CERTIFICATE_DER_MAX};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConnection, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::attr::AttributeTypeAndValue;

/// `id-at-commonName` (RFC 5280, appendix A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// How long a certificate that met a setting counts without another look, on an open connection: it may expire.
const VERDICT_MS: u64 = 60_000;

/// What the key stores under one host name ask of client certificates: each setting once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientSettings(Vec<Arc<ClientAuthentication>>);

impl ClientSettings {
    /// Collects the settings of all key stores under one host name.
    pub(crate) fn of<'s>(settings: impl Iterator<Item = &'s Arc<ClientAuthentication>>) -> Self {
        let mut distinct: Vec<Arc<ClientAuthentication>> = Vec::new();
        for setting in settings {
            if !distinct.contains(setting) {
                distinct.push(Arc::clone(setting));
            }
        }
        Self(distinct)
    }

    /// Whether any key store asks for a certificate.
    pub(crate) fn ask(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Accepts what at least one setting accepts; no setting lends its names to another's authorities.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    settings: ClientSettings,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub(super) fn new(settings: ClientSettings, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { settings, algorithms }
    }
}

impl ClientCertVerifier for ClientVerifier {
    /// None: "any certificate" (RFC 5246, section 7.4.4; RFC 8446, section 4.2.4). A list would tell strangers whom the
    /// owner trusts, and some clients send nothing unless it names the issuer of a certificate that they did not load.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.settings.0.iter().any(|setting| meets(setting, end_entity, intermediates, &self.algorithms, now)) {
            return Ok(ClientCertVerified::assertion());
        }
        // Of all errors, rustls maps this kind to handshake_failure: it is the same for every reason.
        Err(rustls::Error::General("the client certificate is refused".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificate that the client of one connection proved to hold, in this handshake or in the one that it resumed.
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    last: Mutex<Option<Verdict>>,
}

/// A setting that the certificate met a moment ago.
struct Verdict {
    setting: Arc<ClientAuthentication>,
    until_ms: u64,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// The certificate of a connection whose handshake is over, if its client sent one.
    pub(crate) fn of(connection: &ServerConnection) -> Option<Self> {
        let chain = connection.peer_certificates()?;
        Some(Self { chain: chain.iter().map(|part| part.clone().into_owned()).collect(), last: Mutex::default() })
    }

    /// Whether it meets a key store's setting at this time. At most [`VERDICT_MS`] old where it does.
    pub(crate) fn meets(&self, setting: &Arc<ClientAuthentication>, wall_ms: u64) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|last| Arc::ptr_eq(&last.setting, setting) && wall_ms < last.until_ms) {
            return true;
        }
        let Some((end_entity, intermediates)) = self.chain.split_first() else {
            return false;
        };
        let now = UnixTime::since_unix_epoch(Duration::from_millis(wall_ms));
        let algorithms = super::provider().signature_verification_algorithms;
        let meets = meets(setting, end_entity, intermediates, &algorithms, now);
        *last = meets.then(|| Verdict { setting: Arc::clone(setting), until_ms: wall_ms.saturating_add(VERDICT_MS) });
        meets
    }
}

fn meets(
    setting: &ClientAuthentication,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    algorithms: &WebPkiSupportedAlgorithms,
    now: UnixTime,
) -> bool {
    // Bounds what path building and the session store may cost.
    if intermediates.len() >= CERTIFICATE_CHAIN_MAX
        || intermediates.iter().chain([end_entity]).any(|part| part.len() > CERTIFICATE_DER_MAX)
    {
        return false;
    }
    let Ok(certificate) = EndEntityCert::try_from(end_entity) else {
        return false;
    };
    let Some(name) = common_name(certificate.subject()) else {
        return false;
    };
    if !setting.subject_common_names.contains(&name) {
        return false;
    }
    let authorities: Vec<_> =
        setting.authorities.iter().map(|authority| CertificateDer::from(authority.0.as_slice())).collect();
    // An authority that cannot be read is one that nobody chains to.
    let anchors: Vec<_> = authorities.iter().filter_map(|authority| anchor_from_trusted_cert(authority).ok()).collect();
    let usage = KeyUsage::client_auth();
    certificate.verify_for_usage(algorithms.all, &anchors, intermediates, now, usage, None, None).is_ok()
}

/// The common name of a subject, given as the content of its `Name` (without tag and length); nothing unless there is
/// exactly one.
fn common_name(mut subject: &[u8]) -> Option<String> {
    let mut found = None;
    while !subject.is_empty() {
        let (set, rest) = der::asn1::AnyRef::from_der_partial(subject).ok()?;
        subject = rest;
        let attributes = der::asn1::SetOfVec::<AttributeTypeAndValue>::from_der(&set.to_der().ok()?).ok()?;
        for attribute in attributes.iter().filter(|attribute| attribute.oid == COMMON_NAME) {
            let text = text(&attribute.value)?;
            if found.replace(text).is_some() {
                return None;
            }
        }
    }
    found
}

/// The two string types that RFC 5280, section 4.1.2.4, asks CAs to use.
fn text(value: &der::Any) -> Option<String> {
    if let Ok(text) = value.decode_as::<Utf8StringRef<'_>>() {
        return Some(text.as_str().to_owned());
    }
    value.decode_as::<PrintableStringRef<'_>>().ok().map(|text| text.as_str().to_owned())
}
