//! Custodians that come and go with a successor manifest, and what a withdrawn one leaves behind.

use std::num::NonZeroU8;

use holdfast_shared::block;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::keystore::{Place, SealedKeyStore};
use holdfast_shared::labels;
use holdfast_shared::manifest::{self, Manifest, ManifestChain, ManifestId, ReleasePolicy};
use holdfast_shared::policy;
use holdfast_shared::query::{Answer, Question};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::ShareSet;

use crate::quorum::Three;
use crate::succession::{conflict, named, publish, sequence};
use crate::world::{Person, World, custodian_entry, denied, manifest_for, manifest_id, random, refused, rng};

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

pub(crate) fn chain(manifests: &[Vec<u8>]) -> Vec<u8> {
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
