//! Which requests the parent wants to be told of one by one, and what it is told of each.
//!
//! Guarantees: a trace names a key store, an operation, an error name and a `kmsRequestId`, as the line about a refused request does, and
//! has numbers besides: no principal, no external key, no ARN has a place in it. Assumes: nothing of the numbers. Refuses: an order for
//! more than [`TRACES_PER_SECOND_MAX`]. Without an order an enclave sends none.

use serde::{Deserialize, Serialize};

use super::metrics::STAGES;
use crate::frame::LimitError;
use crate::limits::{REQUEST_ID_MAX, REQUEST_NAME_MAX, TRACES_PER_SECOND_MAX};
use crate::text::{KeyStoreId, PrintableText};

/// Which requests with a valid signature are told: a sample, and besides those that were refused or slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracingOrder {
    /// One of so many.
    pub one_in: u32,
    /// All kinds together, at most so many.
    pub per_second: u32,
    /// From so long on, a request is slow.
    pub slow_ms: u32,
}

impl TracingOrder {
    pub(super) fn check(self) -> Result<(), LimitError> {
        if self.one_in == 0 || self.per_second == 0 {
            return Err(LimitError { field: "tracing (one_in and per_second are from 1)", max: TRACES_PER_SECOND_MAX });
        }
        let per_second = usize::try_from(self.per_second).unwrap_or(usize::MAX);
        LimitError::unless("tracing.per_second", per_second, TRACES_PER_SECOND_MAX)
    }
}

/// One request with a valid signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestTrace {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// One of [`OPERATIONS`](super::OPERATIONS).
    pub operation: PrintableText<REQUEST_NAME_MAX>,
    /// One of [`OUTCOMES`](super::OUTCOMES).
    pub outcome: PrintableText<REQUEST_NAME_MAX>,
    /// `kmsRequestId`, where the body could be read.
    pub kms_request_id: Option<PrintableText<REQUEST_ID_MAX>>,
    /// When its head had arrived, in microseconds since 1970, on the enclave's clock, which has milliseconds.
    pub began_us: u64,
    /// What each of [`STAGES`] took that it passed, one after the other; the last is all of it.
    pub stages_us: [Option<u64>; STAGES.len()],
}
