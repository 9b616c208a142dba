//! holdfast, the operator's tool: an administrator's keys, and everything that is ordered with them.
//!
//! Guarantees: whatever the tool shows of an enclave was proven by an attestation document that it verified itself, under the
//! trust root and the measurements in the manifest; no secret is printed unless that was asked for. Assumes: the machine that
//! it runs on is the administrator's, and its clock is right within minutes. Refuses: keys that others can read, files that
//! would be overwritten, answers that nobody signed.
//!
//! ```text
//! arguments ─▶ app ─▶ commands::* ─▶ session (sign, send to one or all, wait, open) ─▶ evidence (verify) ─▶ words, output
//!                                       └─ home (keys, manifests, what was seen)
//! ```

pub mod app;
pub mod arguments;
pub mod audit;
pub mod commands;
pub mod doctor;
pub mod evidence;
pub mod files;
pub mod home;
mod kind;
pub mod moment;
pub mod output;
pub mod progress;
pub mod session;
pub mod words;
