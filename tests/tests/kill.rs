//! `holdfast kill`: whom it hits, and when the last enclave stopped; and the status that goes on.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use holdfast_tests::programs::program;
use holdfast_tests::system::{KEY, Options, System};
use holdfast_tests::wait::until;
use http::StatusCode;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_tells_whom_it_hits_and_when_the_last_enclave_stopped() {
    let mut system = System::start(Options::default()).await;
    let mut host = system.add_host().await;
    let callers = [system.caller(), host.caller(&system)];
    for caller in &callers {
        caller.serving().await;
    }
    system.encrypt(KEY).await;
    let folder = system.layout.path("parent/audit");
    let asked = ["kill", "--key", KEY, "--log", folder.to_str().unwrap(), "--dry-run"];
    // In mode relaxed, records reach the disk a little later.
    let shown = until("the log tells who used the key", || async {
        let shown = system.order(&asked);
        (shown["usage"]["users"] != json!([])).then_some(shown)
    })
    .await;
    assert_eq!((&shown["scope"], &shown["enclaves"]), (&json!(format!("key {KEY}")), &json!(2)));
    assert!(shown["usage"]["users"][0]["encrypts"].as_u64() >= Some(1), "{shown:#}");
    assert_eq!(
        callers[0].client().encrypt(KEY, b"text", None).await.unwrap().status,
        StatusCode::OK,
        "a dry run blocks nothing"
    );
    let unasked = system.administrator.holdfast(&["kill", "--key", KEY]);
    assert!(unasked.code() == Some(1) && unasked.complaint().contains("--yes"), "{unasked:?}");

    let report = system.order(&["kill", "--key", KEY, "--yes"]);
    assert_eq!(
        (&report["enclaves"]["stopped"], &report["enclaves"]["all_known"]),
        (&json!(2), &json!(true)),
        "{report:#}"
    );
    assert!(report["enclaves"]["last_after_ms"].is_u64(), "{report:#}");
    for caller in &callers {
        let answer = caller.client().encrypt(KEY, b"text", None).await.unwrap();
        assert_eq!(
            answer.text("errorName"),
            Some("InvalidStateException"),
            "an enclave that stopped answers nothing more"
        );
    }

    // An enclave that ended without a word is named: nobody can tell it from one whose wires were cut.
    host.kill_enclave().await;
    let incomplete = system.administrator.holdfast(&["kill", "--store", "--yes", "--timeout", "3s", "--json"]);
    assert_eq!(incomplete.code(), Some(4), "{incomplete:?}");
    let report = incomplete.shown();
    assert_eq!(report["enclaves"]["stopped"], 1, "{report:#}");
    assert_eq!(report["enclaves"]["unheard"].as_array().map(Vec::len), Some(1), "{report:#}");
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_watched_tells_each_change() {
    let system = System::start(Options::default()).await;
    let mut watch = Command::new(program("holdfast"));
    watch.arg("--home").arg(&system.administrator.home).args(["status", "--watch", "--every", "500ms", "--json"]);
    let mut watching = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut look = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(look()["blocked"]["keys"], json!([]));
    system.order(&["block", "--key", KEY]);
    while look()["blocked"]["keys"] != json!([KEY]) {}
    watching.kill().unwrap();
    watching.wait().unwrap();
}
