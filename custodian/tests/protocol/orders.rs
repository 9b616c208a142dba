//! What administrators send, and who is no administrator.

use holdfast_custodian::service::ServiceError;
use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::cbor;
use holdfast_shared::channel::{Reply, Seen};
use holdfast_shared::command::{self, Action, Command};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::labels;
use holdfast_shared::limits;
use holdfast_shared::manifest::{Manifest, Thresholds};
use holdfast_shared::query::{self, Answer, Query, Question, ResultState};

use crate::world::{Person, World, denied, rng};

#[tokio::test]
async fn a_manifest_is_enrolled_by_those_whom_the_configuration_names() {
    type Change = Box<dyn Fn(&mut World)>;
    let with = |change: fn(&mut Manifest, &Person)| -> Change {
        Box::new(move |world: &mut World| {
            let stranger = Person::new("stranger");
            change(&mut world.manifest, &stranger);
        })
    };
    let table: Vec<(&str, Change, &str)> = vec![
        (
            "other custodians only",
            with(|manifest, stranger| manifest.custodians[0].signing_key = stranger.entry.signing_key),
            "not among its custodians",
        ),
        (
            "another encryption key",
            with(|manifest, stranger| manifest.custodians[0].encryption_key = stranger.entry.encryption_key),
            "another encryption key",
        ),
        (
            "a root that is not configured",
            with(|manifest, _| manifest.release_policy.trust_root = [5; 32]),
            "emulated trust root",
        ),
        ("two administrators, one signature", Box::new(|_| {}), "needs 2 signatures"),
    ];
    for (what, change, words) in table {
        let mut world = World::unenrolled().await;
        change(&mut world);
        let signed = if what.contains("one signature") {
            let envelope = holdfast_shared::manifest::sign(&world.manifest, &world.alice.signing_key, &rng()).unwrap();
            cbor::encode(&envelope).to_vec()
        } else {
            world.signed_manifest()
        };
        let said = denied(world.custodian.enrol(signed).await);
        assert!(said.contains(words), "{what}: {said}");
    }
    let mut world = World::unenrolled().await;
    let (bob, carol) = (std::mem::replace(&mut world.bob, Person::new("dave")), Person::new("carol"));
    world.manifest.administrators = vec![bob.entry.clone(), carol.entry.clone()];
    let mut envelope = holdfast_shared::manifest::sign(&world.manifest, &bob.signing_key, &rng()).unwrap();
    envelope.add_signature(labels::MANIFEST, &carol.signing_key, &rng()).unwrap();
    let said = denied(world.custodian.enrol(cbor::encode(&envelope).to_vec()).await);
    assert!(said.contains("administrators"), "{said}");
    assert!(world.challenge_for(world.key_store_id).is_err());
}

#[tokio::test]
async fn a_manifest_comes_twice_and_stays() {
    let mut world = World::start().await;
    world.found().await;
    world.custodian.enrol(world.signed_manifest()).await.unwrap();
    assert!(!world.obtain().await.content.shares.is_empty());
    world.restart(true).await;
    assert!(!world.obtain().await.content.shares.is_empty());
}

fn envelope(command: &Command, person: &Person) -> Vec<u8> {
    cbor::encode(&command::sign(command, &person.signing_key, &rng()).unwrap()).to_vec()
}

#[tokio::test]
async fn a_command_needs_an_administrator_and_a_future() {
    let world = World::start().await;
    let stranger = Person::new("stranger");
    let command = world.command(Action::ListKeys);
    assert!(denied(world.custodian.command(envelope(&command, &stranger)).await).contains("unknown key"));
    let now_ms = world.now_ms();
    let expired = Command { issued_ms: now_ms - 10, expires_ms: now_ms, ..command.clone() };
    assert!(
        denied(world.custodian.command(envelope(&expired, &world.alice)).await).contains("by this custodian's clock")
    );
    let elsewhere = Command { key_store_id: KeyStoreId([1; 32]), ..command.clone() };
    let unknown = world.custodian.command(envelope(&elsewhere, &world.alice)).await;
    assert!(matches!(unknown, Err(ServiceError::NotFound(_))));
    assert!(matches!(world.custodian.command(vec![0; 9]).await, Err(ServiceError::Malformed(_))));
    assert_eq!(world.ask(Question::Result(command.command_id)).await, Answer::Result(ResultState::Unknown));

    let bytes = envelope(&command, &world.alice);
    world.custodian.command(bytes.clone()).await.unwrap();
    world.custodian.command(bytes).await.unwrap();
    world.custodian.command(envelope(&command, &world.alice)).await.unwrap();
    let other = Command { action: Action::CreateCredential, ..command.clone() };
    let taken = world.custodian.command(envelope(&other, &world.alice)).await;
    assert!(matches!(taken, Err(ServiceError::Conflict(_))), "{taken:?}");
    assert!(matches!(world.ask(Question::Status).await, Answer::Status(status) if status.pending.len() == 1));
}

#[tokio::test]
async fn a_copy_with_more_signatures_replaces_the_one_that_waits() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    let command = world.command(Action::ListKeys);
    let one = command::sign(&command, &world.alice.signing_key, &rng()).unwrap();
    let mut two = one.clone();
    two.add_signature(labels::COMMAND, &world.bob.signing_key, &rng()).unwrap();
    let (one, two) = (cbor::encode(&one).to_vec(), cbor::encode(&two).to_vec());
    for (sent, waits) in [(&one, &one), (&two, &two), (&one, &two)] {
        world.custodian.command(sent.clone()).await.unwrap();
        match enclave.renew(&world, Seen::default()).await.unwrap() {
            Reply::News { commands, .. } => {
                assert_eq!(commands.len(), 1);
                assert_eq!(commands[0].as_slice(), waits.as_slice());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_queue_is_bounded_and_what_expires_leaves_it() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    let mut first = None;
    for _ in 0..limits::PENDING_COMMANDS_MAX {
        first.get_or_insert(world.order(Action::ListKeys).await.0);
    }
    let full = world.custodian.command(envelope(&world.command(Action::ListKeys), &world.alice)).await;
    assert!(matches!(full, Err(ServiceError::TooMany(_))), "{full:?}");
    enclave.renew(&world, Seen::default()).await.unwrap();
    world.clock.step(500_000);
    enclave.renew(&world, Seen::default()).await.unwrap();
    for _ in 0..7 {
        world.clock.step(500_000);
        enclave.renew(&world, Seen::default()).await.unwrap();
    }
    match enclave.renew(&world, Seen::default()).await.unwrap() {
        Reply::News { commands, .. } => assert!(commands.is_empty(), "expired"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.ask(Question::Result(first.unwrap())).await, Answer::Result(ResultState::Unknown));
    world.order(Action::ListKeys).await;
}

#[tokio::test]
async fn a_block_is_newer_and_signed_by_enough() {
    let world = World::start_with(|manifest| manifest.thresholds = Thresholds { unblock: 2, ..Thresholds::ONE }).await;
    let stranger = Person::new("stranger");
    let by = |overlay: &BlockOverlay, people: &[&Person]| {
        let mut envelope = block::sign(overlay, &people[0].signing_key, &rng()).unwrap();
        for person in &people[1..] {
            envelope.add_signature(labels::BLOCK, &person.signing_key, &rng()).unwrap();
        }
        cbor::encode(&envelope).to_vec()
    };
    let (alice, bob) = (&world.alice, &world.bob);
    assert!(denied(world.custodian.block(by(&world.overlay(1, true), &[&stranger])).await).contains("unknown key"));
    // One administrator must not use up the epochs: nobody could lift that block again.
    for skipping in [limits::BLOCK_EPOCH_STEP_MAX + 1, u64::MAX] {
        let refused = world.custodian.block(by(&world.overlay(skipping, true), &[alice])).await;
        assert!(
            matches!(&refused, Err(ServiceError::Conflict(text)) if text.contains("may be 1000 at most")),
            "{refused:?}"
        );
    }
    let block = by(&world.overlay(1, true), &[alice]);
    world.custodian.block(block.clone()).await.unwrap();
    world.custodian.block(block.clone()).await.unwrap();
    let lift = world.overlay(2, false);
    assert!(denied(world.custodian.block(by(&lift, &[alice])).await).contains("needs 2 signatures"));
    assert_eq!(world.ask(Question::Overlay).await, Answer::Overlay { overlay: Some(block.clone()) });
    world.custodian.block(by(&lift, &[alice, bob])).await.unwrap();
    let replayed = world.custodian.block(block).await;
    assert!(matches!(replayed, Err(ServiceError::Conflict(_))), "{replayed:?}");
    let elsewhere = BlockOverlay { key_store_id: KeyStoreId([1; 32]), ..world.overlay(3, true) };
    assert!(matches!(world.custodian.block(by(&elsewhere, &[alice])).await, Err(ServiceError::NotFound(_))));
}

#[tokio::test]
async fn only_administrators_ask_and_only_now() {
    let world = World::start().await;
    let stranger = Person::new("stranger");
    let query = world.query(Question::Status);
    let signed = query::sign(&query, &stranger.signing_key, &rng()).unwrap();
    assert!(denied(world.custodian.query(signed).await).contains("unknown key"));
    for (custodian_id, issued_ms, words) in [
        (holdfast_shared::ids::CustodianId([1; 32]), query.issued_ms, "belongs elsewhere"),
        (query.custodian_id, query.issued_ms - limits::QUERY_AGE_MAX_MS - 1, "five minutes"),
        (query.custodian_id, query.issued_ms + limits::QUERY_AGE_MAX_MS + 1, "five minutes"),
    ] {
        let query = Query { custodian_id, issued_ms, ..query.clone() };
        let signed = query::sign(&query, &world.bob.signing_key, &rng()).unwrap();
        let said = denied(world.custodian.query(signed).await);
        assert!(said.contains(words), "{said}");
    }
    let enclave = world.obtain().await;
    let Answer::Status(status) = world.ask(Question::Status).await else { panic!("no status") };
    assert!(!status.holds_share && status.version.is_none());
    assert_eq!((status.overlay_epoch, status.policy_epoch, status.now_ms), (0, 1, world.now_ms()));
    assert_eq!(status.leases[0].lease_id, enclave.lease_id());
    assert_eq!(status.leases[0].document, enclave.document);
    assert_eq!(status.leases[0].measurements.pcr16, [16; 48]);
    assert_eq!(world.ask(Question::Overlay).await, Answer::Overlay { overlay: None });
}

#[tokio::test]
async fn a_flood_of_orders_is_cut_off() {
    let world = World::start().await;
    let stranger = Person::new("stranger");
    let junk = world.approval(holdfast_shared::ids::BootId([1; 16]), u64::MAX, &stranger);
    for _ in 0..1_000_000 {
        match world.custodian.approve(junk.clone()).await {
            Err(ServiceError::Denied(_)) => {}
            Err(ServiceError::TooMany(_)) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("it should be cut off");
}
