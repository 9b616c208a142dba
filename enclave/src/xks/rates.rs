//! How often: the quota of a key store, and limits for each key and each principal, over one request at once.
//!
//! Guarantees: a request passes all levels or spends on none; no key and no principal gets more than its limit, whoever else comes;
//! memory is bounded whatever principals come. Principals are dealt to [`PRINCIPAL_BUCKETS`] buckets by a hash whose key is drawn
//! when the table is made: two that meet in one bucket share one limit, which refuses too much and never too little, and nobody can
//! choose whom to meet (ADR 0026).

use core::hash::BuildHasher;
use core::sync::atomic::AtomicU64;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::Arc;

use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::keystore::{Quota, UseLimits};
use holdfast_shared::limits::PRINCIPAL_BUCKETS;

use super::bucket::{Bucket, Rate};

/// The name of the quota in records.
const QUOTA: &str = "quota";
/// The name of a key's limit.
const KEY: &str = "limit-per-key";
/// The name of a principal's limit.
const PRINCIPAL: &str = "limit-per-principal";

/// The buckets of one version. A clone has the same buckets.
#[derive(Clone, Default)]
pub(crate) struct Rates {
    store: Option<(Quota, Arc<Bucket>)>,
    keys: HashMap<ExternalKeyId, (Quota, Arc<Bucket>)>,
    principals: Option<(Quota, Arc<Principals>)>,
}

struct Principals {
    rate: Rate,
    hasher: RandomState,
    spent_until: Box<[AtomicU64]>,
}

impl Principals {
    fn new(quota: Quota) -> Self {
        let spent_until = (0..PRINCIPAL_BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { rate: Rate::new(quota), hasher: RandomState::new(), spent_until }
    }

    fn bucket(&self, principal: &str) -> Option<&AtomicU64> {
        let hash = usize::try_from(self.hasher.hash_one(principal)).unwrap_or_default();
        self.spent_until.get(hash.checked_rem(self.spent_until.len())?)
    }
}

/// A bucket and its name in records.
type Level<'r> = (&'static str, Rate, &'r AtomicU64);

impl Rates {
    /// Of the next version: buckets whose limit is the same go on, others are full.
    pub(crate) fn next(&self, quota: Option<Quota>, limits: Option<&UseLimits>, keys: &[ExternalKeyId]) -> Self {
        let kept = |before: Option<&(Quota, Arc<Bucket>)>, quota: Quota| {
            let same = before.filter(|(before, _)| *before == quota).cloned();
            same.unwrap_or_else(|| (quota, Arc::new(Bucket::new(quota))))
        };
        let of_key = |id: &ExternalKeyId| {
            let own = limits?.keys.iter().find(|limit| limit.id == *id).map(|limit| limit.quota);
            Some((id.clone(), kept(self.keys.get(id), own.or(limits?.per_key)?)))
        };
        let principals = limits.and_then(|limits| limits.per_principal).map(|quota| {
            let same = self.principals.as_ref().filter(|(before, _)| *before == quota).cloned();
            same.unwrap_or_else(|| (quota, Arc::new(Principals::new(quota))))
        });
        Self {
            store: quota.map(|quota| kept(self.store.as_ref(), quota)),
            keys: keys.iter().filter_map(of_key).collect(),
            principals,
        }
    }

    /// Takes one request out of every bucket that it is for, or out of none.
    ///
    /// # Errors
    /// The name of the first that is empty.
    pub(crate) fn take(&self, key: &ExternalKeyId, principal: &str, now_ms: u64) -> Result<(), &'static str> {
        let levels = self.levels(key, principal);
        // Looking first means that a refused request holds nothing that another could have had, unless both come at one moment.
        if let Some((name, ..)) = levels.iter().flatten().find(|(_, rate, cell)| !rate.has(cell, now_ms)) {
            return Err(name);
        }
        for (place, (name, rate, cell)) in levels.iter().flatten().enumerate() {
            if !rate.take(cell, now_ms) {
                levels.iter().flatten().take(place).for_each(|(_, _, taken)| Rate::give_back(taken));
                return Err(name);
            }
        }
        Ok(())
    }

    /// Puts back what [`Rates::take`] took.
    pub(crate) fn give_back(&self, key: &ExternalKeyId, principal: &str) {
        self.levels(key, principal).iter().flatten().for_each(|(_, _, taken)| Rate::give_back(taken));
    }

    fn levels(&self, key: &ExternalKeyId, principal: &str) -> [Option<Level<'_>>; 3] {
        let store = self.store.as_ref().map(|(_, bucket)| (QUOTA, bucket.rate(), bucket.cell()));
        let key = self.keys.get(key).map(|(_, bucket)| (KEY, bucket.rate(), bucket.cell()));
        let principals = self.principals.as_ref().map(|(_, principals)| principals);
        let principal =
            principals.and_then(|principals| Some((PRINCIPAL, principals.rate, principals.bucket(principal)?)));
        [store, key, principal]
    }
}

#[cfg(test)]
mod tests;
