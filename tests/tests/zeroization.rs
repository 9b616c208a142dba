//! What of a key is left in an enclave's memory when it must not be used any more: every readable mapping of the process is searched
//! for material that the test knows. `docs/revocation.md` says what each kind of end promises.
//!
//! Each search that finds nothing follows one that found the same needles in the same process.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::{hpke, keystore, labels, register};
use holdfast_tests::applicant::Applicant;
use holdfast_tests::memory::{Needle, Needles, forms, hmac_pads};
use holdfast_tests::random::random_bytes;
use holdfast_tests::system::{AAD, Encrypted, Options, System, static_configuration};
use holdfast_tests::wait::until;
use http::StatusCode;
use ring::hkdf;
use serde_json::{Value, json};

/// The key whose material the test knows.
const KNOWN: &str = "known";
/// A key of AWS's sample proxy: its material is the AES key of messages itself.
const LEGACY: &str = "legacy";

/// A system with the two keys, in use, and what to look for.
struct Warm {
    system: System,
    message: Encrypted,
    legacy: Vec<Value>,
    /// The material of [`KNOWN`], version 1, and the key of one message under it.
    material: Vec<Needle>,
    /// Everything that opens anything.
    all: Vec<Needle>,
}

impl Warm {
    async fn start(lease: &'static str) -> Self {
        let system = System::start(Options { keys: vec![], lease, ..Options::default() }).await;
        let legacy = legacy_vectors();
        let (material, legacy_material) =
            (random_bytes::<32>(), hex::decode(legacy[0]["material"].as_str().unwrap()).unwrap());
        import(&system, KNOWN, &material, &[]);
        import(&system, LEGACY, &legacy_material, &["--legacy"]);
        let message = system.encrypt(KNOWN).await;
        let metadata = STANDARD.decode(message.body["ciphertextMetadata"].as_str().unwrap()).unwrap();
        let of_message = expand(&material, &[labels::EXTERNAL_KEY_MESSAGE.as_bytes(), &metadata[4..]]);
        let (root, sealing) = root_and_sealing_key(&system).await;
        let material = [secret("material", &material), secret("key of a message", &of_message)].concat();
        let all = [
            material.clone(),
            secret("legacy material", &legacy_material),
            secret("root key", &root),
            secret("sealing key", &sealing),
        ]
        .concat();
        let warm = Self { system, message, legacy, material, all };
        warm.use_keys().await;
        warm
    }

    /// Uses both keys, so that their material goes everywhere that it goes.
    async fn use_keys(&self) {
        for _ in 0..20 {
            self.system.decrypt(&self.message).await;
            self.system.round_trip(KNOWN).await;
        }
        for vector in &self.legacy {
            decrypt_legacy(&self.system, vector).await;
        }
    }

    /// What is found, and where.
    fn look(&self, needles: &[Needle]) -> BTreeSet<String> {
        let id = self.system.enclave.as_ref().unwrap().id();
        let places = Needles::new(needles.to_vec()).places_in_process(id);
        for (name, mappings) in &places {
            eprintln!("    {name}: {mappings:?}");
        }
        places.into_keys().collect()
    }

    fn assert_found(&self, what: &str) {
        eprintln!("{what}:");
        let found = self.look(&self.all);
        for name in ["material (raw)", "legacy material (raw)", "root key (raw)"] {
            assert!(
                found.contains(name),
                "{what}: the enclave holds the {name}, and the search does not find it: {found:?}"
            );
        }
    }

    fn assert_gone(&self, what: &str, needles: &[Needle]) {
        eprintln!("{what}:");
        let found = self.look(needles);
        assert!(found.is_empty(), "{what}: still in memory: {found:?}");
    }

    /// Unblocked or under a new lease, it serves again; and what must go the next time is there.
    async fn serves_again(&self, what: &str) {
        self.system.serving().await;
        self.use_keys().await;
        self.assert_found(what);
    }
}

fn secret(name: &str, bytes: &[u8]) -> Vec<Needle> {
    [forms(name, bytes), hmac_pads(name, bytes)].concat()
}

/// HKDF-Expand (RFC 5869) of 32 bytes.
fn expand(key: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    let key = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key);
    key.expand(info, hkdf::HKDF_SHA256).unwrap().fill(&mut out).unwrap();
    out
}

/// The root key, and the key under which the newest version is sealed (design, section 4): it opens all the others' material.
async fn root_and_sealing_key(system: &System) -> ([u8; 32], [u8; 32]) {
    let custodian = system.home_custodian();
    let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
    let mut lease = applicant.obtain(&custodian, system.key_store_id()).await.unwrap();
    let signed = lease.content.register.clone().unwrap().signed;
    let entry = register::open(&signed, system.key_store_id(), &custodian.signing_key).unwrap();
    let Reply::Blob { blob, .. } = lease.ask(&Ask::Fetch { blob_id: entry.blob_id }).await.unwrap() else {
        panic!("no blob")
    };
    let salt = keystore::header(&blob).unwrap().salt;
    let root = *lease.content.shares.last().unwrap().share.value.expose();
    let info = hpke::bind(labels::SEAL, &[system.key_store_id().as_bytes(), &entry.version.to_be_bytes()]);
    let mut sealing = [0; 32];
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(&root);
    key.expand(&[&info], hkdf::HKDF_SHA256).unwrap().fill(&mut sealing).unwrap();
    (root, sealing)
}

fn import(system: &System, id: &str, material: &[u8], more: &[&str]) {
    let path = system.layout.path("home").with_extension(id);
    std::fs::write(&path, material).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    system.order(&[&["key", "import", id, "--material-file", &path.display().to_string()], more].concat());
    std::fs::remove_file(&path).unwrap();
}

/// Two messages of the sample proxy, with an initialization vector of each length.
fn legacy_vectors() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/legacy");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let vector: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).ok()?;
        vector["plaintext"].is_string().then_some(vector)
    };
    let all: Vec<_> = std::fs::read_dir(folder).unwrap().filter_map(read).collect();
    let with_iv = |digits: usize| all.iter().find(|vector| vector["iv"].as_str().unwrap().len() == digits).unwrap();
    vec![with_iv(24).clone(), with_iv(32).clone()]
}

async fn decrypt_legacy(system: &System, vector: &Value) {
    let field = |name: &str| vector[name].as_str().map(|text| hex::decode(text).unwrap());
    let mut body = json!({});
    for (name, from) in [
        ("ciphertext", "ciphertext"),
        ("initializationVector", "iv"),
        ("authenticationTag", "tag"),
        ("ciphertextMetadata", "metadata"),
    ] {
        if let Some(bytes) = field(from).filter(|bytes| from != "metadata" || !bytes.is_empty()) {
            body[name] = json!(STANDARD.encode(bytes));
        }
    }
    let answer = system.client().decrypt(LEGACY, &body, field("aad").as_deref()).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_block_leaves_in_memory() {
    let warm = Warm::start("1h").await;
    warm.assert_found("in use");
    // A block of one key forbids its use and keeps it: the others go on, under the same root key.
    warm.system.order(&["block", "--key", KNOWN]);
    until("the block is in force", || async {
        let answer = warm.system.client().decrypt(KNOWN, &warm.message.body, Some(AAD)).await.ok()?;
        (answer.text("errorName") == Some("InvalidStateException")).then_some(())
    })
    .await;
    warm.assert_found("one key is blocked");
    warm.system.order(&["unblock", "--key", KNOWN]);
    // A block of the key store takes everything that opens anything.
    warm.system.order(&["block", "--store"]);
    warm.system.reports("Blocked", "").await;
    warm.assert_gone("the key store is blocked", &warm.all);
    warm.system.order(&["unblock", "--store"]);
    warm.serves_again("the block is lifted").await;
    // A version that is destroyed goes, and the key's others stay.
    warm.system.order(&["key", "rotate", KNOWN]);
    warm.system.order(&["key", "destroy-version", KNOWN, "1", "--confirm", &format!("{KNOWN}:1")]);
    until("the version is gone", || async {
        let answer = warm.system.client().decrypt(KNOWN, &warm.message.body, Some(AAD)).await.ok()?;
        (answer.text("errorName") == Some("InvalidCiphertextException")).then_some(())
    })
    .await;
    warm.assert_gone("the version is destroyed", &warm.material);
    warm.system.round_trip(KNOWN).await;
    warm.system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_what_the_end_of_a_lease_and_of_service_leave_in_memory() {
    let mut warm = Warm::start("10s").await;
    warm.assert_found("in use");
    warm.system.custodian.kill();
    warm.system.reports("LeaseExpired", "").await;
    warm.assert_gone("the lease has expired", &warm.all);
    warm.system.custodian.start().await;
    warm.serves_again("under a new lease").await;
    std::fs::remove_file(warm.system.layout.path("parent/key-stores/store.manifest")).unwrap();
    warm.system.logged("parent", "no longer served").await;
    warm.assert_gone("no longer served", &warm.all);
    warm.system.assert_no_panic();
}
