//! `holdfast attest` against parent and enclave as processes: what is genuine is proven, and each way in which it is not is named.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use holdfast_client::{CustodianClient, Tcp};
use holdfast_devkit::nsm::{Fault, SettingsChange};
use holdfast_devkit::up::authority::Authority;
use holdfast_devkit::up::configurations::measurements;
use holdfast_devkit::up::layout::Layout;
use holdfast_shared::attestation::ImageMeasurements;
use holdfast_shared::ids::{BlobId, KeyStoreId};
use holdfast_shared::proof::{self, ConnectionUserData, ProofQuery};
use holdfast_shared::{cbor, labels};
use holdfast_tests::applicant::{Applicant, challenge, request_release};
use holdfast_tests::diverter::{Diverter, Trick};
use holdfast_tests::random::random_bytes;
use holdfast_tests::system::{HOST_NAME, KEY, Options, Said, System, static_configuration};
use holdfast_tests::wait::until;
use http::Request;
use serde_json::{Value, json};

/// What a person who checks has at hand.
struct Visitor<'s> {
    system: &'s System,
    address: SocketAddr,
    key_store_id: KeyStoreId,
    measurements: Vec<String>,
    ca: PathBuf,
    trust_root: Option<PathBuf>,
}

impl<'s> Visitor<'s> {
    fn of(system: &'s System) -> Self {
        Self {
            system,
            address: system.listen,
            key_store_id: system.key_store_id(),
            measurements: vec!["--measurements".to_owned(), path(system, "measurements.json")],
            ca: system.layout.path("tls/ca.pem"),
            trust_root: Some(system.layout.path("nsm/root.pem")),
        }
    }

    fn at(self, diverter: &Diverter) -> Self {
        Self { address: diverter.address, ..self }
    }

    /// Says what is told of the image.
    fn told(self, measurements: &[&str]) -> Self {
        Self { measurements: measurements.iter().map(|&text| text.to_owned()).collect(), ..self }
    }

    fn attest(&self, more: &[&str]) -> Said {
        let url = format!("https://{HOST_NAME}:{}", self.address.port());
        let resolve = format!("{HOST_NAME}:{}:{}", self.address.port(), self.address.ip());
        let (id, ca) = (self.key_store_id.to_string(), self.ca.display().to_string());
        let mut arguments = vec!["attest", &url, "--key-store", &id, "--ca", &ca, "--resolve", &resolve];
        arguments.extend(self.measurements.iter().map(String::as_str));
        let root = self.trust_root.as_ref().map(|root| root.display().to_string());
        if let Some(root) = &root {
            arguments.extend(["--trust-root", root]);
        }
        self.system.administrator.holdfast(&[&arguments, more].concat())
    }

    /// The report on what is refused, for this reason, at this check.
    #[track_caller]
    fn is_refused(&self, what: &str, reason: &str, check: &str) -> Value {
        let said = self.attest(&["--json"]);
        let report = said.shown();
        assert_eq!(said.code(), Some(1), "{what}: {report:#}");
        assert_eq!((&report["verified"], &report["reason"]), (&false.into(), &reason.into()), "{what}: {report:#}");
        let checks = report["checks"].as_array().unwrap();
        let failed: Vec<_> = checks.iter().filter(|line| line["holds"] == false).collect();
        assert_eq!(failed.len(), 1, "{what}: {report:#}");
        assert_eq!(failed[0]["check"], check, "{what}: {report:#}");
        let place = checks.iter().position(|line| line["holds"] == false).unwrap();
        assert!(checks[..place].iter().all(|line| line["holds"] == true), "{what}: {report:#}");
        assert!(checks[place + 1..].iter().all(|line| line["holds"].is_null()), "{what}: {report:#}");
        assert!(report["proven"].is_null(), "{what}: {report:#}");
        failed[0]["says"].clone()
    }

    #[track_caller]
    fn is_proven(&self, what: &str) -> Value {
        let report = self.attest(&["--json"]).json();
        assert_eq!((&report["verified"], &report["reason"]), (&true.into(), &Value::Null), "{what}: {report:#}");
        assert!(report["checks"].as_array().unwrap().iter().all(|line| line["holds"] == true), "{what}: {report:#}");
        report
    }
}

fn path(system: &System, name: &str) -> String {
    system.layout.path(name).display().to_string()
}

/// A document that the enclave gave for this nonce, or nothing while it has none to give.
async fn document_for(system: &System, nonce: [u8; 32]) -> Vec<u8> {
    let query = ProofQuery { nonce, key_store: None }.path_and_query();
    let uri = format!("https://{HOST_NAME}:{}{query}", system.listen.port());
    until("the enclave gives a document", || async {
        let answer = system.wire().send(Request::get(&uri).body(Bytes::new()).unwrap()).await.unwrap();
        (answer.status == 200).then_some(answer.body)
    })
    .await
}

fn with_fault(fault: Fault) -> SettingsChange {
    SettingsChange { faults: Some(vec![fault]), ..SettingsChange::default() }
}

fn without_faults() -> SettingsChange {
    SettingsChange { faults: Some(Vec::new()), debug_mode: Some(false), ..SettingsChange::default() }
}

/// A build's description of the image that the local enclave says it is.
fn image_file(system: &System) -> String {
    let vector = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/attestation/measurements.json")).unwrap();
    let shown = measurements(&static_configuration());
    let image = ImageMeasurements {
        pcr0: shown.pcr0,
        pcr1: shown.pcr1,
        pcr2: shown.pcr2,
        ..ImageMeasurements::parse(&vector).unwrap()
    };
    let file = system.layout.write("image.json", &serde_json::to_vec(&image).unwrap(), 0o644).unwrap();
    file.display().to_string()
}

/// Through parent and enclave: proven, with every way of naming the image, and about this key store and this TLS key.
#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_connection_is_proven() {
    let system = System::start(Options { path_prefix: "/payments", ..Options::default() }).await;
    let report = Visitor::of(&system).is_proven("registers");
    let status = system.order(&["status"]);
    for field in ["version", "blob_id"] {
        assert_eq!(report["proven"][field], status["version"][field], "{report:#}\n{status:#}");
    }
    assert_eq!(report["root_is_aws"], false);
    let stream = system.wire().connect().await.unwrap();
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let key = hex::encode(proof::tls_public_key_sha256(&leaf).unwrap());
    assert_eq!(report["proven"]["tls_public_key_sha256"], key);

    let image = image_file(&system);
    let configuration = path(&system, "parent/static.json");
    let pcr16 = hex::encode(measurements(&static_configuration()).pcr16);
    for more in [["--configuration", configuration.as_str()], ["--pcr16", pcr16.as_str()]] {
        let told = [["--measurements", &image], more].concat();
        let report = Visitor::of(&system).told(&told).is_proven(more[0]);
        assert_eq!(report["image"], "0.1.0+3f786850e387");
    }
    let incomplete = Visitor::of(&system).told(&["--measurements", &image]).attest(&[]);
    assert!(incomplete.code() == Some(1) && incomplete.complaint().contains("--configuration"), "{incomplete:?}");

    let said = Visitor::of(&system).attest(&[]);
    assert!(said.success().starts_with("VERIFIED"));
    assert!(said.complaint().contains("EMULATED attestation root, NOT that of AWS"), "{}", said.complaint());
    system.assert_no_panic();
}

/// Who ends TLS with another key, and has a certificate that every client accepts, is named: whatever he answers with.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_in_between_is_named() {
    let system = System::start(Options::default()).await;
    let relay = Diverter::start(&system.authority, Trick::Relay(system.wire())).await;
    let says = Visitor::of(&system).at(&relay).is_refused("a relay", "diverted", "connection");
    assert!(says.as_str().unwrap().contains("another one than that of this connection"), "{says}");
    let text = Visitor::of(&system).at(&relay).attest(&[]);
    assert_eq!(text.code(), Some(1));

    let recorded = document_for(&system, random_bytes()).await;
    let recording = Diverter::start(&system.authority, Trick::Recorded(recorded)).await;
    Visitor::of(&system).at(&recording).is_refused("a recording", "old", "nonce");

    let garbage = Diverter::start(&system.authority, Trick::Recorded(b"<html>".to_vec())).await;
    Visitor::of(&system).at(&garbage).is_refused("no document", "malformed", "document");
    let nothing = Diverter::start(&system.authority, Trick::Nothing).await;
    Visitor::of(&system).at(&nothing).is_refused("no endpoint", "no-endpoint", "answer");

    // An accepted enclave that says so of another key store, or was asked for something else.
    let (socket, id) = (system.nsm_socket(), system.key_store_id());
    let said = move |user_data: ConnectionUserData, public_key: Option<[u8; 97]>| {
        let mut applicant = Applicant::boot(&socket, Some(&static_configuration()));
        move |query: &ProofQuery, own: [u8; 32]| {
            let user_data = ConnectionUserData { tls_public_key_sha256: own, ..user_data.clone() };
            let nonce = proof::document_nonce(&query.nonce);
            applicant.document(
                Some(&nonce),
                Some(&cbor::encode(&user_data)),
                public_key.as_ref().map(<[u8; 97]>::as_slice),
            )
        }
    };
    let honest = ConnectionUserData {
        label: labels::ATTEST_CONNECTION.to_owned(),
        key_store_id: id,
        version: 1,
        blob_id: BlobId([1; 32]),
        tls_public_key_sha256: [0; 32],
    };
    // The control: from an accepted enclave, this would be a proof, since the TLS key would be that enclave's.
    let control = Diverter::start(&system.authority, Trick::made(said(honest.clone(), None))).await;
    Visitor::of(&system).at(&control).is_proven("the control");
    let table = [
        (
            "another key store",
            ConnectionUserData { key_store_id: KeyStoreId([9; 32]), ..honest.clone() },
            "foreign",
            "key store",
        ),
        (
            "made for a release",
            ConnectionUserData { label: labels::ATTEST_RELEASE.to_owned(), ..honest.clone() },
            "other-purpose",
            "purpose",
        ),
    ];
    for (what, user_data, reason, check) in table {
        let diverter = Diverter::start(&system.authority, Trick::made(said(user_data, None))).await;
        Visitor::of(&system).at(&diverter).is_refused(what, reason, check);
    }
    let keyed = Diverter::start(&system.authority, Trick::made(said(honest, Some([4; 97])))).await;
    Visitor::of(&system).at(&keyed).is_refused("with a public key", "other-purpose", "purpose");
}

/// What an NSM does not sign, or not now, or only in debug mode.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_prove_nothing() {
    let system = System::start(Options::default()).await;
    let table = [
        ("debug mode", SettingsChange { debug_mode: Some(true), ..without_faults() }, "debug", "mode"),
        ("another root", with_fault(Fault::WrongRoot), "host-made", "root"),
        ("a flipped signature", with_fault(Fault::FlipSignatureBit), "host-made", "root"),
        ("an old document", with_fault(Fault::StaleTimestamp(200_000)), "old", "age"),
        ("a document from the future", with_fault(Fault::FutureTimestamp(200_000)), "old", "age"),
        ("another nonce", with_fault(Fault::ForeignNonce), "old", "nonce"),
    ];
    for (what, change, reason, check) in table {
        system.change_nsm(&change);
        Visitor::of(&system).is_refused(what, reason, check);
        system.change_nsm(&without_faults());
    }
    let aws = Visitor { trust_root: None, ..Visitor::of(&system) };
    aws.is_refused("an emulated document under the root of AWS", "host-made", "root");
    Visitor::of(&system).is_proven("and without faults");
}

/// What the visitor expects otherwise, and what the key store's owner forbids.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_expected_otherwise_is_refused() {
    let mut system = System::start(Options::default()).await;
    let image = image_file(&system);
    let other =
        system.layout.write("other.json", b"{\"regions\":[\"us-east-2\"]}", 0o644).unwrap().display().to_string();
    let told = ["--measurements", &image, "--configuration", &other];
    Visitor::of(&system).told(&told).is_refused("another configuration", "foreign", "image");
    let mut wrong: Value = serde_json::from_slice(&std::fs::read(&image).unwrap()).unwrap();
    wrong["pcr0"] = "ab".repeat(48).into();
    let wrong = system.layout.write("wrong.json", wrong.to_string().as_bytes(), 0o644).unwrap().display().to_string();
    let told = ["--measurements", &wrong, "--configuration", &path(&system, "parent/static.json")];
    Visitor::of(&system).told(&told).is_refused("another image", "foreign", "image");
    let unknown = Visitor { key_store_id: KeyStoreId([7; 32]), ..Visitor::of(&system) };
    unknown.is_refused("another key store", "no-endpoint", "answer");

    let layout = Layout::prepare(&system.layout.path("elsewhere")).unwrap();
    let authority = Authority::load_or_create(&layout).unwrap();
    let stranger = Visitor { ca: authority.certificate_file, ..Visitor::of(&system) };
    stranger.is_refused("another authority", "certificate", "certificate");

    system.administrator.holdfast(&["block", "--store"]).success();
    let says = Visitor::of(&system).is_refused("blocked", "refused", "answer");
    assert!(says.as_str().unwrap().contains("InvalidStateException"), "{says}");
    system.administrator.holdfast(&["unblock", "--store"]).success();
    until("the key store serves again", || async {
        (Visitor::of(&system).attest(&[]).code() == Some(0)).then_some(())
    })
    .await;

    drop(system.parent.take());
    Visitor::of(&system).is_refused("no parent", "unreachable", "certificate");
}

/// Image and configuration in force together: the enclave that shows them renews its lease, and the image has its own name.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_takes_what_a_build_wrote() {
    let system = System::start(Options::default()).await;
    let (image, configuration) = (image_file(&system), path(&system, "parent/static.json"));
    let accept = |more: &[&str]| {
        system.administrator.holdfast(&[&["release-policy", "accept-image", &image, "--json"], more].concat())
    };
    let refused = accept(&[]);
    assert!(refused.code() == Some(1) && refused.complaint().contains("--configuration FILE"), "{refused:?}");
    let accepted = accept(&["--configuration", &configuration]).json();
    let shown = serde_json::to_value(measurements(&static_configuration())).unwrap();
    assert_eq!(accepted["images"], json!([{ "name": "0.1.0+3f786850e387", "sunset_ms": null, "measurements": shown }]));
    let registers = path(&system, "measurements.json");
    let both = ["release-policy", "set", "--measurements", &registers, "--configuration", &configuration];
    let both = system.administrator.holdfast(&both);
    assert!(both.code() == Some(1) && both.complaint().contains("names PCR 16 itself"), "{both:?}");
    let set = ["release-policy", "set", "--measurements", &image, "--configuration", &configuration, "--json"];
    let set = system.administrator.holdfast(&set).json();
    assert_eq!(set["images"], accepted["images"]);
    system.round_trip(KEY).await;
}

/// A document for anybody is worth nothing to a custodian, even if its nonce was asked for in its name.
#[tokio::test(flavor = "multi_thread")]
async fn no_custodian_takes_a_public_document() {
    let system = System::start(Options::default()).await;
    let (custodian, id) = (system.home_custodian(), system.key_store_id());
    let client = CustodianClient::new(Tcp, &custodian).unwrap();
    let nonce = challenge(&client, id).await.unwrap();
    let document = document_for(&system, nonce).await;
    let refused = request_release(&client, id, document).await.unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    let leases = system.order(&["status"])["leases"].as_array().unwrap().len();
    assert_eq!(leases, 1, "that of the enclave");
}
