//! `holdfast block` and `holdfast unblock`: what must not be used from this second on.
//!
//! Guarantees: no order lifts a block that it does not name, and no epoch is signed twice, even if the custodian shows an older
//! overlay than the newest one that this folder knows: then the next one is built on both.

use core::fmt;
use std::collections::BTreeSet;

use holdfast_shared::block::BlockOverlay;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::KeyStoreId;
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
    /// Epoch of an overlay that is known in this folder and that the custodian did not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld_epoch: Option<u64>,
}

impl BlockReport {
    /// What is in force, and whether the custodian withholds something newer.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn obtain(session: &Session) -> Result<Self, SessionError> {
        let known = session.known_overlay();
        let in_force = session.overlay().await?;
        let withheld_epoch = withheld(in_force.as_ref(), known.as_ref()).map(|withheld| withheld.epoch);
        Ok(Self::new(in_force.as_ref(), withheld_epoch))
    }

    fn new(overlay: Option<&BlockOverlay>, withheld_epoch: Option<u64>) -> Self {
        Self {
            epoch: overlay.map_or(0, |overlay| overlay.epoch),
            store: overlay.is_some_and(|overlay| overlay.store),
            keys: overlay.map(|overlay| overlay.keys.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            withheld_epoch,
        }
    }
}

impl fmt::Display for BlockReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = if self.keys.is_empty() { "none".to_owned() } else { self.keys.join(", ") };
        let store = if self.store { "BLOCKED" } else { "not blocked" };
        write!(f, "key store     {store}\nblocked keys  {keys}\nepoch         {}", self.epoch)?;
        match self.withheld_epoch {
            Some(epoch) => write!(
                f,
                "\nWARNING       the custodian did not show the block overlay of epoch {epoch}, which was signed: it never \
                 arrived there, or was lost or held back"
            ),
            None => Ok(()),
        }
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
    // Read before the custodian's answer can replace it.
    let known = session.known_overlay();
    let in_force = session.overlay().await?;
    let withheld = withheld(in_force.as_ref(), known.as_ref());
    let (overlay, withheld_epoch) = (
        successor(session.store().manifest.id(), in_force.as_ref(), withheld, edit, moment::now_ms()),
        withheld.map(|withheld| withheld.epoch),
    );
    // Sent even when nothing changes: the custodian then confirms exactly this.
    session.put_overlay(&overlay).await?;
    Ok(BlockReport::new(Some(&overlay), withheld_epoch))
}

/// What is known here, if the custodian shows something older, or something else of the same epoch.
fn withheld<'a>(in_force: Option<&BlockOverlay>, known: Option<&'a BlockOverlay>) -> Option<&'a BlockOverlay> {
    let epoch = in_force.map_or(0, |overlay| overlay.epoch);
    known.filter(|known| known.epoch > epoch || (known.epoch == epoch && Some(*known) != in_force))
}

/// The next overlay: everything that either of them blocks, edited, under an epoch that neither has.
fn successor(
    key_store_id: KeyStoreId,
    in_force: Option<&BlockOverlay>,
    withheld: Option<&BlockOverlay>,
    edit: impl FnOnce(bool, &mut BTreeSet<ExternalKeyId>) -> bool,
    issued_ms: u64,
) -> BlockOverlay {
    let before = || in_force.into_iter().chain(withheld);
    let mut keys: BTreeSet<_> = before().flat_map(|overlay| overlay.keys.iter().cloned()).collect();
    let store = edit(before().any(|overlay| overlay.store), &mut keys);
    BlockOverlay {
        label: labels::BLOCK.to_owned(),
        key_store_id,
        epoch: before().map(|overlay| overlay.epoch).max().unwrap_or(0).saturating_add(1),
        store,
        keys: keys.into_iter().collect(),
        issued_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ExternalKeyId {
        ExternalKeyId::parse(name).unwrap()
    }

    fn overlay(epoch: u64, store: bool, keys: &[&str]) -> BlockOverlay {
        BlockOverlay {
            label: labels::BLOCK.to_owned(),
            key_store_id: KeyStoreId([1; 32]),
            epoch,
            store,
            keys: keys.iter().map(|name| key(name)).collect(),
            issued_ms: 0,
        }
    }

    #[test]
    fn blocking_one_thing_never_lifts_another_and_no_epoch_is_used_twice() {
        let first = || overlay(1, false, &["a"]);
        let second = || overlay(2, true, &["a", "b"]);
        let table = [
            ("nothing yet", None, None, overlay(1, false, &["x"]), None),
            ("as known", Some(second()), Some(second()), overlay(3, true, &["a", "b", "x"]), None),
            ("another administrator's", Some(second()), Some(first()), overlay(3, true, &["a", "b", "x"]), None),
            ("known nowhere", Some(second()), None, overlay(3, true, &["a", "b", "x"]), None),
            ("an older one", Some(first()), Some(second()), overlay(3, true, &["a", "b", "x"]), Some(2)),
            ("none", None, Some(second()), overlay(3, true, &["a", "b", "x"]), Some(2)),
            (
                "another of the same epoch",
                Some(overlay(2, false, &["c"])),
                Some(second()),
                overlay(3, true, &["a", "b", "c", "x"]),
                Some(2),
            ),
        ];
        for (what, in_force, known, expected, withheld_epoch) in table {
            let withheld = withheld(in_force.as_ref(), known.as_ref());
            assert_eq!(withheld.map(|overlay| overlay.epoch), withheld_epoch, "{what}");
            let block_x = |store: bool, keys: &mut BTreeSet<ExternalKeyId>| {
                keys.insert(key("x"));
                store
            };
            let next = successor(KeyStoreId([1; 32]), in_force.as_ref(), withheld, block_x, 0);
            assert_eq!(next, expected, "{what}");
        }
    }
}
