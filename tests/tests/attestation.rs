//! Who obtains no share: enclaves that are not what the manifest accepts, documents made for others, and hosts with custodians
//! and manifests of their own.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeMap;

use holdfast_client::{ClientError, CustodianClient, Tcp};
use holdfast_devkit::nsm::{Fault, PcrSource, SettingsChange};
use holdfast_devkit::up::configurations::measured_content;
use holdfast_shared::api::RefusalCode;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::ids::{CustodianId, KeyStoreId};
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::release::ReleaseUserData;
use holdfast_shared::{cbor, hpke, labels};
use holdfast_tests::applicant::{Applicant, challenge, request_release};
use holdfast_tests::system::{
    Administrator, CustodianOptions, CustodianProcess, Encrypted, HOST_NAME, KEY, Options, System, static_configuration,
};
use holdfast_tests::wait::{DEADLINE, until};
use serde_json::json;

/// The registers of the accepted enclave, but for those given.
fn pcrs_but(changes: &[(u8, &str)]) -> BTreeMap<u8, PcrSource> {
    let mut pcrs: BTreeMap<_, _> = [0, 1, 2].map(|index| (index, PcrSource::Content(measured_content(index)))).into();
    pcrs.extend(changes.iter().map(|(index, content)| (*index, PcrSource::Content((*content).to_owned()))));
    pcrs
}

fn healthy() -> SettingsChange {
    SettingsChange {
        pcrs: Some(pcrs_but(&[])),
        debug_mode: Some(false),
        time_offset_ms: Some(0),
        faults: Some(Vec::new()),
        ..SettingsChange::default()
    }
}

/// Each enclave that the manifest does not accept is refused, with the reason, and gets nothing; the accepted one then serves.
#[tokio::test(flavor = "multi_thread")]
async fn enclaves_that_are_not_accepted() {
    let mut system = System::start(Options::default()).await;
    let encrypted = system.encrypt(KEY).await;
    let faults = |fault: Fault| SettingsChange { faults: Some(vec![fault]), ..healthy() };
    let pcr = |index: u8| SettingsChange { pcrs: Some(pcrs_but(&[(index, "another image")])), ..healthy() };
    let table = [
        ("another image", pcr(0), "measurements"),
        ("another kernel", pcr(1), "measurements"),
        ("another application", pcr(2), "measurements"),
        ("debug mode", SettingsChange { debug_mode: Some(true), ..healthy() }, "zero"),
        ("a clock that is behind", SettingsChange { time_offset_ms: Some(-200_000), ..healthy() }, "too old"),
        ("a clock that is ahead", SettingsChange { time_offset_ms: Some(100_000), ..healthy() }, "future"),
        ("old documents", faults(Fault::StaleTimestamp(200_000)), "too old"),
        ("documents from the future", faults(Fault::FutureTimestamp(100_000)), "future"),
        ("a flipped signature", faults(Fault::FlipSignatureBit), "signature"),
        ("another root", faults(Fault::WrongRoot), "signature"),
        ("a foreign nonce", faults(Fault::ForeignNonce), "challenge"),
    ];
    for (what, change, reason) in table {
        system.change_nsm(&change);
        refused(&mut system, what, reason).await;
    }
    for fault in [Fault::Unsigned, Fault::NoDigest] {
        system.change_nsm(&faults(fault.clone()));
        system.start_enclave().await;
        let status = system.enclave.as_mut().unwrap().wait(DEADLINE);
        assert!(status.is_some_and(|status| !status.success()), "{fault:?}: an enclave cannot boot with such an NSM");
    }
    system.change_nsm(&healthy());
    another_configuration(&mut system).await;
    root_not_configured(&mut system).await;
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
}

/// A new enclave is refused for a reason; nothing answers for the key store, and no lease comes of it.
async fn refused(system: &mut System, what: &str, reason: &str) {
    let leases = system.order(&["status"])["leases"].as_array().unwrap().len();
    system.kill_enclave().await;
    let start = system.log_length("parent");
    system.start_enclave().await;
    let id = system.key_store_id().to_string();
    let said = system.logged_after("parent", start, &[&id, "Refused", reason]).await;
    eprintln!("{what}: {said}");
    assert!(system.client().health().await.is_err(), "{what}: an enclave without keys has no certificate either");
    let after = system.order(&["status"])["leases"].as_array().unwrap().len();
    assert_eq!(after, leases, "{what}: a lease was granted");
}

/// PCR 16: the host hands over another static configuration.
async fn another_configuration(system: &mut System) {
    system.write_static_configuration(&json!({ "regions": ["us-east-1", "us-east-2"] }).to_string());
    system.start_parent().await;
    refused(system, "another configuration", "measurements").await;
    // One blank more is another configuration.
    system.write_static_configuration(&format!("{} ", static_configuration()));
    system.start_parent().await;
    refused(system, "the same configuration with a blank", "measurements").await;
    system.write_static_configuration(&static_configuration());
    system.start_parent().await;
}

/// The custodian's owner takes the emulated root out of the configuration: no manifest makes up for that.
async fn root_not_configured(system: &mut System) {
    let root = system.layout.path("nsm/root.pem");
    system.custodian.set_emulated_root(None);
    system.custodian.start().await;
    refused(system, "a root that the custodian's configuration does not name", "trust root").await;
    system.custodian.set_emulated_root(Some(root));
    system.custodian.start().await;
    system.logged("custodian", "EMULATED TRUST ROOT").await;
}

#[track_caller]
fn assert_refused(what: &str, result: Result<Vec<u8>, ClientError>, code: RefusalCode, reason: &str) {
    match result {
        Err(ClientError::Refused { refusal, .. }) => {
            eprintln!("{what}: {}", refusal.reason);
            assert_eq!(refusal.code, code, "{what}: {}", refusal.reason);
            assert!(refusal.reason.contains(reason), "{what}: {}", refusal.reason);
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// A second key store with a custodian of its own, beside a system.
struct Neighbour {
    custodian: CustodianProcess,
    administrator: Administrator,
    manifest: VerifiedManifest,
}

impl Neighbour {
    /// `administrators` of the custodian are its own alone.
    async fn start(system: &System, host_name: &str) -> Self {
        let administrator = Administrator::init(system.layout.path("neighbour-home"), "mallory");
        let options = CustodianOptions {
            administrators: vec![administrator.id()],
            emulated_root: Some(system.layout.path("nsm/root.pem")),
            intercepted: false,
            key_encryption_key: None,
            alarms: None,
            environment: Vec::new(),
        };
        let folder = system.layout.path("neighbour");
        let custodian = CustodianProcess::init(&folder, &system.layout.log("neighbour"), options).await;
        let file = administrator.create_manifest(
            "store",
            &custodian,
            host_name,
            &Options::default(),
            &system.layout.path("measurements.json"),
            &system.layout.path("nsm/root.pem"),
        );
        administrator.holdfast(&["manifest", "enrol", &file.display().to_string()]).success();
        let manifest = VerifiedManifest::verify(&std::fs::read(file).unwrap()).unwrap();
        Self { custodian, administrator, manifest }
    }
}

/// Documents that are genuine and were made for something else, sent straight to the custodian.
#[tokio::test(flavor = "multi_thread")]
async fn diverted_and_replayed_documents() {
    let system = System::start(Options::default()).await;
    let neighbour = Neighbour::start(&system, "neighbour.example.com").await;
    let custodian = system.home_custodian();
    let other = neighbour.manifest.home_custodian().unwrap().clone();
    let id = system.key_store_id();
    let client = CustodianClient::new(Tcp, &custodian).unwrap();
    let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));

    // The control: made for this very purpose, it is granted, once.
    let honest = applicant.user_data(id, custodian.id());
    let nonce = challenge(&client, id).await.unwrap();
    let document = document(&mut applicant, &nonce, &honest);
    request_release(&client, id, document.clone()).await.unwrap();
    assert_refused("replayed", request_release(&client, id, document).await, RefusalCode::Denied, "answered before");

    let elsewhere = ReleaseUserData { custodian_id: other.id(), ..honest.clone() };
    let other_store = ReleaseUserData { key_store_id: neighbour.manifest.id(), ..honest.clone() };
    let other_purpose = |label: &str| ReleaseUserData { label: label.to_owned(), ..honest.clone() };
    let table = [
        ("made for another custodian", elsewhere, "another custodian"),
        ("made for another key store", other_store, "another key store"),
        ("made for a result", other_purpose(labels::ATTEST_RESULT), "another purpose"),
        ("made for the public proof", other_purpose(labels::ATTEST_CONNECTION), "another purpose"),
    ];
    for (what, user_data, reason) in table {
        let nonce = challenge(&client, id).await.unwrap();
        let bytes = encode_any(&user_data);
        let made = applicant.document(Some(&nonce), Some(&bytes), Some(&fresh_key()));
        assert_refused(what, request_release(&client, id, made).await, RefusalCode::Denied, reason);
    }
    fields(&client, id, &mut applicant, custodian.id()).await;
    nonces(&client, id, &neighbour, &mut applicant, custodian.id()).await;
    spoilt_documents(&system, &client).await;
    registers(&system, &client).await;
    channel_messages(&system).await;
}

fn fresh_key() -> [u8; 97] {
    hpke::PrivateKey::generate().unwrap().public_key().0
}

fn document(applicant: &mut Applicant, nonce: &[u8], user_data: &ReleaseUserData) -> Vec<u8> {
    applicant.document(Some(nonce), Some(&cbor::encode(user_data)), Some(&fresh_key()))
}

/// The codec does not refuse to write what it would not read.
fn encode_any(user_data: &ReleaseUserData) -> Vec<u8> {
    cbor::encode(user_data).to_vec()
}

/// `user_data` and `public_key` of a document.
type Fields<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A document that lacks what a release needs.
async fn fields(client: &CustodianClient<Tcp>, id: KeyStoreId, applicant: &mut Applicant, custodian_id: CustodianId) {
    let user_data = encode_any(&applicant.user_data(id, custodian_id));
    let trailing = [user_data.as_slice(), &[0]].concat();
    let key = fresh_key();
    let mut off_curve = key;
    off_curve[96] ^= 1;
    let table: [(&str, Fields<'_>); 7] = [
        ("no user_data", (None, Some(&key))),
        ("empty user_data", (Some(&[]), Some(&key))),
        ("user_data with a byte more", (Some(&trailing), Some(&key))),
        ("no public_key", (Some(&user_data), None)),
        ("a short public_key", (Some(&user_data), Some(&key[..96]))),
        ("a point off the curve", (Some(&user_data), Some(&off_curve))),
        ("a public_key of zeros", (Some(&user_data), Some(&[0; 97]))),
    ];
    for (what, (user_data, key)) in table {
        let nonce = challenge(client, id).await.unwrap();
        let made = applicant.document(Some(&nonce), user_data, key);
        assert_refused(what, request_release(client, id, made).await, RefusalCode::Denied, "");
    }
}

/// Nonces of nobody's, of another custodian's, of another key store's.
async fn nonces(
    client: &CustodianClient<Tcp>,
    id: KeyStoreId,
    neighbour: &Neighbour,
    applicant: &mut Applicant,
    custodian_id: CustodianId,
) {
    let honest = applicant.user_data(id, custodian_id);
    let other_custodian = neighbour.manifest.home_custodian().unwrap();
    let other_client = CustodianClient::new(Tcp, other_custodian).unwrap();
    let foreign = challenge(&other_client, neighbour.manifest.id()).await.unwrap();
    let mut flipped = challenge(client, id).await.unwrap();
    flipped[0] ^= 1;
    for (what, nonce) in [("of another custodian", &foreign), ("made up", &[7; 32]), ("flipped", &flipped)] {
        let made = document(applicant, nonce, &honest);
        assert_refused(what, request_release(client, id, made).await, RefusalCode::Denied, "challenge");
    }
    let no_nonce = applicant.document(None, Some(&encode_any(&honest)), Some(&fresh_key()));
    assert_refused("no nonce", request_release(client, id, no_nonce).await, RefusalCode::Denied, "challenge");
    // What this custodian would take is worth nothing at the other, and the other way round.
    let nonce = challenge(client, id).await.unwrap();
    let made = document(applicant, &nonce, &honest);
    let result = request_release(&other_client, neighbour.manifest.id(), made.clone()).await;
    assert_refused("taken to another custodian", result, RefusalCode::Denied, "challenge");
    let result = request_release(&other_client, id, made).await;
    assert_refused("a key store that it does not know", result, RefusalCode::NotFound, "");
}

/// What no device would write.
async fn spoilt_documents(system: &System, client: &CustodianClient<Tcp>) {
    let id = system.key_store_id();
    let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
    let honest = applicant.user_data(id, system.home_custodian().id());
    let table = [
        (Fault::Unsigned, "ES384"),
        (Fault::NoDigest, "digest"),
        (Fault::FlipSignatureBit, "signature"),
        (Fault::WrongRoot, "signature"),
    ];
    for (fault, reason) in table {
        let nonce = challenge(client, id).await.unwrap();
        system.change_nsm(&SettingsChange { faults: Some(vec![fault.clone()]), ..SettingsChange::default() });
        let made = document(&mut applicant, &nonce, &honest);
        let what = format!("{fault:?}");
        assert_refused(&what, request_release(client, id, made).await, RefusalCode::Denied, reason);
    }
    system.change_nsm(&SettingsChange { faults: Some(Vec::new()), ..SettingsChange::default() });
}

/// A configuration that was not measured, not locked, or measured twice.
async fn registers(system: &System, client: &CustodianClient<Tcp>) {
    use aws_nitro_enclaves_nsm_api::api::Request;
    let id = system.key_store_id();
    let custodian_id = system.home_custodian().id();
    let extend = |data: &[u8]| Request::ExtendPCR { index: 16, data: data.to_vec() };
    let measured = holdfast_shared::sha384(&[static_configuration().as_bytes()]);
    let table = [
        ("nothing measured", vec![]),
        ("measured and not locked", vec![extend(&measured)]),
        ("locked and not measured", vec![Request::LockPCR { index: 16 }]),
        ("measured twice", vec![extend(&measured), extend(&measured), Request::LockPCR { index: 16 }]),
        (
            "measured into another register",
            vec![Request::ExtendPCR { index: 17, data: measured.to_vec() }, Request::LockPCR { index: 17 }],
        ),
    ];
    for (what, requests) in table {
        let mut applicant = Applicant::boot(&system.nsm_socket(), None);
        for request in &requests {
            applicant.call(request);
        }
        let nonce = challenge(client, id).await.unwrap();
        let user_data = applicant.user_data(id, custodian_id);
        let made = document(&mut applicant, &nonce, &user_data);
        assert_refused(what, request_release(client, id, made).await, RefusalCode::Denied, "measurements");
    }
}

/// The sealed channel takes each message once, from its own lease.
async fn channel_messages(system: &System) {
    let custodian = system.home_custodian();
    let id = system.key_store_id();
    let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
    let mut lease = applicant.obtain(&custodian, id).await.unwrap();
    let other = applicant.obtain(&custodian, id).await.unwrap();
    assert!(!lease.content.shares.is_empty(), "the control: an accepted enclave gets the share");
    let ask = || Ask::Watch { seen: Seen::default(), renew: true };
    let first = lease.seal(&ask(), 1);
    assert!(matches!(lease.ask(&ask()).await.unwrap(), Reply::News { lease_ms: Some(_), .. }));
    assert_refused("the same counter", lease.post(first).await, RefusalCode::Denied, "");
    let sealed = lease.seal(&ask(), 2);
    for (what, index) in [("the last byte", sealed.len() - 1), ("the middle", sealed.len() / 2)] {
        let mut flipped = sealed.clone();
        flipped[index] ^= 0x20;
        assert_refused(what, lease.post(flipped).await, RefusalCode::Denied, "");
    }
    // Under the other lease's keys it does not open; that lease's own message does.
    let mut foreign: holdfast_shared::channel::ChannelMessage = cbor::decode(&other.seal(&ask(), 3)).unwrap();
    foreign.lease_id = lease.content.lease_id;
    assert_refused("another lease's", lease.post(cbor::encode(&foreign).to_vec()).await, RefusalCode::Denied, "");
    lease.post(sealed).await.unwrap();
}

/// A host that makes itself administrator, custodian and manifest gets a key store of its own: under another id, with other keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_custodian_and_a_manifest_of_its_own() {
    let mut system = System::start(Options::default()).await;
    let encrypted = system.encrypt(KEY).await;
    // Nobody whom the real custodian does not know enrols anything there.
    let mallory = Administrator::init(system.layout.path("mallory-home"), "mallory");
    let own_manifest = mallory.create_manifest(
        "store",
        &system.custodian,
        HOST_NAME,
        &Options::default(),
        &system.layout.path("measurements.json"),
        &system.layout.path("nsm/root.pem"),
    );
    let said = mallory.holdfast(&["manifest", "enrol", &own_manifest.display().to_string()]);
    assert_eq!(said.code(), Some(1), "{}", said.complaint());

    let neighbour = Neighbour::start(&system, "other.example.com").await;
    assert_ne!(neighbour.manifest.id(), system.key_store_id());
    system.allow_destination(&neighbour.custodian.address());
    system.start_parent().await;
    system.start_enclave().await;
    hand_over(&system, &neighbour.manifest);
    let shown = neighbour.administrator.holdfast(&["credential", "show", "--show-secret", "--json"]).json();
    let theirs = holdfast_tests::system::Credential {
        access_key_id: shown["access_key_id"].as_str().unwrap().to_owned(),
        secret_access_key: shown["secret_access_key"].as_str().unwrap().to_owned(),
    };
    neighbour.administrator.holdfast(&["key", "create", KEY]).success();
    system.serving().await;

    // The owner's tool sees nothing of it, and neither's orders or credentials count for the other.
    let status = system.order(&["status"]);
    assert_eq!(status["key_store_id"], json!(system.key_store_id().to_string()));
    let said = system.administrator.holdfast(&["status", "--key-store", &neighbour.manifest.id().to_string()]);
    assert_eq!(said.code(), Some(1), "{}", said.complaint());
    let said = neighbour.administrator.holdfast(&["status", "--key-store", &system.key_store_id().to_string()]);
    assert_eq!(said.code(), Some(1), "{}", said.complaint());
    let answer = system.client_with(&theirs, "us-east-1").encrypt(KEY, b"text", None).await.unwrap();
    assert_eq!(answer.status.as_u16(), 401, "{}", answer.body);
    system.decrypt(&encrypted).await;

    the_same_name(&mut system, &neighbour, &encrypted).await;
}

fn hand_over(system: &System, manifest: &VerifiedManifest) {
    let name = format!("parent/key-stores/{}.manifest", manifest.id());
    system.layout.write(&name, manifest.signed_bytes(), 0o644).unwrap();
}

/// Under the real host name the host can stop the service, as it can anyway; it cannot answer in the owner's place.
async fn the_same_name(system: &mut System, neighbour: &Neighbour, encrypted: &Encrypted) {
    let file = neighbour.administrator.create_manifest(
        "same-name",
        &neighbour.custodian,
        HOST_NAME,
        &Options::default(),
        &system.layout.path("measurements.json"),
        &system.layout.path("nsm/root.pem"),
    );
    neighbour.administrator.holdfast(&["manifest", "enrol", &file.display().to_string()]).success();
    let manifest = VerifiedManifest::verify(&std::fs::read(file).unwrap()).unwrap();
    hand_over(system, &manifest);
    let target = ["--key-store", "same-name"];
    let request = system.layout.path("impostor.csr");
    let request_path = request.display().to_string();
    let arguments = [&["tls", "csr", "--out", &request_path][..], &target].concat();
    neighbour.administrator.holdfast(&arguments).success();
    // Even with a certificate that the client trusts: whoever controls the name can get one elsewhere.
    let chain = system.authority.sign(&std::fs::read_to_string(&request).unwrap(), HOST_NAME).unwrap();
    let chain_file = system.layout.path("impostor.pem");
    std::fs::write(&chain_file, chain).unwrap();
    let chain_path = chain_file.display().to_string();
    let arguments = [&["tls", "install", &chain_path][..], &target].concat();
    neighbour.administrator.holdfast(&arguments);
    let outcome = until("the collision is noticed", || async {
        let health = system.client().health().await;
        match &health {
            Ok(answer) if answer.status.as_u16() == 200 => None,
            _ => Some(health),
        }
    })
    .await;
    eprintln!("under the same name: {outcome:?}");
    // Gone with the manifest.
    std::fs::remove_file(system.layout.path(&format!("parent/key-stores/{}.manifest", manifest.id()))).unwrap();
    system.serving().await;
    system.decrypt(encrypted).await;
}
