//! The watch: what a lease's channel brings between its release and its end.
//!
//! Guarantees: a block is put in force before anything else that came with it, and before this waits for anything; a renewal counts
//! from when it was asked for; an answer that comes at once, whoever sends it, makes no tight loop.

use std::time::Duration;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::channel::{Ask, Reply};

use super::lease::Lease;
use super::ledger::News;
use super::links::Link;
use super::session::Session;
use super::{CustodyError, PAUSES};

/// How often the clock is looked at while an answer is awaited.
const LOOK: Duration = Duration::from_secs(1);

impl<C: Connect + 'static> Link<C> {
    /// Asks for news until the lease fails.
    pub(super) async fn watch(&self, session: &Session<C>, mut lease: Lease) -> Result<(), CustodyError> {
        let mut failures: u32 = 0;
        loop {
            let now_ms = self.now_ms();
            if now_ms >= lease.expires_ms() {
                return Err(CustodyError::Expired);
            }
            // A renewal is answered at once: after a failure that tells whether the custodian is back.
            let renew = now_ms >= lease.renew_ms() || failures > 0;
            let paced = tokio::time::sleep(self.pace);
            let seen = self.ledger.seen(self.id);
            let seen_epoch = seen.overlay_epoch;
            let ask = Ask::Watch { seen, renew };
            let asked = session.ask(&ask);
            let answer = if renew {
                asked.await
            } else {
                tokio::select! {
                    answer = asked => answer,
                    () = self.due(&lease) => continue,
                }
            };
            match answer {
                Ok((Reply::News { lease_ms, overlay, register, commands, enclaves, successors }, answered)) => {
                    let renewed = lease_ms.map(|lease_ms| Lease::granted(answered, lease_ms));
                    let news = News {
                        sent_ms: answered.sent_ms(),
                        seen_epoch,
                        lease: renewed,
                        successors: successors.into_iter().map(Vec::from).collect(),
                        overlay,
                        register,
                        commands: commands.into_iter().map(Vec::from).collect(),
                    };
                    lease = renewed.unwrap_or(lease);
                    self.health.answered(answered.sent_ms());
                    if self.is_home {
                        self.ledger.served.health().count_enclaves(enclaves, answered.sent_ms());
                    }
                    self.ledger.take_news(self.id, news)?;
                    if failures > 0 {
                        failures = 0;
                        self.ledger.trouble_is_over(self.id);
                    }
                    self.ledger.report();
                }
                Ok(_) => return Err(CustodyError::OtherAnswer),
                Err(error) if error.ends_lease() => return Err(error),
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.health.failed();
                    let name = &self.custodian.name;
                    self.ledger.log(Level::Warn, &format!("watching {name} failed ({error}); trying again"));
                    self.ledger.silent(self.id, &error);
                    let pause = PAUSES.0.saturating_mul(1 << failures.min(5));
                    tokio::time::sleep(pause.min(PAUSES.1)).await;
                }
            }
            paced.await;
        }
    }

    /// Returns when the lease is to be renewed, or the home custodian asked for commands that were put off.
    async fn due(&self, lease: &Lease) {
        loop {
            let again_ms = if self.is_home { self.ledger.docket(|docket| docket.again_ms()) } else { None };
            let due_ms = again_ms.map_or(lease.renew_ms(), |again_ms| again_ms.min(lease.renew_ms()));
            let left = Duration::from_millis(due_ms.saturating_sub(self.now_ms()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}
