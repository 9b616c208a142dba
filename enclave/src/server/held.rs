//! A request from its first header to the last byte of its answer.
//!
//! Guarantees: a request is counted against its connection's or its host's memory for as long as anything of it is kept, a
//! client that does not take its answer included; a stranger's attempts are counted however they end. Assumes: an answer is
//! no larger than its request and [`REQUEST_OVERHEAD_BYTES`] (an answer to Encrypt adds about 150 bytes to the text that came).
//! Refuses: a request for which there is no room at all: HTTP/2 resets its stream, HTTP/1.1 closes the connection.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_shared::limits::REQUEST_OVERHEAD_BYTES;
use http_body::{Body, Frame, SizeHint};
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

/// An answer, and the memory that its request is counted for.
pub(super) struct Held {
    body: Full<Bytes>,
    _share: Share,
}

/// Counts an attempt when it is over, unless the connection is proven by then.
struct Attempt(Arc<Peer>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.attempted();
    }
}

/// Answers a request in the memory that it may have.
pub(super) async fn answer(
    context: Arc<ServerContext>,
    peer: Arc<Peer>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Held>, Unanswered> {
    let _attempt = Attempt(Arc::clone(&peer));
    let mut share = peer.place.share();
    if share.grow(REQUEST_OVERHEAD_BYTES).is_err() {
        context.counts.count_no_room();
        return Err(Unanswered::NoRoom);
    }
    let response = handle(context, peer, request, &mut share).await?;
    Ok(response.map(|body| Held { body, _share: share }))
}

impl Body for Held {
    type Data = Bytes;
    type Error = core::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, core::convert::Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
