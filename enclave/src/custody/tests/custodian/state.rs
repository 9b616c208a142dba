//! What a custodian keeps, by the rules of the real one.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_shared::alarm::{AlarmKind, Tally};
use holdfast_shared::audit::Checkpoint;
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor;
use holdfast_shared::command::SealedResult;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::hpke;
use holdfast_shared::ids::{CommandId, CustodianId, LeaseId};
use holdfast_shared::keystore::{self, BudgetWindow};
use holdfast_shared::limits::PROVISIONAL_SETS_MAX;
use holdfast_shared::manifest::{ManifestId, VerifiedManifest};
use holdfast_shared::provenance::{VersionUserData, share_set_sha256};
use holdfast_shared::quorum::Quorum;
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::release::{ChannelKeys, EarlierHead, HeldEntry, HeldShare, ShareSet};

use super::faults::{Fault, Hostile};
use crate::custody::tests::read_document;

/// A version as it is held.
#[derive(Clone)]
pub(in crate::custody::tests) struct Version {
    pub(in crate::custody::tests) entry: RegisterEntry,
    pub(in crate::custody::tests) blob: Vec<u8>,
    pub(in crate::custody::tests) register: Vec<u8>,
    pub(in crate::custody::tests) evidence: Vec<u8>,
    pub(in crate::custody::tests) is_committed: bool,
    pub(super) results: Vec<SealedResult>,
    pub(super) since: tokio::time::Instant,
}

impl Version {
    /// What was attested of it; nothing of what a test made up.
    pub(in crate::custody::tests) fn user_data(&self) -> Option<VersionUserData> {
        user_data(&self.evidence)
    }

    pub(in crate::custody::tests) fn generation(&self) -> u32 {
        keystore::header(&self.blob).unwrap().generation
    }

    /// The manifest under which it was made.
    pub(in crate::custody::tests) fn manifest(&self) -> Option<ManifestId> {
        self.user_data().map(|user_data| user_data.manifest)
    }
}

pub(super) fn user_data(evidence: &[u8]) -> Option<VersionUserData> {
    (!evidence.is_empty()).then(|| cbor::decode(&read_document(evidence).1).unwrap())
}

pub(in crate::custody::tests) struct State {
    /// In force here.
    pub(in crate::custody::tests) manifest: Option<VerifiedManifest>,
    /// A successor that comes into force with the committed version that names it.
    pub(in crate::custody::tests) staged: Option<VerifiedManifest>,
    /// By generation, ascending; of one generation, oldest first.
    pub(in crate::custody::tests) shares: Vec<HeldShare>,
    pub(in crate::custody::tests) versions: Vec<Version>,
    pub(in crate::custody::tests) hostile: Hostile,
    pub(in crate::custody::tests) overlay: Option<BlockOverlay>,
    pub(in crate::custody::tests) signed_overlay: Option<Vec<u8>>,
    pub(in crate::custody::tests) commands: Vec<(CommandId, Vec<u8>)>,
    pub(in crate::custody::tests) results: HashMap<CommandId, SealedResult>,
    pub(in crate::custody::tests) lease_ms: u64,
    pub(in crate::custody::tests) policy_epoch: u64,
    pub(in crate::custody::tests) faults: Vec<(&'static str, Fault)>,
    /// Every request, by name.
    pub(in crate::custody::tests) log: Vec<&'static str>,
    pub(super) leases: HashMap<LeaseId, Arc<ChannelKeys>>,
    pub(super) first_release: Option<Vec<u8>>,
    pub(super) first_share: Option<HeldShare>,
    /// What is debited of budgets.
    pub(in crate::custody::tests) debited: HashMap<(ExternalKeyId, BudgetWindow), u32>,
    /// What was told of uses, oldest first.
    pub(in crate::custody::tests) tallies: Vec<Tally>,
    /// The alarms that the next tally raises.
    pub(in crate::custody::tests) raises: Vec<AlarmKind>,
    /// Heads of audit logs that were told, oldest first.
    pub(in crate::custody::tests) heads: Vec<Checkpoint>,
    /// Heads of other boots, which are handed out with releases.
    pub(in crate::custody::tests) handed_out: Vec<EarlierHead>,
    /// TLS handshakes.
    pub(in crate::custody::tests) handshakes: usize,
    /// A share that was on its way for too long.
    pub(in crate::custody::tests) late: Option<(ShareSet, hpke::Sealed)>,
}

impl State {
    pub(in crate::custody::tests) fn newest(&self) -> Option<&Version> {
        match self.hostile.offers_version {
            Some(version) => self.versions.iter().find(|held| held.entry.version == version),
            None => self.versions.last(),
        }
    }

    pub(in crate::custody::tests) fn manifest(&self) -> &VerifiedManifest {
        self.manifest.as_ref().unwrap()
    }

    pub(in crate::custody::tests) fn asked(&self, name: &str) -> usize {
        self.log.iter().filter(|asked| **asked == name).count()
    }

    /// What is held, and what was asked last, for whoever reads why a test failed.
    pub(in crate::custody::tests) fn account(&self) -> String {
        let versions: Vec<_> = self.versions.iter().map(|held| (held.entry.version, held.is_committed)).collect();
        format!(
            "versions {versions:?}, generations {:?}, manifest {}, {} commands, results {}; asked, last first: {:?}",
            self.generations(),
            self.manifest().sequence(),
            self.commands.len(),
            self.results.len(),
            self.log.iter().rev().take(24).collect::<Vec<_>>()
        )
    }

    /// The generations of the shares that are held.
    pub(in crate::custody::tests) fn generations(&self) -> Vec<u32> {
        self.shares.iter().map(|held| held.set.generation).collect()
    }

    pub(super) fn held(&self) -> Option<HeldEntry> {
        self.newest().map(|newest| HeldEntry {
            signed: newest.register.clone(),
            is_committed: newest.is_committed || self.hostile.lies_committed,
        })
    }

    /// The manifest in force, then the staged one.
    fn manifests(&self) -> impl Iterator<Item = &VerifiedManifest> {
        self.manifest.iter().chain(&self.staged)
    }

    /// Whether the manifest in force names a custodian.
    pub(super) fn is_member(&self, id: CustodianId) -> bool {
        place(self.manifest(), id).is_some()
    }

    /// Whether neither the manifest in force nor the staged one names a custodian.
    pub(super) fn is_removed(&self, id: CustodianId) -> bool {
        self.manifests().all(|manifest| place(manifest, id).is_none())
    }

    /// Whether a custodian has that place among so many, from 1.
    pub(super) fn has_place(&self, id: CustodianId, index: u8, shares: usize) -> bool {
        let mut manifests = self.manifests().filter(|manifest| manifest.manifest().custodians.len() == shares);
        manifests.any(|manifest| place(manifest, id) == Some(index))
    }

    /// Whether a version made under this manifest counts once home holds it; none where that is neither in force nor staged.
    pub(super) fn commits_at_once(&self, manifest: ManifestId) -> Option<bool> {
        let is_home_enough = |manifest: &VerifiedManifest| Quorum::of(manifest.manifest()).write() == 1;
        let named = self.manifests().find(|known| known.manifest_id() == manifest)?;
        Some(is_home_enough(named) && is_home_enough(self.manifest()))
    }

    /// The successors that are told: those in force, and the staged one once the newest version that is held names it.
    pub(super) fn successors(&self) -> Vec<Vec<u8>> {
        if let Some(successors) = &self.hostile.successors {
            return successors.clone();
        }
        let named = self.versions.last().and_then(Version::manifest);
        let staged = self.staged.as_ref().filter(|staged| named == Some(staged.manifest_id()));
        let told = self.manifest().successors().chain(staged.and_then(|staged| staged.successors().last()));
        told.map(<[u8]>::to_vec).collect()
    }

    /// Whether the newest version is sealed under this generation.
    pub(super) fn is_in_force(&self, generation: u32) -> bool {
        self.versions.last().is_some_and(|newest| newest.generation() == generation)
    }

    /// Whether a set's share may come: of the newest version's generation only the set that this version names, and of the next one
    /// any.
    pub(super) fn may_come(&self, set: &ShareSet) -> bool {
        let Some(newest) = self.versions.last() else { return set.generation == 1 || self.manifest().sequence() > 1 };
        if set.generation == newest.generation() {
            return newest.user_data().is_none_or(|named| named.share_set_sha256 == share_set_sha256(set));
        }
        set.generation == newest.generation() + 1
    }

    /// Keeps a share beside those of other sets of its generation; the oldest of too many goes.
    pub(super) fn keep_share(&mut self, held: HeldShare) {
        let generation = held.set.generation;
        if self.versions.is_empty() {
            self.shares.retain(|kept| kept.set.generation == generation);
        }
        self.shares.push(held);
        self.shares.sort_by_key(|kept| kept.set.generation);
        if self.generations().iter().filter(|kept| **kept == generation).count() > PROVISIONAL_SETS_MAX {
            let oldest = self.shares.iter().position(|kept| kept.set.generation == generation);
            self.shares.remove(oldest.unwrap());
        }
    }

    pub(super) fn holds_set(&self, generation: u32, set_sha256: [u8; 32]) -> bool {
        self.shares.iter().any(|kept| kept.set.generation == generation && share_set_sha256(&kept.set) == set_sha256)
    }

    /// Whether a version counts as soon as it is held.
    pub(super) fn judge_evidence(
        &self,
        entry: &RegisterEntry,
        generation: u32,
        evidence: &[u8],
    ) -> Result<bool, &'static str> {
        // What a test made up.
        if evidence.is_empty() {
            return Ok(self.commits_at_once(self.manifest().manifest_id()) == Some(true));
        }
        let (nonce, _, public_key) = read_document(evidence);
        let named = user_data(evidence).unwrap();
        assert_eq!((nonce.as_slice(), public_key.len()), (entry.blob_id.as_bytes().as_slice(), 0));
        let said = (named.version, named.blob_id, named.previous);
        assert_eq!(said, (entry.version, entry.blob_id, entry.previous));
        if self.versions.last().is_some_and(|newest| generation < newest.generation()) {
            return Err("is sealed under an older root key");
        }
        if !self.holds_set(generation, named.share_set_sha256) {
            return Err("is sealed under other shares than those that are kept here");
        }
        self.commits_at_once(named.manifest).ok_or("was made under a manifest that is neither in force nor staged")
    }

    /// Keeps a version, and gives up the shares that lost to those that it names.
    pub(super) fn keep_version(&mut self, version: Version) {
        if let Some(named) = version.user_data() {
            let generation = version.generation();
            self.shares.retain(|kept| {
                kept.set.generation <= generation + 1
                    && (kept.set.generation != generation || share_set_sha256(&kept.set) == named.share_set_sha256)
            });
        }
        self.versions.push(version);
    }

    /// Takes a version, and all before it, for committed, and puts the staged successor in force if one of them names it.
    pub(super) fn commit(&mut self, version: u64) {
        let mut results = Vec::new();
        for held in self.versions.iter_mut().filter(|held| held.entry.version <= version) {
            held.is_committed = true;
            results.append(&mut held.results);
            let named = held.manifest();
            if let Some(staged) = self.staged.take_if(|staged| named == Some(staged.manifest_id())) {
                self.manifest = Some(staged);
            }
        }
        for result in results {
            self.results.insert(result.command_id, result);
        }
    }
}

fn place(manifest: &VerifiedManifest, id: CustodianId) -> Option<u8> {
    let place = manifest.manifest().custodians.iter().position(|custodian| custodian.id() == id)?;
    Some(u8::try_from(place).unwrap() + 1)
}
