//! Who was seen, and how often whom used which key: the tables that tallies are judged by.
//!
//! Guarantees: a table has [`limits::ALARM_USERS_MAX`] rows of a key store, and some more only where tallies of several replicas race.

use std::collections::{HashMap, HashSet};

use holdfast_shared::alarm::{Known, TalliedUse, UseHistory};
use holdfast_shared::cbor;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits;

use super::super::alarms::digest_of;
use super::super::database::Transaction;
use super::super::{StoreError, from_integer, to_integer};
use super::DAY_MS;

/// Whoever was not seen for so long makes room for others.
const FORGOTTEN_MS: u64 = 90 * DAY_MS;
/// Rows of those who were seen that one user may add: a principal, a service, a VPC.
const WHATS: usize = 3;

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

/// The tables, as one tally looks at them.
#[derive(Clone)]
pub(super) struct Memory {
    key_store_id: KeyStoreId,
    now_ms: u64,
    /// Known by now: asked or told.
    seen: HashSet<(What, [u8; 32])>,
    /// Principals with keys whose use was judged by now.
    pairs: HashSet<[u8; 32]>,
    /// How many more rows these tables take, as of this transaction.
    room: HashMap<Table, usize>,
    /// Whether somebody found none.
    pub(super) is_full: bool,
}

impl Memory {
    pub(super) fn new(key_store_id: KeyStoreId, now_ms: u64) -> Self {
        let (seen, pairs, room) = (HashSet::new(), HashSet::new(), HashMap::new());
        Self { key_store_id, now_ms, seen, pairs, room, is_full: false }
    }

    /// Others may have come since the transaction before.
    pub(super) fn begin(&mut self) {
        self.room.clear();
    }

    /// What is known of a user, who is known from now on. What `judge` makes of it is kept.
    pub(super) async fn judged<T>(
        &mut self,
        transaction: &mut Transaction,
        tallied: &TalliedUse,
        since_ms: u64,
        judge: impl FnOnce(&mut Known) -> T,
    ) -> Result<T, StoreError> {
        let user = &tallied.user;
        let digest = digest_of(&[Some(user.key.as_str()), user.principal.as_deref()]);
        let is_use = tallied.count.used > 0;
        let history = if is_use { self.history(transaction, &digest).await? } else { None };
        let is_stored = history.is_some();
        let mut known = Known {
            history: history.unwrap_or_else(|| UseHistory::new(self.now_ms)),
            principal: self.was_seen(transaction, What::Principal, user.principal.as_deref()).await?,
            service: self.was_seen(transaction, What::Service, user.service.as_deref()).await?,
            vpc: self.was_seen(transaction, What::Vpc, user.vpc.as_deref()).await?,
            // One principal may come by several services.
            pair: is_stored || self.pairs.contains(&digest),
            since_ms,
        };
        let judged = judge(&mut known);
        if is_use {
            self.keep(transaction, &digest, &known.history, is_stored).await?;
            self.pairs.insert(digest);
        }
        Ok(judged)
    }

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
