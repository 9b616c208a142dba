//! A lease's sealed channel, seen from the enclave.
//!
//! Guarantees: every request has a counter of its own; an answer counts only if it opens under the lease's reply key for
//! that very counter and comes in time ([`super::lease`]). So the parent, which carries the bytes, can delay and drop and
//! nothing else.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Connect, CustodianClient};
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply};
use holdfast_shared::ids::LeaseId;
use holdfast_shared::limits::{
    BLOCK_OVERLAY_MAX, CHANNEL_MESSAGE_MAX, COMMAND_MAX, MANIFEST_CHAIN_MAX, MANIFEST_MAX, PENDING_COMMANDS_MAX,
    SIGNATURES_MAX, WATCH_HOLD_MS,
};
use holdfast_shared::release::ChannelKeys;
use holdfast_shared::{api, cbor};
use ring::rand::SystemRandom;

use super::CustodyError;
use super::lease::{Answered, Sent};
use crate::clock::Clock;

/// How long an answer may take that the custodian does not hold back on purpose.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an answer to a watch: a block overlay, all manifests of a chain, all commands with their signatures, and slack.
const NEWS_MAX: usize = BLOCK_OVERLAY_MAX
    + MANIFEST_CHAIN_MAX * MANIFEST_MAX
    + PENDING_COMMANDS_MAX * (COMMAND_MAX + SIGNATURES_MAX * 150)
    + 64 * 1024;
/// Bytes of an answer that holds no more than a register entry, or a reason.
const SHORT_MAX: usize = 64 * 1024;

/// A lease's channel.
pub(crate) struct Session<C> {
    client: Arc<CustodianClient<C>>,
    clock: Arc<dyn Clock>,
    lease_id: LeaseId,
    keys: ChannelKeys,
    counter: AtomicU64,
}

impl<C: Connect> Session<C> {
    pub(crate) fn new(
        client: Arc<CustodianClient<C>>,
        clock: Arc<dyn Clock>,
        lease_id: LeaseId,
        keys: ChannelKeys,
    ) -> Self {
        Self { client, clock, lease_id, keys, counter: AtomicU64::new(0) }
    }

    /// Asks, and returns the custodian's reply with the proof that it came in time. A reply that ends the lease is an error.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<(Reply, Answered), CustodyError> {
        let counter = self.counter.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let rng = SystemRandom::new();
        let body = channel::seal(ask, Direction::Ask, &self.keys.ask, self.lease_id, counter, &rng)?;
        let timeout = match ask {
            Ask::Watch { renew: false, .. } => ANSWER_TIMEOUT + Duration::from_millis(WATCH_HOLD_MS),
            _ => ANSWER_TIMEOUT,
        };
        // A key store of many custodians has many answers under way.
        let answer_max = match ask {
            Ask::Fetch { .. } => CHANNEL_MESSAGE_MAX,
            Ask::Watch { .. } => NEWS_MAX,
            _ => SHORT_MAX,
        };
        let sent = Sent::at(self.clock.monotonic_ms());
        let answer = self.client.post(api::CHANNEL, body, answer_max, timeout).await?;
        let answered = sent.answered(self.clock.monotonic_ms())?;
        let message: ChannelMessage = cbor::decode(&answer)?;
        if message.lease_id != self.lease_id || message.counter != counter {
            return Err(CustodyError::OtherAnswer);
        }
        match channel::open(&message, Direction::Reply, &self.keys.reply)? {
            // Whatever was asked: the lease is over.
            Reply::Refused { reason, lease_ended: true } => Err(CustodyError::LeaseEnded(reason)),
            reply => Ok((reply, answered)),
        }
    }
}
