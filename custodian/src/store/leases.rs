//! Leases, spent nonces, and which messages of a lease were acted on.

use core::num::NonZeroU32;

use holdfast_shared::alarm::AlarmKind;
use holdfast_shared::cbor;
use holdfast_shared::ids::{BootId, KeyStoreId, LeaseId};
use holdfast_shared::limits;
use holdfast_shared::query::Obeyed;

use super::alarms::{NewAlarm, raise_in};
use super::database::{Lock, Transaction, write_transaction};
use super::overlays::overlay_epoch;
use super::policies::{forget_waiting, policy_epoch};
use super::records::{insert_record, prune_records};
use super::window::ReplayWindow;
use super::{Origin, ReleaseRecord, Store, StoreError, array, from_integer, to_integer};

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
    /// How many boots may hold leases, this one among them; absent for as many as there is room for.
    pub boots_max: Option<NonZeroU32>,
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
    /// Verifies that boot's audit checkpoints.
    pub audit_public_key: [u8; 32],
    /// What was proven, encoded.
    pub evidence: Vec<u8>,
    /// The attestation document.
    pub document: Vec<u8>,
    /// The channel keys, wrapped.
    pub channel_keys: Vec<u8>,
    /// When it was granted.
    pub granted_ms: u64,
    /// What changes about it.
    pub times: LeaseTimes,
    /// Which counters messages had that changed something.
    pub counters: ReplayWindow,
    /// The block overlay that the enclave said last it obeys, if any.
    pub obeys: Option<Obeyed>,
}

/// Who holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// The lease.
    pub lease_id: LeaseId,
    /// The boot.
    pub boot_id: BootId,
    /// When it was last heard, to within what [`Store::note_seen`] is called for.
    pub seen_ms: u64,
}

/// What changes about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// When it ends.
    pub expires_ms: u64,
    /// When the enclave was last heard, to within what [`Store::note_seen`] is called for.
    pub seen_ms: u64,
}

/// What came of granting a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It is kept; the key store had too many, so the one that was silent longest ended.
    Kept {
        /// Which.
        ended: Option<LeaseId>,
    },
    /// The nonce was spent before; nothing was kept.
    NonceSpent,
    /// Another block overlay is in force by now; nothing was kept, and the nonce is not spent: decide again.
    OverlayChanged,
    /// Another release policy is in force by now; nothing was kept, and the nonce is not spent: judge again.
    PolicyChanged,
    /// As many other boots hold leases as may; nothing was kept, and the nonce is not spent.
    TooManyBoots,
}

impl Store {
    /// Spends the nonce, keeps the lease and records the release.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn grant(&self, lease: &NewLease, record: &ReleaseRecord) -> Result<Granted, StoreError> {
        write_transaction!(self, Lock::KeyStore(lease.key_store_id), grant(lease, record))
    }

    /// A lease that has not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease(&self, lease_id: LeaseId, now_ms: u64) -> Result<Option<StoredLease>, StoreError> {
        let row: Option<LeaseRow> = self
            .database
            .read()
            .await?
            .fetch_optional(
                "SELECT lease_id, key_store_id, boot_id, module_id, audit_public_key, evidence, document, channel_keys, granted_ms, \
                 expires_ms, seen_ms, counter, used, obeys FROM leases WHERE lease_id = $1 AND expires_ms > $2",
                &[lease_id.as_bytes().into(), to_integer(now_ms, "time")?.into()],
            )
            .await?;
        row.map(StoredLease::try_from).transpose()
    }

    /// What changes about a lease, if it has not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease_times(&self, lease_id: LeaseId, now_ms: u64) -> Result<Option<LeaseTimes>, StoreError> {
        let row: Option<(i64, i64)> = self
            .database
            .read()
            .await?
            .fetch_optional(
                "SELECT expires_ms, seen_ms FROM leases WHERE lease_id = $1 AND expires_ms > $2",
                &[lease_id.as_bytes().into(), to_integer(now_ms, "time")?.into()],
            )
            .await?;
        row.map(LeaseTimes::try_from).transpose()
    }

    /// The leases of a key store that have not ended, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases_of(&self, key_store_id: KeyStoreId, now_ms: u64) -> Result<Vec<StoredLease>, StoreError> {
        let rows: Vec<LeaseRow> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT lease_id, key_store_id, boot_id, module_id, audit_public_key, evidence, document, channel_keys, granted_ms, \
                 expires_ms, seen_ms, counter, used, obeys FROM leases WHERE key_store_id = $1 AND expires_ms > $2 \
                 ORDER BY granted_ms, lease_id",
                &[key_store_id.as_bytes().into(), to_integer(now_ms, "time")?.into()],
            )
            .await?;
        rows.into_iter().map(StoredLease::try_from).collect()
    }

    /// Who holds the leases of a key store that have not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease_holders(&self, key_store_id: KeyStoreId, now_ms: u64) -> Result<Vec<LeaseHolder>, StoreError> {
        let rows: Vec<(Vec<u8>, Vec<u8>, i64)> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT lease_id, boot_id, seen_ms FROM leases WHERE key_store_id = $1 AND expires_ms > $2",
                &[key_store_id.as_bytes().into(), to_integer(now_ms, "time")?.into()],
            )
            .await?;
        rows.into_iter()
            .map(|(lease_id, boot_id, seen_ms)| {
                Ok(LeaseHolder {
                    lease_id: LeaseId(array(&lease_id, "lease id")?),
                    boot_id: BootId(array(&boot_id, "boot id")?),
                    seen_ms: from_integer(seen_ms, "time")?,
                })
            })
            .collect()
    }

    /// The ids of all leases that have not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn live_leases(&self, now_ms: u64) -> Result<Vec<LeaseId>, StoreError> {
        let rows: Vec<(Vec<u8>,)> = self
            .database
            .read()
            .await?
            .fetch_all("SELECT lease_id FROM leases WHERE expires_ms > $1", &[to_integer(now_ms, "time")?.into()])
            .await?;
        rows.into_iter().map(|(id,)| Ok(LeaseId(array(&id, "lease id")?))).collect()
    }

    /// Extends a lease on account of a message.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn renew(&self, key_store_id: KeyStoreId, origin: Origin, expires_ms: u64) -> Result<(), StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), renew(origin, expires_ms))
    }

    /// Notes that an enclave was heard that changed nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_seen(&self, lease_id: LeaseId, now_ms: u64) -> Result<(), StoreError> {
        write_transaction!(self, Lock::Nothing, note_seen(lease_id, now_ms))
    }

    /// Notes that an enclave obeys another block overlay than before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_obeyed(&self, lease_id: LeaseId, obeyed: Obeyed) -> Result<(), StoreError> {
        write_transaction!(self, Lock::Nothing, note_obeyed(lease_id, obeyed))
    }

    /// Ends a lease, and records an alarm of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_lease(&self, lease_id: LeaseId, because: &NewAlarm) -> Result<(), StoreError> {
        let key_store_id = because.key_store_id;
        let raised: Result<Vec<AlarmKind>, StoreError> =
            write_transaction!(self, Lock::KeyStore(key_store_id), end_lease(lease_id, because, &self.destinations));
        self.tell_of_alarms(key_store_id, &raised?);
        Ok(())
    }
}

async fn grant(transaction: &mut Transaction, lease: &NewLease, record: &ReleaseRecord) -> Result<Granted, StoreError> {
    let now = to_integer(lease.granted_ms, "time")?;
    // A block, or a policy, that was acknowledged holds for every release that is not yet on record.
    if overlay_epoch(transaction, lease.key_store_id).await? != lease.overlay_epoch {
        return Ok(Granted::OverlayChanged);
    }
    if policy_epoch(transaction, lease.key_store_id).await? != lease.policy_epoch {
        return Ok(Granted::PolicyChanged);
    }
    if let Some(boots_max) = lease.boots_max
        && other_boots(transaction, lease, now).await? >= i64::from(boots_max.get())
    {
        return Ok(Granted::TooManyBoots);
    }
    let kept_until = to_integer(lease.granted_ms.saturating_add(NONCE_KEPT_MS), "time")?;
    let fresh = transaction
        .execute(
            "INSERT INTO nonces (nonce, expires_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[(&lease.nonce).into(), kept_until.into()],
        )
        .await?;
    if fresh == 0 {
        return Ok(Granted::NonceSpent);
    }
    transaction.execute("DELETE FROM nonces WHERE expires_ms < $1", &[now.into()]).await?;
    transaction.execute("DELETE FROM leases WHERE expires_ms <= $1", &[now.into()]).await?;
    let ended = end_longest_silent(transaction, lease.key_store_id).await?;
    insert_lease(transaction, lease, now).await?;
    forget_waiting(transaction, lease.key_store_id, lease.boot_id).await?;
    insert_record(transaction, record).await?;
    prune_records(transaction, lease.key_store_id, true, limits::RELEASES_KEPT_MAX).await?;
    Ok(Granted::Kept { ended })
}

/// How many boots beside the one of `lease` hold leases.
async fn other_boots(transaction: &mut Transaction, lease: &NewLease, now: i64) -> Result<i64, StoreError> {
    let (boots,): (i64,) = transaction
        .fetch_one(
            "SELECT count(DISTINCT boot_id) FROM leases WHERE key_store_id = $1 AND boot_id <> $2 AND expires_ms > $3",
            &[lease.key_store_id.as_bytes().into(), lease.boot_id.as_bytes().into(), now.into()],
        )
        .await?;
    Ok(boots)
}

/// Makes room when a key store has as many leases as it may have: a boot that is long gone was silent longest.
async fn end_longest_silent(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
) -> Result<Option<LeaseId>, StoreError> {
    let id = key_store_id.as_bytes();
    let (count,): (i64,) =
        transaction.fetch_one("SELECT count(*) FROM leases WHERE key_store_id = $1", &[id.into()]).await?;
    if usize::try_from(count).unwrap_or(usize::MAX) < limits::LEASES_MAX {
        return Ok(None);
    }
    let silent: Option<(Vec<u8>,)> = transaction
        .fetch_optional(
            "SELECT lease_id FROM leases WHERE key_store_id = $1 ORDER BY seen_ms, granted_ms, lease_id LIMIT 1",
            &[id.into()],
        )
        .await?;
    let Some((silent,)) = silent else { return Ok(None) };
    transaction.execute("DELETE FROM leases WHERE lease_id = $1", &[(&silent).into()]).await?;
    Ok(Some(LeaseId(array(&silent, "lease id")?)))
}

async fn insert_lease(transaction: &mut Transaction, lease: &NewLease, now: i64) -> Result<(), StoreError> {
    let (counter, used) = stored_window(ReplayWindow::after(0))?;
    transaction
        .execute(
            "INSERT INTO leases (lease_id, key_store_id, boot_id, module_id, audit_public_key, evidence, document, \
             channel_keys, policy_epoch, granted_ms, expires_ms, seen_ms, counter, used) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            &[
                lease.lease_id.as_bytes().into(),
                lease.key_store_id.as_bytes().into(),
                lease.boot_id.as_bytes().into(),
                lease.module_id.as_str().into(),
                (&lease.audit_public_key).into(),
                (&lease.evidence).into(),
                (&lease.document).into(),
                (&lease.channel_keys).into(),
                to_integer(lease.policy_epoch, "policy epoch")?.into(),
                now.into(),
                to_integer(lease.expires_ms, "time")?.into(),
                now.into(),
                counter.into(),
                used.into(),
            ],
        )
        .await?;
    Ok(())
}

async fn renew(transaction: &mut Transaction, origin: Origin, expires_ms: u64) -> Result<(), StoreError> {
    count_message(transaction, origin).await?;
    transaction
        .execute(
            "UPDATE leases SET expires_ms = $1 WHERE lease_id = $2",
            &[to_integer(expires_ms, "time")?.into(), origin.lease_id.as_bytes().into()],
        )
        .await?;
    Ok(())
}

async fn note_seen(transaction: &mut Transaction, lease_id: LeaseId, now_ms: u64) -> Result<(), StoreError> {
    transaction
        .execute(
            "UPDATE leases SET seen_ms = $1 WHERE lease_id = $2 AND seen_ms < $1",
            &[to_integer(now_ms, "time")?.into(), lease_id.as_bytes().into()],
        )
        .await?;
    Ok(())
}

async fn note_obeyed(transaction: &mut Transaction, lease_id: LeaseId, obeyed: Obeyed) -> Result<(), StoreError> {
    transaction
        .execute(
            "UPDATE leases SET obeys = $1 WHERE lease_id = $2",
            &[cbor::encode(&obeyed).as_slice().into(), lease_id.as_bytes().into()],
        )
        .await?;
    Ok(())
}

async fn end_lease(
    transaction: &mut Transaction,
    lease_id: LeaseId,
    because: &NewAlarm,
    destinations: &[String],
) -> Result<Vec<AlarmKind>, StoreError> {
    let ended = transaction.execute("DELETE FROM leases WHERE lease_id = $1", &[lease_id.as_bytes().into()]).await?;
    transaction.announce(because.key_store_id).await?;
    // One that another replica ended was told of there.
    if ended == 0 { Ok(Vec::new()) } else { raise_in(transaction, because, destinations).await }
}

/// Uses the counter of a message that changes something, so that it is acted on once: after a restart, and at whichever replica.
/// The transaction holds the lock of the lease's key store.
pub(super) async fn count_message(transaction: &mut Transaction, origin: Origin) -> Result<(), StoreError> {
    let now = to_integer(origin.now_ms, "time")?;
    let lease_id = origin.lease_id.as_bytes();
    let row: Option<(i64, i64)> = transaction
        .fetch_optional(
            "SELECT counter, used FROM leases WHERE lease_id = $1 AND expires_ms > $2",
            &[lease_id.into(), now.into()],
        )
        .await?;
    let Some((counter, used)) = row else { return Err(StoreError::LeaseEnded) };
    let mut window = ReplayWindow::stored(from_integer(counter, "counter")?, used.cast_unsigned());
    window.accept(origin.counter)?;
    let (counter, used) = stored_window(window)?;
    transaction
        .execute(
            "UPDATE leases SET counter = $1, used = $2, \
             seen_ms = CASE WHEN seen_ms < $3 THEN $3 ELSE seen_ms END WHERE lease_id = $4",
            &[counter.into(), used.into(), now.into(), lease_id.into()],
        )
        .await?;
    Ok(())
}

fn stored_window(window: ReplayWindow) -> Result<(i64, i64), StoreError> {
    let (counter, used) = window.parts();
    Ok((to_integer(counter, "counter")?, used.cast_signed()))
}

impl TryFrom<(i64, i64)> for LeaseTimes {
    type Error = StoreError;

    fn try_from((expires_ms, seen_ms): (i64, i64)) -> Result<Self, StoreError> {
        Ok(Self { expires_ms: from_integer(expires_ms, "time")?, seen_ms: from_integer(seen_ms, "time")? })
    }
}

#[derive(sqlx::FromRow)]
struct LeaseRow {
    lease_id: Vec<u8>,
    key_store_id: Vec<u8>,
    boot_id: Vec<u8>,
    module_id: String,
    audit_public_key: Vec<u8>,
    evidence: Vec<u8>,
    document: Vec<u8>,
    channel_keys: Vec<u8>,
    granted_ms: i64,
    expires_ms: i64,
    seen_ms: i64,
    counter: i64,
    used: i64,
    obeys: Option<Vec<u8>>,
}

impl TryFrom<LeaseRow> for StoredLease {
    type Error = StoreError;

    fn try_from(row: LeaseRow) -> Result<Self, StoreError> {
        let decoded = row.obeys.as_deref().map(cbor::decode).transpose();
        let obeys = decoded.map_err(|_| StoreError::Damaged("what an enclave obeys"))?;
        Ok(Self {
            lease_id: LeaseId(array(&row.lease_id, "lease id")?),
            key_store_id: KeyStoreId(array(&row.key_store_id, "key store id")?),
            boot_id: BootId(array(&row.boot_id, "boot id")?),
            module_id: row.module_id,
            audit_public_key: array(&row.audit_public_key, "audit public key")?,
            evidence: row.evidence,
            document: row.document,
            channel_keys: row.channel_keys,
            granted_ms: from_integer(row.granted_ms, "time")?,
            times: LeaseTimes::try_from((row.expires_ms, row.seen_ms))?,
            counters: ReplayWindow::stored(from_integer(row.counter, "counter")?, row.used.cast_unsigned()),
            obeys,
        })
    }
}
