//! The schemas of the configuration files, and the pages of the reference: made from the code, kept in `docs/reference`, and compared
//! with it.
//!
//! The types that read a file say what is in it; a schema is what they say, and [`assert_agreement`] holds it against what the program
//! takes and refuses. With `HOLDFAST_WRITE_REFERENCE=1` in the environment the files are written instead of compared.

mod agreement;
mod page;

use std::path::PathBuf;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

pub use agreement::assert_agreement;
pub use page::configuration_page;

/// Its presence in the environment has the files written.
const WRITE: &str = "HOLDFAST_WRITE_REFERENCE";

/// The schema of a configuration file, in the dialect that editors know best (JSON Schema draft 7).
#[must_use]
pub fn schema_of<T: JsonSchema>(title: &str, description: &str) -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    settle(&mut schema);
    let root = schema.as_object_mut().unwrap();
    root.insert("title".to_owned(), title.into());
    root.insert("description".to_owned(), description.into());
    schema
}

/// Takes out what a file cannot say (TOML has no null) and what tells nothing (widths of integers).
fn settle(schema: &mut Value) {
    match schema {
        Value::Array(all) => all.iter_mut().for_each(settle),
        Value::Object(object) => {
            object.remove("format");
            object.remove("title");
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(ways)) = object.remove("anyOf") {
                let present = ways.into_iter().find(|way| way.pointer("/type") != Some(&"null".into())).unwrap();
                unite(object, present);
            }
            // A value of one kind, with what it means.
            if let Some(Value::Array(ways)) = object.get("oneOf") {
                let consts: Option<Vec<Value>> = ways.iter().map(|way| way.get("const").cloned()).collect();
                if let Some(consts) = consts {
                    let meanings = ways.iter().map(|way| way.get("description").cloned().unwrap_or_default());
                    object.insert("x-meanings".to_owned(), meanings.collect());
                    object.insert("enum".to_owned(), Value::Array(consts));
                    object.insert("type".to_owned(), "string".into());
                    object.remove("oneOf");
                }
            }
            if let Some(Value::Array(allowed)) = object.get_mut("enum") {
                allowed.retain(|value| !value.is_null());
            }
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            object.values_mut().for_each(settle);
        }
        _ => {}
    }
}

/// Of two descriptions, that of the field counts.
fn unite(object: &mut Map<String, Value>, other: Value) {
    let Value::Object(other) = other else { return };
    for (name, value) in other {
        object.entry(name).or_insert(value);
    }
}

/// A file of the reference.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name)
}

/// The file holds this text, or is written.
///
/// # Panics
/// When it holds another.
pub fn assert_current(name: &str, text: &str) {
    let path = path(name);
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    if held != text {
        let differs = held.lines().zip(text.lines()).enumerate().find(|(_, (held, made))| held != made);
        let (line, (held, made)) = differs.map_or((0, ("the end", "the end")), |(at, lines)| (at + 1, lines));
        panic!(
            "docs/reference/{name} is not what the code says, from line {line} on:\n  held {held}\n  made {made}\n\
             Write it with {WRITE}=1 scripts/test, and read the difference."
        );
    }
}

/// A schema as it is kept.
///
/// # Panics
/// When the kept one is another.
pub fn assert_schema_current(name: &str, schema: &Value) {
    assert_current(name, &format!("{}\n", serde_json::to_string_pretty(schema).unwrap()));
}
