//! What the tool has seen of a key store and must not forget: release policies, the highest version, the chain of manifests.
//!
//! Guarantees: a [`KnownPolicy`] was signed by enough administrators of a manifest of the key store. Assumes: notes are the
//! administrator's own files; one that is damaged is as none, since it must not stand in the way of a block.

use std::fs;

use holdfast_shared::attestation::Measurements;
use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::cbor;
use holdfast_shared::ids::{BlobId, KeyStoreId};
use holdfast_shared::limits;
use holdfast_shared::manifest::{ManifestChain, ReleasePolicy, VerifiedManifest};
use holdfast_shared::policy::{self, PolicyUpdate};
use holdfast_shared::signature::Envelope;
use minicbor::bytes::ByteVec;
use serde::{Deserialize, Serialize};

use super::key_store::KeyStore;
use super::{Home, HomeError, make_folder, to_json};
use crate::files;

/// Policies that are read from the folder: those of the highest epochs.
const POLICY_NOTES_MAX: usize = 256;
/// Bytes of `seen.json`: one entry for each custodian that the key store ever had.
const SEEN_MAX: usize = 64 * 1024;
/// How far the clocks of whoever signs a policy and of an NSM may lie apart, and how long custodians may take to be told.
const POLICY_GRACE_MS: u64 = limits::QUERY_AGE_MAX_MS;

/// A release policy that was signed by administrators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPolicy {
    /// The policy.
    pub policy: ReleasePolicy,
    /// When it was signed, milliseconds since 1970; 0 for the first manifest's.
    pub issued_ms: u64,
    /// The signed update; empty for the first manifest's, which the manifest holds.
    pub signed: Vec<u8>,
}

impl KnownPolicy {
    pub(super) fn first(manifest: &VerifiedManifest) -> Self {
        Self { policy: manifest.manifest().release_policy.clone(), issued_ms: 0, signed: Vec::new() }
    }

    /// A signed update, verified under the manifest in force or one of its predecessors.
    #[must_use]
    pub fn open(signed: &[u8], manifest: &VerifiedManifest) -> Option<Self> {
        let envelope: Envelope = cbor::decode(signed).ok()?;
        let update: PolicyUpdate = cbor::decode(envelope.unverified_payload()).ok()?;
        let before = update.policy.epoch.checked_sub(1)?;
        // Whoever signs is an administrator of the manifest that was in force then.
        let policy = prefixes(manifest).iter().rev().find_map(|prefix| policy::open(signed, prefix, before).ok())?;
        Some(Self { policy, issued_ms: update.issued_ms, signed: signed.to_vec() })
    }
}

/// The manifest as it was after each step of its chain, the first to the newest.
#[must_use]
pub fn prefixes(manifest: &VerifiedManifest) -> Vec<VerifiedManifest> {
    let Ok(first) = VerifiedManifest::verify(manifest.signed_bytes()) else { return Vec::new() };
    let mut all = vec![first];
    for successor in manifest.successors() {
        match all.last().map(|before| before.succeed(successor)) {
            Some(Ok(next)) => all.push(next),
            _ => break,
        }
    }
    all
}

/// The chain as custodians and files take it.
#[must_use]
pub fn chain(manifest: &VerifiedManifest) -> ManifestChain {
    let signed = std::iter::once(manifest.signed_bytes()).chain(manifest.successors());
    ManifestChain { signed: signed.map(|signed| ByteVec::from(signed.to_vec())).collect() }
}

/// Whether `next` is `known` or continues it.
#[must_use]
pub(super) fn continues(known: &VerifiedManifest, next: &VerifiedManifest) -> bool {
    known.id() == next.id() && prefixes(next).iter().any(|prefix| prefix.digest() == known.digest())
}

impl KeyStore {
    /// The newest release policy that is known here.
    #[must_use]
    pub fn policy(&self) -> &ReleasePolicy {
        self.policies().last().map_or(&self.manifest.manifest().release_policy, |known| &known.policy)
    }

    /// Measurements that are accepted now.
    #[must_use]
    pub fn accepted(&self, now_ms: u64) -> Vec<Measurements> {
        self.policy().accepted(now_ms)
    }

    /// Measurements that were accepted when a document was made: those of the policy that had been signed last, and of its
    /// neighbours within five minutes.
    #[must_use]
    pub fn accepted_at(&self, made_ms: u64) -> Vec<Measurements> {
        let mut accepted = Vec::new();
        for (place, known) in self.policies().iter().enumerate() {
            let until_ms = self.policies().get(place.saturating_add(1)).map_or(u64::MAX, |next| next.issued_ms);
            let from_ms = known.issued_ms.saturating_sub(POLICY_GRACE_MS);
            if from_ms <= made_ms && made_ms <= until_ms.saturating_add(POLICY_GRACE_MS) {
                accepted.extend(known.policy.accepted(made_ms));
            }
        }
        accepted
    }
}

/// The highest version that a custodian of a key store showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The version.
    pub version: u64,
    /// Its blob.
    pub blob_id: BlobId,
    /// When it was seen first, milliseconds since 1970.
    pub seen_ms: u64,
    /// Who showed it.
    pub custodian: String,
}

impl Home {
    /// The newest block overlay that was signed or seen with this folder.
    #[must_use]
    pub fn known_overlay(&self, store: &KeyStore) -> Option<BlockOverlay> {
        self.signed_overlay(store).map(|(overlay, _)| overlay)
    }

    /// The same, with its signatures.
    #[must_use]
    pub fn signed_overlay(&self, store: &KeyStore) -> Option<(BlockOverlay, Vec<u8>)> {
        let signed = files::read(&self.overlay_file(store.manifest.id()), limits::BLOCK_OVERLAY_MAX).ok()?;
        let overlay = block::open_under(&signed, &store.manifest, None).ok()?;
        Some((overlay, signed))
    }

    /// The signed release policies that are noted, by epoch.
    pub(super) fn policy_notes(&self, id: KeyStoreId) -> Vec<Vec<u8>> {
        let folder = self.key_store_folder(id).join("policies");
        let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
        let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
        let mut epochs: Vec<u64> = entries.flatten().filter_map(name).collect();
        epochs.sort_unstable();
        let newest = epochs.split_off(epochs.len().saturating_sub(POLICY_NOTES_MAX));
        newest
            .into_iter()
            .filter_map(|epoch| files::read(&folder.join(epoch.to_string()), limits::MANIFEST_MAX).ok())
            .collect()
    }

    /// Notes a release policy.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn note_policy(&self, id: KeyStoreId, policy: &KnownPolicy) -> Result<(), HomeError> {
        let folder = self.key_store_folder(id).join("policies");
        make_folder(&folder)?;
        Ok(files::replace(&folder.join(policy.policy.epoch.to_string()), &policy.signed)?)
    }

    /// The highest version that each custodian showed; a damaged note is as none.
    #[must_use]
    pub fn seen(&self, id: KeyStoreId) -> Vec<Seen> {
        let bytes = files::read(&self.key_store_folder(id).join("seen.json"), SEEN_MAX).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Notes the highest versions.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn note_seen(&self, id: KeyStoreId, seen: &[Seen]) -> Result<(), HomeError> {
        Ok(files::replace(&self.key_store_folder(id).join("seen.json"), to_json(&seen).as_bytes())?)
    }
}
