//! What is done about one file and its object.
//!
//! ```text
//! nothing was sent   ─▶ create  ─┬─▶ sent
//! something was sent ─▶ replace ─┤
//!                                └─ another one is there ─┐
//! one was in the listing ─────────────────────────────────┴▶ look ─┬─ none ─▶ create
//!                                                                  ├─ what the file begins with ─▶ replace
//!                                                                  └─ anything else ─▶ a mismatch
//! ```
//! Guarantees: an object is replaced only by a file that begins with its content. One that was not sent by this program, or is not the one that
//! was, counts as there only once its bytes were read and have the hash of the file's.

use core::fmt;

use super::StoreError;
use super::bucket::{Bucket, Found, Stored, Written};
use super::content::Content;
use super::names::{FileName, LogName};

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The object holds it since now.
    Sent {
        stored: Stored,
        /// Whether it was sent before, and its object had been deleted.
        was_deleted: bool,
    },
    /// The object held it.
    Same(Stored),
    /// Nothing was done.
    Not(Mismatch),
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing, so that there may be none.
    Nothing,
    /// That there is one.
    Listed,
    /// What was sent.
    Sent(Stored),
}

/// Why an object stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// The file lost what was sent of it.
    Shorter { file: u64, object: u64 },
    /// The file begins with other bytes than were sent.
    FileChanged { object: u64 },
    /// The object is not what was sent.
    Altered { object: u64 },
    /// Nobody knows what was sent; the object is not what the file begins with.
    Differs { file: u64, object: u64 },
    /// Somebody else writes it.
    Busy,
    /// The store does not let it be read.
    Unreadable(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shorter { file, object } => {
                write!(
                    f,
                    "the file has {file} bytes, and its object {object}: the file lost some, and the object is kept"
                )
            }
            Self::FileChanged { object } => {
                write!(
                    f,
                    "the file does not begin with the {object} bytes that were sent of it: it was changed here, and the object is kept"
                )
            }
            Self::Altered { object } => {
                write!(
                    f,
                    "the object ({object} bytes) is not what was sent: it was altered in the bucket, and is left as it is"
                )
            }
            Self::Differs { file, object } => write!(
                f,
                "the object ({object} bytes) is not what the file ({file} bytes) begins with: one of them was altered, and the object is left as it is"
            ),
            Self::Unreadable(reason) => write!(f, "the object cannot be compared with the file: {reason}"),
            Self::Busy => f.write_str("somebody else writes the object at the same time"),
        }
    }
}

/// Brings the object to what the file holds.
pub(super) async fn settle(
    bucket: &Bucket,
    (log, name): (LogName, &FileName),
    content: &Content,
    known: Known,
) -> Result<Settled, StoreError> {
    let was_known = matches!(known, Known::Sent(_));
    let first = match known {
        Known::Nothing => bucket.create(log, name, content).await?,
        Known::Listed => Written::Otherwise,
        Known::Sent(known) if !content.begins_with(known.size, &known.sha256) => {
            let (file, object) = (content.size, known.size);
            let is_less = file < object;
            let mismatch = if is_less { Mismatch::Shorter { file, object } } else { Mismatch::FileChanged { object } };
            return Ok(Settled::Not(mismatch));
        }
        Known::Sent(known) if known.size == content.size => return Ok(Settled::Same(known)),
        Known::Sent(known) => bucket.replace(log, name, content, &known).await?,
    };
    if let Written::Done(stored) = first {
        return Ok(Settled::Sent { stored, was_deleted: false });
    }
    // Another run was here, somebody altered it, or it is gone.
    let found = match bucket.look(log, name).await? {
        Found::Object(found) => found,
        Found::Unreadable(reason) => return Ok(Settled::Not(Mismatch::Unreadable(reason))),
        Found::Nothing => {
            let made = bucket.create(log, name, content).await?;
            return Ok(written(made, was_known));
        }
    };
    if !content.begins_with(found.size, &found.sha256) {
        let (file, object) = (content.size, found.size);
        let mismatch = if was_known {
            Mismatch::Altered { object }
        } else if file < object {
            Mismatch::Shorter { file, object }
        } else {
            Mismatch::Differs { file, object }
        };
        return Ok(Settled::Not(mismatch));
    }
    if found.size == content.size {
        return Ok(Settled::Same(found));
    }
    Ok(written(bucket.replace(log, name, content, &found).await?, false))
}

fn written(written: Written, was_deleted: bool) -> Settled {
    match written {
        Written::Done(stored) => Settled::Sent { stored, was_deleted },
        Written::Otherwise => Settled::Not(Mismatch::Busy),
    }
}
