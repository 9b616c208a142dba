//! Budgets: how often keys may be used in an hour and in a day, by all enclaves of a key store together.
//!
//! ```text
//! home custodian: counted of a window ◀─ debit a slice ─ enclave: purse ─▶ one use each
//! ```
//! A window is an hour or a day of UTC, by the enclaves' attested clocks. Uses are debited before they are had, so that all enclaves
//! together have never more than the limit, and what a crash loses is what one purse held.

use crate::cbor::{Message, message};
use crate::external_key::ExternalKeyId;
use crate::limits;

/// The budgets of a key store.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct UseBudgets {
    /// Each key that has none of its own.
    #[n(0)]
    pub every_key: Option<Budget>,
    /// Keys with budgets of their own, sorted by id.
    #[n(1)]
    pub keys: Vec<KeyBudget>,
}

message!(UseBudgets, limits::COMMAND_MAX, "budgets of use", |budgets| {
    if budgets.every_key.is_none() && budgets.keys.is_empty() {
        return Err("budgets of use name a key at least");
    }
    if budgets.keys.len() > limits::BUDGETED_KEYS_MAX || !budgets.keys.is_sorted_by(|a, b| a.id < b.id) {
        return Err("budgets of use name at most 256 keys, sorted, each once");
    }
    budgets.keys.iter().map(|key| &key.budget).chain(&budgets.every_key).try_for_each(Message::check)
});

impl UseBudgets {
    /// The budget of a key.
    #[must_use]
    pub fn of(&self, id: &ExternalKeyId) -> Option<Budget> {
        let own = self.keys.iter().find(|key| key.id == *id).map(|key| key.budget);
        own.or(self.every_key)
    }
}

/// How many uses (Encrypt and Decrypt together) a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Budget {
    /// In each hour.
    #[n(0)]
    pub per_hour: Option<u32>,
    /// In each day.
    #[n(1)]
    pub per_day: Option<u32>,
}

message!(Budget, 32, "budget", |budget| {
    if budget.per_hour.is_none() && budget.per_day.is_none() {
        return Err("a budget is for hours, for days, or for both");
    }
    if budget.per_hour.iter().chain(&budget.per_day).all(|uses| limits::BUDGET_USES.contains(uses)) {
        Ok(())
    } else {
        Err("a budget has 1 to 1000000000 uses")
    }
});

impl Budget {
    /// The uses in each window of a span.
    #[must_use]
    pub const fn per(&self, span: BudgetSpan) -> Option<u32> {
        match span {
            BudgetSpan::Hour => self.per_hour,
            BudgetSpan::Day => self.per_day,
        }
    }
}

/// The budget of one key.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct KeyBudget {
    /// The key.
    #[n(0)]
    pub id: ExternalKeyId,
    /// Its uses.
    #[n(1)]
    pub budget: Budget,
}

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum BudgetSpan {
    /// An hour.
    #[n(0)]
    Hour,
    /// A day.
    #[n(1)]
    Day,
}

impl BudgetSpan {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Hour, Self::Day];

    /// Milliseconds of one.
    #[must_use]
    pub const fn length_ms(self) -> u64 {
        match self {
            Self::Hour => 3_600_000,
            Self::Day => 24 * 3_600_000,
        }
    }

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// An hour or a day of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct BudgetWindow {
    /// Which of both.
    #[n(0)]
    pub span: BudgetSpan,
    /// How many came before it since 1970.
    #[n(1)]
    pub number: u32,
}

impl BudgetWindow {
    /// The window in which a time lies, in milliseconds since 1970.
    #[must_use]
    pub fn at(span: BudgetSpan, time_ms: u64) -> Self {
        Self { span, number: u32::try_from(time_ms / span.length_ms()).unwrap_or(u32::MAX) }
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { span: self.span, number: self.number.saturating_add(1) }
    }

    /// When it begins, milliseconds since 1970.
    #[must_use]
    pub fn starts_ms(self) -> u64 {
        u64::from(self.number).saturating_mul(self.span.length_ms())
    }
}

/// What the home custodian grants of `want` uses when `counted` of `limit` are debited already: what is left, and no more. A limit that
/// was lowered may have been passed before.
#[must_use]
pub fn granted(limit: u32, counted: u32, want: u32) -> u32 {
    want.min(limit.saturating_sub(counted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    const BUDGET: Budget = Budget { per_hour: Some(1_000), per_day: Some(20_000) };

    fn key(id: &str, budget: Budget) -> KeyBudget {
        KeyBudget { id: id.parse().unwrap(), budget }
    }

    #[test]
    fn rules() {
        let none = UseBudgets { every_key: None, keys: Vec::new() };
        let every = |per_hour, per_day| UseBudgets { every_key: Some(Budget { per_hour, per_day }), ..none.clone() };
        let keys = |ids: &[&str]| UseBudgets { keys: ids.iter().map(|id| key(id, BUDGET)).collect(), ..none.clone() };
        let many: Vec<_> = (0..=limits::BUDGETED_KEYS_MAX).map(|number| format!("key-{number:04}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for (budgets, holds) in [
            (none.clone(), false),
            (every(None, None), false),
            (every(Some(0), None), false),
            (every(Some(1), None), true),
            (every(None, Some(1_000_000_000)), true),
            (every(Some(1), Some(1_000_000_001)), false),
            (every(Some(5), Some(3)), true),
            (keys(&["a", "b"]), true),
            (keys(&["b", "a"]), false),
            (keys(&["a", "a"]), false),
            (keys(&many[1..]), true),
            (keys(&many), false),
            (
                UseBudgets {
                    keys: vec![key("a", Budget { per_hour: None, per_day: Some(0) })],
                    ..every(Some(1), None)
                },
                false,
            ),
        ] {
            assert_eq!(budgets.check().is_ok(), holds, "{budgets:?}");
            assert_eq!(cbor::decode::<UseBudgets>(&cbor::encode(&budgets)).is_ok(), holds);
        }
    }

    #[test]
    fn a_key_that_is_named_has_its_own_budget_alone() {
        let own = Budget { per_hour: None, per_day: Some(7) };
        let budgets = UseBudgets { every_key: Some(BUDGET), keys: vec![key("a", own)] };
        assert_eq!(budgets.of(&"a".parse().unwrap()), Some(own));
        assert_eq!(budgets.of(&"b".parse().unwrap()), Some(BUDGET));
        let budgets = UseBudgets { every_key: None, ..budgets };
        assert_eq!(budgets.of(&"b".parse().unwrap()), None);
    }

    #[test]
    fn windows_are_hours_and_days_of_utc() {
        use BudgetSpan::{Day, Hour};
        for (span, time_ms, number, starts_ms) in [
            (Hour, 0, 0, 0),
            (Hour, 3_599_999, 0, 0),
            (Hour, 3_600_000, 1, 3_600_000),
            (Day, 86_399_999, 0, 0),
            (Day, 86_400_000, 1, 86_400_000),
            // 2026-11-22T21:30:00Z
            (Hour, 1_795_383_000_000, 498_717, 1_795_381_200_000),
            (Day, 1_795_383_000_000, 20_779, 1_795_305_600_000),
            (Hour, u64::MAX, u32::MAX, u64::from(u32::MAX) * 3_600_000),
        ] {
            let window = BudgetWindow::at(span, time_ms);
            assert_eq!((window.span, window.number, window.starts_ms()), (span, number, starts_ms), "{time_ms}");
        }
        assert_eq!(BudgetWindow::at(Day, 0).next(), BudgetWindow { span: Day, number: 1 });
    }

    #[test]
    fn what_is_left_is_granted_and_no_more() {
        for (limit, counted, want, expected) in
            [(100, 0, 1, 1), (100, 0, 100, 100), (100, 0, 101, 100), (100, 99, 5, 1), (100, 100, 1, 0), (50, 80, 1, 0)]
        {
            assert_eq!(granted(limit, counted, want), expected, "{want} of {limit} less {counted}");
        }
    }
}
