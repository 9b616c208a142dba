//! What is debited of budgets.

use holdfast_custodian::store::{Debited, NewDebit, Origin, StoreError, StoredCount};
use holdfast_shared::ids::LeaseId;
use holdfast_shared::keystore::{BudgetSpan, BudgetWindow};

use crate::fixture::{KEY_STORE, NOW_MS, Place, lease, message, record};

const HOUR: BudgetWindow = BudgetWindow { span: BudgetSpan::Hour, number: 472_222 };
const DAY: BudgetWindow = BudgetWindow { span: BudgetSpan::Day, number: 19_675 };

fn debit(key: &str, window: BudgetWindow, limit: u32, want: u32) -> NewDebit {
    NewDebit { key_store_id: KEY_STORE, key: key.parse().unwrap(), window, limit, want }
}

const fn granted(granted: u32, counted: u32) -> Debited {
    Debited::Granted { granted, counted }
}

fn count(key: &str, window: BudgetWindow, counted: u32) -> StoredCount {
    StoredCount { key: key.parse().unwrap(), window, counted }
}

pub(crate) async fn what_is_left_is_granted_and_a_message_counts_once(place: Place) {
    let place = place.enrolled().await;
    for (counter, (limit, want, expected)) in (1..).zip([
        (100, 60, granted(60, 60)),
        (100, 60, granted(40, 100)),
        (100, 1, granted(0, 100)),
        // A raise counts from what is debited, and a lower limit takes nothing back.
        (150, 60, granted(50, 150)),
        (20, 1, granted(0, 150)),
        (151, 5, granted(1, 151)),
    ]) {
        let store = place.handle(usize::try_from(counter).unwrap());
        assert_eq!(store.debit(&debit("a", DAY, limit, want), message(counter)).await.unwrap(), expected);
    }
    let again = place.two.debit(&debit("a", DAY, 1_000, 1), message(6)).await.unwrap_err();
    assert!(matches!(again, StoreError::Replayed(_)), "{again:?}");
    let ended = Origin { lease_id: LeaseId([9; 16]), ..message(9) };
    let ended = place.one.debit(&debit("a", DAY, 1_000, 1), ended).await.unwrap_err();
    assert!(matches!(ended, StoreError::LeaseEnded), "{ended:?}");
    assert_eq!(place.two.budget_counts(KEY_STORE, [HOUR, DAY]).await.unwrap(), [count("a", DAY, 151)]);
}

pub(crate) async fn windows_and_keys_are_counted_apart(place: Place) {
    let place = place.enrolled().await;
    let next = HOUR.next();
    let debits = [("b", HOUR), ("a", DAY), ("a", HOUR), ("B", HOUR), ("a", next), ("a", HOUR)];
    for (counter, (key, window)) in (1..).zip(debits) {
        place.one.debit(&debit(key, window, 9, 5), message(counter)).await.unwrap();
    }
    let counts = place.two.budget_counts(KEY_STORE, [HOUR, DAY]).await.unwrap();
    assert_eq!(counts, [count("B", HOUR, 5), count("a", HOUR, 9), count("a", DAY, 5), count("b", HOUR, 5)]);
    assert_eq!(place.one.budget_counts(KEY_STORE, [next, DAY.next()]).await.unwrap(), [count("a", next, 5)]);
}

pub(crate) async fn counts_that_are_forgotten_never_come_back(place: Place) {
    let place = place.enrolled().await;
    let at = |number| BudgetWindow { number, ..HOUR };
    let mut counter = 0;
    let mut ask = async |window, expected| {
        counter += 1;
        assert_eq!(place.one.debit(&debit("a", window, 3, 3), message(counter)).await.unwrap(), expected, "{window:?}");
    };
    ask(at(100), granted(3, 3)).await;
    ask(DAY, granted(3, 3)).await;
    ask(at(102), granted(3, 3)).await;
    ask(at(100), granted(0, 3)).await;
    ask(at(99), Debited::Past).await;
    ask(at(101), granted(3, 3)).await;
    ask(at(103), granted(3, 3)).await;
    ask(at(100), Debited::Past).await;
    ask(at(101), granted(0, 3)).await;
    ask(DAY, granted(0, 3)).await;
    assert_eq!(place.one.budget_counts(KEY_STORE, [at(100), DAY]).await.unwrap(), [count("a", DAY, 3)]);
}

pub(crate) async fn debits_that_race_never_pass_the_limit(place: Place) {
    let place = place.enrolled().await;
    let racers: Vec<_> = (1..=8_u8)
        .map(|racer| {
            // Beside the lease that the key store has.
            let racer = 100 + racer;
            let store = place.handle(racer.into());
            tokio::spawn(async move {
                let lease_id = LeaseId([racer; 16]);
                store.grant(&lease(lease_id, racer), &record(true)).await.unwrap();
                let mut sum = 0;
                for counter in 1..=10 {
                    let origin = Origin { lease_id, counter, now_ms: NOW_MS };
                    match store.debit(&debit("a", HOUR, 500, 9), origin).await.unwrap() {
                        Debited::Granted { granted, .. } => sum += granted,
                        other => panic!("{other:?}"),
                    }
                }
                sum
            })
        })
        .collect();
    let mut sum = 0;
    for racer in racers {
        sum += racer.await.unwrap();
    }
    assert_eq!(sum, 500);
    assert_eq!(place.one.budget_counts(KEY_STORE, [HOUR, DAY]).await.unwrap(), [count("a", HOUR, 500)]);
}
