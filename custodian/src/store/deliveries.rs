//! What is not delivered yet of alarms.
//!
//! Guarantees: of several replicas one delivers an alarm to a receiver, as long as it is done by the time that it named; receivers get
//! alarms in the order in which they were recorded, but for those that they took badly: these come after others, in turn. What was not delivered waits over restarts, until
//! the alarm is forgotten.

use holdfast_shared::alarm::Alarm;
use holdfast_shared::cbor;
use holdfast_shared::ids::{BootId, KeyStoreId};

use super::database::{Lock, Transaction, Value, write_transaction};
use super::{Store, StoreError, array, from_integer, to_integer};
use crate::config::DESTINATIONS_MAX;

/// Receivers whose deliveries one statement adds: as many as a configuration has.
const ADDED_AT_ONCE: usize = 2 * DESTINATIONS_MAX;

/// An alarm that a receiver does not have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingDelivery {
    /// The alarm's number.
    pub id: u64,
    /// Its key store.
    pub key_store_id: KeyStoreId,
    /// When it was raised.
    pub at_ms: u64,
    /// The enclave that it comes from.
    pub boot_id: Option<BootId>,
    /// The alarm.
    pub alarm: Alarm,
    /// To whom.
    pub destination: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When to try next.
    pub next_ms: u64,
}

impl Store {
    /// What a receiver gets next, due or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_delivery(&self, destination: &str) -> Result<Option<WaitingDelivery>, StoreError> {
        let row: Option<DeliveryRow> = self
            .database
            .read()
            .await?
            .fetch_optional(
                "SELECT alarm_id, key_store_id, at_ms, boot_id, alarm, attempts, next_ms FROM alarm_deliveries \
                 JOIN alarms ON alarms.id = alarm_deliveries.alarm_id WHERE destination = $1 \
                 ORDER BY refused, CASE refused WHEN 1 THEN next_ms ELSE 0 END, alarm_id LIMIT 1",
                &[destination.into()],
            )
            .await?;
        row.map(|row| row.into_waiting(destination)).transpose()
    }

    /// How many deliveries wait for receivers that are not those of [`Store::delivering_to`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deliveries_left_over(&self) -> Result<u64, StoreError> {
        let rows: Vec<(String, i64)> = self
            .database
            .read()
            .await?
            .fetch_all("SELECT destination, count(*) FROM alarm_deliveries GROUP BY destination", &[])
            .await?;
        let others = rows.into_iter().filter(|(destination, _)| !self.destinations.contains(destination));
        from_integer(others.map(|(_, count)| count).sum(), "count of deliveries")
    }

    /// Takes a delivery over until `until_ms`, and counts the attempt. False: somebody else did, or it is done.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_delivery(&self, waiting: &WaitingDelivery, until_ms: u64) -> Result<bool, StoreError> {
        write_transaction!(self, Lock::Nothing, claim(waiting, until_ms))
    }

    /// It arrived.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn finish_delivery(&self, waiting: &WaitingDelivery) -> Result<(), StoreError> {
        write_transaction!(self, Lock::Nothing, finish(waiting))
    }

    /// It did not: try again at `next_ms`. One that the receiver `refused` lets later ones pass.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_off_delivery(
        &self,
        waiting: &WaitingDelivery,
        next_ms: u64,
        refused: bool,
    ) -> Result<(), StoreError> {
        write_transaction!(self, Lock::Nothing, put_off(waiting, next_ms, refused))
    }
}

/// Notes who is to have an alarm.
pub(super) async fn add_deliveries(
    transaction: &mut Transaction,
    alarm_id: i64,
    destinations: &[String],
) -> Result<(), StoreError> {
    for names in destinations.chunks(ADDED_AT_ONCE) {
        let name = |place: usize| Value::Text(names.get(place).map(String::as_str));
        let values: Vec<Value<'_>> =
            core::iter::once(Value::Integer(alarm_id)).chain((0..ADDED_AT_ONCE).map(name)).collect();
        // Both databases call the column so.
        transaction
            .execute(
                "INSERT INTO alarm_deliveries (alarm_id, destination, attempts, next_ms, refused) \
                 SELECT $1, column1, 0, 0, 0 FROM (VALUES ($2), ($3), ($4), ($5), ($6), ($7), ($8), ($9), ($10), ($11), \
                 ($12), ($13), ($14), ($15), ($16), ($17)) AS names WHERE column1 IS NOT NULL",
                &values,
            )
            .await?;
    }
    Ok(())
}

async fn claim(transaction: &mut Transaction, waiting: &WaitingDelivery, until_ms: u64) -> Result<bool, StoreError> {
    let claimed = transaction
        .execute(
            "UPDATE alarm_deliveries SET next_ms = $1, attempts = attempts + 1 \
             WHERE alarm_id = $2 AND destination = $3 AND attempts = $4 AND next_ms = $5",
            &[
                to_integer(until_ms, "time")?.into(),
                to_integer(waiting.id, "number of an alarm")?.into(),
                waiting.destination.as_str().into(),
                waiting.attempts.into(),
                to_integer(waiting.next_ms, "time")?.into(),
            ],
        )
        .await?;
    Ok(claimed > 0)
}

async fn finish(transaction: &mut Transaction, waiting: &WaitingDelivery) -> Result<(), StoreError> {
    transaction
        .execute(
            "DELETE FROM alarm_deliveries WHERE alarm_id = $1 AND destination = $2",
            &[to_integer(waiting.id, "number of an alarm")?.into(), waiting.destination.as_str().into()],
        )
        .await?;
    Ok(())
}

/// Nothing, where somebody else took it over because we were late.
async fn put_off(
    transaction: &mut Transaction,
    waiting: &WaitingDelivery,
    next_ms: u64,
    refused: bool,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "UPDATE alarm_deliveries SET next_ms = $1, refused = $2 \
             WHERE alarm_id = $3 AND destination = $4 AND attempts = $5",
            &[
                to_integer(next_ms, "time")?.into(),
                refused.into(),
                to_integer(waiting.id, "number of an alarm")?.into(),
                waiting.destination.as_str().into(),
                waiting.attempts.saturating_add(1).into(),
            ],
        )
        .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct DeliveryRow {
    alarm_id: i64,
    key_store_id: Vec<u8>,
    at_ms: i64,
    boot_id: Option<Vec<u8>>,
    alarm: Vec<u8>,
    attempts: i64,
    next_ms: i64,
}

impl DeliveryRow {
    fn into_waiting(self, destination: &str) -> Result<WaitingDelivery, StoreError> {
        Ok(WaitingDelivery {
            id: from_integer(self.alarm_id, "number of an alarm")?,
            key_store_id: KeyStoreId(array(&self.key_store_id, "key store id")?),
            at_ms: from_integer(self.at_ms, "time")?,
            boot_id: self.boot_id.map(|id| array(&id, "boot id")).transpose()?.map(BootId),
            alarm: cbor::decode(&self.alarm).map_err(|_| StoreError::Damaged("alarm"))?,
            destination: destination.to_owned(),
            attempts: u32::try_from(self.attempts).map_err(|_| StoreError::Damaged("count of attempts"))?,
            next_ms: from_integer(self.next_ms, "time")?,
        })
    }
}
