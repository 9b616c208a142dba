//! A request from its first header to the last byte of its answer.
//!
//! Guarantees: a request is counted against its connection's or its host's memory for as long as anything of it is kept, a
//! client that does not take its answer included; a stranger's attempts are counted however they end. Assumes: an answer is
//! no larger than its request and [`REQUEST_OVERHEAD_BYTES`] (an answer to Encrypt adds about 150 bytes to the text that came).
//! Refuses: a request for which there is no room at all: HTTP/2 resets its stream, HTTP/1.1 closes the connection.

use core::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_shared::limits::REQUEST_OVERHEAD_BYTES;
use http_body_util::Full;
use hyper::body::Incoming;

use super::ServerContext;
use super::connection::Peer;
use super::http_service::{BodyError, handle};
use super::memory::Share;

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Its body never came to its end.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Its connection, or its host, has too many already.
    #[error("no room for another request")]
    NoRoom,
}

/// The bytes of an answer, and the memory that its request is counted for: as one, because HTTP/2 keeps what the client does
/// not take after it has let go of the body.
struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Counts an attempt when it is over, unless the connection is proven by then.
struct Attempt(Arc<Peer>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.attempted();
    }
}

/// Answers a request in the memory that it may have. That is taken at once and not by the future, which may have to wait for
/// its turn with all that the client sent so far.
pub(super) fn answer(
    context: Arc<ServerContext>,
    peer: Arc<Peer>,
    request: http::Request<Incoming>,
) -> impl Future<Output = Result<http::Response<Full<Bytes>>, Unanswered>> {
    let mut share = peer.place.share();
    // Without room, nothing of the request is kept.
    let request = share.grow(REQUEST_OVERHEAD_BYTES + head_len(&request)).map(|()| request);
    async move {
        let Ok(request) = request else {
            context.counts.count_no_room();
            return Err(Unanswered::NoRoom);
        };
        // What was not looked at is none: KMS may begin with more than there is room for.
        let _attempt = Attempt(Arc::clone(&peer));
        peer.place.budget().answer_one().await;
        let response = handle(context, peer, request, &mut share).await?;
        Ok(response.map(|bytes| Full::new(Bytes::from_owner(Held { bytes, _share: share }))))
    }
}

/// Bytes that the head of a request occupies, about: what the client wrote, and what a map keeps for each header.
fn head_len<B>(request: &http::Request<B>) -> usize {
    const HEADER_OVERHEAD: usize = 128;
    let target = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let authority = request.uri().authority().map_or(0, |authority| authority.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
    request.method().as_str().len() + target + authority + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_head_counts() {
        let len = |method: &str, uri: &str, header: &str| {
            head_len(&http::Request::builder().method(method).uri(uri).header("x", header).body(()).unwrap())
        };
        let least = len("POST", "https://h/p", "v");
        let long = "a".repeat(5000);
        assert!(least < 200);
        assert_eq!(len(&long, "https://h/p", "v"), least + 5000 - "POST".len());
        assert_eq!(len("POST", &format!("https://{long}/p"), "v"), least + 5000 - "h".len());
        assert_eq!(len("POST", &format!("https://h/{long}"), "v"), least + 5000 - "p".len());
        assert_eq!(len("POST", "https://h/p", &long), least + 5000 - "v".len());
    }
}
