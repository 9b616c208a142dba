//! Release policies, approvals of single releases, and the boots that wait for them.

use holdfast_shared::ids::{AdministratorId, BootId, KeyStoreId};
use holdfast_shared::limits;

/// [`limits::WAITING_RELEASES_MAX`], as a query takes it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a small constant")]
const WAITING_KEPT: u32 = limits::WAITING_RELEASES_MAX as u32;

use super::database::{Lock, Session, Transaction, write_transaction};
use super::manifests::manifest_in_force;
use super::overlays::JudgedBy;
use super::{Store, StoreError, array, from_integer, to_integer};

/// A release policy as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPolicy {
    /// Its epoch.
    pub epoch: u64,
    /// The policy, encoded.
    pub policy: Vec<u8>,
    /// The signed update that brought it; none for the manifest's own.
    pub signed_update: Option<Vec<u8>>,
}

/// An administrator's approval of one boot's releases.
#[derive(Clone, Copy, Debug)]
pub struct NewApproval<'a> {
    /// The boot.
    pub boot_id: BootId,
    /// Who approves.
    pub administrator_id: AdministratorId,
    /// The signed approval.
    pub signed: &'a [u8],
    /// When it ends.
    pub expires_ms: u64,
}

/// What came of keeping an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approved {
    /// It counts from now on.
    Kept,
    /// One of the administrator's that lasts as long is there; nothing changed.
    Known,
    /// The administrator has approved as many other boots as there may be leases; nothing changed.
    TooMany,
}

/// A boot that asked for a release and waits for approvals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRelease {
    /// The boot.
    pub boot_id: BootId,
    /// The enclave's name for itself.
    pub module_id: String,
    /// What was measured, encoded.
    pub measurements: Vec<u8>,
    /// The newest attestation document with which it asked.
    pub document: Vec<u8>,
    /// When it asked first.
    pub first_ms: u64,
    /// When it asked last.
    pub last_ms: u64,
}

impl Store {
    /// The release policy in force.
    ///
    /// # Errors
    /// [`StoreError`], also when there is none, since each key store has one from its enrolment.
    pub async fn release_policy(&self, key_store_id: KeyStoreId) -> Result<StoredPolicy, StoreError> {
        let row: Option<(i64, Vec<u8>, Option<Vec<u8>>)> = self
            .database
            .read()
            .await?
            .fetch_optional(
                "SELECT epoch, policy, signed_update FROM release_policies WHERE key_store_id = $1 \
                 ORDER BY epoch DESC LIMIT 1",
                &[key_store_id.as_bytes().into()],
            )
            .await?;
        stored(row.ok_or(StoreError::Damaged("release policy"))?)
    }

    /// The signed updates of the release policy, oldest first; the newest `at_most` of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn policy_updates(&self, key_store_id: KeyStoreId, at_most: u32) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows: Vec<(Vec<u8>,)> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT signed_update FROM release_policies WHERE key_store_id = $1 AND signed_update IS NOT NULL \
                 ORDER BY epoch DESC LIMIT $2",
                &[key_store_id.as_bytes().into(), at_most.into()],
            )
            .await?;
        Ok(rows.into_iter().rev().map(|(signed,)| signed).collect())
    }

    /// All release policies, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_policies(&self, key_store_id: KeyStoreId) -> Result<Vec<StoredPolicy>, StoreError> {
        let rows: Vec<(i64, Vec<u8>, Option<Vec<u8>>)> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT epoch, policy, signed_update FROM release_policies WHERE key_store_id = $1 ORDER BY epoch",
                &[key_store_id.as_bytes().into()],
            )
            .await?;
        rows.into_iter().map(stored).collect()
    }

    /// Puts a policy in force, if what decided on it still does and its epoch is higher. False when it is not: judge again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_policy(
        &self,
        key_store_id: KeyStoreId,
        judged_by: JudgedBy,
        new: &StoredPolicy,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), put_policy(key_store_id, judged_by, new, now_ms))
    }

    /// Keeps an administrator's approval of one boot's releases; of two by one administrator the one that lasts longer, so that a
    /// replay takes nothing away.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn approve_release(
        &self,
        key_store_id: KeyStoreId,
        approval: &NewApproval<'_>,
        now_ms: u64,
    ) -> Result<Approved, StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), approve_release(key_store_id, approval, now_ms))
    }

    /// The approvals of one boot's release that have not expired, by administrator.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_approvals(
        &self,
        key_store_id: KeyStoreId,
        boot_id: BootId,
        now_ms: u64,
    ) -> Result<Vec<(AdministratorId, Vec<u8>)>, StoreError> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT administrator_id, signed FROM release_approvals \
                 WHERE key_store_id = $1 AND boot_id = $2 AND expires_ms > $3 ORDER BY administrator_id",
                &[key_store_id.as_bytes().into(), boot_id.as_bytes().into(), to_integer(now_ms, "time")?.into()],
            )
            .await?;
        rows.into_iter().map(|(id, signed)| Ok((AdministratorId(array(&id, "administrator id")?), signed))).collect()
    }

    /// Notes that a boot asked, at `last_ms`, for a release that needs approvals; when it asked first stays. Of each key store the
    /// [`limits::WAITING_RELEASES_MAX`] that asked last are kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_waiting(&self, key_store_id: KeyStoreId, waiting: &WaitingRelease) -> Result<(), StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), note_waiting(key_store_id, waiting))
    }

    /// The boots that wait, those that asked last first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting_releases(&self, key_store_id: KeyStoreId) -> Result<Vec<WaitingRelease>, StoreError> {
        let rows: Vec<WaitingRow> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT boot_id, module_id, measurements, document, first_ms, last_ms FROM release_requests \
                 WHERE key_store_id = $1 ORDER BY last_ms DESC, boot_id LIMIT $2",
                &[key_store_id.as_bytes().into(), WAITING_KEPT.into()],
            )
            .await?;
        rows.into_iter().map(WaitingRelease::try_from).collect()
    }
}

#[derive(sqlx::FromRow)]
struct WaitingRow {
    boot_id: Vec<u8>,
    module_id: String,
    measurements: Vec<u8>,
    document: Vec<u8>,
    first_ms: i64,
    last_ms: i64,
}

impl TryFrom<WaitingRow> for WaitingRelease {
    type Error = StoreError;

    fn try_from(row: WaitingRow) -> Result<Self, StoreError> {
        Ok(Self {
            boot_id: BootId(array(&row.boot_id, "boot id")?),
            module_id: row.module_id,
            measurements: row.measurements,
            document: row.document,
            first_ms: from_integer(row.first_ms, "time")?,
            last_ms: from_integer(row.last_ms, "time")?,
        })
    }
}

fn stored((epoch, policy, signed_update): (i64, Vec<u8>, Option<Vec<u8>>)) -> Result<StoredPolicy, StoreError> {
    Ok(StoredPolicy { epoch: from_integer(epoch, "policy epoch")?, policy, signed_update })
}

/// The epoch in force.
pub(super) async fn policy_epoch(session: &mut Session, key_store_id: KeyStoreId) -> Result<u64, StoreError> {
    let row: Option<(i64,)> = session
        .fetch_optional(
            "SELECT epoch FROM release_policies WHERE key_store_id = $1 ORDER BY epoch DESC LIMIT 1",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    row.map_or(Ok(0), |(epoch,)| from_integer(epoch, "policy epoch"))
}

/// Deletes all policies but the first manifest's and those of these epochs.
pub(super) async fn retain_policies(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    epochs: &[u64],
) -> Result<(), StoreError> {
    let kept: Vec<(i64,)> = transaction
        .fetch_all(
            "SELECT epoch FROM release_policies WHERE key_store_id = $1 AND epoch > 1",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    for (epoch,) in kept {
        if !epochs.contains(&from_integer(epoch, "policy epoch")?) {
            transaction
                .execute(
                    "DELETE FROM release_policies WHERE key_store_id = $1 AND epoch = $2",
                    &[key_store_id.as_bytes().into(), epoch.into()],
                )
                .await?;
        }
    }
    Ok(())
}

async fn put_policy(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    judged_by: JudgedBy,
    new: &StoredPolicy,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let id = key_store_id.as_bytes();
    let newest = policy_epoch(transaction, key_store_id).await?;
    let is_same_manifest = manifest_in_force(transaction, key_store_id).await? == Some(judged_by.manifest);
    if !is_same_manifest || newest != judged_by.epoch || new.epoch <= newest {
        return Ok(false);
    }
    transaction
        .execute(
            "INSERT INTO release_policies (key_store_id, epoch, policy, signed_update, recorded_ms) \
             VALUES ($1, $2, $3, $4, $5)",
            &[
                id.into(),
                to_integer(new.epoch, "policy epoch")?.into(),
                (&new.policy).into(),
                new.signed_update.as_deref().into(),
                to_integer(now_ms, "time")?.into(),
            ],
        )
        .await?;
    transaction.announce(key_store_id).await?;
    Ok(true)
}

async fn approve_release(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    approval: &NewApproval<'_>,
    now_ms: u64,
) -> Result<Approved, StoreError> {
    let (id, boot) = (key_store_id.as_bytes(), approval.boot_id.as_bytes());
    transaction
        .execute(
            "DELETE FROM release_approvals WHERE key_store_id = $1 AND expires_ms <= $2",
            &[id.into(), to_integer(now_ms, "time")?.into()],
        )
        .await?;
    let (others,): (i64,) = transaction
        .fetch_one(
            "SELECT count(*) FROM release_approvals WHERE key_store_id = $1 AND administrator_id = $2 AND boot_id <> $3",
            &[id.into(), approval.administrator_id.as_bytes().into(), boot.into()],
        )
        .await?;
    if usize::try_from(others).unwrap_or(usize::MAX) >= limits::LEASES_MAX {
        return Ok(Approved::TooMany);
    }
    let kept = transaction
        .execute(
            "INSERT INTO release_approvals (key_store_id, boot_id, administrator_id, signed, expires_ms) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (key_store_id, boot_id, administrator_id) \
             DO UPDATE SET signed = excluded.signed, expires_ms = excluded.expires_ms \
             WHERE excluded.expires_ms > release_approvals.expires_ms",
            &[
                id.into(),
                boot.into(),
                approval.administrator_id.as_bytes().into(),
                approval.signed.into(),
                to_integer(approval.expires_ms, "expiry")?.into(),
            ],
        )
        .await?;
    Ok(if kept > 0 { Approved::Kept } else { Approved::Known })
}

async fn note_waiting(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    waiting: &WaitingRelease,
) -> Result<(), StoreError> {
    let id = key_store_id.as_bytes();
    transaction
        .execute(
            "INSERT INTO release_requests (key_store_id, boot_id, module_id, measurements, document, first_ms, last_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (key_store_id, boot_id) \
             DO UPDATE SET module_id = excluded.module_id, measurements = excluded.measurements, \
             document = excluded.document, last_ms = excluded.last_ms",
            &[
                id.into(),
                waiting.boot_id.as_bytes().into(),
                waiting.module_id.as_str().into(),
                (&waiting.measurements).into(),
                (&waiting.document).into(),
                to_integer(waiting.first_ms, "time")?.into(),
                to_integer(waiting.last_ms, "time")?.into(),
            ],
        )
        .await?;
    transaction
        .execute(
            "DELETE FROM release_requests WHERE key_store_id = $1 AND boot_id NOT IN (SELECT boot_id \
             FROM release_requests WHERE key_store_id = $1 ORDER BY last_ms DESC, boot_id LIMIT $2)",
            &[id.into(), WAITING_KEPT.into()],
        )
        .await?;
    Ok(())
}

/// Forgets that a boot waits: it obtained its release.
pub(super) async fn forget_waiting(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    boot_id: BootId,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "DELETE FROM release_requests WHERE key_store_id = $1 AND boot_id = $2",
            &[key_store_id.as_bytes().into(), boot_id.as_bytes().into()],
        )
        .await?;
    Ok(())
}
