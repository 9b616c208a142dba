//! Custodians and enclaves that end without a word.

use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::system::KEY;

use super::*;

/// Any two open the key store; with one the enclave names the others, and has no key.
#[tokio::test(flavor = "multi_thread")]
async fn any_two_of_three_custodians_open_the_key_store_and_one_does_not() {
    let mut system = System::start(two_of_three()).await;
    let old = system.encrypt(KEY).await;
    let first = settled(&system, 3).await;
    for away in 0..3 {
        system.custodian_mut(away).kill();
        system.round_trip(KEY).await;
        system.start_enclave().await;
        system.serving().await;
        system.decrypt(&old).await;
        if away > 0 {
            system.order(&["key", "create", &format!("without-{away}")]);
        }
        system.custodian_mut(away).start().await;
    }
    assert_eq!(settled(&system, first + 2).await, first + 2, "who was away has caught up");
    let names = ["custodian", "custodian-2", "custodian-3"];
    for up in 0..3 {
        for away in (0..3).filter(|away| *away != up) {
            system.custodian_mut(away).kill();
        }
        system.start_enclave().await;
        let away: Vec<_> = (0..3).filter(|away| *away != up).map(|away| names[away]).collect();
        let reason = reasoned(&system, &["1 of 2"]).await;
        for name in away {
            // The home custodian's name is the beginning of the others'.
            assert!(reason.split(|c: char| !c.is_alphanumeric() && c != '-').any(|word| word == name), "{reason}");
        }
        assert!(system.client().encrypt(KEY, b"text", None).await.is_err_and(|_| true), "it serves with one share");
        for away in (0..3).filter(|away| *away != up) {
            system.custodian_mut(away).start().await;
        }
        system.serving().await;
        system.decrypt(&old).await;
    }
    system.assert_no_panic();
}

/// SIGKILL between publishing and copying: the next enclave finds at home what nobody else holds, and finishes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_only_home_holds_is_finished_by_another_enclave() {
    let mut system = System::start(two_of_three()).await;
    let before = settled(&system, 3).await;
    withhold_copies(&mut system, 1, true);
    withhold_copies(&mut system, 2, true);
    let ordering = beside(&system.administrator, &["key", "create", "late", "--timeout", PATIENT]);
    let blob = until("home alone holds the next version", || async {
        let status = status(&system);
        let home = &status["custodians"][0];
        (versions(&status)[0] == Some((before + 1, false))).then(|| home["version"]["blob_id"].clone())
    })
    .await;
    assert!(!ordering.is_finished(), "shown before it was committed: {:?}", ordering.await);
    system.kill_enclave().await;
    withhold_copies(&mut system, 1, false);
    withhold_copies(&mut system, 2, false);
    system.start_enclave().await;
    ordering.await.unwrap().success();
    assert_eq!(settled(&system, before + 1).await, before + 1);
    for custodian in status(&system)["custodians"].as_array().unwrap() {
        assert_eq!(custodian["version"]["blob_id"], blob, "the version that was published first");
    }
    assert!(keys(&system).contains(&"late".to_owned()));
    system.round_trip("late").await;
    assert_eq!(times_ordered(&system.order(&["history"]), "create key late "), 1);
}

/// Enclaves that are killed anywhere in a change: each order is carried out once, whichever enclave it was that did.
#[tokio::test(flavor = "multi_thread")]
async fn orders_survive_enclaves_that_are_killed_at_any_moment() {
    killed_enclaves(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_orders_survive_enclaves_that_are_killed_at_any_moment() {
    killed_enclaves(60).await;
}

async fn killed_enclaves(rounds: usize) {
    let seed = fresh_seed();
    eprintln!("HOLDFAST_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    let mut system = System::start(two_of_three()).await;
    let old = system.encrypt(KEY).await;
    let before = settled(&system, 3).await;
    for round in 0..rounds {
        let name = format!("key-{round}");
        let ordering = beside(&system.administrator, &["key", "create", &name, "--timeout", PATIENT]);
        tokio::time::sleep(random.pause(250)).await;
        system.start_enclave().await;
        let said = ordering.await.unwrap();
        assert_eq!(said.code(), Some(0), "round {round}: {said:?}");
    }
    let rounds_count = u64::try_from(rounds).unwrap();
    assert_eq!(settled(&system, before + rounds_count).await, before + rounds_count);
    let history = system.order(&["history"]);
    for round in 0..rounds {
        assert_eq!(times_ordered(&history, &format!("create key key-{round} ")), 1, "round {round}: {history}");
    }
    system.decrypt(&old).await;
}

/// Home is killed while orders are given: what was said to be done is there, and what was not is done once it is back, or was never
/// taken.
#[tokio::test(flavor = "multi_thread")]
async fn orders_survive_a_home_custodian_that_is_killed_at_any_moment() {
    killed_home(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_orders_survive_a_home_custodian_that_is_killed_at_any_moment() {
    killed_home(40).await;
}

async fn killed_home(rounds: usize) {
    let seed = fresh_seed();
    eprintln!("HOLDFAST_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    let mut system = System::start(two_of_three()).await;
    let old = system.encrypt(KEY).await;
    let mut done = Vec::new();
    for round in 0..rounds {
        let name = format!("key-{round}");
        let ordering = beside(&system.administrator, &["key", "create", &name, "--timeout", PATIENT]);
        tokio::time::sleep(random.pause(250)).await;
        system.custodian_mut(0).kill();
        system.decrypt(&old).await;
        tokio::time::sleep(MOMENT).await;
        system.custodian_mut(0).start().await;
        let said = ordering.await.unwrap();
        if said.code() == Some(0) {
            done.push(name);
        } else {
            eprintln!("round {round}: {}", said.complaint().trim());
        }
    }
    // What failed for want of home is tried again after a while.
    system.order(&["key", "create", "last"]);
    nothing_waits(&system).await;
    settled(&system, 4).await;
    let (keys, history) = (keys(&system), system.order(&["history"]));
    eprintln!("{} of {rounds} were said to be done; keys: {keys:?}", done.len());
    for name in &done {
        assert!(keys.contains(name), "{name} was said to be done");
    }
    for round in 0..rounds {
        let name = format!("key-{round}");
        let times = times_ordered(&history, &format!("create key {name} "));
        assert_eq!(times, usize::from(keys.contains(&name)), "{name}: {history}");
    }
    system.decrypt(&old).await;
}
