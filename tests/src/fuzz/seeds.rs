//! Messages to start from: a fuzzer that begins with valid ones begins behind the first checks. And some that come near and must not
//! pass.
//!
//! They are made anew by each run of `tests/tests/corpora.rs`, which sees that each target accepts or refuses its own; a file of them is
//! written with `HOLDFAST_WRITE_CORPORA=1`.

mod audit;
mod dns;
mod kms;
mod messages;
mod policy;
mod requests;

use std::path::{Path, PathBuf};

use super::Verdict;
use super::attestation::AWS_DOCUMENT;
use super::input::field;

/// One seed.
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// The file's name.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What the target says to them.
    pub verdict: Verdict,
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
    requests::requests(&mut seeds);
    attestation(&mut seeds);
    proof(&mut seeds);
    audit::audit(&mut seeds);
    dns::answers(&mut seeds);
    kms::answers(&mut seeds);
    policy::policies(&mut seeds);
    messages::messages(&mut seeds);
    messages::signed(&mut seeds);
    messages::sealed(&mut seeds);
    seeds.0
}

struct Seeds(Vec<Seed>);

impl Seeds {
    fn add(&mut self, target: &'static str, name: &str, bytes: impl AsRef<[u8]>) {
        self.push(target, format!("seed-{name}"), bytes.as_ref(), Verdict::Accepted);
    }

    /// What comes near, and must not pass.
    fn refuse(&mut self, target: &'static str, name: &str, bytes: impl AsRef<[u8]>) {
        self.push(target, format!("refused-{name}"), bytes.as_ref(), Verdict::Refused);
    }

    fn push(&mut self, target: &'static str, name: String, bytes: &[u8], verdict: Verdict) {
        self.0.push(Seed { target, name, bytes: bytes.to_vec(), verdict });
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
        ("query", "/kms/xks/v1/health?"),
        ("dots", "/kms/xks/v1/keys/../encrypt"),
        ("escape", "/a%2f/kms/xks/v1/health"),
        ("doubled-slash", "//kms/xks/v1/health"),
        ("slash-at-the-end", "/kms/xks/v1/health/"),
    ] {
        seeds.refuse("request_path", name, text);
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
    seeds.refuse("static_configuration", "unknown", r#"{"regions":["us-east-1"],"root":"mine"}"#);
    seeds.refuse("static_configuration", "doubled", r#"{"regions":["us-east-1"],"regions":["us-east-2"]}"#);
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
    let id = [0xaa; 32];
    let with = |head: &[u8], rest: &[u8]| [head, &id, rest].concat();
    let (zero, entries) = ([0; 8], b"\0\0\0\x01x\0\0\0\x02yz");
    for (name, seed) in [
        ("audit-hello", [b"uj\x07\x01".as_slice(), &[0xbb; 16]].concat()),
        ("audit-open", with(b"uj\x07\x02", &zero)),
        ("audit-append", with(b"uj\x07\x03", &[zero.as_slice(), entries].concat())),
        ("audit-append-awaited", with(b"uj\x07\x06", &[zero.as_slice(), entries].concat())),
        ("audit-head", with(b"uj\x07\x04", "a\n\u{2014} a b\n".as_bytes())),
        ("audit-durable", with(b"dj\x07\x05", &zero)),
    ] {
        seeds.add("link_frames", name, seed);
    }
    for (name, seed) in [
        ("audit-no-entry", with(b"uj\x07\x03", &zero)),
        ("audit-torn", with(b"uj\x07\x03", &[zero.as_slice(), &entries[..8]].concat())),
        ("audit-last-index", with(b"uj\x07\x03", &[[0xff; 8].as_slice(), entries].concat())),
        ("audit-control-character", with(b"uj\x07\x04", b"a\x1b\n")),
    ] {
        seeds.refuse("link_frames", name, seed);
    }
    seeds.add("link_frames", "stream", b"er\x02\0\0\0\x07\"drain\"\0\0\0\x07\"drain\"");
}

fn proof(seeds: &mut Seeds) {
    let (nonce, id) = ("0a".repeat(32), "0b".repeat(32));
    seeds.add("proof_query", "nonce", format!("nonce={nonce}"));
    seeds.add("proof_query", "both", format!("nonce={nonce}&key_store={id}"));
    seeds.add("proof_query", "turned", format!("key_store={id}&nonce={nonce}"));
    seeds.refuse("proof_query", "none", "");
    seeds.refuse("proof_query", "twice", format!("nonce={nonce}&nonce={nonce}"));
    seeds.refuse("proof_query", "upper-case", format!("nonce={}", nonce.to_ascii_uppercase()));
    seeds.refuse("proof_query", "escaped", format!("nonce=%30{}", &nonce[1..]));
    seeds.refuse("proof_query", "end", format!("nonce={nonce}&"));
    let image = include_str!("../../vectors/attestation/measurements.json");
    seeds.add("image_measurements", "unsigned", image);
    let signed = image.replacen("\"pcr2\"", &format!("\"pcr8\":\"{}\",\"pcr2\"", "08".repeat(48)), 1);
    seeds.add("image_measurements", "signed", &signed);
    seeds.refuse("image_measurements", "doubled", signed.replacen("\"pcr8\"", "\"pcr1\"", 1));
    seeds.refuse("image_measurements", "zero", signed.replacen(&"08".repeat(48), &"00".repeat(48), 1));
    seeds.refuse("image_measurements", "unknown", image.replacen("\"image\"", "\"pcr16\"", 1));
    let seed =
        format!("1GET /.well-known/holdfast/attestation?nonce={nonce}&x HTTP/1.1\r\nhost: xks.example.com\r\n\r\n");
    seeds.add("http_connection", "proof", seed);
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
    seeds.refuse("attestation_signed", "old", b"m\x00\x00");
    seeds.refuse("attestation_signed", "another-nonce", b"n\x00\x05other");
    seeds.refuse("attestation_signed", "no-registers", b"w\x03");
    seeds.refuse("attestation_signed", "debug-mode", b"q\x04\x00\x00\x00\x01\x00\x02\x00\x10");
    seeds.refuse("attestation_signed", "doubled", b"d\x01\x00\x07\x66SHA384");
    seeds.refuse("attestation_signed", "short-chain", b"c\x02\x00\x01");
    seeds.refuse("attestation_signed", "another-algorithm", b"p\x00\x04\xa1\x01\x38\x23");
    seeds.refuse("attestation_document", "trailing", [AWS_DOCUMENT, &[0]].concat());
    seeds.refuse("attestation_certificate", "trailing", [root.as_slice(), &[0]].concat());
    seeds.refuse("cli_evidence", "elsewhere", b"ls\x00\x01x");
    let another = [b"ls".as_slice(), &field(&messages::release_user_data())].concat();
    seeds.refuse("cli_evidence", "another-key-store", another);
    seeds.refuse("cli_evidence", "debug-mode", b"rq\x04\x00\x00\x00\x01\x00\x02\x00\x10");
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
