//! Orders: signed commands to the home custodian, and what came of them.

use holdfast_client::ClientError;
use holdfast_shared::command::{self, Action, Command, Outcome, Precondition, SealedResult};
use holdfast_shared::external_key::KeyState;
use holdfast_shared::ids::CommandId;
use holdfast_shared::query::{Answer, Question, ResultState};
use holdfast_shared::signature::Envelope;
use holdfast_shared::{api, cbor, labels};
use minicbor::bytes::ByteVec;

use super::contact::random;
use super::wait::{Patience, TimeOver, Wait};
use super::{Completed, Session, SessionError};
use crate::evidence::{self, EVIDENCE_AGE_MAX_MS};
use crate::moment;
use crate::output::printable;
use crate::words::OrderReport;

/// How long a command stays valid: long enough for an enclave that is being restarted, short enough to be forgotten.
const COMMAND_LIFE_MS: u64 = 24 * 3_600_000;
/// The same where other administrators must approve it first.
const APPROVED_COMMAND_LIFE_MS: u64 = 7 * COMMAND_LIFE_MS;

/// Under which conditions orders are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Only if the key store has this version.
    pub version: Option<u64>,
    /// Only if the key is in this state.
    pub key_state: Option<KeyState>,
    /// Show the order instead of sending it.
    pub dry_run: bool,
}

impl Terms {
    fn precondition(self, action: &Action) -> Result<Precondition, SessionError> {
        match (self.version, self.key_state) {
            (Some(version), _) => Ok(Precondition::Version(version)),
            (None, Some(_)) if crate::words::key_of(action).is_none() => Err(SessionError::NoKeyToCompare),
            (None, Some(state)) => Ok(Precondition::KeyState(state)),
            (None, None) => Ok(Precondition::None),
        }
    }
}

/// A command that waits, verified.
#[derive(Clone, Debug)]
pub struct PendingCommand {
    /// The command.
    pub command: Command,
    /// Its signatures.
    pub envelope: Envelope,
    /// For people.
    pub report: OrderReport,
}

impl Session {
    /// The same session, under these terms.
    #[must_use]
    pub fn under(self, terms: Terms) -> Self {
        Self { terms, ..self }
    }

    /// A fresh id for a command.
    ///
    /// # Errors
    /// [`SessionError::Signature`] when there is no randomness.
    pub fn new_command_id(&self) -> Result<CommandId, SessionError> {
        random().map(CommandId)
    }

    /// Signs and sends `action`, waits until an enclave has dealt with it, and verifies the outcome.
    ///
    /// # Errors
    /// [`SessionError`]; [`SessionError::Awaits`] when it was sent and others must sign it, too.
    pub async fn order(&self, action: Action, wait: Wait<'_>) -> Result<Completed, SessionError> {
        self.order_as(self.new_command_id()?, action, wait).await
    }

    /// Like [`Session::order`] with an id that `action` is bound to already.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn order_as(
        &self,
        command_id: CommandId,
        action: Action,
        wait: Wait<'_>,
    ) -> Result<Completed, SessionError> {
        let manifest = self.store.manifest.manifest();
        let needed = action.threshold(&manifest.thresholds);
        let issued_ms = moment::now_ms();
        let life_ms = if needed > 1 { APPROVED_COMMAND_LIFE_MS } else { COMMAND_LIFE_MS };
        let command = Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: self.store.manifest.id(),
            command_id,
            issued_ms,
            expires_ms: issued_ms.saturating_add(life_ms),
            precondition: self.terms.precondition(&action)?,
            action,
        };
        let envelope = command::sign(&command, &self.keys.signing_key, &self.rng)?;
        let own = self.keys.administrator.id();
        if self.terms.dry_run {
            return Err(SessionError::DryRun(Box::new(OrderReport::new(&command, &[], &self.store.manifest))));
        }
        self.queue(command_id, &envelope).await?;
        if needed > 1 {
            return Err(SessionError::Awaits(Box::new(OrderReport::new(&command, &[own], &self.store.manifest))));
        }
        let sealed = self.wait_for(command_id, wait).await.map_err(|error| match error {
            SessionError::Client(source) => SessionError::Undecided { command_id, source },
            error => error,
        })?;
        // Nothing about this command can have been attested before it was signed.
        self.open_result(&sealed, command_id, moment::now_ms().saturating_sub(issued_ms)).await
    }

    /// Sends a signed command to the home custodian.
    pub(crate) async fn queue(&self, command_id: CommandId, envelope: &Envelope) -> Result<(), SessionError> {
        let sent = self.home_contact()?.send(api::COMMANDS, cbor::encode(envelope).to_vec()).await;
        sent.map_err(|error| match error {
            SessionError::Client(source @ (ClientError::Http { .. } | ClientError::Timeout { .. })) => {
                SessionError::Undecided { command_id, source }
            }
            error => error,
        })
    }

    /// The commands that wait at the home custodian, oldest first; those that nobody of the key store signed are left out.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn pending(&self) -> Result<Vec<PendingCommand>, SessionError> {
        let Answer::Pending(signed) = self.home_contact()?.ask(Question::Pending).await? else {
            return Err(SessionError::OtherAnswer);
        };
        Ok(signed.iter().filter_map(|signed| self.open_pending(signed)).collect())
    }

    fn open_pending(&self, signed: &ByteVec) -> Option<PendingCommand> {
        let manifest = &self.store.manifest;
        let (command, signers) = command::open(signed, manifest.id(), &manifest.manifest().administrators).ok()?;
        let report = OrderReport::new(&command, &signers, manifest);
        Some(PendingCommand { command, envelope: cbor::decode(signed).ok()?, report })
    }

    /// Adds this administrator's signature to a command that waits, and sends it.
    ///
    /// # Errors
    /// [`SessionError::SignedAlready`], or a refusal.
    pub async fn approve(&self, pending: &PendingCommand) -> Result<(), SessionError> {
        let command_id = pending.command.command_id;
        let mut envelope = pending.envelope.clone();
        envelope
            .add_signature(labels::COMMAND, &self.keys.signing_key, &self.rng)
            .map_err(|_| SessionError::SignedAlready(command_id))?;
        self.queue(command_id, &envelope).await
    }

    /// Waits until an enclave has dealt with a command; what came of it only its first signer can read.
    ///
    /// # Errors
    /// [`SessionError::Timeout`], [`SessionError::UnknownCommand`].
    pub async fn dealt_with(&self, command_id: CommandId, wait: Wait<'_>) -> Result<(), SessionError> {
        self.wait_for(command_id, wait).await.map(|_| ())
    }

    /// What came of a command that was ordered earlier, or of the ceremony.
    ///
    /// # Errors
    /// [`SessionError::UnknownCommand`], [`SessionError::Timeout`], or a result that is refused.
    pub async fn result_of(&self, command_id: CommandId, wait: Wait<'_>) -> Result<Completed, SessionError> {
        let sealed = self.wait_for(command_id, wait).await?;
        self.open_result(&sealed, command_id, EVIDENCE_AGE_MAX_MS).await
    }

    /// Waits for the end of the ceremony and returns its result: the first credential. A ceremony is no command of this
    /// administrator's, so the custodian does not know it before it has ended.
    ///
    /// # Errors
    /// [`SessionError::NoCeremony`], or a result that is refused.
    pub async fn ceremony(&self, wait: Wait<'_>) -> Result<Completed, SessionError> {
        let command_id = command::ceremony_id(self.store.manifest.id());
        let mut patience = Patience::new(wait);
        let sealed = loop {
            match self.result_state(command_id).await? {
                ResultState::Ready(sealed) => break sealed,
                ResultState::Unknown | ResultState::Pending => patience
                    .pause("the ceremony")
                    .await
                    .map_err(|TimeOver { seconds }| SessionError::NoCeremony { seconds })?,
            }
        };
        self.open_result(&sealed, command_id, EVIDENCE_AGE_MAX_MS).await
    }

    async fn wait_for(&self, command_id: CommandId, wait: Wait<'_>) -> Result<SealedResult, SessionError> {
        let mut patience = Patience::new(wait);
        loop {
            match self.result_state(command_id).await? {
                ResultState::Ready(sealed) => return Ok(sealed),
                ResultState::Unknown => return Err(SessionError::UnknownCommand(command_id)),
                ResultState::Pending => patience
                    .pause("an enclave")
                    .await
                    .map_err(|TimeOver { seconds }| SessionError::Timeout { command_id, seconds })?,
            }
        }
    }

    async fn open_result(
        &self,
        sealed: &SealedResult,
        command_id: CommandId,
        max_age_ms: u64,
    ) -> Result<Completed, SessionError> {
        let key_store_id = self.store.manifest.id();
        let own_id = self.keys.administrator.id();
        let content = command::open_result(sealed, key_store_id, command_id, own_id, &self.keys.encryption_key)?;
        let outcome = content.outcome.expose();
        let judge = |store: &_| {
            evidence::of_result(&content.document, outcome, store, command_id, max_age_ms, moment::now_ms())
        };
        let evidence = match judge(&self.store) {
            // Another administrator may have accepted another image since.
            Err(error) if error.is_of_measurements() => judge(&self.refreshed().await?)?,
            judged => judged?,
        };
        match cbor::decode(outcome)? {
            Outcome::Refused { reason } => Err(SessionError::Refused(printable(&reason))),
            outcome => Ok(Completed { command_id, outcome, evidence }),
        }
    }

    async fn result_state(&self, command_id: CommandId) -> Result<ResultState, SessionError> {
        match self.home_contact()?.ask(Question::Result(command_id)).await? {
            Answer::Result(state) => Ok(state),
            _ => Err(SessionError::OtherAnswer),
        }
    }
}
