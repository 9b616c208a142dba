//! Budgets: the home custodian counts what enclaves may use.
//!
//! Guarantees: what is granted is on disk before the answer; the grants of a window never exceed the highest limit that was named for it.
//! What the limit is, the sealed key store says, which only enclaves read. Refuses: windows other than the present one and its neighbours,
//! and everything where this is not the home custodian, since two that count would grant twice.

use std::sync::Arc;

use holdfast_shared::channel::Reply;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::keystore::{BudgetSpan, BudgetWindow};
use holdfast_shared::query::BudgetCount;

use super::channel::refused;
use super::lease::Lease;
use super::{Custodian, ServiceError};
use crate::store::{Debited, NewDebit, Origin};

/// What an enclave wants.
pub(super) struct Debit {
    pub(super) key: ExternalKeyId,
    pub(super) window: BudgetWindow,
    pub(super) limit: u32,
    pub(super) want: u32,
}

impl Custodian {
    /// Debits uses of a key.
    pub(super) async fn debit(
        self: &Arc<Self>,
        lease: &Lease,
        debit: Debit,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        if !self.membership(&lease.key_store).await?.is_home() {
            return Ok(refused(lease, "this custodian is not the home custodian, which counts what is used"));
        }
        let Debit { key, window, limit, want } = debit;
        // An hour apart at most: clocks differ by less, and a slice is asked for before its window begins.
        if BudgetWindow::at(window.span, origin.now_ms).number.abs_diff(window.number) > 1 {
            return Ok(refused(lease, "the budget is of another time than this custodian's; check its clock"));
        }
        let new = NewDebit { key_store_id: lease.key_store.id(), key, window, limit, want };
        Ok(match self.store.debit(&new, origin).await? {
            Debited::Granted { granted, counted } => Reply::Debited { granted, counted },
            Debited::Past => refused(lease, "the budget's window is over, and its count forgotten"),
            Debited::TooMany => refused(lease, "the budgets of too many keys are counted in this window"),
        })
    }

    /// What is debited in this hour and this day.
    pub(super) async fn budget_counts(&self, id: KeyStoreId, now_ms: u64) -> Result<Vec<BudgetCount>, ServiceError> {
        let windows = BudgetSpan::ALL.map(|span| BudgetWindow::at(span, now_ms));
        let counts = self.store.budget_counts(id, windows).await?;
        Ok(counts
            .into_iter()
            .map(|count| BudgetCount { key: count.key, window: count.window, counted: count.counted })
            .collect())
    }
}
