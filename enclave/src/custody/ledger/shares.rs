//! Shares of a root key, as custodians and AWS KMS gave them.
//!
//! Guarantees: shares are put together by identical set, as many as the manifest asks for whatever a set says of itself; KMS's share
//! is kept no longer than until a version is in service, and not across a wipe. Assumes: every share that is here was checked
//! against its set.

use std::collections::BTreeSet;

use holdfast_client::Connect;
use holdfast_shared::release::{HeldShare, ShareSet};

use super::{Ledger, State};
use crate::custody::CustodyError;
use crate::custody::unseal::Root;

impl<C: Connect + 'static> Ledger<C> {
    /// Sets of a generation's shares of which only KMS's is missing.
    pub(in crate::custody) fn sets_without_kms(&self, generation: u32) -> Vec<ShareSet> {
        self.lock().sets_without_kms(generation)
    }

    /// Keeps the share that KMS gave.
    ///
    /// # Errors
    /// When what it was asked for was wiped since `wipes`.
    pub(in crate::custody) fn keep_kms_share(&self, held: HeldShare, wipes: u64) -> Result<(), CustodyError> {
        let mut state = self.lock();
        if *self.wiped.borrow() != wipes || state.is_blocked() {
            return Err(CustodyError::Wiped);
        }
        state.kms = Some(held);
        Ok(())
    }
}

impl<C> State<C> {
    fn of_custodians(&self, generation: u32) -> impl Iterator<Item = &HeldShare> {
        self.links.values().flat_map(|link| &link.shares).filter(move |held| held.set.generation == generation)
    }

    fn sets_without_kms(&self, generation: u32) -> Vec<ShareSet> {
        let mut sets: Vec<ShareSet> = Vec::new();
        for HeldShare { set, .. } in self.of_custodians(generation) {
            let places: BTreeSet<u8> =
                self.of_custodians(generation).filter(|held| held.set == *set).map(|held| held.share.index).collect();
            let is_kms_missing = set.kms_ciphertext.is_some()
                && self.needs_so_many(set.shares_needed)
                && places.len().saturating_add(1) == usize::from(set.shares_needed);
            if is_kms_missing && !sets.contains(set) {
                sets.push(set.clone());
            }
        }
        sets
    }

    /// What each complete set of a generation's shares gives.
    pub(super) fn combine(&self, generation: u32) -> Result<Vec<Root>, CustodyError> {
        let of_kms = || self.kms.iter().filter(|held| held.set.generation == generation);
        let of_generation = || self.of_custodians(generation).chain(of_kms());
        let needed = usize::from(self.manifest.manifest().shares_needed);
        let (mut best, mut failed) = (0, None);
        let mut roots: Vec<Root> = Vec::new();
        for candidate in of_generation() {
            if roots.iter().any(|root| *root.set() == candidate.set) {
                continue;
            }
            let shares: Vec<_> =
                of_generation().filter(|held| held.set == candidate.set).map(|held| &held.share).collect();
            best = best.max(shares.len());
            // What a set says of itself is believed by nobody: as many as a manifest says must have given it.
            if shares.len() >= usize::from(candidate.set.shares_needed)
                && self.needs_so_many(candidate.set.shares_needed)
            {
                match Root::combine(&candidate.set, &shares) {
                    Ok(root) => roots.push(root),
                    Err(error) => failed = Some(error),
                }
            }
        }
        if !roots.is_empty() {
            return Ok(roots);
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        Err(if needed == 1 {
            CustodyError::NoShare
        } else {
            CustodyError::FewShares { generation, have: best, needed }
        })
    }
}
