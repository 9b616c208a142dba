//! Who used which key is told to the home custodian, what did not arrive is told later, and the parent hears of kinds alone.

use holdfast_link::control::ToParent;
use holdfast_shared::alarm::{AlarmKind, OverdueLease, Tally};
use holdfast_shared::audit::{Operation, RequestRecord};
use holdfast_shared::xks::ErrorName;

use super::*;

const PRINCIPAL: &str = "arn:aws:iam::111122223333:user/ann";

fn record(operation: Operation) -> RequestRecord {
    RequestRecord {
        key: Some("a".parse().unwrap()),
        kms_request_id: Some("1".to_owned()),
        principal: Some(PRINCIPAL.to_owned()),
        ..RequestRecord::new(operation, "A".repeat(20).parse().unwrap())
    }
}

/// Principals, uses and refusals.
fn told(tally: &Tally) -> Vec<(&str, u32, u32)> {
    let told = tally.uses.iter();
    told.map(|one| (one.user.principal.as_deref().unwrap(), one.count.used, one.count.refused)).collect()
}

impl World {
    /// A request that is recorded as a success.
    async fn succeed(&self, operation: Operation) {
        let pending = self.served.audit().success(record(operation)).unwrap();
        self.served.tally().used(&pending.kept().await.unwrap());
    }

    fn refuse(&self) {
        let error = Some(ErrorName::AccessDeniedException);
        self.served.tally().refused(&RequestRecord { error, ..record(Operation::Decrypt) });
    }

    fn tallies(&self) -> Vec<Tally> {
        self.custodian.state().tallies.clone()
    }

    async fn told(&self, times: usize) -> Tally {
        self.until("another tally", |world| world.tallies().len() >= times).await;
        self.tallies().remove(times - 1)
    }

    fn raised(&self, kind: AlarmKind) -> u64 {
        self.served.tally().alarms().counts()[kind.number()]
    }

    /// Everything that the parent was told since the last look.
    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Ok(message) = self.lines.try_recv() {
            said.push(if let ToParent::Log { text, .. } = message { text.as_str().to_owned() } else { String::new() });
        }
        said
    }
}

fn count(said: &[String], part: &str) -> usize {
    said.iter().filter(|line| line.contains(part)).count()
}

#[tokio::test(start_paused = true)]
async fn uses_are_told_soon_and_the_clock_where_there_are_none() {
    let world = World::start().serving().await;
    let clock = world.told(1).await;
    assert_eq!(clock, Tally { number: NOW_MS, at_ms: NOW_MS, since_ms: NOW_MS, ..Tally::default() });
    for operation in [Operation::Encrypt, Operation::Decrypt, Operation::GetKeyMetadata, Operation::GetHealthStatus] {
        world.succeed(operation).await;
    }
    world.refuse();
    world.clock.advance_ms(5);
    let uses = world.told(2).await;
    assert_eq!((uses.at_ms, told(&uses)), (NOW_MS + 5, vec![(PRINCIPAL, 2, 1)]));
    assert!(uses.number > clock.number && uses.since_ms == NOW_MS, "{uses:?}");
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(world.tallies().len(), 2, "nothing to tell");
    assert_eq!(told(&world.told(3).await), []);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_answered_is_told_again_as_it_was_and_what_came_meanwhile_after_it() {
    let mut world = World::start().serving().await;
    world.told(1).await;
    world.refuse();
    world.custodian.fail("tally", Fault::AnswerLost);
    world.until("one whose answer is lost", |world| world.custodian.state().faults.is_empty()).await;
    world.refuse();
    world.clock.advance_ms(7);
    let (first, again, next) = (world.told(2).await, world.told(3).await, world.told(4).await);
    for tally in [&first, &again, &next] {
        assert_eq!(told(tally), [(PRINCIPAL, 0, 1)]);
    }
    assert_eq!((first.number, first.since_ms), (again.number, again.since_ms), "it counts once");
    assert_eq!((next.since_ms, next.number > again.number), (first.at_ms, true), "{next:?}");
    let said = world.said();
    assert_eq!(count(&said, "cannot be told of uses"), 1, "{said:?}");
    assert_eq!(count(&said, "is told of uses again"), 1, "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tally_that_ends_the_lease_has_it_released_anew() {
    let world = World::start_with(|custodian| custodian.fail("tally", Fault::LeaseEnded)).serving().await;
    world.refuse();
    world.until("another release", |world| world.custodian.state().asked("release") == 2).await;
    let world = world.serving().await;
    assert_eq!(told(&world.told(1).await), [(PRINCIPAL, 0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_overdue_lease_is_told_and_the_parent_hears_of_kinds() {
    let mut world = World::start_quorum((3, 2, 0), |_| {}).serving().await.settled().await;
    world.told(1).await;
    world.away(&[1], true);
    world.refuse();
    world.custodian.change(|state| {
        state.raises = vec![AlarmKind::LeaseTrouble, AlarmKind::FirstSeen, AlarmKind::FirstSeen];
    });
    world.clock.advance_ms(31_000);
    let lease = OverdueLease { custodian_id: world.custodians[1].in_manifest().id(), left_ms: 29_000 };
    world
        .until("the overdue lease", |world| world.tallies().last().is_some_and(|tally| tally.overdue == [lease]))
        .await;
    let kinds = [AlarmKind::LeaseTrouble, AlarmKind::FirstSeen, AlarmKind::ClockDrift];
    world.until("the answer", |world| world.raised(AlarmKind::FirstSeen) > 0).await;
    assert_eq!(kinds.map(|kind| world.raised(kind)), [1, 2, 0], "what the home custodian said, and no more");
    assert_eq!(world.custodian.state().tallies.iter().flat_map(told).collect::<Vec<_>>(), [(PRINCIPAL, 0, 1)]);
    let said = world.said();
    assert_eq!(count(&said, ": alarm raised: first-seen (2), lease-trouble (1)"), 1, "{said:?}");
    assert_eq!(count(&said, PRINCIPAL), 0, "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_home_custodian_each_trouble_is_counted_once() {
    let mut world = World::start().serving().await;
    world.told(1).await;
    world.away(&[0], true);
    world.refuse();
    world.clock.advance_ms(31_000);
    world.until("the overdue lease", |world| world.raised(AlarmKind::LeaseTrouble) == 1).await;
    world.clock.set_healthy(false);
    world.until("the clock", |world| world.raised(AlarmKind::ClockDrift) == 1).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let kinds = [AlarmKind::LeaseTrouble, AlarmKind::ClockDrift];
    assert_eq!(kinds.map(|kind| world.raised(kind)), [1, 1]);
    world.away(&[0], false);
    assert_eq!(told(&world.told(2).await), [(PRINCIPAL, 0, 1)]);
    let said = world.said();
    assert_eq!(count(&said, ": alarm raised: lease-trouble (1)"), 1, "{said:?}");
    assert_eq!(count(&said, PRINCIPAL), 0, "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn in_a_hurry_nothing_is_waited_for() {
    let world = World::start().serving().await;
    world.told(1).await;
    world.refuse();
    world.served.tally().hurry();
    let before = tokio::time::Instant::now();
    assert_eq!(told(&world.told(2).await), [(PRINCIPAL, 0, 1)]);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}
