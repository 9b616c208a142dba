//! A key-encryption key in the Transit engine of a real `OpenBao`, and everything that can happen to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test as tests do"
)]

use std::path::PathBuf;
use std::time::Duration;

use holdfast_custodian::config::TransitConfig;
use holdfast_custodian::kek::{Kek, KekError, TransitKey};
use holdfast_tests::key_servers::{Certificates, OpenBao, write_private};
use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::tap::{Action, Direction, Fault};
use serde_json::json;
use tempfile::TempDir;

const AAD: &[u8] = b"share of a test";
const SECRET: &[u8] = b"a share that nobody else may see";
const KEY: &str = "holdfast";
/// As configured by default.
const PATIENCE: Duration = Duration::from_secs(5);

struct World {
    server: OpenBao,
    config: TransitConfig,
    folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = OpenBao::start(&folder.path().join("bao")).await;
        server.make_key(KEY, &json!({ "type": "aes256-gcm96" }));
        let token_file = folder.path().join("token");
        write_private(&token_file, &server.token(KEY, true));
        let config = TransitConfig {
            url: server.url(),
            mount: "transit".to_owned(),
            key: KEY.to_owned(),
            token_file,
            roots: Some(server.certificates.roots.clone()),
            namespace: None,
        };
        Self { server, config, folder }
    }

    fn kek(&self) -> Kek {
        self.kek_with(|_| {})
    }

    fn kek_with(&self, change: impl FnOnce(&mut TransitConfig)) -> Kek {
        let mut config = self.config.clone();
        change(&mut config);
        Kek::new(Box::new(TransitKey::open(&config).unwrap()), PATIENCE)
    }

    /// A key of its own with `settings`, and a token for it.
    fn kek_of(&self, name: &str, settings: &serde_json::Value) -> Kek {
        self.server.make_key(name, settings);
        let token_file = self.folder.path().join(format!("token-{name}"));
        write_private(&token_file, &self.server.token(name, true));
        self.kek_with(|config| (config.key, config.token_file) = (name.to_owned(), token_file))
    }
}

async fn opens(kek: &Kek, wrapped: &[u8]) {
    assert_eq!(kek.unwrap(AAD, wrapped).await.unwrap().expose(), SECRET);
}

async fn refused(kek: &Kek, wrapped: &[u8], expected: &str) -> KekError {
    let error = kek.unwrap(AAD, wrapped).await.unwrap_err();
    assert!(error.to_string().contains(expected), "{error}\nshould contain {expected}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_transit() {
    let mut world = World::start().await;
    wraps_and_opens(&world).await;
    keys_that_could_leave_are_refused(&world).await;
    tokens_come_and_go(&world).await;
    the_key_is_rotated(&world).await;
    the_network_fails(&world).await;
    the_vault_is_closed(&mut world).await;
}

async fn wraps_and_opens(world: &World) {
    let kek = world.kek();
    kek.probe().await.unwrap();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    assert_eq!(wrapped[0], 3);
    opens(&kek, &wrapped).await;
    opens(&world.kek(), &wrapped).await;
    assert_ne!(kek.wrap(AAD, SECRET).await.unwrap(), wrapped);
    assert!(matches!(kek.unwrap(b"another purpose", &wrapped).await, Err(KekError::OpenFailed)));
    // The server itself opens it, so that it is what it seems to be.
    let ciphertext = str::from_utf8(&wrapped[1..]).unwrap();
    let request = json!({ "ciphertext": ciphertext, "associated_data": "c2hhcmUgb2YgYSB0ZXN0" });
    let answer = world.server.order("transit/decrypt/holdfast", &request);
    assert_eq!(answer["data"]["plaintext"], "YSBzaGFyZSB0aGF0IG5vYm9keSBlbHNlIG1heSBzZWU=");
    // Neither secret nor associated data is in what is stored, nor was it sent in the clear.
    assert!(!wrapped.windows(8).any(|window| window == &SECRET[..8]));
    let recorded = world.server.tap.recorded();
    assert!(recorded.iter().all(|connection| !connection.to_server.windows(8).any(|window| window == b"YSBzaGFy")));
    for index in 1..wrapped.len() {
        // Every fourth: each is a request.
        if index % 4 == 0 || index < 12 {
            let mut changed = wrapped.clone();
            changed[index] ^= 1;
            assert!(kek.unwrap(AAD, &changed).await.is_err(), "byte {index}");
        }
    }
    assert!(matches!(kek.unwrap(AAD, &wrapped[..wrapped.len() - 4]).await, Err(KekError::OpenFailed)));
    let other = world.kek_of("other", &json!({ "type": "aes256-gcm96" }));
    assert!(matches!(other.unwrap(AAD, &wrapped).await, Err(KekError::OpenFailed)), "another key");
}

async fn keys_that_could_leave_are_refused(world: &World) {
    let table = [
        ("exportable", json!({ "type": "aes256-gcm96", "exportable": true }), "it is exportable"),
        ("backup", json!({ "type": "aes256-gcm96", "allow_plaintext_backup": true }), "allow_plaintext_backup"),
        ("derived", json!({ "type": "aes256-gcm96", "derived": true }), "it is derived"),
        ("chacha", json!({ "type": "chacha20-poly1305" }), "not of type aes256-gcm96"),
        ("short", json!({ "type": "aes128-gcm96" }), "not of type aes256-gcm96"),
    ];
    for (name, settings, expected) in table {
        let kek = world.kek_of(name, &settings);
        for error in [kek.wrap(AAD, SECRET).await.unwrap_err(), kek.probe().await.unwrap_err()] {
            assert!(matches!(error, KekError::Misconfigured { .. }), "{name}: {error}");
            assert!(error.to_string().contains(expected), "{name}: {error}");
        }
    }
    // One that is made exportable later stops being used at the next look.
    let kek = world.kek_of("turned", &json!({ "type": "aes256-gcm96" }));
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    world.server.order("transit/keys/turned/config", &json!({ "exportable": true }));
    assert!(kek.probe().await.unwrap_err().to_string().contains("it is exportable"));
    refused(&kek, &wrapped, "it is exportable").await;
    // A key that is not there is not made by asking for it.
    let missing = world.folder.path().join("token-missing");
    write_private(&missing, &world.server.token("missing", true));
    let kek = world.kek_with(|config| (config.key, config.token_file) = ("missing".to_owned(), missing));
    assert!(kek.wrap(AAD, SECRET).await.unwrap_err().to_string().contains("there is no such key"));
    let kek = world.kek_with(|config| "elsewhere".clone_into(&mut config.mount));
    assert!(kek.wrap(AAD, SECRET).await.is_err());
}

async fn tokens_come_and_go(world: &World) {
    let kek = world.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    let token_file = &world.config.token_file;
    let first = std::fs::read_to_string(token_file).unwrap();
    // One that may use the key and not look at it serves; the log says what is not known.
    let blind = world.server.token(KEY, false);
    write_private(token_file, &blind);
    opens(&kek, &wrapped).await;
    world.kek().probe().await.unwrap();
    world.server.revoke(&blind);
    let error = refused(&kek, &wrapped, "renew the token").await;
    assert!(error.may_pass() && !error.to_string().contains(&blind), "{error}");
    std::fs::remove_file(token_file).unwrap();
    assert!(refused(&kek, &wrapped, "start the agent").await.may_pass());
    write_private(token_file, "not a token\n");
    refused(&kek, &wrapped, "holds no token").await;
    // A token for another key.
    write_private(token_file, &world.server.token("other", true));
    refused(&kek, &wrapped, "its policy must allow `update`").await;
    write_private(token_file, &first);
    opens(&kek, &wrapped).await;
}

async fn the_key_is_rotated(world: &World) {
    let kek = world.kek();
    let first = kek.wrap(AAD, SECRET).await.unwrap();
    world.server.order("transit/keys/holdfast/rotate", &json!({}));
    let second = kek.wrap(AAD, SECRET).await.unwrap();
    assert!(first[1..].starts_with(b"vault:v1:") && second[1..].starts_with(b"vault:v2:"));
    opens(&kek, &first).await;
    world.server.order("transit/keys/holdfast/config", &json!({ "min_decryption_version": 2 }));
    refused(&kek, &first, "lower the key's min_decryption_version").await;
    opens(&kek, &second).await;
    world.server.order("transit/keys/holdfast/config", &json!({ "min_decryption_version": 1 }));
    opens(&kek, &first).await;
}

async fn the_network_fails(world: &World) {
    let kek = world.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    opens(&kek, &wrapped).await;
    let length = world.server.tap.recorded().last().unwrap().to_client.len();
    let fault = |offset, action| {
        world.server.tap.set_plan(vec![Fault { connection: Some(0), direction: Direction::ToClient, offset, action }]);
    };
    // In the handshake, and in the middle of the answer's last record.
    for (offset, action) in [(100, Action::Drop), (length - 60, Action::Drop), (length - 60, Action::Truncate)] {
        fault(offset, action);
        let error = kek.unwrap(AAD, &wrapped).await.unwrap_err();
        assert!(matches!(error, KekError::Unavailable { .. }), "cut at {offset}: {error}");
        opens(&kek, &wrapped).await;
    }
    fault(length - 60, Action::FlipBit(0));
    assert!(matches!(kek.unwrap(AAD, &wrapped).await, Err(KekError::Unavailable { .. })));
    // An answer that does not come.
    let hasty = Kek::new(Box::new(TransitKey::open(&world.config).unwrap()), Duration::from_millis(700));
    hasty.probe().await.unwrap();
    fault(length - 60, Action::Hold(Duration::from_mins(10)));
    assert!(matches!(hasty.unwrap(AAD, &wrapped).await, Err(KekError::TimedOut { .. })));
    world.server.tap.set_plan(Vec::new());
    opens(&kek, &wrapped).await;
    // A server that proves itself to somebody else.
    let others = Certificates::create(&world.folder.path().join("others"));
    let stranger = world.kek_with(|config| config.roots = Some(others.roots));
    assert!(refused(&stranger, &wrapped, "TLS failed").await.to_string().contains("invalid peer certificate"));
    let elsewhere = world.kek_with(|config| config.url = config.url.replace("localhost", "127.0.0.2"));
    assert!(elsewhere.unwrap(AAD, &wrapped).await.is_err());
}

async fn the_vault_is_closed(world: &mut World) {
    let kek = world.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    world.server.seal();
    let error = refused(&kek, &wrapped, "is sealed; unseal it").await;
    assert!(matches!(error, KekError::Locked { .. }) && error.may_pass(), "{error}");
    world.server.unseal().await;
    opens(&kek, &wrapped).await;
    world.server.kill();
    let error = refused(&kek, &wrapped, "not available").await;
    assert!(matches!(error, KekError::Unavailable { .. }), "{error}");
    world.server.run().await;
    refused(&kek, &wrapped, "unseal it").await;
    world.server.unseal().await;
    opens(&kek, &wrapped).await;
}

/// Whatever happens to the bytes, the answer is the secret or an error, and the next call is well again.
#[tokio::test(flavor = "multi_thread")]
async fn long_faults_anywhere() {
    let world = World::start().await;
    let kek = Kek::new(Box::new(TransitKey::open(&world.config).unwrap()), Duration::from_secs(2));
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    let seed = fresh_seed();
    eprintln!("HOLDFAST_TEST_SEED={seed} repeats this");
    let mut random = Random::seeded(seed);
    for round in 0..300 {
        let mut fault = Fault::random(&mut random);
        fault.connection = Some(0);
        let shown = format!("round {round}: {fault:?}");
        world.server.tap.set_plan(vec![fault]);
        match kek.unwrap(AAD, &wrapped).await {
            Ok(secret) => assert_eq!(secret.expose(), SECRET, "{shown}"),
            Err(KekError::Unavailable { .. } | KekError::TimedOut { .. }) => {}
            Err(error) => panic!("{shown}: {error}"),
        }
        world.server.tap.set_plan(Vec::new());
        opens(&kek, &wrapped).await;
    }
}

#[test]
fn a_server_without_tls_is_refused() {
    let config = TransitConfig {
        url: "http://vault.example.com:8200".to_owned(),
        mount: "transit".to_owned(),
        key: KEY.to_owned(),
        token_file: PathBuf::from("token"),
        roots: None,
        namespace: None,
    };
    assert!(TransitKey::open(&config).err().unwrap().to_string().contains("use https://"));
}
