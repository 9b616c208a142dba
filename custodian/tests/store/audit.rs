//! How far audit logs have come.

use std::sync::Arc;

use holdfast_custodian::store::{NewAuditHead, StoreError, StoredAuditHead, Witnessed};
use holdfast_shared::audit::{Checkpoint, LogId};
use holdfast_shared::ids::BootId;
use holdfast_shared::limits;
use holdfast_shared::sha256;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::fixture::{BOOT, KEY_STORE, NOW_MS, Place};
use crate::server::Cluster;

struct Boot {
    id: BootId,
    key: Ed25519KeyPair,
}

impl Boot {
    fn new(id: BootId) -> Self {
        Self { id, key: Ed25519KeyPair::from_seed_unchecked(&[id.0[0]; 32]).unwrap() }
    }

    fn public_key(&self) -> [u8; 32] {
        self.key.public_key().as_ref().try_into().unwrap()
    }

    fn at(&self, size: u64, root: u8) -> Checkpoint {
        let log = LogId { key_store_id: KEY_STORE, boot_id: self.id };
        Checkpoint { log, size, root: [root; 32], time_ms: NOW_MS + size, closed: false }
    }

    fn head(&self, checkpoint: Checkpoint, received_ms: u64) -> NewAuditHead {
        let (note, audit_public_key) = (checkpoint.sign(&self.key).into_bytes(), self.public_key());
        NewAuditHead { checkpoint, note, audit_public_key, document: b"document".to_vec(), received_ms }
    }

    async fn witness(&self, place: &Place, checkpoint: Checkpoint, now_ms: u64) -> Witnessed {
        place.one.witness(self.head(checkpoint, now_ms)).await.unwrap()
    }
}

pub(crate) async fn the_newest_checkpoint_is_kept_and_the_first_contradiction(place: Place) {
    let place = place.enrolled().await;
    let (boot, other) = (Boot::new(BOOT), Boot::new(BootId([9; 16])));
    assert_eq!(boot.witness(&place, boot.at(5, 1), NOW_MS + 1).await, Witnessed::Kept);
    assert_eq!(boot.witness(&place, boot.at(7, 2), NOW_MS + 2).await, Witnessed::Kept);
    assert_eq!(boot.witness(&place, boot.at(5, 1), NOW_MS + 3).await, Witnessed::Known);
    assert_eq!(boot.witness(&place, boot.at(7, 3), NOW_MS + 4).await, Witnessed::Contradiction);
    assert_eq!(boot.witness(&place, boot.at(7, 4), NOW_MS + 5).await, Witnessed::Contradiction);
    assert_eq!(boot.witness(&place, boot.at(8, 5), NOW_MS + 6).await, Witnessed::Kept);
    // Of one boot, and signed by another key than before.
    let imposter = Boot { id: BOOT, key: Ed25519KeyPair::from_seed_unchecked(&[77; 32]).unwrap() };
    assert_eq!(imposter.witness(&place, boot.at(9, 6), NOW_MS + 7).await, Witnessed::Contradiction);
    assert_eq!(other.witness(&place, other.at(1, 1), NOW_MS + 8).await, Witnessed::Kept);

    let note = |boot: &Boot, checkpoint: Checkpoint| checkpoint.sign(&boot.key).into_bytes();
    let kept = |boot: &Boot, note, received_ms, contradiction| StoredAuditHead {
        boot_id: boot.id,
        note,
        audit_public_key: boot.public_key(),
        document: b"document".to_vec(),
        received_ms,
        contradiction,
    };
    let expected = [
        kept(&boot, note(&boot, boot.at(8, 5)), NOW_MS + 6, Some(note(&boot, boot.at(7, 3)))),
        kept(&other, note(&other, other.at(1, 1)), NOW_MS + 8, None),
    ];
    assert_eq!(place.two.audit_heads(KEY_STORE, None).await.unwrap(), expected);
    assert_eq!(place.two.audit_heads(KEY_STORE, Some(BOOT)).await.unwrap(), expected[1..]);
    assert_eq!(place.two.audit_heads(KEY_STORE, Some(other.id)).await.unwrap(), []);
    let newest = place.two.newest_audit_heads(KEY_STORE, BootId([0; 16])).await.unwrap();
    let handed_out = |head: &StoredAuditHead| (head.note.clone(), head.audit_public_key);
    assert_eq!(newest, [handed_out(&expected[1]), handed_out(&expected[0])]);
    assert_eq!(place.two.newest_audit_heads(KEY_STORE, other.id).await.unwrap(), [handed_out(&expected[0])]);
}

pub(crate) async fn of_many_heads_the_newest_are_handed_over(place: Place) {
    let place = place.enrolled().await;
    let count = limits::AUDIT_HEADS_MAX + 3;
    for number in 0..count {
        let number = u8::try_from(number).unwrap();
        let boot = Boot::new(BootId([255 - number; 16]));
        assert_eq!(boot.witness(&place, boot.at(1, 1), NOW_MS + u64::from(number)).await, Witnessed::Kept);
    }
    let newest = place.one.newest_audit_heads(KEY_STORE, BootId([0; 16])).await.unwrap();
    assert_eq!(newest.len(), limits::AUDIT_HEADS_MAX);
    let last = Boot::new(BootId([255 - u8::try_from(count - 1).unwrap(); 16]));
    assert_eq!(newest[0], (last.at(1, 1).sign(&last.key).into_bytes(), last.public_key()));
    let page = place.one.audit_heads(KEY_STORE, None).await.unwrap();
    assert_eq!((page.len(), page[0].boot_id), (limits::AUDIT_HEADS_PAGE_MAX, last.id));
    let rest = place.one.audit_heads(KEY_STORE, page.last().map(|head| head.boot_id)).await.unwrap();
    assert_eq!((rest.len(), rest.last().unwrap().boot_id), (3, BootId([255; 16])));
}

/// Two replicas that get the checkpoints of one log at once keep the newest.
pub(crate) async fn of_checkpoints_that_race_the_newest_stays(place: Place) {
    let place = place.enrolled().await;
    let mut racing = tokio::task::JoinSet::new();
    for size in 1..=20_u8 {
        let (boot, store) = (Boot::new(BOOT), place.handle(size.into()));
        racing.spawn(async move { store.witness(boot.head(boot.at(size.into(), size), NOW_MS)).await.unwrap() });
    }
    while let Some(done) = racing.join_next().await {
        assert_ne!(done.unwrap(), Witnessed::Contradiction);
    }
    let boot = Boot::new(BOOT);
    let heads = place.one.audit_heads(KEY_STORE, None).await.unwrap();
    assert_eq!(heads[0].note, boot.at(20, 20).sign(&boot.key).into_bytes());
}

/// What another replica does with one head, or with the key store, is no affair of other heads; neither is a head that is damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_up_one_head_holds_up_no_other() {
    let cluster = Cluster::start();
    let place = Place::postgres(&cluster).await.enrolled().await;
    let options = PgConnectOptions::new_without_pgpass()
        .host(cluster.directory.path().to_str().unwrap())
        .username("holdfast")
        .database("d0");
    let mut replica = PgConnection::connect_with(&options).await.unwrap();
    let (held, free) = (Boot::new(BOOT), Boot::new(BootId([9; 16])));
    assert_eq!(held.witness(&place, held.at(1, 1), NOW_MS).await, Witnessed::Kept);

    let digest = sha256(&[b"audit head", KEY_STORE.as_bytes(), BOOT.as_bytes()]);
    let number = i64::from_be_bytes(digest[..8].try_into().unwrap());
    let mut transaction = replica.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM key_stores FOR NO KEY UPDATE").execute(&mut *transaction).await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(number).execute(&mut *transaction).await.unwrap();
    let (store, newer) = (Arc::clone(&place.one), held.head(held.at(2, 2), NOW_MS));
    let waiting = tokio::spawn(async move { store.witness(newer).await.unwrap() });
    for size in 1..4 {
        assert_eq!(free.witness(&place, free.at(size.into(), size), NOW_MS).await, Witnessed::Kept, "first and later");
    }
    assert!(!waiting.is_finished());
    transaction.rollback().await.unwrap();
    assert_eq!(waiting.await.unwrap(), Witnessed::Kept);

    let damage =
        sqlx::query("UPDATE audit_heads SET checkpoint = 'x' WHERE boot_id = $1").bind(BOOT.as_bytes().as_slice());
    assert_eq!(damage.execute(&mut replica).await.unwrap().rows_affected(), 1);
    let (damaged, kept) = tokio::join!(
        place.one.witness(held.head(held.at(3, 3), NOW_MS)),
        place.one.witness(free.head(free.at(4, 4), NOW_MS))
    );
    assert!(matches!(damaged, Err(StoreError::Damaged(_))));
    assert_eq!(kept.unwrap(), Witnessed::Kept);
}
