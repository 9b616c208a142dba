//! What was found, for a person or a program.

use core::fmt;

use serde::Serialize;

use super::table::{Cause, Grade};
use crate::output::printable;

/// Characters of what an endpoint said that are shown.
const SEEN_MAX: usize = 400;

/// What one check found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How much it matters.
    pub grade: Grade,
    /// What was seen, in printable ASCII.
    pub seen: String,
    /// What is wrong, if anything.
    pub cause: Option<&'static Cause>,
}

impl Finding {
    /// All is well.
    pub(super) fn fine(check: &'static str, seen: impl AsRef<str>) -> Self {
        Self { check, grade: Grade::Fine, seen: shown(seen.as_ref()), cause: None }
    }

    /// It could not be looked at.
    pub(super) fn skipped(check: &'static str, reason: impl AsRef<str>) -> Self {
        Self { check, grade: Grade::Skipped, seen: shown(reason.as_ref()), cause: None }
    }

    /// Something is wrong.
    pub(super) fn of(check: &'static str, cause: &'static Cause, seen: impl AsRef<str>) -> Self {
        Self { check, grade: cause.grade, seen: shown(seen.as_ref()), cause: Some(cause) }
    }

    /// The same as a warning, where KMS would refuse it and `is_development` says that KMS is not to come here.
    pub(super) fn for_development(mut self, is_development: bool) -> Self {
        if is_development && self.grade == Grade::Refused {
            self.grade = Grade::Warning;
        }
        self
    }
}

fn shown(text: &str) -> String {
    printable(text).chars().take(SEEN_MAX).collect()
}

/// How long the parts of a request took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Looking the name up.
    pub dns_ms: Option<f64>,
    /// Opening a TCP connection: one round trip.
    pub tcp_ms: Option<f64>,
    /// The TLS handshake.
    pub tls_ms: Option<f64>,
    /// From a request to the first byte of its answer, on a new connection.
    pub first_byte_ms: Option<f64>,
    /// All of these together, without the DNS.
    pub cold_ms: Option<f64>,
    /// The median of requests on a connection that stands.
    pub warm_ms: Option<f64>,
    /// The longest of these.
    pub warm_max_ms: Option<f64>,
}

/// See the module.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was looked at.
    pub url: String,
    /// The worst grade.
    pub verdict: Grade,
    /// In the order in which a request of KMS meets them.
    pub findings: Vec<Finding>,
    /// Where requests were answered.
    pub latency: Latency,
}

impl Report {
    pub(super) fn new(url: String, findings: Vec<Finding>, latency: Latency) -> Self {
        let grades = findings.iter().map(|finding| finding.grade).filter(|grade| *grade != Grade::Skipped);
        Self { url, verdict: grades.max().unwrap_or(Grade::Fine), findings, latency }
    }

    /// 0 all well, 1 KMS refuses something or keys are in danger, 3 warnings alone.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.verdict {
            Grade::Fine | Grade::Skipped => 0,
            Grade::Warning => 3,
            Grade::Refused | Grade::Danger => 1,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let says = match self.verdict {
            Grade::Fine | Grade::Skipped => "ALL WELL: nothing was found that AWS KMS minds",
            Grade::Warning => "WARNINGS: AWS KMS works with it as far as can be seen from here",
            Grade::Refused => "REFUSED: AWS KMS will not work with it as it is",
            Grade::Danger => "DANGER: keys or data are not protected as they must be",
        };
        write!(f, "{says}\n{}", self.url)?;
        for finding in &self.findings {
            let mark = match finding.grade {
                Grade::Fine => "ok",
                Grade::Skipped => "-",
                Grade::Warning => "warning",
                Grade::Refused => "REFUSED",
                Grade::Danger => "DANGER",
            };
            write!(f, "\n{mark:<8} {:<24} {}", finding.check, finding.seen)?;
            if let Some(cause) = finding.cause {
                write!(f, "\n           {} ({})", cause.title, cause.id)?;
                let reports: Vec<_> = [cause.code, cause.exception].into_iter().flatten().collect();
                if !reports.is_empty() {
                    write!(f, "\n           kms  {}", reports.join(", "))?;
                }
                write!(f, "\n           why  {}\n           do   {}", cause.why, cause.remedy)?;
            }
        }
        Ok(())
    }
}
