//! The listener for KMS: connections in, answers out.
//!
//! ```text
//! stream ─► ClientHello ─► host in the Directory ─► TLS of that host ─► HTTP/2 or HTTP/1.1 ─► xks pipeline, per request
//! ```
//!
//! Guarantees: every wait for the client has a time limit and every buffer a size limit, and so have all requests together;
//! a connection that brings no valid signature for a time is closed, whatever else it brings. Those that have brought one are
//! not displaced by those that have not, and host names share places, memory and the work of handshakes fairly (`admission`,
//! `memory`, `turns`; docs/limits.md). A connection speaks for one host name, and a request that names another is answered
//! with 421; no lock is shared between connections after the first valid signature.
//! Assumes: nothing of the bytes: they come through the parent. Refuses: a handshake without a server name or for a name
//! that is not served, before any key is touched.

mod admission;
mod connection;
mod counts;
mod handshake;
mod held;
mod http_service;
mod json_errors;
mod memory;
mod proof;
mod turns;

use core::future::Future;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use admission::Admission;
use connection::serve_admitted;
use counts::Counts;
use memory::RequestMemory;
use proof::Proofs;
use turns::Turns;

pub use connection::{ConnectionError, serve_connection};

use crate::clock::Clock;
use crate::directory::Directory;
use crate::nsm::Nsm;
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
    /// For a client of HTTP/1.1 to bring its last request once the server drains.
    pub farewell: Duration,
    /// For running requests to finish once the server drains, or the connection was silent for too long.
    pub drain: Duration,
    /// Connections served at once.
    pub connections: usize,
    /// Requests without a valid signature after which a connection that never brought one ends.
    pub stranger_requests: usize,
    /// Bytes that the requests of proven connections hold together.
    pub requests_bytes: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_millis(limits::TLS_HANDSHAKE_MS),
            headers: Duration::from_millis(limits::HTTP_HEADERS_MS),
            body: Duration::from_millis(limits::HTTP_BODY_MS),
            stranger: Duration::from_millis(limits::HTTP_STRANGER_MS),
            silence: Duration::from_millis(limits::HTTP_SILENCE_MS),
            farewell: Duration::from_millis(limits::HTTP_FAREWELL_MS),
            drain: Duration::from_millis(limits::HTTP_BODY_MS),
            connections: limits::CONNECTIONS_MAX,
            stranger_requests: limits::STRANGER_REQUESTS_MAX,
            requests_bytes: limits::HTTP_REQUESTS_BYTES_MAX,
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
    limits: ServerLimits,
    counts: Counts,
    memory: Arc<RequestMemory>,
    admission: Arc<Admission>,
    turns: Arc<Turns>,
    proofs: Proofs,
}

impl ServerContext {
    /// A context with the limits of [`holdfast_shared::limits`], but at most `connections_max` connections, and no
    /// observer.
    #[must_use]
    pub fn new(directory: Arc<Directory>, clock: Arc<dyn Clock>, nsm: &Nsm, connections_max: usize) -> Self {
        let limits = ServerLimits { connections: connections_max, ..ServerLimits::default() };
        Self::with_limits(directory, clock, nsm, limits)
    }

    /// A context with other limits, and no observer.
    #[must_use]
    pub fn with_limits(directory: Arc<Directory>, clock: Arc<dyn Clock>, nsm: &Nsm, limits: ServerLimits) -> Self {
        let memory = RequestMemory::new(limits.requests_bytes);
        let admission = Admission::new(limits.connections, Arc::clone(&memory));
        // Half of the threads; with one, strangers and the proven alternate.
        let threads = std::thread::available_parallelism().map_or(1, core::num::NonZeroUsize::get);
        let turns = Turns::new(threads / 2);
        let counts = Counts::default();
        let (observer, proofs) = (Arc::new(NoObserver), Proofs::new(nsm));
        Self { directory, clock, observer, limits, counts, memory, admission, turns, proofs }
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts.connections()
    }

    /// What was counted since the start, by name: handshakes that failed, requests by outcome, places that were taken away;
    /// and how many connections are proven, and how many strangers, at the moment.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = self.counts.by_name();
        let places = self.admission.counters().into_iter();
        let memory = [("requests_over_host_share", self.memory.refused())];
        counters.extend(places.chain(memory).map(|(name, value)| (name.to_owned(), value)));
        counters
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
    let mut connections = JoinSet::new();
    let mut draining = core::pin::pin!(started(drain.clone()));
    loop {
        let accepted = tokio::select! {
            () = &mut draining => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok(stream) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // At once, or as soon as the stranger that has to go for it is gone.
        let place = context.admission.enter().await;
        let (context, drain) = (Arc::clone(&context), drain.clone());
        connections.spawn(async move {
            // What went wrong on one connection is counted; there is nobody else to tell.
            let _ = serve_admitted(stream, place, context, drain).await;
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Connections cut themselves off at `limits.drain`; a handshake that is still running has its own limit.
    let limit = context.limits.farewell + context.limits.drain + context.limits.tls_handshake;
    let _ = timeout(limit, all).await;
}

/// Waits until draining is ordered. If nobody can order it any more, that is an order too.
async fn started(mut drain: watch::Receiver<bool>) {
    let _ = drain.wait_for(|draining| *draining).await;
}
