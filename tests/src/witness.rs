//! Clients that decrypt one message again and again over connections that stay open, and note every answer: who wants to know when
//! the last 200 came asks them.
//!
//! Guarantees: an answer is noted with the moments before its request was sent and after all of it was read. A connection that
//! ends is opened again, and noted as nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

use crate::load::Line;
use crate::random::random_bytes;
use crate::system::{AAD, Caller, Encrypted, REGION};
use crate::wait::until;

/// Pause between an answer and the next request.
const PAUSE: Duration = Duration::from_millis(2);
/// A signed request is sent again for so long; the proxy takes it for five minutes.
const SIGNED_FOR: Duration = Duration::from_mins(1);

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Which client.
    pub client: usize,
    /// Before the request was sent.
    pub asked: Instant,
    /// After the answer was read.
    pub answered: Instant,
    /// What it was.
    pub status: StatusCode,
}

impl Seen {
    /// Whether it was served.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.status == StatusCode::OK
    }
}

/// See the module.
pub struct Witnesses {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Witnesses {
    /// Starts so many clients for each caller.
    #[must_use]
    pub fn start(callers: &[Caller], each: usize, message: &Encrypted) -> Self {
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for caller in callers.iter().flat_map(|caller| std::iter::repeat_n(caller, each)) {
            let requests = Requests::of(caller.clone(), message.clone());
            clients.spawn(ask(clients.len(), requests, Arc::clone(&seen), Arc::clone(&stop)));
        }
        Self { seen, stop, clients }
    }

    /// Everything noted since `since`, by when it was answered.
    #[must_use]
    pub fn since(&self, since: Instant) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.answered >= since).copied().collect()
    }

    /// Forgets what was noted so far.
    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// Waits until every client was served (or refused) so many times by requests that it sent after `since`.
    pub async fn each(&self, count: usize, served: bool, since: Instant) {
        let what = if served { "served" } else { "refused" };
        until(&format!("every client is {what}"), || async {
            let seen = self.since(since);
            let of = |client| {
                let ours = |seen: &&Seen| seen.client == client && seen.asked >= since && seen.is_served() == served;
                seen.iter().filter(ours).count()
            };
            (0..self.clients.len()).all(|client| of(client) >= count).then_some(())
        })
        .await;
    }

    /// Ends the clients.
    pub async fn stop(mut self) -> Vec<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

/// One request, signed anew now and then.
struct Requests {
    caller: Caller,
    message: Encrypted,
    signed: Option<(Instant, Request<Bytes>)>,
}

impl Requests {
    const fn of(caller: Caller, message: Encrypted) -> Self {
        Self { caller, message, signed: None }
    }

    fn next(&mut self) -> Request<Bytes> {
        if let Some((at, request)) = &self.signed
            && at.elapsed() < SIGNED_FOR
        {
            return request.clone();
        }
        let client = self.caller.client();
        let mut body = json!({
            "requestMetadata": {
                "awsPrincipalArn": "arn:aws:iam::123456789012:user/witness",
                "kmsKeyArn": format!("arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-000000000000"),
                "kmsOperation": "Decrypt",
                "kmsRequestId": hex::encode(random_bytes::<16>()),
            },
            "additionalAuthenticatedData": STANDARD.encode(AAD),
            "encryptionAlgorithm": "AES_GCM",
        });
        for field in ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"] {
            body[field] = self.message.body[field].clone();
        }
        let path = client.path(&format!("keys/{}/decrypt", self.message.key));
        let request = client.signed(&Method::POST, &path, body.to_string().into(), SystemTime::now()).unwrap();
        self.signed = Some((Instant::now(), request.clone()));
        request
    }
}

async fn ask(client: usize, mut requests: Requests, noted: Arc<Mutex<Vec<Seen>>>, stop: Arc<AtomicBool>) {
    let mut line: Option<Line> = None;
    while !stop.load(Ordering::SeqCst) {
        let request = requests.next();
        if line.is_none() {
            line = Line::over(&requests.caller.wire()).await.ok();
        }
        if let Some(open) = &mut line {
            let asked = Instant::now();
            match open.send(request).await {
                Ok((status, _)) => noted.lock().unwrap().push(Seen { client, asked, answered: Instant::now(), status }),
                Err(_) => line = None,
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
