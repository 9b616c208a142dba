//! Custodians that come back with an old copy of their tables.

use holdfast_tests::system::KEY;

use super::*;

fn one_hostile() -> Options {
    Options { hostile_tolerated: 1, ..two_of_three() }
}

/// Stops a custodian, and keeps a copy of what it has.
async fn backed_up(system: &mut System, index: usize) {
    system.custodian_mut(index).stop();
    system.custodian_mut(index).back_up("old");
    system.custodian_mut(index).start().await;
}

async fn restored(system: &mut System, index: usize) {
    system.custodian_mut(index).stop();
    system.custodian_mut(index).restore("old");
    system.custodian_mut(index).start().await;
}

/// A restored custodian is named by the tool with the version that was seen of it, and enclaves bring it up to date.
#[tokio::test(flavor = "multi_thread")]
async fn a_custodian_restored_from_an_old_copy_is_named_and_brought_up_to_date() {
    let mut system = System::start(one_hostile()).await;
    let old = settled(&system, 3).await;
    backed_up(&mut system, 1).await;
    system.order(&["key", "create", "since"]);
    let newest = settled(&system, old + 1).await;
    let encrypted = system.encrypt("since").await;
    system.kill_enclave().await;
    restored(&mut system, 1).await;
    warned(&system, &format!("SEVERE custodian-2 offers version {old}, but version {newest} was seen here")).await;
    assert_eq!(system.administrator.holdfast(&["status"]).code(), Some(1));
    // A new enclave is not led astray, and mends it.
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    settled(&system, newest).await;
    quiet(&system).await;
    assert_eq!(system.administrator.holdfast(&["status"]).code(), Some(0));
    // So does one that runs.
    restored(&mut system, 1).await;
    settled(&system, newest).await;
    system.order(&["key", "create", "later"]);
    assert_eq!(settled(&system, newest + 1).await, newest + 1);
    system.decrypt(&encrypted).await;
    system.assert_no_panic();
}

/// A restored home never takes the key store back: the other custodians hold the newest version, and home gets it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_custodian_restored_from_an_old_copy_takes_nothing_back() {
    let mut system = System::start(one_hostile()).await;
    let old = settled(&system, 3).await;
    backed_up(&mut system, 0).await;
    system.order(&["key", "create", "since"]);
    let newest = settled(&system, old + 1).await;
    let encrypted = system.encrypt("since").await;
    system.kill_enclave().await;
    restored(&mut system, 0).await;
    warned(&system, &format!("SEVERE custodian offers version {old}, but version {newest} was seen here")).await;
    assert_eq!(system.administrator.holdfast(&["status"]).code(), Some(1));
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    settled(&system, newest).await;
    system.order(&["key", "create", "later"]);
    assert_eq!(settled(&system, newest + 1).await, newest + 1);
    // The versions are all there; who ordered the one that home had lost stood in home's tables alone.
    let history = system.order(&["history"]);
    assert_eq!(times_ordered(&history, "create key later "), 1, "{history}");
    let of_since = &history["versions"][usize::try_from(newest - 1).unwrap()];
    assert_eq!(of_since["commands"][0]["order"], Value::Null, "{history}");
    // Under an enclave that runs.
    restored(&mut system, 0).await;
    settled(&system, newest + 1).await;
    system.decrypt(&encrypted).await;
    system.order(&["key", "create", "last"]);
    assert_eq!(settled(&system, newest + 2).await, newest + 2);
    assert!(["since", "later", "last", KEY].iter().all(|key| keys(&system).contains(&(*key).to_owned())));
    system.assert_no_panic();
}
