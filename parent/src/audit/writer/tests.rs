//! The writer alone: the test is the session, and says when a batch is due.

use std::fs;
use std::thread::JoinHandle;

use holdfast_link::audit::Entries;
use holdfast_link::limits::AUDIT_ENTRY_MAX;
use tempfile::TempDir;

use super::*;

struct Session {
    folder: TempDir,
    work: mpsc::Sender<Work>,
    answers: mpsc::Receiver<ToEnclave>,
    writing: JoinHandle<Result<(), WriterEnd>>,
}

fn store(number: u8) -> KeyStoreId {
    KeyStoreId::from([number; 32])
}

fn boot() -> BootId {
    BootId::from([7; 16])
}

fn note(last: bool) -> CheckpointText {
    let closed = if last { "closed\n" } else { "" };
    CheckpointText::new(&format!("name\n1\nroot\ntime 1\n{closed}\n\u{2014} name signature\n")).unwrap()
}

fn append(number: u8, first_index: u64, is_awaited: bool, entry: &[u8]) -> Work {
    let mut entries = Entries::new();
    entries.push(entry).unwrap();
    Work::Frame(ToParent::Append { key_store_id: store(number), first_index, is_awaited, entries })
}

/// What the enclave was told so far.
fn told(answers: &mut mpsc::Receiver<ToEnclave>) -> Vec<(KeyStoreId, u64)> {
    let told = core::iter::from_fn(|| answers.try_recv().ok());
    told.map(|ToEnclave::Durable { key_store_id, next_index }| (key_store_id, next_index)).collect()
}

impl Session {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (work, queue) = mpsc::channel(AUDIT_QUEUE_FRAMES);
        let (durable, answers) = mpsc::channel(AUDIT_QUEUE_FRAMES);
        let place = (folder.path().to_owned(), 1024 * 1024);
        let writer = Writer::new(place, boot(), Arc::new(State::new(1, 1)), durable);
        let writing = std::thread::spawn(move || writer.run(queue));
        Self { folder, work, answers, writing }
    }

    fn log(&self, number: u8) -> PathBuf {
        self.folder.path().join(store(number).to_string()).join(boot().to_string())
    }

    /// What is in the way of the log's first file.
    fn obstacle(&self, number: u8) -> PathBuf {
        self.log(number).join("0000000000000000.log")
    }

    fn does(&self, item: Work) {
        self.work.blocking_send(item).unwrap();
    }

    fn opens(&mut self, number: u8) {
        self.does(Work::Frame(ToParent::Open { key_store_id: store(number), from: 0 }));
        assert_eq!(self.hears(), (store(number), 0));
    }

    fn appends(&self, number: u8, first_index: u64, is_awaited: bool, entry: &[u8]) {
        self.does(append(number, first_index, is_awaited, entry));
    }

    fn tells(&self, number: u8, checkpoint: CheckpointText) {
        self.does(Work::Frame(ToParent::Head { key_store_id: store(number), checkpoint }));
    }

    fn hears(&mut self) -> (KeyStoreId, u64) {
        let ToEnclave::Durable { key_store_id, next_index } = self.answers.blocking_recv().unwrap();
        (key_store_id, next_index)
    }

    /// The connection ends. Returns the folder, which lasts as long as it is kept.
    fn ends(self) -> Result<TempDir, WriterEnd> {
        drop((self.work, self.answers));
        self.writing.join().unwrap().map(|()| self.folder)
    }
}

#[test]
fn what_is_awaited_is_written_at_once_and_the_rest_together() {
    let mut session = Session::new();
    session.opens(1);
    session.opens(2);
    session.appends(1, 0, false, b"x");
    session.appends(2, 0, true, b"x");
    assert_eq!(session.hears(), (store(2), 1));
    session.appends(1, 1, false, b"x");
    session.appends(2, 1, true, b"x");
    assert_eq!(session.hears(), (store(2), 2));
    assert!(!session.obstacle(1).exists(), "nobody waits for it");
    session.does(Work::Batch);
    assert_eq!(session.hears(), (store(1), 2));
    // One that is awaited takes those before it along, and the end takes all.
    session.appends(1, 2, false, b"x");
    session.appends(1, 3, true, b"x");
    assert_eq!(session.hears(), (store(1), 4));
    session.appends(1, 4, false, b"x");
    let file = session.obstacle(1);
    let _folder = session.ends().unwrap();
    assert_eq!(fs::read(file).unwrap().len(), 5 * 5);
}

/// After a reconnect an enclave opens all its logs, and the newest file of each is read.
#[test]
fn what_is_awaited_does_not_wait_for_logs_that_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (durable, mut answers) = mpsc::channel(4 * AUDIT_SYNC_THREADS);
    let place = (folder.path().to_owned(), 1024 * 1024);
    let mut writer = Writer::new(place, boot(), Arc::new(State::new(1, 1)), durable);
    let open = |number| Work::Frame(ToParent::Open { key_store_id: store(number), from: 0 });
    writer.take(open(1)).unwrap();
    writer.step();
    assert_eq!(told(&mut answers), [(store(1), 0)]);
    let others = u8::try_from(2 * AUDIT_SYNC_THREADS).unwrap();
    for number in 2..2 + others {
        writer.take(open(number)).unwrap();
    }
    writer.take(append(1, 0, true, b"x")).unwrap();
    writer.step();
    let mut found = told(&mut answers);
    assert_eq!(found.remove(0), (store(1), 1), "before the others are opened");
    for index in 1.. {
        assert!(found.len() <= AUDIT_SYNC_THREADS, "a few at a time");
        if found.is_empty() {
            break;
        }
        writer.take(append(1, index, true, b"x")).unwrap();
        writer.step();
        found = told(&mut answers);
        assert_eq!(found.remove(0), (store(1), index + 1), "between them");
    }
    assert_eq!(writer.logs.len(), 1 + usize::from(others));
}

#[test]
fn logs_that_wait_to_be_opened_count() {
    let folder = tempfile::tempdir().unwrap();
    let (durable, _answers) = mpsc::channel(1);
    let place = (folder.path().to_owned(), 1024 * 1024);
    let mut writer = Writer::new(place, boot(), Arc::new(State::new(1, 1)), durable);
    let mut open = |number: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        writer.take(Work::Frame(ToParent::Open { key_store_id: KeyStoreId::from(id), from: 0 }))
    };
    for number in 0..AUDIT_LOGS_MAX {
        open(number).unwrap();
    }
    open(0).unwrap();
    assert!(matches!(open(AUDIT_LOGS_MAX), Err(WriterEnd::TooMany)));
}

#[test]
fn a_log_that_cannot_be_written_holds_up_no_other() {
    let mut session = Session::new();
    session.opens(1);
    session.opens(2);
    fs::create_dir(session.obstacle(1)).unwrap();
    for index in 0..20 {
        session.appends(1, index, true, b"x");
        session.appends(2, index, true, b"x");
        // Whoever does not hear is not told more than its queue holds, and the writer waits.
        while session.hears() != (store(2), index + 1) {}
    }
    // Nor does one that cannot be opened: a file stands in the place of its folder.
    let place = session.log(3);
    fs::write(place.parent().unwrap(), b"").unwrap();
    session.does(Work::Frame(ToParent::Open { key_store_id: store(3), from: 0 }));
    session.appends(2, 20, true, b"x");
    assert_eq!(session.hears(), (store(2), 21));
    // Tried again, they are.
    fs::remove_dir(session.obstacle(1)).unwrap();
    fs::remove_file(place.parent().unwrap()).unwrap();
    session.does(Work::Batch);
    assert_eq!(session.hears(), (store(3), 0));
    assert_eq!(session.hears(), (store(1), 20));
    session.ends().unwrap();
}

#[test]
fn what_waits_for_a_broken_disk_is_bounded_and_written_in_the_end() {
    let mut session = Session::new();
    session.opens(1);
    fs::create_dir(session.obstacle(1)).unwrap();
    let entry = vec![7; AUDIT_ENTRY_MAX];
    let count = AUDIT_PENDING_MAX / AUDIT_ENTRY_MAX + 2 * AUDIT_QUEUE_FRAMES;
    let mut index = 0;
    for _ in 0..count {
        // Once it is full, nothing more is taken.
        let mut entries = Entries::new();
        entries.push(&entry).unwrap();
        let append = ToParent::Append { key_store_id: store(1), first_index: index, is_awaited: false, entries };
        let mut item = Work::Frame(append);
        while let Err(mpsc::error::TrySendError::Full(again)) = session.work.try_send(item) {
            item = again;
            if usize::try_from(index).unwrap() >= AUDIT_PENDING_MAX / AUDIT_ENTRY_MAX {
                let _ = fs::remove_dir(session.obstacle(1));
            }
            std::thread::yield_now();
        }
        index += 1;
    }
    let _ = fs::remove_dir(session.obstacle(1));
    session.does(Work::Batch);
    while session.hears() != (store(1), index) {}
    session.ends().unwrap();
}

#[test]
fn a_disk_that_takes_nothing_is_the_end_of_a_connection_that_ended() {
    let mut session = Session::new();
    session.opens(1);
    fs::create_dir(session.obstacle(1)).unwrap();
    session.appends(1, 0, false, b"x");
    assert!(matches!(session.ends(), Err(WriterEnd::Disk(_))));
}

#[test]
fn a_boots_last_checkpoint_is_written_at_once() {
    let mut session = Session::new();
    session.opens(1);
    session.opens(2);
    session.appends(1, 0, false, b"x");
    let file = session.log(1).join("checkpoints");
    for (last, expected) in [(false, false), (true, true)] {
        session.tells(1, note(last));
        for index in 0..2 {
            // What came before this one is done when the second is.
            session.appends(2, index + 2 * u64::from(last), true, b"x");
            while session.hears().0 != store(2) {}
        }
        assert_eq!(file.exists(), expected);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{}\n", note(true).as_str()));
    assert!(session.obstacle(1).exists(), "with the entries that it is about");
    session.tells(2, note(false));
    session.does(Work::Heads);
    session.appends(2, 4, true, b"x");
    assert_eq!(session.hears(), (store(2), 5));
    let of_other = session.log(2).join("checkpoints");
    let _folder = session.ends().unwrap();
    assert!(of_other.exists());
}
