//! The wire format through the real stack: the published examples byte for byte, integrity values computed again, sizes, and what
//! an empty AAD is. The whole tables are in the enclave's own tests.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_devkit::xks_client::{HttpVersion, XksClient};
use holdfast_tests::system::{KEY, Options, System};
use http::Method;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

const ENCRYPT: &str = include_str!("../vectors/xks/encrypt-request.json");
const DECRYPT: &str = include_str!("../vectors/xks/decrypt-request.json");
const METADATA: &str = include_str!("../vectors/xks/metadata-request.json");
const HEALTH: &str = include_str!("../vectors/xks/health-request.json");

/// Sends a body as it is; gives status and answer.
async fn send(client: &XksClient, end: &str, body: &str) -> (u16, Value) {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let request = client.signed(&Method::POST, &client.path(end), body, SystemTime::now()).unwrap();
    let answer = client.send(request).await.unwrap();
    (answer.status.as_u16(), answer.body)
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn members(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_format_through_every_hop() {
    let system = System::start(Options::default()).await;
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let client = system.client().over(version);
        published_examples(&client).await;
        integrity_values(&client).await;
        empty_aad(&client).await;
        metadata_is_not_judged(&client).await;
    }
    system.assert_no_panic();
}

/// Each example of a request is taken; the answers have the members of the published ones.
async fn published_examples(client: &XksClient) {
    let published = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (status, answer) = send(client, &format!("keys/{KEY}/metadata"), METADATA).await;
    assert_eq!((status, answer), (200, published(include_str!("../vectors/xks/metadata-response.json"))));
    let (status, answer) = send(client, "health", HEALTH).await;
    let expected = published(include_str!("../vectors/xks/health-response.json"));
    assert_eq!((status, members(&answer)), (200, members(&expected)));
    assert_eq!(members(&answer["ekmFleetDetails"][0]), members(&expected["ekmFleetDetails"][0]));
    let (status, answer) = send(client, &format!("keys/{KEY}/encrypt"), ENCRYPT).await;
    let expected = published(include_str!("../vectors/xks/encrypt-response.json"));
    assert_eq!((status, members(&answer)), (200, members(&expected)), "{answer}");
    // Another key manager's ciphertext: the specification's example of an error.
    let (status, error) = send(client, &format!("keys/{KEY}/decrypt"), DECRYPT).await;
    let expected = published(include_str!("../vectors/xks/error-response.json"));
    assert_eq!((status, members(&error)), (400, members(&expected)));
    assert_eq!(error["errorName"], expected["errorName"]);
    // The example again, with what this key manager made.
    let mut body = published(DECRYPT);
    for field in ["ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag"] {
        body[field] = answer[field].clone();
    }
    let (status, answer) = send(client, &format!("keys/{KEY}/decrypt"), &body.to_string()).await;
    assert_eq!((status, answer), (200, published(include_str!("../vectors/xks/decrypt-response.json"))));
}

/// Appendix C, computed from the answer alone; absent when it was not asked for.
async fn integrity_values(client: &XksClient) {
    for aad in [None, Some(""), Some("AA=="), Some("cHJvamVjdD1uaWxl")] {
        let mut body: Value = serde_json::from_str(ENCRYPT).unwrap();
        body["additionalAuthenticatedData"] = aad.map_or(Value::Null, |aad| json!(aad));
        let (status, answer) = send(client, &format!("keys/{KEY}/encrypt"), &body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        let fields = ["ciphertextMetadata", "initializationVector", "ciphertext", "authenticationTag"];
        let parts = [
            vec![STANDARD.decode(aad.unwrap_or_default()).unwrap()],
            fields.map(|field| bytes(&answer[field])).to_vec(),
        ];
        let value = digest(&SHA256, &parts.concat().concat());
        assert_eq!(bytes(&answer["ciphertextDataIntegrityValue"]), value.as_ref(), "{aad:?}");
        body["ciphertextDataIntegrityValueAlgorithm"].take();
        let (_, answer) = send(client, &format!("keys/{KEY}/encrypt"), &body.to_string()).await;
        assert!(answer.get("ciphertextDataIntegrityValue").is_none(), "{answer}");
    }
}

async fn empty_aad(client: &XksClient) {
    let forms = [None, Some(b"".as_slice())];
    for encrypt_with in forms {
        let encrypted = client.encrypt(KEY, b"text", encrypt_with).await.unwrap();
        for decrypt_with in forms {
            let decrypted = client.decrypt(KEY, &encrypted.body, decrypt_with).await.unwrap();
            assert_eq!(decrypted.bytes("plaintext").as_deref(), Some(b"text".as_slice()), "{}", decrypted.body);
        }
    }
}

/// What KMS may send one day.
async fn metadata_is_not_judged(client: &XksClient) {
    for (end, body) in [
        (format!("keys/{KEY}/encrypt"), ENCRYPT),
        (format!("keys/{KEY}/metadata"), METADATA),
        ("health".to_owned(), HEALTH),
    ] {
        let mut body: Value = serde_json::from_str(body).unwrap();
        let metadata = &mut body["requestMetadata"];
        metadata["kmsOperation"] = json!("BulkEverything");
        metadata["kmsRequestId"] = json!("no UUID \u{1f600}\n");
        metadata["awsPrincipalArn"] = json!("AWS Internal");
        metadata["SourceIdentity"] = json!({ "of": ["the", "future"] });
        body["unknown"] = json!([[[1e300]]]);
        let (status, answer) = send(client, &end, &body.to_string()).await;
        assert_eq!(status, 200, "{end}: {answer}");
    }
}
