//! The program itself: help, initialisation, configuration errors, exit codes, files, and a service that starts and stops.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test as tests do"
)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-custodian"));
    command.env_remove("RUST_LOG");
    command
}

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        place.configure("");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:7443\"\nstate = \"state\"\n\
             administrators = []\nports_file = \"ports.json\"\n{more}"
        );
        fs::write(self.path("custodian.toml"), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        program().args(arguments).arg("--config").arg(self.path("custodian.toml")).output().unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn help_names_commands_fields_and_exit_codes() {
    let output = program().arg("--help").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for word in
        ["init", "serve", "Exit codes", "emulated_root", "administrators", "ports_file", "alarms.webhook", "RUST_LOG"]
    {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}

#[test]
fn init_makes_private_files_and_never_twice() {
    let place = Place::new();
    let output = place.run(&["init"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let record_file = place.path("state/custodian.json");
    assert_eq!(printed.trim(), record_file.to_str().unwrap());
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&record_file).unwrap()).unwrap();
    assert_eq!((record["name"].as_str(), record["address"].as_str()), (Some("vault-1"), Some("localhost:7443")));
    assert_eq!(record["signing_key"].as_str().unwrap().len(), 194);
    assert_eq!(record["encryption_key"].as_str().unwrap().len(), 194);
    assert!(record["tls_roots"][0].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(mode(&place.path("state")), 0o700);
    for file in ["signing-key.pk8", "encryption-key.bin", "key-encryption-key.bin", "ca-key.pem"] {
        assert_eq!(mode(&place.path("state").join(file)), 0o600, "{file}");
    }
    let before = fs::read(place.path("state/signing-key.pk8")).unwrap();
    let output = place.run(&["init"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is not empty"), "{}", stderr(&output));
    assert_eq!(fs::read(place.path("state/signing-key.pk8")).unwrap(), before);
}

#[test]
fn a_wrong_configuration_is_named_with_file_line_and_field() {
    let place = Place::new();
    let root = place.path("root.pem");
    fs::write(&root, "no certificate").unwrap();
    for (more, expected) in [
        ("lease = 7\n", "custodian.toml:7: lease: unknown field"),
        ("log = \"loud\"\n", "custodian.toml:7: log: "),
        ("emulated_root = \"root.pem\"\n", "emulated_root: "),
        ("emulated_root = \"missing.pem\"\n", "missing.pem: "),
    ] {
        place.configure(more);
        let output = place.run(&["serve", "--check-config"]);
        assert_eq!(output.status.code(), Some(2), "{more}");
        assert!(stderr(&output).contains(expected), "{}\nshould contain {expected}", stderr(&output));
    }
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let ((certificate, key), (_, other_key)) = (pair(), pair());
    fs::write(place.path("certificate.pem"), &certificate).unwrap();
    for (key, mode, good) in [(&key, 0o600, true), (&other_key, 0o600, false), (&key, 0o644, false)] {
        fs::write(place.path("key.pem"), key).unwrap();
        fs::set_permissions(place.path("key.pem"), fs::Permissions::from_mode(mode)).unwrap();
        place.configure(
            "[tls]\ncertificate = \"certificate.pem\"\nprivate_key = \"key.pem\"\nroots = \"certificate.pem\"\n",
        );
        let output = place.run(&["serve", "--check-config"]);
        assert_eq!(output.status.success(), good, "{mode:o}: {}", stderr(&output));
    }
    place.configure("");
    assert!(place.run(&["serve", "--check-config"]).status.success());
    assert_eq!(program().arg("serve").output().unwrap().status.code(), Some(2), "no configuration named");
    assert_eq!(program().output().unwrap().status.code(), Some(2), "no command");
}

#[test]
fn keys_that_others_can_read_stop_the_start() {
    let place = Place::new();
    let output = place.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("run: holdfast-custodian init"), "{}", stderr(&output));
    assert!(place.run(&["init"]).status.success());
    for (file, open, closed) in [
        ("state/key-encryption-key.bin", 0o644, 0o600),
        ("state/signing-key.pk8", 0o640, 0o600),
        ("state/encryption-key.bin", 0o604, 0o600),
        ("state/ca-key.pem", 0o644, 0o600),
        ("state", 0o755, 0o700),
    ] {
        fs::set_permissions(place.path(file), fs::Permissions::from_mode(open)).unwrap();
        let output = place.run(&["serve"]);
        assert_eq!(output.status.code(), Some(1), "{file}");
        assert!(stderr(&output).contains("chmod"), "{file}: {}", stderr(&output));
        fs::set_permissions(place.path(file), fs::Permissions::from_mode(closed)).unwrap();
    }
}

#[test]
fn serve_tells_its_port_warns_of_an_emulated_root_and_ends_on_sigterm() {
    let place = Place::new();
    assert!(place.run(&["init"]).status.success());
    let root = holdfast_devkit::nsm::EmulatedRoot::generate().unwrap();
    fs::write(place.path("root.pem"), root.pem()).unwrap();
    for (more, warns) in [("", false), ("emulated_root = \"root.pem\"\n", true)] {
        place.configure(more);
        let _ = fs::remove_file(place.path("ports.json"));
        let mut child = program()
            .args(["serve", "--config"])
            .arg(place.path("custodian.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !place.path("ports.json").exists() {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let ports: serde_json::Value = serde_json::from_slice(&fs::read(place.path("ports.json")).unwrap()).unwrap();
        let port = u16::try_from(ports["port"].as_u64().unwrap()).unwrap();
        assert_eq!(ports["listen"], format!("127.0.0.1:{port}"));
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let second = place.run(&["serve"]);
        assert_eq!(second.status.code(), Some(1));
        assert!(stderr(&second).contains("another holdfast-custodian runs"), "{}", stderr(&second));
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert!(child.wait().unwrap().success());
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(log.contains("EMULATED TRUST ROOT"), warns, "{log}");
        assert!(log.contains("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"), "{log}");
    }
}
