//! Connections: TCP, a Unix socket or vsock, and TLS over it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use holdfast_link::{Address, connect};
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::target::Door;

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `HOST:PORT`.
    Tcp(String),
    /// A Unix socket or vsock: the enclave without its parent.
    Link(Address),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Link(address) => address.fmt(f),
        }
    }
}

/// Which version of HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
pub enum Http {
    /// HTTP/1.1.
    #[default]
    #[value(name = "1.1")]
    #[serde(rename = "1.1")]
    One,
    /// HTTP/2.
    #[value(name = "2")]
    #[serde(rename = "2")]
    Two,
}

/// How long a connection is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// Opened before the measurement and kept.
    #[default]
    Kept,
    /// Opened for each request and closed after it, with a full handshake.
    New,
    /// The same, with TLS sessions that are resumed.
    Resumed,
    /// Opened for each request, and left open and idle until the end.
    Held,
}

impl Reuse {
    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::New => "new for each request",
            Self::Resumed => "resumed for each request",
            Self::Held => "new for each request and held",
        }
    }

    /// Whether each request opens a connection.
    #[must_use]
    pub const fn is_once(self) -> bool {
        !matches!(self, Self::Kept)
    }
}

/// What failed with a connection or on it.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("connection broken: {0}")]
    Broken(io::Error),
    #[error("the connection ended before the answer")]
    Ended,
    #[error("the answer is not HTTP: {0}")]
    Http(String),
    #[error("the server chose another version of HTTP")]
    Version,
}

/// Opens connections to one door.
#[derive(Clone)]
pub(super) struct Dialer {
    door: Door,
    connector: TlsConnector,
    http: Http,
}

/// A TLS connection.
pub(super) type Connection = TlsStream<Wire>;

impl Dialer {
    pub(super) fn new(door: &Door, http: Http, resume: bool) -> Result<Self, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&door.roots))
            .with_no_client_auth();
        config.alpn_protocols = match http {
            Http::One => vec![b"http/1.1".to_vec()],
            Http::Two => vec![b"h2".to_vec()],
        };
        config.resumption = if resume { Resumption::in_memory_sessions(64) } else { Resumption::disabled() };
        Ok(Self { door: door.clone(), connector: TlsConnector::from(Arc::new(config)), http })
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    /// Opens a connection, and says whether its TLS session was resumed.
    pub(super) async fn dial(&self) -> Result<(Connection, bool), LineError> {
        let wire = match &self.door.place {
            Place::Tcp(address) => {
                let failed = |error: io::Error| LineError::Connect(format!("{address}: {error}"));
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Wire::Tcp(stream)
            }
            Place::Link(address) => {
                Wire::Link(connect(address).await.map_err(|error| LineError::Connect(error.to_string()))?)
            }
        };
        let stream = self.connector.connect(self.door.server_name.clone(), wire).await.map_err(LineError::Tls)?;
        let session = stream.get_ref().1;
        // A server that knows no ALPN speaks HTTP/1.1.
        let expected = if self.http == Http::Two { Some(&b"h2"[..]) } else { Some(&b"http/1.1"[..]) };
        if session.alpn_protocol().is_some_and(|chosen| Some(chosen) != expected)
            || (self.http == Http::Two && session.alpn_protocol().is_none())
        {
            return Err(LineError::Version);
        }
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok((stream, resumed))
    }
}

/// What is below TLS.
pub(super) enum Wire {
    Tcp(TcpStream),
    Link(holdfast_link::Stream),
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Link(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Link(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Link(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Link(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Link(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Link(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
