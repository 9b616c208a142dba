//! One connection: choice of HTTP version, service.

use core::future::Future;
use core::pin::Pin;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::limits::{HTTP_HEADER_BYTES_MAX, HTTP_HEADERS_MAX, HTTP2_STREAMS_MAX};
use holdfast_shared::xks::HostName;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::handshake::accept_tls;
use super::http_service::handle;
use super::{ServerContext, ServerLimits, started};

/// Flow-control window of one HTTP/2 stream and of a connection: one largest body, and four of them.
const HTTP2_STREAM_WINDOW: u32 = 128 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 4 * HTTP2_STREAM_WINDOW;
/// Bytes that a stream may have waiting to be sent. Our answers are below 12 KiB.
const HTTP2_SEND_BUFFER: usize = 32 * 1024;
/// Streams that a client may reset before we look at them (the "rapid reset" attack, CVE-2023-44487).
const HTTP2_PENDING_RESETS: usize = 20;
/// How often an idle HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The TLS handshake took too long.
    #[error("the TLS handshake took too long")]
    HandshakeTimeout,
    /// TLS or the stream below it failed.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The client named no server, or one that is not served.
    #[error("the client named no server, or one that is not served")]
    UnknownHost,
    /// HTTP failed.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    /// The connection was cut because requests were still running when the time to drain was over.
    #[error("requests were still running at the end of the time to drain")]
    DrainTimeout,
    /// The connection was cut because it brought no valid signature for too long and did not end when it was asked to.
    #[error("the connection brought no signed request for too long")]
    Silent,
}

/// What the requests of one connection share.
pub(super) struct Peer {
    /// The host name that the connection speaks for.
    pub(super) host_name: HostName,
    /// Told of each valid signature.
    pub(super) signed: Notify,
}

/// Serves one connection until it ends, or `drain` turns true and the running requests are done.
///
/// # Errors
/// If it ended otherwise than in order; there is nothing left to do about it.
pub async fn serve_connection<S>(
    stream: S,
    context: Arc<ServerContext>,
    drain: watch::Receiver<bool>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = context.counts.open_connection();
    let result = serve_stream(stream, &context, drain).await;
    if let Err(error) = &result {
        context.counts.count_error(error);
    }
    drop(open);
    result
}

async fn serve_stream<S>(
    stream: S,
    context: &Arc<ServerContext>,
    drain: watch::Receiver<bool>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = timeout(context.limits.tls_handshake, accept_tls(stream, context));
    let (stream, host_name) = handshake.await.map_err(|_| ConnectionError::HandshakeTimeout)??;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let peer = Arc::new(Peer { host_name, signed: Notify::new() });
    let limits = context.limits;
    let context = Arc::clone(context);
    let handler = Arc::clone(&peer);
    let service = service_fn(move |request| handle(Arc::clone(&context), Arc::clone(&handler), request));
    let io = TokioIo::new(stream);
    if http2 {
        let connection = http2_builder().serve_connection(io, service);
        drive(connection, http2::Connection::graceful_shutdown, drain, &peer, &limits).await
    } else {
        let connection = http1_builder(limits.headers).serve_connection(io, service);
        drive(connection, http1::Connection::graceful_shutdown, drain, &peer, &limits).await
    }
}

/// Runs a connection; once draining starts, or it was silent for too long, no new request is taken and the running ones
/// have a limit.
async fn drive<C>(
    connection: C,
    stop: impl FnOnce(Pin<&mut C>),
    drain: watch::Receiver<bool>,
    peer: &Peer,
    limits: &ServerLimits,
) -> Result<(), ConnectionError>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = core::pin::pin!(connection);
    let unfinished = tokio::select! {
        result = connection.as_mut() => return Ok(result?),
        () = started(drain) => ConnectionError::DrainTimeout,
        () = silence(&peer.signed, limits) => ConnectionError::Silent,
    };
    stop(connection.as_mut());
    Ok(timeout(limits.drain, connection).await.map_err(|_| unfinished)??)
}

/// Returns once no valid signature came for too long. Pings, resets, refused requests and bytes that are not read count
/// for nothing: without this, any of them would hold a place for ever.
async fn silence(signed: &Notify, limits: &ServerLimits) {
    let mut limit = limits.stranger;
    while timeout(limit, signed.notified()).await.is_ok() {
        limit = limits.silence;
    }
}

/// No `Date` header: hyper would read the system clock for it.
fn http1_builder(headers: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(headers)
        .max_headers(HTTP_HEADERS_MAX)
        .max_buf_size(HTTP_HEADER_BYTES_MAX)
        .half_close(false)
        .auto_date_header(false);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(HTTP_HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .auto_date_header(false);
    builder
}
