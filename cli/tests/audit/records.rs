//! Records of logs, read one after the other: the newest of all, those that do not open, and what comes while somebody reads.

use std::collections::BTreeMap;

use holdfast_cli::audit::folder::Folder;
use holdfast_cli::audit::records::{Filter, Newest, Unopened, cursors};
use holdfast_shared::hpke::PrivateKey;

use crate::World;
use crate::writer::{KEY_STORE, Log};

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
