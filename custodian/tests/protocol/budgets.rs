//! Debits of budgets: who may ask, for when, and what is remembered.

use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::keystore::{BudgetSpan, BudgetWindow};
use holdfast_shared::query::{Answer, BudgetCount, Question};

use crate::enclave::Enclave;
use crate::quorum::Three;
use crate::world::{LEASE_MS, World, refused};

async fn debit(world: &World, enclave: &mut Enclave, window: BudgetWindow, want: u32) -> Reply {
    let ask = Ask::Debit { key: "a".parse().unwrap(), window, limit: 10, want };
    enclave.ask(world, &ask).await.unwrap()
}

async fn counts(world: &World) -> Vec<BudgetCount> {
    match world.ask(Question::Budgets).await {
        Answer::Budgets(counts) => counts,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_debited_is_remembered_and_shown() {
    let mut world = World::start().await;
    let (mut one, mut other) = (world.obtain().await, world.obtain().await);
    let today = BudgetWindow::at(BudgetSpan::Day, world.now_ms());
    assert_eq!(counts(&world).await, []);
    assert_eq!(debit(&world, &mut one, today, 6).await, Reply::Debited { granted: 6, counted: 6 });
    world.restart(true).await;
    assert_eq!(debit(&world, &mut other, today, 6).await, Reply::Debited { granted: 4, counted: 10 });
    assert_eq!(debit(&world, &mut one, today, 1).await, Reply::Debited { granted: 0, counted: 10 });
    let count = BudgetCount { key: "a".parse().unwrap(), window: today, counted: 10 };
    assert_eq!(counts(&world).await, [count]);
}

#[tokio::test]
async fn only_windows_near_the_present_are_counted_and_only_under_a_lease() {
    let world = World::start().await;
    let mut enclave = world.obtain().await;
    for span in BudgetSpan::ALL {
        let now = BudgetWindow::at(span, world.now_ms());
        let at = |number| BudgetWindow { span, number };
        for (window, is_near) in [
            (now, true),
            (now.next(), true),
            (at(now.number - 1), true),
            (now.next().next(), false),
            (at(now.number - 2), false),
            (at(0), false),
            (at(u32::MAX), false),
        ] {
            let reply = debit(&world, &mut enclave, window, 1).await;
            if is_near {
                assert_eq!(reply, Reply::Debited { granted: 1, counted: 1 }, "{window:?}");
            } else {
                assert!(refused(reply).contains("of another time"), "{window:?}");
            }
        }
    }
    let today = BudgetWindow::at(BudgetSpan::Day, world.now_ms());
    world.clock.step(LEASE_MS + 1);
    let ask = Ask::Debit { key: "a".parse().unwrap(), window: today, limit: 10, want: 1 };
    assert!(enclave.ask(&world, &ask).await.is_err(), "the lease is over");
}

#[tokio::test]
async fn others_than_the_home_custodian_grant_nothing() {
    let three = Three::with_own_place(1).await;
    let mut enclave = three.world.obtain().await;
    let today = BudgetWindow::at(BudgetSpan::Day, three.world.now_ms());
    assert!(refused(debit(&three.world, &mut enclave, today, 1).await).contains("not the home custodian"));
    assert_eq!(counts(&three.world).await, []);
}
