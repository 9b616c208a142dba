//! What other replicas change: PostgreSQL tells those who listen, once it is committed.
//!
//! Guarantees: whoever asks learns of each change after it began to listen, or learns that it may have missed some. Nothing is
//! believed of a notification but that it is worth looking into the tables. Assumes: whoever relies on it looks into the
//! tables now and then anyway.

use holdfast_shared::ids::KeyStoreId;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc;

/// Changes that wait to be looked at. Beyond them the server keeps the rest.
const WAITING: usize = 64;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something about this key store.
    Of(KeyStoreId),
    /// Nobody knows: the connection was lost for a while.
    Unknown,
}

/// The changes of other replicas, and one's own.
pub struct Changes(Option<mpsc::Receiver<Change>>);

impl Changes {
    /// Of a database that no other process changes.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// The listener has a task of its own, so that nobody who stops waiting for it drops half of a message.
    pub(super) fn of(listener: PgListener) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(pass_on(listener, sender));
        Self(Some(receiver))
    }

    /// The next change; never, where there are no other replicas. None when the server is gone: ask the store for new changes.
    pub async fn next(&mut self) -> Option<Change> {
        match &mut self.0 {
            Some(changes) => changes.recv().await,
            None => core::future::pending().await,
        }
    }
}

async fn pass_on(mut listener: PgListener, changes: mpsc::Sender<Change>) {
    loop {
        let received = tokio::select! {
            received = listener.try_recv() => received,
            () = changes.closed() => return,
        };
        let change = match received {
            Ok(Some(notification)) => notification.payload().parse().map_or(Change::Unknown, Change::Of),
            Ok(None) => Change::Unknown,
            Err(error) => {
                tracing::warn!("database: lost the connection that listens for changes: {error}");
                return;
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}
