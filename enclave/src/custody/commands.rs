//! Carrying out commands, as a function from a key store's body to its next one.
//!
//! Guarantees: nothing is carried out that is expired, was carried out before, has too few signatures by the sealed list of
//! administrators, or finds its object in another state than its signer expected; a refused command changes nothing. Assumes: the
//! caller publishes the changed body and the outcome in one step, and shows neither before that succeeded.

use holdfast_shared::command::{self, Action, Command, CommandError, KeyDescription, Outcome, Precondition};
use holdfast_shared::external_key::{ExternalKeyId, KeyState};
use holdfast_shared::hpke;
use holdfast_shared::ids::{AdministratorId, CommandId, KeyStoreId};
use holdfast_shared::keystore::{Body, CredentialRecord, ExecutedCommand, ExternalKeyRecord, KeyVersionRecord};
use holdfast_shared::limits;
use holdfast_shared::secrets::Secret;

use super::identity;

/// What a command is judged by, besides the body.
pub(crate) struct Situation<'a> {
    pub(crate) key_store_id: KeyStoreId,
    /// Attested time.
    pub(crate) now_ms: u64,
    /// The version that the body was opened from.
    pub(crate) version: u64,
    /// The key to which imports are encrypted.
    pub(crate) attested_key: &'a hpke::PrivateKey,
    /// Fresh: becomes key material or a secret access key, if the command needs any.
    pub(crate) fresh: Secret<32>,
}

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) command_id: CommandId,
    /// To whom the outcome is encrypted: who signed first.
    pub(crate) recipient: AdministratorId,
    pub(crate) effect: Effect,
}

/// See [`Handled`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The body changed: publish it with the outcome.
    Changed(Outcome),
    /// The body did not change: report the outcome.
    Answered(Outcome),
    /// Not for this enclave, or done already: do nothing.
    Left,
    /// More administrators must sign: look again later. An answer would let one of them end what others have signed, by
    /// sending it in with their own signature alone.
    Waiting,
}

/// Judges and carries out one signed command.
///
/// # Errors
/// [`CommandError`] when there is nobody to answer: the bytes are no command signed by an administrator of this key store.
pub(crate) fn carry_out(signed: &[u8], body: &mut Body, situation: Situation<'_>) -> Result<Handled, CommandError> {
    let (command, signers) = command::open(signed, situation.key_store_id, &body.administrators)?;
    let recipient = *signers.first().ok_or(CommandError::OtherCommand)?;
    let command_id = command.command_id;
    let effect = effect_of(&command, signers.len(), body, situation);
    if let Effect::Changed(_) = effect {
        body.executed.push(ExecutedCommand { command_id, expires_ms: command.expires_ms });
    }
    Ok(Handled { command_id, recipient, effect })
}

fn effect_of(command: &Command, signatures: usize, body: &mut Body, situation: Situation<'_>) -> Effect {
    if body.executed.iter().any(|executed| executed.command_id == command.command_id) {
        return Effect::Left;
    }
    if situation.now_ms >= command.expires_ms {
        return refused("the command expired before an enclave saw it; issue it again");
    }
    let needed = command.action.threshold(&body.thresholds);
    if signatures < usize::from(needed) {
        return Effect::Waiting;
    }
    if let Err(reason) = check_precondition(command, body, situation.version) {
        return refused(&reason);
    }
    body.executed.retain(|executed| executed.expires_ms > situation.now_ms);
    if body.executed.len() >= limits::EXECUTED_COMMANDS_MAX {
        return refused("too many commands that have not expired; issue commands with a shorter life");
    }
    act(command, body, situation)
}

fn refused(reason: &str) -> Effect {
    Effect::Answered(Outcome::Refused { reason: reason.to_owned() })
}

fn check_precondition(command: &Command, body: &Body, version: u64) -> Result<(), String> {
    match command.precondition {
        Precondition::None => Ok(()),
        Precondition::Version(expected) if expected == version => Ok(()),
        Precondition::Version(expected) => {
            Err(format!("the key store is at version {version}, not {expected}: look again and issue the command anew"))
        }
        Precondition::KeyState(expected) => {
            let (Action::EnableKey { id } | Action::DisableKey { id }) = &command.action else {
                return Err("a key's state is a precondition of enabling or disabling it only".to_owned());
            };
            match key_index(body, id).ok().and_then(|index| body.external_keys.get(index)) {
                Some(key) if key.state == expected => Ok(()),
                Some(key) => Err(format!("key {id} is {}, not {}", state_name(key.state), state_name(expected))),
                None => Err(no_such_key(id)),
            }
        }
    }
}

fn act(command: &Command, body: &mut Body, situation: Situation<'_>) -> Effect {
    match &command.action {
        Action::CreateKey { id, usage } => {
            let Err(place) = key_index(body, id) else { return refused(&format!("key {id} exists already")) };
            if body.external_keys.len() >= limits::EXTERNAL_KEYS_MAX {
                return refused("the key store is full");
            }
            let versions = vec![KeyVersionRecord { number: 1, material: situation.fresh }];
            let record = ExternalKeyRecord { id: id.clone(), usage: *usage, state: KeyState::Enabled, versions };
            body.external_keys.insert(place, record);
            Effect::Changed(Outcome::Done)
        }
        Action::EnableKey { id } => set_state(body, id, KeyState::Enabled),
        Action::DisableKey { id } => set_state(body, id, KeyState::Disabled),
        Action::ListKeys => Effect::Answered(Outcome::Keys { keys: body.external_keys.iter().map(describe).collect() }),
        Action::CreateCredential => create_credential(body, &situation.fresh),
        Action::ImportCredential { recipient, sealed } => {
            if recipient != situation.attested_key.public_key() {
                return Effect::Left;
            }
            import_credential(command.command_id, sealed, body, &situation)
        }
        Action::RemoveCredential { access_key_id } => {
            let before = body.credentials.len();
            body.credentials.retain(|credential| credential.access_key_id != *access_key_id);
            if body.credentials.len() == before {
                return refused(&format!("there is no credential {access_key_id}"));
            }
            Effect::Changed(Outcome::Done)
        }
        Action::RequestCertificate => match identity::certificate_request(&body.tls.private_key, &body.host_name) {
            Ok(der) => Effect::Answered(Outcome::CertificateRequest { der }),
            Err(error) => refused(&error.to_string()),
        },
        Action::InstallCertificate { chain } => {
            match identity::check_chain(chain, &body.tls.private_key, &body.host_name, situation.now_ms) {
                Ok(()) => {
                    body.tls.chain.clone_from(chain);
                    Effect::Changed(Outcome::Done)
                }
                Err(error) => refused(&error.to_string()),
            }
        }
    }
}

fn key_index(body: &Body, id: &ExternalKeyId) -> Result<usize, usize> {
    body.external_keys.binary_search_by(|key| key.id.cmp(id))
}

fn no_such_key(id: &ExternalKeyId) -> String {
    format!("there is no key {id}")
}

const fn state_name(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => "enabled",
        KeyState::Disabled => "disabled",
        KeyState::PendingDestruction => "pending destruction",
    }
}

fn set_state(body: &mut Body, id: &ExternalKeyId, state: KeyState) -> Effect {
    let key = key_index(body, id).ok().and_then(|index| body.external_keys.get_mut(index));
    match key {
        None => refused(&no_such_key(id)),
        Some(key) if key.state == KeyState::PendingDestruction => {
            refused(&format!("key {id} is pending destruction; cancel that first"))
        }
        Some(key) if key.state == state => refused(&format!("key {id} is {} already", state_name(state))),
        Some(key) => {
            key.state = state;
            Effect::Changed(Outcome::Done)
        }
    }
}

fn describe(key: &ExternalKeyRecord) -> KeyDescription {
    KeyDescription {
        id: key.id.clone(),
        usage: key.usage,
        state: key.state,
        current_version: key.versions.last().map_or(0, |version| version.number),
        versions: u32::try_from(key.versions.len()).unwrap_or(u32::MAX),
    }
}

fn create_credential(body: &mut Body, fresh: &Secret<32>) -> Effect {
    if body.credentials.len() >= limits::CREDENTIALS_MAX {
        return refused("there are 8 credentials already; remove one first");
    }
    match identity::credential(fresh) {
        Ok(record) => {
            let credential = issued(&record);
            body.credentials.push(record);
            Effect::Changed(Outcome::Credential { credential })
        }
        Err(error) => refused(&error.to_string()),
    }
}

/// The copy of a credential that goes to its administrator.
pub(crate) fn issued(record: &CredentialRecord) -> CredentialRecord {
    CredentialRecord {
        access_key_id: record.access_key_id.clone(),
        secret_access_key: record.secret_access_key.duplicate(),
    }
}

fn import_credential(
    command_id: CommandId,
    sealed: &hpke::Sealed,
    body: &mut Body,
    situation: &Situation<'_>,
) -> Effect {
    let opened = command::open_credential(sealed, situation.key_store_id, command_id, situation.attested_key);
    let Ok(imported) = opened else {
        return refused("the credential does not open with this enclave's key for this command");
    };
    if body.credentials.iter().any(|credential| credential.access_key_id == imported.access_key_id) {
        return refused(&format!("there is a credential {} already", imported.access_key_id));
    }
    if body.credentials.len() >= limits::CREDENTIALS_MAX {
        return refused("there are 8 credentials already; remove one first");
    }
    let (access_key_id, secret_access_key) = (imported.access_key_id, imported.secret_access_key);
    body.credentials.push(CredentialRecord { access_key_id, secret_access_key });
    Effect::Changed(Outcome::Done)
}

#[cfg(test)]
mod tests;
