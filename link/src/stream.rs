//! One byte stream over vsock or a Unix socket, and how to open it.
//!
//! Guarantees: after [`connect`] the stream carries the other side's bytes only; the hybrid protocol's answer line has
//! been consumed, and nothing after it.
//! Refuses: an answer line other than `OK …`, or a longer one than [`HYBRID_ANSWER_MAX`].

use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::sleep;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::address::Address;
use crate::limits::{HYBRID_ANSWER_MAX, QUEUE_PAUSE};

/// A connected byte stream of the link.
#[derive(Debug)]
pub enum Stream {
    /// Over vsock.
    Vsock(VsockStream),
    /// Over a Unix socket, be it local or a virtual machine monitor's.
    Unix(UnixStream),
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system refused.
    #[error("cannot connect to {address}: {source}")]
    Io {
        /// Where to.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// The virtual machine monitor did not answer `OK …`: nobody listens at that port in the machine.
    #[error("cannot connect to {address}: the virtual machine monitor did not confirm the port")]
    Hybrid {
        /// Where to.
        address: Address,
    },
}

/// Opens a connection. There is no time limit here; callers set one.
///
/// # Errors
/// When nobody takes the connection.
pub async fn connect(address: &Address) -> Result<Stream, ConnectError> {
    let failed = |source| ConnectError::Io { address: address.clone(), source };
    match address {
        Address::Vsock { cid, port } => {
            VsockStream::connect(VsockAddr::new(*cid, *port)).await.map(Stream::Vsock).map_err(failed)
        }
        Address::Unix { path } => connect_unix(path.as_path()).await.map(Stream::Unix).map_err(failed),
        Address::HybridUnix { path, port } => {
            let mut stream = connect_unix(path.as_path()).await.map_err(failed)?;
            stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(failed)?;
            if confirmed(&mut stream).await.map_err(failed)? {
                Ok(Stream::Unix(stream))
            } else {
                Err(ConnectError::Hybrid { address: address.clone() })
            }
        }
    }
}

/// A Unix socket that does not block is refused while the listener's queue is full (connect(2): `EAGAIN`), where others would wait.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(QUEUE_PAUSE).await,
            other => return other,
        }
    }
}

/// Reads the answer line byte by byte: what follows it belongs to the machine.
async fn confirmed(stream: &mut UnixStream) -> io::Result<bool> {
    let mut line = Vec::with_capacity(HYBRID_ANSWER_MAX);
    while line.len() < HYBRID_ANSWER_MAX {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(false);
        }
        if byte == *b"\n" {
            return Ok(line.starts_with(b"OK "));
        }
        line.extend_from_slice(&byte);
    }
    Ok(false)
}

impl Stream {
    /// The socket itself, which does not block, and of which the runtime knows nothing any more.
    ///
    /// # Errors
    /// When the runtime cannot let go of it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Self::Vsock(stream) => Ok(stream.into()),
            Self::Unix(stream) => stream.into_std().map(Into::into),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
