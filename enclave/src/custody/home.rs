//! What the home custodian alone is asked, besides what its link asks.

use holdfast_client::Connect;
use holdfast_shared::channel::{Ask, Reply};

use super::CustodyError;
use super::ledger::{Ledger, Order};

impl<C: Connect + 'static> Ledger<C> {
    /// Asks the home custodian. That it ended the lease, its link is told.
    ///
    /// # Errors
    /// [`CustodyError`]; [`CustodyError::Refused`] where it answered that it will not.
    pub(super) async fn ask_home(&self, ask: &Ask) -> Result<Reply, CustodyError> {
        let (home, session) = self.home()?;
        match session.ask(ask).await {
            Ok((Reply::Refused { reason, .. }, _)) => Err(CustodyError::Refused(reason)),
            Ok((reply, _)) => Ok(reply),
            // What is said open, anybody could say: the lease goes on.
            Err(CustodyError::LeaseEnded(reason)) => {
                self.order(home, Order::Fail(CustodyError::LeaseEnded(reason.clone())));
                Err(CustodyError::LeaseEnded(reason))
            }
            Err(error) => Err(error),
        }
    }
}
