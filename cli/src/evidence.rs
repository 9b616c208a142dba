//! Attestation documents that an administrator receives, and what he may conclude from them.
//!
//! Guarantees: an [`Evidence`] exists only for a document that verified under the manifest's own trust root, shows
//! measurements that the manifest accepts, and says exactly what its use demands. Assumes: the manifest, since its id is
//! what the administrator chose to trust.
//!
//! Time: a document is read minutes or months after it was made (the result of a ceremony, the evidence of a long-lived
//! lease), when its certificates of three hours are long over. So its path is checked at the moment that the NSM signed into it,
//! and that moment must lie within what the use allows. Replay is excluded by other means: a result's document answers the
//! id of one command and holds the hash of one outcome; a lease's is vouched for by the custodian's fresh signature.

use holdfast_shared::attestation::{
    AppraisalError, Expectations, Expected, Measurements, ParseError, ParsedDocument, TrustRoot, VerifiedAttestation,
    VerifyError,
};
use holdfast_shared::cbor::{self, DecodeError};
use holdfast_shared::command::ResultUserData;
use holdfast_shared::hpke::PublicKey;
use holdfast_shared::ids::{BootId, CommandId, CustodianId, KeyStoreId};
use holdfast_shared::provenance::VersionUserData;
use holdfast_shared::query::LeaseInfo;
use holdfast_shared::release::ReleaseUserData;
use serde::Serialize;

use crate::home::KeyStore;
use crate::moment;
use crate::output::printable;

/// Longest age of the evidence behind a lease or of a result that was fetched later than it was ordered: a year and a day.
pub const EVIDENCE_AGE_MAX_MS: u64 = 366 * 24 * 3_600_000;

/// Why a document proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Not a document.
    #[error("the attestation document is malformed: {0}")]
    Parse(#[from] ParseError),
    /// Not signed under the manifest's trust root.
    #[error("the attestation document does not verify under the manifest's trust root: {0}")]
    Verify(#[from] VerifyError),
    /// Not of an accepted image, not for this use, or not of this time.
    #[error("the attestation document is refused: {0}")]
    Appraise(#[from] AppraisalError),
    /// The lease's document speaks of something else.
    #[error("the lease's attestation document was made for another purpose, key store, custodian or boot")]
    Elsewhere,
    /// What the enclave says about itself cannot be read.
    #[error("the lease's attestation document: {0}")]
    UserData(#[from] DecodeError),
    /// The attested key is not a key.
    #[error("the lease's attestation document has no usable public key")]
    PublicKey,
}

/// What a verified document proves about the enclave that asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The NSM's name for itself: instance and enclave.
    pub module_id: String,
    /// When the NSM made the document, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// What was measured.
    pub measurements: Measurements,
    /// SHA-256 of the root under which it verified.
    pub trust_root_sha256: String,
    /// Whether that root is an emulator's: then nothing protects the keys from the machine they are on.
    pub emulated: bool,
}

impl EvidenceError {
    /// Whether another image was measured than those that are accepted.
    #[must_use]
    pub const fn is_of_measurements(&self) -> bool {
        matches!(self, Self::Appraise(AppraisalError::Measurements))
    }
}

impl Evidence {
    fn new(attestation: &VerifiedAttestation, root: &TrustRoot) -> Self {
        Self {
            module_id: attestation.module_id().to_owned(),
            timestamp_ms: attestation.timestamp_ms(),
            measurements: attestation.measurements().clone(),
            trust_root_sha256: hex::encode(attestation.root_fingerprint()),
            emulated: !root.is_aws(),
        }
    }

    /// One line for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let root = if self.emulated { "EMULATED root, proves nothing about hardware" } else { "AWS Nitro root" };
        format!("attested by {} at {} ({root})", printable(&self.module_id), moment::format_ms(self.timestamp_ms))
    }
}

/// Verifies the document over the outcome of a command.
///
/// # Errors
/// [`EvidenceError`].
pub fn of_result(
    document: &[u8],
    outcome: &[u8],
    store: &KeyStore,
    command_id: CommandId,
    max_age_ms: u64,
    now_ms: u64,
) -> Result<Evidence, EvidenceError> {
    let user_data = cbor::encode(&ResultUserData::new(store.manifest.id(), command_id, outcome));
    let expected = Expectations {
        nonce: command_id.as_bytes(),
        max_age_ms,
        accepted: &store.accepted_at(made_ms(document)?),
        user_data: Expected::Exactly(&user_data),
        public_key: Expected::Any,
    };
    let attestation = verify(document, &store.trust_root, &expected, now_ms)?;
    Ok(Evidence::new(&attestation, &store.trust_root))
}

/// Verifies the document behind a lease and returns the attested key, to which a secret may be encrypted.
///
/// The nonce was the custodian's challenge, which the administrator never saw: it is taken as the document has it. That the
/// document is not an old one is the custodian's word, in an answer that it signed for this query; that its key is held by an
/// accepted image of this key store is proven by the document itself.
///
/// # Errors
/// [`EvidenceError`].
pub fn of_lease(
    lease: &LeaseInfo,
    store: &KeyStore,
    custodian_id: CustodianId,
    now_ms: u64,
) -> Result<(Evidence, PublicKey), EvidenceError> {
    of_release(&lease.document, lease.boot_id, store, custodian_id, now_ms)
}

/// The same for the document with which a boot asked for a release.
///
/// # Errors
/// [`EvidenceError`].
pub fn of_release(
    document: &[u8],
    boot_id: BootId,
    store: &KeyStore,
    custodian_id: CustodianId,
    now_ms: u64,
) -> Result<(Evidence, PublicKey), EvidenceError> {
    let parsed = ParsedDocument::parse(document)?;
    let expected = Expectations {
        nonce: parsed.claimed_nonce().unwrap_or_default(),
        max_age_ms: EVIDENCE_AGE_MAX_MS,
        accepted: &store.accepted(now_ms),
        user_data: Expected::Present,
        public_key: Expected::Present,
    };
    let attestation = verify(document, &store.trust_root, &expected, now_ms)?;
    let user_data: ReleaseUserData = cbor::decode(attestation.user_data().unwrap_or_default())?;
    let named = (user_data.key_store_id, user_data.custodian_id, user_data.boot_id);
    let wanted: (KeyStoreId, _, _) = (store.manifest.id(), custodian_id, boot_id);
    if named != wanted {
        return Err(EvidenceError::Elsewhere);
    }
    let key = attestation.public_key().unwrap_or_default();
    let key = key.try_into().map(PublicKey).map_err(|_| EvidenceError::PublicKey)?;
    Ok((Evidence::new(&attestation, &store.trust_root), key))
}

/// Verifies the document that vouches for a version, at the time at which it was made and against the measurements that were
/// accepted then. Returns what the enclave says of the version.
///
/// # Errors
/// [`EvidenceError`].
pub fn of_version(document: &[u8], store: &KeyStore) -> Result<(Evidence, VersionUserData), EvidenceError> {
    let attestation = at_its_time(document, store, Expected::Any)?;
    let said: VersionUserData = cbor::decode(attestation.user_data().unwrap_or_default())?;
    Ok((Evidence::new(&attestation, &store.trust_root), said))
}

/// Verifies the document on which an enclave that deposited a share at a custodian had its lease, at its own time.
///
/// # Errors
/// [`EvidenceError`].
pub fn of_deposit(document: &[u8], store: &KeyStore, custodian_id: CustodianId) -> Result<Evidence, EvidenceError> {
    let attestation = at_its_time(document, store, Expected::Present)?;
    let said: ReleaseUserData = cbor::decode(attestation.user_data().unwrap_or_default())?;
    if (said.key_store_id, said.custodian_id) != (store.manifest.id(), custodian_id) {
        return Err(EvidenceError::Elsewhere);
    }
    Ok(Evidence::new(&attestation, &store.trust_root))
}

/// Verifies the document on which a boot got its lease at a custodian, at its own time. Returns the key that signs the boot's audit
/// checkpoints.
///
/// # Errors
/// [`EvidenceError`].
pub fn of_audit_key(
    document: &[u8],
    boot_id: BootId,
    store: &KeyStore,
    custodian_id: CustodianId,
) -> Result<[u8; 32], EvidenceError> {
    let attestation = at_its_time(document, store, Expected::Present)?;
    let said: ReleaseUserData = cbor::decode(attestation.user_data().unwrap_or_default())?;
    if (said.key_store_id, said.custodian_id, said.boot_id) != (store.manifest.id(), custodian_id, boot_id) {
        return Err(EvidenceError::Elsewhere);
    }
    Ok(said.audit_public_key)
}

/// What is kept on record is judged at the time at which it was made, and its nonce taken as it is.
fn at_its_time(
    document: &[u8],
    store: &KeyStore,
    public_key: Expected<'_>,
) -> Result<VerifiedAttestation, EvidenceError> {
    let parsed = ParsedDocument::parse(document)?;
    let made_ms = parsed.claimed_timestamp_ms();
    let expected = Expectations {
        nonce: parsed.claimed_nonce().unwrap_or_default(),
        max_age_ms: 0,
        accepted: &store.accepted_at(made_ms),
        user_data: Expected::Present,
        public_key,
    };
    verify(document, &store.trust_root, &expected, made_ms)
}

fn made_ms(document: &[u8]) -> Result<u64, EvidenceError> {
    Ok(ParsedDocument::parse(document)?.claimed_timestamp_ms())
}

fn verify(
    document: &[u8],
    root: &TrustRoot,
    expected: &Expectations<'_>,
    now_ms: u64,
) -> Result<VerifiedAttestation, EvidenceError> {
    let parsed = ParsedDocument::parse(document)?;
    let made_ms = parsed.claimed_timestamp_ms();
    Ok(parsed.verify(root, made_ms)?.appraise(expected, now_ms)?)
}
