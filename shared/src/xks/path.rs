//! Request paths: `[/prefix]/kms/xks/v1/{health | keys/ID/{metadata, encrypt, decrypt}}` (specification, "API operations").
//!
//! Guarantees: a [`RequestPath`] is the raw path, byte for byte; since only unreserved characters and slashes pass, every URI
//! normalisation is the identity on it, which is also what lets a signature cover it raw. Refuses: percent-escapes, dot segments,
//! empty segments, a query (even an empty one), a trailing slash, anything over [`XKS_URI_MAX`].

use super::names::{PathPrefix, URI_PATH_SUFFIX};
use crate::external_key::ExternalKeyId;
use crate::limits::XKS_URI_MAX;

/// The path is none of ours. Answered as 404 `InvalidUriPathException`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URI path is not valid")]
pub struct PathError;

/// The four operations of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `GetKeyMetadata`.
    GetKeyMetadata,
    /// `Encrypt`.
    Encrypt,
    /// `Decrypt`.
    Decrypt,
    /// `GetHealthStatus`.
    GetHealthStatus,
}

impl Operation {
    /// The operation's name in the specification.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GetKeyMetadata => "GetKeyMetadata",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::GetHealthStatus => "GetHealthStatus",
        }
    }
}

/// The three operations that name a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyOperation {
    /// `…/metadata`.
    GetKeyMetadata,
    /// `…/encrypt`.
    Encrypt,
    /// `…/decrypt`.
    Decrypt,
}

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `…/health`.
    Health,
    /// `…/keys/ID/operation`.
    Key {
        /// The key named by the path.
        id: ExternalKeyId,
        /// The operation named by the path.
        operation: KeyOperation,
    },
}

/// A path of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPath {
    prefix: PathPrefix,
    target: Target,
}

impl RequestPath {
    /// Parses the path of a request target, query included if there is one.
    ///
    /// Reads from the right, so that a prefix that itself looks like an API path is not ambiguous.
    ///
    /// # Errors
    /// If the path is not one of the API's.
    pub fn parse(path_and_query: &str) -> Result<Self, PathError> {
        if path_and_query.len() > XKS_URI_MAX {
            return Err(PathError);
        }
        let (rest, last) = path_and_query.rsplit_once('/').ok_or(PathError)?;
        let (base, target) = if last == "health" {
            (rest, Target::Health)
        } else {
            let operation = match last {
                "metadata" => KeyOperation::GetKeyMetadata,
                "encrypt" => KeyOperation::Encrypt,
                "decrypt" => KeyOperation::Decrypt,
                _ => return Err(PathError),
            };
            let (rest, id) = rest.rsplit_once('/').ok_or(PathError)?;
            let id = ExternalKeyId::parse(id).map_err(|_| PathError)?;
            (rest.strip_suffix("/keys").ok_or(PathError)?, Target::Key { id, operation })
        };
        let prefix = base.strip_suffix(URI_PATH_SUFFIX).ok_or(PathError)?;
        let prefix = PathPrefix::parse(prefix).map_err(|_| PathError)?;
        Ok(Self { prefix, target })
    }

    /// The path prefix, by which a key store is found.
    #[must_use]
    pub fn prefix(&self) -> &PathPrefix {
        &self.prefix
    }

    /// What is asked for.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The operation, health included.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match &self.target {
            Target::Health => Operation::GetHealthStatus,
            Target::Key { operation: KeyOperation::GetKeyMetadata, .. } => Operation::GetKeyMetadata,
            Target::Key { operation: KeyOperation::Encrypt, .. } => Operation::Encrypt,
            Target::Key { operation: KeyOperation::Decrypt, .. } => Operation::Decrypt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_paths() {
        let long_id = "k".repeat(128);
        let long_path = format!("/kms/xks/v1/keys/{long_id}/metadata");
        let cases: &[(&str, &str, Option<&str>, Operation)] = &[
            ("/kms/xks/v1/health", "", None, Operation::GetHealthStatus),
            ("/path/kms/xks/v1/health", "/path", None, Operation::GetHealthStatus),
            ("/a/b-c_d/kms/xks/v1/keys/k.1/encrypt", "/a/b-c_d", Some("k.1"), Operation::Encrypt),
            ("/kms/xks/v1/keys/K_1/decrypt", "", Some("K_1"), Operation::Decrypt),
            ("/kms/xks/v1/keys/health/metadata", "", Some("health"), Operation::GetKeyMetadata),
            ("/kms/xks/v1/keys/keys/encrypt", "", Some("keys"), Operation::Encrypt),
            (
                "/kms/xks/v1/keys/encrypt/kms/xks/v1/health",
                "/kms/xks/v1/keys/encrypt",
                None,
                Operation::GetHealthStatus,
            ),
            (&long_path, "", Some(&long_id), Operation::GetKeyMetadata),
        ];
        for (text, prefix, id, operation) in cases {
            let path = RequestPath::parse(text).unwrap();
            assert_eq!(path.prefix().as_str(), *prefix, "{text}");
            assert_eq!(path.operation(), *operation, "{text}");
            let actual = match path.target() {
                Target::Health => None,
                Target::Key { id, .. } => Some(id.as_str()),
            };
            assert_eq!(actual, *id, "{text}");
        }
    }

    #[test]
    fn refused_paths() {
        let long_id = format!("/kms/xks/v1/keys/{}/encrypt", "k".repeat(129));
        let long_prefix = format!("/{}/kms/xks/v1/health", "p".repeat(117));
        let long_uri = format!("/{}/kms/xks/v1/keys/{}/encrypt", "p".repeat(116), "k".repeat(115));
        let cases = [
            "",
            "/",
            "*",
            "health",
            "/health",
            "/kms/xks/v1",
            "/kms/xks/v1/",
            "/kms/xks/v1/health/",
            "/kms/xks/v1/Health",
            "/kms/xks/v1/health?",
            "/kms/xks/v1/health?a=b",
            "/kms/xks/v1/health#f",
            "//kms/xks/v1/health",
            "/a//kms/xks/v1/health",
            "/./kms/xks/v1/health",
            "/a/../kms/xks/v1/health",
            "/a/kms/xks/v1/%68ealth",
            "/a%2fb/kms/xks/v1/health",
            "kms/xks/v1/health",
            "a/kms/xks/v1/health",
            "/akms/xks/v1/health",
            "/kms/xks/v2/health",
            "/kms/xks/v1/keys/encrypt",
            "/kms/xks/v1/keys//encrypt",
            "/kms/xks/v1/keys/../encrypt",
            "/kms/xks/v1/keys/./encrypt",
            "/kms/xks/v1/keys/a/b/encrypt",
            "/kms/xks/v1/keys/a%20b/encrypt",
            "/kms/xks/v1/keys/a/encrypt/",
            "/kms/xks/v1/keys/a/encrypt?x",
            "/kms/xks/v1/keys/a/sign",
            "/kms/xks/v1/key/a/encrypt",
            "https://host.example/kms/xks/v1/health",
            &long_id,
            &long_prefix,
            &long_uri,
        ];
        for text in cases {
            assert_eq!(RequestPath::parse(text), Err(PathError), "{text}");
        }
    }
}
