//! A client that can misbehave: it chooses TLS version, server name and HTTP version, and sends a request as it was made.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Where to.
    pub address: SocketAddr,
    /// The server name in the handshake, which the certificate must be for.
    pub server_name: String,
    /// The roots to trust, in DER.
    pub roots: Vec<Vec<u8>>,
    /// TLS versions to offer.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// HTTP/2 instead of HTTP/1.1.
    pub http2: bool,
}

/// An answer, and over what it came.
#[derive(Clone, Debug)]
pub struct WireAnswer {
    /// The status.
    pub status: StatusCode,
    /// The HTTP version.
    pub http: Version,
    /// The TLS version.
    pub tls: Option<ProtocolVersion>,
    /// The body.
    pub body: Vec<u8>,
}

impl WireAnswer {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Wire {
    /// Connects, without sending a request.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(CertificateDer::from(root.as_slice())).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![if self.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(self.server_name.clone()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
    }

    /// Sends a request (its URI in absolute form) over a connection of its own.
    ///
    /// # Errors
    /// What went wrong before there was an answer.
    pub async fn send(&self, request: Request<Bytes>) -> Result<WireAnswer, String> {
        let stream = self.connect().await?;
        let tls = stream.get_ref().1.protocol_version();
        let failed = |error: hyper::Error| error.to_string();
        let request = request.map(Full::new);
        let response = if self.http2 {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(failed)?
        } else {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
            tokio::spawn(connection);
            sender.send_request(origin_form(request)).await.map_err(failed)?
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes().to_vec();
        Ok(WireAnswer { status: head.status, http: head.version, tls, body })
    }
}

/// HTTP/1.1 has the path in its first line and the authority in `Host`.
fn origin_form(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    if let Some(authority) = request.uri().authority().cloned() {
        let host = HeaderValue::from_str(authority.as_str()).unwrap();
        request.headers_mut().entry(header::HOST).or_insert(host);
        let path = request.uri().path_and_query().map_or("/".to_owned(), ToString::to_string);
        *request.uri_mut() = path.parse().unwrap();
    }
    request
}
