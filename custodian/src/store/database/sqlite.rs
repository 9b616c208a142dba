//! SQLite: one file, one process, one writer.
//!
//! Guarantees: write-ahead log with `synchronous = FULL`: a commit is on disk before it returns. What is deleted is
//! overwritten. Refuses: writes through a connection that reads.

use std::path::Path;
use std::time::Duration;

use sqlx::Sqlite;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use crate::store::{StoreError, schema};

super::binders!(SqliteQuery, SqliteQueryAs);

/// How long a statement waits for another process's lock on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that only read.
const READERS: u32 = 4;

#[derive(Debug)]
pub(in crate::store) struct SqliteDatabase {
    writer: SqlitePool,
    pub(super) reader: SqlitePool,
}

impl SqliteDatabase {
    pub(in crate::store) async fn connect(file: &Path, create: bool) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            // What is deleted is overwritten: a wrapped share that was given up does not linger in free pages.
            .pragma("secure_delete", "on");
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await;
        let writer = writer.map_err(|source| StoreError::Open { file: file.to_owned(), source })?;
        schema::migrate_sqlite(&writer).await?;
        let reader =
            SqlitePoolOptions::new().max_connections(READERS).connect_with(options.pragma("query_only", "on")).await?;
        Ok(Self { writer, reader })
    }

    pub(super) async fn begin(&self) -> Result<sqlx::Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    pub(super) async fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        let to = to.to_str().ok_or(StoreError::Damaged("path of the copy"))?;
        sqlx::query("VACUUM INTO $1").bind(to).execute(&self.writer).await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}
