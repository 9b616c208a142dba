//! A configuration file as text, numbers, lists and sections, with the lines on which they are.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Finding;
use crate::arguments::FileKind;
use crate::output::printable;

/// Something in a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Counted from 1; JSON has none.
    pub(super) line: Option<usize>,
    /// What it is.
    pub(super) content: Content,
}

/// See [`Node`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// A section: names, with the lines on which they are.
    Section(Vec<(String, Option<usize>, Node)>),
    /// A list.
    List(Vec<Node>),
    /// A text.
    Text(String),
    /// An integer; none if it is beyond any bound.
    Integer(Option<i128>),
    /// A boolean.
    Boolean,
    /// What no field takes: a fraction, a moment, a null.
    Other(&'static str),
}

impl Content {
    /// For people.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Section(_) => "a section",
            Self::List(_) => "a list",
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean => "a boolean",
            Self::Other(name) => name,
        }
    }
}

impl Node {
    /// Reads a text; what is wrong with its syntax.
    pub(super) fn read(kind: FileKind, text: &str) -> (Option<Self>, Vec<Finding>) {
        if kind == FileKind::Static {
            return match serde_json::from_str::<Value>(text) {
                Ok(value) => (Some(Self::of_json(&value)), Vec::new()),
                Err(error) => {
                    let line = (error.line() > 0).then(|| error.line());
                    (None, vec![Finding { line, field: String::new(), message: format!("no JSON text: {error}") }])
                }
            };
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        let line = |offset: usize| line_of(text, offset);
        let findings: Vec<Finding> = errors
            .iter()
            .map(|error| Finding {
                line: error.span().map(|span| line(span.start)),
                field: String::new(),
                message: error.message().lines().map(printable).collect::<Vec<_>>().join(", "),
            })
            .collect();
        (Some(Self { line: None, content: Self::of_table(table.get_ref(), &line) }), findings)
    }

    fn of_table(table: &DeTable<'_>, line: &dyn Fn(usize) -> usize) -> Content {
        let fields = table.iter().map(|(name, value)| {
            (name.get_ref().to_string(), Some(line(name.span().start)), Self::of_toml(value, line))
        });
        Content::Section(fields.collect())
    }

    fn of_toml(value: &Spanned<DeValue<'_>>, line: &dyn Fn(usize) -> usize) -> Self {
        let content = match value.get_ref() {
            DeValue::String(text) => Content::Text(text.to_string()),
            DeValue::Integer(number) => Content::Integer(i128::from_str_radix(number.as_str(), number.radix()).ok()),
            DeValue::Boolean(_) => Content::Boolean,
            DeValue::Float(_) => Content::Other("a fraction"),
            DeValue::Datetime(_) => Content::Other("a moment"),
            DeValue::Array(all) => Content::List(all.iter().map(|one| Self::of_toml(one, line)).collect()),
            DeValue::Table(table) => Self::of_table(table, line),
        };
        Self { line: Some(line(value.span().start)), content }
    }

    fn of_json(value: &Value) -> Self {
        let content = match value {
            Value::String(text) => Content::Text(text.clone()),
            Value::Number(number) => match number.as_i128() {
                Some(number) => Content::Integer(Some(number)),
                None => Content::Other("a fraction"),
            },
            Value::Bool(_) => Content::Boolean,
            Value::Null => Content::Other("null"),
            Value::Array(all) => Content::List(all.iter().map(Self::of_json).collect()),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), None, Self::of_json(value)));
                Content::Section(fields.collect())
            }
        };
        Self { line: None, content }
    }

    /// A field of this section.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        let Content::Section(fields) = &self.content else { return None };
        fields.iter().find(|(known, ..)| known == name).map(|(.., node)| node)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count().saturating_add(1)
}
