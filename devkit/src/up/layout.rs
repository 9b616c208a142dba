//! What lies where in the state folder.
//!
//! ```text
//! STATE/up.json                 what must not change between runs: names, regions, the custodian's port
//!       endpoint.json           where the proxy is and the credential, for programs (0600)
//!       first-ciphertext.json   what the first run encrypted
//!       home/                   the administrator, as `holdfast --home` takes it
//!       nsm/root.pem            the emulator's root
//!       custodian/ parent/      their configurations and state
//!       tls/ca.pem              the authority to trust
//!       logs/                   a file for each process
//!       run/                    sockets
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_link::{Address, remedy};
use ring::rand::{SecureRandom, SystemRandom};

/// What is wrong with the state folder.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file or folder.
    #[error("{path}: {source}{}", remedy::of_folder(source), path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another `up` is running.
    #[error("{path} is in use by another `holdfast-dev up`; end that one, or choose another --state", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// The state folder, locked for this process.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    sockets: PathBuf,
    sockets_elsewhere: bool,
    _lock: File,
}

impl Layout {
    /// Makes what is missing and locks the folder.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn prepare(state: &Path) -> Result<Self, LayoutError> {
        make_folder(state)?;
        let root = state.canonicalize().map_err(at(state))?;
        for folder in ["nsm", "custodian", "parent/key-stores", "tls", "logs"] {
            make_folder(&root.join(folder))?;
        }
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LayoutError::InUse { path: root }),
            Err(TryLockError::Error(source)) => return Err(LayoutError::Io { path: lock_path, source }),
        }
        let (sockets, sockets_elsewhere) = socket_folder(&root)?;
        Ok(Self { root, sockets, sockets_elsewhere, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The log of a process.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.root.join("logs").join(format!("{process}.log"))
    }

    /// The socket of that name.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(format!("{name}.sock"))
    }

    /// The socket's address.
    #[must_use]
    pub fn socket_address(&self, name: &str) -> String {
        format!("unix://{}", self.socket(name).display())
    }

    /// Replaces a file; it is complete or as it was.
    ///
    /// # Errors
    /// [`LayoutError::Io`].
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<PathBuf, LayoutError> {
        let path = self.path(name);
        let new = path.with_extension("new");
        // Left by a run that was killed.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).map_err(at(&new))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(at(&new))?;
        fs::rename(&new, &path).map_err(at(&path))?;
        Ok(path)
    }

    /// Reads a file, if it is there.
    ///
    /// # Errors
    /// [`LayoutError::Io`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, LayoutError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LayoutError::Io { path, source }),
        }
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        if self.sockets_elsewhere {
            // Only sockets of processes that have ended are in it.
            let _ = fs::remove_dir_all(&self.sockets);
        }
    }
}

/// In the state folder, unless its path is one that no socket can have: too long, or with a blank. Elsewhere its name cannot be
/// guessed and it must be new, since others can make folders there as well.
fn socket_folder(root: &Path) -> Result<(PathBuf, bool), LayoutError> {
    let inside = root.join("run");
    if Address::unix(&inside.join("control.sock")).is_ok() {
        make_folder(&inside)?;
        return Ok((inside, false));
    }
    let mut random = [0; 8];
    let outside = std::env::temp_dir();
    let no_randomness = |_| LayoutError::Io { path: outside.clone(), source: io::Error::other("no randomness") };
    SystemRandom::new().fill(&mut random).map_err(no_randomness)?;
    let folder = outside.join(format!("holdfast-dev-{}", hex::encode(random)));
    DirBuilder::new().mode(0o700).create(&folder).map_err(at(&folder))?;
    Ok((folder, true))
}

fn make_folder(path: &Path) -> Result<(), LayoutError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.to_owned();
    move |source| LayoutError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Layout::prepare(folder.path()).unwrap();
        assert!(matches!(Layout::prepare(folder.path()), Err(LayoutError::InUse { .. })));
        drop(first);
        assert!(Layout::prepare(folder.path()).is_ok());
    }

    #[test]
    fn sockets_have_paths_that_sockets_can_have() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["plain", "with blank", &"long".repeat(30)] {
            let layout = Layout::prepare(&folder.path().join(name)).unwrap();
            assert!(layout.socket_address("control").parse::<Address>().is_ok(), "{name}");
        }
    }
}
