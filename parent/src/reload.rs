//! What of the configuration may change while the program runs, at SIGHUP: the list of egress destinations, and what is run as the
//! enclave (`enclave.command`, `[nitro]` and the image's file).
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
use crate::runner::Image;

/// The destinations that the enclave may ask for.
pub(crate) type Allowed = BTreeSet<Destination>;

/// Reads the file again at each signal, and publishes its list and its image.
pub(crate) async fn watch(
    file: PathBuf,
    mut hang_up: Signal,
    allowed: watch::Sender<Allowed>,
    images: watch::Sender<Option<Image>>,
) {
    while hang_up.recv().await.is_some() {
        let path = file.clone();
        let load = move || Config::load(&path).map(|config| (Image::of(&config), config));
        let Ok(loaded) = tokio::task::spawn_blocking(load).await else { return };
        match loaded {
            Ok((image, config)) => {
                images.send_replace(image);
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
