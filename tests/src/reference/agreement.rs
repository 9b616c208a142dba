//! A schema against the program that reads the file: both take the same, and refuse the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// A field that nothing has.
const UNKNOWN: &str = "no_such_field";

/// What a program makes of a document: how it understands it, or why it does not.
type Parse<'a> = &'a dyn Fn(&Value) -> Result<String, String>;

/// Holds a schema against a program.
///
/// `bases` are documents that the program takes; together they hold every section. In each section every required field, an unknown
/// one, the ends of every range, every length, every value of an enumeration and every default is tried.
///
/// # Panics
/// When the program takes what the schema does not, or the other way round.
pub fn assert_agreement(schema: &Value, bases: &[Value], parse: Parse<'_>) {
    let mut seen = BTreeSet::new();
    for base in bases {
        parse(base).unwrap_or_else(|error| panic!("a base is refused: {error}\n{base:#}"));
        Trial { base, parse }.section(schema, "", "", &mut seen);
    }
    let mut all = BTreeSet::new();
    sections(schema, "", &mut all);
    assert_eq!(seen, all, "the bases hold every section");
}

/// Names of a schema's sections.
fn sections(schema: &Value, name: &str, into: &mut BTreeSet<String>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    into.insert(name.to_owned());
    for (field, property) in properties {
        sections(property.get("items").unwrap_or(property), &format!("{name}/{field}"), into);
    }
}

struct Trial<'a> {
    base: &'a Value,
    parse: Parse<'a>,
}

impl Trial<'_> {
    /// What the program makes of the base with one field changed, or taken out.
    fn with(&self, pointer: &str, field: &str, value: Option<Value>) -> Result<String, String> {
        let mut document = self.base.clone();
        let section = document.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => section.insert(field.to_owned(), value),
            None => section.remove(field),
        };
        (self.parse)(&document)
    }

    fn takes(&self, pointer: &str, field: &str, value: Value) {
        let shown = value.to_string();
        if let Err(error) = self.with(pointer, field, Some(value)) {
            panic!("{pointer}/{field} = {shown} is in the schema, and refused: {error}");
        }
    }

    fn refuses(&self, pointer: &str, field: &str, value: Value) {
        let shown = value.to_string();
        let taken = self.with(pointer, field, Some(value));
        assert!(taken.is_err(), "{pointer}/{field} = {shown} is taken, and not in the schema");
    }

    fn section(&self, schema: &Value, name: &str, pointer: &str, seen: &mut BTreeSet<String>) {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        if !self.base.pointer(pointer).is_some_and(Value::is_object) {
            return;
        }
        seen.insert(name.to_owned());
        assert_eq!(schema.get("additionalProperties"), Some(&json!(false)), "{name}");
        self.refuses(pointer, UNKNOWN, json!(true));
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for field in &required {
            assert!(self.with(pointer, field, None).is_err(), "{pointer}/{field} is required");
        }
        for (field, property) in properties {
            assert!(property.get("description").is_some(), "{name}/{field} is described");
            self.field(property, pointer, field);
            let (property, pointer) = match property.get("items") {
                Some(items) => (items, format!("{pointer}/{field}/0")),
                None => (property, format!("{pointer}/{field}")),
            };
            self.section(property, &format!("{name}/{field}"), &pointer, seen);
        }
    }

    fn field(&self, property: &Value, pointer: &str, field: &str) {
        if let Some(default) = property.get("default") {
            let without = self.with(pointer, field, None).unwrap();
            let with = self.with(pointer, field, Some(default.clone()));
            assert_eq!(with.as_ref(), Ok(&without), "the default of {pointer}/{field}");
        }
        let number = |name: &str| property.get(name).and_then(Value::as_i64);
        if let Some(least) = number("minimum") {
            self.takes(pointer, field, least.into());
            self.refuses(pointer, field, (least - 1).into());
        }
        if let Some(most) = number("maximum") {
            self.takes(pointer, field, most.into());
            self.refuses(pointer, field, (most + 1).into());
        }
        // What has a form of its own is tried where it is read.
        if property.get("pattern").is_none() && property.get("examples").is_none() {
            let text = |length: i64| json!("a".repeat(length.try_into().unwrap()));
            if let Some(least) = number("minLength") {
                self.takes(pointer, field, text(least));
                self.refuses(pointer, field, text(least - 1));
            }
            if let Some(most) = number("maxLength") {
                self.takes(pointer, field, text(most));
                self.refuses(pointer, field, text(most + 1));
            }
        }
        for value in property.get("enum").and_then(Value::as_array).into_iter().flatten() {
            self.takes(pointer, field, value.clone());
            self.refuses(pointer, field, json!("no such value"));
        }
        for value in property.get("examples").and_then(Value::as_array).into_iter().flatten() {
            self.takes(pointer, field, value.clone());
        }
        if property.get("type") == Some(&json!("array")) {
            let item = self.base.pointer(&format!("{pointer}/{field}/0")).cloned();
            if number("minItems").is_some() {
                self.refuses(pointer, field, json!([]));
            }
            if let (Some(most), Some(item)) = (number("maxItems"), item.filter(|item| !item.is_object())) {
                let count = usize::try_from(most).unwrap() + 1;
                self.refuses(pointer, field, Value::Array(vec![item; count]));
            }
        }
        if let (Some("string"), None) = (property.get("type").and_then(Value::as_str), property.get("enum")) {
            self.refuses(pointer, field, json!(7));
        }
    }
}
