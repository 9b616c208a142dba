//! Successor manifests: staged, adopted with a version, and what becomes of custodians that come and go.

use std::num::NonZeroU8;
use std::time::Duration;

use holdfast_custodian::service::ServiceError;
use holdfast_shared::block;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::command::{self, Action};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::keystore::{Place, SealedKeyStore};
use holdfast_shared::labels;
use holdfast_shared::manifest::{self, Manifest, ManifestChain, ManifestId, ReleasePolicy, Thresholds};
use holdfast_shared::policy;
use holdfast_shared::query::{self, Answer, Question};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::ShareSet;

use crate::enclave::Enclave;
use crate::quorum::Three;
use crate::world::{Person, World, custodian_entry, denied, manifest_for, manifest_id, random, refused, rng};

fn conflict<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> String {
    match result {
        Err(ServiceError::Conflict(reason)) => reason,
        other => panic!("should be a conflict: {other:?}"),
    }
}

async fn sequence(world: &World) -> u32 {
    match world.ask(Question::Status).await {
        Answer::Status(status) => status.manifest_sequence,
        other => panic!("{other:?}"),
    }
}

/// To publish a version under a manifest.
fn publish(world: &World, blob: &SealedKeyStore, manifest: ManifestId) -> Ask {
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

fn named(name: &'static str) -> impl FnOnce(&mut Manifest) {
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

/// A key store that had another custodian alone, and a successor that brings in the one under test.
struct Joining {
    world: World,
    home: Person,
    first: Manifest,
    /// The first, and its successor, signed.
    manifests: Vec<Vec<u8>>,
}

async fn joining(eve: Option<&Person>) -> Joining {
    let mut world = World::unenrolled().await;
    let home = Person::new("home");
    let own = custodian_entry(&world.record);
    let mut entry = own.clone();
    entry.signing_key = home.entry.signing_key;
    let owner = eve.unwrap_or(&world.alice);
    let mut first = manifest_for(&world.record, &world.root, vec![owner.entry.clone()]);
    first.custodians = vec![entry];
    let envelope = manifest::sign(&first, &owner.signing_key, &rng()).unwrap();
    world.key_store_id = KeyStoreId(holdfast_shared::sha256(&[&cbor::encode(&first)]));
    let alice = world.alice.entry.clone();
    let change = |next: &mut Manifest| {
        next.custodians.push(own);
        next.shares_needed = 2;
        next.administrators = vec![alice];
    };
    let (next, signed) = world.succeed(&first, change, &[eve.unwrap_or(&world.alice)]);
    world.manifest = next;
    Joining { world, home, first, manifests: vec![cbor::encode(&envelope).to_vec(), signed] }
}

fn chain(manifests: &[Vec<u8>]) -> Vec<u8> {
    let signed = manifests.iter().map(|signed| signed.clone().into()).collect();
    cbor::encode(&ManifestChain { signed }).to_vec()
}

#[tokio::test]
async fn strangers_enrol_nothing_by_naming_an_administrator() {
    // The successor names alice, whom the configuration names; only eve signed.
    let Joining { world, manifests, .. } = joining(Some(&Person::new("eve"))).await;
    assert!(denied(world.custodian.enrol_chain(&chain(&manifests)).await).contains("may enrol key stores here"));
    assert!(world.challenge_for(world.key_store_id).is_err());
}

#[tokio::test]
async fn a_custodian_that_a_successor_brings_in_enrols_the_whole_chain() {
    let Joining { world, manifests, first, .. } = joining(None).await;
    assert!(denied(world.custodian.enrol(manifests[0].clone()).await).contains("not among its custodians"));
    assert!(conflict(world.custodian.enrol(manifests[1].clone()).await).contains("is a successor"));
    for _ in 0..2 {
        world.custodian.enrol_chain(&chain(&manifests)).await.unwrap();
    }
    // It was abandoned for another one before any version came.
    let own = world.manifest.custodians[1].clone();
    let other = |next: &mut Manifest| {
        "renamed".clone_into(&mut next.name);
        next.custodians.push(own);
        next.shares_needed = 2;
    };
    let (_, renamed) = world.succeed(&first, other, &[&world.alice]);
    let renamed = vec![manifests[0].clone(), renamed];
    world.custodian.enrol_chain(&chain(&renamed)).await.unwrap();
    world.custodian.enrol_chain(&chain(&manifests)).await.unwrap();

    // Its first share is of the generation that the successor brings.
    let mut enclave = world.obtain().await;
    assert_eq!(enclave.content.successors.len(), 1);
    let set = ShareSet { generation: 2, ..world.set(&[7, 8]) };
    let deposit = Ask::Deposit { set: set.clone(), share: world.seal_share(2, 8) };
    assert_eq!(enclave.ask(&world, &deposit).await.unwrap(), Reply::Deposited);
    let released = world.obtain().await.content;
    assert_eq!((released.shares.len(), released.shares[0].set.generation), (1, 2));
    let Answer::Custody(custody) = world.ask(Question::Custody).await else { panic!("no record") };
    assert_eq!(custody.manifests.iter().map(|signed| signed.to_vec()).collect::<Vec<_>>(), manifests);
    assert_eq!(custody.shares[0].set, set);
}

/// A copy of version 1, as another custodian signed it.
fn copy(world: &World, home: &Person, blob: SealedKeyStore, manifest: ManifestId) -> Ask {
    let entry = RegisterEntry {
        label: labels::REGISTER.to_owned(),
        key_store_id: world.key_store_id,
        version: 1,
        blob_id: blob.id,
        previous: None,
        recorded_ms: world.now_ms(),
    };
    Ask::Copy {
        register: register::sign(&entry, &home.signing_key, &rng()).unwrap(),
        evidence: world.evidence(&blob, &world.set(&[7]), manifest),
        blob: blob.bytes,
    }
}

#[tokio::test]
async fn a_new_custodian_lets_go_of_a_withdrawn_successor_that_no_version_names() {
    for names_it in [false, true] {
        let Joining { world, home, first, manifests } = joining(None).await;
        let own = world.manifest.custodians[1].clone();
        let other = |next: &mut Manifest| {
            "renamed".clone_into(&mut next.name);
            next.custodians.push(own);
            next.shares_needed = 2;
        };
        let (adopted, signed) = world.succeed(&first, other, &[&world.alice]);
        world.custodian.enrol_chain(&chain(&manifests)).await.unwrap();
        let mut enclave = world.obtain().await;
        let named = manifest_id(if names_it { &world.manifest } else { &adopted });
        let copy = copy(&world, &home, world.blob(1, None), named);
        assert_eq!(enclave.ask(&world, &copy).await.unwrap(), Reply::Copied);
        let right = [manifests[0].clone(), signed];
        let enrolled = world.custodian.enrol_chain(&chain(&right)).await;
        if names_it {
            assert!(conflict(enrolled).contains("another successor"));
        } else {
            enrolled.unwrap();
        }
        let Answer::Custody(custody) = world.ask(Question::Custody).await else { panic!("no record") };
        let kept: Vec<_> = custody.manifests.iter().map(|signed| signed.to_vec()).collect();
        assert_eq!(kept, if names_it { manifests } else { right.to_vec() });
    }
}

#[tokio::test]
async fn a_new_custodian_takes_the_policy_of_those_who_go_until_it_holds_a_version() {
    let Joining { world, home, first, manifests } = joining(None).await;
    // Alice, who orders until then, goes; bob comes.
    let (own, bob) = (world.manifest.custodians[1].clone(), world.bob.entry.clone());
    let change = |next: &mut Manifest| {
        next.custodians.push(own);
        next.shares_needed = 2;
        next.administrators = vec![bob];
    };
    let (_, successor) = world.succeed(&first, change, &[&world.alice]);
    world.custodian.enrol_chain(&chain(&[manifests[0].clone(), successor])).await.unwrap();
    let update = |epoch, person: &Person| {
        let policy = ReleasePolicy { epoch, ..first.release_policy.clone() };
        cbor::encode(&policy::sign(&world.update(policy), &person.signing_key, &rng()).unwrap()).to_vec()
    };
    assert!(denied(world.custodian.change_policy(update(2, &Person::new("eve"))).await).contains("unknown key"));
    world.custodian.change_policy(update(2, &world.alice)).await.unwrap();
    world.custodian.change_policy(update(3, &world.bob)).await.unwrap();

    let mut enclave = world.obtain().await;
    let one = world.blob(1, None);
    let copy = copy(&world, &home, one, ManifestId::first(world.key_store_id));
    assert_eq!(enclave.ask(&world, &copy).await.unwrap(), Reply::Copied);
    assert!(denied(world.custodian.change_policy(update(4, &world.alice)).await).contains("unknown key"));
    world.custodian.change_policy(update(4, &world.bob)).await.unwrap();
}

#[tokio::test]
async fn successors_of_a_custodian_that_holds_versions_are_staged() {
    let world = World::start().await;
    world.found().await;
    let (next, second) = world.successor(|next| "renamed".clone_into(&mut next.name), &[&world.alice]);
    let (_, third) = world.succeed(&next, |_| {}, &[&world.alice]);
    let Answer::Custody(custody) = world.ask(Question::Custody).await else { panic!("no record") };
    let first = custody.manifests[0].to_vec();
    world.custodian.enrol_chain(&chain(&[first.clone(), second.clone()])).await.unwrap();
    assert_eq!(sequence(&world).await, 1, "no version names it yet");
    let far = world.custodian.enrol_chain(&chain(&[first, second, third])).await;
    assert!(conflict(far).contains("does not succeed"), "the second is not in force yet");
}

#[tokio::test]
async fn a_custodian_that_was_removed_deletes_its_shares_and_answers_queries() {
    let mut three = Three::with_own_place(1).await;
    let mut enclave = three.world.obtain().await;
    enclave.ask(&three.world, &three.deposit(2, 8)).await.unwrap();
    let one = three.world.blob(1, None);
    enclave.ask(&three.world, &three.copy(&one)).await.unwrap();
    let leave = |next: &mut Manifest| {
        next.custodians.remove(1);
    };
    let (left, signed) = three.world.successor(leave, &[&three.world.alice]);
    // A version that names the successor may come before the successor itself.
    let key_store_id = three.world.key_store_id;
    let two = three.world.blob_at(&Place { key_store_id, version: 2, previous: Some(one.id), generation: 2 });
    let set = ShareSet { generation: 2, ..three.world.set(&[4, 5]) };
    let copy = Ask::Copy {
        register: three.signed(&two, &three.home),
        blob: two.bytes.clone(),
        evidence: three.world.evidence(&two, &set, manifest_id(&left)),
    };
    assert_eq!(enclave.ask(&three.world, &copy).await.unwrap(), Reply::Copied);
    assert_eq!(
        enclave.ask(&three.world, &Ask::Commit { version: 2, blob_id: two.id }).await.unwrap(),
        Reply::Committed
    );
    assert_eq!(sequence(&three.world).await, 1);
    let early = enclave.ask(&three.world, &Ask::Retire { generation: 2 }).await.unwrap();
    assert!(refused(early).contains("its share is here"), "a member needs the new share first");
    three.world.custodian.succeed(signed).await.unwrap();
    assert_eq!(sequence(&three.world).await, 2, "at once");

    let mut another = three.world.obtain().await;
    assert!(another.content.shares.is_empty(), "a lease in which it can be told to delete them");
    assert!(three.world.records().await[0].reason.contains("was removed"));
    let share = Ask::Deposit { set, share: three.world.seal_share(2, 5) };
    assert!(refused(another.ask(&three.world, &share).await.unwrap()).contains("was removed"));
    let renewal = another.renew(&three.world, Seen::default()).await.unwrap();
    assert!(matches!(renewal, Reply::News { lease_ms: Some(_), .. }), "{renewal:?}");
    assert_eq!(another.ask(&three.world, &Ask::Retire { generation: 2 }).await.unwrap(), Reply::Retired);
    three.world.restart(true).await;
    assert!(denied(three.world.try_obtain(BootId(random())).await.map(|_| ())).contains("was removed"));
    let renewal = another.renew(&three.world, Seen::default()).await.unwrap();
    assert!(matches!(renewal, Reply::Refused { lease_ended: true, .. }), "{renewal:?}");
    let Answer::Status(status) = three.world.ask(Question::Status).await else { panic!("no status") };
    assert!(!status.holds_share && status.generations.is_empty());
    // It may come back, under its own key.
    let mut own = custodian_entry(&three.world.record);
    let back = |next: &mut Manifest| next.custodians.push(own.clone());
    let (_, signed) = three.world.succeed(&left, back, &[&three.world.alice]);
    three.world.custodian.succeed(signed).await.unwrap();
    own.encryption_key = *holdfast_shared::hpke::PrivateKey::generate().unwrap().public_key();
    let (_, signed) = three.world.succeed(&left, |next| next.custodians.push(own), &[&three.world.alice]);
    assert!(denied(three.world.custodian.succeed(signed).await).contains("another encryption key"));
}

#[tokio::test]
async fn whoever_left_orders_and_approves_nothing_any_more() {
    let world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let by_bob = |epoch| {
        let envelope = block::sign(&world.overlay(epoch, false), &world.bob.signing_key, &rng()).unwrap();
        cbor::encode(&envelope).to_vec()
    };
    let boot_id = BootId(random());
    world.custodian.approve(world.approval(boot_id, world.now_ms() + 3_600_000, &world.bob)).await.unwrap();
    let change = |next: &mut Manifest| {
        next.administrators.truncate(1);
        next.succession.as_mut().unwrap().overlay_epoch = 3;
    };
    let (next, signed) = world.successor(change, &[&world.alice]);
    world.custodian.succeed(signed).await.unwrap();
    enclave.ask(&world, &publish(&world, &world.blob(2, Some(&one)), manifest_id(&next))).await.unwrap();
    // Overlays that the successor knows of were ordered under its predecessor, and may come late.
    world.custodian.block(by_bob(3)).await.unwrap();
    assert!(denied(world.custodian.block(by_bob(4)).await).contains("unknown key"));
    world.custodian.block(world.signed_overlay(&world.overlay(4, false))).await.unwrap();
    assert!(
        denied(world.custodian.approve(world.approval(boot_id, u64::MAX, &world.bob)).await).contains("unknown key")
    );
    let policy = world.manifest.release_policy.clone();
    world.change_policy(&ReleasePolicy { epoch: 2, approvals: NonZeroU8::new(1), ..policy }).await;
    assert!(denied(world.try_obtain(boot_id).await.map(|_| ())).contains("has 0"));
}

/// A custodian that a withdrawn successor was to bring in, of which bob alone was to be the administrator.
async fn withdrawn_from_bob() -> Joining {
    let joining = joining(None).await;
    let Joining { world, first, manifests, .. } = &joining;
    let (own, bob) = (world.manifest.custodians[1].clone(), world.bob.entry.clone());
    let change = |next: &mut Manifest| {
        next.custodians.push(own);
        next.shares_needed = 2;
        next.administrators = vec![bob];
    };
    let (_, withdrawn) = world.succeed(first, change, &[&world.alice]);
    world.custodian.enrol_chain(&chain(&[manifests[0].clone(), withdrawn])).await.unwrap();
    joining
}

fn policy_by(joining: &Joining, epoch: u64, person: &Person) -> Vec<u8> {
    let policy = ReleasePolicy { epoch, lease_ms: 3_600_000, ..joining.first.release_policy.clone() };
    cbor::encode(&policy::sign(&joining.world.update(policy), &person.signing_key, &rng()).unwrap()).to_vec()
}

fn overlay_by(world: &World, epoch: u64, store: bool, person: &Person) -> Vec<u8> {
    let envelope = block::sign(&world.overlay(epoch, store), &person.signing_key, &rng()).unwrap();
    cbor::encode(&envelope).to_vec()
}

/// Epochs of the release policy and of the block overlay in force.
async fn epochs(world: &World) -> (u64, u64) {
    match world.ask(Question::Status).await {
        Answer::Status(status) => (status.policy_epoch, status.overlay_epoch),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_withdrawn_successor_leaves_no_policy_behind() {
    let joining = withdrawn_from_bob().await;
    let Joining { world, manifests, .. } = &joining;
    world.custodian.change_policy(policy_by(&joining, 2, &world.bob)).await.unwrap();
    world.custodian.enrol_chain(&chain(manifests)).await.unwrap();
    assert_eq!(epochs(world).await, (1, 0), "bob's went with the manifest that made him an administrator");
    assert!(world.records().await[0].reason.starts_with("release policy 2 is given up"));
    assert!(denied(world.custodian.change_policy(policy_by(&joining, 2, &world.bob)).await).contains("unknown key"));
    world.custodian.change_policy(policy_by(&joining, 2, &world.alice)).await.unwrap();
}

#[tokio::test]
async fn a_withdrawn_successor_leaves_no_overlay_behind() {
    let joining = withdrawn_from_bob().await;
    let Joining { world, manifests, .. } = &joining;
    world.custodian.block(overlay_by(world, 900, false, &world.bob)).await.unwrap();
    world.custodian.enrol_chain(&chain(manifests)).await.unwrap();
    assert!(world.records().await[0].reason.starts_with("block overlay 900 is given up"));
    world.custodian.block(overlay_by(world, 1, true, &world.alice)).await.unwrap();
    assert_eq!(epochs(world).await, (1, 1));
}

/// What the right successor's administrators, or those before them, ordered meanwhile.
#[tokio::test]
async fn what_counts_under_the_right_successor_too_stays_in_force() {
    let Joining { world, first, manifests, .. } = joining(None).await;
    let (own, bob) = (world.manifest.custodians[1].clone(), world.bob.entry.clone());
    let change = |next: &mut Manifest| {
        next.custodians.push(own);
        next.shares_needed = 2;
        next.administrators.push(bob);
    };
    let (_, withdrawn) = world.succeed(&first, change, &[&world.alice]);
    world.custodian.enrol_chain(&chain(&[manifests[0].clone(), withdrawn])).await.unwrap();
    let joining = Joining { world, first, manifests, home: Person::new("home") };
    let Joining { world, manifests, .. } = &joining;
    for (epoch, person) in [(2, &world.alice), (3, &world.bob)] {
        world.custodian.change_policy(policy_by(&joining, epoch, person)).await.unwrap();
    }
    // Bob lifts what alice blocked.
    for (epoch, store, person) in [(1, false, &world.alice), (2, true, &world.alice), (3, false, &world.bob)] {
        world.custodian.block(overlay_by(world, epoch, store, person)).await.unwrap();
    }
    world.custodian.enrol_chain(&chain(manifests)).await.unwrap();
    assert_eq!(epochs(world).await, (2, 2));
    assert!(world.obtain().await.content.shares.is_empty());
    let notes: Vec<_> = world.records().await.into_iter().map(|record| record.reason).collect();
    assert!(notes[0].contains("the key store is blocked"), "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("release policy 3 is given up")), "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("block overlay 3 is given up")), "{notes:?}");
}

#[tokio::test]
async fn a_chain_puts_no_successor_in_force_at_a_custodian_of_the_first_manifest() {
    let world = World::start().await;
    let (_, withdrawn) = world.successor(named("withdrawn"), &[&world.alice]);
    let (right, signed) = world.successor(named("right"), &[&world.alice]);
    let (_, third) = world.succeed(&right, |_| {}, &[&world.alice]);
    let Answer::Custody(custody) = world.ask(Question::Custody).await else { panic!("no record") };
    let first = custody.manifests[0].to_vec();
    world.custodian.enrol_chain(&chain(&[first.clone(), withdrawn])).await.unwrap();
    assert_eq!(sequence(&world).await, 1, "no version names it");
    let far = world.custodian.enrol_chain(&chain(&[first.clone(), signed.clone(), third])).await;
    assert!(conflict(far).contains("does not succeed"), "the second is not in force yet");
    // Before the ceremony as after it: with a share, and no version yet.
    let mut enclave = world.obtain().await;
    let deposit = Ask::Deposit { set: world.set(&[7]), share: world.seal_share(1, 7) };
    assert_eq!(enclave.ask(&world, &deposit).await.unwrap(), Reply::Deposited);
    world.custodian.enrol_chain(&chain(&[first, signed])).await.unwrap();
    assert_eq!(sequence(&world).await, 1, "no version names it");
}
