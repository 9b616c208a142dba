//! Against a parent in this process.

use holdfast_link::{Listener, read_frame};
use holdfast_shared::audit::AuditMode;
use tempfile::TempDir;

use super::*;
use crate::audit::log::tests::{World, request};

struct Parent {
    listener: Listener,
    address: Address,
    _folder: TempDir,
}

/// One connection of the enclave's.
struct Line {
    reader: FrameReader<ReadHalf<Stream>>,
    writer: WriteHalf<Stream>,
}

impl Parent {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::unix(&folder.path().join("a")).unwrap();
        Self { listener: Listener::bind(&address).await.unwrap(), address, _folder: folder }
    }

    /// The next connection, which begins with the boot's id.
    async fn line(&mut self) -> Line {
        let mut stream = self.listener.accept().await.unwrap();
        let hello = read_frame::<ToParent, _>(&mut stream).await.unwrap().unwrap();
        assert_eq!(hello, ToParent::Hello { boot_id: [9; 16].into() });
        let (reader, writer) = tokio::io::split(stream);
        Line { reader: FrameReader::new(reader), writer }
    }
}

impl Line {
    async fn next(&mut self) -> ToParent {
        self.reader.next().await.unwrap().unwrap()
    }

    async fn says(&mut self, id: u8, next_index: u64) {
        let durable = ToEnclave::Durable { key_store_id: [id; 32].into(), next_index };
        write_frame(&mut self.writer, &durable).await.unwrap();
    }

    /// First index and number of the entries that come next.
    async fn appended(&mut self, id: u8) -> (u64, u32) {
        match self.next().await {
            ToParent::Append { key_store_id, first_index, entries, .. } if key_store_id == [id; 32].into() => {
                (first_index, entries.count())
            }
            other => panic!("{other:?}"),
        }
    }

    async fn opened(&mut self, id: u8) -> u64 {
        match self.next().await {
            ToParent::Open { key_store_id, from } if key_store_id == [id; 32].into() => from,
            other => panic!("{other:?}"),
        }
    }

    async fn head(&mut self) -> u64 {
        match self.next().await {
            ToParent::Head { checkpoint, .. } => {
                holdfast_shared::audit::Checkpoint::parse(checkpoint.as_str()).unwrap().size
            }
            other => panic!("{other:?}"),
        }
    }
}

fn connect_to(parent: &Parent, world: &World) -> tokio::task::JoinHandle<()> {
    let (reporter, _) = Reporter::new();
    tokio::spawn(keep_connected(Arc::clone(&world.logs), parent.address.clone(), reporter))
}

#[tokio::test]
async fn entries_come_in_order_and_again_until_they_are_stored() {
    let (world, mut parent) = (World::new(), Parent::new().await);
    let log = world.log(1);
    world.serve(&log, 1, None);
    let task = connect_to(&parent, &world);
    let mut line = parent.line().await;
    assert_eq!(line.opened(1).await, 0);
    line.says(1, 0).await;
    assert_eq!(line.appended(1).await, (0, 4));
    line.says(1, 3).await;
    drop(log.success(request()).unwrap());
    assert_eq!(line.appended(1).await, (4, 1), "without a gap");
    log.tick();
    assert_eq!(line.head().await, 5, "after what it covers");
    assert_eq!(log.first_kept(), 3);

    // The parent goes away with the last two, and had one of them on its disk.
    drop(line);
    let mut line = parent.line().await;
    assert_eq!(line.opened(1).await, 3);
    line.says(1, 4).await;
    assert_eq!(line.appended(1).await, (4, 1));
    assert_eq!(line.head().await, 5);
    line.says(1, 5).await;

    // Another key store begins; and one that lost files gets what is still there.
    let other = world.log(2);
    world.serve(&other, 1, None);
    assert_eq!(line.opened(2).await, 0);
    line.says(2, 0).await;
    assert_eq!(line.appended(2).await, (0, 4));
    drop(line);
    let mut line = parent.line().await;
    assert_eq!(line.opened(1).await, 5);
    assert_eq!(line.opened(2).await, 0);
    line.says(1, 0).await;
    assert_eq!(line.head().await, 5, "what was stored once is not kept");
    task.abort();
}

#[tokio::test]
async fn a_parent_that_claims_what_it_was_never_sent_is_not_believed() {
    let (world, mut parent) = (World::new(), Parent::new().await);
    let log = world.log(1);
    world.serve(&log, 1, Some(world.settings(AuditMode::Strict)));
    let task = connect_to(&parent, &world);
    for (who, claim) in [(1, 1), (2, 0), (1, u64::MAX)] {
        let mut line = parent.line().await;
        assert_eq!(line.opened(1).await, 0);
        line.says(who, claim).await;
        assert!(line.reader.next::<ToParent>().await.map_or(true, |frame| frame.is_none()), "it hangs up");
        assert_eq!(log.first_kept(), 0);
    }
    let mut line = parent.line().await;
    line.opened(1).await;
    line.says(1, 0).await;
    assert_eq!(line.appended(1).await, (0, 4));
    task.abort();
}

/// More than a frame holds comes in several, and key stores take turns.
#[tokio::test]
async fn many_entries_of_several_key_stores() {
    let (world, mut parent) = (World::new(), Parent::new().await);
    let logs = [world.log(1), world.log(2)];
    for log in &logs {
        world.serve(log, 1, None);
        for _ in 0..1_000 {
            drop(log.success(request()).unwrap());
        }
    }
    let task = connect_to(&parent, &world);
    let mut line = parent.line().await;
    let mut next = [None, None];
    while next.iter().any(|next| *next != Some(1_004)) {
        match line.next().await {
            ToParent::Open { key_store_id, .. } => line.says(key_store_id.as_bytes()[0], 0).await,
            ToParent::Append { key_store_id, first_index, entries, .. } => {
                let place = usize::from(key_store_id.as_bytes()[0]) - 1;
                assert_eq!(first_index, next[place].unwrap_or(0));
                next[place] = Some(first_index + u64::from(entries.count()));
            }
            other => panic!("{other:?}"),
        }
    }
    task.abort();
}

/// A frame with the entries of one request, by key store, and whether somebody waits for them.
async fn frame(line: &mut Line) -> (u8, bool) {
    match line.next().await {
        ToParent::Append { key_store_id, is_awaited, .. } => (key_store_id.as_bytes()[0], is_awaited),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_somebody_waits_for_goes_first() {
    let (world, mut parent) = (World::new(), Parent::new().await);
    let logs = [world.log(1), world.log(2), world.log(3)];
    for log in &logs[..2] {
        world.serve(log, 1, None);
    }
    world.serve(&logs[2], 1, Some(world.settings(AuditMode::Strict)));
    let task = connect_to(&parent, &world);
    let mut line = parent.line().await;
    for id in 1..=3 {
        assert_eq!(line.opened(id).await, 0);
    }
    // One thread: nothing is sent until this test waits.
    for id in 1..=3 {
        line.says(id, 0).await;
        assert_eq!(frame(&mut line).await, (id, false), "nobody waits yet");
        line.says(id, 4).await;
    }
    for log in &logs {
        drop(log.success(request()).unwrap());
    }
    let sent = [frame(&mut line).await, frame(&mut line).await, frame(&mut line).await];
    assert_eq!(sent, [(3, true), (1, false), (2, false)]);
    // The end of a boot is awaited, too.
    logs[0].close();
    assert_eq!(frame(&mut line).await, (1, true));
    task.abort();
}

/// Requests would soon have no room.
#[tokio::test]
async fn what_takes_much_of_its_share_is_awaited() {
    let (world, mut parent) = (World::new(), Parent::new().await);
    let log = world.log(1);
    world.serve(&log, 1, None);
    world.logs.share_among(1024);
    while log.success(request()).is_ok() {}
    let task = connect_to(&parent, &world);
    let mut line = parent.line().await;
    assert_eq!(line.opened(1).await, 0);
    line.says(1, 0).await;
    assert_eq!(frame(&mut line).await, (1, true));
    task.abort();
}
