//! `holdfast policy test`: requests in a file, and what a policy should say to them.
//!
//! Guarantees: the enclave's own code decides; a field that is unknown is an error, so that a slip of the pen tests nothing else than
//! was meant.

use core::fmt;
use std::path::Path;

use holdfast_guard::{Attributes, Policy};
use holdfast_shared::xks::Operation;
use serde::{Deserialize, Serialize};

use crate::moment::parse_ms;
use crate::output::printable;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    /// The policy's file, beside this one.
    pub policy: Option<String>,
    /// What cases do not say.
    #[serde(default)]
    pub defaults: Request,
    /// The cases.
    #[serde(rename = "case", default)]
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// For people.
    pub name: String,
    /// "permit" or "deny".
    pub expect: Expectation,
    /// Which policy must decide: a name, or "" for none.
    pub rule: Option<String>,
    /// The request.
    #[serde(flatten)]
    pub request: Request,
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expectation {
    /// The request may go on.
    Permit,
    /// It may not.
    Deny,
}

/// What is said of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Of the XKS API; not `GetHealthStatus`, which no policy is asked about.
    pub operation: Option<String>,
    /// The external key.
    pub key: Option<String>,
    /// `awsPrincipalArn`.
    pub principal: Option<String>,
    /// `kmsOperation`.
    pub kms_operation: Option<String>,
    /// `kmsKeyArn`; "" takes a default away.
    pub kms_key_arn: Option<String>,
    /// `kmsViaService`.
    pub via_service: Option<String>,
    /// `awsSourceVpc`.
    pub source_vpc: Option<String>,
    /// `awsSourceVpce`.
    pub source_vpce: Option<String>,
    /// Whose signature.
    pub access_key_id: Option<String>,
    /// RFC 3339, or milliseconds since 1970 as a text.
    pub time: Option<String>,
}

/// When a case does not say: a Monday, noon.
const MONDAY: &str = "2024-01-01T12:00:00Z";

impl Cases {
    /// Reads a file: JSON where its name says so, TOML otherwise.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self, String> {
        let text = core::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let cases: Self = if is_json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            toml::from_str(text).map_err(|error| error.to_string())?
        };
        if cases.cases.is_empty() {
            return Err("there is no case in it".to_owned());
        }
        Ok(cases)
    }
}

/// How a policy decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestReport {
    /// How many cases were decided as expected.
    pub passed: usize,
    /// All cases.
    pub cases: Vec<CaseReport>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// Whether it was decided as expected.
    pub passed: bool,
    /// What was expected.
    pub expected: Expectation,
    /// The rule that was expected.
    pub expected_rule: Option<String>,
    /// What came of it.
    pub decided: Expectation,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Why, in words.
    pub reason: &'static str,
}

impl TestReport {
    /// Whether all cases passed.
    #[must_use]
    pub fn all_passed(&self) -> bool {
        self.passed == self.cases.len()
    }
}

impl fmt::Display for TestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in self.cases.iter().filter(|case| !case.passed) {
            let line = |expectation, rule: Option<&str>| match (expectation, rule) {
                (Expectation::Permit, None) => "permit".to_owned(),
                (Expectation::Deny, None) => "deny".to_owned(),
                (Expectation::Permit, Some(rule)) => format!("permit by {rule:?}"),
                (Expectation::Deny, Some(rule)) => format!("deny by {rule:?}"),
            };
            writeln!(f, "FAILED {}", printable(&case.name))?;
            writeln!(f, "  - expected  {}", printable(&line(case.expected, case.expected_rule.as_deref())))?;
            writeln!(f, "  + decided   {} ({})", printable(&line(case.decided, case.rule.as_deref())), case.reason)?;
        }
        write!(f, "{} of {} cases passed", self.passed, self.cases.len())
    }
}

/// Has a policy decide on all cases.
///
/// # Errors
/// Which case is no request.
pub fn test(policy: &Policy, cases: &Cases) -> Result<TestReport, String> {
    let decide =
        |case: &Case| decide(policy, case, &cases.defaults).map_err(|reason| format!("case {:?}: {reason}", case.name));
    let cases = cases.cases.iter().map(decide).collect::<Result<Vec<_>, _>>()?;
    Ok(TestReport { passed: cases.iter().filter(|case| case.passed).count(), cases })
}

fn decide(policy: &Policy, case: &Case, defaults: &Request) -> Result<CaseReport, String> {
    let said = |of: fn(&Request) -> &Option<String>| of(&case.request).as_deref().or(of(defaults).as_deref());
    let optional = |of| said(of).filter(|text| !text.is_empty());
    let needed = |of, name: &str| said(of).ok_or_else(|| format!("{name} is missing"));
    let (operation, usual) = match needed(|request| &request.operation, "operation")? {
        "Encrypt" => (Operation::Encrypt, "Encrypt"),
        "Decrypt" => (Operation::Decrypt, "Decrypt"),
        "GetKeyMetadata" => (Operation::GetKeyMetadata, "DescribeKey"),
        other => return Err(format!("operation {other:?}: expected Encrypt, Decrypt or GetKeyMetadata")),
    };
    let time = said(|request| &request.time).unwrap_or(MONDAY);
    let attributes = Attributes {
        operation,
        external_key_id: needed(|request| &request.key, "key")?,
        principal: needed(|request| &request.principal, "principal")?,
        kms_operation: said(|request| &request.kms_operation).unwrap_or(usual),
        kms_key_arn: optional(|request| &request.kms_key_arn),
        via_service: optional(|request| &request.via_service),
        source_vpc: optional(|request| &request.source_vpc),
        source_vpce: optional(|request| &request.source_vpce),
        access_key_id: said(|request| &request.access_key_id).unwrap_or_default(),
        time_ms: parse_ms(time).map_err(|reason| format!("time {time:?}: {reason}"))?,
    };
    let decision = policy.decide(&attributes);
    let decided = if decision.is_permitted() { Expectation::Permit } else { Expectation::Deny };
    let rule = decision.rule.map(|rule| rule.to_string());
    let is_rule = case.rule.as_ref().is_none_or(|expected| expected.as_str() == rule.as_deref().unwrap_or_default());
    Ok(CaseReport {
        name: case.name.clone(),
        passed: decided == case.expect && is_rule,
        expected: case.expect,
        expected_rule: case.rule.clone(),
        decided,
        rule,
        reason: super::reason(decision.ground),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        @id("payments") permit (principal, action, resource == Holdfast::Key::"payments-1")
        when { principal has roleName && principal.roleName like "payments-*" && context has kmsRegion };
        @id("not-at-night") forbid (principal, action, resource) when { context.hour < 6 };
    "#;

    const CASES: &str = r#"
        [defaults]
        operation = "Encrypt"
        key = "payments-1"
        principal = "arn:aws:iam::123456789012:role/payments-eu"
        kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1"

        [[case]]
        name = "may encrypt"
        expect = "permit"
        rule = "payments"

        [[case]]
        name = "not at night"
        time = "2024-01-01T03:00:00Z"
        expect = "deny"
        rule = "not-at-night"

        [[case]]
        name = "without a KMS key"
        kms_key_arn = ""
        expect = "deny"
        rule = ""
    "#;

    fn run(text: &str) -> Result<TestReport, String> {
        let cases = Cases::read(Path::new("cases.toml"), text.as_bytes())?;
        test(&Policy::parse(POLICY).unwrap(), &cases)
    }

    #[test]
    fn cases_pass_and_fail() {
        let report = run(CASES).unwrap();
        assert!(report.all_passed() && report.cases.len() == 3, "{report}");
        assert_eq!(report.to_string(), "3 of 3 cases passed");
        let report = run(&CASES.replace("expect = \"permit\"", "expect = \"deny\"")).unwrap();
        assert!(!report.all_passed());
        assert_eq!(
            report.to_string(),
            "FAILED may encrypt\n  - expected  deny by \"payments\"\n  + decided   permit by \"payments\" (a permit holds, and no \
             forbid)\n2 of 3 cases passed"
        );
        let report = run(&CASES.replace("rule = \"payments\"", "rule = \"other\"")).unwrap();
        assert_eq!(report.passed, 2);
    }

    #[test]
    fn files_are_read_strictly() {
        for (from, to, expected) in [
            ("[[case]]", "[[cases]]", "unknown field"),
            ("time =", "tiem =", "unknown field"),
            ("expect = \"permit\"", "expect = \"maybe\"", "maybe"),
            ("operation = \"Encrypt\"", "operation = \"encrypt\"", "operation \"encrypt\""),
            ("operation = \"Encrypt\"", "", "operation is missing"),
            ("2024-01-01T03:00:00Z", "yesterday", "time \"yesterday\""),
        ] {
            let error = run(&CASES.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
        assert!(run("").unwrap_err().contains("no case"));
        let json =
            r#"{ "case": [{ "name": "a", "operation": "Decrypt", "key": "k", "principal": "p", "expect": "deny" }] }"#;
        let cases = Cases::read(Path::new("cases.json"), json.as_bytes()).unwrap();
        assert!(test(&Policy::parse(POLICY).unwrap(), &cases).unwrap().all_passed());
    }
}
