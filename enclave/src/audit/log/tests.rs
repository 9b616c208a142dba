use holdfast_shared::audit::{Auditor, Checkpoint, MaxUnwitnessed, Operation};
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::{BootId, CustodianId, KeyStoreId};
use holdfast_shared::limits::{AUDIT_LOGS_MAX, AUDIT_QUEUE_MAX};
use holdfast_shared::secrets::Secret;
use holdfast_shared::xks::ErrorName;

use super::*;
use crate::audit::{AuditKey, AuditLogs};
use crate::clock::SteppedClock;

pub(in crate::audit) struct World {
    pub(in crate::audit) clock: Arc<SteppedClock>,
    pub(in crate::audit) logs: Arc<AuditLogs>,
    reader: PrivateKey,
}

impl World {
    pub(in crate::audit) fn new() -> Self {
        let clock = Arc::new(SteppedClock::at(1_790_000_000_000));
        Self { clock: Arc::clone(&clock), ..Self::with_clock(clock) }
    }

    fn with_clock(clock: Arc<dyn crate::clock::Clock>) -> Self {
        let logs = AuditLogs::new(AuditKey::generate().unwrap(), BootId([9; 16]), clock);
        let clock = Arc::new(SteppedClock::at(0));
        Self { clock, logs: Arc::new(logs), reader: PrivateKey::generate().unwrap() }
    }

    pub(in crate::audit) fn log(&self, id: u8) -> Arc<AuditLog> {
        self.logs.of(KeyStoreId([id; 32])).unwrap()
    }

    pub(in crate::audit) fn settings(&self, mode: AuditMode) -> AuditSettings {
        let auditors = vec![Auditor { name: "a".to_owned(), encryption_key: *self.reader.public_key() }];
        AuditSettings { auditors, administrators_read: false, mode, ..AuditSettings::default() }
    }

    /// Puts a version in service as its custody does.
    pub(in crate::audit) fn serve(&self, log: &AuditLog, version: u64, settings: Option<AuditSettings>) {
        let shown = settings.clone().or_else(|| Some(self.settings(AuditMode::Relaxed)));
        let (readers, terms) = (Readers::of(shown.as_ref(), &[]), Terms::of(shown.as_ref()));
        let next = (!log.is_written_for(&readers, terms)).then(|| {
            let drawn = Secret::take(&mut [7; 32]);
            NextSegment::seal(drawn, (&log.id(), log.next_segment()), readers, terms).unwrap()
        });
        let executed = (1..=version).map(|n| CommandId([u8::try_from(n).unwrap(); 16])).collect();
        let blob_id = BlobId([u8::try_from(version).unwrap(); 32]);
        let service = VersionInService { version, blob_id, executed, settings };
        let lease = Event::Lease { granted: true, custodian_id: CustodianId([1; 32]), expires_in_ms: 5 };
        let head = PreviousHead { boot_id: BootId([8; 16]), size: 3, root: [1; 32] };
        log.enter(&service, next, || vec![head], || vec![lease]).unwrap();
    }

    /// Everything in the log, in words, and the tree over it.
    fn read(&self, log: &AuditLog) -> (Vec<String>, Tree) {
        let (mut tree, mut said) = (Tree::default(), Vec::new());
        for bytes in log.entries(0, usize::MAX) {
            said.push(self.say(log, tree.append(&bytes), &bytes));
        }
        (said, tree)
    }

    /// What is in the log after what the parent stored, and after what was read.
    fn read_on(&self, log: &AuditLog) -> Vec<String> {
        let first = log.first_kept();
        let entries = (first..).zip(log.entries(first, usize::MAX));
        entries.map(|(index, bytes)| self.say(log, index, &bytes)).collect()
    }

    fn say(&self, log: &AuditLog, index: u64, bytes: &[u8]) -> String {
        let sealed = match cbor::decode(bytes).unwrap() {
            Entry::Opening(opening) => return format!("opening after {} heads", opening.previous.len()),
            Entry::Segment(segment) => {
                SegmentKey::open(&segment, &log.id(), &self.reader).unwrap();
                return format!("segment {} {:?}", segment.number, segment.terms.mode);
            }
            Entry::Sealed(sealed) => sealed,
            Entry::Closing => return "closing".to_owned(),
        };
        match drawn().open_record(&log.id(), index, &sealed).unwrap().what {
            Event::Version { version, commands, .. } => format!("version {version}, {}", commands.len()),
            Event::Request(request) => {
                let refused = if request.error.is_some() { " refused" } else { "" };
                let times = request.count.map_or_else(String::new, |count| format!(" {count} times"));
                format!("{}{refused}{times}", request.operation.as_str())
            }
            Event::Lease { .. } => "lease".to_owned(),
            Event::Setting { .. } => "setting".to_owned(),
            Event::Uncounted { refused_unauthenticated } => format!("{refused_unauthenticated} refused"),
            Event::Overlay { .. } => "overlay".to_owned(),
        }
    }
}

/// The key of every segment.
fn drawn() -> SegmentKey {
    SegmentKey::draw(Secret::take(&mut [7; 32]))
}

pub(in crate::audit) fn request() -> RequestRecord {
    RequestRecord::new(Operation::Encrypt, "A".repeat(20).parse().unwrap())
}

fn verify(log: &AuditLog) -> Checkpoint {
    Checkpoint::verify(&log.head().unwrap().text, &log.shared.public_key()).unwrap()
}

#[test]
fn a_log_says_how_it_began_who_reads_and_how_it_ended() {
    let world = World::new();
    let log = world.log(1);
    assert_eq!(log.refusal(request()), Err(Unrecorded::Closed), "nothing before it is open");
    log.note(Event::overlay(1, true, &[]));
    assert_eq!(log.size(), 0, "its opening says how things stand");
    world.serve(&log, 3, None);
    drop(log.success(request()).unwrap());
    world.serve(&log, 3, None);
    world.serve(&log, 5, None);
    world.serve(&log, 6, Some(world.settings(AuditMode::Strict)));
    log.unauthenticated();
    log.rest();
    assert_eq!(log.refusal(request()), Err(Unrecorded::Closed), "the key store left");
    world.serve(&log, 6, Some(world.settings(AuditMode::Strict)));
    log.close();
    log.close();
    world.clock.advance_ms(1);
    log.note(Event::overlay(1, true, &[]));
    let (said, tree) = world.read(&log);
    assert_eq!(
        said,
        [
            "opening after 1 heads",
            "segment 0 Relaxed",
            "version 3, 0",
            "lease",
            "Encrypt",
            "version 5, 2",
            "segment 1 Strict",
            "setting",
            "version 6, 1",
            "1 refused",
            "segment 2 Strict",
            "version 6, 0",
            "lease",
            "closing",
        ]
    );
    let head = verify(&log);
    assert_eq!((head.log, head.size, head.root, head.closed), (log.id(), tree.size(), tree.root(), true));
}

#[test]
fn a_head_is_signed_when_the_log_grew() {
    let world = World::new();
    let log = world.log(1);
    log.tick();
    assert!(log.head().is_none(), "there is nothing to sign");
    world.serve(&log, 1, None);
    log.tick();
    let first = log.head().unwrap();
    log.tick();
    assert!(Arc::ptr_eq(&first, &log.head().unwrap()));
    drop(log.success(request()).unwrap());
    log.tick();
    assert_eq!((verify(&log).size, verify(&log).closed), (first.size + 1, false));
}

#[test]
fn a_log_without_an_entry_ends_without_one() {
    let world = World::new();
    let log = world.log(1);
    log.close();
    assert_eq!((log.size(), log.head()), (0, None));
}

#[test]
fn the_bounds_of_what_is_unwitnessed_are_those_of_the_version() {
    let world = World::new();
    let log = world.log(1);
    let settings = AuditSettings {
        max_unwitnessed: MaxUnwitnessed { seconds: 5, records: 10 },
        ..world.settings(AuditMode::Relaxed)
    };
    world.serve(&log, 1, Some(settings));
    // What uses no key does not count.
    for n in 0..100 {
        let (error, principal) = (Some(ErrorName::AccessDeniedException), Some(n.to_string()));
        log.refusal(RequestRecord { error, principal, ..request() }).unwrap();
    }
    log.tick();
    let before = log.size();
    for _ in 0..10 {
        drop(log.success(request()).unwrap());
    }
    assert_eq!(log.success(request()).err(), Some(Unrecorded::Unwitnessed));
    assert_eq!(log.refuses(), Some(Unrecorded::Unwitnessed));
    log.tick();
    log.witnessed(before);
    assert_eq!(log.refuses(), Some(Unrecorded::Unwitnessed), "the refusals alone");
    log.witnessed(log.size());
    drop(log.success(request()).unwrap());
    world.clock.advance_ms(5_001);
    assert_eq!(log.success(request()).err(), Some(Unrecorded::Unwitnessed));
    world.serve(&log, 2, None);
    assert_eq!(log.refuses(), None, "another version, other bounds");
}

/// What happened and finds no room is written when there is some; until then nothing is answered with success.
#[test]
fn an_event_without_room_stops_success_until_it_is_in_the_log() {
    let world = World::new();
    let log = world.log(1);
    world.logs.share_among(1024);
    world.serve(&log, 1, None);
    while log.success(request()).is_ok() {}
    assert_eq!(log.refuses(), Some(Unrecorded::Full));
    let lease = |granted| Event::Lease { granted, custodian_id: CustodianId([1; 32]), expires_in_ms: 0 };
    for _ in 0..1_000 {
        log.note(lease(true));
    }
    for epoch in 1..=9 {
        log.note(Event::overlay(epoch, false, &[]));
    }
    world.serve(&log, 2, Some(world.settings(AuditMode::Relaxed)));
    world.serve(&log, 4, Some(world.settings(AuditMode::Relaxed)));
    log.note(lease(false));
    let (before, _) = world.read(&log);
    let leases = before.iter().filter(|said| *said == "lease").count();
    assert!((200..1_000).contains(&leases), "the reserve is for these: {leases}");
    log.stored(log.size());
    let said = world.read_on(&log);
    assert_eq!(said, ["setting", "version 4, 3", "overlay", "lease"], "the newest of each");
    assert_eq!(log.refuses(), None);
    drop(log.success(request()).unwrap());
}

/// It left before there was room, and comes back.
#[test]
fn what_had_no_room_when_a_key_store_left_is_written_when_it_is_back() {
    let world = World::new();
    let log = world.log(1);
    world.serve(&log, 1, None);
    world.logs.share_among(usize::MAX);
    log.note(Event::overlay(7, true, &[]));
    log.rest();
    world.logs.share_among(1);
    log.stored(log.size());
    world.serve(&log, 1, None);
    let said = world.read_on(&log);
    assert_eq!(said, ["segment 1 Relaxed", "overlay", "version 1, 0", "lease"]);
}

/// A log that lacks something does not say that it ended in order.
#[test]
fn what_is_missing_for_good_leaves_the_log_unclosed() {
    let world = World::new();
    let log = world.log(1);
    world.serve(&log, 1, None);
    world.logs.share_among(usize::MAX);
    log.note(Event::overlay(7, true, &[]));
    log.close();
    assert_eq!(world.read(&log).0.last().map(String::as_str), Some("lease"));
    assert!(!verify(&log).closed);
}

/// Anybody can make the enclave count.
#[test]
fn what_is_only_counted_takes_no_room_that_is_kept_for_others() {
    let world = World::new();
    let log = world.log(1);
    world.logs.share_among(1024);
    world.serve(&log, 1, None);
    while log.success(request()).is_ok() {}
    let size = log.size();
    for _ in 0..3 {
        log.unauthenticated();
        world.clock.advance_ms(60_000);
        log.tick();
    }
    assert_eq!(log.size(), size);
    log.stored(size);
    drop(log.success(request()).unwrap());
    world.clock.advance_ms(60_000);
    log.tick();
    assert_eq!(world.read_on(&log), ["Encrypt", "3 refused"]);
}

#[test]
fn refusals_alike_have_one_record_for_each_tick() {
    let world = World::new();
    let log = world.log(1);
    world.serve(&log, 1, None);
    let refused = |principal: &str| {
        let (error, principal) = (Some(ErrorName::AccessDeniedException), Some(principal.to_owned()));
        log.refusal(RequestRecord { error, principal, ..request() }).unwrap();
    };
    for _ in 0..1_000 {
        refused("mallory");
    }
    refused("alice");
    for _ in 0..2 {
        log.tick();
        refused("mallory");
    }
    log.close();
    let (said, _) = world.read(&log);
    let once = "Encrypt refused";
    assert_eq!(said[4..], [once, once, "Encrypt refused 999 times", once, once, "closing"]);
}

/// Refusals repeated while there is no room are counted until there is.
#[test]
fn repetitions_wait_for_room() {
    let world = World::new();
    let log = world.log(1);
    world.logs.share_among(1024);
    world.serve(&log, 1, None);
    let refused = || log.refusal(RequestRecord { error: Some(ErrorName::KeyNotFoundException), ..request() });
    refused().unwrap();
    while log.success(request()).is_ok() {}
    for _ in 0..3 {
        refused().unwrap();
        log.tick();
    }
    log.stored(log.size());
    log.tick();
    assert_eq!(world.read_on(&log), ["Encrypt refused 3 times"]);
}

#[test]
fn all_logs_together_keep_no_more_than_they_may() {
    let world = World::new();
    let (left, other) = (world.log(1), world.log(2));
    world.serve(&left, 1, None);
    world.serve(&other, 1, None);
    let long = || {
        let text = || Some("t".repeat(2048));
        let (principal, kms_key_arn, via_service, source_vpc) = (text(), text(), text(), text());
        RequestRecord { principal, kms_key_arn, via_service, source_vpc, ..request() }
    };
    while left.success(long()).is_ok() {}
    let queued = || world.logs.counters()[0].1;
    let bound = u64::try_from(AUDIT_QUEUE_MAX).unwrap();
    assert!(queued() > bound / 10 * 9);
    left.rest();
    world.logs.share_among(1);
    while other.success(long()).is_ok() {}
    other.note(Event::overlay(1, true, &[]));
    assert!(queued() <= bound, "{}", queued());
    assert_eq!(other.success(long()).err(), Some(Unrecorded::Full));
    left.stored(left.size());
    drop(other.success(long()).unwrap());
    other.stored(other.size());
    assert_eq!(queued(), 0);
}

/// More key stores came, so that each may keep less than one keeps already.
#[test]
fn a_share_that_shrinks_stops_success_until_there_is_room() {
    let world = World::new();
    let log = world.log(1);
    world.serve(&log, 1, None);
    for _ in 0..1_000 {
        drop(log.success(request()).unwrap());
    }
    world.logs.share_among(1024);
    log.note(Event::overlay(1, true, &[]));
    assert_eq!(log.refuses(), Some(Unrecorded::Full));
    log.stored(900);
    assert_eq!(log.refuses(), None);
    assert_eq!(world.read_on(&log).last().map(String::as_str), Some("overlay"));
}

/// Custodians take two heads of one size, or an earlier time on a later head, for a log that contradicts itself.
#[test]
fn heads_never_contradict_each_other() {
    let world = World::new();
    let log = world.log(1);
    world.serve(&log, 1, None);
    let heads = Mutex::new(std::collections::BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    drop(log.success(request()).unwrap());
                    world.clock.advance_ms(1);
                    log.tick();
                    let head = verify(&log);
                    let known = *heads.lock().unwrap().entry(head.size).or_insert(head);
                    assert_eq!(known, head);
                }
            });
        }
    });
    log.close();
    let heads: Vec<_> = heads.into_inner().unwrap().into_values().chain([verify(&log)]).collect();
    assert!(heads.is_sorted_by(|a, b| a.time_ms <= b.time_ms && a.size < b.size));
}

/// A clock that was corrected.
#[derive(Debug, Default)]
struct Corrected(AtomicU64);

impl crate::clock::Clock for Corrected {
    fn monotonic_ms(&self) -> u64 {
        0
    }

    fn wall_ms(&self) -> u64 {
        1_790_000_000_000 - self.0.fetch_add(1, Ordering::SeqCst)
    }

    fn is_healthy(&self) -> bool {
        true
    }
}

#[test]
fn times_of_heads_do_not_go_back() {
    let clock = Arc::new(Corrected::default());
    let world = World::with_clock(clock);
    let log = world.log(1);
    world.serve(&log, 1, None);
    log.tick();
    let first = verify(&log);
    drop(log.success(request()).unwrap());
    log.tick();
    assert_eq!(verify(&log).time_ms, first.time_ms);
}

#[test]
fn one_key_store_has_one_log_in_a_boot() {
    let world = World::new();
    assert!(Arc::ptr_eq(&world.log(1), &world.log(1)));
    for n in 0..u32::try_from(AUDIT_LOGS_MAX - 1).unwrap() {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        world.logs.of(KeyStoreId(id)).unwrap();
    }
    assert!(world.logs.of(KeyStoreId([0xEE; 32])).is_err());
    assert!(Arc::ptr_eq(&world.log(1), &world.log(1)), "whoever has one keeps it");
    world.logs.share_among(0);
    assert_eq!(world.log(1).shared.share(), AUDIT_QUEUE_MAX);
    world.logs.share_among(1024);
    assert_eq!(world.log(1).shared.share(), 64 * 1024);
}
