//! Leases, spent nonces, and the record of releases and refusals.

use holdfast_shared::ids::{BootId, KeyStoreId, LeaseId};
use holdfast_shared::limits;
use sqlx::{Sqlite, Transaction};

use super::orders::overlay_epoch;
use super::{Store, StoreError, array, from_integer, to_integer};

/// How long a spent nonce is remembered: longer than it lives, in case the clock is set back a little.
const NONCE_KEPT_MS: u64 = 10 * limits::CHALLENGE_LIFE_MS;

/// A lease to be granted.
#[derive(Debug)]
pub struct NewLease {
    /// Its id.
    pub lease_id: LeaseId,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The boot that holds it.
    pub boot_id: BootId,
    /// The enclave's name for itself.
    pub module_id: String,
    /// Verifies that boot's audit checkpoints.
    pub audit_public_key: [u8; 32],
    /// What was proven, encoded: renewals appraise it again.
    pub evidence: Vec<u8>,
    /// The attestation document.
    pub document: Vec<u8>,
    /// The channel keys, wrapped.
    pub channel_keys: Vec<u8>,
    /// The epoch under which it was granted.
    pub policy_epoch: u64,
    /// Epoch of the block overlay by which it was decided whether it comes with a share; 0 for none.
    pub overlay_epoch: u64,
    /// The challenge that is spent with it.
    pub nonce: [u8; 32],
    /// When it was granted.
    pub granted_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
}

/// A lease as it is kept.
#[derive(Debug)]
pub struct StoredLease {
    /// Its id.
    pub lease_id: LeaseId,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The boot that holds it.
    pub boot_id: BootId,
    /// The enclave's name for itself.
    pub module_id: String,
    /// What was proven, encoded.
    pub evidence: Vec<u8>,
    /// The attestation document.
    pub document: Vec<u8>,
    /// The channel keys, wrapped.
    pub channel_keys: Vec<u8>,
    /// When it was granted.
    pub granted_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
    /// When the enclave last changed anything through it.
    pub seen_ms: u64,
    /// The highest counter of a message that changed anything.
    pub counter: u64,
}

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

/// What came of granting a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It is kept.
    Kept,
    /// The nonce was spent before; nothing was kept.
    NonceSpent,
    /// Another block overlay is in force by now; nothing was kept, and the nonce is not spent: decide again.
    OverlayChanged,
}

impl Store {
    /// Spends the nonce, keeps the lease and records the release, and ends the lease `evicted`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn grant(
        &self,
        lease: &NewLease,
        record: &ReleaseRecord,
        evicted: Option<LeaseId>,
    ) -> Result<Granted, StoreError> {
        let now = to_integer(lease.granted_ms, "time")?;
        let mut transaction = self.begin().await?;
        // A block that was acknowledged holds for every release that is not yet on record.
        if overlay_epoch(&mut transaction, lease.key_store_id).await? != lease.overlay_epoch {
            return Ok(Granted::OverlayChanged);
        }
        sqlx::query("DELETE FROM nonces WHERE expires_ms < ?").bind(now).execute(&mut *transaction).await?;
        let fresh = sqlx::query("INSERT OR IGNORE INTO nonces (nonce, expires_ms) VALUES (?, ?)")
            .bind(lease.nonce.as_slice())
            .bind(to_integer(lease.granted_ms.saturating_add(NONCE_KEPT_MS), "time")?)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        if fresh == 0 {
            return Ok(Granted::NonceSpent);
        }
        sqlx::query("DELETE FROM leases WHERE expires_ms <= ? OR lease_id = ?")
            .bind(now)
            .bind(evicted.as_ref().map(|id| id.as_bytes().as_slice()))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO leases (lease_id, key_store_id, boot_id, module_id, audit_public_key, evidence, document, \
             channel_keys, policy_epoch, granted_ms, expires_ms, seen_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(lease.lease_id.as_bytes().as_slice())
        .bind(lease.key_store_id.as_bytes().as_slice())
        .bind(lease.boot_id.as_bytes().as_slice())
        .bind(&lease.module_id)
        .bind(lease.audit_public_key.as_slice())
        .bind(&lease.evidence)
        .bind(&lease.document)
        .bind(&lease.channel_keys)
        .bind(to_integer(lease.policy_epoch, "policy epoch")?)
        .bind(now)
        .bind(to_integer(lease.expires_ms, "time")?)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        insert_record(&mut transaction, record).await?;
        transaction.commit().await?;
        Ok(Granted::Kept)
    }

    /// Records a refusal; of each key store the newest [`limits::REFUSALS_KEPT_MAX`] are kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record_refusal(&self, record: &ReleaseRecord) -> Result<(), StoreError> {
        let id = record.key_store_id.as_bytes().as_slice();
        let mut transaction = self.begin().await?;
        insert_record(&mut transaction, record).await?;
        sqlx::query(
            "DELETE FROM releases WHERE key_store_id = ? AND released = 0 AND id <= (SELECT id FROM releases \
             WHERE key_store_id = ? AND released = 0 ORDER BY id DESC LIMIT 1 OFFSET ?)",
        )
        .bind(id)
        .bind(id)
        .bind(limits::REFUSALS_KEPT_MAX)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The newest records of a key store, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_records(
        &self,
        key_store_id: KeyStoreId,
        at_most: u32,
    ) -> Result<Vec<ReleaseRecord>, StoreError> {
        let rows: Vec<RecordRow> = sqlx::query_as(
            "SELECT at_ms, released, reason, policy_epoch, emulated_root, trust_root, module_id, boot_id, lease_id, \
             measurements FROM releases WHERE key_store_id = ? ORDER BY id DESC LIMIT ?",
        )
        .bind(key_store_id.as_bytes().as_slice())
        .bind(at_most)
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter().map(|row| row.into_record(key_store_id)).collect()
    }

    /// The leases that have not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases(&self, now_ms: u64) -> Result<Vec<StoredLease>, StoreError> {
        let rows: Vec<LeaseRow> = sqlx::query_as(
            "SELECT lease_id, key_store_id, boot_id, module_id, evidence, document, channel_keys, granted_ms, expires_ms, \
             seen_ms, counter FROM leases WHERE expires_ms > ?",
        )
        .bind(to_integer(now_ms, "time")?)
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter().map(StoredLease::try_from).collect()
    }

    /// Extends a lease on account of the message with `counter`. False when the lease is gone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew(
        &self,
        lease_id: LeaseId,
        counter: u64,
        now_ms: u64,
        expires_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        if !count_message(&mut transaction, lease_id, counter, now_ms).await? {
            return Ok(false);
        }
        sqlx::query("UPDATE leases SET expires_ms = ? WHERE lease_id = ?")
            .bind(to_integer(expires_ms, "time")?)
            .bind(lease_id.as_bytes().as_slice())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_lease(&self, lease_id: LeaseId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM leases WHERE lease_id = ?")
            .bind(lease_id.as_bytes().as_slice())
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

/// Notes that the message with `counter` changes something, so that after a restart it is not accepted again. False when the
/// lease is gone.
pub(super) async fn count_message(
    transaction: &mut Transaction<'static, Sqlite>,
    lease_id: LeaseId,
    counter: u64,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let updated =
        sqlx::query("UPDATE leases SET counter = max(counter, ?), seen_ms = max(seen_ms, ?) WHERE lease_id = ?")
            .bind(to_integer(counter, "counter")?)
            .bind(to_integer(now_ms, "time")?)
            .bind(lease_id.as_bytes().as_slice())
            .execute(&mut **transaction)
            .await?
            .rows_affected();
    Ok(updated == 1)
}

async fn insert_record(
    transaction: &mut Transaction<'static, Sqlite>,
    record: &ReleaseRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO releases (at_ms, key_store_id, released, reason, policy_epoch, emulated_root, trust_root, module_id, \
         boot_id, lease_id, measurements) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(to_integer(record.at_ms, "time")?)
    .bind(record.key_store_id.as_bytes().as_slice())
    .bind(record.released)
    .bind(&record.reason)
    .bind(to_integer(record.policy_epoch, "policy epoch")?)
    .bind(record.emulated_root)
    .bind(record.trust_root.as_ref().map(<[u8; 32]>::as_slice))
    .bind(&record.module_id)
    .bind(record.boot_id.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(record.lease_id.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(&record.measurements)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct LeaseRow {
    lease_id: Vec<u8>,
    key_store_id: Vec<u8>,
    boot_id: Vec<u8>,
    module_id: String,
    evidence: Vec<u8>,
    document: Vec<u8>,
    channel_keys: Vec<u8>,
    granted_ms: i64,
    expires_ms: i64,
    seen_ms: i64,
    counter: i64,
}

impl TryFrom<LeaseRow> for StoredLease {
    type Error = StoreError;

    fn try_from(row: LeaseRow) -> Result<Self, StoreError> {
        Ok(Self {
            lease_id: LeaseId(array(&row.lease_id, "lease id")?),
            key_store_id: KeyStoreId(array(&row.key_store_id, "key store id")?),
            boot_id: BootId(array(&row.boot_id, "boot id")?),
            module_id: row.module_id,
            evidence: row.evidence,
            document: row.document,
            channel_keys: row.channel_keys,
            granted_ms: from_integer(row.granted_ms, "time")?,
            expires_ms: from_integer(row.expires_ms, "time")?,
            seen_ms: from_integer(row.seen_ms, "time")?,
            counter: from_integer(row.counter, "counter")?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct RecordRow {
    at_ms: i64,
    released: bool,
    reason: String,
    policy_epoch: i64,
    emulated_root: bool,
    trust_root: Option<Vec<u8>>,
    module_id: Option<String>,
    boot_id: Option<Vec<u8>>,
    lease_id: Option<Vec<u8>>,
    measurements: Option<Vec<u8>>,
}

impl RecordRow {
    fn into_record(self, key_store_id: KeyStoreId) -> Result<ReleaseRecord, StoreError> {
        Ok(ReleaseRecord {
            at_ms: from_integer(self.at_ms, "time")?,
            key_store_id,
            released: self.released,
            reason: self.reason,
            policy_epoch: from_integer(self.policy_epoch, "policy epoch")?,
            emulated_root: self.emulated_root,
            trust_root: self.trust_root.map(|root| array(&root, "trust root")).transpose()?,
            module_id: self.module_id,
            boot_id: self.boot_id.map(|id| array(&id, "boot id")).transpose()?.map(BootId),
            lease_id: self.lease_id.map(|id| array(&id, "lease id")).transpose()?.map(LeaseId),
            measurements: self.measurements,
        })
    }
}
