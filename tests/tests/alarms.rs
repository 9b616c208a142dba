//! Alarms end to end: a new caller is told of by webhook and syslog, in the tool and in the metrics; nothing of it is lost while somebody
//! is away, and nobody who may not know learns who it was.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::net::UdpSocket;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_tests::system::{KEY, Options, System};
use holdfast_tests::wait::until;
use holdfast_tests::webhook::Receiver;
use http::StatusCode;
use ring::hmac;
use serde_json::{Value, json};

const ALICE: &str = "arn:aws:iam::123456789012:user/Alice";
const MALLORY: &str = "arn:aws:sts::123456789012:assumed-role/Mallory/session-1";
const ROLE: &str = "arn:aws:sts::123456789012:assumed-role/Mallory";
const SECRET: &[u8] = b"a secret that the webhook's receiver knows";

/// Encrypts for somebody, and says from where.
async fn encrypt(system: &System, principal: &str, vpc: Option<&str>) -> StatusCode {
    encrypt_under(system, KEY, principal, vpc).await
}

async fn encrypt_under(system: &System, key: &str, principal: &str, vpc: Option<&str>) -> StatusCode {
    let client = system.client();
    let mut metadata = json!({ "awsPrincipalArn": principal, "kmsOperation": "Encrypt", "kmsRequestId": "1",
        "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab" });
    if let Some(vpc) = vpc {
        metadata["awsSourceVpc"] = vpc.into();
    }
    let body =
        json!({ "requestMetadata": metadata, "plaintext": STANDARD.encode(b"x"), "encryptionAlgorithm": "AES_GCM" });
    client.post(&client.path(&format!("keys/{key}/encrypt")), &body).await.unwrap().status
}

fn alarms(system: &System, kind: &str) -> Vec<Value> {
    system.order(&["alarms", "--kind", kind])["alarms"].as_array().unwrap().clone()
}

fn are_told(alarms: &[Value], who: &[&str]) -> bool {
    who.iter().all(|who| alarms.iter().any(|alarm| alarm["who"] == *who))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_caller_is_told_of_everywhere_and_once() {
    let receiver = Receiver::start().await;
    let syslog = UdpSocket::bind("127.0.0.1:0").unwrap();
    syslog.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    holdfast_tests::webhook::write_private(&secret, SECRET);
    let configuration = format!(
        "learn_days = 0\n[[alarms.webhook]]\nurl = \"{}\"\nsecret_file = \"{}\"\n\
         [[alarms.syslog]]\naddress = \"udp://{}\"\n",
        receiver.url(),
        secret.display(),
        syslog.local_addr().unwrap()
    );
    let mut system = System::start(Options { alarms: Some(configuration), ..Options::default() }).await;
    assert_eq!(encrypt(&system, ALICE, None).await, StatusCode::OK);
    assert_eq!(encrypt(&system, MALLORY, Some("vpc-0123")).await, StatusCode::OK);

    let seen = until("the tool shows both callers and the VPC", || async {
        let seen = alarms(&system, "first-seen");
        are_told(&seen, &[ALICE, ROLE, "vpc-0123"]).then_some(seen)
    })
    .await;
    assert!(seen.iter().all(|alarm| alarm["who"] != MALLORY), "a session is no principal: {seen:#?}");

    let told = until("the webhook has them", || async {
        let told = receiver.received();
        let bodies: Vec<Value> = told.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
        are_told(&bodies, &[ALICE, ROLE, "vpc-0123"]).then_some((told, bodies))
    })
    .await;
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    for (request, body) in told.0.iter().zip(&told.1) {
        let signature = request.header("holdfast-signature").unwrap().strip_prefix("sha256=").unwrap().to_owned();
        hmac::verify(&key, &request.body, &hex::decode(signature).unwrap()).unwrap();
        assert_eq!(body["key_store_id"], system.key_store_id().to_string());
        assert!(seen.iter().any(|alarm| alarm["id"] == body["id"]) || body["kind"] != "first-seen", "{body}");
    }

    let mut datagram = [0; 8192];
    let mut lines = String::new();
    while !lines.contains(ROLE) {
        let length = syslog.recv(&mut datagram).unwrap();
        lines.push_str(std::str::from_utf8(&datagram[..length]).unwrap());
        lines.push('\n');
    }
    assert!(lines.starts_with("<8") && lines.contains(" holdfast-custodian "), "{lines}");

    until("the parent counts them", || async {
        let metrics = system.parent_metrics().await;
        let line = metrics.lines().find(|line| {
            line.starts_with("holdfast_key_store_alarms_total{") && line.contains("kind=\"first-seen\"")
        })?;
        (line.rsplit(' ').next()?.parse::<f64>().ok()? >= 3.0).then_some(())
    })
    .await;
    for (process, log) in system.logs() {
        assert!(!log.contains("Mallory") && !log.contains("vpc-0123"), "{process} names a caller");
    }

    // Known from now on, to a new enclave and to a custodian that was killed as well.
    let before = alarms(&system, "first-seen").len();
    system.custodian_mut(0).kill();
    system.custodian_mut(0).start().await;
    system.start_enclave().await;
    system.serving().await;
    assert_eq!(encrypt(&system, MALLORY, Some("vpc-0123")).await, StatusCode::OK);
    assert_eq!(encrypt(&system, ALICE, Some("vpc-4567")).await, StatusCode::OK);
    until("the new VPC is told of", || async { are_told(&alarms(&system, "first-seen"), &["vpc-4567"]).then_some(()) })
        .await;
    assert_eq!(alarms(&system, "first-seen").len(), before + 1, "the others are known");
    let status = system.order(&["status"]);
    assert!(are_told(status["alarms"]["newest"].as_array().unwrap(), &["vpc-4567"]), "{status:#}");
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_the_custodian_was_away_is_told_when_it_is_back() {
    let receiver = Receiver::start().await;
    let configuration =
        format!("learn_days = 0\nrefused_burst = 20\n[[alarms.webhook]]\nurl = \"{}\"\n", receiver.url());
    let mut system = System::start(Options { alarms: Some(configuration), ..Options::default() }).await;
    system.custodian_mut(0).kill();
    receiver.answer(StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..25 {
        assert_eq!(encrypt_under(&system, "no-such-key", MALLORY, None).await, StatusCode::NOT_FOUND);
    }
    system.custodian_mut(0).start().await;
    let raised = until("the burst is told of", || async { alarms(&system, "refused-burst").first().cloned() }).await;
    assert!(raised["text"].as_str().unwrap().contains("25"), "{raised}");
    assert_eq!(raised["delivered"], false, "the webhook answers 500: {raised}");
    receiver.answer(StatusCode::NO_CONTENT);
    until("the webhook takes it at last", || async {
        alarms(&system, "refused-burst").first().filter(|alarm| alarm["delivered"] == true).cloned()
    })
    .await;
    system.assert_no_panic();
}
