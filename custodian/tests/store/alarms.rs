//! What is remembered of the use of keys, the alarms that come of it, and what of them is delivered.

use holdfast_custodian::store::{Debited, NewAlarm, NewDebit, NewTally, Origin, Store, StoreError};
use holdfast_shared::alarm::{
    AlarmKind, OverdueLease, RaisedAlarm, Rules, TalliedUse, Tally, UseCount, UseHistory, User,
};
use holdfast_shared::ids::{BootId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::keystore::{BudgetSpan, BudgetWindow};
use holdfast_shared::limits;

use crate::fixture::{KEY_STORE, NOW_MS, Place, alarm, first, lease, record};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const HOOK: &str = "webhook https://alerts.example.com:443 (01234567)";
const LOG: &str = "syslog unix:/dev/log";

fn used(principal: &str, times: u32) -> TalliedUse {
    let user = User {
        key: "a".parse().unwrap(),
        principal: Some(principal.to_owned()),
        service: Some("s3.amazonaws.com".to_owned()),
        vpc: None,
    };
    TalliedUse { user, count: UseCount { used: times, refused: 0 } }
}

fn refused(principal: &str, refused: u32) -> TalliedUse {
    TalliedUse { count: UseCount { used: 0, refused }, ..used(principal, 0) }
}

fn tally(at_ms: u64, uses: Vec<TalliedUse>) -> Tally {
    Tally { at_ms, uses, ..Tally::default() }
}

/// A lease that lasts, and its messages.
struct Teller {
    lease_id: LeaseId,
    counter: u64,
    rules: Rules,
}

impl Teller {
    async fn new(store: &Store, number: u8) -> Self {
        let lease_id = LeaseId([number; 16]);
        let mut new = lease(lease_id, number);
        new.expires_ms = NOW_MS + 1_000 * DAY_MS;
        new.boot_id = BootId([number; 16]);
        store.grant(&new, &record(true)).await.unwrap();
        Self { lease_id, counter: 0, rules: Rules::default() }
    }

    fn origin(&self, now_ms: u64) -> Origin {
        Origin { lease_id: self.lease_id, counter: self.counter, now_ms }
    }

    async fn tell(&mut self, store: &Store, now_ms: u64, tally: &Tally) -> Vec<AlarmKind> {
        self.counter += 1;
        // Counted in an instant.
        let tally = &Tally { number: self.counter, since_ms: tally.at_ms, ..tally.clone() };
        let new = NewTally { key_store_id: KEY_STORE, tally, rules: &self.rules };
        store.tally(new, self.origin(now_ms)).await.unwrap()
    }

    /// Uses at one time.
    async fn uses(&mut self, store: &Store, now_ms: u64, uses: Vec<TalliedUse>) -> Vec<AlarmKind> {
        self.tell(store, now_ms, &tally(now_ms, uses)).await
    }
}

async fn alarms(store: &Store) -> Vec<RaisedAlarm> {
    store.alarms(KEY_STORE, None, 1_000).await.unwrap()
}

pub(crate) async fn those_who_are_new_after_learning_are_told_of_once(place: Place) {
    let place = place.enrolled().await;
    let (one, two) = (place.handle(0), place.handle(1));
    let (mut teller, mut other) = (Teller::new(&one, 101).await, Teller::new(&one, 102).await);
    assert_eq!(teller.uses(&one, NOW_MS, vec![used("app", 1)]).await, []);
    assert_eq!(other.uses(&two, NOW_MS + DAY_MS, vec![used("batch", 1)]).await, [], "still learning");
    let later = NOW_MS + 7 * DAY_MS;
    let all = vec![used("app", 1), used("batch", 1), used("new", 1)];
    assert_eq!(teller.uses(&two, later, all.clone()).await, [AlarmKind::FirstSeen]);
    assert_eq!(other.uses(&one, later + 1, all).await, [], "the whole fleet is one");
    assert_eq!(other.uses(&one, later + 1, vec![refused("thief", 1)]).await, [AlarmKind::FirstSeen]);
    let alarms = alarms(&two).await;
    let told: Vec<_> = alarms.iter().map(|raised| (raised.alarm.who.as_str(), raised.at_ms, raised.boot_id)).collect();
    assert_eq!(told, [("thief", later + 1, Some(BootId([102; 16]))), ("new", later, Some(BootId([101; 16])))]);
    assert!(alarms.iter().all(|raised| raised.is_delivered), "nobody is waited for");
}

pub(crate) async fn the_same_alarm_keeps_quiet_for_a_while(place: Place) {
    let place = place.enrolled().await;
    let store = place.handle(0);
    let mut teller = Teller::new(&store, 101).await;
    teller.rules.hours = Some("Mon-Sun 00:00-00:01 UTC".parse().unwrap());
    let off_hours = [AlarmKind::OffHours];
    assert_eq!(teller.uses(&store, NOW_MS, vec![used("app", 1)]).await, off_hours);
    let quiet_ms = teller.rules.quiet_ms;
    assert_eq!(teller.uses(&store, NOW_MS + quiet_ms, vec![used("app", 1)]).await, off_hours);
    assert_eq!(teller.uses(&place.handle(1), NOW_MS + 2 * quiet_ms - 1, vec![used("app", 1)]).await, []);
    assert_eq!(teller.uses(&store, NOW_MS + 2 * quiet_ms - 1, vec![used("batch", 1)]).await, off_hours);
    // A clock that was far ahead for a moment.
    assert_eq!(teller.uses(&store, NOW_MS + 900 * DAY_MS, vec![used("app", 1)]).await, off_hours);
    assert_eq!(teller.uses(&store, NOW_MS + 2 * quiet_ms, vec![used("app", 1)]).await, off_hours);
}

pub(crate) async fn a_tally_counts_once(place: Place) {
    let place = place.enrolled().await;
    let store = place.handle(0);
    let mut teller = Teller::new(&store, 101).await;
    teller.rules.learn_ms = DAY_MS;
    let now_ms = NOW_MS + 3 * DAY_MS;
    teller.uses(&store, NOW_MS, vec![used("app", 30)]).await;
    assert_eq!(teller.uses(&store, now_ms, vec![used("app", 60)]).await, []);
    let again = tally(now_ms, vec![used("app", 60)]);
    for store in [place.handle(0), place.handle(1)] {
        let new = NewTally { key_store_id: KEY_STORE, tally: &again, rules: &teller.rules };
        let error = store.tally(new, teller.origin(now_ms)).await.unwrap_err();
        assert!(matches!(error, StoreError::Replayed(_)), "{error:?}");
        let ended = Origin { lease_id: LeaseId([9; 16]), ..teller.origin(now_ms) };
        let error = store.tally(new, ended).await.unwrap_err();
        assert!(matches!(error, StoreError::LeaseEnded), "{error:?}");
    }
    // Told again under its number, in another message.
    teller.counter += 1;
    let retold = Tally { number: teller.counter - 1, since_ms: now_ms, ..again };
    let new = NewTally { key_store_id: KEY_STORE, tally: &retold, rules: &teller.rules };
    assert_eq!(store.tally(new, teller.origin(now_ms)).await.unwrap(), []);
    // With 60 more it would be 150 by now.
    assert_eq!(teller.uses(&store, now_ms, vec![used("app", 30)]).await, [], "90 are few");
    assert_eq!(teller.uses(&store, now_ms, vec![used("app", 10)]).await, [AlarmKind::UnusualRate]);
    assert_eq!(alarms(&store).await.len(), 1);
}

pub(crate) async fn tallies_that_race_are_all_counted(place: Place) {
    let place = place.enrolled().await;
    let racers: Vec<_> = (1..=6_u8)
        .map(|racer| {
            let store = place.handle(racer.into());
            tokio::spawn(async move {
                let mut teller = Teller::new(&store, 100 + racer).await;
                for _ in 0..10 {
                    teller.uses(&store, NOW_MS, vec![used("app", 1), refused("thief", 1)]).await;
                }
            })
        })
        .collect();
    for racer in racers {
        racer.await.unwrap();
    }
    // 60 refusals in ten minutes are a burst, told of once; then 60 uses are the busiest hour.
    assert_eq!(
        alarms(&place.one).await.iter().map(|raised| raised.alarm.kind).collect::<Vec<_>>(),
        [AlarmKind::RefusedBurst]
    );
    let mut teller = Teller::new(&place.one, 120).await;
    teller.rules.learn_ms = DAY_MS;
    let later = NOW_MS + 2 * DAY_MS;
    assert_eq!(teller.uses(&place.two, later, vec![used("app", 180)]).await, []);
    assert_eq!(teller.uses(&place.two, later, vec![used("app", 1)]).await, [AlarmKind::UnusualRate]);
}

pub(crate) async fn what_is_told_beside_uses_is_judged(place: Place) {
    let place = place.enrolled().await;
    let store = place.handle(1);
    let mut teller = Teller::new(&store, 101).await;
    let custodian_id = CustodianId([3; 32]);
    let told = Tally {
        number: 0,
        at_ms: NOW_MS - 31_000,
        since_ms: 0,
        uses: vec![refused("thief", 49)],
        others: UseCount { used: 1, refused: 0 },
        overdue: vec![OverdueLease { custodian_id, left_ms: 5_000 }],
    };
    let raised = teller.tell(&store, NOW_MS, &told).await;
    assert_eq!(raised, [AlarmKind::UnusualRate, AlarmKind::ClockDrift, AlarmKind::LeaseTrouble]);
    assert_eq!(teller.tell(&store, NOW_MS, &told).await, [AlarmKind::RefusedBurst], "98 within ten minutes");
    let by_kind = |alarms: &[RaisedAlarm], kind| {
        let alarm = alarms.iter().find(|raised| raised.alarm.kind == kind).unwrap().alarm.clone();
        (alarm.who, alarm.text)
    };
    let alarms = alarms(&store).await;
    assert_eq!(by_kind(&alarms, AlarmKind::ClockDrift).0, BootId([101; 16]).to_string());
    assert_eq!(by_kind(&alarms, AlarmKind::LeaseTrouble).0, custodian_id.to_string());
    assert!(by_kind(&alarms, AlarmKind::UnusualRate).1.starts_with("more than 64 different users in one tally"));
    assert!(by_kind(&alarms, AlarmKind::RefusedBurst).1.contains("98 requests were refused"), "{alarms:?}");
    // The next ten minutes begin at nought.
    teller.rules.quiet_ms = 1;
    let next = (NOW_MS / 600_000 + 1) * 600_000;
    assert_eq!(teller.uses(&store, next, vec![refused("thief", 49)]).await, []);
    assert_eq!(teller.uses(&store, next + 1, vec![refused("thief", 1)]).await, [AlarmKind::RefusedBurst]);
}

pub(crate) async fn a_budget_is_told_of_once_in_each_window(place: Place) {
    let place = place.enrolled().await.delivering_to(&[HOOK]);
    let mut recorded = place.one.alarms_recorded();
    let teller = Teller::new(&place.one, 101).await;
    let hour = BudgetWindow { span: BudgetSpan::Hour, number: 472_222 };
    let day = BudgetWindow { span: BudgetSpan::Day, number: 19_675 };
    for (counter, (window, limit, want, told)) in (1..).zip([
        (hour, 100, 79, 0),
        (hour, 100, 1, 1),
        (hour, 100, 20, 1),
        (day, 100, 90, 2),
        // A limit that was raised is passed again: of this window was told.
        (day, 200, 90, 2),
        (hour.next(), 100, 100, 3),
    ]) {
        let new = NewDebit { key_store_id: KEY_STORE, key: "a".parse().unwrap(), window, limit, want };
        let origin = Origin { counter, ..teller.origin(NOW_MS) };
        assert!(matches!(place.one.debit(&new, origin).await.unwrap(), Debited::Granted { .. }));
        assert_eq!(alarms(&place.two).await.len(), told, "{window:?} {limit} {want}");
    }
    let newest = alarms(&place.one).await.swap_remove(0);
    assert_eq!(
        (newest.alarm.kind, newest.boot_id, newest.is_delivered),
        (AlarmKind::Budget, Some(BootId([101; 16])), false)
    );
    assert_eq!(newest.alarm.who, "hour 472223");
    assert!(recorded.has_changed().unwrap());
    recorded.borrow_and_update();
}

pub(crate) async fn alarms_come_in_pages_of_their_key_store(place: Place) {
    let place = place.enrolled().await;
    let other = KeyStoreId([0x55; 32]);
    assert!(place.one.enrol(other, &first(), b"policy", NOW_MS).await.unwrap());
    for who in ["a", "b", "c", "d"] {
        assert!(place.one.raise(&alarm(AlarmKind::FirstSeen, who)).await.unwrap());
        let elsewhere = NewAlarm { key_store_id: other, ..alarm(AlarmKind::FirstSeen, who) };
        assert!(place.two.raise(&elsewhere).await.unwrap(), "key stores are apart");
    }
    assert!(!place.two.raise(&alarm(AlarmKind::FirstSeen, "a")).await.unwrap());
    assert!(place.two.raise(&alarm(AlarmKind::OffHours, "a")).await.unwrap());
    let page = place.one.alarms(KEY_STORE, None, 3).await.unwrap();
    assert_eq!(page.iter().map(|raised| raised.alarm.who.as_str()).collect::<Vec<_>>(), ["a", "d", "c"]);
    let rest = place.one.alarms(KEY_STORE, Some(page[2].id), 3).await.unwrap();
    assert_eq!(rest.iter().map(|raised| raised.alarm.who.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(place.one.alarms(KEY_STORE, Some(rest[1].id), 3).await.unwrap(), []);
    assert_eq!(place.one.alarms(KEY_STORE, Some(u64::MAX), 1).await.unwrap().len(), 1);
}

pub(crate) async fn one_replica_delivers_what_is_oldest(place: Place) {
    let place = place.enrolled().await.delivering_to(&[HOOK, LOG]);
    let (one, two) = (place.handle(0), place.handle(1));
    assert_eq!(one.next_delivery(HOOK).await.unwrap(), None);
    for who in ["a", "b"] {
        assert!(one.raise(&alarm(AlarmKind::FirstSeen, who)).await.unwrap());
    }
    let waiting = two.next_delivery(HOOK).await.unwrap().unwrap();
    assert_eq!((waiting.alarm.who.as_str(), waiting.attempts, waiting.next_ms), ("a", 0, 0));
    assert!(one.claim_delivery(&waiting, NOW_MS + 30_000).await.unwrap());
    assert!(!two.claim_delivery(&waiting, NOW_MS + 30_000).await.unwrap(), "the other has it");
    // It did not work: it stays first.
    one.put_off_delivery(&waiting, NOW_MS + 1_000, false).await.unwrap();
    let again = two.next_delivery(HOOK).await.unwrap().unwrap();
    assert_eq!((again.id, again.attempts, again.next_ms), (waiting.id, 1, NOW_MS + 1_000));
    assert!(two.claim_delivery(&again, NOW_MS + 60_000).await.unwrap());
    // Whoever was late changes nothing.
    one.put_off_delivery(&waiting, NOW_MS, true).await.unwrap();
    assert_eq!(one.next_delivery(HOOK).await.unwrap().unwrap().next_ms, NOW_MS + 60_000);
    // One that is taken badly lets others pass.
    two.put_off_delivery(&again, NOW_MS + 300_000, true).await.unwrap();
    let next = one.next_delivery(HOOK).await.unwrap().unwrap();
    assert_eq!(next.alarm.who, "b");
    one.finish_delivery(&next).await.unwrap();
    assert_eq!(two.next_delivery(HOOK).await.unwrap().unwrap().id, waiting.id);
    two.finish_delivery(&again).await.unwrap();
    assert_eq!(one.next_delivery(HOOK).await.unwrap(), None);
    assert_eq!(one.next_delivery(LOG).await.unwrap().unwrap().id, waiting.id, "receivers are apart");
    assert!(alarms(&two).await.iter().all(|raised| !raised.is_delivered));
    // Whoever is out of the configuration is waited for no longer.
    drop((one, two));
    let place = place.delivering_to(&[HOOK]);
    assert!(alarms(&place.two).await.iter().all(|raised| raised.is_delivered));
}

pub(crate) async fn a_principal_at_another_key_is_told_of_once(place: Place) {
    let place = place.enrolled().await;
    let store = place.handle(0);
    let mut teller = Teller::new(&store, 101).await;
    teller.uses(&store, NOW_MS, vec![used("app", 1)]).await;
    let later = NOW_MS + 8 * DAY_MS;
    let at = |key: &str, service: &str| {
        let mut other = used("app", 1);
        (other.user.key, other.user.service) = (key.parse().unwrap(), Some(service.to_owned()));
        other
    };
    let s3 = "s3.amazonaws.com";
    assert_eq!(teller.uses(&store, later, vec![at("a", s3)]).await, []);
    // By two services in one tally: the key is new to it once, and one service is new.
    let uses = vec![at("b", "rds.amazonaws.com"), at("b", s3)];
    assert_eq!(teller.uses(&store, later, uses.clone()).await, [AlarmKind::FirstSeen, AlarmKind::FirstSeen]);
    let told = alarms(&store).await;
    assert_eq!(told[0].alarm.text, "principal app used key b for the first time");
    teller.rules.quiet_ms = 1;
    assert_eq!(teller.uses(&place.handle(1), later + 1, uses).await, []);
}

/// More users than one transaction takes.
pub(crate) async fn a_long_tally_counts_once_and_is_summed_up(place: Place) {
    let place = place.enrolled().await;
    let store = place.handle(0);
    let mut teller = Teller::new(&store, 101).await;
    teller.rules.learn_ms = 0;
    teller.uses(&store, NOW_MS, vec![used("app", 1)]).await;
    let users: Vec<_> = (0..limits::TALLY_USES_MAX).map(|number| used(&format!("{number:02}"), 100)).collect();
    let now_ms = NOW_MS + HOUR_MS;
    assert_eq!(teller.uses(&store, now_ms, users.clone()).await, [AlarmKind::FirstSeen; 17]);
    let told = alarms(&store).await;
    assert_eq!(told[0].alarm.text, "and 48 more were seen for the first time in one tally; the audit log has them");
    // Again under its number, at the other replica, with what is of the sending.
    let again = Tally {
        number: teller.counter,
        overdue: vec![OverdueLease { custodian_id: CustodianId([3; 32]), left_ms: 0 }],
        ..tally(now_ms - 60_000, users.clone())
    };
    teller.counter += 1;
    let new = NewTally { key_store_id: KEY_STORE, tally: &again, rules: &teller.rules };
    let raised = place.handle(1).tally(new, teller.origin(now_ms)).await.unwrap();
    assert_eq!(raised, [AlarmKind::ClockDrift, AlarmKind::LeaseTrouble]);
    // All 64 are remembered, each of them with 100 uses: 300 are not unusual two days later, and 301 are.
    let later = NOW_MS + 2 * DAY_MS;
    let more = |count| users.iter().map(|tallied| used(tallied.user.principal.as_deref().unwrap(), count)).collect();
    assert_eq!(teller.uses(&store, later, more(300)).await, []);
    assert_eq!(teller.uses(&store, later, more(1)).await, [AlarmKind::UnusualRate; 64]);
}

/// A day after they told something.
pub(crate) async fn numbers_of_boots_that_are_gone_are_forgotten(place: Place) {
    let place = place.enrolled().await;
    let store = place.handle(0);
    let (mut gone, mut other) = (Teller::new(&store, 101).await, Teller::new(&store, 102).await);
    let (mut early, mut late) = (Teller::new(&store, 103).await, Teller::new(&store, 104).await);
    for teller in [&mut gone, &mut other, &mut early, &mut late] {
        teller.rules.refused_burst = 10;
        teller.rules.quiet_ms = 1;
    }
    let told = async |teller: &mut Teller, now_ms| {
        teller.counter += 1;
        let tally = Tally { number: 7, since_ms: now_ms, ..tally(now_ms, vec![refused("thief", 10)]) };
        let new = NewTally { key_store_id: KEY_STORE, tally: &tally, rules: &teller.rules };
        store.tally(new, teller.origin(now_ms)).await.unwrap().len()
    };
    assert_eq!(told(&mut gone, NOW_MS).await, 1);
    assert_eq!(told(&mut gone, NOW_MS + 1).await, 0, "under its number");
    assert_eq!(told(&mut early, NOW_MS + DAY_MS).await, 1, "it takes away what is older than a day");
    assert_eq!(told(&mut gone, NOW_MS + DAY_MS + 1).await, 0);
    assert_eq!(told(&mut late, NOW_MS + DAY_MS + 2).await, 1);
    assert_eq!(told(&mut gone, NOW_MS + DAY_MS + 3).await, 1, "forgotten");
    assert_eq!(told(&mut other, NOW_MS + DAY_MS + 4).await, 1, "boots are apart");
}

pub(crate) async fn a_storm_is_told_of_once_an_hour(place: Place) {
    let place = place.enrolled().await.delivering_to(&[HOOK, LOG]);
    let (one, two) = (place.handle(0), place.handle(1));
    let start = NOW_MS - NOW_MS % HOUR_MS;
    let raise = async |store: &Store, number: u64, at_ms: u64| {
        let new = NewAlarm { at_ms, ..alarm(AlarmKind::FirstSeen, &number.to_string()) };
        store.raise(&new).await.unwrap()
    };
    for number in 0..256 {
        assert!(raise(&one, number, start + number).await, "{number}");
    }
    assert!(!raise(&two, 0, start + 300).await, "it keeps quiet");
    assert_eq!(alarms(&two).await.len(), 256);
    assert!(raise(&two, 256, start + 300).await, "in its place it is told that there are more");
    let told = alarms(&one).await.swap_remove(0).alarm;
    assert_eq!((told.kind, told.who.as_str()), (AlarmKind::UnusualRate, "alarms"));
    assert!(told.text.starts_with("256 alarms were raised in this hour"), "{}", told.text);
    for number in 257..260 {
        assert!(!raise(&one, number, start + HOUR_MS - 1).await);
    }
    assert!(raise(&one, 260, start + HOUR_MS).await, "the next hour");
    let other = KeyStoreId([0x55; 32]);
    assert!(one.enrol(other, &first(), b"policy", NOW_MS).await.unwrap());
    let elsewhere = NewAlarm { key_store_id: other, at_ms: start, ..alarm(AlarmKind::FirstSeen, "a") };
    assert!(two.raise(&elsewhere).await.unwrap(), "key stores are apart");
}

pub(crate) async fn those_that_are_taken_badly_come_in_turn(place: Place) {
    let place = place.enrolled().await.delivering_to(&[HOOK]);
    let store = place.handle(0);
    for who in ["a", "b", "c"] {
        assert!(store.raise(&alarm(AlarmKind::FirstSeen, who)).await.unwrap());
    }
    let mut order = Vec::new();
    for turn in 0..9 {
        let waiting = store.next_delivery(HOOK).await.unwrap().unwrap();
        assert!(store.claim_delivery(&waiting, NOW_MS).await.unwrap());
        store.put_off_delivery(&waiting, NOW_MS + 1_000 * turn, true).await.unwrap();
        order.push(waiting.alarm.who);
    }
    assert_eq!(order, ["a", "b", "c", "a", "b", "c", "a", "b", "c"]);
    assert!(store.raise(&alarm(AlarmKind::FirstSeen, "d")).await.unwrap());
    assert_eq!(store.next_delivery(HOOK).await.unwrap().unwrap().alarm.who, "d", "a new one passes them");
}

/// More than one statement adds, each of them once.
pub(crate) async fn what_waits_for_others_is_counted(place: Place) {
    let names: Vec<String> = (0..17).map(|number| format!("webhook {number}")).collect();
    let place = place.enrolled().await.delivering_to(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(place.one.raise(&alarm(AlarmKind::FirstSeen, "a")).await.unwrap());
    assert!(place.one.raise(&alarm(AlarmKind::FirstSeen, "b")).await.unwrap());
    assert_eq!(place.two.deliveries_left_over().await.unwrap(), 0);
    for name in &names {
        assert_eq!(place.two.next_delivery(name).await.unwrap().unwrap().alarm.who, "a");
    }
    let place = place.delivering_to(&[HOOK, "webhook 3"]);
    assert_eq!(place.two.deliveries_left_over().await.unwrap(), 32);
}

/// On SQLite alone: it takes tens of thousands of statements, which are the same.
#[tokio::test]
async fn the_oldest_alarms_go_with_their_deliveries() {
    let place = Place::sqlite().await.enrolled().await.delivering_to(&[LOG]);
    let store = place.handle(1);
    let mut teller = Teller::new(&store, 101).await;
    teller.rules.learn_ms = 0;
    let mut raised = 0;
    // Each of them once.
    for round in 0..=limits::ALARMS_KEPT_MAX / 16 {
        let users = (0..16).map(|number| used(&format!("{round:04}-{number:02}"), 1)).collect();
        // Eight rounds in an hour: no storm.
        raised += teller.uses(&store, NOW_MS + u64::from(round) * HOUR_MS / 8, users).await.len();
    }
    // The service is new once, and the first tally's last principal is summed up for that.
    assert_eq!(raised, usize::try_from(limits::ALARMS_KEPT_MAX).unwrap() + 17);
    let kept = store.alarms(KEY_STORE, None, u32::MAX).await.unwrap();
    assert_eq!(kept.len(), usize::try_from(limits::ALARMS_KEPT_MAX).unwrap());
    let oldest = store.next_delivery(LOG).await.unwrap().unwrap();
    assert_eq!((oldest.id, oldest.alarm.who.as_str()), (kept[kept.len() - 1].id, "0001-00"));
}

/// On SQLite alone: it takes tens of thousands of statements, which are the same.
#[tokio::test]
async fn users_have_a_bound() {
    let place = Place::sqlite().await.enrolled().await;
    let store = place.handle(1);
    let mut teller = Teller::new(&store, 101).await;
    let users = |from: usize| (from..from + 64).map(|number| used(&format!("{number:05}"), 1)).collect::<Vec<_>>();
    // The service takes a place among those who were seen.
    for from in (0..limits::ALARM_USERS_MAX - 64).step_by(64) {
        assert_eq!(teller.uses(&store, NOW_MS, users(from)).await, []);
    }
    let last = limits::ALARM_USERS_MAX - 64;
    assert_eq!(teller.uses(&store, NOW_MS + 1, users(last)).await, [AlarmKind::UnusualRate]);
    assert_eq!(teller.uses(&store, NOW_MS + 1, users(last + 64)).await, [], "it keeps quiet");
    let told = alarms(&store).await;
    assert!(told[0].alarm.text.contains("more users than are remembered"), "{told:?}");
    // Those who are known stay known.
    let late = NOW_MS + 8 * DAY_MS;
    assert_eq!(teller.uses(&store, late, users(0)).await, []);
    assert_eq!(teller.uses(&store, late, users(last + 64)).await.len(), 16 + 1 + 1, "summed up");
    // A quarter of a year later there is room, but for those who were seen meanwhile.
    let much_later = NOW_MS + 91 * DAY_MS;
    teller.rules.learn_ms = 1_000 * DAY_MS;
    assert_eq!(teller.uses(&store, much_later, users(last + 64)).await, []);
    teller.rules.learn_ms = 0;
    assert_eq!(teller.uses(&store, much_later, users(last + 64)).await, []);
    assert_eq!(teller.uses(&store, much_later, users(0)).await, []);
    assert_eq!(teller.uses(&store, much_later, users(64)).await.len(), 16 + 1, "forgotten");
}

/// What the longest history takes fits into its place.
pub(crate) async fn two_weeks_of_use_are_remembered(place: Place) {
    let place = place.enrolled().await;
    let store = place.handle(0);
    let mut teller = Teller::new(&store, 101).await;
    let mut history = UseHistory::new(NOW_MS);
    for hour in 0..16 * 24 {
        let now_ms = NOW_MS + hour * HOUR_MS;
        history.add(now_ms, 4_000_000_000, 4_000_000_000);
        assert_eq!(
            teller.uses(&place.handle(usize::try_from(hour).unwrap()), now_ms, vec![used("app", 4_000_000_000)]).await,
            []
        );
    }
    assert_eq!(history.past.len(), limits::ALARM_DAYS_MAX);
}
