//! What was done to a log whose root is not the one that was signed: records say it themselves, since each opens at its own index only.
//!
//! Guarantees: an entry is called altered, dropped or reordered only where a segment key was there to open records. Assumes: one of the
//! given keys is a reader's. Work is bounded: beyond [`ENTRIES_MAX`] entries and [`TRIES_MAX`] attempts, each of one key, what is left is
//! called altered; [`FINDINGS_MAX`] findings are told apart.

use std::collections::BTreeSet;

use holdfast_shared::audit::{Entry, SegmentKey};
use holdfast_shared::cbor;
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::BootId;

use super::boot::Boot;
use super::findings::{Finding, Kind};

/// Entries that are looked at.
const ENTRIES_MAX: u64 = 1_000_000;
/// Attempts to open a record at another index with one key: about 1 µs each.
const TRIES_MAX: u64 = 5_000_000;
/// How far from its place an entry is looked for, all entries alike.
const NEAR: u64 = 64;
/// The same for the first that are not near.
const FAR: u64 = 200_000;

/// Findings of one log that are told apart: more than anybody reads.
const FINDINGS_MAX: usize = 1_000;

/// What happened to a log.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    /// What is wrong.
    pub(super) findings: Vec<Finding>,
    /// By how much the last record was moved up, by entries before it that are missing and were named.
    pub(super) moved_up: u64,
}

impl From<Vec<Finding>> for Diagnosis {
    fn from(findings: Vec<Finding>) -> Self {
        Self { findings, moved_up: 0 }
    }
}

/// Where an entry was written for.
enum Place {
    /// A record that opens at this index.
    Index(u64),
    /// In clear: a segment or a closing.
    Unknown,
    /// It opens nowhere.
    Nowhere,
}

/// Names what happened between the last root that holds and the first that does not.
pub(super) fn diagnose(boot: &Boot, readers: &[PrivateKey]) -> Diagnosis {
    let Some((from, to)) = boot.bad.or(boot.doubtful()).filter(|_| !boot.is_mixed_up) else {
        return Diagnosis::default();
    };
    let keys: Vec<SegmentKey> = boot
        .segments
        .iter()
        .filter_map(|segment| readers.iter().find_map(|reader| SegmentKey::open(segment, &boot.log, reader).ok()))
        .collect();
    let altered = |what: &str| Finding::new(Kind::Altered, boot.log.boot_id, what).between(from, to);
    if keys.is_empty() {
        // What is short only is named by its end.
        let what = "the entries are not those that were signed: altered, dropped or reordered";
        return boot.bad.map(|_| altered(what)).into_iter().collect::<Vec<_>>().into();
    }
    let mut search = Search { boot, keys, tries: TRIES_MAX, shift: 0 };
    let places = search.places(from, from.saturating_add(ENTRIES_MAX).min(boot.end()));
    let mut named = Names::of(boot.log.boot_id);
    named.take(from, &places);
    if named.count > 0 || boot.bad.is_none() {
        // Entries may be counted as missing for that alone which the last record says of itself, and which has a name.
        let moved_up = u64::try_from(search.shift).unwrap_or(0).min(named.dropped);
        return Diagnosis { findings: named.all(), moved_up };
    }
    if places.iter().any(|place| matches!(place, Place::Unknown)) {
        vec![altered("an entry in clear (opening, segment or closing) is not the one that was signed")].into()
    } else {
        let what = "every record opens at its place, and the audit key signed another log of this size";
        vec![Finding::new(Kind::Forked, boot.log.boot_id, what).between(from, to)].into()
    }
}

struct Search<'a> {
    boot: &'a Boot,
    keys: Vec<SegmentKey>,
    tries: u64,
    /// By how much the last record that opened was out of place.
    shift: i64,
}

impl Search<'_> {
    /// Up to the first gap between files, which has a name already.
    fn places(&mut self, from: u64, to: u64) -> Vec<Place> {
        let (mut places, mut reached, mut entry) = (Vec::new(), None, Vec::new());
        for (at, file) in self.boot.folder.files.iter().enumerate() {
            let next = self.boot.folder.files.get(at.saturating_add(1)).map_or(to, |next| next.first_index);
            if next <= from {
                continue;
            }
            if file.first_index >= to || reached.is_some_and(|reached| reached != file.first_index) {
                break;
            }
            let Ok(mut entries) = file.entries(0) else { break };
            let mut index = file.first_index;
            while index < to {
                entry.clear();
                match entries.read(&mut entry) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return places,
                }
                if index >= from {
                    places.push(self.place(index, &entry));
                }
                index = index.saturating_add(1);
            }
            reached = Some(index);
        }
        places
    }

    fn place(&mut self, index: u64, entry: &[u8]) -> Place {
        let Ok(entry) = cbor::decode::<Entry>(entry) else { return Place::Nowhere };
        let Entry::Sealed(sealed) = entry else { return Place::Unknown };
        let expected = index.saturating_add_signed(self.shift);
        let opens = |at: u64| {
            let key = self.keys.iter().position(|key| key.open_record(&self.boot.log, at, &sealed).is_ok());
            key.map(|key| (at, key))
        };
        // Anybody can seal segments to a reader, and each of them is tried.
        let cost = u64::try_from(self.keys.len()).unwrap_or(u64::MAX).saturating_mul(2);
        let mut tried = 0_u64;
        let mut found = None;
        // Only what is not near costs much, and only until the attempts are used up.
        let reach = if self.tries > FAR.saturating_mul(cost) { FAR } else { NEAR };
        for distance in 0..=reach {
            let around = [expected.checked_add(distance), expected.checked_sub(distance)];
            found = around.into_iter().flatten().find_map(opens);
            tried = tried.saturating_add(cost);
            if found.is_some() || tried > self.tries {
                break;
            }
        }
        let is_expected = found.is_some_and(|(at, _)| at == expected);
        self.tries = self.tries.saturating_sub(if is_expected { 0 } else { tried });
        match found {
            Some((at, key)) => {
                // The key of one record is most likely that of the next.
                self.keys.swap(0, key);
                self.shift = i64::try_from(at).unwrap_or(0).saturating_sub(i64::try_from(index).unwrap_or(0));
                Place::Index(at)
            }
            None => Place::Nowhere,
        }
    }
}

/// Findings on their way, of which the first are told apart.
struct Names {
    boot_id: BootId,
    findings: Vec<Finding>,
    /// The first and the last place of those that are not told apart.
    further: Option<(u64, u64)>,
    count: usize,
    /// Entries that are missing between others.
    dropped: u64,
}

impl Names {
    const fn of(boot_id: BootId) -> Self {
        Self { boot_id, findings: Vec::new(), further: None, count: 0, dropped: 0 }
    }

    fn find(&mut self, kind: Kind, from: u64, to: u64, what: &str) {
        self.count = self.count.saturating_add(1);
        if kind == Kind::Dropped {
            self.dropped = self.dropped.saturating_add(to.saturating_sub(from));
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding::new(kind, self.boot_id, what).between(from, to));
        } else {
            let (first, last) = self.further.unwrap_or((from, to));
            self.further = Some((first.min(from), last.max(to)));
        }
    }

    fn all(mut self) -> Vec<Finding> {
        if let Some((from, to)) = self.further {
            let what =
                format!("{} further entries are not those that were signed", self.count.saturating_sub(FINDINGS_MAX));
            self.findings.push(Finding::new(Kind::Altered, self.boot_id, what).between(from, to));
        }
        self.findings
    }

    /// Turns places into findings: `from` is the index of the first.
    fn take(&mut self, from: u64, places: &[Place]) {
        let known: BTreeSet<u64> =
            places.iter().filter_map(|place| if let Place::Index(at) = place { Some(*at) } else { None }).collect();
        let (mut expected, mut seen) = (from, BTreeSet::new());
        let mut rest = places.iter().skip(1);
        for (index, place) in (from..).zip(places) {
            let next = rest.next();
            // One entry that stands too early drops nothing: those that follow say whether they were moved up.
            let goes_on = |at: u64| !matches!(next, Some(Place::Index(next)) if *next != at.saturating_add(1));
            match place {
                Place::Unknown => expected = expected.saturating_add(1),
                Place::Nowhere => {
                    self.find(
                        Kind::Altered,
                        index,
                        index.saturating_add(1),
                        "its record does not open: it was altered",
                    );
                    expected = expected.saturating_add(1);
                }
                Place::Index(at) if *at == expected => expected = at.saturating_add(1),
                Place::Index(at)
                    if !seen.contains(at) && *at > expected && !known.contains(&expected) && goes_on(*at) =>
                {
                    self.find(Kind::Dropped, expected, *at, "the entries are missing; those that follow were moved up");
                    expected = at.saturating_add(1);
                }
                Place::Index(at) => {
                    let what = if seen.contains(at) {
                        format!("holds entry {at} once more")
                    } else {
                        format!("holds the entry that was written as {at}")
                    };
                    self.find(Kind::Reordered, index, index.saturating_add(1), &what);
                    expected = expected.saturating_add(1);
                }
            }
            if let Place::Index(at) = place {
                seen.insert(*at);
            }
        }
    }
}
