//! Keys over time, through the real stack and the real tool: rotation under load, destruction of versions, import with the messages of
//! AWS's sample proxy, quotas.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_devkit::xks_client::XksAnswer;
use holdfast_tests::system::{AAD, Encrypted, KEY, Options, System};
use holdfast_tests::wait::until;
use http::StatusCode;
use serde_json::{Value, json};

/// Clients that encrypt and decrypt all the time.
const CLIENTS: usize = 3;
/// Rotations while they do.
const ROTATIONS: u32 = 6;

fn version_of(body: &Value) -> u32 {
    let metadata = STANDARD.decode(body["ciphertextMetadata"].as_str().unwrap()).unwrap();
    assert_eq!((metadata.len(), metadata[0]), (20, 1));
    u32::from_be_bytes([0, metadata[1], metadata[2], metadata[3]])
}

#[track_caller]
fn assert_invalid_ciphertext(what: &str, answer: &XksAnswer) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what}: {}", answer.body);
    assert_eq!(answer.text("errorName"), Some("InvalidCiphertextException"), "{what}: {}", answer.body);
}

/// Encrypts until it is told to stop, and decrypts what it encrypted, and something older.
async fn work(system: Arc<System>, stop: Arc<AtomicBool>) -> Vec<Encrypted> {
    let mut made: Vec<Encrypted> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let encrypted = system.round_trip(KEY).await;
        if let Some(before) = made.last() {
            assert!(version_of(&encrypted.body) >= version_of(&before.body), "versions go up");
            system.decrypt(&made[made.len() / 2]).await;
        }
        made.push(encrypted);
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_under_load_fails_no_request_and_destruction_only_what_it_names() {
    let system = Arc::new(System::start(Options::default()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(work(Arc::clone(&system), Arc::clone(&stop)))).collect();
    for expected in 2..=ROTATIONS + 1 {
        let rotating = Arc::clone(&system);
        let said = tokio::task::spawn_blocking(move || rotating.order(&["key", "rotate", KEY])).await.unwrap();
        assert!(said["done"].as_str().unwrap().starts_with("key both rotated"), "{said}");
        until("the new version encrypts", || async {
            (version_of(&system.encrypt(KEY).await.body) == expected).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut made = Vec::new();
    for client in clients {
        made.extend(client.await.unwrap());
    }
    let versions: std::collections::BTreeSet<_> = made.iter().map(|encrypted| version_of(&encrypted.body)).collect();
    eprintln!("{} messages under versions {versions:?}", made.len());
    assert!(versions.contains(&1) && versions.len() >= 3, "the load ran through the rotations: {versions:?}");
    for encrypted in &made {
        system.decrypt(encrypted).await;
    }
    destruction(&system, &made).await;
    let mut system = Arc::into_inner(system).unwrap();
    system.start_enclave().await;
    system.serving().await;
    only_version_1_is_gone(&system, &made).await;
    system.assert_no_panic();
}

async fn destruction(system: &System, made: &[Encrypted]) {
    let holdfast = |arguments: &[&str]| system.administrator.holdfast(arguments);
    for (arguments, code, complaint) in [
        (&["key", "destroy-version", KEY, "1", "--confirm", "both:2"][..], 2, "give --confirm both:1"),
        (&["key", "destroy-version", KEY, "1"], 2, "--confirm"),
        (&["key", "destroy-version", KEY, "0", "--confirm", "both:0"], 2, "0 is not in"),
        (
            &["key", "destroy-version", KEY, "7", "--confirm", "both:7"],
            1,
            "is the one that encrypts; rotate the key first",
        ),
        (&["key", "destroy-version", KEY, "8", "--confirm", "both:8"], 1, "key both has no version 8"),
        (&["key", "destroy-version", "other", "1", "--confirm", "other:1"], 1, "there is no key other"),
        (&["key", "rotate", "other"], 1, "there is no key other"),
    ] {
        let said = holdfast(arguments);
        assert_eq!(said.code(), Some(code), "{arguments:?}: {}", said.complaint());
        assert!(said.complaint().contains(complaint), "{arguments:?}: {}", said.complaint());
    }
    system.order(&["key", "destroy-version", KEY, "1", "--confirm", "both:1"]);
    let gone = holdfast(&["key", "destroy-version", KEY, "1", "--confirm", "both:1"]);
    assert!(gone.complaint().contains("version 1 of key both is destroyed already"), "{}", gone.complaint());

    let list = system.order(&["key", "list"]);
    let line = &list["keys"][0];
    assert_eq!((&line["current_version"], &line["versions"]), (&json!(7), &json!(6)));
    let states = json!([
        { "first": 1, "last": 1, "state": "destroyed" },
        { "first": 2, "last": 7, "state": "live" },
    ]);
    assert_eq!(line["version_states"], states);
    let text = holdfast(&["key", "list"]).success();
    assert!(text.contains("version 7  (1 destroyed, 2-7 live)"), "{text}");

    until("the version is gone", || async {
        let first = made.iter().find(|encrypted| version_of(&encrypted.body) == 1).unwrap();
        let answer = system.client().decrypt(KEY, &first.body, Some(AAD)).await.unwrap();
        (answer.status != StatusCode::OK).then_some(())
    })
    .await;
    only_version_1_is_gone(system, made).await;
}

async fn only_version_1_is_gone(system: &System, made: &[Encrypted]) {
    // Some of each version: all were decrypted before.
    for number in 1..=ROTATIONS + 1 {
        for encrypted in made.iter().filter(|encrypted| version_of(&encrypted.body) == number).take(3) {
            if number == 1 {
                let answer = system.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
                assert_invalid_ciphertext("a destroyed version", &answer);
            } else {
                system.decrypt(encrypted).await;
            }
        }
    }
    let metadata = system.client().metadata(KEY).await.unwrap();
    assert_eq!(metadata.text("keyStatus"), Some("ENABLED"), "the key itself is in service");
    assert_eq!(version_of(&system.round_trip(KEY).await.body), ROTATIONS + 1);
}

// --- Import -----------------------------------------------------------------------------------------------------------------

struct Legacy {
    name: String,
    vector: Value,
}

fn vectors_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

fn legacy_vectors() -> Vec<Legacy> {
    let files = std::fs::read_dir(vectors_folder("legacy")).unwrap().map(|entry| entry.unwrap().path());
    let mut vectors: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| Legacy {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            vector: serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(),
        })
        .collect();
    vectors.sort_by(|left, right| left.name.cmp(&right.name));
    assert!(vectors.len() >= 40);
    vectors
}

impl Legacy {
    fn field(&self, name: &str) -> Option<Vec<u8>> {
        self.vector[name].as_str().map(|text| hex::decode(text).unwrap())
    }

    async fn decrypt(&self, system: &System, key: &str) -> XksAnswer {
        let mut body = json!({});
        for (name, field) in
            [("ciphertext", "ciphertext"), ("initializationVector", "iv"), ("authenticationTag", "tag")]
        {
            body[name] = json!(STANDARD.encode(self.field(field).unwrap()));
        }
        let metadata = self.field("metadata").unwrap();
        if !metadata.is_empty() {
            body["ciphertextMetadata"] = json!(STANDARD.encode(metadata));
        }
        system.client().decrypt(key, &body, self.field("aad").as_deref()).await.unwrap()
    }

    /// What the vector says must come of it.
    async fn holds(&self, system: &System, key: &str) {
        let answer = self.decrypt(system, key).await;
        match self.field("plaintext") {
            Some(plaintext) => {
                assert_eq!(answer.status, StatusCode::OK, "{}: {}", self.name, answer.body);
                assert_eq!(answer.bytes("plaintext"), Some(plaintext), "{}", self.name);
            }
            None => assert_invalid_ciphertext(&self.name, &answer),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_key_decrypts_what_the_sample_proxy_encrypted() {
    let mut system = System::start(Options { keys: vec![], ..Options::default() }).await;
    let vectors = legacy_vectors();
    let material = vectors[0].vector["material"].as_str().unwrap().to_owned();
    import(&system, &material);
    for vector in &vectors {
        vector.holds(&system, "moved").await;
    }
    let good = vectors.iter().find(|vector| vector.name == "aad").unwrap();
    assert_invalid_ciphertext("a key without the profile", &good.decrypt(&system, "plain").await);
    let ours = system.round_trip("moved").await;
    assert_eq!(version_of(&ours.body), 1);
    for key in ["moved", "plain"] {
        let metadata = system.client().metadata(key).await.unwrap();
        assert_eq!(
            metadata.body,
            json!({ "keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED" })
        );
    }

    system.order(&["key", "rotate", "moved"]);
    system.start_enclave().await;
    system.serving().await;
    for vector in &vectors {
        vector.holds(&system, "moved").await;
    }
    system.decrypt(&ours).await;
    let rotated = system.round_trip("moved").await;
    assert_eq!(version_of(&rotated.body), 2);
    let text = system.administrator.holdfast(&["key", "list"]).success();
    assert!(text.contains("version 2  (1 live-with-legacy, 2 live)"), "{text}");

    system.order(&["key", "destroy-version", "moved", "1", "--confirm", "moved:1"]);
    until("the imported version is gone", || async {
        (good.decrypt(&system, "moved").await.status != StatusCode::OK).then_some(())
    })
    .await;
    for vector in &vectors {
        assert_invalid_ciphertext(&vector.name, &vector.decrypt(&system, "moved").await);
    }
    system.decrypt(&rotated).await;
    system.assert_no_panic();
}

/// Imports the material twice, with the profile and without, after everything that is refused.
fn import(system: &System, material: &str) {
    let file = |name: &str, content: &[u8], mode: u32| {
        let path = system.layout.path("home").with_extension(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let digits = file("digits", format!("{material}\n").as_bytes(), 0o600);
    let raw = file("raw", &hex::decode(material).unwrap(), 0o600);
    let shared = file("shared", &hex::decode(material).unwrap(), 0o644);
    let short = file("short", &[1; 31], 0o600);
    let long = file("long", &[1; 100], 0o600);
    for bad in [&shared, &short, &long] {
        let said = system.administrator.holdfast(&["key", "import", "moved", "--material-file", bad]);
        assert_eq!(said.code(), Some(1), "{bad}");
        assert!(said.complaint().contains(bad.as_str()), "{}", said.complaint());
    }
    let said = system.order(&["key", "import", "moved", "--material-file", &digits, "--legacy"]);
    assert_eq!(said["done"], "key moved imported");
    system.order(&["key", "import", "plain", "--material-file", &raw]);
    let again = system.administrator.holdfast(&["key", "import", "moved", "--material-file", &raw]);
    assert_eq!(again.code(), Some(1));
    assert!(again.complaint().contains("key moved exists already"), "{}", again.complaint());
}

// --- Quota ------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_throttles_the_use_of_keys_and_nothing_else() {
    let mut system = System::start(Options::default()).await;
    assert_eq!(system.order(&["quota", "show"])["quota"], Value::Null);
    let encrypted = system.round_trip(KEY).await;
    let set = system.order(&["quota", "set", "--requests-per-second", "1", "--burst", "2"]);
    assert_eq!(set["done"], "quota set: 1 requests per second, 2 at once");
    Box::pin(throttled(&system, &encrypted)).await;
    // Others answer while the bucket is empty, and a request that is refused for another reason is not a matter of the quota.
    let client = system.client();
    assert_eq!(client.health().await.unwrap().status, StatusCode::OK);
    assert_eq!(client.metadata(KEY).await.unwrap().status, StatusCode::OK);
    let unknown = client.encrypt("unknown", b"x", None).await.unwrap();
    assert_eq!(unknown.text("errorName"), Some("KeyNotFoundException"));
    until("a request passes again", || async {
        let answer = system.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;

    // Kept over a restart.
    system.start_enclave().await;
    system.serving().await;
    assert_eq!(system.order(&["quota", "show"])["quota"], json!({ "requests_per_second": 1, "burst": 2 }));
    Box::pin(throttled(&system, &encrypted)).await;
    system.order(&["quota", "clear"]);
    until("the quota is lifted", || async {
        let mut all = true;
        for _ in 0..8 {
            all &= Box::pin(system.client().encrypt(KEY, b"x", None)).await.unwrap().status == StatusCode::OK;
        }
        all.then_some(())
    })
    .await;
    for bad in [["0", "1"], ["1", "0"], ["1000001", "1"], ["1", "1000001"]] {
        let said = system.administrator.holdfast(&["quota", "set", "--requests-per-second", bad[0], "--burst", bad[1]]);
        assert_eq!(said.code(), Some(2), "{bad:?}");
    }
    client_authentication_is_set_and_cleared(&system);
    system.assert_no_panic();
}

/// Sends requests until one is throttled, which more than one a second must bring about.
async fn throttled(system: &System, encrypted: &Encrypted) {
    let refused = until("a request is throttled", || async {
        let client = system.client();
        let mut refused = None;
        for _ in 0..4 {
            let answer = Box::pin(client.decrypt(KEY, &encrypted.body, Some(AAD))).await.unwrap();
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                refused = Some(answer);
            } else {
                assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
            }
        }
        refused
    })
    .await;
    assert_eq!(refused.text("errorName"), Some("ThrottlingException"), "{}", refused.body);
}

/// What comes of it in a handshake is tested where TLS is.
fn client_authentication_is_set_and_cleared(system: &System) {
    let ca = system.authority.certificate_file.display().to_string();
    let name = "cks.kms.us-east-1.amazonaws.com";
    let said = system.administrator.holdfast(&["client-auth", "set", "--ca", &ca, "--common-name", name]);
    said.success();
    assert!(
        said.complaint().contains("AWS deprecated mTLS for external key stores in March 2026"),
        "{}",
        said.complaint()
    );
    let shown = system.order(&["client-auth", "show"]);
    assert_eq!(shown["client_authentication"]["subject_common_names"], json!([name]));
    let fingerprint = hex::encode(holdfast_shared::sha256(&[&system.authority.certificate_der]));
    assert_eq!(shown["client_authentication"]["authorities_sha256"], json!([fingerprint]));
    let wrong = system.administrator.holdfast(&["client-auth", "set", "--ca", &ca, "--common-name", ""]);
    assert_eq!(wrong.code(), Some(2), "{}", wrong.complaint());
    system.order(&["client-auth", "clear"]);
    assert_eq!(system.order(&["client-auth", "show"])["client_authentication"], Value::Null);
}

// --- Vectors ----------------------------------------------------------------------------------------------------------------

/// The files are what the scripts write, so that nobody can make a test pass by editing a vector.
#[test]
fn long_vectors_are_what_python_makes_of_them() {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let python = target.join("python/bin/python3");
    if !python.exists() {
        assert!(std::env::var_os("CI").is_none(), "{} is missing: run scripts/test-python first", python.display());
        eprintln!("left out: {} is missing; scripts/test-python makes it", python.display());
        return;
    }
    for (folder, script) in [("legacy", "make.py"), ("external_key", "generate.py")] {
        let out = tempfile::tempdir().unwrap();
        let ran = Command::new(&python).arg(vectors_folder(folder).join(script)).arg(out.path()).status().unwrap();
        assert!(ran.success(), "{script}");
        assert_eq!(json_files(out.path()), json_files(&vectors_folder(folder)), "{folder}");
    }
}

fn json_files(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}
