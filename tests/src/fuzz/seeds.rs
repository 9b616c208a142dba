//! Valid messages to start from: a fuzzer that begins with them begins behind the first checks.
//!
//! They are made anew by each run of `tests/tests/corpora.rs`, which sees that each target accepts its own; a file of them is
//! written with `HOLDFAST_WRITE_CORPORA=1`.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use holdfast_shared::api::{Refusal, RefusalCode};
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, ChannelMessage, Reply, Seen};
use holdfast_shared::command::{
    Action, Command, KeyDescription, Outcome, Precondition, ResultContent, ResultUserData, SealedResult, VersionRun,
};
use holdfast_shared::external_key::{KeyState, KeyUsage};
use holdfast_shared::hpke;
use holdfast_shared::ids::{BlobId, BootId, CommandId, LeaseId};
use holdfast_shared::keystore::{
    Body, ClientAuthentication, CredentialRecord, ExecutedCommand, ExternalKeyRecord, Header, KeyVersionRecord, Quota,
    TlsIdentity, VersionState,
};
use holdfast_shared::labels;
use holdfast_shared::manifest::{DerCertificate, Thresholds};
use holdfast_shared::query::{Answer, KeyStoreStatus, Query, QueryAnswer, Question, ResultState, VersionInfo};
use holdfast_shared::release::{
    ChallengeAnswer, ChallengeRequest, Commitment, HeldShare, PROTOCOL, ReleaseAnswer, ReleaseContent, ReleaseRequest,
    ReleaseUserData, Share, ShareSet,
};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::signature::Envelope;
use minicbor::Encode;

use super::attestation::AWS_DOCUMENT;
use super::doors::{asked, asked_sha256, entry, overlay_in_force};
use super::input::field;
use super::messages::MESSAGES;
use super::party::{self, ALICE, KEY_STORE, NOW_MS, VAULT, rng};

/// One seed.
pub struct Seed {
    /// The target that accepts it.
    pub target: &'static str,
    /// The file's name.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The corpora of all targets.
#[must_use]
pub fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora")
}

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Seeds(Vec::new());
    texts(&mut seeds);
    requests(&mut seeds);
    attestation(&mut seeds);
    messages(&mut seeds);
    signed(&mut seeds);
    sealed(&mut seeds);
    seeds.0
}

struct Seeds(Vec<Seed>);

impl Seeds {
    fn add(&mut self, target: &'static str, name: &str, bytes: impl AsRef<[u8]>) {
        self.0.push(Seed { target, name: format!("seed-{name}"), bytes: bytes.as_ref().to_vec() });
    }
}

fn texts(seeds: &mut Seeds) {
    for (number, text) in [
        "xks.example.com",
        "/keystores/a-1",
        "ward-7.db",
        "eu-central-1",
        "MUBSXM6K3KMXHN6RRCXI",
        "localhost",
        "00112233445566778899aabbccddeeff",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    ]
    .iter()
    .enumerate()
    {
        seeds.add("names", &number.to_string(), text);
    }
    for (name, text) in [
        ("health", "/kms/xks/v1/health"),
        ("encrypt", "/ward-7/kms/xks/v1/keys/a.b/encrypt"),
        ("nested", "/kms/xks/v1/keys/x/kms/xks/v1/keys/y/metadata"),
    ] {
        seeds.add("request_path", name, text);
    }
    for (name, text) in [
        ("vsock", "vsock://3:9001"),
        ("unix", "unix:///run/control.sock"),
        ("hybrid", "hybrid:///run/vm.sock:9001"),
        ("name", "custodian.example.com:443"),
        ("ipv4", "10.0.0.1:1"),
        ("ipv6", "[::1]:65535"),
        ("id", "00112233445566778899aabbccddeeff"),
    ] {
        seeds.add("link_text", name, text);
    }
    seeds.add("static_configuration", "full", r#"{"regions":["us-east-1","eu-central-1"],"connections_max":4096}"#);
    for (name, text) in [
        ("hello", r#"pj {"hello":{"protocol":1,"boot_id":"00112233445566778899aabbccddeeff"}}"#),
        ("log", r#"pj {"log":{"level":"warn","text":"a\u001b"}}"#),
        ("drained", r#"pj "drained""#),
        ("configuration", r#"ej {"configuration":{"static_configuration":"{\"regions\":[]}"}}"#),
        ("refused", r#"ej {"refused":{"protocol":1,"reason":"no"}}"#),
        ("key-stores", r#"ej {"key_stores":{"manifests":["AAAA"]}}"#),
        ("drain", r#"ej "drain""#),
        ("egress", r#"qj {"destination":"custodian.example.com:443"}"#),
        ("connected", r#"aj "connected""#),
        ("not-allowed", r#"aj {"refused":{"reason":"not_allowed"}}"#),
    ] {
        seeds.add("link_frames", name, text);
    }
    let id = "00".repeat(32);
    let store =
        format!(r#"{{"key_store_id":"{id}","state":"Serving","version":1,"lease_remaining_ms":5,"reason":null}}"#);
    let status = format!(r#"{{"ready":true,"detail":[{store}],"connections":2,"counters":{{"a_1":3}}}}"#);
    seeds.add("link_frames", "status", format!(r#"pj {{"status":{status}}}"#));
    seeds.add("link_frames", "stream", b"er\x02\0\0\0\x07\"drain\"\0\0\0\x07\"drain\"");
}

const METADATA: &str = r#""requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-2:123456789012:/key/1","kmsOperation":"Encrypt","kmsRequestId":"4112f4d6","kmsViaService":"ebs","awsSourceVpc":null}"#;
const ENCRYPT: &str = r#""plaintext":"SGVsbG8gV29ybGQh","encryptionAlgorithm":"AES_GCM","additionalAuthenticatedData":"Zm9v","ciphertextDataIntegrityValueAlgorithm":"SHA_256""#;
const DECRYPT: &str = r#""ciphertext":"ghxkK1txeDNn3q8Y","ciphertextMetadata":"AQAAAQ==","encryptionAlgorithm":"AES_GCM","initializationVector":"HMXlRqeplxp7Vnk8","authenticationTag":"vMxSKAQq5tUPmgLMrLZoXQ==""#;

fn requests(seeds: &mut Seeds) {
    for (name, body) in [
        ("metadata", format!("m{{{METADATA}}}")),
        ("health", r#"h{"requestMetadata":{"kmsOperation":"KmsHealthCheck","kmsRequestId":"a"}}"#.to_owned()),
        ("encrypt", format!("e{{{METADATA},{ENCRYPT}}}")),
        ("decrypt", format!("d{{{METADATA},{DECRYPT}}}")),
        (
            "escaped",
            format!(r#"m{{"future":[1e999,"\ud800",{{"a":[null]}}],{METADATA},"":0}} "#).replace("kmsR", r"\u006bmsR"),
        ),
    ] {
        seeds.add("xks_bodies", name, body);
    }
    for (name, target, body) in [
        ("health", "health", format!("{{{METADATA}}}")),
        ("metadata", "keys/key/metadata", format!("{{{METADATA}}}")),
        ("encrypt", "keys/key/encrypt", format!("{{{METADATA},{ENCRYPT}}}")),
    ] {
        let text = format!("sPOST /ward-7/kms/xks/v1/{target}\ncontent-type:application/json\n\n{body}");
        seeds.add("http_connection", name, text);
    }
    let raw = "1POST /ward-7/kms/xks/v1/health HTTP/1.1\r\nhost: xks.example.com\r\ncontent-length: 2\r\n\r\n{}";
    seeds.add("http_connection", "raw", raw);
    let chunked = "1POST /ward-7/kms/xks/v1/health HTTP/1.1\r\nhost: xks.example.com\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    seeds.add("http_connection", "chunked", chunked);
    seeds.add("http_connection", "http2", [b"2".as_slice(), &http2_request()].concat());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/sigv4");
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("valid") {
            continue;
        }
        let vector: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let headers = vector["headers"].as_array().unwrap().iter();
        let lines = headers.map(|pair| [text(&pair[0]), ":".to_owned(), text(&pair[1]), "\n".to_owned()].concat());
        let lines: String = lines.collect();
        let (now, method, path) = (&vector["now_ms"], text(&vector["method"]), text(&vector["path"]));
        let case = format!("{now} {method} {path}\n{}\n{lines}\n{}", text(&vector["authority"]), text(&vector["body"]));
        seeds.add("sigv4_claim", &name, case);
    }
    let header = super::sigv4::Case::unsigned(b"POST /kms/xks/v1/health\n\n{}", "xks.example.com").unwrap().sign();
    seeds.add("sigv4_authorization", "signed", header);
}

/// A connection with one request, in literal header fields without Huffman code (RFC 7541, section 6.2.2).
fn http2_request() -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let literal = |index: u8, value: &str| [&[index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    // Entries of the static table: `:method: POST` 3, `:scheme: https` 7, `:authority` 1, `:path` 4.
    let headers = [vec![0x83, 0x87], literal(1, "xks.example.com"), literal(4, "/ward-7/kms/xks/v1/health")].concat();
    let parts = [frame(4, 0, 0, &[]), frame(1, 4, 1, &headers), frame(0, 1, 1, b"{}")];
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &parts.concat()].concat()
}

fn attestation(seeds: &mut Seeds) {
    seeds.add("attestation_document", "aws", AWS_DOCUMENT);
    seeds.add("attestation_document", "aws-tagged", [&[0xd2], AWS_DOCUMENT].concat());
    let root = include_bytes!("../../../shared/src/attestation/aws-nitro-enclaves-root-g1.der");
    seeds.add("attestation_certificate", "aws-root", root);
    for (name, certificate) in aws_certificates() {
        seeds.add("attestation_certificate", &name, certificate);
    }
    seeds.add("attestation_signed", "untouched", b"");
    seeds.add("attestation_signed", "tagged", b"t\x12");
    seeds.add("attestation_signed", "reversed", b"r");
    seeds.add("attestation_signed", "flipped", b"x\x01\x00\x01");
    seeds.add("attestation_signed", "without", b"w\x07");
    seeds.add("cli_evidence", "lease", b"l");
    seeds.add("cli_evidence", "result", b"r");
    seeds.add("cli_evidence", "tagged", b"lt\x12");
    seeds.add("external_key_messages", "sealed", b"s\x01\x02\0\x03aadplaintext");
    seeds.add("external_key_messages", "sample-proxy", b"g\x01\x01\0\x03aad\0\x00plaintext");
    seeds.add("external_key_messages", "sample-proxy-without-aad", b"g\x01\x00\0\x00\0\x04metaplaintext");
}

/// The certificates in the real document: found by their heads, 30 82 LL LL inside 59 LL LL.
fn aws_certificates() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for at in 0..AWS_DOCUMENT.len() - 7 {
        let [0x59, high, low, 0x30, 0x82, ..] = AWS_DOCUMENT[at..] else { continue };
        let length = usize::from(u16::from_be_bytes([high, low]));
        found.push((format!("aws-{}", found.len()), AWS_DOCUMENT[at + 3..at + 3 + length].to_vec()));
    }
    found
}

fn encoded<T: Encode<()>>(value: &T) -> Vec<u8> {
    cbor::encode(value).to_vec()
}

fn body() -> Body {
    let key = |id: &str, versions: u32| ExternalKeyRecord {
        id: id.parse().unwrap(),
        usage: KeyUsage::ENCRYPT_DECRYPT,
        state: KeyState::Enabled,
        versions: (1..=versions).map(|number| KeyVersionRecord::new(number, Secret::take(&mut [5; 32]))).collect(),
    };
    Body {
        host_name: "xks.example.com".parse().unwrap(),
        path_prefix: "/ward-7".parse().unwrap(),
        tls: TlsIdentity { private_key: SecretBytes::new(vec![6; 138]), chain: vec![DerCertificate(vec![5; 40])] },
        credentials: vec![credential()],
        external_keys: vec![key("a", 1), key("b", 3)],
        administrators: vec![ALICE.administrator()],
        thresholds: Thresholds::ONE,
        executed: vec![ExecutedCommand { command_id: CommandId([8; 16]), expires_ms: 99 }],
        quota: Some(quota()),
        client_authentication: Some(client_authentication()),
    }
}

fn credential() -> CredentialRecord {
    CredentialRecord {
        access_key_id: "AAAAABBBBBCCCCCDDDDD".parse().unwrap(),
        secret_access_key: SecretBytes::new(vec![b's'; 43]),
    }
}

const fn quota() -> Quota {
    Quota { requests_per_second: 1800, burst: 100 }
}

fn client_authentication() -> ClientAuthentication {
    let authorities = vec![DerCertificate(vec![5; 40])];
    ClientAuthentication { authorities, subject_common_names: vec!["kms".to_owned()] }
}

fn command(action: Action, precondition: Precondition) -> Command {
    Command {
        label: labels::COMMAND.to_owned(),
        key_store_id: KEY_STORE,
        command_id: CommandId([1; 16]),
        issued_ms: NOW_MS,
        expires_ms: NOW_MS + 1000,
        precondition,
        action,
    }
}

fn commands() -> Vec<Command> {
    let id = || "ward-7.db".parse().unwrap();
    let (recipient, usage) = (*ALICE.encryption.public_key(), KeyUsage::DECRYPT);
    let plain = |action| command(action, Precondition::None);
    vec![
        command(Action::CreateKey { id: id(), usage }, Precondition::Version(4)),
        command(Action::EnableKey { id: id() }, Precondition::KeyState(KeyState::Disabled)),
        plain(Action::DisableKey { id: id() }),
        plain(Action::ListKeys),
        plain(Action::CreateCredential),
        plain(Action::ImportCredential { recipient, sealed: sealed_bytes() }),
        plain(Action::RemoveCredential { access_key_id: credential().access_key_id }),
        plain(Action::RequestCertificate),
        plain(Action::InstallCertificate { chain: vec![DerCertificate(vec![1; 30])] }),
        plain(Action::RotateKey { id: id() }),
        plain(Action::ImportKey { id: id(), usage, legacy: true, recipient, sealed: sealed_bytes() }),
        plain(Action::DestroyKeyVersion { id: id(), number: 2 }),
        plain(Action::SetQuota { quota: Some(quota()) }),
        plain(Action::SetClientAuthentication { settings: Some(client_authentication()) }),
    ]
}

fn sealed_bytes() -> hpke::Sealed {
    hpke::Sealed { encapsulated_key: [4; 97], ciphertext: vec![2; 20] }
}

fn overlay() -> BlockOverlay {
    BlockOverlay {
        epoch: 6,
        store: false,
        keys: vec!["a".parse().unwrap(), "b".parse().unwrap()],
        ..overlay_in_force()
    }
}

fn header(version: u64) -> Header {
    Header {
        label: labels::SEAL.to_owned(),
        key_store_id: KEY_STORE,
        version,
        previous: (version > 1).then_some(BlobId([3; 32])),
        generation: 1,
        salt: [2; 32],
    }
}

fn sealed_result() -> SealedResult {
    SealedResult { command_id: CommandId([1; 16]), recipient: ALICE.administrator().id(), sealed: sealed_bytes() }
}

fn share_set() -> ShareSet {
    ShareSet { generation: 1, shares_needed: 1, commitments: vec![Commitment([1; 32])] }
}

fn share() -> Share {
    Share { index: 1, value: Secret::take(&mut [4; 32]) }
}

fn release() -> ReleaseContent {
    ReleaseContent {
        lease_id: LeaseId([1; 16]),
        lease_ms: 60_000,
        share: Some(HeldShare { share: share(), set: share_set() }),
        overlay: Some(vec![1; 10]),
        register: None,
        audit_heads: vec![b"head\n".to_vec().into()],
    }
}

fn asks() -> Vec<Ask> {
    vec![
        Ask::Watch { seen: Seen { overlay_epoch: 1, version: 2, commands: vec![CommandId([1; 16])] }, renew: true },
        Ask::Fetch { blob_id: BlobId([1; 32]) },
        Ask::Deposit { set: share_set(), share: sealed_bytes() },
        Ask::Publish { version: 2, previous: Some(BlobId([1; 32])), blob: vec![1; 30], results: vec![sealed_result()] },
        Ask::Report { results: vec![sealed_result()] },
    ]
}

fn replies() -> Vec<Reply> {
    let some = || Some(vec![1; 20]);
    vec![
        Reply::News {
            lease_ms: Some(60_000),
            overlay: some(),
            register: some(),
            commands: vec![vec![1; 5].into()],
            enclaves: NonZeroU32::MIN,
        },
        Reply::Blob { blob: vec![1; 30] },
        Reply::Deposited,
        Reply::Published { register: vec![1; 20] },
        Reply::Conflict { register: some() },
        Reply::Reported,
        Reply::Refused { reason: "no".to_owned(), lease_ended: true },
    ]
}

fn outcomes() -> Vec<Outcome> {
    let description = KeyDescription {
        id: "a".parse().unwrap(),
        usage: KeyUsage::DECRYPT,
        state: KeyState::PendingDestruction,
        current_version: 2,
        versions: 2,
        runs: vec![
            VersionRun { first: 1, last: 1, state: VersionState::Destroyed },
            VersionRun { first: 2, last: 2, state: VersionState::Live },
        ],
    };
    vec![
        Outcome::Done,
        Outcome::Refused { reason: "no".to_owned() },
        Outcome::Keys { keys: vec![description] },
        Outcome::Credential { credential: credential() },
        Outcome::CertificateRequest { der: vec![1; 20] },
    ]
}

fn result_content() -> ResultContent {
    ResultContent { outcome: SecretBytes::new(encoded(&Outcome::Done)), document: vec![1; 30] }
}

fn answers() -> Vec<QueryAnswer> {
    let status = KeyStoreStatus {
        now_ms: NOW_MS,
        holds_share: true,
        version: Some(VersionInfo { version: 1, blob_id: BlobId([1; 32]), recorded_ms: NOW_MS }),
        overlay_epoch: 1,
        policy_epoch: 1,
        emulated_root: false,
        leases: Vec::new(),
        pending: vec![CommandId([1; 16])],
    };
    [
        Answer::Result(ResultState::Unknown),
        Answer::Result(ResultState::Ready(sealed_result())),
        Answer::Overlay { overlay: Some(vec![1; 20]) },
        Answer::Status(status),
    ]
    .map(|answer| QueryAnswer { query_sha256: asked_sha256(), answer })
    .into()
}

fn messages(seeds: &mut Seeds) {
    let mut add = |selector: u8, number: usize, bytes: Vec<u8>| {
        let name = format!("{}-{number}", char::from(selector).escape_unicode()).replace(['\\', '{', '}'], "");
        seeds.add("cbor_messages", &name, [vec![selector], bytes].concat());
    };
    asks().iter().enumerate().for_each(|(number, ask)| add(b'a', number, encoded(ask)));
    replies().iter().enumerate().for_each(|(number, reply)| add(b'y', number, encoded(reply)));
    commands().iter().enumerate().for_each(|(number, command)| add(b'c', number, encoded(command)));
    outcomes().iter().enumerate().for_each(|(number, outcome)| add(b'o', number, encoded(outcome)));
    answers().iter().enumerate().for_each(|(number, answer)| add(b'w', number, encoded(answer)));
    add(b'b', 0, encoded(&overlay()));
    add(b'd', 0, encoded(&client_authentication()));
    add(b'e', 0, encoded(&Envelope::seal("label", b"payload", &ALICE.signing, &rng()).unwrap()));
    add(b'f', 0, encoded(&Refusal { code: RefusalCode::Denied, reason: "no".to_owned() }));
    add(b'h', 0, encoded(&header(1)));
    add(b'h', 1, encoded(&header(2)));
    add(b'i', 0, encoded(&ChallengeRequest { protocol: PROTOCOL, key_store_id: KEY_STORE }));
    add(b'j', 0, encoded(&ChallengeAnswer { nonce: [1; 32] }));
    add(b'k', 0, encoded(&body()));
    add(b'k', 1, encoded(&Body { quota: None, client_authentication: None, external_keys: Vec::new(), ..body() }));
    add(b'l', 0, encoded(&release_request()));
    add(b'm', 0, encoded(&party::manifest([3; 32])));
    add(b'n', 0, encoded(&ReleaseAnswer { policy_epoch: 1, sealed: sealed_bytes() }));
    add(b'p', 0, encoded(&result_content()));
    add(b'q', 0, encoded(&asked()));
    add(b'q', 1, encoded(&Query { question: Question::Result(CommandId([1; 16])), ..asked() }));
    add(b'r', 0, encoded(&entry(1, b"", None)));
    add(b'r', 1, encoded(&entry(2, b"", Some(BlobId([1; 32])))));
    add(b's', 0, encoded(&share()));
    add(b't', 0, encoded(&release()));
    let release_user_data = ReleaseUserData {
        label: labels::ATTEST_RELEASE.to_owned(),
        key_store_id: KEY_STORE,
        custodian_id: VAULT.custodian().id(),
        boot_id: BootId([1; 16]),
        audit_public_key: [1; 32],
    };
    add(b'u', 0, encoded(&release_user_data));
    add(b'v', 0, encoded(&ResultUserData::new(KEY_STORE, CommandId([1; 16]), b"outcome")));
    let ciphertext = vec![1; 30];
    let lease_id = LeaseId([1; 16]);
    add(b'x', 0, encoded(&ChannelMessage { protocol: PROTOCOL, lease_id, counter: 1, nonce: [1; 12], ciphertext }));
    add(b'z', 0, encoded(&sealed_result()));
    add(b'C', 0, encoded(&credential()));
    add(b'Q', 0, encoded(&quota()));
    for (selector, name) in MESSAGES {
        let led = |seed: &Seed| seed.target == "cbor_messages" && seed.bytes.first() == Some(selector);
        assert!(seeds.0.iter().any(led), "no seed leads to a {name}");
    }
}

fn release_request() -> ReleaseRequest {
    ReleaseRequest { protocol: PROTOCOL, key_store_id: KEY_STORE, document: AWS_DOCUMENT.to_vec() }
}

fn signed(seeds: &mut Seeds) {
    let payloads = [
        (b'm', labels::MANIFEST, &ALICE, encoded(&party::manifest([3; 32]))),
        (b'c', labels::COMMAND, &ALICE, encoded(&commands()[0])),
        (b'b', labels::BLOCK, &ALICE, encoded(&overlay())),
        (b'r', labels::REGISTER, &VAULT, encoded(&entry(1, b"", None))),
        (b'q', labels::QUERY, &ALICE, encoded(&asked())),
        (b'a', labels::QUERY_ANSWER, &VAULT, encoded(&answers()[3])),
    ];
    for (kind, label, signer, payload) in payloads {
        let name = char::from(kind).to_string();
        seeds.add("signed_messages", &format!("{name}-payload"), [&[kind, b's'], payload.as_slice()].concat());
        let envelope = encoded(&Envelope::seal(label, &payload, &signer.signing, &rng()).unwrap());
        seeds.add("signed_messages", &format!("{name}-arrived"), [&[kind, b'r'], envelope.as_slice()].concat());
    }
}

fn sealed(seeds: &mut Seeds) {
    let mut add = |target, name: &str, parts: &[&[u8]]| seeds.add(target, name, parts.concat());
    for (number, ask) in asks().iter().enumerate() {
        add("sealed_channel", &format!("ask-{number}"), &[b"sa", &encoded(ask)]);
    }
    for (number, reply) in replies().iter().enumerate() {
        add("sealed_channel", &format!("reply-{number}"), &[b"sy", &encoded(reply)]);
    }
    add("sealed_key_store", "first", &[b"s", &field(&encoded(&header(1))), &encoded(&body())]);
    add("sealed_key_store", "second", &[b"s", &field(&encoded(&header(2))), &encoded(&body())]);
    add("release_messages", "content", &[b"s", &encoded(&release())]);
    add("release_messages", "answer", &[b"e", &encoded(&ReleaseAnswer { policy_epoch: 1, sealed: sealed_bytes() })]);
    add("release_messages", "request", &[b"q", &encoded(&release_request())]);
    add("hpke_payloads", "share", &[b"ss", &encoded(&share())]);
    add("hpke_payloads", "result", &[b"rs", &encoded(&result_content())]);
    add("hpke_payloads", "credential", &[b"cs", &encoded(&credential())]);
    add("hpke_payloads", "material", &[b"ks", &[7; 32]]);
}
