//! Key stores with their manifests: those in force, and one that is staged.
//!
//! A successor is *staged* until a committed version names it, by its digest: then it is *adopted*, in the transaction that commits
//! the version. One that comes later than such a version is adopted at once, together with those that lead to it. Of two successors
//! of one manifest only that comes into force which a version names.

use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits;
use holdfast_shared::manifest::ManifestId;

use super::database::{Lock, Session, Transaction, write_transaction};
use super::overlays::{overlay_epoch, retain_overlays};
use super::policies::{policy_epoch, retain_policies};
use super::{Store, StoreError, array, sequence_from, to_integer};

/// A manifest as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// Which it is.
    pub id: ManifestId,
    /// As it was signed.
    pub signed: Vec<u8>,
}

/// A key store as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeyStore {
    /// Its id.
    pub key_store_id: KeyStoreId,
    /// The manifests in force: the first, then its successors in order.
    pub manifests: Vec<StoredManifest>,
    /// The successor that is staged.
    pub staged: Option<StoredManifest>,
    /// Whether a version that is held, committed or not, names the staged one: it will come into force.
    pub is_staged_named: bool,
    /// Tells these manifests from others.
    pub mark: ManifestMark,
}

/// Tells whether other manifests are in force, staged or named than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManifestMark {
    /// Sequence of the newest manifest in force.
    pub sequence: u32,
    changed: i64,
}

/// Successors that come, each of which succeeds the one before it.
#[derive(Clone, Debug)]
pub struct Successors {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The manifest in force, under which the first was verified.
    pub predecessor: ManifestId,
    /// Oldest first.
    pub manifests: Vec<StoredManifest>,
    /// The newest block overlay that the last of them knows of.
    pub overlay_epoch: u64,
}

/// Successors that are to take the place of those that are kept.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// All manifests: the first, which stays, then its successors in order.
    pub manifests: Vec<StoredManifest>,
    /// Whether the first does not name this custodian: it knows only from others what is in force.
    pub comes_new: bool,
    /// What was looked at to decide what stays.
    pub judged: JudgedOrders,
    /// Epochs of the release policies that count under these manifests, too. The first always stays.
    pub policies: Vec<u64>,
    /// Epochs of the block overlays that count under them, too.
    pub overlays: Vec<u64>,
}

/// What was in force when it was decided which orders stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedOrders {
    /// Tells the manifests from others.
    pub mark: ManifestMark,
    /// Epoch of the release policy.
    pub policy_epoch: u64,
    /// Epoch of the block overlay, 0 for none.
    pub overlay_epoch: u64,
}

/// What came of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The manifests are in force, and the orders that do not count under them are gone.
    Done,
    /// A version that is held names one that would go, or none would go, or the first manifest differs: nothing changed.
    Refused,
    /// Another manifest, policy or overlay came between: judge again.
    Changed,
}

/// What came of successors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// The last waits for the version that adopts it, now or since an earlier try; those before it are in force.
    Waits,
    /// All are in force: a committed version names the last.
    Adopted,
    /// The last does not succeed the manifest that is in force now, whose sequence this is; or a version that is held names another
    /// successor, which is staged.
    Conflict(u32),
    /// A block overlay of this epoch, of which the last does not know, came between.
    Blocked(u64),
    /// The last names a block overlay that there is none of.
    Ahead,
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
        manifests: &[StoredManifest],
        policy: &[u8],
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        write_transaction!(self, Lock::Nothing, enrol(key_store_id, manifests, policy, now_ms))
    }

    /// Puts other successors in the place of those that are kept, as long as no version that is held names one that goes: a custodian
    /// that a successor was to bring in knows of no other. What was ordered under those that go, and does not count under those that
    /// come, goes with them. Where the first manifest names this custodian some must go, and nothing is added to those that are kept:
    /// what comes in addition waits for a version that names it ([`Store::stage_manifests`]).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn replace_successors(&self, replacement: &Replacement, now_ms: u64) -> Result<Replaced, StoreError> {
        let lock = Lock::KeyStore(replacement.key_store_id);
        write_transaction!(self, lock, replace_successors(replacement, now_ms))
    }

    /// Puts in force what a committed version names, with all before it, and keeps one more until a version adopts it, in the place
    /// of another that was staged and that no version names.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stage_manifests(&self, successors: &Successors, now_ms: u64) -> Result<Staged, StoreError> {
        write_transaction!(self, Lock::KeyStore(successors.key_store_id), stage_manifests(successors, now_ms))
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
    manifests: &[StoredManifest],
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
    for manifest in manifests {
        insert(transaction, key_store_id, manifest, true, now).await?;
    }
    transaction
        .execute(
            "INSERT INTO release_policies (key_store_id, epoch, policy, recorded_ms) VALUES ($1, 1, $2, $3)",
            &[id.into(), policy.into(), now.into()],
        )
        .await?;
    transaction.announce(key_store_id).await?;
    Ok(true)
}

async fn insert(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    manifest: &StoredManifest,
    is_adopted: bool,
    now: i64,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO manifests (key_store_id, sequence, digest, signed, adopted, recorded_ms) \
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                key_store_id.as_bytes().into(),
                manifest.id.sequence.into(),
                (&manifest.id.digest).into(),
                (&manifest.signed).into(),
                is_adopted.into(),
                now.into(),
            ],
        )
        .await?;
    Ok(())
}

/// Whether these manifests may take the place of those that are kept, where versions name manifests with these digests.
fn may_replace(kept: &[StoredManifest], replacement: &Replacement, named: &[(Vec<u8>,)]) -> bool {
    let ids = |manifests: &[StoredManifest]| manifests.iter().map(|manifest| manifest.id).collect::<Vec<_>>();
    let (kept, offered) = (ids(kept), ids(&replacement.manifests));
    let given_up: Vec<_> = kept.iter().filter(|manifest| !offered.contains(manifest)).collect();
    let is_named = |manifest: &&ManifestId| named.iter().any(|(digest,)| *digest == manifest.digest);
    let knows_nothing = replacement.comes_new && named.is_empty();
    kept.first() == offered.first() && (knows_nothing || (!given_up.is_empty() && !given_up.iter().any(is_named)))
}

async fn replace_successors(
    transaction: &mut Transaction,
    replacement: &Replacement,
    now_ms: u64,
) -> Result<Replaced, StoreError> {
    let key_store_id = replacement.key_store_id;
    let id = key_store_id.as_bytes();
    let Some(kept) = key_store(transaction, key_store_id).await? else { return Ok(Replaced::Refused) };
    let named: Vec<(Vec<u8>,)> = transaction
        .fetch_all("SELECT DISTINCT manifest_sha256 FROM versions WHERE key_store_id = $1", &[id.into()])
        .await?;
    if !may_replace(&kept.manifests, replacement, &named) {
        return Ok(Replaced::Refused);
    }
    let in_force = JudgedOrders {
        mark: kept.mark,
        policy_epoch: policy_epoch(transaction, key_store_id).await?,
        overlay_epoch: overlay_epoch(transaction, key_store_id).await?,
    };
    if in_force != replacement.judged {
        return Ok(Replaced::Changed);
    }
    transaction.execute("DELETE FROM manifests WHERE key_store_id = $1 AND sequence > 1", &[id.into()]).await?;
    for manifest in replacement.manifests.iter().skip(1) {
        insert(transaction, key_store_id, manifest, true, to_integer(now_ms, "time")?).await?;
    }
    retain_policies(transaction, key_store_id, &replacement.policies).await?;
    retain_overlays(transaction, key_store_id, &replacement.overlays).await?;
    count_change(transaction, key_store_id).await?;
    Ok(Replaced::Done)
}

async fn stage_manifests(
    transaction: &mut Transaction,
    successors: &Successors,
    now_ms: u64,
) -> Result<Staged, StoreError> {
    let id = successors.key_store_id;
    let Some(kept) = key_store(transaction, id).await? else { return Ok(Staged::Conflict(0)) };
    let Some(in_force) = kept.manifests.last().map(|manifest| manifest.id) else { return Ok(Staged::Conflict(0)) };
    let Some(new) = after(successors, in_force) else { return Ok(Staged::Conflict(in_force.sequence)) };
    let named = named_since(transaction, id, in_force.sequence).await?;
    let last_named = new.iter().rposition(|manifest| named.contains(&manifest.id));
    let (adopted, waiting) = new.split_at(last_named.map_or(0, |last| last.saturating_add(1)));
    let now = to_integer(now_ms, "time")?;
    if !adopted.is_empty() {
        delete_staged(transaction, id).await?;
        for manifest in adopted {
            insert(transaction, id, manifest, true, now).await?;
        }
        count_change(transaction, id).await?;
    }
    let conflict = Staged::Conflict(adopted.last().map_or(in_force, |newest| newest.id).sequence);
    let [next] = waiting else { return Ok(if waiting.is_empty() { Staged::Adopted } else { conflict }) };
    let epoch = overlay_epoch(transaction, id).await?;
    if epoch > successors.overlay_epoch {
        return Ok(Staged::Blocked(epoch));
    }
    // Overlays up to that epoch are its predecessors' affair: its own administrators could never order a block.
    if successors.overlay_epoch > epoch.saturating_add(limits::BLOCK_EPOCH_STEP_MAX) {
        return Ok(Staged::Ahead);
    }
    if kept.staged.is_none_or(|staged| staged.id != next.id) {
        // The version that names the other one is held for good.
        if adopted.is_empty() && kept.is_staged_named {
            return Ok(conflict);
        }
        delete_staged(transaction, id).await?;
        insert(transaction, id, next, false, now).await?;
        count_change(transaction, id).await?;
    }
    Ok(Staged::Waits)
}

/// Those that come after the manifest in force: some of them may be in force by now.
fn after(successors: &Successors, in_force: ManifestId) -> Option<&[StoredManifest]> {
    let mut lineage = core::iter::once(successors.predecessor).chain(successors.manifests.iter().map(|next| next.id));
    successors.manifests.get(lineage.position(|id| id == in_force)?..)
}

/// The manifests beyond this sequence that committed versions name.
async fn named_since(
    session: &mut Session,
    key_store_id: KeyStoreId,
    sequence: u32,
) -> Result<Vec<ManifestId>, StoreError> {
    let rows: Vec<(i64, Vec<u8>)> = session
        .fetch_all(
            "SELECT DISTINCT manifest_sequence, manifest_sha256 FROM versions \
             WHERE key_store_id = $1 AND committed = 1 AND manifest_sequence > $2",
            &[key_store_id.as_bytes().into(), sequence.into()],
        )
        .await?;
    rows.into_iter().map(|(sequence, digest)| manifest_id(sequence, &digest)).collect()
}

pub(super) fn manifest_id(sequence: i64, digest: &[u8]) -> Result<ManifestId, StoreError> {
    Ok(ManifestId { sequence: sequence_from(sequence)?, digest: array(digest, "manifest's hash")? })
}

async fn delete_staged(transaction: &mut Transaction, key_store_id: KeyStoreId) -> Result<(), StoreError> {
    let id = key_store_id.as_bytes();
    transaction.execute("DELETE FROM manifests WHERE key_store_id = $1 AND adopted = 0", &[id.into()]).await?;
    Ok(())
}

/// Puts the staged successor in force if a committed version names it.
pub(super) async fn adopt_named(transaction: &mut Transaction, key_store_id: KeyStoreId) -> Result<(), StoreError> {
    let adopted = transaction
        .execute(
            "UPDATE manifests SET adopted = 1 WHERE key_store_id = $1 AND adopted = 0 AND digest IN \
             (SELECT manifest_sha256 FROM versions WHERE key_store_id = $1 AND committed = 1)",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    if adopted > 0 { count_change(transaction, key_store_id).await } else { Ok(()) }
}

/// Whether a manifest is in force, or was; none where it is not kept.
pub(super) async fn is_adopted(
    session: &mut Session,
    key_store_id: KeyStoreId,
    manifest: ManifestId,
) -> Result<Option<bool>, StoreError> {
    let row: Option<(i64,)> = session
        .fetch_optional(
            "SELECT adopted FROM manifests WHERE key_store_id = $1 AND sequence = $2 AND digest = $3",
            &[key_store_id.as_bytes().into(), manifest.sequence.into(), (&manifest.digest).into()],
        )
        .await?;
    Ok(row.map(|(adopted,)| adopted != 0))
}

/// The newest manifest in force.
pub(super) async fn manifest_in_force(
    session: &mut Session,
    key_store_id: KeyStoreId,
) -> Result<Option<ManifestId>, StoreError> {
    let row: Option<(i64, Vec<u8>)> = session
        .fetch_optional(
            "SELECT sequence, digest FROM manifests WHERE key_store_id = $1 AND adopted = 1 \
             ORDER BY sequence DESC LIMIT 1",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    row.map(|(sequence, digest)| manifest_id(sequence, &digest)).transpose()
}

/// The manifest under which further block overlays are signed: the newest that is in force, or that a version names.
pub(super) async fn manifest_of_blocks(
    session: &mut Session,
    key_store_id: KeyStoreId,
) -> Result<Option<ManifestId>, StoreError> {
    let row: Option<(i64, Vec<u8>)> = session
        .fetch_optional(
            "SELECT sequence, digest FROM manifests WHERE key_store_id = $1 AND (adopted = 1 OR digest IN \
             (SELECT manifest_sha256 FROM versions WHERE key_store_id = $1)) ORDER BY sequence DESC LIMIT 1",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    row.map(|(sequence, digest)| manifest_id(sequence, &digest)).transpose()
}

/// Makes every replica look at the manifests anew.
pub(super) async fn count_change(transaction: &mut Transaction, key_store_id: KeyStoreId) -> Result<(), StoreError> {
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

#[derive(sqlx::FromRow)]
struct ManifestRow {
    sequence: i64,
    digest: Vec<u8>,
    signed: Vec<u8>,
    adopted: i64,
    changes: i64,
    versions: i64,
}

async fn key_store(session: &mut Session, key_store_id: KeyStoreId) -> Result<Option<StoredKeyStore>, StoreError> {
    let rows: Vec<ManifestRow> = session
        .fetch_all(
            "SELECT sequence, digest, signed, adopted, changes, (SELECT count(*) FROM versions \
             WHERE key_store_id = $1 AND adopted = 0 AND manifest_sha256 = digest) AS versions \
             FROM manifests JOIN key_stores USING (key_store_id) WHERE key_store_id = $1 ORDER BY sequence",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    let (mut manifests, mut staged, mut mark) = (Vec::new(), None, ManifestMark::default());
    let mut is_staged_named = false;
    for row in rows {
        let manifest = StoredManifest { id: manifest_id(row.sequence, &row.digest)?, signed: row.signed };
        mark.changed = row.changes;
        if row.adopted == 0 {
            staged = Some(manifest);
            is_staged_named = row.versions != 0;
        } else {
            mark.sequence = manifest.id.sequence;
            manifests.push(manifest);
        }
    }
    let kept = StoredKeyStore { key_store_id, manifests, staged, is_staged_named, mark };
    Ok((!kept.manifests.is_empty()).then_some(kept))
}
