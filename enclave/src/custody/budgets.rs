//! Filling the purses of keys that have budgets: uses are debited at the home custodian before they are had.
//!
//! Guarantees: no request waits for this; a purse is credited with what one answer granted to it, once, and with no more than was wanted;
//! what was asked for and not heard of is lost, and never had. While the home custodian is away the purses run out, and the keys that have
//! budgets answer 429. Assumes: the home custodian counts rightly: it could grant too much.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::alarm::AlarmKind;
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::keystore::BudgetWindow;

use super::ledger::Ledger;
use super::{CustodyError, PAUSES};
use crate::xks::{Purse, Want};

/// How often windows that begin soon are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Fills purses, without end.
pub(super) async fn fill_purses<C: Connect + 'static>(ledger: &Ledger<C>) {
    let low = Arc::clone(ledger.served.budgets().low());
    let mut changes = ledger.changes();
    let mut pause = PAUSES.0;
    let mut is_failing = false;
    loop {
        match fill(ledger).await {
            Ok(()) if is_failing => {
                ledger.log(Level::Info, "budgets are debited at the home custodian again");
                (pause, is_failing) = (PAUSES.0, false);
            }
            Ok(()) => {}
            Err(error) => {
                if !is_failing {
                    ledger.log(Level::Warn, &format!("budgets cannot be debited at the home custodian: {error}"));
                }
                is_failing = true;
                tokio::time::sleep(pause).await;
                pause = PAUSES.1.min(pause.saturating_mul(2));
                continue;
            }
        }
        tokio::select! {
            () = low.notified() => {}
            _ = changes.changed(), if ledger.unsealed().is_none() => {}
            () = tokio::time::sleep(LOOK), if !ledger.served.budgets().is_empty() => {}
        }
    }
}

/// Asks once for each purse that wants something. That one is refused keeps no other from being filled.
async fn fill<C: Connect + 'static>(ledger: &Ledger<C>) -> Result<(), CustodyError> {
    // Nothing is used before a version is in service, nor after its keys were dropped.
    if ledger.unsealed().is_none() {
        return Ok(());
    }
    let mut filled = Ok(());
    for (key, purse) in ledger.served.budgets().purses() {
        let Some(want) = purse.want(ledger.enclave.clock.wall_ms()) else { continue };
        match debit(ledger, key, purse, want).await {
            Ok(()) => {}
            Err(error @ CustodyError::Refused(_)) => filled = Err(error),
            Err(error) => return Err(error),
        }
    }
    filled
}

async fn debit<C: Connect + 'static>(
    ledger: &Ledger<C>,
    key: &ExternalKeyId,
    purse: &Purse,
    Want { window, uses }: Want,
) -> Result<(), CustodyError> {
    let limit = purse.limit();
    let (granted, counted) = match ledger.ask_home(&Ask::Debit { key: key.clone(), window, limit, want: uses }).await? {
        Reply::Debited { granted, counted } if granted <= uses => (granted, counted),
        _ => return Err(CustodyError::OtherAnswer),
    };
    purse.credit(window, granted);
    if granted < uses {
        purse.exhaust(window);
    }
    if purse.announces(window, counted) {
        announce(ledger, window);
    }
    Ok(())
}

/// Tells the parent, which may not know of which key. The home custodian raises the alarm by itself when it debits.
fn announce<C: Connect + 'static>(ledger: &Ledger<C>, window: BudgetWindow) {
    ledger.served.tally().alarms().raise(AlarmKind::Budget);
    let span = window.span.name();
    ledger.log(Level::Warn, &format!("most of a key's uses of this {span} are debited; see: holdfast budget show"));
}
