//! A purse: uses of one key, in one span, that the home custodian debited and nobody has had yet.
//!
//! ```text
//! word = window's number (32 bits) ‖ uses left (32 bits); windows of even and of odd number have a word each
//! ```
//! Guarantees: what is taken was credited for the same window, each once, from however many threads; what was credited for a window is
//! worth nothing in another. Takes no lock on the way of a request and waits for nothing. Assumes: one task asks for a purse at a time, and
//! credits only what was granted to it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use holdfast_shared::keystore::{BudgetSpan, BudgetWindow};
use holdfast_shared::limits;

/// What is left in two windows that follow each other.
#[derive(Debug, Default)]
struct Cells {
    even: AtomicU64,
    odd: AtomicU64,
}

impl Cells {
    const fn of(&self, window: BudgetWindow) -> &AtomicU64 {
        if window.number.is_multiple_of(2) { &self.even } else { &self.odd }
    }
}

const COUNT: u64 = 0xffff_ffff;

fn pack(window: BudgetWindow, count: u64) -> u64 {
    (u64::from(window.number) << 32) | count.min(COUNT)
}

/// What a word says is left in a window; nothing if it is about another.
fn left_of(word: u64, window: BudgetWindow) -> u64 {
    if word >> 32 == u64::from(window.number) { word & COUNT } else { 0 }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Purse {
    span: BudgetSpan,
    limit: u32,
    cells: Arc<Cells>,
    /// Somebody was told that it runs low, and has not looked yet.
    is_told: AtomicBool,
    /// The window in which no more is left at the custodian, and one more; 0 for none.
    exhausted: AtomicU64,
    /// The window in which it was said that the budget is nearly spent, and one more; 0 for none.
    announced: AtomicU64,
}

/// What a purse wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) window: BudgetWindow,
    pub(crate) uses: u32,
}

impl Purse {
    pub(crate) fn new(span: BudgetSpan, limit: u32) -> Self {
        Self::around(span, limit, Arc::default())
    }

    fn around(span: BudgetSpan, limit: u32, cells: Arc<Cells>) -> Self {
        let (is_told, exhausted, announced) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        Self { span, limit, cells, is_told, exhausted, announced }
    }

    /// The purse after a change of the limit. What was debited under a limit that was higher is dropped.
    pub(crate) fn next(self: &Arc<Self>, limit: u32) -> Arc<Self> {
        match limit {
            _ if limit == self.limit => Arc::clone(self),
            _ if limit > self.limit => Arc::new(Self::around(self.span, limit, Arc::clone(&self.cells))),
            _ => Arc::new(Self::new(self.span, limit)),
        }
    }

    pub(crate) const fn span(&self) -> BudgetSpan {
        self.span
    }

    pub(crate) const fn limit(&self) -> u32 {
        self.limit
    }

    /// What is debited at once: the most that a crash loses.
    pub(crate) fn slice(&self) -> u32 {
        (self.limit / limits::BUDGET_SLICES).clamp(1, limits::BUDGET_SLICE_MAX)
    }

    fn window(&self, time_ms: u64) -> BudgetWindow {
        BudgetWindow::at(self.span, time_ms)
    }

    fn left(&self, window: BudgetWindow) -> u64 {
        left_of(self.cells.of(window).load(Ordering::Acquire), window)
    }

    fn is_low(&self, left: u64) -> bool {
        left.saturating_mul(2) < u64::from(self.slice())
    }

    /// Takes one use, if there is one for the window of this time.
    pub(crate) fn take(&self, time_ms: u64) -> bool {
        let window = self.window(time_ms);
        let less = |word: u64| left_of(word, window).checked_sub(1).map(|left| pack(window, left));
        self.cells.of(window).fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }

    /// Puts a use back that was taken at this time.
    pub(crate) fn give_back(&self, time_ms: u64) {
        self.add(self.window(time_ms), 1);
    }

    /// Puts in what was granted for a window. For one that is over it is lost.
    pub(crate) fn credit(&self, window: BudgetWindow, granted: u32) {
        self.add(window, granted.into());
    }

    fn add(&self, window: BudgetWindow, uses: u64) {
        let more = |word: u64| {
            let is_over = word >> 32 > u64::from(window.number);
            (!is_over).then(|| pack(window, left_of(word, window).saturating_add(uses)))
        };
        // A word of a later window stays as it is.
        let _ = self.cells.of(window).fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// Whether somebody is to be told that it runs low: once, until [`Purse::want`] looked and found something to ask for.
    pub(crate) fn runs_low(&self, time_ms: u64) -> bool {
        self.is_low(self.left(self.window(time_ms))) && !self.is_told.swap(true, Ordering::AcqRel)
    }

    /// What to ask for: enough for the present window, or else for the one that begins soon.
    pub(crate) fn want(&self, time_ms: u64) -> Option<Want> {
        let window = self.window(time_ms);
        if !self.is_exhausted(window) {
            // Before looking: who finds it low after this says so again.
            self.is_told.store(false, Ordering::Release);
            let left = self.left(window);
            if self.is_low(left) {
                let uses = self.slice().saturating_sub(u32::try_from(left).unwrap_or(u32::MAX));
                return Some(Want { window, uses });
            }
        }
        let next = window.next();
        let is_near = next.starts_ms().saturating_sub(time_ms) <= limits::BUDGET_AHEAD_MS;
        (is_near && !self.is_exhausted(next) && self.left(next) == 0).then(|| Want { window: next, uses: self.slice() })
    }

    fn is_exhausted(&self, window: BudgetWindow) -> bool {
        self.exhausted.load(Ordering::Acquire) == u64::from(window.number).saturating_add(1)
    }

    /// No more is left at the custodian in this window: asking again is of no use before it ends or the limit changes.
    pub(crate) fn exhaust(&self, window: BudgetWindow) {
        self.exhausted.store(u64::from(window.number).saturating_add(1), Ordering::Release);
    }

    /// Whether to say that the budget is nearly spent, with so many debited: once for each window.
    pub(crate) fn announces(&self, window: BudgetWindow, counted: u32) -> bool {
        let is_much = u64::from(counted).saturating_mul(100)
            >= u64::from(self.limit).saturating_mul(limits::BUDGET_NEARLY_SPENT_PERCENT);
        let mark = u64::from(window.number).saturating_add(1);
        is_much && self.announced.fetch_max(mark, Ordering::AcqRel) < mark
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;

    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    /// In the middle of an hour.
    const NOON: u64 = 490_000 * HOUR_MS + HOUR_MS / 2;

    fn window(time_ms: u64) -> BudgetWindow {
        BudgetWindow::at(BudgetSpan::Hour, time_ms)
    }

    fn taken(purse: &Purse, time_ms: u64, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(purse.take(time_ms))).sum()
    }

    #[test]
    fn what_was_credited_is_taken_once_and_in_its_window() {
        let purse = Purse::new(BudgetSpan::Hour, 1_000);
        assert_eq!(taken(&purse, NOON, 5), 0);
        purse.credit(window(NOON), 3);
        purse.credit(window(NOON + HOUR_MS), 2);
        assert_eq!((taken(&purse, NOON, 2), taken(&purse, NOON + HOUR_MS, 5)), (2, 2));
        purse.give_back(NOON);
        assert_eq!(taken(&purse, NOON, 5), 2);
        // Two hours later the word is used again; what comes late for the first is lost.
        purse.credit(window(NOON + 2 * HOUR_MS), 1);
        purse.credit(window(NOON), 7);
        assert_eq!((taken(&purse, NOON, 5), taken(&purse, NOON + 2 * HOUR_MS, 5)), (0, 1));
    }

    #[test]
    fn slices_are_a_hundredth() {
        for (limit, slice) in
            [(1, 1), (99, 1), (199, 1), (200, 2), (20_000, 200), (100_000, 1_000), (1_000_000_000, 1_000)]
        {
            assert_eq!(Purse::new(BudgetSpan::Day, limit).slice(), slice, "{limit}");
        }
    }

    #[test]
    fn what_is_wanted() {
        let purse = Purse::new(BudgetSpan::Hour, 1_000);
        let end = window(NOON).next().starts_ms();
        let want = |time_ms| purse.want(time_ms).map(|want| (want.window, want.uses));
        assert_eq!(want(NOON), Some((window(NOON), 10)));
        purse.credit(window(NOON), 10);
        assert_eq!(want(NOON), None);
        assert_eq!(taken(&purse, NOON, 5), 5);
        assert_eq!(want(NOON), None, "half a slice is enough");
        assert_eq!(taken(&purse, NOON, 1), 1);
        assert_eq!(want(NOON), Some((window(NOON), 6)));
        purse.credit(window(NOON), 6);
        let ahead = end - limits::BUDGET_AHEAD_MS;
        assert_eq!((want(ahead - 1), want(ahead)), (None, Some((window(end), 10))));
        purse.credit(window(end), 10);
        assert_eq!((want(ahead), want(end)), (None, None));
        assert_eq!(want(end + HOUR_MS), Some((window(end + HOUR_MS), 10)));
    }

    #[test]
    fn who_is_exhausted_asks_again_in_the_next_window() {
        let purse = Purse::new(BudgetSpan::Hour, 100);
        assert!(purse.runs_low(NOON) && !purse.runs_low(NOON), "told once");
        assert!(purse.want(NOON).is_some());
        assert!(purse.runs_low(NOON), "somebody looked");
        purse.exhaust(window(NOON));
        assert_eq!(purse.want(NOON), None);
        assert!(!purse.runs_low(NOON), "there is nothing to ask for");
        assert!(purse.want(NOON + HOUR_MS).is_some());
    }

    #[test]
    fn a_raise_keeps_what_is_there_and_a_lower_limit_does_not() {
        let purse = Arc::new(Purse::new(BudgetSpan::Hour, 100));
        purse.credit(window(NOON), 1);
        purse.exhaust(window(NOON));
        assert!(Arc::ptr_eq(&purse, &purse.next(100)));
        let raised = purse.next(1_000);
        assert_eq!(raised.want(NOON).map(|want| want.uses), Some(9), "no longer exhausted");
        assert!(raised.take(NOON) && !purse.take(NOON));
        raised.credit(window(NOON), 9);
        assert_eq!(taken(&raised.next(999), NOON, 20), 0);
    }

    #[test]
    fn nearly_spent_is_said_once_in_a_window() {
        let purse = Purse::new(BudgetSpan::Hour, 10);
        let said = [7, 8, 9, 10].map(|counted| purse.announces(window(NOON), counted));
        assert_eq!(said, [false, true, false, false]);
        assert!(purse.announces(window(NOON + HOUR_MS), 10));
        assert!(!purse.announces(window(NOON), 10));
    }

    #[test]
    fn threads_share_one_purse() {
        let purse = Purse::new(BudgetSpan::Day, 1_000_000);
        purse.credit(BudgetWindow::at(BudgetSpan::Day, NOON), 1_000);
        let passed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| passed.fetch_add(taken(&purse, NOON, 500), Ordering::SeqCst));
            }
        });
        assert_eq!(passed.into_inner(), 1_000);
    }
}
