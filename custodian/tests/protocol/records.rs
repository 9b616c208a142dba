//! What administrators are told about the past, and about what waits.

use holdfast_shared::cbor;
use holdfast_shared::command::{self, Action, Outcome, ResultContent};
use holdfast_shared::labels;
use holdfast_shared::limits;
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::query::{Answer, HistoryEntry, Question, ReleaseEntry};
use holdfast_shared::secrets::SecretBytes;

use crate::world::{World, rng};

async fn history(world: &World, from: u64) -> Vec<HistoryEntry> {
    match world.ask(Question::History(from)).await {
        Answer::History(entries) => entries,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_history_shows_who_ordered_what() {
    let world = World::start().await;
    let (mut enclave, one) = world.found().await;
    let (command_id, signed) = world.order(Action::CreateCredential).await;
    let outcome = SecretBytes::new(cbor::encode(&Outcome::Done).to_vec());
    let content = ResultContent { outcome, document: vec![1, 2, 3] };
    let result = command::seal_result(&content, world.key_store_id, command_id, &world.alice.entry).unwrap();
    let two = world.blob(2, Some(&one));
    enclave.ask(&world, &world.publish(&two, vec![result])).await.unwrap();
    let entries = history(&world, 0).await;
    let versions: Vec<_> = entries.iter().map(|entry| world.entry(&entry.entry.signed).version).collect();
    assert_eq!(versions, [1, 2]);
    assert!(entries.iter().all(|entry| entry.entry.is_committed && entry.evidence.len() > 1000));
    assert_eq!((entries[0].commands.len(), entries[1].commands[0].as_slice()), (0, signed.as_slice()));
    assert_eq!(history(&world, 2).await, entries[1..]);
    assert_eq!(history(&world, 3).await, []);
}

#[tokio::test]
async fn answers_come_in_pages() {
    let world = World::start().await;
    let (mut enclave, mut before) = world.found().await;
    let last = u64::try_from(limits::HISTORY_PAGE_MAX).unwrap() + 2;
    for version in 2..=last {
        let blob = world.blob(version, Some(&before));
        enclave.publish(&world, &blob, version, Some(&before)).await;
        before = blob;
    }
    assert_eq!(history(&world, 1).await.len(), limits::HISTORY_PAGE_MAX);
    assert_eq!(history(&world, last - 1).await.len(), 2);

    let record = world.custodian.store().records(world.key_store_id, None, 1).await.unwrap().remove(0).record;
    for _ in 0..=limits::RECORDS_PAGE_MAX {
        world.custodian.store().record_refusal(&record).await.unwrap();
    }
    let page = async |before| -> Vec<ReleaseEntry> {
        match world.ask(Question::Records(before)).await {
            Answer::Records(entries) => entries,
            other => panic!("{other:?}"),
        }
    };
    let newest = page(0).await;
    assert_eq!(newest.len(), limits::RECORDS_PAGE_MAX);
    assert!(newest.is_sorted_by(|a, b| a.id > b.id));
    let rest = page(newest.last().unwrap().id).await;
    assert_eq!(rest.len(), 2);
    assert!(rest[1].is_released && rest[1].measurements.as_ref().is_some_and(|set| set.pcr16 == [16; 48]));
    assert_eq!(page(rest[1].id).await, []);
}

#[tokio::test]
async fn copies_of_a_command_are_approved_together_and_shown() {
    let world = World::start().await;
    let command = world.command(Action::ListKeys);
    let by = |person: &crate::world::Person| {
        cbor::encode(&command::sign(&command, &person.signing_key, &rng()).unwrap()).to_vec()
    };
    // Both sign the bare command at once, neither having seen the other's copy.
    let (alice, bob) = (world.custodian.command(by(&world.alice)), world.custodian.command(by(&world.bob)));
    let (alice, bob) = tokio::join!(alice, bob);
    alice.unwrap();
    bob.unwrap();
    let Answer::Pending(waiting) = world.ask(Question::Pending).await else { panic!("no answer") };
    assert_eq!(waiting.len(), 1);
    let (_, signers) =
        command::open(&waiting[0], world.key_store_id, &world.manifest.administrators).expect("both signatures hold");
    assert_eq!(signers.len(), 2);
    assert_eq!(labels::COMMAND, command.label);
}

#[tokio::test]
async fn custody_shows_where_a_share_comes_from() {
    let world = World::start().await;
    let (enclave, _) = world.found().await;
    let Answer::Custody(custody) = world.ask(Question::Custody).await else { panic!("no answer") };
    assert_eq!(custody.shares.len(), 1);
    assert_eq!(custody.shares[0].set, world.set(&[7]));
    assert_eq!((&custody.shares[0].document, custody.shares[0].deposited_ms), (&enclave.document, world.now_ms()));
    assert_eq!(VerifiedManifest::verify(&custody.manifests[0]).unwrap().id(), world.key_store_id);
    assert_eq!(custody.policies.len(), 0);
}
