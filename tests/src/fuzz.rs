//! Fuzz targets: what hostile bytes may do at each door, as functions that stable tests and libFuzzer share.
//!
//! ```text
//! fuzz/fuzz_targets/NAME.rs ─▶ NAME(data) ◀─ tests/tests/corpora.rs (every file of tests/corpora/NAME, and every seed)
//! ```
//!
//! Guarantees: a target states properties (one encoding, bounds, two independent readers that agree, nothing unsigned that
//! verifies), and fails by panicking where one does not hold; the same bytes give the same verdict in every process, so that
//! a file that was found once fails for ever. Assumes: allocation limits and time limits are the fuzzer's (`docs/fuzzing.md`).
//! Refuses: nothing.

mod attestation;
mod audit;
mod cbor_reader;
mod dns;
mod doors;
mod evidence;
mod external_key;
mod http;
mod input;
mod json;
mod kms;
mod link;
mod messages;
mod names;
mod party;
mod policy;
mod proof;
mod sealed;
pub mod seeds;
mod sigv4;
mod xks;

pub use attestation::{attestation_certificate, attestation_document, attestation_signed};
pub use audit::{audit_checkpoint, audit_file};
pub use dns::dns_answers;
pub use doors::signed_messages;
pub use evidence::cli_evidence;
pub use external_key::external_key_messages;
pub use http::http_connection;
pub use kms::kms_answer;
pub use link::{link_frames, link_text, static_configuration};
pub use messages::cbor_messages;
pub use names::{names, request_path};
pub use policy::use_policy;
pub use proof::{image_measurements, proof_query};
pub use sealed::{hpke_payloads, release_messages, sealed_channel, sealed_key_store};
pub use sigv4::{sigv4_authorization, sigv4_claim};
pub use xks::xks_bodies;

/// What a target's subject said to the bytes. Seeds must be accepted, or they would not lead anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes went all the way through.
    Accepted,
    /// They were refused, as they should be.
    Refused,
}

impl From<bool> for Verdict {
    fn from(accepted: bool) -> Self {
        if accepted { Self::Accepted } else { Self::Refused }
    }
}

/// A target and its name: that of its function, of `fuzz/fuzz_targets/NAME.rs` and of `tests/corpora/NAME`.
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]) -> Verdict,
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $name }),*];
    };
}

targets![
    attestation_certificate,
    attestation_document,
    attestation_signed,
    audit_checkpoint,
    audit_file,
    cbor_messages,
    cli_evidence,
    dns_answers,
    external_key_messages,
    hpke_payloads,
    http_connection,
    image_measurements,
    kms_answer,
    link_frames,
    link_text,
    names,
    proof_query,
    release_messages,
    request_path,
    sealed_channel,
    sealed_key_store,
    signed_messages,
    sigv4_authorization,
    sigv4_claim,
    static_configuration,
    use_policy,
    xks_bodies,
];
