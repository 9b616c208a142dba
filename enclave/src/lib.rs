//! The program inside the Nitro Enclave: attestation, leases, TLS, and the XKS proxy.
//!
//! ```text
//! parent ──control──▶ boot ─▶ fleet ─▶ custody (one task for each key store) ──egress──▶ custodian
//!                                         │ installs keys, leases, blocks
//!                                         ▼
//! KMS ─▶ parent ──ingress──▶ server (TLS, HTTP) ─▶ xks (the pipeline of a request) ─▶ directory
//!                                               each request ─▶ audit ──▶ parent's disk, custodians
//! ```
//!
//! Guarantees: see each module; `boot` lets nothing be attested before the configuration is measured, `custody` installs keys
//! only under a lease, `xks` answers only through its pipeline. Assumes: the NSM is genuine and the memory is the enclave's own.
//! Refuses: to learn anything but availability from the parent. What differs between an enclave and a laptop is a value of
//! [`Platform`], never a feature: this crate knows no emulator.

mod acme;
pub mod audit;
mod boot;
pub mod clock;
mod control;
mod custody;
pub mod directory;
mod entropy;
mod files;
mod fleet;
pub mod kms;
pub mod machine;
mod meter;
pub mod nsm;
mod report;
mod roster;
mod run;
pub mod server;
pub mod tally;
pub mod tls;
mod traces;
pub mod xks;

pub use boot::BootError;
pub use control::refuse;
pub use roster::AuthorityError;
pub use run::{Platform, RunError, run};
