//! The end of a key where several custodians hold shares of the root key.

use holdfast_tests::system::{AAD, Encrypted, KEY};

use super::*;

fn generations(status: &Value) -> Vec<Value> {
    status["custodians"].as_array().unwrap().iter().map(|custodian| custodian["generations"].clone()).collect()
}

/// A destroyed key is unknown to KMS, all others decrypt what they encrypted; a custodian that was down deletes its old share once it is
/// back, and its share alone opens nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_destroyed_at_custodians_that_were_away_as_well() {
    let keys = vec![(KEY, "encrypt,decrypt"), ("doomed", "encrypt,decrypt")];
    let mut system = System::start(Options { keys, ..two_of_three() }).await;
    let (kept, lost) = (system.encrypt(KEY).await, system.encrypt("doomed").await);
    settled(&system, 4).await;
    assert_eq!(generations(&status(&system)), [json!([1]), json!([1]), json!([1])]);

    system.order(&["key", "schedule-destruction", "doomed", "--wait", "7d"]);
    decrypts(&system, &lost, Some("InvalidStateException")).await;
    system.order(&["key", "cancel-destruction", "doomed"]);
    system.order(&["key", "enable", "doomed"]);
    decrypts(&system, &lost, None).await;
    system.order(&["key", "schedule-destruction", "doomed", "--wait", "7d"]);

    system.custodian_mut(2).kill();
    let end = system.order(&["key", "destroy", "doomed", "--confirm", "doomed"]);
    assert_eq!(
        (&end["destroyed"], &end["harmless"]),
        (&json!(true), &json!(1)),
        "one share brings nothing back: {end}"
    );
    assert_eq!(end["custodians"][2]["state"], json!("unknown"), "{end}");
    decrypts(&system, &lost, Some("KeyNotFoundException")).await;
    decrypts(&system, &kept, None).await;

    system.custodian_mut(2).start().await;
    until("the old share is deleted everywhere", || async {
        (generations(&status(&system)) == [json!([2]), json!([2]), json!([2])]).then_some(())
    })
    .await;
    // The custodian that was away opens the key store with any other.
    system.custodian_mut(1).kill();
    system.start_enclave().await;
    system.serving().await;
    decrypts(&system, &kept, None).await;
    decrypts(&system, &lost, Some("KeyNotFoundException")).await;
    system.assert_no_panic();
}

async fn decrypts(system: &System, encrypted: &Encrypted, error: Option<&str>) {
    until(&format!("{} gives {error:?}", encrypted.key), || async {
        let answer = system.client().decrypt(&encrypted.key, &encrypted.body, Some(AAD)).await.ok()?;
        (answer.text("errorName") == error).then_some(())
    })
    .await;
}
