//! Telling the home custodian who used which key, so that it can raise alarms.
//!
//! Guarantees: no request waits for this; what was not answered is told again under its number, and what came meanwhile after it; while
//! there is nothing to tell, the enclave's clock is told each minute. What does not reach the home custodian and is trouble by itself, an overdue lease or a clock
//! that cannot be trusted, is counted here, so that the parent shows it. Assumes: the home custodian judges, and counts each number
//! once. Logs kinds and counts, and no principal.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::alarm::{AlarmKind, OverdueLease, Tally};
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::ids::CustodianId;
use holdfast_shared::limits::{TALLY_INTERVAL_MS, TALLY_SILENCE_MAX_MS};
use tokio::time::Instant;

use super::CustodyError;
use super::ledger::Ledger;
use crate::tally::UseTally;

const INTERVAL: Duration = Duration::from_millis(TALLY_INTERVAL_MS);
const SILENCE_MAX: Duration = Duration::from_millis(TALLY_SILENCE_MAX_MS);

/// Tells what is counted, without end.
pub(super) async fn tell_uses<C: Connect + 'static>(ledger: &Ledger<C>) {
    let mut teller = Teller::default();
    loop {
        tokio::select! {
            () = ledger.served.tally().hurried() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
        teller.tell(ledger).await;
    }
}

/// What is remembered between two tallies.
#[derive(Default)]
struct Teller {
    /// Was sent, and nobody answered: it is told again under its number before anything else, so that it counts once.
    untold: Option<Tally>,
    /// Of the newest tally. Numbers follow the clock, so that they grow in a boot even where this begins anew.
    number: u64,
    /// When the uses of the newest tally were taken, milliseconds since 1970.
    taken_ms: Option<u64>,
    /// When the home custodian was told last.
    told: Option<Instant>,
    is_failing: bool,
    troubles: Troubles,
}

impl Teller {
    async fn tell<C: Connect + 'static>(&mut self, ledger: &Ledger<C>) {
        let (clock, counted) = (&ledger.enclave.clock, ledger.served.tally());
        let overdue = ledger.served.health().overdue(clock.monotonic_ms());
        let begun = self.troubles.begun(&overdue, clock.is_healthy());
        let tally = self.next(counted, overdue, clock.wall_ms());
        let has_news = !tally.uses.is_empty() || !tally.others.is_zero() || !tally.overdue.is_empty();
        let is_silent = self.told.is_none_or(|told| told.elapsed() >= SILENCE_MAX);
        if !has_news && begun.is_empty() && !is_silent {
            return;
        }
        let ask = Ask::Tally(tally);
        match deliver(ledger, &ask).await {
            Ok(raised) => {
                self.told = Some(Instant::now());
                if core::mem::take(&mut self.is_failing) {
                    ledger.log(Level::Info, "the home custodian is told of uses again");
                }
                if let Some(line) = counted.alarms().raise_all(&raised) {
                    ledger.log(Level::Warn, &line);
                }
            }
            Err(error) => {
                if let Ask::Tally(tally) = ask {
                    self.untold = Some(tally);
                }
                if let Some(line) = counted.alarms().raise_all(&begun) {
                    ledger.log(Level::Warn, &line);
                }
                // Before the first release there is nobody to tell, and nothing.
                if !self.is_failing && (has_news || !matches!(error, CustodyError::HomeAway(_))) {
                    self.is_failing = true;
                    ledger.log(Level::Warn, &format!("the home custodian cannot be told of uses: {error}"));
                }
            }
        }
    }

    /// What was not answered, or else what was counted since.
    fn next(&mut self, counted: &UseTally, overdue: Vec<OverdueLease>, at_ms: u64) -> Tally {
        if let Some(untold) = self.untold.take() {
            return Tally { at_ms, overdue, ..untold };
        }
        self.number = at_ms.max(self.number.saturating_add(1));
        let since_ms = self.taken_ms.replace(at_ms).unwrap_or(at_ms);
        let (uses, others) = counted.take();
        Tally { number: self.number, at_ms, since_ms, uses, others, overdue }
    }
}

/// Returns the kinds of alarms that it raised.
async fn deliver<C: Connect + 'static>(ledger: &Ledger<C>, ask: &Ask) -> Result<Vec<AlarmKind>, CustodyError> {
    match ledger.ask_home(ask).await? {
        Reply::Tallied { raised } => Ok(raised),
        _ => Err(CustodyError::OtherAnswer),
    }
}

/// What is wrong at present.
#[derive(Default)]
struct Troubles {
    leases: BTreeSet<CustodianId>,
    clock: bool,
}

impl Troubles {
    /// What began since the last look, each once.
    fn begun(&mut self, overdue: &[OverdueLease], is_clock_healthy: bool) -> Vec<AlarmKind> {
        let leases: BTreeSet<_> = overdue.iter().map(|lease| lease.custodian_id).collect();
        let mut begun = vec![AlarmKind::LeaseTrouble; leases.difference(&self.leases).count()];
        if !is_clock_healthy && !self.clock {
            begun.push(AlarmKind::ClockDrift);
        }
        *self = Self { leases, clock: !is_clock_healthy };
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_begins_once() {
        let lease = |n: u8| OverdueLease { custodian_id: CustodianId([n; 32]), left_ms: 0 };
        let (one, both, none) = (&[lease(1)][..], &[lease(1), lease(2)][..], &[][..]);
        let (trouble, drift) = (AlarmKind::LeaseTrouble, AlarmKind::ClockDrift);
        let (none_begun, mut troubles) = (&[][..], Troubles::default());
        for (overdue, is_clock_healthy, expected) in [
            (none, true, none_begun),
            (one, true, &[trouble]),
            (one, false, &[drift]),
            (both, false, &[trouble]),
            (none, true, none_begun),
            (both, false, &[trouble, trouble, drift]),
            (both, false, none_begun),
        ] {
            assert_eq!(troubles.begun(overdue, is_clock_healthy), expected, "{overdue:?} {is_clock_healthy}");
        }
    }
}
