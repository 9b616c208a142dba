//! `holdfast budget`: how many uses keys have in an hour and in a day, and how many are debited.

use core::fmt;
use std::collections::BTreeMap;

use holdfast_shared::cbor::Message as _;
use holdfast_shared::command::{Action, Outcome};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::keystore::{Budget, BudgetSpan, BudgetWindow, KeyBudget, UseBudgets};
use holdfast_shared::query::{Answer, BudgetCount, Question};
use serde::Serialize;

use super::Done;
use crate::evidence::Evidence;
use crate::moment::format_ms;
use crate::session::{Session, SessionError, Wait};

/// The budgets in force, and what is debited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetReport {
    /// Each key that is not listed with a budget of its own.
    pub every_key: Option<BudgetLine>,
    /// Keys with budgets of their own, and keys of which uses are debited.
    pub keys: Vec<KeyLine>,
    /// Who says what the budgets are. What is debited, the home custodian says.
    pub evidence: Evidence,
}

/// Uses in an hour and in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetLine {
    /// In an hour.
    pub per_hour: Option<u32>,
    /// In a day.
    pub per_day: Option<u32>,
}

impl From<Budget> for BudgetLine {
    fn from(Budget { per_hour, per_day }: Budget) -> Self {
        Self { per_hour, per_day }
    }
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyLine {
    /// The key.
    pub key: String,
    /// Its own budget; nothing where that of every key counts.
    pub own: Option<BudgetLine>,
    /// What is debited in the present hour and day.
    pub debited: Vec<DebitedLine>,
}

/// What is debited of a key in one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DebitedLine {
    /// `hour` or `day`.
    pub span: &'static str,
    /// When it began, milliseconds since 1970.
    pub since_ms: u64,
    /// Uses that enclaves have had debited, used or not.
    pub debited: u32,
    /// Of how many, where there is a budget.
    pub of: Option<u32>,
}

impl BudgetReport {
    fn new(budgets: Option<&UseBudgets>, counts: Vec<BudgetCount>, evidence: Evidence) -> Self {
        let mut debited: BTreeMap<ExternalKeyId, Vec<DebitedLine>> = BTreeMap::new();
        let (every_key, own) = budgets.map_or((None, &[][..]), |all| (all.every_key, &all.keys));
        for key in own {
            debited.entry(key.id.clone()).or_default();
        }
        for BudgetCount { key, window: window @ BudgetWindow { span, .. }, counted } in counts {
            let of = budgets.and_then(|budgets| budgets.of(&key)?.per(span));
            let line = DebitedLine { span: span.name(), since_ms: window.starts_ms(), debited: counted, of };
            debited.entry(key).or_default().push(line);
        }
        let own = |id: &ExternalKeyId| own.iter().find(|key| key.id == *id).map(|key| key.budget.into());
        let keys =
            debited.into_iter().map(|(id, debited)| KeyLine { own: own(&id), key: id.to_string(), debited }).collect();
        Self { every_key: every_key.map(BudgetLine::from), keys, evidence }
    }
}

impl fmt::Display for BudgetLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = |span: &str, uses: Option<u32>| uses.map(|uses| format!("{uses} uses per {span}"));
        let both: Vec<_> = [per("hour", self.per_hour), per("day", self.per_day)].into_iter().flatten().collect();
        f.write_str(&both.join(", "))
    }
}

impl fmt::Display for DebitedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {} from {}: {}", self.span, format_ms(self.since_ms), self.debited)?;
        match self.of {
            Some(of) => write!(f, " of {of} debited"),
            None => f.write_str(" debited"),
        }
    }
}

impl fmt::Display for BudgetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.every_key {
            Some(budget) => writeln!(f, "each other key: {budget}")?,
            None => writeln!(f, "each other key: no budget")?,
        }
        for key in &self.keys {
            match &key.own {
                Some(budget) => writeln!(f, "key {}: {budget}", key.key)?,
                None => writeln!(f, "key {}:", key.key)?,
            }
            key.debited.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        write!(f, "  {}", self.evidence.summary())
    }
}

/// The budgets that the command line names.
///
/// # Errors
/// What is wrong with them.
pub fn budgets(every_key: Option<Budget>, mut keys: Vec<KeyBudget>) -> Result<UseBudgets, &'static str> {
    keys.sort_by(|a, b| a.id.cmp(&b.id));
    let budgets = UseBudgets { every_key, keys };
    budgets.check().map(|()| budgets)
}

/// Reads a budget: `1000/hour`, `20000/day`, or both with a comma between them.
///
/// # Errors
/// What the text should have been.
pub fn parse_budget(text: &str) -> Result<Budget, String> {
    let expected =
        || "expected uses per hour, per day, or both, 1 to 1000000000 each, as 1000/hour,20000/day".to_owned();
    let mut budget = Budget { per_hour: None, per_day: None };
    for part in text.split(',') {
        let (uses, span) = part.split_once('/').ok_or_else(expected)?;
        let span = BudgetSpan::ALL.into_iter().find(|known| known.name() == span).ok_or_else(expected)?;
        let place = match span {
            BudgetSpan::Hour => &mut budget.per_hour,
            BudgetSpan::Day => &mut budget.per_day,
        };
        if place.replace(uses.parse().map_err(|_| expected())?).is_some() {
            return Err(expected());
        }
    }
    budget.check().map(|()| budget).map_err(|_| expected())
}

/// Sets the budgets, or lifts them.
///
/// # Errors
/// [`SessionError`].
pub async fn set(session: &Session, budgets: Option<UseBudgets>, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = if budgets.is_some() { "budgets set" } else { "budgets cleared" };
    Done::new(done.to_owned(), session.order(Action::SetBudgets { budgets }, wait).await?)
}

/// Asks an enclave for the budgets, and the home custodian for what is debited.
///
/// # Errors
/// [`SessionError`].
pub async fn show(session: &Session, wait: Wait<'_>) -> Result<BudgetReport, SessionError> {
    let completed = session.order(Action::ShowSettings, wait).await?;
    let Outcome::Settings { budgets, .. } = completed.outcome else { return Err(SessionError::OtherOutcome) };
    let Answer::Budgets(counts) = session.home_contact()?.ask(Question::Budgets).await? else {
        return Err(SessionError::OtherAnswer);
    };
    Ok(BudgetReport::new(budgets.as_ref(), counts, completed.evidence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_as_people_write_them() {
        let of = |per_hour, per_day| Some(Budget { per_hour, per_day });
        for (text, expected) in [
            ("1000/hour", of(Some(1_000), None)),
            ("20000/day", of(None, Some(20_000))),
            ("1000/hour,20000/day", of(Some(1_000), Some(20_000))),
            ("20000/day,1000/hour", of(Some(1_000), Some(20_000))),
            ("1000000000/day", of(None, Some(1_000_000_000))),
            ("", None),
            ("1000", None),
            ("0/hour", None),
            ("1000000001/day", None),
            ("1/week", None),
            ("1/hour,2/hour", None),
            ("1/hour,", None),
            ("-1/hour", None),
        ] {
            assert_eq!(parse_budget(text).ok(), expected, "{text}");
        }
        let line = BudgetLine { per_hour: Some(5), per_day: Some(70) };
        assert_eq!(line.to_string(), "5 uses per hour, 70 uses per day");
    }
}
