//! Upkeep: a custodian is given what it lacks, one thing after the other, until it lacks nothing.
//!
//! Guarantees: each custodian is served by its own link, so that none waits for another; one that will not take what it is given is
//! named, and asked again with growing pauses; nor is one that forgets what it took given the same again without such pauses.

use std::collections::VecDeque;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::channel::{Ask, Reply};

use super::ledger::Chore;
use super::links::Link;
use super::session::Session;
use super::unseal::HeldVersion;
use super::{CustodyError, PAUSES};

/// From this length on, a copy takes one of the key store's few places for large ones.
const LARGE: usize = 256 * 1024;
/// Chores that are remembered, so that a repetition is known: those of a few versions.
const DONE_MAX: usize = 16;

/// What was given to a custodian lately.
#[derive(Default)]
struct Done(VecDeque<(u8, u64)>);

impl Done {
    /// A chore's kind, and the version or generation that it is about.
    fn key(chore: &Chore) -> (u8, u64) {
        match chore {
            Chore::Copy(version) => (0, version.entry.version),
            Chore::Commit { version, .. } => (1, *version),
            Chore::Deposit { set, .. } => (2, set.generation.into()),
            Chore::Retire { generation } => (3, (*generation).into()),
        }
    }

    fn note(&mut self, key: (u8, u64)) {
        if self.0.len() >= DONE_MAX {
            self.0.pop_front();
        }
        self.0.push_back(key);
    }
}

impl<C: Connect + 'static> Link<C> {
    /// Works until the lease fails.
    pub(super) async fn keep_up(&self, session: &Session<C>) -> Result<(), CustodyError> {
        let mut changes = self.ledger.changes();
        let mut pause = PAUSES.0;
        let mut done = Done::default();
        let mut has_paused = false;
        loop {
            changes.borrow_and_update();
            let Some(chore) = self.ledger.chore(self.id) else {
                if changes.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            };
            let key = Done::key(&chore);
            let is_again = done.0.contains(&key);
            if is_again && !has_paused {
                // Its answers cost it nothing, and a copy of a large version costs all key stores here.
                tokio::time::sleep(pause).await;
                pause = PAUSES.1.min(pause.saturating_mul(2));
                has_paused = true;
                continue;
            }
            has_paused = false;
            match self.carry_out(session, chore).await {
                Ok(()) if is_again => {}
                Ok(()) => {
                    done.note(key);
                    if pause > PAUSES.0 {
                        pause = PAUSES.0;
                        self.ledger.trouble_is_over(self.id);
                    }
                }
                Err(error) if error.ends_lease() => return Err(error),
                Err(error) => {
                    self.ledger.log(Level::Warn, &format!("custodian {}: {error}; trying again", self.custodian.name));
                    if error.is_silence() {
                        self.ledger.silent(self.id, &error);
                    } else {
                        self.ledger.in_trouble(self.id, &error);
                    }
                    tokio::time::sleep(pause).await;
                    pause = PAUSES.1.min(pause.saturating_mul(2));
                }
            }
        }
    }

    async fn carry_out(&self, session: &Session<C>, chore: Chore) -> Result<(), CustodyError> {
        match chore {
            Chore::Copy(version) => self.copy(session, &version).await,
            Chore::Commit { version, blob_id } => {
                match session.ask(&Ask::Commit { version, blob_id }).await?.0 {
                    Reply::Committed => self.ledger.knows_committed(self.id, version, blob_id),
                    Reply::Conflict { register: Some(register) } => {
                        self.ledger.holds(self.id, register)?;
                    }
                    other => return Err(refusal(other, "to note that a version is committed")),
                }
                Ok(())
            }
            Chore::Deposit { set, share } => match session.ask(&Ask::Deposit { set: set.clone(), share }).await?.0 {
                Reply::Deposited => {
                    self.ledger.deposited(self.id, &set);
                    Ok(())
                }
                Reply::Conflict { register } => {
                    self.ledger.declined(self.id, &set);
                    if let Some(register) = register {
                        self.ledger.holds(self.id, register)?;
                    }
                    Err(CustodyError::Declined("to keep this share: it has another".to_owned()))
                }
                other => {
                    self.ledger.declined(self.id, &set);
                    Err(refusal(other, "to keep its share"))
                }
            },
            Chore::Retire { generation } => match session.ask(&Ask::Retire { generation }).await?.0 {
                Reply::Retired => {
                    self.ledger.retired(self.id, generation);
                    Ok(())
                }
                other => Err(refusal(other, "to delete old shares")),
            },
        }
    }

    async fn copy(&self, session: &Session<C>, version: &HeldVersion) -> Result<(), CustodyError> {
        let _place = if version.blob.len() >= LARGE { self.ledger.large_copies.acquire().await.ok() } else { None };
        let ask = Ask::Copy {
            register: version.signed.clone(),
            blob: version.blob.clone(),
            evidence: version.evidence.clone(),
        };
        match session.ask(&ask).await?.0 {
            Reply::Copied => {
                self.ledger.copied(self.id, version);
                Ok(())
            }
            Reply::Conflict { register: Some(register) } => {
                let held = self.ledger.holds(self.id, register)?;
                // A newer one is news; this one, or an older one, is a refusal.
                if held.version > version.entry.version { Ok(()) } else { Err(refusal_to_copy()) }
            }
            other => Err(refusal(other, "to copy a version")),
        }
    }
}

fn refusal_to_copy() -> CustodyError {
    CustodyError::Declined("to copy a version: it holds another one".to_owned())
}

fn refusal(reply: Reply, what: &str) -> CustodyError {
    match reply {
        Reply::Refused { reason, .. } => CustodyError::Declined(format!("{what}: {reason}")),
        Reply::Conflict { .. } => CustodyError::Declined(format!("{what}: it holds another one")),
        _ => CustodyError::OtherAnswer,
    }
}
