//! One audit log on disk: the entries of one key store and boot, in files named after the index of their first entry.
//!
//! Guarantees: what [`Log::commit`] returns after is on disk, entry after entry without a gap; after a crash at any point each
//! file begins with whole entries, and what follows them is put aside before the next entry is written. No entry that is on
//! disk is overwritten or deleted here. Assumes: nobody else writes into the folder.
//!
//! ```text
//! KEY STORE ID/BOOT ID/0000000000000000.log   (length 4, big endian ‖ entry)…
//!                      0000000000004711.log   …from entry 4711 on
//!                      0000000000004750.torn  what followed entry 4749 after a crash, and is no entry
//!                      checkpoints            see `heads`
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_link::audit::{Entries, whole_entries};
use holdfast_link::limits::{AUDIT_ENTRY_HEADER_LEN, AUDIT_ENTRY_MAX, AUDIT_FRAME_MAX};

/// Digits of an index in a file's name, so that names sort as their indexes do.
const INDEX_DIGITS: usize = 16;

/// A log that is open. It keeps no file open: there may be thousands of logs.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    rotate_bytes: u64,
    file: LogFile,
    /// The index of the entry after those on disk.
    next_index: u64,
    /// What is to be written.
    pending: Vec<Entries>,
}

/// The file that grows.
#[derive(Debug)]
struct LogFile {
    first_index: u64,
    /// Bytes of it that are on disk and that count.
    size: u64,
}

/// What was found when a log was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes after the last whole entry, which are put aside.
    pub(super) torn_bytes: u64,
    /// Entries that the enclave was told are on disk, and that are not.
    pub(super) missing: u64,
}

/// What was written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Log {
    /// Opens the log in `folder`, which is made below `root` if it is missing, for an enclave that has the entries `from` on.
    pub(super) fn open(root: &Path, folder: &Path, from: u64, rotate_bytes: u64) -> io::Result<(Self, Found)> {
        make_folder(folder)?;
        for made in folder.ancestors().take_while(|folder| folder.starts_with(root)) {
            sync_folder(made)?;
        }
        let at = |first_index, size, next_index| Self {
            folder: folder.to_owned(),
            rotate_bytes,
            file: LogFile { first_index, size },
            next_index,
            pending: Vec::new(),
        };
        let Some(first_index) = first_indexes(folder)?.into_iter().max() else {
            return Ok((at(from, 0, from), Found { torn_bytes: 0, missing: from }));
        };
        let Kept { entries, size, torn_bytes } = keep_whole(folder, first_index)?;
        let next_index = first_index.saturating_add(entries);
        let missing = from.saturating_sub(next_index);
        let log = if missing > 0 { at(from, 0, from) } else { at(first_index, size, next_index) };
        Ok((log, Found { torn_bytes, missing }))
    }

    /// The index of the entry after those on disk.
    pub(super) const fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Whether something is to be written.
    pub(super) const fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes that are to be written.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|entries| entries.as_bytes().len()).sum()
    }

    /// Takes entries to be written. False when they do not come right after the last ones.
    #[must_use]
    pub(super) fn append(&mut self, first_index: u64, entries: Entries) -> bool {
        let waiting = self.pending.iter().map(|entries| u64::from(entries.count())).sum();
        if self.next_index.checked_add(waiting) != Some(first_index) {
            return false;
        }
        self.pending.push(entries);
        true
    }

    /// Writes what is to be written, and waits until it is on disk. After an error, call it again: what is on disk stays, and the
    /// rest is written anew.
    pub(super) fn commit(&mut self) -> io::Result<Written> {
        let mut written = Written::default();
        while let Some(first) = self.pending.first() {
            if self.file.size > 0 && !fits(self.file.size, first, self.rotate_bytes) {
                self.file = LogFile { first_index: self.next_index, size: 0 };
            }
            let Some(mut file) = self.file_to_write()? else {
                // Someone cut the file short or deleted it. What is there stays as it is; the gap is for the verifier to name.
                tracing::error!(folder = %self.folder.display(), "a file of an audit log lost what was on disk");
                self.file = LogFile { first_index: self.next_index, size: 0 };
                continue;
            };
            let (mut size, mut entries, mut taken) = (self.file.size, 0, 0);
            for batch in &self.pending {
                if size > 0 && !fits(size, batch, self.rotate_bytes) {
                    break;
                }
                file.write_all(batch.as_bytes())?;
                size = size.saturating_add(length_of(batch));
                entries += u64::from(batch.count());
                taken += 1;
            }
            file.sync_data()?;
            if self.file.size == 0 {
                sync_folder(&self.folder)?;
            }
            written.entries += entries;
            written.bytes += size - self.file.size;
            self.file.size = size;
            self.next_index = self.next_index.saturating_add(entries);
            self.pending.drain(..taken);
        }
        Ok(written)
    }

    /// The file, cut to what counts (an attempt that failed may have left more), at its end; `None` where it is shorter.
    fn file_to_write(&self) -> io::Result<Option<File>> {
        let path = path_of(&self.folder, self.file.first_index);
        let opened = options().write(true).create(self.file.size == 0).truncate(false).open(path);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.file.size > 0 => return Ok(None),
            opened => opened?,
        };
        let length = file.metadata()?.len();
        if length < self.file.size {
            return Ok(None);
        }
        if length > self.file.size {
            file.set_len(self.file.size)?;
        }
        file.seek(SeekFrom::Start(self.file.size))?;
        Ok(Some(file))
    }
}

/// What of a file is whole entries.
struct Kept {
    entries: u64,
    size: u64,
    torn_bytes: u64,
}

/// Counts the entries of a file, puts what follows them aside, and sees to it that they are on disk: whoever wrote them may have
/// ended before that.
fn keep_whole(folder: &Path, first_index: u64) -> io::Result<Kept> {
    let mut file = options().read(true).write(true).open(path_of(folder, first_index))?;
    let length = file.metadata()?.len();
    let (entries, size) = count(&mut file)?;
    let torn_bytes = length.saturating_sub(size);
    if torn_bytes > 0 {
        let aside = folder.join(format!("{:0INDEX_DIGITS$}.torn", first_index.saturating_add(entries)));
        let mut aside = options().append(true).create(true).open(aside)?;
        file.seek(SeekFrom::Start(size))?;
        io::copy(&mut file, &mut aside)?;
        aside.sync_all()?;
        sync_folder(folder)?;
        file.set_len(size)?;
    }
    file.sync_data()?;
    Ok(Kept { entries, size, torn_bytes })
}

/// Whole entries from the file's start on, and the bytes that they take.
fn count(file: &mut File) -> io::Result<(u64, u64)> {
    let (mut entries, mut size, mut rest) = (0_u64, 0_u64, Vec::new());
    let chunk = u64::try_from(AUDIT_FRAME_MAX).unwrap_or(u64::MAX);
    loop {
        let read = Read::take(&mut *file, chunk).read_to_end(&mut rest)?;
        let (found, used) = whole_entries(&rest);
        entries = entries.saturating_add(found);
        size = size.saturating_add(u64::try_from(used).unwrap_or(u64::MAX));
        rest.drain(..used);
        if read == 0 || rest.len() > AUDIT_ENTRY_HEADER_LEN + AUDIT_ENTRY_MAX {
            return Ok((entries, size));
        }
    }
}

fn length_of(entries: &Entries) -> u64 {
    u64::try_from(entries.as_bytes().len()).unwrap_or(u64::MAX)
}

fn fits(size: u64, entries: &Entries, rotate_bytes: u64) -> bool {
    size.saturating_add(length_of(entries)) <= rotate_bytes
}

fn path_of(folder: &Path, first_index: u64) -> PathBuf {
    folder.join(format!("{first_index:0INDEX_DIGITS$}.log"))
}

/// The indexes in the names of a folder's files of entries.
fn first_indexes(folder: &Path) -> io::Result<Vec<u64>> {
    let mut indexes = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log"));
        let index: Option<u64> = digits.and_then(|digits| digits.parse().ok());
        indexes.extend(index.filter(|index| digits == Some(&format!("{index:0INDEX_DIGITS$}"))));
    }
    Ok(indexes)
}

/// Nobody but this program's user reads or writes.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A new file is there after a crash only once its folder is on disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
