//! PostgreSQL: one server, several replicas of a custodian.
//!
//! Guarantees: every connection goes to a server that writes, and that has a commit on disk before it says so
//! (`synchronous_commit`, `fsync` and `full_page_writes` are on); over TCP it is under TLS, with the server's certificate and name
//! verified. A transaction that writes to a key store locks the key store's row first and then reads what is committed, so
//! that two of them come one after the other. A replica that hangs within a transaction is thrown out of it. Assumes: what
//! the server has on disk stays there when another server takes its place (docs/custodian-database.md).

use std::time::Duration;

use holdfast_shared::ids::KeyStoreId;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, Postgres};

use super::Lock;
use crate::store::{Changes, PostgresServer, StoreError, schema};

super::binders!(PostgresQuery, PostgresQueryAs);

/// Connections of one replica: what reads and writes at once, and one that listens.
const CONNECTIONS: u32 = 10;
/// How long a request waits for a connection: as long as the server is gone, requests fail after this.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// What the server must obey on each connection of ours, in milliseconds. A statement of ours takes milliseconds; a transaction
/// that waits for its client, because that hangs or its wire is cut, keeps the others of its key store waiting.
const SESSION: [(&str, &str); 5] = [
    ("statement_timeout", "10000"),
    ("lock_timeout", "10000"),
    ("idle_in_transaction_session_timeout", "10000"),
    ("tcp_user_timeout", "10000"),
    ("default_transaction_isolation", "read committed"),
];
/// The channel on which replicas wake each other.
const CHANNEL: &str = "holdfast_custodian";

#[derive(Debug)]
pub(in crate::store) struct PostgresDatabase {
    pub(super) pool: PgPool,
    listen: Box<PgConnectOptions>,
}

impl PostgresDatabase {
    pub(in crate::store) async fn connect(server: &PostgresServer) -> Result<Self, StoreError> {
        let options = options(server);
        // By itself first: a pool tries again and again what will not get better, and says only that it took too long.
        let mut connection = options.connect().await.map_err(|error| match error {
            sqlx::Error::Io(_) => {
                StoreError::Connect { place: format!("{}:{}", server.host, server.port), source: error }
            }
            error => error.into(),
        })?;
        check_durability(&mut connection).await?;
        connection.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| Box::pin(check_durability(connection)))
            .connect_with(options.clone())
            .await?;
        schema::migrate_postgres(&pool).await?;
        Ok(Self { pool, listen: Box::new(options) })
    }

    pub(super) async fn begin(&self, lock: Lock) -> Result<sqlx::Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        if let Lock::KeyStore(id) = lock {
            lock_row(&mut transaction, id).await?;
        }
        Ok(transaction)
    }

    pub(super) async fn changes(&self) -> Result<Changes, StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(self.listen.as_ref().clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Changes::of(listener))
    }
}

/// Each later statement sees what was committed before it began, hence all that the lock's last holder did.
async fn lock_row(connection: &mut PgConnection, key_store_id: KeyStoreId) -> Result<(), StoreError> {
    sqlx::query("SELECT 1 FROM key_stores WHERE key_store_id = $1 FOR NO KEY UPDATE")
        .bind(key_store_id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    Ok(())
}

fn options(server: &PostgresServer) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&server.host)
        .port(server.port)
        .database(&server.name)
        .username(&server.user)
        .application_name("holdfast-custodian")
        .options(SESSION)
        .disable_statement_logging();
    if let Some(password) = &server.password {
        options = options.password(password);
    }
    match &server.tls {
        Some(tls) => {
            options = options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(&tls.roots);
            if let Some((certificate, key)) = &tls.client {
                options = options.ssl_client_cert(certificate).ssl_client_key(key);
            }
            options
        }
        // A Unix socket: the configuration allows nothing else without TLS.
        None => options.ssl_mode(PgSslMode::Disable),
    }
}

/// Refuses a server that would acknowledge what it can lose, and one that only reads.
async fn check_durability(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for (setting, accepted) in
        [("synchronous_commit", ["on", "remote_apply"]), ("fsync", ["on", "on"]), ("full_page_writes", ["on", "on"])]
    {
        let (value,): (String,) =
            sqlx::query_as("SELECT current_setting($1)").bind(setting).fetch_one(&mut *connection).await?;
        if !accepted.contains(&value.as_str()) {
            return Err(refusal(format!(
                "the server has {setting} = {value}: it could lose what it acknowledged; set it to on"
            )));
        }
    }
    let (standby,): (bool,) = sqlx::query_as("SELECT pg_is_in_recovery()").fetch_one(&mut *connection).await?;
    if standby {
        return Err(refusal("the server is a standby, which only reads; name the primary".to_owned()));
    }
    Ok(())
}

fn refusal(text: String) -> sqlx::Error {
    sqlx::Error::Configuration(text.into())
}

pub(super) async fn notify(connection: &mut PgConnection, key_store_id: KeyStoreId) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(key_store_id.to_string()).execute(connection).await?;
    Ok(())
}
