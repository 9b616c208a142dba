//! The audit log as the parent keeps it: read, verified, searched, stored elsewhere. All but the last works offline, on files.
//!
//! ```text
//! folder (files, entries) ─▶ scan (chunk by chunk, in parallel) ─▶ boot (one log, file after file) ─▶ verify (all logs together)
//!        │                                                           └─ diagnose (what was changed)         ▲
//!        ├─▶ records (decrypted, filtered) ─┬─▶ replay (what another policy says)      heads (custodians) ──┘
//!        │                                  ├─▶ usage (who used what)
//!        │                                  └─▶ reconcile ◀─ cloudtrail (what AWS says)
//!        ├─▶ prove (one entry, for outsiders)
//!        └─▶ store (object storage, and back)
//! ```
//!
//! Guarantees: whatever is not named in a report follows from a signature of a boot's audit key over a Merkle tree. Assumes: nothing of
//! the folder; its owner may have changed every byte. Refuses: files over [`folder::FILE_MAX`], entries over their bound.

mod boot;
pub mod cloudtrail;
mod diagnose;
pub mod findings;
pub mod folder;
pub mod heads;
mod parallel;
pub mod prove;
pub mod reconcile;
pub mod records;
pub mod replay;
mod scan;
pub mod standing;
pub mod store;
pub mod usage;
pub mod verify;
