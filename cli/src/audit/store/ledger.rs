//! What was sent, in a file of the tool's own.
//!
//! Guarantees: the file is complete or as it was. It only saves questions: without it every object is looked at again, and an object that
//! is ahead of it is taken up where it is. Its size follows the number of logs in the folder, not what is in them, as long as
//! they have no gaps. Refuses: the ledger of another place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::bucket::Stored;
use super::content::Content;
use super::names::{FileName, LogName};
use super::source::Seen;
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
    /// Files that are finished and whose objects hold all of them, one behind the other from the first entry on.
    pub(super) finished: Finished,
    /// By first index, the other files of which something was sent.
    pub(super) files: BTreeMap<u64, Sent>,
    /// Of the file of checkpoints.
    pub(super) checkpoints: Option<Sent>,
}

/// Objects that are not to change any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Finished {
    /// How many.
    pub(super) count: u64,
    /// Entries before this one are in them.
    pub(super) until: u64,
    /// SHA-256 over this and over name, length and tag of each, one after the other.
    pub(super) digest: String,
}

impl Finished {
    /// With the next object.
    pub(super) fn with(&self, object: &FileName, size: u64, e_tag: &str, until: u64) -> Self {
        let line = format!("{}\n{}\n{size}\n{e_tag}\n", self.digest, object.as_str());
        let digest = hex::encode(ring::digest::digest(&ring::digest::SHA256, line.as_bytes()));
        Self { count: self.count.saturating_add(1), until, digest }
    }
}

/// What was sent of a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sent {
    /// Whether the object is of the compressed file.
    pub(super) compressed: bool,
    /// Bytes of the object.
    pub(super) size: u64,
    /// SHA-256 of them, in hexadecimal.
    pub(super) sha256: String,
    /// The service's name for them; none where the object is another one by now, or may be.
    pub(super) e_tag: Option<String>,
    /// The first entry that is not in it.
    pub(super) until: u64,
    /// Whether this was all of the file.
    pub(super) is_whole: bool,
    /// The file, when it was read: as long as it is the same, there is nothing to do.
    pub(super) seen: Option<Seen>,
}

impl Sent {
    pub(super) fn of(stored: Stored, content: &Content, seen: Seen, (compressed, first_index): (bool, u64)) -> Self {
        let Stored { size, sha256, e_tag } = stored;
        let (until, is_whole) = (first_index.saturating_add(content.entries), content.is_whole);
        Self { compressed, size, sha256, e_tag, until, is_whole, seen: Some(seen) }
    }

    /// The object, if it is still the one that was sent.
    pub(super) fn stored(&self) -> Option<Stored> {
        self.e_tag.as_ref()?;
        Some(Stored { size: self.size, sha256: self.sha256.clone(), e_tag: self.e_tag.clone() })
    }

    /// Nothing more is known of the object.
    pub(super) fn doubt(&mut self) {
        (self.e_tag, self.seen) = (None, None);
    }

    /// Whether the object is one with this length and tag.
    pub(super) fn is(&self, size: u64, e_tag: Option<&str>) -> bool {
        self.size == size && self.e_tag.is_some() && self.e_tag.as_deref() == e_tag
    }
}

impl Page {
    /// Counts a file as finished that follows on those which are, and of which all was sent; `next` is the first index of the file behind it.
    pub(super) fn finish(&mut self, first_index: u64, next: u64) {
        let Some(sent) = self.files.get(&first_index) else { return };
        let follows = first_index == self.finished.until && sent.until == next;
        if let Some(e_tag) = sent.e_tag.as_deref().filter(|_| follows) {
            let object = FileName::entries(first_index, sent.compressed);
            self.finished = self.finished.with(&object, sent.size, e_tag, sent.until);
            self.files.remove(&first_index);
        }
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
        if !self.is_changed {
            return Ok(());
        }
        files::replace(&self.path, home::to_json(&self.pages).as_bytes())
            .map_err(|error| StoreError::Ledger { path: self.path.clone(), reason: error.to_string() })?;
        self.is_changed = false;
        Ok(())
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
        let seen = Seen { compressed: false, bytes: 2, modified_ns: 3 };
        let (sha256, e_tag, until) = ("00".to_owned(), Some("\"x\"".to_owned()), 9);
        let sent = Sent { compressed: true, size: 1, sha256, e_tag, until, is_whole: true, seen: Some(seen) };
        let finished = Finished { count: 1, until: 7, digest: "00".to_owned() };
        let page = Page { finished, files: BTreeMap::from([(7, sent.clone())]), checkpoints: Some(sent) };
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

    #[test]
    fn only_what_follows_is_finished() {
        let sent = |until, e_tag: Option<&str>| Sent {
            compressed: false,
            size: 1,
            sha256: String::new(),
            e_tag: e_tag.map(str::to_owned),
            until,
            is_whole: true,
            seen: None,
        };
        let files = BTreeMap::from([(0, sent(2, Some("a"))), (2, sent(3, Some("b"))), (4, sent(5, Some("c")))]);
        let mut page = Page { files, ..Page::default() };
        page.finish(2, 3);
        assert_eq!(page.finished, Finished::default(), "the first is not");
        page.finish(0, 3);
        assert_eq!(page.finished, Finished::default(), "there is something between");
        page.finish(0, 2);
        assert_eq!((page.finished.count, page.finished.until), (1, 2));
        let name = |first_index| FileName::entries(first_index, false);
        assert_eq!(page.finished, Finished::default().with(&name(0), 1, "a", 2));
        assert_ne!(page.finished.digest, Finished::default().with(&name(0), 1, "A", 2).digest);
        page.finish(2, 3);
        page.finish(4, 5);
        assert_eq!((page.finished.count, page.finished.until, page.files.len()), (2, 3, 1), "entry 3 is nowhere");
        page.files.insert(3, sent(4, None));
        page.finish(3, 4);
        assert_eq!(page.finished.until, 3, "its object is not known");
    }
}
