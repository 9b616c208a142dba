//! `GET /ready` for load balancers, `GET /status` for operators, `GET /metrics` for Prometheus: plain HTTP/1.1 on an address of its own.
//!
//! Guarantees: 200 at `/ready` only on the fresh word of a connected enclave; a request costs a bounded time and memory.
//! Refuses: other paths (404) and methods (405).

use core::convert::Infallible;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use holdfast_link::BootId;
use holdfast_link::control::Status;

use crate::audit;
use crate::ingress::prepare;
use crate::limits::{ACCEPT_PAUSE, READY_CONNECTION_MAX, READY_CONNECTIONS_MAX, READY_HEAD_MAX, READY_HEAD_TIMEOUT};
use crate::manifests::Manifests;
use crate::metrics;
use crate::state::{EnclaveView, Phase, State, Unreadiness, age};

/// What the pages show.
#[derive(Debug, Clone)]
pub(crate) struct ReadyPage {
    pub(crate) state: Arc<State>,
    pub(crate) manifests: watch::Receiver<Manifests>,
}

#[derive(Debug, Serialize)]
struct Ready {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Unreadiness>,
}

#[derive(Debug, Serialize)]
struct Page {
    ready: bool,
    reason: Option<Unreadiness>,
    draining: bool,
    uptime_ms: u64,
    connections: usize,
    egress_connections: usize,
    manifests: usize,
    audit: audit::Page,
    /// The one that gets new clients.
    enclave: Option<EnclavePage>,
    /// During an upgrade, the one that is to take over, or that finishes.
    other_enclave: Option<EnclavePage>,
    counters: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct EnclavePage {
    boot_id: BootId,
    drained: bool,
    status_age_ms: Option<u64>,
    status: Option<Status>,
}

impl EnclavePage {
    fn of(view: EnclaveView, now: Instant) -> Self {
        let (received, status) = view.status.unzip();
        Self {
            boot_id: view.boot_id,
            drained: view.drained,
            status_age_ms: received.map(|received| milliseconds(age(now, received))),
            status,
        }
    }
}

/// Serves the pages until the program ends.
pub(crate) async fn serve(listener: TcpListener, page: ReadyPage) {
    let slots = Arc::new(Semaphore::new(READY_CONNECTIONS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                prepare(&stream);
                if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                    let page = page.clone();
                    tokio::spawn(async move {
                        // Whatever ends it, the client sees that it has ended.
                        let _ = timeout(READY_CONNECTION_MAX, connection(stream, page)).await;
                        drop(slot);
                    });
                }
            }
            Err(error) => {
                page.state.counters.accept_failed.increment();
                tracing::warn!(%error, "cannot accept a connection at ready_listen");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, page: ReadyPage) -> Result<(), hyper::Error> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = page.answer(request.method(), request.uri().path());
        core::future::ready(Ok::<_, Infallible>(response))
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READY_HEAD_TIMEOUT)
        .max_buf_size(READY_HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

impl ReadyPage {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (path, method == Method::GET) {
            ("/ready", true) => {
                let reason = self.state.readiness().err();
                let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json(status, &Ready { ready: reason.is_none(), reason })
            }
            ("/status", true) => json(StatusCode::OK, &self.page()),
            ("/metrics", true) => text(metrics::page(&self.state)),
            ("/ready" | "/status" | "/metrics", false) => {
                let mut response = json(StatusCode::METHOD_NOT_ALLOWED, &BTreeMap::from([("error", "use GET")]));
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
                response
            }
            _ => {
                json(StatusCode::NOT_FOUND, &BTreeMap::from([("error", "only /ready, /status and /metrics are here")]))
            }
        }
    }

    fn page(&self) -> Page {
        let now = Instant::now();
        let reason = self.state.readiness().err();
        let active = *self.state.active.borrow();
        let page = |slot| self.state.seat(slot).enclave().map(|view| EnclavePage::of(view, now));
        Page {
            ready: reason.is_none(),
            reason,
            draining: *self.state.phase.borrow() != Phase::Serving,
            uptime_ms: milliseconds(age(now, self.state.started)),
            connections: self.state.ingress.taken(),
            egress_connections: self.state.egress.taken(),
            manifests: self.manifests.borrow().len(),
            audit: self.state.audit.page(),
            enclave: page(active),
            other_enclave: page(active.other()),
            counters: self.state.counters.snapshot(),
        }
    }
}

fn milliseconds(duration: core::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Full<Bytes>> {
    // Serializing these types cannot fail: their keys are text and nothing in them returns an error.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = answer(body.into(), "application/json");
    *response.status_mut() = status;
    response
}

/// Prometheus's text format (Prometheus documentation, "Exposition formats").
fn text(page: String) -> Response<Full<Bytes>> {
    answer(page.into(), "text/plain; version=0.0.4; charset=utf-8")
}

fn answer(body: Bytes, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
