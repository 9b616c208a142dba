//! The public proof: by which anybody checks that a TLS connection ends inside an enclave that holds a certain key store.
//!
//! ```text
//! anybody                                           enclave, on the address that KMS uses
//!   GET /.well-known/holdfast/attestation
//!       ?nonce=NONCE&key_store=ID ─────────────────▶ lease and blocks of the key store; NSM document over
//!   ◀──────────────────────────────────── document   SHA-256(label ‖ NONCE) and ConnectionUserData
//!   verify: AWS's root, image, nonce, age; this key store; the TLS key of this very connection
//! ```
//!
//! Guarantees: a [`VerifiedConnection`] was shown by an accepted image for this nonce, and its TLS key is the one that the
//! verifier saw at the end of its own connection: whoever ends that connection elsewhere has another key, and a document
//! that is only passed on says so. The nonce in the document is a hash under a label of its own, and so is `user_data`: the
//! endpoint signs nothing that means anything to a custodian, whatever it is asked. Assumes: the verifier learnt the key store's
//! id and the measurements otherwise. Refuses: `docs/attest.md` says what the proof does not say.

mod verify;

use der::{Decode, Encode};
use x509_cert::Certificate;

pub use verify::{Check, Expected, ProofError, VerifiedConnection, verify};

use crate::cbor::message;
use crate::ids::{BlobId, KeyStoreId};
use crate::{labels, sha256};

/// Where the document is had (RFC 8615: at the root of the host, whatever prefixes its key stores have).
pub const PATH: &str = "/.well-known/holdfast/attestation";

/// What a document made for a stranger says in `user_data`.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ConnectionUserData {
    /// [`labels::ATTEST_CONNECTION`]: a document made for another purpose has another label.
    #[n(0)]
    pub label: String,
    /// The key store that the enclave holds.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// Its version, from 1.
    #[n(2)]
    pub version: u64,
    /// The sealed key store of that version, as the register names it.
    #[n(3)]
    pub blob_id: BlobId,
    /// SHA-256 of the DER of the subject public key info in the certificate that was served on the connection.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub tls_public_key_sha256: [u8; 32],
}

message!(ConnectionUserData, 256, "connection user_data", |user_data| {
    if user_data.label != labels::ATTEST_CONNECTION {
        Err("was made for another purpose")
    } else if user_data.version == 0 {
        Err("versions start at 1")
    } else {
        Ok(())
    }
});

/// The nonce of the document that answers a stranger's nonce.
#[must_use]
pub fn document_nonce(nonce: &[u8; 32]) -> [u8; 32] {
    sha256(&[labels::CONNECTION_NONCE.as_bytes(), nonce])
}

/// SHA-256 of the DER of the subject public key info of a certificate: what `openssl x509 -pubkey -noout | openssl pkey -pubin
/// -outform der | sha256sum` prints. `None` for what is no certificate.
#[must_use]
pub fn tls_public_key_sha256(certificate: &[u8]) -> Option<[u8; 32]> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let info = certificate.tbs_certificate().subject_public_key_info().to_der().ok()?;
    Some(sha256(&[&info]))
}

/// What the request asks for, after [`PATH`] and a question mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofQuery {
    /// Drawn by whoever asks.
    pub nonce: [u8; 32],
    /// Which key store; needed where several are served under one host name.
    pub key_store: Option<KeyStoreId>,
}

/// Why a query is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofQueryError {
    /// No nonce, more than one, or not 64 lower-case hexadecimal digits.
    #[error("`nonce` must be there once, with 64 lower-case hexadecimal digits")]
    Nonce,
    /// More than one key store, or not 64 lower-case hexadecimal digits.
    #[error("`key_store` may be there once, with the 64 lower-case hexadecimal digits of an id")]
    KeyStore,
    /// Something else.
    #[error("there are no parameters but `nonce` and `key_store`")]
    Unknown,
}

impl ProofQuery {
    /// Reads `nonce=…` and `key_store=…`, in any order, separated by `&`.
    ///
    /// # Errors
    /// [`ProofQueryError`].
    pub fn parse(query: &str) -> Result<Self, ProofQueryError> {
        let (mut nonce, mut key_store) = (None, None);
        for parameter in query.split('&') {
            if let Some(value) = parameter.strip_prefix("nonce=") {
                let value = digits(value).filter(|_| nonce.is_none()).ok_or(ProofQueryError::Nonce)?;
                nonce = Some(value);
            } else if let Some(value) = parameter.strip_prefix("key_store=") {
                let value = digits(value).filter(|_| key_store.is_none()).ok_or(ProofQueryError::KeyStore)?;
                key_store = Some(KeyStoreId(value));
            } else if !query.is_empty() {
                return Err(ProofQueryError::Unknown);
            }
        }
        Ok(Self { nonce: nonce.ok_or(ProofQueryError::Nonce)?, key_store })
    }

    /// Path and query of the request.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        let key_store = self.key_store.map(|id| format!("&key_store={id}")).unwrap_or_default();
        format!("{PATH}?nonce={}{key_store}", hex::encode(self.nonce))
    }
}

fn digits(text: &str) -> Option<[u8; 32]> {
    let mut value = [0; 32];
    let one_spelling = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (one_spelling && hex::decode_to_slice(text, &mut value).is_ok()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_in_one_spelling() {
        let (n, k) = ("0a".repeat(32), "0b".repeat(32));
        let read = |query: &str| ProofQuery::parse(query);
        let alone = ProofQuery { nonce: [0x0a; 32], key_store: None };
        let both = ProofQuery { key_store: Some(KeyStoreId([0x0b; 32])), ..alone };
        assert_eq!(read(&format!("nonce={n}")), Ok(alone));
        assert_eq!(read(&format!("nonce={n}&key_store={k}")), Ok(both));
        assert_eq!(read(&format!("key_store={k}&nonce={n}")), Ok(both));
        for query in [alone, both] {
            let text = query.path_and_query();
            assert_eq!(text.strip_prefix(PATH).and_then(|text| text.strip_prefix('?')).map(read), Some(Ok(query)));
        }
        let table = [
            (String::new(), ProofQueryError::Nonce),
            (format!("key_store={k}"), ProofQueryError::Nonce),
            ("nonce=".to_owned(), ProofQueryError::Nonce),
            (format!("nonce={}", &n[1..]), ProofQueryError::Nonce),
            (format!("nonce={n}00"), ProofQueryError::Nonce),
            (format!("nonce={}", n.to_ascii_uppercase()), ProofQueryError::Nonce),
            (format!("nonce={n}&nonce={n}"), ProofQueryError::Nonce),
            (format!("nonce={n}&key_store="), ProofQueryError::KeyStore),
            (format!("nonce={n}&key_store={k}&key_store={k}"), ProofQueryError::KeyStore),
            (format!("nonce={n}&key_store={}", k.to_ascii_uppercase()), ProofQueryError::KeyStore),
            (format!("nonce={n}&"), ProofQueryError::Unknown),
            (format!("&nonce={n}"), ProofQueryError::Unknown),
            (format!("nonce={n}&x"), ProofQueryError::Unknown),
            (format!("Nonce={n}"), ProofQueryError::Unknown),
            (format!("nonce%3D{n}"), ProofQueryError::Unknown),
        ];
        for (query, error) in table {
            assert_eq!(read(&query), Err(error), "{query:?}");
        }
    }

    #[test]
    fn the_nonce_in_the_document_is_never_the_strangers() {
        let nonce = [7; 32];
        let preimage = [b"holdfast connection nonce v1".as_slice(), &nonce].concat();
        assert_eq!(document_nonce(&nonce), sha256(&[&preimage]));
        assert_ne!(document_nonce(&nonce), nonce);
    }

    #[test]
    fn what_is_no_certificate_has_no_key() {
        for bytes in [b"".as_slice(), b"\x30\x00", &[0x30; 64]] {
            assert_eq!(tls_public_key_sha256(bytes), None);
        }
    }
}
