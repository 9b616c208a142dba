//! The key-encryption key: what stands between the custodian's disk and the secrets on it.
//!
//! ```text
//! share ── wrapped by the key-encryption key itself ──────────────────────── each release uses it
//! channel keys, challenge key ── wrapped by the storage key ── wrapped by ── the key-encryption key, once at the start
//! ```
//! Guarantees: a wrapped secret opens only under the same key and for the same associated data, which names its purpose and
//! place; its first byte names the place of its key, so that a changed configuration is told from damage; no call takes
//! longer than the configured timeout. Assumes: a place protects its key as its kind can; a file protects it by its mode
//! alone. Refuses: secrets and wrapped secrets that are longer than any of ours.

mod file;
mod kmip;
mod pkcs11;
mod remote;
mod storage;
mod transit;
mod watch;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use holdfast_shared::secrets::SecretBytes;
use tokio::sync;

use crate::config::{KeyEncryptionKeyConfig, KeyPlaceConfig};
use crate::state::{StateDirectory, StateError};

pub use file::FileKey;
pub use kmip::KmipKey;
pub use pkcs11::Pkcs11Key;
pub(crate) use remote::{Connection, Endpoint, words};
pub use storage::{StorageKey, StorageKeyError};
pub use transit::TransitKey;

/// Bytes of a secret that is wrapped: a share and the storage key have far fewer.
pub const SECRET_MAX: usize = 1024;
/// Bytes of a wrapped secret: Transit's text form adds a third and a prefix, KMIP an inner key.
pub const WRAPPED_MAX: usize = 4096;

/// What a key-encryption key does later: a call to it may cross a network.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, KekError>> + Send + 'a>>;

/// Where a key-encryption key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file of mode 0600 in the state directory.
    File,
    /// A token behind a PKCS #11 module.
    Pkcs11,
    /// The Transit engine of Vault or `OpenBao`.
    Transit,
    /// A server that speaks KMIP.
    Kmip,
}

impl Place {
    const ALL: [Self; 4] = [Self::File, Self::Pkcs11, Self::Transit, Self::Kmip];

    /// The first byte of what is wrapped there.
    #[must_use]
    pub const fn format(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Pkcs11 => 2,
            Self::Transit => 3,
            Self::Kmip => 4,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Pkcs11 => "pkcs11",
            Self::Transit => "transit",
            Self::Kmip => "kmip",
        })
    }
}

/// Why a secret cannot be wrapped or unwrapped. Each text says what is wrong and what to do; none holds anything secret.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// Another key, another purpose, or changed bytes.
    #[error(
        "a stored secret does not open under this key-encryption key: it was wrapped under another key, or its bytes were \
         changed; bring back the key that was configured before, or the database that belongs to this key"
    )]
    OpenFailed,
    /// Wrapped by another kind of key.
    #[error(
        "a stored secret was wrapped by a key-encryption key of the kind `{wrapped}`, and the configuration names the kind \
         `{configured}`; configure the key that wrapped it"
    )]
    OtherPlace {
        /// Where its key lives.
        wrapped: Place,
        /// Where ours does.
        configured: Place,
    },
    /// The place of the key does not answer, for now.
    #[error("the key-encryption key is not available: {what}; {remedy}")]
    Unavailable {
        /// What happened.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The place of the key is there, and closed: a sealed vault, a locked token.
    #[error("the key-encryption key is locked: {what}; {remedy}")]
    Locked {
        /// What happened.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// No answer in time.
    #[error(
        "the key-encryption key ({place}) did not answer within {} ms; look at the connection to it, or raise \
         key_encryption_key.timeout", timeout.as_millis()
    )]
    TimedOut {
        /// Where it lives.
        place: Place,
        /// The configured time.
        timeout: Duration,
    },
    /// It will not get better by waiting: a wrong PIN, a key that may leave its token, a missing module.
    #[error("the key-encryption key cannot be used as it is configured: {what}; {remedy}")]
    Misconfigured {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A file that the key needs.
    #[error("key_encryption_key: {0}")]
    File(#[from] StateError),
    /// No randomness.
    #[error("the operating system gives no randomness")]
    Random,
}

impl KekError {
    /// Whether the same call may succeed later without anybody changing keys, files or configuration here.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Locked { .. } | Self::TimedOut { .. })
    }
}

/// A place of the key. Implementations bind `aad`, authenticate what they decrypt, and bound what they read from outside;
/// [`Kek`] adds what all have in common: the format byte, sizes, the timeout. A call may be dropped half-way. Nothing is
/// contacted before the first call, and each call may try anew what failed before.
pub trait KeyEncryptionKey: Send + Sync {
    /// Where the key lives.
    fn place(&self) -> Place;

    /// Which key it is, for logs: no secret.
    fn describe(&self) -> String;

    /// Encrypts `secret`, bound to `aad`.
    fn wrap<'a>(&'a self, aad: &'a [u8], secret: &'a [u8]) -> Pending<'a, Vec<u8>>;

    /// Decrypts what [`KeyEncryptionKey::wrap`] made with the same `aad`.
    fn unwrap<'a>(&'a self, aad: &'a [u8], wrapped: &'a [u8]) -> Pending<'a, SecretBytes>;

    /// Looks at what a wrapping does not show, such as the key's attributes. [`Kek::probe`] wraps and unwraps in addition.
    fn health(&self) -> Pending<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// The configured key-encryption key.
pub struct Kek {
    key: Box<dyn KeyEncryptionKey>,
    timeout: Duration,
    /// Why it could not be used the last time, if it could not.
    trouble: sync::watch::Sender<Option<String>>,
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kek").field("key", &self.key.describe()).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Kek {
    /// The key that the configuration names. Reads local files only; nothing is contacted.
    ///
    /// # Errors
    /// [`KekError`].
    pub fn open(config: &KeyEncryptionKeyConfig, state: &StateDirectory) -> Result<Self, KekError> {
        let key: Box<dyn KeyEncryptionKey> = match &config.place {
            KeyPlaceConfig::File => Box::new(FileKey::read(&state.key_encryption_key())?),
            KeyPlaceConfig::Pkcs11(pkcs11) => Box::new(Pkcs11Key::open(pkcs11.clone())?),
            KeyPlaceConfig::Transit(transit) => Box::new(TransitKey::open(transit)?),
            KeyPlaceConfig::Kmip(kmip) => Box::new(KmipKey::open(kmip)?),
        };
        Ok(Self::new(key, config.timeout))
    }

    /// A key with its timeout.
    #[must_use]
    pub fn new(key: Box<dyn KeyEncryptionKey>, timeout: Duration) -> Self {
        Self { key, timeout, trouble: sync::watch::Sender::new(None) }
    }

    /// Which key it is, for logs.
    #[must_use]
    pub fn describe(&self) -> String {
        self.key.describe()
    }

    /// Where the key lives.
    #[must_use]
    pub fn place(&self) -> Place {
        self.key.place()
    }

    /// Encrypts `secret`, bound to `aad`.
    ///
    /// # Errors
    /// [`KekError`].
    pub async fn wrap(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, KekError> {
        self.noted(self.seal(aad, secret).await)
    }

    async fn seal(&self, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, KekError> {
        if secret.len() > SECRET_MAX {
            return Err(misfit(format!(
                "a secret of {} bytes is to be wrapped, at most {SECRET_MAX} are",
                secret.len()
            )));
        }
        let wrapped = self.in_time(self.key.wrap(aad, secret)).await?;
        if wrapped.len() >= WRAPPED_MAX {
            return Err(misfit(format!("it made {} bytes of {}", wrapped.len(), secret.len())));
        }
        Ok([&[self.place().format()], wrapped.as_slice()].concat())
    }

    /// Decrypts what [`Kek::wrap`] made with the same `aad`.
    ///
    /// # Errors
    /// [`KekError`].
    pub async fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError> {
        self.noted(self.unseal(aad, wrapped).await)
    }

    async fn unseal(&self, aad: &[u8], wrapped: &[u8]) -> Result<SecretBytes, KekError> {
        let (format, rest) = wrapped.split_first().ok_or(KekError::OpenFailed)?;
        if wrapped.len() > WRAPPED_MAX {
            return Err(KekError::OpenFailed);
        }
        if *format != self.place().format() {
            let other = Place::ALL.into_iter().find(|place| place.format() == *format).ok_or(KekError::OpenFailed)?;
            return Err(KekError::OtherPlace { wrapped: other, configured: self.place() });
        }
        let secret = self.in_time(self.key.unwrap(aad, rest)).await?;
        if secret.expose().len() > SECRET_MAX { Err(KekError::OpenFailed) } else { Ok(secret) }
    }

    async fn in_time<T>(&self, call: Pending<'_, T>) -> Result<T, KekError> {
        let late = |_| KekError::TimedOut { place: self.place(), timeout: self.timeout };
        tokio::time::timeout(self.timeout, call).await.map_err(late)?
    }

    /// Notes whether the key could be used, and logs when that changes, or why it could not.
    fn noted<T>(&self, result: Result<T, KekError>) -> Result<T, KekError> {
        let trouble = match &result {
            Ok(_) => None,
            // This secret, not the key.
            Err(KekError::OpenFailed | KekError::OtherPlace { .. } | KekError::Random) => return result,
            Err(error) => Some(error.to_string()),
        };
        let key = self.describe();
        self.trouble.send_if_modified(|before| {
            match (before.as_deref(), trouble.as_deref()) {
                (None, Some(error)) => tracing::error!(key, "no share can be released: {error}"),
                (Some(other), Some(error)) if other != error => tracing::error!(key, "still not: {error}"),
                (Some(_), None) => tracing::info!(key, "the key-encryption key can be used again"),
                _ => return false,
            }
            *before = trouble;
            true
        });
        result
    }
}

fn misfit(what: String) -> KekError {
    let remedy = "this is not a key for secrets of this program; name another".to_owned();
    KekError::Misconfigured { what, remedy }
}

#[cfg(test)]
mod tests;
