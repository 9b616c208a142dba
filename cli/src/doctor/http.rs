//! HTTP/1.1 over verified TLS, one request after the other, with the time of each part.
//!
//! Guarantees: a request goes only to a server whose certificate one of the given roots vouches for; an answer is bounded in size and
//! time; no redirect is followed. A request is repeated once, over a new connection, where one that stood had ended meanwhile: those of
//! the API can be.

use core::net::SocketAddr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_client::{Connect as _, Tcp};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::table::{Cause, causes};
use super::tls::{HTTP11, SUITES};

/// Bytes of the largest answer: far more than any of the API.
const ANSWER_MAX: usize = 256 * 1024;

/// An answer.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Of the connection, where it was opened for this request.
    pub(super) opened: Option<Opened>,
    /// From the request to the head of the answer.
    pub(super) first_byte: Duration,
}

/// How long opening a connection took.
#[derive(Clone, Copy)]
pub(super) struct Opened {
    pub(super) tcp: Duration,
    pub(super) tls: Duration,
}

/// Why there is no answer.
pub(super) enum Fault {
    Connect(io::Error),
    Tls(io::Error),
    Timeout(Duration),
    Closed(String),
    NotHttp(String),
    Oversized,
}

impl Fault {
    /// What is wrong, and what was seen.
    pub(super) fn judged(&self) -> (&'static Cause, String) {
        match self {
            Self::Connect(error) => (&causes::TCP_REFUSED, error.to_string()),
            Self::Tls(error) => (&causes::TLS_REFUSED, error.to_string()),
            Self::Timeout(limit) => (&causes::TIMED_OUT, format!("no answer within {} ms", limit.as_millis())),
            Self::Closed(reason) => (&causes::CLOSED, reason.clone()),
            Self::NotHttp(reason) => (&causes::NOT_HTTP, reason.clone()),
            Self::Oversized => (&causes::OVERSIZED, format!("over {ANSWER_MAX} bytes")),
        }
    }
}

impl From<hyper::Error> for Fault {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() { Self::NotHttp(error.to_string()) } else { Self::Closed(error.to_string()) }
    }
}

/// A server, and the connection to it that stands.
pub(super) struct Wire {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
    timeout: Duration,
    line: Option<Line>,
}

struct Line {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Wire {
    /// To `address` as `host`, with the suites of KMS; nothing is sent yet.
    pub(super) fn new(
        address: SocketAddr,
        host: &str,
        roots: &Arc<RootCertStore>,
        timeout: Duration,
    ) -> Result<Self, String> {
        let provider = CryptoProvider { cipher_suites: SUITES.to_vec(), ..default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(Arc::clone(roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP11.to_vec()];
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        Ok(Self { address, name, tls: TlsConnector::from(Arc::new(config)), timeout, line: None })
    }

    /// Gives up the connection that stands: the next request opens one.
    pub(super) fn hang_up(&mut self) {
        self.line = None;
    }

    /// Sends one request and reads the whole of its answer.
    pub(super) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, Fault> {
        let limit = self.timeout;
        let result = tokio::time::timeout(limit, self.at_leisure(request)).await;
        let result = result.unwrap_or(Err(Fault::Timeout(limit)));
        if result.is_err() {
            self.line = None;
        }
        result
    }

    async fn at_leisure(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, Fault> {
        if let Some(mut line) = self.line.take()
            && !line.sender.is_closed()
            && let Ok(reply) = line.exchange(request.clone(), None).await
        {
            self.keep(line, &reply);
            return Ok(reply);
        }
        let (mut line, opened) = self.open().await?;
        let reply = line.exchange(request, Some(opened)).await?;
        self.keep(line, &reply);
        Ok(reply)
    }

    fn keep(&mut self, line: Line, reply: &Reply) {
        let ends =
            reply.headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        self.line = (!ends).then_some(line);
    }

    async fn open(&self) -> Result<(Line, Opened), Fault> {
        let start = Instant::now();
        let stream = Tcp.connect(&self.address.to_string()).await.map_err(Fault::Connect)?;
        let tcp = start.elapsed();
        let stream = self.tls.connect(self.name.clone(), stream).await.map_err(Fault::Tls)?;
        let tls = start.elapsed().saturating_sub(tcp);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async { drop(connection.await) });
        Ok((Line { sender, driver }, Opened { tcp, tls }))
    }
}

impl Line {
    async fn exchange(&mut self, request: Request<Full<Bytes>>, opened: Option<Opened>) -> Result<Reply, Fault> {
        let start = Instant::now();
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        let first_byte = start.elapsed();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { Fault::Oversized } else { Fault::Closed(error.to_string()) }
        })?;
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes(), opened, first_byte })
    }
}
