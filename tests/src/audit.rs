//! What the parent keeps of audit logs, as one of their readers sees it.
//!
//! Guarantees: every entry was parsed, every record opened at its own index, and the last signed head that is kept is that of the tree
//! over the entries that it covers; otherwise the test fails. Assumes: no file is compressed, which a test's few records do not cause.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_link::audit::split_entry;
use holdfast_shared::audit::{Checkpoint, Entry, Event, LogId, Record, RequestRecord, SegmentKey, Tree};
use holdfast_shared::cbor;
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::{BootId, KeyStoreId};

/// One boot's log.
#[derive(Debug)]
pub struct KeptLog {
    /// Whose.
    pub id: LogId,
    /// Leaves of the tree.
    pub entries: Vec<Entry>,
    /// What the reader could open.
    pub records: Vec<Record>,
    /// The newest head.
    pub head: Option<Checkpoint>,
}

impl KeptLog {
    /// `kmsRequestId` of every request that was answered with success.
    pub fn answered(&self) -> impl Iterator<Item = &str> {
        self.requests()
            .filter(|request| request.error.is_none())
            .filter_map(|request| request.kms_request_id.as_deref())
    }

    /// Every request.
    pub fn requests(&self) -> impl Iterator<Item = &RequestRecord> {
        self.records.iter().filter_map(|record| match &record.what {
            Event::Request(request) => Some(&**request),
            _ => None,
        })
    }

    /// The boots whose heads it names.
    #[must_use]
    pub fn previous(&self) -> BTreeSet<BootId> {
        match self.entries.first() {
            Some(Entry::Opening(opening)) => opening.previous.iter().map(|head| head.boot_id).collect(),
            other => panic!("a log begins with its opening, not {other:?}"),
        }
    }
}

/// All logs of a key store in a parent's folder.
#[must_use]
pub fn kept_logs(folder: &Path, key_store_id: KeyStoreId, reader: &PrivateKey) -> Vec<KeptLog> {
    let folder = folder.join(key_store_id.to_string());
    let Ok(boots) = std::fs::read_dir(&folder) else { return Vec::new() };
    let boots = boots.map(|entry| entry.unwrap().path());
    boots.map(|boot| read(&boot, key_store_id, reader)).collect()
}

fn read(folder: &Path, key_store_id: KeyStoreId, reader: &PrivateKey) -> KeptLog {
    let boot_id = folder.file_name().and_then(|name| name.to_str()).unwrap().parse().unwrap();
    let id = LogId { key_store_id, boot_id };
    let mut log = KeptLog { id, entries: Vec::new(), records: Vec::new(), head: None };
    let text = std::fs::read_to_string(folder.join("checkpoints")).unwrap_or_default();
    log.head = notes(&text).last().map(|note| Checkpoint::parse(note).unwrap());
    let (mut key, mut tree) = (None, Tree::default());
    for file in files(folder) {
        let bytes = std::fs::read(&file).unwrap();
        let mut rest = bytes.as_slice();
        // What comes after the last whole entry is being written, or was when the parent was killed.
        while let Some((bytes, after)) = split_entry(rest) {
            rest = after;
            let index = tree.append(bytes);
            if log.head.is_some_and(|head| head.size == tree.size()) {
                assert_eq!(log.head.map(|head| head.root), Some(tree.root()), "the head of {id:?}");
            }
            let entry: Entry = cbor::decode(bytes).unwrap();
            match &entry {
                Entry::Segment(segment) => key = SegmentKey::open(segment, &id, reader).ok(),
                Entry::Sealed(sealed) => {
                    log.records.extend(key.as_ref().map(|key| key.open_record(&id, index, sealed).unwrap()));
                }
                Entry::Opening(_) | Entry::Closing => {}
            }
            log.entries.push(entry);
        }
    }
    if let Some(head) = log.head {
        assert!(head.size <= tree.size(), "a head comes after what it covers");
    }
    log
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    files.sort();
    files
}

/// One note after another, each followed by an empty line, as each has one within.
fn notes(text: &str) -> Vec<String> {
    let parts: Vec<_> = text.split("\n\n").filter(|part| !part.is_empty()).collect();
    parts.chunks_exact(2).map(|note| format!("{}\n\n{}\n", note[0], note[1])).collect()
}
