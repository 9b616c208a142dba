//! Versions that were published elsewhere: copies, commitment, and what follows from it.
//!
//! Guarantees: a copy is kept only under an entry that the home custodian signed for this key store, with exactly the blob that the
//! entry names; of two entries of one number, or of two lines, the first one stays and the other is named as a fork, aloud. What is
//! committed stays so, puts the successor manifest in force that it names, and lets older shares be deleted; nothing else does.
//! Home takes copies as others do: its disk may have been restored from a backup.

use std::sync::Arc;

use holdfast_shared::channel::Reply;
use holdfast_shared::ids::{BlobId, BootId, KeyStoreId};
use holdfast_shared::keystore;
use holdfast_shared::register;

use super::channel::refused;
use super::lease::Lease;
use super::membership::{KeyStore, Membership};
use super::versions::held;
use super::{Custodian, ServiceError, provenance};
use crate::store::{Committed, Copied, Origin, Retired, StoredRegister, Version};

/// A copy as it travels.
pub(super) struct Copy {
    pub(super) register: Vec<u8>,
    pub(super) blob: Vec<u8>,
    pub(super) evidence: Vec<u8>,
}

impl Custodian {
    /// Keeps a version that the home custodian ordered.
    pub(super) async fn copy(
        self: &Arc<Self>,
        lease: &Lease,
        copy: Copy,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        let key_store = &lease.key_store;
        let id = key_store.id();
        let membership = self.membership(key_store).await?;
        let boot_id = lease.boot_id;
        let judged = self.blocking(move |_| judge(id, &membership, copy, boot_id)).await?;
        let copied = match judged {
            Ok(copied) => copied,
            Err(reason) => return Ok(refused(lease, reason)),
        };
        let (version, blob_id) = (copied.number, copied.blob_id);
        match self.store.copy(&copied, origin).await? {
            Copied::Kept => {
                key_store.wake();
                tracing::info!(key_store_id = %id, version, %blob_id, %boot_id, "holds a copy of a version");
                Ok(Reply::Copied)
            }
            Copied::Same => Ok(Reply::Copied),
            Copied::Older(newest) => Ok(Reply::Conflict { register: Some(held(newest)) }),
            Copied::Conflict(newest) => {
                self.report_fork(lease, version, blob_id, &newest).await?;
                Ok(Reply::Conflict { register: Some(held(newest)) })
            }
        }
    }

    /// Says that the home custodian signed two lines of versions.
    async fn report_fork(
        &self,
        lease: &Lease,
        version: u64,
        blob_id: BlobId,
        newest: &StoredRegister,
    ) -> Result<(), ServiceError> {
        let key_store = &lease.key_store;
        tracing::error!(key_store_id = %key_store.id(), version, %blob_id, held = newest.version, held_blob_id = %newest.blob_id,
            "FORK: the home custodian signed a version that does not go with the versions held here; it was restored from a \
             backup, or it lies");
        let reason = format!(
            "fork: the home custodian signed version {version} ({blob_id}), which does not go with version {} ({}) held here",
            newest.version, newest.blob_id
        );
        self.note(key_store, reason, Some(lease.boot_id)).await
    }

    /// Takes a version for committed: an enclave saw that enough custodians hold it.
    pub(super) async fn commit(
        self: &Arc<Self>,
        lease: &Lease,
        version: u64,
        blob_id: BlobId,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        let key_store = &lease.key_store;
        let before = self.membership(key_store).await?;
        match self.store.commit(key_store.id(), version, blob_id, origin).await? {
            Committed::Done => {
                self.after_commit(key_store, &before).await?;
                Ok(Reply::Committed)
            }
            Committed::Unknown(newest) => Ok(Reply::Conflict { register: newest.map(held) }),
        }
    }

    /// What follows from a committed version: news, and a successor manifest if the version named one.
    pub(super) async fn after_commit(
        self: &Arc<Self>,
        key_store: &KeyStore,
        before: &Membership,
    ) -> Result<(), ServiceError> {
        key_store.wake();
        let sequence = self.membership(key_store).await?.manifest().sequence();
        if sequence == before.manifest().sequence() {
            return Ok(());
        }
        self.note(key_store, format!("manifest {sequence} is in force"), None).await
    }

    /// Deletes the shares of older generations.
    pub(super) async fn retire(
        self: &Arc<Self>,
        lease: &Lease,
        generation: u32,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        let key_store = &lease.key_store;
        let needs_none = !self.membership(key_store).await?.is_member();
        match self.store.retire(key_store.id(), generation, needs_none, origin).await? {
            Retired::Deleted(0) => Ok(Reply::Retired),
            Retired::Deleted(shares) => {
                tracing::warn!(key_store_id = %key_store.id(), generation, shares, "deleted the shares of older generations");
                let reason = format!("deleted its shares of generations before {generation}");
                self.note(key_store, reason, Some(lease.boot_id)).await?;
                Ok(Reply::Retired)
            }
            Retired::TooEarly => Ok(refused(
                lease,
                "older shares are deleted once the newest version held here is committed, is sealed under this generation, and \
                 its share is here",
            )),
        }
    }
}

fn judge(id: KeyStoreId, membership: &Membership, copy: Copy, boot_id: BootId) -> Result<Version, String> {
    let Copy { register, blob, evidence } = copy;
    let home = membership.manifest().home_custodian().ok_or("the manifest names no custodian")?;
    let entry = register::open(&register, id, &home.signing_key).map_err(|error| error.to_string())?;
    let header = keystore::header(&blob).map_err(|_| "not a sealed key store")?;
    let blob_id = keystore::blob_id(&blob);
    if blob_id != entry.blob_id {
        return Err("the sealed key store is not the one that the register entry names".to_owned());
    }
    if (header.key_store_id, header.version, header.previous) != (id, entry.version, entry.previous) {
        return Err("the sealed key store's header says something else than the register entry".to_owned());
    }
    let named = provenance::read(&evidence, &entry)?;
    Ok(Version {
        key_store_id: id,
        number: entry.version,
        previous: entry.previous,
        blob_id,
        blob,
        generation: header.generation,
        share_set_sha256: named.share_set_sha256,
        manifest: named.manifest,
        register,
        evidence,
        boot_id,
    })
}
