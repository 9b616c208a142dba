//! Verification of the public proof, by whoever asked for it.

use super::{ConnectionUserData, document_nonce};
use crate::attestation::{
    AppraisalError, CertificateError, Expectations, Expected as Field, Measurements, ParseError, ParsedDocument,
    TrustRoot, VerifiedAttestation, VerifyError,
};
use crate::cbor::{self, DecodeError};
use crate::ids::KeyStoreId;
use crate::limits::PROOF_AGE_MAX_MS;

/// What a verifier knows by other ways than the connection itself, and what it saw of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The nonce that it drew for this request.
    pub nonce: &'a [u8; 32],
    /// The key store that should be held there.
    pub key_store_id: KeyStoreId,
    /// The images that may hold it; one must match.
    pub accepted: &'a [Measurements],
    /// SHA-256 of the public key in the certificate of the connection over which the document came.
    pub tls_public_key_sha256: [u8; 32],
    /// The root of the evidence.
    pub root: &'a TrustRoot,
    /// The verifier's time, milliseconds since 1970.
    pub now_ms: u64,
}

/// The rules, in the order in which they are checked: where one is broken, those before it hold, and those after it were not
/// looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// The answer is a document of the NSM's shape.
    Document,
    /// It is signed under the pinned root.
    Root,
    /// It was made for this request.
    Nonce,
    /// It was made just now.
    Age,
    /// The enclave does not run in debug mode.
    Mode,
    /// The image and its static configuration are accepted.
    Image,
    /// The document was made to prove where a connection ends.
    Purpose,
    /// The enclave holds the key store.
    KeyStore,
    /// The connection ends inside the enclave.
    Connection,
}

impl Check {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Document,
        Self::Root,
        Self::Nonce,
        Self::Age,
        Self::Mode,
        Self::Image,
        Self::Purpose,
        Self::KeyStore,
        Self::Connection,
    ];
}

/// The first rule that is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// No document of the NSM's shape.
    #[error("the answer is no attestation document: {0}")]
    Document(#[from] ParseError),
    /// Not signed under the root.
    #[error(transparent)]
    Root(#[from] VerifyError),
    /// Old, of another image, or of debug mode.
    #[error(transparent)]
    Appraisal(#[from] AppraisalError),
    /// Made for something else.
    #[error("the document was not made to prove where a connection ends: {0}")]
    Purpose(DecodeError),
    /// Another key store.
    #[error("the enclave speaks for the key store {shown}")]
    KeyStore {
        /// The one that it speaks for.
        shown: KeyStoreId,
    },
    /// Another end.
    #[error("the enclave's TLS key is another one than that of this connection (SHA-256 {})", hex::encode(shown))]
    Connection {
        /// SHA-256 of the public key with which the enclave ends connections.
        shown: [u8; 32],
    },
}

impl ProofError {
    /// Which rule.
    #[must_use]
    pub const fn check(&self) -> Check {
        match self {
            Self::Document(_) => Check::Document,
            Self::Root(_) => Check::Root,
            Self::Appraisal(AppraisalError::Nonce) => Check::Nonce,
            Self::Appraisal(AppraisalError::Stale | AppraisalError::Future) => Check::Age,
            Self::Appraisal(AppraisalError::MissingPcr(_) | AppraisalError::DebugMode | AppraisalError::ZeroPcr(_)) => {
                Check::Mode
            }
            Self::Appraisal(AppraisalError::Measurements) => Check::Image,
            Self::Appraisal(AppraisalError::UserData | AppraisalError::PublicKey) | Self::Purpose(_) => Check::Purpose,
            Self::KeyStore { .. } => Check::KeyStore,
            Self::Connection { .. } => Check::Connection,
        }
    }

    /// Whether a certificate of the document is not valid any more (or not yet): it is genuine perhaps, and old in any case.
    #[must_use]
    pub const fn is_of_validity(&self) -> bool {
        matches!(
            self,
            Self::Root(VerifyError::Certificate {
                rule: CertificateError::Expired | CertificateError::NotYetValid,
                ..
            })
        )
    }
}

/// A connection that ends inside an accepted enclave, which holds the key store. Only [`verify`] makes one.
#[derive(Clone, Debug)]
pub struct VerifiedConnection {
    attestation: VerifiedAttestation,
    user_data: ConnectionUserData,
}

impl VerifiedConnection {
    /// The evidence.
    #[must_use]
    pub const fn attestation(&self) -> &VerifiedAttestation {
        &self.attestation
    }

    /// What the enclave says of itself.
    #[must_use]
    pub const fn user_data(&self) -> &ConnectionUserData {
        &self.user_data
    }
}

/// Verifies a document that came over the connection of which [`Expected::tls_public_key_sha256`] speaks.
///
/// # Errors
/// The first rule that is broken, in the order of [`Check`].
pub fn verify(document: &[u8], expected: &Expected<'_>) -> Result<VerifiedConnection, ProofError> {
    let nonce = document_nonce(expected.nonce);
    let expectations = Expectations {
        nonce: &nonce,
        max_age_ms: PROOF_AGE_MAX_MS,
        accepted: expected.accepted,
        user_data: Field::Present,
        public_key: Field::Absent,
    };
    let verified = ParsedDocument::parse(document)?.verify(expected.root, expected.now_ms)?;
    let attestation = verified.appraise(&expectations, expected.now_ms)?;
    let user_data = attestation.user_data().unwrap_or_default();
    let user_data: ConnectionUserData = cbor::decode(user_data).map_err(ProofError::Purpose)?;
    if user_data.key_store_id != expected.key_store_id {
        return Err(ProofError::KeyStore { shown: user_data.key_store_id });
    }
    if user_data.tls_public_key_sha256 != expected.tls_public_key_sha256 {
        return Err(ProofError::Connection { shown: user_data.tls_public_key_sha256 });
    }
    Ok(VerifiedConnection { attestation, user_data })
}
