//! Requests as bytes: what two readers could take differently is refused, or read the one way that was signed.

use std::fmt::Write as _;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Call, HOST, World};
use crate::wire::connect;

type Headers = Vec<(String, String)>;

fn health() -> Call {
    Call::new("health", &json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } }))
}

/// The headers that KMS would send, `content-length` aside; one line each.
fn headers(call: &Call) -> Headers {
    let request = call.signed();
    request.headers().iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

fn head(first_line: &str, headers: &[(String, String)]) -> String {
    let mut text = format!("{first_line}\r\n");
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text
}

/// Sends bytes on a connection of their own; gives the status lines that come back before it ends or `count` have come.
async fn statuses(bytes: &[u8], count: usize) -> Vec<u16> {
    let world = World::new();
    let (mut stream, _served) = connect(&world, "http/1.1").await;
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        let found: Vec<u16> = text
            .match_indices("HTTP/1.1 ")
            .filter_map(|(at, start)| text.get(at + start.len()..)?.get(..3)?.parse().ok())
            .collect();
        if found.len() >= count || stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
            return found;
        }
    }
}

#[tokio::test]
async fn one_request_has_one_reading() {
    let call = health();
    let (path, body, len) = (call.path.as_str(), call.body.as_str(), call.body.len());
    let signed = headers(&call);
    let length = format!("content-length: {len}\r\n");
    let chunked = format!("{len:x}\r\n{body}\r\n0\r\n\r\n");
    let post = |target: &str| head(&format!("POST {target} HTTP/1.1"), &signed);
    let with = |change: &dyn Fn(&mut Headers)| {
        let mut headers = signed.clone();
        change(&mut headers);
        format!("{}{length}\r\n{body}", head(&format!("POST {path} HTTP/1.1"), &headers))
    };
    let at = |headers: &[(String, String)], name: &str| headers.iter().position(|(other, _)| other == name).unwrap();
    let cases: Vec<(&str, String, &[u16])> = vec![
        ("as KMS sends it", format!("{}{length}\r\n{body}", post(path)), &[200]),
        ("absolute form", format!("{}{length}\r\n{body}", post(&format!("https://{HOST}{path}"))), &[200]),
        (
            "absolute form of another host",
            format!("{}{length}\r\n{body}", post(&format!("https://a.example{path}"))),
            &[421],
        ),
        ("chunked", format!("{}transfer-encoding: chunked\r\n\r\n{chunked}", post(path)), &[200]),
        (
            "chunked with a trailer",
            format!("{}transfer-encoding: chunked\r\n\r\n{len:x}\r\n{body}\r\n0\r\nx-amz-date: x\r\n\r\n", post(path)),
            &[200],
        ),
        ("an expectation", format!("{}expect: 100-continue\r\n{length}\r\n{body}", post(path)), &[100, 200]),
        ("a body that is too short", format!("{}content-length: {}\r\n\r\n{body}", post(path), len - 1), &[401]),
        ("two equal lengths", format!("{}{length}{length}\r\n{body}", post(path)), &[200]),
        ("two lengths", format!("{}{length}content-length: 1\r\n\r\n{body}", post(path)), &[400]),
        ("a length with a sign", format!("{}content-length: +{len}\r\n\r\n{body}", post(path)), &[400]),
        ("an unknown coding", format!("{}transfer-encoding: gzip\r\n\r\n{chunked}", post(path)), &[400]),
        ("a folded header", format!("{}x-a: b\r\n c\r\n{length}\r\n{body}", post(path)), &[400]),
        ("a space before a colon", format!("{}x-a : b\r\n{length}\r\n{body}", post(path)), &[400]),
        ("a NUL", format!("{}x-a: \0\r\n{length}\r\n{body}", post(path)), &[400]),
        ("another case of the method", format!("{}{length}\r\n{body}", post(path)).replacen("POST", "post", 1), &[405]),
        ("a query", format!("{}{length}\r\n{body}", post(&format!("{path}?"))), &[404]),
        ("an escape", format!("{}{length}\r\n{body}", post(&path.replace("health", "healt%68"))), &[404]),
        ("a dot segment", format!("{}{length}\r\n{body}", post(&format!("/.{path}"))), &[404]),
        ("another prefix", format!("{}{length}\r\n{body}", post(&path.replace("tenant-1", "Tenant-1"))), &[404]),
        ("two dates", with(&|headers| headers.push(("X-Amz-Date".into(), "20231114T221320Z".into()))), &[401]),
        ("no date", with(&|headers| drop(headers.remove(at(headers, "x-amz-date")))), &[401]),
        ("two authorizations", with(&|headers| headers.push(("Authorization".into(), "Basic eA==".into()))), &[401]),
        ("an unsigned header", with(&|headers| headers.push(("X-Note".into(), "n".into()))), &[200]),
        (
            "an unsigned payload",
            with(&|headers| headers.push(("x-amz-content-sha256".into(), "UNSIGNED-PAYLOAD".into()))),
            &[401],
        ),
        ("another port", with(&|headers| headers[0].1 = format!("{HOST}:443")), &[401]),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(statuses(bytes.as_bytes(), expected.len()).await, expected, "{name}");
    }
}

/// What follows a request is another request, with a signature of its own.
#[tokio::test]
async fn a_signature_covers_one_request() {
    let call = health();
    let signed = head(&format!("POST {} HTTP/1.1", call.path), &headers(&call));
    let one = format!("{signed}content-length: {}\r\n\r\n{}", call.body.len(), call.body);
    let unsigned = format!("POST {} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\n{{}}", call.path);
    assert_eq!(statuses(format!("{one}{one}{unsigned}").as_bytes(), 3).await, [200, 200, 401]);
    // A length and a coding that contradict each other: the length counts for nothing, and what follows is not read at all
    // (RFC 9112, section 6.1).
    let body = &call.body;
    let both = format!(
        "{signed}content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n{unsigned}",
        body.len() + 300,
        body.len(),
    );
    assert_eq!(statuses(both.as_bytes(), 2).await, [200]);
}
