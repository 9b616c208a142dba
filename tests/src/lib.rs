//! What the tests across processes share: the programs as processes, a parent that can be made hostile, and a reader of other
//! processes' memory.
//!
//! ```text
//! client ─▶ holdfast-parent ─[ingress]─▶ holdfast-dev enclave ─▶ holdfast-dev nsm
//!                 ▲                        │      │
//!                 └──────[control]─────────┘  [egress]
//!                                                 ▼
//!                            holdfast-parent ─[custodian]─▶ holdfast-custodian ◀─ holdfast
//! ```
//!
//! Every name in brackets can be a [`tap::Tap`]: a proxy in the test's own process that records, changes, holds back, cuts or
//! replays bytes. Guarantees: every process that a test starts ends with it; a log line with a panic fails the test that
//! started the process. Assumes: the programs were built in the same profile (`cargo nextest run --workspace` builds them).
//! Refuses: to run anything else than those programs.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a harness fails its test by panicking"
)]

pub mod acme;
pub mod applicant;
pub mod audit;
pub mod aws;
pub mod client;
pub mod curl;
pub mod diverter;
pub mod documents;
pub mod flood;
pub mod fuzz;
pub mod hostile;
pub mod instance;
pub mod interceptor;
pub mod key_servers;
pub mod kms;
pub mod load;
pub mod memory;
pub mod object_server;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod python;
pub mod random;
pub mod reference;
pub mod signers;
pub mod softhsm;
pub mod system;
pub mod tap;
pub mod wait;
pub mod webhook;
pub mod witness;
pub mod xks_proxy;
