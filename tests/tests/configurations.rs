//! `holdfast config check` with the real programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_tests::programs::program;
use serde_json::Value;

const PARENT: &str = r#"listen = "127.0.0.1:0"
ready_listen = "127.0.0.1:0"
static_configuration = "static.json"
key_stores = "key-stores"
[enclave]
ingress = "unix:///run/holdfast/ingress.sock"
[control]
listen = "unix:///run/holdfast/control.sock"
[egress]
listen = "unix:///run/holdfast/egress.sock"
[audit]
listen = "unix:///run/holdfast/audit.sock"
"#;

const CUSTODIAN: &str = r#"name = "vault-1"
listen = "127.0.0.1:0"
address = "localhost:7443"
state = "state"
administrators = []
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.path("key-stores")).unwrap();
        folder.write("static.json", r#"{"regions": ["us-east-1"]}"#);
        folder.write("parent.toml", PARENT);
        folder.write("custodian.toml", CUSTODIAN);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Exit code and what was printed, without the folder's name.
    fn check(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = run(self.0.path(), words);
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8(printed).unwrap().replace(&format!("{}/", self.0.path().display()), "");
        (output.status.code(), printed)
    }

    fn init(&self) {
        let made = Command::new(program("holdfast-custodian"))
            .arg("init")
            .arg("--config")
            .arg(self.path("custodian.toml"))
            .output();
        assert!(made.as_ref().unwrap().status.success(), "{made:?}");
    }
}

fn run(folder: &Path, words: &[&str]) -> Output {
    Command::new(program("holdfast")).args(["config", "check"]).args(words).current_dir(folder).output().unwrap()
}

#[test]
fn good_files_are_called_good_by_the_programs_that_read_them() {
    let folder = Folder::new();
    folder.init();
    let (code, said) = folder.check(&["parent.toml", "custodian.toml"]);
    assert_eq!(
        said,
        "parent.toml: good, by its schema and holdfast-parent\n\
         static.json: good, by the enclave's own reader\n\
         custodian.toml: good, by its schema and holdfast-custodian\n"
    );
    assert_eq!(code, Some(0));
}

#[test]
fn what_only_a_program_sees_is_told_as_well() {
    let folder = Folder::new();
    // Fields that do not go together.
    folder.write("parent.toml", &PARENT.replace("[control]", "cids = [16]\n[control]"));
    let (code, said) = folder.check(&["parent.toml"]);
    assert!(code == Some(1) && said.contains("enclave.cids: needs enclave.command or nitro"), "{said}");
    // A file that it names.
    folder.write("parent.toml", &PARENT.replace("static.json", "stat.json"));
    let (code, said) = folder.check(&["parent.toml"]);
    assert!(code == Some(1) && said.contains("cannot read stat.json"), "{said}");
    // What the parent hands over unread, and the enclave would refuse when it starts.
    folder.write("parent.toml", PARENT);
    folder.write("static.json", r#"{"regions": ["us-east-1"], "skip_attestation": true}"#);
    let (code, said) = folder.check(&["parent.toml"]);
    assert!(code == Some(1) && said.contains("static.json: skip_attestation: unknown field"), "{said}");
    // A form that only words can say, with its line.
    folder.write("custodian.toml", &CUSTODIAN.replace("localhost:7443", "localhost"));
    let (code, said) = folder.check(&["custodian.toml"]);
    assert!(code == Some(1) && said.starts_with("custodian.toml:3: address: must be host:port"), "{said}");
}

#[test]
fn a_file_without_its_program_is_not_called_good() {
    let folder = Folder::new();
    let (code, said) = folder.check(&["parent.toml", "--programs", "key-stores"]);
    assert!(code == Some(1) && said.contains("holdfast-parent is neither beside holdfast nor in PATH"), "{said}");
    let (code, said) = folder.check(&["parent.toml", "--schema-only"]);
    assert_eq!((code, said.as_str()), (Some(0), "parent.toml: good, by its schema\n"));
}

#[test]
fn what_cannot_be_checked_is_said() {
    let folder = Folder::new();
    let (code, said) = folder.check(&["missing.toml"]);
    assert!(code == Some(2) && said.contains("cannot read missing.toml"), "{said}");
    folder.write("what.toml", "listen = \"127.0.0.1:0\"\n");
    let (code, said) = folder.check(&["what.toml"]);
    assert!(code == Some(2) && said.contains("say which with --kind"), "{said}");
    fs::write(folder.path("bytes.toml"), [0xff]).unwrap();
    let (code, said) = folder.check(&["bytes.toml"]);
    assert!(code == Some(2) && said.contains("bytes.toml: not UTF-8 text"), "{said}");
}

#[test]
fn programs_read_the_same() {
    let folder = Folder::new();
    folder.write("parent.toml", &PARENT.replace("key_stores", "key_store"));
    let output = run(folder.0.path(), &["parent.toml", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report.pointer("/files/0/findings").and_then(Value::as_array).unwrap();
    assert_eq!(report.pointer("/files/0/valid"), Some(&Value::Bool(false)));
    assert_eq!(findings.len(), 2, "an unknown field, and one that is missing: {report:#}");
    assert_eq!(report.pointer("/files/0/findings/1/line"), Some(&4.into()));
    let message = report.pointer("/files/0/findings/1/message").and_then(Value::as_str).unwrap();
    assert_eq!(message, "unknown field; did you mean key_stores?");
}

#[test]
fn examples_and_schemas_are_printed() {
    let print = |words: &[&str]| {
        let output = Command::new(program("holdfast")).arg("config").args(words).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = Folder::new();
    for kind in ["parent", "custodian", "static"] {
        let name = format!("{kind}.{}", if kind == "static" { "json" } else { "toml" });
        folder.write(&name, &print(&["example", kind]));
        let (code, said) = folder.check(&[&name, "--schema-only"]);
        assert_eq!(code, Some(0), "{said}");
        let schema: Value = serde_json::from_str(&print(&["schema", kind])).unwrap();
        assert_eq!(schema.pointer("/title").and_then(Value::as_str), Some(name.as_str()));
    }
}
