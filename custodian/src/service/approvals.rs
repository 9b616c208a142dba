//! Approvals: a boot that satisfies the policy gets nothing before enough administrators approved it.
//!
//! Guarantees: an approval counts for one boot, once for each administrator of the manifest in force, until it expires; it is
//! durable and on record before it is acknowledged. It is asked for at each release, so that a boot whose approvals have expired
//! needs new ones for its next; a lease that was granted goes on. Boots that wait are noted, a bounded number of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_shared::cbor;
use holdfast_shared::ids::{AdministratorId, BootId};
use holdfast_shared::limits;
use holdfast_shared::manifest::{Administrator, ReleasePolicy};
use holdfast_shared::policy::{self, PolicyError, ReleaseApproval};
use holdfast_shared::signature::Envelope;

use super::grant::{Stop, in_utc};
use super::membership::KeyStore;
use super::release::{Accepted, ReleaseDenied, encode_measurements};
use super::{Custodian, ServiceError, carried_through};
use crate::store::{Approved, NewApproval, WaitingRelease};

impl Custodian {
    /// `approvals`: an administrator lets one boot obtain releases.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn approve(self: &Arc<Self>, body: Vec<u8>) -> Result<(), ServiceError> {
        let envelope: Envelope = cbor::decode(&body)?;
        let claimed: ReleaseApproval = cbor::decode(envelope.unverified_payload())?;
        let key_store = self.key_store(claimed.key_store_id)?;
        self.take_order()?;
        let membership = self.membership(&key_store).await?;
        let (judged, body) =
            self.blocking(move |_| (policy::open_approval(&body, membership.manifest()), body)).await?;
        let (approval, signers) = judged.map_err(|error| match error {
            PolicyError::Decode(_) => ServiceError::Malformed(error.to_string()),
            _ => ServiceError::Denied(error.to_string()),
        })?;
        let now_ms = self.clock.now_ms();
        if approval.expires_ms <= now_ms {
            return Err(ServiceError::Denied("release approval: has expired".to_owned()));
        }
        if approval.expires_ms > now_ms.saturating_add(limits::APPROVAL_LIFE_MAX_MS) {
            return Err(ServiceError::Denied("release approval: must expire within 31 days".to_owned()));
        }
        let custodian = Arc::clone(self);
        carried_through(async move { custodian.keep_approval(&key_store, &approval, &signers, &body).await }).await
    }

    async fn keep_approval(
        &self,
        key_store: &KeyStore,
        approval: &ReleaseApproval,
        signers: &[AdministratorId],
        signed: &[u8],
    ) -> Result<(), ServiceError> {
        let (boot_id, expires_ms) = (approval.boot_id, approval.expires_ms);
        for administrator_id in signers.iter().copied() {
            let new = NewApproval { boot_id, administrator_id, signed, expires_ms };
            match self.store.approve_release(key_store.id(), &new, self.clock.now_ms()).await? {
                Approved::Kept => {
                    tracing::warn!(key_store_id = %key_store.id(), %boot_id, %administrator_id, "a boot is approved");
                    let until = in_utc(expires_ms);
                    let reason = format!("administrator {administrator_id} approved the boot until {until}");
                    self.note(key_store, reason, Some(boot_id)).await?;
                }
                Approved::Known => {}
                Approved::TooMany => {
                    let reason = "release approval: this administrator has approved too many other boots; wait until those expire";
                    return Err(ServiceError::TooMany(reason.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Refuses a boot that lacks approvals, and notes that it waits.
    pub(super) async fn check_approvals(
        self: &Arc<Self>,
        key_store: &KeyStore,
        policy: &ReleasePolicy,
        document: &[u8],
        accepted: &Accepted,
        now_ms: u64,
    ) -> Result<(), Stop> {
        let Some(needed) = policy.approvals else { return Ok(()) };
        let boot_id = accepted.user_data.boot_id;
        let has = self.approved_by(key_store, boot_id, now_ms).await?.len();
        if has >= usize::from(needed.get()) {
            return Ok(());
        }
        let waiting = WaitingRelease {
            boot_id,
            module_id: accepted.attestation.module_id().to_owned(),
            measurements: encode_measurements(accepted.attestation.measurements()),
            document: document.to_vec(),
            first_ms: now_ms,
            last_ms: now_ms,
        };
        self.store.note_waiting(key_store.id(), &waiting).await.map_err(ServiceError::from)?;
        Err(Stop::Denied(ReleaseDenied::Unapproved { boot_id, needed: needed.get(), has }))
    }

    /// The administrators in office whose approval of a boot has not expired.
    pub(super) async fn approved_by(
        self: &Arc<Self>,
        key_store: &KeyStore,
        boot_id: BootId,
        now_ms: u64,
    ) -> Result<Vec<AdministratorId>, ServiceError> {
        let membership = self.membership(key_store).await?;
        let in_office: BTreeSet<_> = membership.administrators().iter().map(Administrator::id).collect();
        let approvals = self.store.release_approvals(key_store.id(), boot_id, now_ms).await?;
        Ok(approvals.into_iter().map(|(id, _)| id).filter(|id| in_office.contains(id)).collect())
    }
}
