//! The audit log of a key store in custody: it opens with the first version that is served, its readers follow versions, and
//! custodians witness it.

use holdfast_shared::audit::entry::Opening;
use holdfast_shared::audit::{
    AuditMode, AuditSettings, Auditor, Checkpoint, Entry, Event, LogId, MaxUnwitnessed, SegmentKey, Tree,
};
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::release::EarlierHead;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

fn auditor(name: &str, reader: &PrivateKey) -> Auditor {
    Auditor { name: name.to_owned(), encryption_key: *reader.public_key() }
}

fn settings(reader: &PrivateKey) -> AuditSettings {
    AuditSettings {
        auditors: vec![auditor("auditor", reader)],
        administrators_read: false,
        mode: AuditMode::Relaxed,
        max_unwitnessed: MaxUnwitnessed { seconds: 60, records: 1_000 },
    }
}

impl World {
    /// The entries, and what `reader` can read of them.
    fn audit(&self, reader: &PrivateKey) -> (Vec<Entry>, Vec<Event>) {
        let log = self.served.audit();
        let (mut key, mut tree, mut entries, mut events) = (None, Tree::default(), Vec::new(), Vec::new());
        for bytes in log.entries(0, usize::MAX) {
            let index = tree.append(&bytes);
            let entry: Entry = cbor::decode(&bytes).unwrap();
            match &entry {
                Entry::Segment(segment) => key = SegmentKey::open(segment, &log.id(), reader).ok(),
                Entry::Sealed(sealed) => {
                    events.extend(key.as_ref().map(|key| key.open_record(&log.id(), index, sealed).unwrap().what));
                }
                Entry::Opening(_) | Entry::Closing => {}
            }
            entries.push(entry);
        }
        assert_eq!(tree.size(), log.size());
        (entries, events)
    }

    async fn witnessed(&self) {
        self.until("all of the log witnessed", |world| world.served.audit().unwitnessed() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn versions_blocks_leases_and_settings_are_recorded() {
    let auditor = PrivateKey::generate().unwrap();
    let world = World::start().serving().await;
    let created = world.create("a");
    world.done(created).await;
    let set = world.order(0, Action::SetAudit { settings: Some(settings(&auditor)) });
    world.done(set).await;
    world.until("version 3", |world| world.report().version == Some(3)).await;
    let key = ExternalKeyId::parse("a").unwrap();
    world.block_keys_at(0, &["a"], &world.administrators[0].signing);
    world.until("the block", |world| world.served.blocks_key(&key)).await;
    world.witnessed().await;

    let (entries, events) = world.audit(&auditor);
    let kinds: Vec<_> = entries.iter().filter(|entry| !matches!(entry, Entry::Sealed(_))).collect();
    let [Entry::Opening(opening), Entry::Segment(first), Entry::Segment(second)] = kinds[..] else {
        panic!("{kinds:?}");
    };
    assert_eq!(opening.previous, []);
    assert_eq!((first.number, first.keys.len()), (0, 1), "nothing can be encrypted to mallory");
    assert_eq!((second.number, second.terms.max_unwitnessed.seconds), (1, 60));
    let [
        Event::Setting { settings: Some(told) },
        Event::Version { version: 3, commands, .. },
        Event::Overlay { keys, .. },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((told, commands, keys), (&settings(&auditor), &vec![set], &vec![key]));

    let head = world.custodian.state().heads.last().copied().unwrap();
    assert_eq!(head.size, world.served.audit().size());
}

/// A boot that is gone: its key, and how far it came.
struct Earlier {
    boot: u8,
    key: Ed25519KeyPair,
}

impl Earlier {
    fn new(boot: u8, seed: u8) -> Self {
        Self { boot, key: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap() }
    }

    fn head(&self, id: KeyStoreId, size: u64) -> EarlierHead {
        let log = LogId { key_store_id: id, boot_id: BootId([self.boot; 16]) };
        let checkpoint = Checkpoint { log, size, root: [self.boot; 32], time_ms: 1, closed: false }.sign(&self.key);
        EarlierHead {
            checkpoint: checkpoint.into_bytes(),
            audit_public_key: self.key.public_key().as_ref().try_into().unwrap(),
        }
    }
}

fn opening(world: &World) -> Opening {
    let bytes = world.served.audit().entries(0, 1).remove(0);
    let Entry::Opening(opening) = cbor::decode(&bytes).unwrap() else { panic!("no opening") };
    opening
}

#[tokio::test(start_paused = true)]
async fn a_log_names_the_heads_of_earlier_boots() {
    let (one, two) = (Earlier::new(1, 7), Earlier::new(2, 8));
    let world = World::start_quorum((3, 2, 0), |custodians| {
        let id = custodians[0].state().manifest().id();
        for (place, custodian) in custodians.iter().enumerate() {
            let size = 10 + u64::try_from(place).unwrap();
            let unsigned = EarlierHead { checkpoint: b"no note".to_vec(), audit_public_key: [1; 32] };
            custodian.state().handed_out = vec![one.head(id, size), two.head(KeyStoreId([9; 32]), 5), unsigned];
        }
    });
    let world = world.serving().await;
    let opening = opening(&world);
    assert_eq!(opening.audit_public_key, world.enclave.audit.public_key());
    let [head] = &opening.previous[..] else { panic!("{:?}", opening.previous) };
    assert_eq!((head.boot_id, head.root), (BootId([1; 16]), [1; 32]));
    assert!((10..=12).contains(&head.size), "of those that answered, the furthest");
}

/// One of three lies, which the owner allows for: about a boot that never was, about the key of one that was, and, time and again, with a
/// head further on than there was.
#[tokio::test(start_paused = true)]
async fn one_custodian_alone_plants_no_heads_of_earlier_boots() {
    let (real, invented, other_key) = (Earlier::new(1, 7), Earlier::new(2, 8), Earlier::new(1, 9));
    for lies in [
        |id, _: &Earlier, invented: &Earlier, _: &Earlier| vec![invented.head(id, 5); 3],
        |id, _: &Earlier, _: &Earlier, other_key: &Earlier| vec![other_key.head(id, 1_000_000)],
        |id, real: &Earlier, _: &Earlier, other_key: &Earlier| {
            let audit_public_key = real.head(id, 1).audit_public_key;
            vec![EarlierHead { audit_public_key, ..other_key.head(id, 1_000_000) }]
        },
    ] {
        let world = World::start_quorum((4, 3, 1), |custodians| {
            let id = custodians[0].state().manifest().id();
            for custodian in &custodians[1..] {
                custodian.state().handed_out = vec![real.head(id, 10)];
            }
            custodians[0].state().handed_out = lies(id, &real, &invented, &other_key);
        });
        let world = world.serving().await;
        let previous: Vec<_> = opening(&world).previous.iter().map(|head| (head.boot_id, head.size)).collect();
        assert_eq!(previous, [(BootId([1; 16]), 10)]);
    }
}

/// Heads cost no handshake each.
#[tokio::test(start_paused = true)]
async fn connections_are_kept_while_the_log_grows() {
    let world = World::start().serving().await;
    world.witnessed().await;
    let (handshakes, asked) = {
        let state = world.custodian.state();
        (state.handshakes, state.asked("witness"))
    };
    for _ in 0..60 {
        world.served.audit().note(Event::Uncounted { refused_unauthenticated: 1 });
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.witnessed().await;
    let state = world.custodian.state();
    let asked = state.asked("witness") - asked;
    assert!(asked >= 55, "{asked} heads in a minute");
    let handshakes = state.handshakes - handshakes;
    assert!(handshakes <= 3, "{handshakes} handshakes for {asked} heads");
}

/// A head that is refused, however, costs nobody a lease, is told, and is told again.
#[tokio::test(start_paused = true)]
async fn a_refused_head_ends_no_lease() {
    let refusals: [fn(&FakeCustodian, bool); 2] = [
        |custodian, refuses| custodian.change(|state| state.hostile.witnesses_nothing = refuses),
        |custodian, refuses| custodian.change(|state| state.hostile.refuses_heads_openly = refuses),
    ];
    for refuses in refusals {
        let world = World::start_with(|custodian| refuses(custodian, true)).serving().await;
        let asked = |world: &World| world.custodian.state().asked("witness");
        world.until("three tries", |world| asked(world) > 3).await;
        assert!(world.reason().contains("vault: does not witness the audit log"), "{}", world.reason());
        let before = asked(&world);
        tokio::time::sleep(Duration::from_mins(5)).await;
        let tries = asked(&world) - before;
        assert!((10..40).contains(&tries), "{tries} tries in five minutes");
        assert_eq!(world.custodian.state().asked("release"), 1, "the lease goes on");
        refuses(&world.custodian, false);
        world.witnessed().await;
        assert_eq!(world.custodian.state().asked("release"), 1);
        world.until("nothing to tell", |world| !world.reason().contains("witness")).await;
    }
}

/// What counts is what f + 1 custodians acknowledged.
#[tokio::test(start_paused = true)]
async fn enough_custodians_witness_the_log() {
    let world = World::start_quorum((4, 3, 1), |custodians| {
        for custodian in &custodians[1..] {
            custodian.state().hostile.witnesses_nothing = true;
        }
    });
    let world = world.serving().await;
    world.until("a head at home", |world| world.custodian.state().heads.last().is_some()).await;
    world
        .until("the others refuse", |world| world.custodians[1..].iter().all(|c| c.state().asked("witness") > 1))
        .await;
    assert!(world.served.audit().unwitnessed() > 0, "one of two that are needed");
    world.custodians[2].change(|state| state.hostile.witnesses_nothing = false);
    world.witnessed().await;
}

/// A custodian that does not answer delays no other, and hears the newest head when it is back.
#[tokio::test(start_paused = true)]
async fn heads_come_to_whoever_was_away() {
    let world = World::start_quorum((3, 2, 0), |_| {}).serving().await;
    world.witnessed().await;
    world.custodians[1].change(|state| state.hostile.witnesses_nothing = true);
    let created = world.create("a");
    world.done(created).await;
    world.witnessed().await;
    let behind = |world: &World| {
        let newest = |place: usize| world.custodians[place].state().heads.last().map(|head| head.size);
        newest(1) < newest(0)
    };
    world.until("one is behind", behind).await;
    world.custodians[1].change(|state| state.hostile.witnesses_nothing = false);
    world.until("it has heard", |world| !behind(world)).await;
}

/// The end of a boot is told at once.
#[tokio::test(start_paused = true)]
async fn the_last_head_is_closed() {
    let world = World::start().serving().await;
    let log = Arc::clone(world.served.audit());
    let parent = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            loop {
                log.stored(log.size());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    world.enclave.audit.close().await;
    parent.abort();
    let head = world.custodian.state().heads.last().copied().unwrap();
    assert!(head.closed);
    assert_eq!(head.size, log.size());
}
