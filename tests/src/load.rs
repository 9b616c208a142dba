//! Clients that never stop: over connections that stay open, HTTP/1.1 and HTTP/2, and over a new one for each request.
//!
//! Guarantees: every request is an `Encrypt` whose answer is decrypted again and compared; whatever is not answered with 200 is kept
//! as a failure, word for word. A connection that breaks is a failure, too. Clients that follow do as every client of HTTP must: a
//! connection that the server has ended in order between two requests (`Connection: close`, GOAWAY) is opened anew, and a request
//! that GOAWAY says was not processed is sent there; a connection that ends with any other request under way is a failure for
//! them as well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::Wire;
use crate::random::random_bytes;
use crate::system::{Caller, Credential, REGION};
use crate::wait::until;

/// Failures that are kept.
const KEPT_MAX: usize = 5;
/// Between two requests of a client: those who are tested need the machine as well.
const PAUSE: Duration = Duration::from_millis(20);

/// Of a request that was never sent, because the connection had ended, and of one that a graceful GOAWAY says was not processed:
/// both may be sent again (RFC 9113, section 6.8).
const NOT_PROCESSED: [&str; 2] = ["hyper::Error(Canceled", "GoAway(b\"\", NO_ERROR, Remote)"];

/// How one client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One connection, HTTP/1.1.
    Http1,
    /// One connection, HTTP/2.
    Http2,
    /// A new connection for each request.
    Fresh,
}

struct Shared {
    caller: Mutex<Caller>,
    key: String,
    follows: bool,
    stopped: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// See the module.
pub struct Load {
    name: String,
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts one client for each mode.
    #[must_use]
    pub fn start(name: &str, caller: &Caller, key: &str, modes: &[Mode]) -> Self {
        Self::start_as(name, caller, key, modes, false)
    }

    /// The same with clients that follow a server which leaves.
    #[must_use]
    pub fn start_following(name: &str, caller: &Caller, key: &str, modes: &[Mode]) -> Self {
        Self::start_as(name, caller, key, modes, true)
    }

    fn start_as(name: &str, caller: &Caller, key: &str, modes: &[Mode], follows: bool) -> Self {
        let shared = Arc::new(Shared {
            caller: Mutex::new(caller.clone()),
            key: key.to_owned(),
            follows,
            stopped: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failures: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        for mode in modes {
            clients.spawn(client(Arc::clone(&shared), *mode));
        }
        Self { name: name.to_owned(), shared, clients }
    }

    /// Requests answered well so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Clients sign with this from their next request on.
    pub fn sign_with(&self, credential: &Credential) {
        self.shared.caller.lock().unwrap().credential = credential.clone();
    }

    /// Waits until so many more requests were answered.
    pub async fn goes_on(&self, more: u64) {
        let goal = self.answered() + more;
        until(&format!("{more} more requests of {}", self.name), || async {
            self.assert_unharmed();
            (self.answered() >= goal).then_some(())
        })
        .await;
    }

    /// Fails if any request has failed.
    pub fn assert_unharmed(&self) {
        let failed = self.shared.failed.load(Ordering::SeqCst);
        let failures = self.shared.failures.lock().unwrap().clone();
        assert_eq!(failed, 0, "{}: beside {} good answers: {failures:?}", self.name, self.answered());
    }

    /// Stops, fails if any request has failed, and returns how many were answered.
    pub async fn finish(mut self) -> u64 {
        self.shared.stopped.store(true, Ordering::SeqCst);
        while self.clients.join_next().await.is_some() {}
        self.assert_unharmed();
        self.answered()
    }
}

async fn client(shared: Arc<Shared>, mode: Mode) {
    let mut line = None;
    while !shared.stopped.load(Ordering::SeqCst) {
        let result = match line.take().filter(|line: &Line| !shared.follows || line.is_open()) {
            Some(line) => Ok(line),
            None => Line::open(&shared, mode).await,
        };
        let result = match result {
            Ok(mut open) => round_trip(&shared, mode, &mut open).await.map(|()| open),
            Err(error) => Err(format!("{mode:?}: no connection: {error}")),
        };
        match result {
            Ok(open) => {
                shared.answered.fetch_add(1, Ordering::SeqCst);
                line = Some(open).filter(|_| mode != Mode::Fresh);
            }
            Err(error) => {
                shared.failed.fetch_add(1, Ordering::SeqCst);
                let mut failures = shared.failures.lock().unwrap();
                if failures.len() < KEPT_MAX {
                    failures.push(format!("{mode:?}: {error}"));
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A connection.
pub(crate) enum Line {
    Http1 { sender: http1::SendRequest<Full<Bytes>>, last: bool },
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Line {
    /// Whether the server takes further requests, as far as it has said.
    fn is_open(&self) -> bool {
        match self {
            Self::Http1 { sender, last } => !last && !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn open(shared: &Shared, mode: Mode) -> Result<Self, String> {
        let mut wire = shared.caller.lock().unwrap().wire();
        wire.http2 = mode == Mode::Http2;
        Self::over(&wire).await
    }

    pub(crate) async fn over(wire: &Wire) -> Result<Self, String> {
        let stream = TokioIo::new(wire.connect().await?);
        let failed = |error: hyper::Error| error.to_string();
        if wire.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(failed)?;
            tokio::spawn(connection);
            Ok(Self::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(stream).await.map_err(failed)?;
            tokio::spawn(connection);
            Ok(Self::Http1 { sender, last: false })
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Bytes>) -> Result<(StatusCode, Value), String> {
        let failed = |error: hyper::Error| format!("{error:?}");
        let mut request = request.map(Full::new);
        let response = match self {
            Self::Http1 { sender, .. } => {
                let authority = request.uri().authority().unwrap().as_str().parse().unwrap();
                request.headers_mut().insert(header::HOST, authority);
                *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
                sender.ready().await.map_err(failed)?;
                sender.send_request(request).await.map_err(failed)?
            }
            Self::Http2(sender) => {
                sender.ready().await.map_err(failed)?;
                sender.send_request(request).await.map_err(failed)?
            }
        };
        let (head, body) = response.into_parts();
        if let Self::Http1 { last, .. } = self {
            *last = head.headers.get(header::CONNECTION).is_some_and(|value| value == "close");
        }
        let body = body.collect().await.map_err(failed)?.to_bytes();
        Ok((head.status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}

async fn round_trip(shared: &Shared, mode: Mode, line: &mut Line) -> Result<(), String> {
    let metadata = json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/load",
        "kmsKeyArn": format!("arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-000000000000"),
        "kmsOperation": "Encrypt",
        "kmsRequestId": hex::encode(random_bytes::<16>()),
    });
    let plaintext = STANDARD.encode(random_bytes::<32>());
    let encrypted = json!({
        "requestMetadata": metadata,
        "plaintext": plaintext,
        "encryptionAlgorithm": "AES_GCM",
    });
    let answer = ask(shared, mode, line, "encrypt", &encrypted).await?;
    let mut decrypt = json!({ "requestMetadata": metadata, "encryptionAlgorithm": "AES_GCM" });
    for field in ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"] {
        decrypt[field] = answer[field].clone();
    }
    decrypt["requestMetadata"]["kmsOperation"] = "Decrypt".into();
    let answer = ask(shared, mode, line, "decrypt", &decrypt).await?;
    if answer["plaintext"] == json!(plaintext) { Ok(()) } else { Err(format!("another plaintext: {answer}")) }
}

async fn ask(shared: &Shared, mode: Mode, line: &mut Line, operation: &str, body: &Value) -> Result<Value, String> {
    if shared.follows && !line.is_open() {
        *line = Line::open(shared, mode).await?;
    }
    let caller = shared.caller.lock().unwrap().clone();
    let client = caller.client();
    let path = client.path(&format!("keys/{}/{operation}", shared.key));
    let request = client.signed(&Method::POST, &path, body.to_string().into(), SystemTime::now());
    let request = request.map_err(|error| error.to_string())?;
    let mut answer = line.send(request.clone()).await;
    if shared.follows && answer.as_ref().is_err_and(|error| NOT_PROCESSED.iter().any(|such| error.contains(such))) {
        *line = Line::open(shared, mode).await?;
        answer = line.send(request).await;
    }
    let (status, answer) = answer?;
    if status == StatusCode::OK { Ok(answer) } else { Err(format!("{operation}: {status}: {answer}")) }
}
