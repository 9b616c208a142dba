//! A file against its schema: only as much of JSON Schema as ours have, and every finding at once.
//!
//! Patterns are not looked at: the program that reads the file says what it should be in words.

use serde_json::{Map, Value};

use super::Finding;
use super::content::{Content, Node};
use crate::output::printable;

/// All that is wrong with a file by its schema, in the order of its lines.
pub(super) fn findings(schema: &str, node: &Node) -> Vec<Finding> {
    let mut findings = Vec::new();
    // The schemas are ours, and a test reads each.
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    look(&schema, node, "", &mut findings);
    findings.sort_by_key(|finding| finding.line);
    findings
}

fn look(schema: &Value, node: &Node, field: &str, findings: &mut Vec<Finding>) {
    let mut tell = |line: Option<usize>, message: String| {
        findings.push(Finding { line: line.or(node.line), field: field.to_owned(), message });
    };
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64).map(i128::from);
    let outside = |value: i128, least: &str, most: &str| {
        let (least, most) = (bound(least), bound(most));
        let is_within = least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most);
        (!is_within).then(|| range(least, most))
    };
    match (schema.get("type").and_then(Value::as_str), &node.content) {
        (Some("object"), Content::Section(fields)) => section(schema, node, fields, field, findings),
        (Some("array"), Content::List(all)) => {
            if let Some(range) = outside(length(all.len()), "minItems", "maxItems") {
                tell(None, format!("must have {range} entries"));
            }
            for (index, one) in all.iter().enumerate() {
                let name = if all.len() > 1 { format!("{field}[{index}]") } else { field.to_owned() };
                look(schema.get("items").unwrap_or(&Value::Null), one, &name, findings);
            }
        }
        (Some("string"), Content::Text(text)) => {
            if let Some(range) = outside(length(text.len()), "minLength", "maxLength") {
                tell(None, format!("must have {range} bytes"));
            }
            let allowed: Vec<&str> =
                schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
            if !allowed.is_empty() && !allowed.contains(&text.as_str()) {
                tell(None, format!("must be one of {}{}", listed(&allowed), meant(text, allowed.into_iter())));
            }
        }
        (Some("integer"), Content::Integer(number)) => {
            if let Some(range) = outside(number.unwrap_or(i128::MAX), "minimum", "maximum") {
                tell(None, format!("must be {range}"));
            } else if number.is_none() {
                tell(None, "is too large".to_owned());
            }
        }
        (Some("boolean"), Content::Boolean) | (None, _) => {}
        (Some(wanted), found) => {
            let wanted = match wanted {
                "object" => "a section",
                "array" => "a list",
                "string" => "a string",
                "integer" => "an integer",
                other => other,
            };
            tell(None, format!("must be {wanted}, and is {}", found.name()));
        }
    }
}

fn section(
    schema: &Value,
    node: &Node,
    fields: &[(String, Option<usize>, Node)],
    name: &str,
    findings: &mut Vec<Finding>,
) {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let full = |field: &str| if name.is_empty() { field.to_owned() } else { format!("{name}.{field}") };
    for (field, line, value) in fields {
        // What a file says must not steer the terminal.
        let shown = printable(field);
        if let Some(property) = properties.get(field) {
            look(property, value, &full(&shown), findings);
        } else {
            let message = format!("unknown field{}", meant(field, properties.keys().map(String::as_str)));
            findings.push(Finding { line: *line, field: full(&shown), message });
        }
    }
    for field in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !fields.iter().any(|(known, ..)| known == field) {
            let description = properties.get(field).and_then(|property| property.get("description"));
            let description = description.and_then(Value::as_str).unwrap_or_default();
            let message = format!("is missing: {description}");
            findings.push(Finding { line: node.line, field: full(field), message });
        }
    }
}

fn length(length: usize) -> i128 {
    i128::try_from(length).unwrap_or(i128::MAX)
}

fn range(least: Option<i128>, most: Option<i128>) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("{least} or more"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "any".to_owned(),
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// What was probably meant: two mistakes in a short name, more in a longer one.
fn meant<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known.map(|name| (distance(found, name), name)).min();
    match nearest {
        Some((mistakes, name)) if mistakes <= 1 + name.len() / 4 => format!("; did you mean {name}?"),
        _ => String::new(),
    }
}

/// Levenshtein's distance of two short names, in bytes.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, byte) in one.bytes().take(64).enumerate() {
        let mut next = vec![index.saturating_add(1)];
        for ((pair, last), known) in row.windows(2).zip(1..).zip(other.bytes()) {
            let [diagonal, above] = pair else { continue };
            let replaced = diagonal.saturating_add(usize::from(byte != known));
            let left: usize = next.last().copied().unwrap_or(last);
            next.push(replaced.min(above.saturating_add(1)).min(left.saturating_add(1)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
