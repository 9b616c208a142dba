//! One HTTPS request over any byte stream, to a host under given roots.
//!
//! Guarantees: TLS 1.2 or 1.3 to a certificate for the host of the address under the given roots and no others; an answer is bounded
//! in size and time; a connection carries one request at a time and is given up unless the whole of its answer came, so that no answer
//! can be taken for that of another. Refuses: redirects (they are answers like others), answers over their bound.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use crate::{Connect, remedy};

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The address or the roots cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No TLS session.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// The connection ended, or the answer is not HTTP or over its bound.
    #[error("the request failed: {0}")]
    Http(String),
    /// No answer in time.
    #[error("no answer within {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
}

impl HttpsError {
    /// What to do about it: `; …`, or nothing where that is not known.
    #[must_use]
    pub fn remedy(&self) -> String {
        remedy::of_asking(self)
    }

    /// Whether the connection was refused because of the other side's certificate.
    #[must_use]
    pub fn is_of_certificate(&self) -> bool {
        let Self::Tls(error) = self else { return false };
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
    }
}

/// An answer, and what is known of the connection over which it came.
#[derive(Clone, Debug)]
pub struct HttpsAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The certificates that the other side of this connection showed, leaf first, and for the first of which it has the key.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Whether a certificate, in DER, can be a root: the stores of operating systems hold some that cannot.
#[must_use]
pub fn is_usable_root(der: &[u8]) -> bool {
    rustls::RootCertStore::empty().add(CertificateDer::from(der)).is_ok()
}

/// A client of one address.
pub struct HttpsClient<C> {
    connector: C,
    address: String,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl<C: Connect> HttpsClient<C> {
    /// For `address`, `host:port`, under roots in DER; certificates are checked against the clock `time`.
    ///
    /// # Errors
    /// [`HttpsError::Unusable`] when address or roots make no sense.
    pub fn new<'a>(
        connector: C,
        address: &str,
        roots: impl IntoIterator<Item = &'a [u8]>,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, HttpsError> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_| HttpsError::Unusable("the host is neither a DNS name nor an IP address".to_owned()))?;
        let mut store = rustls::RootCertStore::empty();
        for root in roots {
            store
                .add(CertificateDer::from(root))
                .map_err(|error| HttpsError::Unusable(format!("a TLS root cannot be used: {error}")))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .map_err(|error| HttpsError::Unusable(error.to_string()))?
            .with_root_certificates(store)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector, address: address.to_owned(), server_name, tls: Arc::new(tls) })
    }

    /// The same by the system clock.
    ///
    /// # Errors
    /// [`HttpsError::Unusable`] when address or roots make no sense.
    pub fn by_system_clock<'a>(
        connector: C,
        address: &str,
        roots: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, HttpsError> {
        Self::new(connector, address, roots, Arc::new(rustls::time_provider::DefaultTimeProvider))
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends `request`, which names its path and its `Host`, over a connection of its own, and returns status and body of the answer.
    ///
    /// # Errors
    /// [`HttpsError`]; the answer may have at most `answer_max` bytes and must be complete within `timeout`.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        answer_max: usize,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), HttpsError> {
        let answer = self.exchange(request, answer_max, timeout).await?;
        Ok((answer.status, answer.body))
    }

    /// Asks for `path_and_query`, without a body.
    ///
    /// # Errors
    /// [`HttpsError`]; the answer may have at most `answer_max` bytes and must be complete within `timeout`.
    pub async fn get(
        &self,
        path_and_query: &str,
        answer_max: usize,
        timeout: Duration,
    ) -> Result<HttpsAnswer, HttpsError> {
        let request = Request::builder()
            .uri(path_and_query)
            .header(header::HOST, &self.address)
            .body(Full::default())
            .map_err(|error| HttpsError::Http(error.to_string()))?;
        self.exchange(request, answer_max, timeout).await
    }

    /// The same for any request.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        answer_max: usize,
        timeout: Duration,
    ) -> Result<HttpsAnswer, HttpsError> {
        match tokio::time::timeout(timeout, self.exchange_at_leisure(request, answer_max)).await {
            Ok(result) => result,
            Err(_) => Err(HttpsError::Timeout { seconds: timeout.as_secs() }),
        }
    }

    async fn exchange_at_leisure(
        &self,
        request: Request<Full<Bytes>>,
        answer_max: usize,
    ) -> Result<HttpsAnswer, HttpsError> {
        let mut connection = self.connect().await?;
        let (status, headers, body) = connection.exchange(request, answer_max).await.map_err(Failure::into_error)?;
        Ok(HttpsAnswer { status, headers, body, certificates: connection.certificates })
    }

    pub(crate) async fn connect(&self) -> Result<Connection, HttpsError> {
        let stream = self.connector.connect(&self.address).await.map_err(HttpsError::Connect)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.server_name.clone(), stream)
            .await
            .map_err(HttpsError::Tls)?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates = shown.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| HttpsError::Http(error.to_string()))?;
        Ok(Connection { sender, certificates, _driver: AbortOnDrop(tokio::spawn(async { drop(connection.await) })) })
    }
}

/// A connection on which no answer is awaited.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    certificates: Vec<CertificateDer<'static>>,
    _driver: AbortOnDrop<()>,
}

/// Why an exchange brought no answer. The connection is of no use any more.
pub(crate) enum Failure {
    /// The connection had ended: nothing of the request was sent.
    Unsent(Box<Request<Full<Bytes>>>),
    Error(HttpsError),
}

impl Failure {
    pub(crate) fn into_error(self) -> HttpsError {
        match self {
            Self::Unsent(_) => HttpsError::Http("the connection ended before the request".to_owned()),
            Self::Error(error) => error,
        }
    }
}

impl Connection {
    /// Whether the other side has ended it.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// One request and the whole of its answer. After an error, or when this is dropped half-way, the connection must not be used again:
    /// the next answer would be this request's.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        answer_max: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        if self.sender.ready().await.is_err() {
            return Err(Failure::Unsent(Box::new(request)));
        }
        let answer = self.sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
            Some(request) => Failure::Unsent(Box::new(request)),
            None => Failure::Error(HttpsError::Http(error.into_error().to_string())),
        })?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, answer_max)
            .collect()
            .await
            .map_err(|error| {
                Failure::Error(HttpsError::Http(format!("the answer is over its limit or broken off: {error}")))
            })?
            .to_bytes();
        Ok((head.status, head.headers, body))
    }
}

/// Ends the task that drives a connection when the connection is given up.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
