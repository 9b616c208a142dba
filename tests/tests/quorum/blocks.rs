//! Blocks that one custodian missed.

use holdfast_client::{CustodianClient, Tcp};
use holdfast_shared::api;
use holdfast_tests::system::{AAD, KEY};

use super::*;

/// Waits until `Decrypt` of a message is answered with this status or error name.
async fn answered(system: &System, encrypted: &holdfast_tests::system::Encrypted, expected: &str) {
    until(&format!("Decrypt is answered with {expected}"), || async {
        let answer = system.client().decrypt(&encrypted.key, &encrypted.body, Some(AAD)).await.ok()?;
        let said = answer.text("errorName").unwrap_or("200").to_owned();
        (said == expected).then_some(())
    })
    .await;
}

/// One custodian missed a block and comes back: enclaves keep it whichever of the others tells them, old signatures lift nothing, and the
/// same order brings it to all.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_one_custodian_missed_stays_in_force() {
    Box::pin(missed(&[(&["--key", KEY], &[0]), (&["--store"], &[1])])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_a_block_that_one_custodian_missed_stays_in_force() {
    let each: &[usize] = &[0, 1];
    Box::pin(missed(&[(&["--key", KEY], each), (&["--store"], each), (&["--all"], each)])).await;
}

/// What is blocked while custodian 3 is away, and who is away when that one is back.
async fn missed(cases: &[(&[&str], &[usize])]) {
    let keys = vec![(KEY, "encrypt,decrypt"), ("other", "encrypt,decrypt")];
    let mut system = System::start(Options { keys, ..two_of_three() }).await;
    let (first, other) = (system.encrypt(KEY).await, system.encrypt("other").await);
    // Kept, as a hostile host would keep it: epoch 1 blocks, 2 lifts.
    system.order(&["block", "--store"]);
    let lift = system.layout.path("lift.signed").display().to_string();
    system.administrator.holdfast(&["unblock", "--store", "--out", &lift]).success();
    system.administrator.holdfast(&["send", &lift]).success();
    system.serving().await;

    for (scope, all_away) in cases {
        let is_key = scope.contains(&KEY);
        let blocked = if is_key { &first } else { &other };
        system.custodian_mut(2).kill();
        let said = system.order(&[&["block", "--timeout", "1s"], *scope].concat());
        let said = if said.is_array() { said[0].clone() } else { said };
        assert_eq!(
            (&said["complete"], &said["custodians"][2]["acknowledged"]),
            (&json!(true), &json!(false)),
            "{said}"
        );
        answered(&system, blocked, "InvalidStateException").await;
        system.custodian_mut(2).start().await;
        // Custodian 3, which missed it, and each of the others in turn.
        for &away in *all_away {
            system.custodian_mut(away).kill();
            replay(&system, 2, &lift).await;
            system.start_enclave().await;
            if is_key {
                system.serving().await;
                answered(&system, &other, "200").await;
                answered(&system, blocked, "InvalidStateException").await;
            } else {
                system.reports("Blocked", "").await;
                assert!(system.client().health().await.is_err(), "a host without a custodian's word has no name");
            }
            system.custodian_mut(away).start().await;
        }
        let found = warnings(&status(&system));
        assert!(found.iter().all(|warning| warning.contains("custodian-3 has block overlay")), "{found:?}");
        let scope: &[&str] = if is_key { scope } else { &["--store"] };
        let said = system.order(&[&["unblock"], scope].concat());
        assert_eq!(said["custodians"][2]["acknowledged"], json!(true), "{said}");
        quiet(&system).await;
        system.serving().await;
        answered(&system, &first, "200").await;
        answered(&system, &other, "200").await;
    }
    system.assert_no_panic();
}

/// An old signed overlay, to a custodian; it changes nothing.
async fn replay(system: &System, index: usize, file: &str) {
    let before = status(system)["custodians"][index]["overlay_epoch"].clone();
    let client = CustodianClient::new(Tcp, &system.manifest.manifest().custodians[index]).unwrap();
    let _ = client.post(api::BLOCKS, std::fs::read(file).unwrap(), 1024, Duration::from_secs(20)).await;
    assert_eq!(status(system)["custodians"][index]["overlay_epoch"], before);
}
