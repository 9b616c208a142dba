//! What the custodian remembers, in a database.
//!
//! Guarantees: every change is one transaction, on disk before the function returns; changes to one key store are applied one
//! after the other, whichever replica makes them. Every query of the custodian is in this module and below, written once for
//! both kinds of database, and no type of the database shows outside. Assumes: secrets come wrapped. Refuses: a database of a
//! newer version, and a PostgreSQL server that could lose what it acknowledged.

mod alarms;
mod audit;
mod budgets;
mod changes;
mod commands;
mod database;
mod deliveries;
mod group;
mod leases;
mod manifests;
mod overlays;
mod policies;
mod records;
mod schema;
mod settings;
mod shares;
mod tallies;
mod versions;
mod window;

use std::path::{Path, PathBuf};

use holdfast_shared::ids::{CustodianId, KeyStoreId, LeaseId};
use tokio::sync::{Semaphore, watch};

pub use alarms::NewAlarm;
use audit::Witnesses;
pub use audit::{NewAuditHead, StoredAuditHead, Witnessed};
pub use budgets::{Debited, NewDebit, StoredCount};
pub use changes::{Change, Changes};
pub use commands::{Merged, Queued, StoredCommand};
pub use deliveries::WaitingDelivery;
pub use leases::{Granted, LeaseHolder, LeaseTimes, NewLease, StoredLease};
pub use manifests::{
    JudgedOrders, ManifestMark, Replaced, Replacement, Staged, StoredKeyStore, StoredManifest, Successors,
};
pub use overlays::{JudgedBy, News, StoredOverlay};
pub use policies::{Approved, NewApproval, StoredPolicy, WaitingRelease};
pub use records::{ReleaseRecord, StoredRecord};
pub use shares::{Deposited, NewShare, Retired, StoredShare};
pub use tallies::NewTally;
pub use versions::{Committed, Copied, HistoryEntry, NewVersion, Published, StoredBlob, StoredRegister, Version};
pub use window::{ReplayWindow, Replayed};

use crate::config::Config;
use crate::state::{StateDirectory, StateError};
use database::{Database, PostgresDatabase, SqliteDatabase};

/// Name of the setting that holds the id of the custodian whose tables these are.
const OWNER: &str = "custodian";

/// Why the database did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database itself.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The file with the tables.
    #[error(
        "database: {}: {source}; it must be this custodian's, and writable: if it is lost or damaged, bring a backup back \
         (docs/custodian-database.md)",
        file.display()
    )]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// No connection to the server.
    #[error(
        "database: cannot connect to PostgreSQL at {place}: {source}; is it running, and do database.host and database.port name it?"
    )]
    Connect {
        /// Where.
        place: String,
        /// Why.
        source: sqlx::Error,
    },
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
    /// A message on behalf of a lease that ended meanwhile. Nothing was changed.
    #[error("this lease has ended; ask for a new release")]
    LeaseEnded,
    /// A message whose counter was used, here or at another replica. Nothing was changed.
    #[error(transparent)]
    Replayed(#[from] Replayed),
    /// A private file that it takes to reach the database.
    #[error("[database]: {0}")]
    File(#[from] StateError),
    /// Another custodian's tables.
    #[error(
        "database: belongs to another custodian already; for a further replica of that one copy its state directory instead of \
         making a new one"
    )]
    InUse,
    /// Only a file can be copied by this program.
    #[error("database: is a PostgreSQL server; back it up with its own tools (docs/custodian-database.md)")]
    NotAFile,
}

/// A PostgreSQL server, as the configuration names it.
#[derive(Clone)]
pub struct PostgresServer {
    /// Its name, or the directory of its Unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database's name.
    pub name: String,
    /// The role.
    pub user: String,
    /// The role's password.
    pub password: Option<zeroize::Zeroizing<String>>,
    /// None for a Unix socket.
    pub tls: Option<PostgresTls>,
}

impl core::fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PostgresServer({}@{}:{}/{})", self.user, self.host, self.port, self.name)
    }
}

/// How a PostgreSQL server is known under TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresTls {
    /// PEM file of roots, one of which its certificate must stand under.
    pub roots: PathBuf,
    /// PEM files of the custodian's own certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// On account of which message something changes.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The lease.
    pub lease_id: LeaseId,
    /// The message's counter.
    pub counter: u64,
    /// The time.
    pub now_ms: u64,
}

/// The database. Cheap to use from many tasks.
#[derive(Debug)]
pub struct Store {
    database: Database,
    witnesses: Witnesses,
    /// Those that no group could keep.
    witnesses_alone: Semaphore,
    /// To whom alarms are delivered.
    destinations: Vec<String>,
    alarms_recorded: watch::Sender<()>,
}

impl Store {
    fn of(database: Database) -> Self {
        Self {
            database,
            witnesses: audit::witnesses(),
            witnesses_alone: Semaphore::new(audit::ALONE),
            destinations: Vec::new(),
            alarms_recorded: watch::Sender::new(()),
        }
    }

    /// Makes the database file if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create(file: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(Database::Sqlite(SqliteDatabase::connect(file, true).await?)))
    }

    /// Opens the database file, which must exist, and brings it to the current version.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(Database::Sqlite(SqliteDatabase::connect(file, false).await?)))
    }

    /// Connects to a server and brings the database, which may be empty, to the current version.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn connect(server: &PostgresServer) -> Result<Self, StoreError> {
        Ok(Self::of(Database::Postgres(PostgresDatabase::connect(server).await?)))
    }

    /// Opens the tables that a configuration names, which must exist: in its state directory's file, or on a server.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn configured(config: &Config, state: &StateDirectory) -> Result<Self, StoreError> {
        let store = match &config.database {
            Some(database) => Self::connect(&database.server()?).await?,
            None => Self::open(&state.database()).await?,
        };
        Ok(store.delivering_to(config.alarms.destinations()))
    }

    /// Whether other replicas can change it.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.database.is_shared()
    }

    /// Whether no custodian has used it: the first thing that one keeps is a setting.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        let (settings,): (i64,) = self.database.read().await?.fetch_one("SELECT count(*) FROM settings", &[]).await?;
        Ok(settings == 0 && self.key_store_ids().await?.is_empty())
    }

    /// Makes the tables this custodian's, or sees that they are.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when they are another custodian's.
    pub async fn claim(&self, id: CustodianId) -> Result<(), StoreError> {
        let owner = self.setting(OWNER, id.as_bytes()).await?;
        if owner == id.as_bytes() { Ok(()) } else { Err(StoreError::InUse) }
    }

    /// The ids of all key stores.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_store_ids(&self) -> Result<Vec<KeyStoreId>, StoreError> {
        let rows: Vec<(Vec<u8>,)> =
            self.database.read().await?.fetch_all("SELECT key_store_id FROM key_stores", &[]).await?;
        rows.into_iter().map(|(id,)| Ok(KeyStoreId(array(&id, "key store id")?))).collect()
    }

    /// What other replicas change from now on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn changes(&self) -> Result<Changes, StoreError> {
        self.database.changes().await
    }

    /// Writes a copy of the database, as it is at one moment, to a file that must not exist or be empty.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        self.database.back_up(to).await
    }

    /// Waits for running statements and closes the connections.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

fn to_integer(value: u64, what: &'static str) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::OutOfRange(what))
}

fn from_integer(value: i64, what: &'static str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Damaged(what))
}

fn generation_from(value: i64) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| StoreError::Damaged("generation"))
}

fn sequence_from(value: i64) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| StoreError::Damaged("manifest's sequence"))
}

fn array<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Damaged(what))
}

fn to_bytes<const N: usize>(id: Option<&[u8; N]>) -> Option<&[u8]> {
    id.map(<[u8; N]>::as_slice)
}
