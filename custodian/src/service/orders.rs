//! What administrators order: commands, blocks.
//!
//! Guarantees: each is signed by those whom it must be signed by, is durable before it is acknowledged, changes nothing when
//! it comes twice, and wakes the enclaves that wait for news. Approvals on commands are counted by the enclave; the copy that waits
//! gathers the signatures of all that come. Once a version that is held puts a successor manifest in force, blocks are signed under
//! that one: under its predecessor they would be in force no more soon.

use std::sync::Arc;

use holdfast_shared::block::{self, BlockError, BlockOverlay};
use holdfast_shared::cbor;
use holdfast_shared::command::{self, Action, Command};
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::signature::Envelope;

use super::membership::{KeyStore, Membership};
use super::{Custodian, ServiceError, carried_through};
use crate::store::{JudgedBy, Merged, Queued, StoreError, StoredCommand, StoredOverlay};

/// How often a block is judged again because another one came between.
const BLOCK_TRIES: usize = 8;

impl Custodian {
    /// `commands`: an order for an enclave.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn command(self: &Arc<Self>, body: Vec<u8>) -> Result<(), ServiceError> {
        let envelope: Envelope = cbor::decode(&body)?;
        let claimed: Command = cbor::decode(envelope.unverified_payload())?;
        let key_store = self.key_store(claimed.key_store_id)?;
        let membership = self.membership(&key_store).await?;
        if !membership.is_home() {
            let home = membership.manifest().home_custodian().map_or("", |home| home.address.as_str());
            let reason = format!("commands go to the home custodian of this key store, {home}");
            return Err(ServiceError::Denied(reason));
        }
        let judged = {
            let (id, body) = (key_store.id(), body.clone());
            self.blocking(move |_| command::open(&body, id, membership.administrators())).await?
        };
        let (command, signers) = judged.map_err(|error| ServiceError::Denied(error.to_string()))?;
        let late_ms = self.clock.now_ms().checked_sub(command.expires_ms);
        if let Some(late_ms) = late_ms {
            return Err(ServiceError::Denied(format!(
                "command: has expired, {} s ago by this custodian's clock: issue it again; if that is not so, compare the clock of the \
                 machine that signed it",
                late_ms.div_ceil(1000)
            )));
        }
        let stored = StoredCommand {
            key_store_id: key_store.id(),
            command_id: command.command_id,
            envelope: body,
            signers: u32::try_from(signers.len()).unwrap_or(u32::MAX),
            expires_ms: command.expires_ms,
        };
        let custodian = Arc::clone(self);
        carried_through(async move {
            // An order to adopt a successor that would be refused is refused where its author hears of it.
            if let Action::AdoptManifest { signed } = command.action {
                custodian.stage(&key_store, vec![signed]).await?;
            }
            custodian.queue(&key_store, stored, &envelope).await
        })
        .await
    }

    async fn queue(
        &self,
        key_store: &KeyStore,
        command: StoredCommand,
        offered: &Envelope,
    ) -> Result<(), ServiceError> {
        let merge = |known: &[u8]| merged(known, offered);
        match self.store.queue(&command, self.clock.now_ms(), &merge).await? {
            Queued::Waits => {
                key_store.wake();
                tracing::info!(key_store_id = %key_store.id(), command_id = %command.command_id,
                    signers = command.signers, "a command waits");
                Ok(())
            }
            Queued::Known => Ok(()),
            Queued::Differs => {
                let reason = "another command has this id; give each command an id of its own";
                Err(ServiceError::Conflict(reason.to_owned()))
            }
            Queued::Full => Err(ServiceError::TooMany(
                "too many commands wait for an enclave; let it carry them out, or let them expire".to_owned(),
            )),
        }
    }

    /// `blocks`: what must not be used from now on. Acknowledged once it is durable and on its way.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn block(self: &Arc<Self>, body: Vec<u8>) -> Result<(), ServiceError> {
        let envelope: Envelope = cbor::decode(&body)?;
        let claimed: BlockOverlay = cbor::decode(envelope.unverified_payload())?;
        let key_store = self.key_store(claimed.key_store_id)?;
        let custodian = Arc::clone(self);
        carried_through(async move { custodian.put_block(&key_store, body, &envelope).await }).await
    }

    async fn put_block(
        self: &Arc<Self>,
        key_store: &Arc<KeyStore>,
        body: Vec<u8>,
        offered: &Envelope,
    ) -> Result<(), ServiceError> {
        for _ in 0..BLOCK_TRIES {
            let current = self.store.overlay(key_store.id()).await?;
            if let Some(current) = &current
                && cbor::decode::<Envelope>(&current.signed)?.unverified_payload() == offered.unverified_payload()
            {
                return Ok(());
            }
            let against = current.as_ref().map_or(0, |current| current.epoch);
            let membership = self.membership(key_store).await?;
            let judged_by = JudgedBy { epoch: against, manifest: membership.coming().manifest_id() };
            let overlay = self.judge_block(key_store, membership, current, body.clone()).await?;
            // No single order may use up the epochs that lifting it needs.
            let highest = against.saturating_add(holdfast_shared::limits::BLOCK_EPOCH_STEP_MAX);
            if overlay.epoch > highest {
                let text =
                    format!("block overlay: the epoch may be {highest} at most, not {}: sign anew", overlay.epoch);
                return Err(ServiceError::Conflict(text));
            }
            let new = StoredOverlay { epoch: overlay.epoch, signed: body.clone() };
            if self.store.put_overlay(key_store.id(), judged_by, &new, self.clock.now_ms()).await? {
                key_store.wake();
                tracing::warn!(key_store_id = %key_store.id(), epoch = overlay.epoch, store = overlay.store,
                    keys = overlay.keys.len(), "a block overlay is in force");
                return Ok(());
            }
        }
        Err(ServiceError::Conflict("other block overlays keep coming between; try again".to_owned()))
    }

    async fn judge_block(
        self: &Arc<Self>,
        key_store: &Arc<KeyStore>,
        membership: Arc<Membership>,
        current: Option<StoredOverlay>,
        body: Vec<u8>,
    ) -> Result<BlockOverlay, ServiceError> {
        let key_store = Arc::clone(key_store);
        let judged = self
            .blocking(move |_| {
                let current = match &current {
                    Some(current) => Some(stored_overlay(&key_store, current)?),
                    None => None,
                };
                // Up to the epoch that a successor names, its predecessor's administrators count: so it is for enclaves.
                let opened = block::open_under(&body, membership.coming(), current.as_ref());
                opened.map_err(|error| match error {
                    BlockError::Decode(error) => error.into(),
                    BlockError::Stale { .. } => ServiceError::Conflict(error.to_string()),
                    BlockError::Signature(_) => ServiceError::Denied(unsigned(&error, &membership)),
                    BlockError::OtherKeyStore => ServiceError::Denied(error.to_string()),
                })
            })
            .await??;
        Ok(judged)
    }
}

/// The epochs of the overlays that a custodian which knew these manifests from the start would have, too: each lifts no more than its
/// signatures suffice for.
pub(super) fn still_in_force(overlays: &[StoredOverlay], manifest: &VerifiedManifest) -> Vec<u64> {
    let mut current: Option<BlockOverlay> = None;
    let mut epochs = Vec::new();
    for overlay in overlays {
        if let Ok(opened) = block::open_under(&overlay.signed, manifest, current.as_ref()) {
            epochs.push(overlay.epoch);
            current = Some(opened);
        }
    }
    epochs
}

/// Why an overlay's signatures are not enough: maybe they were, before a version that is held named another manifest.
fn unsigned(error: &BlockError, membership: &Membership) -> String {
    let (coming, in_force) = (membership.coming().sequence(), membership.manifest().sequence());
    if coming == in_force {
        return error.to_string();
    }
    format!("{error}; manifest {coming} is being put in force, and blocks are signed under it: sign under it")
}

/// Both copies' signatures on one command: each copy was verified when it came.
fn merged(known: &[u8], offered: &Envelope) -> Result<Merged, StoreError> {
    let mut both: Envelope = cbor::decode(known).map_err(|_| StoreError::Damaged("command"))?;
    Ok(match both.merge(offered) {
        None => Merged::Differs,
        Some(0) => Merged::Nothing,
        Some(_) => Merged::Replaced {
            signers: u32::try_from(both.signature_count()).unwrap_or(u32::MAX),
            envelope: cbor::encode(&both).to_vec(),
        },
    })
}

/// An overlay from the database. It was verified when it was put in force.
pub(super) fn stored_overlay(key_store: &KeyStore, stored: &StoredOverlay) -> Result<BlockOverlay, ServiceError> {
    let damaged = || ServiceError::Internal("the stored block overlay is damaged".to_owned());
    let envelope: Envelope = cbor::decode(&stored.signed).map_err(|_| damaged())?;
    let overlay: BlockOverlay = cbor::decode(envelope.unverified_payload()).map_err(|_| damaged())?;
    if overlay.key_store_id == key_store.id() { Ok(overlay) } else { Err(damaged()) }
}
