//! HTTP as bytes, through the parent into the enclave: the most telling rows of `docs/http.md` once more, where every process
//! and every hop is the real one. The whole tables are in the enclave's own tests.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::time::SystemTime;

use bytes::Bytes;
use holdfast_tests::system::{Options, System};
use holdfast_tests::wait::soon;
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

const BAD: &str = "400 ValidationException";
const UNSIGNED: &str = "401 AuthenticationFailedException";
const UNKNOWN: &str = "404 InvalidUriPathException";

/// Status, and error name if there is one; nothing at the end of the connection.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head["HTTP/1.1 ".len()..][..3].to_owned();
    if status == "100" {
        return Some(status);
    }
    assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    let (_, rest) = head.split_once("\r\ncontent-length: ").unwrap();
    let mut body = vec![0; rest.split_once("\r\n").unwrap().0.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    let json: Value = serde_json::from_slice(&body).unwrap();
    Some(format!("{status} {}", json["errorName"].as_str().unwrap_or_default()).trim().to_owned())
}

/// Sends bytes and then a good request that is to be the last, on a connection of their own; gives all answers.
async fn exchange(system: &System, bytes: &[u8], last: &[u8]) -> Vec<String> {
    let stream = system.wire().connect().await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let bytes = [bytes, last].concat();
    let writing = tokio::spawn(async move {
        // The proxy may have hung up by now.
        let _ = writer.write_all(&bytes).await;
        let _ = writer.flush().await;
        writer
    });
    let mut answers = Vec::new();
    let reading = async {
        while let Some(answer) = read_answer(&mut reader).await {
            answers.push(answer);
        }
    };
    soon("the end of the connection", reading).await;
    drop(writing.await);
    answers
}

/// The head of a signed request as lines, without its end.
fn head(request: &Request<Bytes>, line: &str) -> String {
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| [name.as_str(), ": ", value.to_str().unwrap(), "\r\n"].concat());
    [format!("{line}\r\n")].into_iter().chain(headers).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_through_every_hop() {
    let system = System::start(Options { path_prefix: "/a", ..Options::default() }).await;
    let client = system.client();
    let path = client.path("health");
    let body = json!({ "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": "1" } }).to_string();
    let request = client.signed(&Method::POST, &path, Bytes::from(body.clone()), SystemTime::now()).unwrap();
    let authority = client.authority();
    let mut headers = request.clone();
    headers.headers_mut().remove("content-length");
    headers.headers_mut().entry("host").or_insert(authority.parse().unwrap());
    let lines = |line: &str| head(&headers, line);
    let post = |target: &str| lines(&format!("POST {target} HTTP/1.1"));
    let length = format!("content-length: {}\r\n", body.len());
    let whole = |head: String, more: &str| format!("{head}{more}{length}\r\n{body}");
    let chunked =
        |head: String, more: &str, body: &str| format!("{head}{more}transfer-encoding: chunked\r\n\r\n{body}");
    let chunks = format!("{:x};x=y\r\n{body}\r\n0\r\nx-trailer: t\r\n\r\n", body.len());
    let good = whole(post(&path), "");
    let last = whole(post(&path), "connection: close\r\n");
    let oversized = "v".repeat(20_000);

    let rows: Vec<(&str, String, &[&str], bool)> = vec![
        ("as it should be", good.clone(), &["200"], true),
        ("twice in one go", format!("{good}{good}"), &["200", "200"], true),
        ("chunked, with an extension and a trailer", chunked(post(&path), "", &chunks), &["200"], true),
        ("an expectation", whole(post(&path), "expect: 100-continue\r\n"), &["100", "200"], true),
        ("an expectation for nothing", whole(post("/none"), "expect: 100-continue\r\n"), &[UNKNOWN], true),
        ("absolute form", whole(post(&format!("https://{authority}{path}")), ""), &["200"], true),
        ("absolute form of another host", whole(post(&format!("https://a.example{path}")), ""), &[BAD], true),
        ("another Host", whole(post(&path), "host: a.example\r\n"), &[BAD], true),
        ("two lengths", whole(post(&path), "content-length: 1\r\n"), &[BAD], false),
        ("a length and a coding", chunked(post(&path), "content-length: 5\r\n", &chunks), &["200"], false),
        (
            "a coding and a request behind it",
            chunked(post(&path), &length, &format!("0\r\n\r\n{good}")),
            &[UNSIGNED],
            false,
        ),
        ("two codings", chunked(post(&path), "transfer-encoding: gzip\r\n", &chunks), &[BAD], false),
        ("chunks that are none", chunked(post(&path), "", "zz\r\n"), &[BAD], false),
        ("a folded header", whole(post(&path), "x-a: b\r\n c\r\n"), &[BAD], false),
        ("a space before a colon", whole(post(&path), "x-a : b\r\n"), &[BAD], false),
        ("a NUL", whole(post(&path), "x-a: \0\r\n"), &[BAD], false),
        (
            "a long header",
            whole(post(&path), &format!("x-a: {oversized}\r\n")),
            &["431 UnsupportedOperationException"],
            false,
        ),
        ("an escape", whole(post(&path.replace("health", "healt%68")), ""), &[UNKNOWN], true),
        ("a dot segment", whole(post(&format!("/.{path}")), ""), &[UNKNOWN], true),
        ("a query", whole(post(&format!("{path}?")), ""), &[UNKNOWN], true),
        ("GET", whole(lines(&format!("GET {path} HTTP/1.1")), ""), &["405 ValidationException"], true),
        ("a small method", whole(lines(&format!("post {path} HTTP/1.1")), ""), &["405 ValidationException"], true),
        ("OPTIONS *", whole(lines("OPTIONS * HTTP/1.1"), ""), &[UNKNOWN], true),
        ("CONNECT", whole(lines(&format!("CONNECT {authority} HTTP/1.1")), ""), &[UNKNOWN], true),
        ("HTTP/1.0", whole(lines(&format!("POST {path} HTTP/1.0")), ""), &["200"], false),
        ("HTTP/0.9", format!("POST {path}\r\n\r\n"), &[BAD], false),
        ("HTTP/2 in the clear", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[], false),
        ("garbage behind a request", format!("{good}garbage\r\n\r\n"), &["200", BAD], false),
        (
            "a body over the bound",
            format!("{}content-length: 36865\r\n\r\n{}", post(&path), " ".repeat(36_865)),
            &["501 UnsupportedOperationException"],
            false,
        ),
        (
            "an announcement over the bound",
            format!("{}content-length: 1099511627776\r\n\r\n", post(&path)),
            &["501 UnsupportedOperationException"],
            false,
        ),
    ];
    let mut wrong = Vec::new();
    for (what, bytes, expected, stays) in rows {
        let actual = exchange(&system, bytes.as_bytes(), last.as_bytes()).await;
        let expected: Vec<String> = expected.iter().copied().chain(stays.then_some("200")).map(str::to_owned).collect();
        if actual != expected {
            wrong.push(format!("{what}: expected {expected:?}, was {actual:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    system.assert_no_panic();
}
