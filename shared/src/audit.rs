//! The audit log: what is recorded, how it is encrypted, and how anybody sees that none of it was changed (ADR 0027).
//!
//! ```text
//! Record ─ SegmentKey::seal_record ─▶ leaf: an encoded Entry ─ Tree::append ─▶ root ─ Checkpoint::sign ─▶ note
//!                                       the segment key, sealed to each reader, stands in the log itself
//! ```
//!
//! Guarantees: one key store and one boot have one log, which is an RFC 6962 Merkle tree over the entries' bytes; a record opens at
//! no other index, boot or key store than its own. Assumes: whoever appends makes one entry for each index. Refuses: entries,
//! records and checkpoints in any encoding but ours, or over their bounds.

use crate::ids::{BootId, KeyStoreId};

pub mod checkpoint;
pub mod entry;
pub mod record;
pub mod segment;
pub mod settings;
pub mod tree;

pub use self::checkpoint::{Checkpoint, CheckpointError};
pub use self::entry::{Entry, PreviousHead, SealedKey};
pub use self::record::{Event, Operation, Record, RequestRecord};
pub use self::segment::{SegmentError, SegmentKey, Unsealed};
pub use self::settings::{AuditMode, AuditSettings, Auditor, MaxUnwitnessed, Terms};
pub use self::tree::{Hash, Tree};

/// Which log: one for each key store and boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The boot.
    pub boot_id: BootId,
}

/// The longest beginning of `text` with at most `max` bytes that ends between two characters.
///
/// ```
/// # use holdfast_shared::audit::cut;
/// assert_eq!(cut("grün", 3), "gr");
/// assert_eq!(cut("grün", 9), "grün");
/// ```
#[must_use]
pub fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}
