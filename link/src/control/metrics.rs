//! What an enclave measures of itself, for the parent's metrics page.
//!
//! Guarantees: a snapshot fits into a frame and names nothing but key stores, which the parent knows, by numbers and by the fixed texts
//! below: no principal, no external key, no ARN has a place in it. Assumes: nothing of the numbers. Refuses: another format, and more
//! key stores and leases than the bounds.

use serde::{Deserialize, Serialize};

use crate::frame::LimitError;
use crate::limits::{METRICS_KEY_STORES_MAX, METRICS_LEASES_MAX, REQUEST_ID_MAX, REQUEST_NAME_MAX, VERSION_MAX};
use crate::text::{KeyStoreId, PrintableText};

/// The form of a snapshot. It changes with every change of what a place means.
pub const METRICS_FORMAT: u32 = 3;

/// Operations of the XKS API: the places of [`KeyStoreMetrics::requests`] and [`Metrics::latency`].
pub const OPERATIONS: [&str; 4] = ["GetKeyMetadata", "Encrypt", "Decrypt", "GetHealthStatus"];

/// What a request passes: the places within [`Metrics::latency`].
pub const STAGES: [&str; 7] = ["body", "signature", "parse", "guard", "cipher", "audit", "total"];

/// How a request ends: success, or an error name of the XKS API. The places within [`KeyStoreMetrics::requests`].
pub const OUTCOMES: [&str; 13] = [
    "success",
    "ValidationException",
    "InvalidStateException",
    "InvalidCiphertextException",
    "InvalidKeyUsageException",
    "AuthenticationFailedException",
    "AccessDeniedException",
    "KeyNotFoundException",
    "InvalidUriPathException",
    "ThrottlingException",
    "UnsupportedOperationException",
    "DependencyTimeoutException",
    "InternalException",
];

/// Kinds of alarms: the places of [`KeyStoreMetrics::alarms`].
pub const ALARMS: [&str; 7] =
    ["first-seen", "unusual-rate", "off-hours", "budget", "clock-drift", "lease-trouble", "refused-burst"];

/// Upper bounds of a histogram's buckets, in microseconds; one more bucket is above all. AWS KMS waits for 250 ms.
pub const BOUNDS_US: [u64; 16] = [
    50, 100, 200, 400, 800, 1_500, 3_000, 6_000, 12_000, 25_000, 50_000, 100_000, 150_000, 250_000, 500_000, 1_000_000,
];

/// How many took how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// How many fell into each bucket of [`BOUNDS_US`], not those before.
    pub buckets: [u64; BOUNDS_US.len()],
    /// How many took longer than the last bound.
    pub above: u64,
    /// What all took together, in microseconds.
    pub sum_us: u64,
}

/// What an enclave measured since it started, each [`crate::limits::METRICS_INTERVAL`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// [`METRICS_FORMAT`].
    pub format: u32,
    /// The program's version.
    pub program: PrintableText<VERSION_MAX>,
    /// Whether the last anchor agreed with the one before.
    pub is_clock_healthy: bool,
    /// By how much the clock and the NSM disagreed at the last anchor.
    pub clock_drift_ms: u64,
    /// How long ago that was.
    pub clock_anchor_age_ms: u64,
    /// Requests of the enclave itself that wait for the NSM.
    pub nsm_waiting: u64,
    /// Requests of strangers that wait for the NSM.
    pub nsm_strangers_waiting: u64,
    /// Bytes of records that one key store may have waiting for the parent.
    pub audit_share_bytes: u64,
    /// TLS handshakes that succeeded.
    pub handshake: Histogram,
    /// Requests with a valid signature, by [`OPERATIONS`] and [`STAGES`].
    pub latency: [[Histogram; STAGES.len()]; OPERATIONS.len()],
    /// Key stores that have a host name and a certificate.
    pub key_stores: Vec<KeyStoreMetrics>,
    /// Key stores that are left out because there are more than [`METRICS_KEY_STORES_MAX`].
    pub key_stores_left_out: u64,
}

/// What an enclave measured of one key store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyStoreMetrics {
    /// Which one.
    pub key_store_id: KeyStoreId,
    /// Requests with a valid signature, by [`OPERATIONS`] and [`OUTCOMES`].
    pub requests: [[u64; OUTCOMES.len()]; OPERATIONS.len()],
    /// Requests without one, by [`OUTCOMES`]: what they are depends on strangers.
    pub unsigned: [u64; OUTCOMES.len()],
    /// Until its certificate ends.
    pub certificate_remaining_ms: u64,
    /// How long ago the oldest of its live SigV4 credentials was made of which that is known.
    pub credential_age_ms: Option<u64>,
    /// Bytes of records that the parent has not stored.
    pub audit_queue_bytes: u64,
    /// Entries of its audit log without enough witnesses.
    pub audit_unwitnessed: u64,
    /// How long the oldest of them has waited; 0 when there is none.
    pub audit_unwitnessed_age_ms: u64,
    /// Alarms that were raised, by [`ALARMS`]. What they are about is not for the parent.
    pub alarms: [u64; ALARMS.len()],
    /// Its leases.
    pub leases: Vec<LeaseMetrics>,
}

/// The lease of one custodian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseMetrics {
    /// The custodian's place in the manifest, from 1.
    pub custodian: u16,
    /// Until it ends; 0 when there is none.
    pub remaining_ms: u64,
    /// How long it was when it was granted.
    pub granted_ms: u64,
}

/// A request with a valid signature that was refused, for the parent's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusedRequest {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// One of [`OPERATIONS`].
    pub operation: PrintableText<REQUEST_NAME_MAX>,
    /// One of [`OUTCOMES`].
    pub error: PrintableText<REQUEST_NAME_MAX>,
    /// `kmsRequestId`, where the body could be read.
    pub kms_request_id: Option<PrintableText<REQUEST_ID_MAX>>,
    /// From its head to its answer.
    pub latency_ms: u64,
}

impl Metrics {
    pub(super) fn check(&self) -> Result<(), LimitError> {
        if self.format != METRICS_FORMAT {
            return Err(LimitError { field: "metrics.format", max: 3 });
        }
        LimitError::unless("metrics.key_stores", self.key_stores.len(), METRICS_KEY_STORES_MAX)?;
        let leases = self.key_stores.iter().map(|store| store.leases.len()).sum();
        LimitError::unless("metrics.key_stores' leases", leases, METRICS_LEASES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ToParent;
    use crate::frame::Message;
    use crate::limits::TO_PARENT_FRAME_MAX;

    fn fullest() -> Metrics {
        let most = Histogram { buckets: [u64::MAX; BOUNDS_US.len()], above: u64::MAX, sum_us: u64::MAX };
        // Nothing lives for longer than ten thousand years.
        let lease = LeaseMetrics { custodian: u16::MAX, remaining_ms: 1 << 48, granted_ms: 1 << 48 };
        let store = KeyStoreMetrics {
            key_store_id: KeyStoreId::from([0xff; 32]),
            // More than a million requests a second for a year, of each kind.
            requests: [[1 << 45; OUTCOMES.len()]; OPERATIONS.len()],
            unsigned: [1 << 45; OUTCOMES.len()],
            certificate_remaining_ms: 1 << 48,
            credential_age_ms: Some(1 << 48),
            audit_queue_bytes: 1 << 48,
            audit_unwitnessed: 1 << 48,
            audit_unwitnessed_age_ms: 1 << 48,
            alarms: [1 << 45; ALARMS.len()],
            leases: vec![lease; METRICS_LEASES_MAX / METRICS_KEY_STORES_MAX],
        };
        Metrics {
            format: METRICS_FORMAT,
            program: "v".repeat(VERSION_MAX).as_str().into(),
            handshake: most,
            latency: [[most; STAGES.len()]; OPERATIONS.len()],
            key_stores: vec![store; METRICS_KEY_STORES_MAX],
            ..Metrics::default()
        }
    }

    #[test]
    fn the_fullest_snapshot_fits_into_a_frame_and_comes_back_the_same() {
        let message = ToParent::Metrics(Box::new(fullest()));
        message.check().unwrap();
        let json = serde_json::to_string(&message).unwrap();
        assert!(json.len() <= TO_PARENT_FRAME_MAX, "{} bytes", json.len());
        assert_eq!(serde_json::from_str::<ToParent>(&json).unwrap(), message);
    }

    #[test]
    fn another_format_or_more_than_the_bounds_is_refused() {
        let refused = |change: fn(&mut Metrics)| {
            let mut metrics = fullest();
            change(&mut metrics);
            ToParent::Metrics(Box::new(metrics)).check().unwrap_err().field
        };
        assert_eq!(refused(|metrics| metrics.format = 2), "metrics.format");
        assert_eq!(refused(|metrics| metrics.format = 4), "metrics.format");
        assert_eq!(refused(|metrics| metrics.key_stores.push(metrics.key_stores[0].clone())), "metrics.key_stores");
        assert_eq!(
            refused(|metrics| {
                let lease = metrics.key_stores[0].leases[0];
                metrics.key_stores[0].leases.push(lease);
            }),
            "metrics.key_stores' leases"
        );
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS_US.is_sorted_by(|one, next| one < next));
    }
}
