//! A receiver of webhooks: keeps what it was sent, and answers as it is told.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Bytes of a request, at most.
const REQUEST_MAX: usize = 64 * 1024;

/// What was sent.
#[derive(Clone, Debug)]
pub struct Received {
    head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Received {
    /// Whether the request line is this one.
    #[must_use]
    pub fn is_for(&self, line: &str) -> bool {
        self.head.lines().next() == Some(line)
    }

    /// A header's value; its name in small letters.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

#[derive(Debug)]
struct State {
    received: Mutex<Vec<Received>>,
    answer: Mutex<StatusCode>,
}

/// See the module.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// On a free port of the loopback interface; it answers 204.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { received: Mutex::default(), answer: Mutex::new(StatusCode::NO_CONTENT) });
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self { address, state, task }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/alarms", self.address)
    }

    /// Its address alone.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came so far, refused or not.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Answers with this from now on.
    pub fn answer(&self, status: StatusCode) {
        *self.state.answer.lock().unwrap() = status;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request of each connection.
async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut bytes = Vec::new();
    let end = loop {
        let Ok(1..) = stream.read_buf(&mut bytes).await else { return };
        assert!(bytes.len() <= REQUEST_MAX, "too long a webhook");
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let request = Received { head: String::from_utf8(bytes[..head].to_vec()).unwrap(), body: Vec::new() };
        let length: usize = request.header("content-length").unwrap().parse().unwrap();
        let end = head + 4 + length;
        if bytes.len() >= end {
            let body = bytes[head + 4..end].to_vec();
            state.received.lock().unwrap().push(Received { body, ..request });
            break *state.answer.lock().unwrap();
        }
    };
    let answer = format!("HTTP/1.1 {} x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", end.as_u16());
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// Writes a file that only its owner may read.
pub fn write_private(file: &Path, bytes: &[u8]) {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(file).unwrap().write_all(bytes).unwrap();
}
