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
use std::time::Duration;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::ids::{BlobId, CustodianId};
use holdfast_shared::limits::ANSWER_AGE_MAX_MS;
use holdfast_shared::manifest::{self, Custodian, ManifestId, VerifiedManifest};
use holdfast_shared::quorum::{Answer, Quorum};
use holdfast_shared::register::RegisterEntry;
use tokio::time::Instant;

use super::{Ledger, State};
use crate::custody::CustodyError;
use crate::custody::unseal::{self, Contradiction, MadeUnder, Standing};

/// How long nothing that is signed is looked at, of a custodian that gave something that did not verify, in milliseconds.
pub(super) const REFUSED_WAIT_MS: u64 = 1_000;
/// Versions of which it is remembered what they say: those in use, and those that are offered meanwhile.
const READ_MAX: usize = 8;

/// For how long a version that could not be opened is not opened for its manifest's sake.
const UNREAD_WAIT: Duration = Duration::from_secs(1);
/// How long somebody who moved is looked for in one place.
const ADDRESS_TURN: Duration = Duration::from_secs(10);

/// What came of reading a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Says(MadeUnder),
    /// It could not be opened, then.
    Failed(Instant),
}

/// What versions say of the manifest under which they were made.
#[derive(Default)]
pub(super) struct Readings(Vec<(BlobId, Reading)>);

impl Readings {
    fn of(&self, entry: &RegisterEntry) -> Option<Reading> {
        let reading = self.0.iter().find(|(blob_id, _)| *blob_id == entry.blob_id).map(|(_, reading)| *reading);
        reading.filter(|reading| !matches!(reading, Reading::Failed(at) if at.elapsed() >= UNREAD_WAIT))
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
        self.0.retain(|(_, reading)| matches!(reading, Reading::Says(_)));
    }
}

impl<C: Connect + 'static> Ledger<C> {
    pub(in crate::custody) fn manifest(&self) -> Arc<VerifiedManifest> {
        Arc::clone(&self.lock().manifest)
    }

    /// Adds a successor that is to be put in force from here.
    pub(in crate::custody) fn know(&self, successor: Arc<VerifiedManifest>) {
        self.lock().adopting = Some(successor);
        self.tell_all();
    }

    /// Its adoption failed.
    pub(in crate::custody) fn forget(&self, successor: &VerifiedManifest) {
        self.lock().adopting.take_if(|adopting| **adopting == *successor);
        self.tell_all();
    }

    /// The manifest in force, or a known successor.
    pub(in crate::custody) fn manifest_of(&self, id: ManifestId) -> Option<Arc<VerifiedManifest>> {
        self.lock().known(id).cloned()
    }

    /// The manifest under which a ceremony is held.
    pub(in crate::custody) fn believed_manifest(&self) -> Arc<VerifiedManifest> {
        Arc::clone(self.lock().believed())
    }

    /// Whose answers matter, each once, under the address that counts.
    pub(in crate::custody) fn watched(&self) -> Vec<Custodian> {
        let state = self.lock();
        let mut watched: Vec<Vec<&Custodian>> = Vec::new();
        let judged = state.judged();
        for custodian in judged.iter().flat_map(|manifest| &manifest.manifest().custodians) {
            match watched.iter_mut().find(|of_one| of_one.iter().any(|known| known.id() == custodian.id())) {
                Some(of_one) if of_one.contains(&custodian) => {}
                Some(of_one) => of_one.push(custodian),
                None => watched.push(vec![custodian]),
            }
        }
        let turn = state.since.elapsed().as_secs().checked_div(ADDRESS_TURN.as_secs()).unwrap_or_default();
        let in_turn = |of_one: Vec<&Custodian>| {
            // It may have moved: then nobody answers where it was.
            let is_silent = |one: &&Custodian| state.links.get(&one.id()).is_some_and(|link| link.answered_ms == 0);
            let looked_for = state.unsealed.is_none() && of_one.first().is_some_and(is_silent);
            let places = u64::try_from(of_one.len()).unwrap_or(1);
            let at = if looked_for { turn.checked_rem(places).unwrap_or_default() } else { 0 };
            of_one.get(usize::try_from(at).unwrap_or_default()).map(|one| Custodian::clone(one))
        };
        watched.into_iter().filter_map(in_turn).collect()
    }

    /// An opened version says under which manifest it was made.
    pub(in crate::custody) fn read(&self, entry: &RegisterEntry, made_under: MadeUnder) {
        self.lock().readings.note(entry.blob_id, Reading::Says(made_under));
    }

    /// A version could not be opened.
    pub(in crate::custody) fn unread(&self, entry: &RegisterEntry) {
        self.lock().readings.note(entry.blob_id, Reading::Failed(Instant::now()));
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
        let mut handed_out: Option<Vec<Arc<VerifiedManifest>>> = None;
        for signed in offered {
            let handed_out = handed_out.get_or_insert_default();
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
                        handed_out.push(Arc::clone(&newest));
                        continue;
                    }
                    match newest.succeed(&signed) {
                        Ok(next) => {
                            let name = state.name_of(id);
                            self.log(Level::Warn, &format!("custodian {name} hands out manifest {sequence}"));
                            newest = Arc::new(next);
                            handed_out.push(Arc::clone(&newest));
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
        // Each custodian's newest word counts: what one hands out crowds out nothing of another's.
        if let Some((link, handed_out)) = state.links.get_mut(&id).zip(handed_out) {
            link.handed_out = handed_out;
        }
    }

    /// Puts the manifest in force that a version in service names.
    pub(super) fn put_in_force(&self, state: &mut State<C>, id: ManifestId) {
        if state.manifest.manifest_id() == id {
            return;
        }
        let Some(successor) = state.known(id).cloned() else { return };
        self.log(Level::Warn, &format!("manifest {} is in force", id.sequence));
        for link in state.links.values_mut() {
            link.handed_out.retain(|known| descends(known, &successor));
        }
        state.adopting.take_if(|adopting| !descends(adopting, &successor));
        state.manifest = successor;
    }
}

/// Whether a manifest succeeds another one, directly or not.
fn descends(manifest: &VerifiedManifest, from: &VerifiedManifest) -> bool {
    let from = from.manifest_id();
    manifest.sequence() > from.sequence && manifest.lineage().any(|of| of == from)
}

impl<C> State<C> {
    /// The known successors of the manifest in force, newest first.
    pub(super) fn successors(&self) -> Vec<&Arc<VerifiedManifest>> {
        let mut known: Vec<&Arc<VerifiedManifest>> = Vec::new();
        let handed_out = self.links.values().flat_map(|link| &link.handed_out);
        for successor in handed_out.chain(&self.adopting) {
            if !known.iter().any(|known| known.manifest_id() == successor.manifest_id()) {
                known.push(successor);
            }
        }
        known.sort_by_key(|successor| core::cmp::Reverse(successor.sequence()));
        known
    }

    pub(super) fn known(&self, id: ManifestId) -> Option<&Arc<VerifiedManifest>> {
        self.judged().into_iter().find(|manifest| manifest.manifest_id() == id)
    }

    /// The newest successor that so many hand out that one of them is honest; the manifest in force, where there is none.
    pub(super) fn believed(&self) -> &Arc<VerifiedManifest> {
        let hand_it_out = |successor: &Arc<VerifiedManifest>| {
            let id = successor.manifest_id();
            self.members().filter(|(_, link)| link.handed_out.iter().any(|other| other.manifest_id() == id)).count()
        };
        let mut successors = self.successors().into_iter();
        let believed = successors.find(|successor| hand_it_out(successor) >= self.quorum().believed());
        believed.unwrap_or(&self.manifest)
    }

    /// The manifest in force, then all under which the register is judged besides.
    pub(super) fn judged(&self) -> Vec<&Arc<VerifiedManifest>> {
        let mut judged = vec![&self.manifest];
        judged.extend(self.successors());
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
        for successor in self.successors() {
            // What custodians say under a manifest that may not be in force is nobody's fault.
            let standing = self.assess(successor, now_ms);
            let entry = match &standing {
                Ok(Standing::Committed(committed)) => committed.entry(),
                Ok(Standing::Unfinished(entry)) => entry,
                _ => continue,
            };
            match self.readings.of(entry) {
                None => return Ok(Standing::Unread(entry.clone())),
                Some(Reading::Says(made_under)) if made_under.manifest == successor.manifest_id() => {
                    return Ok(self.under_successor(successor, entry, made_under, now_ms));
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
            Standing::Empty => self.assess(self.believed(), now_ms).map_err(|error| self.blamed(error)),
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
