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

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, statat};

use super::StoreError;
use super::names::{FileName, LogName};
use crate::audit::folder::exactly;

/// How a folder is opened. What is a link below the first is refused (`ELOOP`, `ENOTDIR`).
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How a file is opened. A pipe in the place of a file must not stop us.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

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
    /// Its bytes, when it was looked at.
    pub(super) bytes: u64,
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
    pub(super) fn files(&self) -> io::Result<Vec<Listed>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let name = std::str::from_utf8(entry.file_name().to_bytes()).ok().and_then(FileName::parse);
            let Some(name) = name else { continue };
            let found = match statat(&self.folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(rustix::io::Errno::NOENT) => continue,
                found => found?,
            };
            files.push(Listed { name, bytes: u64::try_from(found.st_size).unwrap_or(0) });
        }
        files.sort();
        // Of a file and its compressed copy, which may be half-written, the first is enough.
        files.dedup_by(|later, earlier| is_same(&later.name, &earlier.name));
        Ok(files)
    }

    /// One of its files; none where it was deleted meanwhile.
    pub(super) fn open(&self, name: &FileName) -> io::Result<Option<File>> {
        let file = match openat(&self.folder, name.as_str(), FILE, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("is a symbolic link, which is not followed")),
            file => File::from(file?),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        Ok(Some(file))
    }
}

fn is_same(one: &FileName, other: &FileName) -> bool {
    match (one, other) {
        (FileName::Entries { first_index: one, .. }, FileName::Entries { first_index: other, .. }) => one == other,
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
        fs::remove_dir_all(&log).unwrap();
        assert!(source.log(logs[0]).unwrap().is_none());
        assert!(matches!(Source::open(&place.path().join("lock")), Err(StoreError::Folder { .. })));
    }
}
