//! The record of releases and refusals.

use holdfast_shared::ids::{BootId, KeyStoreId, LeaseId};
use holdfast_shared::limits;

use super::database::{Lock, Transaction, write_transaction};
use super::{Store, StoreError, array, from_integer, to_bytes, to_integer};

/// One line of the record of releases and refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRecord {
    /// When.
    pub at_ms: u64,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Whether a lease was granted.
    pub released: bool,
    /// What was released, or why not.
    pub reason: String,
    /// The policy's epoch.
    pub policy_epoch: u64,
    /// Whether the evidence stands under an emulator's root.
    pub emulated_root: bool,
    /// The root under which the document was verified, if it was.
    pub trust_root: Option<[u8; 32]>,
    /// The enclave's name for itself, if that was verified.
    pub module_id: Option<String>,
    /// The boot, if that was verified.
    pub boot_id: Option<BootId>,
    /// The lease granted.
    pub lease_id: Option<LeaseId>,
    /// What was measured, encoded, if that was verified.
    pub measurements: Option<Vec<u8>>,
}

/// A line with its number: later lines have higher ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its number.
    pub id: u64,
    /// The line.
    pub record: ReleaseRecord,
}

impl Store {
    /// Records a refusal; of each key store the newest [`limits::REFUSALS_KEPT_MAX`] are kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record_refusal(&self, record: &ReleaseRecord) -> Result<(), StoreError> {
        write_transaction!(self, Lock::KeyStore(record.key_store_id), record_refusal(record))
    }

    /// Records a refusal, unless the newest line about its boot says the same: whoever asks again and again pushes out nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record_refusal_once(&self, record: &ReleaseRecord) -> Result<(), StoreError> {
        write_transaction!(self, Lock::KeyStore(record.key_store_id), record_refusal_once(record))
    }

    /// The newest lines of a key store, newest first, of those before the line `before`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn records(
        &self,
        key_store_id: KeyStoreId,
        before: Option<u64>,
        at_most: u32,
    ) -> Result<Vec<StoredRecord>, StoreError> {
        let before = before.map_or(Ok(i64::MAX), |before| to_integer(before, "record's number"))?;
        let rows: Vec<RecordRow> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT id, at_ms, released, reason, policy_epoch, emulated_root, trust_root, module_id, boot_id, \
                 lease_id, measurements FROM releases WHERE key_store_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
                &[key_store_id.as_bytes().into(), before.into(), at_most.into()],
            )
            .await?;
        rows.into_iter().map(|row| row.into_record(key_store_id)).collect()
    }
}

async fn record_refusal(transaction: &mut Transaction, record: &ReleaseRecord) -> Result<(), StoreError> {
    insert_record(transaction, record).await?;
    prune_records(transaction, record.key_store_id, false, limits::REFUSALS_KEPT_MAX).await
}

async fn record_refusal_once(transaction: &mut Transaction, record: &ReleaseRecord) -> Result<(), StoreError> {
    let newest: Option<(i64, String)> = transaction
        .fetch_optional(
            "SELECT released, reason FROM releases WHERE key_store_id = $1 AND boot_id = $2 ORDER BY id DESC LIMIT 1",
            &[record.key_store_id.as_bytes().into(), to_bytes(record.boot_id.as_ref().map(BootId::as_bytes)).into()],
        )
        .await?;
    if newest.is_some_and(|(released, reason)| released == 0 && reason == record.reason) {
        return Ok(());
    }
    record_refusal(transaction, record).await
}

pub(super) async fn insert_record(transaction: &mut Transaction, record: &ReleaseRecord) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO releases (at_ms, key_store_id, released, reason, policy_epoch, emulated_root, trust_root, \
             module_id, boot_id, lease_id, measurements) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            &[
                to_integer(record.at_ms, "time")?.into(),
                record.key_store_id.as_bytes().into(),
                record.released.into(),
                record.reason.as_str().into(),
                to_integer(record.policy_epoch, "policy epoch")?.into(),
                record.emulated_root.into(),
                to_bytes(record.trust_root.as_ref()).into(),
                record.module_id.as_deref().into(),
                to_bytes(record.boot_id.as_ref().map(BootId::as_bytes)).into(),
                to_bytes(record.lease_id.as_ref().map(LeaseId::as_bytes)).into(),
                record.measurements.as_deref().into(),
            ],
        )
        .await?;
    Ok(())
}

/// Deletes all but the newest `kept` lines of one outcome.
pub(super) async fn prune_records(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    released: bool,
    kept: u32,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "DELETE FROM releases WHERE key_store_id = $1 AND released = $2 AND id <= (SELECT id FROM releases \
             WHERE key_store_id = $1 AND released = $2 ORDER BY id DESC LIMIT 1 OFFSET $3)",
            &[key_store_id.as_bytes().into(), released.into(), kept.into()],
        )
        .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct RecordRow {
    id: i64,
    at_ms: i64,
    released: i64,
    reason: String,
    policy_epoch: i64,
    emulated_root: i64,
    trust_root: Option<Vec<u8>>,
    module_id: Option<String>,
    boot_id: Option<Vec<u8>>,
    lease_id: Option<Vec<u8>>,
    measurements: Option<Vec<u8>>,
}

impl RecordRow {
    fn into_record(self, key_store_id: KeyStoreId) -> Result<StoredRecord, StoreError> {
        let record = ReleaseRecord {
            at_ms: from_integer(self.at_ms, "time")?,
            key_store_id,
            released: self.released != 0,
            reason: self.reason,
            policy_epoch: from_integer(self.policy_epoch, "policy epoch")?,
            emulated_root: self.emulated_root != 0,
            trust_root: self.trust_root.map(|root| array(&root, "trust root")).transpose()?,
            module_id: self.module_id,
            boot_id: self.boot_id.map(|id| array(&id, "boot id")).transpose()?.map(BootId),
            lease_id: self.lease_id.map(|id| array(&id, "lease id")).transpose()?.map(LeaseId),
            measurements: self.measurements,
        };
        Ok(StoredRecord { id: from_integer(self.id, "record's number")?, record })
    }
}
