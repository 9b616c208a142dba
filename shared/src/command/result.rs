//! Results: what enclaves answer to commands.
//!
//! Guarantees: a result is encrypted to the administrator who signed first, and carries an attestation document over it, since
//! encryption alone does not prove who encrypted. A custodian that keeps it learns which command is done and nothing else.

use super::CommandError;
use crate::audit::AuditSettings;
use crate::cbor::{self, Message, message};
use crate::external_key::{ExternalKeyId, KeyState, KeyUsage};
use crate::hpke;
use crate::ids::{AdministratorId, CommandId, KeyStoreId};
use crate::keystore::{
    AcmeOrder, ClientAuthentication, CredentialRecord, Quota, RenewalProgress, UseBudgets, UseLimits, UsePolicy,
    VersionState, check_chain,
};
use crate::labels;
use crate::limits;
use crate::manifest::{Administrator, DerCertificate};
use crate::secrets::SecretBytes;
use crate::xks::HostName;

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
    /// To [`Action::ListKeys`](super::Action::ListKeys).
    #[n(2)]
    Keys {
        /// Sorted by id.
        #[n(0)]
        keys: Vec<KeyDescription>,
    },
    /// To [`Action::CreateCredential`](super::Action::CreateCredential), and of a ceremony.
    #[n(3)]
    Credential {
        /// The credential.
        #[n(0)]
        credential: CredentialRecord,
    },
    /// To [`Action::RequestCertificate`](super::Action::RequestCertificate).
    #[n(4)]
    CertificateRequest {
        /// PKCS #10 in DER.
        #[cbor(n(0), with = "minicbor::bytes")]
        der: Vec<u8>,
    },
    /// To [`Action::ShowSettings`](super::Action::ShowSettings).
    #[n(5)]
    Settings {
        /// How often the keys may be used.
        #[n(0)]
        quota: Option<Quota>,
        /// Which client certificates are accepted.
        #[n(1)]
        client_authentication: Option<ClientAuthentication>,
        /// How often keys and principals may come.
        #[n(2)]
        limits: Option<UseLimits>,
        /// Who reads the audit log, and under which terms it is kept.
        #[n(3)]
        audit: Option<AuditSettings>,
        /// How many uses keys have.
        #[n(4)]
        budgets: Option<UseBudgets>,
    },
    /// To [`Action::ShowTls`](super::Action::ShowTls).
    #[n(6)]
    Tls {
        /// The name that KMS calls.
        #[n(0)]
        host_name: HostName,
        /// SHA-256 of the TLS key's `SubjectPublicKeyInfo` in DER.
        #[cbor(n(1), with = "minicbor::bytes")]
        public_key_sha256: [u8; 32],
        /// Leaf first; empty before the first certificate.
        #[n(2)]
        chain: Vec<DerCertificate>,
        /// The standing order to renew it.
        #[n(3)]
        renewal: Option<Box<RenewalState>>,
    },
    /// To [`Action::ShowPolicy`](super::Action::ShowPolicy).
    #[n(7)]
    Policy {
        /// The policy in force.
        #[n(0)]
        policy: Option<UsePolicy>,
        /// The key store's version that holds it.
        #[n(1)]
        version: u64,
    },
}

/// A standing order and how it goes.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct RenewalState {
    /// The order.
    #[n(0)]
    pub order: AcmeOrder,
    /// How it goes.
    #[n(1)]
    pub progress: RenewalProgress,
}

message!(Outcome, limits::RESULT_MAX, "outcome", |outcome| match outcome {
    Outcome::Keys { keys } if keys.len() > limits::EXTERNAL_KEYS_MAX => Err("lists too many keys"),
    Outcome::Keys { keys } if keys.iter().any(|key| !key.runs_are_in_order()) => {
        Err("the versions of a key must be listed upwards, each once")
    }
    Outcome::Settings { quota, client_authentication, limits, audit, budgets } => {
        quota.iter().try_for_each(Message::check)?;
        limits.iter().try_for_each(Message::check)?;
        budgets.iter().try_for_each(Message::check)?;
        client_authentication.iter().try_for_each(Message::check)?;
        audit.iter().try_for_each(Message::check)
    }
    Outcome::Tls { chain, renewal, .. } => {
        check_chain(chain)?;
        renewal.iter().try_for_each(|renewal| renewal.order.check().and_then(|()| renewal.progress.check()))
    }
    Outcome::Policy { policy, .. } => policy.iter().try_for_each(Message::check),
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
    /// All versions, destroyed ones too, upwards; empty where the whole list would have more than
    /// [`limits::LISTED_RUNS_MAX`] runs.
    #[n(5)]
    pub runs: Vec<VersionRun>,
    /// When it is destroyed unless that is cancelled, milliseconds since 1970.
    #[n(6)]
    pub destroy_after_ms: Option<u64>,
}

/// Consecutive versions in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct VersionRun {
    /// The lowest number.
    #[n(0)]
    pub first: u32,
    /// The highest number.
    #[n(1)]
    pub last: u32,
    /// What became of them.
    #[n(2)]
    pub state: VersionState,
}

impl KeyDescription {
    fn runs_are_in_order(&self) -> bool {
        self.runs.iter().all(|run| run.first <= run.last)
            && self.runs.is_sorted_by(|before, after| before.last < after.first)
    }
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
