//! The end of a key: ordered in advance, cancelled, carried out.

use holdfast_shared::keystore::VersionState;

use super::*;

const DAY_MS: u64 = 24 * 3_600_000;
const DESTROYED: Effect = Effect::ChangedRoot(Outcome::Done);

fn with_key() -> Desk {
    let mut desk = Desk::new();
    assert_eq!(desk.order(Action::CreateKey { id: id("a"), usage: KeyUsage::ENCRYPT_DECRYPT }), DONE);
    assert_eq!(desk.order(Action::RotateKey { id: id("a") }), DONE);
    desk
}

fn schedule(days: u64) -> Action {
    Action::ScheduleKeyDestruction { id: id("a"), waiting_ms: days * DAY_MS }
}

fn cancel() -> Action {
    Action::CancelKeyDestruction { id: id("a") }
}

fn destroy() -> Action {
    Action::DestroyKey { id: id("a") }
}

#[test]
fn a_key_waits_for_its_destruction_and_can_be_kept() {
    let mut desk = with_key();
    assert_eq!(reason(&desk.order(cancel())), "key a is enabled, not pending destruction");
    assert_eq!(desk.order(schedule(7)), DONE);
    let key = &desk.body.external_keys[0];
    assert_eq!((key.state, key.destroy_after_ms), (KeyState::PendingDestruction, Some(NOW_MS + 7 * DAY_MS)));
    for refused in [schedule(30), Action::EnableKey { id: id("a") }, Action::RotateKey { id: id("a") }] {
        assert!(reason(&desk.order(refused)).contains("pending destruction"));
    }
    assert_eq!(desk.order(cancel()), DONE);
    let key = &desk.body.external_keys[0];
    assert_eq!((key.state, key.destroy_after_ms), (KeyState::Disabled, None), "kept, and not in use");
    assert!(!is_due(&desk.body, u64::MAX));
    assert_eq!(desk.order(Action::EnableKey { id: id("a") }), DONE);
}

#[test]
fn a_waiting_period_has_a_day_at_least() {
    let desk = &mut with_key();
    for (waiting_ms, accepted) in
        [(0, false), (DAY_MS - 1, false), (DAY_MS, true), (366 * DAY_MS, true), (u64::MAX, false)]
    {
        let command = desk.command(Action::ScheduleKeyDestruction { id: id("a"), waiting_ms });
        assert_eq!(command::sign(&command, &desk.signing, &SystemRandom::new()).is_ok(), accepted, "{waiting_ms}");
    }
}

#[test]
fn a_key_whose_time_has_come_is_destroyed_by_whoever_looks() {
    let mut desk = with_key();
    assert_eq!(desk.order(Action::CreateKey { id: id("b"), usage: KeyUsage::ENCRYPT_DECRYPT }), DONE);
    assert_eq!(desk.order(schedule(1)), DONE);
    let due_ms = NOW_MS + DAY_MS;
    assert!(!is_due(&desk.body, due_ms - 1));
    assert_eq!(carry_out_due(&mut desk.body, due_ms - 1), []);
    assert!(is_due(&desk.body, due_ms));
    assert_eq!(carry_out_due(&mut desk.body, due_ms), [id("a")]);
    assert!(!is_due(&desk.body, u64::MAX), "once");
    assert_eq!(desk.body.external_keys[0].state, KeyState::Destroyed);
    assert_eq!(desk.body.external_keys[1].state, KeyState::Enabled, "and no other");
    cbor::decode::<Body>(&cbor::encode(&desk.body)).unwrap();
}

#[test]
fn what_is_left_of_a_destroyed_key_is_its_id() {
    let mut desk = with_key();
    assert!(reason(&desk.order(destroy())).contains("only a key that is pending destruction is destroyed"));
    assert_eq!(desk.order(schedule(7)), DONE);
    assert_eq!(desk.order(destroy()), DESTROYED);
    let key = &desk.body.external_keys[0];
    let left: Vec<_> = key.versions.iter().map(|version| (version.number, version.state())).collect();
    assert_eq!((key.state, left), (KeyState::Destroyed, vec![(2, VersionState::Destroyed)]));
    cbor::decode::<Body>(&cbor::encode(&desk.body)).unwrap();
    for order in
        [schedule(7), cancel(), destroy(), Action::EnableKey { id: id("a") }, Action::RotateKey { id: id("a") }]
    {
        assert_eq!(reason(&desk.order(order)), "there is no key a");
    }
    let create = Action::CreateKey { id: id("a"), usage: KeyUsage::ENCRYPT_DECRYPT };
    assert!(reason(&desk.order(create)).ends_with("its id is never used again"));
    let Effect::Answered(Outcome::Keys { keys }) = desk.order(Action::ListKeys) else { panic!("no list") };
    assert_eq!((keys[0].state, keys[0].versions), (KeyState::Destroyed, 0));
}

#[test]
fn without_the_waiting_period_it_takes_what_changes_of_custody_take() {
    let mut desk = with_key();
    assert_eq!(desk.order(schedule(7)), DONE);
    desk.body.thresholds = Thresholds { custody: 2, ..Thresholds::ONE };
    assert_eq!(desk.order(destroy()), Effect::Waiting);
    assert_eq!(desk.order(Action::RotateRootKey), Effect::Waiting);
    desk.body.thresholds = Thresholds::ONE;
    assert_eq!(desk.order(Action::RotateRootKey), DESTROYED);
}
