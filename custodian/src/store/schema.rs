//! The tables, and how a database reaches the current version.
//!
//! Versions are steps that are never changed once released; `user_version` counts those that were applied. Each step and its
//! count are one transaction.

use sqlx::sqlite::SqlitePool;

use super::StoreError;

/// Step `i` brings version `i` to `i + 1`.
const STEPS: [&str; 1] = [STEP_1];

const STEP_1: &str = "
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE key_stores (
    key_store_id BLOB PRIMARY KEY CHECK (length(key_store_id) = 32),
    manifest     BLOB NOT NULL,
    enrolled_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE release_policies (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    epoch        INTEGER NOT NULL CHECK (epoch >= 1),
    policy       BLOB NOT NULL,
    recorded_ms  INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, epoch)
) STRICT;

CREATE TABLE nonces (
    nonce      BLOB PRIMARY KEY CHECK (length(nonce) = 32),
    expires_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (
    lease_id         BLOB PRIMARY KEY CHECK (length(lease_id) = 16),
    key_store_id     BLOB NOT NULL REFERENCES key_stores,
    boot_id          BLOB NOT NULL CHECK (length(boot_id) = 16),
    module_id        TEXT NOT NULL,
    audit_public_key BLOB NOT NULL CHECK (length(audit_public_key) = 32),
    evidence         BLOB NOT NULL,
    document         BLOB NOT NULL,
    channel_keys     BLOB NOT NULL,
    policy_epoch     INTEGER NOT NULL,
    granted_ms       INTEGER NOT NULL,
    expires_ms       INTEGER NOT NULL,
    seen_ms          INTEGER NOT NULL,
    counter          INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE shares (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    generation   INTEGER NOT NULL CHECK (generation >= 1),
    share_set    BLOB NOT NULL,
    wrapped      BLOB NOT NULL,
    document     BLOB NOT NULL,
    deposited_ms INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, generation)
) STRICT;

CREATE TABLE versions (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    version      INTEGER NOT NULL CHECK (version >= 1),
    blob_id      BLOB NOT NULL CHECK (length(blob_id) = 32),
    register     BLOB NOT NULL,
    recorded_ms  INTEGER NOT NULL,
    boot_id      BLOB NOT NULL CHECK (length(boot_id) = 16),
    blob         BLOB NOT NULL,
    PRIMARY KEY (key_store_id, version),
    UNIQUE (key_store_id, blob_id)
) STRICT;

CREATE TABLE overlays (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    epoch        INTEGER NOT NULL CHECK (epoch >= 1),
    overlay      BLOB NOT NULL,
    recorded_ms  INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, epoch)
) STRICT;

CREATE TABLE commands (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    command_id   BLOB NOT NULL CHECK (length(command_id) = 16),
    envelope     BLOB NOT NULL,
    signers      INTEGER NOT NULL,
    received_ms  INTEGER NOT NULL,
    expires_ms   INTEGER NOT NULL,
    done         INTEGER NOT NULL DEFAULT 0 CHECK (done IN (0, 1)),
    PRIMARY KEY (key_store_id, command_id)
) STRICT;

CREATE TABLE results (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    command_id   BLOB NOT NULL CHECK (length(command_id) = 16),
    sealed       BLOB NOT NULL,
    recorded_ms  INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, command_id)
) STRICT;

CREATE TABLE releases (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms         INTEGER NOT NULL,
    key_store_id  BLOB NOT NULL REFERENCES key_stores,
    released      INTEGER NOT NULL CHECK (released IN (0, 1)),
    reason        TEXT NOT NULL,
    policy_epoch  INTEGER NOT NULL,
    emulated_root INTEGER NOT NULL CHECK (emulated_root IN (0, 1)),
    trust_root    BLOB,
    module_id     TEXT,
    boot_id       BLOB,
    lease_id      BLOB,
    measurements  BLOB
) STRICT;
CREATE INDEX releases_of_key_store ON releases (key_store_id, released, id);
";

pub(super) async fn migrate(writer: &SqlitePool) -> Result<(), StoreError> {
    let known = i64::try_from(STEPS.len()).map_err(|_| StoreError::OutOfRange("schema version"))?;
    let mut transaction = writer.begin_with("BEGIN EXCLUSIVE").await?;
    let (found,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(&mut *transaction).await?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let applied = usize::try_from(found).map_err(|_| StoreError::Damaged("schema version"))?;
    for step in STEPS.iter().skip(applied) {
        sqlx::raw_sql(*step).execute(&mut *transaction).await?;
    }
    if found < known {
        // A pragma takes no parameters; `known` is a count of ours.
        sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {known}"))).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}
