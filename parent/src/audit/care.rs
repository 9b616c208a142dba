//! What is done for the folder now and then: the free space is looked at, and logs that are too old are deleted.
//!
//! Guarantees: only whole logs of boots that have no connection are deleted, and only where `audit.keep_days` is set: a log without its
//! beginning could not be verified.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_link::{BootId, KeyStoreId};
use tokio::time::interval;

use super::Sink;
use crate::limits::AUDIT_CARE_INTERVAL;

const DAY: Duration = Duration::from_hours(24);

/// Looks after the folder until the program ends.
pub(crate) async fn care(sink: Arc<Sink>) {
    let mut due = interval(AUDIT_CARE_INTERVAL);
    loop {
        due.tick().await;
        let sink = Arc::clone(&sink);
        // A look that failed is followed by the next one.
        let _ = tokio::task::spawn_blocking(move || sink.look_after(SystemTime::now())).await;
    }
}

impl Sink {
    fn look_after(&self, now: SystemTime) {
        match free_bytes(&self.folder) {
            Ok(bytes) => self.state.audit.has_free(bytes),
            Err(error) => tracing::warn!(%error, "cannot see how much room audit.folder has"),
        }
        let oldest = self.keep_days.and_then(|days| now.checked_sub(DAY.saturating_mul(days)));
        let Some(oldest) = oldest else { return };
        if let Err(error) = self.delete_older(oldest) {
            tracing::warn!(%error, "cannot delete audit logs that are older than audit.keep_days");
        }
    }

    /// Deletes the logs in which nothing was written since.
    fn delete_older(&self, oldest: SystemTime) -> io::Result<()> {
        for (name, key_store) in folders(&self.folder)? {
            if name.parse::<KeyStoreId>().is_err() {
                continue;
            }
            for (name, log) in folders(&key_store)? {
                let Some(_claim) = name.parse::<BootId>().ok().and_then(|boot_id| self.boots.claim_unused(boot_id))
                else {
                    continue;
                };
                if last_written(&log)? < oldest {
                    fs::remove_dir_all(&log)?;
                    tracing::info!(log = %log.display(), "an audit log older than audit.keep_days was deleted");
                }
            }
            // It stays unless it is empty.
            let _ = fs::remove_dir(&key_store);
        }
        Ok(())
    }
}

/// The folders in a folder, with their names.
fn folders(folder: &Path) -> io::Result<Vec<(String, std::path::PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
        }
    }
    Ok(found)
}

/// When something in the folder last changed.
fn last_written(folder: &Path) -> io::Result<SystemTime> {
    let mut last = fs::metadata(folder)?.modified()?;
    for entry in fs::read_dir(folder)? {
        last = last.max(entry?.metadata()?.modified()?);
    }
    Ok(last)
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether logs could be written to `folder`, or where it is to be made.
///
/// # Errors
/// A sentence that says what to do.
pub(crate) fn look(folder: &Path) -> Result<String, String> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(existing, access)
        .map_err(|error| format!("{}: {error}; let this program's user write there", existing.display()))?;
    let free = free_bytes(existing).map_err(|error| format!("{}: {error}", existing.display()))?;
    Ok(format!("{} has {} MiB left", existing.display(), free / (1024 * 1024)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::AuditConfig;
    use crate::state::State;

    fn sink(folder: &Path, keep_days: Option<u32>) -> Sink {
        let listen = serde_json::from_str("\"unix:///run/audit\"").unwrap();
        let config = AuditConfig { listen, folder: folder.to_owned(), rotate_bytes: 1, keep_days };
        Sink::open(&config, Arc::new(State::new(1, 1))).unwrap()
    }

    #[tokio::test]
    async fn only_whole_logs_of_boots_that_are_gone_are_deleted_and_only_where_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = |key_store: &str, boot: &str| folder.path().join(key_store.repeat(32)).join(boot.repeat(16));
        let (old, connected, mixed) = (log("aa", "01"), log("aa", "02"), log("bb", "01"));
        let strange = folder.path().join("other").join("01".repeat(16));
        for log in [&old, &connected, &mixed, &strange] {
            fs::create_dir_all(log).unwrap();
            fs::write(log.join("0000000000000000.log"), b"x").unwrap();
        }
        let (now, later) = (SystemTime::now(), SystemTime::now() + DAY * 8);
        sink(folder.path(), None).look_after(later);
        let sink = sink(folder.path(), Some(7));
        let claim = sink.boots.claim(BootId::from([2; 16])).await.unwrap();
        sink.look_after(now);
        for log in [&old, &connected, &mixed] {
            assert!(log.exists(), "it is not old");
        }
        let file = fs::File::create(mixed.join("checkpoints")).unwrap();
        file.set_modified(later).unwrap();
        sink.look_after(later);
        assert!(!old.exists() && connected.exists() && mixed.exists() && strange.exists());
        drop(claim);
        file.set_modified(now).unwrap();
        sink.look_after(later);
        assert!(!connected.exists() && !mixed.exists() && strange.exists());
        assert!(!old.parent().unwrap().exists() && folder.path().exists());
        assert!(serde_json::to_string(&sink.state.audit.page()).unwrap().contains("\"free_bytes\":"));
    }

    #[test]
    fn the_look_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        assert!(look(&folder.path().join("to/be/made")).unwrap().contains("MiB left"));
        fs::write(folder.path().join("file"), b"").unwrap();
        assert!(look(&folder.path().join("file/audit")).unwrap_err().contains("let this program's user write there"));
    }
}
