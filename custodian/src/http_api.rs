//! The HTTPS interface: paths, bounds and time limits around [`Custodian`].
//!
//! Guarantees: every body has a bound and a deadline; a long message on the channel is read only for a lease that lives, and
//! only a few long ones at a time, so that strangers cannot fill the memory; every answer that is not 200 is a
//! [`holdfast_shared::api::Refusal`]. Refuses: any method but POST (and a GET for one word about its health), any content type but the interface's, bodies without a
//! stated length.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::BytesMut;
use holdfast_shared::ids::LeaseId;
use holdfast_shared::manifest::ManifestChain;
use holdfast_shared::release::PROTOCOL;
use holdfast_shared::{api, cbor, limits};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::service::{Custodian, ServiceError};

/// For those who watch over the service: a GET, without a body, answered with one word.
const HEALTH: &str = "/health";
/// Bytes of a challenge request: two small fields.
const CHALLENGE_MAX: usize = 128;
/// Bytes of a release request: the document and two small fields.
const RELEASE_MAX: usize = limits::ATTESTATION_DOCUMENT_MAX + 128;
/// Bytes of a signed command: `holdfast_shared::command::open` allows as much.
const COMMAND_MAX: usize = limits::COMMAND_MAX + limits::SIGNATURES_MAX * 150;
/// Bytes of a signed release approval: the approval (256), the signatures, framing.
const APPROVAL_MAX: usize = 256 + limits::SIGNATURES_MAX * 150;
/// Bytes of a signed query: the query (1,024), one signature, framing.
const QUERY_MAX: usize = 2048;
/// Bytes of a [`holdfast_shared::channel::ChannelMessage`] that come before its ciphertext, its head included, at most.
const CHANNEL_HEAD_MAX: usize = 64;

/// What every handler has.
#[derive(Clone)]
struct App {
    custodian: Arc<Custodian>,
    /// Places for long messages of enclaves that hold a lease.
    long_messages: Arc<Semaphore>,
    /// Places for long bodies of anybody: whoever fills these keeps no enclave from publishing.
    long_bodies: Arc<Semaphore>,
}

/// The routes of [`holdfast_shared::api`].
pub fn router(custodian: Arc<Custodian>) -> Router {
    let places = || Arc::new(Semaphore::new(limits::CUSTODIAN_LARGE_BODIES_MAX));
    let app = App { custodian, long_messages: places(), long_bodies: places() };
    Router::new()
        .route(api::CHALLENGE, post(challenge))
        .route(api::RELEASE, post(release))
        .route(api::CHANNEL, post(channel))
        .route(api::MANIFESTS, post(manifests))
        .route(api::MANIFEST_CHAINS, post(manifest_chains))
        .route(api::SUCCESSORS, post(successors))
        .route(api::COMMANDS, post(commands))
        .route(api::BLOCKS, post(blocks))
        .route(api::POLICIES, post(policies))
        .route(api::APPROVALS, post(approvals))
        .route(api::QUERIES, post(queries))
        .route(HEALTH, get(health))
        .fallback(|| async { respond(Err(ServiceError::NotFound("there is nothing at this path".to_owned()))) })
        .method_not_allowed_fallback(|| async {
            respond(Err(malformed("every request is a POST, that for /health a GET")))
        })
        .with_state(app)
}

/// `ok`, or `degraded` while no share can be released. The status is 200 either way: leases, blocks and queries go on, and
/// whoever took a degraded custodian out of the traffic would stop those too. Why it is degraded is for the log.
async fn health(State(app): State<App>) -> &'static str {
    if app.custodian.is_healthy() { "ok\n" } else { "degraded\n" }
}

async fn challenge(State(app): State<App>, request: Request) -> Response {
    let answer = async { app.custodian.challenge(&app.read(request, CHALLENGE_MAX).await?.bytes) };
    respond(answer.await)
}

async fn release(State(app): State<App>, request: Request) -> Response {
    let answer = async { app.custodian.release(&app.read(request, RELEASE_MAX).await?.bytes).await };
    respond(answer.await)
}

async fn channel(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read_channel(request).await?;
        app.custodian.channel(&body.bytes).await
    };
    respond(answer.await)
}

async fn manifests(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read(request, limits::MANIFEST_MAX).await?;
        app.custodian.enrol(body.bytes.to_vec()).await
    };
    respond(answer.await.map(|()| Vec::new()))
}

async fn manifest_chains(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read(request, <ManifestChain as cbor::Message>::MAX).await?;
        app.custodian.enrol_chain(&body.bytes).await
    };
    respond(answer.await.map(|()| Vec::new()))
}

async fn successors(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read(request, limits::MANIFEST_MAX).await?;
        app.custodian.succeed(body.bytes.to_vec()).await
    };
    respond(answer.await.map(|()| Vec::new()))
}

async fn commands(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read(request, COMMAND_MAX).await?;
        app.custodian.command(body.bytes.to_vec()).await
    };
    respond(answer.await.map(|()| Vec::new()))
}

async fn blocks(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read(request, limits::BLOCK_OVERLAY_MAX).await?;
        app.custodian.block(body.bytes.to_vec()).await
    };
    respond(answer.await.map(|()| Vec::new()))
}

async fn policies(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read(request, limits::MANIFEST_MAX).await?;
        app.custodian.change_policy(body.bytes.to_vec()).await
    };
    respond(answer.await.map(|()| Vec::new()))
}

async fn approvals(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read(request, APPROVAL_MAX).await?;
        app.custodian.approve(body.bytes.to_vec()).await
    };
    respond(answer.await.map(|()| Vec::new()))
}

async fn queries(State(app): State<App>, request: Request) -> Response {
    let answer = async {
        let body = app.read(request, QUERY_MAX).await?;
        app.custodian.query(body.bytes.to_vec()).await
    };
    respond(answer.await)
}

fn malformed(reason: &str) -> ServiceError {
    ServiceError::Malformed(reason.to_owned())
}

impl App {
    /// Reads a body of at most `max` bytes.
    async fn read(&self, request: Request, max: usize) -> Result<Whole<'_>, ServiceError> {
        let length = stated_length(request.headers(), max)?;
        let place =
            if length > limits::CUSTODIAN_SMALL_BODY_MAX { Some(place_in(&self.long_bodies).await?) } else { None };
        let mut body = BodyReader::new(request.into_body(), length);
        in_time(body.read_to(length)).await?;
        body.complete(place)
    }

    /// Reads a message of the channel; the rest of a long one only when its head names a lease that lives.
    async fn read_channel(&self, request: Request) -> Result<Whole<'_>, ServiceError> {
        let length = stated_length(request.headers(), limits::CHANNEL_MESSAGE_MAX)?;
        let mut body = BodyReader::new(request.into_body(), length);
        if length <= limits::CUSTODIAN_SMALL_BODY_MAX {
            in_time(body.read_to(length)).await?;
            return body.complete(None);
        }
        in_time(body.read_to(CHANNEL_HEAD_MAX)).await?;
        let lease_id = lease_of(&body.bytes).ok_or_else(|| malformed("channel message: not a well-formed message"))?;
        self.custodian.check_live(lease_id).await?;
        let place = place_in(&self.long_messages).await?;
        in_time(body.read_to(length)).await?;
        body.complete(Some(place))
    }
}

/// A place among long bodies.
async fn place_in(places: &Semaphore) -> Result<SemaphorePermit<'_>, ServiceError> {
    match tokio::time::timeout(Duration::from_millis(limits::CUSTODIAN_BODY_MS), places.acquire()).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(ServiceError::TooMany("too many long requests at a time; try again".to_owned())),
    }
}

/// The length that a request states, after its content type.
fn stated_length(headers: &HeaderMap, max: usize) -> Result<usize, ServiceError> {
    if headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes) != Some(api::CONTENT_TYPE.as_bytes()) {
        return Err(malformed("the content type must be application/cbor"));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length: usize = length
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| malformed("the request must state its length (Content-Length)"))?;
    if length > max {
        return Err(ServiceError::Malformed(format!("the request has {length} bytes, at most {max} are accepted")));
    }
    Ok(length)
}

async fn in_time(reading: impl Future<Output = Result<(), ServiceError>>) -> Result<(), ServiceError> {
    tokio::time::timeout(Duration::from_millis(limits::CUSTODIAN_BODY_MS), reading)
        .await
        .unwrap_or_else(|_| Err(malformed("the request's body did not come in time")))
}

/// A complete body. A long one keeps its place until it has been dealt with.
struct Whole<'a> {
    bytes: BytesMut,
    _place: Option<SemaphorePermit<'a>>,
}

/// A body that arrives piece by piece; it grows with what arrives, not with what was announced.
struct BodyReader {
    body: Body,
    bytes: BytesMut,
    length: usize,
}

impl BodyReader {
    fn new(body: Body, length: usize) -> Self {
        Self { body, bytes: BytesMut::new(), length }
    }

    /// Reads until there are `wanted` bytes or the body ends.
    async fn read_to(&mut self, wanted: usize) -> Result<(), ServiceError> {
        while self.bytes.len() < wanted {
            let Some(frame) = self.body.frame().await else { return Ok(()) };
            let frame = frame.map_err(|_| malformed("the request broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if self.bytes.len().saturating_add(data.len()) > self.length {
                return Err(malformed("the request is longer than it states"));
            }
            self.bytes.extend_from_slice(&data);
        }
        Ok(())
    }

    fn complete(self, place: Option<SemaphorePermit<'_>>) -> Result<Whole<'_>, ServiceError> {
        if self.bytes.len() == self.length {
            Ok(Whole { bytes: self.bytes, _place: place })
        } else {
            Err(malformed("the request broke off"))
        }
    }
}

/// The lease that the head of a channel message names.
fn lease_of(head: &[u8]) -> Option<LeaseId> {
    let mut decoder = minicbor::Decoder::new(head);
    let fields = decoder.array().ok()??;
    let protocol = decoder.u32().ok()?;
    let lease_id = decoder.bytes().ok()?.try_into().ok()?;
    (fields == 5 && protocol == PROTOCOL).then_some(LeaseId(lease_id))
}

fn respond(answer: Result<Vec<u8>, ServiceError>) -> Response {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            let refusal = error.refusal();
            match error {
                ServiceError::Store(_) | ServiceError::Kek(_) | ServiceError::Internal(_) => {
                    tracing::error!("a request failed: {error}");
                }
                _ => tracing::debug!(code = ?refusal.code, "refused: {error}"),
            }
            let status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, cbor::encode(&refusal).to_vec())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(api::CONTENT_TYPE));
    response
}

#[cfg(test)]
mod tests {
    use holdfast_shared::channel::ChannelMessage;

    use super::*;

    #[test]
    fn the_head_of_a_long_message_names_its_lease() {
        let lease_id = LeaseId([0xA5; 16]);
        let message = |protocol, counter| ChannelMessage {
            protocol,
            lease_id,
            counter,
            nonce: [1; 12],
            ciphertext: vec![0; 100_000],
        };
        for counter in [0, 1, 255, 65_536, u64::MAX] {
            let bytes = cbor::encode(&message(PROTOCOL, counter));
            assert_eq!(lease_of(&bytes[..CHANNEL_HEAD_MAX]), Some(lease_id), "counter {counter}");
        }
        assert_eq!(lease_of(&cbor::encode(&message(PROTOCOL + 1, 0))[..CHANNEL_HEAD_MAX]), None);
        assert_eq!(lease_of(&[0; 64]), None);
        assert_eq!(lease_of(&[]), None);
    }

    #[test]
    fn a_request_states_its_type_and_length() {
        let headers = |entries: &[(header::HeaderName, &'static str)]| -> HeaderMap {
            entries.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
        };
        let typed = (header::CONTENT_TYPE, api::CONTENT_TYPE);
        let table = [
            (headers(&[typed.clone(), (header::CONTENT_LENGTH, "10")]), Some(10)),
            (headers(&[typed.clone(), (header::CONTENT_LENGTH, "11")]), None),
            (headers(&[typed.clone(), (header::CONTENT_LENGTH, "-1")]), None),
            (headers(std::slice::from_ref(&typed)), None),
            (headers(&[(header::CONTENT_LENGTH, "10")]), None),
            (headers(&[(header::CONTENT_TYPE, "text/plain"), (header::CONTENT_LENGTH, "10")]), None),
        ];
        for (headers, expected) in table {
            assert_eq!(stated_length(&headers, 10).ok(), expected, "{headers:?}");
        }
    }
}
