//! Release policies in force: how they change, and whom they let wait.

use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use holdfast_custodian::service::ServiceError;
use holdfast_shared::attestation::Measurements;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::labels;
use holdfast_shared::limits;
use holdfast_shared::manifest::{AcceptedImage, Manifest, ReleasePolicy, ReleaseWindow, Thresholds};
use holdfast_shared::policy::{self, PolicyUpdate};
use holdfast_shared::query::{Answer, Question, WaitingRelease};

use crate::world::{LEASE_MS, Person, World, accepted, denied, random, rng};

fn signed(update: &PolicyUpdate, people: &[&Person]) -> Vec<u8> {
    let mut envelope = policy::sign(update, &people[0].signing_key, &rng()).unwrap();
    for person in &people[1..] {
        envelope.add_signature(labels::POLICY, &person.signing_key, &rng()).unwrap();
    }
    cbor::encode(&envelope).to_vec()
}

fn other_image() -> AcceptedImage {
    Measurements { pcr0: [8; 48], ..accepted() }.into()
}

#[tokio::test]
async fn a_policy_is_newer_and_signed_by_enough() {
    let custody = |manifest: &mut Manifest| manifest.thresholds = Thresholds { custody: 2, ..Thresholds::ONE };
    let world = World::start_with(custody).await;
    let (alice, bob, stranger) = (&world.alice, &world.bob, Person::new("stranger"));
    let of = |epoch| ReleasePolicy { epoch, ..world.manifest.release_policy.clone() };
    let root = ReleasePolicy { trust_root: [5; 32], ..of(2) };
    let approvals = ReleasePolicy { approvals: NonZeroU8::new(3), ..of(2) };
    let table = [
        ("one signature", signed(&world.update(of(2)), &[alice]), "needs 2 signatures"),
        ("a stranger's", signed(&world.update(of(2)), &[alice, &stranger]), "unknown key"),
        ("another root", signed(&world.update(root), &[alice, bob]), "another trust root"),
        ("more approvals than administrators", signed(&world.update(approvals), &[alice, bob]), "more approvals"),
    ];
    for (what, body, words) in table {
        let said = denied(world.custodian.change_policy(body).await);
        assert!(said.contains(words), "{what}: {said}");
    }
    let ahead = signed(&world.update(of(2 + limits::BLOCK_EPOCH_STEP_MAX)), &[alice, bob]);
    assert!(matches!(world.custodian.change_policy(ahead).await, Err(ServiceError::Conflict(_))));
    let elsewhere = PolicyUpdate { key_store_id: KeyStoreId([1; 32]), ..world.update(of(2)) };
    let unknown = world.custodian.change_policy(signed(&elsewhere, &[alice, bob])).await;
    assert!(matches!(unknown, Err(ServiceError::NotFound(_))));
    assert!(matches!(world.custodian.change_policy(vec![0; 9]).await, Err(ServiceError::Malformed(_))));

    let second = signed(&world.update(of(2)), &[alice, bob]);
    for _ in 0..2 {
        world.custodian.change_policy(second.clone()).await.unwrap();
    }
    world.custodian.change_policy(signed(&world.update(of(3)), &[bob, alice])).await.unwrap();
    let replayed = world.custodian.change_policy(second.clone()).await;
    assert!(matches!(replayed, Err(ServiceError::Conflict(_))), "{replayed:?}");
    assert_eq!(world.obtain().await.policy_epoch, 3);
    let noted: Vec<_> = world.records().await.into_iter().filter(|record| record.reason.contains("in force")).collect();
    assert_eq!(noted.len(), 2, "each change once");
    let Answer::Custody(custody) = world.ask(Question::Custody).await else { panic!("no record") };
    assert_eq!(custody.policies.len(), 2);
    assert_eq!(custody.policies[0].as_slice(), second);
}

#[tokio::test]
async fn whom_a_new_policy_refuses_hears_it_at_once() {
    let world = World::start().await;
    let (mut enclave, _) = world.found().await;
    let message = enclave.next(&Ask::Watch { seen: Seen { version: 1, ..Seen::default() }, renew: false });
    let custodian = Arc::clone(&world.custodian);
    let waiting = tokio::spawn(async move { custodian.channel(&message).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    let policy = world.manifest.release_policy.clone();
    world.change_policy(&ReleasePolicy { epoch: 2, images: vec![other_image()], ..policy }).await;
    let answer = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("at once").unwrap();
    let reply = enclave.open(&answer, enclave.counter);
    assert!(matches!(reply, Reply::Refused { lease_ended: true, .. }), "{reply:?}");
    assert!(matches!(enclave.renew(&world, Seen::default()).await, Err(ServiceError::NotFound(_))));
}

#[tokio::test]
async fn an_image_is_accepted_until_its_sunset() {
    let world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let sunset_ms = Some(world.now_ms() + 1000);
    let images = vec![AcceptedImage { sunset_ms, ..accepted().into() }, other_image()];
    world.change_policy(&ReleasePolicy { epoch: 2, images, ..world.manifest.release_policy.clone() }).await;
    world.clock.step(999);
    assert!(matches!(enclave.renew(&world, Seen::default()).await.unwrap(), Reply::News { lease_ms: Some(_), .. }));
    let mut another = world.obtain().await;
    world.clock.step(1);
    assert!(denied(world.try_obtain(BootId(random())).await.map(|_| ())).contains("no accepted measurements"));
    let renewal = enclave.renew(&world, Seen::default()).await.unwrap();
    assert!(matches!(renewal, Reply::Refused { lease_ended: true, .. }), "{renewal:?}");
    let change = another.publish(&world, &world.blob(2, Some(&one)), 2, Some(&one)).await;
    assert!(matches!(change, Reply::Refused { lease_ended: true, .. }), "{change:?}");
}

#[tokio::test]
async fn shares_are_released_while_the_window_is_open() {
    let window = |now_ms: u64| {
        let of_day = u16::try_from(now_ms / 60_000 % 1440).unwrap();
        ReleaseWindow { days: 0b111_1111, opens: (of_day + 60) % 1440, minutes: 30 }
    };
    let world = World::start().await;
    let policy = world.manifest.release_policy.clone();
    let window = Some(window(world.now_ms()));
    world.change_policy(&ReleasePolicy { epoch: 2, window, ..policy }).await;
    // Where there is no share yet, none is withheld.
    let (mut enclave, _) = world.found().await;
    let boot_id = BootId(random());
    for _ in 0..3 {
        let said = denied(world.try_obtain(boot_id).await.map(|_| ()));
        assert!(said.contains("window is closed; it opens at 2") && said.ends_with('Z'), "{said}");
    }
    let refusals = world.records().await.iter().filter(|record| record.reason.contains("window")).count();
    assert_eq!(refusals, 1, "whoever asks again and again is on record once");
    assert!(matches!(enclave.renew(&world, Seen::default()).await.unwrap(), Reply::News { lease_ms: Some(_), .. }));
    world.custodian.block(world.signed_overlay(&world.overlay(1, true))).await.unwrap();
    assert!(world.obtain().await.content.shares.is_empty(), "a lease to wait in");
    world.custodian.block(world.signed_overlay(&world.overlay(2, false))).await.unwrap();
    world.clock.step(60 * 60_000);
    assert_eq!(world.try_obtain(boot_id).await.unwrap().content.shares.len(), 1);
    world.clock.step(30 * 60_000);
    assert!(denied(world.try_obtain(boot_id).await.map(|_| ())).contains("window"));
}

#[tokio::test]
async fn so_many_boots_hold_leases_as_the_policy_allows() {
    let world = World::start().await;
    let policy = world.manifest.release_policy.clone();
    world.change_policy(&ReleasePolicy { epoch: 2, leases_max: NonZeroU32::new(2), ..policy }).await;
    let boots: [BootId; 3] = std::array::from_fn(|_| BootId(random()));
    world.try_obtain(boots[0]).await.unwrap();
    world.clock.step(LEASE_MS / 2);
    world.try_obtain(boots[1]).await.unwrap();
    let said = denied(world.try_obtain(boots[2]).await.map(|_| ()));
    assert!(said.contains("allows (2)"), "{said}");
    world.try_obtain(boots[1]).await.expect("the same boot, again");
    world.clock.step(LEASE_MS / 2);
    world.try_obtain(boots[2]).await.expect("the first one's lease has ended");
    assert!(denied(world.try_obtain(boots[0]).await.map(|_| ())).contains("allows (2)"));
}

async fn waiting(world: &World) -> Vec<WaitingRelease> {
    match world.ask(Question::WaitingReleases).await {
        Answer::WaitingReleases(waiting) => waiting,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_boot_waits_for_approvals() {
    let world = World::start().await;
    let policy = world.manifest.release_policy.clone();
    world.change_policy(&ReleasePolicy { epoch: 2, approvals: NonZeroU8::new(2), ..policy }).await;
    let (boot_id, soon) = (BootId(random()), world.now_ms() + 3_600_000);
    let refusal = async || denied(world.try_obtain(boot_id).await.map(|_| ()));
    for _ in 0..3 {
        let said = refusal().await;
        assert!(said.contains("awaits 2 approvals, has 0"), "{said}");
        assert!(said.contains(&format!("holdfast release approve {boot_id}")), "{said}");
    }
    assert_eq!(world.records().await.iter().filter(|record| record.boot_id == Some(boot_id)).count(), 1);
    let waits = waiting(&world).await;
    assert_eq!((waits[0].boot_id, waits[0].needed, waits[0].approved_by.len()), (boot_id, 2, 0));
    assert_eq!(waits[0].measurements.pcr16, [16; 48]);
    assert!(!waits[0].document.is_empty());
    assert!(matches!(world.ask(Question::Status).await, Answer::Status(status) if status.waiting_releases == 1));

    let approve =
        async |expires_ms, person: &Person| world.custodian.approve(world.approval(boot_id, expires_ms, person)).await;
    assert!(denied(approve(soon, &Person::new("stranger")).await).contains("unknown key"));
    assert!(denied(approve(world.now_ms(), &world.alice).await).contains("expired"));
    let late = world.now_ms() + limits::APPROVAL_LIFE_MAX_MS + 1;
    assert!(denied(approve(late, &world.alice).await).contains("31 days"));
    for _ in 0..2 {
        approve(soon, &world.alice).await.unwrap();
    }
    assert!(refusal().await.contains("has 1"), "one administrator counts once");
    assert_eq!(waiting(&world).await[0].approved_by, [world.alice.entry.id()]);
    approve(soon, &world.bob).await.unwrap();
    // A replay of a shorter one takes nothing away.
    approve(world.now_ms() + 1, &world.bob).await.unwrap();
    world.clock.step(1);
    let mut enclave = world.try_obtain(boot_id).await.unwrap();
    assert_eq!(waiting(&world).await, []);
    assert!(denied(world.try_obtain(BootId(random())).await.map(|_| ())).contains("has 0"), "another boot");
    let approvals = world.records().await.iter().filter(|record| record.reason.contains("approved the boot")).count();
    assert_eq!(approvals, 2, "each administrator's is on record once");

    // The lease goes on, and the boot's next release needs new approvals.
    for _ in 0..7 {
        world.clock.step(LEASE_MS - 1);
        let renewal = enclave.renew(&world, Seen::default()).await.unwrap();
        assert!(matches!(renewal, Reply::News { lease_ms: Some(_), .. }), "{renewal:?}");
    }
    assert!(refusal().await.contains("has 0"), "expired");
}

#[tokio::test]
async fn approvals_and_waiting_boots_have_bounds() {
    let world = World::start().await;
    let policy = world.manifest.release_policy.clone();
    world.change_policy(&ReleasePolicy { epoch: 2, approvals: NonZeroU8::new(1), ..policy }).await;
    for _ in 0..=limits::WAITING_RELEASES_MAX {
        world.clock.step(1);
        denied(world.try_obtain(BootId(random())).await.map(|_| ()));
    }
    assert_eq!(waiting(&world).await.len(), limits::WAITING_RELEASES_MAX);
    let store = world.custodian.store();
    let approve = async |boot: u16| {
        let mut boot_id = [0; 16];
        boot_id[..2].copy_from_slice(&boot.to_be_bytes());
        let (boot_id, administrator_id) = (BootId(boot_id), world.alice.entry.id());
        let approval = holdfast_custodian::store::NewApproval {
            boot_id,
            administrator_id,
            signed: b"",
            expires_ms: u64::MAX >> 1,
        };
        store.approve_release(world.key_store_id, &approval, world.now_ms()).await.unwrap()
    };
    let bound = u16::try_from(limits::LEASES_MAX).unwrap();
    for boot in 0..bound {
        assert_eq!(approve(boot).await, holdfast_custodian::store::Approved::Kept);
    }
    assert_eq!(approve(bound).await, holdfast_custodian::store::Approved::TooMany);
    assert_eq!(approve(0).await, holdfast_custodian::store::Approved::Known);
}
