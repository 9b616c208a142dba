//! The state directory: names of its files, and how private ones are written and read.
//!
//! Guarantees: a private file is created with mode 0600, never over an existing one, and is on disk before the function
//! returns. Refuses: to read a private file that others may read or that another user owns: whoever loosened it should notice.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_link::remedy;
use holdfast_shared::secrets::{Secret, SecretBytes};

/// Longest private file that is read: keys are far smaller.
const PRIVATE_FILE_MAX: u64 = 64 * 1024;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("{}: {source}{}", file.display(), remedy::of_file(source))]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Open to others.
    #[error("{}: has mode {mode:04o}, but only its owner may access it; run: chmod {} {}", file.display(), wanted, file.display())]
    Mode {
        /// The file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it should have.
        wanted: &'static str,
    },
    /// Somebody else's.
    #[error("{}: belongs to user {owner}, and this program runs as user {user}", file.display())]
    Owner {
        /// The file.
        file: PathBuf,
        /// Its owner.
        owner: u32,
        /// Ours.
        user: u32,
    },
    /// Not a key of the kind that it should be.
    #[error("{}: does not hold a usable key; bring the one from the backup back", file.display())]
    BadKey {
        /// The file.
        file: PathBuf,
    },
    /// Something is there already.
    #[error("{}: is not empty; initialising would replace keys, so remove it first if you are certain", directory.display())]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
    },
    /// Another process works with it.
    #[error("{}: another holdfast-custodian runs on this state directory", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// Nothing is there.
    #[error("{}: is not an initialised state directory; run: holdfast-custodian init --config FILE", directory.display())]
    NotInitialised {
        /// The directory.
        directory: PathBuf,
    },
}

fn io_error(file: &Path) -> impl FnOnce(io::Error) -> StateError {
    |source| StateError::Io { file: file.to_owned(), source }
}

/// Where each file of a custodian's state lies.
#[derive(Clone, Debug)]
pub struct StateDirectory(PathBuf);

impl StateDirectory {
    /// Names a directory that [`StateDirectory::create`] or [`StateDirectory::check`] then looks at.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// ES384 signing key, PKCS #8.
    #[must_use]
    pub fn signing_key(&self) -> PathBuf {
        self.0.join("signing-key.pk8")
    }

    /// HPKE private key, 48 bytes.
    #[must_use]
    pub fn encryption_key(&self) -> PathBuf {
        self.0.join("encryption-key.bin")
    }

    /// Key-encryption key, 32 bytes.
    #[must_use]
    pub fn key_encryption_key(&self) -> PathBuf {
        self.0.join("key-encryption-key.bin")
    }

    /// Private key of the custodian's own TLS authority.
    #[must_use]
    pub fn ca_key(&self) -> PathBuf {
        self.0.join("ca-key.pem")
    }

    /// Certificate of the custodian's own TLS authority: public.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// What a manifest says about the custodian: public.
    #[must_use]
    pub fn public_record(&self) -> PathBuf {
        self.0.join("custodian.json")
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.0.join("custodian.sqlite")
    }

    /// Makes the directory with mode 0700, or takes an empty one.
    ///
    /// # Errors
    /// [`StateError::NotEmpty`] when anything is in it.
    pub fn create(&self) -> Result<(), StateError> {
        let directory = &self.0;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io_error(directory))?;
        if fs::read_dir(directory).map_err(io_error(directory))?.next().is_some() {
            return Err(StateError::NotEmpty { directory: directory.clone() });
        }
        check_private(directory, "700")
    }

    /// Checks that the directory was initialised and is private.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn check(&self) -> Result<(), StateError> {
        // Initialisation writes this file last.
        if !self.public_record().is_file() {
            return Err(StateError::NotInitialised { directory: self.0.clone() });
        }
        check_private(&self.0, "700")
    }

    /// Claims the directory for this process, as long as the returned file is open: leases and counters are kept in memory.
    ///
    /// # Errors
    /// [`StateError::InUse`] when another process has it.
    pub fn claim(&self) -> Result<File, StateError> {
        let file = self.0.join("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&file).map_err(io_error(&file))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { directory: self.0.clone() }),
            Err(TryLockError::Error(source)) => Err(StateError::Io { file, source }),
        }
    }

    /// Makes the names of new files durable.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn sync(&self) -> Result<(), StateError> {
        File::open(&self.0).and_then(|directory| directory.sync_all()).map_err(io_error(&self.0))
    }
}

/// Writes a new file that only its owner may read.
///
/// # Errors
/// [`StateError::Io`], also when the file exists.
pub fn write_private(file: &Path, bytes: &[u8]) -> Result<(), StateError> {
    write_new(file, bytes, 0o600)
}

/// Writes a new file that everybody may read.
///
/// # Errors
/// [`StateError::Io`], also when the file exists.
pub fn write_public(file: &Path, bytes: &[u8]) -> Result<(), StateError> {
    write_new(file, bytes, 0o644)
}

fn write_new(file: &Path, bytes: &[u8], mode: u32) -> Result<(), StateError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(file)
        .and_then(|mut out| out.write_all(bytes).and_then(|()| out.sync_all()))
        .map_err(io_error(file))
}

/// Replaces a file in one step: a reader sees the old one or the new one, whole.
///
/// # Errors
/// [`StateError::Io`].
pub fn replace_public(file: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = file.with_file_name(name);
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, file)).map_err(io_error(file))
}

/// Reads a private file.
///
/// # Errors
/// [`StateError`] when it is missing, open to others, somebody else's, or too long for a key.
pub fn read_private(file: &Path) -> Result<SecretBytes, StateError> {
    check_private(file, "600")?;
    let opened = File::open(file).map_err(io_error(file))?;
    let length = opened.metadata().map_err(io_error(file))?.len();
    if length > PRIVATE_FILE_MAX {
        return Err(StateError::BadKey { file: file.to_owned() });
    }
    // Reserved whole, so that no copy is left behind by growing.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default().saturating_add(1));
    opened.take(PRIVATE_FILE_MAX).read_to_end(&mut bytes).map_err(io_error(file))?;
    Ok(SecretBytes::new(bytes))
}

/// Reads a private file of exactly `N` bytes.
///
/// # Errors
/// As [`read_private`]; [`StateError::BadKey`] for another length.
pub fn read_private_array<const N: usize>(file: &Path) -> Result<Secret<N>, StateError> {
    let bytes = read_private(file)?;
    Secret::fill_with(|own| {
        let source: &[u8; N] = bytes.expose().try_into().map_err(|_| StateError::BadKey { file: file.to_owned() })?;
        own.copy_from_slice(source);
        Ok(())
    })
}

fn check_private(file: &Path, wanted: &'static str) -> Result<(), StateError> {
    let metadata = fs::metadata(file).map_err(io_error(file))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::Mode { file: file.to_owned(), mode, wanted });
    }
    // The owner of our own entry in /proc is the effective user; where there is no /proc, the mode must do.
    match fs::metadata("/proc/self").map(|own| own.uid()) {
        Ok(user) if user != metadata.uid() => {
            Err(StateError::Owner { file: file.to_owned(), owner: metadata.uid(), user })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_private_file_is_private_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        write_private(&file, &[7; 32]).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_private_array::<32>(&file).unwrap().expose(), &[7; 32]);
        assert!(matches!(read_private_array::<31>(&file), Err(StateError::BadKey { .. })));
        assert!(matches!(write_private(&file, &[8; 32]), Err(StateError::Io { .. })));
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_private(&file), Err(StateError::Mode { .. })), "{mode:o}");
        }
    }

    #[test]
    fn one_process_claims_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path().to_owned());
        let claim = state.claim().unwrap();
        assert!(matches!(state.claim(), Err(StateError::InUse { .. })));
        drop(claim);
        state.claim().unwrap();
    }

    #[test]
    fn only_an_empty_directory_is_initialised() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path().join("new/state"));
        assert!(matches!(state.check(), Err(StateError::NotInitialised { .. })));
        state.create().unwrap();
        write_public(&state.public_record(), b"{}").unwrap();
        assert!(matches!(state.create(), Err(StateError::NotEmpty { .. })));
        state.check().unwrap();
    }
}
