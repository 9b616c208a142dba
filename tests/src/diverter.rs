//! Somebody between a client and the enclave who ends TLS with a key of his own, under a certificate that the client accepts:
//! what whoever controls a DNS name, or an authority, can do.
//!
//! Guarantees: the genuine enclave never sees the client's connection. Assumes: a request without a body on each connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_devkit::up::authority::Authority;
use holdfast_shared::proof::{self, ProofQuery};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::client::Wire;
use crate::system::HOST_NAME;

/// Makes a document for a query, of which the diverter's own key is the second part.
type Maker = Box<dyn FnMut(&ProofQuery, [u8; 32]) -> Vec<u8> + Send>;

/// How requests are answered.
pub enum Trick {
    /// As the enclave answers, which is asked over another connection.
    Relay(Wire),
    /// With these bytes.
    Recorded(Vec<u8>),
    /// With a document of the diverter's own making.
    Made(Mutex<Maker>),
    /// With 404: there is no such thing here.
    Nothing,
}

impl Trick {
    /// A document of the diverter's own making.
    pub fn made(maker: impl FnMut(&ProofQuery, [u8; 32]) -> Vec<u8> + Send + 'static) -> Self {
        Self::Made(Mutex::new(Box::new(maker)))
    }

    async fn answer(&self, request: &Request<Incoming>, own: [u8; 32]) -> (u16, Vec<u8>) {
        match self {
            Self::Relay(wire) => {
                let path = request.uri().path_and_query().unwrap();
                let uri: Uri = format!("https://{HOST_NAME}:{}{path}", wire.address.port()).parse().unwrap();
                let answer = wire.send(Request::get(uri).body(Bytes::new()).unwrap()).await.unwrap();
                (answer.status.as_u16(), answer.body)
            }
            Self::Recorded(document) => (200, document.clone()),
            Self::Made(maker) => {
                let query = ProofQuery::parse(request.uri().query().unwrap()).unwrap();
                (200, (maker.lock().unwrap())(&query, own))
            }
            Self::Nothing => (404, Vec::new()),
        }
    }
}

/// See the module. Ends when dropped.
pub struct Diverter {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Diverter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Diverter {
    /// Listens, with a certificate of `authority` for the system's host name.
    pub async fn start(authority: &Authority, trick: Trick) -> Self {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::new(vec![HOST_NAME.to_owned()]).unwrap().serialize_request(&key).unwrap();
        let pem = authority.sign(&request.pem().unwrap(), HOST_NAME).unwrap();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        let own = proof::tls_public_key_sha256(&chain[0]).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let trick = Arc::new(trick);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&trick), own));
            }
        });
        Self { address, task }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, trick: Arc<Trick>, own: [u8; 32]) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let trick = Arc::clone(&trick);
        async move {
            let (status, body) = trick.answer(&request, own).await;
            let response = Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    // A client that has gone is one that has seen enough.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
