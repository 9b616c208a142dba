//! Block overlays: what of all that custodians told is in force.
//!
//! Guarantees: a block that enough administrators of the manifest in force signed is in force when this returns, whoever told it, and only
//! an overlay that enough signed for lifting takes it back: one with a high epoch and too few signatures adds what it blocks and hides
//! nothing. What administrators of a successor signed that may not be in force counts where one of those who tell it is honest, and adds
//! only. When others are to sign, everything is judged anew. Bounded: of more overlays than are kept, the key store is blocked.

use std::sync::Arc;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::block::{self, BlockOverlay, SignedOverlay};
use holdfast_shared::ids::CustodianId;
use holdfast_shared::manifest::{ManifestId, VerifiedManifest};

use super::audit::overlay_event;
use super::{Ledger, State};

/// Overlays that are kept beside each other, each of which blocks something.
const HEARD_MAX: usize = 32;

/// An overlay, as it came and as it was read under the manifest in force.
pub(super) struct Heard {
    signed: Vec<u8>,
    read: SignedOverlay,
}

/// An overlay by administrators of a successor.
pub(super) struct Foreseen {
    manifest: ManifestId,
    signed: Vec<u8>,
    overlay: BlockOverlay,
}

impl<C: Connect + 'static> Ledger<C> {
    /// Takes note of an overlay that a custodian told, and puts in force what follows from it.
    pub(super) fn take_overlay(&self, state: &mut State<C>, id: CustodianId, signed: &[u8]) {
        self.follow_signers(state);
        let now_ms = self.now_ms();
        let claimed = block::claimed(signed);
        let epoch = claimed.as_ref().map_or(0, |claimed| claimed.epoch);
        let is_known = state.heard.iter().any(|heard| heard.signed == signed);
        let is_over = epoch < block::lifted_at(state.heard.iter().map(|heard| &heard.read));
        if claimed.is_ok() && (is_known || is_over) {
            state.tells(id, epoch, None);
            return;
        }
        if state.is_put_off(id, now_ms) {
            return;
        }
        let manifest = Arc::clone(state.signers());
        match block::read(signed, &manifest) {
            Ok(read) => {
                state.hear(Heard { signed: signed.to_vec(), read });
                state.tells(id, epoch, None);
            }
            Err(error) => {
                let under = state.successors().into_iter().find_map(|successor| {
                    let overlay = block::read(signed, successor).ok()?.overlay;
                    Some(Foreseen { manifest: successor.manifest_id(), signed: signed.to_vec(), overlay })
                });
                if under.is_none() {
                    state.put_off(id, now_ms);
                    self.log(Level::Error, &format!("custodian {}: {error}; ignored", state.name_of(id)));
                    return;
                }
                state.tells(id, epoch, under);
            }
        }
        self.put_blocks_in_force(state);
    }

    /// Judges everything anew, if others sign by now.
    pub(super) fn follow_signers(&self, state: &mut State<C>) {
        let manifest = Arc::clone(state.signers());
        if manifest.manifest_id() == state.blocks_under {
            return;
        }
        state.blocks_under = manifest.manifest_id();
        let foreseen = state.links.values_mut().filter_map(|link| {
            link.must_tell_again = true;
            link.foreseen.take().map(|foreseen| foreseen.signed)
        });
        let foreseen: Vec<_> = foreseen.collect();
        let heard = core::mem::take(&mut state.heard);
        for signed in heard.into_iter().map(|heard| heard.signed).chain(foreseen) {
            if let Ok(read) = block::read(&signed, &manifest) {
                state.hear(Heard { signed, read });
            }
        }
        self.put_blocks_in_force(state);
    }

    fn put_blocks_in_force(&self, state: &mut State<C>) {
        let overlay = state.blocks();
        if overlay == state.overlay {
            return;
        }
        state.block_changes = state.block_changes.saturating_add(1);
        if let Some(overlay) = &overlay {
            self.served.block(overlay, state.block_changes);
            let (epoch, whole, keys) = (overlay.epoch, overlay.store, overlay.keys.len());
            self.log(Level::Warn, &format!("block overlay {epoch} in force (store: {whole}, keys: {keys})"));
        } else {
            self.served.block(&BlockOverlay::nothing(self.id), state.block_changes);
        }
        self.served.audit().note(overlay_event(overlay.as_ref()));
        state.overlay = overlay;
        if state.is_blocked() {
            self.wipe(state);
        }
    }
}

impl<C> State<C> {
    /// Whose administrators' overlays count: those of the manifest in force. Before anything was served that is only the first one, though
    /// those whom it names may have been removed since: then those of the newest that one who is honest hands out.
    fn signers(&self) -> &Arc<VerifiedManifest> {
        if self.floor.is_some() { &self.manifest } else { self.believed() }
    }

    /// Keeps an overlay, and forgets those that it takes back, or says itself.
    fn hear(&mut self, new: Heard) {
        self.heard.retain(|heard| heard.read.overlay != new.read.overlay || heard.read.may_lift);
        if self.heard.iter().any(|heard| heard.read.overlay == new.read.overlay) {
            return;
        }
        // Each overlay says all that is blocked: those before it that only add are in it.
        let says_all = |heard: &Heard| {
            let (old, new) = (&heard.read, &new.read);
            !old.may_lift && old.overlay.epoch <= new.overlay.epoch && !old.overlay.lifts(&new.overlay)
        };
        self.heard.retain(|heard| !says_all(heard));
        self.heard.push(new);
        let lifted_at = block::lifted_at(self.heard.iter().map(|heard| &heard.read));
        self.heard.retain(|heard| heard.read.overlay.epoch >= lifted_at);
        // One more than are kept says that there are more.
        self.heard.truncate(HEARD_MAX.saturating_add(1));
    }

    /// A custodian that was to tell its overlay again has none by now. What it told under the same signers it told.
    pub(super) fn tells_none(&mut self, id: CustodianId) {
        if let Some(link) = self.links.get_mut(&id).filter(|link| link.must_tell_again) {
            link.told_epoch = 0;
            link.must_tell_again = false;
        }
    }

    fn tells(&mut self, id: CustodianId, overlay_epoch: u64, foreseen: Option<Foreseen>) {
        if let Some(link) = self.links.get_mut(&id) {
            link.told_epoch = overlay_epoch;
            link.must_tell_again = false;
            link.foreseen = foreseen;
        }
    }

    /// What is blocked.
    fn blocks(&self) -> Option<BlockOverlay> {
        let mut blocks = block::in_force(self.heard.iter().map(|heard| &heard.read));
        let foreseen: Vec<_> = self.links.values().filter_map(|link| link.foreseen.as_ref()).collect();
        for one in &foreseen {
            let tell_it = foreseen.iter().filter(|other| other.manifest == one.manifest).count();
            if tell_it >= self.quorum().believed() {
                blocks = Some(one.overlay.with(blocks.as_ref()));
            }
        }
        if let Some(blocks) = &mut blocks {
            blocks.store |= self.heard.len() > HEARD_MAX;
        }
        blocks
    }

    /// The newest overlay that one of those who are honest told.
    pub(super) fn overlay_epoch(&self) -> u64 {
        let mut epochs: Vec<u64> = self.members().map(|(_, link)| link.told_epoch).collect();
        epochs.sort_unstable_by(|a, b| b.cmp(a));
        epochs.get(self.quorum().believed().saturating_sub(1)).copied().unwrap_or_default()
    }
}
