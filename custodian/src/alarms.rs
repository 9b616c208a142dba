//! Delivery of alarms to webhooks and syslog receivers.
//!
//! ```text
//! tally, debit, end of a lease ─▶ alarm and deliveries in the tables ─▶ one courier for each receiver ─▶ webhook | syslog
//! ```
//! Guarantees: each receiver gets each alarm at least once, oldest first, over restarts and with several replicas; a receiver that is slow
//! or gone delays itself alone, and nothing else of the custodian. A webhook that refuses one alarm as such gets later ones before it.
//! Assumes: a message of syslog that was sent arrived: over UDP and Unix sockets nobody says more. Refuses: redirects. The log names
//! receivers, never whom an alarm is about.

mod message;
mod syslog;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::config::Config;
use crate::state::StateError;
use crate::store::{Store, StoreError, WaitingDelivery};
use message::Message;
use syslog::Syslog;
use webhook::Webhook;

/// Time for one delivery.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long a replica has an alarm for itself: longer than it tries, by what its clock and the database may take.
const CLAIM_MS: u64 = 30_000;
/// How often a courier looks without being woken: another replica recorded something, or stopped in the middle.
const POLL: Duration = Duration::from_secs(30);
/// Pause after the first failure; each further one is twice as long.
const PAUSE_MS: u64 = 1_000;
/// The longest pause.
const PAUSE_MAX_MS: u64 = 5 * 60_000;

/// Why a receiver cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// What it takes to connect.
    #[error("alarms.webhook: {what}; {remedy}")]
    Endpoint {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The file that signs bodies.
    #[error("alarms.webhook.secret_file: {0}")]
    File(#[from] StateError),
    /// A secret that could be guessed.
    #[error("alarms.webhook.secret_file: {}: has fewer than 16 bytes; make one with: openssl rand -hex 32", file.display())]
    Secret {
        /// The file.
        file: PathBuf,
    },
    /// No roots to verify a webhook by.
    #[error("alarms.webhook: the operating system has no file of roots that is known here; name one by `roots`")]
    NoRoots,
}

/// Why an alarm did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The receiver, or what is between: others would not arrive either.
    #[error("{0}")]
    Failed(String),
    /// The receiver does not take this one.
    #[error("{0}")]
    Refused(String),
}

/// A place that takes alarms.
enum Channel {
    Webhook(Box<Webhook>),
    Syslog(Syslog),
}

struct Receiver {
    name: String,
    channel: Channel,
}

impl Receiver {
    async fn send(&self, message: &Message) -> Result<(), DeliveryError> {
        let sent = async {
            match &self.channel {
                Channel::Webhook(webhook) => webhook.send(message).await,
                Channel::Syslog(syslog) => syslog.send(message).await,
            }
        };
        tokio::time::timeout(TIME_LIMIT, sent)
            .await
            .unwrap_or_else(|_| Err(DeliveryError::Failed(format!("took longer than {} s", TIME_LIMIT.as_secs()))))
    }
}

/// All places that take alarms.
pub struct Receivers {
    custodian: String,
    receivers: Vec<Receiver>,
}

impl Receivers {
    /// Reads the files that the configuration names. Nothing is connected.
    ///
    /// # Errors
    /// [`ReceiverError`].
    pub fn open(config: &Config) -> Result<Self, ReceiverError> {
        let mut receivers = Vec::new();
        for webhook in &config.alarms.webhooks {
            let channel = Channel::Webhook(Box::new(Webhook::open(webhook)?));
            receivers.push(Receiver { name: webhook.name.clone(), channel });
        }
        let host = config.address.rsplit_once(':').map_or("-", |(host, _)| host);
        for syslog in &config.alarms.syslog {
            let channel = Channel::Syslog(Syslog::new(syslog, host));
            receivers.push(Receiver { name: syslog.name.clone(), channel });
        }
        Ok(Self { custodian: config.name.clone(), receivers })
    }

    /// Delivers what is waiting in the tables, and what comes. It ends when it is dropped.
    pub async fn deliver(self, store: Arc<Store>, clock: Arc<dyn Clock>) {
        match store.deliveries_left_over().await {
            Ok(0) => {}
            Ok(deliveries) => tracing::warn!(
                deliveries,
                "alarms wait for receivers that the configuration does not name any more; they get them when they are named again"
            ),
            Err(error) => tracing::warn!("cannot look for alarms that nobody waits for: {error}"),
        }
        let mut couriers = JoinSet::new();
        for receiver in self.receivers {
            tracing::info!(receiver = receiver.name, "alarms are delivered");
            let courier = Courier {
                receiver,
                custodian: self.custodian.clone(),
                recorded: store.alarms_recorded(),
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                is_failing: false,
            };
            couriers.spawn(courier.run());
        }
        while couriers.join_next().await.is_some() {}
    }

    /// Sends something to each that says that it is a test, and says what came of it.
    pub async fn test(&self, now_ms: u64) -> Vec<(&str, Result<(), DeliveryError>)> {
        let message = Message::test(&self.custodian, now_ms);
        let mut results = Vec::with_capacity(self.receivers.len());
        for receiver in &self.receivers {
            results.push((receiver.name.as_str(), receiver.send(&message).await));
        }
        results
    }
}

/// Whether to look again.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    AtOnce,
    In(Duration),
}

/// Brings alarms to one receiver.
struct Courier {
    receiver: Receiver,
    custodian: String,
    recorded: watch::Receiver<()>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    /// Whether the last attempt failed: said once.
    is_failing: bool,
}

impl Courier {
    async fn run(mut self) {
        let mut is_store_failing = false;
        loop {
            self.recorded.borrow_and_update();
            let next = self.step().await;
            if let Err(error) = &next
                && !is_store_failing
            {
                tracing::warn!(receiver = self.receiver.name, "cannot look for alarms to deliver: {error}");
            }
            is_store_failing = next.is_err();
            let pause = match next {
                Ok(Next::AtOnce) => continue,
                Ok(Next::In(pause)) => pause,
                Err(_) => POLL,
            };
            tokio::select! {
                // The store that records is ours as well: this does not fail.
                _ = self.recorded.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Delivers what comes next, if it is due.
    async fn step(&mut self) -> Result<Next, StoreError> {
        let Some(waiting) = self.store.next_delivery(&self.receiver.name).await? else { return Ok(Next::In(POLL)) };
        let now_ms = self.clock.now_ms();
        if let Some(pause) = pause_until(waiting.next_ms, now_ms) {
            return Ok(Next::In(pause));
        }
        if !self.store.claim_delivery(&waiting, now_ms.saturating_add(CLAIM_MS)).await? {
            // Another replica has it: the next look says until when.
            return Ok(Next::AtOnce);
        }
        let sent = self.receiver.send(&Message::of(&waiting, &self.custodian)).await;
        match sent {
            Ok(()) => self.arrived(&waiting).await?,
            Err(error) => self.failed(&waiting, &error).await?,
        }
        Ok(Next::AtOnce)
    }

    async fn arrived(&mut self, waiting: &WaitingDelivery) -> Result<(), StoreError> {
        if self.is_failing {
            self.is_failing = false;
            tracing::info!(receiver = self.receiver.name, "alarms are delivered again");
        }
        self.store.finish_delivery(waiting).await
    }

    async fn failed(&mut self, waiting: &WaitingDelivery, error: &DeliveryError) -> Result<(), StoreError> {
        let receiver = &self.receiver.name;
        let (pause_ms, is_refused) = match error {
            DeliveryError::Failed(_) => {
                if !self.is_failing {
                    self.is_failing = true;
                    tracing::warn!(receiver, "cannot deliver alarms: {error}; trying again and again");
                }
                (pause_after(waiting.attempts), false)
            }
            DeliveryError::Refused(_) => {
                if waiting.attempts == 0 {
                    tracing::warn!(receiver, alarm = waiting.id, "an alarm is not taken: {error}; trying again later");
                }
                (PAUSE_MAX_MS, true)
            }
        };
        let next_ms = self.clock.now_ms().saturating_add(pause_ms);
        self.store.put_off_delivery(waiting, next_ms, is_refused).await
    }
}

/// The pause after so many failures before this one, in milliseconds.
fn pause_after(attempts: u32) -> u64 {
    PAUSE_MS.checked_shl(attempts).filter(|_| attempts < 16).unwrap_or(PAUSE_MAX_MS).min(PAUSE_MAX_MS)
}

/// How long to wait for `next_ms`, if at all. What a clock wrote that was far ahead is due.
fn pause_until(next_ms: u64, now_ms: u64) -> Option<Duration> {
    let left_ms = next_ms.saturating_sub(now_ms);
    (1..=PAUSE_MAX_MS.max(CLAIM_MS)).contains(&left_ms).then(|| Duration::from_millis(left_ms).min(POLL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_a_second_to_five_minutes() {
        let pauses = [0, 1, 2, 8, 9, 15, 16, 64, u32::MAX].map(pause_after);
        assert_eq!(pauses, [1_000, 2_000, 4_000, 256_000, 300_000, 300_000, 300_000, 300_000, 300_000]);
    }

    #[test]
    fn what_is_due_is_not_waited_for() {
        for (next_ms, now_ms, expected_ms) in [
            (0, 1_000_000, None),
            (1_000_000, 1_000_000, None),
            (1_000_001, 1_000_000, Some(1)),
            (1_300_000, 1_000_000, Some(30_000)),
            (1_300_001, 1_000_000, None),
            (u64::MAX, 1_000_000, None),
        ] {
            assert_eq!(pause_until(next_ms, now_ms), expected_ms.map(Duration::from_millis), "{next_ms}");
        }
    }
}
