//! What must never be in the enclave's program.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::process::Command;

#[test]
fn the_program_links_no_emulator_no_custodian_and_no_tool() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "holdfast-enclave",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--offline",
            "--locked",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"holdfast-shared") && names.contains(&"ring"), "the search finds what is there: {names:?}");
    for never in ["holdfast-devkit", "holdfast-custodian", "holdfast-cli", "holdfast-parent", "openssl-sys", "sqlx"] {
        assert!(!names.contains(&never), "{never} is in the enclave's program");
    }
    let manifest = include_str!("../Cargo.toml");
    assert!(!manifest.contains("[features]"), "the enclave has no features: no build of it behaves otherwise");
}

#[test]
fn the_program_knows_no_root_but_aws_and_no_way_to_another_nsm() {
    let main = include_str!("../src/main.rs");
    assert!(main.contains("NitroDevice::open()"), "the search finds what is there");
    for never in ["std::env", "TrustRoot", "emulated", "Unix", "hybrid", "args()"] {
        assert!(!main.contains(never), "main.rs speaks of {never}");
    }
    // Without an NSM, and outside an enclave, the program does nothing and says why.
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-enclave")).output().unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("holdfast-enclave: ")
            && stderr.contains("Nitro Enclave")
            && stderr.contains("first process"),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
}
