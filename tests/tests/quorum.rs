//! Several custodians for one key store, as separate processes that go, come back, and come back with less than they had.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_tests::applicant::Applicant;
use holdfast_tests::system::{Administrator, Front, Options, Said, System, static_configuration};
use holdfast_tests::tap::{Action, Direction, Fault};
use holdfast_tests::wait::until;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

#[path = "quorum/blocks.rs"]
mod blocks;
#[path = "quorum/destruction.rs"]
mod destruction;
#[path = "quorum/interleavings.rs"]
mod interleavings;
#[path = "quorum/outages.rs"]
mod outages;
#[path = "quorum/policies.rs"]
mod policies;
#[path = "quorum/restored.rs"]
mod restored;
#[path = "quorum/succession.rs"]
mod succession;

/// Three custodians, two shares needed, none hostile: two must be up for changes.
fn two_of_three() -> Options {
    Options { custodians: 3, shares_needed: 2, ..Options::default() }
}

/// Each custodian that a manifest names takes it, and grants an accepted enclave a lease of its own.
#[tokio::test(flavor = "multi_thread")]
async fn each_custodian_of_a_manifest_grants_a_lease_of_its_own() {
    let system = System::enrolled(Options { hostile_tolerated: 1, ..two_of_three() }).await;
    let manifest = system.manifest.manifest();
    let names: Vec<_> = manifest.custodians.iter().map(|custodian| custodian.name.as_str()).collect();
    assert_eq!(names, ["custodian", "custodian-2", "custodian-3"]);
    let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
    let mut leases = BTreeSet::new();
    for custodian in &manifest.custodians {
        leases.insert(applicant.obtain(custodian, system.key_store_id()).await.unwrap().content.lease_id);
    }
    assert_eq!(leases.len(), 3);
    system.assert_no_panic();
}

/// What `holdfast status` shows, whatever its exit code.
fn status(system: &System) -> Value {
    system.administrator.holdfast(&["status", "--json"]).shown()
}

/// The newest version of each custodian that answers, and whether it was told that it is committed.
fn versions(status: &Value) -> Vec<Option<(u64, bool)>> {
    let of = |custodian: &Value| {
        Some((custodian["version"]["version"].as_u64()?, custodian["committed"].as_bool().unwrap_or_default()))
    };
    status["custodians"].as_array().unwrap().iter().map(of).collect()
}

/// Waits until every custodian has the same committed version, at least this one. Returns it.
async fn settled(system: &System, least: u64) -> u64 {
    until(&format!("all custodians hold one version from {least} on"), || async {
        let status = status(system);
        let versions = versions(&status);
        let first = (*versions.first()?)?;
        let all = versions.iter().all(|version| *version == Some(first));
        (all && first.1 && first.0 >= least).then_some(first.0)
    })
    .await
}

/// The texts of the warnings in a status, with the severe ones marked.
fn warnings(status: &Value) -> Vec<String> {
    let text = |warning: &Value| {
        let mark = if warning["severe"] == json!(true) { "SEVERE " } else { "" };
        format!("{mark}{}", warning["text"].as_str().unwrap())
    };
    status["warnings"].as_array().unwrap().iter().map(text).collect()
}

/// Waits until a status warns of this. One look may miss a custodian that took its time.
async fn warned(system: &System, beginning: &str) {
    until(&format!("status warns: {beginning}"), || async {
        warnings(&status(system)).iter().any(|warning| warning.starts_with(beginning)).then_some(())
    })
    .await;
}

/// Waits until a status warns of nothing.
async fn quiet(system: &System) {
    until("status warns of nothing", || async { warnings(&status(system)).is_empty().then_some(()) }).await;
}

/// Runs the tool beside the test.
fn beside(administrator: &Administrator, arguments: &[&str]) -> JoinHandle<Said> {
    let administrator = administrator.clone();
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        administrator.holdfast(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    })
}

/// Ids of the keys of a system.
fn keys(system: &System) -> Vec<String> {
    let listed = system.order(&["key", "list"]);
    listed["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

/// How often the history has an order with this text, after every link of it was verified.
fn times_ordered(history: &Value, order: &str) -> usize {
    assert_eq!(history["verified"], json!(true), "{history}");
    let versions = history["versions"].as_array().unwrap();
    let commands = versions.iter().flat_map(|version| version["commands"].as_array().unwrap());
    commands.filter(|command| command["order"].as_str().is_some_and(|text| text.starts_with(order))).count()
}

/// Waits until the enclave gives a reason with all these words.
async fn reasoned(system: &System, words: &[&str]) -> String {
    until(&format!("the enclave's reason has {words:?}"), || async {
        let (_, reason) = system.reported(system.key_store_id()).await?;
        words.iter().all(|word| reason.contains(word)).then_some(reason)
    })
    .await
}

/// Whether copies of versions are kept from a custodian that answers everything else. TLS hides what a request says, not how long it is:
/// each has a connection of its own, and a copy, with the enclave's evidence for the version, is several times as long as what else an
/// enclave with a lease asks, or the tool.
fn withhold_copies(system: &mut System, index: usize, withheld: bool) {
    let cut = Fault { connection: None, direction: Direction::ToServer, offset: SHORT_MAX, action: Action::Drop };
    match &system.custodian_mut(index).front {
        Front::Tap(tap) => {
            tap.set_plan(if withheld { vec![cut] } else { Vec::new() });
            // Connections are kept: a plan is for those that are made after it.
            tap.cut();
        }
        Front::Interceptor(_) => unreachable!(),
    }
}

/// Bytes of a connection to a custodian over which no version is copied, at the most.
const SHORT_MAX: usize = 3000;
/// Waits until no order waits to be carried out.
async fn nothing_waits(system: &System) {
    until("nothing waits", || async { (system.order(&["pending"])["pending"] == json!([])).then_some(()) }).await;
}

/// How long the tool waits where it is to outlast an outage.
const PATIENT: &str = "2m";
/// A pause that makes nothing sure.
const MOMENT: Duration = Duration::from_millis(100);
