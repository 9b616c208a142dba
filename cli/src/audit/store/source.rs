//! The parent's folder, read without following any link below it.
//!
//! Guarantees: what is opened is a regular file that lies in the folder by the path that its name says: each step is opened from the one
//! before it, and a symbolic link ends the step. A parent that was taken over can so not have other files of this machine sent away. Files of
//! other names are left alone. Assumes: the folder itself was named by whoever runs this.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, open, openat, statat};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::names::{FileName, LogName};
use crate::audit::folder::exactly;

/// How a folder is opened. What is a link below the first is refused (`ELOOP`, `ENOTDIR`).
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How a file is opened. A pipe in the place of a file must not stop us.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// How often a folder is read that shows other files each time.
const LISTINGS_MAX: usize = 8;

/// The folder of all logs.
#[derive(Debug)]
pub(super) struct Source {
    folder: OwnedFd,
    path: PathBuf,
}

/// The folder of one log.
#[derive(Debug)]
pub(super) struct LogFolder {
    folder: OwnedFd,
}

/// A file of a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    pub(super) name: FileName,
    /// As it was looked at.
    pub(super) seen: Seen,
}

/// By what a file is known again: two that differ in nothing of this are one that nobody wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    pub(super) compressed: bool,
    pub(super) bytes: u64,
    /// When it was written to, in nanoseconds since 1970: a torn end may make room for an entry of the same length.
    pub(super) modified_ns: i64,
}

impl Seen {
    fn of(name: &FileName, found: &Stat) -> Self {
        let bytes = u64::try_from(found.st_size).unwrap_or(0);
        let nanoseconds = i64::try_from(found.st_mtime_nsec).unwrap_or(0);
        let modified_ns = found.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
        Self { compressed: matches!(name, FileName::Entries { compressed: true, .. }), bytes, modified_ns }
    }
}

/// A file that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// As it was when it was opened.
    pub(super) seen: Seen,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let folder = open(path, FOLDER, Mode::empty()).map_err(|error| StoreError::folder(path)(error.into()))?;
        Ok(Self { folder, path: path.to_owned() })
    }

    /// All logs, sorted.
    pub(super) fn logs(&self) -> Result<Vec<LogName>, StoreError> {
        let failed = StoreError::folder(&self.path);
        let mut logs = Vec::new();
        let all = folders(self.folder.as_fd()).and_then(|key_stores| {
            for key_store in key_stores {
                let Some(key_store_id) = exactly(&key_store) else { continue };
                let Some(folder) = below(self.folder.as_fd(), &key_store)? else { continue };
                let boots = folders(folder.as_fd())?;
                logs.extend(boots.iter().filter_map(|boot| Some(LogName { key_store_id, boot_id: exactly(boot)? })));
            }
            Ok(())
        });
        all.map_err(failed)?;
        logs.sort();
        Ok(logs)
    }

    /// One log; none where it was deleted meanwhile.
    pub(super) fn log(&self, log: LogName) -> io::Result<Option<LogFolder>> {
        let Some(key_store) = below(self.folder.as_fd(), &log.key_store_id.to_string())? else { return Ok(None) };
        let folder = below(key_store.as_fd(), &log.boot_id.to_string())?;
        Ok(folder.map(|folder| LogFolder { folder }))
    }
}

impl LogFolder {
    /// Its files, in the order in which they are to be sent.
    ///
    /// A folder that changes while it is read may show neither the old nor the new name of a file, so it is read until it shows the same
    /// files twice.
    pub(super) fn files(&self) -> io::Result<Vec<Listed>> {
        let mut before = self.files_once()?;
        for _ in 0..LISTINGS_MAX {
            let files = self.files_once()?;
            if files.len() == before.len()
                && files.iter().zip(&before).all(|(one, other)| is_same(&one.name, &other.name))
            {
                return Ok(files);
            }
            before = files;
        }
        Err(io::Error::other("it changes all the time"))
    }

    fn files_once(&self) -> io::Result<Vec<Listed>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let name = std::str::from_utf8(entry.file_name().to_bytes()).ok().and_then(FileName::parse);
            let Some(name) = name else { continue };
            let found = match statat(&self.folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(rustix::io::Errno::NOENT) => continue,
                found => found?,
            };
            files.push(Listed { seen: Seen::of(&name, &found), name });
        }
        files.sort();
        // Of a file and its compressed copy, which may be half-written, the first is enough.
        files.dedup_by(|later, earlier| is_same(&later.name, &earlier.name));
        Ok(files)
    }

    /// One of its files; none where it is not there any more.
    pub(super) fn open(&self, name: &FileName) -> io::Result<Option<Opened>> {
        let file = match openat(&self.folder, name.as_str(), FILE, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("is a symbolic link, which is not followed")),
            file => File::from(file?),
        };
        let found = fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("is no regular file"));
        }
        Ok(Some(Opened { file, seen: Seen::of(name, &found) }))
    }

    /// Whether the folder itself was deleted, as `audit.keep_days` wants it.
    pub(super) fn is_deleted(&self) -> bool {
        fstat(&self.folder).is_ok_and(|found| found.st_nlink == 0)
    }
}

fn is_same(one: &FileName, other: &FileName) -> bool {
    match (one, other) {
        (FileName::Entries { first_index: one, .. }, FileName::Entries { first_index: other, .. }) => one == other,
        (FileName::Checkpoints, FileName::Checkpoints) => true,
        _ => false,
    }
}

/// A folder in a folder; none where it is not there any more, or is a link.
fn below(folder: impl AsFd, name: &str) -> io::Result<Option<OwnedFd>> {
    match openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// Names of what may be folders in a folder.
fn folders(folder: impl AsFd) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            found.extend(name.to_str().map(str::to_owned));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_other_names_are_left_alone() {
        let (place, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (key_store, boot) = ("ab".repeat(32), "cd".repeat(16));
        let log = place.path().join(&key_store).join(&boot);
        fs::create_dir_all(&log).unwrap();
        for name in
            ["0000000000000009.log", "0000000000000000.log", "0000000000000000.log.zst", "checkpoints", "x.torn"]
        {
            fs::write(log.join(name), name).unwrap();
        }
        fs::write(elsewhere.path().join("secret"), "secret").unwrap();
        symlink(elsewhere.path().join("secret"), log.join("0000000000000010.log")).unwrap();
        // A whole log, and all logs of a key store, by way of links.
        symlink(&log, place.path().join(&key_store).join("ef".repeat(16))).unwrap();
        symlink(place.path().join(&key_store), place.path().join("01".repeat(32))).unwrap();
        fs::create_dir_all(place.path().join("other").join(&boot)).unwrap();
        fs::write(place.path().join("lock"), "").unwrap();

        let source = Source::open(place.path()).unwrap();
        let logs = source.logs().unwrap();
        assert_eq!(logs.iter().map(ToString::to_string).collect::<Vec<_>>(), [format!("{key_store}/{boot}")]);
        let folder = source.log(logs[0]).unwrap().unwrap();
        let files = folder.files().unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["0000000000000000.log", "0000000000000009.log", "0000000000000010.log", "checkpoints"]);
        assert!(folder.open(&files[0].name).unwrap().is_some());
        assert!(folder.open(&files[2].name).unwrap_err().to_string().contains("symbolic link"));
        fs::remove_file(log.join("0000000000000010.log")).unwrap();
        fs::create_dir(log.join("0000000000000010.log")).unwrap();
        assert!(folder.open(&files[2].name).unwrap_err().to_string().contains("no regular file"));
        fs::remove_dir(log.join("0000000000000010.log")).unwrap();
        assert!(folder.open(&files[2].name).unwrap().is_none());
        assert!(!folder.is_deleted());
        fs::remove_dir_all(&log).unwrap();
        assert!(folder.is_deleted());
        assert!(source.log(logs[0]).unwrap().is_none());
        assert!(matches!(Source::open(&place.path().join("lock")), Err(StoreError::Folder { .. })));
    }
}
