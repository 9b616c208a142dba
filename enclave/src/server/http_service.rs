//! One request: which host it is for, its body, the pipeline, the event.

use core::error::Error as StdError;
use holdfast_shared::secrets::WipedBytes;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits::XKS_BODY_MAX;
use holdfast_shared::xks::{HostName, Operation, XksError};
use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Method, Version};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::ServerContext;
use super::connection::Peer;
use super::memory::Share;
use super::proof::{self, ProofDocument, ProofRequest};
use crate::clock::Clock;
use crate::xks::{self, Note, Outcome, RawRequest, Refused, RequestEvent, Response, Stage};

/// A body that never came to its end. hyper closes the connection (or resets the stream) on it.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request body took too long")]
    Timeout,
    #[error("the request body broke off")]
    Broken,
}

/// Why a request stopped.
enum Stop {
    Refused(Refused),
    Broken(BodyError),
}

impl<E: Into<Refused>> From<E> for Stop {
    fn from(refused: E) -> Self {
        Self::Refused(refused.into())
    }
}

/// What a request is answered with, if it is not refused.
enum Answer {
    Api(Response),
    Proof(ProofDocument),
}

/// What is known of a request so far, for its event.
struct Progress {
    key_store: Option<KeyStoreId>,
    operation: Option<Operation>,
    note: Note,
}

/// Answers one request and reports it.
pub(super) async fn handle(
    context: Arc<ServerContext>,
    peer: Arc<Peer>,
    request: http::Request<Incoming>,
    share: &mut Share,
) -> Result<http::Response<Bytes>, BodyError> {
    let mut progress = Progress { key_store: None, operation: None, note: Note::begin() };
    let is_head = request.method() == Method::HEAD;
    let result = respond(&context, &peer, request, share, &mut progress).await;
    let outcome = match &result {
        Ok(Answer::Api(_)) => Outcome::Success,
        Ok(Answer::Proof(_)) => Outcome::Proof,
        Err(Stop::Refused(Refused::Api(error) | Refused::Unreadable(error) | Refused::Later(error))) => {
            Outcome::Error(error.name)
        }
        Err(Stop::Refused(Refused::MethodNotAllowed | Refused::NotGet)) => Outcome::MethodNotAllowed,
        Err(Stop::Refused(Refused::Misdirected)) => Outcome::Misdirected,
        Err(Stop::Broken(_)) => Outcome::Aborted,
    };
    context.counts.count_outcome(outcome);
    let times = progress.note.watch.stop();
    context.observer.observe(RequestEvent {
        key_store: progress.key_store,
        operation: progress.operation,
        kms_request_id: progress.note.kms_request_id,
        outcome,
        latency_ms: u64::try_from(times.total().as_millis()).unwrap_or(u64::MAX),
        times,
    });
    let response = match result {
        Ok(Answer::Api(response)) => response.into_http(),
        Ok(Answer::Proof(document)) => document.into_http(),
        Err(Stop::Refused(refused)) => Response::refused(refused).into_http(),
        Err(Stop::Broken(error)) => return Err(error),
    };
    // The answer to a HEAD has no content (RFC 9110, section 9.3.2), which hyper sees to in HTTP/1.1 alone.
    Ok(if is_head { response.map(|_| Bytes::new()) } else { response })
}

async fn respond(
    context: &ServerContext,
    peer: &Peer,
    request: http::Request<Incoming>,
    share: &mut Share,
    progress: &mut Progress,
) -> Result<Answer, Stop> {
    let (parts, body) = request.into_parts();
    check_coding(&parts).map_err(Refused::Unreadable)?;
    let authority = authority_of(&parts)?;
    if !names_host(authority, &peer.host_name) || parts.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS) {
        return Err(Refused::Misdirected.into());
    }
    if proof::is_asked_for(&parts) {
        let request = ProofRequest::new(&parts, body.is_end_stream())?;
        // Rare, and on the heap: what is here is copied with each request.
        let document = Box::pin(request.answer(context, peer, share, &mut progress.key_store)).await?;
        return Ok(Answer::Proof(document));
    }
    let raw = RawRequest::new(&parts, authority, &peer.host_name).presenting(peer.client.as_ref());
    let routed = raw.route(&context.directory)?;
    progress.key_store = Some(routed.store().id);
    progress.operation = Some(routed.path().operation());
    let body = read_body(body, context.limits.body, share).await?;
    progress.note.watch.lap(Stage::Body);
    let clock: &dyn Clock = &*context.clock;
    let request = routed.authenticate(&body, clock)?;
    progress.note.watch.lap(Stage::Signature);
    peer.signed(progress.note.watch.last());
    let response = xks::answer(request, clock, &mut progress.note).await.map_err(Refused::Api)?;
    Ok(Answer::Api(response))
}

/// hyper takes any list of codings that ends in `chunked`, and undoes that one; what was signed is the body without any.
/// (A `Content-Length` beside it was dropped by then, and the connection ends with the answer: RFC 9112, section 6.1.)
fn check_coding(parts: &Parts) -> Result<(), XksError> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(xks::BAD_CODING),
    }
}

/// `Host`, which HTTP/1.1 must have once even beside a target in absolute form (RFC 9112, section 3.2), or `:authority`
/// (HTTP/2). Both may be there if they agree (RFC 9113, section 8.3.1).
fn authority_of(parts: &Parts) -> Result<&str, XksError> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::to_str).transpose().map_err(|_| xks::BAD_HOST)?;
    if hosts.next().is_some() {
        return Err(xks::BAD_HOST);
    }
    let authority = match (parts.uri.authority().map(Authority::as_str), host) {
        (Some(authority), Some(host)) if authority != host => None,
        (_, Some(host)) => Some(host),
        (authority, None) if parts.version == Version::HTTP_2 => authority,
        (_, None) => None,
    };
    authority.filter(|text| is_host_and_port(text)).ok_or(xks::BAD_HOST)
}

/// Whether `text` has only characters of a host and a port: no user information, path, space (RFC 3986, section 3.2).
fn is_host_and_port(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

/// Whether `authority`, a port aside, is `host_name`.
fn names_host(authority: &str, host_name: &HostName) -> bool {
    let host = match authority.split_once(':') {
        Some((host, port)) if !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            host
        }
        Some(_) => return false,
        None => authority,
    };
    host.eq_ignore_ascii_case(host_name.as_str())
}

/// Reads a whole body into memory that is wiped afterwards: it may hold a plaintext.
async fn read_body<B>(body: B, limit: Duration, share: &mut Share) -> Result<WipedBytes, Stop>
where
    B: Body<Data = Bytes, Error: StdError + 'static> + Unpin,
{
    timeout(limit, collect(body, share)).await.unwrap_or(Err(Stop::Broken(BodyError::Timeout)))
}

/// What is allocated follows what arrived, never what was announced: an announcement costs a client nothing.
async fn collect<B>(mut body: B, share: &mut Share) -> Result<WipedBytes, Stop>
where
    B: Body<Data = Bytes, Error: StdError + 'static> + Unpin,
{
    let announced = body.size_hint();
    if announced.lower() > u64::try_from(XKS_BODY_MAX).unwrap_or(u64::MAX) {
        return Err(Refused::Unreadable(xks::BODY_TOO_LONG).into());
    }
    let most = announced.exact().and_then(|len| usize::try_from(len).ok()).unwrap_or(XKS_BODY_MAX);
    let mut bytes = WipedBytes::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| stop_of(&error))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        let len = bytes.len() + data.len();
        if len > XKS_BODY_MAX {
            return Err(Refused::Unreadable(xks::BODY_TOO_LONG).into());
        }
        if len > bytes.capacity() {
            // A growing Vec would leave an unwiped copy behind.
            let capacity = (2 * bytes.capacity()).min(most).max(len);
            share.grow(capacity - bytes.capacity())?;
            let mut larger = WipedBytes::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// Chunks that are no chunks get an answer; a body that just ended has nobody waiting for one.
fn stop_of(error: &(dyn StdError + 'static)) -> Stop {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    match cause {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Refused::Unreadable(xks::BAD_CHUNK).into(),
        _ => Stop::Broken(BodyError::Broken),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::server::memory::Allowance;

    #[test]
    fn a_host_is_named_with_or_without_port() {
        let host_name = HostName::parse("xks.example.com").unwrap();
        let cases = [
            ("xks.example.com", true),
            ("XKS.Example.com", true),
            ("xks.example.com:443", true),
            ("xks.example.com:8443", true),
            ("xks.example.com:", false),
            ("xks.example.com:https", false),
            ("xks.example.com:443:443", false),
            ("xks.example.com:123456", false),
            ("xks.example.com.", false),
            ("user@xks.example.com", false),
            ("xks.example.org", false),
            ("", false),
        ];
        for (authority, expected) in cases {
            assert_eq!(names_host(authority, &host_name), expected, "{authority}");
        }
    }

    #[test]
    fn one_authority_and_no_contradiction() {
        type Case = (Version, &'static str, &'static [&'static str], Option<&'static str>);
        let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
        let cases: &[Case] = &[
            (http1, "/p", &["a.example"], Some("a.example")),
            (http1, "/p", &[], None),
            (http1, "/p", &["a.example", "a.example"], None),
            (http1, "https://a.example/p", &[], None),
            (http1, "https://a.example/p", &["a.example"], Some("a.example")),
            (http1, "https://a.example/p", &["b.example"], None),
            (http1, "https://a.example/p", &["A.example"], None),
            (http1, "/p", &["\u{e9}"], None),
            (http1, "/p", &[""], None),
            (http1, "/p", &["user@a.example"], None),
            (http1, "/p", &["a.example/"], None),
            (http1, "/p", &["a.example b"], None),
            (http1, "/p", &["a.example\tb"], None),
            (http1, "/p", &["[2001:db8::1]:443"], Some("[2001:db8::1]:443")),
            (http2, "https://a.example/p", &[], Some("a.example")),
            (http2, "https://a.example/p", &["a.example"], Some("a.example")),
            (http2, "https://a.example/p", &["b.example"], None),
            (http2, "https://user@a.example/p", &[], None),
            (http2, "/p", &["a.example"], Some("a.example")),
            (http2, "/p", &["a.example", "a.example"], None),
            (http2, "/p", &[], None),
        ];
        for (version, uri, hosts, expected) in cases {
            let mut request = http::Request::builder().version(*version).uri(*uri);
            for host in *hosts {
                request = request.header(HOST, *host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let actual = authority_of(&parts);
            assert_eq!(actual, expected.ok_or(xks::BAD_HOST), "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn chunked_is_the_only_coding() {
        let cases: &[(&[&str], bool)] = &[
            (&[], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["chunked", "chunked"], false),
            (&["identity", "chunked"], false),
            (&["gzip, chunked"], false),
            (&["chunked, chunked"], false),
            (&[", chunked"], false),
            (&["chunked;q=1"], false),
            (&["chunked\t"], false),
            (&[""], false),
        ];
        for (codings, accepted) in cases {
            let mut request = http::Request::builder();
            for coding in *codings {
                request = request.header(TRANSFER_ENCODING, *coding);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(check_coding(&parts).is_ok(), *accepted, "{codings:?}");
        }
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        let limit = Duration::from_mins(1);
        let memory = Allowance::new(4 * XKS_BODY_MAX);
        for (len, fits) in [(0, true), (1001, true), (XKS_BODY_MAX, true), (XKS_BODY_MAX + 1, false)] {
            let body = Full::new(Bytes::from(vec![7; len]));
            assert_eq!(
                read_body(body, limit, &mut memory.share()).await.is_ok_and(|bytes| bytes.len() == len),
                fits,
                "{len}"
            );
            // The same without an announced length, in pieces.
            let pieces: Vec<_> = vec![7; len].chunks(1000).map(Bytes::copy_from_slice).collect();
            let frames = pieces.into_iter().map(|piece| Ok::<_, hyper::Error>(http_body::Frame::data(piece)));
            let body = Pieces(frames.collect());
            assert_eq!(
                read_body(body, limit, &mut memory.share()).await.is_ok_and(|bytes| bytes.len() == len),
                fits,
                "{len}"
            );
        }
    }

    /// A body holds twice what arrived of it at most, whatever it announced, and is refused where no room is left.
    #[tokio::test]
    async fn bodies_share_bounded_memory() {
        let limit = Duration::from_mins(1);
        let piece = || Ok::<_, hyper::Error>(http_body::Frame::data(Bytes::from(vec![7; 1000])));
        let body = |pieces: usize| Pieces((0..pieces).map(|_| piece()).collect());
        let memory = Allowance::new(10_000);
        let mut first = memory.share();
        assert!(read_body(body(4), limit, &mut first).await.is_ok());
        let mut second = memory.share();
        assert!(matches!(
            read_body(body(8), limit, &mut second).await,
            Err(Stop::Refused(Refused::Api(error))) if error == xks::BUSY
        ));
        drop(first);
        drop(second);
        assert!(read_body(body(8), limit, &mut memory.share()).await.is_ok());
        let announced = Full::new(Bytes::from(vec![7; 10_000]));
        assert!(read_body(announced, limit, &mut memory.share()).await.is_ok());
    }

    struct Pieces(std::collections::VecDeque<Result<http_body::Frame<Bytes>, hyper::Error>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = hyper::Error;

        fn poll_frame(
            mut self: core::pin::Pin<&mut Self>,
            _: &mut core::task::Context<'_>,
        ) -> core::task::Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
            core::task::Poll::Ready(self.0.pop_front())
        }
    }
}
