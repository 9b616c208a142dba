//! An external key with all its live versions, as requests use it.

use super::integrity::{Hashed, VerifiedMessage};
use super::message::{
    Ciphertext, DecryptError, EncryptError, EncryptedMessage, ExternalKeyVersion, MessageRandomness, Metadata,
};
use super::{ExternalKeyId, KeyState, KeyUsage};
use crate::limits::KEY_VERSIONS_MAX;
use crate::secrets::{WipedBytes, with_swept_cipher, with_swept_stack};

/// Why an external key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExternalKeyError {
    /// An enabled key must have material.
    #[error("an enabled external key has no version")]
    NoVersion,
    /// Two versions with one number could not be told apart by metadata.
    #[error("two versions of an external key have the same number")]
    DuplicateVersion,
    /// More versions than [`KEY_VERSIONS_MAX`].
    #[error("an external key has too many versions")]
    TooManyVersions,
}

/// An external key: name, usage, state and the versions that still exist.
#[derive(Debug)]
pub struct ExternalKey {
    id: ExternalKeyId,
    usage: KeyUsage,
    state: KeyState,
    /// Ascending by number; the last one encrypts.
    versions: Vec<ExternalKeyVersion>,
}

impl ExternalKey {
    /// Puts a key together. The highest version encrypts; all decrypt.
    ///
    /// # Errors
    /// If the versions are too many, ambiguous, or missing although the key is enabled.
    pub fn new(
        id: ExternalKeyId,
        usage: KeyUsage,
        state: KeyState,
        mut versions: Vec<ExternalKeyVersion>,
    ) -> Result<Self, ExternalKeyError> {
        if versions.len() > KEY_VERSIONS_MAX {
            return Err(ExternalKeyError::TooManyVersions);
        }
        if versions.is_empty() && state == KeyState::Enabled {
            return Err(ExternalKeyError::NoVersion);
        }
        versions.sort_unstable_by_key(ExternalKeyVersion::number);
        if versions.array_windows().any(|[left, right]| left.number() == right.number()) {
            return Err(ExternalKeyError::DuplicateVersion);
        }
        Ok(Self { id, usage, state, versions })
    }

    /// The key's name.
    #[must_use]
    pub fn id(&self) -> &ExternalKeyId {
        &self.id
    }

    /// What the key may be used for.
    #[must_use]
    pub fn usage(&self) -> KeyUsage {
        self.usage
    }

    /// Where the key is in its life.
    #[must_use]
    pub fn state(&self) -> KeyState {
        self.state
    }

    /// Number of the version that encrypts.
    #[must_use]
    pub fn current_version(&self) -> Option<u32> {
        self.versions.last().map(ExternalKeyVersion::number)
    }

    /// Encrypts with the newest version.
    ///
    /// # Errors
    /// As [`ExternalKeyVersion::encrypt`], or if there is no version.
    pub fn encrypt(
        &self,
        randomness: &MessageRandomness,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<EncryptedMessage, EncryptError> {
        let version = self.versions.last().ok_or(EncryptError::NoVersion)?;
        with_swept_cipher(|| version.encrypt(randomness, aad, plaintext))
    }

    /// Encrypts with the newest version and verifies, in the order of Appendix C.
    ///
    /// # Errors
    /// As [`Self::encrypt`], or if the result does not decrypt to `plaintext`.
    pub fn encrypt_verified(
        &self,
        randomness: &MessageRandomness,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<VerifiedMessage, EncryptError> {
        let version = self.versions.last().ok_or(EncryptError::NoVersion)?;
        with_swept_cipher(|| {
            Hashed::compute(version.encrypt(randomness, aad, plaintext)?, aad).verify(version, aad, plaintext)
        })
    }

    /// Decrypts with the version that the metadata names; if that fails, with the legacy profile of the version that has one. Metadata of
    /// the other proxy may look like ours, so ours is tried first.
    ///
    /// # Errors
    /// If the metadata is not ours, names a version that does not exist (any more), or nothing authenticates; and no version has
    /// a legacy profile under which the message authenticates.
    pub fn decrypt(&self, message: &Ciphertext<'_>, aad: &[u8]) -> Result<WipedBytes, DecryptError> {
        with_swept_cipher(|| {
            self.decrypt_own(message, aad).or_else(|error| {
                let legacy = self.versions.iter().find(|version| version.is_legacy()).ok_or(error)?;
                // Its cipher for long IVs takes more stack than ring's.
                with_swept_stack(|| legacy.decrypt_legacy(message, aad))
            })
        })
    }

    fn decrypt_own(&self, message: &Ciphertext<'_>, aad: &[u8]) -> Result<WipedBytes, DecryptError> {
        let number = Metadata::parse(message.metadata).ok_or(DecryptError)?.version;
        let at = self.versions.binary_search_by_key(&number, ExternalKeyVersion::number).map_err(|_| DecryptError)?;
        self.versions.get(at).ok_or(DecryptError)?.decrypt(message, aad)
    }
}

/// The version number that `metadata` names, if it is in our format: what audit records say of a decryption.
#[must_use]
pub fn version_of(metadata: &[u8]) -> Option<u32> {
    Metadata::parse(metadata).map(|metadata| metadata.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::Secret;

    const RANDOMNESS: MessageRandomness = MessageRandomness { salt: [5; 16], iv: [6; 12] };

    fn key(state: KeyState, numbers: &[u32]) -> Result<ExternalKey, ExternalKeyError> {
        let versions = numbers
            .iter()
            .map(|&number| {
                let mut material = [0; 32];
                material[..4].copy_from_slice(&number.to_be_bytes());
                ExternalKeyVersion::new(number, Secret::take(&mut material)).unwrap()
            })
            .collect();
        ExternalKey::new(ExternalKeyId::parse("key").unwrap(), KeyUsage::ENCRYPT_DECRYPT, state, versions)
    }

    #[test]
    fn construction() {
        assert_eq!(key(KeyState::Enabled, &[]).unwrap_err(), ExternalKeyError::NoVersion);
        assert_eq!(key(KeyState::Enabled, &[2, 1, 2]).unwrap_err(), ExternalKeyError::DuplicateVersion);
        assert!(key(KeyState::PendingDestruction, &[]).is_ok());
        let many: Vec<u32> = (1..=1025).collect();
        assert_eq!(key(KeyState::Enabled, &many).unwrap_err(), ExternalKeyError::TooManyVersions);
    }

    #[test]
    fn rotation_keeps_old_versions_for_decryption() {
        let old = key(KeyState::Enabled, &[1]).unwrap().encrypt(&RANDOMNESS, b"", b"text").unwrap();
        assert_eq!(version_of(&old.metadata), Some(1));
        let rotated = key(KeyState::Enabled, &[300, 1, 2]).unwrap();
        assert_eq!(rotated.current_version(), Some(300));
        assert_eq!(*rotated.decrypt(&old.as_ciphertext(), b"").unwrap(), b"text");
        let new = rotated.encrypt(&RANDOMNESS, b"", b"text").unwrap();
        assert_eq!(version_of(&new.metadata), Some(300));
        let destroyed = key(KeyState::Enabled, &[2, 300]).unwrap();
        assert_eq!(destroyed.decrypt(&old.as_ciphertext(), b"").unwrap_err(), DecryptError);
    }

    #[test]
    fn a_key_without_versions_does_nothing() {
        let empty = key(KeyState::PendingDestruction, &[]).unwrap();
        assert_eq!(empty.encrypt(&RANDOMNESS, b"", b"").unwrap_err(), EncryptError::NoVersion);
        assert_eq!(empty.encrypt_verified(&RANDOMNESS, b"", b"").unwrap_err(), EncryptError::NoVersion);
    }
}
