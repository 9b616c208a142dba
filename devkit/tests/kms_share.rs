//! The enclave's client of AWS KMS against the double in a process of its own, with documents of the emulated NSM.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use holdfast_client::Tcp;
use holdfast_devkit::nsm::{EmulatedDevice, EmulatedRoot, Emulator, Fault, PcrSource, Settings};
use holdfast_enclave::clock::SteppedClock;
use holdfast_enclave::kms::{AwsCredentials, KmsContext, KmsError, KmsShareClient};
use holdfast_enclave::nsm::{Nsm, NsmDevice};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::{DerCertificate, KmsShare};
use holdfast_shared::secrets::SecretBytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use x509_cert::der::{DecodePem as _, Encode as _};

const KEY_ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const ACCESS_KEY_ID: &str = "ASIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "IQoJb3JpZ2luX2VjEXAMPLE+/==";
const CONTEXT: KmsContext = KmsContext { key_store_id: KeyStoreId([7; 32]), generation: 1 };
const SHARE: [u8; 64] = [0x5a; 64];

/// The policy that the guide shows, with this test's values in its places.
fn policy_of_the_guide(image: &str) -> String {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kms-share.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let policy = guide.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let pcr = |content: &str| hex::encode(PcrSource::Content(content.to_owned()).value().unwrap());
    let values = [
        ("KEY_STORE_ID", CONTEXT.key_store_id.to_string()),
        ("PCR0_OF_THE_IMAGE", pcr(image).to_uppercase()),
        ("PCR1_OF_THE_IMAGE", pcr("kernel")),
        ("PCR2_OF_THE_IMAGE", pcr("application")),
    ];
    values.iter().fold(policy.to_owned(), |policy, (place, value)| {
        assert!(policy.contains(place), "the guide's policy has no {place}");
        policy.replace(place, value)
    })
}

/// `holdfast-dev kms-share`, ended with this value.
struct Kms {
    child: Child,
    share: KmsShare,
}

impl Kms {
    fn start(folder: &Path, fault: Option<Value>) -> Self {
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-dev"));
        command
            .args(["kms-share", "--listen", "127.0.0.1:0", "--key-arn", KEY_ARN, "--access-key-id", ACCESS_KEY_ID])
            .arg("--state")
            .arg(folder.join("kms"))
            .arg("--policy")
            .arg(file("policy.json", &policy_of_the_guide("image")))
            .arg("--nsm-root")
            .arg(folder.join("nsm/root.pem"))
            .arg("--secret-access-key-file")
            .arg(file("secret", SECRET))
            .arg("--session-token-file")
            .arg(file("token", &format!("{TOKEN}\n")));
        if let Some(fault) = fault {
            command.arg("--fault").arg(fault.to_string());
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the double says where it listens");
        let port = ready["address"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
        let pem = std::fs::read(ready["tls_root"].as_str().unwrap()).unwrap();
        let root = x509_cert::Certificate::from_pem(pem).unwrap().to_der().unwrap();
        let share = KmsShare {
            key_arn: KEY_ARN.to_owned(),
            region: "eu-central-1".to_owned(),
            address: format!("localhost:{port}"),
            tls_roots: vec![DerCertificate(root)],
        };
        Self { child, share }
    }

    fn client(&self, credentials: impl Into<Option<AwsCredentials>>) -> (KmsShareClient<Tcp>, Desk) {
        client_of(self.share.clone(), credentials)
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the parent hands credentials over.
type Desk = watch::Sender<Option<Arc<AwsCredentials>>>;

fn client_of(share: KmsShare, credentials: impl Into<Option<AwsCredentials>>) -> (KmsShareClient<Tcp>, Desk) {
    let (desk, source) = watch::channel(credentials.into().map(Arc::new));
    let clock = Arc::new(SteppedClock::at(now_ms()));
    (KmsShareClient::new(Tcp, share, clock, source).unwrap(), desk)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

fn credentials(secret: &str, token: Option<&str>, expires_ms: u64) -> AwsCredentials {
    let bytes = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
    AwsCredentials::new(ACCESS_KEY_ID, bytes(secret), token.map(bytes), Some(expires_ms)).unwrap()
}

fn good() -> AwsCredentials {
    credentials(SECRET, Some(TOKEN), now_ms() + 3_600_000)
}

struct Device(EmulatedDevice);

impl NsmDevice for Device {
    fn process_request(&mut self, request: Request) -> Response {
        self.0.process_request(request)
    }
}

/// An enclave with this image, under the root in `folder/nsm`.
fn enclave(folder: &Path, image: &str, faults: Vec<Fault>) -> Nsm {
    let contents = [(0, image), (1, "kernel"), (2, "application")];
    let pcrs: BTreeMap<u8, PcrSource> =
        contents.into_iter().map(|(index, content)| (index, PcrSource::Content(content.to_owned()))).collect();
    let settings = Settings { pcrs, faults, ..Settings::default() };
    let root = EmulatedRoot::load_or_create(&folder.join("nsm")).unwrap();
    Nsm::start(Box::new(Device(Emulator::new(root, settings).unwrap().boot()))).unwrap()
}

fn share() -> SecretBytes {
    SecretBytes::new(SHARE.to_vec())
}

fn refused_as(result: Result<SecretBytes, KmsError>, kind: &str, text: &str) {
    match result.unwrap_err() {
        KmsError::Refused(refusal) => {
            assert_eq!(refusal.kind, kind, "{refusal:?}");
            assert!(refusal.message.contains(text), "{refusal:?}");
        }
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_share_comes_back_to_the_attested_enclave_for_its_key_store_and_generation_alone() {
    let folder = tempfile::tempdir().unwrap();
    let nsm = enclave(folder.path(), "image", vec![]);
    let kms = Kms::start(folder.path(), None);
    let (client, _desk) = kms.client(good());
    let blob = client.encrypt(&share(), &CONTEXT).await.unwrap();
    assert!(!blob.windows(8).any(|window| window == &SHARE[..8]));
    for _ in 0..2 {
        assert_eq!(client.decrypt(&blob, &CONTEXT, &nsm).await.unwrap().expose(), SHARE);
    }
    // Another generation is another context; another key store is so, too, and the guide's policy knows only one.
    let other_generation = KmsContext { generation: 2, ..CONTEXT };
    refused_as(client.decrypt(&blob, &other_generation, &nsm).await, "InvalidCiphertextException", "");
    let other_store = KmsContext { key_store_id: KeyStoreId([8; 32]), ..CONTEXT };
    refused_as(client.decrypt(&blob, &other_store, &nsm).await, "AccessDeniedException", "kms:Decrypt");
    let mut changed = blob.clone();
    changed[20] ^= 1;
    refused_as(client.decrypt(&changed, &CONTEXT, &nsm).await, "InvalidCiphertextException", "");
    assert!(matches!(client.decrypt(&[], &CONTEXT, &nsm).await, Err(KmsError::Size(0))));
    // A restart of KMS changes nothing.
    drop(kms);
    let kms = Kms::start(folder.path(), None);
    let (client, _desk) = kms.client(good());
    assert_eq!(client.decrypt(&blob, &CONTEXT, &nsm).await.unwrap().expose(), SHARE);
}

#[tokio::test]
async fn no_other_image_and_no_document_that_is_old_or_forged_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let nsm = enclave(folder.path(), "image", vec![]);
    let kms = Kms::start(folder.path(), None);
    let (client, _desk) = kms.client(good());
    let blob = client.encrypt(&share(), &CONTEXT).await.unwrap();
    let other = enclave(folder.path(), "another image", vec![]);
    refused_as(client.decrypt(&blob, &CONTEXT, &other).await, "AccessDeniedException", "kms:Decrypt");
    let table = [
        (Fault::StaleTimestamp(301_000), "expired"),
        (Fault::WrongRoot, "not valid"),
        (Fault::FlipSignatureBit, "not valid"),
    ];
    for (fault, text) in table {
        let faulty = enclave(folder.path(), "image", vec![fault]);
        refused_as(client.decrypt(&blob, &CONTEXT, &faulty).await, "ValidationException", text);
    }
    assert_eq!(client.decrypt(&blob, &CONTEXT, &nsm).await.unwrap().expose(), SHARE);
}

#[tokio::test]
async fn an_answer_that_was_changed_or_is_not_for_this_enclave_is_no_share() {
    let folder = tempfile::tempdir().unwrap();
    let nsm = enclave(folder.path(), "image", vec![]);
    let blob = Kms::start(folder.path(), None).client(good()).0.encrypt(&share(), &CONTEXT).await.unwrap();
    // The head, the encrypted key, the last block with the padding, the end; 64 bytes of share make five blocks from byte 435 on.
    let table = [
        (json!({ "flip_bit": 5 }), "not what KMS sends"),
        (json!({ "flip_bit": 200 }), "does not open"),
        (json!({ "flip_bit": 435 + 48 + 15 }), "does not open"),
        (json!({ "flip_bit": 435 + 80 }), "not what KMS sends"),
        (json!("other_recipient"), "does not open"),
        (json!("in_clear"), "in clear"),
    ];
    for (fault, text) in table {
        let kms = Kms::start(folder.path(), Some(fault.clone()));
        let error = kms.client(good()).0.decrypt(&blob, &CONTEXT, &nsm).await.unwrap_err().to_string();
        assert!(error.contains(text), "{fault}: {error}");
        assert!(!error.contains("ZZZZ"), "base64 of the share: {error}");
    }
}

#[tokio::test]
async fn what_passes_is_tried_again_so_many_times_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let nsm = enclave(folder.path(), "image", vec![]);
    let blob = Kms::start(folder.path(), None).client(good()).0.encrypt(&share(), &CONTEXT).await.unwrap();
    for (fault, kind) in [("throttle", "ThrottlingException"), ("fail", "KMSInternalException")] {
        let kms = Kms::start(folder.path(), Some(json!({ fault: 2 })));
        let found = kms.client(good()).0.decrypt(&blob, &CONTEXT, &nsm).await.unwrap();
        assert_eq!(found.expose(), SHARE, "{fault}");
        let kms = Kms::start(folder.path(), Some(json!({ fault: 3 })));
        let (client, _desk) = kms.client(good());
        refused_as(client.decrypt(&blob, &CONTEXT, &nsm).await, kind, "");
        assert_eq!(client.decrypt(&blob, &CONTEXT, &nsm).await.unwrap().expose(), SHARE, "the fourth request");
    }
    let kms = Kms::start(folder.path(), None);
    let gone = kms.share.clone();
    drop(kms);
    let error = client_of(gone, good()).0.decrypt(&blob, &CONTEXT, &nsm).await.unwrap_err();
    assert!(matches!(error, KmsError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn credentials_are_needed_and_newer_ones_help() {
    let folder = tempfile::tempdir().unwrap();
    let nsm = enclave(folder.path(), "image", vec![]);
    let kms = Kms::start(folder.path(), None);
    let (client, desk) = kms.client(None);
    assert!(matches!(client.encrypt(&share(), &CONTEXT).await, Err(KmsError::NoCredentials)));
    let later = now_ms() + 3_600_000;
    let table = [
        (credentials(SECRET, Some(TOKEN), now_ms() - 1), "they expired"),
        (credentials(&SECRET.to_lowercase(), Some(TOKEN), later), "InvalidSignatureException"),
        (credentials(SECRET, Some("another"), later), "ExpiredTokenException"),
        (credentials(SECRET, None, later), "UnrecognizedClientException"),
    ];
    for (wrong, text) in table {
        desk.send_replace(Some(Arc::new(wrong)));
        let error = client.encrypt(&share(), &CONTEXT).await.unwrap_err();
        assert!(matches!(&error, KmsError::Credentials(reason) if reason.contains(text)), "{text}: {error}");
        let error = error.to_string();
        assert!(!error.contains(SECRET) && !error.contains(TOKEN), "{error}");
    }
    desk.send_replace(Some(Arc::new(good())));
    let blob = client.encrypt(&share(), &CONTEXT).await.unwrap();
    assert_eq!(client.decrypt(&blob, &CONTEXT, &nsm).await.unwrap().expose(), SHARE);
}

#[tokio::test]
async fn nothing_is_said_to_an_endpoint_under_another_root() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(enclave(folder.path(), "image", vec![]));
    drop(enclave(elsewhere.path(), "image", vec![]));
    let (kms, other) = (Kms::start(folder.path(), None), Kms::start(elsewhere.path(), None));
    let share_there = KmsShare { tls_roots: other.share.tls_roots.clone(), ..kms.share.clone() };
    let error = client_of(share_there, good()).0.encrypt(&share(), &CONTEXT).await.unwrap_err();
    assert!(matches!(&error, KmsError::Unreachable { .. }) && error.to_string().contains("TLS"), "{error}");
}
