//! How the sink is, for the status page and the log.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_link::{BootId, KeyStoreId, remedy};
use serde::Serialize;

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Logs that the disk does not take, and why.
    failing: Mutex<BTreeMap<(BootId, KeyStoreId), String>>,
    logs: AtomicUsize,
    /// Counted from 1; 0 for not known.
    free_bytes: AtomicU64,
}

/// What the status page shows.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    /// Logs that enclaves have open.
    pub(crate) logs: usize,
    /// Bytes that the folder's file system has left for this program.
    pub(crate) free_bytes: Option<u64>,
    /// Why the disk does not take entries, while it does not.
    pub(crate) failing: Option<String>,
}

impl View {
    fn failing(&self) -> MutexGuard<'_, BTreeMap<(BootId, KeyStoreId), String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk took what there is of a log.
    pub(super) fn works(&self, boot_id: BootId, key_store_id: KeyStoreId) {
        let mut failing = self.failing();
        if failing.remove(&(boot_id, key_store_id)).is_some() && failing.is_empty() {
            tracing::info!("audit logs can be written again");
        }
    }

    /// The disk did not take something. Said once for each reason.
    pub(super) fn fails(&self, boot_id: BootId, key_store_id: KeyStoreId, error: &io::Error) {
        let reason = error.to_string();
        let mut failing = self.failing();
        let is_known = failing.values().any(|known| *known == reason);
        failing.insert((boot_id, key_store_id), reason.clone());
        drop(failing);
        if !is_known {
            tracing::error!(
                %reason,
                %key_store_id,
                "audit logs cannot be written: enclaves will stop serving{}",
                remedy::of_file(error)
            );
        }
    }

    pub(super) fn log_opened(&self) {
        self.logs.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection ended, which had so many logs open.
    pub(super) fn ended(&self, boot_id: BootId, logs: usize) {
        self.logs.fetch_sub(logs, Ordering::Relaxed);
        self.failing().retain(|(boot, _), _| *boot != boot_id);
    }

    pub(super) fn has_free(&self, bytes: u64) {
        self.free_bytes.store(bytes.saturating_add(1), Ordering::Relaxed);
    }

    pub(crate) fn page(&self) -> Page {
        Page {
            logs: self.logs.load(Ordering::Relaxed),
            free_bytes: self.free_bytes.load(Ordering::Relaxed).checked_sub(1),
            failing: self.failing().values().next().cloned(),
        }
    }
}
