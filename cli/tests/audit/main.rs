//! Verification of audit logs: each way in which a log can be changed, by its name. And proofs, by a stranger's program.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod cloudtrail;
mod reconcile;
mod replay;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_cli::audit::findings::{Finding, Kind, Report};
use holdfast_cli::audit::folder::Folder;
use holdfast_cli::audit::heads::{CustodianHeads, HeadLine, Heads, HeadsFile};
use holdfast_cli::audit::prove::{ProveError, prove};
use holdfast_cli::audit::records::{Filter, Newest, Unopened, cursors};
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
fn the_newest_records_are_those_of_all_logs_by_their_time() {
    let mut world = World::new();
    // Boots that ran side by side: 210 records of one, 70 of the other, from the same moment on.
    world.logs[1] = Log::new(0x02, world.reader.public_key(), Vec::new(), 70);
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    let readers = [PrivateKey::from_bytes(&world.reader.to_bytes().unwrap()).unwrap()];
    let newest = |count, backwards: bool| {
        let mut newest = Newest::of(count);
        let mut cursors = cursors(&folder);
        if backwards {
            cursors.reverse();
        }
        for cursor in &mut cursors {
            cursor.read(&readers, &mut |line| newest.take(line)).unwrap();
        }
        newest.into_lines().map(|line| (line.record.at_ms, line.log.boot_id.0[0])).collect::<Vec<_>>()
    };
    for backwards in [false, true] {
        assert_eq!(newest(3, backwards), [(207, 0xA1), (208, 0xA1), (209, 0xA1)]);
        assert_eq!(newest(144, backwards)[..5], [(68, 0x02), (68, 0xA1), (69, 0x02), (69, 0xA1), (70, 0xA1)]);
        assert_eq!(newest(0, backwards), []);
    }
}

#[test]
fn times_around_records_that_do_not_open_are_known() {
    let mut world = World::new();
    let stranger = PrivateKey::generate().unwrap();
    let log = &mut world.logs[0];
    *log.entries[60].last_mut().unwrap() ^= 1;
    *log.entries[61].last_mut().unwrap() ^= 1;
    *log.entries[100].last_mut().unwrap() ^= 1;
    world.logs[1] = Log::new(0xB2, stranger.public_key(), Vec::new(), 70);
    world.logs[1].checkpoints[0].time_ms = 200_000_000;
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    let readers = [PrivateKey::from_bytes(&world.reader.to_bytes().unwrap()).unwrap()];
    let unopened: Vec<Unopened> = cursors(&folder)
        .into_iter()
        .map(|mut cursor| {
            cursor.read(&readers, &mut |_| ()).unwrap();
            cursor.into_unopened().unwrap()
        })
        .collect();
    // Boot A1 was opened at 161,000,000 ms, and its records are at 0, 1, …; record n stands at n + 2.
    assert_eq!(unopened[0], Unopened { records: 3, spans: vec![(57, 60), (97, 99)] });
    // Nothing of the other opens: from its opening to its newest checkpoint.
    assert_eq!(unopened[1], Unopened { records: 70, spans: vec![(178_000_000, 200_000_000)] });
    assert!(unopened[1].may_hold(178_000_000) && unopened[1].may_hold(177_999_999));
    assert!(!unopened[1].may_hold(177_999_000) && !unopened[1].may_hold(200_000_001));
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

#[test]
fn records_are_read_filtered_and_followed() {
    let mut world = World::new();
    world.logs[1] = Log::new(0xB2, world.reader.public_key(), vec![world.logs[0].head()], 70);
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    let readers = [PrivateKey::from_bytes(&world.reader.to_bytes().unwrap()).unwrap()];
    let mut cursors = cursors(&folder);
    let filter = Filter {
        principal: Some("arn:aws:iam::*:role/team-1".to_owned()),
        outcome: Some("refused".parse().unwrap()),
        since_ms: Some(50),
        ..Filter::default()
    };
    let mut found = BTreeMap::<u64, Vec<u64>>::new();
    for (at, cursor) in (0_u64..).zip(&mut cursors) {
        cursor
            .read(&readers, &mut |line| {
                if filter.takes(&line.record) {
                    found.entry(at).or_default().push(line.record.at_ms);
                }
            })
            .unwrap();
        assert_eq!(cursor.unopened, 0);
    }
    assert_eq!(found, BTreeMap::from([(0, vec![70, 100, 130, 160, 190])]));
    let mut more = Vec::new();
    cursors[1].read(&readers, &mut |line| more.push(line)).unwrap();
    assert_eq!(more, [], "nothing came since");
    world.logs[1].record(70);
    world.write();
    cursors[1].read(&readers, &mut |line| more.push(line)).unwrap();
    assert_eq!(more.iter().map(|line| (line.index, line.record.at_ms)).collect::<Vec<_>>(), [(72, 70)]);
    let json = serde_json::to_value(&more[0]).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "boot_id": "b2".repeat(16), "index": 72, "at_ms": 70, "event": "request", "operation": "Decrypt",
            "outcome": "AccessDeniedException", "latency_us": 0, "access_key_id": "AAAAABBBBBCCCCCDDDDD",
            "principal": "arn:aws:iam::111122223333:role/team-1",
        })
    );
    let stranger = [PrivateKey::generate().unwrap()];
    let mut cursor = holdfast_cli::audit::records::cursors(&folder).remove(0);
    cursor.read(&stranger, &mut |_| panic!("a stranger reads")).unwrap();
    assert_eq!(cursor.unopened, 210);
}

/// The interpreter of `scripts/test-python`.
fn python() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().skip(1).map(|folder| folder.join("python/bin/python3")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("the Python environment of the tests is missing: run scripts/test-python"))
}

#[test]
fn a_proof_holds_for_a_stranger_and_a_changed_one_does_not() {
    let world = World::new();
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/check_audit_proof.py");
    let holds = |proof: &serde_json::Value| {
        let file = world.folder.path().join("proof.json");
        std::fs::write(&file, proof.to_string()).unwrap();
        Command::new(python()).arg(&script).arg(&file).output().unwrap().status.success()
    };
    for index in [0, 1, 49, 50, 130, 212] {
        let proof = prove(&folder.boots[0], KEY_STORE, index, None).unwrap();
        let json = serde_json::to_value(&proof).unwrap();
        assert!(holds(&json), "entry {index}");
        let mut changed = json.clone();
        changed["index"] = (index + 1).into();
        assert!(!holds(&changed));
        changed.clone_from(&json);
        changed["leaf"] = "AAAA".into();
        assert!(!holds(&changed));
        changed.clone_from(&json);
        changed["checkpoint"] = json["checkpoint"].as_str().unwrap().replacen("time ", "time 1", 1).into();
        assert!(!holds(&changed));
    }
    assert!(matches!(prove(&folder.boots[0], KEY_STORE, 213, None), Err(ProveError::Unsigned(213))));

    let mut world = World::new();
    world.logs[0].entries.swap(60, 61);
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    assert!(matches!(prove(&folder.boots[0], KEY_STORE, 70, None), Err(ProveError::Broken)));
    assert!(prove(&folder.boots[0], KEY_STORE, 20, None).is_ok(), "what was signed before is as it was");
}

/// What a custodian sends is its own to choose: only a document that vouches for the log's key is handed on.
#[test]
fn a_proof_holds_a_document_only_that_vouches_for_its_key() {
    let world = World::new();
    world.write();
    let folder = Folder::open(world.folder.path(), KEY_STORE).unwrap();
    let log = &world.logs[0];
    let line = |evidence: &str| HeadLine {
        boot_id: log.id.boot_id,
        checkpoint: log.checkpoints.last().unwrap().sign(&log.key),
        audit_public_key: hex::encode(log.public_key()),
        evidence: evidence.to_owned(),
        received_ms: 1,
        contradiction: None,
    };
    let custodian = |number: u8, evidence: &str| CustodianHeads {
        name: "vault".to_owned(),
        custodian_id: CustodianId([number; 32]),
        running: Vec::new(),
        heads: vec![line(evidence)],
    };
    let custodians = vec![custodian(1, "not hexadecimal"), custodian(2, "00"), custodian(3, "01"), custodian(4, "02")];
    let mut heads = HeadsFile { key_store_id: Some(KEY_STORE), taken_ms: 1, custodians };
    let key = log.public_key();
    let vouch = move |document: &[u8], boot_id: BootId, custodian: CustodianId| match (document, custodian.0[0]) {
        ([1], 3) => Some([9; 32]),
        ([2], 4) if boot_id == BootId([0xA1; 16]) => Some(key),
        _ => None,
    };
    let proof = prove(&folder.boots[0], KEY_STORE, 60, Some((&heads, &vouch))).unwrap();
    assert_eq!(proof.evidence.as_deref(), Some("Ag=="));
    assert_eq!(prove(&folder.boots[0], KEY_STORE, 60, None).unwrap().evidence, None);
    heads.custodians.truncate(3);
    let refused = prove(&folder.boots[0], KEY_STORE, 60, Some((&heads, &vouch)));
    assert!(matches!(refused, Err(ProveError::Unproven(boot)) if boot == log.id.boot_id));
}
