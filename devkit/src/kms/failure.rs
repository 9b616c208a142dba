//! What KMS says when a proxy does not do what it should: exceptions, their messages, connection error codes.
//!
//! Guarantees: exceptions and messages are those of the specification's table (section "Error Codes", "KMS Considerations"); connection
//! error codes those of the API reference (`CustomKeyStoresListEntry`). The table is silent on what `CreateCustomKeyStore` and
//! `UpdateCustomKeyStore` say to errors that no health check should bring: they say `XksProxyInvalidResponseException`, and `XksProxyInvalidConfigurationException` to
//! `AccessDeniedException`.

use holdfast_shared::xks::ErrorName;
use http::StatusCode;

use crate::aws_json::Answer;
use crate::xks_client::XksClientError;

/// What went wrong between KMS and a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No TCP connection.
    NoConnection,
    /// No TLS session.
    NoTls,
    /// No answer in time.
    TimedOut,
    /// The connection ended before an answer.
    Unanswered,
    /// An answer that is not what the specification says.
    Malformed,
    /// All key managers are unavailable, says the proxy.
    AllUnavailable,
    /// An answer with an error's name.
    Refused(ErrorName),
    /// What the proxy decrypted does not open under KMS's own half of the key.
    ForeignPlaintext,
    /// The external key is of another kind than KMS takes.
    KeySpec,
    /// The external key may not do both.
    KeyUsage,
    /// The external key is disabled, says its metadata.
    KeyStatus,
    /// The key store is not connected.
    NotConnected,
}

/// Which operation is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// `CreateCustomKeyStore` or `UpdateCustomKeyStore`.
    Store,
    /// `CreateKey`.
    CreateKey,
    /// Encrypt, Decrypt and the like.
    Use,
}

const CANNOT_INTERPRET: &str = "AWS KMS cannot interpret the response from the external key store proxy. If you see this error repeatedly, report it to your external key store proxy administrator.";
const STATE: &str = "KMSInvalidStateException";
const STORE_STATE: &str = "CustomKeyStoreInvalidStateException";
const KEY_CONFIGURATION: &str = "XksKeyInvalidConfigurationException";
const UNREACHABLE: &str = "XksProxyUriUnreachableException";
const INVALID_RESPONSE: &str = "XksProxyInvalidResponseException";
const INVALID_CONFIGURATION: &str = "XksProxyInvalidConfigurationException";

/// A row of the table: exceptions of [`Told::Store`] and [`Told::CreateKey`], connection error code, message.
struct Row(&'static str, &'static str, &'static str, &'static str);

impl Failure {
    /// Whether KMS asks once more: only where it got no answer.
    #[must_use]
    pub const fn is_worth_another_attempt(self) -> bool {
        matches!(self, Self::NoConnection | Self::NoTls | Self::TimedOut | Self::Unanswered)
    }

    /// The exception, with its message.
    #[must_use]
    pub fn answer(self, told: Told) -> Answer {
        let Row(store, create_key, _, message) = self.row();
        let kind = match told {
            Told::Store => store,
            Told::CreateKey => create_key,
            Told::Use => STATE,
        };
        Answer::error(StatusCode::BAD_REQUEST, kind, message)
    }

    /// `ConnectionErrorCode`.
    #[must_use]
    pub const fn connection_error_code(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> Row {
        match self {
            Self::NoConnection => Row(
                UNREACHABLE,
                STORE_STATE,
                "XKS_PROXY_NOT_REACHABLE",
                "AWS KMS cannot communicate with the external key store proxy. This might be a transient network issue. If you see this error repeatedly, verify that your external key store proxy is active and is connected to the network, and that its endpoint URI is correct in your external keystore.",
            ),
            Self::NoTls => Row(
                UNREACHABLE,
                STORE_STATE,
                "XKS_PROXY_INVALID_TLS_CONFIGURATION",
                "AWS KMS cannot establish a TLS connection to the external key store proxy. Verify the TLS configuration, including its certificate.",
            ),
            Self::TimedOut => Row(
                UNREACHABLE,
                STORE_STATE,
                "XKS_PROXY_TIMED_OUT",
                "AWS KMS rejected the request because the external key store proxy did not respond in time. Retry the request. If you see this error repeatedly, report it to your external key store proxy administrator.",
            ),
            Self::Unanswered | Self::Malformed => {
                Row(INVALID_RESPONSE, STORE_STATE, "XKS_PROXY_INVALID_RESPONSE", CANNOT_INTERPRET)
            }
            Self::AllUnavailable => Row(
                UNREACHABLE,
                STORE_STATE,
                "XKS_PROXY_NOT_REACHABLE",
                "The external key store proxy reported that all instances of its external key manager are unavailable.",
            ),
            Self::ForeignPlaintext => Row(
                INVALID_RESPONSE,
                STORE_STATE,
                "XKS_PROXY_INVALID_RESPONSE",
                "The ciphertext that the external key store proxy submitted for decryption, or the encryption context, is corrupted, missing, or otherwise invalid.",
            ),
            Self::KeySpec => key_flaw("The external key is not a 256-bit AES key."),
            Self::KeyUsage => key_flaw("The external key is not configured for both encryption and decryption."),
            Self::KeyStatus => key_flaw("The external key is not enabled in the external key manager."),
            Self::NotConnected => Row(
                STORE_STATE,
                STORE_STATE,
                "INTERNAL_ERROR",
                "This KMS key is in a custom key store that is not connected to its external key store proxy. Connect the external key store and try the request again.",
            ),
            Self::Refused(name) => refused(name),
        }
    }
}

/// What `CreateKey` says of a key's metadata; nothing else asks for them.
const fn key_flaw(message: &'static str) -> Row {
    Row(INVALID_RESPONSE, KEY_CONFIGURATION, "XKS_PROXY_INVALID_RESPONSE", message)
}

/// The rows of errors with names.
const fn refused(name: ErrorName) -> Row {
    match name {
        ErrorName::ValidationException => {
            Row(INVALID_RESPONSE, STORE_STATE, "XKS_PROXY_INVALID_RESPONSE", CANNOT_INTERPRET)
        }
        ErrorName::InvalidStateException => Row(
            INVALID_RESPONSE,
            KEY_CONFIGURATION,
            "XKS_PROXY_INVALID_CONFIGURATION",
            "The external key associated with this KMS key in an external key store is not enabled in the external key manager. Enable the external key in the external key manager and retry the request.",
        ),
        ErrorName::InvalidCiphertextException => Row(
            INVALID_RESPONSE,
            STORE_STATE,
            "XKS_PROXY_INVALID_RESPONSE",
            "The external key store proxy rejected the request because the specified ciphertext or encryption context is corrupted, missing, or otherwise invalid.",
        ),
        ErrorName::InvalidKeyUsageException => Row(
            INVALID_RESPONSE,
            KEY_CONFIGURATION,
            "XKS_PROXY_INVALID_RESPONSE",
            "The external key associated with this KMS key in an external key store does not support the requested operation. Enable the operation on the key in your external key manager, and try the request again.",
        ),
        ErrorName::AuthenticationFailedException => Row(
            "XksProxyIncorrectAuthenticationCredentialException",
            STORE_STATE,
            "INVALID_CREDENTIALS",
            "The external key store proxy rejected the request because it could not authenticate AWS KMS. Verify the XKS proxy authentication credentials for your external key store and update if necessary.",
        ),
        ErrorName::AccessDeniedException => Row(
            INVALID_CONFIGURATION,
            STATE,
            "XKS_PROXY_ACCESS_DENIED",
            "The external key store proxy denied access to the operation. Verify that the user and the external key are both authorized for this operation, and try the request again.",
        ),
        ErrorName::KeyNotFoundException => Row(
            INVALID_RESPONSE,
            "XksKeyNotFoundException",
            "XKS_PROXY_INVALID_RESPONSE",
            "The external key associated with this KMS key in an external key store was not found in its external key manager. If the external key ID associated with this KMS key is incorrect, create a new KMS key with the correct external key ID.",
        ),
        ErrorName::InvalidUriPathException => Row(
            INVALID_CONFIGURATION,
            STORE_STATE,
            "XKS_PROXY_INVALID_CONFIGURATION",
            "The external key store proxy rejected the request because of an invalid URI path. Verify the URI path for your external key store and update if necessary.",
        ),
        ErrorName::UnsupportedOperationException => Row(
            INVALID_RESPONSE,
            "XksKeyInvalidResponseException",
            "XKS_PROXY_INVALID_RESPONSE",
            "The external key store proxy rejected the request because it does not support the requested operation. If you see this error repeatedly, report it to your external key store proxy administrator.",
        ),
        ErrorName::DependencyTimeoutException => Row(
            UNREACHABLE,
            STORE_STATE,
            "XKS_PROXY_TIMED_OUT",
            "The external key store proxy did not respond to the request in the time allotted. Retry the request. If you see this error repeatedly, report it to your external key store proxy administrator.",
        ),
        ErrorName::ThrottlingException => Row(
            UNREACHABLE,
            STORE_STATE,
            "XKS_PROXY_NOT_REACHABLE",
            "The external key store proxy rejected the request due to a very high request rate. Reduce the frequency of your calls using KMS keys in this external key store.",
        ),
        ErrorName::InternalException => Row(
            INVALID_RESPONSE,
            STORE_STATE,
            "XKS_PROXY_INVALID_RESPONSE",
            "The external key store proxy rejected the request because it cannot communicate with the external key manager. Verify that the external key store proxy configuration is correct and that the external key manager is available.",
        ),
    }
}

impl From<&XksClientError> for Failure {
    fn from(error: &XksClientError) -> Self {
        match error {
            XksClientError::Connect { .. } => Self::NoConnection,
            XksClientError::Tls { .. } => Self::NoTls,
            XksClientError::Timeout => Self::TimedOut,
            XksClientError::Unanswered(_) => Self::Unanswered,
            XksClientError::Http(_) | XksClientError::Settings(_) | XksClientError::Sign(_) => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIFICATION: &str = "tests/vectors/xks/kms-exceptions.txt";

    /// The file holds what the specification's table says of each error name: `NAME | store | create key | message`, `-` for nothing.
    #[test]
    fn names_are_told_as_the_table_says() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SPECIFICATION);
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let mut count = 0;
        for row in rows {
            let [scenario, store, create_key, message] =
                row.split(" | ").collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{row}"));
            let failure = match scenario {
                "TCP" => Failure::NoConnection,
                "TLS" => Failure::NoTls,
                "timeout" => Failure::TimedOut,
                "malformed" => Failure::Malformed,
                "invalid ciphertext" => Failure::ForeignPlaintext,
                "not connected" => Failure::NotConnected,
                name => Failure::Refused(ErrorName::ALL.into_iter().find(|known| known.as_str() == name).unwrap()),
            };
            count += 1;
            let told = |told| failure.answer(told).body;
            let said = |kind: &str| serde_json::json!({ "__type": kind, "message": message }).to_string();
            assert_eq!(told(Told::Use), said("KMSInvalidStateException"), "{scenario}");
            for (expected, which) in [(store, Told::Store), (create_key, Told::CreateKey)] {
                if expected != "-" {
                    assert_eq!(told(which), said(expected), "{scenario}");
                }
            }
        }
        assert_eq!(count, 18, "every row of the table");
    }

    /// Every failure, with the entry of `holdfast explain` that its message must lead to first.
    fn explained() -> Vec<(Failure, &'static str)> {
        let entry = |failure| match failure {
            Failure::NoConnection => "XKS_PROXY_NOT_REACHABLE",
            Failure::NoTls => "XKS_PROXY_INVALID_TLS_CONFIGURATION",
            Failure::TimedOut | Failure::Refused(ErrorName::DependencyTimeoutException) => "XKS_PROXY_TIMED_OUT",
            Failure::Unanswered | Failure::Malformed | Failure::Refused(ErrorName::ValidationException) => {
                "XKS_PROXY_INVALID_RESPONSE"
            }
            Failure::AllUnavailable => "healthStatus UNAVAILABLE",
            Failure::ForeignPlaintext | Failure::Refused(ErrorName::InvalidCiphertextException) => {
                "InvalidCiphertextException"
            }
            Failure::KeySpec
            | Failure::KeyUsage
            | Failure::KeyStatus
            | Failure::Refused(ErrorName::InvalidStateException | ErrorName::InvalidKeyUsageException) => {
                "XksKeyInvalidConfigurationException"
            }
            Failure::NotConnected => "CustomKeyStoreInvalidStateException",
            Failure::Refused(ErrorName::AuthenticationFailedException) => "INVALID_CREDENTIALS",
            Failure::Refused(ErrorName::AccessDeniedException) => "XKS_PROXY_ACCESS_DENIED",
            Failure::Refused(ErrorName::KeyNotFoundException) => "XksKeyNotFoundException",
            Failure::Refused(ErrorName::InvalidUriPathException) => "XKS_PROXY_INVALID_CONFIGURATION",
            Failure::Refused(ErrorName::UnsupportedOperationException) => "UnsupportedOperationException",
            Failure::Refused(ErrorName::ThrottlingException) => "ThrottlingException",
            Failure::Refused(ErrorName::InternalException) => "InternalException",
        };
        let own = [
            Failure::NoConnection,
            Failure::NoTls,
            Failure::TimedOut,
            Failure::Unanswered,
            Failure::Malformed,
            Failure::AllUnavailable,
            Failure::ForeignPlaintext,
            Failure::KeySpec,
            Failure::KeyUsage,
            Failure::KeyStatus,
            Failure::NotConnected,
        ];
        own.into_iter().chain(ErrorName::ALL.map(Failure::Refused)).map(|failure| (failure, entry(failure))).collect()
    }

    #[test]
    fn whatever_callers_are_told_is_explained() {
        let names = |text: &str| {
            let found = holdfast_cli::doctor::explain::explain(text);
            found.entries.iter().map(|entry| entry.name).collect::<Vec<_>>()
        };
        for (failure, entry) in explained() {
            let code = failure.connection_error_code();
            assert_eq!(names(code), [code], "{failure:?}");
            for told in [Told::Store, Told::CreateKey, Told::Use] {
                let body: serde_json::Value = serde_json::from_str(&failure.answer(told).body).unwrap();
                let (kind, message) = (body["__type"].as_str().unwrap(), body["message"].as_str().unwrap());
                assert_eq!(names(kind), [kind], "{failure:?}, {told:?}");
                assert_eq!(names(message).first(), Some(&entry), "{failure:?}: {message}");
                // As AWS's CLI shows it.
                let shown = format!("An error occurred ({kind}) when calling the Encrypt operation: {message}");
                assert_eq!(names(&shown).first(), Some(&entry), "{failure:?}: {shown}");
            }
        }
    }
}
