//! Commands: what administrators order, and what enclaves answer.
//!
//! Guarantees: a [`Command`] obtained by [`open`] was signed by at least one known administrator for this key store; how many
//! it needs, whether it has expired, was carried out before, or finds its object in another state than expected is for the
//! enclave to decide, against the sealed list ([`Action::threshold`], [`Command::expires_ms`], [`Precondition`]). A result is
//! encrypted to the administrator who signed first and carries an attestation document over it, since encryption alone does
//! not prove who encrypted.

use ring::rand::SecureRandom;

use crate::cbor::{self, DecodeError, message};
use crate::external_key::{ExternalKeyId, KeyState, KeyUsage};
use crate::hpke::{self, HpkeError};
use crate::ids::{AdministratorId, CommandId, KeyStoreId};
use crate::keystore::CredentialRecord;
use crate::labels;
use crate::limits;
use crate::manifest::{Administrator, DerCertificate, Thresholds};
use crate::secrets::SecretBytes;
use crate::signature::{Envelope, SignatureError, SigningKey};
use crate::sigv4::AccessKeyId;

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
    match &command.action {
        Action::InstallCertificate { chain }
            if !(1..=limits::CERTIFICATE_CHAIN_MAX).contains(&chain.len())
                || chain.iter().any(|certificate| certificate.0.len() > limits::CERTIFICATE_DER_MAX) =>
        {
            Err("a certificate chain has 1 to 6 certificates of at most 8 KiB")
        }
        _ => Ok(()),
    }
});

/// What must be true of a command's object when it is carried out: an order given in ignorance of a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Precondition {
    /// Nothing.
    #[n(0)]
    None,
    /// The key store has this version.
    #[n(1)]
    Version(#[n(0)] u64),
    /// The key is in this state.
    #[n(2)]
    KeyState(#[n(0)] KeyState),
}

/// What an administrator may order.
#[expect(clippy::large_enum_variant, reason = "one at a time, off the request path")]
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Action {
    /// Make an external key; its material is drawn in the enclave. Refused if the id exists.
    #[n(0)]
    CreateKey {
        /// As in the URI.
        #[n(0)]
        id: ExternalKeyId,
        /// What it may be used for.
        #[n(1)]
        usage: KeyUsage,
    },
    /// Allow the use of a key.
    #[n(1)]
    EnableKey {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
    },
    /// Forbid the use of a key.
    #[n(2)]
    DisableKey {
        /// The key.
        #[n(0)]
        id: ExternalKeyId,
    },
    /// Answer with the keys and their states.
    #[n(3)]
    ListKeys,
    /// Make a SigV4 credential and answer with it.
    #[n(4)]
    CreateCredential,
    /// Accept this SigV4 credential.
    #[n(5)]
    ImportCredential {
        /// The attested key to which it is encrypted: an enclave with another key leaves the command to the one that has it.
        #[n(0)]
        recipient: hpke::PublicKey,
        /// [`CredentialRecord`], made by [`seal_credential`].
        #[n(1)]
        sealed: hpke::Sealed,
    },
    /// Accept this SigV4 credential no longer.
    #[n(6)]
    RemoveCredential {
        /// The credential.
        #[n(0)]
        access_key_id: AccessKeyId,
    },
    /// Answer with a certificate signing request for the TLS key.
    #[n(7)]
    RequestCertificate,
    /// Serve this certificate chain, whose leaf must hold the TLS key and the host name.
    #[n(8)]
    InstallCertificate {
        /// Leaf first.
        #[n(0)]
        chain: Vec<DerCertificate>,
    },
}

impl Action {
    /// Signatures that the action needs.
    #[must_use]
    pub const fn threshold(&self, thresholds: &Thresholds) -> u8 {
        match self {
            Self::CreateKey { .. } | Self::EnableKey { .. } | Self::DisableKey { .. } => thresholds.keys,
            Self::CreateCredential | Self::ImportCredential { .. } | Self::RemoveCredential { .. } => {
                thresholds.credentials
            }
            Self::InstallCertificate { .. } => thresholds.identity,
            // Neither changes anything nor shows a secret.
            Self::ListKeys | Self::RequestCertificate => 1,
        }
    }
}

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

// --- Results ----------------------------------------------------------------------------------------------------------------

/// What came of a command.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Outcome {
    /// Carried out.
    #[n(0)]
    Done,
    /// Not carried out; nothing changed.
    #[n(1)]
    Refused {
        /// Why, and what to do.
        #[n(0)]
        reason: String,
    },
    /// To [`Action::ListKeys`].
    #[n(2)]
    Keys {
        /// Sorted by id.
        #[n(0)]
        keys: Vec<KeyDescription>,
    },
    /// To [`Action::CreateCredential`], and of a ceremony.
    #[n(3)]
    Credential {
        /// The credential.
        #[n(0)]
        credential: CredentialRecord,
    },
    /// To [`Action::RequestCertificate`].
    #[n(4)]
    CertificateRequest {
        /// PKCS #10 in DER.
        #[cbor(n(0), with = "minicbor::bytes")]
        der: Vec<u8>,
    },
}

message!(Outcome, limits::RESULT_MAX, "outcome", |outcome| match outcome {
    Outcome::Keys { keys } if keys.len() > limits::EXTERNAL_KEYS_MAX => Err("lists too many keys"),
    _ => Ok(()),
});

/// One line of a list of keys.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct KeyDescription {
    /// As in the URI.
    #[n(0)]
    pub id: ExternalKeyId,
    /// What it may be used for.
    #[n(1)]
    pub usage: KeyUsage,
    /// Whether it may be used.
    #[n(2)]
    pub state: KeyState,
    /// Number of the version that encrypts.
    #[n(3)]
    pub current_version: u32,
    /// How many versions decrypt.
    #[n(4)]
    pub versions: u32,
}

/// An outcome and the proof that an attested enclave made it.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ResultContent {
    /// [`Outcome`], encoded: the bytes that the document vouches for.
    #[cbor(n(0), with = "crate::cbor::secret_bytes")]
    pub outcome: SecretBytes,
    /// An attestation document with [`ResultUserData`] in `user_data` and the command's id as its nonce.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub document: Vec<u8>,
}

message!(ResultContent, limits::RESULT_MAX, "result");

/// What a document that vouches for a result says in `user_data`.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ResultUserData {
    /// [`labels::ATTEST_RESULT`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// The command.
    #[n(2)]
    pub command_id: CommandId,
    /// SHA-384 of the encoded outcome.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub outcome_sha384: [u8; 48],
}

message!(ResultUserData, 512, "result user_data", |user_data| {
    if user_data.label == labels::ATTEST_RESULT { Ok(()) } else { Err("was made for another purpose") }
});

impl ResultUserData {
    /// For an encoded outcome.
    #[must_use]
    pub fn new(key_store_id: KeyStoreId, command_id: CommandId, outcome: &[u8]) -> Self {
        let outcome_sha384 = crate::sha384(&[outcome]);
        Self { label: labels::ATTEST_RESULT.to_owned(), key_store_id, command_id, outcome_sha384 }
    }
}

/// A result as a custodian keeps it: it learns which command is done, and nothing of what came of it.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct SealedResult {
    /// The command. A ceremony's result has [`ceremony_id`].
    #[n(0)]
    pub command_id: CommandId,
    /// Who can open it.
    #[n(1)]
    pub recipient: AdministratorId,
    /// [`ResultContent`].
    #[n(2)]
    pub sealed: hpke::Sealed,
}

message!(SealedResult, limits::RESULT_MAX, "sealed result");

/// Under which id the result of a key store's ceremony is kept.
#[must_use]
pub fn ceremony_id(key_store_id: KeyStoreId) -> CommandId {
    let mut id = [0; 16];
    id.iter_mut().zip(key_store_id.as_bytes()).for_each(|(to, from)| *to = *from);
    CommandId(id)
}

/// Encrypts a result to an administrator.
///
/// # Errors
/// [`CommandError`] when the content is too large or the key is no point of the curve.
pub fn seal_result(
    content: &ResultContent,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    recipient: &Administrator,
) -> Result<SealedResult, CommandError> {
    let info = result_info(key_store_id, command_id, recipient.id());
    let (sealed, _) = hpke::seal(&recipient.encryption_key, &info, &[], &cbor::encode(content))?;
    let result = SealedResult { command_id, recipient: recipient.id(), sealed };
    cbor::decode::<SealedResult>(&cbor::encode(&result))?;
    Ok(result)
}

/// Opens a result. The outcome is proven only once its document has been verified.
///
/// # Errors
/// [`CommandError`].
pub fn open_result(
    result: &SealedResult,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    recipient: AdministratorId,
    key: &hpke::PrivateKey,
) -> Result<ResultContent, CommandError> {
    if result.command_id != command_id {
        return Err(CommandError::OtherCommand);
    }
    let info = result_info(key_store_id, command_id, recipient);
    let (plaintext, _) = hpke::open(key, &info, &[], &result.sealed)?;
    Ok(cbor::decode(&plaintext)?)
}

fn result_info(key_store_id: KeyStoreId, command_id: CommandId, recipient: AdministratorId) -> Vec<u8> {
    hpke::bind(labels::HPKE_RESULT, &[key_store_id.as_bytes(), command_id.as_bytes(), recipient.as_bytes()])
}

// --- Imported credentials ---------------------------------------------------------------------------------------------------

/// Encrypts a credential to an attested enclave's key, for one command.
///
/// # Errors
/// [`CommandError`] when the credential breaks a rule or the key is no point of the curve.
pub fn seal_credential(
    credential: &CredentialRecord,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    recipient: &hpke::PublicKey,
) -> Result<hpke::Sealed, CommandError> {
    let plaintext = cbor::encode(credential);
    cbor::decode::<CredentialRecord>(&plaintext)?;
    Ok(hpke::seal(recipient, &import_info(key_store_id, command_id), &[], &plaintext)?.0)
}

/// Enclave: opens an imported credential.
///
/// # Errors
/// [`CommandError`].
pub fn open_credential(
    sealed: &hpke::Sealed,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    key: &hpke::PrivateKey,
) -> Result<CredentialRecord, CommandError> {
    let (plaintext, _) = hpke::open(key, &import_info(key_store_id, command_id), &[], sealed)?;
    Ok(cbor::decode(&plaintext)?)
}

fn import_info(key_store_id: KeyStoreId, command_id: CommandId) -> Vec<u8> {
    hpke::bind(labels::HPKE_IMPORT, &[key_store_id.as_bytes(), command_id.as_bytes()])
}
