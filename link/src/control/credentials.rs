//! AWS credentials of the instance's role, on their way from the parent to the enclave, which asks AWS KMS with them.
//!
//! Guarantees: bounded; shown by no formatter. Assumes: they are the parent's own, who needs no protection from itself; the enclave
//! keeps them in memory that is zeroized. Refuses: nothing that is short enough; the enclave judges the characters.

use serde::{Deserialize, Serialize};

use crate::frame::LimitError;
use crate::limits::{AWS_CREDENTIAL_MAX, AWS_SESSION_TOKEN_MAX};

/// Credentials, as the instance metadata service gives them out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsCredentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: String,
    /// What must be sent along with temporary ones.
    pub session_token: Option<String>,
    /// When they end, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl AwsCredentials {
    pub(super) fn check(&self) -> Result<(), LimitError> {
        LimitError::unless("access_key_id", self.access_key_id.len(), AWS_CREDENTIAL_MAX)?;
        LimitError::unless("secret_access_key", self.secret_access_key.len(), AWS_CREDENTIAL_MAX)?;
        LimitError::unless("session_token", self.session_token.as_ref().map_or(0, String::len), AWS_SESSION_TOKEN_MAX)
    }
}

impl core::fmt::Debug for AwsCredentials {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("AwsCredentials(..)")
    }
}
