//! The root that a verifier trusts, named by the SHA-256 of its DER.
//!
//! Guarantees: a [`TrustRoot`] is a self-signed P-384 CA, and [`TrustRoot::aws`] is the published root of AWS Nitro
//! Enclaves and no other. Assumes: whoever calls [`TrustRoot::emulated`] was told by the owner's own configuration to
//! trust that file. Refuses: taking a root from a document (the first certificate of `cabundle` is never looked at).

use der::pem::PemLabel;
use ring::digest;

use super::certificate::{Certificate, CertificateError};
use crate::limits::ATTESTATION_CERTIFICATE_MAX;

/// The AWS Nitro Enclaves root, as AWS publishes it. `tests/vectors/attestation` notes the source.
static AWS_ROOT_DER: &[u8] = include_bytes!("aws-nitro-enclaves-root-g1.der");

/// SHA-256 of the DER of the AWS Nitro Enclaves root (section 6 of the design).
pub const AWS_ROOT_SHA256: [u8; 32] = [
    0x64, 0x1a, 0x03, 0x21, 0xa3, 0xe2, 0x44, 0xef, 0xe4, 0x56, 0x46, 0x31, 0x95, 0xd6, 0x06, 0x31, 0x7e, 0xd7, 0xcd,
    0xcc, 0x3c, 0x17, 0x56, 0xe0, 0x98, 0x93, 0xf3, 0xc6, 0x8f, 0x79, 0xbb, 0x5b,
];

/// Why a file is no trust root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Not one certificate in PEM, or over the bound.
    #[error("the file is not one PEM certificate of at most 1024 bytes")]
    Pem,
    /// A rule for certificates is broken; a signature or issuer at fault means that it is not self-signed.
    #[error("the root is refused: {0}")]
    Certificate(#[from] CertificateError),
}

/// A pinned root.
#[derive(Clone, Debug)]
pub struct TrustRoot {
    certificate: Certificate,
    fingerprint: [u8; 32],
}

impl TrustRoot {
    /// The root of AWS Nitro Enclaves, the only one that production trusts.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "the embedded root is fixed, and a test parses it"
    )]
    pub fn aws() -> Self {
        let root = Self::from_der(AWS_ROOT_DER).expect("the embedded root is a root");
        assert!(root.is_aws(), "the embedded root is the published one");
        root
    }

    /// A root of an emulator, which the caller's own configuration names.
    ///
    /// # Errors
    /// It is not a self-signed P-384 CA in strict DER.
    pub fn emulated(der: &[u8]) -> Result<Self, RootError> {
        Self::from_der(der)
    }

    /// Like [`TrustRoot::emulated`], from a PEM file with one certificate.
    ///
    /// # Errors
    /// It is not one PEM certificate, or not a self-signed P-384 CA.
    pub fn emulated_pem(pem: &[u8]) -> Result<Self, RootError> {
        let (label, der) = der::pem::decode_vec(pem).map_err(|_| RootError::Pem)?;
        if label != x509_cert::Certificate::PEM_LABEL {
            return Err(RootError::Pem);
        }
        Self::from_der(&der)
    }

    /// SHA-256 of the root's DER, by which policies and records name it.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Whether this is the root of AWS Nitro Enclaves. Everything under another root is an emulation.
    pub fn is_aws(&self) -> bool {
        self.fingerprint == AWS_ROOT_SHA256
    }

    pub(super) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    #[expect(clippy::expect_used, reason = "a SHA-256 digest has 32 bytes")]
    fn from_der(der: &[u8]) -> Result<Self, RootError> {
        if der.len() > ATTESTATION_CERTIFICATE_MAX {
            return Err(RootError::Pem);
        }
        let certificate = Certificate::parse(der)?;
        certificate.check_ca(0)?;
        certificate.check_issued_by(&certificate)?;
        let digest = digest::digest(&digest::SHA256, der);
        Ok(Self { certificate, fingerprint: digest.as_ref().try_into().expect("SHA-256 gives 32 bytes") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static AWS_ROOT_PEM: &[u8] = include_bytes!("../../../tests/vectors/attestation/aws-nitro-enclaves-root-g1.pem");

    #[test]
    fn the_embedded_root_is_the_published_one() {
        let root = TrustRoot::aws();
        assert!(root.is_aws());
        assert_eq!(hex::encode(root.fingerprint()), "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b");
        let from_pem = TrustRoot::emulated_pem(AWS_ROOT_PEM).unwrap();
        assert_eq!(from_pem.fingerprint(), root.fingerprint());
        assert_eq!(root.certificate().summary().subject, "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US");
    }

    #[test]
    fn any_flipped_bit_of_a_root_makes_another_root_or_none() {
        for index in 0..AWS_ROOT_DER.len() * 8 {
            let mut der = AWS_ROOT_DER.to_vec();
            der[index / 8] ^= 1 << (index % 8);
            assert!(TrustRoot::emulated(&der).is_err(), "bit {index}");
        }
    }

    #[test]
    fn no_other_file_is_a_root() {
        for (pem, error) in [
            (&b""[..], RootError::Pem),
            (
                b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
                RootError::Certificate(CertificateError::Der),
            ),
            (b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n", RootError::Pem),
        ] {
            assert_eq!(TrustRoot::emulated_pem(pem).unwrap_err(), error);
        }
    }
}
