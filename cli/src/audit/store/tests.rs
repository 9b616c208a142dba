//! Up and down again, with a folder in the place of a bucket.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::download::{Wanted, download};
use super::place::{Place, Reach};
use super::upload::{Pace, Uploader};
use super::{StoreError, Summary};

const FIRST: &str = "0000000000000000.log";
const NEWEST: &str = "0000000000000002.log";
const CHECKPOINTS: &str = "checkpoints";

/// A parent's folder with one log, and where it is sent.
struct Setting {
    place: TempDir,
    log: PathBuf,
    said: RefCell<Vec<String>>,
}

fn entry(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn note(size: u64) -> Vec<u8> {
    format!("name\n{size}\nroot\n\n\u{2014} name signature\n\n").into_bytes()
}

impl Setting {
    /// Two entries in a file that is finished, one in the newest, and a checkpoint over all.
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let log = PathBuf::from("ab".repeat(32)).join("cd".repeat(16));
        fs::create_dir_all(place.path().join("audit").join(&log)).unwrap();
        fs::create_dir(place.path().join("bucket")).unwrap();
        let setting = Self { place, log, said: RefCell::default() };
        setting.add(FIRST, &[entry("one"), entry("two")].concat());
        setting.add(NEWEST, &entry("three"));
        setting.add(CHECKPOINTS, &note(3));
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path("audit").join(&self.log).join(name)
    }

    fn object(&self, name: &str) -> PathBuf {
        self.path("bucket").join(&self.log).join(name)
    }

    fn add(&self, name: &str, bytes: &[u8]) {
        let mut all = fs::read(self.file(name)).unwrap_or_default();
        all.extend_from_slice(bytes);
        fs::write(self.file(name), all).unwrap();
    }

    /// As `zstd --rm` leaves it.
    fn compress(&self, name: &str) {
        compress(&self.file(name));
    }

    fn bucket(&self) -> (Place, Reach) {
        (Place::Folder(self.path("bucket")), Reach::default())
    }

    /// One round of a program of its own.
    async fn upload(&self) -> Summary {
        let tell = |line: &str| self.said.borrow_mut().push(line.to_owned());
        let (place, reach) = self.bucket();
        let mut uploader = Uploader::open(&self.path("audit"), (&place, &reach), &self.path("state"), &tell).unwrap();
        uploader.round(Pace::All).await.unwrap()
    }

    async fn download(&self, wanted: Wanted) -> Result<Summary, StoreError> {
        let tell = |line: &str| self.said.borrow_mut().push(line.to_owned());
        let (place, reach) = self.bucket();
        download((&place, &reach), &self.path("back"), wanted, &tell).await
    }

    fn said(&self) -> String {
        self.said.take().join("\n")
    }
}

fn packed(name: &str) -> String {
    format!("{name}.zst")
}

fn compress(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    fs::write(packed(path.to_str().unwrap()), ruzstd::encoding::compress_to_vec(&bytes[..], level)).unwrap();
    fs::remove_file(path).unwrap();
}

fn summary(written: u64, bytes: usize, skipped: u64, failed: u64) -> Summary {
    Summary { written, bytes: u64::try_from(bytes).unwrap(), skipped, failed }
}

fn same(one: &Path, other: &Path) {
    assert_eq!(fs::read(one).unwrap(), fs::read(other).unwrap(), "{} {}", one.display(), other.display());
}

#[tokio::test]
async fn what_grows_is_sent_again_and_comes_back() {
    let setting = Setting::new();
    let sizes = |names: &[&str]| names.iter().map(|name| fs::read(setting.file(name)).unwrap().len()).sum::<usize>();
    let all = [FIRST, NEWEST, CHECKPOINTS];
    assert_eq!(setting.upload().await, summary(3, sizes(&all), 0, 0));
    assert_eq!(setting.upload().await, summary(0, 0, 3, 0));
    assert_eq!(setting.download(Wanted::default()).await.unwrap(), summary(3, sizes(&all), 0, 0));
    assert_eq!(setting.download(Wanted::default()).await.unwrap(), summary(0, 0, 3, 0));

    // What a crash leaves of an entry and of a note is not sent, and is not missed once it is whole.
    let (whole, notes) = (fs::read(setting.file(NEWEST)).unwrap(), fs::read(setting.file(CHECKPOINTS)).unwrap());
    setting.add(NEWEST, &entry("four")[..6]);
    setting.add(CHECKPOINTS, &note(4)[..9]);
    assert_eq!(setting.upload().await.written, 0);
    setting.add(NEWEST, &entry("four")[6..]);
    setting.add(CHECKPOINTS, &note(4)[9..]);
    assert_eq!(setting.upload().await, summary(2, sizes(&[NEWEST, CHECKPOINTS]), 1, 0));
    assert!(fs::read(setting.object(NEWEST)).unwrap().starts_with(&whole));
    assert!(fs::read(setting.object(CHECKPOINTS)).unwrap().starts_with(&notes));

    // A next file, and more in the one before it, which a crash cut: it is finished, so that all of it counts.
    setting.add(NEWEST, &entry("five")[..5]);
    let next = "0000000000000004.log";
    setting.add(next, &entry("five"));
    assert_eq!(setting.upload().await, summary(2, sizes(&[NEWEST, next]), 2, 0));
    // Without its ledger the tool looks at every object, and at no more.
    fs::remove_file(setting.path("state")).unwrap();
    assert_eq!(setting.upload().await, summary(0, 0, 4, 0));
    // Compressed since: it is there as it was.
    let first = fs::read(setting.file(FIRST)).unwrap();
    setting.compress(FIRST);
    assert_eq!(setting.upload().await, summary(0, 0, 4, 0));
    fs::remove_file(setting.file(&packed(FIRST))).unwrap();
    fs::write(setting.file(FIRST), first).unwrap();

    assert_eq!(
        setting.download(Wanted::default()).await.unwrap(),
        summary(3, sizes(&[NEWEST, next, CHECKPOINTS]), 1, 0)
    );
    for name in [FIRST, NEWEST, next, CHECKPOINTS] {
        same(&setting.file(name), &setting.object(name));
        same(&setting.file(name), &setting.path("back").join(&setting.log).join(name));
    }
    assert_eq!(setting.said(), "");
}

/// What is done after a first upload; whether the ledger is lost; what is said.
type Case = (&'static str, fn(&Setting), bool, &'static str);

#[tokio::test]
async fn an_object_is_never_replaced_by_less_or_other_content() {
    let table: [Case; 9] = [
        (
            "the newest object was altered, and its file grew",
            |setting| {
                fs::write(setting.object(NEWEST), entry("thrEE")).unwrap();
                setting.add(NEWEST, &entry("four"));
            },
            false,
            "one of them was altered",
        ),
        (
            "an object was altered in its length",
            |setting| overwrite(setting, NEWEST, b"x"),
            false,
            "one of them was altered",
        ),
        (
            "an object was altered, not in its length",
            |setting| overwrite(setting, NEWEST, &entry("thrEE")),
            false,
            "one of them was altered",
        ),
        ("the ledger is lost", |setting| overwrite(setting, FIRST, b"x"), true, "one of them was altered"),
        (
            "the object has more",
            |setting| {
                let more = [fs::read(setting.object(NEWEST)).unwrap(), entry("four")].concat();
                fs::write(setting.object(NEWEST), more).unwrap();
            },
            true,
            "the file lost some",
        ),
        (
            "other checkpoints",
            |setting| {
                fs::write(setting.file(CHECKPOINTS), note(2)).unwrap();
                let longer = [note(3), note(4)].concat();
                fs::write(setting.object(CHECKPOINTS), longer).unwrap();
            },
            true,
            "one of them was altered",
        ),
        (
            "the file was changed",
            |setting| fs::write(setting.file(NEWEST), [entry("thrEE"), entry("four")].concat()).unwrap(),
            false,
            "it was changed here",
        ),
        (
            "the file is shorter",
            |setting| fs::write(setting.file(NEWEST), entry("3")).unwrap(),
            false,
            "the file lost some",
        ),
        (
            "the file is a link",
            |setting| {
                fs::rename(setting.file(NEWEST), setting.path("elsewhere")).unwrap();
                grow(&setting.path("elsewhere"));
                std::os::unix::fs::symlink(setting.path("elsewhere"), setting.file(NEWEST)).unwrap();
            },
            false,
            "symbolic link",
        ),
    ];
    for (what, change, is_lost, expected) in table {
        let setting = Setting::new();
        setting.upload().await;
        change(&setting);
        // Its checkpoint would cover what is not there.
        setting.add(CHECKPOINTS, &note(4));
        if is_lost {
            fs::remove_file(setting.path("state")).unwrap();
        }
        let before = [FIRST, NEWEST, CHECKPOINTS].map(|name| fs::read(setting.object(name)).unwrap());
        assert_eq!(setting.upload().await.failed, 1, "{what}");
        let said = setting.said();
        assert!(said.contains(expected) && said.lines().count() == 1, "{what}: {said}");
        let after = [FIRST, NEWEST, CHECKPOINTS].map(|name| fs::read(setting.object(name)).unwrap());
        assert_eq!(after, before, "{what}");
        assert_eq!(setting.upload().await.failed, 1, "{what}, again");
    }
}

fn overwrite(setting: &Setting, name: &str, bytes: &[u8]) {
    fs::write(setting.object(name), bytes).unwrap();
}

fn grow(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.extend(entry("four"));
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_is_gone_in_the_bucket_is_sent_again() {
    let setting = Setting::new();
    setting.upload().await;
    for name in [FIRST, NEWEST, CHECKPOINTS] {
        fs::remove_file(setting.object(name)).unwrap();
        assert_eq!(setting.upload().await.written, 1, "{name}");
        same(&setting.file(name), &setting.object(name));
    }
    // Cut short, it is what the file begins with.
    fs::write(setting.object(FIRST), entry("one")).unwrap();
    assert_eq!(setting.upload().await.written, 1);
    same(&setting.file(FIRST), &setting.object(FIRST));
}

#[tokio::test]
async fn a_program_that_goes_on_notices_what_comes_and_says_things_once() {
    let setting = Setting::new();
    let tell = |line: &str| setting.said.borrow_mut().push(line.to_owned());
    let (place, reach) = setting.bucket();
    let mut uploader = Uploader::open(&setting.path("audit"), (&place, &reach), &setting.path("state"), &tell).unwrap();
    assert_eq!(uploader.round(Pace::Paced).await.unwrap().written, 3);
    let other = setting.path("audit").join("ab".repeat(32)).join("ef".repeat(16));
    fs::create_dir(&other).unwrap();
    fs::write(other.join(FIRST), entry("one")).unwrap();
    assert_eq!(uploader.round(Pace::Paced).await.unwrap(), summary(1, 7, 3, 0));
    assert_eq!(setting.said(), format!("a new log: {}/{}", "ab".repeat(32), "ef".repeat(16)));

    // While it runs, the object is replaced by somebody: its tag is another one.
    fs::write(setting.object(NEWEST), entry("other")).unwrap();
    setting.add(NEWEST, &entry("four"));
    assert_eq!(uploader.round(Pace::Paced).await.unwrap().failed, 1);
    assert!(setting.said().contains("it was altered in the bucket"));
    for (pace, failed) in [(Pace::Paced, 0), (Pace::All, 1), (Pace::All, 1)] {
        assert_eq!(uploader.round(pace).await.unwrap().failed, failed, "{pace:?}: what failed rests");
    }
    assert_eq!(setting.said(), "", "it was told");
    assert_eq!(fs::read(setting.object(NEWEST)).unwrap(), entry("other"));

    // The parent deletes a log that is old; nothing is deleted there.
    fs::remove_dir_all(&other).unwrap();
    uploader.round(Pace::All).await.unwrap();
    assert!(setting.path("bucket").join("ab".repeat(32)).join("ef".repeat(16)).join(FIRST).exists());
    assert!(!fs::read_to_string(setting.path("state")).unwrap().contains(&"ef".repeat(16)));
}

#[tokio::test]
async fn what_is_downloaded_replaces_nothing_else() {
    let setting = Setting::new();
    setting.upload().await;
    fs::write(setting.path("bucket").join("README"), "x").unwrap();
    fs::write(setting.object("0000000000000003.torn"), "x").unwrap();
    let (key_store, boot) = ("ab".repeat(32).parse().unwrap(), "cd".repeat(16).parse().unwrap());
    let other = Wanted { key_store_id: Some("ff".repeat(32).parse().unwrap()), boot_id: None };
    assert_eq!(setting.download(other).await.unwrap(), Summary::default());
    assert!(setting.said().contains("has no such log"));
    let wanted = Wanted { key_store_id: Some(key_store), boot_id: Some(boot) };
    assert_eq!(setting.download(wanted).await.unwrap().written, 3);
    let names: Vec<_> = fs::read_dir(setting.path("back").join(&setting.log)).unwrap().collect();
    assert_eq!(names.len(), 3, "{names:?}");

    let here = setting.path("back").join(&setting.log).join(NEWEST);
    for other in [&entry("other")[..], &[entry("three"), entry("four")].concat(), b"x"] {
        fs::write(&here, other).unwrap();
        assert_eq!(setting.download(wanted).await.unwrap().failed, 1);
        assert!(setting.said().contains("choose another --folder"));
        assert_eq!(fs::read(&here).unwrap(), other);
    }
    fs::remove_file(&here).unwrap();
    fs::create_dir(&here).unwrap();
    assert_eq!(setting.download(wanted).await.unwrap().failed, 1);
    fs::write(setting.path("back").join("lock"), "").unwrap();
    let refused = setting.download(wanted).await.unwrap_err().to_string();
    assert!(refused.contains("is the audit folder of a parent"), "{refused}");
}

#[test]
fn what_cannot_be_begun() {
    let setting = Setting::new();
    let tell = |_: &str| {};
    let open = |folder: &str, place: &Place, reach: &Reach| {
        let opened = Uploader::open(&setting.path(folder), (place, reach), &setting.path("state"), &tell);
        opened.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let (place, reach) = setting.bucket();
    assert!(open("audit", &place, &reach).is_empty());
    assert!(open("nowhere", &place, &reach).contains("No such file"));
    assert!(open("audit", &Place::Folder(setting.path("nowhere")), &reach).contains("make it first"));
    let bucket: Place = "s3://audit-logs".parse().unwrap();
    let at = |endpoint: &str| Reach { endpoint: Some(endpoint.to_owned()), ..Reach::default() };
    assert!(open("audit", &bucket, &at("http://10.0.0.1")).contains("use https://"));
    let roots = Reach { roots: Some(setting.file(FIRST)), ..at("https://s3.example.com") };
    assert!(open("audit", &bucket, &roots).contains("is not a PEM file"));
}

#[tokio::test]
async fn a_tail_that_was_compressed_before_it_was_sent_is_not_lost() {
    for (what, pace, is_newest) in [
        ("between two runs", Pace::All, false),
        ("between two runs, and it is the newest", Pace::All, true),
        ("while it rests", Pace::Paced, false),
        ("while it rests, and it is the newest", Pace::Paced, true),
    ] {
        let setting = Setting::new();
        // Enough that it rests for minutes.
        for _ in 0..1024 {
            setting.add(NEWEST, &entry(&"x".repeat(16 * 1024)));
        }
        let tell = |line: &str| setting.said.borrow_mut().push(line.to_owned());
        let (place, reach) = setting.bucket();
        let mut uploader =
            Uploader::open(&setting.path("audit"), (&place, &reach), &setting.path("state"), &tell).unwrap();
        uploader.round(pace).await.unwrap();

        setting.add(NEWEST, &entry("the tail"));
        let whole = fs::read(setting.file(NEWEST)).unwrap();
        setting.add(CHECKPOINTS, &note(1028));
        if !is_newest {
            setting.add("0000000000001028.log", &entry("next"));
        }
        setting.compress(NEWEST);
        assert_eq!(uploader.round(pace).await.unwrap().failed, 0, "{what}");
        assert!(fs::read(setting.object(NEWEST)).unwrap() == whole, "{what}: the object grew to all of the file");
        assert!(!setting.object(&packed(NEWEST)).exists(), "{what}: once is enough");
        // These may rest, but not go first.
        uploader.round(Pace::All).await.unwrap();
        same(&setting.file(CHECKPOINTS), &setting.object(CHECKPOINTS));
        assert_eq!(uploader.round(Pace::All).await.unwrap().written, 0, "{what}");
        assert_eq!(setting.said(), "", "{what}");
    }
}

#[tokio::test]
async fn what_is_compressed_before_the_first_look_is_sent_as_it_is() {
    let setting = Setting::new();
    setting.compress(FIRST);
    assert_eq!(setting.upload().await.written, 3);
    same(&setting.file(&packed(FIRST)), &setting.object(&packed(FIRST)));
    assert_eq!(setting.upload().await, summary(0, 0, 3, 0));
    // Without a ledger, the object of the same entries is found, whichever form it has.
    fs::remove_file(setting.path("state")).unwrap();
    assert_eq!(setting.upload().await, summary(0, 0, 3, 0));

    let setting = Setting::new();
    setting.upload().await;
    fs::remove_file(setting.path("state")).unwrap();
    setting.compress(FIRST);
    assert_eq!(setting.upload().await, summary(0, 0, 3, 0));
    assert!(!setting.object(&packed(FIRST)).exists());

    // Half of a compressed file is none, and its checkpoints wait.
    let setting = Setting::new();
    setting.compress(FIRST);
    let all = fs::read(setting.file(&packed(FIRST))).unwrap();
    fs::write(setting.file(&packed(FIRST)), &all[..all.len() - 1]).unwrap();
    assert_eq!(setting.upload().await, summary(1, 9, 0, 1));
    assert!(setting.said().contains("cannot be decompressed"));
    assert!(!setting.object(&packed(FIRST)).exists() && !setting.object(CHECKPOINTS).exists());
    fs::write(setting.file(&packed(FIRST)), all).unwrap();
    assert_eq!(setting.upload().await.written, 2);
}

#[tokio::test]
async fn what_vanishes_before_it_was_sent_does_not_count_as_sent() {
    // The newest grew, was never seen so, and is gone.
    let setting = Setting::new();
    setting.upload().await;
    let notes = fs::read(setting.object(CHECKPOINTS)).unwrap();
    setting.add(NEWEST, &entry("four"));
    setting.add("0000000000000004.log", &entry("five"));
    setting.add(CHECKPOINTS, &note(5));
    fs::rename(setting.file(NEWEST), setting.path("elsewhere")).unwrap();
    for round in 0..2 {
        assert_eq!(setting.upload().await.failed, 1, "{round}");
        assert!(setting.said().contains("is gone"), "{round}");
        assert_eq!(fs::read(setting.object(CHECKPOINTS)).unwrap(), notes, "{round}: they cover what was lost");
    }
    fs::rename(setting.path("elsewhere"), setting.file(NEWEST)).unwrap();
    assert_eq!(setting.upload().await.failed, 0);
    for name in [NEWEST, CHECKPOINTS] {
        same(&setting.file(name), &setting.object(name));
    }

    // One that was whole when it was sent may go.
    let setting = Setting::new();
    setting.upload().await;
    setting.add("0000000000000003.log", &entry("four"));
    setting.add(CHECKPOINTS, &note(4));
    fs::remove_file(setting.file(NEWEST)).unwrap();
    assert_eq!(setting.upload().await.failed, 0);
    same(&setting.file(CHECKPOINTS), &setting.object(CHECKPOINTS));
}

#[tokio::test]
async fn what_vanishes_between_the_look_and_the_reading_does_not_count_as_sent() {
    type Change = fn(&Path);
    let table: [(&str, Change, u64); 2] = [
        ("compressed", |file| compress(file), 0),
        ("moved", |file| fs::rename(file, file.with_file_name("elsewhere")).unwrap(), 1),
    ];
    for (what, change, failed) in table {
        let setting = Setting::new();
        let other = PathBuf::from("ab".repeat(32)).join("ef".repeat(16));
        let file = setting.path("audit").join(&other).join(FIRST);
        let newest = file.with_file_name(NEWEST);
        // What is told is told after the look.
        let tell = |line: &str| {
            if line.contains("a new log") {
                change(&file);
            }
        };
        let (place, reach) = setting.bucket();
        let mut uploader =
            Uploader::open(&setting.path("audit"), (&place, &reach), &setting.path("state"), &tell).unwrap();
        uploader.round(Pace::All).await.unwrap();
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, [entry("one"), entry("two")].concat()).unwrap();
        fs::write(&newest, entry("three")).unwrap();
        assert_eq!(uploader.round(Pace::All).await.unwrap().failed, failed, "{what}");
        let _ = fs::rename(file.with_file_name("elsewhere"), &file);
        uploader.round(Pace::All).await.unwrap();
        let object = setting.path("bucket").join(&other);
        assert!(object.join(FIRST).exists() || object.join(packed(FIRST)).exists(), "{what}");
    }
}

#[tokio::test]
async fn bytes_in_the_place_of_a_torn_end_are_sent() {
    let setting = Setting::new();
    setting.add(NEWEST, &entry("four")[..4]);
    setting.add(NEWEST, b"torn");
    let length = fs::read(setting.file(NEWEST)).unwrap().len() - 1;
    fs::write(setting.file(NEWEST), &fs::read(setting.file(NEWEST)).unwrap()[..length]).unwrap();
    setting.upload().await;
    // The parent puts the end aside and goes on: by chance to the same length.
    let next = [entry("three"), entry("for")].concat();
    assert_eq!(next.len(), length);
    fs::write(setting.file(NEWEST), next).unwrap();
    setting.add(CHECKPOINTS, &note(4));
    setting.upload().await;
    for name in [NEWEST, CHECKPOINTS] {
        same(&setting.file(name), &setting.object(name));
    }
}

#[tokio::test]
async fn an_object_of_the_same_length_is_not_taken_for_the_same() {
    // A file that was finished and sent long ago.
    let setting = Setting::new();
    setting.upload().await;
    setting.upload().await;
    overwrite(&setting, FIRST, &[entry("one"), entry("TWO")].concat());
    assert_eq!(setting.upload().await.failed, 1);
    assert!(setting.said().contains("one of them was altered"));
    overwrite(&setting, FIRST, &[entry("one"), entry("two")].concat());
    assert_eq!(setting.upload().await.failed, 0);
}

#[test]
fn what_an_endpoint_must_not_have_is_repeated_nowhere() {
    let setting = Setting::new();
    let tell = |_: &str| {};
    for endpoint in [
        "https://user:hunter2@s3.example.com",
        "https://hunter2@s3.example.com",
        "http://user:hunter2@localhost:1",
        "https://user:hunter 2@s3.example.com",
        "ftp://user:hunter2@s3.example.com",
        "https://s3.example.com/?token=hunter2",
    ] {
        let (place, reach) =
            ("s3://audit-logs".parse().unwrap(), Reach { endpoint: Some(endpoint.to_owned()), ..Reach::default() });
        let refused = Uploader::open(&setting.path("audit"), (&place, &reach), &setting.path("state"), &tell).err();
        let refused = refused.unwrap().to_string();
        assert!(refused.contains("endpoint") && !refused.contains("hunter"), "{refused}");
        assert!(!setting.path("state").exists());
    }
}
