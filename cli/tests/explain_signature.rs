//! `holdfast explain-signature` as an operator runs it: each usual mistake is found and named, and nothing secret is printed.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ring::hmac;
use serde_json::Value;
use tempfile::TempDir;

const ID: &str = "MUBSXM6K3KMXHN6RRCXI";
const SECRET: &str = "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE";
const HOST: &str = "xks.example.com";
const PATH: &str = "/path/kms/xks/v1/keys/k-1/encrypt";
const BODY: &str = "{\"requestMetadata\": {\"kmsOperation\": \"Encrypt\"}}";
const DATE: &str = "20211009T120000Z";

/// A signer for mistakes, which no real signer makes: each field is signed as it stands.
#[derive(Clone)]
struct Signer {
    secret: Vec<u8>,
    day: String,
    region: String,
    service: String,
    method: String,
    path: String,
    query: String,
    host: String,
    extra: Vec<(String, String)>,
    date: String,
    body_hash: String,
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

impl Default for Signer {
    fn default() -> Self {
        Self {
            secret: SECRET.into(),
            day: "20211009".into(),
            region: "us-east-1".into(),
            service: "kms-xks-proxy".into(),
            method: "POST".into(),
            path: PATH.into(),
            query: String::new(),
            host: HOST.into(),
            extra: Vec::new(),
            date: DATE.into(),
            body_hash: sha256(BODY.as_bytes()),
        }
    }
}

impl Signer {
    fn signed_headers(&self) -> String {
        let mut names = vec!["host", "x-amz-date"];
        names.extend(self.extra.iter().map(|(name, _)| name.as_str()));
        names.sort_unstable();
        names.join(";")
    }

    fn canonical(&self) -> String {
        let mut headers = vec![("host", self.host.as_str()), ("x-amz-date", self.date.as_str())];
        headers.extend(self.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        headers.sort_unstable();
        let headers = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect::<Vec<_>>().concat();
        let (method, path, query, hash) = (&self.method, &self.path, &self.query, &self.body_hash);
        format!("{method}\n{path}\n{query}\n{headers}\n{}\n{hash}", self.signed_headers())
    }

    fn signature(&self) -> String {
        let mac = |key: &[u8], text: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
        };
        let scope = format!("{}/{}/{}/aws4_request", self.day, self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.date, sha256(self.canonical().as_bytes()));
        let seed = [b"AWS4", self.secret.as_slice()].concat();
        let key =
            [&*self.day, &self.region, &self.service, "aws4_request"].iter().fold(seed, |key, part| mac(&key, part));
        hex::encode(mac(&key, &text))
    }

    /// The request as it arrives, with this signature, whatever it is over.
    fn arrives(&self, arrived: &Self, body: &str) -> String {
        let extra = arrived.extra.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let extra = extra.collect::<Vec<_>>().concat();
        format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nX-Amz-Date: {}\r\n{extra}Content-Length: {}\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential={ID}/{}/{}/{}/aws4_request, SignedHeaders={}, Signature={}\r\n\r\n{body}",
            arrived.method,
            arrived.path,
            arrived.host,
            arrived.date,
            body.len(),
            arrived.day,
            arrived.region,
            arrived.service,
            self.signed_headers(),
            self.signature(),
        )
    }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.secret("secret", SECRET);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn secret(&self, name: &str, text: &str) {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn run(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .arg("explain-signature")
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("HOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may refuse its arguments without reading.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        for (what, bytes) in [("output", &output.stdout), ("errors", &output.stderr)] {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains(SECRET), "the secret is in the {what}: {text}");
        }
        output
    }

    /// What is said of a request, as text and as JSON.
    fn explain(&self, request: &str, arguments: &[&str]) -> (String, Value) {
        let arguments = [&["-", "--secret-access-key-file", "secret"], arguments].concat();
        let text = self.run(&arguments, request);
        let json = self.run(&[arguments.as_slice(), &["--json"]].concat(), request);
        assert_eq!(text.status.code(), json.status.code());
        assert!(text.stderr.is_empty(), "{}", String::from_utf8_lossy(&text.stderr));
        let value: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(text.status.code(), Some(i32::from(value["accepted"] != true)), "{value}");
        (String::from_utf8(text.stdout).unwrap(), value)
    }
}

fn causes(value: &Value) -> String {
    value["causes"].as_array().unwrap().iter().map(|cause| cause.as_str().unwrap()).collect::<Vec<_>>().join(" | ")
}

#[test]
fn an_accepted_signature_needs_no_reason() {
    let folder = Folder::new();
    let signer = Signer::default();
    let (text, value) = folder.explain(&signer.arrives(&signer, BODY), &["--region", "us-east-1"]);
    assert!(text.starts_with(&format!("ACCEPTED: the signature is {ID}'s")), "{text}");
    assert_eq!(value["server"]["canonical_request"], signer.canonical());
    assert_eq!((value["refusal"].is_null(), causes(&value)), (true, String::new()));
    assert!(text.contains("the time was not judged"), "{text}");
    let (text, value) = folder.explain(&signer.arrives(&signer, BODY), &["--at", "2021-10-09T12:05:00Z"]);
    assert!(value["notes"].as_array().unwrap().is_empty() && text.starts_with("ACCEPTED"), "{text}");
}

/// One row: what was signed instead of what arrived, and what must be said of it.
#[test]
fn usual_mistakes_are_found_and_named() {
    type Change = fn(&mut Signer);
    let folder = Folder::new();
    let signed: &[(Change, &str, &str)] = &[
        (|s| s.host = format!("{HOST}:443"), "signed the host \"xks.example.com:443\"", "the header host"),
        (|s| s.host = format!("{HOST}:50051"), "signed the host \"xks.example.com:50051\"", "the header host"),
        (|s| s.host = "localhost".into(), "signed the host \"localhost\"", "the header host"),
        (|s| s.body_hash = "UNSIGNED-PAYLOAD".into(), "UNSIGNED-PAYLOAD", "the hash of the body"),
        (|s| s.body_hash = sha256(b""), "an empty body", "the hash of the body"),
        (|s| s.body_hash = sha256(format!("{BODY}\n").as_bytes()), "a line end (LF) behind it", "the hash of the body"),
        (|s| s.body_hash = sha256(BODY.replace(": ", ":").as_bytes()), "JSON without spaces", "the hash of the body"),
        (|s| s.method = "GET".into(), "the method GET", "the method"),
        (|s| s.path = "/kms/xks/v1/keys/k-1/encrypt".into(), "without its prefix", "the path"),
        (|s| s.path.push('/'), "a slash at its end", "the path"),
        (|s| s.path = PATH.replace("encrypt", "decrypt"), "another operation", "the path"),
        (|s| s.service = "kms".into(), "for the service \"kms\"", "the credential scope"),
        (|s| s.region = "eu-west-1".into(), "for the region \"eu-west-1\"", "the credential scope"),
        (|s| s.secret.push(b'\n'), "the secret and a line end (LF)", ""),
        (|s| s.secret = [b"AWS4", SECRET.as_bytes()].concat(), "AWS4 before the secret twice", ""),
        (|s| (s.host, s.method) = (format!("{HOST}:8443"), "PUT".into()), "signed the host", "the method"),
    ];
    for (change, words, part) in signed {
        let mut client = Signer::default();
        change(&mut client);
        let (text, value) = folder.explain(&client.arrives(&Signer::default(), BODY), &[]);
        assert!(text.starts_with("REFUSED: the signature is not valid"), "{words}: {text}");
        assert!(
            causes(&value)
                .contains(&format!("found: the client {}", if words.starts_with("signed") { words } else { "" }))
        );
        assert!(causes(&value).contains(words), "{words}: {}", causes(&value));
        assert!(causes(&value).contains("so is the secret"), "{value}");
        assert_eq!(value["client"]["source"], "found");
        assert_eq!(value["client"]["canonical_request"], client.canonical(), "{words}");
        let found = value["difference"]["part"].as_str().unwrap_or_default();
        assert!(if part.is_empty() { found.is_empty() } else { found.contains(part) }, "{words}: {found}");
        // What would have been right is not printed.
        assert!(!text.contains(&Signer::default().signature()), "{text}");
    }
}

#[test]
fn the_body_that_was_signed_is_named_by_its_header() {
    let folder = Folder::new();
    let mut signer = Signer { body_hash: sha256(b"another"), ..Signer::default() };
    signer.extra = vec![("x-amz-content-sha256".into(), sha256(b"another"))];
    let (_, value) = folder.explain(&signer.arrives(&signer, BODY), &[]);
    assert!(causes(&value).contains("not the SHA-256 of the body that arrived"), "{value}");
    assert!(causes(&value).contains("signed another body than the one that arrived"), "{value}");
}

#[test]
fn causes_besides_the_signature() {
    let folder = Folder::new();
    let right = Signer::default();
    let with = |change: fn(&mut Signer)| {
        let mut signer = Signer::default();
        change(&mut signer);
        signer.arrives(&signer, BODY)
    };
    let table: Vec<(String, &[&str], &str, &str)> = vec![
        (with(|s| s.service = "kms".into()), &[], "scope", "signed for the service \"kms\""),
        (with(|s| s.region = "eu-west-1".into()), &["--region", "us-east-1"], "scope", "the region \"eu-west-1\""),
        (with(|s| s.day = "20211008".into()), &[], "x-amz-date", "the scope is of the day 20211008"),
        (with(|_| {}), &["--at", "2021-10-09T12:05:01Z"], "too old", "signed 5 min 1 s before"),
        (with(|_| {}), &["--at", "2021-10-09T11:54:59Z"], "from the future", "signed 5 min 1 s after"),
    ];
    for (request, arguments, refusal, cause) in table {
        let (text, value) = folder.explain(&request, arguments);
        assert!(value["refusal"].as_str().unwrap().contains(refusal), "{text}");
        assert!(causes(&value).contains(cause), "{text}");
        assert!(causes(&value).contains("apart from that, the signature is right"), "{text}");
    }
    let request = right.arrives(&right, BODY);
    let before = [
        (request.replacen(PATH, &format!("{PATH}/"), 1), "404", "signed the path without the slash"),
        (request.replacen("POST", "PUT", 1), "405", "signed the method POST"),
        (request.replacen(&format!("Host: {HOST}"), &format!("Host: {HOST}\r\nHost: {HOST}"), 1), "421", ""),
    ];
    for (request, status, words) in before {
        let (text, value) = folder.explain(&request, &[]);
        assert!(value["refusal"].as_str().unwrap().starts_with(status), "{text}");
        assert!(causes(&value).contains(words), "{text}");
    }
    let unreadable = [
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "the scheme is not AWS4-HMAC-SHA256"),
        (ID, "MUBSXM6K3KMXHN6RRCX1", "not 20 to 30 characters"),
        ("/aws4_request", "", "the scope is not"),
        ("SignedHeaders=host;x-amz-date, ", "", "is missing"),
        ("host;x-amz-date", "x-amz-date;host", "must be sorted"),
        ("host;x-amz-date", "host;x-amz-date;x-note", "x-note is missing"),
        ("X-Amz-Date:", "X-Date:", "x-amz-date is missing"),
        ("Authorization:", "Authorisation:", "is not signed"),
        ("Signature=", "Signature=A", "in this order"),
    ];
    for (from, to, cause) in unreadable {
        let (text, value) = folder.explain(&request.replacen(from, to, 1), &[]);
        assert!(causes(&value).contains(cause), "{to}: {text}");
        assert!(value["server"].is_null());
    }
}

#[test]
fn the_clients_own_account_tells_a_wrong_secret_from_a_changed_request() {
    let folder = Folder::new();
    let arrived = Signer::default();
    let account = |signer: &Signer| std::fs::write(folder.path("account"), signer.canonical() + "\n").unwrap();

    let changed = Signer { extra: vec![("x-note".into(), "a b".into())], ..Signer::default() };
    account(&changed);
    let mut seen = changed.clone();
    seen.extra[0].1 = "a c".into();
    let (text, value) = folder.explain(&changed.arrives(&seen, BODY), &["--client-canonical", "account"]);
    assert!(causes(&value).contains("the secret is right, and the client signed what it says"), "{text}");
    assert!(
        text.ends_with(
            "first difference: canonical request, line 6, column 10: the header x-note\n  server  x-note:a·c\n  \
             client  x-note:a·b\n                   ^\n"
        ),
        "{text}"
    );
    assert_eq!((&value["difference"]["line"], &value["difference"]["column"]), (&6.into(), &10.into()));

    let wrong = Signer { secret: "x".repeat(43).into_bytes(), ..Signer::default() };
    account(&wrong);
    let (text, value) = folder.explain(&wrong.arrives(&arrived, BODY), &["--client-canonical", "account"]);
    assert!(causes(&value).contains("the secret given is not the one that the client has"), "{text}");
    assert!(value["difference"].is_null() && text.contains("it is the key that differs"), "{text}");
    let (_, value) = folder.explain(&wrong.arrives(&arrived, BODY), &[]);
    assert!(causes(&value).contains("Most likely the client's secret"), "{value}");
}

#[test]
fn where_the_secret_comes_from() {
    let folder = Folder::new();
    let signer = Signer::default();
    std::fs::write(folder.path("request"), signer.arrives(&signer, BODY)).unwrap();
    let run = |arguments: &[&str], stdin: &str| folder.run(&[&["request"], arguments].concat(), stdin);
    assert!(run(&[], &format!("{SECRET}\n")).status.success(), "standard input, unasked");
    assert!(run(&["--secret-access-key-file", "-"], SECRET).status.success());
    let credential = |id: &str| format!("{{\"AccessKeyId\":\"{id}\",\"RawSecretAccessKey\":\"{SECRET}\"}}");
    folder.secret("credential.json", &credential(ID));
    assert!(run(&["--secret-access-key-file", "credential.json"], "").status.success());
    folder.secret("other.json", &credential("AAAAAAAAAAAAAAAAAAAA"));
    std::fs::write(folder.path("exposed"), SECRET).unwrap();
    let failures: [(&[&str], &str, i32, &str); 5] = [
        (&["--secret-access-key-file", "exposed"], "", 1, "chmod 600"),
        (&["--secret-access-key-file", "missing"], "", 1, "cannot read missing"),
        (&[], "short\n", 1, "43 to 64 characters"),
        (&["--secret-access-key-file", "-", "--body", "-"], "", 2, "standard input"),
        (&["--secret-access-key", SECRET], "", 2, "unexpected argument"),
    ];
    for (arguments, stdin, code, words) in failures {
        let arguments: Vec<&str> = ["request"].iter().chain(arguments).copied().collect();
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .arg("explain-signature")
            .args(&arguments)
            .current_dir(folder.0.path())
            .stdin(Stdio::from(text_file(folder.0.path(), stdin)))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    let mut signer = Signer::default();
    signer.secret.push(b'x');
    std::fs::write(folder.path("request"), signer.arrives(&Signer::default(), BODY)).unwrap();
    let output = run(&["--secret-access-key-file", "other.json"], "");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("the secret given is that of AAAAAAAAAAAAAAAAAAAA"), "{text}");
}

fn text_file(folder: &Path, text: &str) -> std::fs::File {
    let path = folder.join("stdin");
    std::fs::write(&path, text).unwrap();
    std::fs::File::open(path).unwrap()
}
