//! The release: an attestation document in, a share under a lease out.
//!
//! ```text
//! shape → challenge of ours → rate → path and signature under the policy's root → made for this custodian and key store
//!       → measurements and age → approvals → overlay, window, shares, register → encrypted
//!       → nonce spent and lease kept in one step, if there are not too many → answer
//! ```
//! Guarantees: nothing is encrypted to a key that did not pass every step; the same document obtains one release. While the
//! overlay in force blocks the whole key store, the release carries the overlay and **no share**: the enclave gets its lease,
//! so that it can wait for the block to be lifted, and nothing to use meanwhile. An enclave tells this from a key store
//! before its ceremony by the overlay. Approvals are needed for any release, since a lease alone can already change something; the
//! window bounds those with a share. Every release is logged and recorded, and every refusal of a document that an NSM signed; of
//! other refusals so many a second, since anybody can cause them.

use std::sync::Arc;
use std::time::Instant;

use holdfast_shared::attestation::{
    AppraisalError, Expectations, Expected, Measurements, ParseError, ParsedDocument, VerifiedAttestation,
    VerifiedDocument, VerifyError,
};
use holdfast_shared::cbor::{self, DecodeError, Message};
use holdfast_shared::hpke;
use holdfast_shared::ids::BootId;
use holdfast_shared::limits;
use holdfast_shared::manifest::ReleasePolicy;
use holdfast_shared::release::{ReleaseRequest, ReleaseUserData};
use holdfast_shared::signature::PUBLIC_KEY_LEN;

use super::challenge::ChallengeError;
use super::grant::{Grant, Stop};
use super::membership::KeyStore;
use super::{Custodian, ServiceError, carried_through};
use crate::store::{ReleaseRecord, StoreError};

/// Why a release is denied.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseDenied {
    /// Not an attestation document.
    #[error("attestation document: {0}")]
    Parse(#[from] ParseError),
    /// Not an answer to a challenge of ours.
    #[error("attestation document: {0}")]
    Challenge(#[from] ChallengeError),
    /// The policy names a root that is neither AWS's nor configured.
    #[error("the release policy names an emulated trust root that this custodian's configuration does not name")]
    RootNotConfigured,
    /// Not under the root, or not signed.
    #[error("attestation document: {0}")]
    Verify(#[from] VerifyError),
    /// Not made for a release.
    #[error("attestation document: {0}")]
    UserData(DecodeError),
    /// Made for others.
    #[error("attestation document: `user_data` names another {0}")]
    Elsewhere(&'static str),
    /// The policy does not accept it.
    #[error("attestation document: {0}")]
    Appraisal(#[from] AppraisalError),
    /// Nothing can be encrypted to it.
    #[error("attestation document: `public_key` is not a P-384 key")]
    PublicKey,
    /// The document obtained a release before.
    #[error("the challenge was answered before; ask for a new one")]
    Replayed,
    /// The policy accepts it, and it lacks approvals.
    #[error("awaits {needed} approvals, has {has}: an administrator runs `holdfast release approve {boot_id}`")]
    Unapproved {
        /// The boot.
        boot_id: BootId,
        /// How many it needs.
        needed: u8,
        /// How many it has.
        has: usize,
    },
    /// The policy accepts it at other hours.
    #[error("the release window is closed; it opens at {opens}")]
    WindowClosed {
        /// When, in UTC.
        opens: String,
    },
    /// The policy accepts it once others are gone.
    #[error(
        "as many boots hold leases as the release policy allows ({boots_max}); one must end before another gets one"
    )]
    TooManyBoots {
        /// How many.
        boots_max: u32,
    },
    /// Another custodian holds the share by now.
    #[error("this custodian was removed from the key store's manifest and holds no share of it any more")]
    Removed,
    /// Too many documents at a time. Not recorded.
    #[error("too many releases are asked for; try again in a second")]
    TooMany,
}

impl ReleaseDenied {
    /// Whether the enclave asks again and again until it is granted.
    const fn is_for_now(&self) -> bool {
        matches!(self, Self::Unapproved { .. } | Self::WindowClosed { .. } | Self::TooManyBoots { .. } | Self::Removed)
    }
}

/// Evidence that passed, with what the enclave says about itself.
pub(super) struct Accepted {
    pub(super) attestation: VerifiedAttestation,
    pub(super) user_data: ReleaseUserData,
    pub(super) user_data_bytes: Vec<u8>,
    pub(super) nonce: [u8; 32],
    pub(super) public_key: hpke::PublicKey,
}

/// What was proven before a denial, for the record.
#[derive(Default)]
struct Proven {
    trust_root: Option<[u8; 32]>,
    module_id: Option<String>,
    measurements: Option<Measurements>,
    user_data: Option<ReleaseUserData>,
}

impl Proven {
    fn note(&mut self, document: &VerifiedDocument) {
        self.trust_root = Some(document.root_fingerprint());
        self.module_id = Some(document.module_id().to_owned());
        self.measurements = Measurements::shown_by(document.pcrs());
    }
}

impl Custodian {
    /// `release`: a share under a lease, for an enclave that proves what it is.
    ///
    /// # Errors
    /// [`ServiceError`]; the reason of a denial is also in the record.
    pub async fn release(self: &Arc<Self>, body: &[u8]) -> Result<Vec<u8>, ServiceError> {
        let request: ReleaseRequest = cbor::decode(body)?;
        let key_store = self.key_store(request.key_store_id)?;
        let policy = self.policy(&key_store).await?;
        let custodian = Arc::clone(self);
        carried_through(async move { custodian.decide(key_store, policy, request.document).await }).await
    }

    async fn decide(
        self: Arc<Self>,
        key_store: Arc<KeyStore>,
        policy: ReleasePolicy,
        document: Vec<u8>,
    ) -> Result<Vec<u8>, ServiceError> {
        let now_ms = self.clock.now_ms();
        let (judged, proven) = {
            let (key_store, policy, document) = (Arc::clone(&key_store), policy.clone(), document.clone());
            self.blocking(move |custodian| {
                let mut proven = Proven::default();
                (custodian.judge(&key_store, &policy, &document, now_ms, &mut proven), proven)
            })
            .await?
        };
        let granted = match judged {
            Ok(accepted) => match self.check_approvals(&key_store, &policy, &document, &accepted, now_ms).await {
                Ok(()) => {
                    let (key_store, policy) = (Arc::clone(&key_store), policy.clone());
                    self.grant(Grant { key_store, policy, document, accepted, now_ms }).await
                }
                Err(stop) => Err(stop),
            },
            Err(denied) => Err(Stop::Denied(denied)),
        };
        match granted {
            Ok(answer) => Ok(answer),
            Err(Stop::Service(error)) => Err(error),
            Err(Stop::Denied(denied @ ReleaseDenied::TooMany)) => Err(ServiceError::TooMany(denied.to_string())),
            Err(Stop::Denied(denied)) => {
                self.record_denial(&key_store, &policy, &denied, proven, now_ms).await?;
                Err(ServiceError::Denied(denied.to_string()))
            }
        }
    }

    /// Section 6 of the design, and whether the document was made for this very purpose.
    fn judge(
        &self,
        key_store: &KeyStore,
        policy: &ReleasePolicy,
        document: &[u8],
        now_ms: u64,
        proven: &mut Proven,
    ) -> Result<Accepted, ReleaseDenied> {
        let parsed = ParsedDocument::parse(document)?;
        let nonce = parsed.claimed_nonce().and_then(|nonce| <[u8; 32]>::try_from(nonce).ok());
        let nonce = nonce.ok_or(ChallengeError::NotOurs)?;
        self.challenges.check(&nonce, key_store.id(), now_ms)?;
        // From here on it costs: five signatures for one document.
        if !self.release_rate.allow(Instant::now()) {
            return Err(ReleaseDenied::TooMany);
        }
        self.appraise(key_store, policy, parsed, nonce, now_ms, proven)
    }

    fn appraise(
        &self,
        key_store: &KeyStore,
        policy: &ReleasePolicy,
        parsed: ParsedDocument,
        nonce: [u8; 32],
        now_ms: u64,
        proven: &mut Proven,
    ) -> Result<Accepted, ReleaseDenied> {
        let user_data_bytes = parsed.claimed_user_data().unwrap_or_default().to_vec();
        let root = self.roots.find(&policy.trust_root).ok_or(ReleaseDenied::RootNotConfigured)?;
        let verified = parsed.verify(root, now_ms)?;
        proven.note(&verified);
        let user_data: ReleaseUserData = cbor::decode(&user_data_bytes).map_err(ReleaseDenied::UserData)?;
        proven.user_data = Some(user_data.clone());
        if user_data.key_store_id != key_store.id() {
            return Err(ReleaseDenied::Elsewhere("key store"));
        }
        if user_data.custodian_id != self.id {
            return Err(ReleaseDenied::Elsewhere("custodian"));
        }
        let expected = Expectations {
            nonce: &nonce,
            max_age_ms: limits::CHALLENGE_LIFE_MS,
            accepted: &policy.accepted(now_ms),
            user_data: Expected::Exactly(&user_data_bytes),
            public_key: Expected::Present,
        };
        let attestation = verified.appraise(&expected, now_ms)?;
        let public_key = attestation
            .public_key()
            .and_then(|key| <[u8; PUBLIC_KEY_LEN]>::try_from(key).ok())
            .map(hpke::PublicKey)
            .ok_or(ReleaseDenied::PublicKey)?;
        Ok(Accepted { attestation, user_data, user_data_bytes, nonce, public_key })
    }

    async fn record_denial(
        &self,
        key_store: &KeyStore,
        policy: &ReleasePolicy,
        denied: &ReleaseDenied,
        proven: Proven,
        now_ms: u64,
    ) -> Result<(), ServiceError> {
        // Anybody can send junk; what an NSM signed is always recorded, and is rare.
        if proven.trust_root.is_none() && !self.unproven_rate.allow(Instant::now()) {
            return Ok(());
        }
        let record = ReleaseRecord {
            at_ms: now_ms,
            key_store_id: key_store.id(),
            released: false,
            reason: denied.to_string(),
            policy_epoch: policy.epoch,
            emulated_root: self.roots.is_emulated(&policy.trust_root),
            trust_root: proven.trust_root,
            module_id: proven.module_id,
            boot_id: proven.user_data.map(|user_data| user_data.boot_id),
            lease_id: None,
            measurements: proven.measurements.as_ref().map(encode_measurements),
        };
        tracing::warn!(
            key_store_id = %key_store.id(), module_id = record.module_id, policy_epoch = policy.epoch,
            emulated_root = record.emulated_root, "refused a release: {denied}"
        );
        if denied.is_for_now() {
            return Ok(self.store.record_refusal_once(&record).await?);
        }
        Ok(self.store.record_refusal(&record).await?)
    }
}

/// Measurements as the record keeps them.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
struct KeptMeasurements(#[n(0)] Measurements);

impl Message for KeptMeasurements {
    const MAX: usize = 512;
    const NAME: &'static str = "stored measurements";

    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

pub(super) fn encode_measurements(measurements: &Measurements) -> Vec<u8> {
    cbor::encode(&KeptMeasurements(measurements.clone())).to_vec()
}

pub(super) fn decode_measurements(kept: &[u8]) -> Result<Measurements, ServiceError> {
    let kept: KeptMeasurements = cbor::decode(kept).map_err(|_| StoreError::Damaged("measurements"))?;
    Ok(kept.0)
}
