//! What the program that reads a file says of it.
//!
//! Guarantees: a program is found by folder, never by what a file says; it is given a time, and what it says is bounded.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::Finding;
use crate::arguments::FileKind;
use crate::output::printable;

/// A check opens a handful of files.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of what a program says that are shown.
const SAID_MAX: usize = 4096;

/// Why a program did not call a file good.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not there.
    #[error(
        "{name} is neither beside holdfast nor in PATH, so that only the schema was looked at; name its folder with --programs, or use --schema-only"
    )]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// It cannot be run.
    #[error("{program} cannot be run: {source}", program = program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{name} has not answered in 30 seconds")]
    Slow {
        /// Its name.
        name: &'static str,
    },
    /// It refuses the file.
    #[error("{0}")]
    Refused(String),
}

impl ProgramError {
    /// As a finding: programs say file and line themselves.
    pub(super) fn finding(&self, file: &Path) -> Finding {
        let text = self.to_string();
        let placed = text.strip_prefix(&format!("{}:", file.display())).and_then(|rest| {
            let (line, rest) = rest.split_once(':')?;
            Some((line.parse().ok()?, rest.trim_start()))
        });
        match placed {
            Some((line, message)) => Finding { line: Some(line), field: String::new(), message: message.to_owned() },
            None => Finding { line: None, field: String::new(), message: text },
        }
    }
}

/// Asks the program that reads a file. Returns its name and version.
pub(super) async fn check(kind: FileKind, folder: Option<&Path>, file: &Path) -> Result<String, ProgramError> {
    let name = if kind == FileKind::Custodian { "holdfast-custodian" } else { "holdfast-parent" };
    let program = find(name, folder).ok_or(ProgramError::Missing { name })?;
    let mut command = Command::new(&program);
    if kind == FileKind::Custodian {
        command.arg("serve");
    }
    // One word, whatever the file's name begins with.
    let mut config = OsString::from("--config=");
    config.push(file);
    command.arg(config).arg("--check-config");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = timeout(TIMEOUT, command.output()).await.map_err(|_| ProgramError::Slow { name })?;
    let output = output.map_err(|source| ProgramError::Run { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(name.to_owned());
    }
    let said = String::from_utf8_lossy(output.stderr.get(..SAID_MAX.min(output.stderr.len())).unwrap_or_default());
    let said = said.trim().strip_prefix(&format!("{name}: ")).unwrap_or(said.trim());
    let said = said.strip_prefix("configuration: ").unwrap_or(said);
    Err(ProgramError::Refused(if said.is_empty() {
        format!("{name} refuses it without a word ({})", output.status)
    } else {
        said.lines().map(printable).collect::<Vec<_>>().join("; ")
    }))
}

fn find(name: &str, folder: Option<&Path>) -> Option<PathBuf> {
    let is_there = |folder: &Path| Some(folder.join(name)).filter(|program| program.is_file());
    if let Some(folder) = folder {
        return is_there(folder);
    }
    let own = env::current_exe().ok();
    own.as_deref().and_then(Path::parent).and_then(is_there).or_else(|| {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).find_map(|folder| is_there(&folder))
    })
}
