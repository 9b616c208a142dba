//! The listener for KMS: connections in, answers out.
//!
//! ```text
//! stream ─► ClientHello ─► host in the Directory ─► TLS of that host ─► HTTP/2 or HTTP/1.1 ─► xks pipeline, per request
//! ```
//!
//! Guarantees: every wait for the client has a time limit and every buffer a size limit, and so have all requests together;
//! a connection that brings no valid signature for a time is closed, whatever else it brings; a connection speaks for one host
//! name, and a request that names another is answered with 421; no lock is shared between connections after the handshake.
//! Assumes: nothing of the bytes: they come through the parent. Refuses: a handshake without a server name or for a name
//! that is not served, before any key is touched.

mod connection;
mod counts;
mod handshake;
mod http_service;
mod memory;

use core::future::Future;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use counts::Counts;
use memory::RequestMemory;

pub use connection::{ConnectionError, serve_connection};

use crate::clock::Clock;
use crate::directory::Directory;
use crate::xks::{NoObserver, RequestObserver};

/// Pause after `accept` failed, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// For the TLS handshake, the `ClientHello` included.
    pub tls_handshake: Duration,
    /// For the head of an HTTP/1.1 request, idle time before it included.
    pub headers: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// From the handshake to the first valid signature.
    pub stranger: Duration,
    /// From one valid signature to the next.
    pub silence: Duration,
    /// For running requests to finish once the server drains, or the connection was silent for too long.
    pub drain: Duration,
    /// Connections served at once.
    pub connections: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_millis(limits::TLS_HANDSHAKE_MS),
            headers: Duration::from_millis(limits::HTTP_HEADERS_MS),
            body: Duration::from_millis(limits::HTTP_BODY_MS),
            stranger: Duration::from_millis(limits::HTTP_STRANGER_MS),
            silence: Duration::from_millis(limits::HTTP_SILENCE_MS),
            drain: Duration::from_millis(limits::HTTP_BODY_MS),
            connections: limits::CONNECTIONS_MAX,
        }
    }
}

/// What all connections share.
pub struct ServerContext {
    /// What is served.
    pub directory: Arc<Directory>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who is told of each request.
    pub observer: Arc<dyn RequestObserver>,
    /// How long to wait, and for how many.
    pub limits: ServerLimits,
    counts: Counts,
    memory: RequestMemory,
}

impl ServerContext {
    /// A context with the limits of [`holdfast_shared::limits`], but at most `connections_max` connections, and no
    /// observer.
    #[must_use]
    pub fn new(directory: Arc<Directory>, clock: Arc<dyn Clock>, connections_max: usize) -> Self {
        let memory = RequestMemory::new(limits::HTTP_REQUESTS_BYTES_MAX);
        let limits = ServerLimits { connections: connections_max, ..ServerLimits::default() };
        Self { directory, clock, observer: Arc::new(NoObserver), limits, counts: Counts::default(), memory }
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts.connections()
    }

    /// What was counted since the start, by name: handshakes that failed, requests by outcome.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        self.counts.by_name()
    }
}

/// Something that accepts connections: a socket of the link, or a test's queue.
pub trait Accept: Send {
    /// What a connection is.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    ///
    /// # Errors
    /// If there is none to be had at the moment.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for holdfast_link::Listener {
    type Stream = holdfast_link::Stream;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        Self::accept(self).await
    }
}

/// Serves connections until `drain` turns true (or its sender is gone); then takes no more, and lets the running requests
/// finish within their limit.
pub async fn serve<A: Accept>(mut listener: A, context: Arc<ServerContext>, drain: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(context.limits.connections));
    let mut connections = JoinSet::new();
    let mut draining = core::pin::pin!(started(drain.clone()));
    loop {
        let accepted = async {
            // A place first: above the cap, connections wait in the socket's queue instead of in our memory.
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (stream, place) = tokio::select! {
            () = &mut draining => break,
            Some(_) = connections.join_next() => continue,
            accepted = accepted => accepted,
        };
        let Ok(stream) = stream else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (context, drain) = (Arc::clone(&context), drain.clone());
        connections.spawn(async move {
            // What went wrong on one connection is counted; there is nobody else to tell.
            let _ = serve_connection(stream, context, drain).await;
            drop(place);
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Connections cut themselves off at `limits.drain`; a handshake that is still running has its own limit.
    let limit = context.limits.drain + context.limits.tls_handshake;
    let _ = timeout(limit, all).await;
}

/// Waits until draining is ordered. If nobody can order it any more, that is an order too.
async fn started(mut drain: watch::Receiver<bool>) {
    let _ = drain.wait_for(|draining| *draining).await;
}
