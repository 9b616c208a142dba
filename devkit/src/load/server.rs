//! `holdfast-dev load-server`: what a server costs that does nothing, as a process of its own.
//!
//! Guarantees: the same library (hyper), TLS (rustls with *ring*), cipher suites, key (P-256), protocols and session store as the
//! enclave's server has, and the same runtime; what is missing is everything that is Holdfast's. Assumes: whoever started it reads
//! one line, and holds its standard input open for as long as it is to live.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use clap::{Args, Subcommand};
use holdfast_link::{Listener, connect};
use http::{Response, header};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::target::parse_place;
use super::wire::Place;

/// The name in its certificate.
pub(super) const HOST_NAME: &str = "bare.test";
/// Sessions that are remembered, as in the enclave.
const SESSIONS: usize = 256;

/// Flags of `holdfast-dev load-server`.
#[derive(Clone, Debug, Args)]
pub struct ServerSettings {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Clone, Debug, Subcommand)]
enum Kind {
    /// Reads each request's body and answers with fixed bytes
    Bare {
        /// Where it listens.
        #[arg(long, value_parser = parse_place)]
        listen: Place,
        /// Bytes of an answer's body.
        #[arg(long)]
        answer_bytes: usize,
    },
    /// Carries connections elsewhere with `tokio::io::copy_bidirectional`
    Relay {
        /// Where it listens.
        #[arg(long, value_parser = parse_place)]
        listen: Place,
        /// Where to.
        #[arg(long, value_parser = parse_place)]
        to: Place,
    },
}

/// Either kind of listener.
enum Door {
    Tcp(TcpListener),
    Link(Listener),
}

/// Either kind of stream.
trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

impl Door {
    async fn bind(place: &Place) -> io::Result<(Self, String)> {
        match place {
            Place::Tcp(address) => {
                let address: SocketAddr = address.parse().map_err(io::Error::other)?;
                let listener = TcpListener::bind(address).await?;
                let shown = listener.local_addr()?.to_string();
                Ok((Self::Tcp(listener), shown))
            }
            Place::Link(address) => {
                let listener = Listener::bind(address).await.map_err(io::Error::other)?;
                Ok((Self::Link(listener), address.to_string()))
            }
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Pipe>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Link(listener) => Ok(Box::new(listener.accept().await?)),
        }
    }
}

/// Serves until standard input ends.
///
/// # Errors
/// If it cannot listen.
pub async fn serve(settings: ServerSettings) -> io::Result<()> {
    let served = async {
        match settings.kind {
            Kind::Bare { listen, answer_bytes } => bare(&listen, answer_bytes).await,
            Kind::Relay { listen, to } => relay(&listen, to).await,
        }
    };
    tokio::select! {
        result = served => result,
        () = input_ends() => Ok(()),
    }
}

async fn input_ends() {
    let (ended, waited) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Until it ends or fails, which is the same here.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = ended.send(());
    });
    let _ = waited.await;
}

fn say_ready(address: &str, certificate: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{address} {}", hex::encode(certificate))?;
    out.flush()
}

async fn bare(listen: &Place, answer_bytes: usize) -> io::Result<()> {
    let (config, certificate) = tls_config().map_err(io::Error::other)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let answer = Bytes::from(vec![b'x'; answer_bytes]);
    let (door, address) = Door::bind(listen).await?;
    say_ready(&address, &certificate)?;
    loop {
        let stream = door.accept().await?;
        tokio::spawn(answer_all(stream, acceptor.clone(), answer.clone()));
    }
}

async fn answer_all(stream: Box<dyn Pipe>, acceptor: TlsAcceptor, answer: Bytes) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answer = answer.clone();
        async move {
            // A body that breaks off ends the connection anyhow.
            let _ = request.into_body().collect().await;
            let mut response = Response::new(Full::new(answer));
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok::<_, Infallible>(response)
        }
    });
    // How a connection ends is its client's affair.
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let _ = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    } else {
        let mut builder = http1::Builder::new();
        let _ = builder.half_close(false).serve_connection(TokioIo::new(stream), service).await;
    }
}

/// As `holdfast_enclave::tls` has it.
fn tls_config() -> Result<(ServerConfig, Vec<u8>), Box<dyn std::error::Error + Send + Sync>> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = CertificateParams::new(vec![HOST_NAME.to_owned()])?.self_signed(&key)?;
    let der = certificate.der().to_vec();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(holdfast_enclave::tls::provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok((config, der))
}

async fn relay(listen: &Place, to: Place) -> io::Result<()> {
    let (door, address) = Door::bind(listen).await?;
    say_ready(&address, &[])?;
    let to = Arc::new(to);
    loop {
        let mut client = door.accept().await?;
        let to = Arc::clone(&to);
        tokio::spawn(async move {
            let mut server: Box<dyn Pipe> = match &*to {
                Place::Tcp(address) => Box::new(TcpStream::connect(address).await?),
                Place::Link(address) => Box::new(connect(address).await.map_err(io::Error::other)?),
            };
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
            client.shutdown().await
        });
    }
}
