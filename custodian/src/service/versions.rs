//! Versions of a key store: compare-and-set at the home custodian, results in the same step.
//!
//! Guarantees: of two enclaves that publish the same version, one wins and the other stores nothing, results included; the
//! very blob that is the newest is acknowledged again. A blob is taken for what its header says, and its header must say what
//! the request says; its evidence must name it, the share set that is kept here, and a manifest that is in force or staged. What is
//! inside, only an enclave can know. Where other custodians must hold the version too, its results stay hidden until it is committed.
//! Earlier blobs are kept.

use std::sync::Arc;

use holdfast_shared::cbor;
use holdfast_shared::channel::Reply;
use holdfast_shared::command::{SealedResult, ceremony_id};
use holdfast_shared::ids::{BlobId, BootId, CommandId, KeyStoreId};
use holdfast_shared::keystore;
use holdfast_shared::labels;
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::HeldEntry;

use super::channel::refused;
use super::lease::Lease;
use super::membership::Membership;
use super::succession::overlay_known;
use super::{Custodian, ServiceError, provenance};
use crate::store::{NewVersion, Origin, Published, StoredBlob, StoredRegister, Version};

const OTHER_MANIFEST: &str = "the version was made under a manifest that is neither in force nor staged here";

/// A version as it is offered.
pub(super) struct Offer {
    pub(super) version: u64,
    pub(super) previous: Option<BlobId>,
    pub(super) blob: Vec<u8>,
    pub(super) evidence: Vec<u8>,
}

impl Custodian {
    pub(super) async fn fetch(&self, lease: &Lease, blob_id: BlobId) -> Result<Reply, ServiceError> {
        match self.store.blob(lease.key_store.id(), blob_id).await? {
            Some(StoredBlob { blob, evidence }) => Ok(Reply::Blob { blob, evidence }),
            None => Ok(refused(lease, "this custodian has no such sealed key store")),
        }
    }

    pub(super) async fn publish(
        self: &Arc<Self>,
        lease: &Lease,
        offer: Offer,
        results: &[SealedResult],
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        let key_store = &lease.key_store;
        let membership = self.membership(key_store).await?;
        if !membership.is_home() {
            return Ok(refused(lease, "this custodian is not the home custodian, which orders changes"));
        }
        if !self.belong(lease, results).await? {
            return Ok(refused(lease, "a result belongs to no command of this key store"));
        }
        let judged = {
            let (membership, id, boot_id) = (Arc::clone(&membership), key_store.id(), lease.boot_id);
            self.blocking(move |custodian| custodian.judge_offer(id, &membership, offer, boot_id, origin.now_ms))
                .await??
        };
        let new = match judged {
            Ok(judged) => NewVersion { results: encode(results), ..judged },
            Err(reason) => return Ok(refused(lease, reason)),
        };
        let Version { key_store_id, number: version, blob_id, boot_id, .. } = new.version;
        match self.store.publish(&new, origin).await? {
            Published::Newest(register) => {
                tracing::info!(%key_store_id, version, %blob_id, %boot_id, committed = register.committed, "new version");
                self.after_commit(key_store, &membership).await?;
                Ok(Reply::Published { register: register.signed })
            }
            Published::Conflict(register) => {
                tracing::info!(%key_store_id, version, %boot_id, "another version came first");
                Ok(Reply::Conflict { register: register.map(held) })
            }
            Published::OtherShares => Ok(refused(
                lease,
                "the version is sealed under another share set than the one that is kept here: another ceremony, or another \
                 change of the root key, came first",
            )),
            Published::Backwards => Ok(refused(
                lease,
                "the version is sealed under an older root key or manifest than the newest one, or made under a manifest in whose \
                 stead another one came",
            )),
            Published::OtherManifest => Ok(refused(lease, OTHER_MANIFEST)),
            Published::Blocked => {
                Ok(refused(lease, "a block came between the making of the successor and its adoption; make it anew"))
            }
        }
    }

    /// Judges what can be judged without the database, and signs the version's register entry.
    fn judge_offer(
        &self,
        key_store_id: KeyStoreId,
        membership: &Membership,
        offer: Offer,
        boot_id: BootId,
        now_ms: u64,
    ) -> Result<Result<NewVersion, &'static str>, ServiceError> {
        let Offer { version, previous, blob, evidence } = offer;
        let Ok(header) = keystore::header(&blob) else { return Ok(Err("not a sealed key store")) };
        if (header.key_store_id, header.version, header.previous) != (key_store_id, version, previous) {
            return Ok(Err("the sealed key store's header says something else than the request"));
        }
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id,
            version,
            blob_id: keystore::blob_id(&blob),
            previous,
            recorded_ms: now_ms,
        };
        let named = match provenance::read(&evidence, &entry) {
            Ok(named) => named,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some(manifest) = membership.find(named.manifest) else { return Ok(Err(OTHER_MANIFEST)) };
        let register = register::sign(&entry, &self.signing_key, &self.rng)
            .map_err(|error| ServiceError::Internal(error.to_string()))?;
        let version = Version {
            key_store_id,
            number: version,
            previous,
            blob_id: entry.blob_id,
            blob,
            generation: header.generation,
            share_set_sha256: named.share_set_sha256,
            manifest: named.manifest,
            register,
            evidence,
            boot_id,
        };
        Ok(Ok(NewVersion {
            version,
            results: Vec::new(),
            commit_now: membership.commits_at_once(manifest),
            overlay_known: overlay_known(manifest),
        }))
    }

    pub(super) async fn report(
        self: &Arc<Self>,
        lease: &Lease,
        results: Vec<SealedResult>,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        if !self.belong(lease, &results).await? {
            return Ok(refused(lease, "a result belongs to no command of this key store"));
        }
        self.store.report(lease.key_store.id(), &encode(&results), origin).await?;
        Ok(Reply::Reported)
    }

    /// Whether each result belongs to a command that was queued here, or to the ceremony.
    async fn belong(&self, lease: &Lease, results: &[SealedResult]) -> Result<bool, ServiceError> {
        let key_store_id = lease.key_store.id();
        let ceremony = ceremony_id(key_store_id);
        let ids: Vec<_> = results.iter().map(|result| result.command_id).filter(|id| *id != ceremony).collect();
        Ok(self.store.knows_commands(key_store_id, &ids).await?)
    }
}

/// As it travels.
pub(super) fn held(register: StoredRegister) -> HeldEntry {
    HeldEntry { signed: register.signed, is_committed: register.committed }
}

fn encode(results: &[SealedResult]) -> Vec<(CommandId, Vec<u8>)> {
    results.iter().map(|result| (result.command_id, cbor::encode(result).to_vec())).collect()
}
