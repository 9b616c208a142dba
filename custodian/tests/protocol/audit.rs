//! Witnessing audit logs, and who is told how far they have come.

use holdfast_shared::audit::{Checkpoint, LogId};
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::query::{Answer, AuditHead, Question};
use holdfast_shared::release::EarlierHead;
use ring::signature::Ed25519KeyPair;

use crate::enclave::Enclave;
use crate::world::{AUDIT_SEED, World, random};

/// Signed by the audit key of the enclaves of [`World::obtain`].
fn note(checkpoint: &Checkpoint) -> String {
    checkpoint.sign(&Ed25519KeyPair::from_seed_unchecked(&AUDIT_SEED).unwrap())
}

fn checkpoint(world: &World, boot_id: BootId, size: u64, root: u8) -> Checkpoint {
    let log = LogId { key_store_id: world.key_store_id, boot_id };
    Checkpoint { log, size, root: [root; 32], time_ms: 1000 + size, closed: false }
}

async fn witness(world: &World, enclave: &mut Enclave, note: &str) -> Reply {
    enclave.ask(world, &Ask::Witness { checkpoint: note.as_bytes().to_vec() }).await.unwrap()
}

async fn heads(world: &World, after: Option<BootId>) -> Vec<AuditHead> {
    match world.ask(Question::AuditHeads(after)).await {
        Answer::AuditHeads(heads) => heads,
        other => panic!("{other:?}"),
    }
}

fn refusal(reply: Reply) -> String {
    match reply {
        Reply::Refused { reason, lease_ended: false } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_newest_checkpoint_is_kept_handed_over_and_shown_with_its_evidence() {
    let world = World::start().await;
    let boot_id = BootId(random());
    let mut enclave = world.try_obtain(boot_id).await.unwrap();
    let at = |size, root| checkpoint(&world, boot_id, size, root);
    assert_eq!(heads(&world, None).await, []);
    for accepted in [at(5, 1), at(9, 2), at(5, 1), Checkpoint { closed: true, ..at(9, 2) }] {
        assert_eq!(witness(&world, &mut enclave, &note(&accepted)).await, Reply::Witnessed);
    }
    let last = note(&Checkpoint { closed: true, ..at(9, 2) });
    let fork = note(&at(9, 3));
    assert!(refusal(witness(&world, &mut enclave, &fork).await).contains("contradicts"));
    assert!(refusal(witness(&world, &mut enclave, &note(&at(10, 4))).await).contains("contradicts"));

    let [head] = heads(&world, None).await.try_into().unwrap();
    assert_eq!((head.boot_id, head.checkpoint), (boot_id, last.clone().into_bytes()));
    assert_eq!((head.evidence, head.contradiction), (enclave.document.clone(), Some(fork.into_bytes())));
    assert!(Checkpoint::verify(&last, &head.audit_public_key).is_ok_and(|checkpoint| checkpoint.closed));
    assert_eq!(heads(&world, Some(boot_id)).await, []);

    // The next boot hears of it, and the boot itself, should it ask again, does not.
    let next = world.obtain().await;
    let earlier = EarlierHead { checkpoint: last.into_bytes(), audit_public_key: head.audit_public_key };
    assert_eq!(next.content.audit_heads, [earlier]);
    assert_eq!(world.try_obtain(boot_id).await.unwrap().content.audit_heads, []);
}

#[tokio::test]
async fn only_the_leases_own_log_is_witnessed() {
    let world = World::start().await;
    let boot_id = BootId(random());
    let mut enclave = world.try_obtain(boot_id).await.unwrap();
    let good = checkpoint(&world, boot_id, 5, 1);
    let another_boot = checkpoint(&world, BootId(random()), 5, 1);
    let log = LogId { key_store_id: KeyStoreId(random()), boot_id };
    let another_store = Checkpoint { log, ..good };
    for other in [another_boot, another_store] {
        assert!(refusal(witness(&world, &mut enclave, &note(&other)).await).contains("another log"));
    }
    let foreign = good.sign(&Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap());
    assert!(refusal(witness(&world, &mut enclave, &foreign).await).contains("not signed by this boot's audit key"));
    for malformed in ["", "a\n", &note(&good).replace("time", "TIME")] {
        assert!(refusal(witness(&world, &mut enclave, malformed).await).contains("not a checkpoint"));
    }
    let reply = enclave.ask(&world, &Ask::Witness { checkpoint: vec![0xff] }).await.unwrap();
    assert!(refusal(reply).contains("is text"));
    assert_eq!(heads(&world, None).await, []);
    assert_eq!(witness(&world, &mut enclave, &note(&good)).await, Reply::Witnessed);
}
