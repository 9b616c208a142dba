//! `holdfast-dev up`: one command from nothing to an attested encrypt and decrypt, again on the same state, and away without a trace.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use holdfast_tests::curl::{paste, version};
use holdfast_tests::kms::{Kms, Told};
use holdfast_tests::process::{Process, run};
use holdfast_tests::programs::program;
use holdfast_tests::python::interpreter;
use holdfast_tests::wait::until;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("hf-").tempdir_in("/tmp").unwrap()
}

fn up(state: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(program("holdfast-dev"));
    command.arg("up").arg("--state").arg(state).args(["--listen", "127.0.0.1:0"]).args(flags);
    command
}

/// Every process whose command line names the folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&folder)).collect()
}

fn check(state: &Path, flags: &[&str]) -> String {
    let output = run(&mut up(state, &[&["--check"], flags].concat()));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(processes_of(state), Vec::<String>::new());
    out
}

#[test]
fn a_second_run_decrypts_what_the_first_encrypted() {
    let folder = folder();
    let state = folder.path().join("state");
    let first = check(&state, &[]);
    let proven = [
        "EMULATED",
        "key store id (SHA-256 of the manifest)",
        "ceremony is complete, and its attestation verified",
        "holds a lease",
        "PCR 0 ",
        "PCR 16 ",
        "are those of the manifest",
        "TLS ends in the enclave",
        "the integrity value was computed again and matches",
        "Decrypt: 200 over HTTP/1.1 and HTTP/2",
        "curl --silent --show-error --aws-sigv4",
    ];
    for text in proven {
        assert!(first.contains(text), "not said: {text}\n{first}");
    }
    assert!(!first.contains("an earlier run"), "{first}");
    let second = check(&state, &[]);
    assert!(second.contains("decrypted what an earlier run encrypted"), "{second}");
    let id = |text: &str| {
        let line = text.lines().find(|line| line.contains("key store id")).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(id(&first), id(&second), "the same key store");
    let contradiction = run(&mut up(&state, &["--check", "--region", "eu-west-1"]));
    assert_eq!(contradiction.status.code(), Some(1), "what was measured cannot change");
}

/// The line that it prints for AWS's CLI is pasted into a shell.
#[tokio::test(flavor = "multi_thread")]
async fn with_kms_awss_own_client_works_in_one_more_command() {
    let folder = folder();
    let (state, log) = (folder.path().join("state"), folder.path().join("up.log"));
    let flags = ["--kms=127.0.0.1:0", "--key", "pay.roll", "--key", "pay-roll", "--key", "archive:decrypt"];
    let first = check(&state, &flags);
    assert!(first.contains("AWS KMS, emulated, is up") && first.contains("alias/pay:roll is arn:"), "{first}");
    let mut process = Process::start("up", &mut up(&state, &flags), &log);
    let said = until("everything is up", || async {
        let said = std::fs::read_to_string(&log).unwrap();
        said.contains("Up until Ctrl-C").then_some(said)
    })
    .await;
    let arn_of = |alias: &str, said: &str| {
        let arn = |line: &str| line.trim().strip_prefix(alias)?.strip_prefix(" is ").map(str::to_owned);
        said.lines().find_map(arn)
    };
    let arn = |said: &str| arn_of("alias/pay:roll", said);
    let other_arn = |said: &str| arn_of("alias/pay-roll", said);
    assert_ne!(arn(&first), other_arn(&first), "two external keys are two KMS keys");
    assert_eq!(arn(&first), arn(&said), "nothing is made twice");
    let start = said.find("AWS_CONFIG_FILE=").unwrap_or_else(|| panic!("{said}"));
    let line = said[start..].split("\n\n").next().unwrap();
    let path = format!("{}:{}", interpreter().parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let seen = run(Command::new("sh").args(["-c", line]).env("PATH", path).env_remove("AWS_PROFILE"));
    let answer: Value = serde_json::from_slice(&seen.stdout)
        .unwrap_or_else(|_| panic!("{line}\n{}", String::from_utf8_lossy(&seen.stderr)));
    assert!(answer["CiphertextBlob"].is_string() && answer["KeyId"].as_str() == arn(&said).as_deref(), "{answer}");
    process.signal(Signal::INT);
    assert!(process.wait(Duration::from_secs(30)).expect("Ctrl-C does not end it").success());
    assert_eq!(processes_of(&state), Vec::<String>::new());

    // A key store whose proxy was away and whose credential is another now; and keys as they are where a run was ended before it gave a
    // name, and where a name was given to another key.
    key_store_fails(&state).await;
    let secret = "A".repeat(43);
    let other = ["--access-key-id", "AKIAI2SFODNN7EXAMPLE", "--secret-access-key", &secret];
    let third = check(&state, &[&flags[..], &other[..]].concat());
    assert_eq!(arn(&first), arn(&third), "nothing is made twice");
    assert_eq!(other_arn(&first), other_arn(&third), "nor found under another's name");
}

/// KMS connects its key store while nothing listens where the proxy was.
async fn key_store_fails(state: &Path) {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let told = Told {
        host_name: "localhost".to_owned(),
        listen: closed,
        uri_path: "/kms/xks/v1".to_owned(),
        ca: state.join("tls/ca.pem"),
        access_key_id: String::new(),
        secret_access_key: String::new(),
    };
    let kms = Kms::start(state, &told, &[]).await;
    let stores = kms.ask("DescribeCustomKeyStores", &serde_json::json!({})).await;
    let id = stores.pointer("/CustomKeyStores/0/CustomKeyStoreId").unwrap().as_str().unwrap();
    kms.ask("DisconnectCustomKeyStore", &serde_json::json!({ "CustomKeyStoreId": id })).await;
    assert_eq!(kms.connect(id).await, ("FAILED".to_owned(), Some("XKS_PROXY_NOT_REACHABLE".to_owned())));
    let answer = kms.ask("DescribeKey", &serde_json::json!({ "KeyId": "alias/pay:roll" })).await;
    let key = answer.pointer("/KeyMetadata/KeyId").unwrap();
    kms.ask("DeleteAlias", &serde_json::json!({ "AliasName": "alias/pay:roll" })).await;
    let moved = serde_json::json!({ "AliasName": "alias/pay-roll", "TargetKeyId": key });
    kms.ask("UpdateAlias", &moved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_up_serves_other_clients_and_ends_with_all_its_processes() {
    eprintln!("curl {:?}", version());
    let folder = folder();
    let (state, log) = (folder.path().join("state"), folder.path().join("up.log"));
    let secret = "abcdefghijklmnopqrstuvwxyz/+ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let flags = [
        "--path-prefix",
        "/tests",
        "--region",
        "eu-central-1",
        "--access-key-id",
        "AKIAI2SFODNN7EXAMPLE",
        "--secret-access-key",
        secret,
        "--key",
        "first",
        "--key",
        "archive:decrypt",
    ];
    let mut process = Process::start("up", &mut up(&state, &flags), &log);
    let said = until("everything is up", || async {
        let said = std::fs::read_to_string(&log).unwrap();
        said.contains("Up until Ctrl-C").then_some(said)
    })
    .await;
    // As many processes as it says, each its own.
    assert_eq!(processes_of(&state).len(), 5, "{:?}", processes_of(&state));

    let endpoint: Value = serde_json::from_slice(&std::fs::read(state.join("endpoint.json")).unwrap()).unwrap();
    assert_eq!(endpoint["access_key_id"], "AKIAI2SFODNN7EXAMPLE", "{endpoint}");
    assert!(endpoint["uri_path"].as_str().unwrap().starts_with("/tests/"), "{endpoint}");
    let start = said.find("curl --silent").unwrap_or_else(|| panic!("{said}"));
    let line = said[start..].split("\n\n").next().unwrap();
    let curl = line;
    let (status, answer) = paste(line);
    assert_eq!(status, 200, "{line}\n{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(answer["ciphertext"].is_string() && answer["ciphertextMetadata"].is_string(), "{answer}");
    let (status, answer) = paste(&line.replace("/keys/first/", "/keys/archive/"));
    assert!(status == 400 && answer.contains("InvalidKeyUsageException"), "{status} {answer}");
    // What it says about seeing for oneself holds, with the tool that was built.
    let start = said.find("holdfast attest").unwrap_or_else(|| panic!("{said}"));
    let line =
        said[start..].split("\n\n").next().unwrap().replacen("holdfast", &program("holdfast").display().to_string(), 1);
    let seen = run(Command::new("sh").args(["-c", &line]));
    let shown = String::from_utf8_lossy(&seen.stdout);
    assert!(seen.status.success() && shown.starts_with("VERIFIED"), "{line}\n{shown}");
    assert!(shown.contains("NOT AWS"), "{shown}");
    // Two at once on one state are refused, and the first goes on.
    let other = run(&mut up(&state, &["--check"]));
    assert_eq!(other.status.code(), Some(1), "{}", String::from_utf8_lossy(&other.stderr));
    assert_eq!(paste(curl).0, 200);

    process.signal(Signal::INT);
    let status = process.wait(Duration::from_secs(30)).expect("Ctrl-C does not end it");
    assert!(status.success(), "{status}");
    assert_eq!(processes_of(&state), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_before_everything_is_up_leaves_nothing_either() {
    for wait_for in ["NSM emulator is up", "custodian is up", "parent and enclave are started"] {
        let folder = folder();
        let (state, log) = (folder.path().join("state"), folder.path().join("up.log"));
        let mut process = Process::start("up", &mut up(&state, &[]), &log);
        until(wait_for, || async { std::fs::read_to_string(&log).unwrap().contains(wait_for).then_some(()) }).await;
        process.signal(Signal::INT);
        process.wait(Duration::from_secs(30)).expect("Ctrl-C does not end it");
        assert_eq!(processes_of(&state), Vec::<String>::new(), "after {wait_for:?}");
        // The state that is left is one with which the next run comes up.
        check(&state, &[]);
    }
}

/// A run that is killed cannot end its children; the next run on the same state does, and goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_left_behind_is_ended_by_the_next() {
    let folder = folder();
    let (state, log) = (folder.path().join("state"), folder.path().join("up.log"));
    let process = Process::start("up", &mut up(&state, &[]), &log);
    until("everything is up", || async {
        std::fs::read_to_string(&log).unwrap().contains("Up until Ctrl-C").then_some(())
    })
    .await;
    process.kill();
    let again = check(&state, &[]);
    assert!(again.contains("decrypted what an earlier run encrypted"), "{again}");
}
