//! One request and its answer over a connection.
//!
//! HTTP/1.1 is written and read here, since a general client costs more than the server that it is to measure; its answers are
//! parsed by `httparse`, which hyper uses as well. HTTP/2 is hyper's.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

use super::wire::{Connection, Dialer, LineError};

/// Bytes of an answer that are taken; XKS answers are below 16 KiB.
const ANSWER_MAX: usize = 1024 * 1024;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;

/// A request, ready to be sent. The buffers are used again and again.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) path: String,
    pub(super) authority: String,
    pub(super) date: String,
    pub(super) authorization: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// What HTTP/1.1 sends.
    bytes: Vec<u8>,
}

/// An answer.
#[derive(Default)]
pub(super) struct Incoming {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// A connection with one request at a time.
pub(super) struct Http1 {
    stream: Connection,
    received: Vec<u8>,
    last: bool,
}

/// What the head of an answer says.
struct Head {
    status: u16,
    length: usize,
    body: BodyLength,
    last: bool,
}

enum BodyLength {
    Known(usize),
    Chunked,
}

impl Http1 {
    pub(super) fn new(stream: Connection) -> Self {
        Self { stream, received: Vec::with_capacity(4096), last: false }
    }

    /// Whether the server takes further requests, as far as it has said.
    pub(super) const fn is_open(&self) -> bool {
        !self.last
    }

    pub(super) async fn exchange(&mut self, request: &mut Outgoing, answer: &mut Incoming) -> Result<(), LineError> {
        // Whatever goes wrong from here on, the connection is not used again; nor is it when this is given up half-way.
        self.last = true;
        request.write_http1();
        self.stream.write_all(&request.bytes).await.map_err(LineError::Broken)?;
        self.stream.flush().await.map_err(LineError::Broken)?;
        self.received.clear();
        let head = loop {
            self.more().await?;
            if let Some(head) = parse_head(&self.received)? {
                break head;
            }
        };
        answer.status = head.status;
        answer.body.clear();
        match head.body {
            BodyLength::Known(length) => {
                while self.received.len() < head.length + length {
                    self.more().await?;
                }
                let body = self.received.get(head.length..head.length + length).unwrap_or_default();
                answer.body.extend_from_slice(body);
            }
            BodyLength::Chunked => self.chunks(head.length, &mut answer.body).await?,
        }
        self.last = head.last;
        Ok(())
    }

    async fn more(&mut self) -> Result<(), LineError> {
        if self.received.len() > ANSWER_MAX {
            return Err(LineError::Http(format!("over {ANSWER_MAX} bytes")));
        }
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(LineError::Ended),
            Ok(_) => Ok(()),
            Err(error) => Err(LineError::Broken(error)),
        }
    }

    async fn chunks(&mut self, mut at: usize, body: &mut Vec<u8>) -> Result<(), LineError> {
        loop {
            let left = self.received.get(at..).unwrap_or_default();
            match httparse::parse_chunk_size(left) {
                Ok(httparse::Status::Complete((line, size))) => {
                    let size = usize::try_from(size).unwrap_or(usize::MAX).min(ANSWER_MAX + 1);
                    let (start, end) = (at + line, at + line + size);
                    // Two more bytes end the chunk's line.
                    while self.received.len() < end + 2 {
                        self.more().await?;
                    }
                    if size == 0 {
                        return Ok(());
                    }
                    body.extend_from_slice(self.received.get(start..end).unwrap_or_default());
                    at = end + 2;
                }
                Ok(httparse::Status::Partial) => self.more().await?,
                Err(_) => return Err(LineError::Http("a chunk's length".to_owned())),
            }
        }
    }

    /// Says that this is the end, and waits for nothing.
    pub(super) async fn close(mut self) {
        // A connection that cannot be closed is gone already.
        let _ = self.stream.shutdown().await;
    }
}

impl Outgoing {
    pub(super) fn to(authority: &str) -> Self {
        Self { authority: authority.to_owned(), ..Self::default() }
    }

    fn write_http1(&mut self) {
        let mut number = itoa(self.body.len());
        let length = number.text();
        self.bytes.clear();
        for part in [
            b"POST ".as_slice(),
            self.path.as_bytes(),
            b" HTTP/1.1\r\nhost: ",
            self.authority.as_bytes(),
            b"\r\ncontent-type: application/json\r\ncontent-length: ",
            length,
            b"\r\nx-amz-date: ",
            self.date.as_bytes(),
            b"\r\nauthorization: ",
            &self.authorization,
            b"\r\n\r\n",
            &self.body,
        ] {
            self.bytes.extend_from_slice(part);
        }
    }

    fn to_http2(&self) -> Result<Request<Full<Bytes>>, LineError> {
        Request::post(format!("https://{}{}", self.authority, self.path))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-amz-date", self.date.as_str())
            .header(header::AUTHORIZATION, self.authorization.as_slice())
            .body(Full::new(Bytes::copy_from_slice(&self.body)))
            .map_err(|error| LineError::Http(error.to_string()))
    }
}

/// Decimal digits without an allocation.
struct Digits {
    bytes: [u8; 20],
    start: usize,
}

impl Digits {
    fn text(&mut self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

fn itoa(mut number: usize) -> Digits {
    let mut digits = Digits { bytes: [b'0'; 20], start: 20 };
    loop {
        digits.start -= 1;
        if let Some(place) = digits.bytes.get_mut(digits.start) {
            *place = b'0' + u8::try_from(number % 10).unwrap_or_default();
        }
        number /= 10;
        if number == 0 {
            return digits;
        }
    }
}

fn parse_head(received: &[u8]) -> Result<Option<Head>, LineError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let failed = |what: &dyn core::fmt::Display| LineError::Http(what.to_string());
    let length = match response.parse(received).map_err(|error| failed(&error))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let mut head = Head {
        status: response.code.unwrap_or_default(),
        length,
        body: BodyLength::Known(0),
        last: response.version != Some(1),
    };
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = core::str::from_utf8(header.value).ok().and_then(|value| value.trim().parse().ok());
            let length = length.filter(|length| *length <= ANSWER_MAX);
            head.body = BodyLength::Known(length.ok_or_else(|| failed(&"its content-length"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            head.body = BodyLength::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") {
            head.last |= header.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(Some(head))
}

/// A connection of HTTP/2, which several lanes may share; opened when it is first needed, and again once it has ended.
#[derive(Clone, Default)]
pub(super) struct Http2 {
    sender: Arc<Mutex<Option<SendRequest<Full<Bytes>>>>>,
}

impl Http2 {
    /// The connection, and whether it was opened for this call and resumed a session.
    pub(super) async fn ready(&self, dialer: &Dialer) -> Result<(SendRequest<Full<Bytes>>, Option<bool>), LineError> {
        let mut slot = self.sender.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((sender.clone(), None));
        }
        let (stream, resumed) = dialer.dial().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| LineError::Http(error.to_string()))?;
        tokio::spawn(async move {
            // Requests on it learn how it ended.
            let _ = connection.await;
        });
        *slot = Some(sender.clone());
        Ok((sender, Some(resumed)))
    }

    pub(super) async fn exchange(
        mut sender: SendRequest<Full<Bytes>>,
        request: &Outgoing,
        answer: &mut Incoming,
    ) -> Result<(), LineError> {
        let failed = |error: hyper::Error| LineError::Http(error.to_string());
        sender.ready().await.map_err(failed)?;
        let response = sender.send_request(request.to_http2()?).await.map_err(failed)?;
        answer.status = response.status().as_u16();
        answer.body.clear();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(failed)?.into_data() {
                if answer.body.len() + data.len() > ANSWER_MAX {
                    return Err(LineError::Http(format!("over {ANSWER_MAX} bytes")));
                }
                answer.body.extend_from_slice(&data);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_in_whatever_pieces_they_come() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        for length in 0..whole.len() - 5 {
            assert!(parse_head(&whole[..length]).unwrap().is_none(), "{length}");
        }
        let head = parse_head(whole).unwrap().unwrap();
        assert!(matches!(head.body, BodyLength::Known(5)) && head.status == 200 && !head.last);
        assert_eq!(&whole[head.length..], b"hello");
        let table: [(&[u8], bool, bool); 3] = [
            (b"HTTP/1.1 503 No\r\nConnection: Close\r\n\r\n", true, false),
            (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", true, false),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false, true),
        ];
        for (bytes, last, chunked) in table {
            let head = parse_head(bytes).unwrap().unwrap();
            assert_eq!((head.last, matches!(head.body, BodyLength::Chunked)), (last, chunked));
        }
        for bytes in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            b"SSH-2.0\r\n\r\n",
        ] {
            assert!(parse_head(bytes).is_err());
        }
    }

    #[test]
    fn numbers_have_their_digits() {
        for number in [0, 9, 10, 4096, usize::MAX] {
            assert_eq!(itoa(number).text(), number.to_string().as_bytes());
        }
    }
}
