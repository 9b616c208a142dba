//! A body for the answers that hyper gives by itself.
//!
//! A head that hyper cannot read never becomes a request: hyper writes 400, 414 or 431 with an empty body and closes the
//! connection. KMS "cannot interpret" an error without JSON (specification, section "Error codes"), so this stream, put between
//! hyper and TLS, writes the same status with an error of the API.
//!
//! Guarantees: every other byte passes unchanged, in order, and without a copy. Assumes: hyper writes such an answer last, in
//! the form of [`bare`], at the end of one buffer; `what_hyper_refuses_by_itself_is_json_too` fails should a new version of it
//! not. No answer of ours can be taken for one: each of ours has a content type.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::xks::{HEAD_TOO_LONG, UNREADABLE_HEAD};
use holdfast_shared::xks::XksError;

/// The statuses that hyper answers by itself, and what is said of each.
const ANSWERS: [(StatusCode, XksError); 3] = [
    (StatusCode::BAD_REQUEST, UNREADABLE_HEAD),
    (StatusCode::URI_TOO_LONG, HEAD_TOO_LONG),
    (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, HEAD_TOO_LONG),
];

/// See the module.
pub(super) struct JsonErrors<S> {
    stream: S,
    /// What is written in place of hyper's answer, and how much of it is written.
    answer: Option<(Vec<u8>, usize)>,
}

impl<S> JsonErrors<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, answer: None }
    }
}

/// What hyper writes: on HTTP/1.0, which closes unless it is told not to, without saying so.
fn bare(status: StatusCode) -> [String; 2] {
    [("HTTP/1.1", "connection: close\r\n"), ("HTTP/1.0", "")].map(|(version, close)| {
        let reason = status.canonical_reason().unwrap_or_default();
        format!("{version} {} {reason}\r\n{close}content-length: 0\r\n\r\n", status.as_str())
    })
}

/// What is written in its place.
fn explained(status: StatusCode, error: &XksError) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let body = error.to_json();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        status.as_str(),
        body.len(),
    );
    [head.as_bytes(), &body].concat()
}

/// Where in `bytes` an answer of hyper's own starts, if they end in one, and what to write instead.
fn find(bytes: &[u8]) -> Option<(usize, StatusCode, &'static XksError)> {
    // The end that all of them share; nothing of ours has a body of no bytes.
    if !bytes.ends_with(b"content-length: 0\r\n\r\n") {
        return None;
    }
    ANSWERS.iter().find_map(|(status, error)| {
        let before = bare(*status).iter().find_map(|text| bytes.strip_suffix(text.as_bytes()))?;
        Some((before.len(), *status, error))
    })
}

impl<S: AsyncWrite + Unpin> JsonErrors<S> {
    /// Writes all of the answer; says then that hyper's `len` bytes were written.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        status: StatusCode,
        error: &XksError,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        let (answer, written) = self.answer.get_or_insert_with(|| (explained(status, error), 0));
        while let Some(rest) = answer.get(*written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *written += count,
            }
        }
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for JsonErrors<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match find(bytes) {
            Some((0, status, error)) => this.poll_answer(cx, status, error, bytes.len()),
            Some((start, ..)) => Pin::new(&mut this.stream).poll_write(cx, bytes.get(..start).unwrap_or_default()),
            None => Pin::new(&mut this.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let used = buffers.iter().rposition(|buffer| !buffer.is_empty()).map_or(0, |last| last + 1);
        match buffers.get(..used).and_then(<[_]>::split_last) {
            Some((last, before)) if find(last).is_some() => {
                if before.iter().all(|buffer| buffer.is_empty()) {
                    return self.poll_write(cx, last);
                }
                Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, before)
            }
            _ => Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for JsonErrors<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// However the bytes are cut on their way in and out, only hyper's own answer is replaced.
    #[tokio::test]
    async fn only_an_answer_without_a_word_is_replaced() {
        let ours = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        for (status, error) in ANSWERS {
            let [own, old] = bare(status);
            let json = String::from_utf8(explained(status, &error)).unwrap();
            let cases = [
                (vec![own.clone()], json.clone()),
                (vec![old], json.clone()),
                (vec![ours.to_owned()], ours.to_owned()),
                (vec![format!("{ours}{own}")], format!("{ours}{json}")),
                (vec![ours.to_owned(), own.clone()], format!("{ours}{json}")),
                (vec![String::new(), own.clone(), String::new()], json.clone()),
                (vec![ours.to_owned(), format!("{ours}{own}")], format!("{ours}{ours}{json}")),
                (vec![own.replace("close", "keep-alive")], own.replace("close", "keep-alive")),
                (vec![own.replace(status.as_str(), "418")], own.replace(status.as_str(), "418")),
            ];
            for (pieces, expected) in cases {
                for (vectored, pipe) in [(false, 7), (true, 7), (false, 4096), (true, 4096)] {
                    let (stream, mut reader) = tokio::io::duplex(pipe);
                    let mut stream = JsonErrors::new(stream);
                    let pieces = pieces.clone();
                    let writer = tokio::spawn(async move {
                        if vectored {
                            let mut slices: Vec<IoSlice<'_>> =
                                pieces.iter().map(|piece| IoSlice::new(piece.as_bytes())).collect();
                            let mut rest = slices.as_mut_slice();
                            while rest.iter().any(|slice| !slice.is_empty()) {
                                let count = stream.write_vectored(rest).await.unwrap();
                                IoSlice::advance_slices(&mut rest, count);
                            }
                        } else {
                            stream.write_all(pieces.concat().as_bytes()).await.unwrap();
                        }
                        stream.shutdown().await.unwrap();
                    });
                    let mut text = String::new();
                    reader.read_to_string(&mut text).await.unwrap();
                    writer.await.unwrap();
                    assert_eq!(text, expected, "vectored: {vectored}, pipe of {pipe}");
                }
            }
        }
    }
}
