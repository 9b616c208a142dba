//! Listening at the path of a Unix socket.
//!
//! Guarantees: the file has mode 0600, replaces one that a dead process left, and goes with its owner. Refuses: to replace a file
//! that is no socket, or a socket at which somebody listens.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why a path cannot be listened at.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// Which path.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file where the socket should be.
    #[error("{0} is no socket; name another path or remove it")]
    NotASocket(PathBuf),
    /// Another process listens there.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
}

/// The file of a listening socket, which goes with it.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it earlier wanted it gone too.
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens on a path without blocking, in place of a socket that an earlier process left there.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |error| BindError::Io { path: path.to_owned(), error };
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, file))
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(BindError::InUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(|error| BindError::Io { path: path.to_owned(), error })
}
