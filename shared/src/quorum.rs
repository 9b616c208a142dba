//! The arithmetic of several custodians: how many must hold a version before it counts, and what their answers mean together.
//!
//! Guarantees, for n custodians of which r must answer and f may lie: a committed version is held by so many that every r answers
//! contain an honest one that holds it, so reading the highest never goes back; with f ≥ 1 two versions of one number are never both
//! committed, even if the home custodian signs both. Everything here is a function of its arguments, so that enclave, custodian, tool
//! and simulation decide by the same rules. Assumes: each answer's entry was verified as the home custodian's. Refuses: to call a
//! version committed that too few hold, and to choose between two versions of one number.

use std::collections::BTreeSet;

use crate::ids::BlobId;
use crate::manifest::Manifest;
use crate::register::RegisterEntry;

/// The numbers of a key store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    custodians: usize,
    answers: usize,
    hostile: usize,
}

impl Quorum {
    /// Of a manifest.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        // A share at AWS KMS brings no answer: so many fewer custodians are read.
        let kms = usize::from(manifest.kms_share.is_some());
        Self::new(
            manifest.custodians.len(),
            usize::from(manifest.shares_needed).saturating_sub(kms),
            usize::from(manifest.hostile_tolerated),
        )
    }

    /// `custodians` (n), of which `answers` (r, at least 1) suffice, and `hostile` (f, fewer than r) may lie.
    #[must_use]
    pub const fn new(custodians: usize, answers: usize, hostile: usize) -> Self {
        Self { custodians, answers, hostile }
    }

    /// n.
    #[must_use]
    pub const fn custodians(&self) -> usize {
        self.custodians
    }

    /// r: custodians whose shares and answers are needed. The lease of a key store is the r-th longest of its custodians' leases.
    #[must_use]
    pub const fn answers(&self) -> usize {
        self.answers
    }

    /// w: custodians that must hold a version, home among them, or have acknowledged a block. Any r of n meet any w of n in at
    /// least f + 1, of which one is honest. Where f ≥ 1 home itself may lie, so that any two such sets must also meet in an honest
    /// one: ⌊(n + f) / 2⌋ + 1.
    #[must_use]
    pub const fn write(&self) -> usize {
        let read = (self.custodians + 1 + self.hostile).saturating_sub(self.answers);
        let twice = usize::midpoint(self.custodians, self.hostile) + 1;
        if self.hostile > 0 && twice > read { twice } else { read }
    }

    /// Custodians that must hold a share before a root key is used: r + f, so that r of them give a right one whatever f do; all, where
    /// there are no more.
    #[must_use]
    pub const fn deposits(&self) -> usize {
        let deposits = self.answers + self.hostile;
        if deposits < self.custodians { deposits } else { self.custodians }
    }

    /// Custodians whose word is believed when they say the same: f + 1, of which one is honest.
    #[must_use]
    pub const fn believed(&self) -> usize {
        self.hostile + 1
    }

    /// The most old shares that may remain for a root key to be lost for good.
    #[must_use]
    pub const fn harmless(&self) -> usize {
        self.answers.saturating_sub(1)
    }
}

/// What one custodian says about the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its place in the manifest, from 0; 0 is home.
    pub custodian: usize,
    /// The newest entry that it holds.
    pub entry: Option<RegisterEntry>,
    /// Whether it was told that so many hold the entry.
    pub is_committed: bool,
}

/// What the answers mean together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Fewer answers than are needed.
    TooFew {
        /// How many came.
        have: usize,
        /// How many are needed.
        need: usize,
    },
    /// No custodian holds a version: there was no ceremony, or it broke off.
    Empty,
    /// The newest version, which will be read by everybody from now on.
    Committed(RegisterEntry),
    /// The newest version, which may be held by too few: copy it to those that lack it, and tell all.
    Unfinished {
        /// The version.
        entry: RegisterEntry,
        /// Who holds it, of those that answered; ascending.
        holders: Vec<usize>,
    },
    /// Home signed two versions of one number.
    Forked {
        /// The number.
        version: u64,
        /// Two custodians that hold different ones.
        holders: (usize, usize),
    },
}

/// Reads the register from what custodians answered, each at most once.
#[must_use]
pub fn read(quorum: Quorum, answers: &[Answer]) -> Reading {
    let answered: BTreeSet<_> = answers.iter().map(|answer| answer.custodian).collect();
    if answered.len() < quorum.answers() {
        return Reading::TooFew { have: answered.len(), need: quorum.answers() };
    }
    let newest = answers.iter().filter_map(|answer| Some((answer.entry.as_ref()?, answer.custodian)));
    let Some((entry, first)) = newest.max_by_key(|(entry, custodian)| (entry.version, core::cmp::Reverse(*custodian)))
    else {
        return Reading::Empty;
    };
    let mut holders = BTreeSet::new();
    let mut says_committed = BTreeSet::new();
    for answer in answers {
        match &answer.entry {
            Some(other) if other.version == entry.version && other.blob_id != entry.blob_id => {
                return Reading::Forked { version: entry.version, holders: (first, answer.custodian) };
            }
            Some(other) if other.version == entry.version => {
                holders.insert(answer.custodian);
                if answer.is_committed {
                    says_committed.insert(answer.custodian);
                }
            }
            _ => {}
        }
    }
    if is_committed(quorum, &holders) || says_committed.len() >= quorum.believed() {
        Reading::Committed(entry.clone())
    } else {
        Reading::Unfinished { entry: entry.clone(), holders: holders.into_iter().collect() }
    }
}

/// Whether a version that these hold is committed. Without home it is not: home orders the next one.
#[must_use]
pub fn is_committed(quorum: Quorum, holders: &BTreeSet<usize>) -> bool {
    holders.contains(&0) && holders.len() >= quorum.write()
}

/// What a custodian does with the copy of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Keep it: it is newer.
    Keep,
    /// It is the newest that is held.
    Same,
    /// A newer one is held.
    Older,
    /// Another one of its number, or of its predecessor's, is held: home signed two.
    Fork,
}

/// Judges the copy of `offered` where `held` (version and blob) is the newest. Versions between the two may be missing: whoever was
/// down takes up where the others are.
#[must_use]
pub fn judge_copy(held: Option<(u64, BlobId)>, offered: &RegisterEntry) -> Copied {
    let Some((version, blob_id)) = held else { return Copied::Keep };
    if offered.version < version {
        Copied::Older
    } else if offered.version == version {
        if offered.blob_id == blob_id { Copied::Same } else { Copied::Fork }
    } else if offered.version.checked_sub(1) == Some(version) && offered.previous != Some(blob_id) {
        Copied::Fork
    } else {
        Copied::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyStoreId;
    use crate::labels;

    fn entry(version: u64, blob: u8) -> RegisterEntry {
        RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: KeyStoreId([0; 32]),
            version,
            blob_id: BlobId([blob; 32]),
            previous: (version > 1).then_some(BlobId([blob.wrapping_sub(1); 32])),
            recorded_ms: 0,
        }
    }

    fn answer(custodian: usize, held: Option<(u64, u8)>, is_committed: bool) -> Answer {
        Answer { custodian, entry: held.map(|(version, blob)| entry(version, blob)), is_committed }
    }

    #[test]
    fn any_answers_meet_any_holders_in_an_honest_custodian() {
        for n in 1..=16_usize {
            for r in 1..=n {
                for f in 0..r {
                    let quorum = Quorum::new(n, r, f);
                    let w = quorum.write();
                    assert!(w <= n, "{quorum:?} can be written");
                    assert!((r + w).saturating_sub(n) > f, "{quorum:?}: readers meet writers");
                    if f > 0 {
                        assert!((2 * w).saturating_sub(n) > f, "{quorum:?}: writers meet writers");
                    }
                }
            }
        }
        assert_eq!(
            [(1, 1, 0), (3, 2, 0), (3, 2, 1), (5, 3, 0), (5, 3, 1), (5, 4, 1)]
                .map(|(n, r, f)| { Quorum::new(n, r, f).write() }),
            [1, 2, 3, 3, 4, 4]
        );
    }

    #[test]
    fn readings_are_decided_by_holders_and_by_enough_words() {
        let q23 = Quorum::new(3, 2, 0);
        let q231 = Quorum::new(3, 2, 1);
        let table = [
            ("one of two", q23, vec![answer(0, Some((3, 3)), true)], Reading::TooFew { have: 1, need: 2 }),
            (
                "one twice",
                q23,
                vec![answer(1, Some((3, 3)), true), answer(1, Some((3, 3)), true)],
                Reading::TooFew { have: 1, need: 2 },
            ),
            ("nobody has any", q23, vec![answer(0, None, false), answer(2, None, false)], Reading::Empty),
            (
                "two hold it",
                q23,
                vec![answer(0, Some((3, 3)), false), answer(1, Some((3, 3)), false)],
                Reading::Committed(entry(3, 3)),
            ),
            (
                "two hold it, home unheard",
                q23,
                vec![answer(1, Some((3, 3)), false), answer(2, Some((3, 3)), false)],
                Reading::Unfinished { entry: entry(3, 3), holders: vec![1, 2] },
            ),
            (
                "one was told",
                q23,
                vec![answer(1, Some((3, 3)), true), answer(2, Some((2, 2)), true)],
                Reading::Committed(entry(3, 3)),
            ),
            (
                "home alone, not told",
                q23,
                vec![answer(0, Some((3, 3)), false), answer(2, Some((2, 2)), true)],
                Reading::Unfinished { entry: entry(3, 3), holders: vec![0] },
            ),
            (
                "with one liar, one word is none",
                q231,
                vec![answer(0, Some((3, 3)), true), answer(2, Some((2, 2)), true)],
                Reading::Unfinished { entry: entry(3, 3), holders: vec![0] },
            ),
            (
                "with one liar, two words do",
                q231,
                vec![answer(1, Some((3, 3)), true), answer(2, Some((3, 3)), true)],
                Reading::Committed(entry(3, 3)),
            ),
            (
                "a fork",
                q23,
                vec![answer(0, Some((3, 3)), true), answer(2, Some((3, 9)), true)],
                Reading::Forked { version: 3, holders: (0, 2) },
            ),
        ];
        for (what, quorum, answers, expected) in table {
            assert_eq!(read(quorum, &answers), expected, "{what}");
            let backwards: Vec<_> = answers.into_iter().rev().collect();
            let reading = read(quorum, &backwards);
            assert_eq!(core::mem::discriminant(&reading), core::mem::discriminant(&expected), "{what}, backwards");
        }
    }

    #[test]
    fn copies_are_kept_upwards_on_one_line() {
        let held = |version, blob: u8| Some((version, BlobId([blob; 32])));
        let table = [
            (None, entry(7, 7), Copied::Keep),
            (held(6, 6), entry(7, 7), Copied::Keep),
            (held(6, 1), entry(7, 7), Copied::Fork),
            (held(3, 1), entry(7, 7), Copied::Keep),
            (held(7, 7), entry(7, 7), Copied::Same),
            (held(7, 8), entry(7, 7), Copied::Fork),
            (held(8, 8), entry(7, 7), Copied::Older),
        ];
        for (held, offered, expected) in table {
            assert_eq!(judge_copy(held, &offered), expected, "{held:?} {offered:?}");
        }
    }
}
