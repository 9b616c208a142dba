//! A PKCS #11 token without hardware: `SoftHSM` 2, in a folder of the test's, looked at with `OpenSC`'s tools.
//!
//! Guarantees: only processes that get [`SoftHsm::environment`] see the token, so that tests do not disturb each other. Assumes:
//! both are installed (`scripts/install-prerequisites tests`); without them a test fails.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where distributions put the module.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];
/// Where they put the module that writes down each call and passes it on.
const SPIES: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/pkcs11-spy.so", "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so", "/usr/lib64/pkcs11-spy.so"];
const SO_PIN: &str = "so-pin-of-a-test";

/// A token.
#[derive(Clone, Debug)]
pub struct SoftHsm {
    folder: PathBuf,
    /// Its label.
    pub label: &'static str,
}

impl SoftHsm {
    /// Initialises a token in a new folder, and puts its PIN into a file.
    ///
    /// # Panics
    /// Without `SoftHSM`.
    #[must_use]
    pub fn create(folder: &Path, label: &'static str) -> Self {
        fs::create_dir_all(folder.join("tokens")).unwrap();
        let token = Self { folder: folder.to_owned(), label };
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            folder.join("tokens").display()
        );
        fs::write(folder.join("softhsm2.conf"), text).unwrap();
        let pin = "pin-of-a-test";
        token.write_pin(pin);
        let mut command = Command::new("softhsm2-util");
        command.args(["--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", pin]);
        token.tool(command);
        token
    }

    /// What a process needs to see the token, and to write its calls down if its module is the spy.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("SOFTHSM2_CONF", self.folder.join("softhsm2.conf").display().to_string()),
            ("PKCS11SPY", module().display().to_string()),
            ("PKCS11SPY_OUTPUT", self.calls().display().to_string()),
        ]
    }

    /// What stands under `[key_encryption_key]` in the configuration of a custodian whose key is on the token.
    #[must_use]
    pub fn section(&self, key: &str) -> String {
        self.section_of(&module(), key)
    }

    /// The same through the spy: [`SoftHsm::count`] counts calls then.
    #[must_use]
    pub fn spied_section(&self, key: &str) -> String {
        self.section_of(&found(&SPIES, "OpenSC"), key)
    }

    fn section_of(&self, module: &Path, key: &str) -> String {
        format!(
            "pkcs11 = {{ module = \"{}\", token = \"{}\", key = \"{key}\", pin_file = \"{}\" }}\n",
            module.display(),
            self.label,
            self.folder.join("pin").display()
        )
    }

    /// How often the spy saw a function called.
    #[must_use]
    pub fn count(&self, function: &str) -> usize {
        fs::read_to_string(self.calls()).unwrap_or_default().lines().filter(|line| line.ends_with(function)).count()
    }

    fn calls(&self) -> PathBuf {
        self.folder.join("calls")
    }

    /// Writes another PIN into the file, which the token need not accept.
    pub fn write_pin(&self, pin: &str) {
        let file = self.folder.join("pin");
        let _ = fs::remove_file(&file);
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).unwrap();
        fs::write(&file, format!("{pin}\n")).unwrap();
    }

    /// What `pkcs11-tool` says, logged in.
    #[must_use]
    pub fn pkcs11_tool(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("pkcs11-tool");
        command.arg("--module").arg(module()).args(["--token-label", self.label, "--login", "--pin"]);
        let pin = fs::read_to_string(self.folder.join("pin")).unwrap();
        command.arg(pin.trim()).args(arguments);
        self.tool(command)
    }

    /// Makes an AES key, with attributes as `pkcs11-tool` names them.
    pub fn make_key(&self, label: &str, bits: u32, attributes: &[&str]) {
        let kind = format!("AES:{}", bits / 8);
        let arguments = [&["--keygen", "--key-type", &kind, "--label", label], attributes].concat();
        let _ = self.pkcs11_tool(&arguments);
    }

    /// As if it were pulled out.
    pub fn take_away(&self) {
        fs::rename(self.folder.join("tokens"), self.folder.join("tokens.away")).unwrap();
    }

    /// As if it were plugged in again.
    pub fn bring_back(&self) {
        fs::rename(self.folder.join("tokens.away"), self.folder.join("tokens")).unwrap();
    }

    fn tool(&self, mut command: Command) -> String {
        let output = command.envs(self.environment()).output();
        let output = output.expect("SoftHSM or OpenSC is missing: run scripts/install-prerequisites tests");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {said}");
        said
    }
}

fn module() -> PathBuf {
    found(&MODULES, "SoftHSM 2")
}

fn found(places: &[&str], what: &str) -> PathBuf {
    let place = places.iter().map(Path::new).find(|place| place.exists());
    place.unwrap_or_else(|| panic!("{what} is missing: run scripts/install-prerequisites tests")).to_owned()
}
