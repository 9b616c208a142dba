//! Servers that are not Transit, or an old one, or a broken one: what they answer is bounded, checked and not believed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test as tests do"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use holdfast_custodian::config::TransitConfig;
use holdfast_custodian::kek::{Kek, KekError, TransitKey};
use holdfast_tests::key_servers::write_private;
use serde_json::{Value, json};
use tempfile::TempDir;

const AAD: &[u8] = b"share of a test";
const SECRET: &[u8] = b"a share that nobody else may see";

/// What is asked: operation, token, body.
struct Question {
    operation: String,
    token: String,
    body: Value,
}

type Answer = (u16, Vec<u8>);

/// A server without TLS on a loopback address, which answers as it is told.
struct Fake {
    config: TransitConfig,
    _folder: TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn start(mut answer: impl FnMut(&Question) -> Answer + Send + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = TransitConfig {
            url: format!("http://{}", listener.local_addr().unwrap()),
            mount: "transit".to_owned(),
            key: "holdfast".to_owned(),
            token_file: folder.path().join("token"),
            roots: None,
            namespace: Some("team".to_owned()),
        };
        write_private(&config.token_file, "first");
        let answer = Arc::new(Mutex::new(move |question: &Question| answer(question)));
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            assert_eq!(headers["x-vault-namespace"], "team");
            assert_eq!(headers["x-vault-request"], "true");
            let token = headers["x-vault-token"].to_str().unwrap().to_owned();
            let operation =
                uri.path().strip_prefix("/v1/transit/").unwrap().strip_suffix("/holdfast").unwrap().to_owned();
            assert_eq!(method == Method::GET, operation == "keys");
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, body) = answer.lock().unwrap()(&Question { operation, token, body });
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        };
        let app = axum::Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { config, _folder: folder, task }
    }

    fn kek(&self) -> Kek {
        Kek::new(Box::new(TransitKey::open(&self.config).unwrap()), Duration::from_secs(5))
    }
}

fn said(status: u16, body: &Value) -> Answer {
    (status, body.to_string().into_bytes())
}

/// A server that does everything right, in a manner of its own: a ciphertext is plaintext and associated data.
fn right(question: &Question) -> Answer {
    let text = |field: &str| question.body[field].as_str().unwrap().to_owned();
    match question.operation.as_str() {
        "keys" => said(200, &configuration()),
        "encrypt" => {
            let both = format!("{}|{}", text("plaintext"), text("associated_data"));
            said(200, &json!({ "data": { "ciphertext": format!("vault:v1:{}", to_base64(&both)), "key_version": 1 } }))
        }
        "decrypt" => {
            let both = from_base64(text("ciphertext").strip_prefix("vault:v1:").unwrap());
            let (plaintext, associated) = both.split_once('|').unwrap();
            if associated == text("associated_data") {
                said(200, &json!({ "data": { "plaintext": plaintext } }))
            } else {
                said(400, &json!({ "errors": ["cipher: message authentication failed"] }))
            }
        }
        other => panic!("{other} is asked for"),
    }
}

fn configuration() -> Value {
    json!({ "data": {
        "type": "aes256-gcm96", "exportable": false, "allow_plaintext_backup": false, "derived": false, "name": "holdfast",
    } })
}

fn to_base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn from_base64(text: &str) -> String {
    use base64::Engine as _;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
}

#[tokio::test]
async fn a_server_in_a_manner_of_its_own_is_right() {
    let fake = Fake::start(right).await;
    let kek = fake.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    assert_eq!(kek.unwrap(AAD, &wrapped).await.unwrap().expose(), SECRET);
    assert!(matches!(kek.unwrap(b"other", &wrapped).await, Err(KekError::OpenFailed)));
}

/// As Vault before 1.13, which passes over fields that it does not know.
#[tokio::test]
async fn a_server_that_does_not_bind_associated_data_is_refused() {
    let fake = Fake::start(|question| {
        let mut question =
            Question { body: question.body.clone(), token: String::new(), operation: question.operation.clone() };
        question.body["associated_data"] = json!("");
        right(&question)
    })
    .await;
    let error = fake.kek().wrap(AAD, SECRET).await.unwrap_err();
    assert!(error.to_string().contains("does not bind associated data; use OpenBao, or Vault 1.13"), "{error}");
    assert!(matches!(error, KekError::Misconfigured { .. }), "{error}");
}

#[tokio::test]
async fn what_does_not_open_again_is_not_given_out() {
    let mut decrypted = 0;
    let fake = Fake::start(move |question| {
        decrypted += u32::from(question.operation == "decrypt");
        // The look before the first use is answered well.
        if question.operation == "decrypt" && decrypted > 2 {
            return said(200, &json!({ "data": { "plaintext": "AAAA" } }));
        }
        right(question)
    })
    .await;
    let error = fake.kek().wrap(AAD, SECRET).await.unwrap_err();
    assert!(error.to_string().contains("not one of Transit"), "{error}");
}

/// An agent replaces the token while a request is on its way.
#[tokio::test]
async fn a_token_that_was_replaced_meanwhile_is_used_at_once() {
    let file = Arc::new(Mutex::new(None::<std::path::PathBuf>));
    let seen = Arc::clone(&file);
    let fake = Fake::start(move |question| match &*seen.lock().unwrap() {
        Some(file) if question.token == "first" => {
            write_private(file, "second");
            said(403, &json!({ "errors": ["permission denied"] }))
        }
        Some(_) if question.token != "second" => panic!("{} is no token", question.token),
        _ => right(question),
    })
    .await;
    let kek = fake.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    *file.lock().unwrap() = Some(fake.config.token_file.clone());
    assert_eq!(kek.unwrap(AAD, &wrapped).await.unwrap().expose(), SECRET);
}

#[tokio::test]
async fn answers_are_bounded_and_checked() {
    let table: [(&str, Answer, &str); 9] = [
        ("endless", (200, vec![b' '; 65 * 1024]), "the request broke off"),
        ("no JSON", (200, b"<html>".to_vec()), "not one of Transit"),
        ("nothing", (200, Vec::new()), "not one of Transit"),
        ("no plaintext", said(200, &json!({ "data": {} })), "not one of Transit"),
        ("a number", said(200, &json!({ "data": { "plaintext": 1 } })), "not one of Transit"),
        ("no base64", said(200, &json!({ "data": { "plaintext": "A*" } })), "not one of Transit"),
        ("a redirect", (307, Vec::new()), "the server sends us elsewhere"),
        ("created", said(201, &json!({ "data": { "plaintext": "AAAA" } })), "status 201"),
        ("a wall of words", said(500, &json!({ "errors": ["x\u{1b}[2J".repeat(9000)] })), "look at the server's log"),
    ];
    let hostile = Arc::new(Mutex::new(None::<Answer>));
    let told = Arc::clone(&hostile);
    let fake = Fake::start(move |question| told.lock().unwrap().clone().unwrap_or_else(|| right(question))).await;
    let kek = fake.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    for (what, answer, expected) in table {
        *hostile.lock().unwrap() = Some(answer);
        let error = kek.unwrap(AAD, &wrapped).await.unwrap_err();
        assert!(error.may_pass(), "{what}: {error}");
        let shown = error.to_string();
        assert!(shown.contains(expected), "{what}: {shown}");
        assert!(shown.len() < 600 && shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{what}: {shown:?}");
        *hostile.lock().unwrap() = None;
        assert_eq!(kek.unwrap(AAD, &wrapped).await.unwrap().expose(), SECRET, "after {what}");
    }
}

/// What an old Vault does not say is not taken for a yes.
#[tokio::test]
async fn a_configuration_that_leaves_something_out_is_refused() {
    for field in ["type", "exportable", "allow_plaintext_backup", "derived"] {
        let fake = Fake::start(move |question| {
            if question.operation == "keys" {
                let mut said_of_it = configuration();
                said_of_it["data"].as_object_mut().unwrap().remove(field);
                return said(200, &said_of_it);
            }
            right(question)
        })
        .await;
        let error = fake.kek().wrap(AAD, SECRET).await.unwrap_err();
        assert!(error.to_string().contains("not one of Transit"), "{field}: {error}");
    }
}
