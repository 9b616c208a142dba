use std::collections::BTreeMap;

use holdfast_shared::keystore::{Budget, BudgetWindow, KeyBudget, granted};
use proptest::prelude::*;

use super::*;
use crate::xks::purse::Want;

const HOUR_MS: u64 = 3_600_000;
const NOON: u64 = 490_008 * HOUR_MS + HOUR_MS / 2;

fn key(id: &str) -> ExternalKeyId {
    id.parse().unwrap()
}

fn budgets(per_hour: Option<u32>, per_day: Option<u32>) -> UseBudgets {
    UseBudgets { every_key: Some(Budget { per_hour, per_day }), keys: Vec::new() }
}

/// Fills every purse to its slice.
fn fill(budgets: &Budgets, time_ms: u64) {
    for (_, purse) in budgets.purses() {
        if let Some(Want { window, uses }) = purse.want(time_ms) {
            purse.credit(window, uses);
        }
    }
}

#[test]
fn a_use_takes_from_both_purses_or_from_none() {
    let (a, b) = (key("a"), key("b"));
    let own = KeyBudget { id: a.clone(), budget: Budget { per_hour: Some(500), per_day: Some(300) } };
    let settings = UseBudgets { keys: vec![own], ..budgets(Some(100), None) };
    let budgets = Budgets::default().next(Some(&settings), &[a.clone(), b.clone()]);
    assert_eq!(budgets.take(&a, NOON), Err(HOUR), "nothing is there before it was debited");
    fill(&budgets, NOON);
    let results: Vec<_> = (0..5).map(|_| budgets.take(&a, NOON)).collect();
    assert_eq!(results, [Ok(()), Ok(()), Ok(()), Err(DAY), Err(DAY)]);
    let hour = &budgets.keys[&a][0];
    assert!(hour.take(NOON) && hour.take(NOON) && !hour.take(NOON), "what the day refused was put back");
    assert_eq!((budgets.take(&b, NOON), budgets.take(&b, NOON)), (Ok(()), Err(HOUR)));
    assert_eq!(budgets.take(&key("of-no-version"), NOON), Ok(()));
}

#[test]
fn purses_go_on_where_the_limit_is_the_same() {
    let keys = [key("a")];
    let first = Budgets::default().next(Some(&budgets(Some(1_000), Some(2_000))), &keys);
    fill(&first, NOON);
    let same = first.next(Some(&budgets(Some(1_000), Some(2_000))), &keys);
    assert_eq!((0..20).filter(|_| same.take(&keys[0], NOON).is_ok()).count(), 10);
    assert_eq!(first.take(&keys[0], NOON), Err(HOUR), "they are the same purses");
    let lower = same.next(Some(&budgets(None, Some(1_999))), &keys);
    assert_eq!(lower.take(&keys[0], NOON), Err(DAY));
    let none = lower.next(None, &keys);
    assert!(none.is_empty() && none.take(&keys[0], NOON).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    /// An enclave uses the key so often.
    Use(usize, u32),
    /// It asks for what it wants, and hears the answer or not.
    Ask(usize, bool),
    /// It is killed and starts again.
    Crash(usize),
    /// Time goes on for all, in minutes.
    Pass(u64),
    /// The budget is changed, and every enclave hears of it.
    Change(u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 1..400_u32).prop_map(|(enclave, times)| Step::Use(enclave, times)),
        4 => (0..3_usize, prop::bool::weighted(0.9)).prop_map(|(enclave, is_heard)| Step::Ask(enclave, is_heard)),
        1 => (0..3_usize).prop_map(Step::Crash),
        1 => (0..90_u64).prop_map(Step::Pass),
        1 => (1..5_000_u32, 1..9_000_u32).prop_map(|(hour, day)| Step::Change(hour, day)),
    ]
}

proptest! {
    /// Whatever is used, lost, killed and changed: no window sees more uses than the highest limit that was in force in it; and what was
    /// debited was used, is in a purse, or was lost, a slice at most each time.
    #[test]
    fn never_more_than_the_budget(first in (1..5_000_u32, 1..9_000_u32), steps in prop::collection::vec(step(), 1..120)) {
        let (id, mut now_ms) = (key("a"), NOON);
        let mut limits = first;
        let version = |before: &Budgets, (hour, day): (u32, u32)| {
            before.next(Some(&budgets(Some(hour), Some(day))), core::slice::from_ref(&id))
        };
        let mut enclaves: Vec<_> = (0..3).map(|_| version(&Budgets::default(), limits)).collect();
        let mut counted: BTreeMap<BudgetWindow, u32> = BTreeMap::new();
        let mut highest: BTreeMap<BudgetWindow, u32> = BTreeMap::new();
        let mut used: BTreeMap<BudgetWindow, u32> = BTreeMap::new();
        let mut lost: BTreeMap<BudgetWindow, u32> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Use(enclave, times) => for _ in 0..times {
                    if enclaves[enclave].take(&id, now_ms).is_ok() {
                        for span in BudgetSpan::ALL {
                            *used.entry(BudgetWindow::at(span, now_ms)).or_default() += 1;
                        }
                    }
                },
                Step::Ask(enclave, is_heard) => for (_, purse) in enclaves[enclave].purses() {
                    let Some(Want { window, uses }) = purse.want(now_ms) else { continue };
                    let counter = counted.entry(window).or_default();
                    let granted = granted(purse.limit(), *counter, uses);
                    *counter += granted;
                    let most = highest.entry(window).or_default();
                    *most = (*most).max(purse.limit());
                    if is_heard {
                        purse.credit(window, granted);
                        if granted < uses {
                            purse.exhaust(window);
                        }
                    } else {
                        *lost.entry(window).or_default() += granted;
                    }
                },
                Step::Crash(enclave) => {
                    let slices = enclaves[enclave].purses().map(|(_, purse)| purse.slice());
                    for (span, slice) in BudgetSpan::ALL.into_iter().zip(slices) {
                        let window = BudgetWindow::at(span, now_ms);
                        *lost.entry(window).or_default() += slice;
                        *lost.entry(window.next()).or_default() += slice;
                    }
                    enclaves[enclave] = version(&Budgets::default(), limits);
                }
                Step::Pass(minutes) => now_ms += minutes * 60_000,
                Step::Change(hour, day) => {
                    for enclave in &mut enclaves {
                        let slices: Vec<_> = enclave.purses().map(|(_, purse)| purse.slice()).collect();
                        for (span, slice) in BudgetSpan::ALL.into_iter().zip(slices) {
                            let window = BudgetWindow::at(span, now_ms);
                            *lost.entry(window).or_default() += slice;
                            *lost.entry(window.next()).or_default() += slice;
                        }
                        *enclave = version(enclave, (hour, day));
                    }
                    limits = (hour, day);
                }
            }
        }
        for (window, used) in &used {
            let (counted, highest) = (counted[window], highest[window]);
            prop_assert!(*used <= counted && counted <= highest, "{used} used, {counted} counted, {highest} at most");
            // Both purses are taken from at once, so that what one holds may wait for the other until the window ends: three slices.
            let held = 3 * 1_000;
            prop_assert!(counted <= used + lost.get(window).copied().unwrap_or_default() + held);
        }
    }
}
