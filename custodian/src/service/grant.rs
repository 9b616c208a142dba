//! What an accepted document obtains: a lease, and the shares, of two generations at most, unless something withholds them.
//!
//! Guarantees: the nonce is spent, the lease kept and the release recorded in one step, and only then is the answer sent;
//! a block that came between the decision and that step makes it be decided anew. A key store has a bounded number of leases: beyond
//! it the one that was silent longest ends, which is a boot that is long gone.

use std::sync::{Arc, Mutex};

use holdfast_shared::cbor;
use holdfast_shared::ids::{BootId, KeyStoreId, LeaseId};
use holdfast_shared::manifest::ReleasePolicy;
use holdfast_shared::release::{
    self, ChannelKeys, EarlierHead, HeldShare, ReleaseBinding, ReleaseContent, ReleaseError,
};

use super::evidence::Evidence;
use super::lease::{Lease, LeaseState, wrap_keys};
use super::membership::{KeyStore, Membership};
use super::orders::stored_overlay;
use super::release::{Accepted, ReleaseDenied, encode_measurements};
use super::{Custodian, ServiceError};
use time::OffsetDateTime;

use crate::store::{Granted, NewLease, ReleaseRecord, ReplayWindow, StoredOverlay, StoredRegister, StoredShare};

/// How often a release is decided again because a block overlay came between.
const GRANT_TRIES: usize = 8;

/// A release to be made.
pub(super) struct Grant {
    pub(super) key_store: Arc<KeyStore>,
    pub(super) policy: ReleasePolicy,
    pub(super) document: Vec<u8>,
    pub(super) accepted: Accepted,
    pub(super) now_ms: u64,
}

/// What a release needs from the database.
struct Holdings {
    membership: Arc<Membership>,
    overlay: Option<StoredOverlay>,
    shares: Vec<StoredShare>,
    register: Option<StoredRegister>,
    audit_heads: Vec<EarlierHead>,
}

/// A release that is ready to be kept and sent.
struct Sealed {
    answer: Vec<u8>,
    lease: Lease,
    new: NewLease,
    record: ReleaseRecord,
}

/// Why a release goes no further.
pub(super) enum Stop {
    Denied(ReleaseDenied),
    Service(ServiceError),
}

impl From<ServiceError> for Stop {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

impl Custodian {
    pub(super) async fn grant(self: &Arc<Self>, grant: Grant) -> Result<Vec<u8>, Stop> {
        let grant = Arc::new(grant);
        let key_store = Arc::clone(&grant.key_store);
        for _ in 0..GRANT_TRIES {
            let holdings = self.holdings(&key_store, grant.accepted.user_data.boot_id).await?;
            let withheld = withheld(&key_store, &holdings)?;
            if withheld == Some(Withheld::Removed) && holdings.shares.is_empty() {
                return Err(Stop::Denied(ReleaseDenied::Removed));
            }
            let mut shares = Vec::new();
            if withheld.is_none() && !holdings.shares.is_empty() {
                check_window(&grant.policy, grant.now_ms)?;
                for stored in &holdings.shares {
                    shares.push(self.unwrap_share(key_store.id(), stored).await?);
                }
            }
            let sealed = {
                let grant = Arc::clone(&grant);
                self.blocking(move |custodian| custodian.seal_release(&grant, holdings, shares, withheld)).await??
            };
            match self.store.grant(&sealed.new, &sealed.record).await.map_err(ServiceError::from)? {
                Granted::Kept { ended } => return Ok(self.granted(&key_store, sealed, ended)),
                Granted::NonceSpent => return Err(Stop::Denied(ReleaseDenied::Replayed)),
                Granted::OverlayChanged => {}
                Granted::TooManyBoots => {
                    let boots_max = grant.policy.leases_max.map_or(0, core::num::NonZeroU32::get);
                    return Err(Stop::Denied(ReleaseDenied::TooManyBoots { boots_max }));
                }
                Granted::PolicyChanged => {
                    let text = "another release policy came into force meanwhile; try again";
                    return Err(ServiceError::Conflict(text.to_owned()).into());
                }
            }
        }
        Err(ServiceError::Conflict("block overlays keep coming between; try again".to_owned()).into())
    }

    /// The lease is on disk: now it counts.
    fn granted(&self, key_store: &KeyStore, sealed: Sealed, ended: Option<LeaseId>) -> Vec<u8> {
        let Sealed { answer, lease, new, record } = sealed;
        {
            let mut leases = self.leases();
            leases.retain(|id, _| Some(*id) != ended);
            leases.insert(lease.id, Arc::new(lease));
        }
        tracing::info!(
            key_store_id = %key_store.id(), lease_id = %new.lease_id, boot_id = %new.boot_id, module_id = new.module_id,
            policy_epoch = new.policy_epoch, emulated_root = record.emulated_root, "{}", record.reason
        );
        answer
    }

    async fn holdings(self: &Arc<Self>, key_store: &KeyStore, boot_id: BootId) -> Result<Holdings, ServiceError> {
        let head = |(checkpoint, audit_public_key)| EarlierHead { checkpoint, audit_public_key };
        Ok(Holdings {
            overlay: self.store.overlay(key_store.id()).await?,
            shares: self.store.shares(key_store.id()).await?,
            register: self.store.register(key_store.id()).await?,
            audit_heads: self.store.newest_audit_heads(key_store.id(), boot_id).await?.into_iter().map(head).collect(),
            // Last, so that it knows the manifest that the register's version names.
            membership: self.membership(key_store).await?,
        })
    }

    fn seal_release(
        &self,
        grant: &Grant,
        holdings: Holdings,
        shares: Vec<HeldShare>,
        withheld: Option<Withheld>,
    ) -> Result<Sealed, Stop> {
        let Grant { key_store, policy, document, accepted, now_ms } = grant;
        let now_ms = *now_ms;
        let lease_id = self.challenges.lease_id(self.random()?);
        let overlay_epoch = holdings.overlay.as_ref().map_or(0, |overlay| overlay.epoch);
        let reason = match withheld {
            Some(Withheld::Blocked) => "granted a lease without the share: the key store is blocked",
            Some(Withheld::Removed) => {
                "granted a lease without the share: this custodian was removed from the manifest"
            }
            None if shares.is_empty() => "granted a lease without a share: there was no ceremony yet",
            None => "released the share",
        };
        let successors = holdings.membership.successors().map(|signed| signed.to_vec().into()).collect();
        let content = ReleaseContent {
            lease_id,
            lease_ms: policy.lease_ms,
            shares,
            overlay: holdings.overlay.map(|overlay| overlay.signed),
            register: holdings.register.map(super::versions::held),
            audit_heads: holdings.audit_heads,
            successors,
        };
        let (answer, keys) = self.seal_content(key_store, policy, accepted, &content)?;
        let counters = ReplayWindow::after(0);
        let state = LeaseState { seen_ms: now_ms, noted_ms: now_ms, counters, obeys: None };
        let lease = Lease {
            id: lease_id,
            key_store: Arc::clone(key_store),
            boot_id: accepted.user_data.boot_id,
            module_id: accepted.attestation.module_id().to_owned(),
            audit_public_key: accepted.user_data.audit_public_key,
            evidence: Evidence {
                measurements: accepted.attestation.measurements().clone(),
                trust_root: accepted.attestation.root_fingerprint(),
            },
            document: document.clone(),
            keys,
            state: Mutex::new(state),
        };
        let channel_keys = wrap_keys(&lease.keys, self.id, lease.key_store.id(), lease_id, &self.storage_key)
            .map_err(ServiceError::from)?;
        let record = self.release_record(&lease, policy, reason, now_ms);
        let new = NewLease {
            lease_id,
            key_store_id: lease.key_store.id(),
            boot_id: lease.boot_id,
            module_id: lease.module_id.clone(),
            audit_public_key: lease.audit_public_key,
            evidence: cbor::encode(&lease.evidence).to_vec(),
            document: lease.document.clone(),
            channel_keys,
            policy_epoch: policy.epoch,
            overlay_epoch,
            nonce: accepted.nonce,
            granted_ms: now_ms,
            expires_ms: now_ms.saturating_add(policy.lease_ms),
            boots_max: policy.leases_max,
        };
        Ok(Sealed { answer, lease, new, record })
    }

    fn seal_content(
        &self,
        key_store: &KeyStore,
        policy: &ReleasePolicy,
        accepted: &Accepted,
        content: &ReleaseContent,
    ) -> Result<(Vec<u8>, ChannelKeys), Stop> {
        let binding = ReleaseBinding {
            custodian_id: self.id,
            key_store_id: key_store.id(),
            nonce: &accepted.nonce,
            user_data: &accepted.user_data_bytes,
        };
        release::seal(content, policy.epoch, &binding, &accepted.public_key, &self.signing_key, &self.rng).map_err(
            |error| match error {
                ReleaseError::Hpke(_) => Stop::Denied(ReleaseDenied::PublicKey),
                other => Stop::Service(ServiceError::Internal(other.to_string())),
            },
        )
    }

    fn release_record(&self, lease: &Lease, policy: &ReleasePolicy, reason: &str, now_ms: u64) -> ReleaseRecord {
        ReleaseRecord {
            at_ms: now_ms,
            key_store_id: lease.key_store.id(),
            released: true,
            reason: reason.to_owned(),
            policy_epoch: policy.epoch,
            emulated_root: self.roots.is_emulated(&lease.evidence.trust_root),
            trust_root: Some(lease.evidence.trust_root),
            module_id: Some(lease.module_id.clone()),
            boot_id: Some(lease.boot_id),
            lease_id: Some(lease.id),
            measurements: Some(encode_measurements(&lease.evidence.measurements)),
        }
    }

    async fn unwrap_share(&self, key_store_id: KeyStoreId, stored: &StoredShare) -> Result<HeldShare, ServiceError> {
        let damaged = |_| ServiceError::Internal("the stored share is damaged".to_owned());
        let plaintext = self.kek.unwrap(&self.share_aad(key_store_id, stored.generation), &stored.wrapped).await?;
        let share = cbor::decode(plaintext.expose()).map_err(damaged)?;
        let set = cbor::decode(&stored.share_set).map_err(damaged)?;
        Ok(HeldShare { share, set })
    }
}

/// Why a lease comes without the shares that there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Withheld {
    /// The overlay in force blocks the whole key store.
    Blocked,
    /// A successor manifest left this custodian out. As long as it holds shares it grants leases, in which it is told to delete them.
    Removed,
}

fn withheld(key_store: &KeyStore, holdings: &Holdings) -> Result<Option<Withheld>, ServiceError> {
    if holdings.membership.places().all(|place| place.index.is_none()) {
        return Ok(Some(Withheld::Removed));
    }
    let overlay = holdings.overlay.as_ref().map(|overlay| stored_overlay(key_store, overlay)).transpose()?;
    Ok(overlay.is_some_and(|overlay| overlay.store).then_some(Withheld::Blocked))
}

fn check_window(policy: &ReleasePolicy, now_ms: u64) -> Result<(), Stop> {
    let Some(window) = policy.window.filter(|window| !window.is_open(now_ms)) else { return Ok(()) };
    Err(Stop::Denied(ReleaseDenied::WindowClosed { opens: in_utc(window.next_opening_ms(now_ms)) }))
}

/// A moment for people, to the minute.
pub(super) fn in_utc(at_ms: u64) -> String {
    let seconds = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| "no time".to_owned(), |at| format!("{}T{:02}:{:02}Z", at.date(), at.hour(), at.minute()))
}
