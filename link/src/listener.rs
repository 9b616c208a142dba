//! Listening at an [`Address`].
//!
//! Guarantees: a Unix socket's file has mode 0600 before the first connection is possible; a file that a dead process left
//! behind is replaced, and our own is removed when the listener goes.
//! Refuses: to replace a file that is no socket, or a socket at which somebody listens.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::listen;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio_vsock::{VsockAddr, VsockListener};

use crate::address::Address;
use crate::remedy;
use crate::stream::Stream;

/// Connections that wait to be accepted; beyond it the kernel makes connecting wait (listen(2)), and is expected to reset over vsock.
const BACKLOG: i32 = 1024;

/// A socket that takes connections.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// Removed after the socket is no longer used; nothing reads it.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Vsock(VsockListener),
    Unix(UnixListener),
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A machine, by the context id that the hypervisor vouches for.
    Vsock {
        /// Its context id.
        cid: u32,
    },
    /// A process of this machine that may open the socket's file.
    Unix,
}

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused.
    #[error("cannot listen at {address}: {source}{}", remedy::of_binding(address, source))]
    Io {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// The path holds something else.
    #[error("cannot listen at {address}: the path exists and is not a socket")]
    NotASocket {
        /// Where.
        address: Address,
    },
    /// Another process listens there.
    #[error("cannot listen at {address}: another process listens there: `ss -lxp` shows which")]
    InUse {
        /// Where.
        address: Address,
    },
}

impl Listener {
    /// Starts to listen. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is taken or cannot be used.
    pub async fn bind(address: &Address) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { address: address.clone(), source };
        match (address, address.listen_path()) {
            (Address::Vsock { cid, port }, _) => {
                let socket = VsockListener::bind(VsockAddr::new(*cid, *port)).map_err(failed)?;
                // It has a queue of 128, and clients that come back all at once are expected to be reset where it is full. A second call is
                // meant to make it longer, which was never tried on vsock; where that is refused, it stays as it is.
                let _ = listen(&socket, BACKLOG);
                Ok(Self { socket: Socket::Vsock(socket), _file: None })
            }
            (Address::Unix { .. } | Address::HybridUnix { .. }, path) => {
                let path = path.unwrap_or_default();
                remove_stale(address, &path).await?;
                let (listener, file) = bind_unix(&path).map_err(failed)?;
                Ok(Self { socket: Socket::Unix(listener), _file: Some(file) })
            }
        }
    }

    /// The next connection. Abandoning the call loses none.
    ///
    /// # Errors
    /// When the system refuses, for example because no file descriptor is left; the next call may succeed.
    pub async fn accept(&self) -> io::Result<Stream> {
        Ok(self.accept_from().await?.0)
    }

    /// The next connection, and who opened it. Abandoning the call loses none.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub async fn accept_from(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            Socket::Vsock(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Stream::Vsock(stream), Peer::Vsock { cid: address.cid() }))
            }
            Socket::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), Peer::Unix)),
        }
    }
}

/// The mode is set between bind and listen: until then the kernel refuses every connection.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile::of(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok((socket.listen(BACKLOG.unsigned_abs())?, file))
}

async fn remove_stale(address: &Address, path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { address: address.clone(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { address: address.clone() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(BindError::InUse { address: address.clone() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// Our socket's file: removed on drop, if it still is ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if ours {
            // Nothing is left to do with a failure; the next bind replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}
