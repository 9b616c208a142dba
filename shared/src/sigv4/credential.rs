//! Credentials of KMS, and the keys derived from them (specification, Appendix A, Task 3).

use ring::hmac;
use zeroize::Zeroizing;

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
        Ok(Self { credentials, dummy: SecretBytes::new(text) })
    }

    /// The access key ids in the set.
    pub fn access_key_ids(&self) -> impl Iterator<Item = &AccessKeyId> {
        self.credentials.iter().map(Credential::access_key_id)
    }

    /// The secret of `access_key_id` with its id, or the dummy without.
    pub(super) fn find_or_dummy(&self, access_key_id: &str) -> (Option<&AccessKeyId>, &SecretBytes) {
        let mut found = (None, &self.dummy);
        // Looks at all of them: where in the set an id stands shall not show.
        for credential in &self.credentials {
            if credential.access_key_id.as_str() == access_key_id {
                found = (Some(&credential.access_key_id), &credential.secret);
            }
        }
        found
    }
}

/// The key that signs one day's requests from one region. Costs four HMACs to derive, so it may be kept for a day.
pub struct SigningKey(hmac::Key);

impl core::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

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
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &seed);
        for part in [day, region, service, "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        Self(key)
    }

    /// Compares in constant time.
    pub(super) fn verify(&self, text: &[u8], signature: &[u8; 32]) -> bool {
        hmac::verify(&self.0, text, signature).is_ok()
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
        let published = hmac::Key::new(hmac::HMAC_SHA256, &published);
        let tag = hmac::sign(&published, b"anything");
        assert!(key.verify(b"anything", tag.as_ref().try_into().unwrap()));
    }
}
