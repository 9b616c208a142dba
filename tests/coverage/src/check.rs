//! Whether each requirement is shown by tests that ran and passed.

use core::fmt;

use crate::requirements::{Requirement, Requirements, TestName};
use crate::runs::{Inventory, Outcome, Runs};

/// Why a requirement is not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The requirement.
    pub id: String,
    /// The test that it names.
    pub test: TestName,
    /// What is wrong with that.
    pub fault: Fault,
}

/// What is wrong with a test that a requirement names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is none of this name; these have the same function name.
    Missing(Vec<TestName>),
    /// It exists, and no report has it.
    NotRun,
    /// It ran and did not pass.
    Failed,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, test, fault } = self;
        match fault {
            Fault::Missing(meant) if meant.is_empty() => write!(f, "{id}: there is no test {test}"),
            Fault::Missing(meant) => {
                write!(f, "{id}: there is no test {test}; perhaps meant:")?;
                meant.iter().try_for_each(|meant| write!(f, " {meant}"))
            }
            Fault::NotRun => write!(f, "{id}: the test {test} did not run"),
            Fault::Failed => write!(f, "{id}: the test {test} failed"),
        }
    }
}

/// Everything that keeps the requirements from being shown; nothing if they are.
#[must_use]
pub fn problems(requirements: &Requirements, inventory: &Inventory, runs: &Runs) -> Vec<Problem> {
    let of = |requirement: &Requirement| -> Vec<Problem> {
        let faults = requirement.tests.iter().filter_map(|test| Some((test, fault(test, inventory, runs)?)));
        faults.map(|(test, fault)| Problem { id: requirement.id.clone(), test: test.clone(), fault }).collect()
    };
    requirements.all().iter().flat_map(of).collect()
}

fn fault(test: &TestName, inventory: &Inventory, runs: &Runs) -> Option<Fault> {
    if !inventory.contains(test) {
        return Some(Fault::Missing(inventory.namesakes(test).cloned().collect()));
    }
    match runs.outcome(test) {
        None => Some(Fault::NotRun),
        Some(Outcome::Failed) => Some(Fault::Failed),
        Some(Outcome::Passed) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"rust-suites": {"p::b": {"testcases": {
        "passes": {}, "fails": {}, "m::sleeps": {}}}}}"#;
    const JUNIT: &str = r#"<testsuites><testsuite name="p::b">
        <testcase name="passes"/><testcase name="fails"><failure/></testcase></testsuite></testsuites>"#;

    fn said(tests: &str) -> Vec<String> {
        let text = format!(
            "[[requirement]]\nid = \"r\"\nsection = \"s\"\nlevel = \"must\"\ntext = \"t\"\ntests = [{tests}]\n\
             [[requirement]]\nid = \"e\"\nsection = \"s\"\nlevel = \"may\"\ntext = \"t\"\nexception = \"x\"\n"
        );
        let mut runs = Runs::default();
        runs.add(JUNIT).unwrap();
        let found = problems(&Requirements::read(&text).unwrap(), &Inventory::read(LIST).unwrap(), &runs);
        found.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn only_tests_that_ran_and_passed_show_a_requirement() {
        let table: [(&str, &[&str]); 6] = [
            (r#""p::b passes""#, &[]),
            (r#""p::b fails""#, &["r: the test p::b fails failed"]),
            (r#""p::b m::sleeps""#, &["r: the test p::b m::sleeps did not run"]),
            (r#""p::b nothing""#, &["r: there is no test p::b nothing"]),
            (r#""p sleeps""#, &["r: there is no test p sleeps; perhaps meant: p::b m::sleeps"]),
            (
                r#""p::b passes", "p::b fails", "p::b x""#,
                &["r: the test p::b fails failed", "r: there is no test p::b x"],
            ),
        ];
        for (tests, expected) in table {
            assert_eq!(said(tests), expected, "{tests}");
        }
    }
}
