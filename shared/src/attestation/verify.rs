//! Stage two: a document that an NSM under the pinned root signed.
//!
//! Guarantees of [`VerifiedDocument`]: rules 4 and 5 of section 6 of the design at the verifier's time. Assumes: the
//! caller's clock. Refuses: any path but pinned root → `cabundle`[1..] → `certificate`. The document may still be a
//! replay, of a debug enclave, or of an image that nobody accepts; [`appraise`](VerifiedDocument::appraise) asks that.

use minicbor::Encoder;
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::certificate::{Certificate, CertificateError, CertificateSummary, Position};
use super::document::{Claims, PROTECTED, ParsedDocument};
use super::root::TrustRoot;
use crate::limits::ATTESTATION_CABUNDLE_MAX;

/// The first rule of verification that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A certificate of the path.
    #[error("{position} is refused: {rule}")]
    Certificate {
        /// Which one.
        position: Position,
        /// What is wrong with it.
        rule: CertificateError,
    },
    /// The document is not signed by the key in `certificate`.
    #[error("the document's signature is not by `certificate`")]
    Signature,
}

/// A document that an NSM under the pinned root signed.
///
/// Made only by [`ParsedDocument::verify`].
#[derive(Clone, Debug)]
pub struct VerifiedDocument {
    pub(super) claims: Claims,
    pub(super) root_fingerprint: [u8; 32],
}

impl ParsedDocument {
    /// Verifies the path to the pinned root and the signature (section 6 of the design, rules 4 and 5).
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn verify(self, root: &TrustRoot, now_ms: u64) -> Result<VerifiedDocument, VerifyError> {
        let path = Path::parse(&self.claims)?;
        path.check(root, now_ms)?;
        self.check_signature(&path.leaf)?;
        Ok(VerifiedDocument { claims: self.claims, root_fingerprint: root.fingerprint() })
    }

    /// The signature of the `COSE_Sign1` (RFC 9052, section 4.4).
    fn check_signature(&self, leaf: &Certificate) -> Result<(), VerifyError> {
        let signed = sig_structure(&self.payload).ok_or(VerifyError::Signature)?;
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, leaf.public_key())
            .verify(&signed, &self.signature)
            .map_err(|_| VerifyError::Signature)
    }

    /// The certificates that verification looks at, root first, or the first that is malformed.
    pub(super) fn path_summary(&self, root: &TrustRoot) -> Result<Vec<CertificateSummary>, VerifyError> {
        let path = Path::parse(&self.claims)?;
        Ok(std::iter::once(root.certificate())
            .chain(&path.intermediates)
            .chain(std::iter::once(&path.leaf))
            .map(Certificate::summary)
            .collect())
    }
}

/// The certificates below the root: `cabundle`[1..] and `certificate`. Entry 0 of the bundle is the root as the
/// document's maker would like it, so it is not even parsed.
struct Path {
    intermediates: Vec<Certificate>,
    leaf: Certificate,
}

impl Path {
    fn parse(claims: &Claims) -> Result<Self, VerifyError> {
        let intermediates = claims
            .cabundle
            .iter()
            .enumerate()
            .take(ATTESTATION_CABUNDLE_MAX)
            .skip(1)
            .map(|(index, der)| Certificate::parse(der).map_err(at(Position::CaBundle(index))))
            .collect::<Result<_, _>>()?;
        Ok(Self { intermediates, leaf: Certificate::parse(&claims.certificate).map_err(at(Position::Leaf))? })
    }

    /// Checks each certificate from the root down, so that no signature is looked at before its issuer is proven.
    fn check(&self, root: &TrustRoot, now_ms: u64) -> Result<(), VerifyError> {
        let mut cas_below = self.intermediates.len();
        let mut issuer = root.certificate();
        issuer.check_ca(cas_below).map_err(at(Position::Root))?;
        issuer.check_validity(now_ms).map_err(at(Position::Root))?;
        for (certificate, index) in self.intermediates.iter().zip(1..) {
            cas_below = cas_below.saturating_sub(1);
            certificate
                .check_issued_by(issuer)
                .and_then(|()| certificate.check_validity(now_ms))
                .and_then(|()| certificate.check_ca(cas_below))
                .map_err(at(Position::CaBundle(index)))?;
            issuer = certificate;
        }
        self.leaf
            .check_issued_by(issuer)
            .and_then(|()| self.leaf.check_validity(now_ms))
            .and_then(|()| self.leaf.check_leaf())
            .map_err(at(Position::Leaf))
    }
}

fn at(position: Position) -> impl Fn(CertificateError) -> VerifyError {
    move |rule| VerifyError::Certificate { position, rule }
}

/// What the signature covers: `["Signature1", protected, external_aad, payload]` (RFC 9052, section 4.4).
fn sig_structure(payload: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new());
    encoder
        .array(4)
        .and_then(|encoder| encoder.str("Signature1"))
        .and_then(|encoder| encoder.bytes(&PROTECTED))
        .and_then(|encoder| encoder.bytes(&[]))
        .and_then(|encoder| encoder.bytes(payload))
        .ok()?;
    Some(encoder.into_writer())
}

#[cfg(test)]
mod tests {
    use super::*;

    static DOCUMENT: &[u8] = include_bytes!("../../../tests/vectors/attestation/nitro-attestation-2024-12-13.cbor");

    /// Whether the key in `certificate` signed the payload. Who vouches for that key is left aside: it takes five
    /// times as long, and `shared/tests/attestation.rs` asks it for every bit in its long test.
    fn is_signed(document: &[u8]) -> bool {
        let Ok(parsed) = ParsedDocument::parse(document) else {
            return false;
        };
        Path::parse(&parsed.claims).is_ok_and(|path| parsed.check_signature(&path.leaf).is_ok())
    }

    #[test]
    fn no_byte_can_change_under_the_signature() {
        assert!(is_signed(DOCUMENT));
        for index in 0..DOCUMENT.len() {
            let mut document = DOCUMENT.to_vec();
            document[index] ^= 1 << (index % 8);
            assert!(!is_signed(&document), "byte {index}");
        }
    }
}
