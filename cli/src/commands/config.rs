//! `holdfast config`: configuration files held against their schemas, and against the programs that read them.
//!
//! Guarantees: what a schema tells is told all at once, each with its line; a file is called good only if the program that reads it
//! says so, or if the schema alone was asked for. Assumes: the schemas in `docs/reference` are what the programs take, which tests of
//! theirs hold.

mod content;
mod program;
mod schema;

use core::fmt;
use std::path::{Path, PathBuf};

use holdfast_shared::static_configuration::StaticConfiguration;
use serde::Serialize;

use crate::arguments::FileKind;
use crate::files::{self, FileError};
use content::{Content, Node};

pub use program::ProgramError;

/// Bytes of the longest file that is read: above what any program takes.
const FILE_MAX: usize = 512 * 1024;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Counted from 1, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The field, as sections and name with dots between; empty for the whole file.
    pub field: String,
    /// What is wrong, and what it should be.
    pub message: String,
}

/// What came of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The file.
    pub file: PathBuf,
    /// What it is.
    pub kind: &'static str,
    /// Whether nothing is wrong with it.
    pub valid: bool,
    /// By what it was checked.
    pub checked_by: Vec<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// What came of all files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each, and those that they name.
    pub files: Vec<Checked>,
}

impl Report {
    /// Whether nothing is wrong with any.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.files.iter().all(|checked| checked.valid)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, checked) in self.files.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let file = checked.file.display();
            if checked.valid {
                write!(f, "{file}: good, by {}", checked.checked_by.join(" and "))?;
            }
            for (index, finding) in checked.findings.iter().enumerate() {
                if index > 0 {
                    writeln!(f)?;
                }
                write!(f, "{file}:")?;
                if let Some(line) = finding.line {
                    write!(f, "{line}:")?;
                }
                if !finding.field.is_empty() {
                    write!(f, " {}:", finding.field)?;
                }
                write!(f, " {}", finding.message)?;
            }
        }
        Ok(())
    }
}

/// Why a file was not checked.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is no text.
    #[error("{path}: not UTF-8 text", path = .0.display())]
    Encoding(PathBuf),
    /// It could be several things.
    #[error("{path}: this is neither clearly a parent's nor a custodian's configuration; say which with --kind", path = .0.display())]
    Kind(PathBuf),
}

impl FileKind {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Custodian => "custodian",
            Self::Static => "static",
        }
    }

    /// Its JSON schema.
    #[must_use]
    pub const fn schema(self) -> &'static str {
        match self {
            Self::Parent => include_str!("../../../docs/reference/parent.schema.json"),
            Self::Custodian => include_str!("../../../docs/reference/custodian.schema.json"),
            Self::Static => include_str!("../../../docs/reference/static.schema.json"),
        }
    }

    /// A file with every option explained.
    #[must_use]
    pub const fn example(self) -> &'static str {
        match self {
            Self::Parent => include_str!("../../../parent/parent.example.toml"),
            Self::Custodian => include_str!("../../../custodian/custodian.example.toml"),
            Self::Static => "{\n  \"regions\": [\"us-east-1\"]\n}\n",
        }
    }
}

/// How files are checked.
pub struct Check<'a> {
    /// What they are, if that is known.
    pub kind: Option<FileKind>,
    /// Where programs are; absent for beside this one, then `PATH`.
    pub programs: Option<&'a Path>,
    /// Whether no program is asked.
    pub schema_only: bool,
}

impl Check<'_> {
    /// Checks files, and the static configurations that parents' files name.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that is given here; one that is only named by it is a finding.
    pub async fn all(&self, given: &[PathBuf]) -> Result<Report, ConfigError> {
        let mut files = Vec::new();
        for file in given {
            let text = read(file)?;
            let kind = match self.kind {
                Some(kind) => kind,
                None => guess(file, &text).ok_or_else(|| ConfigError::Kind(file.clone()))?,
            };
            let (node, checked) = self.one(file, kind, &text).await;
            files.push(checked);
            let named =
                node.filter(|_| kind == FileKind::Parent && !self.schema_only).and_then(|node| named_by(file, &node));
            if let Some(named) = named.filter(|named| !given.contains(named))
                // What cannot be read, the parent's own check has told.
                && let Ok(text) = read(&named)
            {
                files.push(self.one(&named, FileKind::Static, &text).await.1);
            }
        }
        Ok(Report { files })
    }

    async fn one(&self, file: &Path, kind: FileKind, text: &str) -> (Option<Node>, Checked) {
        let (node, mut findings) = Node::read(kind, text);
        if let Some(node) = node.as_ref().filter(|_| findings.is_empty()) {
            findings = schema::findings(kind.schema(), node);
        }
        let mut checked_by = vec!["its schema".to_owned()];
        if findings.is_empty() && kind == FileKind::Static {
            checked_by = vec!["the enclave's own reader".to_owned()];
            if let Err(error) = StaticConfiguration::parse(text) {
                findings.push(Finding { line: None, field: String::new(), message: error.to_string() });
            }
        } else if findings.is_empty() && !self.schema_only {
            match program::check(kind, self.programs, file).await {
                Ok(by) => checked_by.push(by),
                Err(error) => findings.push(error.finding(file)),
            }
        }
        let file = file.to_owned();
        (node, Checked { file, kind: kind.name(), valid: findings.is_empty(), checked_by, findings })
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    String::from_utf8(files::read(file, FILE_MAX)?).map_err(|_| ConfigError::Encoding(file.to_owned()))
}

/// What a file is, by what only one of them has.
fn guess(file: &Path, text: &str) -> Option<FileKind> {
    if file.extension().is_some_and(|extension| extension == "json") {
        return Some(FileKind::Static);
    }
    let (node, _) = Node::read(FileKind::Parent, text);
    let node = node?;
    let has = |names: &[&str]| names.iter().any(|name| node.field(name).is_some());
    match (
        has(&["ready_listen", "static_configuration", "key_stores", "enclave", "egress", "control", "nitro"]),
        has(&["administrators", "state", "address", "key_encryption_key", "database"]),
    ) {
        (true, false) => Some(FileKind::Parent),
        (false, true) => Some(FileKind::Custodian),
        _ => None,
    }
}

/// The static configuration that a parent's file names.
fn named_by(file: &Path, node: &Node) -> Option<PathBuf> {
    match &node.field("static_configuration")?.content {
        Content::Text(name) => Some(file.parent().unwrap_or(Path::new("")).join(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
