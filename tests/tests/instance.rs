//! The parent with `nitro-cli`: what it runs, watches, takes over, replaces and ends, and that no request fails meanwhile.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::process::Command;

use holdfast_tests::instance::Instance;
use holdfast_tests::load::{Load, Mode};
use holdfast_tests::process::Process;
use holdfast_tests::programs::program;
use holdfast_tests::system::{KEY, Options, System};
use holdfast_tests::wait::until;
use rustix::process::Signal;
use serde_json::Value;

/// Enough for two enclaves of the instance's configuration.
const TWO: u64 = 1024;

async fn enrolled(memory_mib: u64) -> (System, Instance) {
    let system = System::enrolled(Options::default()).await;
    let instance = Instance::new(&system, memory_mib);
    (system, instance)
}

/// A key store that is served by an enclave of `nitro-cli`.
async fn served(memory_mib: u64, more: &str) -> (System, Instance) {
    let (mut system, instance) = enrolled(memory_mib).await;
    instance.configure(&system, more);
    system.start_parent().await;
    system.prepare().await;
    (system, instance)
}

async fn boot_id(system: &System) -> Value {
    until("an enclave is connected", || async {
        let boot_id = system.parent_status().await["enclave"]["boot_id"].clone();
        (!boot_id.is_null()).then_some(boot_id)
    })
    .await
}

fn signal_parent(system: &mut System, signal: Signal) {
    system.parent.as_mut().unwrap().signal(signal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enclave_is_run_watched_and_ended() {
    let (mut system, instance) = served(TWO, "").await;
    let encrypted = system.encrypt(KEY).await;
    let runs = instance.calls("run-enclave");
    let expected = "run-enclave --enclave-name holdfast-16 --enclave-cid 16 --eif-path";
    assert!(runs.len() == 1 && runs[0].starts_with(expected), "{runs:?}");
    assert!(!runs[0].contains("debug"), "{runs:?}");
    system.logged("parent", "pcr0=").await;

    // It dies; another takes its place.
    let before = boot_id(&system).await;
    instance.kill_enclaves();
    system.logged("parent", "is gone; starting again in").await;
    instance.called("run-enclave", 2).await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    assert_ne!(boot_id(&system).await, before);

    // Nothing is left when the parent was told to end.
    signal_parent(&mut system, Signal::TERM);
    until("the parent ended", || {
        let ended = system.parent.as_mut().unwrap().ended();
        async move { ended }
    })
    .await;
    assert_eq!(instance.calls("terminate-enclave").len(), 1);
    assert_eq!(instance.enclaves(), Vec::<u32>::new());
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_parent_left_is_taken_over_or_ended_and_no_other_enclave_is_touched() {
    let (mut system, instance) = served(TWO, "").await;
    let log = system.layout.log("foreign");
    let foreign = Process::start("another's enclave", Command::new("sleep").arg("1000"), &log);
    instance.add_foreign("holdfast-other-16", 18, foreign.id());
    let encrypted = system.encrypt(KEY).await;
    let before = boot_id(&system).await;
    system.parent.take().unwrap().kill();
    system.start_parent().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    assert_eq!(boot_id(&system).await, before, "the enclave went on");
    assert_eq!(instance.calls("run-enclave").len(), 1);
    system.logged("parent", "is taken over").await;

    // Another image is wanted meanwhile: the one that was left is not ours to keep.
    system.parent.take().unwrap().kill();
    instance.place_image("second");
    system.start_parent().await;
    system.logged("parent", "is ended").await;
    // Until then it is the old one that serves.
    instance.called("run-enclave", 2).await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    assert_eq!(instance.calls("run-enclave").len(), 2);
    assert_ne!(boot_id(&system).await, before);
    assert_eq!(instance.enclaves().len(), 1);

    system.parent.take().unwrap().kill();
    let calls = instance.calls("terminate-enclave");
    assert!(calls.len() == 1 && !calls[0].contains("foreign"), "{calls:?}");
    let mut foreign = foreign;
    assert!(foreign.ended().is_none(), "somebody else's enclave must be left alone");
    foreign.kill();
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enclave_is_not_lost_when_nitro_cli_stumbles() {
    // There is memory for one enclave only: one that nobody knows of would be in the way of every other.
    let (mut system, instance) = enrolled(512).await;
    instance.configure(&system, "");
    instance.stumble_once("run-enclave");
    system.start_parent().await;
    system.logged("parent", "printed something else than it documents").await;
    instance.called("run-enclave", 2).await;
    system.prepare().await;
    assert_eq!((instance.calls("run-enclave").len(), instance.calls("terminate-enclave").len()), (2, 1));
    assert_eq!(instance.enclaves().len(), 1);

    // What a killed parent left is looked for until there is an answer.
    let before = boot_id(&system).await;
    system.parent.take().unwrap().kill();
    instance.stumble_once("describe-enclaves");
    system.start_parent().await;
    system.logged("parent", "is taken over").await;
    assert_eq!(boot_id(&system).await, before);

    // It is gone with the parent, although it was not terminated the first time.
    instance.stumble_once("terminate-enclave");
    signal_parent(&mut system, Signal::TERM);
    until("the parent ended", || {
        let ended = system.parent.as_mut().unwrap().ended();
        async move { ended }
    })
    .await;
    system.logged("parent", "was not terminated").await;
    assert_eq!(instance.enclaves(), Vec::<u32>::new());
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named_with_the_remedy_and_tried_again() {
    let (mut system, instance) = enrolled(256).await;
    instance.configure(&system, "");
    system.start_parent().await;
    let line = system.logged_after("parent", 0, &["E27, E39", "starting again in"]).await;
    assert!(line.contains("memory_mib in /etc/nitro_enclaves/allocator.yaml"), "{line}");
    assert!(line.contains("systemctl restart nitro-enclaves-allocator.service"), "{line}");

    instance.fail_with("E22", "Insufficient CPUs available in the pool. User provided `cpu-count` is 2.");
    instance.set_memory(TWO);
    let line = system.logged_after("parent", 0, &["E22, E39", "starting again in"]).await;
    assert!(line.contains("cpu_count in /etc/nitro_enclaves/allocator.yaml"), "{line}");
    instance.fail_with("", "");
    system.logged("parent", "an enclave was started").await;
    boot_id(&system).await;

    // The same before anything is started; this machine has no driver, which is said first.
    let mut check = Command::new(program("holdfast-parent"));
    check.arg("--config").arg(system.layout.path("parent/parent.toml")).arg("--check-instance");
    let output = holdfast_tests::process::run(&mut check);
    let table = String::from_utf8(output.stdout).unwrap();
    let line_of = |what: &str| table.lines().find(|line| line.starts_with(what)).unwrap().to_owned();
    assert!(line_of("nitro-cli").contains("ok      1 enclaves run"), "{table}");
    assert!(line_of("image").contains("ok      PCR0 "), "{table}");
    let has_driver = std::path::Path::new("/dev/nitro_enclaves").exists();
    assert_eq!(line_of("driver").contains("FAILED"), !has_driver, "{table}");
    assert_eq!(output.status.code() == Some(1), table.contains("FAILED"), "{table}");
    system.assert_no_panic();
}

/// Clients in every way, while the image is replaced: not one request fails, and new ones are served by the new enclave.
async fn upgraded_under_load(system: &mut System, change: impl FnOnce(&System)) {
    let before = boot_id(system).await;
    let modes = [Mode::Http1, Mode::Http2, Mode::Fresh, Mode::Http1];
    let load = Load::start_following("clients", &system.caller(), KEY, &modes);
    load.goes_on(10).await;
    let start = system.log_length("parent");
    change(system);
    signal_parent(system, Signal::HUP);
    system.logged_after("parent", start, &["the new enclave has taken over"]).await;
    system.logged_after("parent", start, &["the old enclave has finished"]).await;
    load.goes_on(20).await;
    load.finish().await;
    assert_ne!(boot_id(system).await, before);
    let status = until("the old enclave is gone", || async {
        let status = system.parent_status().await;
        status["other_enclave"].is_null().then_some(status)
    })
    .await;
    assert_eq!(status["ready"], true);
    assert_eq!(status["counters"]["ingress_enclave_unreachable"], 0, "no client was sent to an enclave that was gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_fails_no_request() {
    let (mut system, instance) = served(TWO, "").await;
    for content in ["second", "third"] {
        upgraded_under_load(&mut system, |_| instance.place_image(content)).await;
        until("the old enclave was terminated", || async { (instance.enclaves().len() == 1).then_some(()) }).await;
    }
    let cids: Vec<_> =
        instance.calls("run-enclave").iter().map(|call| call.split_whitespace().nth(4).unwrap().to_owned()).collect();
    assert_eq!(cids, ["16", "17", "16"]);
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_of_a_command_fails_no_request() {
    let (mut system, instance) = enrolled(0).await;
    instance.configure_command(&system, "first");
    system.start_parent().await;
    system.prepare().await;
    upgraded_under_load(&mut system, |system| instance.configure_command(system, "second")).await;
    assert_eq!(instance.calls(""), Vec::<String>::new(), "no nitro-cli");
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_fails_leaves_the_old_enclave_serving() {
    let (mut system, instance) = served(TWO, "ready_timeout_ms = 1500").await;
    let before = boot_id(&system).await;
    let load = Load::start("clients", &system.caller(), KEY, &[Mode::Http1, Mode::Http2, Mode::Fresh]);
    // One that boots and says nothing, one that does not start, and one for which there is no memory.
    instance.place_image("silent");
    signal_parent(&mut system, Signal::HUP);
    system.logged_after("parent", 0, &["the upgrade failed", "did not connect within"]).await;
    load.goes_on(5).await;
    instance.fail_with("E36", "Enclave boot failure.");
    instance.place_image("unbootable");
    signal_parent(&mut system, Signal::HUP);
    system.logged_after("parent", 0, &["the upgrade failed", "E36, E39", "did not boot"]).await;
    load.goes_on(5).await;
    instance.fail_with("", "");
    instance.set_memory(512);
    signal_parent(&mut system, Signal::HUP);
    system.logged_after("parent", 0, &["the upgrade failed", "E27, E39"]).await;
    load.goes_on(5).await;
    load.finish().await;
    assert_eq!(boot_id(&system).await, before);
    until("the new enclave was terminated", || async { (instance.enclaves().len() == 1).then_some(()) }).await;
    assert_eq!(system.parent_status().await["counters"]["upgrade_failed"], 3);
    system.assert_no_panic();
}
