//! What is done about one file and its object.
//!
//! ```text
//! nothing was sent   ─▶ create  ─┬─▶ sent
//! something was sent ─▶ replace ─┤
//!                                └─ another one is there ─▶ look ─┬─ none ─▶ create
//!                                                                 ├─ what the file begins with ─▶ replace
//!                                                                 └─ anything else ─▶ a mismatch
//! ```
//! Guarantees: an object is replaced only by a file that begins with its content.

use core::fmt;

use super::StoreError;
use super::bucket::{Bucket, Stored, Written};
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
            Self::Busy => f.write_str("somebody else writes the object at the same time"),
        }
    }
}

/// Brings the object to what the file holds. `known` is what was sent before.
pub(super) async fn settle(
    bucket: &Bucket,
    (log, name): (LogName, &FileName),
    content: &Content,
    known: Option<Stored>,
) -> Result<Settled, StoreError> {
    let was_known = known.is_some();
    let first = match known {
        None => bucket.create(log, name, content).await?,
        Some(known) if !content.begins_with(known.size, &known.sha256) => {
            let (file, object) = (content.size, known.size);
            let is_less = file < object;
            let mismatch = if is_less { Mismatch::Shorter { file, object } } else { Mismatch::FileChanged { object } };
            return Ok(Settled::Not(mismatch));
        }
        Some(known) if known.size == content.size => return Ok(Settled::Same(known)),
        Some(known) => bucket.replace(log, name, content, &known).await?,
    };
    if let Written::Done(stored) = first {
        return Ok(Settled::Sent { stored, was_deleted: false });
    }
    // Another run was here, somebody altered it, or it is gone.
    let Some(found) = bucket.look(log, name).await? else {
        let made = bucket.create(log, name, content).await?;
        return Ok(written(made, was_known));
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
