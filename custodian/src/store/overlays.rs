//! Block overlays, and what is news to an enclave.

use holdfast_shared::channel::Seen;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits;
use holdfast_shared::manifest::ManifestId;

use super::commands::pending;
use super::database::{Lock, Session, Transaction, write_transaction};
use super::manifests::manifest_of_blocks;
use super::versions::newest;
use super::{Store, StoreError, StoredRegister, from_integer, to_integer};

/// A signed block overlay as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOverlay {
    /// Its epoch.
    pub epoch: u64,
    /// The signed overlay.
    pub signed: Vec<u8>,
}

/// What decided on an overlay, or a release policy, that is to be put in force.
#[derive(Clone, Copy, Debug)]
pub struct JudgedBy {
    /// Epoch of the one in force, 0 for none.
    pub epoch: u64,
    /// Whose administrators' signatures count: for a policy those of the manifest in force; for overlays from that one on those of the
    /// staged manifest, if a version that is held names it.
    pub manifest: ManifestId,
}

/// What an enclave has not seen.
#[derive(Debug, Default)]
pub struct News {
    /// The signed overlay, if newer.
    pub overlay: Option<Vec<u8>>,
    /// The newest register entry, if newer, and committed or old enough that whoever made it has ended.
    pub register: Option<StoredRegister>,
    /// In how many milliseconds a register entry that is held back will be told.
    pub held_back_ms: Option<u64>,
    /// Signed commands that wait, oldest first.
    pub commands: Vec<Vec<u8>>,
}

impl News {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.overlay.is_none() && self.register.is_none() && self.commands.is_empty()
    }
}

impl Store {
    /// The signed overlay in force.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn overlay(&self, key_store_id: KeyStoreId) -> Result<Option<StoredOverlay>, StoreError> {
        overlay(&mut self.database.read().await?, key_store_id).await
    }

    /// All signed overlays, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn overlays(&self, key_store_id: KeyStoreId) -> Result<Vec<StoredOverlay>, StoreError> {
        let rows: Vec<(i64, Vec<u8>)> = self
            .database
            .read()
            .await?
            .fetch_all(
                "SELECT epoch, overlay FROM overlays WHERE key_store_id = $1 ORDER BY epoch",
                &[key_store_id.as_bytes().into()],
            )
            .await?;
        rows.into_iter().map(stored).collect()
    }

    /// Puts an overlay in force, if what decided on it still does. False when it does not: judge again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_overlay(
        &self,
        key_store_id: KeyStoreId,
        judged_by: JudgedBy,
        new: &StoredOverlay,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), put_overlay(key_store_id, judged_by, new, now_ms))
    }

    /// What an enclave that has seen `seen` does not know.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn news(&self, key_store_id: KeyStoreId, seen: &Seen, now_ms: u64) -> Result<News, StoreError> {
        let mut session = self.database.read().await?;
        let overlay = overlay(&mut session, key_store_id).await?.filter(|overlay| overlay.epoch > seen.overlay_epoch);
        let register = newest(&mut session, key_store_id).await?.filter(|register| register.version > seen.version);
        let held_back_ms = register.as_ref().and_then(|register| held_back_ms(register, now_ms));
        let commands = pending(&mut session, key_store_id, now_ms).await?;
        let unseen = commands.into_iter().filter(|(id, _)| !seen.commands.contains(id));
        Ok(News {
            overlay: overlay.map(|overlay| overlay.signed),
            register: register.filter(|_| held_back_ms.is_none()),
            held_back_ms,
            commands: unseen.map(|(_, envelope)| envelope).take(limits::PENDING_COMMANDS_MAX).collect(),
        })
    }
}

/// For how long yet a version is held back: while the enclave that made it may commit it. A clock that was set back holds nothing
/// back.
fn held_back_ms(register: &StoredRegister, now_ms: u64) -> Option<u64> {
    let age_ms = now_ms.checked_sub(register.recorded_ms).filter(|_| !register.committed)?;
    limits::COMMIT_WAIT_MS.checked_sub(age_ms).filter(|left_ms| *left_ms > 0)
}

async fn put_overlay(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    judged_by: JudgedBy,
    new: &StoredOverlay,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let is_same_overlay = overlay_epoch(transaction, key_store_id).await? == judged_by.epoch;
    if !is_same_overlay || manifest_of_blocks(transaction, key_store_id).await? != Some(judged_by.manifest) {
        return Ok(false);
    }
    transaction
        .execute(
            "INSERT INTO overlays (key_store_id, epoch, overlay, recorded_ms) VALUES ($1, $2, $3, $4)",
            &[
                key_store_id.as_bytes().into(),
                to_integer(new.epoch, "block overlay's epoch")?.into(),
                (&new.signed).into(),
                to_integer(now_ms, "time")?.into(),
            ],
        )
        .await?;
    transaction.announce(key_store_id).await?;
    Ok(true)
}

/// The epoch in force, 0 for none.
pub(super) async fn overlay_epoch(session: &mut Session, key_store_id: KeyStoreId) -> Result<u64, StoreError> {
    Ok(overlay(session, key_store_id).await?.map_or(0, |overlay| overlay.epoch))
}

async fn overlay(session: &mut Session, key_store_id: KeyStoreId) -> Result<Option<StoredOverlay>, StoreError> {
    let row: Option<(i64, Vec<u8>)> = session
        .fetch_optional(
            "SELECT epoch, overlay FROM overlays WHERE key_store_id = $1 ORDER BY epoch DESC LIMIT 1",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    row.map(stored).transpose()
}

fn stored((epoch, signed): (i64, Vec<u8>)) -> Result<StoredOverlay, StoreError> {
    Ok(StoredOverlay { epoch: from_integer(epoch, "epoch")?, signed })
}

/// Deletes all overlays but those of these epochs.
pub(super) async fn retain_overlays(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    epochs: &[u64],
) -> Result<(), StoreError> {
    let kept: Vec<(i64,)> = transaction
        .fetch_all("SELECT epoch FROM overlays WHERE key_store_id = $1", &[key_store_id.as_bytes().into()])
        .await?;
    for (epoch,) in kept {
        if !epochs.contains(&from_integer(epoch, "epoch")?) {
            transaction
                .execute(
                    "DELETE FROM overlays WHERE key_store_id = $1 AND epoch = $2",
                    &[key_store_id.as_bytes().into(), epoch.into()],
                )
                .await?;
        }
    }
    Ok(())
}
