//! One X.509 certificate of the NSM's hierarchy.
//!
//! Guarantees of [`Certificate`]: strict DER, version 3, a P-384 key, ECDSA with SHA-384 named alike inside and outside
//! the signed part, no extension twice, and no critical extension but basicConstraints and keyUsage. Assumes nothing
//! about who signed it; `path` asks that. Signatures are checked over the bytes as received, never over a new encoding.

use std::fmt;

use der::{Decode, Reader, SliceReader, asn1::ObjectIdentifier, oid::AssociatedOid};
use ring::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// ecdsa-with-SHA384 (RFC 5758, section 3.2).
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
/// id-ecPublicKey (RFC 5480, section 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp384r1 (RFC 5480, section 2.1.1.1).
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// Bytes of an uncompressed P-384 point, and its first (SEC 1, section 2.3.3).
const POINT_LEN: usize = 97;
const UNCOMPRESSED: u8 = 0x04;
/// Extensions that are looked at; AWS's certificates have at most five.
const EXTENSIONS_MAX: usize = 16;

/// Which certificate of the path breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The pinned root.
    Root,
    /// The entry of `cabundle` with this index.
    CaBundle(usize),
    /// `certificate`, whose key signs the document.
    Leaf,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => formatter.write_str("the pinned root"),
            Self::CaBundle(index) => write!(formatter, "`cabundle`[{index}]"),
            Self::Leaf => formatter.write_str("`certificate`"),
        }
    }
}

/// The rule that a certificate broke first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not strict DER, or bytes after the end.
    #[error("it is not a DER certificate")]
    Der,
    /// Not version 3.
    #[error("it is not of version 3")]
    Version,
    /// Signed with something else than ECDSA with SHA-384, or the inner and the outer name of it differ.
    #[error("its signature algorithm is not ECDSA with SHA-384")]
    Algorithm,
    /// Its key is not an uncompressed point of P-384.
    #[error("its key is not a P-384 point")]
    PublicKey,
    /// An extension twice, too many, or one that we read and that is malformed.
    #[error("its extensions are malformed")]
    Extensions,
    /// A critical extension that we do not know.
    #[error("it has an unknown critical extension")]
    UnknownCriticalExtension,
    /// It issues certificates without being a CA.
    #[error("it issued a certificate but is not a CA")]
    NotCa,
    /// It signs the document but is a CA.
    #[error("it signed the document but is a CA")]
    Ca,
    /// A CA whose key may not sign certificates.
    #[error("its key usage lacks keyCertSign")]
    KeyCertSign,
    /// A leaf whose key may not sign.
    #[error("its key usage lacks digitalSignature")]
    DigitalSignature,
    /// More CA certificates below it than it allows.
    #[error("its path length is exceeded")]
    PathLength,
    /// The verifier's time is before notBefore.
    #[error("it is not yet valid")]
    NotYetValid,
    /// The verifier's time is after notAfter.
    #[error("it has expired")]
    Expired,
    /// Its issuer is not the subject of the certificate above it.
    #[error("its issuer is not the certificate above it")]
    Issuer,
    /// Its signature is not by the key of the certificate above it.
    #[error("its signature is not by the certificate above it")]
    Signature,
}

/// A certificate with the right shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// The signed part as received.
    tbs: Vec<u8>,
    signature: Vec<u8>,
    public_key: Vec<u8>,
    issuer: Name,
    subject: Name,
    serial_number: Vec<u8>,
    not_before_s: u64,
    not_after_s: u64,
    constraints: Option<BasicConstraints>,
    key_usage: Option<KeyUsage>,
}

impl Certificate {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let certificate = x509_cert::Certificate::from_der(bytes).map_err(|_| CertificateError::Der)?;
        let tbs = signed_part(bytes).map_err(|_| CertificateError::Der)?;
        let fields = certificate.tbs_certificate();
        if fields.version() != Version::V3 {
            return Err(CertificateError::Version);
        }
        if !is_ecdsa_with_sha384(certificate.signature_algorithm())
            || fields.signature() != certificate.signature_algorithm()
        {
            return Err(CertificateError::Algorithm);
        }
        let extensions = fields.extensions().map(Vec::as_slice).unwrap_or_default();
        check_extensions(extensions)?;
        let constraints = fields.get_extension::<BasicConstraints>();
        let key_usage = fields.get_extension::<KeyUsage>();
        let signature = certificate.signature().as_bytes();
        Ok(Self {
            tbs: tbs.to_vec(),
            signature: signature.ok_or(CertificateError::Der)?.to_vec(),
            public_key: p384_point(fields.subject_public_key_info())?,
            issuer: fields.issuer().clone(),
            subject: fields.subject().clone(),
            serial_number: fields.serial_number().as_bytes().to_vec(),
            not_before_s: fields.validity().not_before.to_unix_duration().as_secs(),
            not_after_s: fields.validity().not_after.to_unix_duration().as_secs(),
            constraints: constraints.map_err(|_| CertificateError::Extensions)?.map(|(_critical, value)| value),
            key_usage: key_usage.map_err(|_| CertificateError::Extensions)?.map(|(_critical, value)| value),
        })
    }

    /// May issue a certificate that has `cas_below` CA certificates between itself and the leaf
    /// (RFC 5280, section 6.1.4, k to n; self-issued certificates count like others, which is stricter).
    pub(super) fn check_ca(&self, cas_below: usize) -> Result<(), CertificateError> {
        let constraints = self.constraints.as_ref().filter(|constraints| constraints.ca);
        let constraints = constraints.ok_or(CertificateError::NotCa)?;
        if !self.key_usage.is_some_and(|usage| usage.key_cert_sign()) {
            return Err(CertificateError::KeyCertSign);
        }
        match constraints.path_len_constraint {
            Some(limit) if cas_below > usize::from(limit) => Err(CertificateError::PathLength),
            _ => Ok(()),
        }
    }

    /// May sign documents and nothing else. No extended key usage is asked for: AWS's leaves have none.
    pub(super) fn check_leaf(&self) -> Result<(), CertificateError> {
        if self.constraints.as_ref().is_some_and(|constraints| constraints.ca) {
            return Err(CertificateError::Ca);
        }
        if self.key_usage.is_some_and(|usage| usage.digital_signature()) {
            Ok(())
        } else {
            Err(CertificateError::DigitalSignature)
        }
    }

    /// Both ends of the validity count (RFC 5280, section 4.1.2.5), to the second.
    pub(super) fn check_validity(&self, now_ms: u64) -> Result<(), CertificateError> {
        let seconds = now_ms / 1000;
        if seconds < self.not_before_s {
            return Err(CertificateError::NotYetValid);
        }
        if seconds > self.not_after_s {
            return Err(CertificateError::Expired);
        }
        Ok(())
    }

    pub(super) fn check_issued_by(&self, issuer: &Self) -> Result<(), CertificateError> {
        if self.issuer != issuer.subject {
            return Err(CertificateError::Issuer);
        }
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, &issuer.public_key)
            .verify(&self.tbs, &self.signature)
            .map_err(|_| CertificateError::Signature)
    }

    /// An uncompressed point of P-384.
    pub(super) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// What a person is shown of it.
    pub(super) fn summary(&self) -> CertificateSummary {
        CertificateSummary {
            subject: self.subject.to_string(),
            issuer: self.issuer.to_string(),
            serial_number: hex::encode(&self.serial_number),
            not_before_s: self.not_before_s,
            not_after_s: self.not_after_s,
            ca: self.constraints.as_ref().is_some_and(|constraints| constraints.ca),
            path_length: self.constraints.as_ref().and_then(|constraints| constraints.path_len_constraint),
        }
    }
}

/// What a person is shown of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CertificateSummary {
    /// Subject, as RFC 4514 writes it.
    pub subject: String,
    /// Issuer, as RFC 4514 writes it.
    pub issuer: String,
    /// Serial number, in hexadecimal.
    pub serial_number: String,
    /// Seconds since 1970 from which it is valid.
    pub not_before_s: u64,
    /// Seconds since 1970 until which it is valid.
    pub not_after_s: u64,
    /// Whether it may issue certificates.
    pub ca: bool,
    /// How many CA certificates may follow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_length: Option<u8>,
}

/// The bytes of tbsCertificate, head and all.
fn signed_part(certificate: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(certificate)?;
    let tbs = reader.sequence(|inner| {
        let tbs = inner.tlv_bytes()?;
        inner.tlv_bytes()?;
        inner.tlv_bytes()?;
        Ok::<_, der::Error>(tbs)
    })?;
    reader.finish()?;
    Ok(tbs)
}

/// The algorithm without parameters (RFC 5758, section 3.2).
fn is_ecdsa_with_sha384(algorithm: &AlgorithmIdentifierOwned) -> bool {
    algorithm.oid == ECDSA_WITH_SHA384 && algorithm.parameters.is_none()
}

fn p384_point(info: &SubjectPublicKeyInfoOwned) -> Result<Vec<u8>, CertificateError> {
    let curve = info.algorithm.parameters.as_ref();
    let curve = curve.and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
    let point = info.subject_public_key.as_bytes().unwrap_or_default();
    let is_point = point.len() == POINT_LEN && point.first() == Some(&UNCOMPRESSED);
    if info.algorithm.oid != EC_PUBLIC_KEY || curve != Some(SECP384R1) || !is_point {
        return Err(CertificateError::PublicKey);
    }
    Ok(point.to_vec())
}

fn check_extensions(extensions: &[x509_cert::ext::Extension]) -> Result<(), CertificateError> {
    if extensions.len() > EXTENSIONS_MAX {
        return Err(CertificateError::Extensions);
    }
    for (index, extension) in extensions.iter().enumerate() {
        let id = extension.extn_id;
        if extensions.iter().take(index).any(|earlier| earlier.extn_id == id) {
            return Err(CertificateError::Extensions);
        }
        if extension.critical && id != BasicConstraints::OID && id != KeyUsage::OID {
            return Err(CertificateError::UnknownCriticalExtension);
        }
    }
    Ok(())
}
