//! The certificate authorities whose word proves a host name: the proof that an enclave can check without asking anybody.
//!
//! Guarantees: a proof is a chain from the leaf whose private key the key store holds to one of these authorities, for the host name,
//! for TLS servers, valid at the attested time. Assumes: the authorities are part of the measured static configuration, so
//! owners accept them with the enclave's measurements. Refuses: a self-made certificate, somebody else's certificate (the
//! private key is missing, see [`crate::tls::TlsIdentity`]), an expired one.

use core::time::Duration;

use holdfast_shared::xks::HostName;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};

/// One of the certificates is no X.509 certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host_name_authorities: certificate {position} is not a readable X.509 certificate")]
pub struct AuthorityError {
    /// From 1.
    position: usize,
}

/// See the module. Without any, no host name can be proven.
#[derive(Debug, Default)]
pub(crate) struct Authorities(Vec<TrustAnchor<'static>>);

impl Authorities {
    /// Reads DER certificates.
    ///
    /// # Errors
    /// The first that cannot be read.
    pub(crate) fn new(certificates: &[Vec<u8>]) -> Result<Self, AuthorityError> {
        let anchor = |(index, certificate): (usize, &Vec<u8>)| {
            webpki::anchor_from_trusted_cert(&CertificateDer::from(certificate.as_slice()))
                .map(|anchor| anchor.to_owned())
                .map_err(|_| AuthorityError { position: index.saturating_add(1) })
        };
        certificates.iter().enumerate().map(anchor).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a chain, leaf first, proves `host_name` at `now_ms`.
    pub(crate) fn prove(&self, chain: &[impl AsRef<[u8]>], host_name: &HostName, now_ms: u64) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        let Ok(name) = ServerName::try_from(host_name.as_str()) else { return false };
        let leaf = CertificateDer::from(leaf.as_ref());
        let Ok(leaf) = webpki::EndEntityCert::try_from(&leaf) else { return false };
        let rest: Vec<_> = rest.iter().map(|certificate| CertificateDer::from(certificate.as_ref())).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
        let algorithms = crate::tls::provider().signature_verification_algorithms.all;
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(algorithms, &self.0, &rest, now, usage, None, None).is_ok()
            && leaf.verify_is_valid_for_subject_name(&name).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000; // 2026-09-21

    fn authority(year: i32) -> (Vec<u8>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {}", key.serialize_pem().len()));
        (params.self_signed(&key).unwrap().der().to_vec(), Issuer::new(params, key))
    }

    fn leaf(name: &str, issuer: &Issuer<'_, KeyPair>, year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().to_vec()
    }

    #[test]
    fn only_a_valid_chain_to_a_known_authority_for_the_name_proves_it() {
        let (root, issuer) = authority(2040);
        let (_, stranger) = authority(2040);
        let known = Authorities::new(&[root]).unwrap();
        let self_made = rcgen::generate_simple_self_signed(vec!["xks.a.test".to_owned()]).unwrap().cert.der().to_vec();
        let host = HostName::parse("xks.a.test").unwrap();
        let table = [
            ("good", vec![leaf("xks.a.test", &issuer, 2027)], true),
            ("wildcard", vec![leaf("*.a.test", &issuer, 2027)], true),
            ("another name", vec![leaf("xks.b.test", &issuer, 2027)], false),
            ("another authority", vec![leaf("xks.a.test", &stranger, 2027)], false),
            ("expired", vec![leaf("xks.a.test", &issuer, 2026)], false),
            ("self-made", vec![self_made], false),
            ("noise", vec![vec![0; 30]], false),
            ("nothing", vec![], false),
        ];
        for (what, chain, expected) in table {
            assert_eq!(known.prove(&chain, &host, NOW_MS), expected, "{what}");
            assert!(!Authorities::default().prove(&chain, &host, NOW_MS), "{what}, without authorities");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_by_its_place() {
        let (root, _) = authority(2040);
        let error = Authorities::new(&[root, vec![1, 2, 3]]).unwrap_err();
        assert_eq!(error, AuthorityError { position: 2 });
    }
}
