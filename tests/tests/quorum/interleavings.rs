//! Two administrators, two hosts, and processes that are killed while all of them work.

use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::system::{Caller, Host, KEY, credential_of};

use super::*;

/// Each signs what the other ordered, both at once: no approval is lost, and each order is carried out once.
#[tokio::test(flavor = "multi_thread")]
async fn approvals_from_two_folders_at_once_are_all_counted() {
    let thresholds = vec!["keys=2"];
    let system =
        System::start(Options { keys: Vec::new(), other_administrators: vec!["bob"], thresholds, ..two_of_three() })
            .await;
    let (alice, bob) = (&system.administrator, &system.other_administrators[0]);
    let dry = alice.holdfast(&["key", "create", "never", "--dry-run", "--json"]).json();
    assert_eq!(dry["needed"], json!(2), "{dry}");
    assert_eq!(bob.holdfast(&["pending", "--json"]).json()["pending"], json!([]));
    let orders: Vec<_> = (0..2).flat_map(|n| [(alice, format!("a-{n}")), (bob, format!("b-{n}"))]).collect();
    let ordering: Vec<_> = orders.iter().map(|(who, key)| beside(who, &["key", "create", key])).collect();
    for said in ordering {
        let said = said.await.unwrap();
        assert_eq!(said.code(), Some(4), "{said:?}");
        assert!(said.complaint().contains("needs 2 approvals, has 1"), "{said:?}");
    }
    let pending = alice.holdfast(&["pending", "--json"]).json();
    let pending = pending["pending"].as_array().unwrap();
    assert_eq!(pending.len(), 4);
    let approving = pending.iter().map(|order| {
        let other = if order["signed_by"] == json!(["alice"]) { bob } else { alice };
        beside(other, &["approve", order["command_id"].as_str().unwrap(), "--yes", "--timeout", PATIENT])
    });
    for said in approving.collect::<Vec<_>>() {
        said.await.unwrap().success();
    }
    let mut keys = keys(&system);
    keys.sort();
    assert_eq!(keys, ["a-0", "a-1", "b-0", "b-1"]);
    let history = system.order(&["history"]);
    for key in &keys {
        assert_eq!(times_ordered(&history, &format!("create key {key} ")), 1, "{history}");
    }
    system.assert_no_panic();
}

/// What an administrator was told.
#[derive(Default)]
struct Told {
    created: Vec<String>,
    rotations: usize,
    credentials: Vec<Value>,
    failures: Vec<String>,
}

/// Orders one after the other.
async fn work(administrator: Administrator, name: &'static str, orders: usize, mut random: Random) -> Told {
    let mut told = Told::default();
    for number in 0..orders {
        let key = format!("{name}-{number}");
        let kind = random.below(3);
        let order: &[&str] = match kind {
            0 => &["key", "create", &key],
            1 => &["key", "rotate", KEY],
            _ => &["credential", "create", "--show-secret"],
        };
        let said = beside(&administrator, &[order, &["--timeout", PATIENT, "--json"]].concat()).await.unwrap();
        if said.code() != Some(0) {
            told.failures.push(format!("{}: {}", order.join(" "), said.complaint().trim()));
            continue;
        }
        match kind {
            0 => told.created.push(key),
            1 => told.rotations += 1,
            _ => told.credentials.push(said.json()),
        }
        tokio::time::sleep(random.pause(100)).await;
    }
    told
}

/// Kills an enclave or a custodian, and starts it again.
async fn trouble(system: &mut System, host: &mut Host, random: &mut Random) {
    tokio::time::sleep(random.pause(700)).await;
    match random.below(4) {
        0 => system.start_enclave().await,
        1 => host.start_enclave().await,
        _ => {
            system.custodian_mut(2).kill();
            tokio::time::sleep(random.pause(500)).await;
            system.custodian_mut(2).start().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_two_administrators_at_two_hosts_are_carried_out_once() {
    Box::pin(interleaved(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_orders_of_two_administrators_at_two_hosts_are_carried_out_once() {
    Box::pin(interleaved(60)).await;
}

async fn interleaved(orders: usize) {
    let seed = fresh_seed();
    eprintln!("HOLDFAST_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    let mut system = System::start(Options { other_administrators: vec!["bob"], ..two_of_three() }).await;
    let mut host = system.add_host().await;
    host.caller(&system).serving().await;
    let encrypted = system.encrypt(KEY).await;
    let (alice, bob) = (system.administrator.clone(), system.other_administrators[0].clone());
    let alice = tokio::spawn(work(alice, "alice", orders, Random::seeded(random.next())));
    let bob = tokio::spawn(work(bob, "bob", orders, Random::seeded(random.next())));
    while !(alice.is_finished() && bob.is_finished()) {
        trouble(&mut system, &mut host, &mut random).await;
    }
    let told = [alice.await.unwrap(), bob.await.unwrap()];
    for failure in told.iter().flat_map(|told| &told.failures) {
        eprintln!("not done: {failure}");
    }
    // Whoever gave up waiting has ordered all the same.
    nothing_waits(&system).await;
    settled(&system, 1).await;
    let (listed, history) = (system.order(&["key", "list"]), system.order(&["history"]));
    for key in told.iter().flat_map(|told| &told.created) {
        assert_eq!(times_ordered(&history, &format!("create key {key} ")), 1, "{key}: {history}");
        assert_eq!(listed["keys"].as_array().unwrap().iter().filter(|one| one["id"] == json!(key)).count(), 1, "{key}");
    }
    let (rotated, said) =
        (times_ordered(&history, &format!("rotate key {KEY}")), told.iter().map(|told| told.rotations).sum());
    assert!(rotated >= said, "{rotated} rotations on record, {said} were said to be done");
    let both = listed["keys"].as_array().unwrap().iter().find(|one| one["id"] == json!(KEY)).unwrap();
    assert_eq!(both["current_version"], json!(rotated + 1), "{listed}");
    for caller in [system.caller(), host.caller(&system)] {
        caller.serving().await;
        for shown in told.iter().flat_map(|told| &told.credentials) {
            Caller { credential: credential_of(shown), ..caller.clone() }.serving().await;
        }
        let answer = caller.client().decrypt(KEY, &encrypted.body, Some(holdfast_tests::system::AAD)).await.unwrap();
        assert!(answer.status.is_success(), "{}", answer.body);
    }
    system.assert_no_panic();
}
