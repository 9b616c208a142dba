//! Asking the server: nonces, retries, polls, and the way from an account to a chain.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use holdfast_client::{Connect, HttpsAnswer, HttpsClient, HttpsError};
use holdfast_shared::keystore::AcmeOrder;
use holdfast_shared::limits::{ACME_ANSWER_MAX, ACME_RETRY_AFTER_MAX_S};
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::xks::HostName;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use rustls::time_provider::TimeProvider;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::jws::{AccountKey, Signer};
use super::wire::{Account, Authorization, Challenge, Directory, Order, Problem, Status, printable};

/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of one request, lost connections and stale nonces together.
const TRIES: u32 = 6;
/// Pause before a second try after a lost connection; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks at an authorization or order until it is decided.
const POLLS_MAX: u32 = 30;
/// Least and longest time between two looks.
const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
const CHALLENGE: &str = "tls-alpn-01";
const USER_AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"));

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcmeError {
    /// The account's key cannot be used.
    #[error("the account's key cannot be used")]
    Key,
    /// The directory's address or roots cannot be used.
    #[error("the directory cannot be used: {0}")]
    Unusable(String),
    /// No answer.
    #[error("the server was not reached: {0}")]
    Unreachable(#[from] HttpsError),
    /// The server says no.
    #[error("the server refused with {status}: {words}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words, printable and short.
        words: String,
    },
    /// What answered does not answer as RFC 8555 says.
    #[error("the server's answer is of no use: {0}")]
    Answer(&'static str),
    /// The validation failed.
    #[error("the host name was not validated: {0}")]
    Invalid(String),
    /// Nothing was decided in time.
    #[error("the server did not decide in time")]
    Undecided,
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) error: AcmeError,
    /// How long the server asks to wait, in seconds; bounded.
    pub(crate) retry_after_s: Option<u64>,
}

/// An order on its way.
#[derive(Debug)]
pub(crate) struct Begun {
    order: String,
    finalize: String,
    authorization: String,
    challenge: Option<(String, [u8; 32])>,
}

impl Begun {
    /// SHA-256 of the key authorization that a handshake must show (RFC 8737, section 3); nothing if the host name is validated already.
    pub(crate) fn key_authorization_sha256(&self) -> Option<[u8; 32]> {
        self.challenge.as_ref().map(|(_, sha256)| *sha256)
    }
}

/// See the module above. It has an account.
pub(crate) struct AcmeClient<C> {
    https: HttpsClient<C>,
    authority: String,
    key: AccountKey,
    directory: Directory,
    account: String,
    nonce: Option<String>,
    retry_after_s: Option<u64>,
    /// Whether the answer to a message was lost since this was last put down.
    was_lost: bool,
}

impl<C: Connect> AcmeClient<C> {
    /// Reaches the directory and makes the account, or finds it.
    pub(crate) async fn open(
        connector: C,
        order: &AcmeOrder,
        key: &SecretBytes,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, Failure> {
        let plain = |error| Failure { error, retry_after_s: None };
        let url: Uri = order.directory.parse().map_err(|_| plain(AcmeError::Answer("the directory is no URL")))?;
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        let address = if url.port().is_some() { authority.clone() } else { format!("{authority}:443") };
        let roots = order.directory_roots.iter().map(|root| root.0.as_slice());
        let https = HttpsClient::new(connector, &address, roots, time)
            .map_err(|error| plain(AcmeError::Unusable(error.to_string())))?;
        let directory = Directory { nonce: String::new(), account: String::new(), order: String::new() };
        let mut client = Self {
            https,
            authority,
            key: AccountKey::new(key).map_err(plain)?,
            directory,
            account: String::new(),
            nonce: None,
            retry_after_s: None,
            was_lost: false,
        };
        match client.enter(order).await {
            Ok(()) => Ok(client),
            Err(error) => Err(client.failure(error)),
        }
    }

    /// The account's URL: what CAA records name as `accounturi` (RFC 8657).
    pub(crate) fn account(&self) -> &str {
        &self.account
    }

    /// Orders a certificate for one host name.
    pub(crate) async fn begin(&mut self, host_name: &HostName) -> Result<Begun, Failure> {
        let begun = self.order(host_name).await;
        begun.map_err(|error| self.failure(error))
    }

    /// Has the challenge looked at, sends the signing request, and fetches the chain, as PEM.
    pub(crate) async fn finish(&mut self, begun: Begun, request: &[u8]) -> Result<Bytes, Failure> {
        let chain = self.validate_and_fetch(begun, request).await;
        chain.map_err(|error| self.failure(error))
    }

    fn failure(&mut self, error: AcmeError) -> Failure {
        Failure { error, retry_after_s: self.retry_after_s.take() }
    }

    async fn enter(&mut self, order: &AcmeOrder) -> Result<(), AcmeError> {
        self.directory = self.fetch_directory(&order.directory).await?;
        let payload = json!({ "termsOfServiceAgreed": true, "contact": order.contacts });
        let url = self.directory.account.clone();
        let answer = self.ask(&url, Some(&payload)).await?;
        self.account = location(&answer.headers)?;
        self.check_url(&self.account)?;
        // An account that was there keeps its contacts (RFC 8555, section 7.3.1): they may be those of an order before this one.
        if answer.status == StatusCode::OK && !order.contacts.is_empty() {
            let known: Account = serde_json::from_slice(&answer.body).unwrap_or_default();
            if known.contact != order.contacts {
                let url = self.account.clone();
                self.post(&url, Some(&json!({ "contact": order.contacts }))).await?;
            }
        }
        Ok(())
    }

    async fn order(&mut self, host_name: &HostName) -> Result<Begun, AcmeError> {
        let payload = json!({ "identifiers": [{ "type": "dns", "value": host_name.as_str() }] });
        let url = self.directory.order.clone();
        let (headers, body) = self.post(&url, Some(&payload)).await?;
        let Order { authorizations, finalize, .. } = read(&body)?;
        let [authorization] = <[String; 1]>::try_from(authorizations)
            .map_err(|_| AcmeError::Answer("an order of one name needs one authorization"))?;
        let (_, body) = self.post(&authorization, None).await?;
        let Authorization { status, challenges } = read(&body)?;
        let challenge = match status {
            Status::Valid => None,
            Status::Pending => {
                let ours = challenges.iter().find(|challenge| challenge.kind == CHALLENGE);
                let ours = ours.ok_or(AcmeError::Answer("the server offers no tls-alpn-01"))?;
                let token = ours.token().ok_or(AcmeError::Answer("a token of another form"))?;
                Some((ours.url.clone(), self.key.key_authorization_sha256(token)))
            }
            _ => return Err(AcmeError::Answer("a new order's authorization is neither pending nor valid")),
        };
        Ok(Begun { order: location(&headers)?, finalize, authorization, challenge })
    }

    async fn validate_and_fetch(&mut self, begun: Begun, request: &[u8]) -> Result<Bytes, AcmeError> {
        if let Some((challenge, _)) = &begun.challenge {
            self.tell(challenge, &json!({})).await?;
            self.until_validated(&begun.authorization).await?;
        }
        let payload = json!({ "csr": URL_SAFE_NO_PAD.encode(request) });
        self.tell(&begun.finalize, &payload).await?;
        let certificate = self.until_issued(&begun.order).await?;
        Ok(self.post(&certificate, None).await?.1)
    }

    async fn until_validated(&mut self, url: &str) -> Result<(), AcmeError> {
        let mut pause = POLL.0;
        for _ in 0..POLLS_MAX {
            let (headers, body) = self.post(url, None).await?;
            let Authorization { status, challenges } = read(&body)?;
            match status {
                Status::Valid => return Ok(()),
                Status::Pending | Status::Processing => self.pause(&headers, &mut pause).await,
                _ => return Err(AcmeError::Invalid(reason(&challenges))),
            }
        }
        Err(AcmeError::Undecided)
    }

    /// The certificate's URL, once there is one.
    async fn until_issued(&mut self, url: &str) -> Result<String, AcmeError> {
        let mut pause = POLL.0;
        for _ in 0..POLLS_MAX {
            let (headers, body) = self.post(url, None).await?;
            let Order { status, certificate, error, .. } = read(&body)?;
            match status {
                Status::Valid => return certificate.ok_or(AcmeError::Answer("a valid order has a certificate")),
                Status::Pending | Status::Ready | Status::Processing => self.pause(&headers, &mut pause).await,
                _ => return Err(AcmeError::Invalid(error.unwrap_or_default().words())),
            }
        }
        Err(AcmeError::Undecided)
    }

    /// Waits before the next look: as long as the server asks, within our bounds.
    async fn pause(&self, headers: &HeaderMap, pause: &mut Duration) {
        let asked = retry_after_s(headers).map(Duration::from_secs);
        tokio::time::sleep(asked.unwrap_or(*pause).clamp(POLL.0, POLL.1)).await;
        *pause = POLL.1.min(pause.saturating_mul(2));
    }

    /// Sends what a server takes once only. If it took it and its answer was lost, it refuses the second message, since the state is
    /// another by then: that state, which is looked at next, decides.
    async fn tell(&mut self, url: &str, payload: &Value) -> Result<(), AcmeError> {
        self.was_lost = false;
        match self.post(url, Some(payload)).await {
            Err(AcmeError::Refused { status: 400 | 403 | 409, .. }) if self.was_lost => Ok(()),
            result => result.map(|_| ()),
        }
    }

    async fn post(&mut self, url: &str, payload: Option<&Value>) -> Result<(HeaderMap, Bytes), AcmeError> {
        let answer = self.ask(url, payload).await?;
        Ok((answer.headers, answer.body))
    }

    /// Sends a signed message; without a payload it only asks (POST-as-GET). A stale nonce is replaced (RFC 8555, section 6.5).
    async fn ask(&mut self, url: &str, payload: Option<&Value>) -> Result<HttpsAnswer, AcmeError> {
        for _ in 1..TRIES {
            let answer = self.post_once(url, payload).await?;
            let is_stale = answer.status == StatusCode::BAD_REQUEST
                && serde_json::from_slice::<Problem>(&answer.body).is_ok_and(|problem| problem.is_bad_nonce());
            if !is_stale {
                return self.accepted(answer);
            }
        }
        let answer = self.post_once(url, payload).await?;
        self.accepted(answer)
    }

    fn accepted(&mut self, answer: HttpsAnswer) -> Result<HttpsAnswer, AcmeError> {
        self.retry_after_s = retry_after_s(&answer.headers);
        accepted(answer)
    }

    /// Lost connections are made up for. Whether the server saw the message is unknown then: the next try has another nonce.
    async fn post_once(&mut self, url: &str, payload: Option<&Value>) -> Result<HttpsAnswer, AcmeError> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.signed_once(url, payload).await {
                Err(AcmeError::Unreachable(_)) => tokio::time::sleep(pause).await,
                result => return result,
            }
            pause = pause.saturating_mul(2);
        }
        self.signed_once(url, payload).await
    }

    async fn fetch_directory(&self, url: &str) -> Result<Directory, AcmeError> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.send(&Method::GET, url, None).await {
                Err(AcmeError::Unreachable(_)) => tokio::time::sleep(pause).await,
                result => return read(&accepted(result?)?.body),
            }
            pause = pause.saturating_mul(2);
        }
        read(&accepted(self.send(&Method::GET, url, None).await?)?.body)
    }

    async fn signed_once(&mut self, url: &str, payload: Option<&Value>) -> Result<HttpsAnswer, AcmeError> {
        let nonce = match self.nonce.take() {
            Some(nonce) => nonce,
            None => self.fresh_nonce().await?,
        };
        let signer = if self.account.is_empty() { Signer::Key } else { Signer::Account(&self.account) };
        let message = self.key.sign(signer, (url, &nonce), payload)?;
        let body = serde_json::to_vec(&message).map_err(|_| AcmeError::Key)?;
        let answer = self.send(&Method::POST, url, Some(body)).await;
        let answer = answer.inspect_err(|_| self.was_lost = true)?;
        self.nonce = nonce_in(&answer.headers);
        Ok(answer)
    }

    async fn fresh_nonce(&self) -> Result<String, AcmeError> {
        let answer = self.send(&Method::HEAD, &self.directory.nonce, None).await?;
        nonce_in(&answer.headers).ok_or(AcmeError::Answer("an answer without a nonce"))
    }

    async fn send(&self, method: &Method, url: &str, body: Option<Vec<u8>>) -> Result<HttpsAnswer, AcmeError> {
        let path = self.check_url(url)?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, USER_AGENT);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/jose+json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|_| AcmeError::Answer("a URL that cannot be asked for"))?;
        Ok(self.https.exchange(request, ACME_ANSWER_MAX, TIMEOUT).await?)
    }

    /// The path of a URL that the server named. The egress list allows the directory's address, and no message of ours is meant for
    /// anybody else.
    fn check_url(&self, url: &str) -> Result<String, AcmeError> {
        let elsewhere = AcmeError::Answer("a URL of another host than the directory's");
        let Ok(url) = url.parse::<Uri>() else { return Err(elsewhere) };
        let is_here = url.scheme_str() == Some("https")
            && url.authority().is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(&self.authority));
        if is_here { Ok(url.path_and_query().map_or("/", |path| path.as_str()).to_owned()) } else { Err(elsewhere) }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, AcmeError> {
    serde_json::from_slice(body).map_err(|_| AcmeError::Answer("not what RFC 8555 prescribes there"))
}

fn accepted(answer: HttpsAnswer) -> Result<HttpsAnswer, AcmeError> {
    let status = answer.status;
    if status.is_success() {
        return Ok(answer);
    }
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap_or_default();
    Err(AcmeError::Refused { status: status.as_u16(), words: problem.words() })
}

fn location(headers: &HeaderMap) -> Result<String, AcmeError> {
    let text = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let text = text.filter(|text| text.len() <= holdfast_shared::limits::ACME_URL_MAX);
    text.map(str::to_owned).ok_or(AcmeError::Answer("an answer without a location"))
}

/// A nonce in the form that RFC 8555, section 6.5.1, fixes.
fn nonce_in(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("replay-nonce")?.to_str().ok()?;
    let is_nonce = (1..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_nonce.then(|| text.to_owned())
}

/// Seconds that the server asks to wait; a date is passed over, because our own pauses serve as well.
fn retry_after_s(headers: &HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(seconds.min(ACME_RETRY_AFTER_MAX_S))
}

fn reason(challenges: &[Challenge]) -> String {
    let error = challenges.iter().find_map(|challenge| challenge.error.as_ref());
    error.map_or_else(|| printable("the server gives no reason"), Problem::words)
}
