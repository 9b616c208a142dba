//! One log: its files put together, in order, and held against everything that was signed about it.

use std::collections::VecDeque;

use holdfast_shared::audit::entry::{Opening, Segment};
use holdfast_shared::audit::{Checkpoint, Hash, LogId, MaxUnwitnessed, Terms, Tree};
use holdfast_shared::ids::BootId;
use holdfast_shared::limits::{AUDIT_UNWITNESSED_RECORDS, AUDIT_UNWITNESSED_SECONDS};

use super::findings::{BootReport, End, Finding, Kind};
use super::folder::BootFolder;
use super::heads::Witnessed;
use super::parallel::in_parallel;
use super::scan::{self, KEPT_MAX, Scanned};

/// A root that a log must have at some size, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    size: u64,
    root: Hash,
    by: Claimant,
}

/// See [`Claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claimant {
    /// A checkpoint in the folder.
    Folder,
    /// A checkpoint at a custodian.
    Custodian,
    /// The opening of another boot's log.
    Opening(BootId),
}

impl Claimant {
    /// Whether it is the audit key that says so.
    const fn has_signed(self) -> bool {
        matches!(self, Self::Folder | Self::Custodian)
    }
}

/// Notes that are judged at once, half a kilobyte each.
const NOTES: usize = 4096;
/// Notes that one thread judges before it takes others: some milliseconds.
const NOTES_EACH: usize = 64;

/// What a note in the folder turned out to be.
enum Note {
    /// A checkpoint of this log, signed by its key.
    Signed(Checkpoint),
    /// One of another log.
    Of(LogId),
    /// Not signed, or no checkpoint.
    Bad,
}

/// Judges notes, in their order. Verifying a signature takes longer than hashing a hundred entries.
fn judged(notes: &[String], log: LogId, key: Option<&[u8; 32]>) -> Vec<Note> {
    let judge = |text: &String| match (Checkpoint::parse(text), key) {
        (Ok(checkpoint), _) if checkpoint.log != log => Note::Of(checkpoint.log),
        (Ok(checkpoint), Some(key)) if Checkpoint::verify(text, key).is_ok() => Note::Signed(checkpoint),
        _ => Note::Bad,
    };
    let parts: Vec<&[String]> = notes.chunks(NOTES_EACH).collect();
    let judged = in_parallel(parts.len(), |at| parts.get(at).map(|part| part.iter().map(judge).collect::<Vec<_>>()));
    judged.into_iter().flatten().flatten().collect()
}

/// A log on its way through verification.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) log: LogId,
    pub(super) folder: BootFolder,
    pub(super) opening: Option<Opening>,
    /// Sorted: some tens of bytes for each second of a log.
    claims: Vec<Claim>,
    pub(super) findings: Vec<Finding>,
    /// Those around the first entry that is not the one that was signed: the last ones before, the first ones after.
    pub(super) segments: VecDeque<Segment>,
    /// Of the last segment.
    terms: Option<Terms>,
    /// Of the last one that is under a checkpoint. What follows it anybody may have written.
    signed_terms: Option<Terms>,
    /// Openings at wrong places, and how many of them are named.
    openings: (u64, usize),
    /// Gone as soon as an entry is missing: nothing that was signed says anything of what follows.
    tree: Option<Tree>,
    /// The index after the last entry.
    end: u64,
    entries: u64,
    closing: Option<u64>,
    closed_at: Option<u64>,
    signed: u64,
    witnessed: u64,
    /// The newest checkpoint in the folder.
    newest: Option<Checkpoint>,
    /// The newest at custodians.
    newest_witnessed: Option<Checkpoint>,
    /// Whether the folder holds another log.
    pub(super) is_mixed_up: bool,
    /// By how much the last record was moved up, since entries before it are missing that were named.
    pub(super) moved_up: u64,
    /// Where the first root differs: after this many good entries, before this many.
    pub(super) bad: Option<(u64, u64)>,
}

impl Boot {
    /// Reads the opening and the checkpoints of a log, and takes what custodians say of it.
    pub(super) fn open(log: LogId, folder: BootFolder, witnessed: Option<&Witnessed>) -> Self {
        let opening = folder.files.first().filter(|file| file.first_index == 0).and_then(scan::opening);
        let mut boot = Self {
            log,
            folder,
            opening,
            claims: Vec::new(),
            findings: Vec::new(),
            segments: VecDeque::new(),
            terms: None,
            signed_terms: None,
            openings: (0, 0),
            tree: Some(Tree::default()),
            end: 0,
            entries: 0,
            closing: None,
            closed_at: None,
            signed: 0,
            witnessed: 0,
            newest: None,
            newest_witnessed: None,
            is_mixed_up: false,
            moved_up: 0,
            bad: None,
        };
        boot.check_opening(witnessed);
        boot.take_checkpoints(witnessed);
        boot
    }

    pub(super) fn find(&mut self, kind: Kind, what: impl Into<String>) {
        self.findings.push(Finding::new(kind, self.log.boot_id, what));
    }

    fn check_opening(&mut self, witnessed: Option<&Witnessed>) {
        let Some(opening) = &self.opening else { return };
        let (found, key) = (scan::log_of(opening), opening.audit_public_key);
        if found != self.log {
            let what = format!("is the log of boot {} of key store {}", found.boot_id, found.key_store_id);
            self.find(Kind::MixedUp, what);
            self.is_mixed_up = true;
        } else if witnessed.and_then(|said| said.audit_public_key).is_some_and(|proven| proven != key) {
            self.find(Kind::UnprovenKey, "its opening names another audit key than the boot's attestation document");
        }
    }

    /// The key whose checkpoints count: the one that an attestation document vouches for, else the opening's.
    fn key(&self, witnessed: Option<&Witnessed>) -> Option<[u8; 32]> {
        let opened = self.opening.as_ref().map(|opening| opening.audit_public_key);
        witnessed.and_then(|said| said.audit_public_key).or(opened)
    }

    fn take_checkpoints(&mut self, witnessed: Option<&Witnessed>) {
        let (key, folder) = (self.key(witnessed), self.folder.clone());
        let (mut bad, mut mixed, mut notes) = (0_u64, None, Vec::new());
        let mut take = |notes: &mut Vec<String>| {
            for note in judged(notes, self.log, key.as_ref()) {
                match note {
                    Note::Signed(checkpoint) => self.take_checkpoint(&checkpoint, Claimant::Folder),
                    Note::Of(log) => mixed = mixed.or(Some(log)),
                    Note::Bad => bad = bad.saturating_add(1),
                }
            }
            notes.clear();
        };
        let read = folder.checkpoints(|text| {
            notes.push(text.to_owned());
            if notes.len() >= NOTES {
                take(&mut notes);
            }
        });
        take(&mut notes);
        if let Err(error) = read {
            self.find(Kind::Unreadable, error.to_string());
        }
        if let Some(other) = mixed {
            let what = format!("has checkpoints of boot {} of key store {}", other.boot_id, other.key_store_id);
            self.find(Kind::MixedUp, what);
        }
        if bad > 0 {
            self.find(Kind::BadCheckpoint, format!("{bad} of its checkpoints are not signed by its audit key"));
        }
        for checkpoint in witnessed.map_or(&[][..], |said| &said.checkpoints) {
            self.take_checkpoint(checkpoint, Claimant::Custodian);
        }
        self.claims.sort_unstable();
        self.claims.dedup();
        self.find_forks();
    }

    fn take_checkpoint(&mut self, checkpoint: &Checkpoint, by: Claimant) {
        self.claims.push(Claim { size: checkpoint.size, root: checkpoint.root, by });
        if checkpoint.closed {
            self.closed_at = Some(self.closed_at.map_or(checkpoint.size, |before| before.min(checkpoint.size)));
        }
        let newest = if by == Claimant::Custodian { &mut self.newest_witnessed } else { &mut self.newest };
        if newest.is_none_or(|newest| newest.size < checkpoint.size) {
            *newest = Some(*checkpoint);
        }
    }

    /// Two checkpoints that one honest boot does not sign.
    fn find_forks(&mut self) {
        let mut forked: Vec<u64> = Vec::new();
        for pair in self.claims.windows(2) {
            if let [one, other] = pair
                && one.size == other.size
                && one.root != other.root
                && forked.last() != Some(&one.size)
            {
                forked.push(one.size);
            }
        }
        for size in forked {
            self.find(Kind::Forked, format!("its audit key signed two different logs of {size} entries"));
        }
        if let Some(closed) = self.closed_at
            && self.claims.last().is_some_and(|last| last.size > closed)
        {
            self.find(Kind::Forked, "its audit key signed a closing checkpoint, and others after it");
        }
    }

    /// What another boot's opening says of this one.
    pub(super) fn claim(&mut self, size: u64, root: Hash, by: BootId) {
        let claim = Claim { size, root, by: Claimant::Opening(by) };
        let place = self.claims.partition_point(|other| *other < claim);
        self.claims.insert(place, claim);
    }

    /// The sizes at which roots are wanted.
    pub(super) fn marks(&self) -> Vec<u64> {
        let mut marks: Vec<u64> = self.claims.iter().map(|claim| claim.size).collect();
        marks.dedup();
        marks
    }

    /// Takes the next file.
    pub(super) fn append(&mut self, file: usize, scanned: std::io::Result<Scanned>) {
        let Some(path) = self.folder.files.get(file).map(|file| file.path.display().to_string()) else { return };
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(error) => {
                self.tree = None;
                self.find(Kind::Unreadable, format!("{path}: {error}"));
                return;
            }
        };
        let (first, end) = (scanned.range.begin(), self.end);
        if first > end {
            let what = format!(
                "{} entries before {path} are missing, and nothing after them can be verified",
                first.saturating_sub(end)
            );
            self.findings.push(Finding::new(Kind::Dropped, self.log.boot_id, what).between(end, first));
            self.tree = None;
        } else if first < end {
            self.find(
                Kind::Reordered,
                format!("{path} begins with entry {first}, and the files before it reach {end}"),
            );
            self.tree = None;
        }
        self.take_oddities(&scanned, &path);
        if let Some(mut tree) = self.tree.take() {
            let before = tree.clone();
            for mark in &scanned.marks {
                let mut at = before.clone();
                if at.join(&mark.range) {
                    self.hold(at.size(), &at.root(), mark.terms.or(self.terms));
                }
            }
            self.tree = tree.join(&scanned.range).then_some(tree);
        }
        self.end = scanned.range.end();
        self.entries = self.entries.saturating_add(self.end.saturating_sub(first));
        self.terms = scanned.terms.or(self.terms);
        self.keep(scanned.segments);
        self.closing = self.closing.or(scanned.closing);
    }

    fn keep(&mut self, segments: Vec<Segment>) {
        let is_good = self.bad.is_none() && self.tree.is_some();
        for segment in segments {
            if self.segments.len() < KEPT_MAX.saturating_mul(2) {
                self.segments.push_back(segment);
            }
            // Room is left for those that follow.
            if is_good && self.segments.len() > KEPT_MAX {
                self.segments.pop_front();
            }
        }
    }

    fn take_oddities(&mut self, scanned: &Scanned, path: &str) {
        if let Some(index) = scanned.strange {
            let finding = Finding::new(Kind::Altered, self.log.boot_id, "is no entry of an audit log");
            self.findings.push(finding.between(index, index.saturating_add(1)));
        }
        let (openings, named) = self.openings;
        for (index, boot_id) in scanned.openings.iter().take(KEPT_MAX.saturating_sub(named)) {
            let finding =
                Finding::new(Kind::Reordered, self.log.boot_id, format!("is the opening of the log of boot {boot_id}"));
            self.findings.push(finding.between(*index, index.saturating_add(1)));
        }
        let named = named.saturating_add(scanned.openings.len()).min(KEPT_MAX);
        self.openings = (openings.saturating_add(scanned.openings_count), named);
        if scanned.range.begin() == 0 && scanned.range.end() > 0 && !scanned.is_opened {
            let finding = Finding::new(Kind::Altered, self.log.boot_id, "is not the opening of a log");
            self.findings.push(finding.between(0, 1));
        }
        if let Some(closing) =
            self.closing.or(scanned.closing).filter(|closing| scanned.range.end() > closing.saturating_add(1))
        {
            let finding = Finding::new(Kind::Altered, self.log.boot_id, "follows the closing entry");
            self.findings.push(finding.between(closing.saturating_add(1), scanned.range.end()));
        }
        if scanned.garbage {
            self.find(Kind::Altered, format!("{path} ends with bytes that are no entry"));
        }
    }

    /// Holds the root at `size` against what was said of it. `terms` are those of the last segment before it.
    fn hold(&mut self, size: u64, root: &Hash, terms: Option<Terms>) {
        let from = self.claims.partition_point(|claim| claim.size < size);
        let mut claims: Vec<Claim> =
            self.claims.iter().skip(from).take_while(|claim| claim.size == size).copied().collect();
        // What was signed first: where that does not hold, an opening that agrees with it is no finding of its own.
        claims.sort_by_key(|claim| claim.by);
        let signed: Vec<Hash> = claims.iter().filter(|claim| claim.by.has_signed()).map(|claim| claim.root).collect();
        for claim in claims {
            match (claim.root == *root, claim.by) {
                (true, by) if self.bad.is_none() => {
                    if by.has_signed() {
                        (self.signed, self.signed_terms) = (size, terms);
                    }
                    self.witnessed = if by == Claimant::Custodian { size } else { self.witnessed };
                }
                (true, _) => {}
                (false, Claimant::Opening(_))
                    if self.bad.is_some() && signed.iter().all(|root| *root == claim.root) => {}
                (false, Claimant::Opening(by)) => {
                    self.find(Kind::Contradicted, format!("boot {by} was told of another log of {size} entries"));
                }
                (false, Claimant::Folder | Claimant::Custodian) => {
                    self.bad = self.bad.or(Some((self.signed, size)));
                }
            }
        }
    }

    /// What can be said by records alone of entries after the last root that holds, where a signed checkpoint has more than are there.
    pub(super) fn doubtful(&self) -> Option<(u64, u64)> {
        let newest = [self.newest, self.newest_witnessed].into_iter().flatten().map(|checkpoint| checkpoint.size).max();
        let newest = newest.unwrap_or(0);
        (self.tree.is_some() && newest > self.end).then_some((self.signed, self.end))
    }

    /// The index after the last entry.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Ends the log: what should be there and is not.
    pub(super) fn finish(&mut self, is_running: bool, custodians: usize) -> BootReport {
        let (folder, custodian) = (self.newest, self.newest_witnessed);
        let size = |checkpoint: Option<Checkpoint>| checkpoint.map_or(0, |checkpoint| checkpoint.size);
        let (own, seen, end) = (size(folder), size(custodian), self.end);
        let newest = own.max(seen);
        let missing = newest.saturating_sub(end).saturating_sub(self.moved_up);
        if missing > 0 {
            let (kind, what) = if own > end || folder.is_none() {
                (Kind::Truncated, format!("{missing} entries are missing at the end: a signed checkpoint has {newest}"))
            } else {
                (
                    Kind::Replayed,
                    format!(
                        "log and checkpoints end at {end} entries, and custodians have seen {newest}: an older state"
                    ),
                )
            };
            let mut finding = Finding::new(kind, self.log.boot_id, what).between(end, newest);
            finding.missing_at_most = Some(missing);
            self.findings.push(finding);
        }
        if let Some(Claim { size, by: Claimant::Opening(by), .. }) = self.claims.last().copied()
            && size > end.max(newest)
        {
            self.find(
                Kind::Contradicted,
                format!("boot {by} was told of a log of {size} entries, and there are {end}"),
            );
        }
        if custodians > 0 && custodian.is_none() {
            self.find(Kind::Unwitnessed, "no custodian has seen a checkpoint of it: it may be invented");
        }
        let (openings, named) = self.openings;
        let more = openings.saturating_sub(u64::try_from(named).unwrap_or(u64::MAX));
        if more > 0 {
            self.find(Kind::Reordered, format!("has {more} further openings of logs"));
        }
        let is_closed = self.closing.is_some() && self.closed_at.is_some();
        if !is_closed && !is_running {
            self.unclosed(custodians);
        }
        BootReport {
            boot_id: self.log.boot_id,
            opened_ms: self.opening.as_ref().map(|opening| opening.opened_ms),
            entries: self.entries,
            signed: self.signed,
            witnessed: self.witnessed,
            last_ms: [folder, custodian].into_iter().flatten().map(|checkpoint| checkpoint.time_ms).max(),
            end: match (is_closed, is_running) {
                (true, _) => End::Closed,
                (false, true) => End::Running,
                (false, false) => End::Unclosed,
            },
        }
    }

    fn unclosed(&mut self, custodians: usize) {
        // Where no segment is signed, the terms are not known: then it is the most that settings can allow.
        let most =
            MaxUnwitnessed { seconds: *AUDIT_UNWITNESSED_SECONDS.end(), records: *AUDIT_UNWITNESSED_RECORDS.end() };
        let MaxUnwitnessed { seconds, records } = self.signed_terms.map_or(most, |terms| terms.max_unwitnessed);
        // What custodians saw is there or is missed by name; beyond it the enclave stops after so many successes. How many of the entries
        // that are there are successes, nobody sees without a key.
        let (what, most) = if custodians == 0 {
            ("ends without a closing checkpoint; how much may be missing, custodians know".to_owned(), None)
        } else {
            let what = format!(
                "ends without a closing checkpoint: records of at most {records} successes in at most {seconds} seconds may be missing"
            );
            (what, Some(records))
        };
        let finding = Finding::new(Kind::Unclosed, self.log.boot_id, what);
        self.findings.push(Finding { missing_at_most: most, ..finding });
    }
}
