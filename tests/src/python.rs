//! The Python environment of the tests (`scripts/test-python`): other people's signers and ciphers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// The interpreter.
///
/// # Panics
/// Without the environment: tests that need it are never skipped.
#[must_use]
pub fn interpreter() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target[/TRIPLE]/PROFILE/deps/TEST
    let found = test.ancestors().skip(1).map(|folder| folder.join("python/bin/python3")).find(|path| path.is_file());
    found.expect("the Python environment of the tests is missing: run scripts/test-python")
}

/// A script of `tests/python`.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

/// A script that answers each line of JSON with a line of JSON. It ends with this value.
#[derive(Debug)]
pub struct Script {
    name: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Script {
    /// Starts a script of `tests/python`.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// Starts a script of `tests/python` with the names of files.
    #[must_use]
    pub fn start_with(name: &str, files: &[&Path]) -> Self {
        let mut command = Command::new(interpreter());
        command.args(["-W", "ignore"]).arg(script(name)).args(files);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { name: name.to_owned(), child, stdin, stdout }
    }

    /// Asks, and waits for the answer.
    #[must_use]
    pub fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.stdin, "{question}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{} gave no answer to {question}: {line:?}", self.name))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
