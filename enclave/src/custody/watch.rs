//! The watch: what a lease's channel brings between its release and its end.
//!
//! Guarantees: a block is put in force before anything else that came with it; a renewal counts from when it was asked for;
//! versions are followed upwards only; an answer that comes at once, whoever sends it, makes no tight loop.

use std::time::Duration;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::block::{self, BlockError};
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::ids::CommandId;
use holdfast_shared::limits::PENDING_COMMANDS_MAX;

use super::health::CustodianHealth;
use super::lease::Lease;
use super::session::Session;
use super::{Custody, CustodyError, PAUSES};

/// Least time between two questions for news.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How a lease's watch ended without an error.
pub(super) enum Ended {
    /// A block was lifted: ask for the share again.
    Lifted,
}

impl<C: Connect + 'static> Custody<C> {
    /// Asks for news until the lease fails or a block is lifted.
    pub(super) async fn watch(&mut self, session: &Session<C>, mut lease: Lease) -> Result<Ended, CustodyError> {
        let mut failures: u32 = 0;
        loop {
            let now_ms = self.enclave.clock.monotonic_ms();
            // A renewal is answered at once: after a failure that tells whether the custodian is back.
            let renew = now_ms >= lease.renew_ms() || failures > 0;
            let paced = tokio::time::sleep(WATCH_INTERVAL);
            let ask = Ask::Watch { seen: self.seen(now_ms), renew };
            let again_ms = self.put_off.front().map_or(u64::MAX, |(_, until_ms)| *until_ms);
            let limit = Duration::from_millis(lease.renew_ms().min(again_ms).saturating_sub(now_ms));
            let asked = session.ask(&ask);
            let answer = if renew {
                asked.await
            } else {
                match tokio::time::timeout(limit, asked).await {
                    Ok(answer) => answer,
                    Err(_) => continue,
                }
            };
            match answer {
                Ok((Reply::News { lease_ms, overlay, register, commands, enclaves, .. }, answered)) => {
                    failures = 0;
                    self.served.custodian_health().for_each(|custodian| custodian.answered(answered.sent_ms()));
                    self.served.health().count_enclaves(enclaves, answered.sent_ms());
                    let was_blocked = self.is_blocked();
                    if let Some(overlay) = overlay {
                        self.take_overlay(&overlay);
                    }
                    if let Some(lease_ms) = lease_ms {
                        lease = Lease::granted(answered, lease_ms);
                        self.served.set_lease(lease.expires_ms());
                    }
                    if was_blocked && !self.is_blocked() {
                        return Ok(Ended::Lifted);
                    }
                    // What is not followed now comes again with the next answer.
                    if let Some(register) = register.filter(|_| !self.is_spent()) {
                        self.follow(session, &register.signed).await?;
                    }
                    self.handle_all(session, commands.into_iter().map(Vec::from)).await?;
                    self.report_standing();
                }
                Ok(_) => return Err(CustodyError::OtherAnswer),
                Err(error) if error.ends_lease() => return Err(error),
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.served.custodian_health().for_each(CustodianHealth::failed);
                    self.log(Level::Warn, &format!("watching failed ({error}); trying again"));
                    let pause = PAUSES.0.saturating_mul(1 << failures.min(5));
                    tokio::time::sleep(pause.min(PAUSES.1)).await;
                }
            }
            paced.await;
        }
    }

    /// Whether this key store has made all the work that it may for now.
    pub(super) fn is_spent(&mut self) -> bool {
        self.allowance.is_spent(self.enclave.clock.monotonic_ms())
    }

    fn seen(&mut self, now_ms: u64) -> Seen {
        self.put_off.retain(|(_, until_ms)| now_ms < *until_ms);
        let waiting = self.put_off.iter().map(|(id, _)| *id);
        // Those put off surely wait at the custodian; of those dealt with, the newest may.
        let dealt_with =
            self.handled.iter().rev().copied().filter(|id| self.put_off.iter().all(|(other, _)| other != id));
        Seen {
            overlay_epoch: self.overlay.as_ref().map_or(0, |overlay| overlay.epoch),
            version: self.newest_version(),
            commands: waiting.chain(dealt_with).take(PENDING_COMMANDS_MAX).collect(),
            manifest_sequence: self.manifest.sequence(),
        }
    }

    /// Puts a newer overlay in force at once; anything else changes nothing.
    pub(super) fn take_overlay(&mut self, signed: &[u8]) {
        match block::open_under(signed, &self.manifest, self.overlay.as_ref()) {
            Ok(overlay) => {
                self.served.block(&overlay);
                let keys = overlay.keys.len();
                let (epoch, whole) = (overlay.epoch, overlay.store);
                self.log(Level::Warn, &format!("block overlay {epoch} in force (store: {whole}, keys: {keys})"));
                let store = overlay.store;
                self.overlay = Some(overlay);
                if store {
                    self.drop_keys();
                }
            }
            Err(BlockError::Stale { current, offered }) if current == offered => {}
            Err(error) => {
                self.log(Level::Error, &format!("{error}; ignored"));
            }
        }
    }

    /// Another enclave made a newer version: serve that.
    pub(super) async fn follow(&mut self, session: &Session<C>, signed: &[u8]) -> Result<(), CustodyError> {
        let entry = self.open_entry(signed)?;
        if entry.version <= self.newest_version() {
            return Ok(());
        }
        if self.unsealed.is_none() {
            // Blocked: the version is read when the block is lifted.
            self.note(&entry);
            return Ok(());
        }
        let blob = self.fetch(session, &entry).await?;
        if let Some(current) = &self.unsealed {
            let next = current.keys().with(entry, blob);
            self.adopt(next).await?;
        }
        Ok(())
    }

    pub(super) fn remember(&mut self, command_id: CommandId) {
        if self.handled.contains(&command_id) {
            return;
        }
        if self.handled.len() >= PENDING_COMMANDS_MAX {
            self.handled.pop_front();
        }
        self.handled.push_back(command_id);
    }
}
