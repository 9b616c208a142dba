//! What a tally makes of what is remembered of who uses keys.
//!
//! Guarantees: a user is counted and judged, and the alarms of it are recorded, in one transaction. A tally takes several, of
//! [`USERS_AT_ONCE`] users each, so that debits of the same key store come between. One that comes again under its counter changes nothing,
//! and one that comes again under its number counts no use again: the number is written with the last transaction, so that only a crash
//! before it lets the first users count twice. Of a key store at most [`limits::ALARM_USERS_MAX`] principals with keys are remembered, and
//! as many principals, services and VPCs: where there are more, those not seen for a quarter of a year are forgotten, and if that does not
//! help, an alarm says that others are not remembered. Assumes: the tally was checked when it was decoded. The database holds hashes of
//! those who were seen; names are in alarms alone.

mod memory;

use holdfast_shared::alarm::{Alarm, AlarmKind, OverdueLease, Rules, TalliedUse, Tally, UseCount, judge, shown};
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::limits;

use super::alarms::{Raising, boot_of};
use super::database::{Lock, Transaction, write_transaction};
use super::leases::count_message;
use super::{Origin, Store, StoreError, from_integer, to_integer};
use memory::Memory;

const DAY_MS: u64 = 24 * 3_600_000;
/// Users of one transaction: some forty statements, behind which a debit waits.
const USERS_AT_ONCE: usize = 8;
/// In which refused requests are counted.
const TEN_MINUTES_MS: u64 = 600_000;
/// The number of a boot's newest tally is kept for so long.
const NUMBER_KEPT_MS: u64 = DAY_MS;
/// Those seen for the first time in one tally who have alarms of their own.
const FIRST_SEEN_MAX: usize = 16;
/// Whom the alarm is about that stands for the others.
const SUMMED_UP: &str = "first seen at once";
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
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them: with these two, nothing was changed.
    pub async fn tally(&self, new: NewTally<'_>, origin: Origin) -> Result<Vec<AlarmKind>, StoreError> {
        let mut progress = Progress::new(&new, origin.now_ms);
        while !progress.is_done {
            let after: Result<Progress, StoreError> = write_transaction!(
                self,
                Lock::KeyStore(new.key_store_id),
                go_on(new, origin, &progress, &self.destinations)
            );
            let after = after?;
            self.tell_of_alarms(new.key_store_id, after.raised.get(progress.raised.len()..).unwrap_or_default());
            progress = after;
        }
        Ok(progress.raised)
    }
}

/// How far a tally is judged: what one transaction hands on to the next.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each by itself")]
struct Progress {
    boot_id: Option<BootId>,
    /// Since when the key store is used.
    since_ms: u64,
    /// Whether its uses are to be counted: there are some, and they were not told before.
    counts: bool,
    /// Whether the boot told of uses before.
    is_known: bool,
    /// Users who are counted.
    users: usize,
    memory: Memory,
    /// Those seen for the first time who have alarms, and those who have none.
    first_seen: (usize, usize),
    raised: Vec<AlarmKind>,
    is_begun: bool,
    is_done: bool,
}

/// Does as much as one transaction should.
async fn go_on(
    transaction: &mut Transaction,
    new: NewTally<'_>,
    origin: Origin,
    before: &Progress,
    destinations: &[String],
) -> Result<Progress, StoreError> {
    let mut progress = before.clone();
    if !progress.is_begun {
        progress.begin(transaction, &new, origin).await?;
    }
    let mut raising = Raising {
        key_store_id: new.key_store_id,
        boot_id: progress.boot_id,
        at_ms: origin.now_ms,
        quiet_ms: new.rules.quiet_ms,
        destinations,
        raised: Vec::new(),
    };
    if progress.counts {
        progress.judge_users(transaction, &new, &mut raising).await?;
    }
    if !progress.counts || progress.users >= new.tally.uses.len() {
        progress.end(transaction, &new, &mut raising).await?;
    }
    progress.raised.extend(raising.finish(transaction).await?);
    progress.raised.truncate(limits::TALLY_ALARMS_MAX);
    Ok(progress)
}

impl Progress {
    fn new(new: &NewTally<'_>, now_ms: u64) -> Self {
        Self {
            boot_id: None,
            since_ms: now_ms,
            counts: false,
            is_known: false,
            users: 0,
            memory: Memory::new(new.key_store_id, now_ms),
            first_seen: (0, 0),
            raised: Vec::new(),
            is_begun: false,
            is_done: false,
        }
    }

    /// Counts the message, and sees whether its uses were told before.
    async fn begin(
        &mut self,
        transaction: &mut Transaction,
        new: &NewTally<'_>,
        origin: Origin,
    ) -> Result<(), StoreError> {
        count_message(transaction, origin).await?;
        self.is_begun = true;
        self.boot_id = boot_of(transaction, origin.lease_id).await?;
        let (Some(boot_id), false) = (self.boot_id, new.tally.uses.is_empty() && new.tally.others.is_zero()) else {
            return Ok(());
        };
        let id = new.key_store_id.as_bytes();
        let newest: Option<(i64,)> = transaction
            .fetch_optional(
                "SELECT number FROM alarm_tallies WHERE key_store_id = $1 AND boot_id = $2",
                &[id.into(), boot_id.as_bytes().into()],
            )
            .await?;
        self.is_known = newest.is_some();
        self.counts = newest.is_none_or(|(newest,)| number_of(new.tally) > newest);
        let since: Option<(i64,)> = transaction
            .fetch_optional("SELECT since_ms FROM alarm_watches WHERE key_store_id = $1", &[id.into()])
            .await?;
        if let Some((since,)) = since {
            self.since_ms = from_integer(since, "time")?;
        }
        Ok(())
    }

    /// Counts and judges the next few users.
    async fn judge_users(
        &mut self,
        transaction: &mut Transaction,
        new: &NewTally<'_>,
        raising: &mut Raising<'_>,
    ) -> Result<(), StoreError> {
        self.memory.begin();
        for tallied in new.tally.uses.iter().skip(self.users).take(USERS_AT_ONCE) {
            let (span_ms, now_ms) = (new.tally.span_ms(), raising.at_ms);
            let alarms = self
                .memory
                .judged(transaction, tallied, self.since_ms, |known| judge(tallied, known, span_ms, now_ms, new.rules))
                .await?;
            for alarm in &alarms {
                self.raise(transaction, raising, alarm).await?;
            }
            self.users = self.users.saturating_add(1);
        }
        Ok(())
    }

    /// A deployment of many roles at once is one thing to look into, not hundreds.
    async fn raise(
        &mut self,
        transaction: &mut Transaction,
        raising: &mut Raising<'_>,
        alarm: &Alarm,
    ) -> Result<(), StoreError> {
        if raising.is_quiet(transaction, alarm).await? {
            return Ok(());
        }
        let (told, untold) = &mut self.first_seen;
        if alarm.kind == AlarmKind::FirstSeen {
            let count = if *told < FIRST_SEEN_MAX { told } else { &mut *untold };
            *count = count.saturating_add(1);
            if *untold > 0 {
                return Ok(());
            }
        }
        raising.record(transaction, alarm).await
    }

    /// Judges what is told beside users, and notes the tally's number.
    async fn end(
        &mut self,
        transaction: &mut Transaction,
        new: &NewTally<'_>,
        raising: &mut Raising<'_>,
    ) -> Result<(), StoreError> {
        self.is_done = true;
        let now_ms = raising.at_ms;
        let mut alarms = Vec::new();
        if self.counts {
            self.note_number(transaction, new, now_ms).await?;
            if let more @ 1.. = self.first_seen.1 {
                let text = format!("and {more} more were seen for the first time in one tally; the audit log has them");
                // The next of these is about others.
                raising.record(transaction, &alarm(AlarmKind::FirstSeen, SUMMED_UP.to_owned(), text)).await?;
            }
            let refused = self.count_refused(transaction, new, now_ms).await?;
            alarms.extend(self.memory.is_full.then(unremembered));
            alarms.extend(too_many(new.tally.others));
            alarms.extend(burst(new.tally, refused, new.rules));
        }
        alarms.extend(drift(new.tally.at_ms, now_ms, self.boot_id, new.rules));
        alarms.extend(new.tally.overdue.iter().map(overdue));
        for alarm in &alarms {
            raising.raise(transaction, alarm).await?;
        }
        Ok(())
    }

    async fn note_number(
        &self,
        transaction: &mut Transaction,
        new: &NewTally<'_>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let Some(boot_id) = self.boot_id else { return Ok(()) };
        let (id, now) = (new.key_store_id.as_bytes(), to_integer(now_ms, "time")?);
        transaction
            .execute(
                "INSERT INTO alarm_tallies (key_store_id, boot_id, number, last_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (key_store_id, boot_id) DO UPDATE SET number = $3, last_ms = $4 \
                 WHERE alarm_tallies.number < $3",
                &[id.into(), boot_id.as_bytes().into(), number_of(new.tally).into(), now.into()],
            )
            .await?;
        if !self.is_known {
            // No boot adds a row without taking away those of boots that are gone.
            let kept_since = to_integer(now_ms.saturating_sub(NUMBER_KEPT_MS), "time")?;
            transaction
                .execute(
                    "DELETE FROM alarm_tallies WHERE key_store_id = $1 AND last_ms < $2",
                    &[id.into(), kept_since.into()],
                )
                .await?;
        }
        Ok(())
    }

    /// Refused requests in these ten minutes, with those of the tally.
    async fn count_refused(
        &self,
        transaction: &mut Transaction,
        new: &NewTally<'_>,
        now_ms: u64,
    ) -> Result<u64, StoreError> {
        let id = new.key_store_id.as_bytes();
        let row: Option<(i64, i64)> = transaction
            .fetch_optional("SELECT ten_minutes, refused FROM alarm_watches WHERE key_store_id = $1", &[id.into()])
            .await?;
        let window = to_integer(now_ms / TEN_MINUTES_MS, "time")?;
        let before = match row {
            Some((ten_minutes, refused)) if ten_minutes == window => from_integer(refused, "count of refusals")?,
            Some(_) | None => 0,
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
                        to_integer(self.since_ms, "time")?.into(),
                        window.into(),
                        to_integer(refused, "count of refusals")?.into(),
                    ],
                )
                .await?;
        }
        Ok(refused)
    }
}

/// As the database has it: a number that it cannot hold is as good as the greatest that it can.
fn number_of(tally: &Tally) -> i64 {
    i64::try_from(tally.number).unwrap_or(i64::MAX)
}

fn unremembered() -> Alarm {
    let text = "there are more users than are remembered: what the others do is judged as if it were their first use";
    alarm(AlarmKind::UnusualRate, UNREMEMBERED.to_owned(), text.to_owned())
}

fn refused_in(tally: &Tally) -> u64 {
    let counts = tally.uses.iter().map(|tallied| tallied.count).chain([tally.others]);
    counts.map(|count| u64::from(count.within(TEN_MINUTES_MS, tally.span_ms()).refused)).sum()
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
