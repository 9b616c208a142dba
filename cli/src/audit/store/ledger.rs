//! What was sent, in a file of the tool's own.
//!
//! Guarantees: the file is complete or as it was. It only saves questions: without it every object is looked at again, and an object that
//! is ahead of it is taken up where it is. Its size follows the number of logs in the folder, not what is in them.
//! Refuses: the ledger of another place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::bucket::Stored;
use super::names::LogName;
use crate::files::{self, FileError};
use crate::home;

/// Bytes of the file: some 100,000 logs.
const LEDGER_MAX: usize = 64 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    pages: Pages,
    is_changed: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Pages {
    /// Where everything was sent.
    to: String,
    /// By their logs.
    logs: BTreeMap<String, Page>,
}

/// What is known of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Files with a lower first index are finished and were sent, but for those in `again`.
    pub(super) finished_below: u64,
    /// First indexes of finished files that were not sent: the reason was told.
    pub(super) again: BTreeSet<u64>,
    /// By their names, files that grow.
    pub(super) growing: BTreeMap<String, Growing>,
}

/// What was sent of a file that grows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Growing {
    /// Bytes of the object.
    pub(super) size: u64,
    /// SHA-256 of them, in hexadecimal.
    pub(super) sha256: String,
    /// The service's name for them.
    pub(super) e_tag: Option<String>,
    /// Bytes of the file, when it was read: as long as it has no others, there is nothing to do.
    pub(super) seen: u64,
}

impl Growing {
    pub(super) fn of(stored: Stored, seen: u64) -> Self {
        let Stored { size, sha256, e_tag } = stored;
        Self { size, sha256, e_tag, seen }
    }

    pub(super) fn stored(&self) -> Stored {
        Stored { size: self.size, sha256: self.sha256.clone(), e_tag: self.e_tag.clone() }
    }
}

impl Ledger {
    /// The one in a file, or a new one.
    pub(super) fn open(path: &Path, to: &str) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Ledger { path: path.to_owned(), reason };
        let again = "; remove it: everything is then compared with its objects anew";
        let size = match path.symlink_metadata() {
            Ok(found) => usize::try_from(found.len()).unwrap_or(usize::MAX),
            Err(_) => 0,
        };
        let pages = match files::read(path, size.min(LEDGER_MAX)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| failed(format!("is no ledger of uploads ({error}){again}")))?,
            Err(FileError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Pages { to: to.to_owned(), logs: BTreeMap::new() }
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let Pages { to: other, .. } = &pages;
        if other != to {
            return Err(failed(format!("says what was sent to {other}; for {to} give another --state")));
        }
        Ok(Self { path: path.to_owned(), pages, is_changed: false })
    }

    pub(super) fn page(&self, log: LogName) -> Page {
        self.pages.logs.get(&log.to_string()).cloned().unwrap_or_default()
    }

    pub(super) fn turn(&mut self, log: LogName, page: Page) {
        if self.page(log) != page {
            self.pages.logs.insert(log.to_string(), page);
            self.is_changed = true;
        }
    }

    /// Forgets logs that are not here any more.
    pub(super) fn keep_only(&mut self, logs: &[LogName]) {
        let before = self.pages.logs.len();
        let logs: BTreeSet<String> = logs.iter().map(ToString::to_string).collect();
        self.pages.logs.retain(|log, _| logs.contains(log));
        self.is_changed |= self.pages.logs.len() != before;
    }

    /// Writes it, if it says something new.
    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        if !core::mem::take(&mut self.is_changed) {
            return Ok(());
        }
        files::replace(&self.path, home::to_json(&self.pages).as_bytes())
            .map_err(|error| StoreError::Ledger { path: self.path.clone(), reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let log = LogName { key_store_id: "ab".repeat(32).parse().unwrap(), boot_id: "cd".repeat(16).parse().unwrap() };
        let mut ledger = Ledger::open(&path, "s3://bucket/x").unwrap();
        ledger.save().unwrap();
        assert!(!path.exists(), "there is nothing to say");
        let growing = Growing { size: 1, sha256: "00".to_owned(), e_tag: Some("\"x\"".to_owned()), seen: 2 };
        let page = Page {
            finished_below: 7,
            again: BTreeSet::from([3]),
            growing: BTreeMap::from([("checkpoints".to_owned(), growing)]),
        };
        ledger.turn(log, page.clone());
        ledger.save().unwrap();
        let mut again = Ledger::open(&path, "s3://bucket/x").unwrap();
        assert_eq!(again.page(log), page);
        again.keep_only(&[]);
        again.save().unwrap();
        assert_eq!(Ledger::open(&path, "s3://bucket/x").unwrap().page(log), Page::default());

        let refused = Ledger::open(&path, "s3://bucket/y").unwrap_err().to_string();
        assert!(refused.contains("give another --state"), "{refused}");
        std::fs::write(&path, "{").unwrap();
        let refused = Ledger::open(&path, "s3://bucket/x").unwrap_err().to_string();
        assert!(refused.contains("remove it"), "{refused}");
    }
}
