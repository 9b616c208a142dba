//! Files: every read is bounded, every secret is written so that its owner alone can read it.
//!
//! Guarantees: a secret file has mode 0600 from the moment it exists; no file of
//! the user's is overwritten; a file is complete or absent.
//! Refuses: a secret file that others can read, since then it is no secret.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_shared::secrets::SecretBytes;
use zeroize::Zeroize;

/// Bytes of the largest file that the tool reads: a chain of six certificates of 8 KiB in PEM stays far below.
pub const FILE_MAX: usize = 128 * 1024;

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}{}", remedy_of(source), path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {path}: {source}{}", remedy_of(source), path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there already.
    #[error("{path} exists already; choose another name or remove it first", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than anything that belongs there.
    #[error("{path} is larger than {max} bytes, so it is not what belongs there", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes accepted.
        max: usize,
    },
    /// Others can read a secret.
    #[error("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// What to do about a file that the system refuses: the sentence after its own.
fn remedy_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room: `df -h` shows which disk is full",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a place on a disk that can be written to",
        io::ErrorKind::PermissionDenied => "; it or its folder belongs to another user: `ls -ld` shows whom",
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    }
}

/// Reads a whole file of at most `max` bytes; `-` is standard input.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    if path.as_os_str() == "-" {
        return read_bounded(io::stdin().lock(), path, max);
    }
    read_bounded(File::open(path).map_err(failed)?, path, max)
}

/// Reads a secret file that only its owner can read.
///
/// # Errors
/// [`FileError`]; [`FileError::Exposed`] when its mode lets others read it.
pub fn read_secret(path: &Path, max: usize) -> Result<SecretBytes, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    read_bounded(file, path, max).map(SecretBytes::new)
}

fn read_bounded(source: impl Read, path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    // Room for everything at once, so that a secret is never left behind in a buffer that grew.
    let mut bytes = Vec::with_capacity(max.saturating_add(1));
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    if let Err(source) = source.take(limit).read_to_end(&mut bytes) {
        bytes.zeroize();
        return Err(FileError::Read { path: path.to_owned(), source });
    }
    if bytes.len() > max {
        bytes.zeroize();
        return Err(FileError::TooLarge { path: path.to_owned(), max });
    }
    Ok(bytes)
}

/// Writes a new file that everyone may read.
///
/// # Errors
/// [`FileError`]; [`FileError::Exists`] when the file is there.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o644)
}

/// Writes a new file that only its owner may read.
///
/// # Errors
/// [`FileError`]; [`FileError::Exists`] when the file is there.
pub fn write_new_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o600)
}

/// Checks that a file can still be made, before something is ordered whose result it is to hold.
///
/// # Errors
/// [`FileError::Exists`].
pub fn check_new(path: &Path) -> Result<(), FileError> {
    if path.exists() { Err(FileError::Exists { path: path.to_owned() }) } else { Ok(()) }
}

/// Replaces a file of the tool's own, which only its owner may read: it is complete or as it was.
///
/// # Errors
/// [`FileError`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with(path, bytes, 0o600)
}

/// Replaces a file that everyone may read: it is complete or as it was.
///
/// # Errors
/// [`FileError`].
pub fn replace_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with(path, bytes, 0o644)
}

fn replace_with(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let new = path.with_file_name(name);
    // Left by a run that was killed.
    let _ = std::fs::remove_file(&new);
    write(&new, bytes, mode)?;
    // The name is on the disk when its folder is.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::rename(&new, path)
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|source| FileError::Write { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => FileError::Exists { path: path.to_owned() },
        _ => FileError::Write { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|source| {
        // Half a file is worse than none; the error that is reported is the first.
        let _ = std::fs::remove_file(path);
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_file_is_private_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write_new_secret(&path, b"one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(write_new_secret(&path, b"two"), Err(FileError::Exists { .. })));
        assert_eq!(read_secret(&path, 3).unwrap().expose(), b"one");
        assert!(matches!(read_secret(&path, 2), Err(FileError::TooLarge { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_secret(&path, 3), Err(FileError::Exposed { mode: 0o640, .. })));
    }
}
