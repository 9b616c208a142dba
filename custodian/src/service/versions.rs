//! Versions of a key store: compare-and-set at the home custodian, results in the same step.
//!
//! Guarantees: of two enclaves that publish the same version, one wins and the other stores nothing, results included; the
//! very blob that is the newest is acknowledged again. A blob is taken for what its header says, and its header must say what
//! the request says; what is inside, only an enclave can know. Earlier blobs are kept.

use std::sync::Arc;

use holdfast_shared::cbor;
use holdfast_shared::channel::Reply;
use holdfast_shared::command::{SealedResult, ceremony_id};
use holdfast_shared::ids::{BlobId, CommandId};
use holdfast_shared::keystore;
use holdfast_shared::labels;
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::HeldEntry;

use super::channel::refused;
use super::lease::Lease;
use super::{Custodian, ServiceError, provenance};
use crate::store::{NewVersion, Origin, Published, StoredBlob, StoredRegister};

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
        version: u64,
        previous: Option<BlobId>,
        blob: Vec<u8>,
        evidence: Vec<u8>,
        results: Vec<SealedResult>,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        let key_store = &lease.key_store;
        let key_store_id = key_store.id();
        if !key_store.is_home() {
            return Ok(refused(lease, "this custodian is not the home custodian, which orders changes"));
        }
        let shares = self.store.shares(key_store_id).await?;
        if shares.is_empty() {
            return Ok(refused(lease, "the ceremony's share comes before the first version"));
        }
        let Ok(header) = keystore::header(&blob) else {
            return Ok(refused(lease, "not a sealed key store"));
        };
        let has_share = shares.iter().any(|share| share.generation == header.generation);
        if (header.key_store_id, header.version, header.previous) != (key_store_id, version, previous) || !has_share {
            return Ok(refused(lease, "the sealed key store's header says something else than the request"));
        }
        if !self.belong(lease, &results).await? {
            return Ok(refused(lease, "a result belongs to no command of this key store"));
        }
        let blob_id = keystore::blob_id(&blob);
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id,
            version,
            blob_id,
            previous,
            recorded_ms: origin.now_ms,
        };
        let named = match provenance::read(&evidence, &entry) {
            Ok(named) => named,
            Err(reason) => return Ok(refused(lease, reason)),
        };
        let register = register::sign(&entry, &self.signing_key, &self.rng)
            .map_err(|error| ServiceError::Internal(error.to_string()))?;
        let results = encode(&results);
        let boot_id = lease.boot_id;
        let new = NewVersion {
            key_store_id,
            version,
            previous,
            blob_id,
            blob,
            generation: header.generation,
            share_set_sha256: named.share_set_sha256,
            manifest_sequence: named.manifest_sequence,
            register,
            evidence,
            results,
            boot_id,
            commit_now: true,
        };
        match self.store.publish(&new, origin).await? {
            Published::Newest(register) => {
                key_store.wake();
                tracing::info!(key_store_id = %key_store_id, version, blob_id = %blob_id, boot_id = %boot_id, "new version");
                Ok(Reply::Published { register: register.signed })
            }
            Published::Conflict(register) => {
                tracing::info!(key_store_id = %key_store_id, version, boot_id = %boot_id, "another version came first");
                Ok(Reply::Conflict { register: register.map(held) })
            }
            Published::Backwards => {
                Ok(refused(lease, "is sealed under an older root key or manifest than the newest one"))
            }
            Published::OtherShares => Ok(refused(lease, "is sealed under other shares than those that are kept here")),
        }
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
