//! A client of XKS proxies that signs as AWS KMS does.
//!
//! Guarantees: a request is signed by AWS's own signer with service `kms-xks-proxy`; the server's certificate is verified for the
//! host name under the given roots alone. Each request of [`XksClient`] has a connection of its own, so that no answer can be taken
//! for another's; who wants several on one asks for an [`XksConnection`]. Assumes: nothing of the proxy; an answer over [`ANSWER_MAX`]
//! or slower than [`TIMEOUT`] is an error.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::digest::{SHA256, digest};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::aws_json::uuid;

/// The service in whose name requests are signed (specification, Appendix A).
pub const SERVICE: &str = "kms-xks-proxy";
/// Bytes of the largest answer: base64 of the largest ciphertext that we make, and slack.
pub const ANSWER_MAX: usize = 256 * 1024;
/// Longest time for a request. KMS gives up after 250 ms; a client for tests and first steps has more patience.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum XksClientError {
    /// What was given cannot be used.
    #[error("the client cannot be set up: {0}")]
    Settings(String),
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// No TLS session: among other reasons, a certificate that is not for the host name or not under the roots.
    #[error("TLS with {address} as {host_name} failed: {source}")]
    Tls {
        /// Where.
        address: String,
        /// For which name.
        host_name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection ended before an answer.
    #[error("the request has no answer: {0}")]
    Unanswered(String),
    /// The answer is not HTTP or not JSON, or breaks off.
    #[error("the request failed: {0}")]
    Http(String),
    /// No answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The signer refused.
    #[error("the request cannot be signed: {0}")]
    Sign(String),
}

/// Which version of HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1, which KMS speaks unless ALPN offers more.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where the proxy is and how to sign.
pub struct XksClientSettings {
    /// `host:port` to connect to.
    pub address: String,
    /// The name in the certificate and in `Host`.
    pub host_name: String,
    /// The port in `Host` and in the URI; 443 is left out, as HTTP does.
    pub port: u16,
    /// The roots to trust, in DER.
    pub roots: Vec<Vec<u8>>,
    /// The path before `/kms/xks/v1`.
    pub path_prefix: String,
    /// Public half of the credential.
    pub access_key_id: String,
    /// Secret half of the credential.
    pub secret_access_key: String,
    /// The region in the signature's scope.
    pub region: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct XksAnswer {
    /// The status.
    pub status: StatusCode,
    /// Which HTTP it came over.
    pub http_version: Version,
    /// The body; null if it was empty.
    pub body: Value,
    /// SHA-256 of the server's certificate.
    pub certificate_sha256: [u8; 32],
}

impl XksAnswer {
    /// A string of the body.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field)?.as_str()
    }

    /// A field of the body, from base64.
    #[must_use]
    pub fn bytes(&self, field: &str) -> Option<Vec<u8>> {
        STANDARD.decode(self.text(field)?).ok()
    }
}

/// A client. See the module.
pub struct XksClient {
    settings: XksClientSettings,
    server_name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    version: HttpVersion,
}

impl XksClient {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`XksClientError::Settings`] when the host name or a root cannot be used.
    pub fn new(settings: XksClientSettings) -> Result<Self, XksClientError> {
        let server_name = ServerName::try_from(settings.host_name.clone())
            .map_err(|_| XksClientError::Settings("the host name is not a DNS name".to_owned()))?;
        let mut roots = RootCertStore::empty();
        for root in &settings.roots {
            roots
                .add(CertificateDer::from(root.as_slice()))
                .map_err(|error| XksClientError::Settings(format!("a root: {error}")))?;
        }
        let roots = Arc::new(roots);
        Ok(Self {
            http1: tls_config(&roots, b"http/1.1")?,
            http2: tls_config(&roots, b"h2")?,
            server_name,
            settings,
            version: HttpVersion::Http1,
        })
    }

    /// Chooses the version of HTTP.
    #[must_use]
    pub const fn over(mut self, version: HttpVersion) -> Self {
        self.version = version;
        self
    }

    /// `host` or `host:port`, as `Host` and `:authority` have it.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.settings.port {
            443 => self.settings.host_name.clone(),
            port => format!("{}:{port}", self.settings.host_name),
        }
    }

    /// `PREFIX/kms/xks/v1/…`.
    #[must_use]
    pub fn path(&self, end: &str) -> String {
        format!("{}/kms/xks/v1/{end}", self.settings.path_prefix)
    }

    /// `GetKeyMetadata`.
    ///
    /// # Errors
    /// [`XksClientError`].
    pub async fn metadata(&self, key_id: &str) -> Result<XksAnswer, XksClientError> {
        let body = json!({ "requestMetadata": self.request_metadata("DescribeKey") });
        self.post(&self.path(&format!("keys/{key_id}/metadata")), &body).await
    }

    /// `Encrypt`, asking for the integrity value.
    ///
    /// # Errors
    /// [`XksClientError`].
    pub async fn encrypt(
        &self,
        key_id: &str,
        plaintext: &[u8],
        aad: Option<&[u8]>,
    ) -> Result<XksAnswer, XksClientError> {
        let mut body = json!({
            "requestMetadata": self.request_metadata("Encrypt"),
            "plaintext": STANDARD.encode(plaintext),
            "encryptionAlgorithm": "AES_GCM",
            "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
        });
        add_aad(&mut body, aad);
        self.post(&self.path(&format!("keys/{key_id}/encrypt")), &body).await
    }

    /// `Decrypt` of what an `Encrypt` answered.
    ///
    /// # Errors
    /// [`XksClientError`].
    pub async fn decrypt(
        &self,
        key_id: &str,
        encrypted: &Value,
        aad: Option<&[u8]>,
    ) -> Result<XksAnswer, XksClientError> {
        let mut body = json!({
            "requestMetadata": self.request_metadata("Decrypt"),
            "encryptionAlgorithm": "AES_GCM",
        });
        if let Some(fields) = body.as_object_mut() {
            for name in ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"] {
                if let Some(value) = encrypted.get(name) {
                    fields.insert(name.to_owned(), value.clone());
                }
            }
        }
        add_aad(&mut body, aad);
        self.post(&self.path(&format!("keys/{key_id}/decrypt")), &body).await
    }

    /// `GetHealthStatus`.
    ///
    /// # Errors
    /// [`XksClientError`].
    pub async fn health(&self) -> Result<XksAnswer, XksClientError> {
        let body = json!({
            "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": uuid() },
        });
        self.post(&self.path("health"), &body).await
    }

    /// Posts JSON to a path, signed now.
    ///
    /// # Errors
    /// [`XksClientError`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<XksAnswer, XksClientError> {
        let request = self.signed(&Method::POST, path, body.to_string().into_bytes().into(), SystemTime::now())?;
        self.send(request).await
    }

    /// A signed request, which the caller may spoil before it is sent.
    ///
    /// # Errors
    /// [`XksClientError::Sign`].
    pub fn signed(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        at: SystemTime,
    ) -> Result<Request<Bytes>, XksClientError> {
        let failed = |error: &dyn core::fmt::Display| XksClientError::Sign(error.to_string());
        let (id, secret) = (&self.settings.access_key_id, &self.settings.secret_access_key);
        let identity = Credentials::new(id, secret, None, None, "holdfast-dev").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.settings.region)
            .name(SERVICE)
            .time(at)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| failed(&error))?
            .into();
        let uri = format!("https://{}{path}", self.authority());
        let headers = [("content-type", "application/json")];
        let signable = SignableRequest::new(method.as_str(), &uri, headers.into_iter(), SignableBody::Bytes(&body))
            .map_err(|error| failed(&error))?;
        let (instructions, _) = sign(signable, &parameters).map_err(|error| failed(&error))?.into_parts();
        let mut request = Request::builder().method(method).uri(&uri).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in instructions.headers() {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| failed(&error))?;
            let value = HeaderValue::from_str(value).map_err(|error| failed(&error))?;
            request = request.header(name, value);
        }
        request.body(body).map_err(|error| failed(&error))
    }

    /// Sends a request as it is.
    ///
    /// # Errors
    /// [`XksClientError`].
    pub async fn send(&self, request: Request<Bytes>) -> Result<XksAnswer, XksClientError> {
        tokio::time::timeout(TIMEOUT, self.exchange(request)).await.unwrap_or(Err(XksClientError::Timeout))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<XksAnswer, XksClientError> {
        self.open().await?.exchange(request).await
    }

    /// Opens a connection for requests that follow each other. Nothing bounds its time.
    ///
    /// # Errors
    /// [`XksClientError`].
    pub async fn open(&self) -> Result<XksConnection, XksClientError> {
        let stream = self.connect().await?;
        let certificate_sha256 = certificate_sha256(&stream);
        let failed = |error: &dyn core::fmt::Display| XksClientError::Http(error.to_string());
        let authority = HeaderValue::from_str(&self.authority()).map_err(|error| failed(&error))?;
        let (sender, driver) = match self.version {
            HttpVersion::Http1 => {
                let (sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
                (Sender::Http1(sender), tokio::spawn(async { connection.await.map_err(drop) }))
            }
            HttpVersion::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .map_err(|error| failed(&error))?;
                (Sender::Http2(sender), tokio::spawn(async { connection.await.map_err(drop) }))
            }
        };
        Ok(XksConnection { sender, authority, certificate_sha256, _driver: Driver(driver) })
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, XksClientError> {
        let address = || self.settings.address.clone();
        let stream = TcpStream::connect(&self.settings.address)
            .await
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| XksClientError::Connect { address: address(), source })?;
        let config = match self.version {
            HttpVersion::Http1 => &self.http1,
            HttpVersion::Http2 => &self.http2,
        };
        TlsConnector::from(Arc::clone(config)).connect(self.server_name.clone(), stream).await.map_err(|source| {
            XksClientError::Tls { address: address(), host_name: self.settings.host_name.clone(), source }
        })
    }

    /// What KMS says about a request (specification, Appendix B), with made-up names.
    fn request_metadata(&self, operation: &str) -> Value {
        json!({
            "awsPrincipalArn": "arn:aws:iam::123456789012:user/holdfast-dev",
            "kmsKeyArn": format!(
                "arn:aws:kms:{}:123456789012:key/00000000-0000-0000-0000-000000000000",
                self.settings.region
            ),
            "kmsOperation": operation,
            "kmsRequestId": uuid(),
        })
    }
}

/// A connection of [`XksClient::open`].
pub struct XksConnection {
    sender: Sender,
    authority: HeaderValue,
    certificate_sha256: [u8; 32],
    _driver: Driver,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl XksConnection {
    /// Whether a request can still be sent, as far as this side knows.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Sends a request as it is and reads the answer to its end.
    ///
    /// # Errors
    /// [`XksClientError::Unanswered`] and [`XksClientError::Http`]. The connection is of no use after one.
    pub async fn exchange(&mut self, request: Request<Bytes>) -> Result<XksAnswer, XksClientError> {
        let request = request.map(Full::new);
        let response = match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(in_origin_form(request, &self.authority)?).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        let response = response.map_err(|error| {
            let kind = if error.is_parse() { XksClientError::Http } else { XksClientError::Unanswered };
            kind(error.to_string())
        })?;
        read_answer(response, self.certificate_sha256).await
    }
}

/// HTTP/1.1 has the path in its first line and the authority in `Host` (RFC 9112, section 3.2.1).
fn in_origin_form(
    mut request: Request<Full<Bytes>>,
    authority: &HeaderValue,
) -> Result<Request<Full<Bytes>>, XksClientError> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, authority.clone());
    }
    *request.uri_mut() =
        path.parse().map_err(|error: http::uri::InvalidUri| XksClientError::Http(error.to_string()))?;
    Ok(request)
}

/// The integrity value that the specification's Appendix C computes over an answer to `Encrypt`.
#[must_use]
pub fn integrity_value(aad: Option<&[u8]>, encrypted: &XksAnswer) -> Option<[u8; 32]> {
    let mut hashed = aad.unwrap_or_default().to_vec();
    hashed.extend(encrypted.bytes("ciphertextMetadata").unwrap_or_default());
    for field in ["initializationVector", "ciphertext", "authenticationTag"] {
        hashed.extend(encrypted.bytes(field)?);
    }
    digest(&SHA256, &hashed).as_ref().try_into().ok()
}

fn add_aad(body: &mut Value, aad: Option<&[u8]>) {
    if let (Some(aad), Some(fields)) = (aad, body.as_object_mut()) {
        fields.insert("additionalAuthenticatedData".to_owned(), STANDARD.encode(aad).into());
    }
}

fn tls_config(roots: &Arc<RootCertStore>, protocol: &[u8]) -> Result<Arc<ClientConfig>, XksClientError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| XksClientError::Settings(error.to_string()))?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

fn certificate_sha256(stream: &TlsStream<TcpStream>) -> [u8; 32] {
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    leaf.and_then(|leaf| digest(&SHA256, leaf).as_ref().try_into().ok()).unwrap_or_default()
}

async fn read_answer(
    response: http::Response<Incoming>,
    certificate_sha256: [u8; 32],
) -> Result<XksAnswer, XksClientError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_MAX)
        .collect()
        .await
        .map_err(|error| XksClientError::Http(format!("the answer is over its limit or broken off: {error}")))?
        .to_bytes();
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            XksClientError::Http(format!("status {}, and the body is not JSON: {error}", head.status))
        })?
    };
    Ok(XksAnswer { status: head.status, http_version: head.version, body, certificate_sha256 })
}

/// Ends the task that drives a connection when the request is over or given up.
struct Driver(JoinHandle<Result<(), ()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
