//! Release policies that change while the system runs.

use std::collections::BTreeMap;

use holdfast_devkit::nsm::{PcrSource, SettingsChange};
use holdfast_devkit::up::configurations::{measured_content, measurements};
use holdfast_shared::attestation::measurements::pcr_of_content;
use holdfast_tests::system::KEY;

use super::*;

const NEXT_IMAGE: &str = "the next image";

/// The next image is accepted, the one before gets an end: an enclave of it ends at its next renewal, one of the next serves.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_end_has_come_is_not_renewed() {
    let mut system = System::start(Options { lease: "10s", ..two_of_three() }).await;
    let encrypted = system.encrypt(KEY).await;
    let old = measurements(&static_configuration());
    let mut next = old.clone();
    next.pcr0 = pcr_of_content(NEXT_IMAGE.as_bytes());
    let file = system.layout.path("next.json");
    std::fs::write(&file, serde_json::to_vec(&next).unwrap()).unwrap();
    let accepted = system.order(&["release-policy", "accept-image", &file.display().to_string(), "--name", "next"]);
    assert_eq!(accepted["complete"], json!(true), "{accepted}");
    system.decrypt(&encrypted).await;
    let ended = system.order(&["release-policy", "sunset", &hex::encode(old.pcr0)[..16]]);
    assert_eq!((&ended["complete"], &ended["epoch"]), (&json!(true), &json!(3)), "{ended}");
    until("the old image serves no more", || async {
        let answer = system.client().encrypt(KEY, b"text", None).await;
        answer.map_or(true, |answer| !answer.status.is_success()).then_some(())
    })
    .await;
    // A new boot of it gets nothing at all.
    system.start_enclave().await;
    reasoned(&system, &["measurements"]).await;

    let mut pcrs: BTreeMap<_, _> = [1, 2].map(|index| (index, PcrSource::Content(measured_content(index)))).into();
    pcrs.insert(0, PcrSource::Content(NEXT_IMAGE.to_owned()));
    system.change_nsm(&SettingsChange { pcrs: Some(pcrs), ..SettingsChange::default() });
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    system.order(&["key", "create", "since"]);
    assert_eq!(system.order(&["history"])["verified"], json!(true), "by both images, each as long as it was accepted");
    system.assert_no_panic();
}

/// A boot that needs approvals waits for them, is shown with its evidence, and serves once it has them; it keeps them for its life.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_waits_until_an_administrator_approved_it() {
    let mut system = System::start(Options { other_administrators: vec!["bob"], ..two_of_three() }).await;
    let encrypted = system.encrypt(KEY).await;
    system.order(&["release-policy", "require-approvals", "2"]);
    system.decrypt(&encrypted).await;
    system.start_enclave().await;
    let waiting = until("a boot waits at all custodians", || async {
        let shown = system.order(&["release", "list"]);
        let waiting = shown["waiting"].as_array().unwrap().clone();
        (waiting.len() == 1 && waiting[0]["at"].as_array().unwrap().len() == 3).then(|| waiting[0].clone())
    })
    .await;
    assert!(waiting["evidence"].is_object(), "{waiting}");
    reasoned(&system, &["approv"]).await;
    let boot = waiting["boot_id"].as_str().unwrap();
    let unasked = system.administrator.holdfast(&["release", "approve", &boot[..8]]);
    assert_eq!(unasked.code(), Some(1), "{unasked:?}");
    system.order(&["release", "approve", &boot[..8], "--yes"]);
    let approved = system.order(&["release", "list"]);
    assert_eq!(approved["waiting"][0]["at"][0]["approved_by"], json!(["alice"]), "{approved}");
    assert!(system.client().encrypt(KEY, b"text", None).await.is_err(), "one of two approvals");
    system.other_administrators[0].holdfast(&["release", "approve", &boot[..8], "--yes"]).success();
    system.serving().await;
    system.decrypt(&encrypted).await;
    // Another boot has none.
    system.start_enclave().await;
    reasoned(&system, &["approv"]).await;
    system.order(&["release-policy", "require-approvals", "0"]);
    system.serving().await;
    system.decrypt(&encrypted).await;
    system.assert_no_panic();
}
