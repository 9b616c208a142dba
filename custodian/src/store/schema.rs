//! The tables, and how a database reaches the current version.
//!
//! Versions are steps that are never changed once released; SQLite's `user_version` and PostgreSQL's table `schema_version`
//! count those that were applied. Each step and its count are one transaction. A step is written once, with SQLite's names of
//! types; [`for_postgres`] puts PostgreSQL's in their place.

use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;

use super::StoreError;

/// Step `i` brings version `i` to `i + 1`.
const STEPS: [&str; 4] = [STEP_1, STEP_2, STEP_3, STEP_4];

/// What SQLite's dialect has and PostgreSQL's has under another name.
const POSTGRES_NAMES: [(&str, &str); 4] = [
    ("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    ("INTEGER", "BIGINT"),
    ("BLOB", "BYTEA"),
    (") STRICT;", ");"),
];
/// Two replicas that start at once migrate one after the other: a number of ours among those of the server's applications.
const MIGRATION_LOCK: i64 = 0x0068_6f6c_6466_6173;

const STEP_1: &str = "
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE key_stores (
    key_store_id BLOB PRIMARY KEY CHECK (length(key_store_id) = 32),
    enrolled_ms  INTEGER NOT NULL,
    -- How often other manifests were put in force or staged.
    changes      INTEGER NOT NULL
) STRICT;

-- Sequence 1 is the manifest that gave the key store its id; each further one is a successor. One that is not adopted is staged:
-- it comes into force with the version that names it. The digest is that of the manifest without its signatures.
CREATE TABLE manifests (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    sequence     INTEGER NOT NULL CHECK (sequence >= 1),
    digest       BLOB NOT NULL CHECK (length(digest) = 32),
    signed       BLOB NOT NULL,
    adopted      INTEGER NOT NULL CHECK (adopted IN (0, 1)),
    recorded_ms  INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, sequence)
) STRICT;

-- The first comes with the manifest, each further one by a signed update.
CREATE TABLE release_policies (
    key_store_id  BLOB NOT NULL REFERENCES key_stores,
    epoch         INTEGER NOT NULL CHECK (epoch >= 1),
    policy        BLOB NOT NULL,
    signed_update BLOB,
    recorded_ms   INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, epoch)
) STRICT;

CREATE TABLE release_approvals (
    key_store_id     BLOB NOT NULL REFERENCES key_stores,
    boot_id          BLOB NOT NULL CHECK (length(boot_id) = 16),
    administrator_id BLOB NOT NULL CHECK (length(administrator_id) = 32),
    signed           BLOB NOT NULL,
    expires_ms       INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, boot_id, administrator_id)
) STRICT;

-- Boots that asked for a release and wait for approvals.
CREATE TABLE release_requests (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    boot_id      BLOB NOT NULL CHECK (length(boot_id) = 16),
    module_id    TEXT NOT NULL,
    measurements BLOB NOT NULL,
    document     BLOB NOT NULL,
    first_ms     INTEGER NOT NULL,
    last_ms      INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, boot_id)
) STRICT;

CREATE TABLE nonces (
    nonce      BLOB PRIMARY KEY CHECK (length(nonce) = 32),
    expires_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX nonces_by_expiry ON nonces (expires_ms);

-- counter and used: the replay window of messages that changed something, see ReplayWindow.
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
    counter          INTEGER NOT NULL,
    used             INTEGER NOT NULL
) STRICT;
CREATE INDEX leases_of_key_store ON leases (key_store_id, expires_ms);

CREATE TABLE shares (
    key_store_id     BLOB NOT NULL REFERENCES key_stores,
    generation       INTEGER NOT NULL CHECK (generation >= 1),
    share_set_sha256 BLOB NOT NULL CHECK (length(share_set_sha256) = 32),
    share_set        BLOB NOT NULL,
    wrapped          BLOB NOT NULL,
    document         BLOB NOT NULL,
    deposited_ms     INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, generation, share_set_sha256)
) STRICT;

CREATE TABLE versions (
    key_store_id      BLOB NOT NULL REFERENCES key_stores,
    version           INTEGER NOT NULL CHECK (version >= 1),
    blob_id           BLOB NOT NULL CHECK (length(blob_id) = 32),
    generation        INTEGER NOT NULL CHECK (generation >= 1),
    share_set_sha256  BLOB NOT NULL CHECK (length(share_set_sha256) = 32),
    manifest_sequence INTEGER NOT NULL CHECK (manifest_sequence >= 1),
    manifest_sha256   BLOB NOT NULL CHECK (length(manifest_sha256) = 32),
    register          BLOB NOT NULL,
    evidence          BLOB NOT NULL,
    recorded_ms       INTEGER NOT NULL,
    boot_id           BLOB NOT NULL CHECK (length(boot_id) = 16),
    committed         INTEGER NOT NULL CHECK (committed IN (0, 1)),
    blob              BLOB NOT NULL,
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

-- They wait in the order of their places. Those that a version carried out are kept for good: the history shows who ordered
-- what.
CREATE TABLE commands (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    command_id   BLOB NOT NULL CHECK (length(command_id) = 16),
    envelope     BLOB NOT NULL,
    signers      INTEGER NOT NULL,
    place        INTEGER NOT NULL,
    received_ms  INTEGER NOT NULL,
    expires_ms   INTEGER NOT NULL,
    done         INTEGER NOT NULL DEFAULT 0 CHECK (done IN (0, 1)),
    PRIMARY KEY (key_store_id, command_id)
) STRICT;

-- The version is missing where a result came without one.
CREATE TABLE results (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    command_id   BLOB NOT NULL CHECK (length(command_id) = 16),
    version      INTEGER,
    sealed       BLOB NOT NULL,
    recorded_ms  INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, command_id)
) STRICT;

-- Which commands a version carried out; stays when results are forgotten.
CREATE TABLE version_commands (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    version      INTEGER NOT NULL,
    command_id   BLOB NOT NULL CHECK (length(command_id) = 16),
    PRIMARY KEY (key_store_id, version, command_id)
) STRICT;
CREATE INDEX versions_of_command ON version_commands (key_store_id, command_id);

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
CREATE INDEX releases_of_key_store ON releases (key_store_id, id);
CREATE INDEX releases_by_outcome ON releases (key_store_id, released, id);
";

const STEP_2: &str = "
-- How far the audit log of each boot has come. The document vouches for the key that signed the checkpoint.
CREATE TABLE audit_heads (
    key_store_id     BLOB NOT NULL REFERENCES key_stores,
    boot_id          BLOB NOT NULL CHECK (length(boot_id) = 16),
    checkpoint       BLOB NOT NULL,
    audit_public_key BLOB NOT NULL CHECK (length(audit_public_key) = 32),
    document         BLOB NOT NULL,
    received_ms      INTEGER NOT NULL,
    -- The first one that the others contradict.
    contradiction    BLOB,
    PRIMARY KEY (key_store_id, boot_id)
) STRICT;
CREATE INDEX audit_heads_by_time ON audit_heads (key_store_id, received_ms);

-- The block overlay that the enclave said last it obeys, encoded, with the moment at which that was first heard.
ALTER TABLE leases ADD COLUMN obeys BLOB;
";

const STEP_3: &str = "
-- What is debited of the budgets of keys; span 0 is an hour, 1 a day, and the number says which since 1970.
CREATE TABLE budget_counts (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    span         INTEGER NOT NULL CHECK (span IN (0, 1)),
    number       INTEGER NOT NULL,
    key_id       TEXT NOT NULL,
    counted      INTEGER NOT NULL CHECK (counted >= 0),
    PRIMARY KEY (key_store_id, span, number, key_id)
) STRICT;
";

const STEP_4: &str = "
-- Since when a key store is used, and how many requests were refused in the newest ten minutes, counted from 1970.
CREATE TABLE alarm_watches (
    key_store_id BLOB PRIMARY KEY REFERENCES key_stores,
    since_ms     INTEGER NOT NULL,
    ten_minutes  INTEGER NOT NULL,
    refused      INTEGER NOT NULL CHECK (refused >= 0)
) STRICT;

-- The newest tally of a boot that was counted. Rows that are a day old go.
CREATE TABLE alarm_tallies (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    boot_id      BLOB NOT NULL CHECK (length(boot_id) = 16),
    number       INTEGER NOT NULL,
    last_ms      INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, boot_id)
) STRICT;

-- What is remembered of a principal's use of a key; the digest is of both.
CREATE TABLE alarm_users (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    digest       BLOB NOT NULL CHECK (length(digest) = 32),
    history      BLOB NOT NULL,
    last_ms      INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, digest)
) STRICT;

-- Who was seen: 0 is a principal, 1 a service, 2 a VPC. The last time is right to a day.
CREATE TABLE alarm_seen (
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    what         INTEGER NOT NULL CHECK (what IN (0, 1, 2)),
    digest       BLOB NOT NULL CHECK (length(digest) = 32),
    first_ms     INTEGER NOT NULL,
    last_ms      INTEGER NOT NULL,
    PRIMARY KEY (key_store_id, what, digest)
) STRICT;

-- The digest is of kind, key and whom it is about, by which the same alarm is known.
CREATE TABLE alarms (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    key_store_id BLOB NOT NULL REFERENCES key_stores,
    at_ms        INTEGER NOT NULL,
    boot_id      BLOB,
    kind         INTEGER NOT NULL,
    digest       BLOB NOT NULL CHECK (length(digest) = 32),
    alarm        BLOB NOT NULL
) STRICT;
CREATE INDEX alarms_of_key_store ON alarms (key_store_id, id);
CREATE INDEX alarms_by_time ON alarms (key_store_id, at_ms);
CREATE INDEX alarms_by_digest ON alarms (key_store_id, digest, at_ms);

-- What still has to be delivered, and to whom: a row goes when the alarm arrived, or is forgotten. Whoever moves its time delivers it.
CREATE TABLE alarm_deliveries (
    alarm_id    INTEGER NOT NULL REFERENCES alarms ON DELETE CASCADE,
    destination TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    next_ms     INTEGER NOT NULL,
    -- Whether the receiver takes this one badly; others pass it.
    refused     INTEGER NOT NULL CHECK (refused IN (0, 1)),
    PRIMARY KEY (alarm_id, destination)
) STRICT;
CREATE INDEX alarm_deliveries_in_order ON alarm_deliveries (destination, refused, next_ms, alarm_id);
";

fn for_postgres(step: &str) -> String {
    POSTGRES_NAMES.iter().fold(step.to_owned(), |step, (sqlite, postgres)| step.replace(sqlite, postgres))
}

/// The steps that a database of version `found` lacks.
fn missing_steps(found: i64) -> Result<impl Iterator<Item = &'static str>, StoreError> {
    let known = known_version()?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let applied = usize::try_from(found).map_err(|_| StoreError::Damaged("schema version"))?;
    Ok(STEPS.into_iter().skip(applied))
}

fn known_version() -> Result<i64, StoreError> {
    i64::try_from(STEPS.len()).map_err(|_| StoreError::OutOfRange("schema version"))
}

pub(super) async fn migrate_sqlite(writer: &SqlitePool) -> Result<(), StoreError> {
    let known = known_version()?;
    let mut transaction = writer.begin_with("BEGIN EXCLUSIVE").await?;
    let (found,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(&mut *transaction).await?;
    for step in missing_steps(found)? {
        sqlx::raw_sql(step).execute(&mut *transaction).await?;
    }
    if found < known {
        // A pragma takes no parameters; `known` is a count of ours.
        sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {known}"))).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

pub(super) async fn migrate_postgres(pool: &PgPool) -> Result<(), StoreError> {
    let known = known_version()?;
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *transaction).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
        .execute(&mut *transaction)
        .await?;
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT version FROM schema_version").fetch_optional(&mut *transaction).await?;
    let found = row.map_or(0, |(version,)| version);
    for step in missing_steps(found)? {
        sqlx::raw_sql(sqlx::AssertSqlSafe(for_postgres(step))).execute(&mut *transaction).await?;
    }
    if found < known {
        sqlx::raw_sql("DELETE FROM schema_version").execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO schema_version (version) VALUES ($1)").bind(known).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use holdfast_shared::ids::{BootId, KeyStoreId, LeaseId};
    use sqlx::sqlite::SqliteConnectOptions;

    use super::*;
    use crate::store::{Origin, Store};

    const KEY_STORE: KeyStoreId = KeyStoreId([1; 32]);

    /// As the release before alarms left it.
    async fn version_3(file: &std::path::Path) {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        for step in [STEP_1, STEP_2, STEP_3] {
            sqlx::raw_sql(step).execute(&pool).await.unwrap();
        }
        let rows = format!(
            "INSERT INTO key_stores (key_store_id, enrolled_ms, changes) VALUES (x'{key_store}', 1, 1);
             INSERT INTO leases (lease_id, key_store_id, boot_id, module_id, audit_public_key, evidence, document, channel_keys, \
                 policy_epoch, granted_ms, expires_ms, seen_ms, counter, used) \
             VALUES (x'{lease}', x'{key_store}', x'{boot}', 'i-1-enc1', x'{key_store}', x'04', x'05', x'06', 1, 10, 99, 10, 0, 0);
             INSERT INTO settings (name, value) VALUES ('one', x'07');
             PRAGMA user_version = 3;",
            key_store = "01".repeat(32),
            lease = "07".repeat(16),
            boot = "08".repeat(16),
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(&pool).await.unwrap();
        pool.close().await;
    }

    #[tokio::test]
    async fn a_database_of_version_3_keeps_what_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("custodian.sqlite");
        version_3(&file).await;
        let store = Store::open(&file).await.unwrap();
        assert_eq!(store.key_store_ids().await.unwrap(), [KEY_STORE]);
        assert_eq!(store.setting("one", b"other").await.unwrap(), [7]);
        let lease = store.lease(LeaseId([7; 16]), 50).await.unwrap().unwrap();
        assert_eq!((lease.key_store_id, lease.boot_id), (KEY_STORE, BootId([8; 16])));
        // What came with version 4 works for it.
        let tally = holdfast_shared::alarm::Tally { at_ms: 1_000_000, ..Default::default() };
        let rules = holdfast_shared::alarm::Rules::default();
        let new = crate::store::NewTally { key_store_id: KEY_STORE, tally: &tally, rules: &rules };
        let origin = Origin { lease_id: LeaseId([7; 16]), counter: 1, now_ms: 50 };
        assert_eq!(store.tally(new, origin).await.unwrap().len(), 1, "the clock");
        assert_eq!(store.alarms(KEY_STORE, None, 9).await.unwrap()[0].boot_id, Some(BootId([8; 16])));
        store.close().await;
        assert_eq!(Store::open(&file).await.unwrap().alarms(KEY_STORE, None, 9).await.unwrap().len(), 1);
    }
}
