//! Which manifest is in force, and where the register stands under it.
//!
//! ```text
//! first manifest ─ in force ──▶ successor ──▶ successor         verified, as custodians hand them out
//!                     ▲             │
//!                     └─────────────┘  an opened version names its digest, and enough custodians of both hold what came first under it
//! ```
//!
//! Guarantees: a custodian's word puts no manifest in force: administrators may have signed several successors of one manifest, and
//! withdrawn all but one; the body of an opened version names the one under which it was made, and how many must hold a version is
//! judged under that one. A version under a manifest that is not known is not served. Assumes: a body that opens was sealed by an
//! accepted enclave, since nobody else had the root key.

use std::sync::Arc;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::ids::{BlobId, CustodianId};
use holdfast_shared::limits::{ANSWER_AGE_MAX_MS, MANIFEST_CHAIN_MAX};
use holdfast_shared::manifest::{self, Custodian, ManifestId, VerifiedManifest};
use holdfast_shared::quorum::{Answer, Quorum};
use holdfast_shared::register::RegisterEntry;

use super::{Ledger, State};
use crate::custody::CustodyError;
use crate::custody::unseal::{self, Contradiction, MadeUnder, Standing};

/// How long nothing that is signed is looked at, of a custodian that gave something that did not verify, in milliseconds.
pub(super) const REFUSED_WAIT_MS: u64 = 1_000;
/// Versions of which it is remembered what they say: those in use, and those that are offered meanwhile.
const READ_MAX: usize = 8;

/// What came of reading a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Says(MadeUnder),
    /// It could not be opened.
    Failed,
}

/// What versions say of the manifest under which they were made.
#[derive(Default)]
pub(super) struct Readings(Vec<(BlobId, Reading)>);

impl Readings {
    fn of(&self, entry: &RegisterEntry) -> Option<Reading> {
        self.0.iter().find(|(blob_id, _)| *blob_id == entry.blob_id).map(|(_, reading)| *reading)
    }

    fn note(&mut self, blob_id: BlobId, reading: Reading) {
        self.0.retain(|(other, _)| *other != blob_id);
        if self.0.len() >= READ_MAX {
            self.0.remove(0);
        }
        self.0.push((blob_id, reading));
    }

    /// What could not be opened may be tried again: shares came.
    pub(super) fn forget_failures(&mut self) {
        self.0.retain(|(_, reading)| *reading != Reading::Failed);
    }
}

impl<C: Connect + 'static> Ledger<C> {
    pub(in crate::custody) fn manifest(&self) -> Arc<VerifiedManifest> {
        Arc::clone(&self.lock().manifest)
    }

    /// Adds a successor that is to be put in force from here.
    pub(in crate::custody) fn know(&self, successor: Arc<VerifiedManifest>) {
        self.lock().know(successor);
        self.tell_all();
    }

    /// Its adoption failed.
    pub(in crate::custody) fn forget(&self, successor: &VerifiedManifest) {
        self.lock().successors.retain(|known| **known != *successor);
        self.tell_all();
    }

    /// The manifest in force, or a known successor.
    pub(in crate::custody) fn manifest_of(&self, id: ManifestId) -> Option<Arc<VerifiedManifest>> {
        self.lock().known(id).cloned()
    }

    /// The manifest under which a ceremony is held: the newest that home handed out, since no other counts there.
    pub(in crate::custody) fn manifest_at_home(&self) -> Arc<VerifiedManifest> {
        Arc::clone(self.lock().at_home())
    }

    /// Whose answers matter, each once, under the address that counts.
    pub(in crate::custody) fn watched(&self) -> Vec<Custodian> {
        let state = self.lock();
        let mut watched: Vec<Custodian> = Vec::new();
        for manifest in state.judged() {
            for custodian in &manifest.manifest().custodians {
                let Some(known) = watched.iter_mut().find(|known| known.id() == custodian.id()) else {
                    watched.push(custodian.clone());
                    continue;
                };
                // It may have moved: then nobody answers where it was.
                let is_silent = state.links.get(&custodian.id()).is_some_and(|link| link.answered_ms == 0);
                if state.unsealed.is_none() && is_silent {
                    known.clone_from(custodian);
                }
            }
        }
        watched
    }

    /// An opened version says under which manifest it was made.
    pub(in crate::custody) fn read(&self, entry: &RegisterEntry, made_under: MadeUnder) {
        self.lock().readings.note(entry.blob_id, Reading::Says(made_under));
    }

    /// A version could not be opened.
    pub(in crate::custody) fn unread(&self, entry: &RegisterEntry) {
        self.lock().readings.note(entry.blob_id, Reading::Failed);
    }

    /// Where the register stands.
    ///
    /// # Errors
    /// [`CustodyError::Rollback`] and [`CustodyError::Fork`], which name who is to blame.
    pub(in crate::custody) fn standing(&self) -> Result<Standing, CustodyError> {
        let now_ms = self.now_ms();
        self.lock().standing(now_ms)
    }

    /// Takes successors that are not known yet; the first that does not verify ends it. After one that did not, nothing of that
    /// custodian is looked at for a while: each costs signatures.
    pub(super) fn learn(&self, state: &mut State<C>, id: CustodianId, offered: impl Iterator<Item = Vec<u8>>) {
        let now_ms = self.now_ms();
        let in_force = Arc::clone(&state.manifest);
        let mut known = in_force.successors().zip(in_force.lineage().skip(1));
        let mut newest = Arc::clone(&in_force);
        for signed in offered {
            let known = known.next();
            if known.is_some_and(|(known, _)| known == signed) {
                continue;
            }
            if state.is_put_off(id, now_ms) {
                return;
            }
            let digest = manifest::claimed_digest(&signed);
            let error = match (known.map(|(_, id)| id), digest) {
                // Signatures may differ from copy to copy.
                (Some(known), Ok(digest)) if known.digest == digest => continue,
                (Some(known), Ok(_)) => {
                    format!("it hands out another manifest {} than the one in force", known.sequence)
                }
                (_, Err(error)) => error.to_string(),
                (None, Ok(digest)) => {
                    let sequence = newest.sequence().saturating_add(1);
                    if let Some(known) = state.known(ManifestId { sequence, digest }) {
                        newest = Arc::clone(known);
                        continue;
                    }
                    match newest.succeed(&signed) {
                        Ok(next) => {
                            let name = state.name_of(id);
                            self.log(Level::Warn, &format!("custodian {name} hands out manifest {sequence}"));
                            newest = Arc::new(next);
                            state.know(Arc::clone(&newest));
                            continue;
                        }
                        Err(error) => error.to_string(),
                    }
                }
            };
            state.put_off(id, now_ms);
            self.log(Level::Error, &format!("custodian {}: {error}; ignored", state.name_of(id)));
            return;
        }
        if newest.sequence() > state.manifest.sequence()
            && let Some(link) = state.links.get_mut(&id)
        {
            link.handed_out = Some(newest.manifest_id());
        }
    }

    /// Puts the manifest in force that a version in service names.
    pub(super) fn put_in_force(&self, state: &mut State<C>, id: ManifestId) {
        if state.manifest.manifest_id() == id {
            return;
        }
        let Some(successor) = state.known(id).cloned() else { return };
        self.log(Level::Warn, &format!("manifest {} is in force", id.sequence));
        state.successors.retain(|known| **known != *successor && descends(known, &successor));
        state.manifest = successor;
    }
}

/// Whether a manifest succeeds another one, directly or not.
fn descends(manifest: &VerifiedManifest, from: &VerifiedManifest) -> bool {
    let from = from.manifest_id();
    manifest.sequence() > from.sequence && manifest.lineage().any(|of| of == from)
}

impl<C> State<C> {
    fn know(&mut self, successor: Arc<VerifiedManifest>) {
        if self.successors.len() < MANIFEST_CHAIN_MAX && self.known(successor.manifest_id()).is_none() {
            self.successors.push(successor);
        }
    }

    fn known(&self, id: ManifestId) -> Option<&Arc<VerifiedManifest>> {
        core::iter::once(&self.manifest).chain(&self.successors).find(|manifest| manifest.manifest_id() == id)
    }

    /// The newest manifest that home handed out.
    fn at_home(&self) -> &Arc<VerifiedManifest> {
        let home = self.manifest.home_custodian().and_then(|home| self.links.get(&home.id()));
        home.and_then(|home| home.handed_out).and_then(|id| self.known(id)).unwrap_or(&self.manifest)
    }

    /// Known successors that have none themselves, newest first.
    pub(super) fn tips(&self) -> Vec<&Arc<VerifiedManifest>> {
        let is_tip = |known: &&Arc<VerifiedManifest>| !self.successors.iter().any(|other| descends(other, known));
        let mut tips: Vec<_> = self.successors.iter().filter(is_tip).collect();
        tips.sort_by_key(|tip| core::cmp::Reverse(tip.sequence()));
        tips
    }

    /// The manifest in force, then all under which the register is judged besides: successors that have none, and what they succeed.
    pub(super) fn judged(&self) -> Vec<&Arc<VerifiedManifest>> {
        let mut judged = vec![&self.manifest];
        let tips = self.tips();
        let before = tips.iter().filter_map(|tip| self.before(tip));
        for manifest in before.chain(tips.iter().copied()) {
            if !judged.contains(&manifest) {
                judged.push(manifest);
            }
        }
        judged
    }

    /// What a successor directly succeeds.
    fn before(&self, successor: &VerifiedManifest) -> Option<&Arc<VerifiedManifest>> {
        let sequence = successor.sequence().checked_sub(1)?;
        self.known(successor.lineage().find(|of| of.sequence == sequence)?)
    }

    /// Whether the share sets of any of these manifests need so many shares.
    pub(super) fn needs_so_many(&self, shares: u8) -> bool {
        self.judged().iter().any(|manifest| manifest.manifest().shares_needed == shares)
    }

    /// What counts is what custodians said lately: what one said long ago says nothing about those that hold more by now.
    pub(super) fn answers(&self, manifest: &VerifiedManifest, now_ms: u64) -> Vec<Answer> {
        self.members_of(manifest)
            .filter(|(_, link)| now_ms.saturating_sub(link.answered_ms) <= ANSWER_AGE_MAX_MS)
            .filter_map(|(custodian, link)| {
                let told = link.answer.as_ref()?;
                Some(Answer { custodian, entry: told.entry.clone(), is_committed: told.is_committed })
            })
            .collect()
    }

    fn assess(&self, manifest: &VerifiedManifest, now_ms: u64) -> Result<Standing, Contradiction> {
        let quorum = Quorum::of(manifest.manifest());
        unseal::assess(quorum, &self.answers(manifest, now_ms), self.floor.as_ref())
    }

    pub(super) fn standing(&self, now_ms: u64) -> Result<Standing, CustodyError> {
        for tip in self.tips() {
            // What custodians say under a manifest that may not be in force is nobody's fault.
            let standing = self.assess(tip, now_ms);
            let entry = match &standing {
                Ok(Standing::Committed(committed)) => committed.entry(),
                Ok(Standing::Unfinished(entry)) => entry,
                _ => continue,
            };
            match self.readings.of(entry) {
                None => return Ok(Standing::Unread(entry.clone())),
                Some(Reading::Says(made_under)) if made_under.manifest == tip.manifest_id() => {
                    return Ok(self.under_successor(tip, entry, made_under, now_ms));
                }
                Some(_) => {}
            }
        }
        let standing = self.assess(&self.manifest, now_ms).map_err(|error| self.blamed(error))?;
        match &standing {
            Standing::Committed(committed) => {
                let entry = committed.entry();
                let Some(Reading::Says(made_under)) = self.readings.of(entry) else { return Ok(standing) };
                if made_under.manifest == self.manifest.manifest_id() {
                    Ok(standing)
                } else if self.known(made_under.manifest).is_some() {
                    Ok(Standing::Unfinished(entry.clone()))
                } else {
                    Ok(Standing::Unknown { entry: entry.clone(), sequence: made_under.manifest.sequence })
                }
            }
            // Where a ceremony would be held under a successor, its custodians must say the same.
            Standing::Empty => self.assess(self.at_home(), now_ms).map_err(|error| self.blamed(error)),
            _ => Ok(standing),
        }
    }

    /// Where a version stands that was made under a successor. The first one under it must be with those that were, as well as with
    /// those that will be, so that whoever asks only the former finds it.
    fn under_successor(
        &self,
        successor: &VerifiedManifest,
        entry: &RegisterEntry,
        made_under: MadeUnder,
        now_ms: u64,
    ) -> Standing {
        let unfinished = Standing::Unfinished(entry.clone());
        let Ok(standing @ Standing::Committed(_)) = self.assess(successor, now_ms) else { return unfinished };
        let is_first = made_under.since_version == entry.version && entry.version > 1;
        if !is_first || self.floor.as_ref() == Some(entry) || self.is_said_committed(successor, entry, now_ms) {
            return standing;
        }
        let before = self.before(successor).map(|before| self.assess(before, now_ms));
        if matches!(before, Some(Ok(ref before)) if *before == standing) { standing } else { unfinished }
    }

    /// Whether so many that one of them is honest were told that a version is committed.
    fn is_said_committed(&self, manifest: &VerifiedManifest, entry: &RegisterEntry, now_ms: u64) -> bool {
        let answers = self.answers(manifest, now_ms);
        let say_so = answers.iter().filter(|answer| answer.is_committed && answer.entry.as_ref() == Some(entry));
        say_so.count() >= Quorum::of(manifest.manifest()).believed()
    }

    fn blamed(&self, error: Contradiction) -> CustodyError {
        let names = |by: Vec<usize>| {
            let names: Vec<_> = by.into_iter().map(|place| self.name(place)).collect();
            names.join(", ")
        };
        match error {
            Contradiction::Rollback { seen, offered, by } => CustodyError::Rollback { seen, offered, by: names(by) },
            Contradiction::Fork { version, by } => CustodyError::Fork { version, by: names(by), home: self.name(0) },
        }
    }

    /// Whether nothing that a custodian signed, or had signed, is looked at for now.
    pub(super) fn is_put_off(&self, id: CustodianId, now_ms: u64) -> bool {
        let refused_ms = self.links.get(&id).and_then(|link| link.refused_ms);
        refused_ms.is_some_and(|refused_ms| now_ms.saturating_sub(refused_ms) < REFUSED_WAIT_MS)
    }

    pub(super) fn put_off(&mut self, id: CustodianId, now_ms: u64) {
        if let Some(link) = self.links.get_mut(&id) {
            link.refused_ms = Some(now_ms);
        }
    }
}
