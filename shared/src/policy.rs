//! Release policies as they change: signed updates, and approvals of a boot's releases.
//!
//! Guarantees: an update obtained by [`open`] was signed by as many administrators as changes of custody need and is newer than the
//! policy in force, so that a replayed old one does nothing; an approval was signed by one administrator for one boot, and ends.
//! Each custodian is told by itself and keeps to what it was told. Refuses: another trust root, which only a new key store may have.

use ring::rand::SecureRandom;

use crate::cbor::{self, DecodeError, message};
use crate::ids::{AdministratorId, BootId, KeyStoreId};
use crate::labels;
use crate::limits;
use crate::manifest::{Manifest, ReleasePolicy, VerifiedManifest, check_policy};
use crate::signature::{Envelope, SignatureError, SigningKey};

/// A new release policy.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct PolicyUpdate {
    /// [`labels::POLICY`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// The whole policy; its epoch is above that of the one before.
    #[n(2)]
    pub policy: ReleasePolicy,
    /// When it was signed, milliseconds since 1970: for people and records; nothing depends on it.
    #[n(3)]
    pub issued_ms: u64,
}

message!(PolicyUpdate, limits::MANIFEST_MAX, "release policy", |update| {
    if update.label != labels::POLICY {
        Err("is not a release policy of this version")
    } else if update.policy.epoch < 2 {
        Err("the epoch of an update is 2 or more")
    } else {
        check_policy(&update.policy)
    }
});

/// The approval of one boot of an enclave.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ReleaseApproval {
    /// [`labels::APPROVAL`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// The boot, as attested.
    #[n(2)]
    pub boot_id: BootId,
    /// Until then the boot may obtain releases, milliseconds since 1970.
    #[n(3)]
    pub expires_ms: u64,
}

message!(ReleaseApproval, 256, "release approval", |approval| {
    if approval.label == labels::APPROVAL { Ok(()) } else { Err("is not a release approval of this version") }
});

/// Why an update or an approval was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not an update, or not an approval.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not signed by enough administrators.
    #[error("release policy: {0}")]
    Signature(#[from] SignatureError),
    /// About another key store.
    #[error("release policy: of another key store")]
    OtherKeyStore,
    /// Not newer than the one in force.
    #[error("release policy: epoch {offered} is not above {current}; make it anew")]
    Stale {
        /// The epoch in force.
        current: u64,
        /// The epoch offered.
        offered: u64,
    },
    /// So far ahead that later updates would run out of epochs.
    #[error("release policy: the epoch may be {highest} at most, not {offered}; make it anew")]
    Ahead {
        /// The highest accepted.
        highest: u64,
        /// The epoch offered.
        offered: u64,
    },
    /// Another root than the manifest's.
    #[error("release policy: names another trust root than the manifest; that needs another key store")]
    TrustRoot,
    /// More approvals than there are administrators.
    #[error("release policy: needs more approvals of a release than there are administrators")]
    Approvals,
}

/// Signs an update with the first administrator's key.
///
/// # Errors
/// [`PolicyError`] when it breaks a rule or signing fails.
pub fn sign(update: &PolicyUpdate, key: &SigningKey, rng: &dyn SecureRandom) -> Result<Envelope, PolicyError> {
    let bytes = cbor::encode(update);
    cbor::decode::<PolicyUpdate>(&bytes)?;
    Ok(Envelope::seal(labels::POLICY, &bytes, key, rng)?)
}

/// Verifies a signed update as the successor of the policy with epoch `current`.
///
/// # Errors
/// [`PolicyError`]; [`PolicyError::Stale`] when it is not newer.
pub fn open(signed: &[u8], manifest: &VerifiedManifest, current: u64) -> Result<ReleasePolicy, PolicyError> {
    let (length, max) = (signed.len(), limits::MANIFEST_MAX);
    if length > max {
        return Err(DecodeError::TooLong { name: "release policy", length, max }.into());
    }
    let envelope: Envelope = cbor::decode(signed)?;
    let contents: &Manifest = manifest.manifest();
    let keys: Vec<_> = contents.administrators.iter().map(|administrator| administrator.signing_key).collect();
    let (payload, _) = envelope.open(labels::POLICY, &keys, usize::from(contents.thresholds.custody))?;
    let update: PolicyUpdate = cbor::decode(payload)?;
    if update.key_store_id != manifest.id() {
        return Err(PolicyError::OtherKeyStore);
    }
    let policy = update.policy;
    let (offered, highest) = (policy.epoch, current.saturating_add(limits::BLOCK_EPOCH_STEP_MAX));
    if offered <= current {
        return Err(PolicyError::Stale { current, offered });
    }
    if offered > highest {
        return Err(PolicyError::Ahead { highest, offered });
    }
    if policy.trust_root != contents.release_policy.trust_root {
        return Err(PolicyError::TrustRoot);
    }
    if policy.approvals.is_some_and(|needed| usize::from(needed.get()) > contents.administrators.len()) {
        return Err(PolicyError::Approvals);
    }
    Ok(policy)
}

/// Signs an approval.
///
/// # Errors
/// [`PolicyError::Signature`].
pub fn approve(approval: &ReleaseApproval, key: &SigningKey, rng: &dyn SecureRandom) -> Result<Vec<u8>, PolicyError> {
    let envelope = Envelope::seal(labels::APPROVAL, &cbor::encode(approval), key, rng)?;
    Ok(cbor::encode(&envelope).to_vec())
}

/// Verifies a signed approval. Returns it with the administrators who signed it.
///
/// # Errors
/// [`PolicyError`].
pub fn open_approval(
    signed: &[u8],
    manifest: &VerifiedManifest,
) -> Result<(ReleaseApproval, Vec<AdministratorId>), PolicyError> {
    let envelope: Envelope = cbor::decode(signed)?;
    let keys: Vec<_> = manifest.manifest().administrators.iter().map(|a| a.signing_key).collect();
    let (payload, signers) = envelope.open(labels::APPROVAL, &keys, 1)?;
    let approval: ReleaseApproval = cbor::decode(payload)?;
    if approval.key_store_id != manifest.id() {
        return Err(PolicyError::OtherKeyStore);
    }
    Ok((approval, signers.into_iter().map(AdministratorId).collect()))
}
