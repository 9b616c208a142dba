//! The custodians as witnesses of the audit log: each is told how far the log has come, and so can tell others.
//!
//! Guarantees: a head is signed when the log grew, at most each second; one custodian that is slow, away or refuses delays no other; what
//! counts as witnessed was acknowledged by f + 1 custodians of the manifest in force, of which one is honest; nothing but the end of the
//! lease ends a link.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::channel::{Ask, Reply};

use super::ledger::Ledger;
use super::links::Link;
use super::session::Session;
use super::{CustodyError, PAUSES};
use crate::audit::Head;

/// Least time between two heads.
const HEAD_INTERVAL: Duration = Duration::from_secs(1);

/// Signs heads, and tells when the log stops the service, without end.
pub(super) async fn sign_heads<C: Connect + 'static>(ledger: &Ledger<C>) {
    let log = Arc::clone(ledger.served.audit());
    let mut told = None;
    loop {
        tokio::time::sleep(HEAD_INTERVAL).await;
        log.tick();
        // What is not in service has reasons of its own.
        let refuses = log.refuses().filter(|_| ledger.unsealed().is_some());
        if refuses != told {
            told = refuses;
            match refuses {
                Some(reason) => ledger.log(Level::Error, &format!("nothing is answered with success: {reason}")),
                None => ledger.log(Level::Info, "the audit log is kept: requests are answered again"),
            }
        }
    }
}

impl<C: Connect + 'static> Link<C> {
    /// Tells the custodian each head, the newest first and alone, until the lease ends. A custodian that will not have one, whatever its
    /// reason, keeps its lease: that it does not count as a witness is all that follows.
    pub(super) async fn witness(&self, session: &Session<C>) -> CustodyError {
        let mut heads = self.ledger.served.audit().heads();
        let mut pause = PAUSES.0;
        loop {
            let head = heads.borrow_and_update().clone();
            if let Some(head) = head {
                match tell(session, &head).await {
                    Ok(()) => {
                        pause = PAUSES.0;
                        self.ledger.witnessed(self.id, head.size);
                    }
                    Err(error @ CustodyError::LeaseEnded(_)) => return error,
                    Err(error) => {
                        // Where it is away, the watch tells.
                        if !error.is_silence() {
                            self.ledger.not_witnessed(self.id, &error);
                        }
                        tokio::time::sleep(pause).await;
                        pause = PAUSES.1.min(pause.saturating_mul(2));
                        continue;
                    }
                }
            }
            // Whoever signs heads lives as long as this link.
            let _ = heads.changed().await;
        }
    }
}

async fn tell<C: Connect>(session: &Session<C>, head: &Head) -> Result<(), CustodyError> {
    match session.ask(&Ask::Witness { checkpoint: head.text.clone().into_bytes() }).await?.0 {
        Reply::Witnessed => Ok(()),
        Reply::Refused { reason, .. } => Err(CustodyError::Refused(reason)),
        _ => Err(CustodyError::OtherAnswer),
    }
}
