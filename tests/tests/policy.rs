//! Who may use keys, and how often: policy and limits by signed commands, through the real stack and the real tool.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_cli::session::{Session, SessionError, Wait};
use holdfast_devkit::xks_client::XksAnswer;
use holdfast_shared::command::Action;
use holdfast_shared::keystore::UsePolicy;
use holdfast_tests::system::{KEY, Options, System};
use holdfast_tests::wait::until;
use http::StatusCode;
use serde_json::{Value, json};

const ALICE: &str = "arn:aws:iam::123456789012:role/payments/Alice";
const BOB: &str = "arn:aws:iam::123456789012:role/sandbox/Bob";
const KEY_ARN: &str = "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";

const POLICY: &str = r#"
@id("payments")
permit (principal, action, resource)
when { principal has path && principal.path like "/payments/*" && principal has account && principal.account == "123456789012" };
"#;

/// Encrypts for somebody.
async fn encrypt(system: &System, principal: &str, key: &str) -> XksAnswer {
    let client = system.client();
    let metadata =
        json!({ "awsPrincipalArn": principal, "kmsOperation": "Encrypt", "kmsRequestId": "1", "kmsKeyArn": KEY_ARN });
    let body =
        json!({ "requestMetadata": metadata, "plaintext": STANDARD.encode(b"x"), "encryptionAlgorithm": "AES_GCM" });
    client.post(&client.path(&format!("keys/{key}/encrypt")), &body).await.unwrap()
}

/// Asks for a key's metadata, as `CreateKey` does.
async fn describe(system: &System, principal: &str) -> XksAnswer {
    let client = system.client();
    let metadata = json!({ "awsPrincipalArn": principal, "kmsOperation": "CreateKey", "kmsRequestId": "1" });
    client.post(&client.path(&format!("keys/{KEY}/metadata")), &json!({ "requestMetadata": metadata })).await.unwrap()
}

#[track_caller]
fn assert_denied(answer: &XksAnswer) {
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.body);
    assert_eq!(answer.text("errorName"), Some("AccessDeniedException"));
    assert!(!answer.body.to_string().contains("payments"), "the wire names no rule: {}", answer.body);
}

async fn until_status(system: &System, principal: &str, status: StatusCode) {
    until("the policy is in force", || async {
        (encrypt(system, principal, KEY).await.status == status).then_some(())
    })
    .await;
}

/// Sends requests until one is throttled.
async fn until_throttled(system: &System, principal: &str, key: &str) {
    let refused = until("a request is throttled", || async {
        for _ in 0..4 {
            let answer = Box::pin(encrypt(system, principal, key)).await;
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                return Some(answer);
            }
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        }
        None
    })
    .await;
    assert_eq!(refused.text("errorName"), Some("ThrottlingException"), "{}", refused.body);
}

/// Signs what the tool itself would refuse to sign.
async fn order_unchecked(system: &System, text: &str) -> SessionError {
    let session = Session::open(&system.administrator.home_folder(), None).unwrap();
    let wait = Wait { timeout: Duration::from_mins(1), progress: &|_| () };
    session.order(Action::SetPolicy { policy: Some(UsePolicy { text: text.to_owned() }) }, wait).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_decides_until_it_is_lifted() {
    let mut system = System::start(Options::default()).await;
    assert_eq!(system.order(&["policy", "show"])["policy"], Value::Null);
    assert_eq!(Box::pin(encrypt(&system, BOB, KEY)).await.status, StatusCode::OK);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("use.cedar");
    let path = file.to_str().unwrap();
    std::fs::write(&file, POLICY).unwrap();
    assert_eq!(system.order(&["policy", "set", path])["done"], "policy set");
    until_status(&system, BOB, StatusCode::FORBIDDEN).await;
    assert_denied(&Box::pin(encrypt(&system, BOB, KEY)).await);
    assert_denied(&Box::pin(describe(&system, BOB)).await);
    assert_denied(&Box::pin(encrypt(&system, "ec2.amazonaws.com", KEY)).await);
    assert_eq!(Box::pin(encrypt(&system, ALICE, KEY)).await.status, StatusCode::OK);
    assert_eq!(Box::pin(describe(&system, ALICE)).await.status, StatusCode::OK);
    assert_eq!(system.client().health().await.unwrap().status, StatusCode::OK, "health is never asked about");
    let shown = system.order(&["policy", "show"]);
    assert_eq!(shown["policy"], POLICY);

    // What is not valid changes nothing: the tool does not sign it, and the enclave does not take it.
    let bad = POLICY.replace("principal.path", "principal.paths");
    std::fs::write(&file, &bad).unwrap();
    let said = system.administrator.holdfast(&["policy", "set", path]);
    assert!(said.code() == Some(1) && said.complaint().contains("line 4, column"), "{said:?}");
    let refused = Box::pin(order_unchecked(&system, &bad)).await.to_string();
    assert!(refused.contains("the policy is not valid: line 4, column"), "{refused}");
    assert_eq!(system.order(&["policy", "show"])["version"], shown["version"]);
    assert_denied(&Box::pin(encrypt(&system, BOB, KEY)).await);

    // Kept over a restart, from the first answer on.
    system.start_enclave().await;
    system.serving().await;
    assert_denied(&Box::pin(encrypt(&system, BOB, KEY)).await);
    assert_eq!(Box::pin(encrypt(&system, ALICE, KEY)).await.status, StatusCode::OK);

    // Another one, then none.
    system.order(&["policy", "set", "--preset", "region-pin", "--region", "eu-central-1"]);
    until_status(&system, ALICE, StatusCode::FORBIDDEN).await;
    assert_eq!(Box::pin(describe(&system, BOB)).await.status, StatusCode::OK, "CreateKey names no region");
    assert_eq!(system.order(&["policy", "set", "--none"])["done"], "policy lifted");
    until_status(&system, BOB, StatusCode::OK).await;
    assert_eq!(system.order(&["policy", "show"])["policy"], Value::Null);
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_throttle_one_key_and_one_principal() {
    let mut system = System::start(Options::default()).await;
    system.order(&["key", "create", "other"]);
    system.order(&["limit", "set", "--per-principal", "1:1"]);
    until_throttled(&system, ALICE, KEY).await;
    assert_eq!(Box::pin(encrypt(&system, BOB, KEY)).await.status, StatusCode::OK, "another principal");
    assert_eq!(Box::pin(describe(&system, ALICE)).await.status, StatusCode::OK, "metadata is never throttled");
    until("a request passes again", || async {
        (encrypt(&system, ALICE, KEY).await.status == StatusCode::OK).then_some(())
    })
    .await;

    let own = format!("{KEY}=1:1");
    system.order(&["limit", "set", "--key", &own]);
    until_throttled(&system, ALICE, KEY).await;
    for _ in 0..4 {
        assert_eq!(Box::pin(encrypt(&system, ALICE, "other")).await.status, StatusCode::OK, "another key");
    }
    // Kept over a restart.
    system.start_enclave().await;
    system.serving().await;
    let shown = system.order(&["limit", "show"]);
    assert_eq!(shown["keys"], json!([{ "key": KEY, "requests_per_second": 1, "burst": 1 }]));
    assert_eq!((&shown["per_key"], &shown["per_principal"]), (&Value::Null, &Value::Null));
    until_throttled(&system, BOB, KEY).await;
    let unknown = system.administrator.holdfast(&["limit", "set", "--key", "no-such=1:1"]);
    assert!(unknown.code() == Some(1) && unknown.complaint().contains("there is no key no-such"), "{unknown:?}");

    // 403 comes before 429, and what the policy refuses is not counted.
    system.order(&["limit", "clear"]);
    system.order(&["policy", "set", "--preset", "account-only", "--account", "999999999999"]);
    until_status(&system, ALICE, StatusCode::FORBIDDEN).await;
    system.assert_no_panic();
}
