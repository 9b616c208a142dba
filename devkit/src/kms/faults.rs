//! Faults between KMS and the proxies, while the emulator runs.
//!
//! They are in a file of the state folder, which is read before each attempt: `{"latency_ms": 400, "first": 1}` and no restart. `first`
//! counts from when the file's content last changed.
//!
//! Refuses: a file with other members, or that is not JSON. Every request fails then, so that a slip of the pen is not taken for health.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

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
    /// For so many attempts only.
    pub first: Option<u64>,
}

/// The file, and how many attempts its content has met.
pub struct FaultFile {
    path: PathBuf,
    met: Mutex<(Vec<u8>, u64)>,
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
        let content = match std::fs::read(&self.path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Faults::default()),
            Err(error) => return Err(wrong(&error)),
        };
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.0 != content {
            *met = (content, 0);
        }
        let faults: Faults = serde_json::from_slice(&met.0).map_err(|error| wrong(&error))?;
        met.1 = met.1.saturating_add(1);
        let is_over = faults.first.is_some_and(|first| met.1 > first);
        Ok(if is_over { Faults::default() } else { faults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_follow_the_file_and_are_counted_by_its_content() {
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
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.next().unwrap(), Faults::default());
    }
}
