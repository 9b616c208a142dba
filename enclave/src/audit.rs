//! The audit log (design, section 9; ADR 0027): one RFC 6962 tree for each key store and boot.
//!
//! ```text
//! request ─▶ AuditLog: encrypt, hash, queue ─▶ Pending ─ kept ─▶ Receipt ─▶ the gate is asked again ─▶ 200
//!                │ each second                    ▲ mode strict (its frames go first, and are stored at once)
//!                │                                └────────────── connection ◀─▶ parent's disk
//!                └─▶ signed head ─▶ custodians; f + 1 that acknowledge it make it witnessed
//! ```
//!
//! Guarantees: no answer with status 200 without a [`Receipt`], which only a log makes; what the parent has not stored is kept and sent
//! again; when the queue is full, or too much has no witness, nothing is answered with 200. Assumes: nothing of the parent: it sees
//! ciphertexts, and whoever verifies the log finds what it changed or left out. Refuses: nothing silently.

mod aside;
mod calls;
mod connection;
mod key;
mod log;
mod logs;
mod queue;
mod repeats;
mod segment;
mod unwitnessed;

pub(crate) use connection::keep_connected;
pub use key::{AuditKey, NoAuditKey};
pub use log::{AuditLog, Head, Pending, Receipt, Unrecorded, VersionInService};
pub use logs::{AuditLogs, TooManyLogs};
pub use segment::{NextSegment, Readers};
