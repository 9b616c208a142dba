//! A key-encryption key in a real KMIP server, and everything that can happen to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test as tests do"
)]

use std::time::Duration;

use holdfast_custodian::config::KmipConfig;
use holdfast_custodian::kek::{Kek, KekError, KmipKey};
use holdfast_tests::key_servers::{Certificates, KmipServer};
use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::tap::{Action, Direction, Fault};
use serde_json::json;
use tempfile::TempDir;

const AAD: &[u8] = b"share of a test";
const SECRET: &[u8] = b"a share that nobody else may see";
/// As configured by default.
const PATIENCE: Duration = Duration::from_secs(5);

struct World {
    server: KmipServer,
    config: KmipConfig,
    folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = KmipServer::start(&folder.path().join("kmip")).await;
        Self::with(server, folder)
    }

    fn with(mut server: KmipServer, folder: TempDir) -> Self {
        let config = KmipConfig {
            address: server.address(),
            key: server.make_key(&json!({})),
            roots: server.certificates.roots.clone(),
            certificate: server.certificates.client.certificate.clone(),
            private_key: server.certificates.client.private_key.clone(),
        };
        Self { server, config, folder }
    }

    fn kek(&self) -> Kek {
        self.kek_with(|_| {})
    }

    fn kek_with(&self, change: impl FnOnce(&mut KmipConfig)) -> Kek {
        self.kek_within(PATIENCE, change)
    }

    fn kek_within(&self, patience: Duration, change: impl FnOnce(&mut KmipConfig)) -> Kek {
        let mut config = self.config.clone();
        change(&mut config);
        Kek::new(Box::new(KmipKey::open(&config).unwrap()), patience)
    }

    fn kek_of(&mut self, settings: &serde_json::Value) -> Kek {
        let key = self.server.make_key(settings);
        self.kek_with(|config| config.key = key)
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
async fn a_key_behind_kmip() {
    let mut world = World::start().await;
    wraps_and_opens(&mut world).await;
    keys_that_could_leave_or_cannot_serve_are_refused(&mut world).await;
    the_key_is_replaced(&mut world).await;
    the_network_fails(&world).await;
    only_our_certificate_is_served(&world).await;
    the_server_dies_and_comes_back(&mut world).await;
    the_key_is_taken_away(&mut world).await;
}

async fn wraps_and_opens(world: &mut World) {
    let kek = world.kek();
    kek.probe().await.unwrap();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    assert_eq!(wrapped[0], 4);
    opens(&kek, &wrapped).await;
    opens(&world.kek(), &wrapped).await;
    assert_ne!(kek.wrap(AAD, SECRET).await.unwrap(), wrapped);
    assert!(matches!(kek.unwrap(b"another purpose", &wrapped).await, Err(KekError::OpenFailed)));
    assert!(!wrapped.windows(8).any(|window| window == &SECRET[..8]));
    let recorded = world.server.tap.recorded();
    assert!(recorded.iter().all(|connection| !connection.to_server.windows(8).any(|window| window == &SECRET[..8])));
    // A client that shares no code with ours opens it, so that it is what it seems to be.
    let key = world.config.key.clone();
    let parts = &wrapped[2 + key.len()..];
    let question = json!({
        "do": "decrypt",
        "key": key,
        "nonce": hex::encode(&parts[..12]),
        "tag": hex::encode(&parts[12..28]),
        "ciphertext": hex::encode(&parts[28..]),
        "aad": hex::encode(AAD),
    });
    assert_eq!(world.server.ask(&question)["plaintext"], hex::encode(SECRET));
    let start = 2 + key.len();
    for (what, index) in [("nonce", start), ("tag", start + 12), ("ciphertext", start + 28), ("end", wrapped.len() - 1)]
    {
        let mut changed = wrapped.clone();
        changed[index] ^= 1;
        assert!(matches!(kek.unwrap(AAD, &changed).await, Err(KekError::OpenFailed)), "{what}");
    }
    assert!(matches!(kek.unwrap(AAD, &wrapped[..wrapped.len() - 1]).await, Err(KekError::OpenFailed)));
    assert!(matches!(kek.unwrap(AAD, &wrapped[..20]).await, Err(KekError::OpenFailed)));
}

async fn keys_that_could_leave_or_cannot_serve_are_refused(world: &mut World) {
    let table = [
        (json!({ "sensitive": false }), "it is not sensitive"),
        (json!({ "uses": ["encrypt", "decrypt", "export"] }), "its usage mask has Export"),
        (json!({ "uses": ["encrypt"] }), "its usage mask lacks Encrypt or Decrypt"),
        (json!({ "bits": 128 }), "it is not of AES with 256 bits"),
        (json!({ "activate": false }), "it is not active"),
    ];
    for (settings, expected) in table {
        let kek = world.kek_of(&settings);
        for error in [kek.wrap(AAD, SECRET).await.unwrap_err(), kek.probe().await.unwrap_err()] {
            assert!(matches!(error, KekError::Misconfigured { .. }), "{settings}: {error}");
            assert!(error.to_string().contains(expected), "{settings}: {error}");
        }
    }
    let kek = world.kek_with(|config| "no-such-key".clone_into(&mut config.key));
    assert!(kek.wrap(AAD, SECRET).await.unwrap_err().to_string().contains("there is no such key"));
}

/// What the old key wrapped opens under a configuration that names the new one, as long as the server has the old one.
async fn the_key_is_replaced(world: &mut World) {
    let old = world.server.make_key(&json!({}));
    let wrapped = world.kek_with(|config| config.key.clone_from(&old)).wrap(AAD, SECRET).await.unwrap();
    let kek = world.kek();
    opens(&kek, &wrapped).await;
    world.server.revoke(&old);
    refused(&kek, &wrapped, "see that the key is active").await;
    world.server.destroy(&old);
    let error = refused(&kek, &wrapped, "restore that key").await;
    assert!(error.to_string().contains(&format!("wrapped by the key {old}")), "{error}");
    // Nothing is wrong with the new one.
    kek.probe().await.unwrap();
}

async fn the_network_fails(world: &World) {
    let kek = world.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    opens(&kek, &wrapped).await;
    let length = world.server.tap.recorded().last().unwrap().to_client.len();
    let fault = |offset, action| {
        world.server.tap.set_plan(vec![Fault { connection: Some(0), direction: Direction::ToClient, offset, action }]);
    };
    for (offset, action) in [(100, Action::Drop), (length - 100, Action::Drop), (length - 100, Action::Truncate)] {
        fault(offset, action);
        let error = kek.unwrap(AAD, &wrapped).await.unwrap_err();
        assert!(matches!(error, KekError::Unavailable { .. }), "cut at {offset}: {error}");
        opens(&kek, &wrapped).await;
    }
    fault(length - 100, Action::FlipBit(0));
    assert!(matches!(kek.unwrap(AAD, &wrapped).await, Err(KekError::Unavailable { .. })));
    let hasty = world.kek_within(Duration::from_millis(700), |_| {});
    hasty.probe().await.unwrap();
    fault(length - 100, Action::Hold(Duration::from_mins(10)));
    assert!(matches!(hasty.unwrap(AAD, &wrapped).await, Err(KekError::TimedOut { .. })));
    world.server.tap.set_plan(Vec::new());
    opens(&kek, &wrapped).await;
}

async fn only_our_certificate_is_served(world: &World) {
    let others = Certificates::create(&world.folder.path().join("others"));
    let stranger = world.kek_with(|config| config.roots.clone_from(&others.roots));
    let error = stranger.wrap(AAD, SECRET).await.unwrap_err();
    assert!(
        error.to_string().contains("TLS failed") && error.to_string().contains("invalid peer certificate"),
        "{error}"
    );
    let unknown = world.kek_with(|config| {
        (config.certificate, config.private_key) = (others.client.certificate, others.client.private_key);
    });
    let error = unknown.wrap(AAD, SECRET).await.unwrap_err();
    assert!(matches!(error, KekError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("look at the server's log, at the certificates"), "{error}");
    // Signed by the right authority, and not made for a client.
    let server = &world.server.certificates.server;
    let misused = world.kek_with(|config| {
        (config.certificate, config.private_key) = (server.certificate.clone(), server.private_key.clone());
    });
    let error = misused.wrap(AAD, SECRET).await.unwrap_err();
    assert!(matches!(error, KekError::Unavailable { .. }), "{error}");
}

async fn the_server_dies_and_comes_back(world: &mut World) {
    let kek = world.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    world.server.kill();
    let error = refused(&kek, &wrapped, "not available").await;
    assert!(matches!(error, KekError::Unavailable { .. }) && error.may_pass(), "{error}");
    world.server.run().await;
    opens(&kek, &wrapped).await;
}

async fn the_key_is_taken_away(world: &mut World) {
    let kek = world.kek();
    let wrapped = kek.wrap(AAD, SECRET).await.unwrap();
    let key = world.config.key.clone();
    world.server.revoke(&key);
    refused(&kek, &wrapped, "see that the key is active").await;
    let error = kek.probe().await.unwrap_err();
    assert!(error.to_string().contains("it is not active; activate it"), "{error}");
    refused(&kek, &wrapped, "it is not active").await;
    world.server.destroy(&key);
    assert!(kek.probe().await.unwrap_err().to_string().contains("there is no such key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_bind_additional_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = KmipServer::start_unbound(&folder.path().join("kmip")).await;
    let world = World::with(server, folder);
    let kek = world.kek();
    let error = kek.wrap(AAD, SECRET).await.unwrap_err();
    assert!(matches!(error, KekError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains("does not bind additional data"), "{error}");
    assert!(kek.probe().await.is_err());
}

/// Whatever happens to the bytes, the answer is the secret or an error, and the next call is well again.
#[tokio::test(flavor = "multi_thread")]
async fn long_faults_anywhere() {
    let world = World::start().await;
    let kek = world.kek_within(Duration::from_secs(2), |_| {});
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
