//! Credentials of KMS, and the keys derived from them (specification, Appendix A, Task 3).
//!
//! Guarantees: signing keys are derived once for a day and region, not with each request; whether a request finds them
//! derived does not depend on its access key id, and a refusal makes the same HMACs over inputs of the same lengths for every
//! access key id, known or not, whatever the length of its secret; no request without a valid signature changes what is kept,
//! and what is kept is bounded.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ring::hmac;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::authorization::Authorization;
use super::{AccessKeyId, SERVICE};
use crate::limits::{CREDENTIALS_MAX, DERIVED_KEYS_MAX, SECRET_ACCESS_KEY_LEN};
use crate::secrets::{Secret, SecretBytes};

/// Why a credential or a set of them was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The secret access key is not 43 to 64 characters of `a-z A-Z 0-9 / + =`.
    #[error("a secret access key is 43 to 64 characters of a-z, A-Z, 0-9, /, + and =")]
    Secret,
    /// Two credentials have one access key id, which could then not "uniquely identify a secret access key".
    #[error("two credentials have the same access key id")]
    Duplicate,
    /// More credentials than [`CREDENTIALS_MAX`].
    #[error("too many credentials")]
    TooMany,
}

/// An access key id and its secret.
#[derive(Debug)]
pub struct Credential {
    access_key_id: AccessKeyId,
    secret: SecretBytes,
    created_ms: Option<u64>,
}

impl Credential {
    /// Joins id and secret.
    ///
    /// # Errors
    /// If the secret breaks the rules of KMS.
    pub fn new(access_key_id: AccessKeyId, secret: SecretBytes) -> Result<Self, CredentialError> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'+' | b'=');
        if !SECRET_ACCESS_KEY_LEN.contains(&secret.expose().len()) || !secret.expose().iter().all(allowed) {
            return Err(CredentialError::Secret);
        }
        Ok(Self { access_key_id, secret, created_ms: None })
    }

    /// The same, with the moment when it was made, where that is known: milliseconds since 1970.
    #[must_use]
    pub fn created(self, created_ms: Option<u64>) -> Self {
        Self { created_ms, ..self }
    }

    /// The access key id.
    #[must_use]
    pub fn access_key_id(&self) -> &AccessKeyId {
        &self.access_key_id
    }

    /// The secret access key.
    #[must_use]
    pub fn secret(&self) -> &SecretBytes {
        &self.secret
    }
}

/// The live credentials of one key store.
#[derive(Debug)]
pub struct CredentialSet {
    credentials: Vec<Credential>,
    /// Where the derivation of each credential's keys starts. One more stands at the end for every unknown access key id,
    /// so that it costs what a known one costs.
    seeds: Vec<Seed>,
    /// Keys of the days and regions in which a signature was valid, the latest to be derived first.
    derived: ArcSwap<Vec<Arc<DerivedKeys>>>,
}

/// The signing keys of all credentials for one day and region: all or none, so that an attacker who measures cannot tell
/// an access key id that is in use from one that does not exist.
#[derive(Debug)]
struct DerivedKeys {
    day: String,
    region: String,
    /// In the order of the seeds.
    keys: Vec<SigningKey>,
}

impl DerivedKeys {
    fn are_for(&self, authorization: &Authorization<'_>) -> bool {
        self.day == authorization.day() && self.region == authorization.region()
    }
}

impl CredentialSet {
    /// Makes a set. `dummy` is fresh randomness that no signer knows; no credentials at all means that nothing verifies.
    ///
    /// # Errors
    /// If there are too many credentials or two with one id.
    pub fn new(credentials: Vec<Credential>, dummy: &Secret<32>) -> Result<Self, CredentialError> {
        if credentials.len() > CREDENTIALS_MAX {
            return Err(CredentialError::TooMany);
        }
        for (count, credential) in credentials.iter().enumerate() {
            if credentials.iter().take(count).any(|other| other.access_key_id == credential.access_key_id) {
                return Err(CredentialError::Duplicate);
            }
        }
        let secrets = credentials.iter().map(|credential| credential.secret.expose());
        let seeds = secrets.chain([dummy.expose().as_slice()]).map(Seed::of).collect();
        Ok(Self { credentials, seeds, derived: ArcSwap::default() })
    }

    /// The access key ids in the set.
    pub fn access_key_ids(&self) -> impl Iterator<Item = &AccessKeyId> {
        self.credentials.iter().map(Credential::access_key_id)
    }

    /// When the oldest was made: milliseconds since 1970. Nothing where that is unknown of one, which may be older than all others.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        let dates: Option<Vec<u64>> = self.credentials.iter().map(|credential| credential.created_ms).collect();
        dates?.into_iter().min()
    }

    /// Whose signature `authorization` is, over `text`; nobody's if the access key id is unknown or the signature wrong.
    pub(super) fn verify(&self, authorization: &Authorization<'_>, text: &[u8]) -> Option<&AccessKeyId> {
        let place = self.place_of(authorization.access_key_id());
        let derived = self.derived.load();
        let kept = derived.iter().find(|derived| derived.are_for(authorization));
        // The signature is looked at even where nobody is known to have made it: a refusal always takes the same work.
        let valid = match kept {
            Some(kept) => kept.keys.get(place)?.verify(text, authorization.signature()),
            None => SigningKey::derive(self.seeds.get(place)?, authorization.day(), authorization.region(), SERVICE)
                .verify(text, authorization.signature()),
        };
        // Behind the last credential is the dummy's place, which has no id.
        let signer = self.credentials.get(place).filter(|_| valid)?;
        if kept.is_none() {
            self.keep_keys_for(authorization);
        }
        Some(&signer.access_key_id)
    }

    /// The place of `access_key_id`, or the dummy's. Looks at all of them, and at all of each: neither where in the set an
    /// id stands shall show, nor how much of it was guessed.
    fn place_of(&self, access_key_id: &str) -> usize {
        let count = u32::try_from(self.credentials.len()).unwrap_or(u32::MAX);
        let mut found = count;
        for (place, credential) in (0..count).zip(&self.credentials) {
            let same = credential.access_key_id.as_str().as_bytes().ct_eq(access_key_id.as_bytes());
            found.conditional_assign(&place, same);
        }
        usize::try_from(found).unwrap_or(usize::MAX)
    }

    /// Called with a valid signature in hand, and for nothing else. Of two at once one may be lost, and is derived again.
    fn keep_keys_for(&self, authorization: &Authorization<'_>) {
        let (day, region) = (authorization.day(), authorization.region());
        let keys = self.seeds.iter().map(|seed| SigningKey::derive(seed, day, region, SERVICE)).collect();
        let new = Arc::new(DerivedKeys { day: day.to_owned(), region: region.to_owned(), keys });
        let older = self.derived.load();
        let older = older.iter().filter(|derived| !derived.are_for(authorization)).cloned();
        self.derived.store(Arc::new(core::iter::once(new).chain(older).take(DERIVED_KEYS_MAX).collect()));
    }
}

/// Bytes that SHA-256 takes at a time.
const BLOCK_LEN: usize = 64;

/// `AWS4` ‖ secret as a key of exactly one block of the hash, which is what HMAC makes of it first (RFC 2104, section 2): so
/// the work does not depend on whether the secret has 43 characters or 64, which would fill more than a block.
#[derive(Debug)]
pub(super) struct Seed(Secret<BLOCK_LEN>);

impl Seed {
    pub(super) fn of(secret: &[u8]) -> Self {
        let mut text = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
        text.extend_from_slice(b"AWS4");
        text.extend_from_slice(secret);
        let hashed = Zeroizing::new(crate::sha256(&[&text]));
        let key = if text.len() > BLOCK_LEN { hashed.as_slice() } else { text.as_slice() };
        let mut block = [0; BLOCK_LEN];
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        Self(Secret::take(&mut block))
    }
}

/// The key that signs one day's requests from one region. Kept as bytes, because *ring*'s keys are not zeroized.
#[derive(Debug)]
pub(super) struct SigningKey(Secret<32>);

impl SigningKey {
    /// Derives the key for requests of `day` (`YYYYMMDD`) from `region` to `service`.
    pub(super) fn derive(seed: &Seed, day: &str, region: &str, service: &str) -> Self {
        let mut key = mac(seed.0.expose(), day.as_bytes());
        for part in [region, service, "aws4_request"] {
            key = mac(key.as_slice(), part.as_bytes());
        }
        Self(Secret::take(&mut key))
    }

    /// The signature over `text`.
    pub(super) fn sign(&self, text: &[u8]) -> [u8; 32] {
        *mac(self.0.expose(), text)
    }

    /// Compares in constant time.
    pub(super) fn verify(&self, text: &[u8], signature: &[u8; 32]) -> bool {
        mac(self.0.expose(), text).as_slice().ct_eq(signature).into()
    }
}

/// HMAC-SHA-256. Every one that a signature costs is made here, so that tests can compare what refusals cost.
fn mac(key: &[u8], text: &[u8]) -> Zeroizing<[u8; 32]> {
    #[cfg(test)]
    work::note(key.len(), text.len());
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref());
    out
}

/// In tests only: the HMACs of this thread, as lengths of key and text.
#[cfg(test)]
mod work {
    use std::cell::RefCell;

    thread_local! {
        static DONE: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(key_len: usize, text_len: usize) {
        DONE.with_borrow_mut(|done| done.push((key_len, text_len)));
    }

    /// What was done since it was asked last.
    pub(super) fn take() -> Vec<(usize, usize)> {
        DONE.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(id: &str, secret: &str) -> Result<Credential, CredentialError> {
        Credential::new(AccessKeyId::parse(id).unwrap(), SecretBytes::new(secret.into()))
    }

    #[test]
    fn secrets_have_rules() {
        let cases = [
            ("FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE".to_owned(), true),
            ("a".repeat(42), false),
            ("/+=".repeat(21), true),
            ("a".repeat(64), true),
            ("a".repeat(65), false),
            (format!("{}-", "a".repeat(50)), false),
            (format!("{}\u{e9}", "a".repeat(50)), false),
        ];
        for (secret, accepted) in cases {
            assert_eq!(credential("MUBSXM6K3KMXHN6RRCXI", &secret).is_ok(), accepted, "{secret}");
        }
    }

    #[test]
    fn sets_have_rules() {
        let secret = "a".repeat(43);
        let dummy = Secret::take(&mut [1; 32]);
        let of = |ids: &[&str]| {
            CredentialSet::new(ids.iter().map(|id| credential(id, &secret).unwrap()).collect(), &dummy).err()
        };
        let ids: Vec<String> = (0..9).map(|n| format!("AAAAAAAAAAAAAAAAAAA{}", char::from(b'A' + n))).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(of(&[]), None);
        assert_eq!(of(&ids[..8]), None);
        assert_eq!(of(&ids), Some(CredentialError::TooMany));
        assert_eq!(of(&[ids[0], ids[1], ids[0]]), Some(CredentialError::Duplicate));
        let dated = |dates: &[Option<u64>]| {
            let dated = ids.iter().zip(dates).map(|(id, date)| credential(id, &secret).unwrap().created(*date));
            CredentialSet::new(dated.collect(), &dummy).unwrap().oldest_ms()
        };
        assert_eq!((dated(&[]), dated(&[None]), dated(&[Some(7), Some(3)])), (None, None, Some(3)));
        assert_eq!(dated(&[Some(7), None]), None, "the other one may be older");
    }

    /// The example in AWS's "Create a signed AWS API request", step 3.
    #[test]
    fn the_published_derivation() {
        let seed = Seed::of(b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let key = SigningKey::derive(&seed, "20150830", "us-east-1", "iam");
        let published = hex::decode("c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9").unwrap();
        assert_eq!(key.0.expose().as_slice(), published);
    }

    /// HMAC with a seed is HMAC with `AWS4` and the secret, around the length at which the two no longer fit into a block.
    #[test]
    fn a_seed_stands_for_the_secret() {
        for len in 43..=64 {
            let secret = "s".repeat(len);
            let key = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{secret}").as_bytes());
            let expected = hmac::sign(&key, b"20240101");
            assert_eq!(mac(Seed::of(secret.as_bytes()).0.expose(), b"20240101").as_slice(), expected.as_ref(), "{len}");
        }
    }

    /// The second secret is so long that HMAC would hash it first.
    const IDS: [(&str, usize); 2] = [("MUBSXM6K3KMXHN6RRCXI", 43), ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 64)];
    const STRANGER: (&str, usize) = ("BBBBBBBBBBBBBBBBBBBB", 50);
    const EVERYBODY: [(&str, usize); 3] = [IDS[0], IDS[1], STRANGER];

    fn secret_of((id, len): (&str, usize)) -> String {
        id.repeat(4)[..len].to_owned()
    }

    fn set() -> CredentialSet {
        let credentials = IDS.map(|who| credential(who.0, &secret_of(who)).unwrap());
        CredentialSet::new(credentials.into(), &Secret::take(&mut [1; 32])).unwrap()
    }

    /// Who is found to have signed "text", if `signer`'s secret does so in the name of `id`, and what finding it cost.
    fn judged(
        set: &CredentialSet,
        id: &str,
        signer: (&str, usize),
        day: &str,
        region: &str,
    ) -> (Option<String>, Vec<(usize, usize)>) {
        let key = SigningKey::derive(&Seed::of(secret_of(signer).as_bytes()), day, region, SERVICE);
        let header = format!(
            "AWS4-HMAC-SHA256 Credential={id}/{day}/{region}/{SERVICE}/aws4_request, SignedHeaders=host;x-amz-date, \
             Signature={}",
            hex::encode(mac(key.0.expose(), b"text"))
        );
        let authorization = Authorization::parse(header.as_bytes(), &super::super::Regions::Any).unwrap();
        work::take();
        let found = set.verify(&authorization, b"text").map(ToString::to_string);
        (found, work::take())
    }

    fn signed(set: &CredentialSet, id: &str, signer: (&str, usize), day: &str, region: &str) -> Option<String> {
        judged(set, id, signer, day, region).0
    }

    fn kept(set: &CredentialSet) -> Vec<(String, String)> {
        set.derived
            .load()
            .iter()
            .map(|derived| {
                assert_eq!(derived.keys.len(), 3, "of every credential and of the dummy");
                (derived.day.clone(), derived.region.clone())
            })
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(day, region)| ((*day).to_owned(), (*region).to_owned())).collect()
    }

    #[test]
    fn kept_keys_change_no_answer() {
        let set = set();
        for (day, region) in
            [("20240101", "a"), ("20240101", "a"), ("20240101", "b"), ("20240102", "b"), ("20240101", "b")]
        {
            for id in EVERYBODY {
                for signer in EVERYBODY {
                    let expected = (id == signer && id != STRANGER).then(|| id.0.to_owned());
                    assert_eq!(signed(&set, id.0, signer, day, region), expected, "{id:?} {signer:?} {day} {region}");
                }
            }
        }
    }

    #[test]
    fn only_a_valid_signature_decides_which_keys_are_kept_and_then_all_are() {
        let set = set();
        assert_eq!(signed(&set, IDS[0].0, STRANGER, "20240101", "a"), None);
        assert_eq!(signed(&set, STRANGER.0, STRANGER, "20240101", "a"), None);
        assert_eq!(kept(&set), []);
        assert!(signed(&set, IDS[1].0, IDS[1], "20240101", "a").is_some());
        assert_eq!(kept(&set), pairs(&[("20240101", "a")]));
        for id in [IDS[0], STRANGER] {
            assert_eq!(signed(&set, id.0, STRANGER, "20240102", "b"), None);
            assert_eq!(kept(&set), pairs(&[("20240101", "a")]));
        }
        assert!(signed(&set, IDS[0].0, IDS[0], "20240102", "a").is_some());
        assert!(signed(&set, IDS[1].0, IDS[1], "20240101", "a").is_some());
        assert_eq!(kept(&set), pairs(&[("20240102", "a"), ("20240101", "a")]), "both days are used around midnight");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let set = set();
        for n in 0..2 * DERIVED_KEYS_MAX {
            assert!(signed(&set, IDS[0].0, IDS[0], "20240101", &format!("r{n}")).is_some());
            let kept = kept(&set);
            assert_eq!(kept.len(), (n + 1).min(DERIVED_KEYS_MAX));
            assert_eq!(kept[0].1, format!("r{n}"));
        }
    }

    /// Unknown access key ids, known ones with a wrong signature, and the length of their secrets: all cost the same HMACs,
    /// whether the day's keys are there or not. (A refusal does the same in the same order, so nobody needs to measure.)
    #[test]
    fn every_refusal_costs_the_same_hmacs() {
        let set = set();
        let somebody_else = |id: &str| EVERYBODY.into_iter().rev().find(|signer| signer.0 != id).unwrap();
        for (warm, expected) in [(false, 5), (true, 1)] {
            if warm {
                assert!(signed(&set, IDS[0].0, IDS[0], "20240101", "eu-west-1").is_some());
            }
            for day in ["20240101", "20240102"] {
                let costs = EVERYBODY.map(|who| {
                    let (found, cost) = judged(&set, who.0, somebody_else(who.0), day, "eu-west-1");
                    assert_eq!(found, None);
                    cost
                });
                let expected = if day == "20240101" { expected } else { 5 };
                assert_eq!(costs[0].len(), expected, "warm: {warm}, {day}");
                assert!(costs.iter().all(|cost| *cost == costs[0]), "warm: {warm}, {day}: {costs:?}");
            }
        }
        // The stranger's own signature in his own name is no cheaper and no dearer.
        let (found, cost) = judged(&set, STRANGER.0, STRANGER, "20240101", "eu-west-1");
        assert_eq!((found, cost.len()), (None, 1));
    }

    #[test]
    fn access_key_ids_have_rules() {
        let cases = [
            ("MUBSXM6K3KMXHN6RRCXI", true),
            // The id in AWS's own documentation of KMS.
            ("AKIAI2SFODNN7EXAMPLE", true),
            ("AKIAIOSFODNN7EXAMPLE", true),
            ("A234567A234567A234567A234567AB", true),
            ("MUBSXM6K3KMXHN6RRCX", false),
            ("A234567A234567A234567A234567ABC", false),
            // Appendix A's example header breaks the rule that stands above it.
            ("MUBSXM6K3KMXHN6RRCXI7TWQH4NU76HYFKRSESPMTSTIBADXQQXQ", false),
            ("AKIAI0SFODNN7EXAMPLE", false),
            ("AKIAI1SFODNN7EXAMPLE", false),
            ("AKIAI8SFODNN7EXAMPLE", false),
            ("AKIAI9SFODNN7EXAMPLE", false),
            ("akiai2sfodnn7example", false),
            ("AKIAI2SFODNN7EXAMPL/", false),
            ("AKIAI2SFODNN7EXAMPL ", false),
            ("AKIAI2SFODNN7EXAMPL\u{c9}", false),
            ("", false),
        ];
        for (id, accepted) in cases {
            assert_eq!(AccessKeyId::parse(id).is_ok(), accepted, "{id}");
        }
    }
}
