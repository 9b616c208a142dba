//! A custodian, as a process, whose key-encryption key is on a PKCS #11 token: `SoftHSM` 2, looked at with other people's tools.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test as tests do"
)]

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use holdfast_tests::curl::curl;
use holdfast_tests::process::Process;
use holdfast_tests::softhsm::SoftHsm;
use tempfile::TempDir;

const KEY: &str = "shares";
/// Only a hang takes so long: the key is looked at each half minute.
const PATIENCE: Duration = Duration::from_mins(2);

struct Place {
    directory: TempDir,
    token: SoftHsm,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token = SoftHsm::create(&directory.path().join("hsm"), "custodian");
        let place = Self { directory, token };
        place.configure(&place.token.section(KEY));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, section: &str) {
        let text = format!(
            "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:7443\"\nstate = \"state\"\n\
             administrators = []\nports_file = \"ports.json\"\n[key_encryption_key]\n{section}"
        );
        fs::write(self.path("custodian.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-custodian"));
        command.env_remove("RUST_LOG").envs(self.token.environment()).args(arguments);
        command.arg("--config").arg(self.path("custodian.toml"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// That it ends with an exit code and a line that says why.
    fn ends(&self, arguments: &[&str], code: i32, why: &str) {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(why), "{said}\nshould contain {why}");
        assert!(!said.contains("pin-of-a-test"), "{said}");
    }

    fn init(&self) {
        let output = self.run(&["init", "--create-key"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn start(&self) -> Process {
        let _ = fs::remove_file(self.path("ports.json"));
        Process::start("the custodian", &mut self.command(&["serve"]), &self.path("log"))
    }

    fn wait(&self, what: &str, question: impl Fn() -> bool) {
        let started = Instant::now();
        while !question() {
            assert!(started.elapsed() < PATIENCE, "{what}\n{}", fs::read_to_string(self.path("log")).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the service says about its health, once it listens.
    fn health(&self) -> Option<String> {
        let ports: serde_json::Value = serde_json::from_slice(&fs::read(self.path("ports.json")).ok()?).ok()?;
        let url = format!("https://localhost:{}/health", ports["port"]);
        let authority = self.path("state/ca.pem").display().to_string();
        let (status, body) = curl(&["--cacert", &authority, &url]);
        assert_eq!(status, 200, "{body}");
        Some(body.trim().to_owned())
    }

    fn is(&self, health: &str) -> bool {
        self.health().as_deref() == Some(health)
    }
}

#[test]
fn the_key_is_made_in_the_token_and_does_not_leave_it() {
    let place = Place::new();
    place.ends(&["init"], 2, "has no AES key \"shares\"");
    assert!(!place.path("state").exists(), "nothing is made before the key works");
    place.init();
    assert!(!place.path("state/key-encryption-key.bin").exists());
    let objects = place.token.pkcs11_tool(&["--list-objects"]);
    assert!(objects.contains("AES length 32") && objects.contains(KEY), "{objects}");
    assert!(objects.contains("sensitive, always sensitive, never extractable, local"), "{objects}");
    let process = place.start();
    place.wait("it serves", || place.is("ok"));
    drop(process);
    // The key is there now: another custodian takes it as it is.
    fs::rename(place.path("state"), place.path("state-1")).unwrap();
    assert!(place.run(&["init"]).status.success());
    assert_eq!(place.token.pkcs11_tool(&["--list-objects"]).matches("AES length").count(), 1);
}

#[test]
fn a_key_that_is_not_what_it_should_be_is_refused() {
    let place = Place::new();
    for (label, bits, attributes, why) in [
        ("readable", 256, &[][..], "CKA_SENSITIVE"),
        ("movable", 256, &["--sensitive", "--extractable"], "CKA_EXTRACTABLE"),
        ("short", 128, &["--sensitive"], "CKA_VALUE_LEN"),
    ] {
        place.token.make_key(label, bits, attributes);
        place.configure(&place.token.section(label));
        for arguments in [&["init"][..], &["init", "--create-key"]] {
            place.ends(arguments, 2, why);
        }
    }
    for _ in 0..2 {
        place.token.make_key("twice", 256, &["--sensitive"]);
    }
    place.configure(&place.token.section("twice"));
    place.ends(&["init"], 2, "2 keys of one label");
    place.configure(&place.token.section(KEY).replace("token = \"custodian\"", "token = \"other\""));
    place.ends(&["init"], 1, "there is no token \"other\"; the module has [\"custodian\"]");
    place.configure(&place.token.section(KEY).replace("libsofthsm2.so", "no.so"));
    place.ends(&["init"], 2, "no.so");
    assert!(!place.path("state").exists());
}

#[test]
fn a_token_that_does_not_make_initialization_vectors_is_found_out() {
    let place = Place::new();
    place.token.make_key(KEY, 256, &["--sensitive"]);
    place.configure(&place.token.section(KEY).replace(" }", ", iv = \"token\" }"));
    place.ends(&["init"], 2, "did not make an initialization vector");
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let place = Place::new();
    place.configure(&place.token.spied_section(KEY));
    place.init();
    let before = place.token.count("C_Login");
    assert!(before > 0, "the spy sees the login");
    place.token.write_pin("wrong-pin");
    place.ends(&["serve"], 2, "refuses the PIN");
    assert_eq!(place.token.count("C_Login"), before + 1);
    let file = place.path("hsm/pin");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    place.ends(&["serve"], 1, "chmod 600");
    place.ends(&["serve", "--check-config"], 2, "chmod 600");
}

#[test]
fn what_another_key_wrapped_does_not_open() {
    let place = Place::new();
    place.init();
    drop({
        let process = place.start();
        place.wait("it serves", || place.is("ok"));
        process
    });
    place.token.make_key("another", 256, &["--sensitive"]);
    place.configure(&place.token.section("another"));
    place.ends(&["serve"], 1, "does not open under this key-encryption key");
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(place.path("state/key-encryption-key.bin")).unwrap();
    fs::write(place.path("state/key-encryption-key.bin"), [7; 32]).unwrap();
    place.configure("");
    place.ends(&["serve"], 1, "of the kind `pkcs11`, and the configuration names the kind `file`");
    place.configure(&place.token.section(KEY));
    let _process = place.start();
    place.wait("it serves", || place.is("ok"));
}

#[test]
fn it_waits_at_the_start_for_a_token_that_is_away() {
    let place = Place::new();
    place.init();
    place.token.take_away();
    let process = place.start();
    place.wait("it says why it waits", || process.log().contains("not started yet, trying again in 2 s"));
    assert!(!place.path("ports.json").exists());
    place.token.bring_back();
    place.wait("it serves", || place.is("ok"));
}

/// While it runs: the token goes and comes back, and its PIN changes while it is away.
#[test]
fn long_a_token_that_goes_and_comes_back() {
    let place = Place::new();
    place.configure(&place.token.spied_section(KEY));
    place.init();
    let process = place.start();
    place.wait("it serves", || place.is("ok"));
    for _ in 0..2 {
        place.token.take_away();
        place.wait("it notices", || place.is("degraded"));
        place.token.bring_back();
        place.wait("it recovers", || place.is("ok"));
    }
    let log = process.log();
    assert_eq!(log.matches("no share can be released").count(), 2, "said at each change, and not in between:\n{log}");
    assert_eq!(log.matches("can be used again").count(), 2, "{log}");

    let _ = place.token.pkcs11_tool(&["--change-pin", "--new-pin", "another-pin"]);
    place.token.take_away();
    place.wait("it notices", || place.is("degraded"));
    place.token.bring_back();
    place.wait("it tries the old PIN", || process.log().contains("refuses the PIN"));
    let tried = place.token.count("C_Login");
    let opened = place.token.count("C_OpenSession");
    place.wait("it looks again", || place.token.count("C_OpenSession") >= opened + 3);
    assert_eq!(place.token.count("C_Login"), tried, "the PIN that was refused is not tried again");
    assert!(place.is("degraded"));
    place.token.write_pin("another-pin");
    place.wait("it recovers", || place.is("ok"));
}
