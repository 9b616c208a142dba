//! What is debited of the budgets of keys.
//!
//! Guarantees: of a window no more is ever granted than the highest limit that was named for it, whichever replica is asked, over
//! restarts, and whatever the clock here does: a count is forgotten only when [`limits::BUDGET_WINDOWS_KEPT`] newer windows began, and
//! from then on nothing is granted in its window. A message is acted on once. The debit that reaches
//! [`limits::BUDGET_NEARLY_SPENT_PERCENT`] of a limit raises an alarm, once in a window. Assumes: the caller judged the window by its clock.

use holdfast_shared::alarm::{Alarm, AlarmKind};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::keystore::{BudgetSpan, BudgetWindow, granted};
use holdfast_shared::limits;

use super::alarms::{NewAlarm, boot_of, raise_in};
use super::database::{Lock, Transaction, Value, write_transaction};
use super::leases::count_message;
use super::{Origin, Store, StoreError};

/// [`limits::BUDGET_COUNTS_MAX`], as a query takes it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a small constant")]
const COUNTS: u32 = limits::BUDGET_COUNTS_MAX as u32;

/// A debit as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDebit {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The key.
    pub key: ExternalKeyId,
    /// Of which window.
    pub window: BudgetWindow,
    /// The uses in that window.
    pub limit: u32,
    /// How many are wanted.
    pub want: u32,
}

/// What came of a debit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debited {
    /// So many of those that were wanted.
    Granted {
        /// How many; none when no more are left.
        granted: u32,
        /// How many are debited, these among them.
        counted: u32,
    },
    /// The window is so old that its counts may be forgotten. Nothing changed.
    Past,
    /// As many keys are counted in the window as may. Nothing changed.
    TooMany,
}

/// What is debited in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCount {
    /// The key.
    pub key: ExternalKeyId,
    /// The window.
    pub window: BudgetWindow,
    /// How many uses.
    pub counted: u32,
}

impl Store {
    /// Debits uses of a key's budget, as many as are left, and records an alarm when few are.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn debit(&self, new: &NewDebit, origin: Origin) -> Result<Debited, StoreError> {
        let done: Result<(Debited, Vec<AlarmKind>), StoreError> =
            write_transaction!(self, Lock::KeyStore(new.key_store_id), debit_and_tell(new, origin, &self.destinations));
        let (debited, raised) = done?;
        self.tell_of_alarms(new.key_store_id, &raised);
        Ok(debited)
    }

    /// What is debited in these windows, sorted by key and window; at most [`limits::BUDGET_COUNTS_MAX`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn budget_counts(
        &self,
        key_store_id: KeyStoreId,
        [hour, day]: [BudgetWindow; 2],
    ) -> Result<Vec<StoredCount>, StoreError> {
        let rows: Vec<(String, i64, i64, i64)> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT key_id, span, number, counted FROM budget_counts WHERE key_store_id = $1 \
                 AND ((span = $2 AND number = $3) OR (span = $4 AND number = $5)) LIMIT $6",
                &[
                    key_store_id.as_bytes().into(),
                    span_code(hour.span).into(),
                    hour.number.into(),
                    span_code(day.span).into(),
                    day.number.into(),
                    COUNTS.into(),
                ],
            )
            .await?;
        let mut counts: Vec<_> = rows.into_iter().map(stored).collect::<Result<_, _>>()?;
        // Databases have orders of their own for text.
        counts.sort_by(|a, b| (&a.key, a.window).cmp(&(&b.key, b.window)));
        Ok(counts)
    }
}

const fn span_code(span: BudgetSpan) -> i64 {
    match span {
        BudgetSpan::Hour => 0,
        BudgetSpan::Day => 1,
    }
}

fn stored((key, span, number, counted): (String, i64, i64, i64)) -> Result<StoredCount, StoreError> {
    let span = BudgetSpan::ALL.into_iter().find(|known| span_code(*known) == span);
    Ok(StoredCount {
        key: ExternalKeyId::parse(&key).map_err(|_| StoreError::Damaged("key of a budget"))?,
        window: BudgetWindow { span: span.ok_or(StoreError::Damaged("span of a budget"))?, number: small(number)? },
        counted: small(counted)?,
    })
}

fn small(value: i64) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| StoreError::Damaged("count of a budget"))
}

async fn debit_and_tell(
    transaction: &mut Transaction,
    new: &NewDebit,
    origin: Origin,
    destinations: &[String],
) -> Result<(Debited, Vec<AlarmKind>), StoreError> {
    let debited = debit(transaction, new, origin).await?;
    let Some(alarm) = nearly_spent(new, debited) else { return Ok((debited, Vec::new())) };
    let boot_id = boot_of(transaction, origin.lease_id).await?;
    // A window has a name of its own: once is enough.
    let new = NewAlarm { key_store_id: new.key_store_id, boot_id, alarm, at_ms: origin.now_ms, quiet_ms: u64::MAX };
    Ok((debited, raise_in(transaction, &new, destinations).await?))
}

/// An alarm, when a debit comes to where a budget counts as nearly spent.
fn nearly_spent(new: &NewDebit, debited: Debited) -> Option<Alarm> {
    let Debited::Granted { granted, counted } = debited else { return None };
    let is_nearly_spent = |counted: u32| {
        u64::from(counted).saturating_mul(100)
            >= u64::from(new.limit).saturating_mul(limits::BUDGET_NEARLY_SPENT_PERCENT)
    };
    if is_nearly_spent(counted.saturating_sub(granted)) || !is_nearly_spent(counted) {
        return None;
    }
    let span = new.window.span.name();
    let text = format!("{counted} of {} uses of key {} in this {span} are debited", new.limit, new.key);
    let who = format!("{span} {}", new.window.number);
    Some(Alarm { kind: AlarmKind::Budget, key: Some(new.key.clone()), who, text })
}

async fn debit(transaction: &mut Transaction, new: &NewDebit, origin: Origin) -> Result<Debited, StoreError> {
    count_message(transaction, origin).await?;
    let (store, window) = (Value::from(new.key_store_id.as_bytes()), new.window);
    let (span, number) = (Value::from(span_code(window.span)), Value::from(window.number));
    let (newest,): (Option<i64>,) = transaction
        .fetch_one("SELECT max(number) FROM budget_counts WHERE key_store_id = $1 AND span = $2", &[store, span])
        .await?;
    let newest = newest.map_or(Ok(0), small)?.max(window.number);
    // Not by the clock: one that is set back must bring no window back whose counts are gone.
    let oldest = newest.saturating_sub(limits::BUDGET_WINDOWS_KEPT.saturating_sub(1));
    if window.number < oldest {
        return Ok(Debited::Past);
    }
    transaction
        .execute(
            "DELETE FROM budget_counts WHERE key_store_id = $1 AND span = $2 AND number < $3",
            &[store, span, oldest.into()],
        )
        .await?;
    let place = [store, span, number, new.key.as_str().into()];
    let known: Option<(i64,)> = transaction
        .fetch_optional(
            "SELECT counted FROM budget_counts WHERE key_store_id = $1 AND span = $2 AND number = $3 AND key_id = $4",
            &place,
        )
        .await?;
    let counted = if let Some((counted,)) = known {
        small(counted)?
    } else {
        let (keys,): (i64,) = transaction
            .fetch_one(
                "SELECT count(*) FROM budget_counts WHERE key_store_id = $1 AND span = $2 AND number = $3",
                &[store, span, number],
            )
            .await?;
        if usize::try_from(keys).unwrap_or(usize::MAX) >= limits::BUDGET_KEYS_MAX {
            return Ok(Debited::TooMany);
        }
        0
    };
    let granted = granted(new.limit, counted, new.want);
    let counted = counted.saturating_add(granted);
    let [store, span, number, key] = place;
    transaction
        .execute(
            "INSERT INTO budget_counts (key_store_id, span, number, key_id, counted) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (key_store_id, span, number, key_id) DO UPDATE SET counted = $5",
            &[store, span, number, key, counted.into()],
        )
        .await?;
    Ok(Debited::Granted { granted, counted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_comes_with_the_debit_that_passes_four_fifths() {
        let window = BudgetWindow { span: BudgetSpan::Hour, number: 472_222 };
        let debit =
            |limit| NewDebit { key_store_id: KeyStoreId([1; 32]), key: "a".parse().unwrap(), window, limit, want: 1 };
        for (limit, granted, counted, is_told) in [
            (10, 8, 8, true),
            (10, 7, 7, false),
            (10, 1, 8, true),
            (10, 1, 9, false),
            (10, 0, 10, false),
            (1, 1, 1, true),
            (1_000_000_000, 1, 800_000_000, true),
            (1_000_000_000, 1, 799_999_999, false),
            (5, 0, 9, false),
        ] {
            let alarm = nearly_spent(&debit(limit), Debited::Granted { granted, counted });
            assert_eq!(alarm.is_some(), is_told, "{granted} make {counted} of {limit}");
            assert!(alarm.is_none_or(|alarm| alarm.who == "hour 472222"));
        }
        assert_eq!(nearly_spent(&debit(10), Debited::Past), None);
    }
}
