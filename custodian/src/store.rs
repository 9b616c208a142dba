//! What the custodian remembers, in a database.
//!
//! Guarantees: every change is one transaction, on disk before the function returns (write-ahead log, `synchronous = FULL`);
//! changes are applied one after the other. Every query of the custodian is in this module and below, and no type of the
//! database shows outside, so that another backend replaces these files and nothing else. Assumes: secrets come wrapped.
//! Refuses: a database of a newer version.

mod key_stores;
mod leases;
mod orders;
mod schema;
mod versions;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};

pub use key_stores::StoredKeyStore;
pub use leases::{Granted, NewLease, ReleaseRecord, StoredLease};
pub use orders::{News, Queued, StoredCommand, StoredOverlay};
pub use versions::{Deposited, NewShare, NewVersion, Origin, Published, StoredRegister, StoredShare};

/// How long a statement waits for another process's lock on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that only read.
const READERS: u32 = 4;

/// Why the database did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database itself.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// Made by a newer program.
    #[error("database: has version {found}, and this program knows versions up to {known}; run the newer program")]
    Newer {
        /// The database's version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A number that the database cannot hold.
    #[error("database: {0} is too large")]
    OutOfRange(&'static str),
    /// A stored value is not what was written.
    #[error("database: the stored {0} is damaged")]
    Damaged(&'static str),
}

/// The database. Cheap to use from many tasks; one connection writes.
#[derive(Debug)]
pub struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
}

impl Store {
    /// Makes the database if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create(file: &Path) -> Result<Self, StoreError> {
        Self::connect(file, true).await
    }

    /// Opens the database, which must exist, and brings it to the current version.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        Self::connect(file, false).await
    }

    async fn connect(file: &Path, create: bool) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            // What is deleted is overwritten: a wrapped share that was given up does not linger in free pages.
            .pragma("secure_delete", "on");
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        schema::migrate(&writer).await?;
        let reader =
            SqlitePoolOptions::new().max_connections(READERS).connect_with(options.pragma("query_only", "on")).await?;
        Ok(Self { writer, reader })
    }

    /// Waits for running statements and closes the files.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// A transaction that holds the write lock from its start, so that what it reads is still so when it writes.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

fn to_integer(value: u64, what: &'static str) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::OutOfRange(what))
}

fn from_integer(value: i64, what: &'static str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Damaged(what))
}

fn array<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Damaged(what))
}
