//! Credentials of KMS, and the keys derived from them (specification, Appendix A, Task 3).
//!
//! Guarantees: signing keys are derived once for a day and region, not with each request; whether a request finds them
//! derived does not depend on its access key id, so neither does the time that a refusal takes; no request without a valid
//! signature changes what is kept.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ring::hmac;
use zeroize::Zeroizing;

use super::authorization::Authorization;
use super::{AccessKeyId, SERVICE};
use crate::limits::{CREDENTIALS_MAX, SECRET_ACCESS_KEY_LEN};
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
        Ok(Self { access_key_id, secret })
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
    /// Stands in for the secret of an unknown access key id, so that it costs what a known one costs.
    dummy: SecretBytes,
    /// Keys of the day and region in which a signature was valid last.
    derived: ArcSwapOption<DerivedKeys>,
}

/// The signing keys of all credentials for one day and region: all or none, so that an attacker who measures cannot tell
/// an access key id that is in use from one that does not exist.
#[derive(Debug)]
struct DerivedKeys {
    day: String,
    region: String,
    /// In the order of the credentials; the dummy's comes last.
    keys: Vec<SigningKey>,
}

impl DerivedKeys {
    fn are_for(&self, authorization: &Authorization<'_>) -> bool {
        self.day == authorization.scope_day() && self.region == authorization.region()
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
        // As long as a real secret usually is: 43 characters of base64, here 44 of 64 hexadecimal digits.
        let mut text = vec![0; 64];
        let encoded = hex::encode_to_slice(dummy.expose(), &mut text);
        debug_assert!(encoded.is_ok());
        text.truncate(44);
        Ok(Self { credentials, dummy: SecretBytes::new(text), derived: ArcSwapOption::empty() })
    }

    /// The access key ids in the set.
    pub fn access_key_ids(&self) -> impl Iterator<Item = &AccessKeyId> {
        self.credentials.iter().map(Credential::access_key_id)
    }

    /// Whose signature `authorization` is, over `text`; nobody's if the access key id is unknown or the signature wrong.
    pub(super) fn verify(&self, authorization: &Authorization<'_>, text: &[u8]) -> Option<&AccessKeyId> {
        let (place, known, secret) = self.find_or_dummy(authorization.access_key_id());
        let derived = self.derived.load();
        let kept = derived.as_ref().filter(|derived| derived.are_for(authorization));
        let kept = kept.and_then(|derived| derived.keys.get(place));
        // The signature is looked at even where nobody is known to have made it: a refusal always takes the same work.
        let valid = match kept {
            Some(key) => key.verify(text, authorization.signature()),
            None => SigningKey::derive(secret, authorization.scope_day(), authorization.region())
                .verify(text, authorization.signature()),
        };
        let signer = if valid { known } else { None };
        if signer.is_some() && kept.is_none() {
            self.keep_keys_for(authorization);
        }
        signer
    }

    /// The place, id and secret of `access_key_id`, or the dummy's place and secret without an id.
    fn find_or_dummy(&self, access_key_id: &str) -> (usize, Option<&AccessKeyId>, &SecretBytes) {
        let mut found = (self.credentials.len(), None, &self.dummy);
        // Looks at all of them: where in the set an id stands shall not show.
        for (place, credential) in self.credentials.iter().enumerate() {
            if credential.access_key_id.as_str() == access_key_id {
                found = (place, Some(&credential.access_key_id), &credential.secret);
            }
        }
        found
    }

    fn keep_keys_for(&self, authorization: &Authorization<'_>) {
        let (day, region) = (authorization.scope_day(), authorization.region());
        let secrets = self.credentials.iter().map(Credential::secret).chain([&self.dummy]);
        let keys = secrets.map(|secret| SigningKey::derive(secret, day, region)).collect();
        self.derived.store(Some(Arc::new(DerivedKeys { day: day.to_owned(), region: region.to_owned(), keys })));
    }
}

/// The key that signs one day's requests from one region. Kept as bytes, because *ring*'s keys are not zeroized.
#[derive(Debug)]
pub struct SigningKey(Secret<32>);

impl SigningKey {
    /// Derives the key for requests of `day` (`YYYYMMDD`) from `region`.
    #[must_use]
    pub fn derive(secret: &SecretBytes, day: &str, region: &str) -> Self {
        Self::derive_for(secret, day, region, SERVICE)
    }

    pub(super) fn derive_for(secret: &SecretBytes, day: &str, region: &str, service: &str) -> Self {
        let mut seed = Zeroizing::new(Vec::with_capacity(4 + secret.expose().len()));
        seed.extend_from_slice(b"AWS4");
        seed.extend_from_slice(secret.expose());
        let mut key = Zeroizing::new([0; 32]);
        let mut above = seed.as_slice();
        for part in [day, region, service, "aws4_request"] {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, above), part.as_bytes());
            key.copy_from_slice(tag.as_ref());
            above = key.as_slice();
        }
        Self(Secret::take(&mut key))
    }

    /// Compares in constant time.
    pub(super) fn verify(&self, text: &[u8], signature: &[u8; 32]) -> bool {
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, self.0.expose()), text, signature).is_ok()
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
    }

    /// The example in AWS's "Create a signed AWS API request", step 3.
    #[test]
    fn the_published_derivation() {
        let secret = SecretBytes::new(b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_vec());
        let key = SigningKey::derive_for(&secret, "20150830", "us-east-1", "iam");
        let published = hex::decode("c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9").unwrap();
        assert_eq!(key.0.expose().as_slice(), published);
    }

    const IDS: [&str; 2] = ["MUBSXM6K3KMXHN6RRCXI", "AAAAAAAAAAAAAAAAAAAA"];
    const STRANGER: &str = "BBBBBBBBBBBBBBBBBBBB";

    fn set() -> CredentialSet {
        let secrets = IDS.map(|id| credential(id, &id.repeat(3)[..43]).unwrap());
        CredentialSet::new(secrets.into(), &Secret::take(&mut [1; 32])).unwrap()
    }

    /// Who is found to have signed "text", if `signer`'s secret does so in the name of `id`.
    fn signed(set: &CredentialSet, id: &str, signer: &str, day: &str, region: &str) -> Option<String> {
        let secret = SecretBytes::new(signer.repeat(3).as_bytes()[..43].to_vec());
        let key = SigningKey::derive(&secret, day, region);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.0.expose()), b"text");
        let header = format!(
            "AWS4-HMAC-SHA256 Credential={id}/{day}/{region}/{SERVICE}/aws4_request, SignedHeaders=host;x-amz-date, \
             Signature={}",
            hex::encode(tag.as_ref())
        );
        let authorization = Authorization::parse(header.as_bytes(), &super::super::Regions::Any).unwrap();
        set.verify(&authorization, b"text").map(ToString::to_string)
    }

    fn kept(set: &CredentialSet) -> Option<(String, String, usize)> {
        set.derived.load().as_ref().map(|keys| (keys.day.clone(), keys.region.clone(), keys.keys.len()))
    }

    #[test]
    fn kept_keys_change_no_answer() {
        let set = set();
        for (day, region) in
            [("20240101", "a"), ("20240101", "a"), ("20240101", "b"), ("20240102", "b"), ("20240101", "b")]
        {
            for id in [IDS[0], IDS[1], STRANGER] {
                for signer in [IDS[0], IDS[1], STRANGER] {
                    let expected = (id == signer && id != STRANGER).then(|| id.to_owned());
                    assert_eq!(signed(&set, id, signer, day, region), expected, "{id} {signer} {day} {region}");
                }
            }
        }
    }

    #[test]
    fn only_a_valid_signature_decides_which_keys_are_kept_and_then_all_are() {
        let set = set();
        let of = |day: &str, region: &str| Some((day.to_owned(), region.to_owned(), 3));
        assert_eq!(signed(&set, IDS[0], STRANGER, "20240101", "a"), None);
        assert_eq!(signed(&set, STRANGER, STRANGER, "20240101", "a"), None);
        assert_eq!(kept(&set), None);
        assert!(signed(&set, IDS[1], IDS[1], "20240101", "a").is_some());
        assert_eq!(kept(&set), of("20240101", "a"));
        for id in [IDS[0], STRANGER] {
            assert_eq!(signed(&set, id, STRANGER, "20240102", "b"), None);
            assert_eq!(kept(&set), of("20240101", "a"));
        }
        assert!(signed(&set, IDS[0], IDS[0], "20240102", "a").is_some());
        assert_eq!(kept(&set), of("20240102", "a"));
    }
}
