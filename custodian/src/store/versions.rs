//! Shares, versions of key stores with the register, and results.

use holdfast_shared::ids::{BlobId, BootId, CommandId, KeyStoreId, LeaseId};
use sqlx::{Sqlite, Transaction};

use super::leases::count_message;
use super::{Store, StoreError, array, from_integer, to_integer};

/// On account of which message something changes.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The lease.
    pub lease_id: LeaseId,
    /// The message's counter.
    pub counter: u64,
    /// The time.
    pub now_ms: u64,
}

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
}

/// A share as it is kept.
#[derive(Debug)]
pub struct StoredShare {
    /// Generation of the root key.
    pub generation: u32,
    /// The public part, encoded.
    pub share_set: Vec<u8>,
    /// The share, wrapped.
    pub wrapped: Vec<u8>,
}

/// What came of depositing a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deposited {
    /// It is kept, now or since an earlier try.
    Kept,
    /// Another share is there.
    Conflict,
    /// The lease is gone.
    LeaseEnded,
}

/// A version to be published.
#[derive(Debug)]
pub struct NewVersion {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// One more than the newest.
    pub version: u64,
    /// The newest blob.
    pub previous: Option<BlobId>,
    /// The new blob's id.
    pub blob_id: BlobId,
    /// The new blob.
    pub blob: Vec<u8>,
    /// Its signed register entry.
    pub register: Vec<u8>,
    /// Results by command, encoded.
    pub results: Vec<(CommandId, Vec<u8>)>,
    /// The boot that publishes.
    pub boot_id: BootId,
}

/// What came of publishing a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is the newest, now or since an earlier try; with its signed register entry.
    Newest(Vec<u8>),
    /// Another version came first; with the newest signed register entry.
    Conflict(Option<Vec<u8>>),
    /// The lease is gone.
    LeaseEnded,
}

/// A register entry as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRegister {
    /// The version.
    pub version: u64,
    /// Its blob.
    pub blob_id: BlobId,
    /// When it was recorded.
    pub recorded_ms: u64,
    /// The signed entry.
    pub signed: Vec<u8>,
}

impl Store {
    /// Keeps a share, if none is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deposit(&self, share: &NewShare, origin: Origin) -> Result<Deposited, StoreError> {
        let id = share.key_store_id.as_bytes().as_slice();
        let mut transaction = self.begin().await?;
        if !count_message(&mut transaction, origin.lease_id, origin.counter, origin.now_ms).await? {
            return Ok(Deposited::LeaseEnded);
        }
        let kept: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT share_set FROM shares WHERE key_store_id = ? ORDER BY generation DESC LIMIT 1")
                .bind(id)
                .fetch_optional(&mut *transaction)
                .await?;
        let deposited = match kept {
            // The set commits to the share, so the same set brings the same share.
            Some((share_set,)) if share_set == share.share_set => Deposited::Kept,
            Some(_) => Deposited::Conflict,
            None => {
                sqlx::query(
                    "INSERT INTO shares (key_store_id, generation, share_set, wrapped, document, deposited_ms) \
                     VALUES (?, ?, ?, ?, ?, ?)",
                )
                .bind(id)
                .bind(share.generation)
                .bind(&share.share_set)
                .bind(&share.wrapped)
                .bind(&share.document)
                .bind(to_integer(origin.now_ms, "time")?)
                .execute(&mut *transaction)
                .await?;
                Deposited::Kept
            }
        };
        transaction.commit().await?;
        Ok(deposited)
    }

    /// The newest share of a key store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn share(&self, key_store_id: KeyStoreId) -> Result<Option<StoredShare>, StoreError> {
        let row: Option<(u32, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT generation, share_set, wrapped FROM shares WHERE key_store_id = ? ORDER BY generation DESC LIMIT 1",
        )
        .bind(key_store_id.as_bytes().as_slice())
        .fetch_optional(&self.reader)
        .await?;
        Ok(row.map(|(generation, share_set, wrapped)| StoredShare { generation, share_set, wrapped }))
    }

    /// Makes a version the newest, if the one before it still is, and keeps its results in the same step.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn publish(&self, new: &NewVersion, origin: Origin) -> Result<Published, StoreError> {
        let mut transaction = self.begin().await?;
        if !count_message(&mut transaction, origin.lease_id, origin.counter, origin.now_ms).await? {
            return Ok(Published::LeaseEnded);
        }
        let newest = newest(&mut *transaction, new.key_store_id).await?;
        if let Some(newest) = &newest
            && newest.blob_id == new.blob_id
        {
            transaction.commit().await?;
            return Ok(Published::Newest(newest.signed.clone()));
        }
        let place = newest.as_ref().map_or((0, None), |newest| (newest.version, Some(newest.blob_id)));
        if (Some(place.0), place.1) != (new.version.checked_sub(1), new.previous) {
            transaction.commit().await?;
            return Ok(Published::Conflict(newest.map(|newest| newest.signed)));
        }
        sqlx::query(
            "INSERT INTO versions (key_store_id, version, blob_id, register, recorded_ms, boot_id, blob) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(new.key_store_id.as_bytes().as_slice())
        .bind(to_integer(new.version, "version")?)
        .bind(new.blob_id.as_bytes().as_slice())
        .bind(&new.register)
        .bind(to_integer(origin.now_ms, "time")?)
        .bind(new.boot_id.as_bytes().as_slice())
        .bind(&new.blob)
        .execute(&mut *transaction)
        .await?;
        // A version is the truth about its commands: its results replace what another enclave reported meanwhile.
        for (command_id, sealed) in &new.results {
            keep_result(&mut transaction, new.key_store_id, *command_id, sealed, origin.now_ms, true).await?;
        }
        transaction.commit().await?;
        Ok(Published::Newest(new.register.clone()))
    }

    /// Keeps results that come without a version; the first result of a command stays. False when the lease is gone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn report(
        &self,
        key_store_id: KeyStoreId,
        results: &[(CommandId, Vec<u8>)],
        origin: Origin,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        if !count_message(&mut transaction, origin.lease_id, origin.counter, origin.now_ms).await? {
            return Ok(false);
        }
        for (command_id, sealed) in results {
            keep_result(&mut transaction, key_store_id, *command_id, sealed, origin.now_ms, false).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// The newest register entry.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn register(&self, key_store_id: KeyStoreId) -> Result<Option<StoredRegister>, StoreError> {
        newest(&self.reader, key_store_id).await
    }

    /// A blob of a key store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn blob(&self, key_store_id: KeyStoreId, blob_id: BlobId) -> Result<Option<Vec<u8>>, StoreError> {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT blob FROM versions WHERE key_store_id = ? AND blob_id = ?")
                .bind(key_store_id.as_bytes().as_slice())
                .bind(blob_id.as_bytes().as_slice())
                .fetch_optional(&self.reader)
                .await?;
        Ok(row.map(|(blob,)| blob))
    }
}

pub(super) async fn newest(
    executor: impl sqlx::Executor<'_, Database = Sqlite>,
    key_store_id: KeyStoreId,
) -> Result<Option<StoredRegister>, StoreError> {
    let row: Option<(i64, Vec<u8>, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT version, blob_id, recorded_ms, register FROM versions WHERE key_store_id = ? \
         ORDER BY version DESC LIMIT 1",
    )
    .bind(key_store_id.as_bytes().as_slice())
    .fetch_optional(executor)
    .await?;
    row.map(|(version, blob_id, recorded_ms, signed)| {
        Ok(StoredRegister {
            version: from_integer(version, "version")?,
            blob_id: BlobId(array(&blob_id, "blob id")?),
            recorded_ms: from_integer(recorded_ms, "time")?,
            signed,
        })
    })
    .transpose()
}

async fn keep_result(
    transaction: &mut Transaction<'static, Sqlite>,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    sealed: &[u8],
    now_ms: u64,
    replace: bool,
) -> Result<(), StoreError> {
    let insert = if replace {
        "INSERT OR REPLACE INTO results (key_store_id, command_id, sealed, recorded_ms) VALUES (?, ?, ?, ?)"
    } else {
        "INSERT OR IGNORE INTO results (key_store_id, command_id, sealed, recorded_ms) VALUES (?, ?, ?, ?)"
    };
    sqlx::query(insert)
        .bind(key_store_id.as_bytes().as_slice())
        .bind(command_id.as_bytes().as_slice())
        .bind(sealed)
        .bind(to_integer(now_ms, "time")?)
        .execute(&mut **transaction)
        .await?;
    sqlx::query("UPDATE commands SET done = 1 WHERE key_store_id = ? AND command_id = ?")
        .bind(key_store_id.as_bytes().as_slice())
        .bind(command_id.as_bytes().as_slice())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
