//! The page of the reference that tells of configuration files.

use core::fmt::Write as _;

use serde_json::Value;

/// A schema, and the file that it is about.
type Described<'a> = (&'a str, &'a Value);

/// The page: a table for each section of each file.
#[must_use]
pub fn configuration_page(head: &str, files: &[Described<'_>]) -> String {
    let mut page = head.to_owned();
    for (file, schema) in files {
        let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
        let _ = write!(page, "\n## {}\n\n{}\n\nSchema: [`{file}`]({file}).\n", text("title"), text("description"));
        section(&mut page, schema, "");
    }
    page
}

fn section(page: &mut String, schema: &Value, name: &str) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let required = |field: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|all| all.iter().any(|one| one == field))
    };
    let (sections, fields): (Vec<_>, Vec<_>) = properties
        .iter()
        .partition(|(_, property)| property.get("items").unwrap_or(property).get("properties").is_some());
    if !fields.is_empty() {
        page.push_str("\n| Field | Type | Default | Meaning |\n|---|---|---|---|\n");
    }
    for (field, property) in fields {
        let default = match property.get("default") {
            _ if required(field) => "required".to_owned(),
            Some(default) => format!("`{default}`"),
            None => "none".to_owned(),
        };
        let _ = writeln!(page, "| `{field}` | {} | {default} | {} |", kind(property), meaning(property));
    }
    for (field, property) in sections {
        let full = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
        let (shown, inner) = match property.get("items") {
            Some(items) => (format!("[[{full}]]"), items),
            None => (format!("[{full}]"), property),
        };
        let is_required = if required(field) { " Required." } else { "" };
        let _ = write!(page, "\n### `{shown}`\n\n{}{is_required}\n", meaning(property));
        section(page, inner, &full);
    }
}

fn kind(property: &Value) -> String {
    let bound = |name: &str| property.get(name).map(ToString::to_string);
    let range = |least: Option<String>, most: Option<String>| match (least, most) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", {least} at least"),
        (None, Some(most)) => format!(", {most} at most"),
        (None, None) => String::new(),
    };
    if let Some(allowed) = property.get("enum").and_then(Value::as_array) {
        let names: Vec<String> = allowed.iter().filter_map(Value::as_str).map(|name| format!("`{name}`")).collect();
        return if names.len() > 8 { "a name".to_owned() } else { names.join(", ") };
    }
    match property.get("type").and_then(Value::as_str) {
        Some("integer") => format!("integer{}", range(bound("minimum"), bound("maximum"))),
        Some("array") => {
            let each = property.get("items").map_or_else(String::new, |items| format!(" of {}", kind(items)));
            format!("list{each}{}", range(bound("minItems"), bound("maxItems")).replacen(", ", ", entries: ", 1))
        }
        Some("string") => {
            let length = range(bound("minLength"), bound("maxLength"));
            if length.is_empty() { "string".to_owned() } else { format!("string{length} bytes") }
        }
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    }
}

fn meaning(property: &Value) -> String {
    let mut text = property.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let (Some(values), Some(meanings)) =
        (property.get("enum").and_then(Value::as_array), property.get("x-meanings").and_then(Value::as_array))
    {
        for (value, meaning) in values.iter().zip(meanings) {
            if let (Some(value), Some(meaning)) = (value.as_str(), meaning.as_str()) {
                let _ = write!(text, " `{value}`: {meaning}");
            }
        }
    }
    if let Some(examples) = property.get("examples").and_then(Value::as_array) {
        let shown: Vec<String> = examples.iter().map(|example| format!("`{example}`")).collect();
        let _ = write!(text, " Such as {}.", shown.join(" or "));
    }
    text.replace('|', "\\|")
}
