//! What other replicas change: PostgreSQL tells those who listen, once it is committed.
//!
//! Guarantees: whoever asks learns of each change after it began to listen, or learns that it may have missed some. Nothing is
//! believed of a notification but that it is worth looking into the tables. Assumes: whoever relies on it looks into the
//! tables now and then anyway.

use holdfast_shared::ids::KeyStoreId;
use sqlx::postgres::PgListener;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something about this key store.
    Of(KeyStoreId),
    /// Nobody knows: the connection was lost for a while.
    Unknown,
}

/// The changes of other replicas, and one's own.
pub struct Changes(Option<PgListener>);

impl Changes {
    /// Of a database that no other process changes.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    pub(super) const fn of(listener: PgListener) -> Self {
        Self(Some(listener))
    }

    /// The next change; never, where there are no other replicas. None when the server is gone and cannot be reached again: ask
    /// the store for new changes later.
    pub async fn next(&mut self) -> Option<Change> {
        let Some(listener) = &mut self.0 else { return core::future::pending().await };
        match listener.try_recv().await {
            Ok(Some(notification)) => Some(notification.payload().parse().map_or(Change::Unknown, Change::Of)),
            Ok(None) => Some(Change::Unknown),
            Err(error) => {
                tracing::warn!("database: lost the connection that listens for changes: {error}");
                None
            }
        }
    }
}
