//! The seam between the custodian's queries and the two databases that can hold its tables: SQLite, and PostgreSQL for several
//! replicas.
//!
//! ```text
//! queries (one copy of each) → Session (reads), Transaction (reads and writes) → SQLite file | PostgreSQL server
//! ```
//! Guarantees: every statement is text of ours with numbered parameters; a transaction that was not committed leaves nothing;
//! one that the database gave up on account of another (and only that) is begun anew a few times. Two transactions that write
//! to one key store come one after the other, in every replica: SQLite has one writer, PostgreSQL locks the key store's row
//! first. Assumes: the server keeps what it said it kept ([`postgres`] looks at its settings).

mod postgres;
mod sqlite;

use core::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use holdfast_shared::ids::KeyStoreId;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::{Query, QueryAs};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{FromRow, Postgres, Sqlite};

use super::{Changes, StoreError};
pub(super) use postgres::PostgresDatabase;
pub(super) use sqlite::SqliteDatabase;

/// How often a transaction is tried that others keep in the way.
const TRIES: u32 = 8;
/// Pause before the second try; each further one is longer by as much.
const PAUSE: Duration = Duration::from_millis(10);

/// A database that holds the tables.
#[derive(Debug)]
pub(super) enum Database {
    Sqlite(SqliteDatabase),
    Postgres(PostgresDatabase),
}

/// What a transaction must be alone with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// What is written about one key store.
    KeyStore(KeyStoreId),
    /// Nothing: its statements are right in any order.
    Nothing,
}

/// A value of a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Integer(i64),
    Text(Option<&'a str>),
    Bytes(Option<&'a [u8]>),
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<u32> for Value<'_> {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Integer(value.into())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(Some(value))
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(value: Option<&'a str>) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(Some(value))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::Bytes(Some(value))
    }
}

impl<'a> From<&'a Vec<u8>> for Value<'a> {
    fn from(value: &'a Vec<u8>) -> Self {
        Self::Bytes(Some(value))
    }
}

impl<'a> From<Option<&'a [u8]>> for Value<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        Self::Bytes(value)
    }
}

/// A row that both databases can give.
pub(super) trait Row: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin> Row for T {}

/// A connection that reads.
pub(super) enum Session {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
    /// Within a transaction.
    SqliteTransaction(sqlx::Transaction<'static, Sqlite>),
    /// Within a transaction.
    PostgresTransaction(sqlx::Transaction<'static, Postgres>),
}

/// Runs `$work` on the connection of a session, whichever it is.
macro_rules! on_connection {
    ($session:expr, $sqlite:ident => $on_sqlite:expr, $postgres:ident => $on_postgres:expr) => {
        match $session {
            Session::Sqlite(connection) => {
                let $sqlite = &mut **connection;
                $on_sqlite
            }
            Session::SqliteTransaction(transaction) => {
                let $sqlite = &mut **transaction;
                $on_sqlite
            }
            Session::Postgres(connection) => {
                let $postgres = &mut **connection;
                $on_postgres
            }
            Session::PostgresTransaction(transaction) => {
                let $postgres = &mut **transaction;
                $on_postgres
            }
        }
    };
}

impl Session {
    pub(super) async fn fetch_optional<T: Row>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<T>, StoreError> {
        let row = on_connection!(self,
            sqlite => sqlite::bind_as(sqlx::query_as(sql), values).fetch_optional(sqlite).await,
            postgres => postgres::bind_as(sqlx::query_as(sql), values).fetch_optional(postgres).await);
        Ok(row?)
    }

    pub(super) async fn fetch_one<T: Row>(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<T, StoreError> {
        Ok(self.fetch_optional(sql, values).await?.ok_or(sqlx::Error::RowNotFound)?)
    }

    pub(super) async fn fetch_all<T: Row>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let rows = on_connection!(self,
            sqlite => sqlite::bind_as(sqlx::query_as(sql), values).fetch_all(sqlite).await,
            postgres => postgres::bind_as(sqlx::query_as(sql), values).fetch_all(postgres).await);
        Ok(rows?)
    }
}

/// A connection within a transaction.
pub(super) struct Transaction(Session);

impl Deref for Transaction {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}

impl Transaction {
    /// Runs a statement that changes rows, and says how many.
    pub(super) async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        Ok(on_connection!(&mut self.0,
            sqlite => sqlite::bind(sqlx::query(sql), values).execute(sqlite).await?.rows_affected(),
            postgres => postgres::bind(sqlx::query(sql), values).execute(postgres).await?.rows_affected()))
    }

    /// From here on no other has this number. Where one has it, `wait` for its end, or false.
    pub(super) async fn lock_number(&mut self, number: i64, wait: bool) -> Result<bool, StoreError> {
        if !matches!(self.0, Session::PostgresTransaction(_)) {
            // SQLite has one writer.
            return Ok(true);
        }
        if wait {
            self.execute("SELECT pg_advisory_xact_lock($1)", &[number.into()]).await?;
            return Ok(true);
        }
        let (locked,) = self.fetch_one("SELECT pg_try_advisory_xact_lock($1)", &[number.into()]).await?;
        Ok(locked)
    }

    /// Wakes, once this is committed, whoever waits for news of a key store at another replica.
    pub(super) async fn announce(&mut self, key_store_id: KeyStoreId) -> Result<(), StoreError> {
        if let Session::PostgresTransaction(transaction) = &mut self.0 {
            postgres::notify(transaction, key_store_id).await?;
        }
        Ok(())
    }

    async fn commit(self) -> Result<(), StoreError> {
        match self.0 {
            Session::SqliteTransaction(transaction) => Ok(transaction.commit().await?),
            Session::PostgresTransaction(transaction) => Ok(transaction.commit().await?),
            Session::Sqlite(_) | Session::Postgres(_) => Ok(()),
        }
    }
}

impl Database {
    /// A connection that reads what is committed.
    pub(super) async fn read(&self) -> Result<Session, StoreError> {
        match self {
            Self::Sqlite(database) => Ok(Session::Sqlite(database.reader.acquire().await?)),
            Self::Postgres(database) => Ok(Session::Postgres(database.pool.acquire().await?)),
        }
    }

    /// A transaction that holds its lock from its start, so that what it reads is still so when it writes.
    pub(super) async fn begin(&self, lock: Lock) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(database) => Ok(Transaction(Session::SqliteTransaction(database.begin().await?))),
            Self::Postgres(database) => Ok(Transaction(Session::PostgresTransaction(database.begin(lock).await?))),
        }
    }

    /// Whether several replicas can use it at once.
    pub(super) const fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// What changes at other replicas.
    pub(super) async fn changes(&self) -> Result<Changes, StoreError> {
        match self {
            Self::Sqlite(_) => Ok(Changes::none()),
            Self::Postgres(database) => database.changes().await,
        }
    }

    /// Writes a copy of the file.
    pub(super) async fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(database) => database.back_up(to).await,
            Self::Postgres(_) => Err(StoreError::NotAFile),
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(database) => database.close().await,
            Self::Postgres(database) => database.pool.close().await,
        }
    }
}

/// Commits what was done, or leaves nothing of it.
pub(super) async fn finish<T>(transaction: Transaction, done: Result<T, StoreError>) -> Result<T, StoreError> {
    // Dropped without a commit, a transaction is rolled back.
    let value = done?;
    transaction.commit().await?;
    Ok(value)
}

/// How often a transaction was tried.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Whether to try again after `error`; waits a moment if so.
    pub(super) async fn again(&mut self, error: &StoreError) -> bool {
        self.0 = self.0.saturating_add(1);
        if !is_collision(error) || self.0 >= TRIES {
            return false;
        }
        tokio::time::sleep(PAUSE.saturating_mul(self.0)).await;
        true
    }
}

/// Whether the database gave a transaction up because of another one. It is not committed then.
fn is_collision(error: &StoreError) -> bool {
    let StoreError::Database(sqlx::Error::Database(error)) = error else { return false };
    // PostgreSQL, appendix A: serialization_failure and deadlock_detected.
    matches!(error.code().as_deref(), Some("40001" | "40P01"))
}

/// Runs a function on a transaction, commits it if the function succeeds, and begins anew after a collision:
/// `write!(store, lock, function(arguments…))` calls `function(&mut transaction, arguments…)`.
macro_rules! write_transaction {
    ($store:expr, $lock:expr, $work:ident($($argument:expr),* $(,)?)) => {{
        let mut tries = $crate::store::database::Tries::default();
        loop {
            let mut transaction = $store.database.begin($lock).await?;
            let done = $work(&mut transaction, $($argument),*).await;
            match $crate::store::database::finish(transaction, done).await {
                Ok(value) => break Ok(value),
                Err(error) if tries.again(&error).await => {}
                Err(error) => break Err(error),
            }
        }
    }};
}
pub(super) use write_transaction;

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;
type SqliteQueryAs<'q, T> = QueryAs<'q, Sqlite, T, SqliteArguments>;
type PostgresQuery<'q> = Query<'q, Postgres, PgArguments>;
type PostgresQueryAs<'q, T> = QueryAs<'q, Postgres, T, PgArguments>;

/// `bind` and `bind_as` for the arguments of one database.
macro_rules! binders {
    ($query:ident, $query_as:ident) => {
        pub(super) fn bind<'q>(query: super::$query<'q>, values: &[super::Value<'q>]) -> super::$query<'q> {
            values.iter().fold(query, |query, value| match *value {
                super::Value::Integer(value) => query.bind(value),
                super::Value::Text(value) => query.bind(value),
                super::Value::Bytes(value) => query.bind(value),
            })
        }

        pub(super) fn bind_as<'q, T>(
            query: super::$query_as<'q, T>,
            values: &[super::Value<'q>],
        ) -> super::$query_as<'q, T> {
            values.iter().fold(query, |query, value| match *value {
                super::Value::Integer(value) => query.bind(value),
                super::Value::Text(value) => query.bind(value),
                super::Value::Bytes(value) => query.bind(value),
            })
        }
    };
}
use binders;
