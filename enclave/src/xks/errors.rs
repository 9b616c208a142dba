//! What this proxy refuses, in its own words (specification, section "Error codes").

use holdfast_shared::xks::{ErrorName, XksError};

use crate::directory::Refusal;

/// Why a request gets no answer of the API's success kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An error of the API.
    #[error(transparent)]
    Api(#[from] XksError),
    /// A known path, but not POST: "it MUST reject the request with a 405" (specification, section "API operations").
    #[error("the method is not allowed")]
    MethodNotAllowed,
    /// The request names another host than the TLS connection (design, section 7; RFC 9110, section 15.5.20).
    #[error("the request is for another host than the connection")]
    Misdirected,
}

impl From<Refusal> for XksError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::StoreBlocked => STORE_BLOCKED,
            Refusal::LeaseExpired => LEASE_EXPIRED,
            Refusal::KeyBlocked => KEY_NOT_ENABLED,
        }
    }
}

pub(super) const UNKNOWN_PATH: XksError =
    XksError::new(ErrorName::InvalidUriPathException, "There is no external key store under this URI path.");
pub(super) const NOT_AUTHENTICATED: XksError =
    XksError::new(ErrorName::AuthenticationFailedException, "The request has no valid signature for this key store.");
pub(super) const STORE_BLOCKED: XksError =
    XksError::new(ErrorName::InvalidStateException, "The external key store is blocked by its owner.");
pub(super) const LEASE_EXPIRED: XksError = XksError::new(
    ErrorName::DependencyTimeoutException,
    "The lease of the external key store has expired because its custodians could not be reached.",
);
pub(super) const NO_KEYS: XksError = XksError::new(
    ErrorName::DependencyTimeoutException,
    "The external key store is waiting for its custodians to release it.",
);
pub(super) const UNKNOWN_KEY: XksError =
    XksError::new(ErrorName::KeyNotFoundException, "There is no external key with this externalKeyId.");
pub(super) const KEY_NOT_ENABLED: XksError =
    XksError::new(ErrorName::InvalidStateException, "The external key is disabled, blocked or pending destruction.");
pub(super) const USAGE: XksError =
    XksError::new(ErrorName::InvalidKeyUsageException, "The external key does not support this operation.");
pub(super) const DENIED: XksError = XksError::new(
    ErrorName::AccessDeniedException,
    "The policy of the external key store does not allow this request.",
);
pub(super) const THROTTLED: XksError =
    XksError::new(ErrorName::ThrottlingException, "The quota or budget of the external key store is used up.");
pub(super) const INVALID_CIPHERTEXT: XksError = XksError::new(
    ErrorName::InvalidCiphertextException,
    "The ciphertext, ciphertextMetadata, initializationVector, additionalAuthenticatedData or authenticationTag is invalid.",
);
pub(super) const INTERNAL: XksError = XksError::new(ErrorName::InternalException, "The external key manager failed.");
/// Before the signature can be checked, like [`BODY_TOO_LONG`].
pub(crate) const BUSY: XksError =
    XksError::new(ErrorName::ThrottlingException, "The proxy holds too many requests that are still arriving.");
/// A body over its bound is over it because of a parameter that is larger than we support, which the table puts under 501.
/// The signature cannot be checked first: it covers the body that is too long to read.
pub(crate) const BODY_TOO_LONG: XksError =
    XksError::new(ErrorName::UnsupportedOperationException, "The request body is longer than this proxy supports.");
