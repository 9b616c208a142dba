//! The block overlay: what must not be used, ordered by administrators.
//!
//! An overlay states the whole of what is blocked and carries an epoch that grows with each statement, so that a replayed
//! old one does nothing. Guarantees: a [`BlockOverlay`] obtained by [`open`] was signed by enough administrators for the
//! step from the overlay before it: lifting any block may need more of them than adding one.

use ring::rand::SecureRandom;

use crate::cbor::{self, DecodeError, message};
use crate::external_key::ExternalKeyId;
use crate::ids::KeyStoreId;
use crate::labels;
use crate::limits;
use crate::manifest::{Administrator, Thresholds, VerifiedManifest};
use crate::signature::{Envelope, SignatureError, SigningKey};

/// Everything that is blocked in one key store.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct BlockOverlay {
    /// [`labels::BLOCK`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// Grows by one with each overlay; the first is 1.
    #[n(2)]
    pub epoch: u64,
    /// Whether the whole key store is blocked.
    #[n(3)]
    pub store: bool,
    /// Blocked keys, sorted, each once. They need not exist.
    #[n(4)]
    pub keys: Vec<ExternalKeyId>,
    /// When it was signed, milliseconds since 1970: for people and records; nothing depends on it.
    #[n(5)]
    pub issued_ms: u64,
}

message!(BlockOverlay, limits::BLOCK_OVERLAY_MAX, "block overlay", |overlay| {
    if overlay.label != labels::BLOCK {
        Err("is not a block overlay of this version")
    } else if overlay.epoch == 0 {
        Err("the first epoch is 1")
    } else if overlay.keys.len() > limits::BLOCKED_KEYS_MAX {
        Err("blocks too many keys")
    } else if !overlay.keys.is_sorted_by(|a, b| a < b) {
        Err("the keys must be sorted, each once")
    } else {
        Ok(())
    }
});

/// Why a block overlay was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Not a block overlay.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not signed by enough administrators.
    #[error("block overlay: {0}")]
    Signature(#[from] SignatureError),
    /// About another key store.
    #[error("block overlay: of another key store")]
    OtherKeyStore,
    /// Not newer than the one in force.
    #[error("block overlay: epoch {offered} is not above {current}")]
    Stale {
        /// The epoch in force.
        current: u64,
        /// The epoch offered.
        offered: u64,
    },
}

impl BlockOverlay {
    /// Whether going from `self` to `next` lifts any block.
    #[must_use]
    pub fn lifts(&self, next: &Self) -> bool {
        (self.store && !next.store) || self.keys.iter().any(|key| next.keys.binary_search(key).is_err())
    }
}

/// Signs an overlay with one administrator's key.
///
/// # Errors
/// [`SignatureError::SigningFailed`].
pub fn sign(overlay: &BlockOverlay, key: &SigningKey, rng: &dyn SecureRandom) -> Result<Envelope, SignatureError> {
    Envelope::seal(labels::BLOCK, &cbor::encode(overlay), key, rng)
}

/// [`open`] with the administrators whose signatures count for the overlay's epoch: one from before a change of administrators
/// stays in force.
///
/// # Errors
/// [`BlockError`].
pub fn open_under(
    signed: &[u8],
    manifest: &VerifiedManifest,
    current: Option<&BlockOverlay>,
) -> Result<BlockOverlay, BlockError> {
    let claimed = claimed(signed)?;
    let (administrators, thresholds) = manifest.overlay_signers(claimed.epoch);
    open(signed, manifest.id(), administrators, thresholds, current)
}

/// [`open_under`] for one that may be of the very epoch in force: two groups of administrators may have blocked without knowing of each
/// other, each at other custodians. What either blocks is blocked then; nothing is lifted.
///
/// # Errors
/// [`BlockError`].
pub fn open_beside(
    signed: &[u8],
    manifest: &VerifiedManifest,
    current: Option<&BlockOverlay>,
) -> Result<BlockOverlay, BlockError> {
    let claimed = claimed(signed)?;
    let Some(current) = current.filter(|current| current.epoch == claimed.epoch) else {
        return open_under(signed, manifest, current);
    };
    let mut both = open_under(signed, manifest, None)?;
    both.store |= current.store;
    both.keys.extend(current.keys.iter().cloned());
    both.keys.sort_unstable();
    both.keys.dedup();
    Ok(both)
}

/// What an overlay says, whoever signed it.
///
/// # Errors
/// When it is none.
pub fn claimed(signed: &[u8]) -> Result<BlockOverlay, DecodeError> {
    check_length(signed)?;
    let envelope: Envelope = cbor::decode(signed)?;
    cbor::decode(envelope.unverified_payload())
}

fn check_length(signed: &[u8]) -> Result<(), DecodeError> {
    let (length, max) = (signed.len(), limits::BLOCK_OVERLAY_MAX);
    if length > max { Err(DecodeError::TooLong { name: "block overlay", length, max }) } else { Ok(()) }
}

/// Verifies a signed overlay as the successor of `current` (none: nothing is blocked).
///
/// # Errors
/// [`BlockError`]; [`BlockError::Stale`] when it is not newer, so that a replay changes nothing.
pub fn open(
    signed: &[u8],
    key_store_id: KeyStoreId,
    administrators: &[Administrator],
    thresholds: Thresholds,
    current: Option<&BlockOverlay>,
) -> Result<BlockOverlay, BlockError> {
    check_length(signed)?;
    let envelope: Envelope = cbor::decode(signed)?;
    let claimed: BlockOverlay = cbor::decode(envelope.unverified_payload())?;
    let lifts = current.is_some_and(|current| current.lifts(&claimed));
    let needed = if lifts { thresholds.unblock.max(thresholds.block) } else { thresholds.block };
    let keys: Vec<_> = administrators.iter().map(|administrator| administrator.signing_key).collect();
    envelope.open(labels::BLOCK, &keys, usize::from(needed))?;
    if claimed.key_store_id != key_store_id {
        return Err(BlockError::OtherKeyStore);
    }
    let current_epoch = current.map_or(0, |current| current.epoch);
    if claimed.epoch <= current_epoch {
        return Err(BlockError::Stale { current: current_epoch, offered: claimed.epoch });
    }
    Ok(claimed)
}
