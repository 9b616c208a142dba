//! AES-256-GCM under a key in this process's memory: for a key in a file, and for the storage key.
//!
//! Guarantees: a random 12-byte nonce for each wrapping; 2³² wrappings under one key are far off, since a custodian wraps a
//! secret for a share or a lease. Refuses: a key file that others can read, or that belongs to another user.

use std::path::{Path, PathBuf};

use holdfast_shared::secrets::{Secret, SecretBytes};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{KekError, KeyEncryptionKey, Pending, Place};
use crate::state::{self, StateError};

/// A key in memory: nonce, ciphertext and tag, in this order.
pub(super) struct LocalKey {
    key: LessSafeKey,
    rng: SystemRandom,
}

impl LocalKey {
    pub(super) fn new(key: &Secret<32>) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).ok()?);
        Some(Self { key, rng: SystemRandom::new() })
    }

    pub(super) fn wrap(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, KekError> {
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill(&mut nonce).map_err(|_| KekError::Random)?;
        let mut buffer = Zeroizing::new(secret.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut buffer)
            .map_err(|_| KekError::Random)?;
        Ok([nonce.as_slice(), &buffer, tag.as_ref()].concat())
    }

    pub(super) fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError> {
        let (nonce, ciphertext) = wrapped.split_first_chunk::<NONCE_LEN>().ok_or(KekError::OpenFailed)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let plaintext = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut buffer)
            .map_err(|_| KekError::OpenFailed)?;
        Ok(SecretBytes::new(plaintext.to_vec()))
    }
}

/// A key of 32 random bytes in a file of mode 0600.
pub struct FileKey {
    key: LocalKey,
    file: PathBuf,
}

impl FileKey {
    /// Reads the key.
    ///
    /// # Errors
    /// [`StateError`] when the file is missing, of another length, or open to others.
    pub fn read(path: &Path) -> Result<Self, StateError> {
        let key = LocalKey::new(&state::read_private_array::<32>(path)?)
            .ok_or_else(|| StateError::BadKey { file: path.to_owned() })?;
        Ok(Self { key, file: path.to_owned() })
    }

    #[cfg(test)]
    pub(super) fn of(byte: u8) -> Self {
        Self { key: LocalKey::new(&Secret::take(&mut [byte; 32])).unwrap(), file: PathBuf::from("key") }
    }
}

impl KeyEncryptionKey for FileKey {
    fn place(&self) -> Place {
        Place::File
    }

    fn describe(&self) -> String {
        format!("file {}", self.file.display())
    }

    fn wrap<'a>(&'a self, aad: &'a [u8], secret: &'a [u8]) -> Pending<'a, Vec<u8>> {
        Box::pin(async move { self.key.wrap(aad, secret) })
    }

    fn unwrap<'a>(&'a self, aad: &'a [u8], wrapped: &'a [u8]) -> Pending<'a, SecretBytes> {
        Box::pin(async move { self.key.unwrap(aad, wrapped) })
    }
}
