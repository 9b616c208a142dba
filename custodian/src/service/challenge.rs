//! Challenges: nonces that the custodian recognises without having kept them.
//!
//! ```text
//! nonce = time in ms (8, big endian) ‖ random (8) ‖ HMAC-SHA-256 over label, custodian, key store, time, random (first 16)
//! ```
//! Guarantees: a nonce is accepted for [`limits::CHALLENGE_LIFE_MS`], by this custodian, for one key store. Giving one out
//! touches no disk, so that a flood of requests costs only processor time. The key lies wrapped in the database, so that
//! replicas on one database accept each other's. That a nonce is used once is for the release to see to.

use std::sync::Arc;
use std::time::Instant;

use holdfast_shared::cbor;
use holdfast_shared::hpke;
use holdfast_shared::ids::{CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::labels;
use holdfast_shared::limits;
use holdfast_shared::release::{ChallengeAnswer, ChallengeRequest};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Custodian, ServiceError, StartError};
use crate::kek::StorageKey;
use crate::store::Store;

/// Name of the setting that holds the wrapped key.
const SETTING: &str = "challenge key";
/// How far in the future a nonce may have been made: the clocks of replicas differ.
const REPLICA_SKEW_MS: u64 = 5_000;

/// Why a nonce is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Not made here, or for another key store.
    #[error("the nonce is not one of this custodian's challenges for this key store")]
    NotOurs,
    /// Too old.
    #[error("the challenge has expired; ask for a new one")]
    Expired,
}

/// Makes and recognises nonces.
pub(super) struct Challenges {
    key: hmac::Key,
    custodian_id: CustodianId,
}

impl Challenges {
    /// With the key from the database, made at first use.
    pub(super) async fn open(
        store: &Store,
        storage_key: &StorageKey,
        custodian_id: CustodianId,
        rng: &SystemRandom,
    ) -> Result<Self, StartError> {
        let aad = hpke::bind(labels::WRAP_CHALLENGE, &[custodian_id.as_bytes()]);
        let mut offered = Zeroizing::new([0; 32]);
        rng.fill(offered.as_mut_slice()).map_err(|_| StartError::Random)?;
        let wrapped = store.setting(SETTING, &storage_key.wrap(&aad, offered.as_slice())?).await?;
        Ok(Self::new(storage_key.unwrap(&aad, &wrapped)?.expose(), custodian_id))
    }

    fn new(key: &[u8], custodian_id: CustodianId) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), custodian_id }
    }

    fn issue(&self, key_store_id: KeyStoreId, now_ms: u64, random: [u8; 8]) -> [u8; 32] {
        let time = now_ms.to_be_bytes();
        let mac = self.mac(key_store_id, time, random);
        let mut nonce = [0; 32];
        let parts = time.into_iter().chain(random).chain(mac);
        nonce.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        nonce
    }

    pub(super) fn check(&self, nonce: &[u8; 32], key_store_id: KeyStoreId, now_ms: u64) -> Result<(), ChallengeError> {
        let [time, random, mac @ ..] = nonce.as_chunks::<8>().0 else { return Err(ChallengeError::NotOurs) };
        let expected = self.mac(key_store_id, *time, *random);
        if !bool::from(mac.as_flattened().ct_eq(&expected)) {
            return Err(ChallengeError::NotOurs);
        }
        let issued_ms = u64::from_be_bytes(*time);
        let alive = issued_ms <= now_ms.saturating_add(REPLICA_SKEW_MS)
            && now_ms.saturating_sub(issued_ms) <= limits::CHALLENGE_LIFE_MS;
        if alive { Ok(()) } else { Err(ChallengeError::Expired) }
    }

    /// An id for a lease: half random, half a MAC, so that one that was made up is told without looking for it.
    pub(super) fn lease_id(&self, random: [u8; 8]) -> LeaseId {
        let parts: [&[u8]; 2] = [self.custodian_id.as_bytes(), &random];
        let tag = hmac::sign(&self.key, &hpke::bind(labels::LEASE_ID, &parts));
        let mut id = [0; 16];
        id.iter_mut().zip(random.iter().chain(tag.as_ref())).for_each(|(to, from)| *to = *from);
        LeaseId(id)
    }

    /// Whether an id was made by [`Challenges::lease_id`], by this or another replica.
    pub(super) fn is_lease_id(&self, id: LeaseId) -> bool {
        let [random, _mac] = id.as_bytes().as_chunks::<8>().0 else { return false };
        self.lease_id(*random).as_bytes().ct_eq(id.as_bytes()).into()
    }

    fn mac(&self, key_store_id: KeyStoreId, time: [u8; 8], random: [u8; 8]) -> [u8; 16] {
        let parts: [&[u8]; 4] = [self.custodian_id.as_bytes(), key_store_id.as_bytes(), &time, &random];
        let tag = hmac::sign(&self.key, &hpke::bind(labels::CHALLENGE, &parts));
        let mut mac = [0; 16];
        mac.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        mac
    }
}

impl Custodian {
    /// `challenge`: a nonce for an attestation document.
    ///
    /// # Errors
    /// [`ServiceError`]: unknown key store, or too many requests.
    pub fn challenge(self: &Arc<Self>, body: &[u8]) -> Result<Vec<u8>, ServiceError> {
        if !self.challenge_rate.allow(Instant::now()) {
            return Err(ServiceError::TooMany("too many challenges; try again in a second".to_owned()));
        }
        let request: ChallengeRequest = cbor::decode(body)?;
        let key_store = self.key_store(request.key_store_id)?;
        let nonce = self.challenges.issue(key_store.id(), self.clock.now_ms(), self.random()?);
        Ok(cbor::encode(&ChallengeAnswer { nonce }).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: KeyStoreId = KeyStoreId([1; 32]);
    const NOW_MS: u64 = 1_700_000_000_000;

    fn challenges() -> Challenges {
        Challenges::new(&[7; 32], CustodianId([2; 32]))
    }

    #[test]
    fn a_nonce_is_accepted_for_its_key_store_and_time_only() {
        let nonce = challenges().issue(STORE, NOW_MS, [3; 8]);
        let table = [
            (STORE, NOW_MS, Ok(())),
            (STORE, NOW_MS + limits::CHALLENGE_LIFE_MS, Ok(())),
            (STORE, NOW_MS + limits::CHALLENGE_LIFE_MS + 1, Err(ChallengeError::Expired)),
            (STORE, NOW_MS - REPLICA_SKEW_MS, Ok(())),
            (STORE, NOW_MS - REPLICA_SKEW_MS - 1, Err(ChallengeError::Expired)),
            (KeyStoreId([9; 32]), NOW_MS, Err(ChallengeError::NotOurs)),
        ];
        for (key_store_id, now_ms, expected) in table {
            assert_eq!(challenges().check(&nonce, key_store_id, now_ms), expected, "{key_store_id} at {now_ms}");
        }
    }

    #[test]
    fn no_bit_of_a_nonce_may_change_and_no_other_key_or_custodian_made_it() {
        let nonce = challenges().issue(STORE, NOW_MS, [3; 8]);
        for bit in 0..256 {
            let mut changed = nonce;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(challenges().check(&changed, STORE, NOW_MS), Err(ChallengeError::NotOurs), "bit {bit}");
        }
        for other in [Challenges::new(&[8; 32], CustodianId([2; 32])), Challenges::new(&[7; 32], CustodianId([3; 32]))]
        {
            assert_eq!(other.check(&nonce, STORE, NOW_MS), Err(ChallengeError::NotOurs));
        }
    }

    #[test]
    fn a_lease_id_is_told_from_one_that_was_made_up() {
        let id = challenges().lease_id([3; 8]);
        assert_eq!(id.as_bytes()[..8], [3; 8]);
        assert!(challenges().is_lease_id(id));
        for bit in 0..128 {
            let mut changed = *id.as_bytes();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!challenges().is_lease_id(LeaseId(changed)), "bit {bit}");
        }
        assert!(!Challenges::new(&[8; 32], CustodianId([2; 32])).is_lease_id(id));
        assert!(!Challenges::new(&[7; 32], CustodianId([3; 32])).is_lease_id(id));
    }

    #[test]
    fn the_format_is_fixed() {
        let nonce = challenges().issue(STORE, NOW_MS, [3; 8]);
        assert_eq!(nonce[..8], NOW_MS.to_be_bytes());
        assert_eq!(nonce[8..16], [3; 8]);
        let mut signed = b"holdfast challenge v1\0".to_vec();
        for part in [&[2; 32][..], &[1; 32], &NOW_MS.to_be_bytes(), &[3; 8]] {
            signed.extend_from_slice(&u64::try_from(part.len()).unwrap().to_be_bytes());
            signed.extend_from_slice(part);
        }
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]), &signed);
        assert_eq!(nonce[16..], mac.as_ref()[..16]);
    }
}
