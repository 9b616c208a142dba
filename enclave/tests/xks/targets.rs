//! Request lines: targets, methods, versions and hosts, as bytes on HTTP/1.1. The decisions are those of `docs/http.md`.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use crate::bytes::Then::{Closed, Open};
use crate::bytes::{Answer, Message, Row, check, elsewhere, exchange, read_answer};
use crate::fixture::{Call, HOST, PREFIX, World, encrypt_body, health, key_store, metadata};
use crate::wire::connect;

const BAD: &[&str] = &["400 ValidationException"];
const UNSIGNED: &[&str] = &["401 AuthenticationFailedException"];
const UNKNOWN: &[&str] = &["404 InvalidUriPathException"];
const METHOD: &[&str] = &["405 ValidationException"];
const MISDIRECTED: &[&str] = &["421 ValidationException"];
const OK: &[&str] = &["200"];

/// A path is the bytes that were signed: nothing is decoded, resolved, merged or cut.
#[tokio::test]
async fn paths_are_not_normalised() {
    let api = format!("{PREFIX}/kms/xks/v1");
    let to = |target: &str| Message::health().to(target).bytes();
    let end = |end: &str| to(&format!("{api}/{end}"));
    let rows: Vec<Row> = vec![
        ("as it is", end("health"), OK, Open),
        ("an escaped letter", end("healt%68"), UNKNOWN, Open),
        ("an escaped slash", to(&api.replace("/kms", "%2Fkms")), UNKNOWN, Open),
        ("an escaped dot", end("%2e/health"), UNKNOWN, Open),
        ("a broken escape", end("healt%6"), UNKNOWN, Open),
        ("a dot segment", end("./health"), UNKNOWN, Open),
        ("two dots", end("keys/../health"), UNKNOWN, Open),
        ("a dot segment first", to(&format!("/.{api}/health")), UNKNOWN, Open),
        ("two slashes first", to(&format!("/{api}/health")), UNKNOWN, Open),
        ("two slashes within", end("/health"), UNKNOWN, Open),
        ("a slash at the end", end("health/"), UNKNOWN, Open),
        ("a backslash", to(&format!("{api}\\health")), UNKNOWN, Open),
        ("a query", end("health?a=b"), UNKNOWN, Open),
        ("an empty query", end("health?"), UNKNOWN, Open),
        // http's parser cuts it off; what is left is what was signed.
        ("a fragment", end("health#f"), OK, Open),
        ("a matrix parameter", end("health;v=1"), UNKNOWN, Open),
        ("another case", end("Health"), UNKNOWN, Open),
        ("another case of the prefix", to(&format!("{}/health", api.replace("tenant", "Tenant"))), UNKNOWN, Open),
        ("no prefix", to("/kms/xks/v1/health"), UNKNOWN, Open),
        ("another version", to(&format!("{}/health", api.replace("v1", "v2"))), UNKNOWN, Open),
        ("the base", to(&api), UNKNOWN, Open),
        ("the root", to("/"), UNKNOWN, Open),
        ("no operation", end("keys/enabled"), UNKNOWN, Open),
        ("another operation", end("keys/enabled/sign"), UNKNOWN, Open),
        ("no key", end("keys//encrypt"), UNKNOWN, Open),
        ("a path beyond ASCII", end("h\u{e9}alth"), UNKNOWN, Open),
        ("a space", end("hea lth"), BAD, Closed),
        ("a tab", end("hea\tlth"), BAD, Closed),
        ("a NUL", end("health\0"), BAD, Closed),
        ("no target", Message::health().line("POST  HTTP/1.1").bytes(), BAD, Closed),
        (
            "the public proof is not under a prefix",
            to(&format!("{PREFIX}/.well-known/holdfast/attestation")),
            UNKNOWN,
            Open,
        ),
    ];
    check(rows).await;
}

/// The forms of RFC 9112, section 3.2, and the host that goes with them.
#[tokio::test]
async fn targets_and_hosts_agree() {
    let path = health().path;
    let to = |target: &str| Message::health().to(target).bytes();
    let on = |host: &str| Message::of(&Call { host: host.to_owned(), ..health() });
    let other = elsewhere();
    let rows: Vec<Row> = vec![
        ("absolute form", to(&format!("https://{HOST}{path}")), OK, Open),
        ("absolute form, scheme in capitals", to(&format!("HTTPS://{HOST}{path}")), OK, Open),
        (
            "absolute form, without Host",
            Message::health().to(format!("https://{HOST}{path}")).without("host").bytes(),
            BAD,
            Open,
        ),
        ("absolute form of another host", to(&format!("https://{other}{path}")), BAD, Open),
        (
            "absolute form and Host of another host",
            on(&other).to(format!("https://{other}{path}")).bytes(),
            MISDIRECTED,
            Open,
        ),
        ("absolute form with a port", to(&format!("https://{HOST}:443{path}")), BAD, Open),
        ("absolute form with a user", to(&format!("https://user@{HOST}{path}")), BAD, Open),
        ("absolute form in the clear", to(&format!("http://{HOST}{path}")), MISDIRECTED, Open),
        ("absolute form of another scheme", to(&format!("ftp://{HOST}{path}")), MISDIRECTED, Open),
        ("absolute form without a path", to(&format!("https://{HOST}")), UNKNOWN, Open),
        ("authority form", to(HOST), UNKNOWN, Open),
        ("authority form of another host", to(&other), BAD, Open),
        ("asterisk form", to("*"), UNKNOWN, Open),
        ("OPTIONS *", Message::health().line("OPTIONS * HTTP/1.1").bytes(), UNKNOWN, Open),
        ("CONNECT", Message::health().line(format!("CONNECT {HOST} HTTP/1.1")).bytes(), UNKNOWN, Open),
        ("CONNECT elsewhere", Message::health().line(format!("CONNECT {other}:443 HTTP/1.1")).bytes(), BAD, Open),
        ("a path without its slash", to(&path[1..]), BAD, Closed),
        ("a port", on(&format!("{HOST}:8443")).bytes(), OK, Open),
        (
            "a port that was not signed",
            Message::health().instead("host", format!("{HOST}:443")).bytes(),
            UNSIGNED,
            Open,
        ),
        ("capitals", on(&HOST.to_uppercase()).bytes(), OK, Open),
        (
            "capitals that were not signed",
            Message::health().instead("host", HOST.to_uppercase()).bytes(),
            UNSIGNED,
            Open,
        ),
        ("a dot at the end", Message::health().instead("host", format!("{HOST}.")).bytes(), MISDIRECTED, Open),
        ("an empty port", Message::health().instead("host", format!("{HOST}:")).bytes(), MISDIRECTED, Open),
        ("a port that is none", Message::health().instead("host", format!("{HOST}:https")).bytes(), MISDIRECTED, Open),
        ("another host", on(&other).bytes(), MISDIRECTED, Open),
        ("a longer host", on(&format!("{HOST}.example.org")).bytes(), MISDIRECTED, Open),
        ("an address", on("192.0.2.1").bytes(), MISDIRECTED, Open),
    ];
    check(rows).await;
}

/// "It MUST reject the request with a 405" (specification, section "API operations"): on each URI, every method but one.
#[tokio::test]
async fn every_uri_takes_post_alone() {
    const METHODS: [&str; 9] = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "Post", "BREW"];
    let mut rows: Vec<Row> = Vec::new();
    for uri in ["health", "keys/enabled/metadata", "keys/enabled/encrypt", "keys/missing/decrypt"] {
        for method in METHODS {
            let line = format!("{method} {PREFIX}/kms/xks/v1/{uri} HTTP/1.1");
            rows.push((method, Message::health().line(&line).bytes(), METHOD, Open));
            let bare = format!("{line}\r\nhost: {HOST}\r\n\r\n").into_bytes();
            rows.push((method, bare, METHOD, Open));
        }
    }
    rows.push(("a method that is none", Message::health().line("PO(ST / HTTP/1.1").bytes(), BAD, Closed));
    rows.push(("no method", Message::health().line(" / HTTP/1.1").bytes(), BAD, Closed));
    check(rows).await;

    // An answer to HEAD has no body (RFC 9110, section 9.3.2).
    let world = World::new();
    let (mut stream, _served) = connect(&world, "http/1.1").await;
    let bytes = Message::health().line(format!("HEAD {PREFIX}/kms/xks/v1/health HTTP/1.1")).bytes();
    stream.write_all(&[bytes, Message::health().bytes()].concat()).await.unwrap();
    let head = read_answer(&mut stream, false).await.unwrap();
    assert_eq!(
        (head.status, head.header("allow"), head.header("content-type")),
        (405, Some("POST"), Some("application/json"))
    );
    assert_eq!(read_answer(&mut stream, true).await.unwrap().summary(), "200");
}

#[tokio::test]
async fn versions() {
    let line = |version: &str| Message::health().line(format!("POST {PREFIX}/kms/xks/v1/health {version}"));
    let rows: Vec<Row> = vec![
        ("HTTP/1.1", line("HTTP/1.1").bytes(), OK, Open),
        ("HTTP/1.0", line("HTTP/1.0").bytes(), OK, Closed),
        ("HTTP/1.0 that asks to stay", line("HTTP/1.0").with("connection: keep-alive").bytes(), OK, Open),
        (
            "garbage on HTTP/1.0 that stays",
            [line("HTTP/1.0").with("connection: keep-alive").bytes(), b"garbage\r\n\r\n".to_vec()].concat(),
            &["200", "400 ValidationException"],
            Closed,
        ),
        ("HTTP/1.0 without Host", line("HTTP/1.0").without("host").bytes(), BAD, Closed),
        ("HTTP/0.9", format!("POST {PREFIX}/kms/xks/v1/health\r\n\r\n").into_bytes(), BAD, Closed),
        ("HTTP/1.2", line("HTTP/1.2").bytes(), BAD, Closed),
        ("HTTP/2.0", line("HTTP/2.0").bytes(), BAD, Closed),
        ("HTTP/1", line("HTTP/1").bytes(), BAD, Closed),
        ("small letters", line("http/1.1").bytes(), BAD, Closed),
        ("another protocol", line("ICAP/1.0").bytes(), BAD, Closed),
        // Whoever chose HTTP/1.1 in the handshake gets no HTTP/2.
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[], Closed),
    ];
    check(rows).await;
}

/// The bounds of the specification: a path of 256 characters, an `XksProxyUriPath` of 128, an `externalKeyId` of 128.
#[tokio::test]
async fn names_at_their_limits() {
    let longest_prefix = format!("/{}", "p".repeat(116));
    let world = World::new();
    let tls = world.ca.identity(HOST, 1);
    let first = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    let mut others = Vec::new();
    for (id, prefix) in [(2, longest_prefix.as_str()), (3, "")] {
        let store = key_store(id, 1, HOST, prefix, &tls);
        store.gate.set_lease_expiry(crate::fixture::LEASE_MS);
        store.keys.install(crate::fixture::key_ring());
        others.push(Arc::new(store));
    }
    assert_eq!(world.directory.replace([vec![first], others].concat()).unwrap(), []);
    let call = |prefix: &str, end: &str| Call {
        path: format!("{prefix}/kms/xks/v1/{end}"),
        ..Call::new("", &metadata_body())
    };
    let key = |prefix: &str, len: usize| call(prefix, &format!("keys/{}/metadata", "k".repeat(len)));
    // 128 + 6 + 113 + 9
    assert_eq!(key(&longest_prefix, 113).path.len(), 256);
    let cases = [
        ("the longest prefix", call(&longest_prefix, "health"), "200"),
        ("a longer prefix", call(&format!("{longest_prefix}p"), "health"), "404 InvalidUriPathException"),
        ("no prefix", call("", "health"), "200"),
        ("256 characters", key(&longest_prefix, 113), "404 KeyNotFoundException"),
        ("257 characters", key(&longest_prefix, 114), "404 InvalidUriPathException"),
        ("a key id of 1", key("", 1), "404 KeyNotFoundException"),
        ("a key id of 128", key("", 128), "404 KeyNotFoundException"),
        ("a key id of 129", key("", 129), "404 InvalidUriPathException"),
    ];
    for (what, call, expected) in cases {
        let (answers, _) = exchange(&world, what, &Message::of(&call).bytes(), 1).await;
        assert_eq!(answers[0].summary(), expected, "{what}");
    }
}

fn metadata_body() -> serde_json::Value {
    serde_json::json!({ "requestMetadata": metadata() })
}

/// "The digits, the letters, the hyphen, the period and the underscore" (specification, section "API operations"), and nothing
/// else: every byte in its turn.
#[tokio::test]
async fn every_character_in_a_key_id() {
    let world = World::new();
    let body = metadata_body();
    let mut wrong = Vec::new();
    for byte in 0x21..=0x7e_u8 {
        let letter = char::from(byte);
        // In the middle, so that `.` is no dot segment. A `#` ends the target, a `?` the path.
        let call = Call::new("keys/missing/metadata", &body);
        let path = call.path.replace("missing", &format!("a{letter}b"));
        let allowed = letter.is_ascii_alphanumeric() || "-._".contains(letter);
        let (call, target) = if allowed { (Call { path: path.clone(), ..call }, path) } else { (call, path) };
        let (answers, _) = exchange(&world, "a key id", &Message::of(&call).to(target).bytes(), 1).await;
        // No URI has these, says http's parser.
        let expected = match letter {
            '<' | '>' | '`' => "400 ValidationException",
            _ if allowed => "404 KeyNotFoundException",
            _ => "404 InvalidUriPathException",
        };
        let actual = answers[0].summary();
        if actual != expected {
            wrong.push(format!("{letter:?}: {actual}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Which key stores exist is nobody's business: the answers are the same to the byte, whoever is asked for.
#[tokio::test]
async fn other_tenants_cannot_be_told_from_nobody() {
    let world = World::new();
    let other = elsewhere();
    let first = world.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap();
    let stores = [
        key_store(2, 1, HOST, "/tenant-2", &world.ca.identity(HOST, 1)),
        key_store(3, 2, &other, PREFIX, &world.ca.identity(&other, 1)),
        key_store(4, 2, &other, "/tenant-4", &world.ca.identity(&other, 1)),
    ];
    let stores = [vec![first], stores.into_iter().map(Arc::new).collect()].concat();
    assert_eq!(world.directory.replace(stores).unwrap(), []);
    let ask = async |what: &'static str, message: Message| -> Answer {
        exchange(&world, what, &message.bytes(), 1).await.0.remove(0)
    };
    let path = |prefix: &str, end: &str| format!("{prefix}/kms/xks/v1/{end}");
    for end in ["health", "keys/enabled/metadata", "keys/enabled/encrypt", "keys/enabled/decrypt"] {
        // Another owner's prefix under this host name, and none at all.
        let there = ask("another tenant's path", Message::health().to(path("/tenant-4", end))).await;
        let nowhere = ask("nobody's path", Message::health().to(path("/tenant-9", end))).await;
        assert_eq!(there, nowhere, "{end}");
        assert_eq!(there.summary(), UNKNOWN[0]);
        // A key store under this host name says what every one says to a stranger.
        let ours = ask("a stranger at ours", Message::health().without("authorization").to(path(PREFIX, end))).await;
        let theirs =
            ask("a stranger at theirs", Message::health().without("authorization").to(path("/tenant-2", end))).await;
        assert_eq!(ours, theirs, "{end}");
        assert_eq!(ours.summary(), UNSIGNED[0]);
    }
    // Another served host, and one that is not.
    let on = |host: &str| Message::of(&Call { host: host.to_owned(), ..health() });
    let there = ask("a served host", on(&other)).await;
    let nowhere = ask("no host", on("nobody.example.com")).await;
    assert_eq!(there, nowhere);
    assert_eq!(there.summary(), MISDIRECTED[0]);
    // With a good signature of this key store's, the other's path is still nobody's.
    let call = Call { path: path("/tenant-4", "keys/enabled/encrypt"), ..Call::new("", &encrypt_body(b"", b"")) };
    assert_eq!(ask("signed", Message::of(&call)).await, ask("unsigned", Message::health().to("/x")).await);
}
