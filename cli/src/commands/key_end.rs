//! The end of keys: `holdfast key schedule-destruction`, `cancel-destruction`, `destroy`, and `holdfast root-key rotate`.
//!
//! Guarantees: *destroyed* is said only when fewer old shares are left than bring the old root key back, by the signed word of each
//! custodian; one that did not answer counts as one that holds its share. Assumes: custodians tell the truth about what they deleted;
//! their backups are beyond everybody's reach, and named.

use core::fmt;

use holdfast_shared::command::Action;
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::query::KeyStoreStatus;
use holdfast_shared::quorum::Quorum;
use serde::Serialize;

use super::Done;
use super::block::nobody;
use crate::moment::format_duration;
use crate::output::printable;
use crate::session::{Heard, Patience, Session, SessionError, Wait};

/// What is left of old shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// What was done.
    #[serde(flatten)]
    pub done: Done,
    /// Whether the old root key is lost: too few of its shares are left.
    pub destroyed: bool,
    /// The newest generation of the root key that must go.
    pub old_generation: u32,
    /// Most old shares that may be left.
    pub harmless: usize,
    /// Each custodian.
    pub custodians: Vec<OldShare>,
}

/// An old share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OldShare {
    /// Whose.
    pub custodian: String,
    /// `deleted`, `held` or `unknown`.
    pub state: &'static str,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.done)?;
        let left: Vec<_> = self.custodians.iter().filter(|share| share.state != "deleted").collect();
        if self.destroyed {
            write!(
                f,
                "destroyed: {} old shares are left, and more than {} would be needed",
                left.len(),
                self.harmless
            )?;
        } else {
            write!(
                f,
                "NOT DESTROYED YET: {} old shares may be left, and {} bring the old root key back; run an enclave while these are up, \
                 and look again with: holdfast status",
                left.len(),
                self.harmless.saturating_add(1)
            )?;
        }
        for share in left {
            let what = if share.state == "held" { "still holds an old share" } else { "did not answer" };
            write!(f, "\n  {}: {what}", printable(&share.custodian))?;
        }
        write!(f, "\n  residual: backups of custodians, until they are deleted")
    }
}

/// Has a key destroyed after a waiting period.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when there is no such key.
pub async fn schedule(
    session: &Session,
    id: ExternalKeyId,
    waiting_ms: u64,
    wait: Wait<'_>,
) -> Result<Done, SessionError> {
    let waiting = format_duration(waiting_ms);
    let done =
        format!("key {id} is destroyed in {waiting} unless that is cancelled: holdfast key cancel-destruction {id}");
    Done::new(done, session.order(Action::ScheduleKeyDestruction { id, waiting_ms }, wait).await?)
}

/// Takes that back.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when the key is not pending destruction.
pub async fn cancel(session: &Session, id: ExternalKeyId, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = format!("key {id} is not destroyed; it is disabled: holdfast key enable {id}");
    Done::new(done, session.order(Action::CancelKeyDestruction { id }, wait).await?)
}

/// Destroys a key, and waits until the old root key is lost.
///
/// # Errors
/// [`SessionError`].
pub async fn destroy(session: &Session, id: ExternalKeyId, wait: Wait<'_>) -> Result<End, SessionError> {
    let done = format!("key {id}: its material is gone from the key store, and the root key was changed");
    change_root(session, Action::DestroyKey { id }, done, wait).await
}

/// Changes the root key, and waits until the old one is lost.
///
/// # Errors
/// [`SessionError`].
pub async fn rotate_root(session: &Session, wait: Wait<'_>) -> Result<End, SessionError> {
    change_root(session, Action::RotateRootKey, "the root key was changed".to_owned(), wait).await
}

async fn change_root(session: &Session, action: Action, done: String, wait: Wait<'_>) -> Result<End, SessionError> {
    let before = session.statuses().await;
    let generations = |said: &Option<Result<KeyStoreStatus, SessionError>>| {
        said.as_ref().and_then(|said| said.as_ref().ok()).and_then(|status| status.generations.last().copied())
    };
    let Some(old) = before.iter().filter_map(|(_, said)| generations(said)).max() else {
        return Err(if before.iter().any(|(_, said)| matches!(said, Some(Ok(_)))) {
            SessionError::Refused("no custodian holds a share: the ceremony has not taken place".to_owned())
        } else {
            nobody(before)
        });
    };
    let done = Done::new(done, session.order(action, wait).await?)?;
    let mut patience = Patience::new(wait);
    loop {
        let custodians = shares(&session.statuses().await, old);
        let destroyed = is_lost(&custodians, session.quorum());
        // Those that are up delete theirs at once; the others are named.
        let is_quiet = custodians.iter().all(|share| share.state != "held");
        if (destroyed && is_quiet) || patience.pause("custodians to delete old shares").await.is_err() {
            let harmless = session.quorum().harmless();
            return Ok(End { done, destroyed, old_generation: old, harmless, custodians });
        }
    }
}

fn shares(heard: &Heard<KeyStoreStatus>, old: u32) -> Vec<OldShare> {
    let state = |said: &Option<Result<KeyStoreStatus, SessionError>>| match said {
        Some(Ok(status)) if status.generations.iter().any(|generation| *generation <= old) => "held",
        Some(Ok(_)) => "deleted",
        _ => "unknown",
    };
    heard.iter().map(|(contact, said)| OldShare { custodian: contact.name().to_owned(), state: state(said) }).collect()
}

fn is_lost(custodians: &[OldShare], quorum: Quorum) -> bool {
    custodians.iter().filter(|share| share.state != "deleted").count() <= quorum.harmless()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_root_key_is_lost_only_when_too_few_shares_can_be_left() {
        let shares = |states: &[&'static str]| {
            states.iter().map(|state| OldShare { custodian: String::new(), state }).collect::<Vec<_>>()
        };
        let table = [
            ((1, 1, 0), &["deleted"][..], true),
            ((1, 1, 0), &["held"], false),
            ((1, 1, 0), &["unknown"], false),
            ((3, 2, 0), &["deleted", "deleted", "held"], true),
            ((3, 2, 0), &["deleted", "deleted", "unknown"], true),
            ((3, 2, 0), &["deleted", "unknown", "held"], false),
            ((5, 3, 1), &["unknown", "unknown", "deleted", "deleted", "deleted"], true),
            ((5, 3, 1), &["unknown", "unknown", "held", "deleted", "deleted"], false),
        ];
        for ((n, m, f), states, expected) in table {
            assert_eq!(is_lost(&shares(states), Quorum::new(n, m, f)), expected, "{n} {m} {f} {states:?}");
        }
    }
}
