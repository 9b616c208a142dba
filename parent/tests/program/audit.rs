//! Audit logs: what the enclave is told is durable is on disk, whatever happens.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_link::audit::{CheckpointText, Entries, ToEnclave, ToParent, split_entry};
use holdfast_link::{BootId, FrameReader, KeyStoreId, Stream, connect, write_frame};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::process::Command;

use crate::fixture::{Options, Parent, noise, program, soon, until, write_files};

/// The enclave's end of an audit connection.
struct Audit {
    reader: FrameReader<ReadHalf<Stream>>,
    writer: WriteHalf<Stream>,
}

fn store(number: u8) -> KeyStoreId {
    KeyStoreId::from([number; 32])
}

fn entry(index: u64) -> Vec<u8> {
    noise(index + 1, 1 + usize::try_from(index % 700).unwrap())
}

impl Audit {
    async fn connect(parent: &Parent, boot_id: u8) -> Self {
        let (read, writer) = tokio::io::split(soon(connect(&parent.address("audit.sock"))).await.unwrap());
        let mut audit = Self { reader: FrameReader::new(read), writer };
        audit.tell(&ToParent::Hello { boot_id: BootId::from([boot_id; 16]) }).await;
        audit
    }

    async fn tell(&mut self, frame: &ToParent) {
        soon(write_frame(&mut self.writer, frame)).await.unwrap();
    }

    /// What is durable next, or `None` when the connection has ended.
    async fn hear(&mut self) -> Option<(KeyStoreId, u64)> {
        let frame = soon(self.reader.next()).await.unwrap_or(None)?;
        let ToEnclave::Durable { key_store_id, next_index } = frame;
        Some((key_store_id, next_index))
    }

    async fn open(&mut self, key_store_id: KeyStoreId, from: u64) -> Option<u64> {
        self.tell(&ToParent::Open { key_store_id, from }).await;
        let (answered, next_index) = self.hear().await?;
        assert_eq!(answered, key_store_id);
        Some(next_index)
    }

    async fn append(&mut self, key_store_id: KeyStoreId, range: core::ops::Range<u64>) {
        let mut entries = Entries::new();
        for index in range.clone() {
            entries.push(&entry(index)).unwrap();
        }
        // As of requests in mode strict and in mode relaxed.
        let is_awaited = range.start.is_multiple_of(20);
        self.tell(&ToParent::Append { key_store_id, first_index: range.start, is_awaited, entries }).await;
    }

    async fn hear_until(&mut self, key_store_id: KeyStoreId, next_index: u64) {
        while self.hear().await != Some((key_store_id, next_index)) {}
    }
}

fn folder_of(root: &Path, key_store_id: KeyStoreId, boot_id: u8) -> PathBuf {
    root.join("audit").join(key_store_id.to_string()).join(BootId::from([boot_id; 16]).to_string())
}

/// All entries of a log, which must be whole and without a gap.
fn on_disk(folder: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|extension| extension == "log"));
    names.sort();
    let mut entries = Vec::new();
    for name in names {
        let first: usize = name.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(first, entries.len(), "a gap");
        let bytes = fs::read(&name).unwrap();
        let mut rest = bytes.as_slice();
        while let Some((entry, after)) = split_entry(rest) {
            entries.push(entry.to_owned());
            rest = after;
        }
        assert!(rest.is_empty(), "{}: {} bytes are no entry", name.display(), rest.len());
    }
    entries
}

fn assert_holds(folder: &Path, count: u64) {
    let found = on_disk(folder);
    assert_eq!(found.len(), usize::try_from(count).unwrap());
    assert!((0..count).zip(&found).all(|(index, found)| *found == entry(index)));
}

#[tokio::test]
async fn entries_are_on_disk_when_the_enclave_hears_so() {
    let mut parent = Parent::start(Options::default()).await;
    let root = parent.folder.path().to_owned();
    let mut audit = Audit::connect(&parent, 1).await;
    assert_eq!(audit.open(store(1), 0).await, Some(0));
    assert_eq!(audit.open(store(2), 0).await, Some(0));
    for round in 0..20 {
        audit.append(store(1), round * 10..round * 10 + 10).await;
        audit.append(store(2), round * 5..round * 5 + 5).await;
    }
    let mut durable = [0, 0];
    while durable != [200, 100] {
        let (key_store_id, next_index) = audit.hear().await.unwrap();
        let which = usize::from(key_store_id == store(2));
        assert!(next_index > durable[which]);
        durable[which] = next_index;
        assert!(on_disk(&folder_of(&root, key_store_id, 1)).len() >= usize::try_from(next_index).unwrap());
    }
    assert_holds(&folder_of(&root, store(1), 1), 200);
    assert_holds(&folder_of(&root, store(2), 1), 100);
    parent.counted("audit_entries", 300).await;
    let page = parent.status().await["audit"].clone();
    assert_eq!((page["logs"].as_u64(), page["failing"].as_str()), (Some(2), None));
    assert!(page["free_bytes"].is_u64());

    let note = |number: u32| format!("a\n{number}\nroot\n\n\u{2014} a signature{number}\n");
    for number in 1..=3 {
        let checkpoint = CheckpointText::new(&note(number)).unwrap();
        audit.tell(&ToParent::Head { key_store_id: store(1), checkpoint }).await;
    }
    // The connection ends: the newest is written, and a second connection of the boot finds all.
    drop(audit);
    parent.counted("audit_heads", 1).await;
    let checkpoints = folder_of(&root, store(1), 1).join("checkpoints");
    assert_eq!(fs::read_to_string(&checkpoints).unwrap(), format!("{}\n", note(3)));
    let mut audit = Audit::connect(&parent, 1).await;
    assert_eq!(audit.open(store(1), 150).await, Some(200));
    assert_eq!(audit.open(store(1), 200).await, Some(200), "asked again");

    // What came before the end is written.
    audit.append(store(1), 200..260).await;
    audit.hear_until(store(1), 260).await;
    parent.signal("TERM");
    assert_eq!(parent.ended().await.code(), Some(0));
    assert_holds(&folder_of(&root, store(1), 1), 260);
}

/// However it is killed, and however often: each entry that was said to be durable is there, once and in its place, and the log goes
/// on without a gap.
#[tokio::test]
async fn a_killed_parent_loses_nothing_that_it_said_is_durable() {
    let mut folder = tempfile::tempdir().unwrap();
    let options = Options { audit: "rotate_bytes = 1048576".to_owned(), ..Options::default() };
    let file = write_files(folder.path(), &options);
    let mut durable = 0;
    for round in 0..6_u64 {
        let mut parent = Parent::start_in(folder, &file).await;
        let mut audit = Audit::connect(&parent, 7).await;
        let mut next = audit.open(store(1), durable).await.unwrap();
        assert!(next >= durable, "{next} of {durable}");
        for _ in 0..30 {
            audit.append(store(1), next..next + 50).await;
            next += 50;
        }
        // Somewhere on the way; a fast disk may have it all in one go.
        for _ in 0..=round % 3 {
            if durable < next {
                durable = audit.hear().await.unwrap().1;
            }
        }
        parent.child.kill().await.unwrap();
        while let Some((_, next_index)) = audit.hear().await {
            durable = next_index;
        }
        folder = parent.folder;
        assert!(durable > 0);
        // A crash of the machine may also leave half an entry.
        let log = folder_of(folder.path(), store(1), 7);
        let mut names: Vec<_> = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|name| name.extension().is_some_and(|extension| extension == "log"));
        let newest = names.iter().max().unwrap();
        let bytes = fs::read(newest).unwrap();
        fs::write(newest, [bytes.as_slice(), &[0, 0, 2, 0, 1, 2, 3]].concat()).unwrap();
    }
    let parent = Parent::start_in(folder, &file).await;
    let mut audit = Audit::connect(&parent, 7).await;
    let next = audit.open(store(1), durable).await.unwrap();
    assert!(next >= durable);
    assert_holds(&folder_of(parent.folder.path(), store(1), 7), next);
    parent.counted("audit_gaps", 0).await;
    parent.counted("audit_torn", 1).await;
}

/// A file may have so many bytes and no more: that is how a full disk looks to a process.
#[tokio::test]
async fn a_full_disk_makes_nothing_durable_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_files(folder.path(), &Options::default());
    // Beyond the limit a write fails as on a full disk, if the signal that comes with it does not end the process.
    let mut command = Command::new("env");
    command.arg("--ignore-signal=XFSZ").arg(program().as_std().get_program());
    let parent = Parent::start_as(command, folder, &file).await;
    let root = parent.folder.path().to_owned();
    let mut audit = Audit::connect(&parent, 1).await;
    assert_eq!(audit.open(store(1), 0).await, Some(0));
    let pid = parent.child.id().unwrap().to_string();
    let limit = |size: &str| {
        let status = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={size}")]).status();
        assert!(status.unwrap().success());
    };
    limit("2000:");
    audit.append(store(1), 0..100).await;
    until(|| async { parent.status().await["audit"]["failing"].is_string() }).await;
    audit.append(store(1), 100..200).await;
    limit("unlimited:");
    audit.hear_until(store(1), 200).await;
    assert_holds(&folder_of(&root, store(1), 1), 200);
    until(|| async { parent.status().await["audit"]["failing"].is_null() }).await;
    assert!(parent.status().await["counters"]["audit_write_failed"].as_u64().unwrap() > 0);
    assert!(parent.log().contains("audit logs cannot be written"));
}

/// A connection that ends while the disk takes nothing does not hold up the next one, and the entries come again.
#[tokio::test]
async fn a_connection_that_ends_while_the_disk_is_full_gives_way_to_the_next() {
    let parent = Parent::start(Options::default()).await;
    let root = parent.folder.path().to_owned();
    let mut audit = Audit::connect(&parent, 1).await;
    assert_eq!(audit.open(store(1), 0).await, Some(0));
    // A folder in the place of the file: nothing can be written.
    let blocked = folder_of(&root, store(1), 1).join("0000000000000000.log");
    fs::create_dir(&blocked).unwrap();
    audit.append(store(1), 0..5).await;
    until(|| async { parent.status().await["audit"]["failing"].is_string() }).await;
    let mut next = Audit::connect(&parent, 1).await;
    assert_eq!(audit.hear().await, None, "another took its place");
    fs::remove_dir(&blocked).unwrap();
    assert_eq!(next.open(store(1), 0).await, Some(0));
    next.append(store(1), 0..5).await;
    next.hear_until(store(1), 5).await;
    assert_holds(&folder_of(&root, store(1), 1), 5);
}

#[tokio::test]
async fn frames_out_of_order_end_the_connection_and_nothing_else() {
    let parent = Parent::start(Options::default()).await;
    let hello = ToParent::Hello { boot_id: BootId::from([9; 16]) };
    let open = ToParent::Open { key_store_id: store(1), from: 0 };
    let mut entries = Entries::new();
    entries.push(b"x").unwrap();
    let append = |first_index| ToParent::Append {
        key_store_id: store(1),
        first_index,
        is_awaited: false,
        entries: entries.clone(),
    };
    let head = ToParent::Head { key_store_id: store(1), checkpoint: CheckpointText::new("a\n").unwrap() };
    let faults = [
        vec![hello.clone()],
        vec![append(0)],
        vec![head],
        vec![open.clone(), append(1)],
        vec![open, append(0), append(0)],
    ];
    let count = u64::try_from(faults.len()).unwrap();
    for (boot_id, fault) in (1..).zip(faults) {
        let mut audit = Audit::connect(&parent, boot_id).await;
        for frame in &fault {
            // The connection may be gone already.
            let _ = write_frame(&mut audit.writer, frame).await;
        }
        while audit.hear().await.is_some() {}
    }
    parent.counted("audit_refused", count).await;
    for bytes in [b"\0\0\0\x01\x09".as_slice(), b"\xff\xff\xff\xff", b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = soon(connect(&parent.address("audit.sock"))).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut reader = FrameReader::new(stream);
        assert!(!matches!(soon(reader.next::<ToEnclave>()).await, Ok(Some(_))));
    }
    parent.counted("audit_refused", count + 4).await;
    let mut audit = Audit::connect(&parent, 9).await;
    assert_eq!(audit.open(store(1), 0).await, Some(0));
}

#[tokio::test]
async fn two_programs_do_not_share_a_folder() {
    let parent = Parent::start(Options::default()).await;
    let other = tempfile::tempdir().unwrap();
    let file = write_files(other.path(), &Options::default());
    let text = fs::read_to_string(&file).unwrap();
    let taken = parent.folder.path().join("audit");
    fs::write(&file, text.replace("folder = \"audit\"", &format!("folder = \"{}\"", taken.display()))).unwrap();
    let output = soon(program().arg("--config").arg(&file).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another process uses it"));
    let missing = fs::read_to_string(&file).unwrap().replace(&taken.display().to_string(), "/proc/nowhere");
    fs::write(&file, missing).unwrap();
    let output = soon(program().arg("--config").arg(&file).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("audit.folder = /proc/nowhere"));
}
