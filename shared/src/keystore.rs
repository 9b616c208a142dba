//! The sealed key store: everything that an enclave must remember, encrypted under the root key.
//!
//! ```text
//! blob = CBOR [ header, ciphertext ]       id = SHA-256(blob)
//! key  = HKDF-SHA256(root, salt = header.salt, info = label ‖ key store id ‖ version)
//! ciphertext = AES-256-GCM(key, nonce = 0, AAD = header bytes, body)
//! ```
//! The salt is 32 random bytes for each sealing, so the AES key is used once and its nonce may be constant.
//!
//! Guarantees: an [`OpenedKeyStore`] is the very blob that the register names, of that version, with that predecessor. Two
//! blobs sealed for the same version have different ids, and the one that the register does not name is refused.

mod budgets;
mod records;
mod standing;
mod using;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

pub use self::budgets::{Budget, BudgetSpan, BudgetWindow, KeyBudget, UseBudgets, granted};
pub(crate) use self::records::check_chain;
use self::records::check_external_key;
pub use self::records::{
    ClientAuthentication, CredentialRecord, ExecutedCommand, ExternalKeyRecord, KeyVersionRecord, Quota, Sharing,
    TlsIdentity, VersionState,
};
pub use self::standing::{AcmeOrder, RenewalAttempt, RenewalProgress, StandingRenewal};
pub use self::using::{KeyLimit, UseLimits, UsePolicy};
use crate::audit::AuditSettings;
use crate::cbor::{self, DecodeError, Message, message};
use crate::hpke;
use crate::ids::{BlobId, KeyStoreId};
use crate::labels;
use crate::limits;
use crate::manifest::{Administrator, ManifestId, Thresholds};
use crate::register::RegisterEntry;
use crate::secrets::{Secret, with_swept_stack};
use crate::xks::{HostName, PathPrefix};

/// The readable part of a blob.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Header {
    /// [`labels::SEAL`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// Starts at 1, grows by one with each change.
    #[n(2)]
    pub version: u64,
    /// The blob before this one; absent for version 1.
    #[n(3)]
    pub previous: Option<BlobId>,
    /// Generation of the root key.
    #[n(4)]
    pub generation: u32,
    /// Random for each sealing.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub salt: [u8; 32],
}

message!(Header, 512, "sealed key store header", |header| {
    if header.label != labels::SEAL {
        Err("is not a sealed key store of this version")
    } else if header.version == 0 || (header.version == 1) != header.previous.is_none() {
        Err("version 1 alone has no predecessor")
    } else {
        Ok(())
    }
});

#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
struct Blob {
    #[cbor(n(0), with = "minicbor::bytes")]
    header: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    ciphertext: Vec<u8>,
}

message!(Blob, limits::BLOB_MAX, "sealed key store");

/// The secret part of a blob.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Body {
    /// The name that KMS calls.
    #[n(0)]
    pub host_name: HostName,
    /// The path before `/kms/xks/v1`.
    #[n(1)]
    pub path_prefix: PathPrefix,
    /// TLS key and certificate chain.
    #[n(2)]
    pub tls: TlsIdentity,
    /// Live SigV4 credentials.
    #[n(3)]
    pub credentials: Vec<CredentialRecord>,
    /// External keys, sorted by id.
    #[n(4)]
    pub external_keys: Vec<ExternalKeyRecord>,
    /// Who orders changes.
    #[n(5)]
    pub administrators: Vec<Administrator>,
    /// How many of them each kind of order needs.
    #[n(6)]
    pub thresholds: Thresholds,
    /// Commands carried out, kept until they expire, so that none is carried out twice.
    #[n(7)]
    pub executed: Vec<ExecutedCommand>,
    /// How often the keys may be used; without it, as often as KMS asks.
    #[n(8)]
    pub quota: Option<Quota>,
    /// Which client certificates are accepted; without it, none is asked for.
    #[n(9)]
    pub client_authentication: Option<ClientAuthentication>,
    /// How the root key is shared.
    #[n(10)]
    pub sharing: Option<Sharing>,
    /// Which successor of the first manifest is in force; absent for the first.
    #[n(11)]
    pub successor: Option<SuccessorInForce>,
    /// By which standing order the TLS certificate is renewed; without it, by signed commands alone.
    #[n(12)]
    pub renewal: Option<StandingRenewal>,
    /// Who may use the keys for what; without it, whoever KMS lets.
    #[n(13)]
    pub policy: Option<UsePolicy>,
    /// How often keys and principals may come, beside the quota.
    #[n(14)]
    pub limits: Option<UseLimits>,
    /// How many uses keys have in an hour and in a day, in all enclaves together.
    #[n(15)]
    pub budgets: Option<UseBudgets>,
    /// Who reads the audit log, and under which terms it is kept; without it, every administrator reads, under
    /// [`Terms::DEFAULT`](crate::audit::Terms::DEFAULT).
    #[n(16)]
    pub audit: Option<AuditSettings>,
}

/// A successor manifest under which a key store is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct SuccessorInForce {
    /// Which manifest.
    #[n(0)]
    pub manifest: ManifestId,
    /// The first version that was made under it. Those that held shares before, and those that hold them since, must have that one.
    #[n(1)]
    pub since_version: u64,
}

impl Body {
    /// The manifest under which this was made.
    #[must_use]
    pub fn manifest_id(&self, key_store_id: KeyStoreId) -> ManifestId {
        self.successor.map_or(ManifestId::first(key_store_id), |successor| successor.manifest)
    }
}

// These bounds may grow and never shrink: what one image sealed every later one must open, or nobody could mend it by an order.
message!(Body, limits::BLOB_MAX, "key store", |body| {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    rule(body.external_keys.len() <= limits::EXTERNAL_KEYS_MAX, "has too many external keys")?;
    rule(body.external_keys.is_sorted_by(|a, b| a.id < b.id), "the external keys must be sorted, each once")?;
    body.external_keys.iter().try_for_each(check_external_key)?;
    rule(body.credentials.len() <= limits::CREDENTIALS_MAX, "has too many credentials")?;
    body.credentials.iter().try_for_each(Message::check)?;
    check_chain(&body.tls.chain)?;
    rule((1..=limits::ADMINISTRATORS_MAX).contains(&body.administrators.len()), "needs 1 to 16 administrators")?;
    rule(body.executed.len() <= limits::EXECUTED_COMMANDS_MAX, "remembers too many commands")?;
    body.quota.iter().try_for_each(Message::check)?;
    body.client_authentication.iter().try_for_each(Message::check)?;
    body.renewal.iter().try_for_each(Message::check)?;
    body.policy.iter().try_for_each(Message::check)?;
    body.limits.iter().try_for_each(Message::check)?;
    body.budgets.iter().try_for_each(Message::check)?;
    body.audit.iter().try_for_each(Message::check)?;
    body.sharing.iter().try_for_each(|sharing| sharing.set.check())?;
    rule(
        body.successor.is_none_or(|successor| successor.manifest.sequence >= 2 && successor.since_version >= 1),
        "the first successor of a manifest has sequence 2, and came with a version",
    )
});

/// Why a blob was refused or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyStoreError {
    /// Not a sealed key store.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not the blob that the register names.
    #[error("sealed key store: is not the one that the register names for version {version}")]
    NotRegistered {
        /// The register's version.
        version: u64,
    },
    /// Another root key, or changed bytes.
    #[error("sealed key store: does not open under this root key")]
    OpenFailed,
    /// Too large, or no randomness.
    #[error("sealed key store: {0}")]
    SealFailed(&'static str),
}

/// A sealed key store with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKeyStore {
    /// SHA-256 of `bytes`.
    pub id: BlobId,
    /// The blob.
    pub bytes: Vec<u8>,
}

/// An opened key store.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenedKeyStore {
    /// The readable part.
    pub header: Header,
    /// The secret part.
    pub body: Body,
    /// The blob's id.
    pub id: BlobId,
}

/// Names the version to be sealed.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The version.
    pub version: u64,
    /// The blob before it.
    pub previous: Option<BlobId>,
    /// Generation of the root key.
    pub generation: u32,
}

/// The id of a blob.
#[must_use]
pub fn blob_id(bytes: &[u8]) -> BlobId {
    BlobId(crate::sha256(&[bytes]))
}

/// The readable part of a blob, unproven: for a custodian, which holds no root key.
///
/// # Errors
/// [`KeyStoreError::Decode`].
pub fn header(bytes: &[u8]) -> Result<Header, KeyStoreError> {
    let blob: Blob = cbor::decode(bytes)?;
    Ok(cbor::decode(&blob.header)?)
}

/// Whether `body` is small enough to be sealed: room for everything else in a blob is left.
#[must_use]
pub fn fits(body: &Body) -> bool {
    let bytes = cbor::encode(body);
    bytes.len() <= limits::BLOB_MAX - HEADER_AND_FRAMING_MAX && cbor::is_within_budget(&bytes)
}

/// Bytes of a blob beside its body: the header, two framings and the tag.
const HEADER_AND_FRAMING_MAX: usize = 1024;

/// Seals `body` under `root`.
///
/// # Errors
/// [`KeyStoreError`] when the body breaks a rule, grows over [`limits::BLOB_MAX`], or there is no randomness.
pub fn seal(
    root: &Secret<32>,
    place: &Place,
    body: &Body,
    rng: &dyn SecureRandom,
) -> Result<SealedKeyStore, KeyStoreError> {
    let mut salt = [0; 32];
    rng.fill(&mut salt).map_err(|_| KeyStoreError::SealFailed("no randomness"))?;
    let header = Header {
        label: labels::SEAL.to_owned(),
        key_store_id: place.key_store_id,
        version: place.version,
        previous: place.previous,
        generation: place.generation,
        salt,
    };
    let header_bytes = cbor::encode(&header).to_vec();
    let mut ciphertext = cbor::encode(body);
    cbor::decode::<Body>(&ciphertext)?;
    let (nonce, aad) = (Nonce::assume_unique_for_key([0; 12]), Aad::from(&header_bytes));
    let tag = with_swept_stack(|| {
        sealing_key(root, &header)
            .ok_or(KeyStoreError::SealFailed("key derivation failed"))?
            .seal_in_place_separate_tag(nonce, aad, &mut ciphertext)
            .map_err(|_| KeyStoreError::SealFailed("encryption failed"))
    })?;
    let mut sealed = Vec::with_capacity(ciphertext.len() + tag.as_ref().len());
    sealed.extend_from_slice(&ciphertext);
    sealed.extend_from_slice(tag.as_ref());
    let bytes = cbor::encode(&Blob { header: header_bytes, ciphertext: sealed }).to_vec();
    if bytes.len() > limits::BLOB_MAX {
        return Err(KeyStoreError::SealFailed("too large"));
    }
    Ok(SealedKeyStore { id: blob_id(&bytes), bytes })
}

/// Opens the blob that `entry` names.
///
/// # Errors
/// [`KeyStoreError`].
pub fn open(root: &Secret<32>, entry: &RegisterEntry, bytes: &[u8]) -> Result<OpenedKeyStore, KeyStoreError> {
    let id = blob_id(bytes);
    let not_registered = KeyStoreError::NotRegistered { version: entry.version };
    if id != entry.blob_id {
        return Err(not_registered);
    }
    let blob: Blob = cbor::decode(bytes)?;
    let header: Header = cbor::decode(&blob.header)?;
    if header.key_store_id != entry.key_store_id || header.version != entry.version || header.previous != entry.previous
    {
        return Err(not_registered);
    }
    let mut buffer = Zeroizing::new(blob.ciphertext);
    let (nonce, aad) = (Nonce::assume_unique_for_key([0; 12]), Aad::from(&blob.header));
    let plaintext = with_swept_stack(|| {
        sealing_key(root, &header)
            .ok_or(KeyStoreError::OpenFailed)?
            .open_in_place(nonce, aad, &mut buffer)
            .map_err(|_| KeyStoreError::OpenFailed)
    })?;
    let body = cbor::decode(plaintext)?;
    Ok(OpenedKeyStore { header, body, id })
}

fn sealing_key(root: &Secret<32>, header: &Header) -> Option<LessSafeKey> {
    let info = hpke::bind(labels::SEAL, &[header.key_store_id.as_bytes(), &header.version.to_be_bytes()]);
    let mut key = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &header.salt)
        .extract(root.expose())
        .expand(&[&info], HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .ok()?;
    UnboundKey::new(&AES_256_GCM, key.as_slice()).ok().map(LessSafeKey::new)
}
