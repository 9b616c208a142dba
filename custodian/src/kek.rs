//! The key-encryption key: what stands between the custodian's disk and the secrets on it.
//!
//! Guarantees: a wrapped secret opens only under the same key and for the same associated data, which names its purpose and
//! place. Assumes: a backend protects its key as its kind can; a file protects it by its mode alone. Refuses: a key file that
//! others can read, or that belongs to another user.

use std::path::Path;

use holdfast_shared::secrets::{Secret, SecretBytes};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::state::{self, StateError};

/// First byte of what [`FileKey`] wraps: AES-256-GCM, 12-byte random nonce, ciphertext, tag.
const FORMAT: u8 = 1;

/// Why a secret cannot be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// Another key, another purpose, or changed bytes.
    #[error("a stored secret does not open under this key-encryption key")]
    OpenFailed,
    /// No randomness.
    #[error("wrapping a secret failed")]
    WrapFailed,
}

/// Wraps secrets for storage. A backend may be a file, or a key in a vault. Called off the asynchronous workers.
pub trait KeyEncryptionKey: Send + Sync {
    /// Encrypts `secret`, bound to `aad`.
    ///
    /// # Errors
    /// [`KekError`].
    fn wrap(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, KekError>;

    /// Decrypts what [`KeyEncryptionKey::wrap`] made with the same `aad`.
    ///
    /// # Errors
    /// [`KekError`].
    fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError>;
}

/// A key of 32 random bytes in a file of mode 0600.
pub struct FileKey {
    key: LessSafeKey,
    rng: SystemRandom,
}

impl FileKey {
    /// Reads the key.
    ///
    /// # Errors
    /// [`StateError`] when the file is missing, of another length, or open to others.
    pub fn read(path: &Path) -> Result<Self, StateError> {
        Self::new(&state::read_private_array::<32>(path)?).ok_or_else(|| StateError::BadKey { file: path.to_owned() })
    }

    fn new(key: &Secret<32>) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).ok()?);
        Some(Self { key, rng: SystemRandom::new() })
    }
}

impl KeyEncryptionKey for FileKey {
    fn wrap(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, KekError> {
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill(&mut nonce).map_err(|_| KekError::WrapFailed)?;
        let mut buffer = Zeroizing::new(secret.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut buffer)
            .map_err(|_| KekError::WrapFailed)?;
        Ok([&[FORMAT], nonce.as_slice(), &buffer, tag.as_ref()].concat())
    }

    fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError> {
        let rest = wrapped.strip_prefix(&[FORMAT]).ok_or(KekError::OpenFailed)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(KekError::OpenFailed)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let plaintext = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut buffer)
            .map_err(|_| KekError::OpenFailed)?;
        Ok(SecretBytes::new(plaintext.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> FileKey {
        FileKey::new(&Secret::take(&mut [byte; 32])).unwrap()
    }

    #[test]
    fn a_secret_opens_under_its_own_key_and_purpose_only() {
        let wrapped = key(1).wrap(b"purpose", b"secret").unwrap();
        assert_eq!(key(1).unwrap(b"purpose", &wrapped).unwrap().expose(), b"secret");
        assert!(!wrapped.windows(6).any(|window| window == b"secret"));
        assert!(key(2).unwrap(b"purpose", &wrapped).is_err(), "another key");
        assert!(key(1).unwrap(b"other", &wrapped).is_err(), "another purpose");
        for index in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[index] ^= 1;
            assert!(key(1).unwrap(b"purpose", &changed).is_err(), "byte {index}");
            assert!(key(1).unwrap(b"purpose", &wrapped[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn no_two_wrappings_are_alike() {
        assert_ne!(key(1).wrap(b"", b"secret").unwrap(), key(1).wrap(b"", b"secret").unwrap());
    }
}
