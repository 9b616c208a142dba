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
        let out = self.home.with_extension(format!("{name}.manifest"));
        let text = |path: &Path| path.display().to_string();
        let (record, measurements, root) = (text(&custodian.record()), text(measurements), text(trust_root));
        let file = text(&out);
        let mut arguments = vec!["manifest", "create", "--name", name, "--custodian", &record];
        arguments.extend(["--host-name", host_name, "--path-prefix", options.path_prefix]);
        arguments.extend(["--measurements", &measurements, "--trust-root", &root]);
        arguments.extend(["--lease", options.lease, "--out", &file]);
        self.holdfast(&arguments).success();
        out
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

    /// The JSON that a call that worked printed.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = self.success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("holdfast {}: {error}: {text}", self.arguments))
    }
}
