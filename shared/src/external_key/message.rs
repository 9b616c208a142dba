//! One message under one version of an external key (design, section 4).
//!
//! ```text
//! material ─ HKDF-Expand-SHA-256(label ‖ salt16) ─► AES-256-GCM key of this message, random 12-byte IV
//! ciphertextMetadata = 0x01 ‖ version (3 bytes, big endian) ‖ salt16
//! AAD for GCM        = length of AAD (2 bytes, big endian) ‖ AAD ‖ length of metadata (1 byte) ‖ metadata
//! ```
//!
//! Guarantees: a decryption uses only the metadata it is given, and authenticates it. Assumes: salt and IV are fresh and
//! random; with 128 + 96 random bits, neither needs a counter. Refuses: metadata of another length or format byte, a
//! version it is not, IVs of another length than ours.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

use super::legacy::{self, LegacyProfile};
use crate::labels::EXTERNAL_KEY_MESSAGE;
use crate::limits::{AAD_MAX, PLAINTEXT_MAX};
use crate::secrets::{Secret, WipedBytes};

/// Bytes of the salt in the metadata.
pub const SALT_LEN: usize = 16;
/// Bytes of our initialization vector. The specification also allows 16; we never make such, so we refuse them.
pub const IV_LEN: usize = 12;
/// Bytes of the authentication tag (specification, section "Encrypt").
pub const TAG_LEN: usize = 16;
/// Bytes of our `ciphertextMetadata`: all that the specification allows.
pub const METADATA_LEN: usize = 20;

/// The first byte of our metadata.
const FORMAT: u8 = 1;

/// The largest version number that three bytes hold.
pub const VERSION_MAX: u32 = 0x00FF_FFFF;

/// A version number outside 1 to 16,777,215, which is what three bytes of metadata hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the version of an external key must be between 1 and 16777215")]
pub struct VersionNumberError;

/// Why a message was not encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    /// Plaintext or AAD is longer than we process.
    #[error("the plaintext or the additional authenticated data is too long")]
    TooLong,
    /// The key has no live version.
    #[error("the external key has no version to encrypt with")]
    NoVersion,
    /// The cipher refused, or the verifying decryption did not give the plaintext back.
    #[error("the encryption failed")]
    Failed,
}

/// Why a message was not decrypted. One answer for all causes: [`InvalidCiphertextException`] tells no more either.
///
/// [`InvalidCiphertextException`]: crate::xks::ErrorName::InvalidCiphertextException
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ciphertext, its metadata, initialization vector, tag or additional authenticated data is invalid")]
pub struct DecryptError;

/// The randomness of one message. Fill it from a cryptographic generator, once per message.
#[derive(Clone, Copy, Debug)]
pub struct MessageRandomness {
    /// Salt of the message key.
    pub salt: [u8; SALT_LEN],
    /// Initialization vector.
    pub iv: [u8; IV_LEN],
}

/// What an encryption gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedMessage {
    /// As long as the plaintext.
    pub ciphertext: Vec<u8>,
    /// `ciphertextMetadata`.
    pub metadata: [u8; METADATA_LEN],
    /// `initializationVector`.
    pub iv: [u8; IV_LEN],
    /// `authenticationTag`.
    pub tag: [u8; TAG_LEN],
}

/// What a decryption is given, unproven.
#[derive(Clone, Copy, Debug)]
pub struct Ciphertext<'a> {
    /// `ciphertext`.
    pub ciphertext: &'a [u8],
    /// `ciphertextMetadata`; empty if absent.
    pub metadata: &'a [u8],
    /// `initializationVector`.
    pub iv: &'a [u8],
    /// `authenticationTag`.
    pub tag: &'a [u8],
}

impl EncryptedMessage {
    /// The message as a decryption takes it.
    #[must_use]
    pub fn as_ciphertext(&self) -> Ciphertext<'_> {
        Ciphertext { ciphertext: &self.ciphertext, metadata: &self.metadata, iv: &self.iv, tag: &self.tag }
    }
}

/// One version of an external key's material.
#[derive(Debug)]
pub struct ExternalKeyVersion {
    number: u32,
    material: Secret<32>,
    legacy: Option<LegacyProfile>,
}

impl ExternalKeyVersion {
    /// Joins a version's number and material.
    ///
    /// # Errors
    /// If `number` is 0 or needs more than three bytes.
    pub fn new(number: u32, material: Secret<32>) -> Result<Self, VersionNumberError> {
        if number == 0 || number > VERSION_MAX {
            return Err(VersionNumberError);
        }
        Ok(Self { number, material, legacy: None })
    }

    /// Lets the version decrypt messages of another proxy, too.
    #[must_use]
    pub fn with_legacy(self, legacy: Option<LegacyProfile>) -> Self {
        Self { legacy, ..self }
    }

    /// The version's number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Encrypts one message.
    ///
    /// # Errors
    /// If plaintext or AAD is over its bound.
    pub fn encrypt(
        &self,
        randomness: &MessageRandomness,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<EncryptedMessage, EncryptError> {
        if plaintext.len() > PLAINTEXT_MAX || aad.len() > AAD_MAX {
            return Err(EncryptError::TooLong);
        }
        let metadata = Metadata { version: self.number, salt: randomness.salt }.encode();
        let framed = frame_aad(aad, &metadata).ok_or(EncryptError::TooLong)?;
        let key = self.message_key(&randomness.salt).ok_or(EncryptError::Failed)?;
        let mut ciphertext = plaintext.to_vec();
        let nonce = Nonce::assume_unique_for_key(randomness.iv);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(framed), &mut ciphertext)
            .map_err(|_| EncryptError::Failed)?;
        let tag = tag.as_ref().try_into().map_err(|_| EncryptError::Failed)?;
        Ok(EncryptedMessage { ciphertext, metadata, iv: randomness.iv, tag })
    }

    /// Decrypts one message with a key derived anew from the metadata in `message`.
    ///
    /// # Errors
    /// If anything in `message`, or `aad`, is not what [`Self::encrypt`] gave and took.
    pub fn decrypt(&self, message: &Ciphertext<'_>, aad: &[u8]) -> Result<WipedBytes, DecryptError> {
        if message.ciphertext.len() > PLAINTEXT_MAX || message.tag.len() != TAG_LEN {
            return Err(DecryptError);
        }
        let metadata = Metadata::parse(message.metadata).ok_or(DecryptError)?;
        if metadata.version != self.number {
            return Err(DecryptError);
        }
        let nonce = Nonce::try_assume_unique_for_key(message.iv).map_err(|_| DecryptError)?;
        let framed = frame_aad(aad, message.metadata).ok_or(DecryptError)?;
        let key = self.message_key(&metadata.salt).ok_or(DecryptError)?;
        let mut buffer = WipedBytes::new(Vec::with_capacity(message.ciphertext.len() + TAG_LEN));
        buffer.extend_from_slice(message.ciphertext);
        buffer.extend_from_slice(message.tag);
        let plaintext_len = key.open_in_place(nonce, Aad::from(framed), &mut buffer).map_err(|_| DecryptError)?.len();
        buffer.truncate(plaintext_len);
        Ok(buffer)
    }

    /// Whether [`Self::decrypt_legacy`] can succeed.
    pub(super) const fn is_legacy(&self) -> bool {
        self.legacy.is_some()
    }

    /// Decrypts one message of the proxy that the material came from.
    pub(super) fn decrypt_legacy(&self, message: &Ciphertext<'_>, aad: &[u8]) -> Result<WipedBytes, DecryptError> {
        match self.legacy {
            Some(LegacyProfile::AwsSample) => legacy::decrypt(&self.material, message, aad),
            None => Err(DecryptError),
        }
    }

    fn message_key(&self, salt: &[u8; SALT_LEN]) -> Option<LessSafeKey> {
        // The material is uniformly random already, so it serves as the pseudorandom key of RFC 5869, section 2.3.
        let material = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, self.material.expose());
        let info = [EXTERNAL_KEY_MESSAGE.as_bytes(), salt.as_slice()];
        let derived = material.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

/// The content of our `ciphertextMetadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) version: u32,
    salt: [u8; SALT_LEN],
}

impl Metadata {
    fn encode(self) -> [u8; METADATA_LEN] {
        let [_, high, middle, low] = self.version.to_be_bytes();
        let mut bytes = [0; METADATA_LEN];
        let (head, salt) = bytes.split_at_mut(METADATA_LEN - SALT_LEN);
        head.copy_from_slice(&[FORMAT, high, middle, low]);
        salt.copy_from_slice(&self.salt);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; METADATA_LEN] = bytes.try_into().ok()?;
        let (&[format, high, middle, low], salt) = bytes.split_first_chunk()?;
        if format != FORMAT {
            return None;
        }
        let version = u32::from_be_bytes([0, high, middle, low]);
        Some(Self { version, salt: salt.try_into().ok()? })
    }
}

/// The AAD input of AES-GCM (specification, section "Encrypt", `ciphertextMetadata`): both parts with their lengths, so that
/// no byte can move from one to the other.
fn frame_aad(aad: &[u8], metadata: &[u8]) -> Option<Vec<u8>> {
    let aad_len = u16::try_from(aad.len()).ok()?;
    let metadata_len = u8::try_from(metadata.len()).ok()?;
    let mut framed = Vec::with_capacity(3 + aad.len() + metadata.len());
    framed.extend_from_slice(&aad_len.to_be_bytes());
    framed.extend_from_slice(aad);
    framed.push(metadata_len);
    framed.extend_from_slice(metadata);
    Some(framed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RANDOMNESS: MessageRandomness = MessageRandomness { salt: [5; SALT_LEN], iv: [6; IV_LEN] };

    fn version(number: u32) -> ExternalKeyVersion {
        ExternalKeyVersion::new(number, Secret::take(&mut [9; 32])).unwrap()
    }

    #[test]
    fn framing_keeps_the_parts_apart() {
        assert_eq!(frame_aad(b"ab", b"c").unwrap(), b"\x00\x02ab\x01c");
        assert_eq!(frame_aad(b"", b"").unwrap(), b"\x00\x00\x00");
        assert_ne!(frame_aad(b"", b"abc"), frame_aad(b"abc", b""));
        assert_eq!(frame_aad(&vec![0; AAD_MAX], b"").unwrap()[..2], [0xFF, 0xFF]);
        assert!(frame_aad(&vec![0; AAD_MAX + 1], b"").is_none());
    }

    #[test]
    fn version_numbers_fit_three_bytes() {
        for (number, fits) in [(0, false), (1, true), (VERSION_MAX, true), (VERSION_MAX + 1, false), (u32::MAX, false)]
        {
            assert_eq!(ExternalKeyVersion::new(number, Secret::take(&mut [0; 32])).is_ok(), fits, "{number}");
        }
    }

    #[test]
    fn metadata_has_one_shape() {
        let bytes = Metadata { version: 0x00AB_CDEF, salt: [7; 16] }.encode();
        assert_eq!(bytes[..5], [1, 0xAB, 0xCD, 0xEF, 7]);
        assert_eq!(Metadata::parse(&bytes).unwrap().version, 0x00AB_CDEF);
        for wrong in [&bytes[..19], &[bytes.as_slice(), &[0]].concat(), &[], &[0; 20], &[2; 20]] {
            assert!(Metadata::parse(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn bounds() {
        let key = version(1);
        assert!(key.encrypt(&RANDOMNESS, &vec![0; AAD_MAX], &vec![0; PLAINTEXT_MAX]).is_ok());
        let too_long = Err(EncryptError::TooLong);
        assert_eq!(key.encrypt(&RANDOMNESS, &vec![0; AAD_MAX + 1], b""), too_long);
        assert_eq!(key.encrypt(&RANDOMNESS, b"", &vec![0; PLAINTEXT_MAX + 1]), too_long);
    }

    #[test]
    fn every_part_is_authenticated() {
        let key = version(3);
        let message = key.encrypt(&RANDOMNESS, b"aad", b"plaintext").unwrap();
        assert_eq!(*key.decrypt(&message.as_ciphertext(), b"aad").unwrap(), b"plaintext");
        let damaged = |damage: fn(&mut EncryptedMessage)| {
            let mut copy = message.clone();
            damage(&mut copy);
            key.decrypt(&copy.as_ciphertext(), b"aad")
        };
        assert!(damaged(|m| m.ciphertext[0] ^= 1).is_err());
        assert!(damaged(|m| m.ciphertext.push(0)).is_err());
        assert!(damaged(|m| m.ciphertext.clear()).is_err());
        assert!(damaged(|m| m.tag[15] ^= 1).is_err());
        assert!(damaged(|m| m.iv[0] ^= 1).is_err());
        assert!(damaged(|m| m.metadata[0] ^= 2).is_err());
        assert!(damaged(|m| m.metadata[3] ^= 1).is_err());
        assert!(damaged(|m| m.metadata[19] ^= 1).is_err());
        assert!(key.decrypt(&message.as_ciphertext(), b"aaD").is_err());
        assert!(key.decrypt(&message.as_ciphertext(), b"").is_err());
        let other = Ciphertext { iv: &[6; 16], ..message.as_ciphertext() };
        assert!(key.decrypt(&other, b"aad").is_err(), "a 16-byte IV is never ours");
        let other = Ciphertext { tag: &message.tag[..12], ..message.as_ciphertext() };
        assert!(key.decrypt(&other, b"aad").is_err(), "tags are never shortened");
        // The confusion that the specification warns of: metadata handed in as AAD.
        let swapped = Ciphertext { metadata: &[], ..message.as_ciphertext() };
        assert!(key.decrypt(&swapped, &message.metadata).is_err());
    }

    #[test]
    fn salts_and_materials_separate_messages() {
        let first = version(1).encrypt(&RANDOMNESS, b"", b"same").unwrap();
        let salted = MessageRandomness { salt: [4; SALT_LEN], ..RANDOMNESS };
        let second = version(1).encrypt(&salted, b"", b"same").unwrap();
        assert_ne!(first.ciphertext, second.ciphertext);
        let other = ExternalKeyVersion::new(1, Secret::take(&mut [8; 32])).unwrap();
        assert!(other.decrypt(&first.as_ciphertext(), b"").is_err());
    }

    proptest! {
        #[test]
        fn round_trip(
            number in 1..=VERSION_MAX,
            mut material: [u8; 32],
            salt: [u8; SALT_LEN],
            iv: [u8; IV_LEN],
            aad in proptest::collection::vec(any::<u8>(), 0..300),
            plaintext in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let key = ExternalKeyVersion::new(number, Secret::take(&mut material)).unwrap();
            let message = key.encrypt(&MessageRandomness { salt, iv }, &aad, &plaintext).unwrap();
            prop_assert_eq!(message.ciphertext.len(), plaintext.len());
            prop_assert_eq!(&*key.decrypt(&message.as_ciphertext(), &aad).unwrap(), &plaintext);
        }
    }
}
