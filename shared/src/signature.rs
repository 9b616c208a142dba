//! ES384 signatures (ECDSA on P-384 with SHA-384), the one signature algorithm of the protocol.
//!
//! Guarantees: every signature is over a label, a zero byte and the payload, so that one made for one purpose serves no
//! other; an [`Envelope`] opens only when every signature on it is valid, by a different and expected key. Refuses: unknown
//! signers (they could be a filler), duplicates, more signatures than [`limits::SIGNATURES_MAX`].

use core::fmt;
use std::collections::BTreeSet;

use ring::rand::SecureRandom;
use ring::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

use crate::cbor::message;
use crate::limits;
use crate::secrets::SecretBytes;

/// Bytes of an uncompressed P-384 point.
pub const PUBLIC_KEY_LEN: usize = 97;
/// Bytes of a signature, r and s in fixed width.
pub const SIGNATURE_LEN: usize = 96;

/// Why a signature or an envelope was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The private key cannot be used.
    #[error("the signing key is not a P-384 key in PKCS #8 form")]
    BadKey,
    /// The operating system gave no randomness, or signing failed.
    #[error("signing failed")]
    SigningFailed,
    /// A signature does not verify.
    #[error("a signature is not valid")]
    Invalid,
    /// A signature is by a key that has no say here.
    #[error("a signature is by an unknown key")]
    UnknownSigner,
    /// The same key signed twice.
    #[error("a key signed twice")]
    DuplicateSigner,
    /// Fewer signatures than needed.
    #[error("needs {needed} signatures, has {has}")]
    TooFew {
        /// Signatures needed.
        needed: usize,
        /// Valid signatures present.
        has: usize,
    },
}

/// A public P-384 key, uncompressed (0x04, x, y).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct VerifyingKey(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; PUBLIC_KEY_LEN]);

impl VerifyingKey {
    /// SHA-256 of the key: how its owner is named.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        crate::sha256(&[&self.0])
    }

    /// Verifies `signature` over `label` and `payload`.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`].
    pub fn verify(&self, label: &str, payload: &[u8], signature: &[u8; SIGNATURE_LEN]) -> Result<(), SignatureError> {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.0)
            .verify(&signed_bytes(label, payload), signature)
            .map_err(|_| SignatureError::Invalid)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", hex::encode(self.fingerprint()))
    }
}

impl serde::Serialize for VerifyingKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> serde::Deserialize<'de> for VerifyingKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut bytes = [0; PUBLIC_KEY_LEN];
        hex::decode_to_slice(text.as_bytes(), &mut bytes)
            .map_err(|_| serde::de::Error::custom("expected 194 hexadecimal digits of a P-384 public key"))?;
        Ok(Self(bytes))
    }
}

/// A private P-384 signing key.
pub struct SigningKey(EcdsaKeyPair);

impl SigningKey {
    /// Makes a key and returns its PKCS #8 form, the one thing to keep.
    ///
    /// # Errors
    /// [`SignatureError::SigningFailed`] when there is no randomness.
    pub fn generate(rng: &dyn SecureRandom) -> Result<SecretBytes, SignatureError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, rng)
            .map_err(|_| SignatureError::SigningFailed)?;
        Ok(SecretBytes::new(document.as_ref().to_vec()))
    }

    /// Loads a key from its PKCS #8 form.
    ///
    /// # Errors
    /// [`SignatureError::BadKey`].
    pub fn from_pkcs8(pkcs8: &SecretBytes, rng: &dyn SecureRandom) -> Result<Self, SignatureError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8.expose(), rng)
            .map(Self)
            .map_err(|_| SignatureError::BadKey)
    }

    /// The public half.
    ///
    /// # Errors
    /// [`SignatureError::BadKey`] when it is not an uncompressed point, which ring never returns.
    pub fn verifying_key(&self) -> Result<VerifyingKey, SignatureError> {
        self.0.public_key().as_ref().try_into().map(VerifyingKey).map_err(|_| SignatureError::BadKey)
    }

    /// Signs `label` and `payload`.
    ///
    /// # Errors
    /// [`SignatureError::SigningFailed`] when there is no randomness.
    pub fn sign(
        &self,
        label: &str,
        payload: &[u8],
        rng: &dyn SecureRandom,
    ) -> Result<[u8; SIGNATURE_LEN], SignatureError> {
        let signature = self.0.sign(rng, &signed_bytes(label, payload)).map_err(|_| SignatureError::SigningFailed)?;
        signature.as_ref().try_into().map_err(|_| SignatureError::SigningFailed)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

fn signed_bytes(label: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(label.len() + 1 + payload.len());
    bytes.extend_from_slice(label.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(payload);
    bytes
}

/// One signature on an envelope.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct SignatureEntry {
    /// Fingerprint of the signing key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub signer: [u8; 32],
    /// ES384, 96 bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; SIGNATURE_LEN],
}

/// A payload and the signatures over it. Nothing in it is proven before [`Envelope::open`].
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Envelope {
    #[cbor(n(0), with = "minicbor::bytes")]
    payload: Vec<u8>,
    #[n(1)]
    signatures: Vec<SignatureEntry>,
}

message!(Envelope, limits::CHANNEL_MESSAGE_MAX, "signed envelope", |envelope| {
    if envelope.signatures.len() > limits::SIGNATURES_MAX { Err("too many signatures") } else { Ok(()) }
});

impl Envelope {
    /// An envelope with one signature.
    ///
    /// # Errors
    /// [`SignatureError::SigningFailed`].
    pub fn seal(label: &str, payload: &[u8], key: &SigningKey, rng: &dyn SecureRandom) -> Result<Self, SignatureError> {
        let mut envelope = Self { payload: payload.to_vec(), signatures: Vec::new() };
        envelope.add_signature(label, key, rng)?;
        Ok(envelope)
    }

    /// Adds the signature of a further key.
    ///
    /// # Errors
    /// [`SignatureError::DuplicateSigner`] when that key has signed, [`SignatureError::SigningFailed`].
    pub fn add_signature(
        &mut self,
        label: &str,
        key: &SigningKey,
        rng: &dyn SecureRandom,
    ) -> Result<(), SignatureError> {
        let signer = key.verifying_key()?.fingerprint();
        if self.signatures.iter().any(|entry| entry.signer == signer) {
            return Err(SignatureError::DuplicateSigner);
        }
        let signature = key.sign(label, &self.payload, rng)?;
        self.signatures.push(SignatureEntry { signer, signature });
        Ok(())
    }

    /// Takes over the signatures of another copy whose signers have not signed this one, as many as there is room for, and says
    /// how many that were. Nothing is verified here. None when it is no copy.
    pub fn merge(&mut self, other: &Self) -> Option<usize> {
        if self.payload != other.payload {
            return None;
        }
        let before = self.signatures.len();
        for entry in &other.signatures {
            let signed = self.signatures.iter().any(|own| own.signer == entry.signer);
            if !signed && self.signatures.len() < limits::SIGNATURES_MAX {
                self.signatures.push(entry.clone());
            }
        }
        Some(self.signatures.len().saturating_sub(before))
    }

    /// How many signatures it has, valid or not.
    #[must_use]
    pub fn signature_count(&self) -> usize {
        self.signatures.len()
    }

    /// The payload before any check: only to find out which keys must have signed (a manifest names its own).
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// Verifies every signature against `keys` and returns the payload with the fingerprints of those who signed, in the
    /// order in which they signed.
    ///
    /// # Errors
    /// [`SignatureError`] for the first signature that is unknown, repeated or wrong, or when fewer than `needed` signed.
    pub fn open(
        &self,
        label: &str,
        keys: &[VerifyingKey],
        needed: usize,
    ) -> Result<(&[u8], Vec<[u8; 32]>), SignatureError> {
        let mut signers = Vec::with_capacity(self.signatures.len());
        let mut seen = BTreeSet::new();
        for entry in &self.signatures {
            let key = keys.iter().find(|key| key.fingerprint() == entry.signer).ok_or(SignatureError::UnknownSigner)?;
            if !seen.insert(entry.signer) {
                return Err(SignatureError::DuplicateSigner);
            }
            key.verify(label, &self.payload, &entry.signature)?;
            signers.push(entry.signer);
        }
        // A threshold of zero would accept an unsigned envelope.
        let needed = needed.max(1);
        if signers.len() < needed {
            return Err(SignatureError::TooFew { needed, has: signers.len() });
        }
        Ok((&self.payload, signers))
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;
    use crate::cbor;

    fn key() -> SigningKey {
        let rng = SystemRandom::new();
        SigningKey::from_pkcs8(&SigningKey::generate(&rng).unwrap(), &rng).unwrap()
    }

    #[test]
    fn an_envelope_opens_only_with_valid_distinct_expected_signatures_under_its_label() {
        let rng = SystemRandom::new();
        let (alice, bob, eve) = (key(), key(), key());
        let keys = [alice.verifying_key().unwrap(), bob.verifying_key().unwrap()];
        let mut envelope = Envelope::seal("a", b"payload", &alice, &rng).unwrap();
        assert!(envelope.open("a", &keys, 1).is_ok());
        assert_eq!(envelope.open("b", &keys, 1), Err(SignatureError::Invalid));
        assert_eq!(envelope.open("a", &keys, 2), Err(SignatureError::TooFew { needed: 2, has: 1 }));
        assert_eq!(envelope.open("a", &keys[1..], 1), Err(SignatureError::UnknownSigner));
        assert_eq!(envelope.add_signature("a", &alice, &rng), Err(SignatureError::DuplicateSigner));
        envelope.add_signature("a", &bob, &rng).unwrap();
        assert_eq!(envelope.open("a", &keys, 2).unwrap().1, [keys[0].fingerprint(), keys[1].fingerprint()]);

        let mut twice = envelope.clone();
        twice.signatures[1] = twice.signatures[0].clone();
        assert_eq!(twice.open("a", &keys, 2), Err(SignatureError::DuplicateSigner));
        let mut foreign = envelope.clone();
        foreign.add_signature("a", &eve, &rng).unwrap();
        assert_eq!(foreign.open("a", &keys, 1), Err(SignatureError::UnknownSigner));
        let unsigned = Envelope { payload: b"payload".to_vec(), signatures: vec![] };
        assert_eq!(unsigned.open("a", &keys, 0), Err(SignatureError::TooFew { needed: 1, has: 0 }));
    }

    #[test]
    fn every_changed_bit_of_payload_or_signature_is_refused() {
        let rng = SystemRandom::new();
        let alice = key();
        let keys = [alice.verifying_key().unwrap()];
        let good = Envelope::seal("a", b"four", &alice, &rng).unwrap();
        for bit in 0..4 * 8 {
            let mut bad = good.clone();
            bad.payload[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(bad.open("a", &keys, 1), Err(SignatureError::Invalid), "payload bit {bit}");
        }
        for bit in 0..SIGNATURE_LEN * 8 {
            let mut bad = good.clone();
            bad.signatures[0].signature[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(bad.open("a", &keys, 1), Err(SignatureError::Invalid), "signature bit {bit}");
        }
    }

    #[test]
    fn an_envelope_survives_its_encoding() {
        let envelope = Envelope::seal("a", b"payload", &key(), &SystemRandom::new()).unwrap();
        assert_eq!(cbor::decode::<Envelope>(&cbor::encode(&envelope)), Ok(envelope));
    }
}
