//! The program's command line. What `up` does is tested across processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

fn holdfast_dev(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-dev")).args(arguments).current_dir(folder).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_command_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["up", "nsm", "enclave", "vsock"] {
        let output = holdfast_dev(folder.path(), &[command, "--help"]);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(output.status.success() && text.contains("Example:"), "{command}: {text}");
    }
    let output = holdfast_dev(folder.path(), &["up", "--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for flag in
        ["--listen", "--path-prefix", "--access-key-id", "--secret-access-key", "--key", "--host-name", "--check"]
    {
        assert!(text.contains(flag), "{flag}");
    }
    assert!(text.contains("127.0.0.1:8443") && text.contains(".holdfast"), "defaults are shown");
}

#[test]
fn wrong_command_lines_end_with_2_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let lines: [&[&str]; 10] = [
        &[],
        &["no-such-command"],
        &["up", "--listen", "nowhere"],
        &["up", "--key", "a:sign"],
        &["up", "--access-key-id", "AKIAI2SFODNN7EXAMPLE"],
        &["up", "--host-name", "127.0.0.1"],
        &["nsm", "--socket", "s"],
        &["nsm", "--socket", "s", "--state", "n", "--fault", "\"no_such_fault\""],
        &[
            "enclave",
            "--nsm-socket",
            "s",
            "--control",
            "relative",
            "--egress",
            "unix:///e",
            "--audit",
            "unix:///a",
            "--ingress",
            "unix:///i",
        ],
        &["vsock", "--socket", "s", "--guest", "g", "--cid", "3"],
    ];
    for line in lines {
        assert_eq!(holdfast_dev(folder.path(), line).status.code(), Some(2), "{line:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_taken_address_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = holdfast_dev(folder.path(), &["up", "--check", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address) && stderr(&output).contains("--listen"), "{}", stderr(&output));
}

#[test]
fn a_register_that_no_image_sets_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = holdfast_dev(folder.path(), &["nsm", "--socket", "s", "--state", "n", "--pcr-content", "16=x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("PCR 16"), "{}", stderr(&output));
}

#[test]
fn an_enclave_without_an_emulator_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let line = [
        "enclave",
        "--nsm-socket",
        "missing",
        "--control",
        "unix:///c",
        "--egress",
        "unix:///e",
        "--audit",
        "unix:///a",
        "--ingress",
        "unix:///i",
    ];
    let output = holdfast_dev(folder.path(), &line);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("holdfast-dev nsm --socket missing"), "{}", stderr(&output));
}

/// Whether the process has its handlers: SIGTERM is signal 15, bit 14 of the mask (proc(5)).
fn catches_sigterm(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim();
    u64::from_str_radix(mask, 16).unwrap() & (1 << 14) != 0
}

#[test]
fn a_closed_terminal_ends_it_in_order_unless_that_is_to_be_ignored() {
    let folder = tempfile::tempdir().unwrap();
    for (ignored, signal, ends) in [(false, Signal::HUP, true), (true, Signal::HUP, false), (true, Signal::TERM, true)]
    {
        let socket = folder.path().join("nsm.sock");
        let trap = if ignored { "trap '' HUP; " } else { "" };
        let mut child = Command::new("sh")
            .args(["-c", &format!("{trap}exec \"$@\""), "sh", env!("CARGO_BIN_EXE_holdfast-dev"), "nsm"])
            .arg("--socket")
            .arg(&socket)
            .arg("--state")
            .arg(folder.path().join("nsm"))
            .spawn()
            .unwrap();
        while UnixStream::connect(&socket).is_err() || !catches_sigterm(child.id()) {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        if ends {
            assert!(child.wait().unwrap().success(), "{ignored} {signal:?}");
            assert!(!socket.exists(), "{ignored} {signal:?}");
        } else {
            std::thread::sleep(Duration::from_millis(100));
            assert!(child.try_wait().unwrap().is_none(), "{signal:?} was to be ignored");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
