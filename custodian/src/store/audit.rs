//! How far the audit log of each boot has come.
//!
//! Guarantees: of each boot the newest checkpoint is kept, whichever replica received it; one that contradicts those before it takes no
//! place of theirs, and the first such one is kept as evidence; those that come at about the same time are on disk with one commit, and
//! what holds one of them up holds up no other. Nothing else about a key store waits for them: what is locked is the head alone.
//! Assumes: the caller verified the signatures.

use core::cmp::Ordering;
use core::num::NonZeroUsize;
use std::sync::Arc;

use holdfast_shared::audit::{Checkpoint, LogId};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::{limits, sha256};

use super::database::{Lock, Transaction, write_transaction};
use super::group::Group;
use super::{Store, StoreError, array, from_integer, to_integer};

/// [`limits::AUDIT_HEADS_MAX`], as a query takes it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a small constant")]
const HANDED_OVER: u32 = limits::AUDIT_HEADS_MAX as u32;
/// [`limits::AUDIT_HEADS_PAGE_MAX`], as a query takes it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a small constant")]
const PAGE: u32 = limits::AUDIT_HEADS_PAGE_MAX as u32;

/// [`limits::AUDIT_HEADS_GROUP_MAX`].
const GROUP: NonZeroUsize = NonZeroUsize::new(limits::AUDIT_HEADS_GROUP_MAX).unwrap();

/// Heads that are kept alone at a time.
pub(super) const ALONE: usize = 2;

/// A checkpoint that was verified.
#[derive(Clone, Debug)]
pub struct NewAuditHead {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The signed note.
    pub note: Vec<u8>,
    /// The key that signed it.
    pub audit_public_key: [u8; 32],
    /// The attestation document that vouches for the key.
    pub document: Vec<u8>,
    /// When it was received.
    pub received_ms: u64,
}

/// Checkpoints that wait to be kept.
pub(super) type Witnesses = Group<Arc<NewAuditHead>, Witnessed>;

pub(super) fn witnesses() -> Witnesses {
    Group::new(GROUP)
}

/// The newest checkpoint of a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAuditHead {
    /// The boot.
    pub boot_id: BootId,
    /// The signed note.
    pub note: Vec<u8>,
    /// The key that signed it.
    pub audit_public_key: [u8; 32],
    /// The attestation document that vouches for the key.
    pub document: Vec<u8>,
    /// When it was received.
    pub received_ms: u64,
    /// The first checkpoint that those before it contradicted.
    pub contradiction: Option<Vec<u8>>,
}

/// What came of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witnessed {
    /// It is the newest.
    Kept,
    /// It, or one after it, was kept before; nothing changed.
    Known,
    /// It and the newest one cannot both be true of one log. The newest one stays.
    Contradiction,
}

impl Store {
    /// Keeps a checkpoint if it is the newest of its log. Of each key store the newest [`limits::AUDIT_HEADS_KEPT_MAX`] logs are kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn witness(&self, new: NewAuditHead) -> Result<Witnessed, StoreError> {
        let new = Arc::new(new);
        let in_a_group = self.witnesses.join(Arc::clone(&new), |heads| self.witness_all(heads)).await;
        if let Some(witnessed) = in_a_group {
            return Ok(witnessed);
        }
        // One that waits holds a connection to the database, which orders need as well. The semaphore is never closed.
        let _turn = self.witnesses_alone.acquire().await;
        write_transaction!(self, Lock::Nothing, witness_alone(&new))
    }

    async fn witness_all(&self, heads: Vec<Arc<NewAuditHead>>) -> Vec<Option<Witnessed>> {
        let done: Result<_, StoreError> = async { write_transaction!(self, Lock::Nothing, witness_all(&heads)) }.await;
        done.unwrap_or_else(|error| {
            tracing::warn!(heads = heads.len(), "heads of audit logs are kept one by one: {error}");
            Vec::new()
        })
    }

    /// The notes that were received last, of other boots than this one, and the keys that signed them, newest first; at most
    /// [`limits::AUDIT_HEADS_MAX`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_audit_heads(
        &self,
        key_store_id: KeyStoreId,
        but: BootId,
    ) -> Result<Vec<(Vec<u8>, [u8; 32])>, StoreError> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT checkpoint, audit_public_key FROM audit_heads WHERE key_store_id = $1 AND boot_id <> $2 \
                 ORDER BY received_ms DESC, boot_id LIMIT $3",
                &[key_store_id.as_bytes().into(), but.as_bytes().into(), HANDED_OVER.into()],
            )
            .await?;
        rows.into_iter().map(|(note, key)| Ok((note, array(&key, "audit public key")?))).collect()
    }

    /// The newest checkpoints of boots after this one, in the order of their ids; at most [`limits::AUDIT_HEADS_PAGE_MAX`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit_heads(
        &self,
        key_store_id: KeyStoreId,
        after: Option<BootId>,
    ) -> Result<Vec<StoredAuditHead>, StoreError> {
        // No boot's id is empty, and an empty one comes before all.
        let after = after.map_or_else(Vec::new, |boot_id| boot_id.as_bytes().to_vec());
        let rows: Vec<HeadRow> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT boot_id, checkpoint, audit_public_key, document, received_ms, contradiction FROM audit_heads \
                 WHERE key_store_id = $1 AND boot_id > $2 ORDER BY boot_id LIMIT $3",
                &[key_store_id.as_bytes().into(), (&after).into(), PAGE.into()],
            )
            .await?;
        rows.into_iter().map(StoredAuditHead::try_from).collect()
    }
}

/// Keeps those that nothing holds up: one that another replica has at hand, or that is damaged, is for whoever brings it, alone.
async fn witness_all(
    transaction: &mut Transaction,
    heads: &[Arc<NewAuditHead>],
) -> Result<Vec<Option<Witnessed>>, StoreError> {
    let mut all = Vec::with_capacity(heads.len());
    for new in heads {
        if !transaction.lock_number(number_of(new.checkpoint.log), false).await? {
            all.push(None);
            continue;
        }
        all.push(match witness(transaction, new).await {
            Ok(witnessed) => Some(witnessed),
            // The transaction has come to nothing.
            Err(error @ StoreError::Database(_)) => return Err(error),
            Err(_) => None,
        });
    }
    Ok(all)
}

async fn witness_alone(transaction: &mut Transaction, new: &NewAuditHead) -> Result<Witnessed, StoreError> {
    transaction.lock_number(number_of(new.checkpoint.log), true).await?;
    witness(transaction, new).await
}

/// Stands for a log among the locks of the database. Should two share one, they only wait for each other.
fn number_of(log: LogId) -> i64 {
    let digest = sha256(&[b"audit head", log.key_store_id.as_bytes(), log.boot_id.as_bytes()]);
    // A digest always has that many bytes.
    digest.first_chunk().map_or(0, |first| i64::from_be_bytes(*first))
}

/// The caller has the log's lock.
async fn witness(transaction: &mut Transaction, new: &NewAuditHead) -> Result<Witnessed, StoreError> {
    let log = new.checkpoint.log;
    let known: Option<(Vec<u8>, Vec<u8>)> = transaction
        .fetch_optional(
            "SELECT checkpoint, audit_public_key FROM audit_heads WHERE key_store_id = $1 AND boot_id = $2",
            &[log.key_store_id.as_bytes().into(), log.boot_id.as_bytes().into()],
        )
        .await?;
    let Some((note, key)) = known else {
        insert(transaction, new).await?;
        return Ok(Witnessed::Kept);
    };
    let text = core::str::from_utf8(&note).map_err(|_| StoreError::Damaged("audit checkpoint"))?;
    let newest = Checkpoint::parse(text).map_err(|_| StoreError::Damaged("audit checkpoint"))?;
    let judged = if key == new.audit_public_key { judge(&newest, &new.checkpoint) } else { Witnessed::Contradiction };
    let log = [log.key_store_id.as_bytes().into(), log.boot_id.as_bytes().into(), (&new.note).into()];
    match judged {
        Witnessed::Known => {}
        Witnessed::Kept => {
            let [key_store_id, boot_id, note] = log;
            let statement =
                "UPDATE audit_heads SET checkpoint = $3, received_ms = $4 WHERE key_store_id = $1 AND boot_id = $2";
            let values = [key_store_id, boot_id, note, to_integer(new.received_ms, "time")?.into()];
            transaction.execute(statement, &values).await?;
        }
        Witnessed::Contradiction => {
            let statement = "UPDATE audit_heads SET contradiction = $3 \
                 WHERE key_store_id = $1 AND boot_id = $2 AND contradiction IS NULL";
            transaction.execute(statement, &log).await?;
        }
    }
    Ok(judged)
}

async fn insert(transaction: &mut Transaction, new: &NewAuditHead) -> Result<(), StoreError> {
    let log = new.checkpoint.log;
    transaction
        .execute(
            "INSERT INTO audit_heads (key_store_id, boot_id, checkpoint, audit_public_key, document, received_ms) \
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                log.key_store_id.as_bytes().into(),
                log.boot_id.as_bytes().into(),
                (&new.note).into(),
                (&new.audit_public_key).into(),
                (&new.document).into(),
                to_integer(new.received_ms, "time")?.into(),
            ],
        )
        .await?;
    let forgotten = transaction
        .execute(
            "DELETE FROM audit_heads WHERE key_store_id = $1 AND received_ms <= (SELECT received_ms FROM audit_heads \
             WHERE key_store_id = $1 ORDER BY received_ms DESC LIMIT 1 OFFSET $2)",
            &[log.key_store_id.as_bytes().into(), limits::AUDIT_HEADS_KEPT_MAX.into()],
        )
        .await?;
    if forgotten > 0 {
        tracing::warn!(key_store_id = %log.key_store_id, forgotten, "forgot the oldest heads of audit logs: there are too many");
    }
    Ok(())
}

/// What a checkpoint is to the newest one of its log, if the boot did sign both. A log grows with time and ends once; requests overtake
/// each other, so that an earlier one may come later.
fn judge(newest: &Checkpoint, new: &Checkpoint) -> Witnessed {
    let order = |checkpoint: &Checkpoint| (checkpoint.time_ms, checkpoint.size, checkpoint.closed);
    let (earlier, later, verdict) = match order(new).cmp(&order(newest)) {
        Ordering::Greater => (newest, new, Witnessed::Kept),
        Ordering::Equal | Ordering::Less => (new, newest, Witnessed::Known),
    };
    let is_same_tree = earlier.size == later.size && earlier.root == later.root;
    let follows = if earlier.closed { is_same_tree && later.closed } else { is_same_tree || earlier.size < later.size };
    if follows { verdict } else { Witnessed::Contradiction }
}

#[derive(sqlx::FromRow)]
struct HeadRow {
    boot_id: Vec<u8>,
    checkpoint: Vec<u8>,
    audit_public_key: Vec<u8>,
    document: Vec<u8>,
    received_ms: i64,
    contradiction: Option<Vec<u8>>,
}

impl TryFrom<HeadRow> for StoredAuditHead {
    type Error = StoreError;

    fn try_from(row: HeadRow) -> Result<Self, StoreError> {
        Ok(Self {
            boot_id: BootId(array(&row.boot_id, "boot id")?),
            note: row.checkpoint,
            audit_public_key: array(&row.audit_public_key, "audit public key")?,
            document: row.document,
            received_ms: from_integer(row.received_ms, "time")?,
            contradiction: row.contradiction,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_grows_with_time_and_ends_once() {
        use Witnessed::{Contradiction, Kept, Known};
        let at = |time_ms, size, root, closed| {
            let log = LogId { key_store_id: KeyStoreId([1; 32]), boot_id: BootId([2; 16]) };
            Checkpoint { log, size, root: [root; 32], time_ms, closed }
        };
        let (open, closed) = (at(50, 10, 1, false), at(50, 10, 1, true));
        for (what, newest, new, expected) in [
            ("the same", &open, at(50, 10, 1, false), Known),
            ("grown", &open, at(51, 11, 2, false), Kept),
            ("grown within the millisecond", &open, at(50, 11, 2, false), Kept),
            ("signed anew", &open, at(51, 10, 1, false), Kept),
            ("signed before", &open, at(49, 10, 1, false), Known),
            ("overtaken", &open, at(49, 9, 2, false), Known),
            ("another tree", &open, at(51, 10, 2, false), Contradiction),
            ("another tree before", &open, at(49, 10, 2, false), Contradiction),
            ("another tree at once", &open, at(50, 10, 2, false), Contradiction),
            ("shrunk", &open, at(51, 9, 2, false), Contradiction),
            ("was larger before", &open, at(49, 11, 2, false), Contradiction),
            ("closed", &open, at(50, 10, 1, true), Kept),
            ("closed, grown", &open, at(51, 12, 2, true), Kept),
            ("closed, shrunk", &open, at(51, 9, 2, true), Contradiction),
            ("was closed before", &open, at(49, 9, 2, true), Contradiction),
            ("closed again", &closed, at(51, 10, 1, true), Kept),
            ("opened again", &closed, at(51, 10, 1, false), Contradiction),
            ("grown after the end", &closed, at(51, 11, 2, false), Contradiction),
            ("closed elsewhere", &closed, at(51, 11, 2, true), Contradiction),
            ("overtaken by the end", &closed, at(50, 10, 1, false), Known),
            ("overtaken by the end, smaller", &closed, at(49, 9, 2, false), Known),
        ] {
            assert_eq!(judge(newest, &new), expected, "{what}");
        }
    }
}
