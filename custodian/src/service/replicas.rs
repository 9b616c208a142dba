//! What other replicas on the same database do: this one learns of it.
//!
//! Guarantees: whoever waits for news is woken soon after another replica wrote some (PostgreSQL's NOTIFY), and at the latest
//! after [`POLL`], also where a notification was lost; what is in memory of leases that ended elsewhere is given up. A single
//! custodian on SQLite has nothing to learn and only tidies up.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_shared::ids::KeyStoreId;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Custodian, ServiceError};
use crate::store::{Change, Changes};

/// How often a replica looks into the tables without being told.
const POLL: Duration = Duration::from_secs(2);
/// How often leases in memory are held against those in the database.
const TIDY: Duration = Duration::from_mins(1);

impl Custodian {
    /// Keeps up with other replicas until the custodian stops or is dropped.
    pub(super) fn follow(self: &Arc<Self>) {
        let follower = Follower { custodian: Arc::downgrade(self), changes: None, is_shared: self.store.is_shared() };
        tokio::spawn(follower.run(self.stopping.subscribe()));
    }

    /// Looks at what another replica may have changed: one key store, or any.
    async fn look_again(&self, changed: Option<KeyStoreId>) -> Result<(), ServiceError> {
        let is_new = |id: &KeyStoreId| self.known_key_store(*id).is_none();
        if changed.is_none_or(|id| is_new(&id)) && self.store.key_store_ids().await?.iter().any(is_new) {
            self.load_key_stores().await.map_err(|error| ServiceError::Internal(error.to_string()))?;
        }
        match changed {
            Some(id) => self.known_key_store(id).into_iter().for_each(|key_store| key_store.wake()),
            None => self.wake_all(),
        }
        Ok(())
    }

    /// Gives up leases that ended by themselves or by order of another replica.
    async fn tidy(&self) -> Result<(), ServiceError> {
        let before: HashSet<_> = self.leases().keys().copied().collect();
        let live: HashSet<_> = self.store.live_leases(self.clock.now_ms()).await?.into_iter().collect();
        // Those that came meanwhile are not among either.
        self.leases().retain(|id, _| live.contains(id) || !before.contains(id));
        Ok(())
    }
}

/// What woke a follower.
enum Woken {
    Told(Change),
    Poll,
    Tidy,
    /// The connection that listens is gone.
    Deaf,
}

struct Follower {
    custodian: Weak<Custodian>,
    changes: Option<Changes>,
    is_shared: bool,
}

impl Follower {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut poll = tokio::time::interval_at(Instant::now() + POLL, POLL);
        let mut tidy = tokio::time::interval_at(Instant::now() + TIDY, TIDY);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.listen().await;
        loop {
            let woken = tokio::select! {
                biased;
                stopped = stopping.changed() => {
                    if stopped.is_err() || *stopping.borrow_and_update() {
                        return;
                    }
                    continue;
                }
                _ = tidy.tick() => Woken::Tidy,
                _ = poll.tick(), if self.is_shared => Woken::Poll,
                change = told(&mut self.changes) => change.map_or(Woken::Deaf, Woken::Told),
            };
            let Some(custodian) = self.custodian.upgrade() else { return };
            let done = match woken {
                Woken::Told(Change::Of(id)) => custodian.look_again(Some(id)).await,
                Woken::Told(Change::Unknown) => custodian.look_again(None).await,
                Woken::Poll => {
                    self.listen().await;
                    custodian.look_again(None).await
                }
                Woken::Tidy => custodian.tidy().await,
                Woken::Deaf => {
                    self.changes = None;
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::warn!("cannot look at what other replicas do: {error}");
            }
        }
    }

    /// Listens, if it does not yet; the next poll tries again.
    async fn listen(&mut self) {
        if !self.is_shared || self.changes.is_some() {
            return;
        }
        let Some(custodian) = self.custodian.upgrade() else { return };
        match custodian.store.changes().await {
            Ok(changes) => self.changes = Some(changes),
            Err(error) => tracing::warn!("cannot listen to other replicas: {error}"),
        }
    }
}

/// The next change; none comes where nobody listens.
async fn told(changes: &mut Option<Changes>) -> Option<Change> {
    match changes {
        Some(changes) => changes.next().await,
        None => core::future::pending().await,
    }
}
