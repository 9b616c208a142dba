//! Successor manifests: staged, and adopted with a version.

use std::time::Duration;

use holdfast_custodian::service::ServiceError;
use holdfast_shared::block;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::command::{self, Action};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::keystore::SealedKeyStore;
use holdfast_shared::manifest::{Manifest, ManifestId, Thresholds};
use holdfast_shared::query::{self, Answer, Question};

use crate::enclave::Enclave;
use crate::joining::chain;
use crate::quorum::Three;
use crate::world::{Person, World, denied, manifest_id, refused, rng};

pub(crate) fn conflict<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> String {
    match result {
        Err(ServiceError::Conflict(reason)) => reason,
        other => panic!("should be a conflict: {other:?}"),
    }
}

pub(crate) async fn sequence(world: &World) -> u32 {
    match world.ask(Question::Status).await {
        Answer::Status(status) => status.manifest_sequence,
        other => panic!("{other:?}"),
    }
}

/// To publish a version under a manifest.
pub(crate) fn publish(world: &World, blob: &SealedKeyStore, manifest: ManifestId) -> Ask {
    match world.publish(blob, Vec::new()) {
        Ask::Publish { version, previous, blob: bytes, results, .. } => {
            let evidence = world.evidence(blob, &world.set(&[7]), manifest);
            Ask::Publish { version, previous, blob: bytes, results, evidence }
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_successor_comes_into_force_with_the_version_that_names_it() {
    let custody = |manifest: &mut Manifest| manifest.thresholds = Thresholds { custody: 2, ..Thresholds::ONE };
    let mut world = World::start_with(custody).await;
    let (mut enclave, one) = world.found().await;
    let carol = Person::new("carol");
    // Bob leaves, and carol comes.
    let change = |next: &mut Manifest| next.administrators[1] = carol.entry.clone();
    let (next, signed) = world.successor(change, &[&world.alice, &world.bob]);
    let (_, alone) = world.successor(change, &[&world.alice]);
    let two = world.blob(2, Some(&one));
    assert!(
        refused(enclave.ask(&world, &publish(&world, &two, manifest_id(&next))).await.unwrap())
            .contains("neither in force nor staged")
    );
    assert!(denied(world.custodian.succeed(alone).await).contains("needs 2 signatures"));
    for _ in 0..2 {
        world.custodian.succeed(signed.clone()).await.unwrap();
    }
    world.restart(true).await;
    assert_eq!(sequence(&world).await, 1, "it is staged");
    assert!(world.obtain().await.content.successors.is_empty());
    let by_bob = async |question| {
        let query = world.query(question);
        world.custodian.query(query::sign(&query, &world.bob.signing_key, &rng()).unwrap()).await
    };
    by_bob(Question::Status).await.unwrap();

    let reply = enclave.ask(&world, &publish(&world, &two, manifest_id(&next))).await.unwrap();
    assert!(matches!(reply, Reply::Published { .. }), "{reply:?}");
    assert_eq!(sequence(&world).await, 2);
    assert!(denied(by_bob(Question::Status).await).contains("unknown key"), "he has left");
    assert_eq!(world.obtain().await.content.successors[0].as_slice(), signed);
    for (seen, told) in [(1, 1), (2, 0)] {
        let seen = Seen { version: 2, manifest_sequence: seen, ..Seen::default() };
        match enclave.renew(&world, seen).await.unwrap() {
            Reply::News { successors, .. } => assert_eq!(successors.len(), told),
            other => panic!("{other:?}"),
        }
    }
    let back = enclave.ask(&world, &publish(&world, &world.blob(3, Some(&two)), world.first())).await.unwrap();
    assert!(refused(back).contains("neither in force nor staged"));
    world.custodian.succeed(signed).await.unwrap();
    let (_, other) = world.successor(|next| "other".clone_into(&mut next.name), &[&world.alice, &world.bob]);
    assert!(conflict(world.custodian.succeed(other).await).contains("does not succeed"));
    let (_, third) = world.succeed(&next, |_| {}, &[&world.alice, &carol]);
    world.custodian.succeed(third).await.unwrap();
    let records = world.records().await;
    let notes: Vec<_> =
        records.iter().map(|record| record.reason.as_str()).filter(|r| r.starts_with("manifest")).collect();
    assert_eq!(notes, ["manifest 3 is staged", "manifest 2 is in force", "manifest 2 is staged"]);
    world.restart(true).await;
    assert_eq!(sequence(&world).await, 2);
}

#[tokio::test]
async fn a_successor_knows_of_every_block() {
    let world = World::start().await;
    let (mut enclave, one) = world.found().await;
    world.custodian.block(world.signed_overlay(&world.overlay(3, false))).await.unwrap();
    let knows = |overlay_epoch| {
        let change = move |next: &mut Manifest| next.succession.as_mut().unwrap().overlay_epoch = overlay_epoch;
        world.successor(change, &[&world.alice])
    };
    assert!(conflict(world.custodian.succeed(knows(2).1).await).contains("a block came between"));
    // Otherwise its own administrators could not order a block for ages.
    assert!(conflict(world.custodian.succeed(knows(u64::MAX).1).await).contains("there is none of"));
    // The same through the order to adopt it, which is refused where its author hears of it.
    let adopt = |signed| {
        let command = world.command(Action::AdoptManifest { signed });
        cbor::encode(&command::sign(&command, &world.alice.signing_key, &rng()).unwrap()).to_vec()
    };
    assert!(conflict(world.custodian.command(adopt(knows(2).1)).await).contains("a block came between"));
    let (next, signed) = knows(3);
    world.custodian.command(adopt(signed)).await.unwrap();
    assert!(matches!(world.ask(Question::Pending).await, Answer::Pending(waiting) if waiting.len() == 1));
    assert!(world.records().await[0].reason.contains("manifest 2 is staged"));
    // A block that comes after that would be in force no more: the successor's administrators did not sign it.
    world.custodian.block(world.signed_overlay(&world.overlay(4, false))).await.unwrap();
    let two = world.blob(2, Some(&one));
    let reply = enclave.ask(&world, &publish(&world, &two, manifest_id(&next))).await.unwrap();
    assert!(refused(reply).contains("a block came between"));
    assert_eq!(sequence(&world).await, 1);
    let other = enclave.ask(&world, &publish(&world, &two, world.first())).await.unwrap();
    assert!(matches!(other, Reply::Published { .. }), "{other:?}");
}

/// Another custodian than home, with a version 1 that is held and committed, and a successor of which the test may make others.
async fn lagging() -> (Three, Enclave, SealedKeyStore) {
    let three = Three::with_own_place(1).await;
    let mut enclave = three.world.obtain().await;
    enclave.ask(&three.world, &three.deposit(2, 8)).await.unwrap();
    let one = three.world.blob(1, None);
    enclave.ask(&three.world, &three.copy(&one)).await.unwrap();
    enclave.ask(&three.world, &Ask::Commit { version: 1, blob_id: one.id }).await.unwrap();
    (three, enclave, one)
}

/// A copy of a version that was made under a manifest.
fn copy_under(three: &Three, blob: &SealedKeyStore, manifest: &Manifest) -> Ask {
    let evidence = three.world.evidence(blob, &three.set, manifest_id(manifest));
    Ask::Copy { register: three.signed(blob, &three.home), blob: blob.bytes.clone(), evidence }
}

pub(crate) fn named(name: &'static str) -> impl FnOnce(&mut Manifest) {
    move |next| name.clone_into(&mut next.name)
}

/// Two successors of one manifest were signed, and only one is adopted.
#[tokio::test]
async fn a_withdrawn_successor_is_never_adopted() {
    let (three, mut enclave, one) = lagging().await;
    let world = &three.world;
    let (_, withdrawn) = world.successor(named("withdrawn"), &[&world.alice]);
    let (right, signed) = world.successor(named("right"), &[&world.alice]);
    world.custodian.succeed(withdrawn.clone()).await.unwrap();
    let two = world.blob(2, Some(&one));
    assert_eq!(enclave.ask(world, &copy_under(&three, &two, &right)).await.unwrap(), Reply::Copied);
    assert!(world.obtain().await.content.successors.is_empty(), "the version names another one");
    let committed = enclave.ask(world, &Ask::Commit { version: 2, blob_id: two.id }).await.unwrap();
    assert_eq!(committed, Reply::Committed);
    assert_eq!(sequence(world).await, 1, "the right one is not here");
    world.custodian.succeed(signed.clone()).await.unwrap();
    assert_eq!(sequence(world).await, 2, "at once");
    assert_eq!(world.obtain().await.content.successors[0].as_slice(), signed);
    assert!(conflict(world.custodian.succeed(withdrawn).await).contains("does not succeed"));
}

#[tokio::test]
async fn home_takes_no_version_under_a_withdrawn_successor() {
    let world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let (withdrawn, first) = world.successor(named("withdrawn"), &[&world.alice]);
    let (right, second) = world.successor(named("right"), &[&world.alice]);
    world.custodian.succeed(first).await.unwrap();
    world.custodian.succeed(second).await.unwrap();
    let two = world.blob(2, Some(&one));
    let sequence_only = ManifestId { sequence: 2, ..world.first() };
    for id in [manifest_id(&withdrawn), sequence_only, ManifestId { sequence: 3, ..manifest_id(&right) }] {
        let reply = enclave.ask(&world, &publish(&world, &two, id)).await.unwrap();
        assert!(refused(reply).contains("neither in force nor staged"), "{id:?}");
    }
    let reply = enclave.ask(&world, &publish(&world, &two, manifest_id(&right))).await.unwrap();
    assert!(matches!(reply, Reply::Published { .. }), "{reply:?}");
    assert_eq!(sequence(&world).await, 2);
}

#[tokio::test]
async fn manifests_of_which_a_version_names_the_last_come_into_force_together() {
    for in_one_chain in [true, false] {
        let (three, mut enclave, one) = lagging().await;
        let world = &three.world;
        let (next, second) = world.successor(named("second"), &[&world.alice]);
        let (last, third) = world.succeed(&next, named("third"), &[&world.alice]);
        let (_, stray) = world.succeed(&next, named("stray"), &[&world.alice]);
        // This custodian was away while the second was adopted, and then the third.
        let nine = world.blob(9, Some(&world.blob(8, Some(&one))));
        assert_eq!(enclave.ask(world, &copy_under(&three, &nine, &last)).await.unwrap(), Reply::Copied);
        enclave.ask(world, &Ask::Commit { version: 9, blob_id: nine.id }).await.unwrap();
        if in_one_chain {
            let Answer::Custody(custody) = world.ask(Question::Custody).await else { panic!("no record") };
            let first = custody.manifests[0].to_vec();
            world.custodian.enrol_chain(&chain(&[first, second.clone(), third.clone()])).await.unwrap();
        } else {
            world.custodian.succeed(second.clone()).await.unwrap();
            assert_eq!(sequence(world).await, 1, "the version names the one after it, which is not here");
            assert!(conflict(world.custodian.succeed(stray).await).contains("does not succeed"));
            world.custodian.succeed(third.clone()).await.unwrap();
        }
        assert_eq!(sequence(world).await, 3);
        let successors = world.obtain().await.content.successors;
        assert_eq!(successors.iter().map(|signed| signed.to_vec()).collect::<Vec<_>>(), [second, third]);
        assert_eq!(world.records().await.iter().filter(|r| r.reason == "manifest 3 is in force").count(), 1);
    }
}

#[tokio::test]
async fn a_manifest_is_the_same_whoever_signed_it() {
    let world = World::start().await;
    world.found().await;
    for people in [&[&world.alice, &world.bob][..], &[&world.alice], &[&world.bob]] {
        world.custodian.succeed(world.successor(named("next"), people).1).await.unwrap();
    }
    assert_eq!(world.records().await.iter().filter(|r| r.reason.contains("is staged")).count(), 1);
}

/// Home holds the version that names the successor, and another custodian must hold it before it is in force.
#[tokio::test]
async fn a_block_is_signed_under_the_successor_that_a_version_names() {
    let three = Three::with_own_place(0).await;
    let world = &three.world;
    let mut enclave = world.obtain().await;
    enclave.ask(world, &three.deposit(1, 7)).await.unwrap();
    let one = world.blob(1, None);
    enclave.ask(world, &three.publish_under(&one, world.first())).await.unwrap();
    enclave.ask(world, &Ask::Commit { version: 1, blob_id: one.id }).await.unwrap();
    let by = |epoch, person: &Person| {
        let envelope = block::sign(&world.overlay(epoch, false), &person.signing_key, &rng()).unwrap();
        cbor::encode(&envelope).to_vec()
    };
    // Bob leaves. The successor knows of blocks up to the second.
    let change = |next: &mut Manifest| {
        next.administrators.truncate(1);
        next.succession.as_mut().unwrap().overlay_epoch = 2;
    };
    let (next, signed) = world.successor(change, &[&world.alice]);
    world.custodian.succeed(signed.clone()).await.unwrap();
    world.custodian.block(by(1, &world.bob)).await.unwrap();
    let waiting = enclave.next(&Ask::Watch {
        seen: Seen { overlay_epoch: 2, version: 2, manifest_sequence: 1, ..Seen::default() },
        renew: false,
    });
    let custodian = std::sync::Arc::clone(&world.custodian);
    let told = tokio::spawn(async move { custodian.channel(&waiting).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!told.is_finished(), "it is staged, and no version names it");
    let counter = enclave.counter;

    let two = world.blob(2, Some(&one));
    let reply = enclave.ask(world, &three.publish_under(&two, manifest_id(&next))).await.unwrap();
    assert!(matches!(reply, Reply::Published { .. }), "{reply:?}");
    assert_eq!(sequence(world).await, 1, "the version is not committed");
    let told = tokio::time::timeout(Duration::from_secs(5), told).await.expect("at once").unwrap();
    match enclave.open(&told, counter) {
        Reply::News { successors, register: None, .. } => assert_eq!(successors[0].as_slice(), signed),
        other => panic!("{other:?}"),
    }
    // What the successor knows of may come late. Beyond it, bob's word counts for nothing once the version is committed.
    world.custodian.block(by(2, &world.bob)).await.unwrap();
    let said = denied(world.custodian.block(by(3, &world.bob)).await);
    assert!(said.contains("manifest 2 is being put in force"), "{said}");
    world.custodian.block(by(3, &world.alice)).await.unwrap();
    enclave.ask(world, &Ask::Commit { version: 2, blob_id: two.id }).await.unwrap();
    assert_eq!(sequence(world).await, 2);
    let said = denied(world.custodian.block(by(4, &world.bob)).await);
    assert!(said.contains("unknown key") && !said.contains("is being put"), "{said}");
}

#[tokio::test]
async fn what_is_no_successor_is_refused() {
    let world = World::start().await;
    let alice = &world.alice;
    let of = |change: fn(&mut Manifest)| world.successor(change, &[alice]).1;
    assert!(matches!(world.custodian.succeed(world.signed_manifest()).await, Err(ServiceError::Malformed(_))));
    let elsewhere = of(|next| next.succession.as_mut().unwrap().key_store_id = KeyStoreId([1; 32]));
    assert!(matches!(world.custodian.succeed(elsewhere).await, Err(ServiceError::NotFound(_))));
    let skipping = of(|next| next.succession.as_mut().unwrap().sequence = 3);
    assert!(conflict(world.custodian.succeed(skipping).await).contains("does not succeed"));
    let lease = of(|next| next.release_policy.lease_ms = 20_000);
    assert!(denied(world.custodian.succeed(lease).await).contains("release policy"));
    assert!(matches!(world.custodian.succeed(vec![0; 9]).await, Err(ServiceError::Malformed(_))));
}
