//! Versions of key stores with the register, and results.
//!
//! A version is *held* once it is here, and *committed* once an enclave said that enough custodians hold it. Versions are held
//! for good; numbers may be missing where this custodian was away.

use std::collections::BTreeMap;

use holdfast_shared::ids::{BlobId, BootId, CommandId, KeyStoreId};
use holdfast_shared::manifest::ManifestId;

use super::commands::keep_result;
use super::database::{Lock, Session, Transaction, write_transaction};
use super::leases::count_message;
use super::manifests::{adopt_named, count_change, is_adopted, manifest_id};
use super::overlays::overlay_epoch;
use super::shares::{drop_losing_shares, has_share_of};
use super::{Origin, Store, StoreError, array, from_integer, generation_from, to_integer};

/// A version to be held.
#[derive(Debug)]
pub struct Version {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// From 1.
    pub number: u64,
    /// The blob before it.
    pub previous: Option<BlobId>,
    /// The blob's id.
    pub blob_id: BlobId,
    /// The blob.
    pub blob: Vec<u8>,
    /// Generation of the root key under which it is sealed.
    pub generation: u32,
    /// SHA-256 of the share set of that generation: shares of other sets are given up.
    pub share_set_sha256: [u8; 32],
    /// The manifest under which it was made: a staged successor comes into force with it.
    pub manifest: ManifestId,
    /// The signed register entry.
    pub register: Vec<u8>,
    /// The attestation document over it.
    pub evidence: Vec<u8>,
    /// The boot that publishes it, or brings it here.
    pub boot_id: BootId,
}

/// A version to be published, at the custodian that orders changes: it follows the newest, and a share of its set is kept here.
#[derive(Debug)]
pub struct NewVersion {
    /// The version.
    pub version: Version,
    /// Results by command, encoded.
    pub results: Vec<(CommandId, Vec<u8>)>,
    /// Whether it is committed by being published: where no other custodian needs to hold it.
    pub commit_now: bool,
    /// The newest block overlay that its manifest knows of.
    pub overlay_known: u64,
}

/// What came of publishing a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is the newest, now or since an earlier try.
    Newest(StoredRegister),
    /// Another version came first; with the newest register entry.
    Conflict(Option<StoredRegister>),
    /// The share set under which it is sealed is not the one that is kept here.
    OtherShares,
    /// It is sealed under an older root key than the newest one, or made under an older manifest, or under one in whose stead that of
    /// the newest came.
    Backwards,
    /// Its manifest is not kept here any more.
    OtherManifest,
    /// Its manifest is staged, and does not know of the block overlay in force.
    Blocked,
}

/// What came of copying a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It is the newest here now.
    Kept,
    /// It is held here already.
    Same,
    /// Its number is below the newest one's and not held here; with the newest register entry.
    Older(StoredRegister),
    /// Another blob has its number here, or it does not follow the newest that is held; with that register entry.
    Conflict(StoredRegister),
}

/// What came of committing a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is committed, with all before it.
    Done,
    /// It is not held here; with the newest register entry.
    Unknown(Option<StoredRegister>),
}

/// A register entry as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRegister {
    /// The version.
    pub version: u64,
    /// Its blob.
    pub blob_id: BlobId,
    /// When it was recorded.
    pub recorded_ms: u64,
    /// Generation of the root key under which it is sealed.
    pub generation: u32,
    /// The manifest under which it was made.
    pub manifest: ManifestId,
    /// The signed entry.
    pub signed: Vec<u8>,
    /// The attestation document over it.
    pub evidence: Vec<u8>,
    /// Whether enough custodians hold it.
    pub committed: bool,
}

/// A sealed key store as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// The blob.
    pub blob: Vec<u8>,
    /// The attestation document over it.
    pub evidence: Vec<u8>,
}

/// One line of a key store's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The register entry.
    pub register: StoredRegister,
    /// The boot that published it, or brought it here.
    pub boot_id: BootId,
    /// The commands whose results came with it.
    pub commands: Vec<CommandId>,
}

impl Store {
    /// Makes a version the newest, if the one before it still is, and keeps its results in the same step.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn publish(&self, new: &NewVersion, origin: Origin) -> Result<Published, StoreError> {
        write_transaction!(self, Lock::KeyStore(new.version.key_store_id), publish(new, origin))
    }

    /// Keeps a version that was published elsewhere, if its number is above the newest one's. The caller has judged whose
    /// signature it bears.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn copy(&self, version: &Version, origin: Origin) -> Result<Copied, StoreError> {
        write_transaction!(self, Lock::KeyStore(version.key_store_id), copy(version, origin))
    }

    /// Marks a version, and all before it, as committed, and so shows their results.
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::LeaseEnded`] and [`StoreError::Replayed`] among them.
    pub async fn commit(
        &self,
        key_store_id: KeyStoreId,
        version: u64,
        blob_id: BlobId,
        origin: Origin,
    ) -> Result<Committed, StoreError> {
        write_transaction!(self, Lock::KeyStore(key_store_id), commit(key_store_id, version, blob_id, origin))
    }

    /// The newest register entry, committed or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn register(&self, key_store_id: KeyStoreId) -> Result<Option<StoredRegister>, StoreError> {
        newest(&mut self.database.read().await?, key_store_id).await
    }

    /// A blob of a key store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn blob(&self, key_store_id: KeyStoreId, blob_id: BlobId) -> Result<Option<StoredBlob>, StoreError> {
        let row: Option<(Vec<u8>, Vec<u8>)> = self
            .database
            .read()
            .await?
            .fetch_optional(
                "SELECT blob, evidence FROM versions WHERE key_store_id = $1 AND blob_id = $2",
                &[key_store_id.as_bytes().into(), blob_id.as_bytes().into()],
            )
            .await?;
        Ok(row.map(|(blob, evidence)| StoredBlob { blob, evidence }))
    }

    /// The versions held from this number on, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn history(
        &self,
        key_store_id: KeyStoreId,
        from_version: u64,
        at_most: u32,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        let mut session = self.database.read().await?;
        let id = key_store_id.as_bytes();
        let from = to_integer(from_version, "version")?;
        let rows: Vec<HistoryRow> = session
            .fetch_all(
                "SELECT version, blob_id, recorded_ms, generation, manifest_sequence, manifest_sha256, register, evidence, \
                 committed, boot_id FROM versions WHERE key_store_id = $1 AND version >= $2 ORDER BY version LIMIT $3",
                &[id.into(), from.into(), at_most.into()],
            )
            .await?;
        let Some(last) = rows.last() else { return Ok(Vec::new()) };
        let pairs: Vec<(i64, Vec<u8>)> = session
            .fetch_all(
                "SELECT version, command_id FROM version_commands WHERE key_store_id = $1 AND version >= $2 \
                 AND version <= $3 ORDER BY version, command_id",
                &[id.into(), from.into(), last.version.into()],
            )
            .await?;
        let mut commands: BTreeMap<i64, Vec<CommandId>> = BTreeMap::new();
        for (version, command_id) in pairs {
            commands.entry(version).or_default().push(CommandId(array(&command_id, "command id")?));
        }
        rows.into_iter().map(|row| row.into_entry(&mut commands)).collect()
    }
}

async fn publish(transaction: &mut Transaction, new: &NewVersion, origin: Origin) -> Result<Published, StoreError> {
    count_message(transaction, origin).await?;
    let NewVersion { version, results, commit_now, .. } = new;
    let newest = newest(transaction, version.key_store_id).await?;
    if let Some(newest) = &newest
        && newest.blob_id == version.blob_id
    {
        return Ok(Published::Newest(newest.clone()));
    }
    let place = newest.as_ref().map_or((0, None), |newest| (newest.version, Some(newest.blob_id)));
    if (Some(place.0), place.1) != (version.number.checked_sub(1), version.previous) {
        return Ok(Published::Conflict(newest));
    }
    if newest.is_some_and(|newest| goes_back(version, &newest)) {
        return Ok(Published::Backwards);
    }
    match is_adopted(transaction, version.key_store_id, version.manifest).await? {
        None => return Ok(Published::OtherManifest),
        // Newer ones would have to be signed under the successor: blocks that were acknowledged would be in force no more.
        Some(false) if overlay_epoch(transaction, version.key_store_id).await? > new.overlay_known => {
            return Ok(Published::Blocked);
        }
        Some(_) => {}
    }
    if !has_share_of(transaction, version.key_store_id, version.generation, version.share_set_sha256).await? {
        return Ok(Published::OtherShares);
    }
    hold(transaction, version, origin.now_ms).await?;
    let number = to_integer(version.number, "version")?;
    for (command_id, sealed) in results {
        keep_result(transaction, version.key_store_id, *command_id, Some(number), sealed, origin.now_ms).await?;
    }
    if *commit_now {
        commit_up_to(transaction, version.key_store_id, number).await?;
    }
    Ok(Published::Newest(StoredRegister {
        version: version.number,
        blob_id: version.blob_id,
        recorded_ms: origin.now_ms,
        generation: version.generation,
        manifest: version.manifest,
        signed: version.register.clone(),
        evidence: version.evidence.clone(),
        committed: *commit_now,
    }))
}

/// Whether a version would follow one under a newer root key or manifest, or under another successor in the place of its own.
fn goes_back(version: &Version, newest: &StoredRegister) -> bool {
    let is_later_manifest = version.manifest.sequence > newest.manifest.sequence;
    version.generation < newest.generation || (version.manifest != newest.manifest && !is_later_manifest)
}

async fn copy(transaction: &mut Transaction, version: &Version, origin: Origin) -> Result<Copied, StoreError> {
    count_message(transaction, origin).await?;
    if let Some(newest) = newest(transaction, version.key_store_id).await? {
        if newest.version >= version.number {
            let held = blob_of(transaction, version.key_store_id, version.number).await?;
            return Ok(match held {
                Some(held) if held == version.blob_id => Copied::Same,
                Some(_) => Copied::Conflict(newest),
                None => Copied::Older(newest),
            });
        }
        let is_next = newest.version.checked_add(1) == Some(version.number);
        if is_next && version.previous != Some(newest.blob_id) {
            return Ok(Copied::Conflict(newest));
        }
    }
    hold(transaction, version, origin.now_ms).await?;
    Ok(Copied::Kept)
}

async fn commit(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    version: u64,
    blob_id: BlobId,
    origin: Origin,
) -> Result<Committed, StoreError> {
    count_message(transaction, origin).await?;
    if blob_of(transaction, key_store_id, version).await? != Some(blob_id) {
        return Ok(Committed::Unknown(newest(transaction, key_store_id).await?));
    }
    if commit_up_to(transaction, key_store_id, to_integer(version, "version")?).await? {
        transaction.announce(key_store_id).await?;
    }
    Ok(Committed::Done)
}

/// Whether any version was not committed before.
async fn commit_up_to(
    transaction: &mut Transaction,
    key_store_id: KeyStoreId,
    version: i64,
) -> Result<bool, StoreError> {
    let changed = transaction
        .execute(
            "UPDATE versions SET committed = 1 WHERE key_store_id = $1 AND version <= $2 AND committed = 0",
            &[key_store_id.as_bytes().into(), version.into()],
        )
        .await?;
    if changed > 0 {
        adopt_named(transaction, key_store_id).await?;
    }
    Ok(changed > 0)
}

/// Adds a version that is not committed yet, which has consequences of its own, and gives up the shares that lost to its own.
async fn hold(transaction: &mut Transaction, version: &Version, now_ms: u64) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO versions (key_store_id, version, blob_id, generation, share_set_sha256, manifest_sequence, \
             manifest_sha256, register, evidence, recorded_ms, boot_id, committed, blob) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, $12)",
            &[
                version.key_store_id.as_bytes().into(),
                to_integer(version.number, "version")?.into(),
                version.blob_id.as_bytes().into(),
                version.generation.into(),
                (&version.share_set_sha256).into(),
                version.manifest.sequence.into(),
                (&version.manifest.digest).into(),
                (&version.register).into(),
                (&version.evidence).into(),
                to_integer(now_ms, "time")?.into(),
                version.boot_id.as_bytes().into(),
                (&version.blob).into(),
            ],
        )
        .await?;
    drop_losing_shares(transaction, version.key_store_id, version.generation, version.share_set_sha256).await?;
    if is_adopted(transaction, version.key_store_id, version.manifest).await? == Some(false) {
        count_change(transaction, version.key_store_id).await?;
    }
    transaction.announce(version.key_store_id).await
}

/// The blob that a version has here.
async fn blob_of(session: &mut Session, key_store_id: KeyStoreId, version: u64) -> Result<Option<BlobId>, StoreError> {
    let row: Option<(Vec<u8>,)> = session
        .fetch_optional(
            "SELECT blob_id FROM versions WHERE key_store_id = $1 AND version = $2",
            &[key_store_id.as_bytes().into(), to_integer(version, "version")?.into()],
        )
        .await?;
    row.map(|(id,)| Ok(BlobId(array(&id, "blob id")?))).transpose()
}

pub(super) async fn newest(
    session: &mut Session,
    key_store_id: KeyStoreId,
) -> Result<Option<StoredRegister>, StoreError> {
    let row: Option<HistoryRow> = session
        .fetch_optional(
            "SELECT version, blob_id, recorded_ms, generation, manifest_sequence, manifest_sha256, register, evidence, \
             committed, boot_id FROM versions WHERE key_store_id = $1 ORDER BY version DESC LIMIT 1",
            &[key_store_id.as_bytes().into()],
        )
        .await?;
    row.map(HistoryRow::into_register).transpose()
}

#[derive(sqlx::FromRow)]
struct HistoryRow {
    version: i64,
    blob_id: Vec<u8>,
    recorded_ms: i64,
    generation: i64,
    manifest_sequence: i64,
    manifest_sha256: Vec<u8>,
    register: Vec<u8>,
    evidence: Vec<u8>,
    committed: i64,
    boot_id: Vec<u8>,
}

impl HistoryRow {
    fn into_register(self) -> Result<StoredRegister, StoreError> {
        Ok(StoredRegister {
            version: from_integer(self.version, "version")?,
            blob_id: BlobId(array(&self.blob_id, "blob id")?),
            recorded_ms: from_integer(self.recorded_ms, "time")?,
            generation: generation_from(self.generation)?,
            manifest: manifest_id(self.manifest_sequence, &self.manifest_sha256)?,
            signed: self.register,
            evidence: self.evidence,
            committed: self.committed != 0,
        })
    }

    fn into_entry(self, commands: &mut BTreeMap<i64, Vec<CommandId>>) -> Result<HistoryEntry, StoreError> {
        Ok(HistoryEntry {
            boot_id: BootId(array(&self.boot_id, "boot id")?),
            commands: commands.remove(&self.version).unwrap_or_default(),
            register: self.into_register()?,
        })
    }
}
