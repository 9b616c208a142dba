//! Budgets of uses across a fleet: never more uses than the budget, whoever is killed, and few less; more by command; none without the
//! custodian that counts.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use holdfast_shared::keystore::{BudgetSpan, BudgetWindow};
use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::system::{Caller, Host, KEY, Options, System};
use holdfast_tests::wait::until;
use http::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;

const ENCLAVES: usize = 3;
const FIRST: u64 = 400;
/// One in a hundred of it.
const SLICE: u64 = 4;
const RAISED: u64 = 500;
const KILLS: u64 = 4;
/// Refusals in a row after which an enclave has no use left.
const REFUSALS: u64 = 10;
/// Between two requests of a client that was not served: enclaves that start need the machine as well.
const PAUSE: Duration = Duration::from_millis(10);

/// What clients saw.
#[derive(Default)]
struct Seen {
    stopped: AtomicBool,
    served: AtomicU64,
    refused_in_a_row: [AtomicU64; ENCLAVES],
}

impl Seen {
    fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    async fn serves(&self, goal: u64) {
        until(&format!("{goal} uses"), || async { (self.served() >= goal).then_some(()) }).await;
    }
}

async fn client(seen: Arc<Seen>, caller: Caller, enclave: usize) {
    let client = caller.client();
    while !seen.stopped.load(Ordering::SeqCst) {
        match client.encrypt(KEY, b"text", None).await.map(|answer| answer.status) {
            Ok(StatusCode::OK) => {
                seen.served.fetch_add(1, Ordering::SeqCst);
                seen.refused_in_a_row[enclave].store(0, Ordering::SeqCst);
                continue;
            }
            Ok(StatusCode::TOO_MANY_REQUESTS) => {
                seen.refused_in_a_row[enclave].fetch_add(1, Ordering::SeqCst);
            }
            // Killed, or not yet there again.
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn today() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    BudgetWindow::at(BudgetSpan::Day, now.as_millis().try_into().unwrap()).number.into()
}

/// What is debited of the key in the present window.
fn debited(system: &System, span: &str) -> u64 {
    let shown = system.order(&["budget", "show"]);
    let key = shown["keys"].as_array().unwrap().iter().find(|key| key["key"] == KEY);
    let lines = key.and_then(|key| key["debited"].as_array()).cloned().unwrap_or_default();
    lines.iter().find(|line| line["span"] == span).map_or(0, |line| line["debited"].as_u64().unwrap())
}

async fn kill_and_start(system: &mut System, hosts: &mut [Host], enclave: usize) {
    match enclave.checked_sub(1) {
        None => system.start_enclave().await,
        Some(place) => hosts[place].start_enclave().await,
    }
}

/// Windows are days: should one end while this runs, its end doubles what may be used.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_never_uses_more_than_the_budget_whoever_is_killed() {
    let seed = fresh_seed();
    println!("seed: HOLDFAST_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    let mut system = System::start(Options::default()).await;
    let budget = |uses: u64| format!("{KEY}={uses}/day");
    let first_day = today();
    // The further enclaves boot with that version, and the first one has it when something is debited.
    assert_eq!(system.order(&["budget", "set", "--key", &budget(FIRST)])["done"], "budgets set");
    until("a slice is debited", || async { (debited(&system, "day") > 0).then_some(()) }).await;
    let mut hosts = Vec::new();
    for _ in 1..ENCLAVES {
        hosts.push(system.add_host().await);
    }
    let further = hosts.iter().map(|host| host.caller(&system));
    let callers: Vec<_> = std::iter::once(system.caller()).chain(further).collect();
    for caller in &callers {
        caller.serving().await;
    }

    let counted = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    for (enclave, caller) in callers.iter().enumerate() {
        clients.spawn(client(Arc::clone(&counted), caller.clone(), enclave));
    }
    for kill in 1..=KILLS {
        counted.serves(kill * FIRST / (KILLS + 2)).await;
        kill_and_start(&mut system, &mut hosts, random.below(ENCLAVES)).await;
    }
    until("all is debited and nothing is left", || async {
        let is_empty = |refused: &AtomicU64| refused.load(Ordering::SeqCst) >= REFUSALS;
        (counted.refused_in_a_row.iter().all(is_empty) && debited(&system, "day") >= FIRST).then_some(())
    })
    .await;
    let (used, days) = (counted.served(), today() - first_day + 1);
    println!("{used} of {FIRST} uses over {KILLS} kills");
    assert!(used <= days * FIRST, "{used} uses");
    // Each kill costs the slice of that enclave, and an answer that did not reach its client; what is debited last may not be used yet.
    let lost = KILLS * (SLICE + 1) + 3 * SLICE;
    assert!(used + lost >= FIRST, "{used} uses, {lost} may be lost");

    // More by command, within the same day.
    assert_eq!(system.order(&["budget", "set", "--key", &budget(RAISED)])["done"], "budgets set");
    counted.serves(used + (RAISED - FIRST) / 2).await;
    counted.stopped.store(true, Ordering::SeqCst);
    while clients.join_next().await.is_some() {}
    let (used, days) = (counted.served(), today() - first_day + 1);
    assert!(used <= days * RAISED, "{used} uses");
    system.logged("parent", "uses of this day are debited").await;
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_home_custodian_the_purse_is_all_there_is() {
    let mut system = System::start(Options::default()).await;
    assert_eq!(system.order(&["budget", "show"])["every_key"], Value::Null);
    system.order(&["budget", "set", "--every-key", "100000/hour,500/day"]);
    let encrypt = async |system: &System| system.client().encrypt(KEY, b"text", None).await.unwrap();
    until("a use is debited", || async {
        (encrypt(&system).await.status == StatusCode::OK && debited(&system, "day") > 0).then_some(())
    })
    .await;
    system.custodian.kill();
    let refused = until("the purse is empty", || async {
        for _ in 0..100 {
            let answer = encrypt(&system).await;
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                return Some(answer);
            }
        }
        None
    })
    .await;
    assert_eq!(refused.text("errorName"), Some("ThrottlingException"), "{}", refused.body);
    assert_eq!(system.client().metadata(KEY).await.unwrap().status, StatusCode::OK, "metadata is no use");
    system.custodian.start().await;
    until("uses are debited again", || async { (encrypt(&system).await.status == StatusCode::OK).then_some(()) }).await;
    assert!(debited(&system, "day") > 5, "what was debited before the custodian was killed is remembered");

    let shown = system.order(&["budget", "show"]);
    assert_eq!((&shown["every_key"]["per_hour"], &shown["every_key"]["per_day"]), (&100_000.into(), &500.into()));
    let unknown = system.administrator.holdfast(&["budget", "set", "--key", "no-such=1/hour"]);
    assert!(unknown.code() == Some(1) && unknown.complaint().contains("there is no key no-such"), "{unknown:?}");
    system.order(&["budget", "clear"]);
    until("nothing is counted any more", || async {
        for _ in 0..20 {
            (encrypt(&system).await.status == StatusCode::OK).then_some(())?;
        }
        Some(())
    })
    .await;
    system.assert_no_panic();
}
