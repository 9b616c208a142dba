//! HTTP for `object_store`: one connection after another, by hyper and rustls.
//!
//! Guarantees: TLS 1.2 or 1.3 to a certificate for the URL's host under the given roots and no others; every answer is bounded, and so is the
//! time for it: by its length, at 64 KiB/s, and by how long nothing comes. What a service says of its refusal (XML) is shortened to its code and message.
//! Refuses: plain HTTP to other machines. Credentials of a machine or container come over plain HTTP from addresses that do not leave it:
//! that is the one exception, and what is stored never goes there. Redirects are answers like others; proxies are not used.

use core::error::Error;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::StoreError;
use crate::audit::folder::FILE_MAX;
use crate::files;

/// Bytes of a file of certificate authorities: those of an operating system have a quarter of it.
const ROOTS_MAX: usize = 1024 * 1024;
/// How long a connection may take, its TLS session included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for the service that hands out a machine's credentials, which most machines do not have.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nothing may come of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes a second at which a request may go out.
const SEND_PER_SECOND: u64 = 64 * 1024;
/// Bytes a second that come of an answer at least, after [`ANSWER_TIMEOUT`].
const RECEIVE_PER_SECOND: u32 = 64 * 1024;
/// How long a connection is kept that nobody uses: services end them after 5 s and more.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// How long the end of the answer before may take to be noticed.
const READY_WITHIN: Duration = Duration::from_millis(20);
/// Bytes of an answer that is no object: a page of a listing has 1,000 names of at most 1 KiB.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of a refusal that are looked at, and of one in no known form that are shown.
const REFUSAL_MAX: usize = 64 * 1024;
const REASON_MAX: usize = 400;

/// Makes clients.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tls: Arc<ClientConfig>,
}

impl Connector {
    /// Under the certificate authorities of a PEM file, or of this system.
    pub(super) fn new(roots: Option<&Path>) -> Result<Self, StoreError> {
        let mut store = rustls::RootCertStore::empty();
        match roots {
            Some(path) => {
                let refused = || StoreError::Place(format!("{}: is not a PEM file of certificates", path.display()));
                let pem = files::read(path, ROOTS_MAX).map_err(|error| StoreError::Place(error.to_string()))?;
                for root in CertificateDer::pem_slice_iter(&pem) {
                    store.add(root.map_err(|_| refused())?).map_err(|_| refused())?;
                }
                if store.is_empty() {
                    return Err(refused());
                }
            }
            // Some that operating systems have cannot be roots.
            None => {
                let _ = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| StoreError::Place(error.to_string()))?
            .with_root_certificates(store)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // Said of clients for a machine's or container's credentials, and for nothing else: `Bucket` sees to that.
        let is_http_allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        let plain = if is_http_allowed.as_deref() == Some("true") { Plain::Metadata } else { Plain::Loopback };
        Ok(HttpClient::new(Service { tls: Arc::clone(&self.tls), plain, idle: Mutex::default() }))
    }
}

/// To which addresses plain HTTP may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    /// This machine.
    Loopback,
    /// This machine, and what only this machine reaches: the instance metadata service and its like (`169.254.0.0/16`, `fd00:ec2::/32`).
    Metadata,
}

impl Plain {
    fn takes(self, address: IpAddr) -> bool {
        let is_metadata = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => is_ec2(address),
        };
        address.is_loopback() || (self == Self::Metadata && is_metadata)
    }
}

const fn is_ec2(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0xfd00, 0x0ec2, ..])
}

/// Whether `host` names this machine and no other.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the URL cannot be used")]
    Url,
    #[error("plain HTTP goes to this machine only: use https://")]
    Plain,
    #[error("cannot connect to {address}: {source}{advice}")]
    Connect { address: String, source: io::Error, advice: &'static str },
    #[error("cannot connect to {address}: no answer in time{advice}")]
    ConnectTimeout { address: String, advice: &'static str },
    #[error("the TLS session with {address} failed: {source}")]
    Tls { address: String, source: io::Error },
    #[error("no answer in time")]
    Timeout,
    #[error("the answer is longer than what was asked for can be")]
    TooLong,
    #[error("the connection broke off: {0}")]
    Http(#[source] hyper::Error),
}

impl From<Failure> for HttpError {
    fn from(failure: Failure) -> Self {
        let kind = match &failure {
            Failure::Url | Failure::Plain | Failure::TooLong => HttpErrorKind::Unknown,
            Failure::Connect { .. } | Failure::ConnectTimeout { .. } => HttpErrorKind::Connect,
            Failure::Tls { source, .. } => of_tls(source),
            Failure::Timeout => HttpErrorKind::Timeout,
            Failure::Http(_) => HttpErrorKind::Interrupted,
        };
        Self::new(kind, failure)
    }
}

/// A certificate that is not accepted will not be in a second either.
fn of_tls(error: &io::Error) -> HttpErrorKind {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    if cause.is_some() { HttpErrorKind::Unknown } else { HttpErrorKind::Connect }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Sender = SendRequest<HttpRequestBody>;

/// A connection that waits for the next request.
#[derive(Debug)]
struct Idle {
    target: Target,
    sender: Sender,
    since: Instant,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    is_tls: bool,
    authority: Authority,
}

impl Target {
    fn of(uri: &Uri) -> Option<Self> {
        let is_tls = match uri.scheme()? {
            scheme if *scheme == Scheme::HTTPS => true,
            scheme if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        Some(Self { is_tls, authority: uri.authority()?.clone() })
    }

    const fn default_port(&self) -> u16 {
        if self.is_tls { 443 } else { 80 }
    }

    fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(self.default_port())
    }

    /// Without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// As it was signed: without a port that goes without saying.
    fn header(&self) -> Result<HeaderValue, Failure> {
        let is_default = self.port() == self.default_port();
        let text = if is_default { self.authority.host() } else { self.authority.as_str() };
        HeaderValue::from_str(text).map_err(|_| Failure::Url)
    }
}

#[derive(Debug)]
struct Service {
    tls: Arc<ClientConfig>,
    plain: Plain,
    idle: Mutex<Vec<Idle>>,
}

impl HttpService for Service {
    // What `async_trait` makes of `async fn`.
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move { Ok(self.exchange(request).await?) })
    }
}

impl Service {
    async fn exchange(&self, mut request: HttpRequest) -> Result<HttpResponse, Failure> {
        let target = Target::of(request.uri()).ok_or(Failure::Url)?;
        let max = self.answer_max(&request);
        let is_head = request.method() == Method::HEAD;
        request.headers_mut().insert(header::HOST, target.header()?);
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);

        let bytes = u64::try_from(request.body().content_length()).unwrap_or(u64::MAX);
        let patience = ANSWER_TIMEOUT + Duration::from_secs(bytes / SEND_PER_SECOND);
        let (sender, response) = self.send(&target, request, patience).await?;
        self.keep(Idle { target, sender, since: Instant::now() });
        let (head, body) = response.into_parts();
        let is_refusal = head.status.is_client_error() || head.status.is_server_error();
        let body = if is_refusal && !is_head {
            refusal(body).await.into()
        } else {
            HttpResponseBody::new(Bounded::new(body, max))
        };
        Ok(HttpResponse::from_parts(head, body))
    }

    fn answer_max(&self, request: &HttpRequest) -> u64 {
        let is_object = request.method() == Method::GET && request.uri().query().is_none();
        if is_object && self.plain == Plain::Loopback { FILE_MAX } else { ANSWER_MAX }
    }

    /// Over a connection that was kept, if there is one. What was not sent at all is sent again over a new one.
    async fn send(
        &self,
        target: &Target,
        mut request: HttpRequest,
        patience: Duration,
    ) -> Result<(Sender, http::Response<Incoming>), Failure> {
        loop {
            let kept = self.take(target).await;
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect(target).await?,
            };
            match timeout(patience, sender.try_send_request(request)).await {
                Err(_) => return Err(Failure::Timeout),
                Ok(Ok(response)) => return Ok((sender, response)),
                Ok(Err(mut error)) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(Failure::Http(error.into_error())),
                },
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, idle: Idle) {
        self.idle().push(idle);
    }

    /// A connection over which the answer before has come as a whole.
    async fn take(&self, target: &Target) -> Option<Sender> {
        let mut found = {
            let mut idle = self.idle();
            idle.retain(|kept| !kept.sender.is_closed() && kept.since.elapsed() < IDLE_MAX);
            let at = idle.iter().position(|kept| kept.target == *target)?;
            idle.swap_remove(at)
        };
        match timeout(READY_WITHIN, found.sender.ready()).await {
            Ok(Ok(())) => Some(found.sender),
            Ok(Err(_)) => None,
            // Its answer is still read by somebody.
            Err(_) => {
                self.keep(found);
                None
            }
        }
    }

    async fn connect(&self, target: &Target) -> Result<Sender, Failure> {
        let is_metadata = self.plain == Plain::Metadata;
        let patience = if is_metadata { METADATA_TIMEOUT } else { CONNECT_TIMEOUT };
        let connected = timeout(patience, async {
            let stream = self.open(target).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failure::Http)?;
            // It ends with the sender and the last answer.
            tokio::spawn(async { drop(connection.await) });
            Ok(sender)
        });
        connected.await.unwrap_or_else(|_| {
            Err(Failure::ConnectTimeout { address: target.authority.to_string(), advice: self.advice() })
        })
    }

    async fn open(&self, target: &Target) -> Result<Box<dyn Stream>, Failure> {
        let address = || target.authority.to_string();
        let failed = |source| Failure::Connect { address: address(), source, advice: self.advice() };
        let found: Vec<SocketAddr> = lookup_host((target.host(), target.port())).await.map_err(failed)?.collect();
        if !target.is_tls && !found.iter().all(|address| self.plain.takes(address.ip())) {
            return Err(Failure::Plain);
        }
        let stream = TcpStream::connect(found.as_slice()).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        if !target.is_tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(target.host().to_owned()).map_err(|_| Failure::Url)?;
        let connected = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        Ok(Box::new(connected.map_err(|source| Failure::Tls { address: address(), source })?))
    }

    /// What to do where the machine's credentials were asked for, since the environment has none.
    const fn advice(&self) -> &'static str {
        match self.plain {
            Plain::Loopback => "",
            Plain::Metadata => {
                "; there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
            }
        }
    }
}

/// What of a refusal is worth showing.
async fn refusal(body: Incoming) -> Bytes {
    match timeout(ANSWER_TIMEOUT, Limited::new(body, REFUSAL_MAX).collect()).await {
        Ok(Ok(read)) => shortened(&read.to_bytes()),
        _ => Bytes::new(),
    }
}

/// The code and message of a refusal in XML, or the beginning of any other.
fn shortened(refusal: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(refusal);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}").into(),
        (Some(code), None) => code.to_owned().into(),
        _ => refusal.slice(..refusal.len().min(REASON_MAX)),
    }
}

/// An answer of so many bytes at most, of which something comes now and then, and not too little over all.
struct Bounded<B> {
    body: B,
    left: u64,
    /// When all that has come is too little: later with each byte.
    due: Instant,
    patience: Pin<Box<Sleep>>,
}

impl<B> Bounded<B> {
    fn new(body: B, max: u64) -> Self {
        Self { body, left: max, due: Instant::now() + ANSWER_TIMEOUT, patience: Box::pin(sleep(ANSWER_TIMEOUT)) }
    }

    /// So many bytes have come.
    fn came(&mut self, bytes: u64) -> Result<(), Failure> {
        self.left = self.left.checked_sub(bytes).ok_or(Failure::TooLong)?;
        let worth =
            Duration::from_secs(1).saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX)) / RECEIVE_PER_SECOND;
        self.due += worth;
        self.patience.as_mut().reset(self.due.min(Instant::now() + ANSWER_TIMEOUT));
        Ok(())
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Bounded<B> {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            return this.patience.as_mut().poll(context).map(|()| Some(Err(Failure::Timeout.into())));
        };
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(Failure::Http)?;
            this.came(frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The innermost cause of an error, which says what happened; the rest says where.
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        // What our own failures wrap, they show.
        if cause.is::<Failure>() {
            break;
        }
        cause = source;
    }
    cause.to_string()
}

/// Whether no answer came, or not all of one: the next question may find none either.
pub(super) fn is_silent(error: &(dyn Error + 'static)) -> bool {
    core::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source())
        .any(<dyn Error>::is::<Failure>)
}

#[cfg(test)]
mod tests;
