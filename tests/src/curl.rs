//! `curl --aws-sigv4`: a client that is none of ours.

use std::process::{Command, Output};

/// The oldest version whose `--aws-sigv4` signs: the option came with 7.75.0.
const OLDEST: (u32, u32) = (7, 75);

/// The version of the curl that is installed.
///
/// # Panics
/// Without curl, or with one that is too old: tests that need it are never skipped.
#[must_use]
pub fn version() -> (u32, u32) {
    let output = Command::new("curl").arg("--version").output();
    let output = output.expect("curl is missing: run scripts/install-prerequisites tests");
    let text = String::from_utf8(output.stdout).unwrap();
    let number = text.split_whitespace().nth(1).expect("curl --version names its version");
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap());
    let version = (parts.next().unwrap(), parts.next().unwrap());
    assert!(version >= OLDEST, "curl {number} is too old: --aws-sigv4 came with 7.75.0");
    version
}

/// Runs curl, silently but for errors; the status of the answer is added on a line of its own.
#[must_use]
pub fn curl(arguments: &[&str]) -> (u16, String) {
    let fixed = ["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"];
    let output = Command::new("curl").args(fixed).args(arguments).output().unwrap();
    answer(arguments, &output)
}

/// Runs a line that is meant to be pasted into a shell.
#[must_use]
pub fn paste(line: &str) -> (u16, String) {
    let line = format!("{} --max-time 20 --write-out '\\n%{{http_code}}'", line.trim_end());
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    answer(&[&line], &output)
}

fn answer(arguments: &[&str], output: &Output) -> (u16, String) {
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?}: {complaints}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}
