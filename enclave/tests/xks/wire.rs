//! A client with TLS, over a pipe in memory.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_enclave::server::{ConnectionError, ServerContext, serve_connection};
use holdfast_enclave::tls::provider;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedCipherSuite};
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fixture::{Call, HOST, World};

/// A pipe to a connection that is being served.
pub(crate) struct Served {
    pub(crate) drain: watch::Sender<bool>,
    pub(crate) done: JoinHandle<Result<(), ConnectionError>>,
}

/// Starts serving one end of a pipe; gives the other.
pub(crate) fn pipe(context: Arc<ServerContext>) -> (DuplexStream, Served) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (drain, draining) = watch::channel(false);
    let done = tokio::spawn(serve_connection(server, context, draining));
    (client, Served { drain, done })
}

/// A client that trusts the test's authority and speaks `protocols`.
pub(crate) fn client_config(world: &World, provider: CryptoProvider, protocols: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(world.ca.root.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

pub(crate) async fn connect_with(
    config: ClientConfig,
    host: &str,
    stream: DuplexStream,
) -> std::io::Result<TlsStream<DuplexStream>> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub(crate) async fn connect(world: &World, protocol: &str) -> (TlsStream<DuplexStream>, Served) {
    let (stream, served) = pipe(world.context());
    let config = client_config(world, provider(), &[protocol]);
    (connect_with(config, HOST, stream).await.unwrap(), served)
}

/// One of the two HTTP clients.
pub(crate) enum Client {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) async fn open(world: &World, protocol: &str) -> (Self, Served) {
        let (stream, served) = connect(world, protocol).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        (Self::over(stream, protocol).await, served)
    }

    pub(crate) async fn over(stream: TlsStream<DuplexStream>, protocol: &str) -> Self {
        let io = TokioIo::new(stream);
        if protocol == "h2" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    /// Sends a request; HTTP/2 gets its `:authority` in place of `Host`, as real clients do.
    pub(crate) async fn send(&mut self, request: http::Request<String>) -> hyper::Result<http::Response<Bytes>> {
        let mut request = request.map(|body| Full::new(Bytes::from(body)));
        let response = match self {
            Self::Http1(sender) => sender.send_request(request).await?,
            Self::Http2(sender) => {
                let host = request.headers_mut().remove("host").unwrap();
                let uri = format!("https://{}{}", host.to_str().unwrap(), request.uri());
                *request.uri_mut() = uri.parse().unwrap();
                sender.send_request(request).await?
            }
        };
        let (parts, body) = response.into_parts();
        Ok(http::Response::from_parts(parts, body.collect().await?.to_bytes()))
    }

    pub(crate) async fn call(&mut self, call: &Call) -> (u16, Value) {
        let response = self.send(call.signed()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap_or(Value::Null))
    }
}

/// *ring* with one cipher suite.
pub(crate) fn provider_with(suite: SupportedCipherSuite) -> CryptoProvider {
    CryptoProvider { cipher_suites: vec![suite], ..rustls::crypto::ring::default_provider() }
}

/// Shakes hands with one cipher suite; gives the version on success.
pub(crate) async fn handshake(world: &World, suite: SupportedCipherSuite) -> Option<ProtocolVersion> {
    let (stream, _served) = pipe(world.context());
    let config = client_config(world, provider_with(suite), &["http/1.1"]);
    let stream = connect_with(config, HOST, stream).await.ok()?;
    stream.get_ref().1.protocol_version()
}
