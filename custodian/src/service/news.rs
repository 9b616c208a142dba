//! Watching: an enclave waits for news, and renews its lease.
//!
//! Guarantees: news that is on disk when the request comes, or comes while it is held, is answered at once; without news the
//! answer comes after [`limits::WATCH_HOLD_MS`]. A version that is not committed is no news for [`limits::COMMIT_WAIT_MS`]: whoever
//! made it commits it meanwhile; but the successor manifest that it names is, since whoever finishes the work needs it. An enclave that
//! the policy in force accepts no longer hears that at once. A renewal is answered at once, and only after the evidence of the release
//! was judged under the policy in force now. Which block overlay an enclave obeys is on disk before it is answered.

use core::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use holdfast_shared::channel::{Reply, Seen};
use holdfast_shared::limits;
use minicbor::bytes::ByteVec;
use tokio::time::Instant;

use super::lease::Lease;
use super::membership::KeyStore;
use super::{Custodian, ServiceError, carried_through};
use crate::store::{News, Origin};

impl Custodian {
    pub(super) async fn watch(
        self: &Arc<Self>,
        lease: &Arc<Lease>,
        seen: &Seen,
        renew: bool,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        self.note_obeyed(lease, seen.obeys).await?;
        // Subscribed first: what is written after this wakes us, what was written before is read below.
        let mut changes = lease.key_store.news.subscribe();
        let mut stopping = self.stopping.subscribe();
        let lease_ms = if renew {
            let (custodian, held) = (Arc::clone(self), Arc::clone(lease));
            match carried_through(async move { custodian.renew(&held, origin).await }).await? {
                Ok(lease_ms) => Some(lease_ms),
                Err(reason) => return self.end(lease, reason).await,
            }
        } else {
            None
        };
        let deadline = Instant::now() + Duration::from_millis(limits::WATCH_HOLD_MS);
        loop {
            changes.borrow_and_update();
            // Whom a new policy does not accept hears it at once, not at its next renewal.
            if let Err(reason) = self.still_accepted(lease).await? {
                return self.end(lease, reason).await;
            }
            let news = self.store.news(lease.key_store.id(), seen, self.clock.now_ms()).await?;
            let successors = self.unseen_successors(&lease.key_store, seen).await?;
            let due = Instant::now() >= deadline || *stopping.borrow_and_update();
            if lease_ms.is_some() || due || !news.is_empty() || !successors.is_empty() {
                return Ok(reply(lease_ms, news, successors, self.enclaves_of(&lease.key_store).await?));
            }
            let look_again = Instant::now() + Duration::from_millis(news.held_back_ms.unwrap_or(limits::WATCH_HOLD_MS));
            tokio::select! {
                _ = changes.changed() => {}
                _ = stopping.changed() => {}
                () = tokio::time::sleep_until(deadline.min(look_again)) => {}
            }
            self.check_live(lease.id).await?;
        }
    }

    /// All successors of the first manifest, if there are more than were seen.
    async fn unseen_successors(
        self: &Arc<Self>,
        key_store: &KeyStore,
        seen: &Seen,
    ) -> Result<Vec<ByteVec>, ServiceError> {
        let membership = self.membership(key_store).await?;
        if membership.coming().sequence() <= seen.manifest_sequence {
            return Ok(Vec::new());
        }
        Ok(membership.successors().map(|signed| signed.to_vec().into()).collect())
    }

    /// Why an enclave is accepted no more, if so.
    async fn still_accepted(self: &Arc<Self>, lease: &Lease) -> Result<Result<(), &'static str>, ServiceError> {
        let policy = self.policy(&lease.key_store).await?;
        Ok(lease.evidence.satisfies(&policy, &self.roots, self.clock.now_ms()))
    }

    /// Extends a lease: its new duration, or why the policy in force no longer accepts the enclave.
    async fn renew(self: &Arc<Self>, lease: &Lease, origin: Origin) -> Result<Result<u64, &'static str>, ServiceError> {
        let membership = self.membership(&lease.key_store).await?;
        let is_removed = membership.places().all(|place| place.index.is_none());
        if is_removed && self.store.shares(lease.key_store.id()).await?.is_empty() {
            return Ok(Err("this custodian was removed from the key store's manifest"));
        }
        let policy = self.policy(&lease.key_store).await?;
        if let Err(reason) = lease.evidence.satisfies(&policy, &self.roots, origin.now_ms) {
            return Ok(Err(reason));
        }
        let expires_ms = origin.now_ms.saturating_add(policy.lease_ms);
        self.store.renew(lease.key_store.id(), origin, expires_ms).await?;
        Ok(Ok(policy.lease_ms))
    }
}

fn reply(lease_ms: Option<u64>, news: News, successors: Vec<ByteVec>, enclaves: NonZeroU32) -> Reply {
    let commands = news.commands.into_iter().map(ByteVec::from).collect();
    Reply::News {
        lease_ms,
        overlay: news.overlay,
        register: news.register.map(super::versions::held),
        commands,
        enclaves,
        successors,
    }
}
