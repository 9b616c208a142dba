//! What the specification asks of the whole system: that no plaintext is logged, and the file for the console of KMS.

use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_tests::random::random_bytes;
use holdfast_tests::system::{Credential, KEY, Options, REGION, System};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// Plaintext "MUST NOT be logged": not by what works and not by what fails, at the most talkative level.
#[tokio::test(flavor = "multi_thread")]
async fn no_plaintext_reaches_a_log() {
    let system = System::start(Options::default()).await;
    let client = system.client();
    let plaintext = random_bytes::<48>();
    let encrypted = client.encrypt(KEY, &plaintext, None).await.unwrap();
    assert_eq!(encrypted.status, StatusCode::OK);
    assert_eq!(client.decrypt(KEY, &encrypted.body, None).await.unwrap().status, StatusCode::OK);

    let text = STANDARD.encode(plaintext);
    let path = client.path(&format!("keys/{KEY}/encrypt"));
    let misplaced = [
        // No metadata, an unknown algorithm, Base64 with something behind it, another type, no JSON, another place.
        (json!({ "plaintext": text }).to_string(), 400),
        (json!({ "requestMetadata": metadata(), "plaintext": text, "encryptionAlgorithm": text }).to_string(), 501),
        (json!({ "requestMetadata": metadata(), "plaintext": format!("{text}!") }).to_string(), 400),
        (json!({ "requestMetadata": metadata(), "plaintext": [text] }).to_string(), 400),
        (format!("{{\"plaintext\": \"{text}\""), 400),
        (json!({ "requestMetadata": { "kmsRequestId": 7, "kmsOperation": text } }).to_string(), 400),
    ];
    for (body, status) in misplaced {
        let request = client.signed(&Method::POST, &path, body.into(), SystemTime::now()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status.as_u16(), status);
    }
    let unknown = client.encrypt("no-such-key", &plaintext, None).await.unwrap();
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let stranger = Credential { secret_access_key: "s".repeat(43), ..system.credential.clone() };
    let refused = system.client_with(&stranger, REGION).encrypt(KEY, &plaintext, None).await.unwrap();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);

    let logs = system.logs();
    let id = system.key_store_id().to_string();
    assert!(logs.iter().any(|(_, log)| log.contains(&id)), "the search finds what is there");
    for (name, log) in &logs {
        for form in [text.clone(), hex::encode(plaintext), format!("{plaintext:?}")] {
            // A part of it would be a leak, too.
            assert!(!log.contains(&form[..24]), "{name} holds plaintext");
        }
    }
}

fn metadata() -> Value {
    json!({ "awsPrincipalArn": "a", "kmsKeyArn": "a", "kmsOperation": "Encrypt", "kmsRequestId": "1" })
}

/// Section "XKS proxy configuration in AWS KMS console": exactly these fields, in this form, for the owner's eyes; and with
/// them a client gets in.
#[tokio::test(flavor = "multi_thread")]
async fn the_console_file_has_the_specified_form() {
    for path_prefix in ["", "/keystores/4a0d79d6-1d1b-49fd-9dbe-799cb9c0fb3f"] {
        let system = System::start(Options { path_prefix, ..Options::default() }).await;
        let out = system.layout.path("home/console.json");
        let said =
            system.order(&["kms", "config", "--region", REGION, "--key", KEY, "--out", &out.display().to_string()]);
        let file: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
        let uri_path = format!("{path_prefix}/kms/xks/v1");
        assert_eq!(file["XksProxyUriPath"], json!(uri_path));
        assert_eq!(said["uri_path"], json!(uri_path));
        assert!(uri_path.len() <= 128 && uri_path.chars().all(|c| c.is_ascii_alphanumeric() || "/-_".contains(c)));
        let credential = &file["XksProxyAuthenticationCredential"];
        let text = |field: &str| credential[field].as_str().unwrap().to_owned();
        let (access_key_id, secret_access_key) = (text("AccessKeyId"), text("RawSecretAccessKey"));
        assert!((20..=30).contains(&access_key_id.len()), "{access_key_id}");
        assert!(access_key_id.chars().all(|c| matches!(c, 'A'..='Z' | '2'..='7')), "{access_key_id}");
        assert!((43..=64).contains(&secret_access_key.len()));
        assert!(secret_access_key.chars().all(|c| c.is_ascii_alphanumeric() || "/+=".contains(c)));
        assert_eq!((file.as_object().unwrap().len(), credential.as_object().unwrap().len()), (2, 2), "nothing else");
        assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);

        let client = system.client_with(&Credential { access_key_id, secret_access_key }, REGION);
        let body = json!({ "requestMetadata": { "kmsOperation": "CreateCustomKeyStore", "kmsRequestId": "1" } });
        let answer = client.post(&format!("{uri_path}/health"), &body).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
}
