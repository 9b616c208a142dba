//! HTTPS client of the custodian's API, over any byte stream.
//!
//! Guarantees: TLS 1.2 or 1.3 to a certificate under the roots that the manifest names; an answer is bounded in size and
//! time; a refusal comes back with the custodian's own words. HTTPS is defence in depth here: what an answer proves is for
//! the release protocol's signatures and encryption to say. A connection carries one request at a time and is given up unless the whole
//! of its answer came, so that no answer can be taken for that of another. Refuses: redirects (there are none), answers over their bound, other content types.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_shared::api::{self, Refusal};
use holdfast_shared::cbor;
use holdfast_shared::manifest::Custodian;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

mod https;
mod kept;
mod remedy;

use https::Failure;
pub use https::{HttpsAnswer, HttpsClient, HttpsError, is_usable_root};
use kept::{Aged, KeptConnections};

/// How to reach a custodian: directly, or through a relay.
pub trait Connect: Send + Sync {
    /// The byte stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `address`, `host:port`.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Connects by TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connect for Tcp {
    type Stream = tokio::net::TcpStream;

    async fn connect(&self, address: &str) -> io::Result<Self::Stream> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The manifest's address or roots cannot be used.
    #[error("custodian {address}: {reason}")]
    Unusable {
        /// The custodian's address.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// No connection.
    #[error("custodian {address}: cannot connect: {source}{}", remedy::of_connecting(source))]
    Connect {
        /// The custodian's address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No TLS session.
    #[error("custodian {address}: TLS failed: {source}{}", remedy::of_tls(source))]
    Tls {
        /// The custodian's address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection ended, or the answer is not HTTP.
    #[error("custodian {address}: the request failed: {reason}")]
    Http {
        /// The custodian's address.
        address: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("custodian {address}: no answer within {seconds} s")]
    Timeout {
        /// The custodian's address.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// The custodian said no.
    #[error("custodian {address} refused: {}", refusal.reason)]
    Refused {
        /// The custodian's address.
        address: String,
        /// Its words.
        refusal: Refusal,
    },
}

impl ClientError {
    /// The custodian's refusal, if that is what it was.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

impl ClientError {
    fn of(address: &str, error: HttpsError) -> Self {
        let address = address.to_owned();
        match error {
            HttpsError::Unusable(reason) => Self::Unusable { address, reason },
            HttpsError::Connect(source) => Self::Connect { address, source },
            HttpsError::Tls(source) => Self::Tls { address, source },
            HttpsError::Http(reason) => Self::Http { address, reason },
            HttpsError::Timeout { seconds } => Self::Timeout { address, seconds },
        }
    }
}

/// A client of one custodian. It keeps connections for the requests that come next.
pub struct CustodianClient<C> {
    https: HttpsClient<C>,
    kept: KeptConnections,
}

impl<C: Connect> CustodianClient<C> {
    /// For the custodian of a manifest; certificates are checked against the system clock.
    ///
    /// # Errors
    /// [`ClientError::Unusable`] when its address or roots make no sense.
    pub fn new(connector: C, custodian: &Custodian) -> Result<Self, ClientError> {
        Self::with_time(connector, custodian, Arc::new(rustls::time_provider::DefaultTimeProvider))
    }

    /// The same with another clock.
    ///
    /// # Errors
    /// [`ClientError::Unusable`] when its address or roots make no sense.
    pub fn with_time(connector: C, custodian: &Custodian, time: Arc<dyn TimeProvider>) -> Result<Self, ClientError> {
        let roots = custodian.tls_roots.iter().map(|root| root.0.as_slice());
        let client = HttpsClient::new(connector, &custodian.address, roots, time);
        let client = client.map(|https| Self { https, kept: KeptConnections::default() });
        client.map_err(|error| ClientError::of(&custodian.address, error))
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.https.address()
    }

    /// Posts `body` to `path` and returns the body of a 200.
    ///
    /// # Errors
    /// [`ClientError`]; the answer may have at most `answer_max` bytes and must be complete within `timeout`.
    pub async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        answer_max: usize,
        timeout: Duration,
    ) -> Result<Vec<u8>, ClientError> {
        let failed = |reason: String| ClientError::Http { address: self.address().to_owned(), reason };
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, self.address())
            .header(header::CONTENT_TYPE, api::CONTENT_TYPE)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(error.to_string()))?;
        let sent = tokio::time::timeout(timeout, self.send(request, answer_max)).await;
        let sent = sent.unwrap_or_else(|_| Err(HttpsError::Timeout { seconds: timeout.as_secs() }));
        let (status, body) = sent.map_err(|error| ClientError::of(self.address(), error))?;
        if status == StatusCode::OK {
            return Ok(body.to_vec());
        }
        match cbor::decode::<Refusal>(&body) {
            Ok(refusal) => Err(ClientError::Refused { address: self.address().to_owned(), refusal }),
            Err(_) => Err(failed(format!("status {} without a readable reason", status.as_u16()))),
        }
    }

    /// Sends a request over a connection that was kept, if there is one, and over a new one otherwise. Only what was not sent at all is
    /// sent again: whoever asks decides about the rest.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        answer_max: usize,
    ) -> Result<(StatusCode, Bytes), HttpsError> {
        loop {
            let (mut aged, is_new) = if let Some(aged) = self.kept.take() {
                (aged, false)
            } else {
                let opened = Instant::now();
                (Aged::new(self.https.connect().await?, opened), true)
            };
            match aged.connection.exchange(request, answer_max).await {
                Ok((status, _, body)) => {
                    self.kept.put(aged);
                    return Ok((status, body));
                }
                Err(Failure::Unsent(unsent)) if !is_new => request = *unsent,
                Err(failure) => return Err(failure.into_error()),
            }
        }
    }
}
