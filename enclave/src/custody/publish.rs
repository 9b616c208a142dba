//! From a signed command to a published version.
//!
//! Guarantees: a changed key store is served only after the custodian stored it durably, together with the result; who loses
//! the race for a version drops everything it made for it and starts again from the winner's; no command keeps another, or a block,
//! waiting for long.

use std::sync::Arc;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::command::{self, CommandError, Outcome, ResultContent, ResultUserData, SealedResult};
use holdfast_shared::ids::{CommandId, KeyStoreId};
use holdfast_shared::keystore::{self, Place};
use holdfast_shared::limits::PENDING_COMMANDS_MAX;
use holdfast_shared::manifest::Administrator;
use holdfast_shared::secrets::{Secret, SecretBytes};
use ring::rand::SystemRandom;

use super::commands::{self, Effect, Handled, Situation};
use super::session::Session;
use super::{Custody, CustodyError, Unsealed};
use crate::entropy;
use crate::nsm::Nsm;

/// Lost races in a row after which a command is left for later.
const RACES_MAX: usize = 16;
/// After this long with commands, the custodian is asked for news: a block must not wait for them (design, section 5).
const HANDLING_MAX_MS: u64 = 500;
/// How long a command waits that could not be dealt with, in milliseconds.
const PUT_OFF_MS: u64 = 5_000;

/// What became of a command, seen from here.
enum Dealt {
    /// It is done, answered, or another enclave's.
    With,
    /// It must be looked at again later.
    Not,
}

impl<C: Connect + 'static> Custody<C> {
    /// Deals with commands until it is time to look for a block again; what is left comes with the next answer.
    ///
    /// # Errors
    /// Only what ends the lease. A command that fails otherwise is put off, and stops no other.
    pub(super) async fn handle_all(
        &mut self,
        session: &Session<C>,
        commands: impl Iterator<Item = Vec<u8>>,
    ) -> Result<(), CustodyError> {
        let started_ms = self.enclave.clock.monotonic_ms();
        for command in commands {
            if self.is_spent() {
                break;
            }
            match self.handle(session, &command).await {
                Ok(Dealt::With) => {}
                Ok(Dealt::Not) => self.put_off(&command),
                Err(error) if error.ends_lease() => return Err(error),
                Err(error) => {
                    self.log(Level::Warn, &format!("a command failed and is put off: {error}"));
                    self.put_off(&command);
                }
            }
            if self.enclave.clock.monotonic_ms().saturating_sub(started_ms) >= HANDLING_MAX_MS {
                break;
            }
        }
        Ok(())
    }

    /// Asks not to be sent a command again before some time has passed.
    fn put_off(&mut self, signed: &[u8]) {
        // Unproven, and only for this: a custodian that would hide a command need not send it.
        let Ok(command_id) = command::claimed_id(signed) else { return };
        let until_ms = self.enclave.clock.monotonic_ms().saturating_add(PUT_OFF_MS);
        self.put_off.retain(|(id, _)| *id != command_id);
        if self.put_off.len() >= PENDING_COMMANDS_MAX {
            self.put_off.pop_front();
        }
        self.put_off.push_back((command_id, until_ms));
    }

    /// Deals with one command. An error is the channel's, the custodian's, or that of somebody's key; a bad command is answered
    /// or left.
    async fn handle(&mut self, session: &Session<C>, signed: &[u8]) -> Result<Dealt, CustodyError> {
        for _ in 0..RACES_MAX {
            // Blocked: it waits.
            let Some(unsealed) = &self.unsealed else { return Ok(Dealt::Not) };
            let unsealed = Arc::clone(unsealed);
            self.allowance.charge(unsealed.blob.len());
            let fresh = entropy::secret(&self.enclave.nsm, "external key").await?;
            let (handled, body) = self.judge(&unsealed, signed, fresh).await?;
            let handled = match handled {
                Ok(handled) => handled,
                Err(error) => {
                    self.log(Level::Error, &format!("a command was ignored: {error}"));
                    return Ok(Dealt::Not);
                }
            };
            let command_id = handled.command_id;
            let recipient = handled.recipient;
            let (changed, outcome) = match handled.effect {
                Effect::Left => {
                    self.remember(command_id);
                    return Ok(Dealt::With);
                }
                Effect::Waiting => return Ok(Dealt::Not),
                Effect::Answered(outcome) => (false, outcome),
                Effect::Changed(outcome) => (true, outcome),
                Effect::ChangedRoot(_) | Effect::Adopted { .. } => {
                    let reason = "this enclave cannot change the root key or the manifest yet".to_owned();
                    (false, Outcome::Refused { reason })
                }
            };
            let result = sealed_result(&self.enclave.nsm, self.id(), command_id, &recipient, &outcome).await?;
            if !changed {
                report(session, result).await?;
                self.remember(command_id);
                return Ok(Dealt::With);
            }
            if self.publish(session, unsealed, body, result).await? {
                self.remember(command_id);
                return Ok(Dealt::With);
            }
        }
        Ok(Dealt::Not)
    }

    /// Opens the newest version and carries a command out on it. Up to 16 signatures are verified, and the body is measured: all
    /// of that is heavy.
    async fn judge(
        &self,
        unsealed: &Arc<Unsealed>,
        signed: &[u8],
        fresh: Secret<32>,
    ) -> Result<(Result<Handled, CommandError>, keystore::Body), CustodyError> {
        let (manifest, clock) = (self.manifest.clone(), Arc::clone(&self.enclave.clock));
        let overlay_epoch = self.overlay.as_ref().map_or(0, |overlay| overlay.epoch);
        let (unsealed, signed) = (Arc::clone(unsealed), signed.to_vec());
        let judging = move || {
            let mut body = unsealed.open()?.body;
            let situation = Situation {
                manifest: &manifest,
                overlay_epoch,
                now_ms: clock.wall_ms(),
                version: unsealed.entry.version,
                attested_key: &unsealed.attested_key,
                fresh,
            };
            Ok((commands::carry_out(&signed, &mut body, situation), body))
        };
        self.enclave.workshop.work(judging).await?
    }

    /// Publishes the next version. `false`: another one came first, and is served now.
    async fn publish(
        &mut self,
        session: &Session<C>,
        unsealed: Arc<Unsealed>,
        body: keystore::Body,
        result: SealedResult,
    ) -> Result<bool, CustodyError> {
        let (previous, version) = (Some(unsealed.entry.blob_id), unsealed.entry.version.saturating_add(1));
        let place = Place { key_store_id: self.id(), version, previous, generation: unsealed.set.generation };
        let next = unsealed.keys();
        let sealing = move || keystore::seal(&unsealed.root, &place, &body, &SystemRandom::new());
        let sealed = self.enclave.workshop.work(sealing).await??;
        self.check_room(sealed.bytes.len())?;
        let ask =
            Ask::Publish { version, previous, blob: sealed.bytes.clone(), results: vec![result], evidence: Vec::new() };
        match session.ask(&ask).await?.0 {
            Reply::Published { register } => {
                let entry = self.open_entry(&register)?;
                self.adopt(next.with(entry, sealed.bytes)).await?;
                Ok(true)
            }
            Reply::Conflict { register: Some(register) } => {
                self.follow(session, &register.signed).await?;
                Ok(false)
            }
            Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
            _ => Err(CustodyError::OtherAnswer),
        }
    }
}

async fn report<C: Connect>(session: &Session<C>, result: SealedResult) -> Result<(), CustodyError> {
    match session.ask(&Ask::Report { results: vec![result] }).await?.0 {
        Reply::Reported => Ok(()),
        Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
        _ => Err(CustodyError::OtherAnswer),
    }
}

/// An outcome with the attestation document that vouches for it, encrypted to `recipient`.
pub(super) async fn sealed_result(
    nsm: &Nsm,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    recipient: &Administrator,
    outcome: &Outcome,
) -> Result<SealedResult, CustodyError> {
    let outcome = cbor::encode(outcome);
    let user_data = cbor::encode(&ResultUserData::new(key_store_id, command_id, &outcome));
    let document = nsm.attest(Some(command_id.as_bytes()), Some(&user_data), None).await?;
    let content = ResultContent { outcome: SecretBytes::new(outcome.to_vec()), document };
    Ok(command::seal_result(&content, key_store_id, command_id, recipient)?)
}
