//! `holdfast policy`: who may use the keys for what.

mod cases;

use core::fmt;
use std::path::Path;

use holdfast_guard::{Ground, Policy, Preset, Problem};
use holdfast_shared::command::{Action, Outcome};
use holdfast_shared::keystore::UsePolicy;
use serde::Serialize;

pub use self::cases::{CaseReport, Cases, TestReport, test};
use super::Done;
use crate::evidence::Evidence;
use crate::session::{Completed, Session, SessionError, Wait};

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// Its text; nothing: whoever AWS KMS lets may use the keys.
    pub policy: Option<String>,
    /// The key store's version that holds it.
    pub version: u64,
    /// Who says so.
    pub evidence: Evidence,
}

impl PolicyReport {
    /// Of what an enclave said.
    ///
    /// # Errors
    /// When it said something else.
    pub fn new(completed: Completed) -> Result<Self, SessionError> {
        let Outcome::Policy { policy, version } = completed.outcome else { return Err(SessionError::OtherOutcome) };
        Ok(Self { policy: policy.map(|policy| policy.text), version, evidence: completed.evidence })
    }
}

impl fmt::Display for PolicyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Some(text) => writeln!(f, "{}", plain(text).trim_end())?,
            None => writeln!(f, "no policy")?,
        }
        write!(f, "  version {}; {}", self.version, self.evidence.summary())
    }
}

/// Why a policy decided as it did, in words.
#[must_use]
pub const fn reason(ground: Ground) -> &'static str {
    match ground {
        Ground::Permitted => "a permit holds, and no forbid",
        Ground::Forbidden => "a forbid holds",
        Ground::NothingPermits => "no permit holds",
        Ground::Failed => "a policy could not be evaluated",
    }
}

/// Text of several lines that cannot steer the terminal.
fn plain(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() && character != '\n' && character != '\t' { '?' } else { character })
        .collect()
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The file.
    pub file: String,
    /// Whether an enclave would take it.
    pub valid: bool,
    /// The names of its policies, in the order of the text.
    pub rules: Vec<String>,
    /// What is wrong.
    pub problems: Vec<ProblemLine>,
    /// What looks wrong.
    pub warnings: Vec<ProblemLine>,
}

/// What is or looks wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProblemLine {
    /// From 1; nothing where it concerns the whole text.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl From<&Problem> for ProblemLine {
    fn from(problem: &Problem) -> Self {
        let Problem { line, column, message, help } = problem.clone();
        Self { line, column, message, help }
    }
}

impl ProblemLine {
    /// In one line, with the file.
    #[must_use]
    pub fn in_file(&self, file: &str) -> String {
        let place = match (self.line, self.column) {
            (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
            _ => file.to_owned(),
        };
        let help = self.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
        plain(&format!("{place}: {}{help}", self.message)).replace('\n', " ")
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{}", problem.in_file(&self.file))?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {}", warning.in_file(&self.file))?;
        }
        match (self.valid, self.rules.len()) {
            (true, 1) => write!(f, "valid: 1 policy ({})", self.rules.join(", ")),
            (true, count) => write!(f, "valid: {count} policies ({})", self.rules.join(", ")),
            (false, _) => write!(f, "not valid"),
        }
    }
}

/// Checks a policy as an enclave does.
#[must_use]
pub fn check(file: &Path, text: &str) -> CheckReport {
    let file = file.display().to_string();
    match Policy::parse(text) {
        Ok(policy) => CheckReport {
            file,
            valid: true,
            rules: policy.names().iter().map(ToString::to_string).collect(),
            problems: Vec::new(),
            warnings: policy.warnings().iter().map(ProblemLine::from).collect(),
        },
        Err(invalid) => CheckReport {
            file,
            valid: false,
            rules: Vec::new(),
            problems: invalid.problems.iter().map(ProblemLine::from).collect(),
            warnings: Vec::new(),
        },
    }
}

/// A text: the schema, or a preset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TextReport {
    /// The text.
    pub text: String,
}

impl fmt::Display for TextReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

/// The presets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresetList {
    /// All of them.
    pub presets: Vec<PresetLine>,
}

/// One preset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresetLine {
    /// Its name.
    pub name: &'static str,
    /// The flag that it takes.
    pub setting: &'static str,
    /// What it permits.
    pub permits: &'static str,
}

impl fmt::Display for PresetList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, PresetLine { name, setting, permits }) in self.presets.iter().enumerate() {
            let end = if place == 0 { "" } else { "\n" };
            write!(f, "{end}{name:<16}{setting:<12}{permits}")?;
        }
        Ok(())
    }
}

/// Lists the presets.
#[must_use]
pub fn presets() -> PresetList {
    let line =
        |preset: Preset| PresetLine { name: preset.name(), setting: preset.setting(), permits: preset.summary() };
    PresetList { presets: Preset::ALL.into_iter().map(line).collect() }
}

/// Sets the policy, or lifts it.
///
/// # Errors
/// [`SessionError`].
pub async fn set(session: &Session, text: Option<String>, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = if text.is_some() { "policy set" } else { "policy lifted" };
    let policy = text.map(|text| UsePolicy { text });
    Done::new(done.to_owned(), session.order(Action::SetPolicy { policy }, wait).await?)
}

/// Asks an enclave for the policy.
///
/// # Errors
/// [`SessionError`].
pub async fn show(session: &Session, wait: Wait<'_>) -> Result<PolicyReport, SessionError> {
    PolicyReport::new(session.order(Action::ShowPolicy, wait).await?)
}
