//! Shares of the root key, by generation.
//!
//! A share set is *provisional* until a version sealed under its generation is held here: ceremonies and rotations break off, and two
//! may run at once. Which set the next version will name is not known here, so several are kept beside each other: a share that comes
//! late replaces no other. From then on only the set counts that the version names; the others go, and a share of it may still come:
//! from whoever unseals, to a custodian that was away.

use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits;
use holdfast_shared::sha256;

use super::database::{Lock, Session, Transaction, write_transaction};
use super::leases::count_message;
use super::{Origin, Store, StoreError, array, from_integer, generation_from, to_integer};

/// How many generations a release can carry: the one in force, and the next while a rotation is under way.
const GENERATIONS: u32 = 2;

/// [`limits::RELEASED_SHARES_MAX`], as a query takes it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a small constant")]
const RELEASED_MAX: u32 = limits::RELEASED_SHARES_MAX as u32;

/// A share to be kept.
#[derive(Debug)]
pub struct NewShare {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Generation of the root key.
    pub generation: u32,
    /// The public part, encoded.
    pub share_set: Vec<u8>,
    /// The share, wrapped.
    pub wrapped: Vec<u8>,
    /// The attestation document of the enclave that deposits it: the record of where the root key came from.
    pub document: Vec<u8>,
    /// Whether it may be of any generation while no version is held: at a custodian that a successor manifest brings in.
    pub may_start_late: bool,
}

/// A share as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredShare {
    /// Generation of the root key.
    pub generation: u32,
    /// The public part, encoded.
    pub share_set: Vec<u8>,
    /// The share, wrapped.
    pub wrapped: Vec<u8>,
    /// The attestation document of the enclave that deposited it.
    pub document: Vec<u8>,
    /// When.
    pub deposited_ms: u64,
}

/// What came of depositing a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deposited {
    /// It is kept, now or since an earlier try.
    Kept,
    /// Another share is there for good, or its generation is not one that may come now.
    Conflict,
}

/// What came of giving up old shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// So many shares were deleted; none of these generations is left.
    Deleted(u64),
    /// The newest version held here is not committed, or not sealed under this generation, or its share is missing: nothing was
    /// deleted.
    TooEarly,
}

impl Store {
    /// Keeps a share. While no version under its generation is held, those of other sets stay beside it, the newest
    /// [`limits::PROVISIONAL_SETS_MAX`]; a generation may come if it is that of the newest version held, and its set the one that
    /// this version names, or the next one.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn deposit(&self, share: &NewShare, origin: Origin) -> Result<Deposited, StoreError> {
        write_transaction!(self, Lock::KeyStore(share.key_store_id), deposit(share, origin))
    }

    /// The shares of the newest two generations, oldest first; of a generation without a version, those of all its sets. At most
    /// [`limits::RELEASED_SHARES_MAX`]: where a version came without its share, the generation before it may have as many sets as the one
    /// after it; of the older generation those stay away then that came first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn shares(&self, key_store_id: KeyStoreId) -> Result<Vec<StoredShare>, StoreError> {
        let rows: Vec<ShareRow> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT generation, share_set, wrapped, document, deposited_ms FROM shares WHERE key_store_id = $1 \
                 AND generation IN (SELECT DISTINCT generation FROM shares WHERE key_store_id = $1 \
                 ORDER BY generation DESC LIMIT $2) \
                 ORDER BY generation DESC, deposited_ms DESC, share_set_sha256 DESC LIMIT $3",
                &[key_store_id.as_bytes().into(), GENERATIONS.into(), RELEASED_MAX.into()],
            )
            .await?;
        rows.into_iter().rev().map(StoredShare::try_from).collect()
    }

    /// Deletes the shares of generations below this one, if the newest version held is committed and sealed under it, and its
    /// share is held, or is not to be held here (`needs_none`).
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn retire(
        &self,
        key_store_id: KeyStoreId,
        below_generation: u32,
        needs_none: bool,
        origin: Origin,
    ) -> Result<Retired, StoreError> {
        write_transaction!(
            self,
            Lock::KeyStore(key_store_id),
            retire(key_store_id, below_generation, needs_none, origin)
        )
    }
}

#[derive(sqlx::FromRow)]
struct ShareRow {
    generation: i64,
    share_set: Vec<u8>,
    wrapped: Vec<u8>,
    document: Vec<u8>,
    deposited_ms: i64,
}

impl TryFrom<ShareRow> for StoredShare {
    type Error = StoreError;

    fn try_from(row: ShareRow) -> Result<Self, StoreError> {
        Ok(Self {
            generation: generation_from(row.generation)?,
            share_set: row.share_set,
            wrapped: row.wrapped,
            document: row.document,
            deposited_ms: from_integer(row.deposited_ms, "time")?,
        })
    }
}

async fn deposit(transaction: &mut Transaction, share: &NewShare, origin: Origin) -> Result<Deposited, StoreError> {
    count_message(transaction, origin).await?;
    let id = share.key_store_id.as_bytes();
    let in_force = in_force(transaction, share.key_store_id).await?;
    let set_sha256 = sha256(&[&share.share_set]);
    // The set commits to the share, so the same set brings the same share.
    if has_share_of(transaction, share.key_store_id, share.generation, set_sha256).await? {
        return Ok(Deposited::Kept);
    }
    let may_come = match in_force {
        None => share.generation == 1 || share.may_start_late,
        Some((generation, set)) if generation == share.generation => set_sha256 == set,
        Some((generation, _)) => generation.checked_add(1) == Some(share.generation),
    };
    if !may_come {
        return Ok(Deposited::Conflict);
    }
    if in_force.is_none() {
        // Of all provisional generations the newest counts, whichever it says.
        transaction
            .execute(
                "DELETE FROM shares WHERE key_store_id = $1 AND generation <> $2",
                &[id.into(), share.generation.into()],
            )
            .await?;
    }
    transaction
        .execute(
            "INSERT INTO shares (key_store_id, generation, share_set_sha256, share_set, wrapped, document, deposited_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &[
                id.into(),
                share.generation.into(),
                (&set_sha256).into(),
                (&share.share_set).into(),
                (&share.wrapped).into(),
                (&share.document).into(),
                to_integer(origin.now_ms, "time")?.into(),
            ],
        )
        .await?;
    make_room(transaction, share.key_store_id, share.generation, set_sha256).await?;
    Ok(Deposited::Kept)
}

/// Gives up the oldest sets of a generation, if there are too many; never the one that came just now.
async fn make_room(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    generation: u32,
    newest_sha256: [u8; 32],
) -> Result<(), StoreError> {
    let others_max = i64::try_from(limits::PROVISIONAL_SETS_MAX.saturating_sub(1))
        .map_err(|_| StoreError::OutOfRange("number of share sets"))?;
    transaction
        .execute(
            "DELETE FROM shares WHERE key_store_id = $1 AND generation = $2 AND share_set_sha256 <> $3 \
             AND share_set_sha256 NOT IN (SELECT share_set_sha256 FROM shares WHERE key_store_id = $1 \
             AND generation = $2 AND share_set_sha256 <> $3 ORDER BY deposited_ms DESC, share_set_sha256 LIMIT $4)",
            &[key_store_id.as_bytes().into(), generation.into(), (&newest_sha256).into(), others_max.into()],
        )
        .await?;
    Ok(())
}

async fn retire(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    below_generation: u32,
    needs_none: bool,
    origin: Origin,
) -> Result<Retired, StoreError> {
    count_message(transaction, origin).await?;
    let id = key_store_id.as_bytes();
    let newest: Option<(i64, i64, Vec<u8>)> = transaction
        .fetch_optional(
            "SELECT generation, committed, share_set_sha256 FROM versions WHERE key_store_id = $1 ORDER BY version DESC LIMIT 1",
            &[id.into()],
        )
        .await?;
    let in_force =
        newest.filter(|(generation, committed, _)| *committed != 0 && *generation == i64::from(below_generation));
    let Some((_, _, named)) = in_force else { return Ok(Retired::TooEarly) };
    let named = array(&named, "share set's hash")?;
    if !needs_none && !has_share_of(transaction, key_store_id, below_generation, named).await? {
        return Ok(Retired::TooEarly);
    }
    let deleted = transaction
        .execute(
            "DELETE FROM shares WHERE key_store_id = $1 AND generation < $2",
            &[id.into(), below_generation.into()],
        )
        .await?;
    Ok(Retired::Deleted(deleted))
}

/// The generation of the newest version held, and the hash of its share set; none before the first.
async fn in_force(session: &mut Session, key_store_id: KeyStoreId) -> Result<Option<(u32, [u8; 32])>, StoreError> {
    let row: Option<(i64, Vec<u8>)> = session
        .fetch_optional(
            "SELECT generation, share_set_sha256 FROM versions WHERE key_store_id = $1 ORDER BY version DESC LIMIT 1",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    row.map(|(generation, set)| Ok((generation_from(generation)?, array(&set, "share set's hash")?))).transpose()
}

/// Whether a share of this set is kept.
pub(super) async fn has_share_of(
    session: &mut Session,
    key_store_id: KeyStoreId,
    generation: u32,
    set_sha256: [u8; 32],
) -> Result<bool, StoreError> {
    let row: Option<(i64,)> = session
        .fetch_optional(
            "SELECT generation FROM shares WHERE key_store_id = $1 AND generation = $2 AND share_set_sha256 = $3",
            &[key_store_id.as_bytes().into(), generation.into(), (&set_sha256).into()],
        )
        .await?;
    Ok(row.is_some())
}

/// Gives up shares that lost to those that a version was sealed under: of its generation but another set, and provisional ones of
/// generations that cannot follow it.
pub(super) async fn drop_losing_shares(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    generation: u32,
    winning_sha256: [u8; 32],
) -> Result<(), StoreError> {
    let id = key_store_id.as_bytes();
    transaction
        .execute(
            "DELETE FROM shares WHERE key_store_id = $1 AND generation = $2 AND share_set_sha256 <> $3",
            &[id.into(), generation.into(), (&winning_sha256).into()],
        )
        .await?;
    transaction
        .execute(
            "DELETE FROM shares WHERE key_store_id = $1 AND generation > $2",
            &[id.into(), generation.saturating_add(1).into()],
        )
        .await?;
    Ok(())
}
