//! AWS's JSON protocol 1.1, as both doubles of KMS speak it: callers with signatures, bodies with bounds, errors with names.
//!
//! ```text
//! connection ─▶ (TLS) ─▶ POST / ─▶ body, bounded ─▶ the double's own `Service` ─▶ JSON
//! ```
//!
//! Guarantees: a signature is checked over the bytes received, with the secret of the caller that it names; a request that came whole is
//! carried out to its end, whether or not its caller waits for the answer. Assumes: clients that are few and honest. Refuses: what a
//! [`Service`] does not know.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::sigv4::explain::SignedParts;
use holdfast_shared::sigv4::{Occurrence, SignedRequest};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub mod client;

/// Bytes of a body: a key policy at its largest (API reference of KMS, `CreateKey`), as JSON, and slack.
pub const BODY_MAX: usize = 256 * 1024;
/// The header that names the operation.
pub const TARGET: &str = "x-amz-target";
/// The header in which AWS says under which id it has a request.
pub const REQUEST_ID: &str = "x-amzn-requestid";
/// The media type of bodies.
pub const MEDIA_TYPE: &str = "application/x-amz-json-1.1";
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How far a signature's date may be away (AWS General Reference, Signature Version 4).
const SKEW_MAX_MS: u64 = 300_000;

/// Who may ask.
pub struct Caller {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: SecretBytes,
    /// What must come with it.
    pub session_token: Option<SecretBytes>,
    /// Who that is: ARN of an IAM principal.
    pub principal_arn: String,
}

/// A request.
pub struct Incoming<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path, without a query.
    pub path: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Body.
    pub body: &'a [u8],
    /// Under which id the answer names it: a UUID, made here.
    pub request_id: &'a str,
    /// When it came, in milliseconds since 1970.
    pub now_ms: u64,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// JSON.
    pub body: String,
}

impl Answer {
    /// An error with a name and a message.
    #[must_use]
    pub fn error(status: StatusCode, kind: &str, message: &str) -> Self {
        Self { status, body: json!({ "__type": kind, "message": message }).to_string() }
    }

    /// The same with the status of most errors.
    #[must_use]
    pub fn bad(kind: &str, message: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, kind, message)
    }

    /// `KMSInternalException`.
    #[must_use]
    pub fn internal(message: &str) -> Self {
        Self::error(StatusCode::INTERNAL_SERVER_ERROR, "KMSInternalException", message)
    }
}

impl Incoming<'_> {
    /// The caller whose signature the request has, for service `kms` and this region.
    ///
    /// # Errors
    /// The error that AWS answers with.
    pub fn caller<'c>(&self, callers: &'c [Caller], region: &str) -> Result<&'c Caller, Answer> {
        let authority = self.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let header = |name: &str| self.header(name);
        let signed =
            SignedRequest { method: self.method.as_str(), path: self.path, authority, header, body: self.body };
        let (parts, claimed) = SignedParts::of(&signed)
            .map_err(|error| Answer::bad("MissingAuthenticationTokenException", &error.to_string()))?;
        let caller = callers
            .iter()
            .find(|caller| caller.access_key_id == claimed.access_key_id.as_str())
            .ok_or_else(|| Answer::bad("UnrecognizedClientException", "the security token is invalid"))?;
        let names: Vec<&str> = parts.signed_headers.split(';').collect();
        let scope = (parts.service.as_str(), parts.region.as_str()) == ("kms", region);
        let is_dated = parts.date.starts_with(&parts.day)
            && parts.date_ms().is_some_and(|date_ms| date_ms.abs_diff(self.now_ms) <= SKEW_MAX_MS);
        let covers_all = ["host", "x-amz-date", TARGET].iter().all(|name| names.contains(name));
        let is_signed = parts.are_signed_by(&caller.secret_access_key, &claimed.signature);
        if !scope || !is_dated || !covers_all || !is_signed {
            return Err(Answer::bad("InvalidSignatureException", "the signature does not match"));
        }
        let Some(token) = &caller.session_token else { return Ok(caller) };
        match self.header("x-amz-security-token") {
            Occurrence::Once(found) if found == token.expose() && names.contains(&"x-amz-security-token") => Ok(caller),
            Occurrence::Once(_) => Err(Answer::bad("ExpiredTokenException", "the security token has expired")),
            _ => Err(Answer::bad("UnrecognizedClientException", "the security token is invalid")),
        }
    }

    /// The operation of `TrentService`, as KMS has been named in its protocol from the start.
    #[must_use]
    pub fn operation(&self) -> Option<&str> {
        self.headers.get(TARGET)?.to_str().ok()?.strip_prefix("TrentService.")
    }

    fn header(&self, name: &str) -> Occurrence<'_> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Occurrence::Absent,
            (Some(value), None) => Occurrence::Once(value.as_bytes()),
            _ => Occurrence::Repeated,
        }
    }
}

/// What answers.
pub trait Service: Send + Sync + 'static {
    /// Answers.
    fn answer(&self, request: Incoming<'_>) -> impl Future<Output = Answer> + Send;
}

/// Serves until the task is dropped; over TLS where there is a configuration.
pub async fn run(listener: TcpListener, tls: Option<Arc<ServerConfig>>, service: Arc<impl Service>) {
    let acceptor = tls.map(TlsAcceptor::from);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (acceptor, service) = (acceptor.clone(), Arc::clone(&service));
        tokio::spawn(async move {
            let Some(acceptor) = acceptor else { return serve(stream, service).await };
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                serve(stream, service).await;
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, service: Arc<impl Service>) {
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, core::convert::Infallible>(respond(request, service).await) }
    });
    // A client that breaks off ends its own connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn respond(request: Request<hyper::body::Incoming>, service: Arc<impl Service>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let request_id = uuid();
    let answer = match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => {
            let (body, request_id) = (body.to_bytes(), request_id.clone());
            // In a task of its own: this one ends where the caller hangs up.
            let answer = tokio::spawn(async move {
                let (method, path, headers) = (&head.method, head.uri.path(), &head.headers);
                let (body, request_id, now_ms) = (&body[..], request_id.as_str(), now_ms());
                service.answer(Incoming { method, path, headers, body, request_id, now_ms }).await
            });
            answer.await.unwrap_or_else(|_| Answer::internal("the request was not carried out"))
        }
        Err(_) => Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "SerializationException", "the body is too long"),
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random, in the shape of a UUID. Zeros do as well where there is no randomness, since nothing secret is made of it.
#[must_use]
pub fn uuid() -> String {
    let mut bytes = [0; 16];
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    let hex = hex::encode(bytes);
    let part = |range: core::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}
