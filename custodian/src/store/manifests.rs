//! Key stores with their manifests: those in force, and one that is staged.
//!
//! A successor is *staged* until a committed version names its sequence: then it is *adopted*, in the transaction that commits
//! the version. One that comes later than such a version is adopted at once.

use holdfast_shared::ids::KeyStoreId;

use super::database::{Lock, Session, Transaction, write_transaction};
use super::overlays::overlay_epoch;
use super::{Store, StoreError, array, sequence_from, to_integer};

/// A key store as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeyStore {
    /// Its id.
    pub key_store_id: KeyStoreId,
    /// The signed manifests in force: the first, then its successors in order.
    pub manifests: Vec<Vec<u8>>,
    /// The signed successor that is staged.
    pub staged: Option<Vec<u8>>,
    /// Tells these manifests from others.
    pub mark: ManifestMark,
}

/// Tells whether other manifests are in force or staged than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManifestMark {
    /// Sequence of the newest manifest in force.
    pub sequence: u32,
    changed: i64,
}

/// A successor to be staged.
#[derive(Clone, Copy, Debug)]
pub struct StagedManifest<'a> {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// One more than that of the manifest in force, which `predecessor` is.
    pub sequence: u32,
    /// The signed manifest under which it was verified.
    pub predecessor: &'a [u8],
    /// The signed successor.
    pub signed: &'a [u8],
    /// The newest block overlay that it knows of.
    pub overlay_epoch: u64,
}

/// What came of staging a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// It waits for the version that adopts it, now or since an earlier try.
    Waits,
    /// It is in force: a committed version names it.
    Adopted,
    /// It does not succeed the manifest in force, whose sequence this is.
    Conflict(u32),
    /// A block overlay of this epoch came between.
    Blocked(u64),
}

impl Store {
    /// Keeps a key store with its manifests, first to newest, and epoch 1 of its release policy. False when it is known
    /// already: nothing changes then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enrol(
        &self,
        key_store_id: KeyStoreId,
        manifests: &[Vec<u8>],
        policy: &[u8],
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        write_transaction!(self, Lock::Nothing, enrol(key_store_id, manifests, policy, now_ms))
    }

    /// Puts other successors in the place of those that are kept, as long as no version is held: a custodian that a successor
    /// was to bring in knows of no other. False when one is held, or the first manifest differs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn replace_successors(
        &self,
        key_store_id: KeyStoreId,
        manifests: &[Vec<u8>],
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), replace_successors(key_store_id, manifests, now_ms))
    }

    /// Keeps a successor until a version adopts it, in the place of another that was staged.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stage_manifest(&self, staged: &StagedManifest<'_>, now_ms: u64) -> Result<Staged, StoreError> {
        write_transaction!(self, Lock::KeyStore(staged.key_store_id), stage_manifest(staged, now_ms))
    }

    /// All key stores.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_stores(&self) -> Result<Vec<StoredKeyStore>, StoreError> {
        let mut session = self.database.read().await?;
        let ids = key_store_ids(&mut session).await?;
        let mut key_stores = Vec::with_capacity(ids.len());
        for id in ids {
            key_stores.extend(key_store(&mut session, id).await?);
        }
        Ok(key_stores)
    }

    /// One key store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_store(&self, key_store_id: KeyStoreId) -> Result<Option<StoredKeyStore>, StoreError> {
        key_store(&mut self.database.read().await?, key_store_id).await
    }

    /// The mark of the manifests that are kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn manifest_mark(&self, key_store_id: KeyStoreId) -> Result<ManifestMark, StoreError> {
        let row: (Option<i64>, i64) = self
            .database
            .read()
            .await?
            .fetch_one(
                "SELECT max(sequence), coalesce((SELECT changes FROM key_stores WHERE key_store_id = $1), 0) \
                 FROM manifests WHERE key_store_id = $1 AND adopted = 1",
                &[key_store_id.as_bytes().into()],
            )
            .await?;
        Ok(ManifestMark { sequence: row.0.map_or(Ok(0), sequence_from)?, changed: row.1 })
    }
}

async fn enrol(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    manifests: &[Vec<u8>],
    policy: &[u8],
    now_ms: u64,
) -> Result<bool, StoreError> {
    let now = to_integer(now_ms, "time")?;
    let id = key_store_id.as_bytes();
    let added = transaction
        .execute(
            "INSERT INTO key_stores (key_store_id, enrolled_ms, changes) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
            &[id.into(), now.into()],
        )
        .await?;
    if added == 0 {
        return Ok(false);
    }
    insert_adopted(transaction, key_store_id, manifests.iter().zip(1..), now).await?;
    transaction
        .execute(
            "INSERT INTO release_policies (key_store_id, epoch, policy, recorded_ms) VALUES ($1, 1, $2, $3)",
            &[id.into(), policy.into(), now.into()],
        )
        .await?;
    transaction.announce(key_store_id).await?;
    Ok(true)
}

async fn insert_adopted(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    manifests: impl Iterator<Item = (&Vec<u8>, u32)>,
    now: i64,
) -> Result<(), StoreError> {
    for (signed, sequence) in manifests {
        transaction
            .execute(
                "INSERT INTO manifests (key_store_id, sequence, signed, adopted, recorded_ms) VALUES ($1, $2, $3, 1, $4)",
                &[key_store_id.as_bytes().into(), sequence.into(), signed.into(), now.into()],
            )
            .await?;
    }
    Ok(())
}

async fn replace_successors(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    manifests: &[Vec<u8>],
    now_ms: u64,
) -> Result<bool, StoreError> {
    let id = key_store_id.as_bytes();
    let (versions,): (i64,) =
        transaction.fetch_one("SELECT count(*) FROM versions WHERE key_store_id = $1", &[id.into()]).await?;
    let kept = key_store(transaction, key_store_id).await?;
    let first = kept.as_ref().and_then(|kept| kept.manifests.first());
    if versions != 0 || first.is_none() || first != manifests.first() {
        return Ok(false);
    }
    transaction.execute("DELETE FROM manifests WHERE key_store_id = $1 AND sequence > 1", &[id.into()]).await?;
    let successors = manifests.iter().zip(1..).skip(1);
    insert_adopted(transaction, key_store_id, successors, to_integer(now_ms, "time")?).await?;
    count_change(transaction, key_store_id).await?;
    Ok(true)
}

async fn stage_manifest(
    transaction: &mut Transaction,
    staged: &StagedManifest<'_>,
    now_ms: u64,
) -> Result<Staged, StoreError> {
    let id = staged.key_store_id.as_bytes();
    let Some(kept) = key_store(transaction, staged.key_store_id).await? else { return Ok(Staged::Conflict(0)) };
    let in_force = kept.mark.sequence;
    let newest = kept.manifests.last().map_or(&[][..], Vec::as_slice);
    if in_force == staged.sequence && newest == staged.signed {
        return Ok(Staged::Adopted);
    }
    if in_force.checked_add(1) != Some(staged.sequence) || newest != staged.predecessor {
        return Ok(Staged::Conflict(in_force));
    }
    let (named,): (i64,) = transaction
        .fetch_one(
            "SELECT count(*) FROM versions WHERE key_store_id = $1 AND committed = 1 AND manifest_sequence >= $2",
            &[id.into(), staged.sequence.into()],
        )
        .await?;
    let epoch = overlay_epoch(transaction, staged.key_store_id).await?;
    // What was adopted already must come into force here too.
    if named == 0 && epoch > staged.overlay_epoch {
        return Ok(Staged::Blocked(epoch));
    }
    if kept.staged.as_deref() == Some(staged.signed) {
        return Ok(Staged::Waits);
    }
    transaction.execute("DELETE FROM manifests WHERE key_store_id = $1 AND adopted = 0", &[id.into()]).await?;
    transaction
        .execute(
            "INSERT INTO manifests (key_store_id, sequence, signed, adopted, recorded_ms) VALUES ($1, $2, $3, $4, $5)",
            &[
                id.into(),
                staged.sequence.into(),
                staged.signed.into(),
                (named != 0).into(),
                to_integer(now_ms, "time")?.into(),
            ],
        )
        .await?;
    count_change(transaction, staged.key_store_id).await?;
    Ok(if named == 0 { Staged::Waits } else { Staged::Adopted })
}

/// Puts the staged successor in force if a committed version names it.
pub(super) async fn adopt_named(transaction: &mut Transaction, key_store_id: KeyStoreId) -> Result<(), StoreError> {
    let adopted = transaction
        .execute(
            "UPDATE manifests SET adopted = 1 WHERE key_store_id = $1 AND adopted = 0 AND sequence <= \
             (SELECT max(manifest_sequence) FROM versions WHERE key_store_id = $1 AND committed = 1)",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    if adopted > 0 { count_change(transaction, key_store_id).await } else { Ok(()) }
}

/// Makes every replica look at the manifests anew.
async fn count_change(transaction: &mut Transaction, key_store_id: KeyStoreId) -> Result<(), StoreError> {
    transaction
        .execute(
            "UPDATE key_stores SET changes = changes + 1 WHERE key_store_id = $1",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    transaction.announce(key_store_id).await
}

async fn key_store_ids(session: &mut Session) -> Result<Vec<KeyStoreId>, StoreError> {
    let ids: Vec<(Vec<u8>,)> =
        session.fetch_all("SELECT key_store_id FROM key_stores ORDER BY enrolled_ms, key_store_id", &[]).await?;
    ids.into_iter().map(|(id,)| Ok(KeyStoreId(array(&id, "key store id")?))).collect()
}

async fn key_store(session: &mut Session, key_store_id: KeyStoreId) -> Result<Option<StoredKeyStore>, StoreError> {
    let rows: Vec<(i64, Vec<u8>, i64, i64)> = session
        .fetch_all(
            "SELECT sequence, signed, adopted, changes FROM manifests JOIN key_stores USING (key_store_id) \
             WHERE key_store_id = $1 ORDER BY sequence",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    let (mut manifests, mut staged, mut mark) = (Vec::new(), None, ManifestMark::default());
    for (sequence, signed, adopted, changes) in rows {
        mark.changed = changes;
        if adopted == 0 {
            staged = Some(signed);
        } else {
            mark.sequence = sequence_from(sequence)?;
            manifests.push(signed);
        }
    }
    Ok((!manifests.is_empty()).then_some(StoredKeyStore { key_store_id, manifests, staged, mark }))
}

/// The signed successors in force, oldest first.
pub(super) async fn successors(session: &mut Session, key_store_id: KeyStoreId) -> Result<Vec<Vec<u8>>, StoreError> {
    let rows: Vec<(Vec<u8>,)> = session
        .fetch_all(
            "SELECT signed FROM manifests WHERE key_store_id = $1 AND adopted = 1 AND sequence > 1 ORDER BY sequence",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    Ok(rows.into_iter().map(|(signed,)| signed).collect())
}
