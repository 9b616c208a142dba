//! A hostile parent that also holds the custodian's TLS key, so that it sees and changes every message of the release protocol:
//! HTTPS is defence in depth, and what is proven must rest on signatures and HPKE alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::random::Random;

/// Files of a TLS identity: as a custodian's configuration takes them.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM, mode 0600.
    pub private_key: PathBuf,
    /// PEM.
    pub roots: PathBuf,
}

impl TlsFiles {
    /// Makes an authority and a certificate for `localhost`.
    #[must_use]
    pub fn create(folder: &Path) -> Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = authority.self_signed(&authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        let files = Self {
            certificate: folder.join("certificate.pem"),
            private_key: folder.join("key.pem"),
            roots: folder.join("roots.pem"),
        };
        std::fs::write(&files.certificate, leaf.pem()).unwrap();
        std::fs::write(&files.roots, root.pem()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&files.private_key);
        std::io::Write::write_all(&mut file.unwrap(), key.serialize_pem().as_bytes()).unwrap();
        files
    }

    fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(&self.certificate).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.private_key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.roots).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

/// Request or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// To the custodian.
    Request,
    /// From the custodian.
    Answer,
}

/// What is done to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A bit of a byte (its place taken modulo the length) is flipped.
    FlipBit(usize, u8),
    /// Only so many bytes come (modulo the length).
    Cut(usize),
    /// It comes later.
    Hold(Duration),
    /// It never comes: the connection ends.
    Drop,
    /// The one before it on the same path comes instead.
    Replay,
    /// The newest one on another path comes instead.
    Swap(&'static str),
    /// The request goes to the custodian twice, and the second answer comes.
    Twice,
    /// These bytes come instead.
    Instead(Vec<u8>),
}

/// One deed, and at which message of a path it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The path.
    pub path: &'static str,
    /// Counted from 0 since the rules were set; none for every message.
    pub nth: Option<usize>,
    /// Request or answer.
    pub half: Half,
    /// The deed.
    pub deed: Deed,
}

impl Rule {
    /// A random deed at one of these paths.
    pub fn random(random: &mut Random, paths: &[&'static str]) -> Self {
        let path = *random.choose(paths);
        let deed = match random.below(9) {
            0..=2 => Deed::FlipBit(random.below(20_000), u8::try_from(random.below(8)).unwrap()),
            3 => Deed::Cut(random.below(20_000)),
            4 => Deed::Hold(random.pause(1500)),
            5 => Deed::Drop,
            6 => Deed::Replay,
            7 => Deed::Swap(random.choose::<&'static str>(paths)),
            _ => Deed::Twice,
        };
        let half = if deed == Deed::Twice { Half::Request } else { *random.choose(&[Half::Request, Half::Answer]) };
        Self { path, nth: Some(random.below(3)), half, deed }
    }
}

/// A request and its answer, as they were sent.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The path.
    pub path: String,
    /// The request.
    pub request: Vec<u8>,
    /// The answer's status; none if there was no answer.
    pub status: Option<u16>,
    /// The answer.
    pub answer: Vec<u8>,
    /// When the request came.
    pub asked: Instant,
    /// When the answer went on its way, after whatever was done to it.
    pub delivered: Option<Instant>,
}

#[derive(Default)]
struct State {
    target: Option<SocketAddr>,
    rules: Vec<Rule>,
    statuses: HashMap<&'static str, StatusCode>,
    counts: HashMap<String, usize>,
    exchanges: Vec<Exchange>,
}

struct Shared {
    state: Mutex<State>,
    connector: TlsConnector,
}

/// See the module.
pub struct Interceptor {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Interceptor {
    /// Listens on a port of its own, with the custodian's certificate.
    pub async fn start(files: &TlsFiles) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = files.acceptor();
        let shared = Arc::new(Shared { state: Mutex::default(), connector: files.connector() });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                while connections.try_join_next().is_some() {}
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| intercept(Arc::clone(&shared), request));
                    // A deed ends the connection with an error, as intended.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { shared, address, task }
    }

    /// Its own address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The custodian's address from now on.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.state.lock().unwrap().target = Some(target);
    }

    /// What is done from now on. Messages are counted anew.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        let mut state = self.shared.state.lock().unwrap();
        state.rules = rules;
        state.counts.clear();
    }

    /// Answers on a path have this status from now on, whatever the custodian answered.
    pub fn set_status(&self, path: &'static str, status: Option<StatusCode>) {
        let mut state = self.shared.state.lock().unwrap();
        state.statuses.remove(path);
        state.statuses.extend(status.map(|status| (path, status)));
    }

    /// Everything that was said so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.state.lock().unwrap().exchanges.clone()
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connection ends here.
#[derive(Debug)]
struct Ended;

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ended by the interceptor")
    }
}

impl std::error::Error for Ended {}

async fn intercept(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Ended> {
    let asked = Instant::now();
    let path = request.uri().path().to_owned();
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let body = request.into_body().collect().await.map_err(|_| Ended)?.to_bytes().to_vec();
    let deeds = shared.deeds(&path);
    let sent = shared.change(&path, Half::Request, &deeds, body.clone()).await?;
    let number = {
        let mut state = shared.state.lock().unwrap();
        let (status, answer, delivered) = (None, Vec::new(), None);
        let exchange = Exchange { path: path.clone(), request: body, status, answer, asked, delivered };
        state.exchanges.push(exchange);
        state.exchanges.len() - 1
    };
    let mut answered = shared.forward(&path, sent.clone(), content_type.clone()).await?;
    if deeds.iter().any(|(_, deed)| *deed == Deed::Twice) {
        answered = shared.forward(&path, sent, content_type.clone()).await?;
    }
    let (status, answer) = answered;
    // Changed before it is noted, so that a replay is of one before it.
    let changed = shared.change(&path, Half::Answer, &deeds, answer.clone()).await;
    {
        let exchange = &mut shared.state.lock().unwrap().exchanges[number];
        exchange.status = Some(status.as_u16());
        exchange.answer = answer;
        exchange.delivered = Some(Instant::now());
    }
    let status = shared.state.lock().unwrap().statuses.get(path.as_str()).copied().unwrap_or(status);
    let mut response = Response::builder().status(status);
    if let Some(content_type) = content_type {
        response = response.header(header::CONTENT_TYPE, content_type);
    }
    Ok(response.body(Full::new(Bytes::from(changed?))).unwrap())
}

impl Shared {
    /// What is to be done to the next message of this path.
    fn deeds(&self, path: &str) -> Vec<(Half, Deed)> {
        let mut state = self.state.lock().unwrap();
        let count = state.counts.entry(path.to_owned()).or_default();
        let number = *count;
        *count += 1;
        let ours = |rule: &&Rule| rule.path == path && rule.nth.is_none_or(|nth| nth == number);
        state.rules.iter().filter(ours).map(|rule| (rule.half, rule.deed.clone())).collect()
    }

    async fn change(
        &self,
        path: &str,
        half: Half,
        deeds: &[(Half, Deed)],
        mut body: Vec<u8>,
    ) -> Result<Vec<u8>, Ended> {
        for (_, deed) in deeds.iter().filter(|(of, _)| *of == half) {
            match deed {
                Deed::FlipBit(at, bit) if !body.is_empty() => {
                    let at = at % body.len();
                    body[at] ^= 1 << (bit % 8);
                }
                Deed::FlipBit(..) | Deed::Twice => {}
                Deed::Cut(length) => body.truncate(length % body.len().max(1)),
                Deed::Hold(duration) => tokio::time::sleep(*duration).await,
                Deed::Drop => return Err(Ended),
                Deed::Replay => body = self.newest(path, half).unwrap_or(body),
                Deed::Swap(other) => body = self.newest(other, half).unwrap_or(body),
                Deed::Instead(bytes) => body.clone_from(bytes),
            }
        }
        Ok(body)
    }

    fn newest(&self, path: &str, half: Half) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        let complete = |exchange: &&Exchange| exchange.path == path && exchange.status.is_some();
        let exchange = state.exchanges.iter().rev().find(complete)?;
        Some(if half == Half::Request { exchange.request.clone() } else { exchange.answer.clone() })
    }

    async fn forward(
        &self,
        path: &str,
        body: Vec<u8>,
        content_type: Option<http::HeaderValue>,
    ) -> Result<(StatusCode, Vec<u8>), Ended> {
        let target = self.state.lock().unwrap().target.ok_or(Ended)?;
        let stream = TcpStream::connect(target).await.map_err(|_| Ended)?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = self.connector.connect(name, stream).await.map_err(|_| Ended)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| Ended)?;
        let driver = tokio::spawn(connection);
        let mut request = Request::post(path).header(header::HOST, "localhost");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await;
        let (head, body) = response.map_err(|_| Ended)?.into_parts();
        let body = body.collect().await.map_err(|_| Ended)?.to_bytes().to_vec();
        driver.abort();
        Ok((head.status, body))
    }
}
