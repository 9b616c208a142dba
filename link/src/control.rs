//! The control connection, which the enclave opens to the parent: what the parent hands over, and what the enclave tells.
//!
//! Guarantees: both sides know that they speak the same protocol before anything else is believed.
//! Assumes: nothing of the parent. The static configuration is measured by the enclave as exactly the bytes received, and
//! each manifest carries its own signatures.
//! Refuses: a first message other than `hello`, another protocol number, unknown fields, anything above a limit.
//!
//! ```text
//! enclave                                   parent
//!   hello {protocol, boot_id}          →
//!                                      ←    configuration {static_configuration}     (or refused {…}, then the end)
//!                                      ←    key_stores {manifests}                   (again at each change, whole)
//!   status {…}, metrics {…}            →                                             (each second, each five seconds)
//!   log {…}, refusal {…}               →                                             (as they come)
//!                                      ←    tracing {…}                             (where requests are to be traced)
//!   trace {…}                          →                                             (after that, as they come)
//!                                      ←    aws_credentials {…}                     (where there is a role; again before they end)
//!                                      ←    drain
//!   drained                            →
//! ```

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tokio::io::AsyncRead;

use crate::frame::{FrameError, FrameReader, LimitError, Message};
use crate::limits::{
    COUNTER_NAME_MAX, COUNTERS_MAX, KEY_STORES_MAX, LOG_TEXT_MAX, MANIFEST_MAX, MANIFESTS_TOTAL_MAX, REASON_MAX,
    STATIC_CONFIGURATION_MAX, TO_ENCLAVE_FRAME_MAX, TO_PARENT_FRAME_MAX,
};
use crate::text::{BootId, KeyStoreId, PrintableText};

mod credentials;
mod metrics;
mod traces;

pub use credentials::AwsCredentials;
pub use metrics::{
    ALARMS, BOUNDS_US, Histogram, KeyStoreMetrics, LeaseMetrics, METRICS_FORMAT, Metrics, OPERATIONS, OUTCOMES,
    RefusedRequest, STAGES,
};
pub use traces::{RequestTrace, TracingOrder};

/// The protocol of this link. It changes with every change of a message; the form of `hello` and `refused` never does.
pub const PROTOCOL: u32 = 1;

/// What the enclave sends to the parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToParent {
    /// The first message.
    Hello(Hello),
    /// How the enclave is, each [`crate::limits::STATUS_INTERVAL`] and at each change.
    Status(Status),
    /// What it measured, each [`crate::limits::METRICS_INTERVAL`].
    Metrics(Box<Metrics>),
    /// A request that was refused, for the parent's log.
    Refusal(RefusedRequest),
    /// One request, for the parent's traces: only after [`ToEnclave::Tracing`].
    Trace(RequestTrace),
    /// A line for the parent's log.
    Log {
        /// How grave it is.
        level: Level,
        /// What happened; never anything secret.
        text: PrintableText<LOG_TEXT_MAX>,
    },
    /// All requests that were under way when `drain` came have been answered.
    Drained,
}

/// The first message of the enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The sender's [`PROTOCOL`].
    pub protocol: u32,
    /// This run of the enclave.
    pub boot_id: BootId,
}

impl Hello {
    /// The first message of an enclave of this protocol.
    pub const fn new(boot_id: BootId) -> Self {
        Self { protocol: PROTOCOL, boot_id }
    }
}

/// How the enclave is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The enclave wants to be sent requests.
    pub ready: bool,
    /// Each key store that it was given.
    pub detail: Vec<KeyStoreStatus>,
    /// Connections open at its ingress address.
    pub connections: u64,
    /// What it counted since it started.
    pub counters: BTreeMap<String, u64>,
}

/// How one key store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyStoreStatus {
    /// Which one.
    pub key_store_id: KeyStoreId,
    /// What it does.
    pub state: KeyStoreState,
    /// The version that is open.
    pub version: Option<u64>,
    /// Until the first lease expires, in milliseconds.
    pub lease_remaining_ms: Option<u64>,
    /// Why it does not serve.
    pub reason: Option<PrintableText<REASON_MAX>>,
}

/// What a key store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyStoreState {
    /// Too few custodians answered.
    AwaitingCustodian,
    /// No ceremony took place yet.
    AwaitingCeremony,
    /// There is no certificate for its host name yet.
    AwaitingCertificate,
    /// It serves requests.
    Serving,
    /// An administrator blocked it.
    Blocked,
    /// A lease expired; the keys are gone from memory until a custodian answers.
    LeaseExpired,
    /// A custodian refused, or the manifest is not valid.
    Refused,
}

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something needs attention.
    Warn,
    /// What happens.
    Info,
    /// For those who look for a fault.
    Debug,
}

/// What the parent sends to the enclave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToEnclave {
    /// The parent does not talk to this enclave; the connection ends.
    Refused {
        /// The parent's [`PROTOCOL`].
        protocol: u32,
        /// Why.
        reason: PrintableText<REASON_MAX>,
    },
    /// The answer to `hello`.
    Configuration {
        /// A JSON text, byte for byte as its file holds it: the enclave measures it into PCR 16.
        static_configuration: String,
    },
    /// The key stores to serve: the whole list, again at each change.
    KeyStores {
        /// Their signed manifests.
        manifests: Vec<SignedManifest>,
    },
    /// With which the enclave asks AWS KMS for shares that lie there.
    AwsCredentials(AwsCredentials),
    /// Tell of single requests, until this connection ends.
    Tracing(TracingOrder),
    /// Finish what is under way; no new connections will come.
    Drain,
}

/// A signed manifest as its bytes; only the enclave parses it. Base64 (RFC 4648 section 4, padded) on the wire.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignedManifest(Vec<u8>);

impl SignedManifest {
    /// Takes the bytes of a manifest.
    ///
    /// # Errors
    /// When there are none, or more than [`MANIFEST_MAX`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, LimitError> {
        if bytes.is_empty() {
            return Err(LimitError { field: "manifest", max: MANIFEST_MAX });
        }
        LimitError::unless("manifest", bytes.len(), MANIFEST_MAX)?;
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl core::fmt::Debug for SignedManifest {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "SignedManifest({} bytes)", self.0.len())
    }
}

impl Serialize for SignedManifest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SignedManifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(|_| D::Error::custom("a manifest is not base64"))?;
        Self::new(bytes).map_err(D::Error::custom)
    }
}

impl Message for ToParent {
    const FRAME_MAX: usize = TO_PARENT_FRAME_MAX;

    fn check(&self) -> Result<(), LimitError> {
        match self {
            Self::Hello(_) | Self::Refusal(_) | Self::Trace(_) | Self::Log { .. } | Self::Drained => Ok(()),
            Self::Metrics(metrics) => metrics.check(),
            Self::Status(status) => {
                LimitError::unless("status.detail", status.detail.len(), KEY_STORES_MAX)?;
                LimitError::unless("status.counters", status.counters.len(), COUNTERS_MAX)?;
                for name in status.counters.keys() {
                    LimitError::unless("a counter's name", name.len(), COUNTER_NAME_MAX)?;
                    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
                        return Err(LimitError { field: "a counter's name (a-z, 0-9, _)", max: COUNTER_NAME_MAX });
                    }
                }
                Ok(())
            }
        }
    }
}

impl Message for ToEnclave {
    const FRAME_MAX: usize = TO_ENCLAVE_FRAME_MAX;

    fn check(&self) -> Result<(), LimitError> {
        match self {
            Self::Refused { .. } | Self::Drain => Ok(()),
            Self::Configuration { static_configuration } => {
                LimitError::unless("static_configuration", static_configuration.len(), STATIC_CONFIGURATION_MAX)
            }
            Self::KeyStores { manifests } => {
                LimitError::unless("manifests", manifests.len(), KEY_STORES_MAX)?;
                let total = manifests.iter().map(|manifest| manifest.0.len()).sum();
                LimitError::unless("all manifests' bytes", total, MANIFESTS_TOTAL_MAX)
            }
            Self::AwsCredentials(credentials) => credentials.check(),
            Self::Tracing(order) => order.check(),
        }
    }
}

/// Why a control connection was not established.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The frame could not be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection ended first.
    #[error("the connection ended before the first message")]
    Ended,
    /// Something else came first.
    #[error("the first message was not the one that must come first")]
    Order,
    /// The two sides are of different releases.
    #[error("the other side speaks protocol {theirs} of the link, this side {PROTOCOL}: use the same release of both")]
    Protocol {
        /// The other side's protocol number.
        theirs: u32,
    },
    /// The parent refused.
    #[error("the parent refused: {reason}")]
    Refused {
        /// Why.
        reason: PrintableText<REASON_MAX>,
    },
}

/// The parent's first step: takes the enclave's `hello`.
///
/// # Errors
/// When anything else comes, or a `hello` of another protocol.
pub async fn receive_hello<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<Hello, HandshakeError> {
    match reader.next().await? {
        None => Err(HandshakeError::Ended),
        Some(ToParent::Hello(hello)) if hello.protocol == PROTOCOL => Ok(hello),
        Some(ToParent::Hello(hello)) => Err(HandshakeError::Protocol { theirs: hello.protocol }),
        Some(_) => Err(HandshakeError::Order),
    }
}

/// The enclave's second step, after its `hello`: takes the static configuration, exactly the bytes to measure.
///
/// # Errors
/// When the parent refuses or sends anything else.
pub async fn receive_configuration<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
) -> Result<String, HandshakeError> {
    match reader.next().await? {
        None => Err(HandshakeError::Ended),
        Some(ToEnclave::Configuration { static_configuration }) => Ok(static_configuration),
        Some(ToEnclave::Refused { protocol, .. }) if protocol != PROTOCOL => {
            Err(HandshakeError::Protocol { theirs: protocol })
        }
        Some(ToEnclave::Refused { reason, .. }) => Err(HandshakeError::Refused { reason }),
        Some(_) => Err(HandshakeError::Order),
    }
}

#[cfg(test)]
mod tests;
