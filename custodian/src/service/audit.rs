//! Witnessing audit logs: how far each has come, as their enclaves signed it.
//!
//! Guarantees: what is acknowledged is on disk, was signed by the key that the attestation document of the lease vouches for, and
//! contradicts nothing that was acknowledged before. Refuses: checkpoints of other logs than the lease's own, and contradictions,
//! of which the first is kept as evidence.

use core::str;

use holdfast_shared::audit::{Checkpoint, LogId};
use holdfast_shared::channel::Reply;
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::query::AuditHead;

use super::channel::refused;
use super::lease::Lease;
use super::{Custodian, ServiceError};
use crate::store::{NewAuditHead, Witnessed};

impl Custodian {
    /// Keeps how far the log of a lease's boot has come.
    pub(super) async fn witness(&self, lease: &Lease, note: Vec<u8>) -> Result<Reply, ServiceError> {
        let log = LogId { key_store_id: lease.key_store.id(), boot_id: lease.boot_id };
        let signed = str::from_utf8(&note).ok().map(|text| Checkpoint::verify(text, &lease.audit_public_key));
        let checkpoint = match signed {
            Some(Ok(checkpoint)) if checkpoint.log == log => checkpoint,
            Some(Ok(_)) => return Ok(refused(lease, "this is a checkpoint of another log")),
            Some(Err(error)) => return Ok(refused(lease, error.to_string())),
            None => return Ok(refused(lease, "an audit checkpoint is text")),
        };
        let new = NewAuditHead {
            checkpoint,
            note,
            audit_public_key: lease.audit_public_key,
            document: lease.document.clone(),
            received_ms: self.clock.now_ms(),
        };
        match self.store.witness(new).await? {
            Witnessed::Kept | Witnessed::Known => Ok(Reply::Witnessed),
            Witnessed::Contradiction => {
                tracing::error!(key_store_id = %log.key_store_id, boot_id = %log.boot_id, size = checkpoint.size,
                    "a signed audit checkpoint contradicts those before it: kept as evidence");
                Ok(refused(lease, "this checkpoint contradicts those that were witnessed before"))
            }
        }
    }

    /// How far the logs of boots after this one have come.
    pub(super) async fn audit_heads(
        &self,
        id: KeyStoreId,
        after: Option<BootId>,
    ) -> Result<Vec<AuditHead>, ServiceError> {
        let heads = self.store.audit_heads(id, after).await?;
        let shown = heads.into_iter().map(|head| AuditHead {
            boot_id: head.boot_id,
            checkpoint: head.note,
            audit_public_key: head.audit_public_key,
            evidence: head.document,
            received_ms: head.received_ms,
            contradiction: head.contradiction,
        });
        Ok(shown.collect())
    }
}
