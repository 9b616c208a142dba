//! Tallies: who may tell, what is remembered, and which alarms administrators see.

use holdfast_devkit::nsm::EmulatedChain;
use holdfast_shared::alarm::{AlarmKind, OverdueLease, RaisedAlarm, TalliedUse, Tally, UseCount, User};
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::ids::{BootId, CustodianId};
use holdfast_shared::keystore::{BudgetSpan, BudgetWindow};
use holdfast_shared::manifest::{AcceptedImage, ReleasePolicy};
use holdfast_shared::query::{Answer, Question};

use crate::enclave::Enclave;
use crate::quorum::Three;
use crate::world::{MODULE_ID, World, denied, random, refused};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn used(principal: &str) -> TalliedUse {
    let user = User { key: "a".parse().unwrap(), principal: Some(principal.to_owned()), service: None, vpc: None };
    TalliedUse { user, count: UseCount { used: 1, refused: 0 } }
}

async fn tell(world: &World, enclave: &mut Enclave, tally: Tally) -> Reply {
    let now_ms = world.now_ms();
    let tally = Tally { number: now_ms + enclave.counter, at_ms: now_ms, since_ms: now_ms, ..tally };
    enclave.ask(world, &Ask::Tally(tally)).await.unwrap()
}

async fn uses(world: &World, enclave: &mut Enclave, principals: &[&str]) -> Reply {
    let uses = principals.iter().map(|principal| used(principal)).collect();
    tell(world, enclave, Tally { uses, ..Tally::default() }).await
}

fn raised(kinds: &[AlarmKind]) -> Reply {
    Reply::Tallied { raised: kinds.to_vec() }
}

async fn alarms(world: &World, before: u64) -> Vec<RaisedAlarm> {
    match world.ask(Question::Alarms(before)).await {
        Answer::Alarms(alarms) => alarms,
        other => panic!("{other:?}"),
    }
}

/// Lets time pass. Leases end, and documents are signed anew.
fn wait(world: &mut World, ms: u64) {
    world.clock.step(ms);
    world.chain = EmulatedChain::standard(&world.root, MODULE_ID, world.now_ms()).unwrap();
}

#[tokio::test]
async fn who_is_new_to_the_whole_fleet_is_told_of_once() {
    let mut world = World::start().await;
    let mut one = world.obtain().await;
    assert_eq!(uses(&world, &mut one, &["app"]).await, raised(&[]));
    wait(&mut world, 7 * DAY_MS);
    world.restart(true).await;
    let boot_id = BootId(random());
    let (mut one, mut other) = (world.try_obtain(boot_id).await.unwrap(), world.obtain().await);
    assert_eq!(uses(&world, &mut one, &["app", "new"]).await, raised(&[AlarmKind::FirstSeen]));
    world.restart(true).await;
    assert_eq!(uses(&world, &mut other, &["app", "new"]).await, raised(&[]));
    let told = alarms(&world, 0).await;
    let [alarm] = &told[..] else { panic!("{told:?}") };
    assert_eq!((alarm.alarm.who.as_str(), alarm.boot_id), ("new", Some(boot_id)));
    assert_eq!((alarm.at_ms, alarm.is_delivered), (world.now_ms(), true));
    assert_eq!(alarms(&world, alarm.id).await, []);
}

#[tokio::test]
async fn a_message_is_counted_once() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    let late = Tally { at_ms: world.now_ms() - 60_000, ..Tally::default() };
    let message = enclave.next(&Ask::Tally(late));
    let answer = world.custodian.channel(&message).await.unwrap();
    assert_eq!(enclave.open(&answer, enclave.counter), raised(&[AlarmKind::ClockDrift]));
    assert!(denied(world.custodian.channel(&message).await).contains("was used before"));
    assert_eq!(alarms(&world, 0).await.len(), 1);
}

#[tokio::test]
async fn an_alarm_is_raised_again_when_its_quiet_time_is_over() {
    let mut world = World::start().await;
    let mut enclave = world.obtain().await;
    let overdue = Tally {
        overdue: vec![OverdueLease { custodian_id: CustodianId([3; 32]), left_ms: 1_000 }],
        ..Tally::default()
    };
    assert_eq!(tell(&world, &mut enclave, overdue.clone()).await, raised(&[AlarmKind::LeaseTrouble]));
    assert_eq!(tell(&world, &mut enclave, overdue.clone()).await, raised(&[]));
    wait(&mut world, 6 * HOUR_MS);
    let mut enclave = world.obtain().await;
    assert_eq!(tell(&world, &mut enclave, overdue).await, raised(&[AlarmKind::LeaseTrouble]));
}

#[tokio::test]
async fn others_than_the_home_custodian_take_no_tally() {
    let three = Three::with_own_place(1).await;
    let mut enclave = three.world.obtain().await;
    assert!(refused(uses(&three.world, &mut enclave, &["app"]).await).contains("not the home custodian"));
    assert_eq!(alarms(&three.world, 0).await, []);
}

#[tokio::test]
async fn a_budget_of_which_four_fifths_are_debited_is_told_of() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    let today = BudgetWindow::at(BudgetSpan::Day, world.now_ms());
    for (window, want, told) in [(today, 7, 0), (today, 1, 1), (today, 2, 1), (today.next(), 9, 2)] {
        let ask = Ask::Debit { key: "a".parse().unwrap(), window, limit: 10, want };
        let reply = enclave.ask(&world, &ask).await.unwrap();
        assert!(matches!(reply, Reply::Debited { granted, .. } if granted == want), "{reply:?}");
        assert_eq!(alarms(&world, 0).await.len(), told);
    }
    let newest = alarms(&world, 0).await.swap_remove(0).alarm;
    assert_eq!((newest.kind, newest.who), (AlarmKind::Budget, format!("day {}", today.next().number)));
}

#[tokio::test]
async fn a_lease_that_the_policy_ends_is_told_of() {
    let world = World::start().await;
    let boot_id = BootId(random());
    let mut enclave = world.try_obtain(boot_id).await.unwrap();
    let mut image: AcceptedImage = crate::world::accepted().into();
    image.measurements.pcr0 = [0xEE; 48];
    let policy = world.manifest.release_policy.clone();
    world.change_policy(&ReleasePolicy { epoch: 2, images: vec![image], ..policy }).await;
    let reply = enclave.renew(&world, Seen::default()).await.unwrap();
    assert!(matches!(reply, Reply::Refused { lease_ended: true, .. }), "{reply:?}");
    let told = alarms(&world, 0).await;
    let [alarm] = &told[..] else { panic!("{told:?}") };
    assert_eq!((alarm.alarm.kind, &alarm.alarm.who), (AlarmKind::LeaseTrouble, &boot_id.to_string()));
    assert!(alarm.alarm.text.contains("the release policy no longer accepts"), "{}", alarm.alarm.text);
}
