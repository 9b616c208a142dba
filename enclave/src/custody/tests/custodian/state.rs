//! What a custodian keeps.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor;
use holdfast_shared::command::SealedResult;
use holdfast_shared::ids::{CommandId, KeyStoreId, LeaseId};
use holdfast_shared::provenance::VersionUserData;
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::release::{ChannelKeys, HeldEntry, ShareSet};
use holdfast_shared::secrets::Secret;
use holdfast_shared::signature::VerifyingKey;

use super::faults::{Fault, Hostile};
use crate::custody::tests::read_document;

/// A version as it is held.
#[derive(Clone)]
pub(in crate::custody::tests) struct Version {
    pub(in crate::custody::tests) entry: RegisterEntry,
    pub(in crate::custody::tests) blob: Vec<u8>,
    pub(in crate::custody::tests) register: Vec<u8>,
    pub(in crate::custody::tests) evidence: Vec<u8>,
    pub(in crate::custody::tests) is_committed: bool,
    pub(super) results: Vec<SealedResult>,
    pub(super) since: tokio::time::Instant,
}

pub(in crate::custody::tests) struct State {
    pub(in crate::custody::tests) key_store_id: KeyStoreId,
    /// Of the home custodian.
    pub(in crate::custody::tests) home: Option<VerifyingKey>,
    /// w.
    pub(in crate::custody::tests) write: usize,
    /// Its place in the manifest, from 1.
    pub(in crate::custody::tests) index: u8,
    /// A successor that comes into force with the committed version that names it.
    pub(in crate::custody::tests) staged: Option<Vec<u8>>,
    pub(in crate::custody::tests) successors: Vec<Vec<u8>>,
    /// By generation, ascending.
    pub(in crate::custody::tests) shares: Vec<(ShareSet, Secret<32>)>,
    pub(in crate::custody::tests) versions: Vec<Version>,
    pub(in crate::custody::tests) hostile: Hostile,
    pub(in crate::custody::tests) overlay: Option<BlockOverlay>,
    pub(in crate::custody::tests) signed_overlay: Option<Vec<u8>>,
    pub(in crate::custody::tests) commands: Vec<(CommandId, Vec<u8>)>,
    pub(in crate::custody::tests) results: HashMap<CommandId, SealedResult>,
    pub(in crate::custody::tests) lease_ms: u64,
    pub(in crate::custody::tests) faults: Vec<(&'static str, Fault)>,
    /// Every request, by name.
    pub(in crate::custody::tests) log: Vec<&'static str>,
    pub(super) leases: HashMap<LeaseId, Arc<ChannelKeys>>,
    pub(super) first_release: Option<Vec<u8>>,
    pub(super) first_share: Option<(ShareSet, Secret<32>)>,
}

impl State {
    pub(in crate::custody::tests) fn newest(&self) -> Option<&Version> {
        match self.hostile.offers_version {
            Some(version) => self.versions.iter().find(|held| held.entry.version == version),
            None => self.versions.last(),
        }
    }

    pub(super) fn held(&self) -> Option<HeldEntry> {
        self.newest().map(|newest| HeldEntry {
            signed: newest.register.clone(),
            is_committed: newest.is_committed || self.hostile.lies_committed,
        })
    }

    pub(super) fn commit(&mut self, version: u64) {
        let mut results = Vec::new();
        for held in self.versions.iter_mut().filter(|held| held.entry.version <= version) {
            held.is_committed = true;
            results.append(&mut held.results);
            if !held.evidence.is_empty() {
                let user_data = read_document(&held.evidence).1;
                let user_data: VersionUserData = cbor::decode(&user_data).unwrap();
                if user_data.manifest.sequence > 1 {
                    self.successors.extend(self.staged.take());
                }
            }
        }
        for result in results {
            self.results.insert(result.command_id, result);
        }
    }

    pub(in crate::custody::tests) fn asked(&self, name: &str) -> usize {
        self.log.iter().filter(|asked| **asked == name).count()
    }
}
