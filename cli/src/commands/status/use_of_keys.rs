//! What the home custodian says of budgets and alarms. Where it says nothing, the rest of the status stands.

use core::fmt;
use core::time::Duration;

use holdfast_shared::query::{Answer, BudgetCount, Question};
use serde::Serialize;

use crate::commands::alarms::{AlarmLine, newest};
use crate::moment::{format_ms, now_ms};
use crate::output::printable;
use crate::session::{Contact, Session, SessionError};

/// How long the home custodian may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Alarms that are shown.
const NEWEST: usize = 5;
/// How old they may be.
const RECENT_MS: u64 = 24 * 3_600_000;

/// Budgets of which something is debited in this hour and this day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UseOfKeys {
    /// By key and window. How much may be debited is sealed: `holdfast budget show` asks an enclave.
    pub budgets: Vec<DebitedLine>,
    /// The newest alarms of 24 hours.
    pub newest: Vec<AlarmLine>,
    /// Why there is nothing, if the home custodian did not answer.
    pub error: Option<String>,
}

/// What is debited of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DebitedLine {
    /// The key.
    pub key: String,
    /// `hour` or `day`.
    pub span: &'static str,
    /// When it began, milliseconds since 1970.
    pub since_ms: u64,
    /// Uses that enclaves have had debited, used or not.
    pub debited: u32,
}

impl From<BudgetCount> for DebitedLine {
    fn from(BudgetCount { key, window, counted }: BudgetCount) -> Self {
        Self { key: key.to_string(), span: window.span.name(), since_ms: window.starts_ms(), debited: counted }
    }
}

impl UseOfKeys {
    pub(super) async fn ask(session: &Session) -> Self {
        let asked = async {
            let home = session.home_contact()?;
            let (budgets, newest) = tokio::try_join!(budgets(home), newest(home, NEWEST, is_recent))?;
            Ok::<_, SessionError>(Self { budgets, newest, error: None })
        };
        let failed = |error: String| Self { error: Some(error), ..Self::default() };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => failed(error.to_string()),
            Err(_) => failed("the home custodian does not answer".to_owned()),
        }
    }

    /// How many of the newest alarms are of the last hour.
    pub(super) fn of_this_hour(&self) -> usize {
        let since_ms = now_ms().saturating_sub(3_600_000);
        self.newest.iter().filter(|alarm| alarm.at_ms >= since_ms).count()
    }
}

fn is_recent(at_ms: u64) -> bool {
    now_ms().saturating_sub(at_ms) <= RECENT_MS
}

async fn budgets(home: &Contact) -> Result<Vec<DebitedLine>, SessionError> {
    match home.ask(Question::Budgets).await? {
        Answer::Budgets(counts) => Ok(counts.into_iter().map(DebitedLine::from).collect()),
        _ => Err(SessionError::OtherAnswer),
    }
}

impl fmt::Display for UseOfKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return write!(f, "\nbudgets       unknown: {}\nalarms        unknown", printable(error));
        }
        if !self.budgets.is_empty() {
            f.write_str("\nbudgets")?;
        }
        for DebitedLine { key, span, since_ms, debited } in &self.budgets {
            write!(f, "\n  key {key}: {debited} debited in the {span} from {}", format_ms(*since_ms))?;
        }
        match self.newest.len() {
            0 => f.write_str("\nalarms        none in 24 hours"),
            _ => f.write_str("\nalarms        the newest of 24 hours"),
        }?;
        self.newest.iter().try_for_each(|alarm| write!(f, "\n  {alarm}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown() {
        let line = DebitedLine { key: "a".to_owned(), span: "hour", since_ms: 0, debited: 7 };
        let alarm = AlarmLine {
            id: 1,
            at_ms: 0,
            kind: "budget",
            key: None,
            who: String::new(),
            text: "nearly\u{7} spent".to_owned(),
            boot_id: None,
            delivered: true,
        };
        let told = UseOfKeys { budgets: vec![line], newest: vec![alarm], error: None };
        assert_eq!(
            told.to_string(),
            "\nbudgets\n  key a: 7 debited in the hour from 1970-01-01T00:00:00Z\nalarms        the newest of 24 hours\
             \n  1970-01-01T00:00:00Z  budget         nearly? spent"
        );
        assert_eq!(told.of_this_hour(), 0);
        assert_eq!(UseOfKeys::default().to_string(), "\nalarms        none in 24 hours");
        let away = UseOfKeys { error: Some("away".to_owned()), ..UseOfKeys::default() };
        assert_eq!(away.to_string(), "\nbudgets       unknown: away\nalarms        unknown");
    }
}
