//! What this proxy refuses, in its own words (specification, section "Error codes").

use holdfast_shared::xks::{ErrorName, XksError};

use crate::directory::Refusal;

/// Why a request gets no answer of the API's success kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An error of the API.
    #[error(transparent)]
    Api(#[from] XksError),
    /// A request whose end is not known, or was not waited for: nothing that follows on an HTTP/1.1 connection is read.
    #[error(transparent)]
    Unreadable(XksError),
    /// A known path, but not POST: "it MUST reject the request with a 405" (specification, section "API operations").
    #[error("the method is not allowed")]
    MethodNotAllowed,
    /// The path of the public proof, but not GET.
    #[error("the method is not allowed")]
    NotGet,
    /// Too much was asked for in too short a time; a second later it may be there.
    #[error(transparent)]
    Later(XksError),
    /// The request names another host than the TLS connection (design, section 7; RFC 9110, section 15.5.20).
    #[error("the request is for another host than the connection")]
    Misdirected,
}

impl Refused {
    /// What the answer's body says. Where HTTP has a status of its own that the specification's table lacks (405, 421), the
    /// name is the nearest of the table: KMS goes by the name, and cannot interpret an error without one.
    #[must_use]
    pub fn error(self) -> XksError {
        match self {
            Self::Api(error) | Self::Unreadable(error) | Self::Later(error) => error,
            Self::MethodNotAllowed => METHOD_NOT_ALLOWED,
            Self::NotGet => NOT_GET,
            Self::Misdirected => MISDIRECTED,
        }
    }
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

const METHOD_NOT_ALLOWED: XksError =
    XksError::new(ErrorName::ValidationException, "The operations of this API are called with the method POST.");
const NOT_GET: XksError =
    XksError::new(ErrorName::ValidationException, "The attestation document is asked for with the method GET.");
const MISDIRECTED: XksError = XksError::new(
    ErrorName::ValidationException,
    "The request names another host than the one that this TLS connection was opened for.",
);
/// Written where hyper gives up.
pub(crate) const UNREADABLE_HEAD: XksError =
    XksError::new(ErrorName::ValidationException, "The request line or a header is not acceptable HTTP/1.1.");
/// Written where hyper gives up.
pub(crate) const HEAD_TOO_LONG: XksError = XksError::new(
    ErrorName::UnsupportedOperationException,
    "The request line and the headers are longer or more than this proxy supports.",
);
/// RFC 9112, section 3.2; RFC 9113, section 8.3.1.
pub(crate) const BAD_HOST: XksError = XksError::new(
    ErrorName::ValidationException,
    "The request does not name its host once and without contradiction in Host or :authority.",
);
/// RFC 9112, section 6.1.
pub(crate) const BAD_CODING: XksError =
    XksError::new(ErrorName::ValidationException, "The only supported Transfer-Encoding is chunked, once and alone.");
/// RFC 9112, section 7.1.
pub(crate) const BAD_CHUNK: XksError =
    XksError::new(ErrorName::ValidationException, "The chunks of the request body are not acceptable.");
pub(crate) const UNKNOWN_PATH: XksError =
    XksError::new(ErrorName::InvalidUriPathException, "There is no external key store under this URI path.");
pub(super) const NOT_AUTHENTICATED: XksError =
    XksError::new(ErrorName::AuthenticationFailedException, "The request has no valid signature for this key store.");
pub(super) const STORE_BLOCKED: XksError =
    XksError::new(ErrorName::InvalidStateException, "The external key store is blocked by its owner.");
pub(super) const LEASE_EXPIRED: XksError = XksError::new(
    ErrorName::DependencyTimeoutException,
    "The lease of the external key store has expired because its custodians could not be reached.",
);
pub(crate) const NO_KEYS: XksError = XksError::new(
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
pub(crate) const INTERNAL: XksError = XksError::new(ErrorName::InternalException, "The external key manager failed.");
pub(super) const NOT_RECORDED: XksError = XksError::new(
    ErrorName::DependencyTimeoutException,
    "The audit log of the external key store cannot be kept at the moment.",
);
/// Before the signature can be checked, like [`BODY_TOO_LONG`].
pub(crate) const BUSY: XksError =
    XksError::new(ErrorName::ThrottlingException, "The proxy holds too many requests that are still arriving.");
/// A body over its bound is over it because of a parameter that is larger than we support, which the table puts under 501.
/// The signature cannot be checked first: it covers the body that is too long to read.
pub(crate) const BODY_TOO_LONG: XksError =
    XksError::new(ErrorName::UnsupportedOperationException, "The request body is longer than this proxy supports.");
pub(crate) const PROOF_NONCE: XksError = XksError::new(
    ErrorName::ValidationException,
    "The query must have nonce once, with 64 lower-case hexadecimal digits.",
);
pub(crate) const PROOF_KEY_STORE: XksError = XksError::new(
    ErrorName::ValidationException,
    "The query may have key_store once, with the 64 lower-case hexadecimal digits of an id.",
);
pub(crate) const PROOF_PARAMETERS: XksError =
    XksError::new(ErrorName::ValidationException, "The query has a parameter besides nonce and key_store.");
pub(crate) const PROOF_SEVERAL: XksError = XksError::new(
    ErrorName::ValidationException,
    "Several external key stores are served under this host name: say which with key_store.",
);
pub(crate) const PROOF_BODY: XksError =
    XksError::new(ErrorName::ValidationException, "The attestation document is asked for without a body.");
pub(crate) const PROOFS_BUSY: XksError =
    XksError::new(ErrorName::ThrottlingException, "Too many attestation documents were asked for in too short a time.");
pub(crate) const PROOF_TIMEOUT: XksError =
    XksError::new(ErrorName::DependencyTimeoutException, "The Nitro Secure Module had more urgent work for too long.");

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [XksError; 30] = [
        METHOD_NOT_ALLOWED,
        NOT_GET,
        MISDIRECTED,
        UNREADABLE_HEAD,
        HEAD_TOO_LONG,
        BAD_HOST,
        BAD_CODING,
        BAD_CHUNK,
        UNKNOWN_PATH,
        NOT_AUTHENTICATED,
        STORE_BLOCKED,
        LEASE_EXPIRED,
        NO_KEYS,
        UNKNOWN_KEY,
        KEY_NOT_ENABLED,
        USAGE,
        DENIED,
        THROTTLED,
        INVALID_CIPHERTEXT,
        INTERNAL,
        NOT_RECORDED,
        BUSY,
        BODY_TOO_LONG,
        PROOF_NONCE,
        PROOF_KEY_STORE,
        PROOF_PARAMETERS,
        PROOF_SEVERAL,
        PROOF_BODY,
        PROOFS_BUSY,
        PROOF_TIMEOUT,
    ];

    /// The table's names and statuses, and the rules for `errorMessage`, for each error that the enclave can answer with.
    #[test]
    fn every_error_obeys_the_table() {
        let written =
            include_str!("errors.rs").lines().filter(|line| !line.starts_with(' ') && line.contains(": XksError ="));
        assert_eq!(written.count(), ALL.len(), "an error is missing from the list");
        for error in ALL {
            let message = error.message.as_str();
            assert!((1..512).contains(&message.len()) && message.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
            assert!(message.ends_with('.'), "{message}");
            let json: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
            assert_eq!(json, serde_json::json!({ "errorName": error.name.as_str(), "errorMessage": message }));
            let answer = crate::xks::Response::refused(Refused::Api(error));
            assert_eq!(answer.status().as_u16(), error.name.status());
        }
        let others = [
            (Refused::MethodNotAllowed, 405),
            (Refused::NotGet, 405),
            (Refused::Later(PROOFS_BUSY), 429),
            (Refused::Misdirected, 421),
        ];
        for (refused, status) in others {
            assert_eq!(crate::xks::Response::refused(refused).status().as_u16(), status);
        }
    }
}
