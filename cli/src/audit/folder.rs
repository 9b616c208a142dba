//! The files of a log, as the parent writes them.
//!
//! ```text
//! DIR/<key store id>/<boot id>/<index of the first entry, 16 digits>.log       (length u32 big endian ‖ entry)…
//!                              <index of the first entry, 16 digits>.log.zst   the same, compressed
//!                              checkpoints                                     signed notes, an empty line after each
//! ```
//! Guarantees: no file is read beyond [`FILE_MAX`], compressed or not; whoever reads entry by entry has one of them in memory; files of
//! other names are left alone.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::limits;

use crate::output::printable;

/// Bytes of one file, decompressed. The parent begins a new one after 16 MiB unless it is told otherwise.
pub const FILE_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes of the length that stands before each entry.
pub(super) const LENGTH: usize = 4;
/// Bytes that are read from a file at once.
const READ_BUFFER: usize = 256 * 1024;
/// Digits of an index in a file's name.
const INDEX_DIGITS: usize = 16;
/// The name of the file of checkpoints.
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// What cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder of a key store.
    #[error("{path} has no audit log of key store {key_store_id}; give --log the audit folder of the parent", path = shown(path))]
    NoLog {
        /// Where it was looked for.
        path: PathBuf,
        /// The key store.
        key_store_id: KeyStoreId,
    },
    /// A file or folder.
    #[error("cannot read {path}: {source}", path = shown(path))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A path as any terminal can show it.
pub(super) fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// The logs of one key store.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// One for each boot, sorted by boot.
    pub boots: Vec<BootFolder>,
}

/// The log of one boot.
#[derive(Clone, Debug)]
pub struct BootFolder {
    /// As the folder is named.
    pub boot_id: BootId,
    /// The folder.
    pub path: PathBuf,
    /// Its files, sorted by their first index.
    pub files: Vec<LogFile>,
}

/// One file of a log.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// By its name, the index of its first entry.
    pub first_index: u64,
    /// The file.
    pub path: PathBuf,
    /// Whether it is compressed.
    pub compressed: bool,
}

impl Folder {
    /// The logs of `key_store_id` in the parent's audit folder, or in the folder of that key store itself.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path, key_store_id: KeyStoreId) -> Result<Self, FolderError> {
        let own = path.join(key_store_id.to_string());
        let is_own = path.file_name().is_some_and(|name| name.to_str() == Some(&key_store_id.to_string()));
        let chosen = if own.is_dir() { own } else { path.to_owned() };
        if !chosen.is_dir() || (chosen == path && !is_own) {
            return Err(FolderError::NoLog { path: path.to_owned(), key_store_id });
        }
        let mut boots = Vec::new();
        for (name, path) in listing(&chosen)? {
            if let Some(boot_id) = exactly::<BootId>(&name)
                && path.is_dir()
            {
                boots.push(BootFolder::open(boot_id, path)?);
            }
        }
        boots.sort_by_key(|boot: &BootFolder| boot.boot_id);
        Ok(Self { key_store_id, boots })
    }
}

/// Only our own spelling: two folders of one boot would hide each other.
pub(super) fn exactly<T: FromStr + ToString>(name: &str) -> Option<T> {
    name.parse().ok().filter(|id: &T| id.to_string() == name)
}

impl BootFolder {
    /// The log in `path`.
    ///
    /// # Errors
    /// [`FolderError::Read`].
    pub fn open(boot_id: BootId, path: PathBuf) -> Result<Self, FolderError> {
        let mut files: Vec<LogFile> =
            listing(&path)?.into_iter().filter_map(|(name, path)| LogFile::named(&name, path)).collect();
        // Of a file and its compressed copy, which a crash may leave side by side, the first is enough.
        files.sort_by_key(|file| (file.first_index, file.compressed));
        files.dedup_by_key(|file| file.first_index);
        Ok(Self { boot_id, path, files })
    }

    /// Reads the checkpoints one by one. A note that a crash left incomplete at the end is not given.
    ///
    /// # Errors
    /// [`FolderError::Read`].
    pub fn checkpoints(&self, mut take: impl FnMut(&str)) -> Result<(), FolderError> {
        let path = self.path.join(CHECKPOINTS);
        let failed = |source| FolderError::Read { path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(failed)?,
        };
        let (mut reader, mut note, mut line) = (BufReader::new(file), String::new(), Vec::new());
        let line_max = u64::try_from(limits::AUDIT_CHECKPOINT_MAX).unwrap_or(u64::MAX);
        loop {
            line.clear();
            let read = reader.by_ref().take(line_max).read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&line);
            let is_signature = text.starts_with('\u{2014}');
            if !(note.is_empty() && text == "\n") && note.len() <= limits::AUDIT_CHECKPOINT_MAX {
                note.push_str(&text);
            }
            if is_signature && text.ends_with('\n') {
                take(&note);
                note.clear();
            }
        }
    }
}

/// By the name of a file of entries: the index of the first, and whether it is compressed.
pub(super) fn meaning(name: &str) -> Option<(u64, bool)> {
    let (digits, compressed) = match name.strip_suffix(".log.zst") {
        Some(digits) => (digits, true),
        None => (name.strip_suffix(".log")?, false),
    };
    let is_index = digits.len() == INDEX_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((is_index.then(|| digits.parse().ok())??, compressed))
}

/// The name that means this.
pub(super) fn spelled(first_index: u64, compressed: bool) -> String {
    let ending = if compressed { ".log.zst" } else { ".log" };
    format!("{first_index:0INDEX_DIGITS$}{ending}")
}

impl LogFile {
    fn named(name: &str, path: PathBuf) -> Option<Self> {
        let (first_index, compressed) = meaning(name)?;
        Some(Self { first_index, path, compressed })
    }

    /// Bytes on disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// At most the first `max` bytes, decompressed.
    pub(super) fn read_part(&self, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(0)?.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The entries after the first `skip` bytes, one by one.
    ///
    /// # Errors
    /// When it cannot be opened or decompressed.
    pub fn entries(&self, skip: u64) -> io::Result<EntryReader> {
        Ok(EntryReader {
            source: self.open(skip)?.take(FILE_MAX.saturating_add(1)),
            consumed: 0,
            ends_in_garbage: false,
        })
    }

    fn open(&self, skip: u64) -> io::Result<Box<dyn BufRead + Send>> {
        let mut file = File::open(&self.path)?;
        if !self.compressed {
            file.seek(SeekFrom::Start(skip))?;
            return Ok(Box::new(BufReader::with_capacity(READ_BUFFER, file)));
        }
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(file))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        io::copy(&mut decoder.by_ref().take(skip), &mut io::sink())?;
        Ok(Box::new(BufReader::with_capacity(READ_BUFFER, decoder)))
    }
}

/// The entries of a file, read one after another.
pub struct EntryReader {
    source: io::Take<Box<dyn BufRead + Send>>,
    /// Bytes of the whole entries that were given.
    pub consumed: u64,
    /// At the end: whether something other than a torn entry follows the last one.
    pub ends_in_garbage: bool,
}

impl EntryReader {
    /// Appends the next entry to `bytes` and returns its length; nothing where no whole entry follows.
    ///
    /// # Errors
    /// When the file cannot be read or decompressed, or has more than [`FILE_MAX`] bytes.
    pub fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let mut length = [0; LENGTH];
        if !self.fill(&mut length)? {
            return Ok(None);
        }
        let Some(length) = entry_length(length) else {
            self.ends_in_garbage = true;
            return Ok(None);
        };
        let before = bytes.len();
        bytes.resize(before.saturating_add(length), 0);
        let is_whole = bytes.get_mut(before..).map_or(Ok(false), |place| self.fill(place))?;
        if !is_whole {
            bytes.truncate(before);
            return Ok(None);
        }
        self.consumed = self.consumed.saturating_add(framed(length));
        Ok(Some(length))
    }

    /// Whether there was as much.
    fn fill(&mut self, place: &mut [u8]) -> io::Result<bool> {
        match self.source.read_exact(place) {
            Ok(()) => Ok(true),
            Err(_) if self.source.limit() == 0 => Err(too_large()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "has more than 1 GiB, so it is no file of a log")
}

/// The length that stands before an entry, if an entry can have it.
pub(super) fn entry_length(bytes: [u8; LENGTH]) -> Option<usize> {
    let length = usize::try_from(u32::from_be_bytes(bytes)).ok()?;
    (1..=limits::AUDIT_ENTRY_MAX).contains(&length).then_some(length)
}

/// Bytes of an entry with its length.
fn framed(length: usize) -> u64 {
    u64::try_from(length.saturating_add(LENGTH)).unwrap_or(u64::MAX)
}

/// The entries that stand in the bytes of a file, one after another.
#[derive(Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    /// Bytes of the whole entries that were given.
    pub consumed: u64,
}

impl<'a> Entries<'a> {
    /// Of a file's bytes.
    #[must_use]
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, consumed: 0 }
    }

    /// What follows the last whole entry: nothing, or what a crash left, or what is no entry.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, after) = self.rest.split_first_chunk::<LENGTH>()?;
        let length = entry_length(*length)?;
        let (entry, rest) = after.split_at_checked(length)?;
        self.rest = rest;
        self.consumed = self.consumed.saturating_add(framed(length));
        Some(entry)
    }
}

/// Names and paths in a folder.
fn listing(path: &Path) -> Result<Vec<(String, PathBuf)>, FolderError> {
    let failed = |source| FolderError::Read { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        found.extend(entry.file_name().to_str().map(|name| (name.to_owned(), entry.path())));
    }
    Ok(found)
}
