//! Signatures: agreement with three signers that are not ours, and refusals that are all the same and leave no trace.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use holdfast_tests::curl::curl;
use holdfast_tests::python::{self, Script};
use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::signers::Signed;
use holdfast_tests::system::{Credential, HOST_NAME, KEY, Options, REGION, System};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use serde_json::{Value, json};

/// Requests that AWS's signer for Rust signed are accepted, and refused once any one thing is another.
fn agree(requests: u64) {
    let seed = fresh_seed();
    eprintln!("HOLDFAST_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    for number in 0..requests {
        let mut signed = Signed::draw(&mut random);
        let proof = signed.verify();
        let id = proof.as_ref().map(|proof| proof.access_key_id().as_str());
        assert_eq!(id, Ok(signed.access_key_id.as_str()), "seed {seed}, request {number}: {signed:?}");
        let changed = signed.change(&mut random);
        assert!(signed.verify().is_err(), "seed {seed}, request {number}: {changed} was not noticed: {signed:?}");
    }
}

#[test]
fn requests_signed_by_aws_are_accepted_and_every_change_is_noticed() {
    agree(500);
}

#[test]
fn long_requests_signed_by_aws_are_accepted_and_every_change_is_noticed() {
    agree(100_000);
}

/// The vectors in the repository are what the pinned botocore signs.
#[test]
fn the_vectors_are_botocores() {
    let script = python::script("make_sigv4_vectors.py");
    let output = Command::new(python::interpreter()).arg(script).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let count: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(count >= 27, "{count}");
}

fn metadata(operation: &str) -> Value {
    json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": operation,
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    })
}

/// Over what a request that botocore signed is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// botocore's own client, which knows HTTP/1.1.
    Botocore,
    /// curl, which adds no signature of its own.
    Curl(&'static str),
}

struct Botocore<'a> {
    system: &'a System,
    signer: Script,
    carrier: Carrier,
    /// Signs `:authority` in place of `host`.
    authority: bool,
}

impl Botocore<'_> {
    fn post(&mut self, end: &str, body: &Value) -> Value {
        let system = self.system;
        let url = format!("https://{HOST_NAME}:{}/kms/xks/v1/{end}", system.listen.port());
        let ca = system.authority.certificate_file.display().to_string();
        let mut question = json!({
            "access_key_id": system.credential.access_key_id,
            "secret_access_key": system.credential.secret_access_key,
            "region": REGION,
            "service": "kms-xks-proxy",
            "method": "POST",
            "url": url,
            "headers": { "Content-Type": "application/json" },
            "body": body.to_string(),
            "authority": self.authority,
        });
        let Carrier::Curl(version) = self.carrier else {
            question["send"] = json!({ "ca": ca });
            let answer = self.signer.ask(&question);
            assert_eq!(answer["status"], 200, "botocore, {end}: {answer}");
            return serde_json::from_str(answer["answer"].as_str().unwrap()).unwrap();
        };
        let signed = self.signer.ask(&question);
        let headers = signed["headers"].as_object().unwrap().iter();
        let headers: Vec<String> =
            headers.map(|(name, value)| format!("{name}: {}", value.as_str().unwrap())).collect();
        let data = body.to_string();
        let mut arguments = vec![version, "--cacert", &ca, "--data-binary", &data];
        arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
        arguments.push(&url);
        let (status, answer) = curl(&arguments);
        assert_eq!(status, 200, "{:?}, authority: {}, {end}: {answer}", self.carrier, self.authority);
        serde_json::from_str(&answer).unwrap()
    }

    fn every_operation(&mut self, carrier: Carrier, authority: bool) {
        (self.carrier, self.authority) = (carrier, authority);
        let health = json!({ "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": "1" } });
        assert_eq!(self.post("health", &health)["xksProxyVendor"], "Holdfast");
        let described =
            self.post(&format!("keys/{KEY}/metadata"), &json!({ "requestMetadata": metadata("DescribeKey") }));
        assert_eq!(described["keyStatus"], "ENABLED");
        let request = json!({
            "requestMetadata": metadata("Encrypt"),
            "plaintext": "SGVsbG8gV29ybGQh",
            "encryptionAlgorithm": "AES_GCM",
        });
        let mut encrypted = self.post(&format!("keys/{KEY}/encrypt"), &request);
        encrypted["requestMetadata"] = metadata("Decrypt");
        encrypted["encryptionAlgorithm"] = json!("AES_GCM");
        let decrypted = self.post(&format!("keys/{KEY}/decrypt"), &encrypted);
        assert_eq!(decrypted, json!({ "plaintext": "SGVsbG8gV29ybGQh" }));
    }
}

/// All four operations, signed by botocore: over HTTP/1.1 by its own client, over HTTP/2 by curl, and with `:authority` signed
/// in place of `host`, which is how the specification has it for HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn botocore_signs_every_operation_over_both_versions_of_http() {
    let system = System::start(Options::default()).await;
    let signer = Script::start("sign_request.py");
    let mut botocore = Botocore { system: &system, signer, carrier: Carrier::Botocore, authority: false };
    botocore.every_operation(Carrier::Botocore, false);
    botocore.every_operation(Carrier::Curl("--http2"), false);
    botocore.every_operation(Carrier::Curl("--http2"), true);
}

const MINUTE: Duration = Duration::from_mins(1);

/// A cause of a 401: what it is, and how a good request comes to have it.
type Cause = (&'static str, fn(&mut Request<Bytes>));

fn set(request: &mut Request<Bytes>, name: &'static str, value: &str) {
    request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
}

fn edit(request: &mut Request<Bytes>, name: &'static str, from: &str, to: &str) {
    let value = request.headers()[name].to_str().unwrap();
    assert!(value.contains(from), "{value}");
    let value = value.replacen(from, to, 1);
    set(request, name, &value);
}

const CAUSES: [Cause; 22] = [
    ("no signature", |request| drop(request.headers_mut().remove("authorization"))),
    ("two signatures", |request| {
        let value = request.headers()[header::AUTHORIZATION].clone();
        request.headers_mut().append("authorization", value);
    }),
    ("another scheme", |request| edit(request, "authorization", "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")),
    ("no scheme", |request| set(request, "authorization", "Bearer abc")),
    ("another id", |request| edit(request, "authorization", "Credential=", "Credential=A")),
    ("another service", |request| edit(request, "authorization", "/kms-xks-proxy/", "/kms/")),
    ("another region", |request| edit(request, "authorization", "/us-east-1/", "/us-east-2/")),
    ("another end of the scope", |request| edit(request, "authorization", "aws4_request", "aws5_request")),
    ("another day in the scope", |request| {
        let day = request.headers()["x-amz-date"].to_str().unwrap()[..8].to_owned();
        edit(request, "authorization", &day, "20240229");
    }),
    ("host is not signed", |request| edit(request, "authorization", "host;", "")),
    ("the date is not signed", |request| edit(request, "authorization", ";x-amz-date", "")),
    ("unsorted names", |request| edit(request, "authorization", "host;x-amz-date", "x-amz-date;host")),
    ("a signed header is missing", |request| drop(request.headers_mut().remove("content-type"))),
    ("a signed header is there twice", |request| {
        request.headers_mut().append("content-type", HeaderValue::from_static("application/json"));
    }),
    ("a signature in upper case", |request| {
        let value = request.headers()["authorization"].to_str().unwrap().to_owned();
        let (head, signature) = value.rsplit_once('=').unwrap();
        set(request, "authorization", &format!("{head}={}", signature.to_ascii_uppercase() + "A"));
    }),
    ("a flipped digit", |request| {
        let mut value = request.headers()["authorization"].to_str().unwrap().to_owned();
        let last = if value.pop() == Some('0') { '1' } else { '0' };
        set(request, "authorization", &(value + &last.to_string()));
    }),
    ("no date", |request| drop(request.headers_mut().remove("x-amz-date"))),
    ("two dates", |request| {
        let value = request.headers()["x-amz-date"].clone();
        request.headers_mut().append("x-amz-date", value);
    }),
    ("no calendar date", |request| set(request, "x-amz-date", "20240230T000000Z")),
    ("another body", |request| *request.body_mut() = Bytes::from_static(b"{}")),
    ("UNSIGNED-PAYLOAD", |request| set(request, "x-amz-content-sha256", "UNSIGNED-PAYLOAD")),
    ("another path", |request| {
        let uri = request.uri().to_string().replace("/encrypt", "/decrypt");
        *request.uri_mut() = uri.parse().unwrap();
    }),
];

/// The requests that are refused, each with its cause.
fn refused(system: &System) -> Vec<(&'static str, Request<Bytes>)> {
    let client = system.client();
    let body = Bytes::from(json!({ "requestMetadata": metadata("Encrypt") }).to_string());
    let path = client.path(&format!("keys/{KEY}/encrypt"));
    let signed = |at: SystemTime| client.signed(&Method::POST, &path, body.clone(), at).unwrap();
    let now = SystemTime::now();
    let mut requests = vec![("too old", signed(now - 6 * MINUTE)), ("too new", signed(now + 6 * MINUTE))];
    let nobody = Credential { access_key_id: "A".repeat(20), ..system.credential.clone() };
    let guesser = Credential { secret_access_key: "s".repeat(43), ..system.credential.clone() };
    for (what, credential) in [("unknown id", nobody), ("wrong secret", guesser)] {
        let client = system.client_with(&credential, REGION);
        requests.push((what, client.signed(&Method::POST, &path, body.clone(), now).unwrap()));
    }
    for (what, spoil) in CAUSES {
        let mut request = signed(now);
        spoil(&mut request);
        requests.push((what, request));
    }
    requests
}

/// Status and body of a refusal do not depend on its cause, and no log of any process holds
/// anything of the computation: no canonical form, no string to sign, no signature that would have been right.
#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_the_same_and_leaves_no_trace_of_the_computation() {
    let system = System::start(Options::default()).await;
    let mut first: Option<(StatusCode, Vec<u8>)> = None;
    for http2 in [false, true] {
        let mut wire = system.wire();
        wire.http2 = http2;
        for (what, request) in refused(&system) {
            let answer = wire.send(request).await.unwrap();
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}, HTTP/2: {http2}");
            let seen = (answer.status, answer.body);
            let first = first.get_or_insert_with(|| seen.clone());
            assert_eq!(*first, seen, "{what}, HTTP/2: {http2}");
        }
    }
    let body: Value = serde_json::from_slice(&first.unwrap().1).unwrap();
    assert_eq!(body["errorName"], "AuthenticationFailedException");
    no_trace_in_logs(&system);
    explained(&system).await;
}

fn no_trace_in_logs(system: &System) {
    let right: Vec<String> = refused(system)
        .iter()
        .filter_map(|(_, request)| request.headers().get("authorization"))
        .filter_map(|value| value.to_str().ok()?.rsplit_once("Signature=").map(|(_, signature)| signature.to_owned()))
        .collect();
    let mut traces = vec![
        "AWS4-HMAC-SHA256".to_owned(),
        "aws4_request".to_owned(),
        "host;x-amz-date".to_owned(),
        "Signature=".to_owned(),
        "x-amz-date:".to_owned(),
        system.credential.access_key_id.clone(),
        system.credential.secret_access_key.clone(),
    ];
    traces.extend(right.into_iter().filter(|signature| signature.len() == 64));
    let logs = system.logs();
    for (path, log) in &logs {
        for trace in &traces {
            assert!(!log.contains(trace.as_str()), "{path} holds {trace}");
        }
    }
    assert!(logs.iter().any(|(_, log)| !log.is_empty()));
}

/// What the operator's tool says of a request is what the enclave answers to it.
async fn explained(system: &System) {
    let folder = tempfile::tempdir().unwrap();
    let (secret, capture) = (folder.path().join("secret"), folder.path().join("request"));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret).unwrap();
    file.write_all(system.credential.secret_access_key.as_bytes()).unwrap();
    let client = system.client();
    let body = Bytes::from(json!({ "requestMetadata": metadata("DescribeKey") }).to_string());
    let path = client.path(&format!("keys/{KEY}/metadata"));
    let good = client.signed(&Method::POST, &path, body, SystemTime::now()).unwrap();
    let mut bad = good.clone();
    *bad.body_mut() = [bad.body(), &b"\n"[..]].concat().into();
    for (request, status, words) in [(good, 200, "ACCEPTED"), (bad, 401, "without the line end at its end")] {
        std::fs::write(&capture, captured(&request)).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status.as_u16(), status);
        let output = Command::new(holdfast_tests::programs::program("holdfast"))
            .arg("explain-signature")
            .arg(&capture)
            .arg("--secret-access-key-file")
            .arg(&secret)
            .args(["--region", REGION])
            .output()
            .unwrap();
        assert_eq!(output.status.success(), status == 200);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(words), "{text}");
        assert!(!text.contains(&system.credential.secret_access_key), "{text}");
    }
}

/// A request as a proxy before the parent would write it down.
fn captured(request: &Request<Bytes>) -> Vec<u8> {
    let uri = request.uri();
    let first = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method(), uri.path(), uri.authority().unwrap());
    let headers = request.headers().iter();
    let headers: Vec<String> =
        headers.map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap())).collect();
    [first.as_bytes(), headers.concat().as_bytes(), b"\r\n", request.body()].concat()
}

/// botocore's own log is an account of the client that the operator's tool reads.
#[test]
fn botocores_log_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let secret = "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE";
    let signed = Script::start("sign_request.py").ask(&json!({
        "access_key_id": "MUBSXM6K3KMXHN6RRCXI", "secret_access_key": secret, "region": REGION,
        "service": "kms-xks-proxy", "method": "POST", "url": "https://xks.example.com/kms/xks/v1/health",
        "headers": { "X-Note": "a\tb" }, "body": "{}",
    }));
    let headers = signed["headers"].as_object().unwrap();
    let headers: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}\n", value.as_str().unwrap())).collect();
    let request = format!("POST /kms/xks/v1/health HTTP/1.1\nHost: xks.example.com\n{}\n{{}}", headers.concat());
    std::fs::write(path("request"), request).unwrap();
    std::fs::write(path("log"), signed["debug"].as_str().unwrap()).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path("secret")).unwrap();
    file.write_all(secret.as_bytes()).unwrap();
    let output = Command::new(holdfast_tests::programs::program("holdfast"))
        .current_dir(folder.path())
        .args(["explain-signature", "request", "--secret-access-key-file", "secret", "--client-canonical", "log"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("found: the client signed the header x-note as \"a b\""), "{text}");
    assert!(text.ends_with("  server  x-note:a→b\n  client  x-note:a·b\n                  ^\n"), "{text}");
}
