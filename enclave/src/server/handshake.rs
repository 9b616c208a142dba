//! The TLS handshake of one connection, and its end.
//!
//! Guarantees: the host name in the `ClientHello` chooses the configuration, and nothing else is read, made or signed for
//! a name that is not served; the last thing that a client is told, be it why its handshake failed or that the connection
//! is over, arrives: our sending side is closed behind it, and what the client still sends is read and thrown away for a
//! bounded time and amount. Assumes: the caller limits the time of [`accept_tls`]. Refuses: a `ClientHello` without a
//! server name, or with one that is not a host name in our directory (`unrecognized_name`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::limits::{TLS_LINGER_BYTES_MAX, TLS_LINGER_MS};
use holdfast_shared::xks::HostName;
use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::ServerContext;
use super::admission::Place;
use super::connection::ConnectionError;
use crate::tls::ACME_TLS;

/// A TLS record that holds the fatal alert `unrecognized_name` (RFC 6066, section 3; RFC 8446, sections 5.1 and 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// How long the end of a connection may take: once for writing it, once for what the client still sends.
const LINGER: Duration = Duration::from_millis(TLS_LINGER_MS);

/// A connection after its handshake.
pub(super) struct Accepted<S> {
    pub(super) stream: TlsStream<S>,
    pub(super) host_name: HostName,
    /// SHA-256 of the public key in the certificate that the client was shown, or had been shown when the session began that it
    /// goes on with: sessions end with the certificate.
    pub(super) tls_public_key_sha256: [u8; 32],
}

/// Reads the `ClientHello`, finds the host, and finishes the handshake with that host's configuration. Nothing comes of a
/// certificate authority's look at a host name: the handshake was all of it (RFC 8737, section 3).
pub(super) async fn accept_tls<S>(
    stream: S,
    context: &ServerContext,
    place: &Place,
) -> Result<Option<Accepted<S>>, ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let mut start = match (&mut acceptor).await {
        Ok(start) => start,
        Err(error) => return Err(refused(error, acceptor.take_io()).await),
    };
    let host_name = start.client_hello().server_name().and_then(|name| HostName::from_wire(name).ok());
    let challenge = host_name.as_ref().filter(|_| is_for_challenge(&start.client_hello()));
    if let Some((host_name, config)) =
        challenge.and_then(|name| Some((name.clone(), context.directory.challenge(name)?)))
    {
        place.name(&host_name);
        tokio::task::yield_now().await;
        return match start.into_stream(config).into_fallible().await {
            Ok(mut stream) => {
                close(&mut stream).await;
                Ok(None)
            }
            Err((error, stream)) => Err(refused(error, Some(stream)).await),
        };
    }
    let host = host_name.as_ref().and_then(|name| context.directory.host(name));
    let (Some(host_name), Some(host)) = (host_name, host) else {
        // The peer gets a reason if it can still be written; the connection ends either way.
        let _ = timeout(LINGER, start.io.write_all(&UNRECOGNIZED_NAME)).await;
        linger(&mut start.io).await;
        return Err(ConnectionError::UnknownHost);
    };
    place.name(&host_name);
    // What costs a signature is done in the turn of the host's group.
    tokio::task::yield_now().await;
    match start.into_stream(Arc::clone(host.tls())).into_fallible().await {
        Ok(stream) => Ok(Some(Accepted { stream, host_name, tls_public_key_sha256: host.tls_public_key_sha256() })),
        Err((error, stream)) => Err(refused(error, Some(stream)).await),
    }
}

/// Whether a client offers `acme-tls/1` and nothing else, as RFC 8737, section 3, prescribes.
fn is_for_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_TLS) && offered.next().is_none())
}

/// A handshake that failed; rustls has written its alert.
async fn refused<S>(error: io::Error, stream: Option<S>) -> ConnectionError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(mut stream) = stream {
        linger(&mut stream).await;
    }
    ConnectionError::Handshake(error)
}

/// Ends a connection in order, whatever ended it: `close_notify` if there was none yet, so that the client can tell an end
/// from a cut (RFC 8446, section 6.1).
pub(super) async fn close<S>(stream: &mut TlsStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A client that takes nothing more, or is gone, needs no reason.
    let _ = timeout(LINGER, stream.shutdown()).await;
    linger(stream.get_mut().0).await;
}

/// Closes our sending side, then reads and throws away what still comes: a socket that is closed with unread bytes resets
/// the connection (RFC 1122, section 4.2.2.13), and a reset can overtake the bytes that we sent last.
async fn linger<S>(stream: &mut S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let discard = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut buffer = vec![0; 4096];
        let mut rest = TLS_LINGER_BYTES_MAX;
        while rest > 0 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => rest = rest.saturating_sub(count),
            }
        }
    };
    // Running out of time is one of the ways in which this is meant to end.
    let _ = timeout(LINGER, discard).await;
}
