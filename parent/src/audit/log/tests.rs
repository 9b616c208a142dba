use std::fs;

use super::*;

const ROTATE: u64 = 64;

fn entries(range: core::ops::Range<u64>) -> Entries {
    let mut entries = Entries::new();
    for index in range {
        entries.push(format!("entry {index:04}").as_bytes()).unwrap();
    }
    entries
}

/// Each has 4 + 10 bytes: four in a file of [`ROTATE`] bytes.
fn bytes(range: core::ops::Range<u64>) -> Vec<u8> {
    entries(range).as_bytes().to_owned()
}

struct Case {
    root: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("store").join("boot")
    }

    fn open(&self, from: u64) -> (Log, Found) {
        Log::open(self.root.path(), &self.folder(), from, ROTATE).unwrap()
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        let mut files: Vec<_> = fs::read_dir(self.folder()).unwrap().map(|entry| read(entry.unwrap())).collect();
        files.sort();
        files
    }
}

fn named(index: u64, bytes: Vec<u8>) -> (String, Vec<u8>) {
    (format!("{index:016}.log"), bytes)
}

#[test]
fn entries_come_one_after_another_and_files_end_in_time() {
    let case = Case::new();
    let (mut log, found) = case.open(0);
    assert_eq!((found, log.next_index(), log.is_pending()), (Found::default(), 0, false));
    assert!(log.append(0, entries(0..3)));
    assert!(!log.append(0, entries(0..1)) && !log.append(4, entries(4..5)), "neither again nor with a gap");
    assert!(log.append(3, entries(3..4)) && log.append(4, entries(4..5)));
    assert_eq!(log.next_index(), 0, "nothing is on disk yet");
    assert_eq!(log.commit().unwrap(), Written { entries: 5, bytes: 70 });
    assert_eq!((log.next_index(), log.is_pending()), (5, false));
    assert_eq!(log.commit().unwrap(), Written::default());
    // One that is larger than a file should be has a file of its own.
    assert!(log.append(5, entries(5..20)));
    log.commit().unwrap();
    let expected = [named(0, bytes(0..4)), named(4, bytes(4..5)), named(5, bytes(5..20))];
    assert_eq!(case.files(), expected);
    let (mut log, found) = case.open(17);
    assert_eq!((found, log.next_index()), (Found::default(), 20));
    assert!(log.append(20, entries(20..21)));
    log.commit().unwrap();
    assert_eq!(case.files()[3], named(20, bytes(20..21)));
}

/// Wherever a crash cuts what was being written, the log goes on after the last whole entry, and nothing is thrown away.
#[test]
fn a_torn_end_is_put_aside() {
    let whole = bytes(0..2);
    for cut in 0..=28 {
        let case = Case::new();
        fs::create_dir_all(case.folder()).unwrap();
        fs::write(case.folder().join("0000000000000000.log"), &whole[..cut]).unwrap();
        let kept = cut / 14;
        let (mut log, found) = case.open(0);
        assert_eq!(found, Found { torn_bytes: u64::try_from(cut % 14).unwrap(), missing: 0 });
        let next_index = u64::try_from(kept).unwrap();
        assert_eq!(log.next_index(), next_index);
        assert!(log.append(next_index, entries(next_index..3)));
        log.commit().unwrap();
        let files = case.files();
        assert_eq!(files[0], named(0, bytes(0..3)), "cut at {cut}");
        let aside = (format!("{kept:016}.torn"), whole[kept * 14..cut].to_vec());
        assert_eq!(files.get(1), (!cut.is_multiple_of(14)).then_some(&aside));
    }
}

#[test]
fn what_an_attempt_left_behind_is_written_anew() {
    let case = Case::new();
    let (mut log, _) = case.open(0);
    assert!(log.append(0, entries(0..1)));
    log.commit().unwrap();
    let path = case.folder().join("0000000000000000.log");
    let mut file = options().append(true).open(&path).unwrap();
    file.write_all(b"half of somethi").unwrap();
    assert!(log.append(1, entries(1..2)));
    log.commit().unwrap();
    assert_eq!(case.files(), [named(0, bytes(0..2))]);
}

/// While the folder takes nothing, what is pending stays, and is written once it does.
#[test]
fn a_failed_attempt_can_be_made_again() {
    let case = Case::new();
    let (mut log, _) = case.open(0);
    assert!(log.append(0, entries(0..2)));
    // A folder of that name is in the way.
    let path = case.folder().join("0000000000000000.log");
    fs::create_dir(&path).unwrap();
    assert!(log.commit().is_err() && log.is_pending());
    assert_eq!(log.next_index(), 0);
    assert!(log.append(2, entries(2..3)), "it counts what is pending");
    fs::remove_dir(&path).unwrap();
    assert_eq!(log.commit().unwrap(), Written { entries: 3, bytes: 42 });
    assert_eq!(case.files(), [named(0, bytes(0..3))]);
}

#[test]
fn what_is_gone_leaves_a_gap_that_the_names_show() {
    let case = Case::new();
    let (mut log, found) = case.open(7);
    assert_eq!((found, log.next_index()), (Found { torn_bytes: 0, missing: 7 }, 7));
    assert!(log.append(7, entries(7..8)));
    log.commit().unwrap();
    let (mut log, found) = case.open(9);
    assert_eq!((found, log.next_index()), (Found { torn_bytes: 0, missing: 1 }, 9));
    assert!(log.append(9, entries(9..10)));
    log.commit().unwrap();
    // Cut short, and deleted, while it is open.
    fs::write(case.folder().join("0000000000000009.log"), b"cut").unwrap();
    assert!(log.append(10, entries(10..11)));
    log.commit().unwrap();
    fs::remove_file(case.folder().join("0000000000000010.log")).unwrap();
    assert!(log.append(11, entries(11..12)));
    log.commit().unwrap();
    let expected = [named(7, bytes(7..8)), named(9, b"cut".to_vec()), named(11, bytes(11..12))];
    assert_eq!(case.files(), expected);
    assert_eq!(log.next_index(), 12);
}

#[test]
fn other_files_are_no_part_of_a_log() {
    let case = Case::new();
    fs::create_dir_all(case.folder()).unwrap();
    for name in ["checkpoints", "1.log", "+000000000000001.log", "0000000000000001.log.zst", "00000000000000001.log"] {
        fs::write(case.folder().join(name), bytes(0..1)).unwrap();
    }
    assert_eq!(case.open(0).0.next_index(), 0);
}

/// A length that no entry has ends what can be read, however much follows.
#[test]
fn garbage_in_the_middle_is_kept_and_counted_as_a_gap() {
    let case = Case::new();
    fs::create_dir_all(case.folder()).unwrap();
    let garbage = [vec![0xff; 100_000], bytes(1..3)].concat();
    fs::write(case.folder().join("0000000000000000.log"), [bytes(0..1), garbage.clone()].concat()).unwrap();
    let (log, found) = case.open(3);
    assert_eq!(found, Found { torn_bytes: u64::try_from(garbage.len()).unwrap(), missing: 2 });
    assert_eq!(log.next_index(), 3);
    assert_eq!(case.files(), [named(0, bytes(0..1)), ("0000000000000001.torn".to_owned(), garbage)]);
}
