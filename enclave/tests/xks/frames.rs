//! HTTP/2 as frames: header lists that no library would send.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::bytes::elsewhere;
use crate::fixture::{Call, HOST, World, health};
use crate::wire::connect;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Literals without indexing and without Huffman code (RFC 7541, section 6.2.2).
pub(crate) fn header_block(fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let len = text.len();
            if len < 127 {
                block.push(u8::try_from(len).unwrap());
            } else {
                // An integer with a prefix of seven bits (section 5.1).
                block.push(127);
                let mut rest = len - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
            block.extend_from_slice(text);
        }
    }
    block
}

/// What the server made of stream 1.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Status, and error name if there is one.
    Answer(String),
    /// `RST_STREAM` without an answer, by its error code.
    Reset(u32),
    /// `GOAWAY` or the end of the connection.
    Gone,
}

/// `:status` is the first field of an answer: from the static table (RFC 7541, Appendix A), or a literal value in Huffman
/// code, whose digits have five bits up to 2 and six from there (Appendix B).
fn status(block: &[u8]) -> u16 {
    // A change of the dynamic table's size may come before.
    let block = if block[0] & 0xE0 == 0x20 { &block[1..] } else { block };
    if block[0] & 0x80 != 0 {
        return [200, 204, 206, 304, 400, 404, 500][usize::from(block[0] & 0x7F) - 8];
    }
    let len = usize::from(block[1] & 0x7F);
    let value = &block[2..2 + len];
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(value).unwrap().parse().unwrap();
    }
    let bits = value.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (32 - 8 * len);
    let (mut rest, mut number) = (bits, 0);
    for _ in 0..3 {
        let (digit, used) = match rest >> 27 {
            short @ 0..=2 => (short, 5),
            _ => ((rest >> 26) - 0b01_1001 + 3, 6),
        };
        (number, rest) = (number * 10 + digit, rest << used);
    }
    u16::try_from(number).unwrap()
}

async fn read_end(stream: &mut (impl AsyncRead + Unpin)) -> End {
    let (mut code, mut body, mut head) = (0, Vec::new(), [0; 9]);
    loop {
        if stream.read_exact(&mut head).await.is_err() {
            return End::Gone;
        }
        let len = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
        let mut payload = vec![0; len];
        if stream.read_exact(&mut payload).await.is_err() {
            return End::Gone;
        }
        match head[3] {
            HEADERS => code = status(&payload),
            DATA => body.extend_from_slice(&payload),
            RST_STREAM if code == 0 => return End::Reset(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            GOAWAY if code == 0 => return End::Gone,
            _ => continue,
        }
        if matches!(head[3], HEADERS | DATA) && head[4] & END_STREAM != 0 {
            let json: Value = serde_json::from_slice(&body).unwrap_or_default();
            return End::Answer(format!("{code} {}", json["errorName"].as_str().unwrap_or_default()).trim().to_owned());
        }
    }
}

/// Sends one request on a connection of its own: the header list, then the body in one frame.
async fn ask(world: &World, fields: &Fields, body: &[u8]) -> End {
    let (mut stream, _served) = connect(world, "h2").await;
    let flags = if body.is_empty() { END_HEADERS | END_STREAM } else { END_HEADERS };
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, flags, 1, &header_block(fields))].concat();
    if !body.is_empty() {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    timeout(Duration::from_secs(30), read_end(&mut stream)).await.unwrap()
}

/// The header list that a library would send.
pub(crate) fn fields(call: &Call) -> Fields {
    let request = call.signed();
    let pseudo = [(":method", call.method), (":scheme", "https"), (":authority", &call.host), (":path", &call.path)];
    let mut fields: Fields =
        pseudo.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
    let others = request.headers().iter().filter(|(name, _)| *name != "host");
    fields.extend(others.map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())));
    fields
}

fn with(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Fields {
    let mut fields = fields(&health());
    fields.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
    fields
}

fn without(name: &str) -> Fields {
    fields(&health()).into_iter().filter(|(other, _)| other != name.as_bytes()).collect()
}

fn instead(name: &str, value: impl AsRef<[u8]>) -> Fields {
    let mut fields = fields(&health());
    fields.iter_mut().find(|(other, _)| other == name.as_bytes()).unwrap().1 = value.as_ref().to_vec();
    fields
}

fn first(name: &str, value: &str) -> Fields {
    let mut fields = fields(&health());
    fields.insert(0, (name.into(), value.into()));
    fields
}

/// A request of HTTP/2 that is malformed (RFC 9113, section 8.1.1) has no answer but a reset; what is merely wrong has ours.
#[tokio::test]
async fn header_lists() {
    let ok = || End::Answer("200".into());
    let bad = || End::Answer("400 ValidationException".into());
    let unsigned = || End::Answer("401 AuthenticationFailedException".into());
    let unknown = || End::Answer("404 InvalidUriPathException".into());
    let method = || End::Answer("405 ValidationException".into());
    let misdirected = || End::Answer("421 ValidationException".into());
    let protocol_error = || End::Reset(1);
    let call = health();
    let len = call.body.len();
    let other = elsewhere();
    let on = |host: &str| fields(&Call { host: host.to_owned(), ..health() });
    let late = |name: &str| {
        let mut late = without(name);
        late.extend(fields(&health()).into_iter().filter(|(other, _)| other == name.as_bytes()));
        late
    };
    let many = fields(&call).into_iter().chain(vec![(b"x-note".to_vec(), vec![b'n'; 40]); 220]).collect();
    let rows: Vec<(&str, Fields, End)> = vec![
        ("as a library sends it", fields(&call), ok()),
        ("host beside :authority", with("host", HOST), ok()),
        ("another host beside :authority", with("host", &other), bad()),
        ("host in place of :authority", [without(":authority"), vec![("host".into(), HOST.into())]].concat(), ok()),
        ("neither", without(":authority"), bad()),
        ("host twice", [with("host", HOST), vec![("host".into(), HOST.into())]].concat(), bad()),
        ("an empty :authority", instead(":authority", ""), End::Reset(1)),
        ("a user in :authority", instead(":authority", format!("user@{HOST}")), bad()),
        ("another :authority", on(&other), misdirected()),
        ("a port", on(&format!("{HOST}:8443")), ok()),
        ("a port that was not signed", instead(":authority", format!("{HOST}:443")), unsigned()),
        (":authority twice", first(":authority", HOST), protocol_error()),
        (":path twice", first(":path", "/"), protocol_error()),
        ("no :path", without(":path"), protocol_error()),
        ("an empty :path", instead(":path", ""), protocol_error()),
        ("no :method", without(":method"), protocol_error()),
        ("no :scheme", without(":scheme"), protocol_error()),
        ("another :scheme", instead(":scheme", "http"), misdirected()),
        (":status in a request", first(":status", "200"), protocol_error()),
        ("an unknown pseudo-header", first(":other", "x"), End::Gone),
        (":protocol", first(":protocol", "websocket"), protocol_error()),
        ("a pseudo-header after the headers", late(":path"), protocol_error()),
        (":path in absolute form", instead(":path", format!("https://{HOST}{}", call.path)), protocol_error()),
        (":path with a query", instead(":path", format!("{}?", call.path)), unknown()),
        (":path without its slash", instead(":path", &call.path[1..]), protocol_error()),
        (":path with an asterisk", instead(":path", "*"), unknown()),
        ("another method", instead(":method", "GET"), method()),
        ("a method in small letters", instead(":method", "post"), method()),
        ("CONNECT", vec![(":method".into(), "CONNECT".into()), (":authority".into(), HOST.into())], unknown()),
        ("a name in capitals", with("X-Note", "n"), End::Gone),
        ("connection", with("connection", "keep-alive"), protocol_error()),
        ("keep-alive", with("keep-alive", "1"), protocol_error()),
        ("proxy-connection", with("proxy-connection", "keep-alive"), protocol_error()),
        ("transfer-encoding", with("transfer-encoding", "chunked"), protocol_error()),
        ("upgrade", with("upgrade", "h2c"), protocol_error()),
        ("te: trailers", with("te", "trailers"), ok()),
        ("te: gzip", with("te", "gzip"), protocol_error()),
        ("the true length", with("content-length", len.to_string()), ok()),
        ("a length too short", with("content-length", (len - 1).to_string()), protocol_error()),
        ("a length too long", with("content-length", (len + 1).to_string()), protocol_error()),
        ("a length that is none", with("content-length", "x"), protocol_error()),
        ("two dates", with("x-amz-date", "20231114T221320Z"), unsigned()),
        ("two authorizations", with("authorization", "Basic eA=="), unsigned()),
        ("an expectation", with("expect", "100-continue"), ok()),
        ("a line feed in a value", with("x-note", "a\nb"), End::Gone),
        ("a NUL in a value", with("x-note", "a\0b"), End::Gone),
        ("a space in a name", with("x note", "n"), End::Gone),
        ("an empty name", with("", "n"), End::Gone),
        ("a value beyond ASCII", with("x-note", b"\xe9"), ok()),
        ("a note", with("x-note", "n"), ok()),
        // h2 says this one by itself, and without a body.
        ("headers over the bound", many, End::Answer("431".into())),
    ];
    let world = World::new();
    let mut wrong = Vec::new();
    for (what, fields, expected) in rows {
        let actual = ask(&world, &fields, call.body.as_bytes()).await;
        if actual != expected {
            wrong.push(format!("{what}: expected {expected:?}, was {actual:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a stream brings after its end, or never brings, touches no other stream and is nobody's request.
#[tokio::test]
async fn bodies_of_streams() {
    let world = World::new();
    let call = health();
    assert_eq!(ask(&world, &fields(&call), b"").await, End::Answer("401 AuthenticationFailedException".into()));
    assert_eq!(
        ask(&world, &with("content-length", "5"), b"").await,
        End::Reset(1),
        "a length, and the stream ends with its headers"
    );
    // A length over the bound is refused before the body has come.
    let (mut stream, _served) = connect(&world, "h2").await;
    let head = header_block(&with("content-length", "36865"));
    let bytes =
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_HEADERS, 1, &head), &frame(DATA, 0, 1, b"{")];
    stream.write_all(&bytes.concat()).await.unwrap();
    stream.flush().await.unwrap();
    let end = timeout(Duration::from_secs(30), read_end(&mut stream)).await.unwrap();
    assert_eq!(end, End::Answer("501 UnsupportedOperationException".into()));
    // Data after the end of the stream.
    let (mut stream, _served) = connect(&world, "h2").await;
    let bytes = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &header_block(&fields(&call))),
        &frame(DATA, END_STREAM, 1, call.body.as_bytes()),
        &frame(DATA, END_STREAM, 1, b"more"),
    ];
    stream.write_all(&bytes.concat()).await.unwrap();
    stream.flush().await.unwrap();
    let end = timeout(Duration::from_secs(30), read_end(&mut stream)).await.unwrap();
    assert!(matches!(&end, End::Gone | End::Reset(5)) || end == End::Answer("200".into()), "{end:?}");
    let events = world.observer.0.lock().unwrap().len();
    assert!(events <= 3, "{events}");
}
