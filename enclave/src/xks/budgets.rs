//! The budgets of a version: a purse for each key and span that has one.
//!
//! Guarantees: a use takes one from each purse of its key, or from none; purses go on over new versions in which their limit is the same
//! or higher. Assumes: somebody fills the purses ([`Budgets::low`] tells when to look).

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::keystore::{BudgetSpan, UseBudgets};
use tokio::sync::Notify;

use super::purse::Purse;

/// The name of an hour's budget in records.
const HOUR: &str = "budget-hour";
/// The name of a day's budget.
const DAY: &str = "budget-day";

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    keys: HashMap<ExternalKeyId, Vec<Arc<Purse>>>,
    low: Arc<Notify>,
}

impl Budgets {
    /// Of the next version.
    pub(crate) fn next(&self, budgets: Option<&UseBudgets>, keys: &[ExternalKeyId]) -> Self {
        let of_key = |id: &ExternalKeyId| {
            let budget = budgets?.of(id)?;
            let purse = |span| {
                let limit = budget.per(span)?;
                let before = self.keys.get(id).and_then(|purses| purses.iter().find(|purse| purse.span() == span));
                Some(before.map_or_else(|| Arc::new(Purse::new(span, limit)), |before| before.next(limit)))
            };
            Some((id.clone(), BudgetSpan::ALL.into_iter().filter_map(purse).collect()))
        };
        Self { keys: keys.iter().filter_map(of_key).collect(), low: Arc::clone(&self.low) }
    }

    /// Takes one use from each purse of a key, or from none.
    ///
    /// # Errors
    /// The name of the first that is empty.
    pub(crate) fn take(&self, key: &ExternalKeyId, time_ms: u64) -> Result<(), &'static str> {
        let purses = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        let empty = purses.iter().position(|purse| !purse.take(time_ms));
        if purses.iter().any(|purse| purse.runs_low(time_ms)) {
            self.low.notify_one();
        }
        let Some((place, purse)) = empty.and_then(|place| Some((place, purses.get(place)?))) else { return Ok(()) };
        purses.iter().take(place).for_each(|purse| purse.give_back(time_ms));
        Err(match purse.span() {
            BudgetSpan::Hour => HOUR,
            BudgetSpan::Day => DAY,
        })
    }

    /// Wakes whoever fills the purses.
    pub(crate) const fn low(&self) -> &Arc<Notify> {
        &self.low
    }

    /// All purses.
    pub(crate) fn purses(&self) -> impl Iterator<Item = (&ExternalKeyId, &Arc<Purse>)> {
        self.keys.iter().flat_map(|(id, purses)| purses.iter().map(move |purse| (id, purse)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests;
