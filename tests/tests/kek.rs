//! Releases by real custodians whose shares are wrapped by a key elsewhere: sealed, killed, taken away and back.

use holdfast_tests::key_servers::{KmipServer, OpenBao, write_private};
use holdfast_tests::softhsm::SoftHsm;
use holdfast_tests::system::{Encrypted, KEY, Options, System};
use holdfast_tests::tap::Tap;
use serde_json::json;

async fn system(section: String) -> System {
    System::start(Options { key_encryption_key: Some(section), ..Options::default() }).await
}

/// The enclave loses everything, and asks the custodian for the share.
async fn released_anew(system: &mut System, encrypted: &Encrypted) {
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(encrypted).await;
}

/// The same, and the key behind this tap has to open the share.
async fn released_through(tap: &Tap, system: &mut System, encrypted: &Encrypted) {
    let calls = tap.recorded().len();
    released_anew(system, encrypted).await;
    assert!(tap.recorded().len() > calls, "a release without the key-encryption key");
}

/// The key is away: who serves goes on, nothing is released, and the log says why.
async fn nothing_is_released(system: &mut System, encrypted: &Encrypted, reason: &str) {
    system.decrypt(encrypted).await;
    let logged = system.log_length("custodian");
    system.start_enclave().await;
    system.logged_after("custodian", logged, &[reason]).await;
    // Without its keys the enclave has no certificate to show either.
    let answer = system.client().decrypt(KEY, &encrypted.body, None).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_wrapped_in_transit() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = OpenBao::start(&folder.path().join("bao")).await;
    server.make_key("holdfast", &json!({ "type": "aes256-gcm96" }));
    let token_file = folder.path().join("token");
    write_private(&token_file, &server.token("holdfast", true));
    let mut system = system(format!(
        "transit.url = \"{}\"\ntransit.key = \"holdfast\"\ntransit.token_file = \"{}\"\ntransit.roots = \"{}\"",
        server.url(),
        token_file.display(),
        server.certificates.roots.display()
    ))
    .await;
    let encrypted = system.encrypt(KEY).await;
    released_through(&server.tap, &mut system, &encrypted).await;

    server.seal();
    nothing_is_released(&mut system, &encrypted, "is sealed; unseal it").await;
    server.unseal().await;
    system.serving().await;
    system.decrypt(&encrypted).await;

    // Everything dies, and the custodian comes up before its vault is open.
    server.kill();
    system.custodian.kill();
    system.kill_enclave().await;
    server.run().await;
    let logged = system.log_length("custodian");
    let log = system.layout.log("custodian");
    let opened = async {
        holdfast_tests::wait::until("the custodian waits for its key", || async {
            let text = std::fs::read(&log).unwrap();
            String::from_utf8_lossy(&text[logged..]).contains("is sealed; unseal it").then_some(())
        })
        .await;
        server.unseal().await;
    };
    tokio::join!(system.custodian.start(), opened);
    released_through(&server.tap, &mut system, &encrypted).await;
    system.round_trip(KEY).await;
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_wrapped_behind_kmip() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = KmipServer::start(&folder.path().join("kmip")).await;
    let key = server.make_key(&json!({}));
    let (roots, client) = (&server.certificates.roots, &server.certificates.client);
    let mut system = system(format!(
        "kmip.address = \"{}\"\nkmip.key = \"{key}\"\nkmip.roots = \"{}\"\nkmip.certificate = \"{}\"\nkmip.private_key = \"{}\"",
        server.address(),
        roots.display(),
        client.certificate.display(),
        client.private_key.display()
    ))
    .await;
    let encrypted = system.encrypt(KEY).await;
    released_through(&server.tap, &mut system, &encrypted).await;

    server.kill();
    nothing_is_released(&mut system, &encrypted, "the key-encryption key is not available").await;
    server.run().await;
    system.serving().await;
    system.decrypt(&encrypted).await;

    // A key that is taken away ends releases for good.
    server.revoke(&key);
    nothing_is_released(&mut system, &encrypted, "see that the key is active").await;
    system.assert_no_panic();
}

/// The key is in a PKCS #11 token. Whoever holds a lease goes on while it is away, and so do orders.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_in_a_pkcs11_token() {
    let folder = tempfile::tempdir().unwrap();
    let token = SoftHsm::create(&folder.path().join("hsm"), "custodian");
    token.make_key("shares", 256, &["--sensitive"]);
    let options = Options {
        key_encryption_key: Some(token.section("shares")),
        environment: token.environment(),
        ..Options::default()
    };
    let mut system = System::start(options).await;
    let encrypted = system.encrypt(KEY).await;
    assert!(!system.layout.path("custodian/state/key-encryption-key.bin").exists());
    released_anew(&mut system, &encrypted).await;

    token.take_away();
    system.order(&["key", "create", "while-the-token-is-away"]);
    system.round_trip("while-the-token-is-away").await;
    let reason = "no share can be released: the key-encryption key is not available: token \"custodian\"";
    nothing_is_released(&mut system, &encrypted, reason).await;

    token.bring_back();
    system.serving().await;
    system.decrypt(&encrypted).await;
    system.round_trip("while-the-token-is-away").await;
    system.assert_no_panic();
}
