//! Answers about what was: versions, shares, manifests, policies, releases; and about what waits.
//!
//! Guarantees: each answer is bounded, in entries and in bytes, so that it fits into one message; whoever wants more asks on from
//! where it ends. Signed things are shown as they were signed, with the documents that vouch for them, so that nobody has to believe
//! this custodian.

use std::sync::Arc;

use holdfast_shared::cbor;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits;
use holdfast_shared::query::{CustodyRecord, HistoryEntry, ReleaseEntry, ShareRecord, WaitingRelease};
use minicbor::bytes::ByteVec;

use crate::service::membership::{KeyStore, Membership};
use crate::service::release::decode_measurements;
use crate::service::versions::held;
use crate::service::{Custodian, ServiceError};
use crate::store::{self, StoredRecord};

/// Bytes of the entries in one answer: with all else it stays below [`limits::CHANNEL_MESSAGE_MAX`].
const ANSWER_BYTES_MAX: usize = limits::BLOB_MAX;
/// Release policies in one answer.
const POLICIES_MAX: u32 = 24;
/// [`limits::HISTORY_PAGE_MAX`], as the store takes it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a small constant")]
const HISTORY_PAGE: u32 = limits::HISTORY_PAGE_MAX as u32;
/// [`limits::RECORDS_PAGE_MAX`], as the store takes it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a small constant")]
const RECORDS_PAGE: u32 = limits::RECORDS_PAGE_MAX as u32;

impl Custodian {
    /// Signed commands that wait, oldest first.
    pub(super) async fn pending(&self, id: KeyStoreId, now_ms: u64) -> Result<Vec<ByteVec>, ServiceError> {
        let pending = self.store.pending(id, now_ms).await?;
        Ok(pending.into_iter().map(|(_, envelope)| envelope.into()).collect())
    }

    /// Versions from this one on, as many as fit.
    pub(super) async fn history(&self, id: KeyStoreId, from: u64) -> Result<Vec<HistoryEntry>, ServiceError> {
        let (mut entries, mut bytes) = (Vec::new(), 0_usize);
        for entry in self.store.history(id, from, HISTORY_PAGE).await? {
            let entry = self.history_entry(id, entry).await?;
            let commands = entry.commands.iter().map(|command| command.len()).fold(0, usize::saturating_add);
            bytes = bytes.saturating_add(entry.entry.signed.len()).saturating_add(entry.evidence.len());
            bytes = bytes.saturating_add(commands);
            if bytes > ANSWER_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    async fn history_entry(&self, id: KeyStoreId, entry: store::HistoryEntry) -> Result<HistoryEntry, ServiceError> {
        let mut commands = Vec::new();
        for command_id in entry.commands {
            commands.extend(self.store.command(id, command_id).await?.map(ByteVec::from));
        }
        let evidence = entry.register.evidence.clone();
        Ok(HistoryEntry { entry: held(entry.register), evidence, commands })
    }

    /// Where the shares come from, the manifests, and the newest release policies.
    pub(super) async fn custody(
        &self,
        key_store: &KeyStore,
        membership: &Membership,
    ) -> Result<CustodyRecord, ServiceError> {
        let damaged = |_| ServiceError::Internal("the stored share set is damaged".to_owned());
        let mut shares = Vec::new();
        for share in self.store.shares(key_store.id()).await? {
            let set = cbor::decode(&share.share_set).map_err(damaged)?;
            shares.push(ShareRecord { set, document: share.document, deposited_ms: share.deposited_ms });
        }
        let manifest = membership.manifest();
        let manifests = core::iter::once(manifest.signed_bytes()).chain(manifest.successors());
        let policies = self.store.policy_updates(key_store.id(), POLICIES_MAX).await?;
        Ok(CustodyRecord {
            shares,
            manifests: manifests.map(|signed| signed.to_vec().into()).collect(),
            policies: policies.into_iter().map(ByteVec::from).collect(),
        })
    }

    /// Releases, refusals and notes before this one, newest first.
    pub(super) async fn record(&self, id: KeyStoreId, before: u64) -> Result<Vec<ReleaseEntry>, ServiceError> {
        let before = (before > 0).then_some(before);
        self.store.records(id, before, RECORDS_PAGE).await?.into_iter().map(release_entry).collect()
    }

    /// Boots that wait for approvals.
    pub(super) async fn waiting(
        self: &Arc<Self>,
        key_store: &KeyStore,
        now_ms: u64,
    ) -> Result<Vec<WaitingRelease>, ServiceError> {
        let needed = self.policy(key_store).await?.approvals.map_or(0, core::num::NonZeroU8::get);
        let mut waiting = Vec::new();
        for release in self.store.waiting_releases(key_store.id()).await? {
            waiting.push(WaitingRelease {
                boot_id: release.boot_id,
                module_id: release.module_id,
                measurements: decode_measurements(&release.measurements)?,
                first_ms: release.first_ms,
                last_ms: release.last_ms,
                approved_by: self.approved_by(key_store, release.boot_id, now_ms).await?,
                needed,
                document: release.document,
            });
        }
        Ok(waiting)
    }
}

fn release_entry(stored: StoredRecord) -> Result<ReleaseEntry, ServiceError> {
    let StoredRecord { id, record } = stored;
    Ok(ReleaseEntry {
        id,
        at_ms: record.at_ms,
        is_released: record.released,
        reason: record.reason,
        policy_epoch: record.policy_epoch,
        module_id: record.module_id,
        boot_id: record.boot_id,
        measurements: record.measurements.as_deref().map(decode_measurements).transpose()?,
    })
}
