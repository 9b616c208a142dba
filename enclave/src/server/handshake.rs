//! The TLS handshake of one connection: the host name in the `ClientHello` chooses the configuration.

use std::sync::Arc;

use holdfast_shared::xks::HostName;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::ServerContext;
use super::connection::ConnectionError;

/// A TLS record that holds the fatal alert `unrecognized_name` (RFC 6066, section 3; RFC 8446, sections 5.1 and 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Reads the `ClientHello`, finds the host, and finishes the handshake with that host's configuration.
pub(super) async fn accept_tls<S>(
    stream: S,
    context: &ServerContext,
) -> Result<(TlsStream<S>, HostName), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let mut start = acceptor.await.map_err(ConnectionError::Handshake)?;
    let host_name = start.client_hello().server_name().and_then(|name| HostName::from_wire(name).ok());
    let host = host_name.as_ref().and_then(|name| context.directory.host(name));
    let (Some(host_name), Some(host)) = (host_name, host) else {
        // The peer gets a reason if it can still be written; the connection ends either way.
        let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
        let _ = start.io.shutdown().await;
        return Err(ConnectionError::UnknownHost);
    };
    let stream = start.into_stream(Arc::clone(host.tls())).await.map_err(ConnectionError::Handshake)?;
    Ok((stream, host_name))
}
