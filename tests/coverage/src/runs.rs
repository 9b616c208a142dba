//! What the test runner has and what it did: `cargo nextest list --message-format json`, and its `JUnit` reports.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::requirements::TestName;

/// Every test that there is, whether it runs or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory(BTreeSet<TestName>);

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed, in each report that has it.
    Passed,
    /// It did not, in at least one.
    Failed,
}

/// Every test that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(BTreeMap<TestName, Outcome>);

/// A report that is not one.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Not JSON as nextest writes it.
    #[error("not a list of tests: {0}")]
    List(#[from] serde_json::Error),
    /// Not XML.
    #[error("not XML: {0}")]
    Xml(#[from] roxmltree::Error),
    /// XML, and no report of tests.
    #[error("not a JUnit report: {0}")]
    Junit(&'static str),
    /// A report without tests shows nothing.
    #[error("holds no test")]
    Empty,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct List {
    rust_suites: BTreeMap<String, Suite>,
}

#[derive(Deserialize)]
struct Suite {
    testcases: BTreeMap<String, serde_json::Value>,
}

impl Inventory {
    /// Reads the list.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn read(json: &str) -> Result<Self, ReportError> {
        let list: List = serde_json::from_str(json)?;
        let names = |(binary, suite): (String, Suite)| {
            suite.testcases.into_keys().map(move |test| TestName::new(&binary, &test))
        };
        let tests: BTreeSet<_> = list.rust_suites.into_iter().flat_map(names).collect();
        if tests.is_empty() { Err(ReportError::Empty) } else { Ok(Self(tests)) }
    }

    /// Whether there is this test.
    #[must_use]
    pub fn contains(&self, test: &TestName) -> bool {
        self.0.contains(test)
    }

    /// Tests whose function has the same name: what was perhaps meant.
    pub fn namesakes<'a>(&'a self, test: &'a TestName) -> impl Iterator<Item = &'a TestName> {
        self.0.iter().filter(|other| other.function() == test.function())
    }
}

impl Runs {
    /// Adds a `JUnit` report.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn add(&mut self, xml: &str) -> Result<(), ReportError> {
        let document = roxmltree::Document::parse(xml)?;
        let root = document.root_element();
        if root.tag_name().name() != "testsuites" {
            return Err(ReportError::Junit("the root is not <testsuites>"));
        }
        let mut found = false;
        for suite in root.children().filter(|node| node.has_tag_name("testsuite")) {
            let binary = suite.attribute("name").ok_or(ReportError::Junit("a <testsuite> without a name"))?;
            for case in suite.children().filter(|node| node.has_tag_name("testcase")) {
                let test = case.attribute("name").ok_or(ReportError::Junit("a <testcase> without a name"))?;
                let has = |tag: &str| case.children().any(|node| node.has_tag_name(tag));
                if has("skipped") {
                    continue;
                }
                found = true;
                let failed = has("failure") || has("error");
                let outcome = self.0.entry(TestName::new(binary, test)).or_insert(Outcome::Passed);
                if failed {
                    *outcome = Outcome::Failed;
                }
            }
        }
        if found { Ok(()) } else { Err(ReportError::Empty) }
    }

    /// How a test ended, if it ran.
    #[must_use]
    pub fn outcome(&self, test: &TestName) -> Option<Outcome> {
        self.0.get(test).copied()
    }

    /// How many ran.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_tests_that_do_not_run_too() {
        let list = r#"{"rust-build-meta": {}, "test-count": 2, "rust-suites": {
            "p::b": {"binary-id": "p::b", "testcases": {
                "m::runs": {"kind": "test", "ignored": false},
                "m::is_ignored": {"kind": "test", "ignored": true}}},
            "p": {"testcases": {}}}}"#;
        let inventory = Inventory::read(list).unwrap();
        for (test, is_there) in [("m::runs", true), ("m::is_ignored", true), ("runs", false)] {
            assert_eq!(inventory.contains(&TestName::new("p::b", test)), is_there, "{test}");
        }
        let named = TestName::new("p", "runs");
        let meant: Vec<_> = inventory.namesakes(&named).collect();
        assert_eq!(meant, [&TestName::new("p::b", "m::runs")]);
        for wrong in ["", "{}", r#"{"rust-suites": {}}"#] {
            assert!(Inventory::read(wrong).is_err(), "{wrong}");
        }
    }

    /// The form that nextest 0.9 writes.
    fn report(cases: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"nextest-run\" tests=\"2\">\n\
             <testsuite name=\"p::b\" tests=\"2\">{cases}</testsuite></testsuites>"
        )
    }

    #[test]
    fn a_report_tells_what_ran_and_how_it_ended() {
        let mut runs = Runs::default();
        runs.add(&report(
            r#"<testcase name="passed" classname="p::b"/><testcase name="twice"/>
               <testcase name="flaky"><flakyFailure type="x">first</flakyFailure></testcase>
               <testcase name="failed"><failure type="test failure">no</failure></testcase>
               <testcase name="broken"><error type="x"/></testcase>
               <testcase name="left out"><skipped/></testcase>"#,
        ))
        .unwrap();
        runs.add(&report(r#"<testcase name="twice"><failure/></testcase><testcase name="failed"/>"#)).unwrap();
        let table = [
            ("passed", Some(Outcome::Passed)),
            ("flaky", Some(Outcome::Passed)),
            ("failed", Some(Outcome::Failed)),
            ("broken", Some(Outcome::Failed)),
            ("twice", Some(Outcome::Failed)),
            ("left out", None),
            ("elsewhere", None),
        ];
        for (test, outcome) in table {
            assert_eq!(runs.outcome(&TestName::new("p::b", test)), outcome, "{test}");
        }
        assert_eq!(runs.outcome(&TestName::new("p", "passed")), None, "another binary");
        assert_eq!(runs.count(), 5);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let nameless = report("<testcase/>");
        for wrong in ["", "<testsuites>", "<testsuite name=\"p\"/>", "<testsuites/>", &nameless] {
            assert!(Runs::default().add(wrong).is_err(), "{wrong}");
        }
    }
}
