//! One connection: choice of HTTP version, service.

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::limits::{
    HTTP_HEADER_BYTES_MAX, HTTP_HEADERS_MAX, HTTP2_ERROR_RESETS_MAX, HTTP2_STREAMS_MAX, XKS_BODY_MAX,
};
use holdfast_shared::xks::HostName;
use http::{HeaderValue, header};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::admission::Place;
use super::handshake::{Accepted, accept_tls, close};
use super::held::{Unanswered, answer};
use super::json_errors::JsonErrors;
use super::turns::{Paced, Streams};
use super::{ServerContext, ServerLimits, started};
use crate::tls::ClientCertificate;

/// Flow-control window of one HTTP/2 stream and of a connection: one largest body, and two of them.
const HTTP2_STREAM_WINDOW: usize = XKS_BODY_MAX;
const HTTP2_CONNECTION_WINDOW: usize = 2 * XKS_BODY_MAX;
/// Bytes of a frame, and of the table of headers that are not sent again: what the protocol starts with (RFC 9113, section
/// 6.5.2).
const HTTP2_FRAME: u32 = 16 * 1024;
const HTTP2_HEADER_TABLE: u32 = 4096;
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
    /// The connection brought no valid signature at all in its time, and did not end when it was asked to.
    #[error("the connection brought no signed request in time")]
    Unproven,
    /// The connection brought too many requests without a single valid signature, and did not end when it was asked to.
    #[error("the connection brought too many requests that nobody signed")]
    Unsigned,
    /// The connection brought no further valid signature for too long, and did not end when it was asked to.
    #[error("the connection brought no signed request for too long")]
    Silent,
    /// The connection had brought no valid signature when its place was needed for a newcomer.
    #[error("the place was needed before the connection brought a signed request")]
    Displaced,
    /// The host's other connections were too many, its place was needed for another host, and it did not end when asked to.
    #[error("the place was needed for another host")]
    OverShare,
}

/// What the requests of one connection share.
pub(super) struct Peer {
    /// The host name that the connection speaks for.
    pub(super) host_name: HostName,
    /// SHA-256 of the public key with which the connection ends here.
    pub(super) tls_public_key_sha256: [u8; 32],
    /// The client's certificate, where the host asks for one.
    pub(super) client: Option<ClientCertificate>,
    /// The connection's place.
    pub(super) place: Arc<Place>,
    began: Instant,
    /// When the last valid signature came, in milliseconds since then.
    last_signature_ms: AtomicU64,
    first_signature: Notify,
    /// Requests without a valid signature before the first with one.
    attempts: AtomicUsize,
    attempts_max: usize,
    enough: Notify,
}

impl Peer {
    /// A signature was valid at that time. Wakes nobody but for the first.
    pub(super) fn signed(&self, at: Instant) {
        let since = u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.last_signature_ms.fetch_max(since, Ordering::Relaxed);
        if !self.place.is_proven() {
            self.first_signature.notify_one();
        }
        self.place.signed();
    }

    fn last_signature(&self) -> Instant {
        self.began + Duration::from_millis(self.last_signature_ms.load(Ordering::Relaxed))
    }

    /// A request is over.
    pub(super) fn attempted(&self) {
        if !self.place.is_proven() && self.attempts.fetch_add(1, Ordering::Relaxed) + 1 >= self.attempts_max {
            self.enough.notify_one();
        }
    }
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
    let place = context.admission.enter().await;
    serve_admitted(stream, place, context, drain).await
}

/// The same for a connection that has its place already.
pub(super) async fn serve_admitted<S>(
    stream: S,
    place: Arc<Place>,
    context: Arc<ServerContext>,
    drain: watch::Receiver<bool>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = context.counts.open_connection();
    let result = tokio::select! {
        biased;
        () = place.cut() => Err(ConnectionError::Displaced),
        result = context.turns.pace(&place, serve_stream(stream, &place, &context, drain)) => result,
    };
    if let Err(error) = &result {
        context.counts.count_error(error);
    }
    drop(open);
    result
}

async fn serve_stream<S>(
    stream: S,
    place: &Arc<Place>,
    context: &Arc<ServerContext>,
    drain: watch::Receiver<bool>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    // On the heap while it lasts, as what HTTP/2 and a request need: all that is kept here is kept by every idle connection.
    let handshake = Box::pin(accept_tls(Paced::new(stream, place), context, place));
    let accepted =
        timeout(context.limits.tls_handshake, handshake).await.map_err(|_| ConnectionError::HandshakeTimeout)??;
    let Some(accepted) = accepted else { return Ok(()) };
    context.observer.shook_hands(began.elapsed());
    let Accepted { mut stream, host_name, tls_public_key_sha256 } = accepted;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let peer = Arc::new(Peer {
        host_name,
        tls_public_key_sha256,
        client: ClientCertificate::of(stream.get_ref().1),
        place: Arc::clone(place),
        began: Instant::now(),
        last_signature_ms: AtomicU64::new(0),
        first_signature: Notify::new(),
        attempts: AtomicUsize::new(0),
        attempts_max: context.limits.stranger_requests,
        enough: Notify::new(),
    });
    let (handler, requests, draining) = (Arc::clone(&peer), Arc::clone(context), drain.clone());
    let service = service_fn(move |request| {
        let answer = Box::pin(answer(Arc::clone(&requests), Arc::clone(&handler), request));
        let draining = draining.clone();
        async move {
            let mut response = answer.await?;
            if !http2 && *draining.borrow() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Unanswered>(response)
        }
    });
    let result = if http2 {
        let streams = Streams { turns: Arc::clone(&context.turns), place: Arc::clone(place) };
        let mut connection = Box::pin(http2_builder(streams).serve_connection(TokioIo::new(&mut stream), service));
        let stop = http2::Connection::graceful_shutdown;
        drive(connection.as_mut(), stop, drain, Duration::ZERO, &peer, context).await
    } else {
        let io = TokioIo::new(JsonErrors::new(&mut stream));
        let connection = core::pin::pin!(http1_builder(context.limits.headers).serve_connection(io, service));
        let farewell = context.limits.farewell;
        drive(connection, http1::Connection::graceful_shutdown, drain, farewell, &peer, context).await
    };
    close(&mut stream).await;
    result
}

/// Runs a connection; once draining starts, or it has lost its claim to a place, no new request is taken and the running
/// ones have a limit. HTTP/1.1 cannot tell a client that is about to send that it is too late, so a drain first gives it
/// `farewell` to bring one more request, whose answer says that it was the last; HTTP/2 says so at once (GOAWAY).
async fn drive<C>(
    mut connection: Pin<&mut C>,
    stop: impl FnOnce(Pin<&mut C>),
    drain: watch::Receiver<bool>,
    farewell: Duration,
    peer: &Peer,
    context: &ServerContext,
) -> Result<(), ConnectionError>
where
    C: Future<Output = hyper::Result<()>>,
{
    let unfinished = tokio::select! {
        result = connection.as_mut() => return Ok(result?),
        () = started(drain) => ConnectionError::DrainTimeout,
        () = peer.enough.notified() => ConnectionError::Unsigned,
        () = peer.place.sent_away() => ConnectionError::OverShare,
        silence = silence(peer, &context.limits) => silence,
    };
    context.counts.count_stop(&unfinished);
    if matches!(unfinished, ConnectionError::DrainTimeout)
        && let Ok(result) = timeout(farewell, connection.as_mut()).await
    {
        return Ok(result?);
    }
    stop(connection.as_mut());
    Ok(timeout(context.limits.drain, connection).await.map_err(|_| unfinished)??)
}

/// Returns once no valid signature came for too long. Pings, resets, refused requests and bytes that are not read count
/// for nothing: without this, any of them would hold a place for ever.
async fn silence(peer: &Peer, limits: &ServerLimits) -> ConnectionError {
    if timeout(limits.stranger, peer.first_signature.notified()).await.is_err() {
        return ConnectionError::Unproven;
    }
    loop {
        let end = peer.last_signature() + limits.silence;
        if end <= Instant::now() {
            return ConnectionError::Silent;
        }
        sleep_until(end).await;
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

fn http2_builder(streams: Streams) -> http2::Builder<Streams> {
    let bytes = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(bytes(HTTP2_STREAM_WINDOW))
        .initial_connection_window_size(bytes(HTTP2_CONNECTION_WINDOW))
        .max_frame_size(HTTP2_FRAME)
        .header_table_size(HTTP2_HEADER_TABLE)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(bytes(HTTP_HEADER_BYTES_MAX))
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(HTTP2_ERROR_RESETS_MAX)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .auto_date_header(false);
    builder
}
