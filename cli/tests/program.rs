//! The program as a person runs it: what needs no custodian. The rest is tested across processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn holdfast(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .env("HOLDFAST_HOME", home)
        .env_remove("HOME")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/attestation").join(name)
}

#[test]
fn every_command_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    let commands = [
        "admin init",
        "admin show",
        "manifest create",
        "manifest show",
        "manifest add",
        "manifest enrol",
        "manifest sign",
        "manifest succeed",
        "manifest adopt",
        "sign",
        "send",
        "pending",
        "approve",
        "release-policy show",
        "release-policy set",
        "release-policy accept-image",
        "release-policy sunset",
        "release-policy require-approvals",
        "release-policy window",
        "release-policy leases",
        "release-policy repeat",
        "release list",
        "release approve",
        "releases",
        "root-key rotate",
        "key schedule-destruction",
        "key cancel-destruction",
        "key destroy",
        "policy set",
        "policy show",
        "policy check",
        "policy test",
        "policy replay",
        "policy schema",
        "policy presets",
        "budget set",
        "budget clear",
        "budget show",
        "limit set",
        "limit clear",
        "limit show",
        "history",
        "provenance export",
        "provenance verify",
        "key create",
        "key list",
        "key enable",
        "key disable",
        "credential show",
        "credential create",
        "credential import",
        "credential remove",
        "tls csr",
        "tls install",
        "tls auto",
        "tls show",
        "audit set",
        "audit clear",
        "audit show",
        "audit key",
        "audit heads",
        "audit verify",
        "audit tail",
        "audit query",
        "audit reconcile",
        "audit prove",
        "command result",
        "block",
        "unblock",
        "status",
        "attest",
        "attestation inspect",
        "kms config",
        "explain-signature",
        "completions",
        "man",
    ];
    for command in commands {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let output = holdfast(folder.path(), &words);
        let text = stdout(&output);
        assert!(output.status.success(), "{command}");
        if command == "manifest create" {
            assert!(text.contains("SHA-256 of the manifest"), "{text}");
        }
        assert!(text.contains("Usage:") && text.contains("holdfast"), "{command}: {text}");
        assert!(text.contains("Example:"), "{command} has no example");
    }
    assert!(stdout(&holdfast(folder.path(), &["--help"])).contains("Exit codes:"));
}

#[test]
fn wrong_command_lines_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let lines: [&[&str]; 35] = [
        &[],
        &["no-such-command"],
        &["admin", "init"],
        &["block"],
        &["unblock"],
        &["block", "--key", "no/slash"],
        &["key", "create", "a", "--usage", "sign"],
        &["key", "create", "a", "--timeout", "soon"],
        &["credential", "remove", "too-short"],
        &["attestation", "inspect", "x", "--at", "yesterday"],
        &["command", "result", "abc"],
        &["block", "--all", "--store"],
        &["block", "--all", "--key-store", "payments"],
        &["block", "--all", "--out", "x"],
        &["key", "create", "a", "--if-state", "ready"],
        &["key", "create", "a", "--if-state", "enabled", "--if-version", "3"],
        &["key", "destroy", "a"],
        &["release-policy", "window", "mon"],
        &["policy", "set"],
        &["policy", "set", "a.cedar", "--none"],
        &["policy", "set", "--preset", "no-such"],
        &["policy", "presets", "region-pin"],
        &["policy", "presets", "--region", "eu-central-1"],
        &["policy", "presets", "business-hours", "--hours", "18-8"],
        &["budget", "set"],
        &["budget", "set", "--every-key", "0/hour"],
        &["limit", "set"],
        &["limit", "set", "--per-key", "0:1"],
        &["manifest", "create", "--kms-key-arn", "x"],
        &["audit", "verify"],
        &["audit", "query", "--log", "x", "--outcome", "good"],
        &["audit", "query", "--log", "x", "--operation", "Decrpyt"],
        &["audit", "reconcile", "--log", "x"],
        &["policy", "replay", "--log", "x"],
        &["audit", "prove", "--log", "x", "--boot", "1", "--index", "0", "--out", "y"],
    ];
    for line in lines {
        assert_eq!(holdfast(folder.path(), line).status.code(), Some(2), "{line:?}");
    }
}

#[test]
fn policies_are_checked_and_tested_offline() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let preset = ["policy", "presets", "account-only", "--account", "123456789012"];
    let good = file("good.cedar", &stdout(&holdfast(folder.path(), &preset)));
    let checked = holdfast(folder.path(), &["policy", "check", &good, "--json"]);
    assert!(checked.status.success(), "{}", stdout(&checked));
    let report: serde_json::Value = serde_json::from_str(&stdout(&checked)).unwrap();
    assert_eq!((&report["valid"], &report["rules"][0]), (&true.into(), &"account-only".into()));
    let bad = file("bad.cedar", "permit (principal, action, resource)\nwhen { principal.account == \"1\" };");
    let checked = holdfast(folder.path(), &["policy", "check", &bad]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(stdout(&checked).contains("bad.cedar:2:8: "), "{}", stdout(&checked));

    let case = |expect: &str| {
        format!(
            "policy = \"good.cedar\"\n[[case]]\nname = \"mine\"\noperation = \"Encrypt\"\nkey = \"k\"\nexpect = \"{expect}\"\n\
             principal = \"arn:aws:iam::123456789012:user/Alice\"\nkms_key_arn = \"arn:aws:kms:eu-central-1:123456789012:key/1\"\n"
        )
    };
    let passes = holdfast(folder.path(), &["policy", "test", &file("passes.toml", &case("permit"))]);
    assert!(passes.status.success() && stdout(&passes) == "1 of 1 cases passed\n", "{}", stdout(&passes));
    let fails = holdfast(folder.path(), &["policy", "test", &file("fails.toml", &case("deny"))]);
    assert_eq!(fails.status.code(), Some(1));
    assert!(stdout(&fails).contains("permit by \"account-only\""), "{}", stdout(&fails));
    let schema = stdout(&holdfast(folder.path(), &["policy", "schema"]));
    assert!(schema.contains("namespace Holdfast") && schema.contains("entity Principal"), "{schema}");
}

#[test]
fn an_administrator_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let made = holdfast(&home, &["admin", "init", "--name", "alice", "--json"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let shown = holdfast(&home, &["admin", "show", "--json"]);
    assert_eq!(stdout(&made), stdout(&shown));
    let value: serde_json::Value = serde_json::from_str(&stdout(&made)).unwrap();
    assert_eq!(value["name"], "alice");
    assert_eq!(value["id"].as_str().unwrap().len(), 64);

    let again = holdfast(&home, &["admin", "init", "--name", "alice"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("never replaced"), "{}", stderr(&again));
    assert_eq!(stderr(&again).lines().count(), 1);
    assert_eq!(stdout(&holdfast(&home, &["admin", "show", "--json"])), stdout(&made));
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let nothing = holdfast(&home, &["admin", "show"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(stderr(&nothing).contains("holdfast admin init --name NAME"));
    for line in [&["status"][..], &["key", "list"], &["block", "--store"], &["credential", "show"]] {
        let output = holdfast(&home, line);
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        assert!(stderr(&output).contains("holdfast manifest create"), "{line:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let output = holdfast(&home, &["manifest", "show", "missing.manifest"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot read missing.manifest"));
}

#[test]
fn a_manifest_that_was_touched_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.manifest");
    std::fs::write(&path, b"not a manifest").unwrap();
    let output = holdfast(folder.path(), &["manifest", "show", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("bad.manifest"), "{}", stderr(&output));
}

#[test]
fn the_published_document_is_verified_at_its_time_and_refused_now() {
    let folder = tempfile::tempdir().unwrap();
    let document = vector("nitro-attestation-2024-12-13.cbor");
    let document = document.to_str().unwrap();
    let root = vector("aws-nitro-enclaves-root-g1.pem");
    for at in ["1734075478960", "2024-12-13T07:37:58.960Z"] {
        let output = holdfast(folder.path(), &["attestation", "inspect", document, "--at", at]);
        assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
        let text = stdout(&output);
        assert!(text.starts_with("VERIFIED as of 2024-12-13T07:37:58.96Z"), "{text}");
        assert!(text.contains("AWS Nitro Enclaves") && text.contains("PCR 4"), "{text}");
    }
    let with_root =
        ["attestation", "inspect", document, "--at", "1734075478960", "--root", root.to_str().unwrap(), "--json"];
    let value: serde_json::Value = serde_json::from_str(&stdout(&holdfast(folder.path(), &with_root))).unwrap();
    assert_eq!(value["verified"], true);
    assert_eq!(value["root_is_aws"], true);

    let now = holdfast(folder.path(), &["attestation", "inspect", document]);
    assert_eq!(now.status.code(), Some(1));
    let text = stdout(&now);
    assert!(text.starts_with("REFUSED") && text.contains("expired"), "{text}");
    assert!(text.contains("UNPROVEN"), "{text}");
    let json = holdfast(folder.path(), &["attestation", "inspect", document, "--json"]);
    assert_eq!(json.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(value["broken"]["stage"], "verify");
}

/// Verifying provenance needs no folder, no keys and no network.
#[test]
fn a_file_that_proves_nothing_is_refused_without_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("provenance.json");
    std::fs::write(&file, b"{}").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["provenance", "verify", file.to_str().unwrap(), "--json"])
        .env_remove("HOME")
        .env_remove("HOLDFAST_HOME")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let value: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(value["verified"], false);
    assert!(value["breaks"][0].as_str().unwrap().contains("not a provenance file"), "{value}");
}

/// A proof of another place than the one that was asked about would be worse than none.
#[test]
fn an_address_of_another_name_is_refused_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let measurements = vector("measurements.json").display().to_string();
    // What can be a root at all serves here: nothing is asked.
    let ca = vector("aws-nitro-enclaves-root-g1.pem").display().to_string();
    let id = "01".repeat(32);
    let pcr16 = "02".repeat(48);
    for elsewhere in ["b.example.com:443:127.0.0.1", "a.example.com:444:127.0.0.1"] {
        let output = holdfast(
            folder.path(),
            &[
                "attest",
                "https://a.example.com",
                "--key-store",
                &id,
                "--measurements",
                &measurements,
                "--pcr16",
                &pcr16,
                "--ca",
                &ca,
                "--resolve",
                elsewhere,
            ],
        );
        assert_eq!(output.status.code(), Some(1), "{elsewhere}");
        assert!(stderr(&output).contains("the URL is of a.example.com:443"), "{}", stderr(&output));
    }
}

#[test]
fn completions_and_manual_pages() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = holdfast(folder.path(), &["completions", shell]);
        assert!(output.status.success());
        assert!(stdout(&output).contains("attestation"), "{shell}");
    }
    let out = folder.path().join("man/man1");
    assert!(holdfast(folder.path(), &["man", "--out", out.to_str().unwrap()]).status.success());
    for page in [
        "holdfast.1",
        "holdfast-key-create.1",
        "holdfast-kms-config.1",
        "holdfast-release-policy-sunset.1",
        "holdfast-approve.1",
    ] {
        assert!(std::fs::read_to_string(out.join(page)).unwrap().contains(".TH"), "{page}");
    }
}
