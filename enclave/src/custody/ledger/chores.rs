//! What a custodian lacks: the newest version, the word that it is committed, its share; and what it should keep no longer.
//!
//! Guarantees: every custodian is brought up to date by itself, from what is here, whoever published the version and whenever the
//! custodian comes back; old shares go only where the version under the new root key is held and committed.

use std::sync::Arc;

use holdfast_client::Connect;
use holdfast_shared::hpke;
use holdfast_shared::ids::{BlobId, CustodianId};
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::provenance::share_set_sha256;
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::release::ShareSet;

use super::{Ledger, LinkState, Order, State, Told};
use crate::custody::unseal::HeldVersion;

/// The version that every custodian should hold.
#[derive(Clone)]
pub(in crate::custody) struct Target {
    pub(in crate::custody) version: Arc<HeldVersion>,
    pub(in crate::custody) is_committed: bool,
}

/// What is to be done for a custodian.
pub(in crate::custody) enum Chore {
    Copy(Arc<HeldVersion>),
    Commit { version: u64, blob_id: BlobId },
    Deposit { set: ShareSet, share: hpke::Sealed },
    Retire { generation: u32 },
}

impl<C: Connect + 'static> Ledger<C> {
    /// What every custodian should hold from now on.
    pub(in crate::custody) fn aim(&self, target: Target) {
        let mut state = self.lock();
        let is_same = state.target.as_ref().is_some_and(|before| {
            before.version.entry == target.version.entry && before.is_committed == target.is_committed
        });
        if !is_same {
            state.target = Some(target);
            drop(state);
            self.tell_all();
        }
    }

    /// Whether that is so already.
    pub(in crate::custody) fn is_aimed_at(&self, entry: &RegisterEntry) -> bool {
        self.lock().target.as_ref().is_some_and(|target| target.version.entry == *entry)
    }

    /// What to do for a custodian next.
    pub(in crate::custody) fn chore(&self, id: CustodianId) -> Option<Chore> {
        let state = self.lock();
        let link = state.links.get(&id)?;
        let told = link.answer.as_ref()?;
        if let Some(target) = &state.target {
            let entry = &target.version.entry;
            // One custodian alone that offers less than it did is no quorum: what an enclave remembers does not replace it.
            let is_alone = state.manifest.manifest().custodians.len() == 1 && state.place(id) == Some(0);
            if !is_alone && told.entry.as_ref().is_none_or(|held| held.version < entry.version) {
                return Some(Chore::Copy(Arc::clone(&target.version)));
            }
            if target.is_committed && told.entry.as_ref() == Some(entry) && !told.is_committed {
                return Some(Chore::Commit { version: entry.version, blob_id: entry.blob_id });
            }
        }
        if let Some((set, share)) = &link.deposit
            && state.is_informed(link)
        {
            return Some(Chore::Deposit { set: set.clone(), share: share.clone() });
        }
        let target = state.target.as_ref().filter(|target| target.is_committed)?;
        let generation = target.version.generation;
        let is_there = told.entry.as_ref() == Some(&target.version.entry) && told.is_committed;
        // One that was removed shows none of the shares that it holds.
        let may_hide = state.place(id).is_none() && link.retired < generation;
        let has_old = may_hide || link.holds.iter().any(|(held, _)| *held < generation);
        // One that was removed gets no new share, and keeps the old ones no longer either.
        let set =
            state.unsealed.as_ref().map(|unsealed| unsealed.root().set()).filter(|set| set.generation == generation)?;
        let share = (generation, share_set_sha256(set));
        let may_do_without = state.place(id).is_none() || link.has_share(&share);
        // Old ones go, anywhere, only once as many have both as open the key store whatever some of them lie.
        let has_both = |link: &LinkState<C>| {
            let entry = link.answer.as_ref().and_then(|told| told.entry.as_ref());
            entry == Some(&target.version.entry) && link.has_share(&share)
        };
        let is_safe = state.members().filter(|(_, link)| has_both(link)).count() >= state.quorum().deposits();
        (is_there && has_old && may_do_without && is_safe).then_some(Chore::Retire { generation })
    }

    /// It holds a version now.
    pub(in crate::custody) fn copied(&self, id: CustodianId, version: &HeldVersion) {
        let told = Told { entry: Some(version.entry.clone()), signed: version.signed.clone(), is_committed: false };
        let mut state = self.lock();
        let generation = state.unsealed.as_ref().map(|unsealed| unsealed.root().set().generation);
        if let Some(link) = state.links.get_mut(&id)
            && link.answer.as_ref().and_then(|told| told.entry.as_ref()) != Some(&version.entry)
        {
            link.answer = Some(told);
            // Its share is given again, which harms nothing.
            if generation != Some(version.generation) {
                link.unsure.insert(version.generation);
            }
        }
        drop(state);
        self.tell_all();
    }

    /// It knows that a version is committed.
    pub(in crate::custody) fn knows_committed(&self, id: CustodianId, version: u64, blob_id: BlobId) {
        if let Some(told) = self.lock().links.get_mut(&id).and_then(|link| link.answer.as_mut())
            && told.entry.as_ref().is_some_and(|entry| (entry.version, entry.blob_id) == (version, blob_id))
        {
            told.is_committed = true;
        }
        self.tell_all();
    }

    /// It has its share of this set.
    pub(in crate::custody) fn deposited(&self, id: CustodianId, set: &ShareSet) {
        let hash = share_set_sha256(set);
        let mut state = self.lock();
        if let Some(link) = state.links.get_mut(&id) {
            link.holds.insert((set.generation, hash));
            link.unsure.remove(&set.generation);
            link.proven.insert(hash);
            link.deposit.take_if(|(other, _)| other == set);
        }
        self.regate(&mut state);
        drop(state);
        self.tell_all();
    }

    /// It keeps no share below this generation.
    pub(in crate::custody) fn retired(&self, id: CustodianId, generation: u32) {
        if let Some(link) = self.lock().links.get_mut(&id) {
            link.retired = generation;
            link.holds.retain(|(held, _)| *held >= generation);
            link.unsure.retain(|unsure| *unsure >= generation);
        }
        self.tell_all();
    }

    /// Gives a custodian a share, already encrypted to it.
    pub(in crate::custody) fn give(&self, id: CustodianId, set: ShareSet, share: hpke::Sealed) {
        if let Some(link) = self.lock().links.get_mut(&id) {
            link.deposit = Some((set, share));
        }
        self.tell_all();
    }

    /// It would not take its share of this set.
    pub(in crate::custody) fn declined(&self, id: CustodianId, set: &ShareSet) {
        if let Some(link) = self.lock().links.get_mut(&id) {
            link.deposit.take_if(|(other, _)| other == set);
        }
        self.tell_all();
    }

    /// Whether it is about to get a share.
    pub(in crate::custody) fn is_given(&self, id: CustodianId) -> bool {
        self.lock().links.get(&id).is_some_and(|link| link.deposit.is_some())
    }

    /// No share is given that was not taken yet.
    pub(in crate::custody) fn give_none(&self) {
        for link in self.lock().links.values_mut() {
            link.deposit = None;
        }
    }

    /// Those of the manifest that have a channel and hold no share of this set, nor are about to get one; and hold the version in
    /// use, before which they would take none.
    pub(in crate::custody) fn without_share(&self, set: &ShareSet) -> Vec<CustodianId> {
        let hash = share_set_sha256(set);
        let state = self.lock();
        let Some(unsealed) = &state.unsealed else { return Vec::new() };
        let lacks = state.members().filter(|(_, link)| {
            link.session.is_some()
                && link.deposit.is_none()
                && !link.has_share(&(set.generation, hash))
                && link.answer.as_ref().is_some_and(|told| told.entry.as_ref() == Some(unsealed.entry()))
        });
        lacks.map(|(_, link)| link.custodian.id()).collect()
    }

    /// Those who hold a share of this set.
    pub(in crate::custody) fn with_share(&self, set: &ShareSet) -> Vec<CustodianId> {
        let hash = share_set_sha256(set);
        let state = self.lock();
        let holds = state.links.iter().filter(|(_, link)| link.holds.contains(&(set.generation, hash)));
        holds.map(|(id, _)| *id).collect()
    }

    /// Has those of a manifest release anew that do not know what the others know, and so are given no share.
    pub(in crate::custody) fn inform(&self, manifest: &VerifiedManifest) {
        let mut state = self.lock();
        let uninformed: Vec<_> = state
            .members_of(manifest)
            .filter(|(_, link)| link.session.is_some() && !state.is_informed(link))
            .map(|(_, link)| link.custodian.id())
            .collect();
        for id in &uninformed {
            if let Some(link) = state.links.get_mut(id) {
                link.order = Some(Order::ReleaseAgain);
            }
        }
        drop(state);
        if !uninformed.is_empty() {
            self.tell_all();
        }
    }

    /// Whether a custodian that was removed has deleted its shares, or never will.
    pub(in crate::custody) fn is_done_with(&self, id: CustodianId) -> bool {
        let state = self.lock();
        let Some(link) = state.links.get(&id) else { return true };
        // Before the version that removed it is in service, nothing tells it to delete anything.
        state.unsealed.as_ref().is_some_and(|unsealed| {
            let generation = unsealed.root().set().generation;
            link.retired >= generation
        })
    }
}

impl<C> State<C> {
    /// Whether a custodian may be given its first share: one that knows less of release policies and blocks than the others would release
    /// it where they refuse. One in f + 1 of those is honest.
    fn is_informed(&self, link: &LinkState<C>) -> bool {
        if !link.holds.is_empty() {
            return true;
        }
        let mut epochs: Vec<u64> = self.members().map(|(_, link)| link.policy_epoch).collect();
        epochs.sort_unstable_by(|a, b| b.cmp(a));
        let policy_epoch = epochs.get(self.quorum().believed().saturating_sub(1)).copied().unwrap_or_default();
        link.policy_epoch >= policy_epoch && link.told_epoch >= self.overlay_epoch()
    }
}
