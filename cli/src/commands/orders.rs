//! `holdfast pending`, `holdfast approve`: orders that wait.

use core::fmt;

use holdfast_shared::ids::CommandId;
use serde::Serialize;

use crate::session::{PendingCommand, Session, SessionError, Wait};
use crate::words::OrderReport;

/// Orders that wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PendingReport {
    /// Oldest first.
    pub pending: Vec<OrderReport>,
}

impl fmt::Display for PendingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pending.is_empty() {
            return write!(f, "nothing waits");
        }
        for (place, order) in self.pending.iter().enumerate() {
            let end = if place == 0 { "" } else { "\n\n" };
            write!(f, "{end}{order}")?;
        }
        Ok(())
    }
}

/// An order that was approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approved {
    /// The order, with the new signature.
    pub approved: OrderReport,
    /// Whether an enclave has dealt with it.
    pub dealt_with: bool,
}

impl fmt::Display for Approved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = &self.approved;
        if !self.dealt_with {
            return write!(f, "approved: {}; it {}", order.order, order.what_is_missing());
        }
        let first = order.signed_by.first().map_or("the first signer", String::as_str);
        write!(
            f,
            "approved: {}; an enclave has dealt with it; {first} sees what came of it with: holdfast command result {}",
            order.order, order.command_id
        )
    }
}

/// Lists what waits.
///
/// # Errors
/// [`SessionError`].
pub async fn pending(session: &Session) -> Result<PendingReport, SessionError> {
    let pending = session.pending().await?.into_iter().map(|pending| pending.report).collect();
    Ok(PendingReport { pending })
}

/// Finds a waiting command by the beginning of its id.
///
/// # Errors
/// [`SessionError::NoSuchPending`], [`SessionError::AmbiguousPending`].
pub async fn find(session: &Session, prefix: &str) -> Result<PendingCommand, SessionError> {
    let mut all = session.pending().await?;
    let ids: Vec<_> = all.iter().map(|pending| pending.command.command_id).collect();
    let meant = meant(&ids, prefix)?;
    all.retain(|pending| pending.command.command_id == meant);
    all.pop().ok_or_else(|| SessionError::NoSuchPending(prefix.to_owned()))
}

fn meant(ids: &[CommandId], prefix: &str) -> Result<CommandId, SessionError> {
    let wanted = prefix.to_ascii_lowercase();
    let mut meant = ids.iter().filter(|id| wanted.len() >= 4 && id.to_string().starts_with(&wanted));
    match (meant.next(), meant.next()) {
        (Some(only), None) => Ok(*only),
        (None, _) => Err(SessionError::NoSuchPending(prefix.to_owned())),
        (Some(_), Some(_)) => Err(SessionError::AmbiguousPending(prefix.to_owned())),
    }
}

/// Signs a waiting command, and waits for an enclave where nothing is missing any more.
///
/// # Errors
/// [`SessionError`].
pub async fn approve(session: &Session, pending: &PendingCommand, wait: Wait<'_>) -> Result<Approved, SessionError> {
    session.approve(pending).await?;
    let mut approved = pending.report.clone();
    let own = session.keys().administrator.name.clone();
    approved.may_sign.retain(|name| *name != own);
    approved.signed_by.push(own);
    let dealt_with = approved.missing() == 0;
    if dealt_with {
        session.dealt_with(pending.command.command_id, wait).await?;
    }
    Ok(Approved { approved, dealt_with })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_named_by_a_beginning_that_only_it_has() {
        let mut twin = [0xab; 16];
        twin[3] = 0xcd;
        let ids = [CommandId([0xab; 16]), CommandId(twin), CommandId([0x12; 16])];
        assert_eq!(meant(&ids, "1212").unwrap(), ids[2]);
        assert_eq!(meant(&ids, "ABABABCD").unwrap(), ids[1]);
        assert_eq!(meant(&ids, &ids[0].to_string()).unwrap(), ids[0]);
        assert!(matches!(meant(&ids, "abab"), Err(SessionError::AmbiguousPending(_))));
        for none in ["", "12", "121", "1213", "zzzz"] {
            assert!(matches!(meant(&ids, none), Err(SessionError::NoSuchPending(_))), "{none:?}");
        }
    }
}
