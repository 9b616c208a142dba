//! One event per request, for logs and metrics (specification, section "Logging").
//!
//! Guarantees: an event holds no principal, no ARN, no plaintext and no ciphertext; the request id in it is bounded and
//! printable, so that it cannot forge lines of a log. Audit records are another matter (design, section 9).

use core::fmt;
use core::time::Duration;

use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits::LOGGED_REQUEST_ID_MAX;
use holdfast_shared::xks::{ErrorName, Operation};

use super::stages::StageTimes;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200.
    Success,
    /// 200 for anybody: the public proof.
    Proof,
    /// An error of the API.
    Error(ErrorName),
    /// 405.
    MethodNotAllowed,
    /// 421.
    Misdirected,
    /// The client went away, or took too long over the body.
    Aborted,
}

/// The start of a `kmsRequestId`: at most [`LOGGED_REQUEST_ID_MAX`] characters of the printable ASCII set, others shown as
/// `?`. KMS's field is opaque; a log line is not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LoggedRequestId {
    bytes: [u8; LOGGED_REQUEST_ID_MAX],
    len: usize,
}

impl LoggedRequestId {
    /// Cuts and cleans `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut id = Self { bytes: [0; LOGGED_REQUEST_ID_MAX], len: 0 };
        for (place, character) in id.bytes.iter_mut().zip(text.chars()) {
            *place = if character.is_ascii_graphic() { u8::try_from(character).unwrap_or(b'?') } else { b'?' };
            id.len += 1;
        }
        id
    }

    /// The text; empty if the request was not read so far.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl fmt::Debug for LoggedRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of one request. Fields are absent if the request was refused before they were known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestEvent {
    /// The key store, once routed.
    pub key_store: Option<KeyStoreId>,
    /// The operation, once routed.
    pub operation: Option<Operation>,
    /// `kmsRequestId`, once the signature was verified and the body parsed.
    pub kms_request_id: Option<LoggedRequestId>,
    /// How it ended.
    pub outcome: Outcome,
    /// From the request's head to its answer, in milliseconds.
    pub latency_ms: u64,
    /// Where its time went.
    pub times: StageTimes,
}

/// Receives events.
///
/// The contract: `observe` returns at once. It never blocks, takes no lock that is held across I/O, and drops (and counts)
/// events that it has no room for; it runs on the threads that serve connections.
pub trait RequestObserver: Send + Sync {
    /// Takes note of a request.
    fn observe(&self, event: RequestEvent);

    /// Takes note of a TLS handshake that succeeded.
    fn shook_hands(&self, _took: Duration) {}
}

/// Ignores every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl RequestObserver for NoObserver {
    fn observe(&self, _: RequestEvent) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_cut_and_cleaned() {
        let cases = [
            ("4112f4d6-db54-4af4-ae30-c55a22a8dfae".to_owned(), "4112f4d6-db54-4af4-ae30-c55a22a8dfae".to_owned()),
            ("a b\nc\u{1b}[31m\u{e9}".to_owned(), "a?b?c?[31m?".to_owned()),
            ("\u{1f600}".repeat(100), "?".repeat(64)),
            ("x".repeat(65), "x".repeat(64)),
            (String::new(), String::new()),
        ];
        for (text, expected) in cases {
            assert_eq!(LoggedRequestId::new(&text).as_str(), expected);
        }
    }
}
