//! What of the configuration may change while the program runs: the list of egress destinations, at SIGHUP.
//!
//! Guarantees: a key store whose custodian is new to this parent is taken on without a restart, which would cost all others their
//! connections. Connections that are open stay open. Refuses: a file that is not a configuration, and every change of
//! another field: the list before stays in force, or that field does.

use std::collections::BTreeSet;
use std::path::PathBuf;

use holdfast_link::egress::Destination;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use crate::config::Config;

/// The destinations that the enclave may ask for.
pub(crate) type Allowed = BTreeSet<Destination>;

/// Reads the file again at each signal, and publishes its list.
pub(crate) async fn watch(file: PathBuf, mut hang_up: Signal, allowed: watch::Sender<Allowed>) {
    while hang_up.recv().await.is_some() {
        let path = file.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || Config::load(&path)).await else { return };
        match loaded {
            Ok(config) => {
                let list: Allowed = config.egress.allow.into_iter().collect();
                let changed = allowed.send_if_modified(|current| {
                    let differs = *current != list;
                    *current = list;
                    differs
                });
                if changed {
                    tracing::info!(count = allowed.borrow().len(), "the list of egress destinations changed");
                }
            }
            Err(error) => tracing::error!(%error, "the configuration is not read again; the last list stays"),
        }
    }
}
