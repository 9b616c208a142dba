//! Whether KMS would accept the certificate: its time, its name, its chain, and the authority at its end.

use std::sync::Arc;

use der::Decode as _;
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::renewal::Validity;
use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring::default_provider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::Certificate;

use super::Question;
use super::report::Finding;
use super::table::causes;
use crate::commands::attest::Authorities;
use crate::moment::{format_ms, now_ms};

/// SHA-256 and names of the roots that KMS trusts.
const AUTHORITIES: &str = include_str!("authorities.txt");
/// Before its end a certificate is warned of by this time.
const SOON_MS: u64 = 14 * 86_400_000;

/// The roots that a verified connection may end at.
pub(super) struct Roots {
    of_kms: Arc<RootCertStore>,
    of_this_system: Arc<RootCertStore>,
    /// Those of this system and those that were given.
    pub(super) all: Arc<RootCertStore>,
}

impl Roots {
    /// Of this system, parted by KMS's list, and those that the question gives.
    pub(super) fn of(question: &Question) -> Self {
        let system: Vec<_> =
            rustls_native_certs::load_native_certs().certs.into_iter().map(|root| root.to_vec()).collect();
        let given = question.authorities.iter().flat_map(Authorities::roots);
        let of_kms = system.iter().map(Vec::as_slice).filter(|root| is_trusted_by_kms(root));
        let of_system = || system.iter().map(Vec::as_slice);
        Self { of_kms: store(of_kms), of_this_system: store(of_system()), all: store(of_system().chain(given)) }
    }
}

fn store<'a>(roots: impl Iterator<Item = &'a [u8]>) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    // Some roots of operating systems are none that can be used.
    store.add_parsable_certificates(roots.map(CertificateDer::from));
    Arc::new(store)
}

/// Whether KMS's list has this root.
fn is_trusted_by_kms(root: &[u8]) -> bool {
    let fingerprint = hex::encode(digest(&SHA256, root));
    AUTHORITIES.lines().any(|line| line.starts_with(&fingerprint))
}

/// Judges a chain, leaf first; whether requests may be sent over connections that show it.
pub(super) fn judge(
    question: &Question,
    chain: &[CertificateDer<'static>],
    roots: &Roots,
    findings: &mut Vec<Finding>,
) -> bool {
    let Some((leaf, rest)) = chain.split_first() else { return false };
    let Ok(parsed) = Certificate::from_der(leaf) else {
        findings.push(Finding::of("certificate", &causes::CERTIFICATE_UNUSABLE, "it cannot be parsed"));
        return false;
    };
    let Some(validity) = Validity::of(&DerCertificate(leaf.to_vec())) else {
        findings.push(Finding::of("certificate", &causes::CERTIFICATE_UNUSABLE, "its dates cannot be read"));
        return false;
    };
    if validity.not_after_ms < validity.not_before_ms {
        findings.push(Finding::of("certificate", &causes::CERTIFICATE_UNUSABLE, "it ends before it begins"));
        return false;
    }
    let before = findings.len();
    findings.push(judge_time(&validity, now_ms()));
    findings.push(judge_name(question, leaf, &parsed));
    // Each fault by itself: an expired certificate is held against the authorities as of when it was valid.
    let at_ms = now_ms().clamp(validity.not_before_ms, validity.not_after_ms);
    let link = Link { leaf, rest, host: &question.endpoint.host, at_ms };
    findings.push(judge_chain(&link, &parsed, roots, question.is_development()));
    let is_sound = |finding: &Finding| {
        finding.cause.is_none_or(|cause| {
            finding.grade < super::table::Grade::Refused || cause.id == causes::AUTHORITY_NOT_KMS.id
        })
    };
    findings.iter().skip(before).all(is_sound)
}

fn judge_time(validity: &Validity, now_ms: u64) -> Finding {
    const CHECK: &str = "certificate time";
    let (from, until) = (format_ms(validity.not_before_ms), format_ms(validity.not_after_ms));
    let seen = format!("{from} to {until}");
    if now_ms > validity.not_after_ms {
        Finding::of(CHECK, &causes::CERTIFICATE_EXPIRED, seen)
    } else if now_ms < validity.not_before_ms {
        Finding::of(CHECK, &causes::CERTIFICATE_NOT_YET, seen)
    } else if validity.not_after_ms.saturating_sub(now_ms) < SOON_MS {
        Finding::of(CHECK, &causes::CERTIFICATE_SOON, seen)
    } else {
        Finding::fine(CHECK, seen)
    }
}

fn judge_name(question: &Question, leaf: &CertificateDer<'_>, parsed: &Certificate) -> Finding {
    const CHECK: &str = "certificate name";
    let host = &question.endpoint.host;
    let subject = parsed.tbs_certificate().subject().to_string();
    let is_for_host = ServerName::try_from(host.as_str()).is_ok_and(|name| {
        let certificate = ParsedCertificate::try_from(leaf);
        certificate.is_ok_and(|certificate| rustls::client::verify_server_name(&certificate, &name).is_ok())
    });
    let is_common_name = |part: &str| {
        part.trim().strip_prefix("CN=").is_some_and(|name| {
            let above = host.split_once('.').map(|(_, above)| above);
            name.eq_ignore_ascii_case(host) || name.strip_prefix("*.").is_some_and(|wild| above == Some(wild))
        })
    };
    if !is_for_host {
        Finding::of(CHECK, &causes::CERTIFICATE_NAME, format!("for {subject}, not for {host}"))
    } else if subject.split([',', '+']).any(is_common_name) {
        Finding::fine(CHECK, host)
    } else {
        let seen = if subject.is_empty() { "no subject".to_owned() } else { subject };
        Finding::of(CHECK, &causes::CERTIFICATE_COMMON_NAME, seen).for_development(question.is_development())
    }
}

struct Link<'a> {
    leaf: &'a CertificateDer<'a>,
    rest: &'a [CertificateDer<'a>],
    host: &'a str,
    at_ms: u64,
}

impl Link<'_> {
    /// Whether one of these roots vouches for it. Its name is judged elsewhere.
    fn leads_to(&self, roots: &Arc<RootCertStore>) -> Result<(), CertificateError> {
        let unknown = Err(CertificateError::UnknownIssuer);
        let provider = Arc::new(default_provider());
        let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider).build() else {
            return unknown;
        };
        let Ok(name) = ServerName::try_from(self.host) else { return unknown };
        let at = UnixTime::since_unix_epoch(core::time::Duration::from_millis(self.at_ms));
        match verifier.verify_server_cert(self.leaf, self.rest, &name, &[], at) {
            Ok(_)
            | Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            Err(rustls::Error::InvalidCertificate(error)) => Err(error),
            Err(_) => unknown,
        }
    }
}

fn judge_chain(link: &Link<'_>, parsed: &Certificate, roots: &Roots, is_development: bool) -> Finding {
    const CHECK: &str = "certificate authority";
    let certificate = parsed.tbs_certificate();
    let count = link.rest.len().saturating_add(1);
    let seen = format!("{count} in the chain, issued by {}", certificate.issuer());
    if link.leads_to(&roots.of_kms).is_ok() {
        return Finding::fine(CHECK, seen);
    }
    if link.leads_to(&roots.of_this_system).is_ok() {
        return Finding::of(CHECK, &causes::AUTHORITY_NOT_KMS, seen);
    }
    match link.leads_to(&roots.all) {
        Ok(()) => Finding::of(CHECK, &causes::AUTHORITY_GIVEN, seen).for_development(is_development),
        Err(CertificateError::UnknownIssuer) if certificate.issuer() == certificate.subject() => {
            Finding::of(CHECK, &causes::CERTIFICATE_SELF_SIGNED, seen)
        }
        Err(CertificateError::UnknownIssuer) => Finding::of(CHECK, &causes::CERTIFICATE_INCOMPLETE, seen),
        Err(error) => Finding::of(CHECK, &causes::CERTIFICATE_UNUSABLE, format!("{seen}: {error:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_authorities_is_whole() {
        let lines: Vec<_> = AUTHORITIES.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 130);
        for line in lines {
            let (fingerprint, name) = line.split_once(' ').unwrap();
            assert_eq!(hex::decode(fingerprint).unwrap().len(), 32, "{name}");
        }
        // Amazon Root CA 4, as the list of the specification's repository has it.
        assert!(AUTHORITIES.contains("e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092 amazonrootca4"));
    }
}
