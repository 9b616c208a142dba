//! `holdfast block` and `holdfast unblock`: what must not be used from this second on.
//!
//! Guarantees: no order lifts a block that it does not name, and no epoch is signed twice, even if custodians show older overlays than
//! the newest one that this folder knows: then the next one is built on both. An overlay is in force for sure once so many custodians
//! said so under their signatures that everybody who asks enough of them hears of it ([`holdfast_shared::quorum::Quorum::write`]).

use core::fmt;
use std::collections::BTreeSet;

use holdfast_shared::block::BlockOverlay;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::{cbor, labels};
use serde::Serialize;

use super::spread::{self, Spread};
use crate::moment;
use crate::session::{Heard, Session, SessionError, Wait, put_overlay};

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
    /// What is in force by what custodians showed, and whether something newer is withheld.
    pub(super) fn of(heard: &Heard<Option<BlockOverlay>>, known: Option<&BlockOverlay>) -> Self {
        let in_force = in_force(heard);
        let withheld_epoch = withheld(&in_force, known).map(|withheld| withheld.epoch);
        Self::new(in_force.into_iter().max_by_key(|overlay| overlay.epoch), withheld_epoch)
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
                "\nWARNING       no custodian showed the block overlay of epoch {epoch}, which was signed: it never \
                 arrived there, or was lost or held back"
            ),
            None => Ok(()),
        }
    }
}

/// A change of what is blocked, and how far it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpreadReport {
    /// The key store.
    pub key_store: String,
    /// What is blocked now.
    #[serde(flatten)]
    pub blocked: BlockReport,
    /// Who has it.
    #[serde(flatten)]
    pub spread: Spread,
}

impl fmt::Display for SpreadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.blocked, self.spread)
    }
}

/// The next overlay: `scope` on top of what is blocked.
///
/// # Errors
/// [`SessionError::Nobody`] when no custodian says what is blocked.
pub async fn blocking(session: &Session, scope: &Scope) -> Result<Change, SessionError> {
    change(session, |store, keys| {
        keys.extend(scope.keys.iter().cloned());
        store || scope.store
    })
    .await
}

/// The next overlay: what is blocked, without `scope`.
///
/// # Errors
/// As [`blocking`].
pub async fn unblocking(session: &Session, scope: &Scope) -> Result<Change, SessionError> {
    change(session, |store, keys| {
        keys.retain(|key| !scope.keys.contains(key));
        store && !scope.store
    })
    .await
}

/// An overlay that is to be signed and sent.
#[derive(Clone, Debug)]
pub struct Change {
    /// The overlay.
    pub overlay: BlockOverlay,
    /// Signatures that it needs.
    pub needed: u8,
    /// Whether it lifts a block.
    pub lifts: bool,
    /// Epoch of one that custodians did not show.
    pub withheld_epoch: Option<u64>,
}

async fn change(
    session: &Session,
    edit: impl FnOnce(bool, &mut BTreeSet<ExternalKeyId>) -> bool,
) -> Result<Change, SessionError> {
    // Read before a custodian's answer can replace it.
    let known = session.known_overlay();
    let heard = session.overlays().await;
    let in_force: Vec<_> = in_force(&heard);
    if heard.iter().all(|(_, said)| !matches!(said, Some(Ok(_)))) {
        return Err(nobody(heard));
    }
    let answered = heard.iter().filter(|(_, said)| matches!(said, Some(Ok(_)))).count();
    let withheld = withheld(&in_force, known.as_ref());
    let before = base(&in_force, answered >= session.quorum().answers(), withheld);
    let overlay = successor(session.store().manifest.id(), &before, edit, moment::now_ms());
    let lifts = before.iter().any(|before| before.lifts(&overlay));
    let thresholds = session.store().manifest.manifest().thresholds;
    let needed = if lifts { thresholds.unblock.max(thresholds.block) } else { thresholds.block };
    Ok(Change { needed, lifts, withheld_epoch: withheld.map(|withheld| withheld.epoch), overlay })
}

/// The only custodian's own words, or those of all.
pub(super) fn nobody<T>(heard: Heard<T>) -> SessionError {
    let mut errors: Vec<_> = heard
        .into_iter()
        .map(|(contact, said)| match said {
            Some(Err(error)) => (contact, error),
            _ => (contact, SessionError::Interrupted),
        })
        .collect();
    if errors.len() == 1
        && let Some((_, error)) = errors.pop()
    {
        return error;
    }
    SessionError::Nobody(
        errors.iter().map(|(contact, error)| format!("{}: {error}", contact.name())).collect::<Vec<_>>().join("; "),
    )
}

/// The overlays that were shown.
pub(super) fn in_force(heard: &Heard<Option<BlockOverlay>>) -> Vec<&BlockOverlay> {
    heard.iter().filter_map(|(_, said)| said.as_ref()?.as_ref().ok()?.as_ref()).collect()
}

/// Signs an overlay with the one signature that it needs, and sends it to every custodian.
///
/// # Errors
/// [`SessionError::MoreSignatures`], or the custodian's words where there is one and it did not take the overlay.
pub async fn send(session: &Session, change: &Change, wait: Wait<'_>) -> Result<SpreadReport, SessionError> {
    if change.needed > 1 {
        let what = if change.lifts { "lifting a block" } else { "blocking" };
        return Err(SessionError::MoreSignatures { what, needed: change.needed });
    }
    let envelope = session.sign_overlay(&change.overlay)?;
    let signed = cbor::encode(&envelope).to_vec();
    // Sent even when nothing changes: the custodian then confirms exactly this.
    send_signed(session, &change.overlay, change.withheld_epoch, signed, wait).await
}

/// Sends a signed overlay to every custodian.
///
/// # Errors
/// As [`send`].
pub async fn send_signed(
    session: &Session,
    overlay: &BlockOverlay,
    withheld_epoch: Option<u64>,
    signed: Vec<u8>,
    wait: Wait<'_>,
) -> Result<SpreadReport, SessionError> {
    // Before it is sent: an answer that is lost does not unsign it.
    session.note_overlay(overlay, &signed);
    let mut spread = spread::to_all(session.contacts(), session.quorum().write(), wait, move |contact| {
        let signed = signed.clone();
        async move { put_overlay(&contact, &signed).await }
    })
    .await?;
    // Home knows of a successor manifest first: an overlay that it refuses may be worth nothing once that is in force.
    if spread.custodians.first().is_some_and(|home| home.refused) {
        (spread.complete, spread.complete_after_ms) = (false, None);
    }
    let key_store = session.store().manifest.manifest().name.clone();
    Ok(SpreadReport { key_store, blocked: BlockReport::new(Some(overlay), withheld_epoch), spread })
}

/// What is known here, if custodians show something older, or something else of the same epoch.
fn withheld<'a>(in_force: &[&BlockOverlay], known: Option<&'a BlockOverlay>) -> Option<&'a BlockOverlay> {
    let epoch = in_force.iter().map(|overlay| overlay.epoch).max().unwrap_or(0);
    known.filter(|known| known.epoch > epoch || (known.epoch == epoch && !in_force.contains(known)))
}

/// On what the next overlay is built. Where enough custodians answered, the newest one among them states the whole of what is blocked,
/// since one that enough acknowledged is heard of by everybody who asks enough; an older one at a custodian that was down is over.
/// Where too few answered, everything that they show stays blocked.
fn base<'a>(
    in_force: &[&'a BlockOverlay],
    enough_answered: bool,
    withheld: Option<&'a BlockOverlay>,
) -> Vec<&'a BlockOverlay> {
    let newest = in_force.iter().map(|overlay| overlay.epoch).max().unwrap_or(0);
    let counts = |overlay: &&&BlockOverlay| !enough_answered || overlay.epoch == newest;
    in_force.iter().filter(counts).copied().chain(withheld).collect()
}

/// The next overlay: everything that any of them blocks, edited, under an epoch that none has.
fn successor(
    key_store_id: KeyStoreId,
    before: &[&BlockOverlay],
    edit: impl FnOnce(bool, &mut BTreeSet<ExternalKeyId>) -> bool,
    issued_ms: u64,
) -> BlockOverlay {
    let mut keys: BTreeSet<_> = before.iter().flat_map(|overlay| overlay.keys.iter().cloned()).collect();
    let store = edit(before.iter().any(|overlay| overlay.store), &mut keys);
    BlockOverlay {
        label: labels::BLOCK.to_owned(),
        key_store_id,
        epoch: before.iter().map(|overlay| overlay.epoch).max().unwrap_or(0).saturating_add(1),
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
            let in_force: Vec<_> = in_force.iter().collect();
            let withheld = withheld(&in_force, known.as_ref());
            assert_eq!(withheld.map(|overlay| overlay.epoch), withheld_epoch, "{what}");
            assert_eq!(block_x(&base(&in_force, true, withheld)), expected, "{what}");
        }
    }

    fn block_x(before: &[&BlockOverlay]) -> BlockOverlay {
        let edit = |store: bool, keys: &mut BTreeSet<ExternalKeyId>| {
            keys.insert(key("x"));
            store
        };
        successor(KeyStoreId([1; 32]), before, edit, 0)
    }

    #[test]
    fn a_custodian_that_missed_an_unblock_does_not_bring_the_block_back() {
        let (old, new, other) = (overlay(4, true, &["a"]), overlay(5, false, &["b"]), overlay(5, false, &["c"]));
        let table = [
            ("enough answered", vec![&old, &new], true, overlay(6, false, &["b", "x"])),
            ("too few answered", vec![&old, &new], false, overlay(6, true, &["a", "b", "x"])),
            ("two of one epoch", vec![&new, &other], true, overlay(6, false, &["b", "c", "x"])),
        ];
        for (what, shown, enough, expected) in table {
            assert_eq!(block_x(&base(&shown, enough, None)), expected, "{what}");
        }
    }
}
