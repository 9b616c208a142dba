//! Leases, nonces, counters, records, approvals, settings.

use core::num::NonZeroU32;
use std::sync::Arc;

use holdfast_custodian::store::{
    Approved, Granted, LeaseTimes, NewApproval, NewLease, Origin, StoreError, StoredOverlay, StoredPolicy,
    WaitingRelease,
};
use holdfast_shared::alarm::AlarmKind;
use holdfast_shared::ids::{AdministratorId, BootId, LeaseId};
use holdfast_shared::limits;

use crate::fixture::{BOOT, KEY_STORE, LEASE, NOW_MS, Place, alarm, judged_by, lease, message, record};

const KEPT: Granted = Granted::Kept { ended: None };

fn other(number: u32) -> LeaseId {
    let mut id = [0xAA; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    LeaseId(id)
}

pub(crate) async fn a_nonce_is_spent_once(place: Place) {
    let place = place.enrolled().await;
    for round in 1..=5_u8 {
        let racers: Vec<_> = (0..6_u32)
            .map(|racer| {
                let store = place.handle(usize::try_from(racer).unwrap());
                let new = NewLease { nonce: [round; 32], ..lease(other(u32::from(round) * 100 + racer), 0) };
                tokio::spawn(async move { store.grant(&new, &record(true)).await.unwrap() })
            })
            .collect();
        let mut kept = 0;
        for task in racers {
            match task.await.unwrap() {
                Granted::Kept { .. } => kept += 1,
                other => assert_eq!(other, Granted::NonceSpent),
            }
        }
        assert_eq!(kept, 1, "round {round}");
    }
    assert_eq!(place.two.leases_of(KEY_STORE, NOW_MS).await.unwrap().len(), 6);
    // Remembered for longer than a challenge lives, and then forgotten.
    let again = |granted_ms| NewLease { nonce: [1; 32], granted_ms, expires_ms: granted_ms + 1, ..lease(other(9), 0) };
    let long = 10 * limits::CHALLENGE_LIFE_MS;
    assert_eq!(place.one.grant(&again(NOW_MS + long), &record(true)).await.unwrap(), Granted::NonceSpent);
    let later = NewLease { granted_ms: NOW_MS + long + 1, expires_ms: NOW_MS + long + 2, ..lease(other(8), 0) };
    assert_eq!(place.one.grant(&later, &record(true)).await.unwrap(), KEPT);
    assert_eq!(place.one.grant(&again(NOW_MS + long + 1), &record(true)).await.unwrap(), KEPT);
}

pub(crate) async fn a_release_is_decided_by_what_is_in_force(place: Place) {
    let place = place.enrolled().await;
    let store = &place.one;
    let overlay = StoredOverlay { epoch: 4, signed: vec![1] };
    assert!(place.two.put_overlay(KEY_STORE, judged_by(0), &overlay, NOW_MS).await.unwrap());
    let policy = StoredPolicy { epoch: 2, policy: vec![2], signed_update: None };
    assert!(place.two.put_policy(KEY_STORE, judged_by(1), &policy, NOW_MS).await.unwrap());
    let new = |overlay_epoch, policy_epoch| NewLease { overlay_epoch, policy_epoch, ..lease(other(1), 1) };
    for (new, expected) in [
        (new(0, 2), Granted::OverlayChanged),
        (new(5, 2), Granted::OverlayChanged),
        (new(4, 1), Granted::PolicyChanged),
        (new(4, 3), Granted::PolicyChanged),
        (new(4, 2), KEPT),
        (new(4, 2), Granted::NonceSpent),
    ] {
        assert_eq!(store.grant(&new, &record(true)).await.unwrap(), expected, "{new:?}");
    }
    assert_eq!(place.two.records(KEY_STORE, None, 10).await.unwrap().len(), 2, "what was not kept is not on record");
}

/// A block that was acknowledged before a release is on record holds for it.
pub(crate) async fn no_release_slips_past_a_block(place: Place) {
    let place = place.enrolled().await;
    for round in 1..=10_u64 {
        let blocker = {
            let store = place.handle(0);
            let overlay = StoredOverlay { epoch: round, signed: vec![1] };
            tokio::spawn(
                async move { store.put_overlay(KEY_STORE, judged_by(round - 1), &overlay, NOW_MS).await.unwrap() },
            )
        };
        let release = {
            let store = place.handle(1);
            let id = other(u32::try_from(round).unwrap());
            let new = NewLease { overlay_epoch: round - 1, ..lease(id, 1) };
            tokio::spawn(async move {
                let granted = store.grant(&new, &record(true)).await.unwrap();
                let block = store.overlay(KEY_STORE).await.unwrap();
                (granted, block)
            })
        };
        assert!(blocker.await.unwrap());
        let (granted, block) = release.await.unwrap();
        match granted {
            Granted::OverlayChanged => assert_eq!(block.unwrap().epoch, round),
            other => assert_eq!(other, KEPT),
        }
        let late = NewLease { overlay_epoch: round - 1, ..lease(other(1_000), u8::try_from(round).unwrap()) };
        assert_eq!(place.handle(1).grant(&late, &record(true)).await.unwrap(), Granted::OverlayChanged);
    }
}

pub(crate) async fn a_message_changes_something_once(place: Place) {
    let place = place.enrolled().await;
    let report = async |handle: usize, counter| place.handle(handle).report(KEY_STORE, &[], message(counter)).await;
    let replayed = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Replayed(_)));
    assert!(replayed(report(0, 0).await), "counters begin with 1");
    report(0, 5).await.unwrap();
    assert!(replayed(report(1, 5).await), "at another replica");
    report(1, 3).await.unwrap();
    assert!(replayed(report(0, 3).await), "overtaken, then replayed");
    report(0, 70).await.unwrap();
    assert!(replayed(report(1, 6).await), "too far behind to know");
    report(1, 7).await.unwrap();
    // Everything that changes something counts.
    let store = &place.two;
    assert!(replayed(store.renew(KEY_STORE, message(70), NOW_MS + 1).await));
    assert!(store.publish(&crate::fixture::version(1, 1), message(70)).await.is_err());
    assert!(store.copy(&crate::fixture::copy(1, 1), message(70)).await.is_err());
    assert!(store.commit(KEY_STORE, 1, crate::fixture::blob_id(1, 1), message(70)).await.is_err());
    assert!(store.deposit(&crate::fixture::share(1, 1), message(70)).await.is_err());
    assert!(store.retire(KEY_STORE, 1, false, message(70)).await.is_err());
    assert_eq!(store.register(KEY_STORE).await.unwrap(), None);
    assert!(store.shares(KEY_STORE).await.unwrap().is_empty());
    let window = store.lease(LEASE, NOW_MS).await.unwrap().unwrap().counters;
    for (counter, accepted) in [(70, false), (7, false), (8, true), (71, true)] {
        assert_eq!({ window }.accept(counter).is_ok(), accepted, "{counter}");
    }
}

pub(crate) async fn of_copies_of_a_message_that_race_one_counts(place: Place) {
    let place = place.enrolled().await;
    for counter in 1..=10_u64 {
        let racers: Vec<_> = (0..6)
            .map(|racer| {
                let store = place.handle(racer);
                tokio::spawn(async move { store.renew(KEY_STORE, message(counter), NOW_MS + 60_000).await.is_ok() })
            })
            .collect();
        let mut accepted = 0;
        for task in racers {
            accepted += usize::from(task.await.unwrap());
        }
        assert_eq!(accepted, 1, "counter {counter}");
    }
}

pub(crate) async fn a_lease_ends(place: Place) {
    let place = place.enrolled().await;
    let (one, two) = (&place.one, &place.two);
    let times = LeaseTimes { expires_ms: NOW_MS + 60_000, seen_ms: NOW_MS };
    assert_eq!(two.lease_times(LEASE, NOW_MS).await.unwrap(), Some(times));
    one.note_seen(LEASE, NOW_MS + 500).await.unwrap();
    one.note_seen(LEASE, NOW_MS + 400).await.unwrap();
    assert_eq!(two.lease_times(LEASE, NOW_MS).await.unwrap(), Some(LeaseTimes { seen_ms: NOW_MS + 500, ..times }));
    assert_eq!(two.lease_holders(KEY_STORE, NOW_MS).await.unwrap()[0].seen_ms, NOW_MS + 500);
    one.renew(KEY_STORE, Origin { now_ms: NOW_MS + 600, ..message(1) }, NOW_MS + 90_000).await.unwrap();
    let renewed = two.lease(LEASE, NOW_MS + 60_000).await.unwrap().unwrap();
    assert_eq!(renewed.times, LeaseTimes { expires_ms: NOW_MS + 90_000, seen_ms: NOW_MS + 600 });
    assert_eq!((renewed.boot_id, renewed.document, renewed.channel_keys), (BOOT, vec![5; 3], vec![6; 3]));
    // By itself.
    let ended = NOW_MS + 90_000;
    assert!(two.lease(LEASE, ended).await.unwrap().is_none() && two.lease_times(LEASE, ended).await.unwrap().is_none());
    assert!(two.leases_of(KEY_STORE, ended).await.unwrap().is_empty());
    assert!(
        two.live_leases(ended).await.unwrap().is_empty()
            && two.lease_holders(KEY_STORE, ended).await.unwrap().is_empty()
    );
    let late = one.renew(KEY_STORE, Origin { now_ms: ended, ..message(2) }, ended + 1).await;
    assert!(matches!(late, Err(StoreError::LeaseEnded)), "{late:?}");
    // By order.
    assert_eq!(two.live_leases(NOW_MS).await.unwrap(), [LEASE]);
    let ended = alarm(AlarmKind::LeaseTrouble, "boot");
    one.end_lease(LEASE, &ended).await.unwrap();
    two.end_lease(LEASE, &ended).await.unwrap();
    assert_eq!(two.alarms(KEY_STORE, None, 9).await.unwrap().len(), 1);
    assert!(two.live_leases(NOW_MS).await.unwrap().is_empty());
    assert!(matches!(two.report(KEY_STORE, &[], message(3)).await, Err(StoreError::LeaseEnded)));
}

pub(crate) async fn leases_have_a_bound(place: Place) {
    let place = place.enrolled().await;
    let most = u32::try_from(limits::LEASES_MAX).unwrap();
    for number in 1..most {
        assert_eq!(place.one.grant(&lease(other(number), 0), &record(true)).await.unwrap(), KEPT);
    }
    place.one.note_seen(LEASE, NOW_MS + 1).await.unwrap();
    let ended = Granted::Kept { ended: Some(other(1)) };
    assert_eq!(place.two.grant(&lease(other(most), 0), &record(true)).await.unwrap(), ended, "silent longest");
    let live = place.two.live_leases(NOW_MS).await.unwrap();
    assert!(live.len() == limits::LEASES_MAX && live.contains(&LEASE) && !live.contains(&other(1)));
    // Those that ended need no room.
    let later = NewLease { granted_ms: NOW_MS + 60_000, expires_ms: NOW_MS + 70_000, ..lease(other(0), 0) };
    assert_eq!(place.two.grant(&later, &record(true)).await.unwrap(), KEPT);
    assert_eq!(place.one.live_leases(NOW_MS).await.unwrap(), [other(0)]);
}

pub(crate) async fn boots_have_a_bound_of_the_policy(place: Place) {
    let place = place.enrolled().await;
    let boot = |byte, number| NewLease {
        boot_id: BootId([byte; 16]),
        boots_max: NonZeroU32::new(2),
        ..lease(other(number), u8::try_from(number).unwrap())
    };
    let racers = [boot(1, 1), boot(2, 2), boot(3, 3)].into_iter().enumerate().map(|(racer, new)| {
        let store = place.handle(racer);
        tokio::spawn(async move { (store.grant(&new, &record(true)).await.unwrap(), new.boot_id) })
    });
    let mut winners = Vec::new();
    for task in racers.collect::<Vec<_>>() {
        match task.await.unwrap() {
            (Granted::TooManyBoots, _) => {}
            (granted, boot_id) => {
                assert_eq!(granted, KEPT);
                winners.push(boot_id);
            }
        }
    }
    assert_eq!(winners.len(), 1, "beside the boot of the fixture");
    let again = NewLease { boot_id: winners[0], ..boot(0, 4) };
    assert_eq!(place.one.grant(&again, &record(true)).await.unwrap(), KEPT, "it holds a lease already");
    assert_eq!(place.one.grant(&boot(9, 5), &record(true)).await.unwrap(), Granted::TooManyBoots);
}

pub(crate) async fn records_come_in_pages_and_have_a_bound(place: Place) {
    let place = place.enrolled().await;
    let refused = |number: u64| holdfast_custodian::store::ReleaseRecord { at_ms: number, ..record(false) };
    for number in 0..10 {
        place.one.record_refusal(&refused(number)).await.unwrap();
    }
    let first = place.two.records(KEY_STORE, None, 4).await.unwrap();
    assert_eq!(first.iter().map(|stored| stored.record.at_ms).collect::<Vec<_>>(), [9, 8, 7, 6]);
    assert_eq!(first[0].record, refused(9));
    let next = place.two.records(KEY_STORE, Some(first[3].id), 100).await.unwrap();
    assert_eq!(next.iter().map(|stored| stored.record.at_ms).collect::<Vec<_>>(), [5, 4, 3, 2, 1, 0, NOW_MS]);
    assert_eq!(next.last().unwrap().record, record(true), "the release of the fixture, with all its fields");
    assert!(place.two.records(KEY_STORE, Some(1), 10).await.unwrap().is_empty());
}

fn waiting(number: u32, first_ms: u64, last_ms: u64) -> WaitingRelease {
    WaitingRelease {
        boot_id: BootId(other(number).0),
        module_id: "i-1".to_owned(),
        measurements: vec![1],
        document: last_ms.to_be_bytes().to_vec(),
        first_ms,
        last_ms,
    }
}

pub(crate) async fn releases_wait_for_approvals(place: Place) {
    let place = place.enrolled().await;
    let (one, two) = (&place.one, &place.two);
    one.note_waiting(KEY_STORE, &waiting(1, 10, 10)).await.unwrap();
    one.note_waiting(KEY_STORE, &waiting(2, 11, 11)).await.unwrap();
    two.note_waiting(KEY_STORE, &waiting(1, 12, 12)).await.unwrap();
    assert_eq!(two.waiting_releases(KEY_STORE).await.unwrap(), [waiting(1, 10, 12), waiting(2, 11, 11)]);
    let most = u32::try_from(limits::WAITING_RELEASES_MAX).unwrap();
    for number in 3..=most + 1 {
        one.note_waiting(KEY_STORE, &waiting(number, u64::from(number) + 20, u64::from(number) + 20)).await.unwrap();
    }
    let kept = two.waiting_releases(KEY_STORE).await.unwrap();
    assert!(
        kept.len() == limits::WAITING_RELEASES_MAX && !kept.iter().any(|boot| boot.boot_id == waiting(2, 0, 0).boot_id)
    );
    let boot = waiting(1, 0, 0).boot_id;
    let (alice, bob) = (AdministratorId([1; 32]), AdministratorId([2; 32]));
    for (administrator_id, signed, ends_ms, expected) in [
        (bob, &b"bob"[..], 10, Approved::Kept),
        (alice, b"alice", 20, Approved::Kept),
        (bob, b"bob again", 30, Approved::Kept),
        // A replay takes nothing away.
        (bob, b"bob", 10, Approved::Known),
    ] {
        let approval = NewApproval { boot_id: boot, administrator_id, signed, expires_ms: NOW_MS + ends_ms };
        assert_eq!(one.approve_release(KEY_STORE, &approval, NOW_MS).await.unwrap(), expected);
    }
    let approvals = async |now_ms| two.release_approvals(KEY_STORE, boot, now_ms).await.unwrap();
    assert_eq!(approvals(NOW_MS).await, [(alice, b"alice".to_vec()), (bob, b"bob again".to_vec())]);
    assert_eq!(approvals(NOW_MS + 20).await, [(bob, b"bob again".to_vec())]);
    assert!(two.release_approvals(KEY_STORE, BOOT, NOW_MS).await.unwrap().is_empty(), "another boot's");
    let obtained = NewLease { boot_id: boot, ..lease(other(9), 0) };
    assert_eq!(one.grant(&obtained, &record(true)).await.unwrap(), KEPT);
    assert!(!two.waiting_releases(KEY_STORE).await.unwrap().iter().any(|waiting| waiting.boot_id == boot));
}

pub(crate) async fn a_setting_is_made_once(place: Place) {
    let tasks: Vec<_> = (0..6_u8)
        .map(|offered| {
            let store = place.handle(offered.into());
            tokio::spawn(async move { store.setting("name", &[offered]).await.unwrap() })
        })
        .collect();
    let mut values = Vec::new();
    for task in tasks {
        values.push(task.await.unwrap());
    }
    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    assert_eq!(Arc::clone(&place.two).setting("other", b"else").await.unwrap(), b"else");
}
