//! Release policies: which one is in force, and how it changes.
//!
//! Guarantees: an update was signed by as many administrators as changes of custody need and is newer than the policy before; it
//! is durable and on record before it is acknowledged; from then on every release, renewal and change is judged by it, and enclaves
//! that it does not accept are told at once: their watches end. A custodian that a successor brings in, and that holds no version yet,
//! takes the policy in force from those who are about to be succeeded, too.

use std::sync::Arc;

use holdfast_shared::cbor::{self, Message};
use holdfast_shared::ids::BootId;
use holdfast_shared::limits;
use holdfast_shared::manifest::{ReleasePolicy, VerifiedManifest};
use holdfast_shared::policy::{self, PolicyError, PolicyUpdate};
use holdfast_shared::signature::Envelope;

use super::membership::KeyStore;
use super::{Custodian, ServiceError, carried_through};
use crate::store::{JudgedBy, ReleaseRecord, StoreError, StoredPolicy};

/// How often an update is judged again because another one came between.
const POLICY_TRIES: usize = 8;

/// A policy as the database keeps it.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
struct KeptPolicy(#[n(0)] ReleasePolicy);

impl Message for KeptPolicy {
    const MAX: usize = limits::MANIFEST_MAX;
    const NAME: &'static str = "stored release policy";

    fn check(&self) -> Result<(), &'static str> {
        if self.0.epoch >= 1 { Ok(()) } else { Err("epochs start at 1") }
    }
}

pub(super) fn encode_policy(policy: &ReleasePolicy) -> Vec<u8> {
    cbor::encode(&KeptPolicy(policy.clone())).to_vec()
}

fn decode_policy(kept: &StoredPolicy) -> Result<ReleasePolicy, ServiceError> {
    let kept: KeptPolicy = cbor::decode(&kept.policy).map_err(|_| StoreError::Damaged("release policy"))?;
    Ok(kept.0)
}

impl Custodian {
    /// The release policy in force.
    pub(super) async fn policy(&self, key_store: &KeyStore) -> Result<ReleasePolicy, ServiceError> {
        decode_policy(&self.store.release_policy(key_store.id()).await?)
    }

    /// `policies`: to whom shares are released from now on.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn change_policy(self: &Arc<Self>, body: Vec<u8>) -> Result<(), ServiceError> {
        let envelope: Envelope = cbor::decode(&body)?;
        let claimed: PolicyUpdate = cbor::decode(envelope.unverified_payload())?;
        let key_store = self.key_store(claimed.key_store_id)?;
        self.take_order()?;
        let custodian = Arc::clone(self);
        carried_through(async move { custodian.put_policy(&key_store, body, &envelope).await }).await
    }

    async fn put_policy(
        self: &Arc<Self>,
        key_store: &KeyStore,
        body: Vec<u8>,
        offered: &Envelope,
    ) -> Result<(), ServiceError> {
        for _ in 0..POLICY_TRIES {
            let current = self.store.release_policy(key_store.id()).await?;
            if let Some(kept) = &current.signed_update
                && cbor::decode::<Envelope>(kept)?.unverified_payload() == offered.unverified_payload()
            {
                return Ok(());
            }
            let (membership, against) = (self.membership(key_store).await?, current.epoch);
            let judged_by = JudgedBy { epoch: against, manifest: membership.manifest().manifest_id() };
            let is_new = self.store.register(key_store.id()).await?.is_none();
            let judged = {
                let body = body.clone();
                self.blocking(move |_| judge(&body, membership.manifest(), against, is_new)).await?
            };
            let policy = judged.map_err(|error| refused(&error))?;
            let new =
                StoredPolicy { epoch: policy.epoch, policy: encode_policy(&policy), signed_update: Some(body.clone()) };
            if self.store.put_policy(key_store.id(), judged_by, &new, self.clock.now_ms()).await? {
                tracing::warn!(key_store_id = %key_store.id(), epoch = policy.epoch, images = policy.images.len(),
                    lease_ms = policy.lease_ms, "a release policy is in force");
                key_store.wake();
                return self.note(key_store, format!("release policy {} is in force", policy.epoch), None).await;
            }
        }
        Err(ServiceError::Conflict("other release policies keep coming between; try again".to_owned()))
    }

    /// Puts something on record that is neither a release nor a refusal; about one boot, not the same twice in a row.
    pub(super) async fn note(
        &self,
        key_store: &KeyStore,
        reason: String,
        boot_id: Option<BootId>,
    ) -> Result<(), ServiceError> {
        let policy = self.policy(key_store).await?;
        let record = ReleaseRecord {
            at_ms: self.clock.now_ms(),
            key_store_id: key_store.id(),
            released: false,
            reason,
            policy_epoch: policy.epoch,
            emulated_root: self.roots.is_emulated(&policy.trust_root),
            trust_root: None,
            module_id: None,
            boot_id,
            lease_id: None,
            measurements: None,
        };
        Ok(self.store.record_refusal_once(&record).await?)
    }
}

fn judge(body: &[u8], manifest: &VerifiedManifest, against: u64, is_new: bool) -> Result<ReleasePolicy, PolicyError> {
    let judged = policy::open(body, manifest, against);
    if !is_new || !matches!(judged, Err(PolicyError::Signature(_))) {
        return judged;
    }
    manifest.predecessor().map_or(judged, |before| policy::open(body, &before, against))
}

/// The epochs of the policies that a custodian which knew these manifests from the start would have, too.
pub(super) fn still_in_force(policies: &[StoredPolicy], manifest: &VerifiedManifest) -> Vec<u64> {
    let counts = |policy: &&StoredPolicy| {
        let before = policy.epoch.saturating_sub(1);
        policy.signed_update.as_ref().is_some_and(|signed| judge(signed, manifest, before, true).is_ok())
    };
    policies.iter().filter(counts).map(|policy| policy.epoch).collect()
}

fn refused(error: &PolicyError) -> ServiceError {
    let reason = error.to_string();
    match error {
        PolicyError::Decode(_) => ServiceError::Malformed(reason),
        PolicyError::Stale { .. } | PolicyError::Ahead { .. } => ServiceError::Conflict(reason),
        PolicyError::Signature(_) | PolicyError::OtherKeyStore | PolicyError::TrustRoot | PolicyError::Approvals => {
            ServiceError::Denied(reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::attestation::Measurements;

    use super::*;

    #[test]
    fn a_policy_survives_storage() {
        let pcr = [1; 48];
        let image = Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None };
        let policy = ReleasePolicy { epoch: 7, ..ReleasePolicy::first([3; 32], vec![image], 60_000) };
        let kept = StoredPolicy { epoch: 7, policy: encode_policy(&policy), signed_update: None };
        assert_eq!(decode_policy(&kept).unwrap(), policy);
    }
}
