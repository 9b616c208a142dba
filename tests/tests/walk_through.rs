//! The walk-through, as it is written: all of its lines for one machine, in one shell, with the real programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_tests::programs::program;
use holdfast_tests::python::interpreter;

/// Ports that the page names, and the files of those processes that tell when they listen.
const PORTS: [&str; 4] = ["7443", "8443", "9080", "4599"];
/// What a reader's own time gives: the next line is typed when the program before it listens.
const LISTENS: [(&str, &str); 4] = [
    ("holdfast-dev nsm", "nsm.sock"),
    ("holdfast-custodian serve", "custodian-ports.json"),
    ("holdfast-parent", "control.sock"),
    ("holdfast-dev kms", "kms/aws-config"),
];

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/walk-through.md")).unwrap()
}

/// The shell's lines of the first part.
fn lines(page: &str) -> Vec<String> {
    let here = page.split("\n## On AWS\n").next().unwrap();
    let blocks = here.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// Free ports in place of the page's, and a wait after each program that goes on in the background.
fn script(lines: &[String], ports: &[(String, String)]) -> String {
    let mut script = String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null' EXIT\n");
    let mut started = None;
    for line in lines {
        started = LISTENS.iter().find(|(program, _)| line.starts_with(program)).or(started);
        let mut line = line.clone();
        for (known, free) in ports {
            line = line.replace(&format!(":{known}"), &format!(":{free}"));
        }
        script += &line;
        script += "\n";
        if line.ends_with(" &") {
            let (program, file) = started.take().unwrap();
            script += &["# ", program, " listens\nuntil [ -e ", file, " ]; do kill -0 $!; sleep 0.05; done\n"].concat();
        }
    }
    script
}

#[test]
fn the_walk_through_leads_from_a_ceremony_to_a_decrypted_message() {
    let folder = tempfile::tempdir().unwrap();
    let held: Vec<(String, TcpListener)> =
        PORTS.iter().map(|port| ((*port).to_owned(), TcpListener::bind("127.0.0.1:0").unwrap())).collect();
    let ports: Vec<(String, String)> =
        held.iter().map(|(port, free)| (port.clone(), free.local_addr().unwrap().port().to_string())).collect();
    drop(held);
    let text = script(&lines(&page()), &ports);
    fs::write(folder.path().join("walk.sh"), &text).unwrap();
    let folders: Vec<PathBuf> = vec![
        program("holdfast").parent().unwrap().to_owned(),
        interpreter().parent().unwrap().to_owned(),
        PathBuf::from("/usr/bin"),
        PathBuf::from("/bin"),
    ];
    let output = Command::new("bash")
        .arg("walk.sh")
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", std::env::join_paths(folders).unwrap())
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let logs = ["nsm", "custodian", "parent", "kms"].map(|name| {
        let text = fs::read_to_string(folder.path().join(format!("{name}.log"))).unwrap_or_default();
        format!("--- {name}\n{text}")
    });
    assert!(output.status.success(), "{said}\n{told}\n{}\n{text}", logs.concat());
    for expected in [
        "static.json: good",
        "custodian.toml: good",
        "parent.toml: good",
        "WARNINGS: AWS KMS works with it",
        "CONNECTED\n",
        "a first secret",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}\n{told}");
    }
    assert!(told.contains("KMSInvalidStateException"), "the blocked key is refused:\n{told}");
}
