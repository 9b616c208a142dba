//! The key-encryption key elsewhere than in a file: the whole system, with each custodian's share wrapped there.

use holdfast_tests::softhsm::SoftHsm;
use holdfast_tests::system::{KEY, Options, System};
use holdfast_tests::wait::until;

/// A share in a PKCS #11 token: released while the token is there, refused while it is not. Whoever holds a lease goes on.
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
    let encrypted = system.round_trip(KEY).await;
    assert!(!system.layout.path("custodian/state/key-encryption-key.bin").exists());
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;

    token.take_away();
    // Orders are published and blocks delivered without the key-encryption key.
    system.order(&["key", "create", "while-the-token-is-away"]);
    system.round_trip("while-the-token-is-away").await;
    system.start_enclave().await;
    until("the custodian refuses a release", || async {
        let log = system.custodian.process.as_ref().unwrap().log();
        log.contains("no share can be released: the key-encryption key is not available: token \"custodian\"")
            .then_some(())
    })
    .await;

    token.bring_back();
    system.serving().await;
    system.decrypt(&encrypted).await;
    system.round_trip("while-the-token-is-away").await;
    system.assert_no_panic();
}
