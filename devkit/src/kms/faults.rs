//! Faults between KMS and the proxies, while the emulator runs.
//!
//! They are in a file of the state folder, which is read before each attempt: `{"latency_ms": 400, "first": 1}` and no restart. `first`
//! counts from when the file was last written, be it with the same content.
//!
//! Refuses: a file with other members, or that is not JSON. Every request fails then, so that a slip of the pen is not taken for health.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of the file, and any may come together")]
pub struct Faults {
    /// Milliseconds by which each answer is later.
    pub latency_ms: u64,
    /// Connections are not made.
    pub unreachable: bool,
    /// Connections end when the proxy has answered, before the answer is here.
    pub drop: bool,
    /// KMS trusts no authority, so that no certificate is good enough.
    pub bad_certificate: bool,
    /// KMS signs with another secret than the key store's.
    pub wrong_credential: bool,
    /// For so many attempts only, those of health checks included.
    pub first: Option<u64>,
}

/// The file, and how many attempts it has met.
pub struct FaultFile {
    path: PathBuf,
    met: Mutex<Met>,
}

/// The file as it was last seen.
#[derive(Default)]
struct Met {
    /// When it was written, where the file system says so.
    written: Option<SystemTime>,
    content: Vec<u8>,
    /// Attempts since.
    attempts: u64,
}

impl FaultFile {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, met: Mutex::default() }
    }

    /// Those of the next attempt.
    ///
    /// # Errors
    /// Where the file is, and what is wrong with it.
    pub fn next(&self) -> Result<Faults, String> {
        let wrong = |error: &dyn core::fmt::Display| format!("{}: {error}", self.path.display());
        let (written, content) = match read(&self.path) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Faults::default()),
            Err(error) => return Err(wrong(&error)),
        };
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.written != written || met.content != content {
            *met = Met { written, content, attempts: 0 };
        }
        let faults: Faults = serde_json::from_slice(&met.content).map_err(|error| wrong(&error))?;
        met.attempts = met.attempts.saturating_add(1);
        let is_over = faults.first.is_some_and(|first| met.attempts > first);
        Ok(if is_over { Faults::default() } else { faults })
    }
}

fn read(path: &Path) -> std::io::Result<(Option<SystemTime>, Vec<u8>)> {
    let mut file = File::open(path)?;
    let written = file.metadata()?.modified().ok();
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok((written, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_follow_the_file_and_are_counted_from_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("faults.json");
        let file = FaultFile::new(path.clone());
        assert_eq!(file.next().unwrap(), Faults::default());
        std::fs::write(&path, r#"{"drop": true, "first": 2}"#).unwrap();
        assert_eq!([0; 3].map(|_| file.next().unwrap().drop), [true, true, false]);
        std::fs::write(&path, r#"{"drop": true, "first": 1}"#).unwrap();
        assert_eq!([0; 2].map(|_| file.next().unwrap().drop), [true, false]);
        std::fs::write(&path, r#"{"dorp": true}"#).unwrap();
        assert!(file.next().unwrap_err().contains("dorp"));
        // The same once more, as a person repeats a line of the shell.
        let write_at = |seconds| {
            std::fs::write(&path, r#"{"drop": true, "first": 1}"#).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        for seconds in [1, 2] {
            write_at(seconds);
            assert_eq!([0; 3].map(|_| file.next().unwrap().drop), [true, false, false], "{seconds}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.next().unwrap(), Faults::default());
    }
}
