//! A log's records, one after another, as far as one of the keys opens them.
//!
//! Guarantees: what does not open is counted, with the times around it. Bounded: [`SPANS_MAX`] of these.

use std::path::PathBuf;

use holdfast_shared::audit::{Checkpoint, Entry, LogId, SegmentKey};
use holdfast_shared::cbor;
use holdfast_shared::hpke::PrivateKey;

use super::Line;
use crate::audit::folder::{BootFolder, Folder, FolderError};

/// Spans of records that do not open, of one log: readers change less often. What is in further ones is not excused.
const SPANS_MAX: usize = 1_000;
/// Bytes between two reports of progress.
const TOLD_EACH: u64 = 1024 * 1024;

/// Reads one log on, as far as it goes, and goes on from there the next time.
#[derive(Debug)]
pub struct Cursor {
    log: LogId,
    path: PathBuf,
    /// Index of the first entry of the file that is being read, and how many bytes of it were.
    at: Option<(u64, u64)>,
    next: u64,
    key: Option<SegmentKey>,
    /// Of the last record that opened, milliseconds since 1970; before the first, when the log was opened.
    last_ms: Option<u64>,
    /// Times around records that do not open, and whether the next record that opens ends the last of them.
    spans: Vec<(u64, u64)>,
    is_span_open: bool,
    /// Records that none of the keys opens.
    pub unopened: u64,
}

impl Cursor {
    /// At the beginning of a log.
    #[must_use]
    pub const fn new(log: LogId, path: PathBuf) -> Self {
        Self {
            log,
            path,
            at: None,
            next: 0,
            key: None,
            last_ms: None,
            spans: Vec::new(),
            is_span_open: false,
            unopened: 0,
        }
    }

    /// Which log.
    #[must_use]
    pub const fn log(&self) -> LogId {
        self.log
    }

    /// Reads what was added since the last time.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn read(&mut self, readers: &[PrivateKey], take: &mut dyn FnMut(Line)) -> Result<(), FolderError> {
        self.read_with(readers, &|_| (), take)
    }

    /// The same; `progress` is told how many more bytes of files were read.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn read_with(
        &mut self,
        readers: &[PrivateKey],
        progress: &dyn Fn(u64),
        take: &mut dyn FnMut(Line),
    ) -> Result<(), FolderError> {
        let folder = BootFolder::open(self.log.boot_id, self.path.clone())?;
        for file in &folder.files {
            let skip = match self.at {
                Some((first, _)) if file.first_index < first => continue,
                Some((first, skip)) if file.first_index == first => skip,
                _ => {
                    self.next = file.first_index;
                    0
                }
            };
            let failed = |source| FolderError::Read { path: file.path.clone(), source };
            let mut entries = file.entries(skip).map_err(failed)?;
            let (mut entry, mut told) = (Vec::new(), 0_u64);
            while entries.read(&mut entry).map_err(failed)?.is_some() {
                self.take(&entry, readers, take);
                self.next = self.next.saturating_add(1);
                entry.clear();
                let more = entries.consumed.saturating_sub(told);
                if more >= TOLD_EACH && !file.compressed {
                    progress(more);
                    told = entries.consumed;
                }
            }
            progress(file.size().saturating_sub(skip).saturating_sub(told));
            self.at = Some((file.first_index, skip.saturating_add(entries.consumed)));
        }
        Ok(())
    }

    fn take(&mut self, entry: &[u8], readers: &[PrivateKey], take: &mut dyn FnMut(Line)) {
        match cbor::decode::<Entry>(entry) {
            Ok(Entry::Segment(segment)) => {
                self.key = readers.iter().find_map(|reader| SegmentKey::open(&segment, &self.log, reader).ok());
            }
            Ok(Entry::Sealed(sealed)) => {
                let opened = self.key.as_ref().and_then(|key| key.open_record(&self.log, self.next, &sealed).ok());
                match opened {
                    Some(record) => {
                        self.end_span(record.at_ms);
                        self.last_ms = Some(record.at_ms);
                        take(Line { log: self.log, index: self.next, record });
                    }
                    None => self.miss(),
                }
            }
            Ok(Entry::Opening(opening)) => self.last_ms = self.last_ms.or(Some(opening.opened_ms)),
            Ok(Entry::Closing) | Err(_) => {}
        }
    }

    fn miss(&mut self) {
        self.unopened = self.unopened.saturating_add(1);
        if let Some(last_ms) = self.last_ms.filter(|_| !self.is_span_open && self.spans.len() < SPANS_MAX) {
            self.spans.push((last_ms, last_ms));
            self.is_span_open = true;
        }
    }

    /// A span reaches to the first record after it.
    fn end_span(&mut self, at_ms: u64) {
        if let Some(span) = self.spans.last_mut().filter(|_| self.is_span_open) {
            span.1 = span.1.max(at_ms);
        }
        self.is_span_open = false;
    }

    /// What does not open. The last of the spans reaches to the log's newest checkpoint where no record that opens follows: what was
    /// written behind that one, anybody may have written.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn into_unopened(mut self) -> Result<Unopened, FolderError> {
        if self.is_span_open {
            let folder = BootFolder::open(self.log.boot_id, self.path.clone())?;
            let mut newest = 0;
            folder.checkpoints(|text| {
                let of_log = Checkpoint::parse(text).ok().filter(|checkpoint| checkpoint.log == self.log);
                newest = of_log.map_or(newest, |checkpoint| checkpoint.time_ms.max(newest));
            })?;
            self.end_span(newest);
        }
        Ok(Unopened { records: self.unopened, spans: self.spans })
    }
}

/// Records that none of the keys opens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unopened {
    /// How many.
    pub records: u64,
    /// From when to when they are, milliseconds since 1970: the records that open before and after them say so.
    pub spans: Vec<(u64, u64)>,
}

impl Unopened {
    /// Takes those of another log.
    pub fn add(&mut self, other: Self) {
        self.records = self.records.saturating_add(other.records);
        self.spans.extend(other.spans);
    }

    /// Whether one may be of a moment that is known in seconds.
    #[must_use]
    pub fn may_hold(&self, at_ms: u64) -> bool {
        self.spans.iter().any(|&(from, to)| from <= at_ms.saturating_add(999) && at_ms <= to)
    }
}

/// A cursor for each log, in the order in which the logs were opened.
#[must_use]
pub fn cursors(folder: &Folder) -> Vec<Cursor> {
    let mut boots: Vec<_> = folder
        .boots
        .iter()
        .map(|boot| (boot.files.first().and_then(crate::audit::scan::opening).map(|opening| opening.opened_ms), boot))
        .collect();
    boots.sort_by_key(|(opened_ms, boot)| (*opened_ms, boot.boot_id));
    let cursor = |boot: &BootFolder| {
        Cursor::new(LogId { key_store_id: folder.key_store_id, boot_id: boot.boot_id }, boot.path.clone())
    };
    boots.into_iter().map(|(_, boot)| cursor(boot)).collect()
}
