//! Verification of audit logs: each way in which a log can be changed, by its name.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod cloudtrail;
mod proofs;
mod reconcile;
mod records;
mod replay;
mod writer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_cli::audit::findings::{Finding, Kind, Report};
use holdfast_cli::audit::folder::Folder;
use holdfast_cli::audit::heads::{CustodianHeads, HeadLine, Heads, HeadsFile};
use holdfast_cli::audit::verify::{Against, verify};
use holdfast_shared::audit::{Checkpoint, Entry, MaxUnwitnessed, PreviousHead, SegmentKey, Terms};
use holdfast_shared::cbor;
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::{BootId, CustodianId};
use holdfast_shared::limits::AUDIT_UNWITNESSED_RECORDS;
use holdfast_shared::secrets::Secret;
use writer::{KEY_STORE, Log};

/// Two boots of an orderly key store, and what custodians know of them.
struct World {
    folder: tempfile::TempDir,
    reader: PrivateKey,
    logs: Vec<Log>,
    heads: Heads,
    per_file: usize,
}

impl World {
    fn new() -> Self {
        let reader = PrivateKey::generate().unwrap();
        let first = Log::new(0xA1, reader.public_key(), Vec::new(), 210).close();
        let second = Log::new(0xB2, reader.public_key(), vec![first.head()], 70).close();
        let logs = vec![first, second];
        let boots = logs.iter().map(|log| (log.id.boot_id, log.witnessed())).collect();
        let heads = Heads { custodians: 1, boots, running: BTreeSet::new() };
        Self { folder: tempfile::tempdir().unwrap(), reader, logs, heads, per_file: 40 }
    }

    fn path(&self, boot: usize) -> PathBuf {
        self.folder.path().join(KEY_STORE.to_string()).join(self.logs[boot].id.boot_id.to_string())
    }

    fn write(&self) {
        for log in &self.logs {
            log.write(self.folder.path(), self.per_file);
        }
    }

    fn verify_with(&self, readers: &[PrivateKey]) -> Report {
        let folder = Folder::open(self.folder.path(), KEY_STORE).unwrap();
        verify(&folder, Against { heads: (self.heads.clone(), Vec::new()), readers, progress: &|_| () })
    }

    fn verify(&self) -> Report {
        let key = PrivateKey::from_bytes(&self.reader.to_bytes().unwrap()).unwrap();
        self.verify_with(&[key])
    }
}

/// Kinds, and from where to where.
type Named = Vec<(Kind, Option<(u64, u64)>)>;

fn named(report: &Report) -> Named {
    report.findings.iter().map(|finding| (finding.kind, finding.from.zip(finding.to))).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).unwrap();
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Changed before the log is written: a parent that rewrites its files.
#[test]
fn every_change_of_a_log_is_named() {
    use Kind::{Altered, Dropped, Reordered, Truncated, Unclosed};
    type Case = (&'static str, fn(&mut Log), Named);
    let table: [Case; 13] = [
        ("nothing", |_| (), vec![]),
        ("an entry dropped", |log| drop(log.entries.remove(60)), vec![(Dropped, Some((60, 61)))]),
        ("three entries dropped", |log| drop(log.entries.drain(60..63)), vec![(Dropped, Some((60, 63)))]),
        (
            "dropped near the end, where no checkpoint follows",
            |log| drop(log.entries.remove(208)),
            vec![(Dropped, Some((208, 209)))],
        ),
        (
            "two entries exchanged",
            |log| log.entries.swap(60, 61),
            vec![(Reordered, Some((60, 61))), (Reordered, Some((61, 62)))],
        ),
        ("an entry altered", |log| *log.entries[60].last_mut().unwrap() ^= 1, vec![(Altered, Some((60, 61)))]),
        (
            "an entry that is none",
            |log| log.entries[60] = vec![0xFF],
            vec![(Altered, Some((60, 61))), (Altered, Some((60, 61)))],
        ),
        (
            "an entry repeated instead of another",
            |log| log.entries[60] = log.entries[59].clone(),
            vec![(Reordered, Some((60, 61)))],
        ),
        (
            "the end cut off, and the copy of a later entry at an earlier place",
            |log| {
                log.entries[60] = log.entries[100].clone();
                log.entries.truncate(123);
            },
            vec![(Reordered, Some((60, 61))), (Truncated, Some((123, 213))), (Unclosed, None)],
        ),
        ("the end cut off", |log| log.entries.truncate(120), vec![(Truncated, Some((120, 213))), (Unclosed, None)]),
        ("the closing cut off", |log| log.entries.truncate(212), vec![(Truncated, Some((212, 213))), (Unclosed, None)]),
        (
            "something after the closing",
            |log| log.entries.push(cbor::encode(&Entry::Closing).to_vec()),
            vec![(Altered, Some((213, 214)))],
        ),
        (
            "the segment in clear altered",
            |log| *log.entries[1].last_mut().unwrap() ^= 1,
            vec![(Altered, Some((0, 50)))],
        ),
    ];
    for (what, change, expected) in table {
        for per_file in [1000, 40] {
            let mut world = World::new();
            world.per_file = per_file;
            change(&mut world.logs[0]);
            world.write();
            let report = world.verify();
            assert_eq!(named(&report), expected, "{what}, {per_file} to a file: {report}");
            assert_eq!(report.verified, expected.is_empty());
        }
    }
}

/// Changed on disk, or at custodians.
#[test]
fn every_contradiction_between_logs_and_custodians_is_named() {
    use Kind::{
        BadCheckpoint, Contradicted, Dropped, Forked, MissingBoot, MixedUp, Replayed, Unclosed, UnprovenKey,
        Unreadable, Unwitnessed,
    };
    type Case = (&'static str, fn(&mut World), &'static [Kind]);
    let table: [Case; 13] = [
        (
            "a file removed",
            |world| std::fs::remove_file(world.path(0).join("0000000000000040.log")).unwrap(),
            &[Dropped],
        ),
        (
            "an older state put back",
            |world| {
                world.logs[0].entries.truncate(100);
                world.logs[0].checkpoints.truncate(2);
                std::fs::remove_dir_all(world.path(0)).unwrap();
                world.write();
            },
            &[Replayed, Unclosed],
        ),
        (
            "another boot's log in its place",
            |world| copy(&world.path(1), &world.path(0)),
            &[Kind::Truncated, MixedUp, MixedUp],
        ),
        ("a log removed", |world| std::fs::remove_dir_all(world.path(0)).unwrap(), &[MissingBoot]),
        (
            "a log removed that no custodian knows, and a later opening does",
            |world| {
                std::fs::remove_dir_all(world.path(0)).unwrap();
                world.heads.boots.remove(&BootId([0xA1; 16]));
            },
            &[MissingBoot],
        ),
        ("a log that no custodian knows", |world| drop(world.heads.boots.remove(&BootId([0xA1; 16]))), &[Unwitnessed]),
        (
            "another root signed",
            |world| {
                let head = world.heads.boots.get_mut(&BootId([0xA1; 16])).unwrap();
                head.checkpoints[0].root[0] ^= 1;
            },
            &[Forked, Forked],
        ),
        (
            "a closing checkpoint, and one after it",
            |world| {
                let head = world.heads.boots.get_mut(&BootId([0xB2; 16])).unwrap();
                head.checkpoints.push(Checkpoint { closed: true, ..world.logs[1].checkpoints[0] });
            },
            &[Forked],
        ),
        (
            "a later boot was told of another log",
            |world| {
                let head = PreviousHead { root: [7; 32], ..world.logs[0].head() };
                world.logs[1] = Log::new(0xB2, world.reader.public_key(), vec![head], 70).close();
                world.heads.boots.insert(BootId([0xB2; 16]), world.logs[1].witnessed());
                world.write();
            },
            &[Contradicted],
        ),
        (
            "a checkpoint that nobody signed",
            |world| {
                let path = world.path(0).join("checkpoints");
                let text = std::fs::read_to_string(&path).unwrap();
                std::fs::write(&path, text.replacen("time 50", "time 51", 1)).unwrap();
            },
            &[BadCheckpoint],
        ),
        (
            "a file that is not compressed as it says",
            |world| {
                let path = world.path(0).join("0000000000000200.log");
                std::fs::rename(&path, path.with_extension("log.zst")).unwrap();
            },
            &[Kind::Truncated, Unclosed, Unreadable],
        ),
        (
            "an audit key that nothing vouches for",
            |world| {
                let head = world.heads.boots.get_mut(&BootId([0xA1; 16])).unwrap();
                (head.audit_public_key, head.checkpoints) = (Some([9; 32]), Vec::new());
            },
            &[Unclosed, Unwitnessed, UnprovenKey, BadCheckpoint],
        ),
        ("everything as it should be", |_| (), &[]),
    ];
    for (what, change, expected) in table {
        let mut world = World::new();
        world.write();
        change(&mut world);
        let report = world.verify();
        let kinds: Vec<Kind> = report.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, expected, "{what}: {report}");
    }
}

/// A gap has a name of its own, and what it lacks does not make up for a cut end.
#[test]
fn a_cut_end_is_named_beside_an_altered_entry_and_a_gap_of_the_same_size() {
    let mut world = World::new();
    let log = &mut world.logs[0];
    *log.entries[20].last_mut().unwrap() ^= 1;
    log.entries.truncate(173);
    world.write();
    std::fs::remove_file(world.path(0).join("0000000000000080.log")).unwrap();
    let report = world.verify();
    let expected = [
        (Kind::Dropped, Some((80, 120))),
        (Kind::Altered, Some((20, 21))),
        (Kind::Truncated, Some((173, 213))),
        (Kind::Unclosed, None),
    ];
    assert_eq!(named(&report), expected, "{report}");
}

#[test]
fn a_boot_without_an_end_is_named_with_the_most_that_can_be_missing() {
    let mut world = World::new();
    let log = Log::new(0xC3, world.reader.public_key(), vec![world.logs[1].head()], 60);
    world.heads.boots.insert(log.id.boot_id, log.witnessed());
    world.logs.push(log);
    world.write();
    let report = world.verify();
    assert_eq!(named(&report), [(Kind::Unclosed, None)], "{report}");
    // 50 of its 62 entries are witnessed, and ten million more might be, of which 12 are here.
    assert_eq!(report.findings[0].missing_at_most, Some(10_000_000));
    assert_eq!((report.boots[2].entries, report.boots[2].witnessed), (62, 50));
    world.heads.running.insert(BootId([0xC3; 16]));
    assert!(world.verify().verified, "it still runs");
}

#[test]
fn without_a_readers_key_a_change_is_found_and_not_explained() {
    let mut world = World::new();
    world.logs[0].entries.swap(60, 61);
    world.write();
    assert_eq!(named(&world.verify_with(&[])), [(Kind::Altered, Some((50, 100)))]);
    let stranger = PrivateKey::generate().unwrap();
    assert_eq!(named(&world.verify_with(&[stranger])), [(Kind::Altered, Some((50, 100)))]);
}

#[test]
fn a_log_that_was_compressed_and_one_that_is_being_written_verify() {
    let world = World::new();
    world.write();
    let path = world.path(0).join("0000000000000040.log");
    let bytes = std::fs::read(&path).unwrap();
    let compressed = ruzstd::encoding::compress_to_vec(&bytes[..], ruzstd::encoding::CompressionLevel::Fastest);
    std::fs::write(path.with_extension("log.zst"), compressed).unwrap();
    std::fs::remove_file(&path).unwrap();
    let last = world.path(1).join("0000000000000040.log");
    let torn = [std::fs::read(&last).unwrap(), vec![0, 0, 1, 0, 7, 7]].concat();
    std::fs::write(&last, torn).unwrap();
    assert!(world.verify().verified, "{}", world.verify());
}

#[test]
fn what_custodians_say_counts_only_with_evidence() {
    let world = World::new();
    let log = &world.logs[0];
    let line = HeadLine {
        boot_id: log.id.boot_id,
        checkpoint: log.checkpoints.last().unwrap().sign(&log.key),
        audit_public_key: hex::encode(log.public_key()),
        evidence: "00".to_owned(),
        received_ms: 1,
        contradiction: None,
    };
    let file = |line: HeadLine| {
        let custodian_id = CustodianId([1; 32]);
        let custodian =
            CustodianHeads { name: "vault".to_owned(), custodian_id, running: Vec::new(), heads: vec![line] };
        HeadsFile { key_store_id: Some(KEY_STORE), taken_ms: 1, custodians: vec![custodian] }
    };
    let key = log.public_key();
    let (heads, findings) = Heads::prove(&file(line.clone()), KEY_STORE, 1, &|_, _, _| Some(key));
    assert_eq!((heads.boots.len(), heads.custodians, findings.len()), (1, 1, 0));
    let other = log.checkpoints[0].sign(&world.logs[1].key);
    let table: [(HeadLine, Option<[u8; 32]>); 3] = [
        (line.clone(), None),
        (line.clone(), Some([7; 32])),
        (HeadLine { checkpoint: other, ..line.clone() }, Some(key)),
    ];
    for (line, vouched) in table {
        let (heads, findings) = Heads::prove(&file(line), KEY_STORE, 1, &|_, _, _| vouched);
        assert_eq!(findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::UnprovenKey]);
        assert!(heads.boots.values().all(|said| said.checkpoints.is_empty()));
    }
    let fork = HeadLine { contradiction: Some(log.checkpoints[0].sign(&log.key)), ..line };
    let (heads, _) = Heads::prove(&file(fork), KEY_STORE, 1, &|_, _, _| Some(key));
    assert_eq!(heads.boots[&log.id.boot_id].checkpoints.len(), 2);
}

/// Custodians who lie could say of a boot that broke off that it still runs.
#[test]
fn a_boot_runs_if_more_custodians_say_so_than_may_lie() {
    let says = |number: u8, running: &[u8]| CustodianHeads {
        name: format!("custodian-{number}"),
        custodian_id: CustodianId([number; 32]),
        running: running.iter().map(|boot| BootId([*boot; 16])).collect(),
        heads: Vec::new(),
    };
    let custodians = vec![says(1, &[7, 7, 8]), says(2, &[8]), says(2, &[9]), says(2, &[9])];
    let file = HeadsFile { key_store_id: Some(KEY_STORE), taken_ms: 1, custodians };
    for (believed, expected) in [(1, vec![7, 8, 9]), (2, vec![8]), (3, vec![])] {
        let (heads, _) = Heads::prove(&file, KEY_STORE, believed, &|_, _, _| None);
        assert_eq!(heads.running.iter().map(|boot| boot.0[0]).collect::<Vec<_>>(), expected);
    }
}

/// Beyond what was signed, anybody can append a segment in clear.
#[test]
fn the_terms_of_a_boot_without_an_end_are_those_that_were_signed() {
    let mut world = World::new();
    let few = Terms { max_unwitnessed: MaxUnwitnessed { seconds: 60, records: 100 }, ..Terms::DEFAULT };
    let mut log = Log::new(0xC3, world.reader.public_key(), Vec::new(), 60);
    let segment = SegmentKey::draw(Secret::take(&mut [1; 32]));
    log.append(&segment.seal_to(&[*world.reader.public_key()], &log.id, 1, few).unwrap());
    world.heads.boots.insert(log.id.boot_id, log.witnessed());
    world.logs.push(log);
    for (what, expected) in [("in the unsigned tail", 10_000_000), ("signed", 100)] {
        for per_file in [1000, 40] {
            world.per_file = per_file;
            let _ = std::fs::remove_dir_all(world.folder.path().join(KEY_STORE.to_string()));
            world.write();
            let report = world.verify();
            assert_eq!(named(&report), [(Kind::Unclosed, None)], "{what}: {report}");
            assert_eq!(report.findings[0].missing_at_most, Some(expected), "{what}");
        }
        world.logs[2].checkpoint(false);
    }
    // None that was signed: then nobody knows, and it is the most that settings can allow.
    let log = &mut world.logs[2];
    log.checkpoints.clear();
    world.heads.boots.get_mut(&BootId([0xC3; 16])).unwrap().checkpoints.clear();
    world.write();
    let report = world.verify();
    let unclosed = report.findings.iter().find(|finding| finding.kind == Kind::Unclosed).unwrap();
    assert_eq!(unclosed.missing_at_most, Some(*AUDIT_UNWITNESSED_RECORDS.end()));
}

/// Entries in clear, of which anybody can write as many as fit on the disk.
#[test]
fn what_anybody_can_append_takes_no_memory_and_no_time_without_end() {
    let mut world = World::new();
    let log = &mut world.logs[0];
    let opening: Entry = cbor::decode(&log.entries[0]).unwrap();
    let segment: Entry = cbor::decode(&log.entries[1]).unwrap();
    *log.entries[60].last_mut().unwrap() ^= 1;
    for _ in 0..1_000 {
        log.append(&opening);
        log.append(&segment);
    }
    for per_file in [10_000, 40] {
        world.per_file = per_file;
        let _ = std::fs::remove_dir_all(world.path(0));
        world.write();
        let report = world.verify();
        let count = |kind| report.findings.iter().filter(|finding| finding.kind == kind).count();
        assert_eq!(count(Kind::Reordered), 65, "64, and how many more there are");
        assert!(report.to_string().contains("has 936 further openings"), "{report}");
        assert!(report.findings.iter().any(|finding| finding.from == Some(60) && finding.to == Some(61)), "{report}");
    }
    let mut world = World::new();
    world.logs[0] = Log::new(0xA1, world.reader.public_key(), Vec::new(), 3_000).close();
    world.heads.boots.insert(BootId([0xA1; 16]), world.logs[0].witnessed());
    world.logs[1] = Log::new(0xB2, world.reader.public_key(), vec![world.logs[0].head()], 70).close();
    world.heads.boots.insert(BootId([0xB2; 16]), world.logs[1].witnessed());
    world.logs[0].entries[60..2_960].reverse();
    world.per_file = 10_000;
    world.write();
    let report = world.verify();
    assert_eq!(report.findings.len(), 1_001, "a thousand, and where the others are");
    assert!(report.to_string().contains("1900 further entries are not those that were signed"), "{report}");
}

#[test]
fn a_report_says_who_answered_and_steers_no_terminal() {
    let mut world = World::new();
    world.write();
    for (custodians, expected) in
        [(0, "no custodian answered"), (1, "1 custodian answered"), (3, "3 custodians answered")]
    {
        world.heads.custodians = custodians;
        assert!(world.verify().to_string().contains(expected), "{expected}");
    }
    let finding = Finding {
        kind: Kind::UnprovenKey,
        boot_id: BootId([1; 16]),
        from: None,
        to: None,
        missing_at_most: None,
        what: "vault\u{1b}[2J: its head".to_owned(),
    };
    assert!(finding.to_string().ends_with("vault?[2J: its head"));
}
