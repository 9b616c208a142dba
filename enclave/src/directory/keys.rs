//! The keys of one key store while its lease lasts.
//!
//! Guarantees: [`KeySlot::wipe`] drops the last long-lived reference, so material is zeroized as soon as the requests that
//! are running are done; the health check works on a key of its own, never on one that KMS knows. Assumes: nobody keeps a
//! key beyond a request.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use holdfast_shared::external_key::{
    EncryptedMessage, ExternalKey, ExternalKeyId, ExternalKeyVersion, MessageRandomness, VersionNumberError,
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
    /// The test key does not encrypt.
    #[error("the test key does not encrypt")]
    TestKey,
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
    test: TestKey,
}

/// Lives as long as the ring, in memory only ("SHOULD create test keys", specification, section "`GetHealthStatus`").
struct TestKey {
    key: ExternalKeyVersion,
    /// Made when the ring was.
    first: EncryptedMessage,
}

impl TestKey {
    const PROBE: &[u8] = b"holdfast health check";

    fn new(random: &dyn SecureRandom) -> Result<Self, KeyRingError> {
        let material = Secret::fill_with(|bytes| random.fill(bytes)).map_err(|_| KeyRingError::Randomness)?;
        let key = ExternalKeyVersion::new(1, material)?;
        let mut randomness = MessageRandomness { salt: [0; 16], iv: [0; 12] };
        random.fill(&mut randomness.salt).map_err(|_| KeyRingError::Randomness)?;
        random.fill(&mut randomness.iv).map_err(|_| KeyRingError::Randomness)?;
        let first = key.encrypt(&randomness, Self::PROBE, Self::PROBE).map_err(|_| KeyRingError::TestKey)?;
        Ok(Self { key, first })
    }

    fn decrypts(&self, message: &EncryptedMessage) -> bool {
        self.key.decrypt(&message.as_ciphertext(), Self::PROBE).is_ok_and(|text| *text == Self::PROBE)
    }
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
        Ok(Self { keys, test: TestKey::new(random)? })
    }

    /// The key named `id`.
    #[must_use]
    pub fn find(&self, id: &ExternalKeyId) -> Option<&Arc<ExternalKey>> {
        self.keys.get(id)
    }

    /// The deep health check: what the test key encrypted when it was made decrypts, and what it encrypts now does.
    #[must_use]
    pub fn works(&self, randomness: &MessageRandomness) -> bool {
        let TestKey { key, first } = &self.test;
        self.test.decrypts(first)
            && key.encrypt(randomness, TestKey::PROBE, TestKey::PROBE).is_ok_and(|message| self.test.decrypts(&message))
    }

    /// The same with another test key than the one that made its first message.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn damaged(mut self) -> Self {
        self.test.key = ExternalKeyVersion::new(1, Secret::take(&mut [7; 32])).unwrap();
        self
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
    fn a_damaged_test_key_is_found() {
        let randomness = MessageRandomness { salt: [1; 16], iv: [2; 12] };
        let ring = || KeyRing::new(Vec::new(), &SystemRandom::new()).unwrap();
        assert!(ring().works(&randomness));
        assert!(!ring().damaged().works(&randomness));
        let mut ring = ring();
        ring.test.first.tag[0] ^= 1;
        assert!(!ring.works(&randomness));
    }

    #[test]
    fn the_test_key_is_no_key_of_the_store() {
        let random = SystemRandom::new();
        let (one, other) =
            (KeyRing::new(vec![key("a")], &random).unwrap(), KeyRing::new(vec![key("a")], &random).unwrap());
        // The same keys, and a test key for each ring: no message of one is known to the other or to a key of the store.
        assert!(one.keys.len() == 1 && !other.test.decrypts(&one.test.first));
        let known = one.find(&ExternalKeyId::parse("a").unwrap()).unwrap();
        assert!(known.decrypt(&one.test.first.as_ciphertext(), TestKey::PROBE).is_err());
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
