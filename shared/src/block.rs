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
    /// One that blocks nothing.
    #[must_use]
    pub fn nothing(key_store_id: KeyStoreId) -> Self {
        let label = labels::BLOCK.to_owned();
        Self { label, key_store_id, epoch: 1, store: false, keys: Vec::new(), issued_ms: 0 }
    }

    /// What this one or another blocks, under the higher epoch.
    #[must_use]
    pub fn with(&self, other: Option<&Self>) -> Self {
        let Some(other) = other else { return self.clone() };
        let mut both = if self.epoch >= other.epoch { self.clone() } else { other.clone() };
        both.store = self.store || other.store;
        both.keys = self.keys.iter().chain(&other.keys).cloned().collect();
        both.keys.sort_unstable();
        both.keys.dedup();
        both
    }

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

/// An overlay whose signatures were verified by themselves, whatever came before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedOverlay {
    /// What it says.
    pub overlay: BlockOverlay,
    /// Whether as many signed as lifting a block needs: then it says all that is blocked, and otherwise what is blocked besides.
    pub may_lift: bool,
}

/// Verifies an overlay where those before it are not known.
///
/// # Errors
/// [`BlockError`]: too few signed even for blocking.
pub fn read(signed: &[u8], manifest: &VerifiedManifest) -> Result<SignedOverlay, BlockError> {
    let overlay = open_under(signed, manifest, None)?;
    let (administrators, thresholds) = manifest.overlay_signers(overlay.epoch);
    let keys: Vec<_> = administrators.iter().map(|administrator| administrator.signing_key).collect();
    let needed = usize::from(thresholds.unblock.max(thresholds.block));
    let may_lift = needed <= usize::from(thresholds.block)
        || cbor::decode::<Envelope>(signed)?.open(labels::BLOCK, &keys, needed).is_ok();
    Ok(SignedOverlay { overlay, may_lift })
}

/// The newest epoch at which everything before was stated anew; 0 for none.
pub fn lifted_at<'o>(overlays: impl Iterator<Item = &'o SignedOverlay>) -> u64 {
    overlays.filter(|one| one.may_lift).map(|one| one.overlay.epoch).max().unwrap_or(0)
}

/// What these overlays block together, in whatever order they came: what the newest says that may lift, and what others say that are not
/// older.
pub fn in_force<'o>(overlays: impl Iterator<Item = &'o SignedOverlay> + Clone) -> Option<BlockOverlay> {
    let lifted_at = lifted_at(overlays.clone());
    let counts = overlays.map(|one| &one.overlay).filter(|overlay| overlay.epoch >= lifted_at);
    counts.fold(None, |blocks, overlay| Some(overlay.with(blocks.as_ref())))
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
