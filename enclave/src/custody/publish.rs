//! From a signed command to a published version.
//!
//! Guarantees: a changed key store is served only after the custodian stored it durably, together with the result; who loses
//! the race for a version drops everything it made for it and starts again from the winner's.

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::command::{self, Outcome, ResultContent, ResultUserData, SealedResult};
use holdfast_shared::ids::{CommandId, KeyStoreId};
use holdfast_shared::keystore::{self, Place};
use holdfast_shared::manifest::Administrator;
use holdfast_shared::secrets::SecretBytes;
use ring::rand::SystemRandom;

use super::commands::{self, Effect, Situation};
use super::session::Session;
use super::{Custody, CustodyError, Unsealed};
use crate::entropy;
use crate::nsm::Nsm;

/// Lost races in a row after which a command is left for later.
const RACES_MAX: usize = 16;

impl<C: Connect + 'static> Custody<C> {
    /// Deals with one command. An error is the channel's or the custodian's; a bad command is answered or left.
    pub(super) async fn handle(&mut self, session: &Session<C>, signed: &[u8]) -> Result<(), CustodyError> {
        for _ in 0..RACES_MAX {
            let Some(unsealed) = &self.unsealed else { return Ok(()) };
            let mut opened = unsealed.open()?;
            let situation = Situation {
                key_store_id: self.id(),
                now_ms: self.enclave.clock.wall_ms(),
                version: unsealed.entry.version,
                attested_key: &session.attested_key,
                fresh: entropy::secret(&self.enclave.nsm, "external key").await?,
            };
            let handled = match commands::carry_out(signed, &mut opened.body, situation) {
                Ok(handled) => handled,
                Err(error) => {
                    let line = format!("key store {}: a command was ignored: {error}", self.id());
                    self.enclave.reporter.log(Level::Error, &line);
                    return Ok(());
                }
            };
            let command_id = handled.command_id;
            let recipient = opened.body.administrators.iter().find(|a| a.id() == handled.recipient).cloned();
            let Some(recipient) = recipient else { return Ok(()) };
            let (changed, outcome) = match handled.effect {
                Effect::Left => {
                    self.remember(command_id);
                    return Ok(());
                }
                Effect::Answered(outcome) => (false, outcome),
                Effect::Changed(outcome) => (true, outcome),
            };
            let result = sealed_result(&self.enclave.nsm, self.id(), command_id, &recipient, &outcome).await?;
            if !changed {
                report(session, result).await?;
                self.remember(command_id);
                return Ok(());
            }
            if self.publish(session, &opened.body, result).await? {
                self.remember(command_id);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Publishes the next version. `false`: another one came first, and is served now.
    async fn publish(
        &mut self,
        session: &Session<C>,
        body: &keystore::Body,
        result: SealedResult,
    ) -> Result<bool, CustodyError> {
        let Some(unsealed) = &self.unsealed else { return Ok(false) };
        let (previous, version) = (Some(unsealed.entry.blob_id), unsealed.entry.version.saturating_add(1));
        let place = Place { key_store_id: self.id(), version, previous, generation: unsealed.set.generation };
        let sealed = keystore::seal(&unsealed.root, &place, body, &SystemRandom::new())?;
        let (root, set) = (unsealed.root.duplicate(), unsealed.set.clone());
        let ask = Ask::Publish { version, previous, blob: sealed.bytes.clone(), results: vec![result] };
        match session.ask(&ask).await?.0 {
            Reply::Published { register } => {
                let entry = self.open_entry(&register)?;
                self.adopt(Unsealed { root, set, entry, blob: sealed.bytes })?;
                Ok(true)
            }
            Reply::Conflict { register: Some(register) } => {
                self.follow(session, &register).await?;
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
