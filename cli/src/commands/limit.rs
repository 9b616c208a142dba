//! `holdfast limit`: how often each key and each principal may come.

use core::fmt;

use holdfast_shared::cbor::Message;
use holdfast_shared::command::{Action, Outcome};
use holdfast_shared::keystore::{KeyLimit, Quota, UseLimits};
use serde::Serialize;

use super::Done;
use super::quota::QuotaLine;
use crate::evidence::Evidence;
use crate::session::{Completed, Session, SessionError, Wait};

/// The limits in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitReport {
    /// All keys and principals together.
    pub quota: Option<QuotaLine>,
    /// Each key that is not listed.
    pub per_key: Option<QuotaLine>,
    /// Keys with limits of their own.
    pub keys: Vec<KeyLine>,
    /// Each principal.
    pub per_principal: Option<QuotaLine>,
    /// Who says so.
    pub evidence: Evidence,
}

/// The limit of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyLine {
    /// The key.
    pub key: String,
    /// Its limit.
    #[serde(flatten)]
    pub limit: QuotaLine,
}

impl LimitReport {
    fn new(completed: Completed) -> Result<Self, SessionError> {
        let Outcome::Settings { quota, limits, .. } = completed.outcome else { return Err(SessionError::OtherOutcome) };
        let UseLimits { per_key, keys, per_principal } =
            limits.unwrap_or(UseLimits { per_key: None, keys: Vec::new(), per_principal: None });
        let line = |KeyLimit { id, quota }: KeyLimit| KeyLine { key: id.to_string(), limit: quota.into() };
        Ok(Self {
            quota: quota.map(QuotaLine::from),
            per_key: per_key.map(QuotaLine::from),
            keys: keys.into_iter().map(line).collect(),
            per_principal: per_principal.map(QuotaLine::from),
            evidence: completed.evidence,
        })
    }
}

impl fmt::Display for LimitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, limit: Option<&QuotaLine>| match limit {
            Some(QuotaLine { requests_per_second, burst }) => {
                writeln!(f, "{name}: {requests_per_second} requests per second, {burst} at once, in each enclave")
            }
            None => writeln!(f, "{name}: no limit"),
        };
        line(f, "all together", self.quota.as_ref())?;
        line(f, "each key", self.per_key.as_ref())?;
        self.keys.iter().try_for_each(|key| line(f, &format!("key {}", key.key), Some(&key.limit)))?;
        line(f, "each principal", self.per_principal.as_ref())?;
        write!(f, "  {}", self.evidence.summary())
    }
}

/// The limits that the command line names.
///
/// # Errors
/// What is wrong with them.
pub fn limits(
    per_key: Option<Quota>,
    mut keys: Vec<KeyLimit>,
    per_principal: Option<Quota>,
) -> Result<UseLimits, &'static str> {
    keys.sort_by(|a, b| a.id.cmp(&b.id));
    let limits = UseLimits { per_key, keys, per_principal };
    limits.check().map(|()| limits)
}

/// Sets the limits, or lifts them.
///
/// # Errors
/// [`SessionError`].
pub async fn set(session: &Session, limits: Option<UseLimits>, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = if limits.is_some() { "limits set" } else { "limits cleared" };
    Done::new(done.to_owned(), session.order(Action::SetLimits { limits }, wait).await?)
}

/// Asks an enclave for the limits.
///
/// # Errors
/// [`SessionError`].
pub async fn show(session: &Session, wait: Wait<'_>) -> Result<LimitReport, SessionError> {
    LimitReport::new(session.order(Action::ShowSettings, wait).await?)
}
