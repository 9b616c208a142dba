//! Other programs that a build runs, each with an environment of its own.
//!
//! Guarantees: a program gets the path, the home folders that rustup and cargo need, fixed locale and time zone, and what the
//! caller adds; nothing else of the caller's variables reaches a compiler. Which toolchain is meant is read from the checkout. Its output is shown only when it fails.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

/// Variables that say where tools are, and nothing about what they make.
const PASSED: [&str; 11] = [
    "PATH",
    "HOME",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
];
/// Of a failed program, this many lines are shown.
const LINES_SHOWN: usize = 40;

/// Why a program did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not there, or cannot be started.
    #[error("{program} cannot be started: {error}. scripts/install-prerequisites image installs what a build needs")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        error: std::io::Error,
    },
    /// It failed.
    #[error("{program} failed ({status}):\n{tail}")]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it said.
        tail: String,
    },
}

/// A program that is about to run.
pub(crate) struct Tool(Command);

impl Tool {
    pub(crate) fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null());
        for (name, value) in PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))) {
            command.env(name, value);
        }
        command.env("LC_ALL", "C").env("TZ", "UTC");
        Self(command)
    }

    pub(crate) fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    pub(crate) fn arguments(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(arguments);
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    /// Runs it to its end and returns what it wrote to standard output.
    pub(crate) fn run(mut self) -> Result<Vec<u8>, ToolError> {
        let program = self.0.get_program().to_string_lossy().into_owned();
        let output = self.0.output().map_err(|error| ToolError::Start { program: program.clone(), error })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default().join("\n");
        Err(ToolError::Failed { program, status: output.status, tail })
    }

    /// The first line of what it says.
    pub(crate) fn line(self) -> Result<String, ToolError> {
        let said = self.run()?;
        Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned())
    }
}

/// `--name=value` as one argument.
pub(crate) fn joined(name: &str, value: &Path) -> OsString {
    let mut argument = OsString::from(name);
    argument.push(value);
    argument
}
