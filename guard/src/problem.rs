//! What is wrong with a policy, and where.
//!
//! Guarantees: a summary is short, printable ASCII; it quotes the policy only, never a request.

use core::fmt;

use miette::Diagnostic;

/// Problems that are told of one policy; the first say what to mend.
const TOLD_MAX: usize = 16;
/// Characters of a summary.
const SUMMARY_MAX: usize = 480;

/// One thing that is wrong, or looks wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; nothing where it concerns the whole text.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do, where that is known.
    pub help: Option<String>,
}

impl Problem {
    /// About the whole text.
    pub(crate) fn whole(message: impl Into<String>) -> Self {
        Self { line: None, column: None, message: message.into(), help: None }
    }

    /// About the place at this byte.
    pub(crate) fn at(text: &str, offset: usize, message: impl Into<String>) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count().saturating_add(1);
        let last = before.rsplit('\n').next().unwrap_or_default();
        let column = last.chars().count().saturating_add(1);
        Self { line: Some(line), column: Some(column), message: message.into(), help: None }
    }

    /// What Cedar says.
    pub(crate) fn of(text: &str, error: &dyn Diagnostic) -> Self {
        let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
        let help = error.help().map(|help| help.to_string());
        let message = error.to_string();
        let problem = offset.map_or_else(|| Self::whole(message.clone()), |at| Self::at(text, at, message.clone()));
        Self { help, ..problem }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct Invalid {
    /// In the order of the text; at least one.
    pub problems: Vec<Problem>,
}

impl Invalid {
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems.truncate(TOLD_MAX);
        Self { problems }
    }

    /// The first problem, and how many there are.
    #[must_use]
    pub fn summary(&self) -> String {
        let first = self.problems.first().map(ToString::to_string).unwrap_or_default();
        let more = match self.problems.len() {
            0 | 1 => String::new(),
            count => format!("; {} more", count.saturating_sub(1)),
        };
        let clean = |character: char| if matches!(character, ' '..='~') { character } else { '?' };
        first.chars().take(SUMMARY_MAX).chain(more.chars()).map(clean).collect()
    }
}

impl From<Problem> for Invalid {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_in_lines_and_characters() {
        let text = "a\nbé c\n";
        for (offset, line, column) in [(0, 1, 1), (1, 1, 2), (2, 2, 1), (6, 2, 4), (8, 3, 1), (100, 3, 1)] {
            let problem = Problem::at(text, offset, "x");
            assert_eq!((problem.line, problem.column), (Some(line), Some(column)), "{offset}");
        }
    }

    #[test]
    fn a_summary_is_short_and_printable() {
        let problems = vec![Problem::at("é", 0, "\u{1b}[2J é".repeat(1000)), Problem::whole("first of all")];
        let summary = Invalid::new(problems.clone()).summary();
        assert_eq!(summary, "first of all; 1 more");
        let summary = Invalid::new(problems.into_iter().take(1).collect()).summary();
        assert!(summary.len() <= SUMMARY_MAX && summary.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{summary}");
    }
}
