//! The credentials of the instance's role, which the parent hands over.
//!
//! Guarantees: bounded, of characters that a header can carry, zeroized, shown by no formatter; what is over is not used. Assumes:
//! nothing of them: they are the parent's own, so whoever has them can ask KMS as the parent can, which without an attestation
//! document is refused by the key's policy. A parent that hands over wrong ones, or none, stops the KMS share and nothing else.

use core::fmt;
use std::sync::Arc;

use holdfast_shared::limits::{AWS_ACCESS_KEY_ID_LEN, AWS_SECRET_ACCESS_KEY_LEN, AWS_SESSION_TOKEN_MAX};
use holdfast_shared::secrets::SecretBytes;
use tokio::sync::watch;

/// Where the newest credentials are found: nothing until the parent has handed some over.
pub type CredentialsSource = watch::Receiver<Option<Arc<AwsCredentials>>>;

/// Why credentials were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The access key id.
    #[error("an access key id of AWS has 16 to 128 letters, digits and underscores")]
    AccessKeyId,
    /// The secret access key.
    #[error("a secret access key of AWS has 16 to 128 printable characters")]
    Secret,
    /// The session token.
    #[error("a session token has 1 to {AWS_SESSION_TOKEN_MAX} printable characters")]
    SessionToken,
}

/// Credentials of AWS.
pub struct AwsCredentials {
    access_key_id: String,
    secret_access_key: SecretBytes,
    session_token: Option<SecretBytes>,
    expires_ms: Option<u64>,
}

impl AwsCredentials {
    /// Checks what was handed over. `expires_ms` is in milliseconds since 1970.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn new(
        access_key_id: &str,
        secret_access_key: SecretBytes,
        session_token: Option<SecretBytes>,
        expires_ms: Option<u64>,
    ) -> Result<Self, CredentialsError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !AWS_ACCESS_KEY_ID_LEN.contains(&access_key_id.len()) || !access_key_id.bytes().all(is_word) {
            return Err(CredentialsError::AccessKeyId);
        }
        let is_printable = |secret: &SecretBytes| secret.expose().iter().all(u8::is_ascii_graphic);
        if !AWS_SECRET_ACCESS_KEY_LEN.contains(&secret_access_key.expose().len()) || !is_printable(&secret_access_key) {
            return Err(CredentialsError::Secret);
        }
        if session_token
            .as_ref()
            .is_some_and(|token| !(1..=AWS_SESSION_TOKEN_MAX).contains(&token.expose().len()) || !is_printable(token))
        {
            return Err(CredentialsError::SessionToken);
        }
        Ok(Self { access_key_id: access_key_id.to_owned(), secret_access_key, session_token, expires_ms })
    }

    pub(super) fn are_over(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    pub(super) fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    pub(super) const fn secret_access_key(&self) -> &SecretBytes {
        &self.secret_access_key
    }

    /// Printable by construction.
    pub(super) fn session_token(&self) -> Option<&str> {
        self.session_token.as_ref().and_then(|token| core::str::from_utf8(token.expose()).ok())
    }
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(id: &str, secret: &str, token: Option<&str>) -> Result<AwsCredentials, CredentialsError> {
        let secret_bytes = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
        AwsCredentials::new(id, secret_bytes(secret), token.map(secret_bytes), Some(1000))
    }

    #[test]
    fn credentials_have_rules() {
        let (id, secret) = ("ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let long = "t".repeat(AWS_SESSION_TOKEN_MAX + 1);
        let table = [
            (id, secret, None, Ok(())),
            (id, secret, Some("token+/=="), Ok(())),
            (id, secret, Some(&long[1..]), Ok(())),
            ("ASIA", secret, None, Err(CredentialsError::AccessKeyId)),
            ("ASIAIOSFODNN7EXAMPLE,x", secret, None, Err(CredentialsError::AccessKeyId)),
            (id, "short", None, Err(CredentialsError::Secret)),
            (id, "wJalrXUtnFEMI/K7MDENG bPxRfiCYEXAMPLEKEY", None, Err(CredentialsError::Secret)),
            (id, secret, Some(""), Err(CredentialsError::SessionToken)),
            (id, secret, Some("a\r\nx-amz-target: y"), Err(CredentialsError::SessionToken)),
            (id, secret, Some(&long), Err(CredentialsError::SessionToken)),
        ];
        for (id, secret, token, expected) in table {
            assert_eq!(made(id, secret, token).map(drop), expected, "{id:?} {secret:?}");
        }
    }

    #[test]
    fn nothing_secret_is_shown_and_they_end() {
        let made = made("ASIAIOSFODNN7EXAMPLE", &"s".repeat(40), Some(&"t".repeat(9))).unwrap();
        assert_eq!(format!("{made:?}"), "AwsCredentials { access_key_id: \"ASIAIOSFODNN7EXAMPLE\", .. }");
        assert!(!made.are_over(999) && made.are_over(1000));
    }
}
