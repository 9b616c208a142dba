//! Audit logs in object storage: sent there as they grow, and brought back.
//!
//! ```text
//! source (the parent's folder) ─▶ content (whole entries, hash) ─▶ upload (turn: one log, settle: one file) ─▶ bucket ─▶ connector ─▶ network
//!                                                 ledger (what was sent) ──┘                                 ▲
//!                                                 folder ◀─ download ─────────────────────────────────────────┘
//! ```
//!
//! Guarantees: an object is never replaced by less or by other content: what it held must be what the file begins with, and the store
//! itself checks that nothing came between (`If-Match`, `If-None-Match`). Nothing counts as stored that was not, whatever becomes of its file
//! meanwhile. Entries are stored before checkpoints that cover them, so that what is in the bucket verifies as far as what is here does. One file at a time is in memory, and a log's
//! checkpoints. Nothing is deleted, here or there.
//! Assumes: nothing of the bucket, whose content `holdfast audit verify` judges. Refuses: symbolic links, names that are not of a log,
//! plain HTTP to another machine.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::output::printable;

mod bucket;
mod connector;
mod content;
pub mod download;
mod ledger;
mod names;
pub mod place;
mod settle;
mod source;
pub mod upload;
pub mod watch;

/// What stops all of the work. What concerns one file is told, counted and no reason to stop.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The place is not one.
    #[error("{0}")]
    Place(String),
    /// The parent's folder, or the one to download to.
    #[error("{path}: {source}", path = printable(&path.display().to_string()))]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was sent is not known.
    #[error("{path}: {reason}", path = printable(&path.display().to_string()))]
    Ledger {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The store does not answer, or not to the end.
    #[error("{place}: {reason}")]
    Silent {
        /// Which.
        place: String,
        /// Why.
        reason: String,
    },
    /// The store said no.
    #[error("{place}: {reason}")]
    Store {
        /// Which.
        place: String,
        /// Why.
        reason: String,
    },
}

impl StoreError {
    fn folder(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Folder { path, source }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Objects, or files, that were written.
    pub written: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were there as they should be.
    pub skipped: u64,
    /// Those that could not be written, or must not be: each was named.
    pub failed: u64,
}

impl Summary {
    fn wrote(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    const fn skip(&mut self) {
        self.skipped = self.skipped.saturating_add(1);
    }

    const fn fail(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    /// Both together. What failed or was there counts as often as it was met last.
    #[must_use]
    pub const fn then(self, later: Self) -> Self {
        Self {
            written: self.written.saturating_add(later.written),
            bytes: self.bytes.saturating_add(later.bytes),
            skipped: later.skipped,
            failed: later.failed,
        }
    }
}

/// A summary of `holdfast audit upload`, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Uploaded {
    /// Objects that were written.
    pub uploaded: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files whose objects were there already.
    pub skipped: u64,
    /// Files that could not be sent, or must not be.
    pub failed: u64,
}

/// A summary of `holdfast audit download`, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Downloaded {
    /// Files that were written.
    pub downloaded: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there already.
    pub skipped: u64,
    /// Objects that could not be brought, or must not be.
    pub failed: u64,
}

impl From<Summary> for Uploaded {
    fn from(Summary { written: uploaded, bytes, skipped, failed }: Summary) -> Self {
        Self { uploaded, bytes, skipped, failed }
    }
}

impl From<Summary> for Downloaded {
    fn from(Summary { written: downloaded, bytes, skipped, failed }: Summary) -> Self {
        Self { downloaded, bytes, skipped, failed }
    }
}

impl fmt::Display for Uploaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uploaded, bytes, skipped, failed } = self;
        write!(f, "uploaded {uploaded} ({bytes} bytes), {skipped} were there already, {failed} failed")
    }
}

impl fmt::Display for Downloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { downloaded, bytes, skipped, failed } = self;
        write!(f, "downloaded {downloaded} ({bytes} bytes), {skipped} were there already, {failed} failed")
    }
}

#[cfg(test)]
mod tests;
