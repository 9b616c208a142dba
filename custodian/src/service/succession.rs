//! Manifests: how a key store comes here, and how its manifest is succeeded.
//!
//! Guarantees: a first manifest, or a chain of manifests, is accepted only if an administrator whom the custodian's own
//! configuration names signed one of them, so that strangers cannot fill its disk: a successor may name anybody, so being named
//! is not enough. A successor is signed as its predecessor demands; it is *staged*, durably, and comes into force with the
//! committed version that names it by its digest; one that such a version waits for is put in force at once, with those that lead to
//! it. A custodian that only a successor names, and that holds no version yet, knows from others alone which one that is: successors
//! are put in force there at once, and replaced by others; policies and blocks stay that these would have let in, too. Refuses: a
//! successor that knows less of blocks than this custodian, since whoever ordered that block might count for nothing afterwards.

use std::sync::Arc;
use std::time::Instant;

use holdfast_shared::cbor;
use holdfast_shared::ids::{AdministratorId, CustodianId};
use holdfast_shared::labels;
use holdfast_shared::manifest::{self, Administrator, Manifest, ManifestChain, ManifestError, VerifiedManifest};
use holdfast_shared::signature::Envelope;

use super::membership::{KeyStore, Membership, Place};
use super::policies::encode_policy;
use super::{Custodian, ServiceError, carried_through, orders, policies};
use crate::store::{JudgedOrders, Replaced, Replacement, Staged, StoredManifest, Successors};

/// How often a replacement is judged again because another order came between.
const REPLACE_TRIES: usize = 8;

impl Custodian {
    /// `manifests`: a key store for which this custodian will hold a share.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn enrol(self: &Arc<Self>, body: Vec<u8>) -> Result<(), ServiceError> {
        self.enrol_all(vec![body]).await
    }

    /// `manifests/chains`: the same for one that a successor brings in: all of them are in force at once.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn enrol_chain(self: &Arc<Self>, body: &[u8]) -> Result<(), ServiceError> {
        let chain: ManifestChain = cbor::decode(body)?;
        self.take_order()?;
        self.enrol_all(chain.signed.into_iter().map(Vec::from).collect()).await
    }

    async fn enrol_all(self: &Arc<Self>, manifests: Vec<Vec<u8>>) -> Result<(), ServiceError> {
        let (manifest, manifests) =
            self.blocking(move |custodian| custodian.admit(&manifests).map(|manifest| (manifest, manifests))).await??;
        let custodian = Arc::clone(self);
        carried_through(async move { custodian.keep(&manifest, manifests).await }).await
    }

    async fn keep(self: &Arc<Self>, manifest: &VerifiedManifest, manifests: Vec<Vec<u8>>) -> Result<(), ServiceError> {
        let id = manifest.id();
        let policy = encode_policy(&manifest.manifest().release_policy);
        let sequence = manifest.sequence();
        let is_new = self.store.enrol(id, &stored(manifest), &policy, self.clock.now_ms()).await?;
        if self.known_key_store(id).is_none() {
            let stored = self.store.key_store(id).await?;
            let stored = stored.ok_or_else(|| ServiceError::Internal("a key store is missing".to_owned()))?;
            let membership =
                Membership::verify(&stored, self.id).map_err(|error| ServiceError::Internal(error.to_string()))?;
            self.remember(KeyStore::new(membership));
        }
        if is_new {
            tracing::info!(key_store_id = %id, name = manifest.manifest().name, sequence, "enrolled a key store");
            return Ok(());
        }
        self.keep_more(&self.key_store(id)?, manifest, manifests).await
    }

    /// Manifests of a key store that is known.
    async fn keep_more(
        self: &Arc<Self>,
        key_store: &Arc<KeyStore>,
        manifest: &VerifiedManifest,
        mut manifests: Vec<Vec<u8>>,
    ) -> Result<(), ServiceError> {
        let membership = self.membership(key_store).await?;
        let known: Vec<_> = membership.manifest().lineage().collect();
        let is_same = manifest.lineage().zip(&known).all(|(offered, known)| offered == *known);
        let more = manifests.split_off(known.len().min(manifests.len()));
        if is_same && more.is_empty() {
            return Ok(());
        }
        if self.replace(key_store, manifest).await? {
            return Ok(());
        }
        if !is_same {
            let reason = "manifest: another successor of the first manifest is in force here";
            return Err(ServiceError::Conflict(reason.to_owned()));
        }
        self.stage(key_store, more).await
    }

    /// Puts these manifests in the place of those that are kept, and gives up what was ordered under those that go and does not count
    /// any more. False where those that are kept stay.
    async fn replace(
        self: &Arc<Self>,
        key_store: &Arc<KeyStore>,
        manifest: &VerifiedManifest,
    ) -> Result<bool, ServiceError> {
        let id = key_store.id();
        for _ in 0..REPLACE_TRIES {
            // First: what comes later than what is read after it is seen to have come between.
            let mark = self.store.manifest_mark(id).await?;
            let (policies, overlays) = (self.store.release_policies(id).await?, self.store.overlays(id).await?);
            let judged = JudgedOrders {
                mark,
                policy_epoch: policies.last().map_or(0, |policy| policy.epoch),
                overlay_epoch: overlays.last().map_or(0, |overlay| overlay.epoch),
            };
            let new = manifest.clone();
            let replacement = self
                .blocking(move |custodian| Replacement {
                    key_store_id: id,
                    manifests: stored(&new),
                    comes_new: !names(new.signed_bytes(), custodian.id),
                    judged,
                    policies: policies::still_in_force(&policies, &new),
                    overlays: orders::still_in_force(&overlays, &new),
                })
                .await?;
            match self.store.replace_successors(&replacement, self.clock.now_ms()).await? {
                Replaced::Done => {
                    self.replaced(key_store, &replacement).await?;
                    return Ok(true);
                }
                Replaced::Refused => return Ok(false),
                Replaced::Changed => {}
            }
        }
        Err(ServiceError::Conflict("manifest: other orders keep coming between; try again".to_owned()))
    }

    async fn replaced(self: &Arc<Self>, key_store: &KeyStore, by: &Replacement) -> Result<(), ServiceError> {
        tracing::warn!(key_store_id = %key_store.id(), "other successors of the first manifest are enrolled");
        self.membership(key_store).await?;
        // Whom a policy accepted that is gone hears it at once.
        key_store.wake();
        let JudgedOrders { policy_epoch, overlay_epoch, .. } = by.judged;
        let reason = "who signed it is no administrator after all";
        if policy_epoch > 1 && !by.policies.contains(&policy_epoch) {
            self.note(key_store, format!("release policy {policy_epoch} is given up: {reason}"), None).await?;
        }
        if overlay_epoch > 0 && !by.overlays.contains(&overlay_epoch) {
            self.note(key_store, format!("block overlay {overlay_epoch} is given up: {reason}"), None).await?;
        }
        Ok(())
    }

    /// Whether this custodian takes part in the newest of these manifests, and somebody vouches for them.
    fn admit(&self, manifests: &[Vec<u8>]) -> Result<VerifiedManifest, ServiceError> {
        let (manifest, signers) = verify_with_signers(manifests).map_err(|error| refused(&error))?;
        if !signers.iter().any(|signer| self.administrators.contains(signer)) {
            return Err(denied(
                "none of its administrators may enrol key stores here; name one in this custodian's configuration \
                 (administrators)",
            ));
        }
        if self.roots.find(&manifest.manifest().release_policy.trust_root).is_none() {
            return Err(denied(
                "its release policy names an emulated trust root that this custodian's configuration does not name \
                 (emulated_root)",
            ));
        }
        let place = Place::new(manifest, self.id);
        self.check_own_key(&place.manifest)?;
        if place.index.is_none() {
            return Err(denied("this custodian is not among its custodians"));
        }
        Ok(place.manifest)
    }

    fn check_own_key(&self, manifest: &VerifiedManifest) -> Result<(), ServiceError> {
        let own = manifest.manifest().custodians.iter().find(|custodian| custodian.id() == self.id);
        if own.is_some_and(|own| own.encryption_key != *self.encryption_key.public_key()) {
            return Err(denied("it gives this custodian another encryption key"));
        }
        Ok(())
    }

    /// `manifests/successors`: a manifest that succeeds the one in force once a version adopts it.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn succeed(self: &Arc<Self>, body: Vec<u8>) -> Result<(), ServiceError> {
        let envelope: Envelope = cbor::decode(&body)?;
        let claimed: Manifest = cbor::decode(envelope.unverified_payload())?;
        let Some(succession) = claimed.succession else {
            return Err(ServiceError::Malformed("manifest: is a first manifest, which is enrolled".to_owned()));
        };
        let key_store = self.key_store(succession.key_store_id)?;
        self.take_order()?;
        let custodian = Arc::clone(self);
        carried_through(async move { custodian.stage(&key_store, vec![body]).await }).await
    }

    /// Puts successors in force that a committed version names, oldest first, and keeps one more until a version adopts it.
    pub(super) async fn stage(
        self: &Arc<Self>,
        key_store: &Arc<KeyStore>,
        signed: Vec<Vec<u8>>,
    ) -> Result<(), ServiceError> {
        let membership = self.membership(key_store).await?;
        let digest = signed.last().map(|last| manifest::claimed_digest(last)).transpose()?;
        if digest == Some(membership.manifest().digest()) {
            return Ok(());
        }
        let was_staged = membership.places().any(|place| Some(place.manifest.digest()) == digest);
        let verified = {
            let membership = Arc::clone(&membership);
            self.blocking(move |_| membership.succeed(&signed)).await?
        };
        let last = verified.map_err(|error| refused(&error))?;
        self.check_own_key(&last)?;
        let (sequence, overlay_epoch) = (last.sequence(), overlay_known(&last));
        let in_force = membership.manifest();
        let successors = Successors {
            key_store_id: key_store.id(),
            predecessor: in_force.manifest_id(),
            manifests: stored(&last).split_off(in_force.lineage().count()),
            overlay_epoch,
        };
        let staged = self.store.stage_manifests(&successors, self.clock.now_ms()).await?;
        self.after_commit(key_store, &membership).await?;
        match staged {
            Staged::Waits if was_staged => Ok(()),
            Staged::Waits => {
                tracing::warn!(key_store_id = %key_store.id(), sequence, "a successor manifest is staged");
                self.note(key_store, format!("manifest {sequence} is staged"), None).await
            }
            Staged::Adopted => Ok(()),
            Staged::Conflict(_) => Err(ServiceError::Conflict(
                "manifest: does not succeed the manifest that is in force, or comes into force; make it anew"
                    .to_owned(),
            )),
            Staged::Blocked(epoch) => Err(ServiceError::Conflict(format!(
                "manifest: a block came between (block overlay {epoch} is in force, it knows of {overlay_epoch}); make it anew"
            ))),
            Staged::Ahead => Err(ServiceError::Conflict(
                "manifest: names a block overlay that there is none of; make it anew".to_owned(),
            )),
        }
    }

    /// A turn for an order whose signatures are to be verified.
    pub(super) fn take_order(&self) -> Result<(), ServiceError> {
        if self.order_rate.allow(Instant::now()) {
            return Ok(());
        }
        Err(ServiceError::TooMany("too many orders at a time; try again in a second".to_owned()))
    }
}

/// The newest block overlay that a manifest knows of: newer ones are signed under it.
pub(super) fn overlay_known(manifest: &VerifiedManifest) -> u64 {
    manifest.manifest().succession.map_or(0, |succession| succession.overlay_epoch)
}

/// The manifests of a chain as they are kept.
fn stored(manifest: &VerifiedManifest) -> Vec<StoredManifest> {
    let signed = core::iter::once(manifest.signed_bytes()).chain(manifest.successors());
    manifest.lineage().zip(signed).map(|(id, signed)| StoredManifest { id, signed: signed.to_vec() }).collect()
}

fn denied(reason: &str) -> ServiceError {
    ServiceError::Denied(format!("manifest: {reason}"))
}

fn refused(error: &ManifestError) -> ServiceError {
    let reason = error.to_string();
    match error {
        ManifestError::Place(_) => ServiceError::Conflict(reason),
        ManifestError::Decode(_) | ManifestError::Signature(_) | ManifestError::MustStay(_) => {
            ServiceError::Denied(reason)
        }
    }
}

/// Verifies a chain, and says who signed any of its manifests.
fn verify_with_signers(manifests: &[Vec<u8>]) -> Result<(VerifiedManifest, Vec<AdministratorId>), ManifestError> {
    let mut chain = manifests.iter();
    let first = VerifiedManifest::verify(chain.next().map_or(&[], Vec::as_slice))?;
    let mut signers: Vec<_> = first.manifest().administrators.iter().map(Administrator::id).collect();
    let mut newest = first;
    for signed in chain {
        let next = newest.succeed(signed)?;
        let keys: Vec<_> = newest.manifest().administrators.iter().map(|a| a.signing_key).collect();
        let envelope: Envelope = cbor::decode(signed)?;
        let (_, signed_by) = envelope.open(labels::MANIFEST, &keys, 1)?;
        signers.extend(signed_by.into_iter().map(AdministratorId));
        newest = next;
    }
    Ok((newest, signers))
}

/// Whether a signed manifest, verified when it came, names a custodian.
pub(super) fn names(signed: &[u8], custodian_id: CustodianId) -> bool {
    let manifest =
        cbor::decode::<Envelope>(signed).and_then(|envelope| cbor::decode::<Manifest>(envelope.unverified_payload()));
    manifest.is_ok_and(|manifest| manifest.custodians.iter().any(|custodian| custodian.id() == custodian_id))
}
