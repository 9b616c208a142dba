//! Slow clients and floods, through the real parent into the real enclave, while a client that behaves is served.
//!
//! Every request of that client is answered with 200 (one is sent again at most, on a new connection, as KMS does). How long its
//! answers took is printed and asserted nowhere: attackers, proxy and tests share the machine.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::time::Duration;

use holdfast_tests::flood::{Attack, Flood, Witness, need_files};
use holdfast_tests::load::Mode;
use holdfast_tests::system::{KEY, Options, System, TenantOptions};
use holdfast_tests::wait::until;

/// Connections that are kept, and new ones.
const CLIENT: [Mode; 3] = [Mode::Http1, Mode::Http2, Mode::Fresh];

/// A counter of the enclave.
async fn enclave_counter(system: &System, name: &str) -> u64 {
    system.parent_status().await["enclave"]["status"]["counters"][name].as_u64().unwrap_or(0)
}

/// A counter of the parent.
async fn parent_counter(system: &System, name: &str) -> u64 {
    system.parent_status().await["counters"][name].as_u64().unwrap()
}

/// Resident memory of a process, in MiB.
fn resident_mib(process: Option<u32>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn print_memory(system: &System, what: &str) {
    let of = |process: &Option<holdfast_tests::process::Process>| {
        resident_mib(process.as_ref().map(holdfast_tests::process::Process::id))
    };
    eprintln!("{what}: parent {} MiB, enclave {} MiB resident", of(&system.parent), of(&system.enclave));
}

/// Each attack by itself: what it is, by how many, with which pause, and the counter of the enclave that tells of it.
const ATTACKS: [(Attack, usize, u64, Option<&str>); 12] = [
    (Attack::Silent, 500, 100, None),
    (Attack::Garbage, 50, 50, Some("handshakes_failed")),
    (Attack::SlowHello, 300, 100, Some("handshakes_timed_out")),
    (Attack::SlowHead, 200, 100, Some("connections_unproven")),
    (Attack::SlowBody, 200, 100, Some("requests_aborted")),
    (Attack::GiantHeaders, 20, 50, None),
    (Attack::Unsigned, 20, 10, Some("connections_unsigned")),
    (Attack::RapidReset, 20, 10, Some("connections_broken")),
    (Attack::Continuation, 20, 10, Some("connections_broken")),
    (Attack::Pings, 20, 10, None),
    (Attack::HeldStreams, 50, 10, Some("requests_no_room")),
    (Attack::NeverReads, 10, 100, None),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_slow_clients_and_floods() {
    need_files(4096);
    let system = System::start(Options::default()).await;
    let target = system.caller();
    let witness = Witness::start(&target, KEY, &CLIENT);
    witness.report("nobody else", 300).await;
    for (attack, clients, pause_ms, counter) in ATTACKS {
        let before = match counter {
            Some(counter) => enclave_counter(&system, counter).await,
            None => 0,
        };
        let flood = Flood::start(attack, &target, clients, Duration::from_millis(pause_ms));
        flood.has_begun(u64::try_from(clients).unwrap()).await;
        witness.report(&format!("{attack:?} by {clients}"), 200).await;
        if let Some(counter) = counter {
            until(&format!("{counter} counts {attack:?}"), || async {
                (enclave_counter(&system, counter).await > before).then_some(())
            })
            .await;
        }
    }
    witness.finish().await;
}

/// As many handshakes as a small machine has left to make, for the host of the client and for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_floods_of_handshakes_and_idle_connections() {
    need_files(8192);
    let mut system = System::start(Options::default()).await;
    let other = system.add_tenant(TenantOptions::new("bob")).await;
    let target = system.caller();
    let witness = Witness::start(&target, KEY, &CLIENT);
    witness.report("nobody else", 300).await;
    print_memory(&system, "nobody else");
    for (name, host) in [("the same host", &target), ("another host", &other.caller)] {
        let flood = Flood::start(Attack::Handshakes, host, 16, Duration::from_millis(1));
        flood.has_begun(100).await;
        witness.report(&format!("handshakes for {name}"), 200).await;
        eprintln!("{} handshakes begun", flood.rounds());
    }
    let flood = Flood::start(Attack::Idle, &target, 2000, Duration::from_secs(5));
    until("strangers hold all that strangers may", || async {
        (enclave_counter(&system, "connections_strangers").await >= 1000).then_some(())
    })
    .await;
    witness.report("2000 idle connections", 200).await;
    print_memory(&system, "2000 idle connections");
    assert!(enclave_counter(&system, "connections_strangers").await <= 1024);
    drop(flood);
    witness.finish().await;
}

/// An enclave of 256 places: 64 for strangers, 192 for the proven.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_places_are_shared() {
    need_files(8192);
    let mut system = System::start(Options { connections_max: Some(256), ..Options::default() }).await;
    let other = system.add_tenant(TenantOptions::new("bob")).await;
    let target = system.caller();
    let witness = Witness::start(&target, KEY, &CLIENT);
    witness.report("nobody else", 200).await;

    let flood = Flood::start(Attack::Idle, &other.caller, 300, Duration::from_millis(500));
    until("strangers displace strangers", || async {
        (enclave_counter(&system, "connections_strangers_displaced").await > 100).then_some(())
    })
    .await;
    witness.report("strangers at the cap", 200).await;
    drop(flood);

    // Valid credentials of another tenant.
    let flood = Flood::start(Attack::SignedAndKept, &other.caller, 300, Duration::from_millis(500));
    until("the other tenant is over its share", || async {
        (enclave_counter(&system, "connections_over_host_share").await > 20).then_some(())
    })
    .await;
    witness.report("another tenant with 300 signed connections", 200).await;
    assert!(enclave_counter(&system, "connections_proven").await <= 192);
    drop(flood);

    let flood = Flood::start(Attack::SignedHeldStreams, &other.caller, 150, Duration::from_millis(200));
    flood.has_begun(150).await;
    witness.report("another tenant with thousands of requests that do not end", 200).await;
    drop(flood);
    witness.finish().await;
}

/// The parent's own places: connections that say nothing make place for those that do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_silent_connections_at_the_parents_cap() {
    need_files(4096);
    let mut system = System::start(Options::default()).await;
    let path = system.layout.path("parent/parent.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("max_connections = 100\n{text}")).unwrap();
    system.start_parent().await;
    system.start_enclave().await;
    system.serving().await;
    let target = system.caller();
    let witness = Witness::start(&target, KEY, &CLIENT);
    witness.report("nobody else", 200).await;
    let flood = Flood::start(Attack::Silent, &target, 300, Duration::from_millis(200));
    until("silent connections are displaced", || async {
        (parent_counter(&system, "ingress_displaced").await > 300).then_some(())
    })
    .await;
    witness.report("silent connections at the parent's cap", 200).await;
    assert_eq!(parent_counter(&system, "ingress_over_cap").await, 0);
    drop(flood);
    witness.finish().await;
}
