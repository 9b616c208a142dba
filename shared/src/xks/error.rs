//! Errors as KMS sees them (specification, section "Error codes").
//!
//! Guarantees: every error body has one of the twelve names of the table, the status of that name, and a message of at most
//! 511 printable ASCII characters that is written in this repository: no request, tenant or secret can reach it.

use crate::limits::ERROR_MESSAGE_MAX;

/// The twelve error names of the specification. In the audit log each is the number of its row in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum ErrorName {
    /// An input parameter is invalid.
    #[n(0)]
    ValidationException,
    /// The key or the key store is disabled, deactivated or blocked.
    #[n(1)]
    InvalidStateException,
    /// Ciphertext, initialization vector, AAD or tag is corrupted, missing or otherwise invalid.
    #[n(2)]
    InvalidCiphertextException,
    /// The key does not support the operation.
    #[n(3)]
    InvalidKeyUsageException,
    /// The signature is invalid.
    #[n(4)]
    AuthenticationFailedException,
    /// The operation is not authorized, judged by request metadata.
    #[n(5)]
    AccessDeniedException,
    /// There is no such external key.
    #[n(6)]
    KeyNotFoundException,
    /// The URI path is not valid.
    #[n(7)]
    InvalidUriPathException,
    /// The request rate is too high.
    #[n(8)]
    ThrottlingException,
    /// The operation is not implemented, or a parameter is larger than we support beyond the required minimum.
    #[n(9)]
    UnsupportedOperationException,
    /// Something that we depend on did not answer in time.
    #[n(10)]
    DependencyTimeoutException,
    /// Anything else.
    #[n(11)]
    InternalException,
}

impl ErrorName {
    /// All names, in the order of the specification's table.
    pub const ALL: [Self; 12] = [
        Self::ValidationException,
        Self::InvalidStateException,
        Self::InvalidCiphertextException,
        Self::InvalidKeyUsageException,
        Self::AuthenticationFailedException,
        Self::AccessDeniedException,
        Self::KeyNotFoundException,
        Self::InvalidUriPathException,
        Self::ThrottlingException,
        Self::UnsupportedOperationException,
        Self::DependencyTimeoutException,
        Self::InternalException,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that goes with the name.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// The specification's table.
    const fn row(self) -> (&'static str, u16) {
        match self {
            Self::ValidationException => ("ValidationException", 400),
            Self::InvalidStateException => ("InvalidStateException", 400),
            Self::InvalidCiphertextException => ("InvalidCiphertextException", 400),
            Self::InvalidKeyUsageException => ("InvalidKeyUsageException", 400),
            Self::AuthenticationFailedException => ("AuthenticationFailedException", 401),
            Self::AccessDeniedException => ("AccessDeniedException", 403),
            Self::KeyNotFoundException => ("KeyNotFoundException", 404),
            Self::InvalidUriPathException => ("InvalidUriPathException", 404),
            Self::ThrottlingException => ("ThrottlingException", 429),
            Self::UnsupportedOperationException => ("UnsupportedOperationException", 501),
            Self::DependencyTimeoutException => ("DependencyTimeoutException", 503),
            Self::InternalException => ("InternalException", 500),
        }
    }
}

/// A message fit for the wire: checked when the program is compiled, so it cannot hold anything of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorMessage(&'static str);

impl ErrorMessage {
    /// Checks a literal; made for `const` items, where a breach stops the compiler.
    ///
    /// ```
    /// # use holdfast_shared::xks::ErrorMessage;
    /// const FINE: ErrorMessage = ErrorMessage::new("The key store is blocked.");
    /// ```
    ///
    /// ```compile_fail
    /// # use holdfast_shared::xks::ErrorMessage;
    /// const BAD: ErrorMessage = ErrorMessage::new("Zu gro\u{df}.");
    /// ```
    ///
    /// # Panics
    /// Outside a `const` item: if the text is too long, not printable ASCII (0x20 to 0x7e), or would need escapes in JSON.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        let mut rest = text.as_bytes();
        assert!(rest.len() <= ERROR_MESSAGE_MAX, "an error message has at most 511 characters");
        while let [byte, tail @ ..] = rest {
            assert!(matches!(*byte, 0x20..=0x7e), "an error message is printable ASCII");
            assert!(*byte != b'"' && *byte != b'\\', "an error message needs no escapes in JSON");
            rest = tail;
        }
        Self(text)
    }

    /// The text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// An error as it goes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", .name.as_str(), .message.as_str())]
pub struct XksError {
    /// `errorName`, which also decides the status.
    pub name: ErrorName,
    /// `errorMessage`.
    pub message: ErrorMessage,
}

impl XksError {
    /// Joins a name and a message; made for `const` items, see [`ErrorMessage::new`].
    ///
    /// # Panics
    /// As [`ErrorMessage::new`].
    #[must_use]
    pub const fn new(name: ErrorName, message: &'static str) -> Self {
        Self { name, message: ErrorMessage::new(message) }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.name.status()
    }

    /// The JSON body.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Neither text can hold a character that JSON escapes, so no serialiser is needed.
        format!(r#"{{"errorName":"{}","errorMessage":"{}"}}"#, self.name.as_str(), self.message.as_str()).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_statuses_are_those_of_the_table() {
        let table = include_str!("../../../tests/vectors/xks/errors.txt");
        let expected: Vec<(&str, u16)> = table
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_once(' ').unwrap())
            .map(|(status, name)| (name, status.parse().unwrap()))
            .collect();
        let actual: Vec<(&str, u16)> = ErrorName::ALL.iter().map(|name| (name.as_str(), name.status())).collect();
        assert_eq!(actual, expected);
        for name in ErrorName::ALL {
            assert_eq!(name.as_str(), format!("{name:?}"));
        }
    }

    #[test]
    fn the_body_is_json() {
        const ERROR: XksError = XksError::new(ErrorName::KeyNotFoundException, "There is no such key: 'x'.");
        let value: serde_json::Value = serde_json::from_slice(&ERROR.to_json()).unwrap();
        let expected = serde_json::json!({
            "errorName": "KeyNotFoundException", "errorMessage": "There is no such key: 'x'.",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn messages_have_bounds() {
        let exact: &'static str = Box::leak("m".repeat(511).into_boxed_str());
        assert_eq!(ErrorMessage::new(exact).as_str().len(), 511);
        for text in [Box::leak("m".repeat(512).into_boxed_str()), "\n", "\u{7f}", "\u{e9}", "\"", "\\"] {
            assert!(std::panic::catch_unwind(|| ErrorMessage::new(text)).is_err(), "{text:?}");
        }
    }
}
