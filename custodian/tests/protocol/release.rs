//! Releases: who obtains one, who does not, and what the record says.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_custodian::service::ServiceError;
use holdfast_custodian::store::{Granted, NewLease};
use holdfast_devkit::nsm::{DocumentBuilder, EmulatedChain, EmulatedRoot};
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::hpke;
use holdfast_shared::ids::{BootId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::labels;
use holdfast_shared::limits;
use holdfast_shared::query::{Answer, Question};
use holdfast_shared::release::{PROTOCOL, ReleaseRequest};
use tokio::task::JoinSet;

use crate::world::{MODULE_ID, World, denied, pcrs, random};

#[tokio::test]
async fn the_first_enclave_founds_and_the_second_unseals() {
    let world = World::start().await;
    let first = world.obtain().await;
    assert_eq!(first.policy_epoch, 1);
    assert_eq!(first.content.lease_ms, world.manifest.release_policy.lease_ms);
    assert!(first.content.shares.is_empty() && first.content.register.is_none() && first.content.overlay.is_none());

    let (_, blob) = world.found().await;
    let mut second = world.obtain().await;
    let held = second.content.shares.pop().unwrap();
    assert_eq!(held.share.value.expose(), &[7; 32]);
    assert_eq!(held.set.commitments[0].0, held.share.commitment());
    let entry = world.entry(&second.content.register.as_ref().unwrap().signed);
    assert_eq!((entry.version, entry.blob_id, entry.previous), (1, blob.id, None));
    match second.ask(&world, &Ask::Fetch { blob_id: blob.id }).await.unwrap() {
        Reply::Blob { blob: bytes, .. } => assert_eq!(bytes, blob.bytes),
        other => panic!("{other:?}"),
    }

    let records = world.records().await;
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|record| record.released && record.emulated_root && record.lease_id.is_some()));
    assert!(records[0].reason.contains("released the share"), "{}", records[0].reason);
    assert!(records[2].reason.contains("no ceremony yet"), "{}", records[2].reason);
}

type Change = Box<dyn Fn(&World, DocumentBuilder) -> DocumentBuilder>;

/// One way to be refused: the change to a good document, and words of the reason.
struct Refusal {
    what: &'static str,
    change: Change,
    reason: &'static str,
}

fn refusal(
    what: &'static str,
    reason: &'static str,
    change: impl Fn(&World, DocumentBuilder) -> DocumentBuilder + 'static,
) -> Refusal {
    Refusal { what, change: Box::new(change), reason }
}

fn with_pcr(index: u8, value: Option<[u8; 48]>) -> impl Fn(&World, DocumentBuilder) -> DocumentBuilder {
    move |_, document| {
        let mut set = pcrs();
        match value {
            Some(value) => set.insert(index, value),
            None => set.remove(&index),
        };
        document.pcrs(&set)
    }
}

fn with_user_data(
    change: impl Fn(&mut holdfast_shared::release::ReleaseUserData),
) -> impl Fn(&World, DocumentBuilder) -> DocumentBuilder {
    move |world, document| {
        let mut user_data = world.user_data();
        change(&mut user_data);
        document.user_data(Some(&cbor::encode(&user_data)))
    }
}

fn refusals() -> Vec<Refusal> {
    let debug: BTreeMap<u8, [u8; 48]> =
        pcrs().into_iter().map(|(index, value)| (index, if index < 3 { [0; 48] } else { value })).collect();
    vec![
        refusal("another image", "no accepted measurements", with_pcr(0, Some([9; 48]))),
        refusal("another kernel", "no accepted measurements", with_pcr(1, Some([9; 48]))),
        refusal("another application", "no accepted measurements", with_pcr(2, Some([9; 48]))),
        refusal("another configuration", "no accepted measurements", with_pcr(16, Some([9; 48]))),
        refusal("configuration not locked", "no accepted measurements", with_pcr(16, None)),
        refusal("one register missing", "PCR 1 is missing", with_pcr(1, None)),
        refusal("debug mode", "debug mode", move |_, document| document.pcrs(&debug)),
        refusal("stale", "too old", |world, document| {
            let age = limits::CHALLENGE_LIFE_MS + limits::ATTESTATION_SKEW_MS + 1;
            document.field("timestamp", holdfast_devkit::nsm::document::unsigned(world.now_ms() - age))
        }),
        refusal("from the future", "future", |world, document| {
            let ahead = world.now_ms() + limits::ATTESTATION_SKEW_MS + 1;
            document.field("timestamp", holdfast_devkit::nsm::document::unsigned(ahead))
        }),
        refusal("no nonce", "not one of this custodian's challenges", |_, document| document.nonce(None)),
        refusal("invented nonce", "not one of this custodian's challenges", |_, document| {
            document.nonce(Some(&[1; 32]))
        }),
        refusal("diverted to another custodian", "another custodian", |world, document| {
            with_user_data(|data| data.custodian_id = CustodianId([1; 32]))(world, document)
        }),
        refusal("diverted to another key store", "another key store", |world, document| {
            with_user_data(|data| data.key_store_id = KeyStoreId([1; 32]))(world, document)
        }),
        refusal("made for another purpose", "another purpose", |world, document| {
            with_user_data(|data| labels::ATTEST_RESULT.clone_into(&mut data.label))(world, document)
        }),
        refusal("no user data", "user_data", |_, document| document.user_data(None)),
        refusal("no key", "public_key", |_, document| document.public_key(None)),
        refusal("a short key", "public_key", |_, document| document.public_key(Some(&[4; 96]))),
        refusal("no point of the curve", "public_key", |_, document| document.public_key(Some(&[4; 97]))),
        refusal("a changed signature", "signature", |_, document| document.signature(&[1; 96])),
        refusal("a changed header", "protected", |_, document| document.protected(&[0xa1, 0x01, 0x26])),
        refusal("an expired chain", "has expired", |world, _| {
            let chain = EmulatedChain::standard(&world.root, MODULE_ID, world.now_ms() - 40 * 86_400_000).unwrap();
            rebuilt(world, &chain)
        }),
    ]
}

/// The same statements under another chain.
fn rebuilt(world: &World, chain: &EmulatedChain) -> DocumentBuilder {
    let nonce = world.challenge();
    let key = hpke::PrivateKey::generate().unwrap();
    DocumentBuilder::new(chain, MODULE_ID, world.now_ms())
        .pcrs(&pcrs())
        .nonce(Some(&nonce))
        .user_data(Some(&cbor::encode(&world.user_data())))
        .public_key(Some(&key.public_key().0))
}

#[tokio::test]
async fn whoever_breaks_one_rule_obtains_nothing_and_is_on_record() {
    let world = World::start().await;
    let key = hpke::PrivateKey::generate().unwrap();
    for Refusal { what, change, reason } in refusals() {
        let nonce = world.challenge();
        let user_data = cbor::encode(&world.user_data()).to_vec();
        let document = change(&world, world.document(&nonce, &user_data, key.public_key())).build().unwrap();
        let said = denied(world.release(document).await);
        assert!(said.contains(reason), "{what}: {said}");
        let record = world.records().await.remove(0);
        assert!(!record.released && record.emulated_root && record.lease_id.is_none(), "{what}");
        assert_eq!(record.reason, said, "{what}");
    }
    assert_eq!(world.records().await.len(), refusals().len());
    match world.ask(Question::Status).await {
        Answer::Status(status) => assert_eq!(status.leases, []),
        other => panic!("{other:?}"),
    }
    assert!(matches!(world.release(vec![0; 10]).await, Err(ServiceError::Denied(_))));
    assert!(matches!(world.custodian.release(&[0; 10]).await, Err(ServiceError::Malformed(_))));
}

#[tokio::test]
async fn another_root_is_not_this_root() {
    let world = World::start().await;
    let other = EmulatedRoot::generate().unwrap();
    let chain = EmulatedChain::standard(&other, MODULE_ID, world.now_ms()).unwrap();
    let document = rebuilt(&world, &chain).build().unwrap();
    let said = denied(world.release(document).await);
    assert!(said.contains("refused"), "{said}");
    assert_eq!(world.records().await.remove(0).trust_root, None, "nothing was proven");
}

fn key() -> hpke::PublicKey {
    *hpke::PrivateKey::generate().unwrap().public_key()
}

#[tokio::test]
async fn a_document_obtains_one_release_and_its_challenge_dies() {
    let mut world = World::start().await;
    let enclave = world.obtain().await;
    assert!(denied(world.release(enclave.document.clone()).await).contains("answered before"));
    world.restart(true).await;
    assert!(denied(world.release(enclave.document.clone()).await).contains("answered before"), "after a restart");

    let nonce = world.challenge();
    world.clock.step(limits::CHALLENGE_LIFE_MS + 1);
    let user_data = cbor::encode(&world.user_data()).to_vec();
    let document = world.document(&nonce, &user_data, &key()).build().unwrap();
    assert!(denied(world.release(document).await).contains("expired"));
}

#[tokio::test]
async fn challenges_are_for_known_key_stores_and_survive_a_restart() {
    let mut world = World::start().await;
    assert!(matches!(world.challenge_for(KeyStoreId([1; 32])), Err(ServiceError::NotFound(_))));
    let nonce = world.challenge();
    assert_ne!(nonce, world.challenge());
    world.restart(true).await;
    let user_data = cbor::encode(&world.user_data()).to_vec();
    let document = world.document(&nonce, &user_data, &key()).build().unwrap();
    world.release(document).await.unwrap();
}

#[tokio::test]
async fn an_emulated_root_counts_only_while_the_configuration_names_it() {
    let mut world = World::start().await;
    let (mut enclave, _) = world.found().await;
    match world.ask(Question::Status).await {
        Answer::Status(status) => assert!(status.emulated_root),
        other => panic!("{other:?}"),
    }
    world.restart(false).await;
    let nonce = world.challenge();
    let user_data = cbor::encode(&world.user_data()).to_vec();
    let document = world.document(&nonce, &user_data, &key()).build().unwrap();
    assert!(denied(world.release(document).await).contains("emulated trust root"));
    assert!(world.records().await[0].emulated_root);
    let reply = enclave.renew(&world, Seen::default()).await.unwrap();
    assert!(matches!(reply, Reply::Refused { lease_ended: true, .. }), "{reply:?}");
    let gone = enclave.renew(&world, Seen::default()).await;
    assert!(matches!(gone, Err(ServiceError::NotFound(_))), "{gone:?}");
    match world.ask(Question::Status).await {
        Answer::Status(status) => assert!(!status.emulated_root && status.leases.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_blocked_key_store_gives_a_lease_and_no_share() {
    let world = World::start().await;
    world.found().await;
    let block = world.signed_overlay(&world.overlay(1, true));
    world.custodian.block(block.clone()).await.unwrap();
    let enclave = world.obtain().await;
    assert!(enclave.content.shares.is_empty());
    assert_eq!(enclave.content.overlay, Some(block));
    assert!(enclave.content.register.is_some());
    assert!(world.records().await[0].reason.contains("blocked"));
    world.custodian.block(world.signed_overlay(&world.overlay(2, false))).await.unwrap();
    assert!(!world.obtain().await.content.shares.is_empty());
}

#[tokio::test]
async fn a_block_that_comes_before_the_lease_is_kept_makes_it_be_decided_anew() {
    let world = World::start().await;
    let (enclave, _) = world.found().await;
    world.custodian.block(world.signed_overlay(&world.overlay(1, true))).await.unwrap();
    let record = world.records().await.swap_remove(0);
    let new = |overlay_epoch| NewLease {
        lease_id: LeaseId(random()),
        key_store_id: world.key_store_id,
        boot_id: BootId(random()),
        module_id: "module".to_owned(),
        audit_public_key: [9; 32],
        evidence: Vec::new(),
        document: enclave.document.clone(),
        channel_keys: Vec::new(),
        policy_epoch: 1,
        overlay_epoch,
        nonce: [8; 32],
        granted_ms: world.now_ms(),
        expires_ms: world.now_ms() + 1000,
        boots_max: None,
    };
    let store = world.custodian.store();
    // Decided before the block: nothing is kept, not even the nonce as spent.
    assert_eq!(store.grant(&new(0), &record).await.unwrap(), Granted::OverlayChanged);
    assert_eq!(world.records().await.len(), 1);
    assert_eq!(store.grant(&new(1), &record).await.unwrap(), Granted::Kept { ended: None });
    assert_eq!(store.grant(&new(1), &record).await.unwrap(), Granted::NonceSpent);
}

#[tokio::test]
async fn of_two_releases_at_once_for_one_document_one_is_granted() {
    let world = World::start().await;
    world.found().await;
    let (nonce, public_key) = (world.challenge(), key());
    let document = world.document(&nonce, &cbor::encode(&world.user_data()), &public_key).build().unwrap();
    let request = ReleaseRequest { protocol: PROTOCOL, key_store_id: world.key_store_id, document };
    let body = cbor::encode(&request).to_vec();
    let mut releases = JoinSet::new();
    for _ in 0..8 {
        let (custodian, body) = (Arc::clone(&world.custodian), body.clone());
        releases.spawn(async move { custodian.release(&body).await });
    }
    let answers = releases.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    assert_eq!(world.records().await.iter().filter(|record| record.released).count(), 2);
}

#[tokio::test]
async fn the_number_of_leases_is_bounded_and_the_longest_silent_goes_first() {
    let world = World::start().await;
    let mut silent = world.obtain().await;
    world.clock.step(1);
    let mut speaking = world.obtain().await;
    for _ in 2..limits::LEASES_MAX {
        world.obtain().await;
        world.clock.step(1);
    }
    speaking.renew(&world, Seen::default()).await.unwrap();
    world.obtain().await;
    assert!(matches!(silent.renew(&world, Seen::default()).await, Err(ServiceError::NotFound(_))));
    speaking.renew(&world, Seen::default()).await.unwrap();
    match world.ask(Question::Status).await {
        Answer::Status(status) => assert_eq!(status.leases.len(), limits::LEASES_MAX),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_flood_of_challenges_is_cut_off_and_leaves_nothing_on_disk() {
    let world = World::start().await;
    let flood = || world.challenge_for(world.key_store_id);
    let cut_off = (0..1_000_000).find_map(|_| flood().err());
    assert!(matches!(cut_off, Some(ServiceError::TooMany(_))), "{cut_off:?}");
    assert_eq!(world.records().await, []);
}
