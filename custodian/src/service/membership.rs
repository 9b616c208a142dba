//! Which manifest of a key store is in force here, which one is staged, and this custodian's place in them.
//!
//! Guarantees: what is shown was verified as one chain from the first manifest on; [`Custodian::membership`] is as new as the
//! database, whichever replica changed it. A successor comes into force with the committed version that names it by its digest, never
//! earlier; once a version names it that is held, it will: then enclaves are told of it, and further blocks are signed under it.
//! A custodian that a successor left out stays: it answers queries, deletes its shares when told, and releases none.

use std::sync::{Arc, PoisonError, RwLock};

use holdfast_shared::ids::{CustodianId, KeyStoreId};
use holdfast_shared::manifest::{Administrator, ManifestError, ManifestId, VerifiedManifest};
use holdfast_shared::quorum::Quorum;
use tokio::sync::watch;

use super::fleet::FleetCount;
use super::{Custodian, ServiceError};
use crate::store::{ManifestMark, StoredKeyStore};

/// A manifest and this custodian's place in it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) manifest: VerifiedManifest,
    /// From 1; none where it is not among the custodians.
    pub(super) index: Option<u8>,
}

impl Place {
    pub(super) fn new(manifest: VerifiedManifest, own: CustodianId) -> Self {
        let place = manifest.manifest().custodians.iter().position(|custodian| custodian.id() == own);
        let index = place.and_then(|place| u8::try_from(place.checked_add(1)?).ok());
        Self { manifest, index }
    }
}

/// The manifests of a key store.
#[derive(Debug)]
pub(super) struct Membership {
    in_force: Place,
    staged: Option<Place>,
    is_staged_named: bool,
    mark: ManifestMark,
}

impl Membership {
    /// Verifies what the database holds.
    pub(super) fn verify(stored: &StoredKeyStore, own: CustodianId) -> Result<Self, ManifestError> {
        let chain = stored.manifests.iter().map(|manifest| manifest.signed.as_slice());
        let manifest = VerifiedManifest::verify_chain(chain)?;
        let staged = stored.staged.as_ref().map(|staged| manifest.succeed(&staged.signed)).transpose()?;
        let place = |manifest| Place::new(manifest, own);
        let (in_force, staged) = (place(manifest), staged.map(place));
        Ok(Self { in_force, staged, is_staged_named: stored.is_staged_named, mark: stored.mark })
    }

    /// The manifest in force.
    pub(super) const fn manifest(&self) -> &VerifiedManifest {
        &self.in_force.manifest
    }

    /// Whose orders count.
    pub(super) fn administrators(&self) -> &[Administrator] {
        &self.in_force.manifest.manifest().administrators
    }

    /// Whether this custodian orders changes.
    pub(super) fn is_home(&self) -> bool {
        self.in_force.index == Some(1)
    }

    /// Whether the manifest in force names this custodian.
    pub(super) const fn is_member(&self) -> bool {
        self.in_force.index.is_some()
    }

    /// The manifest in force, then the staged one.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        core::iter::once(&self.in_force).chain(&self.staged)
    }

    /// The manifest in force or the staged one, if it is this one.
    pub(super) fn find(&self, id: ManifestId) -> Option<&VerifiedManifest> {
        self.places().map(|place| &place.manifest).find(|manifest| manifest.manifest_id() == id)
    }

    /// Whether a version made under one of these manifests counts once home holds it. What puts a successor in force counts under both.
    pub(super) fn commits_at_once(&self, manifest: &VerifiedManifest) -> bool {
        [manifest, self.manifest()].iter().all(|manifest| Quorum::of(manifest.manifest()).write() == 1)
    }

    /// The staged manifest if a version that is held names it, and otherwise the one in force: under it further block overlays are
    /// signed.
    pub(super) fn coming(&self) -> &VerifiedManifest {
        self.staged.as_ref().filter(|_| self.is_staged_named).map_or(self.manifest(), |staged| &staged.manifest)
    }

    /// The successors to be told to enclaves: those in force, and the staged one if a version that is held names it. Whoever made that
    /// may have ended, and without the manifest nobody could finish it.
    pub(super) fn successors(&self) -> impl Iterator<Item = &[u8]> {
        self.coming().successors()
    }

    /// Verifies successors, oldest first, of the manifest in force or of the staged one: the last of them.
    pub(super) fn succeed(&self, signed: &[Vec<u8>]) -> Result<VerifiedManifest, ManifestError> {
        let follow =
            |from: &VerifiedManifest| signed.iter().try_fold(from.clone(), |newest, next| newest.succeed(next));
        match (follow(self.manifest()), &self.staged) {
            (Err(ManifestError::Place(_)), Some(staged)) => follow(&staged.manifest),
            (followed, _) => followed,
        }
    }
}

/// A key store for which this custodian holds, held, or will hold a share.
#[derive(Debug)]
pub(super) struct KeyStore {
    id: KeyStoreId,
    membership: RwLock<Arc<Membership>>,
    /// Wakes those who wait for news.
    pub(super) news: watch::Sender<()>,
    pub(super) fleet: FleetCount,
}

impl KeyStore {
    pub(super) fn new(membership: Membership) -> Arc<Self> {
        let id = membership.manifest().id();
        let membership = RwLock::new(Arc::new(membership));
        Arc::new(Self { id, membership, news: watch::Sender::new(()), fleet: FleetCount::default() })
    }

    pub(super) const fn id(&self) -> KeyStoreId {
        self.id
    }

    pub(super) fn wake(&self) {
        self.news.send_replace(());
    }

    fn known(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Custodian {
    /// The manifests of a key store as the database has them now.
    pub(super) async fn membership(self: &Arc<Self>, key_store: &KeyStore) -> Result<Arc<Membership>, ServiceError> {
        let known = key_store.known();
        if self.store.manifest_mark(key_store.id).await? == known.mark {
            return Ok(known);
        }
        let damaged = |reason: &str| ServiceError::Internal(format!("the stored manifests do not verify: {reason}"));
        let stored = self.store.key_store(key_store.id).await?.ok_or_else(|| damaged("there are none"))?;
        let verified = self.blocking(move |custodian| Membership::verify(&stored, custodian.id)).await?;
        let read = Arc::new(verified.map_err(|error| damaged(&error.to_string()))?);
        let before = {
            let mut kept = key_store.membership.write().unwrap_or_else(PoisonError::into_inner);
            core::mem::replace(&mut *kept, Arc::clone(&read))
        };
        let sequence = read.manifest().sequence();
        if before.manifest().sequence() != sequence {
            tracing::warn!(key_store_id = %key_store.id, sequence, member = read.is_member(),
                "a successor manifest is in force");
            key_store.wake();
        }
        Ok(read)
    }
}
