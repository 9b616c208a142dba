//! The storage key: what wraps the custodian's lesser secrets, leases' channel keys and the key of its challenges.
//!
//! Guarantees: it is random, lies wrapped by the key-encryption key in the database, and is unwrapped once at the start, so
//! that leases are renewed, blocks delivered and changes ordered while the key-encryption key cannot be reached. It never
//! wraps a share: a release needs the key-encryption key each time. Replicas on one database share it.

use holdfast_shared::hpke;
use holdfast_shared::ids::CustodianId;
use holdfast_shared::labels;
use holdfast_shared::secrets::{Secret, SecretBytes};
use ring::rand::{SecureRandom, SystemRandom};

use super::file::LocalKey;
use super::{Kek, KekError, watch as kek};
use crate::store::{Store, StoreError};

/// First byte of what the storage key wraps: no place of a key-encryption key has this number.
const FORMAT: u8 = 0x53;
/// Name of the setting that holds the wrapped key.
const SETTING: &str = "storage key";

/// Why there is no storage key.
#[derive(Debug, thiserror::Error)]
pub enum StorageKeyError {
    /// The key-encryption key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Wraps secrets that are worth less than a share.
pub struct StorageKey(LocalKey);

impl StorageKey {
    /// Unwraps the key in the database, which is made at first use. Waits for a key-encryption key that cannot be reached:
    /// without the storage key nothing can be served.
    ///
    /// # Errors
    /// [`StorageKeyError`], for what waiting does not mend.
    pub async fn open(store: &Store, kek: &Kek, custodian_id: CustodianId) -> Result<Self, StorageKeyError> {
        let mut tries = 0;
        loop {
            match Self::try_open(store, kek, custodian_id).await {
                Err(StorageKeyError::Kek(error)) if error.may_pass() => {
                    tries = u32::saturating_add(tries, 1);
                    let pause = kek::pause_after(tries);
                    tracing::warn!(
                        key = kek.describe(),
                        "not started yet, trying again in {} s: {error}",
                        pause.as_secs()
                    );
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
    }

    async fn try_open(store: &Store, kek: &Kek, custodian_id: CustodianId) -> Result<Self, StorageKeyError> {
        let aad = hpke::bind(labels::WRAP_STORAGE_KEY, &[custodian_id.as_bytes()]);
        let offered = Secret::<32>::fill_with(|own| SystemRandom::new().fill(own)).map_err(|_| KekError::Random)?;
        let wrapped = store.setting(SETTING, &kek.wrap(&aad, offered.expose()).await?).await?;
        let bytes = kek.unwrap(&aad, &wrapped).await?;
        let key = Secret::fill_with(|own| {
            let source: &[u8; 32] = bytes.expose().try_into().map_err(|_| KekError::OpenFailed)?;
            own.copy_from_slice(source);
            Ok::<_, KekError>(())
        })?;
        Self::new(&key).ok_or(StorageKeyError::Kek(KekError::OpenFailed))
    }

    fn new(key: &Secret<32>) -> Option<Self> {
        LocalKey::new(key).map(Self)
    }

    /// Encrypts `secret`, bound to `aad`.
    ///
    /// # Errors
    /// [`KekError::Random`].
    pub fn wrap(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, KekError> {
        Ok([&[FORMAT], self.0.wrap(aad, secret)?.as_slice()].concat())
    }

    /// Decrypts what [`StorageKey::wrap`] made with the same `aad`.
    ///
    /// # Errors
    /// [`KekError::OpenFailed`].
    pub fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError> {
        self.0.unwrap(aad, wrapped.strip_prefix(&[FORMAT]).ok_or(KekError::OpenFailed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> StorageKey {
        StorageKey::new(&Secret::take(&mut [byte; 32])).unwrap()
    }

    #[test]
    fn a_secret_opens_under_its_own_storage_key_and_purpose_only() {
        let wrapped = key(1).wrap(b"purpose", b"secret").unwrap();
        assert_eq!(key(1).unwrap(b"purpose", &wrapped).unwrap().expose(), b"secret");
        assert!(key(2).unwrap(b"purpose", &wrapped).is_err(), "another key");
        assert!(key(1).unwrap(b"other", &wrapped).is_err(), "another purpose");
        for index in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[index] ^= 1;
            assert!(key(1).unwrap(b"purpose", &changed).is_err(), "byte {index}");
            assert!(key(1).unwrap(b"purpose", &wrapped[..index]).is_err(), "cut at {index}");
        }
    }
}
