//! Queries of administrators, and signed answers.
//!
//! Guarantees: only an administrator of the key store gets an answer, and only to a question of the last five minutes; the
//! answer is bound to the question. Results stay as the enclave encrypted them, and those of a version show once it is committed.

mod records;

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_shared::cbor;
use holdfast_shared::command::SealedResult;
use holdfast_shared::ids::{CommandId, KeyStoreId};
use holdfast_shared::query::{self, Answer, KeyStoreStatus, LeaseInfo, Question, ResultState, VersionInfo};

use super::evidence::Evidence;
use super::membership::{KeyStore, Membership};
use super::{Custodian, ServiceError};
use crate::store::StoredLease;

impl Custodian {
    /// `queries`: what came of a command, what is blocked, how the key store is.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn query(self: &Arc<Self>, body: Vec<u8>) -> Result<Vec<u8>, ServiceError> {
        let id = query::key_store_of(&body).map_err(|error| ServiceError::Malformed(error.to_string()))?;
        let key_store = self.key_store(id)?;
        let membership = self.membership(&key_store).await?;
        let now_ms = self.clock.now_ms();
        let judged = {
            let membership = Arc::clone(&membership);
            self.blocking(move |custodian| query::open(&body, id, custodian.id, membership.administrators(), now_ms))
                .await?
        };
        let asked = judged.map_err(|error| ServiceError::Denied(error.to_string()))?;
        let answer = match asked.question {
            Question::Result(command_id) => Answer::Result(self.result_state(&key_store, command_id, now_ms).await?),
            Question::Overlay => {
                Answer::Overlay { overlay: self.store.overlay(key_store.id()).await?.map(|overlay| overlay.signed) }
            }
            Question::Status => Answer::Status(self.status(&key_store, &membership, now_ms).await?),
            Question::Pending => Answer::Pending(self.pending(id, now_ms).await?),
            Question::History(from) => Answer::History(self.history(id, from).await?),
            Question::Custody => Answer::Custody(self.custody(&key_store, &membership).await?),
            Question::Records(before) => Answer::Records(self.record(id, before).await?),
            Question::AuditHeads(after) => Answer::AuditHeads(self.audit_heads(id, after).await?),
            Question::Budgets => Answer::Budgets(self.budget_counts(id, now_ms).await?),
            Question::Alarms(before) => Answer::Alarms(self.alarms(id, before).await?),
            Question::WaitingReleases => Answer::WaitingReleases(self.waiting(&key_store, now_ms).await?),
        };
        let signed =
            self.blocking(move |custodian| query::sign_answer(answer, &asked, &custodian.signing_key, &custodian.rng));
        signed.await?.map_err(|error| ServiceError::Internal(error.to_string()))
    }

    async fn result_state(
        &self,
        key_store: &KeyStore,
        command_id: CommandId,
        now_ms: u64,
    ) -> Result<ResultState, ServiceError> {
        // Looked at in the order in which a command moves: it waits, its result is hidden, its result is shown. So none is lost sight of
        // that moves between two looks.
        let pending = self.store.pending(key_store.id(), now_ms).await?;
        let waits = pending.iter().any(|(id, _)| *id == command_id);
        let is_hidden = self.store.has_hidden_result(key_store.id(), command_id).await?;
        if let Some(sealed) = self.store.result(key_store.id(), command_id).await? {
            let sealed: SealedResult =
                cbor::decode(&sealed).map_err(|_| ServiceError::Internal("a stored result is damaged".to_owned()))?;
            return Ok(ResultState::Ready(sealed));
        }
        Ok(if waits || is_hidden { ResultState::Pending } else { ResultState::Unknown })
    }

    async fn lease_infos(&self, key_store_id: KeyStoreId, now_ms: u64) -> Result<Vec<LeaseInfo>, ServiceError> {
        let leases = self.store.leases_of(key_store_id, now_ms).await?;
        leases.into_iter().map(|lease| lease_info(self.seen_here(lease.lease_id), lease)).collect()
    }

    async fn status(
        &self,
        key_store: &KeyStore,
        membership: &Membership,
        now_ms: u64,
    ) -> Result<KeyStoreStatus, ServiceError> {
        let id = key_store.id();
        let policy = self.policy(key_store).await?;
        let newest = self.store.register(id).await?;
        let is_committed = newest.as_ref().is_some_and(|newest| newest.committed);
        let shares = self.store.shares(id).await?;
        let waiting = self.store.waiting_releases(id).await?.len();
        let version = newest.map(|register| VersionInfo {
            version: register.version,
            blob_id: register.blob_id,
            recorded_ms: register.recorded_ms,
        });
        Ok(KeyStoreStatus {
            now_ms,
            holds_share: !shares.is_empty(),
            generations: shares.iter().map(|share| share.generation).collect::<BTreeSet<_>>().into_iter().collect(),
            manifest_sequence: membership.manifest().sequence(),
            is_committed,
            waiting_releases: u32::try_from(waiting).unwrap_or(u32::MAX),
            version,
            overlay_epoch: self.store.overlay(id).await?.map_or(0, |overlay| overlay.epoch),
            policy_epoch: policy.epoch,
            emulated_root: self.roots.is_emulated(&policy.trust_root) && self.roots.find(&policy.trust_root).is_some(),
            leases: self.lease_infos(id, now_ms).await?,
            pending: self.store.pending(id, now_ms).await?.into_iter().map(|(id, _)| id).collect(),
        })
    }
}

fn lease_info(seen_here_ms: u64, lease: StoredLease) -> Result<LeaseInfo, ServiceError> {
    let evidence: Evidence =
        cbor::decode(&lease.evidence).map_err(|_| ServiceError::Internal("stored evidence is damaged".to_owned()))?;
    Ok(LeaseInfo {
        lease_id: lease.lease_id,
        boot_id: lease.boot_id,
        module_id: lease.module_id,
        measurements: evidence.measurements,
        granted_ms: lease.granted_ms,
        expires_ms: lease.times.expires_ms,
        seen_ms: lease.times.seen_ms.max(seen_here_ms),
        document: lease.document,
        obeys: lease.obeys,
    })
}
