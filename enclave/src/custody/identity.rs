//! The TLS identity and SigV4 credentials of a key store: made here, sealed, never in clear outside.

use std::time::Duration;

use der::{Decode, Encode};
use holdfast_shared::keystore::CredentialRecord;
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks::HostName;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};

/// Why an identity could not be made or was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    /// No randomness, or a library's refusal of our own key.
    #[error("the TLS key cannot be made or used")]
    Key,
    /// Not a certificate.
    #[error("certificate {position} of the chain is not a readable X.509 certificate")]
    Malformed {
        /// From 1, leaf first.
        position: usize,
    },
    /// Another key's certificate.
    #[error("the first certificate is not for this key store's TLS key; request a new one and have that signed")]
    OtherKey,
    /// Another name's certificate.
    #[error("the first certificate does not name {host_name}")]
    OtherName {
        /// The name that it must hold.
        host_name: HostName,
    },
    /// Not valid now.
    #[error("the first certificate is not valid now (attested time)")]
    NotValidNow,
}

/// Makes a TLS key: ECDSA P-256 in PKCS #8 form.
pub(crate) fn tls_key() -> Result<SecretBytes, IdentityError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_| IdentityError::Key)?;
    Ok(SecretBytes::new(document.as_ref().to_vec()))
}

/// A certificate signing request (PKCS #10, DER) for the key and one host name.
pub(crate) fn certificate_request(key: &SecretBytes, host_name: &HostName) -> Result<Vec<u8>, IdentityError> {
    let key = key_pair(key)?;
    let mut params = CertificateParams::new(vec![host_name.as_str().to_owned()]).map_err(|_| IdentityError::Key)?;
    // CAs take the names from the extension; a common name is obsolete and limited to 64 characters.
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|_| IdentityError::Key)?;
    Ok(request.der().to_vec())
}

/// SHA-256 of the key's `SubjectPublicKeyInfo`: what certificates of this key have in common.
pub(crate) fn public_key_sha256(key: &SecretBytes) -> Result<[u8; 32], IdentityError> {
    Ok(holdfast_shared::sha256(&[&key_pair(key)?.subject_public_key_info()]))
}

/// Checks that a chain is for this key and host name and valid now. Whether KMS trusts its CA is for the owner to know.
pub(crate) fn check_chain(
    chain: &[DerCertificate],
    key: &SecretBytes,
    host_name: &HostName,
    now_ms: u64,
) -> Result<(), IdentityError> {
    for (index, certificate) in chain.iter().enumerate() {
        x509_cert::Certificate::from_der(&certificate.0)
            .map_err(|_| IdentityError::Malformed { position: index.saturating_add(1) })?;
    }
    let malformed = IdentityError::Malformed { position: 1 };
    let leaf = chain.first().ok_or(malformed.clone())?;
    let parsed = x509_cert::Certificate::from_der(&leaf.0).map_err(|_| malformed.clone())?;
    let tbs = parsed.tbs_certificate();
    let spki = tbs.subject_public_key_info().to_der().map_err(|_| malformed.clone())?;
    if spki != key_pair(key)?.subject_public_key_info() {
        return Err(IdentityError::OtherKey);
    }
    let name = ServerName::try_from(host_name.as_str())
        .map_err(|_| IdentityError::OtherName { host_name: host_name.clone() })?;
    let der = CertificateDer::from(leaf.0.as_slice());
    webpki::EndEntityCert::try_from(&der)
        .map_err(|_| malformed)?
        .verify_is_valid_for_subject_name(&name)
        .map_err(|_| IdentityError::OtherName { host_name: host_name.clone() })?;
    let validity = tbs.validity();
    let (from, to) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
    if !(from..=to).contains(&Duration::from_millis(now_ms)) {
        return Err(IdentityError::NotValidNow);
    }
    Ok(())
}

fn key_pair(key: &SecretBytes) -> Result<KeyPair, IdentityError> {
    let key = PrivatePkcs8KeyDer::from(key.expose());
    KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(|_| IdentityError::Key)
}

/// Characters of an access key id that we make: 125 random bits.
const ACCESS_KEY_ID_CHARS: usize = 25;

/// Makes a SigV4 credential at `now_ms`, attested: a random access key id and, unrelated to it, 256 random bits in base64.
pub(crate) fn credential(secret: &Secret<32>, now_ms: u64) -> Result<CredentialRecord, IdentityError> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;

    let mut random = [0; ACCESS_KEY_ID_CHARS];
    SystemRandom::new().fill(&mut random).map_err(|_| IdentityError::Key)?;
    // 32 characters: the low five bits of a random byte choose one evenly.
    let text: String = random.iter().map(|byte| base32_digit(byte & 31)).collect();
    let access_key_id = AccessKeyId::parse(&text).map_err(|_| IdentityError::Key)?;
    let secret_access_key = SecretBytes::new(STANDARD_NO_PAD.encode(secret.expose()).into_bytes());
    Ok(CredentialRecord { access_key_id, secret_access_key, created_ms: Some(now_ms) })
}

/// The digit of RFC 4648, section 6: `A`–`Z`, then `2`–`7`.
fn base32_digit(value: u8) -> char {
    char::from(if value < 26 { b'A'.saturating_add(value) } else { b'2'.saturating_add(value.saturating_sub(26)) })
}

#[cfg(test)]
mod tests {
    use holdfast_shared::limits;
    use rcgen::{BasicConstraints, IsCa, Issuer};

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;

    use super::*;

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    fn signed(request: &[u8], not_after: (i32, u8, u8)) -> Vec<DerCertificate> {
        let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(ca, ca_key);
        let mut request = rcgen::CertificateSigningRequestParams::from_der(&request.to_vec().into()).unwrap();
        request.params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        request.params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
        vec![DerCertificate(request.signed_by(&issuer).unwrap().der().to_vec())]
    }

    const NOW_MS: u64 = 1_790_000_000_000; // 2026-09-21

    #[test]
    fn a_chain_must_fit_key_name_and_time() {
        let key = tls_key().unwrap();
        let name = host("xks.example.com");
        let good = signed(&certificate_request(&key, &name).unwrap(), (2027, 1, 1));
        assert_eq!(check_chain(&good, &key, &name, NOW_MS), Ok(()));
        assert_eq!(check_chain(&good, &tls_key().unwrap(), &name, NOW_MS), Err(IdentityError::OtherKey));
        let other = host("other.example.com");
        assert_eq!(
            check_chain(&good, &key, &other, NOW_MS),
            Err(IdentityError::OtherName { host_name: other.clone() })
        );
        let old = signed(&certificate_request(&key, &name).unwrap(), (2026, 2, 1));
        assert_eq!(check_chain(&old, &key, &name, NOW_MS), Err(IdentityError::NotValidNow));
        let noise = vec![DerCertificate(vec![1, 2, 3])];
        assert_eq!(check_chain(&noise, &key, &name, NOW_MS), Err(IdentityError::Malformed { position: 1 }));
        let mut tail = good;
        tail.push(DerCertificate(vec![1]));
        assert_eq!(check_chain(&tail, &key, &name, NOW_MS), Err(IdentityError::Malformed { position: 2 }));
    }

    #[test]
    fn a_credential_has_the_specified_form() {
        let record = credential(&Secret::take(&mut [9; 32]), NOW_MS).unwrap();
        assert_eq!(record.created_ms, Some(NOW_MS));
        assert!(limits::ACCESS_KEY_ID_LEN.contains(&record.access_key_id.as_str().len()));
        assert!(limits::SECRET_ACCESS_KEY_LEN.contains(&record.secret_access_key.expose().len()));
        let text = core::str::from_utf8(record.secret_access_key.expose()).unwrap();
        assert_eq!(STANDARD_NO_PAD.decode(text).unwrap(), [9; 32], "all 256 bits that were drawn, and no others");
        let again = credential(&Secret::take(&mut [9; 32]), NOW_MS).unwrap();
        assert_ne!(record.access_key_id, again.access_key_id, "the id says nothing about the secret");
        assert_eq!((base32_digit(0), base32_digit(25), base32_digit(26), base32_digit(31)), ('A', 'Z', '2', '7'));
    }
}
