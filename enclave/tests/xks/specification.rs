//! What the specification says of every operation, on each of them.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Call, HOST, World, bytes, decrypt_body, encrypt_body, health, key_store, metadata};
use crate::precedence::run;
use crate::wire::{Client, client_config, connect_with, pipe};

/// A well-formed call of each operation.
async fn calls(world: &World) -> [(&'static str, Call); 4] {
    let encrypt = Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b"aad"));
    let (_, encrypted) = run(world, &encrypt).await;
    [
        ("GetHealthStatus", health()),
        ("GetKeyMetadata", Call::new("keys/enabled/metadata", &json!({ "requestMetadata": metadata() }))),
        ("Decrypt", Call::new("keys/enabled/decrypt", &decrypt_body(&encrypted, b"aad"))),
        ("Encrypt", encrypt),
    ]
}

/// "sent as JSON over HTTPS with a Content-Type of application/json": answers and errors, and nothing in clear.
#[tokio::test]
async fn answers_are_json_over_https() {
    let world = World::new();
    for protocol in ["http/1.1", "h2"] {
        for (name, good) in calls(&world).await {
            let unsigned = Call { secret: "x".repeat(43), ..good.clone() };
            let nowhere = Call { path: "/kms".to_owned(), ..good.clone() };
            let not_post = Call { method: "GET", ..good.clone() };
            for (call, status) in [(good, 200), (unsigned, 401), (nowhere, 404), (not_post, 405)] {
                let (mut client, _served) = Client::open(&world, protocol).await;
                let answer = client.send(call.signed()).await.unwrap();
                assert_eq!(answer.status().as_u16(), status, "{name}");
                assert_eq!(answer.headers()["content-type"], "application/json", "{name}, {status}");
                assert!(serde_json::from_slice::<Value>(answer.body()).unwrap().is_object(), "{name}, {status}");
            }
        }
    }
    // Without TLS there is no answer, not even an error of HTTP.
    let (mut stream, served) = pipe(world.context());
    stream.write_all(format!("POST /kms/xks/v1/health HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(served.done.await.unwrap().is_err());
    assert!(!answer.windows(4).any(|part| part == b"HTTP"), "{answer:?}");
}

/// "able to fall back to HTTP 1.1": HTTP/2 only where the client offers it.
#[tokio::test]
async fn http_1_1_is_fallen_back_to() {
    let world = World::new();
    let table: [(&[&str], Option<&str>); 4] = [
        (&[], None),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2", "http/1.1"], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
    ];
    for (offered, expected) in table {
        let (stream, _served) = pipe(world.context());
        let config = client_config(&world, holdfast_enclave::tls::provider(), offered);
        let stream = connect_with(config, HOST, stream).await.unwrap();
        let agreed = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
        assert_eq!(agreed.as_deref(), expected, "{offered:?}");
        let mut client = Client::over(stream, expected.unwrap_or("http/1.1")).await;
        assert_eq!(client.call(&health()).await.0, 200, "{offered:?}");
    }
}

/// "If the XKS Proxy receives an HTTP GET request at a URI associated with any of these four APIs": signed or not.
#[tokio::test]
async fn get_is_not_allowed_at_any_operation() {
    let world = World::new();
    for protocol in ["http/1.1", "h2"] {
        for (name, good) in calls(&world).await {
            let get = Call { method: "GET", ..good };
            let without_body = Call { body: String::new(), ..get.clone() };
            let unsigned = Call { secret: "x".repeat(43), ..without_body.clone() };
            for call in [get, without_body, unsigned] {
                let (mut client, _served) = Client::open(&world, protocol).await;
                let answer = client.send(call.signed()).await.unwrap();
                assert_eq!(answer.status().as_u16(), 405, "{name}");
                assert_eq!(answer.headers()["allow"], "POST", "{name}");
            }
        }
    }
}

/// "There is no expectation for the XKS Proxy to validate any information included in the requestMetadata".
#[tokio::test]
async fn request_metadata_is_taken_as_it_comes() {
    let world = World::new();
    let arn = format!("arn:aws:iam::123456789012:role/{}", "r".repeat(2048 - 31));
    assert_eq!(arn.len(), 2048);
    let texts = [
        ("kmsOperation", json!("KmsHealthCheck")),
        ("kmsOperation", json!("BulkEncrypt")),
        ("kmsOperation", json!("")),
        ("kmsOperation", json!("encrypt me; DROP")),
        ("kmsRequestId", json!("")),
        ("kmsRequestId", json!("no UUID")),
        ("kmsRequestId", json!("4112F4D6DB544AF4AE30C55A22A8DFAE")),
        ("kmsRequestId", json!("\u{1f511}\n\u{0}")),
        ("kmsRequestId", json!("x".repeat(2048))),
        ("awsPrincipalArn", json!("ec2.amazonaws.com")),
        ("awsPrincipalArn", json!("AWS Internal")),
        ("awsPrincipalArn", json!("not an ARN")),
        ("awsPrincipalArn", json!(arn)),
        ("kmsKeyArn", json!(arn)),
        ("kmsKeyArn", json!("not an ARN")),
        ("awsSourceVpc", json!("vpc-1234567890abcdef0")),
        ("awsSourceVpc", json!("anything")),
        ("awsSourceVpce", json!("vpce-1234567890abcdef0")),
        ("kmsViaService", json!("ebs")),
        ("kmsViaService", json!("s3.eu-central-1.amazonaws.com")),
        ("SourceIdentity", json!("a field from the future")),
        ("kmsRecipientAttestationPCR0", json!({ "of": ["any", 1, null] })),
    ];
    for (name, good) in calls(&world).await {
        assert_eq!(run(&world, &good).await.0, 200, "{name}");
        let usual: Value = serde_json::from_str(&good.body).unwrap();
        for (field, value) in &texts {
            let mut body = usual.clone();
            body["requestMetadata"][field] = value.clone();
            let call = Call { body: body.to_string(), ..good.clone() };
            let (status, answer) = run(&world, &call).await;
            assert_eq!(status, 200, "{name}, {field}: {value:.60}: {answer}");
        }
        let mut everything = usual.clone();
        for (field, value) in &texts {
            everything["requestMetadata"][field] = value.clone();
        }
        everything["fromTheFuture"] = json!([{}]);
        let call = Call { body: everything.to_string(), ..good.clone() };
        assert_eq!(run(&world, &call).await.0, 200, "{name}");
    }
}

#[tokio::test]
async fn an_integrity_value_comes_only_when_asked_for() {
    let world = World::new();
    for asked in [true, false] {
        let mut body = encrypt_body(b"text", b"aad");
        if !asked {
            body.as_object_mut().unwrap().remove("ciphertextDataIntegrityValueAlgorithm").unwrap();
        }
        let (status, answer) = run(&world, &Call::new("keys/enabled/encrypt", &body)).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer.get("ciphertextDataIntegrityValue").is_some(), asked, "{answer}");
        let call = Call::new("keys/enabled/decrypt", &decrypt_body(&answer, b"aad"));
        assert_eq!(bytes(&run(&world, &call).await.1["plaintext"]), b"text");
    }
}

/// With lengths in the framing, no AAD and AAD of no bytes are one thing.
#[tokio::test]
async fn empty_and_missing_aad_are_the_same() {
    let world = World::new();
    let without = |mut body: Value| {
        body.as_object_mut().unwrap().remove("additionalAuthenticatedData").unwrap();
        body
    };
    for missing_first in [true, false] {
        let body = encrypt_body(b"text", b"");
        let body = if missing_first { without(body) } else { body };
        let (_, encrypted) = run(&world, &Call::new("keys/enabled/encrypt", &body)).await;
        for missing_then in [true, false] {
            let body = decrypt_body(&encrypted, b"");
            let body = if missing_then { without(body) } else { body };
            let (status, answer) = run(&world, &Call::new("keys/enabled/decrypt", &body)).await;
            assert_eq!((status, bytes(&answer["plaintext"])), (200, b"text".to_vec()), "{answer}");
        }
        let body = decrypt_body(&encrypted, b"\0");
        assert_eq!(run(&world, &Call::new("keys/enabled/decrypt", &body)).await.0, 400);
    }
}

/// `XksProxyUriPath` of 128 characters, with every character that it may have.
#[tokio::test]
async fn the_longest_prefix_is_served() {
    let world = World::new();
    let letters = ('a'..='z').chain('A'..='Z').chain('0'..='9').chain(['-', '_', '/']);
    let prefix: String = ['/'].into_iter().chain(letters).chain("x".repeat(51).chars()).collect();
    assert_eq!(format!("{prefix}/kms/xks/v1").len(), 128);
    let store = key_store(2, 1, HOST, &prefix, &world.ca.identity(HOST, 2));
    store.gate.set_lease_expiry(crate::fixture::LEASE_MS);
    store.keys.install(crate::fixture::key_ring());
    assert_eq!(world.directory.replace(vec![std::sync::Arc::new(store)]).unwrap(), []);
    let (mut client, _served) = Client::open(&world, "h2").await;
    let path = format!("{prefix}/kms/xks/v1/health");
    assert_eq!(client.call(&Call { path, ..health() }).await.0, 200);
    let path = format!("{prefix}/kms/xks/v1/keys/enabled/encrypt");
    let encrypt = Call { path, ..Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b"")) };
    assert_eq!(client.call(&encrypt).await.0, 200);
}
