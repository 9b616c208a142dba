//! A key store of which one custodian keeps one share and AWS KMS the other, through the real programs and a double of KMS.

use holdfast_tests::aws::{Aws, image};
use holdfast_tests::system::{Encrypted, KEY, Options, System};
use holdfast_tests::wait::until;

/// An enclave that starts now gets no keys, and says this.
async fn starts_for_nothing(system: &mut System, encrypted: &Encrypted, reason: &str) {
    system.start_enclave().await;
    system.reports("AwaitingCustodian", reason).await;
    // Without its keys the enclave has no certificate to show either.
    let answer = system.client().decrypt(KEY, &encrypted.body, None).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enclave_needs_the_custodians_share_and_that_of_kms_for_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let mut aws = Aws::start(folder.path()).await;
    let options = Options { shares_needed: 2, kms: Some(aws.endpoint()), ..Options::default() };
    let mut system = System::enrolled(options).await;
    let (id, nsm_root) = (system.key_store_id(), system.layout.path("nsm/root.pem"));

    // No ceremony without KMS: nobody is given a share of a root key that KMS has none of.
    system.start_enclave().await;
    system.reports("AwaitingCustodian", "the share at AWS KMS: KMS at localhost").await;
    aws.run(id, &image(), &nsm_root).await;
    system.prepare().await;
    let encrypted = system.encrypt(KEY).await;

    let asked = aws.tap.recorded().len();
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    assert!(aws.tap.recorded().len() > asked, "opened without KMS");

    // While it serves, KMS plays no role; for an enclave that starts, it does.
    aws.kill();
    system.round_trip(KEY).await;
    starts_for_nothing(&mut system, &encrypted, "the share at AWS KMS: KMS at localhost").await;

    aws.run(id, "another image", &nsm_root).await;
    starts_for_nothing(&mut system, &encrypted, "AccessDeniedException").await;

    aws.run(id, &image(), &nsm_root).await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    system.round_trip(KEY).await;
    system.assert_no_panic();
    for (path, log) in system.logs() {
        assert!(!log.contains("wJalrXUtnFEMI") && !log.contains("IQoJb3JpZ2lu"), "{path} shows credentials");
    }
}

/// What a block drops comes back with KMS's share, and a new root key is shared with KMS anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_and_a_new_root_key_ask_kms_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut aws = Aws::start(folder.path()).await;
    let options = Options { shares_needed: 2, kms: Some(aws.endpoint()), ..Options::default() };
    let mut system = System::enrolled(options).await;
    aws.run(system.key_store_id(), &image(), &system.layout.path("nsm/root.pem")).await;
    system.start_enclave().await;
    system.prepare().await;
    let encrypted = system.encrypt(KEY).await;

    let asked = aws.tap.recorded().len();
    system.order(&["block", "--store"]);
    system.order(&["unblock", "--store"]);
    system.serving().await;
    system.decrypt(&encrypted).await;
    assert!(aws.tap.recorded().len() > asked, "opened again without KMS");

    // Nothing is changed that KMS has no share of.
    aws.kill();
    let refused = system.administrator.holdfast(&["root-key", "rotate", "--timeout", "5s"]);
    assert_ne!(refused.code(), Some(0), "{refused:?}");
    aws.run(system.key_store_id(), &image(), &system.layout.path("nsm/root.pem")).await;
    system.order(&["root-key", "rotate"]);
    system.decrypt(&encrypted).await;
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    until("the custodian holds one share, of the newest root key", || async {
        let status = system.administrator.holdfast(&["status", "--json"]).shown();
        let held = status["custodians"][0]["generations"].as_array()?.clone();
        // Both orders were carried out: the one that KMS held up, too.
        (held == [3]).then_some(())
    })
    .await;
    system.assert_no_panic();
}
