//! From what custodians answered to a key store that may be served.
//!
//! ```text
//! answers ─assess─▶ Committed ──────────────────────────┐
//! shares ──Root::combine─▶ Root ─open(blob)─▶ Opened ─commit─▶ Unsealed
//! ```
//!
//! Guarantees: an [`Unsealed`] is a version that enough custodians hold, opened under a root key that enough shares of one set gave,
//! or that was drawn here, and whose sealed body names that very set. Assumes: entries were verified as the home custodian's.
//! Refuses: what lies below, or beside, the version that was served before in this boot; a version without a record of its shares,
//! unless its one share is the root key.

use std::sync::Arc;

use holdfast_shared::external_key::KeyState;
use holdfast_shared::keystore::{self, Body, Header, OpenedKeyStore, RenewalAttempt};
use holdfast_shared::manifest::ManifestId;
use holdfast_shared::quorum::{self, Answer, Copied, Quorum, Reading};
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::release::{Share, ShareSet};
use holdfast_shared::secrets::Secret;
use holdfast_shared::sharing::{self, SharingError, Split};

use super::CustodyError;

/// A version that enough custodians hold. Made by [`assess`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Committed(RegisterEntry);

impl Committed {
    pub(super) const fn entry(&self) -> &RegisterEntry {
        &self.0
    }
}

/// Where the register stands, by the answers of custodians.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    TooFew {
        have: usize,
        need: usize,
    },
    Empty,
    Committed(Committed),
    Unfinished(RegisterEntry),
    /// Under which manifest it was made tells where it stands: it is to be opened.
    Unread(RegisterEntry),
    /// It was made under a manifest that nobody handed out yet.
    Unknown {
        entry: RegisterEntry,
        sequence: u32,
    },
}

/// What must not be believed, with the places of those who say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contradiction {
    Rollback { seen: u64, offered: u64, by: Vec<usize> },
    Fork { version: u64, by: Vec<usize> },
}

/// Reads the register. `floor` is what was served before in this boot, and so was committed.
///
/// # Errors
/// [`Contradiction`]: nothing of it may be served.
pub(super) fn assess(
    quorum: Quorum,
    answers: &[Answer],
    floor: Option<&RegisterEntry>,
) -> Result<Standing, Contradiction> {
    let (entry, standing) = match quorum::read(quorum, answers) {
        Reading::TooFew { have, need } => return Ok(Standing::TooFew { have, need }),
        Reading::Forked { version, holders } => {
            return Err(Contradiction::Fork { version, by: vec![holders.0, holders.1] });
        }
        Reading::Empty => {
            let by = answers.iter().map(|answer| answer.custodian).collect();
            let rollback = |seen: &RegisterEntry| Contradiction::Rollback { seen: seen.version, offered: 0, by };
            return floor.map_or(Ok(Standing::Empty), |seen| Err(rollback(seen)));
        }
        Reading::Committed(entry) => (entry.clone(), Standing::Committed(Committed(entry))),
        Reading::Unfinished { entry, .. } => (entry.clone(), Standing::Unfinished(entry)),
    };
    let Some(floor) = floor else { return Ok(standing) };
    match quorum::judge_copy(Some((floor.version, floor.blob_id)), &entry) {
        Copied::Keep => Ok(standing),
        // Who holds it now is another question: it was committed before.
        Copied::Same => Ok(Standing::Committed(Committed(entry))),
        // The newest is older: so are all.
        Copied::Older => {
            let by = answers.iter().map(|answer| answer.custodian).collect();
            Err(Contradiction::Rollback { seen: floor.version, offered: entry.version, by })
        }
        Copied::Fork => {
            let holds = |answer: &&Answer| answer.entry.as_ref() == Some(&entry);
            let by = answers.iter().filter(holds).map(|answer| answer.custodian).collect();
            Err(Contradiction::Fork { version: entry.version, by })
        }
    }
}

/// A root key and the set of its shares.
pub(super) struct Root {
    key: Secret<32>,
    set: ShareSet,
}

impl Root {
    /// From enough shares of one set, each of which is checked.
    pub(super) fn combine(set: &ShareSet, shares: &[&Share]) -> Result<Self, SharingError> {
        Ok(Self { key: sharing::combine(set, shares)?, set: set.clone() })
    }

    /// One that was drawn here and shared so.
    pub(super) fn drawn(key: Secret<32>, split: &Split) -> Self {
        Self { key, set: split.set.clone() }
    }

    pub(super) fn duplicate(&self) -> Self {
        Self { key: self.key.duplicate(), set: self.set.clone() }
    }

    pub(super) const fn key(&self) -> &Secret<32> {
        &self.key
    }

    pub(super) const fn set(&self) -> &ShareSet {
        &self.set
    }
}

/// A version as custodians keep it: nothing of it is secret.
#[derive(Debug)]
pub(super) struct HeldVersion {
    pub(super) entry: RegisterEntry,
    /// The entry as the home custodian signed it.
    pub(super) signed: Vec<u8>,
    pub(super) blob: Vec<u8>,
    pub(super) evidence: Vec<u8>,
    pub(super) generation: u32,
}

impl HeldVersion {
    /// A blob and the entry that names it.
    ///
    /// # Errors
    /// When it is another blob.
    pub(super) fn new(
        entry: RegisterEntry,
        signed: Vec<u8>,
        blob: Vec<u8>,
        evidence: Vec<u8>,
    ) -> Result<Self, CustodyError> {
        if keystore::blob_id(&blob) != entry.blob_id {
            return Err(keystore::KeyStoreError::NotRegistered { version: entry.version }.into());
        }
        let Header { generation, .. } = keystore::header(&blob)?;
        Ok(Self { entry, signed, blob, evidence, generation })
    }
}

/// What the body of a version says of the manifest under which it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MadeUnder {
    pub(super) manifest: ManifestId,
    /// The first version under that manifest.
    pub(super) since_version: u64,
}

/// A version that this enclave can open: it may be copied and committed, and is not served yet.
pub(super) struct Opened {
    unsealed: Unsealed,
    body: Body,
}

/// Opens a version under whichever of these root keys is the right one.
///
/// # Errors
/// [`CustodyError`]: under none, for the last one's reason.
pub(super) fn open_any(roots: Vec<Root>, version: &Arc<HeldVersion>) -> Result<Opened, CustodyError> {
    let mut last = CustodyError::NoShare;
    for root in roots {
        match open(root, Arc::clone(version)) {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Opens a version.
///
/// # Errors
/// [`CustodyError`], when its body names other shares than those that gave the root key.
fn open(root: Root, version: Arc<HeldVersion>) -> Result<Opened, CustodyError> {
    let OpenedKeyStore { header, mut body, .. } = keystore::open(&root.key, &version.entry, &version.blob)?;
    if header.generation != root.set.generation {
        return Err(CustodyError::Generation { blob: header.generation, share: root.set.generation });
    }
    let seed = match body.sharing.take() {
        Some(sharing) if sharing.set == root.set => Some(sharing.seed),
        // Made when one custodian was all there could be: its share is the root key, and nobody else gets one.
        None if root.set.commitments.len() == 1 => None,
        _ => return Err(CustodyError::OtherShares),
    };
    let pending = body.external_keys.iter().filter(|key| key.state == KeyState::PendingDestruction);
    let due_ms = pending.filter_map(|key| key.destroy_after_ms).min();
    let renewal = body.renewal.as_ref().map(|renewal| RenewalPlan {
        attempt: renewal.progress.attempt,
        due_ms: renewal.due_ms(&body.tls),
        until_ms: renewal.order.until_ms,
    });
    let made_under = MadeUnder {
        manifest: body.manifest_id(version.entry.key_store_id),
        since_version: body.successor.map_or(1, |successor| successor.since_version),
    };
    Ok(Opened { unsealed: Unsealed { root, seed, version, made_under, due_ms, renewal }, body })
}

impl Opened {
    /// What its body says.
    pub(super) const fn made_under(&self) -> MadeUnder {
        self.unsealed.made_under
    }

    /// What may be served, once the version is committed.
    ///
    /// # Errors
    /// When another one is.
    pub(super) fn commit(self, committed: &Committed) -> Result<(Unsealed, Body), CustodyError> {
        if self.unsealed.version.entry == committed.0 {
            Ok((self.unsealed, self.body))
        } else {
            Err(CustodyError::OtherAnswer)
        }
    }
}

/// The root key and the newest committed version, while the leases last.
pub(super) struct Unsealed {
    root: Root,
    /// Gives every custodian its share again.
    seed: Option<Secret<32>>,
    version: Arc<HeldVersion>,
    made_under: MadeUnder,
    /// When the next key is to be destroyed, milliseconds since 1970.
    due_ms: Option<u64>,
    renewal: Option<RenewalPlan>,
}

/// What a version says of the certificate's renewal. Nothing of it is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RenewalPlan {
    /// The attempt that runs, here or elsewhere.
    pub(super) attempt: Option<RenewalAttempt>,
    /// When the next one is due, milliseconds since 1970.
    pub(super) due_ms: Option<u64>,
    /// When the order ends, milliseconds since 1970.
    pub(super) until_ms: u64,
}

impl Unsealed {
    pub(super) const fn root(&self) -> &Root {
        &self.root
    }

    pub(super) const fn seed(&self) -> Option<&Secret<32>> {
        self.seed.as_ref()
    }

    pub(super) const fn version(&self) -> &Arc<HeldVersion> {
        &self.version
    }

    pub(super) fn entry(&self) -> &RegisterEntry {
        &self.version.entry
    }

    pub(super) const fn made_under(&self) -> MadeUnder {
        self.made_under
    }

    pub(super) const fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// Nothing without a standing order.
    pub(super) const fn renewal(&self) -> Option<RenewalPlan> {
        self.renewal
    }

    /// The body, for the next version.
    ///
    /// # Errors
    /// Never for what was opened before.
    pub(super) fn body(&self) -> Result<Body, CustodyError> {
        Ok(keystore::open(&self.root.key, &self.version.entry, &self.version.blob)?.body)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::ids::{BlobId, KeyStoreId};

    use super::*;

    fn entry(version: u64, blob: u8) -> RegisterEntry {
        RegisterEntry {
            label: String::new(),
            key_store_id: KeyStoreId([0; 32]),
            version,
            blob_id: BlobId([blob; 32]),
            previous: (version > 1).then_some(BlobId([blob.wrapping_sub(1); 32])),
            recorded_ms: 0,
        }
    }

    #[test]
    fn the_register_is_read_above_what_was_served_before() {
        let answers = |held: [Option<(u64, u8)>; 2], is_committed: bool| -> Vec<Answer> {
            let answer = |(custodian, held): (usize, Option<(u64, u8)>)| Answer {
                custodian,
                entry: held.map(|(version, blob)| entry(version, blob)),
                is_committed,
            };
            held.into_iter().enumerate().map(answer).collect()
        };
        let committed = |version, blob| Ok(Standing::Committed(Committed(entry(version, blob))));
        let rollback = |seen, offered| Err(Contradiction::Rollback { seen, offered, by: vec![0, 1] });
        let fork = |version, by: &[usize]| Err(Contradiction::Fork { version, by: by.to_vec() });
        let three = Some((3, 3));
        let table = [
            ("nothing yet", [None, None], None, Ok(Standing::Empty)),
            ("nothing any more", [None, None], three, rollback(3, 0)),
            ("the first look", [three, three], None, committed(3, 3)),
            ("the same", [three, three], three, committed(3, 3)),
            ("the same, held by few", [None, three], three, committed(3, 3)),
            ("the next", [Some((4, 4)), Some((4, 4))], three, committed(4, 4)),
            ("the next, held by few", [Some((4, 4)), three], three, Ok(Standing::Unfinished(entry(4, 4)))),
            ("older", [Some((2, 2)), Some((2, 2))], three, rollback(3, 2)),
            ("one older", [Some((2, 2)), three], three, committed(3, 3)),
            ("another of that number", [Some((3, 9)), None], three, fork(3, &[0])),
            ("two of one number", [Some((4, 4)), Some((4, 9))], three, fork(4, &[0, 1])),
            ("the next of another", [Some((4, 9)), Some((4, 9))], three, fork(4, &[0, 1])),
        ];
        for (what, held, floor, expected) in table {
            let floor = floor.map(|(version, blob)| entry(version, blob));
            assert_eq!(assess(Quorum::new(3, 2, 0), &answers(held, false), floor.as_ref()), expected, "{what}");
        }
        let few = assess(Quorum::new(3, 2, 0), &answers([three, None], true)[..1], None);
        assert_eq!(few, Ok(Standing::TooFew { have: 1, need: 2 }));
    }
}
