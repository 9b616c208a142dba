//! The keys of one key store while its lease lasts.
//!
//! Guarantees: [`KeySlot::wipe`] drops the last long-lived reference, so material is zeroized as soon as the requests that
//! are running are done; the health check works on a key of its own, never on one that KMS knows. Assumes: nobody keeps a
//! key beyond a request.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use holdfast_shared::external_key::{
    ExternalKey, ExternalKeyId, ExternalKeyVersion, MessageRandomness, VersionNumberError,
};
use holdfast_shared::limits::EXTERNAL_KEYS_MAX;
use holdfast_shared::secrets::Secret;
use ring::rand::SecureRandom;

/// Why keys could not be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// Two keys have one id.
    #[error("two external keys have the same id")]
    Duplicate,
    /// More keys than [`EXTERNAL_KEYS_MAX`].
    #[error("too many external keys")]
    TooMany,
    /// The generator gave no randomness for the test key.
    #[error("no randomness for the test key")]
    Randomness,
}

impl From<VersionNumberError> for KeyRingError {
    fn from(_: VersionNumberError) -> Self {
        // Version 1 of the test key is in range.
        Self::Randomness
    }
}

/// All keys of one version of a key store.
pub struct KeyRing {
    keys: HashMap<ExternalKeyId, Arc<ExternalKey>>,
    /// Lives as long as the ring, in memory only ("SHOULD create test keys", specification, section "`GetHealthStatus`").
    test: ExternalKeyVersion,
}

impl core::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Makes a ring, and a fresh test key for it.
    ///
    /// # Errors
    /// If two keys have one id, there are too many, or `random` fails.
    pub fn new(keys: Vec<ExternalKey>, random: &dyn SecureRandom) -> Result<Self, KeyRingError> {
        if keys.len() > EXTERNAL_KEYS_MAX {
            return Err(KeyRingError::TooMany);
        }
        let count = keys.len();
        let keys: HashMap<_, _> = keys.into_iter().map(|key| (key.id().clone(), Arc::new(key))).collect();
        if keys.len() != count {
            return Err(KeyRingError::Duplicate);
        }
        let material = Secret::fill_with(|bytes| random.fill(bytes)).map_err(|_| KeyRingError::Randomness)?;
        Ok(Self { keys, test: ExternalKeyVersion::new(1, material)? })
    }

    /// The key named `id`.
    #[must_use]
    pub fn find(&self, id: &ExternalKeyId) -> Option<&Arc<ExternalKey>> {
        self.keys.get(id)
    }

    /// Encrypts and decrypts with the test key: the deep health check.
    #[must_use]
    pub fn works(&self, randomness: &MessageRandomness) -> bool {
        const PROBE: &[u8] = b"holdfast health check";
        self.test
            .encrypt(randomness, PROBE, PROBE)
            .is_ok_and(|message| self.test.decrypt(&message.as_ciphertext(), PROBE).is_ok_and(|text| *text == PROBE))
    }
}

/// The place of a key store's keys: filled under a lease, empty otherwise.
#[derive(Debug, Default)]
pub struct KeySlot(ArcSwapOption<KeyRing>);

impl KeySlot {
    /// An empty slot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `keys` from now on, instead of those before.
    pub fn install(&self, keys: KeyRing) {
        self.0.store(Some(Arc::new(keys)));
    }

    /// Drops the keys; they are zeroized once the requests that use them are done.
    pub fn wipe(&self) {
        self.0.store(None);
    }

    /// The keys, if there are any.
    #[must_use]
    pub fn load(&self) -> Option<Arc<KeyRing>> {
        self.0.load_full()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::external_key::{KeyState, KeyUsage};
    use ring::rand::SystemRandom;

    use super::*;

    fn key(id: &str) -> ExternalKey {
        let version = ExternalKeyVersion::new(1, Secret::take(&mut [1; 32])).unwrap();
        let id = ExternalKeyId::parse(id).unwrap();
        ExternalKey::new(id, KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled, vec![version]).unwrap()
    }

    #[test]
    fn rings_have_rules() {
        let random = SystemRandom::new();
        let twice = KeyRing::new(vec![key("a"), key("a")], &random);
        assert_eq!(twice.unwrap_err(), KeyRingError::Duplicate);
        let many = (0..=EXTERNAL_KEYS_MAX).map(|n| key(&n.to_string())).collect();
        assert_eq!(KeyRing::new(many, &random).unwrap_err(), KeyRingError::TooMany);
        let ring = KeyRing::new(vec![key("a")], &random).unwrap();
        assert!(ring.find(&ExternalKeyId::parse("a").unwrap()).is_some());
        assert!(ring.find(&ExternalKeyId::parse("b").unwrap()).is_none());
        assert!(ring.works(&MessageRandomness { salt: [1; 16], iv: [2; 12] }));
    }

    #[test]
    fn a_wipe_drops_the_ring() {
        let slot = KeySlot::new();
        assert!(slot.load().is_none());
        slot.install(KeyRing::new(vec![key("a")], &SystemRandom::new()).unwrap());
        let running = Arc::downgrade(&slot.load().unwrap());
        assert!(running.upgrade().is_some());
        slot.wipe();
        assert!(slot.load().is_none());
        assert!(running.upgrade().is_none(), "nothing else keeps the keys");
    }
}
