//! `holdfast-dev capacity` with few of everything: each measurement runs end to end, says what it is to say, and leaves nothing. What it
//! measures is not looked at: a debug build on a busy machine says nothing about time or memory.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::process::Command;

use holdfast_tests::process::run;
use holdfast_tests::programs::program;
use serde_json::{Value, json};

/// The report of a measurement that went through.
fn capacity(flags: &[&str]) -> Value {
    let folder = tempfile::Builder::new().prefix("hf-").tempdir_in("/tmp").unwrap();
    let mut command = Command::new(program("holdfast-dev"));
    // Its systems are in folders there.
    command.env("TMPDIR", folder.path()).arg("capacity").args(flags).args(["--json", "--quiet"]);
    let output = run(&mut command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{flags:?}: {said}");
    assert_eq!(said, "", "{flags:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{flags:?} leaves something");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["format"], &report["what"]), (&json!(1), &json!(flags[0])));
    report
}

fn names(report: &Value, list: &str) -> Vec<String> {
    let listed = report[list].as_array().unwrap().iter();
    listed.map(|finding| finding["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn memory_of_requests_and_of_idle_connections() {
    let report = capacity(&["memory", "--requests", "20", "--idle", "3"]);
    assert_eq!(
        (&report["configuration"]["requests"], &report["configuration"]["idle_connections"]),
        (&json!(20), &json!(3))
    );
    let names = names(&report, "findings").join("; ");
    for name in ["idle: resident", "after 2 requests", "after 20 requests", "growth", "each of 3 idle connections"] {
        assert!(names.contains(name), "{name}: {names}");
    }
}

#[test]
fn many_key_stores_beside_one() {
    let flags = ["stores", "--stores", "3", "--keys", "4", "--requests", "30", "--warm-up", "0s", "--repeat", "1"];
    let report = capacity(&flags);
    let rows = report["comparison"]["rows"].as_array().unwrap();
    let answers: Vec<_> = rows.iter().map(|row| (&row["answers"], &row["failed"])).collect();
    assert_eq!(answers, [(&json!(30), &json!(0)), (&json!(30), &json!(0))]);
    let names = names(&report["comparison"], "figures");
    assert_eq!(names[0], "processor time, enclave, 3 × 4 : 1 × 1");
}

#[test]
fn several_processors_beside_one() {
    // The same one twice: a machine may have no more.
    let flags = ["cores", "--server-core", "0,0", "--requests", "30", "--warm-up", "0s", "--repeat", "1"];
    let report = capacity(&flags);
    let rows = report["comparison"]["rows"].as_array().unwrap();
    let servers: Vec<_> = rows.iter().map(|row| row["server"].as_str().unwrap()).collect();
    assert_eq!(servers, ["ceiling, 1 core", "enclave, 1 core", "ceiling, all", "enclave, all"]);
    assert!(rows.iter().all(|row| row["failed"] == 0), "{rows:?}");
}

#[test]
fn from_the_grant_to_the_first_answer() {
    let report = capacity(&["ready", "--times", "1"]);
    assert_eq!(names(&report, "findings").len(), 2);
}

#[test]
fn enclaves_that_watch_see_a_block() {
    // More than one key store has room for would need 251: two key stores are in `many_key_stores_beside_one`.
    let report = capacity(&["custodian", "--enclaves", "4"]);
    let names = names(&report, "findings");
    assert!(names.iter().any(|name| name.contains("all of 4 enclaves saw it")), "{names:?}");
}
