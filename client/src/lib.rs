//! HTTPS client of the custodian's API, over any byte stream.
//!
//! Guarantees: TLS 1.2 or 1.3 to a certificate under the roots that the manifest names; an answer is bounded in size and
//! time; a refusal comes back with the custodian's own words. HTTPS is defence in depth here: what an answer proves is for
//! the release protocol's signatures and encryption to say. One connection carries one request, so that no answer can be
//! taken for that of another. Refuses: redirects (there are none), answers over their bound, other content types.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_shared::api::{self, Refusal};
use holdfast_shared::cbor;
use holdfast_shared::manifest::Custodian;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

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
    #[error("custodian {address}: cannot connect: {source}")]
    Connect {
        /// The custodian's address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No TLS session.
    #[error("custodian {address}: TLS failed: {source}")]
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

/// A client of one custodian.
pub struct CustodianClient<C> {
    connector: C,
    address: String,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
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
        let unusable = |reason: String| ClientError::Unusable { address: custodian.address.clone(), reason };
        let host = custodian.address.rsplit_once(':').map_or(custodian.address.as_str(), |(host, _)| host);
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_| unusable("the host is neither a DNS name nor an IP address".to_owned()))?;
        let mut roots = rustls::RootCertStore::empty();
        for root in &custodian.tls_roots {
            roots
                .add(CertificateDer::from(root.0.as_slice()))
                .map_err(|error| unusable(format!("a TLS root cannot be used: {error}")))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector, address: custodian.address.clone(), server_name, tls: Arc::new(tls) })
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
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
        match tokio::time::timeout(timeout, self.exchange(path, body, answer_max)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Timeout { address: self.address.clone(), seconds: timeout.as_secs() }),
        }
    }

    async fn exchange(&self, path: &str, body: Vec<u8>, answer_max: usize) -> Result<Vec<u8>, ClientError> {
        let address = || self.address.clone();
        let stream = self
            .connector
            .connect(&self.address)
            .await
            .map_err(|source| ClientError::Connect { address: address(), source })?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.server_name.clone(), stream)
            .await
            .map_err(|source| ClientError::Tls { address: address(), source })?;
        let failed = |reason: String| ClientError::Http { address: address(), reason };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
        let driver = AbortOnDrop(tokio::spawn(connection));
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, api::CONTENT_TYPE)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, answer_max)
            .collect()
            .await
            .map_err(|error| failed(format!("the answer is over its limit or broken off: {error}")))?
            .to_bytes();
        drop(driver);
        if head.status == StatusCode::OK {
            return Ok(body.to_vec());
        }
        match cbor::decode::<Refusal>(&body) {
            Ok(refusal) => Err(ClientError::Refused { address: address(), refusal }),
            Err(_) => Err(failed(format!("status {} without a readable reason", head.status.as_u16()))),
        }
    }
}

/// Ends the task that drives a connection when the request is over or given up.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
