//! Purses are filled at the home custodian, and by what it granted alone.

use std::cell::Cell;

use holdfast_shared::alarm::AlarmKind;
use holdfast_shared::keystore::{Budget, BudgetSpan, BudgetWindow, UseBudgets};

use super::*;

fn key() -> ExternalKeyId {
    "a".parse().unwrap()
}

impl World {
    async fn budget(&self, per_hour: u32) {
        let every_key = Some(Budget { per_hour: Some(per_hour), per_day: None });
        let set = Action::SetBudgets { budgets: Some(UseBudgets { every_key, keys: Vec::new() }) };
        self.done(self.order(0, set)).await;
    }

    /// Uses the key as often as it may be used now.
    fn use_up(&self) -> u32 {
        let budgets = self.served.budgets();
        let mut used = 0;
        while !budgets.is_empty() && budgets.take(&key(), self.clock.wall_ms()).is_ok() {
            used += 1;
        }
        used
    }

    fn debited(&self) -> u32 {
        let window = BudgetWindow::at(BudgetSpan::Hour, self.clock.wall_ms());
        self.custodian.state().debited.get(&(key(), window)).copied().unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_a_lost_slice_and_a_raise_goes_on_from_what_is_debited() {
    let world = World::start().serving().await;
    world.done(world.create("a")).await;
    world.custodian.change(|state| state.faults.push(("debit", Fault::AnswerLost)));
    world.budget(300).await;
    let used = Cell::new(0);
    let uses_up_to = |most: u32| {
        let used = &used;
        move |world: &World| {
            used.set(used.get() + world.use_up());
            used.get() == most
        }
    };
    world.until("all uses but a slice", uses_up_to(297)).await;
    assert_eq!(world.debited(), 300);
    assert_eq!(world.served.tally().alarms().counts()[AlarmKind::Budget.number()], 1);
    // Nobody asks again for what is not there.
    world.until("the task rests", |world| world.use_up() == 0).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = world.custodian.state().asked("debit");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.custodian.state().asked("debit"), asked);
    assert_eq!(world.use_up(), 0);

    world.budget(400).await;
    world.until("what was added", uses_up_to(397)).await;
    assert_eq!(world.debited(), 400);
}

#[tokio::test(start_paused = true)]
async fn more_than_was_wanted_is_not_believed() {
    let world = World::start().serving().await;
    world.done(world.create("a")).await;
    world.custodian.change(|state| state.hostile.grants_more = 1);
    world.budget(300).await;
    world.until("it is tried again", |world| world.custodian.state().asked("debit") > 2).await;
    assert_eq!(world.use_up(), 0);
    assert!(world.serves(), "the lease goes on");
    world.custodian.change(|state| state.hostile.grants_more = 0);
    world.until("a slice", |world| world.use_up() == 3).await;
}
