//! HTTP/1.1 heads and bodies that two readers could take differently: refused, or read the one way that was signed. The decisions
//! are those of `docs/http.md`.

use crate::bytes::Then::{Closed, Open};
use crate::bytes::{Message, Row, check, elsewhere};
use crate::fixture::{Call, HOST, PREFIX, health};

const BAD: &[&str] = &["400 ValidationException"];
const UNSIGNED: &[&str] = &["401 AuthenticationFailedException"];
const OK: &[&str] = &["200"];
/// The rest of a body is the start of the next request, and none.
const LEFT_OVER: &[&str] = &["401 AuthenticationFailedException", "400 ValidationException"];
const TOO_LARGE: &[&str] = &["431 UnsupportedOperationException"];
const TOO_LONG: &[&str] = &["501 UnsupportedOperationException"];

/// The headers that HTTP and SigV4 give a meaning to, absent, twice, and disguised.
#[tokio::test]
async fn one_request_has_one_reading() {
    let good = Message::health;
    let again = |name: &str| {
        let value = good().value(name);
        good().with(format!("{name}: {value}")).bytes()
    };
    let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, health().body.as_bytes()));
    let sent_type = |values: &[&str]| {
        let signed_headers = Vec::new();
        let other_headers = values.iter().map(|value| ("content-type", (*value).to_owned())).collect();
        Message::of(&Call { signed_headers, other_headers, ..health() }).bytes()
    };
    let rows: Vec<Row> = vec![
        ("as KMS sends it", good().bytes(), OK, Open),
        ("no Host", good().without("host").bytes(), BAD, Open),
        ("Host twice", again("host"), BAD, Open),
        ("another Host", good().with(format!("host: {}", elsewhere())).bytes(), BAD, Open),
        ("an empty Host", good().instead("host", "").bytes(), BAD, Open),
        ("Host beyond ASCII", good().instead("host", b"xks.ex\xe1mple.com").bytes(), BAD, Open),
        ("a list of hosts", good().instead("host", format!("{HOST}, {HOST}")).bytes(), BAD, Open),
        ("a user in Host", good().instead("host", format!("user@{HOST}")).bytes(), BAD, Open),
        ("a path in Host", good().instead("host", format!("{HOST}/")).bytes(), BAD, Open),
        ("no Authorization", good().without("authorization").bytes(), UNSIGNED, Open),
        ("Authorization twice", again("authorization"), UNSIGNED, Open),
        ("another Authorization", good().with("authorization: Basic eA==").bytes(), UNSIGNED, Open),
        ("no X-Amz-Date", good().without("x-amz-date").bytes(), UNSIGNED, Open),
        ("X-Amz-Date twice", again("x-amz-date"), UNSIGNED, Open),
        ("another X-Amz-Date", good().with("X-Amz-Date: 20231114T221321Z").bytes(), UNSIGNED, Open),
        ("the hash of the body", good().with(format!("x-amz-content-sha256: {hash}")).bytes(), OK, Open),
        ("another hash", good().with(format!("x-amz-content-sha256: {}", "0".repeat(64))).bytes(), UNSIGNED, Open),
        ("an unsigned payload", good().with("x-amz-content-sha256: UNSIGNED-PAYLOAD").bytes(), UNSIGNED, Open),
        (
            "the hash twice",
            good().with(format!("x-amz-content-sha256: {hash}")).with(format!("x-amz-content-sha256: {hash}")).bytes(),
            UNSIGNED,
            Open,
        ),
        ("a signed Content-Type twice", again("content-type"), UNSIGNED, Open),
        ("Content-Type as KMS has it, unsigned", sent_type(&["application/json"]), OK, Open),
        ("no Content-Type", sent_type(&[]), OK, Open),
        ("Content-Type twice", sent_type(&["application/json", "text/plain"]), OK, Open),
        ("a charset", sent_type(&["application/json; charset=utf-8"]), OK, Open),
        ("another type", sent_type(&["text/plain"]), OK, Open),
        ("a form", sent_type(&["application/x-www-form-urlencoded"]), OK, Open),
        ("a header that nobody signed", good().with("x-note: n").bytes(), OK, Open),
        ("Content-Encoding that is not so", good().with("content-encoding: gzip").bytes(), OK, Open),
        (
            "HTTP/2 over an upgrade",
            good()
                .with("connection: upgrade, http2-settings")
                .with("upgrade: h2c")
                .with("http2-settings: AAMAAABk")
                .bytes(),
            OK,
            Open,
        ),
        ("a web socket", good().with("connection: upgrade").with("upgrade: websocket").bytes(), OK, Open),
    ];
    check(rows).await;
}

#[tokio::test]
async fn lines_and_characters() {
    let good = Message::health;
    let rows: Vec<Row> = vec![
        ("a folded header", good().with("x-a: b\r\n c").bytes(), BAD, Closed),
        ("a fold with a tab", good().with("x-a: b\r\n\tc").bytes(), BAD, Closed),
        ("a fold of a signed header", good().instead("host", format!("{HOST}\r\n ")).bytes(), BAD, Closed),
        ("a fold before the first header", good().led_by(" x-a: b").bytes(), BAD, Closed),
        ("a space before a colon", good().with("x-a : b").bytes(), BAD, Closed),
        ("a tab before a colon", good().with("x-a\t: b").bytes(), BAD, Closed),
        ("a space within a name", good().with("x a: b").bytes(), BAD, Closed),
        ("no name", good().with(": b").bytes(), BAD, Closed),
        ("no colon", good().with("x-a").bytes(), BAD, Closed),
        ("a name beyond ASCII", good().with(b"x-\xe9: b").bytes(), BAD, Closed),
        ("a NUL in a name", good().with(b"x-\0: b").bytes(), BAD, Closed),
        ("a value beyond ASCII", good().with(b"x-a: \xe9\xff").bytes(), OK, Open),
        ("a tab in a value", good().with("x-a: b\tc").bytes(), OK, Open),
        ("no value", good().with("x-a:").bytes(), OK, Open),
        ("a NUL in a value", good().with("x-a: \0").bytes(), BAD, Closed),
        ("a control byte in a value", good().with("x-a: \x01").bytes(), BAD, Closed),
        ("DEL in a value", good().with("x-a: \x7f").bytes(), BAD, Closed),
        ("a CR in a value", good().with("x-a: b\rc").bytes(), BAD, Closed),
        ("a CR before the end of a line", good().with("x-a: b\r").bytes(), BAD, Closed),
        ("lines that end in CR", good().lines_end_in("\r").bytes(), BAD, Closed),
        ("lines that end in LF", good().lines_end_in("\n").bytes(), OK, Open),
        ("an empty line first", good().line(format!("\r\nPOST {PREFIX}/kms/xks/v1/health HTTP/1.1")).bytes(), OK, Open),
        ("TLS within TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), BAD, Closed),
    ];
    check(rows).await;
}

#[tokio::test]
async fn sizes_of_a_head() {
    let good = Message::health;
    let with_headers = |count: usize| {
        let own = 5; // host, content-type, x-amz-date, authorization, content-length
        (0..count - own).fold(good(), |message, number| message.with(format!("x-{number}: v"))).bytes()
    };
    let long = "v".repeat(17 * 1024);
    let rows: Vec<Row> = vec![
        ("64 headers", with_headers(64), OK, Open),
        ("65 headers", with_headers(65), TOO_LARGE, Closed),
        ("1,000 headers", with_headers(1000), TOO_LARGE, Closed),
        ("one long header", good().with(format!("x-a: {}", "v".repeat(8 * 1024))).bytes(), OK, Open),
        ("one header that is too long", good().with(format!("x-a: {long}")).bytes(), TOO_LARGE, Closed),
        ("a name that is too long", good().with(format!("{long}: v")).bytes(), TOO_LARGE, Closed),
        (
            "headers that are too long together",
            (0..20).fold(good(), |message, number| message.with(format!("x-{number}: {}", &long[..1000]))).bytes(),
            TOO_LARGE,
            Closed,
        ),
        ("a target that is too long", good().to(format!("/{long}")).bytes(), TOO_LARGE, Closed),
        ("a method that is too long", good().line(format!("{long} / HTTP/1.1")).bytes(), TOO_LARGE, Closed),
        ("a long Authorization", good().instead("authorization", &long[..4096]).bytes(), UNSIGNED, Open),
        ("no end of a line", long.clone().into_bytes(), TOO_LARGE, Closed),
    ];
    check(rows).await;
}

#[tokio::test]
async fn lengths() {
    let good = Message::health;
    let len = health().body.len();
    let length = |text: &str| good().instead("content-length", text).bytes();
    let rows: Vec<Row> = vec![
        ("twice the same", good().with(format!("content-length: {len}")).bytes(), OK, Open),
        ("two lengths", good().with(format!("content-length: {}", len + 1)).bytes(), BAD, Closed),
        ("two lengths, the other first", good().led_by("content-length: 0").bytes(), BAD, Closed),
        ("a list", length(&format!("{len}, {len}")), BAD, Closed),
        ("a sign", length(&format!("+{len}")), BAD, Closed),
        ("negative", length("-1"), BAD, Closed),
        ("hexadecimal", length("0x10"), BAD, Closed),
        ("a fraction", length("1.0"), BAD, Closed),
        ("nothing", length(""), BAD, Closed),
        ("a leading zero", length(&format!("0{len}")), OK, Open),
        ("a space within", length("1 2"), BAD, Closed),
        ("over 2^64", length("99999999999999999999"), BAD, Closed),
        ("2^64 - 1", length("18446744073709551615"), TOO_LARGE, Closed),
        ("2^40", length("1099511627776"), TOO_LONG, Closed),
        ("one byte over the bound", length("36865"), TOO_LONG, Closed),
        ("one byte too few", length(&(len - 1).to_string()), LEFT_OVER, Closed),
        ("none at all", good().without("content-length").bytes(), LEFT_OVER, Closed),
        ("zero", length("0"), LEFT_OVER, Closed),
    ];
    check(rows).await;
}

#[tokio::test]
async fn codings() {
    let good = Message::health;
    let coded = |coding: &[u8]| {
        let header = [b"transfer-encoding: ", coding].concat();
        good().chunked().without("transfer-encoding").with(header).bytes()
    };
    let len = health().body.len();
    let rows: Vec<Row> = vec![
        ("chunked", good().chunked().bytes(), OK, Open),
        ("another case", coded(b"CHUNKED"), OK, Open),
        ("spaces around", coded(b"\t chunked \t"), OK, Open),
        ("chunked twice", good().chunked().with("transfer-encoding: chunked").bytes(), BAD, Closed),
        ("chunked twice in a list", coded(b"chunked, chunked"), BAD, Closed),
        ("another coding first", coded(b"gzip, chunked"), BAD, Closed),
        ("another coding last", coded(b"chunked, gzip"), BAD, Closed),
        ("identity last", coded(b"chunked, identity"), BAD, Closed),
        ("identity before", good().chunked().led_by("transfer-encoding: identity").bytes(), BAD, Closed),
        ("identity after", good().chunked().with("transfer-encoding: identity").bytes(), BAD, Closed),
        ("identity", coded(b"identity"), BAD, Closed),
        ("xchunked", coded(b"xchunked"), BAD, Closed),
        ("a parameter", coded(b"chunked;q=1"), BAD, Closed),
        ("quoted", coded(b"\"chunked\""), BAD, Closed),
        ("a vertical tab", coded(b"chunked\x0b"), BAD, Closed),
        ("a byte beyond ASCII", coded(b"chunked\xa0"), BAD, Closed),
        ("a null value", coded(b""), BAD, Closed),
        ("a space before the colon", good().with("transfer-encoding : chunked").bytes(), BAD, Closed),
        ("HTTP/1.0", good().chunked().line(format!("POST {PREFIX}/kms/xks/v1/health HTTP/1.0")).bytes(), BAD, Closed),
        // A length beside a coding counts for nothing, and what follows is not read at all (RFC 9112, section 6.1).
        ("a length first", good().chunked().led_by(format!("content-length: {len}")).bytes(), OK, Closed),
        ("a length last", good().chunked().with("content-length: 5").bytes(), OK, Closed),
        ("a length that is none", good().chunked().with("content-length: x").bytes(), OK, Closed),
        (
            "a length that hides a request",
            [good().chunked().with("content-length: 2000").bytes(), Message::health().bytes()].concat(),
            OK,
            Closed,
        ),
        (
            "a request behind the last chunk",
            good().chunked().with("content-length: 5").body(format!("0\r\n\r\n{}", text(&good().bytes()))).bytes(),
            UNSIGNED,
            Closed,
        ),
    ];
    check(rows).await;
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn chunks() {
    let good = Message::health;
    let many = "x".repeat(40_000);
    let form = |form: &str| good().chunks(form).bytes();
    let rows: Vec<Row> = vec![
        ("an extension", form("{len};a=b\r\n{body}\r\n0;c\r\n\r\n"), OK, Open),
        ("an extension of 17 KiB", form(&format!("{{len}};{}\r\n{{body}}\r\n0\r\n\r\n", &many[..17_000])), BAD, Closed),
        ("leading zeros", form("0000{len}\r\n{body}\r\n000\r\n\r\n"), OK, Open),
        ("a space after the size", form("{len} \r\n{body}\r\n0\r\n\r\n"), OK, Open),
        ("a space before the size", form(" {len}\r\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        // Trailers are read and dropped: no header that counts can come late.
        ("a trailer", form("{len}\r\n{body}\r\n0\r\nx-amz-date: x\r\nhost: other\r\n\r\n"), OK, Open),
        ("a trailer that is none", form("{len}\r\n{body}\r\n0\r\nx y\r\n\r\n"), BAD, Closed),
        (
            "17 KiB of trailers",
            form(&format!("{{len}}\r\n{{body}}\r\n0\r\nx: {}\r\n\r\n", &many[..17_000])),
            BAD,
            Closed,
        ),
        ("no size", form("\r\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("letters for a size", form("zz\r\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("a prefix", form("0x{len}\r\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("a negative size", form("-1\r\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("a sign", form("+{len}\r\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("a size over 2^64", form("10000000000000000\r\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("a size that is too small", form("1\r\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("no line end after the data", form("{len}\r\n{body}0\r\n\r\n"), BAD, Closed),
        ("LF after the size", form("{len}\n{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("LF after the data", form("{len}\r\n{body}\n0\r\n\r\n"), BAD, Closed),
        ("CR after the size", form("{len}\r{body}\r\n0\r\n\r\n"), BAD, Closed),
        ("no chunk but the last", form("0\r\n\r\n"), UNSIGNED, Open),
        ("a giant that comes", form(&format!("7fffffffffffffff\r\n{many}")), TOO_LONG, Closed),
        ("more than the bound", form(&format!("{:x}\r\n{many}\r\n0\r\n\r\n", many.len())), TOO_LONG, Closed),
    ];
    check(rows).await;
}

/// Nobody is told to go on who would be refused anyway.
#[tokio::test]
async fn expectations() {
    let good = Message::health;
    let expect = |value: &str| good().with(format!("expect: {value}"));
    let rows: Vec<Row> = vec![
        ("100-continue", expect("100-continue").bytes(), &["100", "200"], Open),
        ("another case", expect("100-Continue").bytes(), &["100", "200"], Open),
        ("another expectation", expect("200-ok").bytes(), OK, Open),
        ("no body", expect("100-continue").instead("content-length", "0").body("").bytes(), UNSIGNED, Open),
        (
            "HTTP/1.0",
            expect("100-continue").line(format!("POST {PREFIX}/kms/xks/v1/health HTTP/1.0")).bytes(),
            OK,
            Closed,
        ),
        ("an unknown path", expect("100-continue").to("/none").bytes(), &["404 InvalidUriPathException"], Open),
        (
            "another method",
            expect("100-continue").line(format!("PUT {PREFIX}/kms/xks/v1/health HTTP/1.1")).bytes(),
            &["405 ValidationException"],
            Open,
        ),
        ("too long a body", expect("100-continue").instead("content-length", "36865").bytes(), TOO_LONG, Closed),
        ("no host", expect("100-continue").without("host").bytes(), BAD, Open),
    ];
    check(rows).await;
}

/// What follows a request is another request, with a signature of its own; and no part of a body is ever one.
#[tokio::test]
async fn what_follows_a_request() {
    let good = || Message::health().bytes();
    let unsigned = Message::health().without("authorization").bytes();
    let inner = good();
    let carrying = |message: Message| message.instead("content-length", inner.len().to_string()).body(&inner).bytes();
    let rows: Vec<Row> = vec![
        ("the same again", [good(), good()].concat(), &["200", "200"], Open),
        ("an empty line between", [good(), b"\r\n".to_vec(), good()].concat(), &["200", "200"], Open),
        (
            "one without a signature",
            [good(), unsigned, good()].concat(),
            &["200", "401 AuthenticationFailedException", "200"],
            Open,
        ),
        (
            "garbage",
            [good(), b"garbage\r\n\r\n".to_vec(), good()].concat(),
            &["200", "400 ValidationException"],
            Closed,
        ),
        ("two empty lines", [good(), b"\r\n\r\n".to_vec()].concat(), OK, Open),
        ("white space", [good(), b" \r\n\r\n".to_vec()].concat(), &["200", "400 ValidationException"], Closed),
        ("a request within the body of a refused one", carrying(Message::health()), UNSIGNED, Open),
        (
            "within the body for an unknown path",
            carrying(Message::health().to("/none")),
            &["404 InvalidUriPathException"],
            Open,
        ),
        (
            "within the body of a GET",
            carrying(Message::health().line(format!("GET {PREFIX}/kms/xks/v1/health HTTP/1.1"))),
            &["405 ValidationException"],
            Open,
        ),
        ("within a body without a Host", carrying(Message::health().without("host")), BAD, Open),
        (
            "the client says that it was the last",
            [Message::health().with("connection: close").bytes(), good()].concat(),
            OK,
            Closed,
        ),
    ];
    check(rows).await;
}
