//! Signed manifests: the first of a key store, its successors, and what of them stands once signatures are checked.

use ring::rand::SecureRandom;

use super::{Administrator, Custodian, Manifest, Thresholds};
use crate::cbor::{self, DecodeError, message};
use crate::ids::KeyStoreId;
use crate::labels;
use crate::limits;
use crate::signature::{Envelope, SignatureError, SigningKey};

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not a manifest, or one that breaks a rule.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not signed by those who must sign it.
    #[error("manifest: {0}")]
    Signature(#[from] SignatureError),
    /// A successor where a first manifest is expected, or the other way round.
    #[error("manifest: {0}")]
    Place(&'static str),
    /// A successor that changes what must stay.
    #[error("manifest: a successor must keep {0}")]
    MustStay(&'static str),
}

/// Which manifest of a key store is meant: two successors of one manifest may have been signed, and only one of them is put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ManifestId {
    /// 1 for the first manifest, one more for each successor.
    #[n(0)]
    pub sequence: u32,
    /// SHA-256 of its bytes, without signatures.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub digest: [u8; 32],
}

impl ManifestId {
    /// The first manifest, of which the key store has its id.
    #[must_use]
    pub const fn first(key_store_id: KeyStoreId) -> Self {
        Self { sequence: 1, digest: key_store_id.0 }
    }
}

/// A key store's manifest, and those before it, whose signatures were checked: the first by all administrators that it names, each
/// successor by as many administrators of its predecessor as changes of custody need. Its only constructors are
/// [`VerifiedManifest::verify`] and [`VerifiedManifest::succeed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedManifest {
    id: KeyStoreId,
    manifest: Manifest,
    /// First to newest.
    chain: Vec<Received>,
    /// Whose signatures counted on block overlays, up to which epoch: one entry for each predecessor.
    past: Vec<PastAdministrators>,
}

/// A manifest of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Received {
    digest: [u8; 32],
    signed: Vec<u8>,
}

impl Received {
    fn new(envelope: &Envelope, signed: &[u8]) -> Self {
        Self { digest: crate::sha256(&[envelope.unverified_payload()]), signed: signed.to_vec() }
    }
}

/// Administrators of a manifest that was succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PastAdministrators {
    until_overlay_epoch: u64,
    administrators: Vec<Administrator>,
    thresholds: Thresholds,
}

impl VerifiedManifest {
    /// Verifies the bytes of a key store's first, signed manifest: each administrator must have signed.
    ///
    /// # Errors
    /// [`ManifestError`] names the rule that is broken.
    pub fn verify(signed: &[u8]) -> Result<Self, ManifestError> {
        let envelope = envelope(signed)?;
        let manifest: Manifest = cbor::decode(envelope.unverified_payload())?;
        if manifest.succession.is_some() {
            return Err(ManifestError::Place("is a successor; give the first manifest of the key store"));
        }
        let keys: Vec<_> = manifest.administrators.iter().map(|a| a.signing_key).collect();
        envelope.open(labels::MANIFEST, &keys, keys.len())?;
        let first = Received::new(&envelope, signed);
        Ok(Self { id: KeyStoreId(first.digest), manifest, chain: vec![first], past: Vec::new() })
    }

    /// Verifies the first manifest and its successors, oldest first.
    ///
    /// # Errors
    /// [`ManifestError`] names the rule that is broken.
    pub fn verify_chain<'b>(chain: impl IntoIterator<Item = &'b [u8]>) -> Result<Self, ManifestError> {
        let mut chain = chain.into_iter();
        let first = chain.next().ok_or(ManifestError::Place("is missing"))?;
        chain.try_fold(Self::verify(first)?, |manifest, successor| manifest.succeed(successor))
    }

    /// Verifies a successor: signed by enough of this manifest's administrators, and changing nothing that must stay.
    ///
    /// # Errors
    /// [`ManifestError`] names the rule that is broken.
    pub fn succeed(&self, signed: &[u8]) -> Result<Self, ManifestError> {
        let envelope = envelope(signed)?;
        let next: Manifest = cbor::decode(envelope.unverified_payload())?;
        let Some(succession) = next.succession else {
            return Err(ManifestError::Place("is a first manifest, not a successor"));
        };
        if succession.key_store_id != self.id {
            return Err(ManifestError::Place("is of another key store"));
        }
        if succession.predecessor != self.digest() || Some(succession.sequence) != self.sequence().checked_add(1) {
            return Err(ManifestError::Place("does not succeed the manifest in force; make it anew"));
        }
        if self.chain.len() >= limits::MANIFEST_CHAIN_MAX {
            return Err(ManifestError::Place("has too many predecessors; make another key store"));
        }
        let keys: Vec<_> = self.manifest.administrators.iter().map(|a| a.signing_key).collect();
        envelope.open(labels::MANIFEST, &keys, usize::from(self.manifest.thresholds.custody))?;
        self.check_stays(&next)?;
        let mut past = self.past.clone();
        past.push(PastAdministrators {
            until_overlay_epoch: succession.overlay_epoch,
            administrators: self.manifest.administrators.clone(),
            thresholds: self.manifest.thresholds,
        });
        let chain = self.chain.iter().cloned().chain([Received::new(&envelope, signed)]).collect();
        Ok(Self { id: self.id, manifest: next, chain, past })
    }

    /// What the newest manifest directly succeeds; none for the first. Verified anew, which costs all its signatures.
    #[must_use]
    pub fn predecessor(&self) -> Option<Self> {
        let (_, before) = self.chain.split_last().filter(|(_, before)| !before.is_empty())?;
        Self::verify_chain(before.iter().map(|received| received.signed.as_slice())).ok()
    }

    fn check_stays(&self, next: &Manifest) -> Result<(), ManifestError> {
        let stays = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(ManifestError::MustStay(what)) };
        let own = &self.manifest;
        let home = |manifest: &Manifest| manifest.custodians.first().map(|c| (c.signing_key, c.encryption_key));
        stays(home(own) == home(next), "the home custodian and its keys")?;
        stays(
            own.release_policy == next.release_policy,
            "the first release policy, which changes by updates of its own",
        )?;
        // Whoever could lower it would make overlays of removed administrators count again.
        let floor = own.succession.map_or(0, |succession| succession.overlay_epoch);
        stays(
            next.succession.is_some_and(|s| s.overlay_epoch >= floor),
            "the epoch of the block overlay, or raise it",
        )?;
        let keys = |c: &Custodian| (c.id(), c.encryption_key);
        let changed = next.custodians.iter().any(|custodian| {
            own.custodians.iter().any(|old| old.id() == custodian.id() && keys(old) != keys(custodian))
        });
        stays(!changed, "the encryption key of a custodian that stays")
    }

    /// The key store's id: SHA-256 of the first manifest.
    #[must_use]
    pub const fn id(&self) -> KeyStoreId {
        self.id
    }

    /// SHA-256 of the newest manifest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.chain.last().map_or(self.id.0, |newest| newest.digest)
    }

    /// Which manifest the newest one is.
    #[must_use]
    pub fn manifest_id(&self) -> ManifestId {
        ManifestId { sequence: self.sequence(), digest: self.digest() }
    }

    /// Which manifests these are, oldest first.
    pub fn lineage(&self) -> impl Iterator<Item = ManifestId> {
        (1..).zip(&self.chain).map(|(sequence, received)| ManifestId { sequence, digest: received.digest })
    }

    /// 1 for the first manifest, one more for each successor.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.manifest.succession.map_or(1, |succession| succession.sequence)
    }

    /// The newest manifest's contents.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The signed bytes of the first manifest, as received.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        self.chain.first().map_or(&[], |first| &first.signed)
    }

    /// The signed bytes of the successors, oldest first, as received.
    pub fn successors(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().skip(1).map(|received| received.signed.as_slice())
    }

    /// The custodian that orders changes.
    #[must_use]
    pub fn home_custodian(&self) -> Option<&Custodian> {
        self.manifest.custodians.first()
    }

    /// Whose signatures count on a block overlay of this epoch, and how many.
    #[must_use]
    pub fn overlay_signers(&self, epoch: u64) -> (&[Administrator], Thresholds) {
        let past = self.past.iter().find(|past| epoch <= past.until_overlay_epoch);
        past.map_or((&self.manifest.administrators, self.manifest.thresholds), |past| {
            (&past.administrators, past.thresholds)
        })
    }
}

/// All manifests of a key store, the first and its successors, oldest first, for a custodian that knows none of them.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ManifestChain {
    /// The signed manifests.
    #[n(0)]
    pub signed: Vec<minicbor::bytes::ByteVec>,
}

message!(ManifestChain, limits::MANIFEST_CHAIN_MAX * (limits::MANIFEST_MAX + 8) + 16, "chain of manifests", |chain| {
    if (1..=limits::MANIFEST_CHAIN_MAX).contains(&chain.signed.len()) { Ok(()) } else { Err("has 1 to 12 manifests") }
});

/// SHA-256 of the manifest in a signed envelope, whoever signed it.
///
/// # Errors
/// When it is no signed envelope of a manifest's length.
pub fn claimed_digest(signed: &[u8]) -> Result<[u8; 32], DecodeError> {
    Ok(crate::sha256(&[envelope(signed)?.unverified_payload()]))
}

fn envelope(signed: &[u8]) -> Result<Envelope, DecodeError> {
    let (length, max) = (signed.len(), limits::MANIFEST_MAX);
    if length > max {
        return Err(DecodeError::TooLong { name: "manifest", length, max });
    }
    cbor::decode(signed)
}

/// Starts a signed manifest with the first administrator's signature.
///
/// # Errors
/// [`ManifestError`] when the manifest breaks a rule or signing fails.
pub fn sign(manifest: &Manifest, key: &SigningKey, rng: &dyn SecureRandom) -> Result<Envelope, ManifestError> {
    let bytes = cbor::encode(manifest);
    cbor::decode::<Manifest>(&bytes)?;
    Ok(Envelope::seal(labels::MANIFEST, &bytes, key, rng)?)
}
