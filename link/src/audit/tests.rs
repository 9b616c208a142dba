use super::*;
use crate::frame::{read_frame, write_frame};
use proptest::prelude::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn written<F: Frame>(frame: &F) -> Vec<u8> {
    let mut bytes = Vec::new();
    run(write_frame(&mut bytes, frame)).unwrap();
    bytes
}

fn entries(all: &[&[u8]]) -> Entries {
    let mut entries = Entries::new();
    for entry in all {
        entries.push(entry).unwrap();
    }
    entries
}

#[test]
fn frames_have_the_form_of_the_protocol() {
    let key_store_id = KeyStoreId::from([0xaa; 32]);
    let checkpoint = CheckpointText::new("a\n").unwrap();
    let id = "aa".repeat(32);
    for (frame, expected) in [
        (ToParent::Hello { boot_id: BootId::from([0xbb; 16]) }, format!("00000011 01 {}", "bb".repeat(16))),
        (ToParent::Open { key_store_id, from: 258 }, format!("00000029 02 {id} 0000000000000102")),
        (
            ToParent::Append { key_store_id, first_index: 7, is_awaited: false, entries: entries(&[b"x", b"yz"]) },
            format!("00000034 03 {id} 0000000000000007 00000001 78 00000002 797a"),
        ),
        (
            ToParent::Append { key_store_id, first_index: 7, is_awaited: true, entries: entries(&[b"x"]) },
            format!("0000002e 06 {id} 0000000000000007 00000001 78"),
        ),
        (ToParent::Head { key_store_id, checkpoint }, format!("00000023 04 {id} 610a")),
    ] {
        let bytes = written(&frame);
        assert_eq!(hex::encode(&bytes), expected.replace(' ', ""));
        assert_eq!(run(read_frame::<ToParent, _>(&mut bytes.as_slice())).unwrap(), Some(frame));
    }
    let durable = ToEnclave::Durable { key_store_id, next_index: 9 };
    let bytes = written(&durable);
    assert_eq!(hex::encode(&bytes), format!("0000002905{id}0000000000000009"));
    assert_eq!(run(read_frame::<ToEnclave, _>(&mut bytes.as_slice())).unwrap(), Some(durable));
}

#[test]
fn each_fault_is_refused() {
    let id = "aa".repeat(32);
    for (why, payload) in [
        ("no such kind", "00".to_owned()),
        ("a kind of the parent", format!("05{id}0000000000000000")),
        ("no boot id", "01".to_owned()),
        ("a long hello", format!("01{}", "bb".repeat(17))),
        ("a short open", format!("02{id}00")),
        ("a long open", format!("02{id}000000000000000000")),
        ("no entries", format!("03{id}0000000000000000")),
        ("no entries that are awaited", format!("06{id}0000000000000000")),
        ("an empty entry", format!("03{id}000000000000000000000000")),
        ("half an entry", format!("03{id}0000000000000000000000027a")),
        ("half a length", format!("03{id}0000000000000000000000017a0000")),
        ("an entry too long", format!("03{id}000000000000000000008001{}", "00".repeat(0x8001))),
        ("an index beyond all", format!("03{id}ffffffffffffffff000000017a")),
        ("an empty head", format!("04{id}")),
        ("a head without its line's end", format!("04{id}61")),
        ("a head with a control character", format!("04{id}611b0a")),
        ("a head that is not UTF-8", format!("04{id}ff0a")),
        ("a long head", format!("04{id}{}0a", "61".repeat(AUDIT_CHECKPOINT_MAX))),
    ] {
        assert!(ToParent::read_payload(&hex::decode(payload).unwrap()).is_err(), "{why}");
    }
    for payload in ["01".to_owned(), format!("05{id}"), format!("05{id}000000000000000000")] {
        assert!(ToEnclave::read_payload(&hex::decode(payload).unwrap()).is_err());
    }
    for (first_index, entries) in [(u64::MAX, entries(&[b"x"])), (0, Entries::new())] {
        let frame = ToParent::Append { key_store_id: [0; 32].into(), first_index, is_awaited: false, entries };
        assert!(run(write_frame(&mut Vec::new(), &frame)).is_err());
    }
}

#[test]
fn entries_fill_a_frame_and_no_more() {
    let (mut full, longest) = (Entries::new(), vec![7; AUDIT_ENTRY_MAX]);
    assert_eq!(full.push(&[]), Err(PushError::Length { length: 0 }));
    assert_eq!(full.push(&[&longest[..], &[7]].concat()), Err(PushError::Length { length: AUDIT_ENTRY_MAX + 1 }));
    while full.push(&longest).is_ok() {}
    assert_eq!(full.push(&longest), Err(PushError::Full));
    let left = ENTRIES_MAX - full.as_bytes().len() - AUDIT_ENTRY_HEADER_LEN;
    full.push(&vec![8; left]).unwrap();
    assert_eq!(full.push(b"x"), Err(PushError::Full));
    let frame = ToParent::Append { key_store_id: [1; 32].into(), first_index: 0, is_awaited: true, entries: full };
    let bytes = written(&frame);
    assert_eq!(bytes.len(), 4 + AUDIT_FRAME_MAX);
    assert_eq!(run(read_frame::<ToParent, _>(&mut bytes.as_slice())).unwrap(), Some(frame));
}

#[test]
fn the_last_checkpoint_of_a_boot_says_so() {
    for (text, expected) in
        [("name\n5\nroot\ntime 1\n\n\u{2014} name x\n", false), ("name\n5\nclosed\n\n\u{2014} closed x\n", true)]
    {
        assert_eq!(CheckpointText::new(text).unwrap().is_last(), expected);
    }
}

#[test]
fn a_torn_end_is_no_entry() {
    let whole = entries(&[b"one", b"two"]);
    let bytes = [whole.as_bytes(), &[0, 0, 0, 9, 1, 2]].concat();
    assert_eq!(whole_entries(&bytes), (2, whole.as_bytes().len()));
    assert_eq!(whole_entries(&[0xff; 64]), (0, 0));
}

proptest! {
    #[test]
    fn what_is_read_is_written_the_same(kind in 0u8..8, rest in proptest::collection::vec(0u8..5, 0..120)) {
        let payload = [&[kind], rest.as_slice()].concat();
        if let Ok(frame) = ToParent::read_payload(&payload) {
            let mut again = Vec::new();
            frame.write_payload(&mut again).unwrap();
            prop_assert_eq!(&again, &payload);
        }
        if let Ok(frame) = ToEnclave::read_payload(&payload) {
            let mut again = Vec::new();
            frame.write_payload(&mut again).unwrap();
            prop_assert_eq!(&again, &payload);
        }
    }

    #[test]
    fn entries_arrive_as_they_were(
        first_index in 0..u64::MAX - 100,
        all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..40),
    ) {
        let mut sent = Entries::new();
        for entry in &all {
            sent.push(entry).unwrap();
        }
        prop_assert!(sent.iter().eq(all.iter().map(Vec::as_slice)));
        prop_assert_eq!(usize::try_from(sent.count()).unwrap(), all.len());
        let frame = ToParent::Append { key_store_id: [3; 32].into(), first_index, is_awaited: false, entries: sent };
        let bytes = written(&frame);
        prop_assert_eq!(run(read_frame::<ToParent, _>(&mut bytes.as_slice())).unwrap(), Some(frame));
    }
}
