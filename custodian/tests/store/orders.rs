//! Commands and block overlays.

use holdfast_custodian::store::{Merged, NewVersion, Queued, StoreError, StoredCommand, StoredOverlay};
use holdfast_shared::channel::Seen;
use holdfast_shared::limits;

use crate::fixture::{KEY_STORE, NOW_MS, Place, command, command_id, judged_by, message, version};

/// Each byte of an envelope stands for one signature.
fn gather(known: &[u8], offered: &[u8]) -> Merged {
    let mut both = known.to_vec();
    both.extend(offered.iter().filter(|signature| !known.contains(signature)));
    let signers = u32::try_from(both.len()).unwrap();
    if both == known { Merged::Nothing } else { Merged::Replaced { envelope: both, signers } }
}

async fn queue(place: &Place, handle: usize, byte: u8, envelope: &'static [u8]) -> Queued {
    let merge = |known: &[u8]| Ok(gather(known, envelope));
    place.handle(handle).queue(&command(byte, envelope), NOW_MS, &merge).await.unwrap()
}

pub(crate) async fn signatures_of_copies_are_gathered(place: Place) {
    let place = place.enrolled().await;
    assert_eq!(queue(&place, 0, 1, b"a").await, Queued::Waits);
    assert_eq!(queue(&place, 1, 1, b"a").await, Queued::Known);
    assert_eq!(queue(&place, 1, 1, b"b").await, Queued::Waits, "as many signatures, of another");
    let (one, two) = tokio::join!(queue(&place, 0, 1, b"c"), queue(&place, 1, 1, b"d"));
    assert_eq!((one, two), (Queued::Waits, Queued::Waits));
    let mut envelope = place.one.command(KEY_STORE, command_id(1)).await.unwrap().unwrap();
    envelope.sort_unstable();
    assert_eq!(envelope, b"abcd", "none of two that come at once is lost");
    let differs = |_: &[u8]| Ok(Merged::Differs);
    assert_eq!(place.one.queue(&command(1, b"x"), NOW_MS, &differs).await.unwrap(), Queued::Differs);
    let fails = |_: &[u8]| Err(StoreError::Damaged("command"));
    assert!(place.one.queue(&command(1, b"x"), NOW_MS, &fails).await.is_err());
    assert_eq!(place.one.pending(KEY_STORE, NOW_MS).await.unwrap().len(), 1);
    // What was carried out keeps the signatures under which it was.
    place.one.report(KEY_STORE, &[(command_id(1), b"done".to_vec())], message(1)).await.unwrap();
    assert_eq!(queue(&place, 0, 1, b"e").await, Queued::Known);
    assert_eq!(place.one.command(KEY_STORE, command_id(1)).await.unwrap().unwrap().len(), 4);
}

pub(crate) async fn a_command_waits_until_it_is_dealt_with(place: Place) {
    let place = place.founded().await;
    let pending = async |now_ms| {
        let pending = place.two.pending(KEY_STORE, now_ms).await.unwrap();
        pending.into_iter().map(|(id, _)| id.0[0]).collect::<Vec<_>>()
    };
    for byte in [5, 3, 4] {
        assert_eq!(queue(&place, 0, byte, b"a").await, Queued::Waits);
    }
    assert_eq!(pending(NOW_MS).await, [5, 3, 4], "in the order in which they came");
    assert_eq!(pending(NOW_MS + 1_000).await, [0; 0], "expired");
    place.one.report(KEY_STORE, &[(command_id(3), b"first".to_vec())], message(1)).await.unwrap();
    place.one.report(KEY_STORE, &[(command_id(3), b"second".to_vec())], message(2)).await.unwrap();
    assert_eq!(place.two.result(KEY_STORE, command_id(3)).await.unwrap(), Some(b"first".to_vec()));
    // A version is the truth about its commands.
    let results = vec![(command_id(3), b"truth".to_vec()), (command_id(5), b"truth".to_vec())];
    place.one.publish(&NewVersion { results, ..version(1, 1) }, message(3)).await.unwrap();
    place.one.report(KEY_STORE, &[(command_id(5), b"late".to_vec())], message(4)).await.unwrap();
    for byte in [3, 5] {
        assert_eq!(place.two.result(KEY_STORE, command_id(byte)).await.unwrap(), Some(b"truth".to_vec()));
    }
    assert_eq!(pending(NOW_MS).await, [4]);
    assert!(place.two.knows_commands(KEY_STORE, &[command_id(3), command_id(4)]).await.unwrap());
    assert!(!place.two.knows_commands(KEY_STORE, &[command_id(3), command_id(9)]).await.unwrap());
    let seen = Seen { commands: vec![command_id(4)], ..Seen::default() };
    let news = place.two.news(KEY_STORE, &seen, NOW_MS).await.unwrap();
    assert!(news.commands.is_empty() && news.overlay.is_none() && news.register.unwrap().version == 1);
    assert!(place.two.news(KEY_STORE, &Seen { version: 1, ..seen }, NOW_MS).await.unwrap().is_empty());
}

pub(crate) async fn commands_that_changed_something_are_kept(place: Place) {
    let place = place.founded().await;
    for byte in [1, 2, 3] {
        queue(&place, 0, byte, b"a").await;
    }
    let results = vec![(command_id(1), b"changed".to_vec())];
    place.one.publish(&NewVersion { results, ..version(1, 1) }, message(1)).await.unwrap();
    place.one.report(KEY_STORE, &[(command_id(2), b"read".to_vec())], message(2)).await.unwrap();
    let later = NOW_MS + 1_001 + limits::COMMAND_KEPT_MS;
    let next = StoredCommand { expires_ms: later + 1, ..command(9, b"a") };
    place.one.queue(&next, later, &|_| unreachable!()).await.unwrap();
    let mut kept = Vec::new();
    for byte in [1, 2, 3, 9] {
        if place.two.command(KEY_STORE, command_id(byte)).await.unwrap().is_some() {
            kept.push(byte);
        }
        assert_eq!(place.two.result(KEY_STORE, command_id(byte)).await.unwrap(), None, "results are forgotten");
    }
    assert_eq!(kept, [1, 9]);
    assert_eq!(place.two.history(KEY_STORE, 1, 1).await.unwrap()[0].commands, [command_id(1)]);
}

pub(crate) async fn too_many_commands_are_refused(place: Place) {
    let place = place.enrolled().await;
    let most = u8::try_from(limits::PENDING_COMMANDS_MAX).unwrap();
    for byte in 0..most {
        assert_eq!(queue(&place, 0, byte, b"a").await, Queued::Waits);
    }
    assert_eq!(queue(&place, 0, most, b"a").await, Queued::Full);
    assert_eq!(queue(&place, 0, 0, b"b").await, Queued::Waits, "a further signature needs no place");
    place.one.report(KEY_STORE, &[(command_id(3), b"done".to_vec())], message(1)).await.unwrap();
    assert_eq!(queue(&place, 0, most, b"a").await, Queued::Waits);
}

fn overlay(epoch: u64, byte: u8) -> StoredOverlay {
    StoredOverlay { epoch, signed: vec![byte; 8] }
}

pub(crate) async fn an_overlay_replaces_the_one_it_was_judged_against(place: Place) {
    let place = place.enrolled().await;
    assert_eq!(place.two.overlay(KEY_STORE).await.unwrap(), None);
    for (against, new, expected) in
        [(1, overlay(2, 1), false), (0, overlay(3, 2), true), (0, overlay(4, 3), false), (3, overlay(4, 4), true)]
    {
        assert_eq!(
            place.one.put_overlay(KEY_STORE, judged_by(against), &new, NOW_MS).await.unwrap(),
            expected,
            "{new:?}"
        );
    }
    assert_eq!(place.two.overlay(KEY_STORE).await.unwrap(), Some(overlay(4, 4)));
    let seen = Seen { overlay_epoch: 3, ..Seen::default() };
    assert_eq!(place.two.news(KEY_STORE, &seen, NOW_MS).await.unwrap().overlay, Some(vec![4; 8]));
}

pub(crate) async fn of_overlays_that_race_one_wins(place: Place) {
    let place = place.enrolled().await;
    for epoch in 1..=5_u64 {
        let racers: Vec<_> = (0..6_u8)
            .map(|racer| {
                let store = place.handle(racer.into());
                tokio::spawn(async move {
                    store.put_overlay(KEY_STORE, judged_by(epoch - 1), &overlay(epoch, racer), NOW_MS).await.unwrap()
                })
            })
            .collect();
        let mut winners = Vec::new();
        for (racer, task) in racers.into_iter().enumerate() {
            if task.await.unwrap() {
                winners.push(u8::try_from(racer).unwrap());
            }
        }
        assert_eq!(winners.len(), 1, "epoch {epoch}");
        assert_eq!(place.two.overlay(KEY_STORE).await.unwrap(), Some(overlay(epoch, winners[0])));
    }
}
