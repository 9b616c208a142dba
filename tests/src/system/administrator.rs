//! An administrator with a home folder, working with the real tool.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_cli::home::Home;
use holdfast_shared::ids::AdministratorId;
use serde_json::Value;

use super::{CustodianProcess, Options};
use crate::process::run;
use crate::programs::program;

/// See the module.
#[derive(Clone, Debug)]
pub struct Administrator {
    /// As `holdfast --home` takes it.
    pub home: PathBuf,
}

impl Administrator {
    /// Makes the keys.
    pub fn init(home: PathBuf, name: &str) -> Self {
        let administrator = Self { home };
        administrator.holdfast(&["admin", "init", "--name", name]).success();
        administrator
    }

    /// The id, as custodians' configurations name it.
    #[must_use]
    pub fn id(&self) -> AdministratorId {
        self.home_folder().administrator().unwrap().administrator.id()
    }

    /// The same folder for the tool's library.
    #[must_use]
    pub fn home_folder(&self) -> Home {
        Home::at(self.home.clone())
    }

    /// Runs the tool.
    pub fn holdfast(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(program("holdfast"));
        command.arg("--home").arg(&self.home).args(arguments);
        Said { arguments: arguments.join(" "), output: run(&mut command) }
    }

    /// Makes and signs a manifest; the file lies beside the home folder.
    pub fn create_manifest(
        &self,
        name: &str,
        custodian: &CustodianProcess,
        host_name: &str,
        options: &Options,
        measurements: &Path,
        trust_root: &Path,
    ) -> PathBuf {
        self.create_manifest_for(name, &[custodian], &[], host_name, options, measurements, trust_root)
    }

    /// The same for several custodians, the first of which is the home custodian, and with other administrators, who sign it after.
    #[expect(clippy::too_many_arguments, reason = "each is a flag of the tool")]
    pub fn create_manifest_for(
        &self,
        name: &str,
        custodians: &[&CustodianProcess],
        others: &[Self],
        host_name: &str,
        options: &Options,
        measurements: &Path,
        trust_root: &Path,
    ) -> PathBuf {
        let out = self.home.with_extension(format!("{name}.manifest"));
        let text = |path: &Path| path.display().to_string();
        let (measurements, root, file) = (text(measurements), text(trust_root), text(&out));
        let records: Vec<_> = custodians.iter().map(|custodian| text(&custodian.record())).collect();
        let others: Vec<_> = others.iter().map(|other| text(&other.card())).collect();
        let (needed, hostile) = (options.shares_needed.to_string(), options.hostile_tolerated.to_string());
        let mut arguments = vec!["manifest", "create", "--name", name];
        arguments.extend(records.iter().flat_map(|record| ["--custodian", record]));
        arguments.extend(["--shares-needed", &needed, "--hostile", &hostile]);
        arguments.extend(others.iter().flat_map(|card| ["--administrator", card]));
        arguments.extend(options.thresholds.iter().flat_map(|threshold| ["--threshold", threshold]));
        let kms_root = options.kms.as_ref().map(|kms| text(&kms.root)).unwrap_or_default();
        if let Some(kms) = &options.kms {
            arguments.extend(["--kms-key-arn", kms.key_arn, "--kms-address", &kms.address, "--kms-root", &kms_root]);
        }
        arguments.extend(["--host-name", host_name, "--path-prefix", options.path_prefix]);
        arguments.extend(["--measurements", &measurements, "--trust-root", &root]);
        arguments.extend(["--lease", options.lease, "--out", &file]);
        self.holdfast(&arguments).success();
        out
    }

    /// A file with the public half, for manifests.
    #[must_use]
    pub fn card(&self) -> PathBuf {
        let card = self.home.with_extension("card.json");
        std::fs::write(&card, self.holdfast(&["admin", "show", "--json"]).success()).unwrap();
        card
    }

    /// Takes over a manifest that others made.
    pub fn add_manifest(&self, manifest: &Path, trust_root: &Path) {
        let (file, root) = (manifest.display().to_string(), trust_root.display().to_string());
        self.holdfast(&["manifest", "add", &file, "--trust-root", &root]).success();
    }

    /// Sends a manifest to every custodian that it names.
    pub fn enrol(&self, manifest: &Path) {
        self.holdfast(&["manifest", "enrol", &manifest.display().to_string()]).success();
    }
}

/// What the tool said.
#[derive(Debug)]
pub struct Said {
    arguments: String,
    output: Output,
}

impl Said {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Standard error.
    #[must_use]
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Standard output of a call that worked.
    pub fn success(&self) -> String {
        let out = String::from_utf8_lossy(&self.output.stdout).into_owned();
        assert_eq!(self.code(), Some(0), "holdfast {}:\n{out}\n{}", self.arguments, self.complaint());
        out
    }

    /// The JSON that a call printed, whatever its exit code.
    #[must_use]
    pub fn shown(&self) -> Value {
        let text = String::from_utf8_lossy(&self.output.stdout);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("holdfast {}: {error}: {text}\n{}", self.arguments, self.complaint()))
    }

    /// The JSON that a call that worked printed.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = self.success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("holdfast {}: {error}: {text}", self.arguments))
    }
}
