//! One file of a log, by itself, chunk after chunk: what can be done for all files, and for all chunks, at the same time.
//!
//! Guarantees: memory is taken for one [`Chunk`] for whoever reads, however large the file is, and for [`KEPT_MAX`] entries in clear of
//! each file, whatever is in it.

use std::io;

use holdfast_shared::audit::entry::{Opening, Segment};
use holdfast_shared::audit::tree::{self, Range};
use holdfast_shared::audit::{Entry, LogId, Terms};
use holdfast_shared::cbor;
use holdfast_shared::ids::BootId;

use super::folder::{Entries, EntryReader, LogFile};

/// Bytes of an entry with its length.
const ENTRY_MAX: u64 = 20 * 1024;
/// Entries of a chunk: a power of two, so that each but the first and last of a file is one node of the tree.
const CHUNK_ENTRIES: u64 = 4096;
/// Bytes after which a chunk ends sooner: entries may have 16 KiB, and usually have 400 bytes.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Segments, and openings at wrong places, that are kept of a file and of a log, at 16 KiB each. A log has one opening, and another
/// segment when readers or settings change.
pub(super) const KEPT_MAX: usize = 64;

/// Some entries of a file, as they were read.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    first: u64,
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

/// What was read of a file.
#[derive(Debug)]
pub(super) struct Piece {
    /// Which of the file's pieces, from 0.
    pub(super) number: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// Whether it is the last.
    pub(super) is_last: bool,
    /// Whether the file ends with something other than a torn entry; or why it could not be read.
    pub(super) garbage: io::Result<bool>,
}

/// A file that is being read.
pub(super) struct FileReader {
    file: LogFile,
    entries: Option<EntryReader>,
    next: u64,
    pieces: u64,
    told: u64,
    has_ended: bool,
}

impl FileReader {
    pub(super) const fn of(file: LogFile) -> Self {
        let next = file.first_index;
        Self { file, entries: None, next, pieces: 0, told: 0, has_ended: false }
    }

    /// Reads on; nothing after the last piece. Each file has one, even if it is empty or cannot be read.
    pub(super) fn read(&mut self, chunk: &mut Chunk) -> Option<Piece> {
        if self.has_ended {
            return None;
        }
        let (is_last, garbage) = match self.fill(chunk) {
            Ok(is_last) => (is_last, Ok(self.entries.as_ref().is_some_and(|entries| entries.ends_in_garbage))),
            Err(error) => (true, Err(error)),
        };
        self.has_ended = is_last;
        let number = self.pieces;
        self.pieces = self.pieces.saturating_add(1);
        Some(Piece { number, bytes: self.bytes(), is_last, garbage })
    }

    /// How much more of the file was read. Of a compressed one it is known at the end.
    fn bytes(&mut self) -> u64 {
        let consumed = self.entries.as_ref().filter(|_| !self.file.compressed).map_or(0, |entries| entries.consumed);
        let all = if self.has_ended { self.file.size().max(consumed) } else { consumed };
        let more = all.saturating_sub(self.told);
        self.told = all;
        more
    }

    /// Whether the file ends with this chunk.
    fn fill(&mut self, chunk: &mut Chunk) -> io::Result<bool> {
        chunk.first = self.next;
        chunk.bytes.clear();
        chunk.lengths.clear();
        let entries = match &mut self.entries {
            Some(entries) => entries,
            none => none.insert(self.file.entries(0)?),
        };
        while chunk.bytes.len() < CHUNK_BYTES {
            let Some(length) = entries.read(&mut chunk.bytes)? else { return Ok(true) };
            chunk.lengths.push(length);
            self.next = self.next.saturating_add(1);
            if self.next.is_multiple_of(CHUNK_ENTRIES) {
                break;
            }
        }
        Ok(false)
    }
}

/// What a file, or a part of it, holds.
#[derive(Debug)]
pub(super) struct Scanned {
    /// All its leaves.
    pub(super) range: Range,
    /// Its leaves up to each size that was asked for.
    pub(super) marks: Vec<Mark>,
    /// Whether it begins at entry 0, with an opening.
    pub(super) is_opened: bool,
    /// Openings elsewhere, and whose: a log has one, at its beginning. The first [`KEPT_MAX`].
    pub(super) openings: Vec<(u64, BootId)>,
    /// All of these.
    pub(super) openings_count: u64,
    /// Segments, the first [`KEPT_MAX`].
    pub(super) segments: Vec<Segment>,
    /// Of the last segment.
    pub(super) terms: Option<Terms>,
    /// The first closing entry.
    pub(super) closing: Option<u64>,
    /// The first entry that is none of ours.
    pub(super) strange: Option<u64>,
    /// Whether something other than a torn entry follows the last one.
    pub(super) garbage: bool,
}

/// What a file holds up to a size.
#[derive(Debug)]
pub(super) struct Mark {
    /// Its leaves.
    pub(super) range: Range,
    /// Of the last segment among them.
    pub(super) terms: Option<Terms>,
}

impl Scanned {
    /// With what follows it in the file.
    pub(super) fn followed_by(mut self, next: Self) -> Self {
        for mark in &next.marks {
            let mut range = self.range.clone();
            if range.join(&mark.range) {
                self.marks.push(Mark { range, terms: mark.terms.or(self.terms) });
            }
        }
        // Chunks of one file touch.
        let _ = self.range.join(&next.range);
        self.openings.extend(next.openings);
        self.openings.truncate(KEPT_MAX);
        self.openings_count = self.openings_count.saturating_add(next.openings_count);
        self.segments.extend(next.segments);
        self.segments.truncate(KEPT_MAX);
        self.terms = next.terms.or(self.terms);
        self.closing = self.closing.or(next.closing);
        self.strange = self.strange.or(next.strange);
        self.garbage |= next.garbage;
        self
    }
}

/// Hashes a chunk whose leaves are wanted up to each of the sizes in `marks`, ascending.
pub(super) fn scan(chunk: &Chunk, marks: &[u64], garbage: bool) -> Scanned {
    let mut scanned = Scanned {
        range: Range::empty(chunk.first),
        marks: Vec::new(),
        is_opened: false,
        openings: Vec::new(),
        openings_count: 0,
        segments: Vec::new(),
        terms: None,
        closing: None,
        strange: None,
        garbage,
    };
    let from = marks.partition_point(|mark| *mark <= chunk.first);
    let mut marks = marks.iter().skip(from).copied().peekable();
    let mut rest = chunk.bytes.as_slice();
    for length in &chunk.lengths {
        let Some((entry, after)) = rest.split_at_checked(*length) else { break };
        rest = after;
        let index = scanned.range.end();
        scanned.range.append_hash(tree::leaf_hash(entry));
        match cbor::decode::<Entry>(entry) {
            Ok(Entry::Sealed(_)) => {}
            Ok(Entry::Opening(_)) if index == 0 => scanned.is_opened = true,
            Ok(Entry::Opening(opening)) => {
                scanned.openings_count = scanned.openings_count.saturating_add(1);
                if scanned.openings.len() < KEPT_MAX {
                    scanned.openings.push((index, opening.boot_id));
                }
            }
            Ok(Entry::Segment(segment)) => {
                scanned.terms = Some(segment.terms);
                if scanned.segments.len() < KEPT_MAX {
                    scanned.segments.push(segment);
                }
            }
            Ok(Entry::Closing) => scanned.closing = scanned.closing.or(Some(index)),
            Err(_) => scanned.strange = scanned.strange.or(Some(index)),
        }
        while marks.next_if_eq(&scanned.range.end()).is_some() {
            scanned.marks.push(Mark { range: scanned.range.clone(), terms: scanned.terms });
        }
    }
    scanned
}

/// The opening in a log's first file, if there is one.
pub(super) fn opening(file: &LogFile) -> Option<Opening> {
    let bytes = file.read_part(ENTRY_MAX).ok()?;
    match cbor::decode(Entries::of(&bytes).next()?) {
        Ok(Entry::Opening(opening)) => Some(opening),
        _ => None,
    }
}

/// Of which log an opening is.
pub(super) const fn log_of(opening: &Opening) -> LogId {
    LogId { key_store_id: opening.key_store_id, boot_id: opening.boot_id }
}
