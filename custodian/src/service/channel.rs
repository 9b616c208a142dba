//! The sealed channel: one message in, one message out, under the keys of a lease.
//!
//! Guarantees: a message is acted on only if it opens under its lease and its counter was not used; what changed something
//! changes nothing again, after a restart or at another replica. A refusal of what an authentic message asks travels sealed; refusals
//! before that travel open, and an enclave must not believe more of them than that it got no answer.

use core::pin::Pin;
use std::sync::Arc;

use holdfast_shared::cbor;
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply};
use holdfast_shared::limits;

use super::budgets::Debit;
use super::copies::Copy;
use super::lease::Lease;
use super::versions::Offer;
use super::{Custodian, ServiceError, carried_through};
use crate::store::{Origin, StoreError};

/// Work for an enclave that changes something.
type Change = Pin<Box<dyn Future<Output = Result<Reply, ServiceError>> + Send>>;

impl Custodian {
    /// `channel`: a message of an enclave that holds a lease.
    ///
    /// # Errors
    /// [`ServiceError`]: no such lease, or a message that does not open or was used.
    pub async fn channel(self: &Arc<Self>, body: &[u8]) -> Result<Vec<u8>, ServiceError> {
        let message: ChannelMessage = cbor::decode(body)?;
        let lease = self.lease(message.lease_id).await?;
        let now_ms = self.clock.now_ms();
        let counter = message.counter;
        let ask = self.open_ask(&lease, message).await?;
        lease.state().counters.accept(counter).map_err(StoreError::from)?;
        // Whoever tells how far its log is, each second, watches as well, and is noted then.
        if !matches!(ask, Ask::Witness { .. }) {
            self.note_seen(&lease, now_ms).await?;
        }
        let origin = Origin { lease_id: lease.id, counter, now_ms };
        let reply = self.answer(&lease, ask, origin).await?;
        let sealed = channel::seal(&reply, Direction::Reply, &lease.keys.reply, lease.id, counter, &self.rng);
        sealed.map_err(|error| ServiceError::Internal(error.to_string()))
    }

    async fn open_ask(self: &Arc<Self>, lease: &Arc<Lease>, message: ChannelMessage) -> Result<Ask, ServiceError> {
        let denied = |error: channel::ChannelError| ServiceError::Denied(error.to_string());
        if message.ciphertext.len() <= limits::CUSTODIAN_SMALL_BODY_MAX {
            return channel::open(&message, Direction::Ask, &lease.keys.ask).map_err(denied);
        }
        let lease = Arc::clone(lease);
        self.blocking(move |_| channel::open(&message, Direction::Ask, &lease.keys.ask)).await?.map_err(denied)
    }

    async fn answer(self: &Arc<Self>, lease: &Arc<Lease>, ask: Ask, origin: Origin) -> Result<Reply, ServiceError> {
        let (custodian, held) = (Arc::clone(self), Arc::clone(lease));
        let change: Change = match ask {
            Ask::Watch { seen, renew } => return Box::pin(self.watch(lease, &seen, renew, origin)).await,
            Ask::Fetch { blob_id } => return self.fetch(lease, blob_id).await,
            Ask::Report { results } => {
                return carried_through(Box::pin(async move { custodian.report(&held, results, origin).await })).await;
            }
            Ask::Deposit { set, share } => Box::pin(async move { custodian.deposit(&held, set, share, origin).await }),
            Ask::Publish { version, previous, blob, results, evidence } => {
                let offer = Offer { version, previous, blob, evidence };
                Box::pin(async move { custodian.publish(&held, offer, &results, origin).await })
            }
            Ask::Copy { register, blob, evidence } => {
                let copy = Copy { register, blob, evidence };
                Box::pin(async move { custodian.copy(&held, copy, origin).await })
            }
            Ask::Commit { version, blob_id } => {
                Box::pin(async move { custodian.commit(&held, version, blob_id, origin).await })
            }
            // What an enclave did is kept even where the policy does not accept it any more.
            Ask::Witness { checkpoint } => {
                return carried_through(Box::pin(async move { custodian.witness(&held, checkpoint).await })).await;
            }
            Ask::Debit { key, window, limit, want } => {
                let debit = Debit { key, window, limit, want };
                Box::pin(async move { custodian.debit(&held, debit, origin).await })
            }
            Ask::Tally(tally) => Box::pin(async move { custodian.tally(&held, &tally, origin).await }),
            Ask::Retire { generation } => Box::pin(async move { custodian.retire(&held, generation, origin).await }),
        };
        self.change(lease, change).await
    }

    /// Lets an enclave change something only if the policy in force still accepts it.
    async fn change(&self, lease: &Lease, change: Change) -> Result<Reply, ServiceError> {
        let policy = self.policy(&lease.key_store).await?;
        if let Err(reason) = lease.evidence.satisfies(&policy, &self.roots, self.clock.now_ms()) {
            return self.end(lease, reason).await;
        }
        carried_through(change).await
    }

    /// Ends a lease whose enclave the policy in force does not accept.
    pub(super) async fn end(&self, lease: &Lease, reason: &str) -> Result<Reply, ServiceError> {
        self.store.end_lease(lease.id, &self.lease_ended(lease, reason)).await?;
        lease.key_store.wake();
        self.leases().remove(&lease.id);
        tracing::warn!(key_store_id = %lease.key_store.id(), lease_id = %lease.id, boot_id = %lease.boot_id,
            "ended a lease: {reason}");
        Ok(Reply::Refused { reason: reason.to_owned(), lease_ended: true })
    }
}

/// Understood and not granted; the lease goes on.
pub(super) fn refused(lease: &Lease, reason: impl Into<String>) -> Reply {
    let reason = reason.into();
    tracing::warn!(key_store_id = %lease.key_store.id(), lease_id = %lease.id, "refused on the channel: {reason}");
    Reply::Refused { reason, lease_ended: false }
}
