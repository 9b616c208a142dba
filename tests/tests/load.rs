//! `holdfast-dev load` against a local system: a few requests of each profile, counted and not timed; what fails is told.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use holdfast_tests::process::{Process, run};
use holdfast_tests::programs::program;
use holdfast_tests::wait::until;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Requests of each run.
const REQUESTS: u64 = 40;

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("hf-").tempdir_in("/tmp").unwrap()
}

/// A local system, up.
struct Up {
    folder: TempDir,
    _process: Process,
}

impl Up {
    async fn start() -> Self {
        let folder = folder();
        let (state, log) = (folder.path().join("state"), folder.path().join("up.log"));
        let mut command = Command::new(program("holdfast-dev"));
        command.arg("up").arg("--state").arg(&state).args(["--listen", "127.0.0.1:0", "--path-prefix", "/load"]);
        let process = Process::start("up", &mut command, &log);
        until("everything is up", || async {
            std::fs::read_to_string(&log).unwrap().contains("Up until Ctrl-C").then_some(())
        })
        .await;
        Self { folder, _process: process }
    }

    fn state(&self) -> String {
        self.folder.path().join("state").display().to_string()
    }

    fn load(&self, flags: &[&str]) -> Output {
        load(&[&["--endpoint", &self.state()], flags].concat())
    }
}

fn load(flags: &[&str]) -> Output {
    run(Command::new(program("holdfast-dev")).arg("load").args(flags))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The report of a run that went well.
fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), stderr(output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["passed"], &report["format"]), (&json!(true), &json!(1)));
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn every_profile_runs_over_both_versions_of_http() {
    let up = Up::start().await;
    let state = up.state();
    let profiles: [(&str, &[&str]); 6] = [
        ("steady", &["--rate", "200"]),
        ("top-of-hour", &["--rate", "300"]),
        ("cold-reconnect", &["--rate", "100", "--connections", "8"]),
        ("idle-herd", &["--idle", "5", "--rate", "200"]),
        ("noisy-neighbour", &["--neighbour", &state, "--rate", "100"]),
        ("decrypt-85", &[]),
    ];
    for http in ["1.1", "2"] {
        for (profile, flags) in profiles {
            let requests = REQUESTS.to_string();
            let common = [
                "--profile",
                profile,
                "--http",
                http,
                "--requests",
                &requests,
                "--warm-up",
                "0s",
                "--duration",
                "2s",
                "--json",
            ];
            let report = report(&up.load(&[&common, flags].concat()));
            let (run, group) = (&report["runs"][0], &report["runs"][0]["groups"][0]);
            let of = format!("{profile} over {http}: {group}");
            assert_eq!(report["configuration"]["load"]["profile"], profile, "{of}");
            assert_eq!(report["configuration"]["load"]["http"], http, "{of}");
            assert_eq!(
                (&group["ok"], &group["failed"], &group["unsent"]),
                (&json!(REQUESTS), &json!(0), &json!(0)),
                "{of}"
            );
            assert_eq!(group["latency"]["count"], REQUESTS, "{of}");
            let by_operation = group["operations"].as_object().unwrap();
            assert_eq!(
                by_operation.values().map(|found| found["count"].as_u64().unwrap()).sum::<u64>(),
                REQUESTS,
                "{of}"
            );
            let timeline = group["timeline"].as_array().unwrap();
            assert_eq!(timeline.iter().map(|second| second["ok"].as_u64().unwrap()).sum::<u64>(), REQUESTS, "{of}");
            // Parent and enclave were found by the state folder, and have worked.
            let names: Vec<_> =
                run["servers"].as_array().unwrap().iter().map(|server| server["name"].as_str().unwrap()).collect();
            assert_eq!(names, ["enclave", "parent"], "{of}");
            match profile {
                "cold-reconnect" => assert_eq!(group["connections"], REQUESTS, "{of}"),
                "idle-herd" => assert_eq!((&group["idle_alive"], &group["idle_lost"]), (&json!(5), &json!(0)), "{of}"),
                "noisy-neighbour" => assert!(run["groups"][1]["ok"].as_u64().unwrap() > 0, "{run}"),
                _ => {}
            }
        }
    }
    connections_are_used_as_they_are_asked_to(&up);
    other_ways_to_name_the_target(&up);
    beside_a_bare_server(&up);
}

fn connections_are_used_as_they_are_asked_to(up: &Up) {
    for (reuse, resumed) in [("new", false), ("resumed", true)] {
        let flags = [
            "--reuse",
            reuse,
            "--connections",
            "1",
            "--mix",
            "encrypt",
            "--requests",
            "4",
            "--warm-up",
            "0s",
            "--json",
        ];
        let report = report(&up.load(&flags));
        let group = &report["runs"][0]["groups"][0];
        // One of the four is decrypted afterwards, over a connection of its own.
        assert_eq!((&group["connections"], &group["verified"]), (&json!(5), &json!(1)), "{group}");
        assert_eq!(group["resumed"].as_u64().unwrap() > 0, resumed, "{reuse}: {group}");
    }
}

fn other_ways_to_name_the_target(up: &Up) {
    let state = Path::new(&up.state()).to_owned();
    let endpoint: Value = serde_json::from_slice(&std::fs::read(state.join("endpoint.json")).unwrap()).unwrap();
    let text = |name: &str| endpoint[name].as_str().unwrap().to_owned();
    let prefix = text("uri_path").strip_suffix("/kms/xks/v1").unwrap().to_owned();
    let url =
        format!("https://somewhere.test{}{prefix}", text("uri_endpoint").strip_prefix("https://localhost").unwrap());
    let common = [
        "--url",
        &url,
        "--host",
        "localhost",
        "--connect",
        &text("listen"),
        "--ca",
        &text("ca_file"),
        "--key",
        &text("example_key"),
        "--requests",
        "5",
        "--warm-up",
        "0s",
        "--kms",
        "--json",
    ];
    let by_environment = || {
        let mut command = Command::new(program("holdfast-dev"));
        command.arg("load").args(common);
        command
    };
    let refused = run(by_environment().env_remove("HOLDFAST_ACCESS_KEY_ID"));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(stderr(&refused).contains("--credential"), "{}", stderr(&refused));
    let output = run(by_environment()
        .env("HOLDFAST_ACCESS_KEY_ID", text("access_key_id"))
        .env("HOLDFAST_SECRET_ACCESS_KEY", text("secret_access_key")));
    assert_eq!(report(&output)["runs"][0]["groups"][0]["ok"], 5);

    // The enclave without its parent.
    let socket = format!("unix://{}", state.join("run/ingress.sock").display());
    let report = report(&up.load(&[
        "--connect",
        &socket,
        "--mix",
        "encrypt,decrypt,metadata,health",
        "--requests",
        "20",
        "--warm-up",
        "0s",
        "--json",
    ]));
    let servers = report["runs"][0]["servers"].as_array().unwrap();
    assert_eq!(servers.iter().map(|server| &server["name"]).collect::<Vec<_>>(), ["enclave"]);
}

fn beside_a_bare_server(up: &Up) {
    let page = up.folder.path().join("report.html");
    let flags = [
        "--baselines",
        "--repeat",
        "2",
        "--requests",
        "30",
        "--warm-up",
        "0s",
        "--mix",
        "decrypt",
        "--json",
        "--html",
        page.to_str().unwrap(),
    ];
    let report = report(&up.load(&flags));
    let comparison = &report["comparison"][0];
    let rows: Vec<_> =
        comparison["rows"].as_array().unwrap().iter().map(|row| row["server"].as_str().unwrap()).collect();
    assert_eq!(rows, ["ceiling", "relay+ceiling", "target"]);
    for run in report["runs"].as_array().unwrap() {
        assert_eq!(run["groups"][0]["ok"], 30, "{run}");
    }
    assert_eq!(report["runs"].as_array().unwrap().len(), 6, "three servers, two rounds");
    assert_eq!(report["primitives"].as_array().unwrap().len(), 3);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg") && page.trim_end().ends_with("</html>"));
    for elsewhere in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(elsewhere), "the page loads something: {elsewhere}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_and_changes_the_exit_code() {
    let up = Up::start().await;
    let credential = up.folder.path().join("credential.json");
    let wrong = json!({ "access_key_id": "AKIAI2SFODNN7EXAMPLE", "secret_access_key": "a".repeat(43) });
    std::fs::write(&credential, wrong.to_string()).unwrap();
    let nobody = up.folder.path().join("nobody.json");
    let mut endpoint: Value =
        serde_json::from_slice(&std::fs::read(Path::new(&up.state()).join("endpoint.json")).unwrap()).unwrap();
    // Port 1 is nobody's.
    endpoint["listen"] = "127.0.0.1:1".into();
    std::fs::write(&nobody, endpoint.to_string()).unwrap();
    let (credential, nobody) = (credential.to_str().unwrap(), nobody.to_str().unwrap());
    let table: [(&[&str], i32, &str); 6] = [
        (&["--credential", credential], 1, "401"),
        (&["--key", "missing"], 1, "404"),
        (&["--endpoint", nobody, "--connect", "127.0.0.1:1"], 1, "cannot connect"),
        (&["--host", "elsewhere.test"], 1, "TLS"),
        (&["--server-pid", "gone=999999999"], 1, "gone=999999999"),
        (&["--mix", "sign"], 2, "sign"),
    ];
    for (flags, code, said) in table {
        let output = up.load(&[&["--requests", "3", "--warm-up", "0s"], flags].concat());
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{flags:?}: {}", stderr(&output));
    }
    // The first key is tried before the measurement, the other one is not there.
    let flags =
        ["--key", "dev-key", "--key", "missing", "--mix", "encrypt", "--requests", "40", "--warm-up", "0s", "--json"];
    let output = up.load(&flags);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let group = &report["runs"][0]["groups"][0];
    let count = |name: &str| group[name].as_u64().unwrap();
    assert_eq!((&report["passed"], count("ok") + count("failed")), (&json!(false), 40), "{group}");
    assert_eq!(group["failures"]["404 KeyNotFoundException"], count("failed"), "{group}");
    assert!(stderr(&output).contains("requests failed"), "{}", stderr(&output));
}

/// Every process whose command line names the folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&folder)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_of_its_own_is_compared_and_leaves_nothing() {
    let folder = folder();
    let command = || {
        let mut command = Command::new(program("holdfast-dev"));
        // Its system is in a folder there.
        command.env("TMPDIR", folder.path()).args(["load", "--local", "--warm-up", "0s"]);
        command
    };
    let cases =
        ["--baselines", "--repeat", "1", "--requests", "20", "--case", "encrypt", "--case", "decrypt-http2", "--json"];
    let report = report(&run(command().args(cases)));
    let comparison = report["comparison"].as_array().unwrap();
    let names: Vec<_> = comparison.iter().map(|comparison| comparison["case"].as_str().unwrap()).collect();
    assert_eq!(names, ["encrypt", "decrypt-http2"]);
    for comparison in comparison {
        let servers: Vec<_> =
            comparison["rows"].as_array().unwrap().iter().map(|row| row["server"].as_str().unwrap()).collect();
        assert_eq!(servers, ["ceiling", "enclave", "relay+ceiling", "relay+enclave", "parent+enclave"]);
        let figures = comparison["figures"].as_array().unwrap();
        assert!(figures.iter().any(|figure| figure["at_most"].is_number()), "{comparison}");
    }
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    // Nor does one that is stopped half-way.
    let log = folder.path().join("load.log");
    let mut process = Process::start("load", command().args(["--duration", "10m"]), &log);
    until("a second of the measurement", || async {
        std::fs::read_to_string(&log).unwrap().contains("answered").then_some(())
    })
    .await;
    process.signal(Signal::INT);
    let status = process.wait(Duration::from_mins(1)).expect("Ctrl-C does not end it");
    assert_eq!(status.code(), Some(1));
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the log alone");
}
