//! `holdfast block` and `holdfast unblock`: what must not be used from this second on.

use core::fmt;
use std::collections::BTreeSet;

use holdfast_shared::block::BlockOverlay;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::labels;
use serde::Serialize;

use crate::moment;
use crate::session::{Session, SessionError};

/// What is to be blocked, or no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The whole key store.
    pub store: bool,
    /// These keys.
    pub keys: Vec<ExternalKeyId>,
}

/// Everything that is blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockReport {
    /// Of the overlay in force; 0 when there never was one.
    pub epoch: u64,
    /// Whether the whole key store is blocked.
    pub store: bool,
    /// Blocked keys.
    pub keys: Vec<String>,
}

impl From<Option<&BlockOverlay>> for BlockReport {
    fn from(overlay: Option<&BlockOverlay>) -> Self {
        Self {
            epoch: overlay.map_or(0, |overlay| overlay.epoch),
            store: overlay.is_some_and(|overlay| overlay.store),
            keys: overlay.map(|overlay| overlay.keys.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for BlockReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = if self.keys.is_empty() { "none".to_owned() } else { self.keys.join(", ") };
        let store = if self.store { "BLOCKED" } else { "not blocked" };
        write!(f, "key store     {store}\nblocked keys  {keys}\nepoch         {}", self.epoch)
    }
}

/// Blocks `scope` on top of what is blocked.
///
/// # Errors
/// [`SessionError`]; a refusal by the custodian when another overlay came first: then do it again.
pub async fn block(session: &Session, scope: &Scope) -> Result<BlockReport, SessionError> {
    change(session, |store, keys| {
        keys.extend(scope.keys.iter().cloned());
        store || scope.store
    })
    .await
}

/// Lifts the blocks in `scope`.
///
/// # Errors
/// As [`block`], and [`SessionError::MoreSignatures`] where lifting needs more than one signature.
pub async fn unblock(session: &Session, scope: &Scope) -> Result<BlockReport, SessionError> {
    if session.store().manifest.manifest().thresholds.unblock > 1 {
        return Err(SessionError::MoreSignatures);
    }
    change(session, |store, keys| {
        keys.retain(|key| !scope.keys.contains(key));
        store && !scope.store
    })
    .await
}

async fn change(
    session: &Session,
    edit: impl FnOnce(bool, &mut BTreeSet<ExternalKeyId>) -> bool,
) -> Result<BlockReport, SessionError> {
    if session.store().manifest.manifest().thresholds.block > 1 {
        return Err(SessionError::MoreSignatures);
    }
    let current = session.overlay().await?;
    let was_blocked = current.as_ref().is_some_and(|current| current.store);
    let mut keys: BTreeSet<_> = current.iter().flat_map(|current| current.keys.iter().cloned()).collect();
    let store = edit(was_blocked, &mut keys);
    let overlay = BlockOverlay {
        label: labels::BLOCK.to_owned(),
        key_store_id: session.store().manifest.id(),
        epoch: current.as_ref().map_or(0, |current| current.epoch).saturating_add(1),
        store,
        keys: keys.into_iter().collect(),
        issued_ms: moment::now_ms(),
    };
    // Sent even when nothing changes: the answer then proves that the custodian has stored exactly this.
    session.put_overlay(&overlay).await?;
    Ok(Some(&overlay).into())
}
