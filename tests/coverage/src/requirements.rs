//! `requirements.toml`: what the specification asks for, as data.

use core::fmt;
use std::collections::BTreeSet;

use serde::Deserialize;

/// How strongly the specification asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// MUST, MUST NOT, REQUIRED, SHALL.
    Must,
    /// SHOULD, SHOULD NOT, RECOMMENDED.
    Should,
    /// MAY, OPTIONAL.
    May,
    /// A duty that is stated without those words.
    Duty,
}

impl Level {
    /// All, strongest first.
    pub const ALL: [Self; 4] = [Self::Must, Self::Should, Self::May, Self::Duty];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::May => "MAY",
            Self::Duty => "duty",
        })
    }
}

/// A test as nextest names it: `package::binary test::path`, or `package test::path` for tests inside a library.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct TestName {
    binary: String,
    test: String,
}

/// A name of no test.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a test: \"package::binary test::path\" is")]
pub struct TestNameError(String);

impl TestName {
    /// From what reports hold apart.
    #[must_use]
    pub fn new(binary: &str, test: &str) -> Self {
        Self { binary: binary.to_owned(), test: test.to_owned() }
    }

    /// The name of the function, without its modules.
    #[must_use]
    pub fn function(&self) -> &str {
        self.test.rsplit("::").next().unwrap_or_default()
    }
}

impl TryFrom<String> for TestName {
    type Error = TestNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        match name.split_once(' ') {
            Some((binary, test)) if !binary.is_empty() && !test.is_empty() && !test.contains(' ') => {
                Ok(Self::new(binary, test))
            }
            _ => Err(TestNameError(name)),
        }
    }
}

impl fmt::Display for TestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.binary, self.test)
    }
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// Stable name.
    pub id: String,
    /// Heading in the specification.
    pub section: String,
    /// How strongly it is asked for.
    pub level: Level,
    /// What is asked for, in our words.
    pub text: String,
    /// What shows it.
    #[serde(default)]
    pub tests: Vec<TestName>,
    /// Why nothing shows it: whose duty it is, or what is not built.
    pub exception: Option<String>,
    /// How we decided where the specification leaves a choice.
    pub note: Option<String>,
}

/// All requirements, in the order of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirements(Vec<Requirement>);

/// Why the file is wrong, apart from what only a run of the tests can tell.
#[derive(Debug, thiserror::Error)]
pub enum RequirementsError {
    /// Not the expected TOML.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// There is nothing to hold anything against.
    #[error("there are no requirements")]
    None,
    /// An id is more than lower-case words with hyphens between them.
    #[error("{0:?} is no id: lower-case letters, digits and single hyphens make one")]
    Id(String),
    /// Two requirements share an id.
    #[error("the id {0} stands twice")]
    IdTwice(String),
    /// Nothing shows it, and nothing says why.
    #[error("{0} has neither tests nor an exception")]
    Neither(String),
    /// A requirement is shown, or there is a reason why not.
    #[error("{0} has tests and an exception: what is not shown is a requirement of its own")]
    Both(String),
    /// A test stands twice for one requirement.
    #[error("{id} names {test} twice")]
    TestTwice {
        /// The requirement.
        id: String,
        /// The test.
        test: TestName,
    },
    /// A text that would break the table, or none.
    #[error("{id}: its {field} is empty, has more than one line, or holds a vertical bar")]
    Text {
        /// The requirement.
        id: String,
        /// Which text.
        field: &'static str,
    },
    /// Requirements of one section stand apart.
    #[error("{id}: its section {section:?} began further up and had ended")]
    Section {
        /// The requirement.
        id: String,
        /// The section.
        section: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    requirement: Vec<Requirement>,
}

impl Requirements {
    /// Reads the file.
    ///
    /// # Errors
    /// [`RequirementsError`], the first.
    pub fn read(text: &str) -> Result<Self, RequirementsError> {
        let File { requirement: requirements } = toml::from_str(text)?;
        if requirements.is_empty() {
            return Err(RequirementsError::None);
        }
        let (mut ids, mut sections, mut last) = (BTreeSet::new(), BTreeSet::new(), "");
        for requirement in &requirements {
            requirement.check()?;
            if !ids.insert(&requirement.id) {
                return Err(RequirementsError::IdTwice(requirement.id.clone()));
            }
            if requirement.section != last && !sections.insert(&requirement.section) {
                let (id, section) = (requirement.id.clone(), requirement.section.clone());
                return Err(RequirementsError::Section { id, section });
            }
            last = &requirement.section;
        }
        Ok(Self(requirements))
    }

    /// The requirements.
    #[must_use]
    pub fn all(&self) -> &[Requirement] {
        &self.0
    }
}

impl Requirement {
    fn check(&self) -> Result<(), RequirementsError> {
        let id = || self.id.clone();
        let is_word =
            |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !self.id.split('-').all(is_word) {
            return Err(RequirementsError::Id(id()));
        }
        let is_line = |text: &str| !text.trim().is_empty() && !text.contains(['\n', '|']);
        let texts = [("section", Some(&self.section)), ("text", Some(&self.text))];
        for (field, text) in
            texts.into_iter().chain([("exception", self.exception.as_ref()), ("note", self.note.as_ref())])
        {
            if text.is_some_and(|text| !is_line(text)) {
                return Err(RequirementsError::Text { id: id(), field });
            }
        }
        match (self.tests.is_empty(), self.exception.is_some()) {
            (true, false) => return Err(RequirementsError::Neither(id())),
            (false, true) => return Err(RequirementsError::Both(id())),
            _ => {}
        }
        let mut seen = BTreeSet::new();
        match self.tests.iter().find(|test| !seen.insert(*test)) {
            Some(test) => Err(RequirementsError::TestTwice { id: id(), test: test.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A requirement with this in place of what shows it.
    fn entry(id: &str, section: &str, shown: &str) -> String {
        format!("[[requirement]]\nid = \"{id}\"\nsection = \"{section}\"\nlevel = \"must\"\ntext = \"text\"\n{shown}\n")
    }

    #[test]
    fn good_files() {
        let text = [
            entry("a", "One", "tests = [\"package::binary a::test\", \"package test\"]"),
            entry("b-2", "One", "exception = \"a duty of KMS\""),
            entry("c", "Two", "tests = [\"p t\"]\nnote = \"decided so\""),
        ]
        .concat();
        let requirements = Requirements::read(&text).unwrap();
        assert_eq!(requirements.all().len(), 3);
        let first = &requirements.all()[0];
        assert_eq!((first.level, first.tests[0].to_string()), (Level::Must, "package::binary a::test".to_owned()));
        assert_eq!((first.tests[0].function(), first.tests[1].function()), ("test", "test"));
    }

    #[test]
    fn each_fault_has_its_error() {
        let test = "tests = [\"p t\"]";
        let table = [
            (entry("a", "One", ""), "a has neither tests nor an exception"),
            (entry("a", "One", "tests = []"), "a has neither tests nor an exception"),
            (entry("a", "One", "tests = [\"p t\"]\nexception = \"why\""), "a has tests and an exception"),
            (entry("a", "One", test).repeat(2), "the id a stands twice"),
            (entry("a", "One", "tests = [\"p t\", \"p t\"]"), "a names p t twice"),
            (entry("a", "One", "exception = \" \""), "a: its exception is empty"),
            (entry("a", "One", "exception = \"x | y\""), "holds a vertical bar"),
            (entry("a", "O\\nne", test), "a: its section is empty, has more than one line"),
            (entry("A", "One", test), "is no id"),
            (entry("a--b", "One", test), "is no id"),
            (entry("", "One", test), "is no id"),
            (entry("a", "One", "tests = [\"test\"]"), "is no name of a test"),
            (entry("a", "One", "tests = [\"p t t\"]"), "is no name of a test"),
            (entry("a", "One", "tests = [\" t\"]"), "is no name of a test"),
            (entry("a", "One", "test = [\"p t\"]"), "unknown field"),
            (entry("a", "One", test).replace("must", "shall"), "unknown variant"),
            ("requirement = []".to_owned(), "there are no requirements"),
            (
                [entry("a", "One", test), entry("b", "Two", test), entry("c", "One", test)].concat(),
                "c: its section \"One\" began further up",
            ),
        ];
        for (text, expected) in table {
            let error = Requirements::read(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}\n{error}\nnot: {expected}");
        }
    }
}
