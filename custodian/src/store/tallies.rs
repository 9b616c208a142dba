//! What is remembered of who uses keys, and what a tally makes of it.
//!
//! Guarantees: a tally is counted, judged and its alarms recorded in one transaction; one that comes again under its counter changes
//! nothing. Of a key store at most [`limits::ALARM_USERS_MAX`] principals with keys are remembered, and as many principals, services and
//! VPCs: where there are more, those not seen for a quarter of a year are forgotten, and if that does not help, an alarm says that others
//! are not remembered. Assumes: the tally was checked when it was decoded. The database holds hashes of those who were seen; names are in
//! alarms alone.

use std::collections::{HashMap, HashSet};

use holdfast_shared::alarm::{
    Alarm, AlarmKind, Known, OverdueLease, Rules, TalliedUse, Tally, UseCount, UseHistory, judge, shown,
};
use holdfast_shared::cbor;
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::limits;

use super::alarms::{Raising, boot_of, digest_of};
use super::database::{Lock, Transaction, write_transaction};
use super::leases::count_message;
use super::{Origin, Store, StoreError, from_integer, to_integer};

const DAY_MS: u64 = 24 * 3_600_000;
/// Whoever was not seen for so long makes room for others.
const FORGOTTEN_MS: u64 = 90 * DAY_MS;
/// In which refused requests are counted.
const TEN_MINUTES_MS: u64 = 600_000;
/// Rows of those who were seen that one user may add: a principal, a service, a VPC.
const WHATS: usize = 3;
/// Whom alarms are about that are raised because too many are to be remembered.
const UNREMEMBERED: &str = "users remembered";

/// A tally, and by what it is judged.
#[derive(Clone, Copy, Debug)]
pub struct NewTally<'a> {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// What an enclave told.
    pub tally: &'a Tally,
    /// The key store's rules.
    pub rules: &'a Rules,
}

impl Store {
    /// Counts a tally, and records the alarms that come of it: their kinds, one for each.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn tally(&self, new: NewTally<'_>, origin: Origin) -> Result<Vec<AlarmKind>, StoreError> {
        let raised: Result<Vec<AlarmKind>, StoreError> =
            write_transaction!(self, Lock::KeyStore(new.key_store_id), tally(new, origin, &self.destinations));
        let raised = raised?;
        self.tell_of_alarms(new.key_store_id, &raised);
        Ok(raised)
    }
}

async fn tally(
    transaction: &mut Transaction,
    new: NewTally<'_>,
    origin: Origin,
    destinations: &[String],
) -> Result<Vec<AlarmKind>, StoreError> {
    count_message(transaction, origin).await?;
    let boot_id = boot_of(transaction, origin.lease_id).await?;
    let mut alarms = Vec::new();
    if !new.tally.uses.is_empty() || !new.tally.others.is_zero() {
        let watch = watch(transaction, &new, origin.now_ms).await?;
        alarms.extend(judge_users(transaction, &new, watch.since_ms, origin.now_ms).await?);
        alarms.extend(too_many(new.tally.others));
        alarms.extend(burst(new.tally, watch.refused, new.rules));
    }
    alarms.extend(drift(new.tally.at_ms, origin.now_ms, boot_id, new.rules));
    alarms.extend(new.tally.overdue.iter().map(overdue));
    let mut raising = Raising {
        key_store_id: new.key_store_id,
        boot_id,
        at_ms: origin.now_ms,
        quiet_ms: new.rules.quiet_ms,
        destinations,
        raised: Vec::new(),
    };
    for alarm in alarms.iter().take(limits::TALLY_ALARMS_MAX) {
        raising.raise(transaction, alarm).await?;
    }
    raising.finish(transaction).await
}

/// What is known of a key store as a whole.
struct Watch {
    since_ms: u64,
    /// In these ten minutes, with those of the tally.
    refused: u64,
}

async fn watch(transaction: &mut Transaction, new: &NewTally<'_>, now_ms: u64) -> Result<Watch, StoreError> {
    let id = new.key_store_id.as_bytes();
    let row: Option<(i64, i64, i64)> = transaction
        .fetch_optional(
            "SELECT since_ms, ten_minutes, refused FROM alarm_watches WHERE key_store_id = $1",
            &[id.into()],
        )
        .await?;
    let window = to_integer(now_ms / TEN_MINUTES_MS, "time")?;
    let (since_ms, before) = match row {
        None => (now_ms, 0),
        Some((since_ms, ten_minutes, refused)) => {
            let refused = if ten_minutes == window { from_integer(refused, "count of refusals")? } else { 0 };
            (from_integer(since_ms, "time")?, refused)
        }
    };
    let added = refused_in(new.tally);
    let refused = before.saturating_add(added);
    if row.is_none() || added > 0 {
        transaction
            .execute(
                "INSERT INTO alarm_watches (key_store_id, since_ms, ten_minutes, refused) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (key_store_id) DO UPDATE SET ten_minutes = $3, refused = $4",
                &[
                    id.into(),
                    to_integer(since_ms, "time")?.into(),
                    window.into(),
                    to_integer(refused, "count of refusals")?.into(),
                ],
            )
            .await?;
    }
    Ok(Watch { since_ms, refused })
}

async fn judge_users(
    transaction: &mut Transaction,
    new: &NewTally<'_>,
    since_ms: u64,
    now_ms: u64,
) -> Result<Vec<Alarm>, StoreError> {
    let mut memory =
        Memory { key_store_id: new.key_store_id, now_ms, seen: HashSet::new(), room: HashMap::new(), is_full: false };
    let mut alarms = Vec::new();
    for tallied in &new.tally.uses {
        let user = &tallied.user;
        let digest = digest_of(&[Some(user.key.as_str()), user.principal.as_deref()]);
        let history = if tallied.count.used > 0 { memory.history(transaction, &digest).await? } else { None };
        let is_stored = history.is_some();
        let mut known = Known {
            history: history.unwrap_or_else(|| UseHistory::new(now_ms)),
            principal: memory.was_seen(transaction, What::Principal, user.principal.as_deref()).await?,
            service: memory.was_seen(transaction, What::Service, user.service.as_deref()).await?,
            vpc: memory.was_seen(transaction, What::Vpc, user.vpc.as_deref()).await?,
            since_ms,
        };
        alarms.extend(judge(tallied, &mut known, now_ms, new.rules));
        if tallied.count.used > 0 {
            memory.keep(transaction, &digest, &known.history, is_stored).await?;
        }
    }
    if memory.is_full {
        let text =
            "there are more users than are remembered: what the others do is judged as if it were their first use";
        alarms.push(alarm(AlarmKind::UnusualRate, UNREMEMBERED.to_owned(), text.to_owned()));
    }
    Ok(alarms)
}

/// What was seen, as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Principal,
    Service,
    Vpc,
}

impl What {
    const fn code(self) -> i64 {
        match self {
            Self::Principal => 0,
            Self::Service => 1,
            Self::Vpc => 2,
        }
    }
}

/// Tables whose rows are bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Table {
    Users,
    Seen,
}

impl Table {
    const fn count(self) -> &'static str {
        match self {
            Self::Users => "SELECT count(*) FROM alarm_users WHERE key_store_id = $1",
            Self::Seen => "SELECT count(*) FROM alarm_seen WHERE key_store_id = $1",
        }
    }

    const fn forget(self) -> &'static str {
        match self {
            Self::Users => "DELETE FROM alarm_users WHERE key_store_id = $1 AND last_ms < $2",
            Self::Seen => "DELETE FROM alarm_seen WHERE key_store_id = $1 AND last_ms < $2",
        }
    }
}

/// The tables of those who were seen, as one tally looks at them.
struct Memory {
    key_store_id: KeyStoreId,
    now_ms: u64,
    /// Known by now: asked or told.
    seen: HashSet<(What, [u8; 32])>,
    /// How many more rows these tables take.
    room: HashMap<Table, usize>,
    /// Whether somebody found none.
    is_full: bool,
}

impl Memory {
    async fn history(
        &self,
        transaction: &mut Transaction,
        digest: &[u8; 32],
    ) -> Result<Option<UseHistory>, StoreError> {
        let row: Option<(Vec<u8>,)> = transaction
            .fetch_optional(
                "SELECT history FROM alarm_users WHERE key_store_id = $1 AND digest = $2",
                &[self.key_store_id.as_bytes().into(), digest.into()],
            )
            .await?;
        row.map(|(history,)| cbor::decode(&history).map_err(|_| StoreError::Damaged("history of use"))).transpose()
    }

    async fn keep(
        &mut self,
        transaction: &mut Transaction,
        digest: &[u8; 32],
        history: &UseHistory,
        is_stored: bool,
    ) -> Result<(), StoreError> {
        if !is_stored && !self.take_place(transaction, Table::Users).await? {
            return Ok(());
        }
        transaction
            .execute(
                "INSERT INTO alarm_users (key_store_id, digest, history, last_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (key_store_id, digest) DO UPDATE SET history = $3, last_ms = $4",
                &[
                    self.key_store_id.as_bytes().into(),
                    digest.into(),
                    cbor::encode(history).as_slice().into(),
                    to_integer(self.now_ms, "time")?.into(),
                ],
            )
            .await?;
        Ok(())
    }

    /// Whether somebody was seen before; from now on somebody was, if there is room.
    async fn was_seen(
        &mut self,
        transaction: &mut Transaction,
        what: What,
        who: Option<&str>,
    ) -> Result<bool, StoreError> {
        let Some(who) = who else { return Ok(true) };
        let digest = digest_of(&[Some(who)]);
        if self.seen.contains(&(what, digest)) {
            return Ok(true);
        }
        let (own, now) = (self.key_store_id, to_integer(self.now_ms, "time")?);
        let place = [own.as_bytes().into(), what.code().into(), (&digest).into(), now.into()];
        let [id, code, hash, _] = place;
        let row: Option<(i64,)> = transaction
            .fetch_optional(
                "SELECT last_ms FROM alarm_seen WHERE key_store_id = $1 AND what = $2 AND digest = $3",
                &[id, code, hash],
            )
            .await?;
        match row {
            Some((last,)) if self.now_ms.saturating_sub(from_integer(last, "time")?) >= DAY_MS => {
                transaction
                    .execute(
                        "UPDATE alarm_seen SET last_ms = $4 WHERE key_store_id = $1 AND what = $2 AND digest = $3",
                        &place,
                    )
                    .await?;
            }
            None if self.take_place(transaction, Table::Seen).await? => {
                transaction
                    .execute(
                        "INSERT INTO alarm_seen (key_store_id, what, digest, first_ms, last_ms) \
                         VALUES ($1, $2, $3, $4, $4)",
                        &place,
                    )
                    .await?;
            }
            Some(_) | None => {}
        }
        self.seen.insert((what, digest));
        Ok(row.is_some())
    }

    /// Whether a table has room for one more row, which is made then.
    async fn take_place(&mut self, transaction: &mut Transaction, table: Table) -> Result<bool, StoreError> {
        let room = match self.room.get(&table) {
            Some(room) => *room,
            None => self.make_room(transaction, table).await?,
        };
        self.room.insert(table, room.saturating_sub(1));
        self.is_full |= room == 0;
        Ok(room > 0)
    }

    /// Counts the places of a table that are free, once those are forgotten who were not seen for long, if that is needed.
    async fn make_room(&self, transaction: &mut Transaction, table: Table) -> Result<usize, StoreError> {
        let room = self.count_room(transaction, table).await?;
        if room >= limits::TALLY_USES_MAX.saturating_mul(WHATS) {
            return Ok(room);
        }
        let before = to_integer(self.now_ms.saturating_sub(FORGOTTEN_MS), "time")?;
        transaction.execute(table.forget(), &[self.key_store_id.as_bytes().into(), before.into()]).await?;
        self.count_room(transaction, table).await
    }

    async fn count_room(&self, transaction: &mut Transaction, table: Table) -> Result<usize, StoreError> {
        let (count,): (i64,) = transaction.fetch_one(table.count(), &[self.key_store_id.as_bytes().into()]).await?;
        Ok(limits::ALARM_USERS_MAX.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX)))
    }
}

fn refused_in(tally: &Tally) -> u64 {
    let of_users: u64 = tally.uses.iter().map(|tallied| u64::from(tallied.count.refused)).sum();
    of_users.saturating_add(tally.others.refused.into())
}

fn too_many(others: UseCount) -> Option<Alarm> {
    (!others.is_zero()).then(|| {
        let text = format!(
            "more than {} different users in one tally: the others used keys {} times and were refused {} times",
            limits::TALLY_USES_MAX,
            others.used,
            others.refused
        );
        alarm(AlarmKind::UnusualRate, String::new(), text)
    })
}

fn burst(tally: &Tally, refused: u64, rules: &Rules) -> Option<Alarm> {
    let added = refused_in(tally);
    if added == 0 || refused < u64::from(rules.refused_burst) {
        return None;
    }
    let most = tally.uses.iter().max_by_key(|tallied| tallied.count.refused).filter(|most| most.count.refused > 0);
    let most = most.map_or_else(|| "users who are not told apart".to_owned(), named);
    let text = format!("{refused} requests were refused within ten minutes; most of the last {added} were of {most}");
    Some(alarm(AlarmKind::RefusedBurst, String::new(), text))
}

fn named(tallied: &TalliedUse) -> String {
    let principal = tallied.user.principal.as_deref().map_or_else(|| "AWS Internal".to_owned(), shown);
    format!("{principal} at key {}", tallied.user.key)
}

fn drift(at_ms: u64, now_ms: u64, boot_id: Option<BootId>, rules: &Rules) -> Option<Alarm> {
    let apart_ms = at_ms.abs_diff(now_ms);
    (apart_ms > rules.clock_drift_ms).then(|| {
        let side = if at_ms > now_ms { "ahead of" } else { "behind" };
        let text = format!("the enclave's clock is {} s {side} the custodian's", apart_ms / 1_000);
        alarm(AlarmKind::ClockDrift, boot_id.map(|id| id.to_string()).unwrap_or_default(), text)
    })
}

fn overdue(lease: &OverdueLease) -> Alarm {
    let left = match lease.left_ms {
        0 => "it has ended".to_owned(),
        left_ms => format!("{} s of it are left", left_ms / 1_000),
    };
    let text = format!("an enclave's lease of custodian {} is overdue: {left}", lease.custodian_id);
    alarm(AlarmKind::LeaseTrouble, lease.custodian_id.to_string(), text)
}

const fn alarm(kind: AlarmKind, who: String, text: String) -> Alarm {
    Alarm { kind, key: None, who, text }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::alarm::User;
    use holdfast_shared::ids::CustodianId;

    use super::*;

    fn refused(principal: &str, refused: u32) -> TalliedUse {
        let user = User { key: "a".parse().unwrap(), principal: Some(principal.to_owned()), service: None, vpc: None };
        TalliedUse { user, count: UseCount { used: 0, refused } }
    }

    #[test]
    fn a_burst_names_whom_most_was_refused() {
        let rules = Rules::default();
        let tally = |uses: Vec<TalliedUse>, others| Tally {
            uses,
            others: UseCount { used: 0, refused: others },
            ..Tally::default()
        };
        for (tally, sum, expected) in [
            (
                tally(vec![refused("a", 1), refused("b\n", 9)], 3),
                50,
                Some("most of the last 13 were of b\\u{a} at key a"),
            ),
            (tally(vec![refused("a", 49)], 0), 49, None),
            (tally(vec![refused("a", 0)], 7), 70, Some("users who are not told apart")),
            (tally(vec![refused("a", 0)], 0), 70, None),
        ] {
            let found = burst(&tally, sum, &rules).map(|alarm| alarm.text);
            match (found, expected) {
                (Some(text), Some(expected)) => assert!(text.ends_with(expected), "{text}"),
                (found, expected) => assert_eq!(found.is_some(), expected.is_some(), "{tally:?}"),
            }
        }
    }

    #[test]
    fn clocks_that_differ_are_told_of_on_both_sides() {
        let rules = Rules::default();
        let boot_id = Some(BootId([7; 16]));
        for (at_ms, expected) in [
            (1_000_000, None),
            (1_030_000, None),
            (970_000, None),
            (1_030_001, Some("the enclave's clock is 30 s ahead of the custodian's")),
            (0, Some("the enclave's clock is 1000 s behind the custodian's")),
        ] {
            let found = drift(at_ms, 1_000_000, boot_id, &rules);
            assert_eq!(found.as_ref().map(|alarm| alarm.text.as_str()), expected);
            assert!(found.is_none_or(|alarm| alarm.who == "07".repeat(16)));
        }
    }

    #[test]
    fn an_overdue_lease_is_told_by_its_custodian() {
        for (left_ms, expected) in [(0, "it has ended"), (61_000, "61 s of it are left")] {
            let alarm = overdue(&OverdueLease { custodian_id: CustodianId([3; 32]), left_ms });
            assert_eq!((alarm.kind, alarm.who), (AlarmKind::LeaseTrouble, "03".repeat(32)));
            assert!(alarm.text.ends_with(expected), "{}", alarm.text);
        }
    }
}
