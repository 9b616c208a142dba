//! How the custodian says no: who is to blame, and what the wire may know.

use holdfast_shared::api::{Refusal, RefusalCode};
use holdfast_shared::cbor::DecodeError;

use crate::kek::KekError;
use crate::store::StoreError;

/// Characters of a reason on the wire.
const REASON_MAX: usize = 511;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Not a message of this interface.
    #[error("{0}")]
    Malformed(String),
    /// Signatures, attestation or policy.
    #[error("{0}")]
    Denied(String),
    /// Unknown here.
    #[error("{0}")]
    NotFound(String),
    /// Something else is there already.
    #[error("{0}")]
    Conflict(String),
    /// Too many requests.
    #[error("{0}")]
    TooMany(String),
    /// The database.
    #[error(transparent)]
    Store(StoreError),
    /// The key-encryption key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The custodian's own trouble.
    #[error("{0}")]
    Internal(String),
}

impl From<DecodeError> for ServiceError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseEnded => Self::NotFound(error.to_string()),
            StoreError::Replayed(_) => Self::Denied(error.to_string()),
            _ => Self::Store(error),
        }
    }
}

impl ServiceError {
    /// The kind.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Malformed(_) => RefusalCode::Malformed,
            Self::Denied(_) => RefusalCode::Denied,
            Self::NotFound(_) => RefusalCode::NotFound,
            Self::Conflict(_) => RefusalCode::Conflict,
            Self::TooMany(_) => RefusalCode::TooMany,
            Self::Store(_) | Self::Kek(_) | Self::Internal(_) => RefusalCode::Internal,
        }
    }

    /// What the wire gets. The custodian's own trouble is for its log only.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let code = self.code();
        let reason = match code {
            _ if matches!(self, Self::Kek(_)) => {
                "the custodian cannot use its key-encryption key at the moment; its log says more".to_owned()
            }
            RefusalCode::Internal => "the custodian has trouble of its own; its log says more".to_owned(),
            _ => self
                .to_string()
                .chars()
                .map(|character| if matches!(character, ' '..='~') { character } else { '?' })
                .take(REASON_MAX)
                .collect(),
        };
        Refusal { code, reason }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::cbor;

    use super::*;

    #[test]
    fn every_refusal_can_be_sent() {
        let table = [
            (ServiceError::Denied("gr\u{fc}n\n".repeat(400)), 403),
            (ServiceError::Malformed(String::new()), 400),
            (ServiceError::NotFound("x".to_owned()), 404),
            (ServiceError::Conflict("x".to_owned()), 409),
            (ServiceError::TooMany("x".to_owned()), 429),
            (ServiceError::Internal("/var/lib/secret-path".to_owned()), 500),
            (ServiceError::Kek(KekError::Unavailable { what: "/secret-path".to_owned(), remedy: String::new() }), 500),
        ];
        for (error, status) in table {
            let refusal = error.refusal();
            assert_eq!(refusal.code.status(), status);
            assert!(!refusal.reason.contains("secret-path"));
            assert_eq!(cbor::decode::<Refusal>(&cbor::encode(&refusal)), Ok(refusal));
        }
    }
}
