//! Alarms on record.
//!
//! Guarantees: an alarm is recorded in the transaction of what it is about, together with a delivery for each receiver that the
//! configuration names; the same alarm (kind, key and whom it is about) is not recorded again within the time that the caller names,
//! whichever replica is asked. Of each key store [`IN_HOUR_MAX`] are recorded in an hour, and the newest
//! [`limits::ALARMS_KEPT_MAX`] are kept; with an alarm its deliveries go.

use core::cmp::Ordering;
use std::collections::HashSet;

use holdfast_shared::alarm::{Alarm, AlarmKind, RaisedAlarm};
use holdfast_shared::cbor;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::{BootId, KeyStoreId, LeaseId};
use holdfast_shared::{limits, sha256};
use tokio::sync::watch;

use super::database::{Lock, Transaction, write_transaction};
use super::deliveries::add_deliveries;
use super::{Store, StoreError, array, from_integer, to_bytes, to_integer};

const HOUR_MS: u64 = 3_600_000;
/// Alarms of a key store in one hour of the clock, but for one that says that there are more. At this rate an alarm is on record for sixteen
/// hours, and keeps the same quiet for as long.
const IN_HOUR_MAX: i64 = 256;
/// Whom the alarm is about that stands for the others.
const STORM: &str = "alarms";

/// An alarm to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAlarm {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The enclave that it comes from.
    pub boot_id: Option<BootId>,
    /// What is raised.
    pub alarm: Alarm,
    /// When.
    pub at_ms: u64,
    /// The same is not recorded again for so long, in milliseconds.
    pub quiet_ms: u64,
}

/// Alarms of one transaction: where they are recorded, and which were.
pub(super) struct Raising<'a> {
    pub(super) key_store_id: KeyStoreId,
    pub(super) boot_id: Option<BootId>,
    pub(super) at_ms: u64,
    pub(super) quiet_ms: u64,
    pub(super) destinations: &'a [String],
    /// The kinds of those that were recorded.
    pub(super) raised: Vec<AlarmKind>,
}

impl Store {
    /// Names those to whom alarms are delivered that are recorded from now on. Those that were left out before have everything.
    #[must_use]
    pub fn delivering_to(self, destinations: Vec<String>) -> Self {
        Self { destinations, ..self }
    }

    /// Records an alarm, unless the same was recorded a short time ago: then nothing changes, and this is false.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn raise(&self, new: &NewAlarm) -> Result<bool, StoreError> {
        let raised: Result<Vec<AlarmKind>, StoreError> =
            write_transaction!(self, Lock::KeyStore(new.key_store_id), raise_in(new, &self.destinations));
        let raised = raised?;
        self.tell_of_alarms(new.key_store_id, &raised);
        Ok(!raised.is_empty())
    }

    /// The newest alarms of a key store, newest first, of those before the alarm `before`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn alarms(
        &self,
        key_store_id: KeyStoreId,
        before: Option<u64>,
        at_most: u32,
    ) -> Result<Vec<RaisedAlarm>, StoreError> {
        // No number is as large as those that the database cannot hold.
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let id = key_store_id.as_bytes();
        let mut session = self.database.read().await?;
        let rows: Vec<AlarmRow> = session
            .fetch_all(
                "SELECT id, at_ms, boot_id, alarm FROM alarms WHERE key_store_id = $1 AND id < $2 \
                 ORDER BY id DESC LIMIT $3",
                &[id.into(), before.into(), at_most.into()],
            )
            .await?;
        let (newest, oldest) = (rows.first().map_or(0, |row| row.id), rows.last().map_or(0, |row| row.id));
        // Afterwards: what is waited for now was not delivered then, either.
        let waiting: Vec<(i64, String)> = session
            .fetch_all(
                "SELECT alarm_id, destination FROM alarm_deliveries JOIN alarms ON alarms.id = alarm_deliveries.alarm_id \
                 WHERE key_store_id = $1 AND alarm_id >= $2 AND alarm_id <= $3",
                &[id.into(), oldest.into(), newest.into()],
            )
            .await?;
        let waiting = awaited(waiting, &self.destinations);
        rows.into_iter().map(|row| row.into_raised(&waiting)).collect()
    }

    /// Changes each time that alarms are recorded here.
    #[must_use]
    pub fn alarms_recorded(&self) -> watch::Receiver<()> {
        self.alarms_recorded.subscribe()
    }

    /// Says that alarms are on record, and wakes whoever delivers them.
    pub(super) fn tell_of_alarms(&self, key_store_id: KeyStoreId, raised: &[AlarmKind]) {
        for kind in raised {
            tracing::warn!(%key_store_id, kind = kind.name(), "alarm");
        }
        if !raised.is_empty() {
            self.alarms_recorded.send_replace(());
        }
    }
}

impl Raising<'_> {
    /// Records an alarm, if the same was not recorded a short time ago.
    pub(super) async fn raise(&mut self, transaction: &mut Transaction, alarm: &Alarm) -> Result<(), StoreError> {
        if self.is_quiet(transaction, alarm).await? { Ok(()) } else { self.record(transaction, alarm).await }
    }

    /// Whether the same alarm was recorded a short time ago.
    pub(super) async fn is_quiet(&self, transaction: &mut Transaction, alarm: &Alarm) -> Result<bool, StoreError> {
        // What a clock wrote that was far ahead keeps nobody quiet.
        let (since, until) = (self.at_ms.saturating_sub(self.quiet_ms), self.at_ms.saturating_add(self.quiet_ms));
        let (since, until) = (to_integer(since, "time")?, i64::try_from(until).unwrap_or(i64::MAX));
        let (same,): (i64,) = transaction
            .fetch_one(
                "SELECT count(*) FROM alarms WHERE key_store_id = $1 AND digest = $2 AND at_ms > $3 AND at_ms < $4",
                &[self.key_store_id.as_bytes().into(), (&name_of(alarm)).into(), since.into(), until.into()],
            )
            .await?;
        Ok(same > 0)
    }

    /// Records an alarm. Of too many in one hour none is, but for one that says so.
    pub(super) async fn record(&mut self, transaction: &mut Transaction, alarm: &Alarm) -> Result<(), StoreError> {
        match self.in_this_hour(transaction).await?.cmp(&IN_HOUR_MAX) {
            Ordering::Less => self.insert(transaction, alarm).await,
            Ordering::Equal => self.insert(transaction, &storm()).await,
            Ordering::Greater => Ok(()),
        }
    }

    async fn in_this_hour(&self, transaction: &mut Transaction) -> Result<i64, StoreError> {
        let start = self.at_ms.saturating_sub(self.at_ms % HOUR_MS);
        let (count,): (i64,) = transaction
            .fetch_one(
                "SELECT count(*) FROM alarms WHERE key_store_id = $1 AND at_ms >= $2 AND at_ms < $3",
                &[
                    self.key_store_id.as_bytes().into(),
                    to_integer(start, "time")?.into(),
                    to_integer(start.saturating_add(HOUR_MS), "time")?.into(),
                ],
            )
            .await?;
        Ok(count)
    }

    async fn insert(&mut self, transaction: &mut Transaction, alarm: &Alarm) -> Result<(), StoreError> {
        let encoded = cbor::encode(alarm);
        let (alarm_id,): (i64,) = transaction
            .fetch_one(
                "INSERT INTO alarms (key_store_id, at_ms, boot_id, kind, digest, alarm) VALUES ($1, $2, $3, $4, $5, $6) \
                 RETURNING id",
                &[
                    self.key_store_id.as_bytes().into(),
                    to_integer(self.at_ms, "time")?.into(),
                    to_bytes(self.boot_id.as_ref().map(BootId::as_bytes)).into(),
                    kind_code(alarm.kind)?.into(),
                    (&name_of(alarm)).into(),
                    encoded.as_slice().into(),
                ],
            )
            .await?;
        add_deliveries(transaction, alarm_id, self.destinations).await?;
        self.raised.push(alarm.kind);
        Ok(())
    }

    /// Forgets the oldest alarms beyond those that are kept, if any came.
    pub(super) async fn finish(self, transaction: &mut Transaction) -> Result<Vec<AlarmKind>, StoreError> {
        if self.raised.is_empty() {
            return Ok(self.raised);
        }
        let id = self.key_store_id.as_bytes();
        let newest: Option<(i64,)> = transaction
            .fetch_optional(
                "SELECT id FROM alarms WHERE key_store_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2",
                &[id.into(), limits::ALARMS_KEPT_MAX.into()],
            )
            .await?;
        let Some((newest,)) = newest else { return Ok(self.raised) };
        self.warn_of_forgotten(transaction, newest).await?;
        transaction
            .execute("DELETE FROM alarms WHERE key_store_id = $1 AND id <= $2", &[id.into(), newest.into()])
            .await?;
        Ok(self.raised)
    }

    /// Says how many alarms up to this one somebody waits for in vain.
    async fn warn_of_forgotten(&self, transaction: &mut Transaction, newest: i64) -> Result<(), StoreError> {
        let waiting: Vec<(i64, String)> = transaction
            .fetch_all(
                "SELECT alarm_id, destination FROM alarm_deliveries JOIN alarms ON alarms.id = alarm_deliveries.alarm_id \
                 WHERE key_store_id = $1 AND alarm_id <= $2",
                &[self.key_store_id.as_bytes().into(), newest.into()],
            )
            .await?;
        let undelivered = awaited(waiting, self.destinations).len();
        if undelivered > 0 {
            tracing::warn!(
                key_store_id = %self.key_store_id,
                undelivered,
                "alarms are forgotten that were not delivered: the newest {} are kept; look at what the receivers refuse",
                limits::ALARMS_KEPT_MAX
            );
        }
        Ok(())
    }
}

/// The alarms that receivers wait for. Whoever was taken out of the configuration is not waited for.
fn awaited(waiting: Vec<(i64, String)>, destinations: &[String]) -> HashSet<i64> {
    waiting
        .into_iter()
        .filter(|(_, destination)| destinations.contains(destination))
        .map(|(alarm_id, _)| alarm_id)
        .collect()
}

/// What is told instead of the alarm that is one too many.
fn storm() -> Alarm {
    let text = format!(
        "{IN_HOUR_MAX} alarms were raised in this hour (of the clock); further ones are not told in it, so look at the audit log"
    );
    Alarm { kind: AlarmKind::UnusualRate, key: None, who: STORM.to_owned(), text }
}

/// Records one alarm within a transaction that holds the lock of its key store.
pub(super) async fn raise_in(
    transaction: &mut Transaction,
    new: &NewAlarm,
    destinations: &[String],
) -> Result<Vec<AlarmKind>, StoreError> {
    let mut raising = Raising {
        key_store_id: new.key_store_id,
        boot_id: new.boot_id,
        at_ms: new.at_ms,
        quiet_ms: new.quiet_ms,
        destinations,
        raised: Vec::new(),
    };
    raising.raise(transaction, &new.alarm).await?;
    raising.finish(transaction).await
}

/// The boot that holds a lease.
pub(super) async fn boot_of(transaction: &mut Transaction, lease_id: LeaseId) -> Result<Option<BootId>, StoreError> {
    let row: Option<(Vec<u8>,)> = transaction
        .fetch_optional("SELECT boot_id FROM leases WHERE lease_id = $1", &[lease_id.as_bytes().into()])
        .await?;
    row.map(|(id,)| Ok(BootId(array(&id, "boot id")?))).transpose()
}

/// SHA-256 of texts, each with its length before it; of one that is missing, too.
pub(super) fn digest_of(texts: &[Option<&str>]) -> [u8; 32] {
    let lengths: Vec<_> = texts
        .iter()
        .map(|text| text.map_or(u64::MAX, |text| u64::try_from(text.len()).unwrap_or(u64::MAX)).to_be_bytes())
        .collect();
    let parts: Vec<&[u8]> = lengths
        .iter()
        .zip(texts)
        .flat_map(|(length, text)| [length.as_slice(), text.unwrap_or("").as_bytes()])
        .collect();
    sha256(&parts)
}

fn name_of(alarm: &Alarm) -> [u8; 32] {
    digest_of(&[Some(alarm.kind.name()), alarm.key.as_ref().map(ExternalKeyId::as_str), Some(&alarm.who)])
}

fn kind_code(kind: AlarmKind) -> Result<i64, StoreError> {
    i64::try_from(kind.number()).map_err(|_| StoreError::OutOfRange("kind of an alarm"))
}

#[derive(sqlx::FromRow)]
struct AlarmRow {
    id: i64,
    at_ms: i64,
    boot_id: Option<Vec<u8>>,
    alarm: Vec<u8>,
}

impl AlarmRow {
    fn into_raised(self, waiting: &HashSet<i64>) -> Result<RaisedAlarm, StoreError> {
        Ok(RaisedAlarm {
            id: from_integer(self.id, "number of an alarm")?,
            at_ms: from_integer(self.at_ms, "time")?,
            boot_id: self.boot_id.map(|id| array(&id, "boot id")).transpose()?.map(BootId),
            alarm: cbor::decode(&self.alarm).map_err(|_| StoreError::Damaged("alarm"))?,
            is_delivered: !waiting.contains(&self.id),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_do_not_run_into_each_other() {
        let table: [&[Option<&str>]; 6] = [
            &[Some("ab"), Some("c")],
            &[Some("a"), Some("bc")],
            &[Some("abc"), Some("")],
            &[Some("abc"), None],
            &[None, Some("abc")],
            &[Some("abc")],
        ];
        let digests: HashSet<_> = table.into_iter().map(digest_of).collect();
        assert_eq!(digests.len(), table.len());
    }
}
