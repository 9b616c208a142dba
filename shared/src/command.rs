//! Commands: what administrators order, and what enclaves answer.
//!
//! Guarantees: a [`Command`] obtained by [`open`] was signed by at least one known administrator for this key store; how many
//! it needs, whether it has expired, was carried out before, or finds its object in another state than expected is for the
//! enclave to decide, against the sealed list ([`Action::threshold`], [`Command::expires_ms`], [`Precondition`]). A result is
//! encrypted to the administrator who signed first and carries an attestation document over it, since encryption alone does
//! not prove who encrypted.

mod action;
mod import;
mod result;

use ring::rand::SecureRandom;

pub use self::action::{Action, Precondition};
pub use self::import::{open_credential, open_material, seal_credential, seal_material};
pub use self::result::{
    KeyDescription, Outcome, RenewalState, ResultContent, ResultUserData, SealedResult, VersionRun, ceremony_id,
    open_result, seal_result,
};
use crate::cbor::{self, DecodeError, message};
use crate::hpke::HpkeError;
use crate::ids::{AdministratorId, CommandId, KeyStoreId};
use crate::labels;
use crate::limits;
use crate::manifest::Administrator;
use crate::signature::{Envelope, SignatureError, SigningKey};

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Command {
    /// [`labels::COMMAND`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// Random; carried out at most once.
    #[n(2)]
    pub command_id: CommandId,
    /// When it was signed, milliseconds since 1970.
    #[n(3)]
    pub issued_ms: u64,
    /// After this it is no longer carried out, milliseconds since 1970.
    #[n(4)]
    pub expires_ms: u64,
    /// What must be true of its object.
    #[n(5)]
    pub precondition: Precondition,
    /// What to do.
    #[n(6)]
    pub action: Action,
}

message!(Command, limits::COMMAND_MAX, "command", |command| {
    if command.label != labels::COMMAND {
        return Err("is not a command of this version");
    }
    let life = command.expires_ms.checked_sub(command.issued_ms);
    if life.is_none_or(|life| life > limits::COMMAND_LIFE_MAX_MS) {
        return Err("must expire after it is issued, within 31 days");
    }
    command.action.check()
});

/// Why a command or a result was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Not a command, or not a result.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not signed by administrators of the key store.
    #[error("command: {0}")]
    Signature(#[from] SignatureError),
    /// About another key store.
    #[error("command: for another key store")]
    OtherKeyStore,
    /// Encrypted for another purpose or recipient.
    #[error("command: {0}")]
    Hpke(#[from] HpkeError),
    /// The result of another command.
    #[error("result: of another command")]
    OtherCommand,
}

/// Signs a command with the first administrator's key.
///
/// # Errors
/// [`CommandError`] when the command breaks a rule or signing fails.
pub fn sign(command: &Command, key: &SigningKey, rng: &dyn SecureRandom) -> Result<Envelope, CommandError> {
    let bytes = cbor::encode(command);
    cbor::decode::<Command>(&bytes)?;
    Ok(Envelope::seal(labels::COMMAND, &bytes, key, rng)?)
}

/// Verifies a signed command and returns it with those who signed it, first signer first.
///
/// # Errors
/// [`CommandError`].
pub fn open(
    signed: &[u8],
    key_store_id: KeyStoreId,
    administrators: &[Administrator],
) -> Result<(Command, Vec<AdministratorId>), CommandError> {
    // Signatures and framing add at most 150 bytes for each signer.
    let max = limits::COMMAND_MAX + limits::SIGNATURES_MAX * 150;
    if signed.len() > max {
        return Err(DecodeError::TooLong { name: "command", length: signed.len(), max }.into());
    }
    let envelope: Envelope = cbor::decode(signed)?;
    let keys: Vec<_> = administrators.iter().map(|administrator| administrator.signing_key).collect();
    let (payload, signers) = envelope.open(labels::COMMAND, &keys, 1)?;
    let command: Command = cbor::decode(payload)?;
    if command.key_store_id != key_store_id {
        return Err(CommandError::OtherKeyStore);
    }
    Ok((command, signers.into_iter().map(AdministratorId).collect()))
}

/// Which command signed bytes claim to be, unproven: to name it to a custodian that sent it.
///
/// # Errors
/// [`CommandError::Decode`].
pub fn claimed_id(signed: &[u8]) -> Result<CommandId, CommandError> {
    let envelope: Envelope = cbor::decode(signed)?;
    Ok(cbor::decode::<Command>(envelope.unverified_payload())?.command_id)
}
