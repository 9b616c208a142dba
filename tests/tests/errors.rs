//! Every error of the specification's table that can be reached here, through the real stack, and their order.
//!
//! `AccessDenied` needs a policy and `Internal` a fault inside the enclave: the enclave's own tests have those. `Throttling` is in
//! `keys.rs`, under a quota.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_devkit::xks_client::{HttpVersion, XksAnswer, XksClient};
use holdfast_tests::system::{AAD, Credential, KEY, Options, System};
use holdfast_tests::wait::until;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_mins(1);

/// An error of the API: its name, its status, and a message that KMS takes.
#[track_caller]
fn assert_error(what: &str, answer: &XksAnswer, status: u16, name: &str) {
    assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.body);
    assert_eq!(answer.text("errorName"), Some(name), "{what}: {}", answer.body);
    let message = answer.text("errorMessage").unwrap_or_else(|| panic!("{what}: no message"));
    let printable = message.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    assert!((1..512).contains(&message.len()) && printable, "{what}: {message:?}");
    assert_eq!(answer.body.as_object().unwrap().len(), 2, "{what}: {}", answer.body);
}

fn metadata() -> Value {
    json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": "Encrypt",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    })
}

fn encrypt_request() -> Value {
    json!({ "requestMetadata": metadata(), "plaintext": "SGVsbG8gV29ybGQh", "encryptionAlgorithm": "AES_GCM" })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_error_and_their_order() {
    let keys = vec![
        (KEY, "encrypt,decrypt"),
        ("encrypts", "encrypt"),
        ("decrypts", "decrypt"),
        ("neither", "none"),
        ("off", "encrypt,decrypt"),
    ];
    let system = System::start(Options { keys, path_prefix: "/a", ..Options::default() }).await;
    paths_and_methods(&system).await;
    signatures(&system).await;
    bodies(&system).await;
    usages_and_states(&system).await;
    ciphertexts(&system).await;
    hosts(&system).await;
    blocks(&system).await;
    system.round_trip(KEY).await;
}

/// 404 for paths that are none, 405 for methods, both without looking at anything else.
async fn paths_and_methods(system: &System) {
    let client = system.client();
    let paths = [
        "/".to_owned(),
        "/kms/xks/v1/health".to_owned(),
        "/b/kms/xks/v1/health".to_owned(),
        "/a/kms/xks/v2/health".to_owned(),
        client.path("health/"),
        client.path("health?x=1"),
        client.path(&format!("keys/{KEY}")),
        client.path(&format!("keys/{KEY}/sign")),
        client.path("keys/no%20key/encrypt"),
        client.path(&format!("keys/{}/encrypt", "k".repeat(129))),
    ];
    for path in paths {
        for method in [Method::POST, Method::GET] {
            let request = client.signed(&method, &path, Bytes::from("{}"), SystemTime::now()).unwrap();
            let answer = client.send(request).await.unwrap();
            assert_error(&format!("{method} {path}"), &answer, 404, "InvalidUriPathException");
        }
    }
    for http in [HttpVersion::Http1, HttpVersion::Http2] {
        let client = system.client().over(http);
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let request = Request::builder().method(&method).uri(format!(
                "https://{}{}",
                client.authority(),
                client.path("health")
            ));
            let answer = client.send(request.body(Bytes::new()).unwrap()).await.unwrap();
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        }
    }
}

/// Takes something from a signed request.
type Spoil = fn(&mut Request<Bytes>);

/// 401 comes before everything that the body or the key could say.
async fn signatures(system: &System) {
    let nobody = Credential { access_key_id: "A".repeat(24), ..system.credential.clone() };
    let guesser = Credential { secret_access_key: "s".repeat(43), ..system.credential.clone() };
    let table = [
        ("unknown access key id", system.client_with(&nobody, "us-east-1")),
        ("wrong secret", system.client_with(&guesser, "us-east-1")),
        ("wrong region", system.client_with(&system.credential, "us-east-2")),
    ];
    for (what, client) in table {
        for (path, body) in [("health", "{}"), ("keys/none/encrypt", "not JSON")] {
            let request = client.signed(&Method::POST, &client.path(path), Bytes::from(body), SystemTime::now());
            let answer = client.send(request.unwrap()).await.unwrap();
            assert_error(what, &answer, 401, "AuthenticationFailedException");
        }
    }
    let client = system.client();
    let body = Bytes::from(encrypt_request().to_string());
    let path = client.path(&format!("keys/{KEY}/encrypt"));
    let at = |at: SystemTime| client.signed(&Method::POST, &path, body.clone(), at).unwrap();
    let now = SystemTime::now();
    for (what, time) in [("six minutes old", now - 6 * MINUTE), ("six minutes ahead", now + 6 * MINUTE)] {
        assert_error(what, &client.send(at(time)).await.unwrap(), 401, "AuthenticationFailedException");
    }
    for (what, time) in [("four minutes old", now - 4 * MINUTE), ("four minutes ahead", now + 4 * MINUTE)] {
        assert_eq!(client.send(at(time)).await.unwrap().status, StatusCode::OK, "{what}");
    }
    let spoilt: [(&str, Spoil); 6] = [
        ("another body", |request| *request.body_mut() = Bytes::from("{ }")),
        ("no signature", |request| drop(request.headers_mut().remove(header::AUTHORIZATION))),
        ("no date", |request| drop(request.headers_mut().remove("x-amz-date"))),
        ("another service", |request| replace_authorization(request, "/kms-xks-proxy/", "/kms/")),
        ("a flipped digit", |request| flip_signature_digit(request)),
        ("another path", |request| {
            let uri = request.uri().to_string().replace("/encrypt", "/decrypt");
            *request.uri_mut() = uri.parse().unwrap();
        }),
    ];
    for (what, spoil) in spoilt {
        let mut request = at(SystemTime::now());
        spoil(&mut request);
        assert_error(what, &client.send(request).await.unwrap(), 401, "AuthenticationFailedException");
    }
}

fn replace_authorization(request: &mut Request<Bytes>, from: &str, to: &str) {
    let value = request.headers()[header::AUTHORIZATION].to_str().unwrap().replace(from, to);
    request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
}

fn flip_signature_digit(request: &mut Request<Bytes>) {
    let mut value = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
    let last = if value.pop() == Some('0') { '1' } else { '0' };
    value.push(last);
    request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
}

/// 400 and 501 for bodies, before the key is looked for.
async fn bodies(system: &System) {
    let (validation, unsupported) = ((400, "ValidationException"), (501, "UnsupportedOperationException"));
    let with = |field: &str, value: Value| {
        let mut body = encrypt_request();
        body[field] = value;
        body
    };
    let without = |field: &str| {
        let mut body = encrypt_request();
        body.as_object_mut().unwrap().remove(field).unwrap();
        body
    };
    let without_metadata = |field: &str| {
        let mut body = encrypt_request();
        body["requestMetadata"].as_object_mut().unwrap().remove(field).unwrap();
        body
    };
    let base64 = |length: usize| json!(STANDARD.encode(vec![7; length]));
    let table = [
        (json!([]), validation),
        (json!({}), validation),
        (without("plaintext"), validation),
        (without("encryptionAlgorithm"), validation),
        (without("requestMetadata"), validation),
        (without_metadata("awsPrincipalArn"), validation),
        (without_metadata("kmsKeyArn"), validation),
        (without_metadata("kmsOperation"), validation),
        (without_metadata("kmsRequestId"), validation),
        (with("plaintext", json!("not base64!")), validation),
        (with("plaintext", json!(7)), validation),
        (with("encryptionAlgorithm", json!("RSA")), unsupported),
        (with("ciphertextDataIntegrityValueAlgorithm", json!("MD5")), unsupported),
        (with("plaintext", base64(8193)), unsupported),
        (with("additionalAuthenticatedData", base64(65_536)), unsupported),
        (with("additionalAuthenticatedData", base64(110_000)), unsupported),
    ];
    let client = system.client();
    for key in [KEY, "no-such-key", "off"] {
        for (body, (status, name)) in &table {
            let answer = client.post(&client.path(&format!("keys/{key}/encrypt")), body).await.unwrap();
            let what = body.to_string().chars().take(300).collect::<String>();
            assert_error(&what, &answer, *status, name);
        }
    }
    let mut both = with("plaintext", base64(8192));
    both["additionalAuthenticatedData"] = base64(8192);
    let largest = [both, with("additionalAuthenticatedData", base64(20_000))];
    for body in largest {
        let answer = client.post(&client.path(&format!("keys/{KEY}/encrypt")), &body).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    let request =
        client.signed(&Method::POST, &client.path("health"), Bytes::from("{\"requestMetadata\":"), SystemTime::now());
    assert_error("broken JSON", &client.send(request.unwrap()).await.unwrap(), 400, "ValidationException");
}

/// Keys with each usage and a disabled one.
async fn usages_and_states(system: &System) {
    let client = system.client();
    let encrypted = client.encrypt(KEY, b"text", None).await.unwrap().body;
    let described = async |key: &str| client.metadata(key).await.unwrap().body;
    let usages = [
        ("encrypts", json!(["ENCRYPT"]), true, false),
        ("decrypts", json!(["DECRYPT"]), false, true),
        ("neither", json!([]), false, false),
    ];
    for (key, usage, encrypts, decrypts) in usages {
        let expected = json!({ "keySpec": "AES_256", "keyUsage": usage, "keyStatus": "ENABLED" });
        assert_eq!(described(key).await, expected, "{key}");
        let answer = client.encrypt(key, b"text", None).await.unwrap();
        if encrypts {
            assert_eq!(answer.status, StatusCode::OK, "{key}: {}", answer.body);
        } else {
            assert_error(key, &answer, 400, "InvalidKeyUsageException");
        }
        // The ciphertext is another key's: whoever may decrypt at all finds it invalid.
        let name = if decrypts { "InvalidCiphertextException" } else { "InvalidKeyUsageException" };
        assert_error(key, &client.decrypt(key, &encrypted, None).await.unwrap(), 400, name);
    }

    for (key, answer) in [
        ("metadata", client.metadata("no-such-key").await),
        ("encrypt", client.encrypt("no-such-key", b"text", None).await),
        ("decrypt", client.decrypt("no-such-key", &encrypted, None).await),
    ] {
        assert_error(key, &answer.unwrap(), 404, "KeyNotFoundException");
    }

    let kept = client.encrypt("off", b"kept", None).await.unwrap().body;
    system.order(&["key", "disable", "off"]);
    let disabled = json!({ "keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "DISABLED" });
    assert_eq!(described("off").await, disabled);
    assert_error("off", &client.encrypt("off", b"text", None).await.unwrap(), 400, "InvalidStateException");
    assert_error("off", &client.decrypt("off", &kept, None).await.unwrap(), 400, "InvalidStateException");
    system.order(&["key", "enable", "off"]);
    assert_eq!(client.decrypt("off", &kept, None).await.unwrap().status, StatusCode::OK);
    system.order(&["key", "disable", "off"]);
    // State comes before usage.
    system.order(&["key", "disable", "neither"]);
    assert_error("neither", &client.encrypt("neither", b"text", None).await.unwrap(), 400, "InvalidStateException");
}

/// Each field of a ciphertext, altered in each of its bytes or replaced.
async fn ciphertexts(system: &System) {
    let client = system.client();
    let encrypted = system.encrypt(KEY).await;
    let other = system.encrypt(KEY).await;
    let table = [
        ("ciphertext", 32, "InvalidCiphertextException"),
        ("initializationVector", 12, "InvalidCiphertextException"),
        ("authenticationTag", 16, "InvalidCiphertextException"),
        ("ciphertextMetadata", 20, "InvalidCiphertextException"),
    ];
    for (field, length, name) in table {
        let bytes = STANDARD.decode(encrypted.body[field].as_str().unwrap()).unwrap();
        assert_eq!(bytes.len(), length, "{field}");
        for index in 0..length {
            let mut changed = bytes.clone();
            changed[index] ^= 1 << (index % 8);
            let mut body = encrypted.body.clone();
            body[field] = json!(STANDARD.encode(changed));
            let answer = client.decrypt(KEY, &body, Some(AAD)).await.unwrap();
            assert_error(&format!("{field}, byte {index}"), &answer, 400, name);
        }
        let mut body = encrypted.body.clone();
        body[field] = other.body[field].clone();
        let answer = client.decrypt(KEY, &body, Some(AAD)).await.unwrap();
        assert_error(&format!("{field} of another message"), &answer, 400, name);
    }
    let mut body = encrypted.body.clone();
    body.as_object_mut().unwrap().remove("ciphertextMetadata").unwrap();
    assert_error(
        "no metadata",
        &client.decrypt(KEY, &body, Some(AAD)).await.unwrap(),
        400,
        "InvalidCiphertextException",
    );
    for (what, aad) in
        [("no AAD", None), ("other AAD", Some(&b"project=nilf"[..])), ("longer AAD", Some(b"project=nile\0"))]
    {
        let answer = client.decrypt(KEY, &encrypted.body, aad).await.unwrap();
        assert_error(what, &answer, 400, "InvalidCiphertextException");
    }
    let answer = client.decrypt("decrypts", &encrypted.body, Some(AAD)).await.unwrap();
    assert_error("another key", &answer, 400, "InvalidCiphertextException");
    system.decrypt(&encrypted).await;
}

/// 421 when the request is for another host than the connection, and no TLS at all for a name that is not served.
async fn hosts(system: &System) {
    let client = system.client();
    let health = json!({ "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": "1" } }).to_string();
    for http2 in [false, true] {
        let mut wire = system.wire();
        wire.http2 = http2;
        for (host, expected) in [("localhost", 200), ("other.example.com", 421), ("localhost.example.com", 421)] {
            let path = client.path("health");
            let mut request = client.signed(&Method::POST, &path, health.clone().into(), SystemTime::now()).unwrap();
            if host != "localhost" {
                *request.uri_mut() = format!("https://{host}{path}").parse().unwrap();
            }
            let answer = wire.send(request).await.unwrap();
            assert_eq!(answer.status.as_u16(), expected, "{host}, HTTP/2: {http2}: {:?}", answer.json());
        }
    }
    for name in ["other.example.com", "127.0.0.1"] {
        let mut wire = system.wire();
        name.clone_into(&mut wire.server_name);
        assert!(wire.connect().await.is_err(), "{name}");
    }
}

/// A blocked key and a blocked store are in an invalid state; a key that does not exist is not told from the store's block.
async fn blocks(system: &System) {
    let client = system.client();
    let encrypted = system.encrypt(KEY).await;
    let refused = async |key: &str| {
        let name = until("the block is seen", || async {
            let answer = client.encrypt(key, b"text", None).await.unwrap();
            (answer.status != StatusCode::OK).then_some(answer)
        });
        name.await
    };
    system.order(&["block", "--key", KEY]);
    assert_error("blocked key", &refused(KEY).await, 400, "InvalidStateException");
    let answer = client.decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
    assert_error("blocked key", &answer, 400, "InvalidStateException");
    assert_eq!(client.metadata(KEY).await.unwrap().text("keyStatus"), Some("DISABLED"));
    assert_eq!(client.health().await.unwrap().status, StatusCode::OK, "one blocked key is no reason to be ill");
    system.order(&["unblock", "--key", KEY]);
    until("the key works again", || async {
        client.encrypt(KEY, b"text", None).await.ok()?.status.is_success().then_some(())
    })
    .await;

    system.order(&["block", "--store"]);
    assert_error("blocked store", &refused(KEY).await, 400, "InvalidStateException");
    every_operation_is_refused(&client, 400, "InvalidStateException").await;
    // Paths, signatures and bodies still come first.
    let answer = client.post("/a/kms/xks/v1/other", &json!({})).await.unwrap();
    assert_error("path", &answer, 404, "InvalidUriPathException");
    let guesser = Credential { secret_access_key: "s".repeat(43), ..system.credential.clone() };
    let answer = system.client_with(&guesser, "us-east-1").health().await.unwrap();
    assert_error("signature", &answer, 401, "AuthenticationFailedException");
    assert_error("body", &client.post(&client.path("health"), &json!({})).await.unwrap(), 400, "ValidationException");
    system.order(&["unblock", "--store"]);
    system.serving().await;
    system.decrypt(&encrypted).await;
}

async fn every_operation_is_refused(client: &XksClient, status: u16, name: &str) {
    let message = json!({
        "ciphertext": "AA==", "initializationVector": STANDARD.encode([0; 12]), "authenticationTag": STANDARD.encode([0; 16]),
    });
    for key in [KEY, "no-such-key"] {
        assert_error("metadata", &client.metadata(key).await.unwrap(), status, name);
        assert_error("encrypt", &client.encrypt(key, b"text", None).await.unwrap(), status, name);
        assert_error("decrypt", &client.decrypt(key, &message, None).await.unwrap(), status, name);
    }
    assert_error("health", &client.health().await.unwrap(), status, name);
}

/// The shortest lease runs out behind a dead custodian; keys are gone, the error is a proper one, and service returns.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_a_dependency_timeout() {
    let mut system = System::start(Options { lease: "10s", ..Options::default() }).await;
    let encrypted = system.encrypt(KEY).await;
    system.custodian.kill();
    let client = system.client();
    until("the lease runs out", || async {
        let answer = client.health().await.unwrap();
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    every_operation_is_refused(&client, 503, "DependencyTimeoutException").await;
    system.logged("parent", "LeaseExpired: the lease expired without a renewal").await;
    system.custodian.start().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
}
