//! `docs/spec-coverage.md`, made of the requirements alone: it says what must be so for CI to pass, not what one run showed.

use core::fmt::Write as _;

use crate::requirements::{Level, Requirement, Requirements};

const HEAD: &str = "\
# What the specification asks for, and what shows it

Made from `tests/spec/requirements.toml` by `cargo run -p holdfast-spec-coverage -- write`; CI fails when this page is another
than that file gives, and when a test that it names does not exist, did not run, or failed.

Each row is a requirement of the XKS Proxy API specification, version 1.0.3, in our own words: MUST, SHOULD and MAY as the
specification uses them (RFC 2119), and *duty* for what it asks for without those words. Tests are named as `cargo nextest list`
prints them. *Exception* says why no test shows a requirement: whose duty it is instead, or what Holdfast does not have.
";

/// The page.
#[must_use]
pub fn render(requirements: &Requirements) -> String {
    let mut page = HEAD.to_owned();
    totals(&mut page, requirements.all());
    let mut section = "";
    for requirement in requirements.all() {
        if requirement.section != section {
            section = &requirement.section;
            line(&mut page, &format!("\n## {section}\n\n| id | level | requirement | shown by |\n|---|---|---|---|"));
        }
        let Requirement { id, level, text, .. } = requirement;
        let note = requirement.note.as_ref().map(|note| format!(" *Decided:* {note}")).unwrap_or_default();
        line(&mut page, &format!("| {id} | {level} | {text}{note} | {} |", shown_by(requirement)));
    }
    page
}

fn shown_by(requirement: &Requirement) -> String {
    if let Some(exception) = &requirement.exception {
        return format!("*Exception:* {exception}");
    }
    let tests: Vec<_> = requirement.tests.iter().map(|test| format!("`{test}`")).collect();
    tests.join("<br>")
}

fn totals(page: &mut String, all: &[Requirement]) {
    line(page, "\n| level | requirements | shown by tests | exceptions |\n|---|---|---|---|");
    let row = |page: &mut String, name: &str, counted: &[&Requirement]| {
        let exceptions = counted.iter().filter(|requirement| requirement.exception.is_some()).count();
        let shown = counted.len().saturating_sub(exceptions);
        line(page, &format!("| {name} | {} | {shown} | {exceptions} |", counted.len()));
    };
    for level in Level::ALL {
        let counted: Vec<_> = all.iter().filter(|requirement| requirement.level == level).collect();
        row(page, &level.to_string(), &counted);
    }
    row(page, "all", &all.iter().collect::<Vec<_>>());
}

fn line(page: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_under_their_sections_and_are_counted() {
        let text = r#"
            [[requirement]]
            id = "a"
            section = "One"
            level = "must"
            text = "Do."
            tests = ["p::b t", "p u"]
            [[requirement]]
            id = "b"
            section = "One"
            level = "may"
            text = "Perhaps."
            exception = "No need."
            [[requirement]]
            id = "c"
            section = "Two"
            level = "must"
            text = "Do."
            tests = ["p u"]
            note = "This way."
        "#;
        let page = render(&Requirements::read(text).unwrap());
        let expected = "
| level | requirements | shown by tests | exceptions |
|---|---|---|---|
| MUST | 2 | 2 | 0 |
| SHOULD | 0 | 0 | 0 |
| MAY | 1 | 0 | 1 |
| duty | 0 | 0 | 0 |
| all | 3 | 2 | 1 |

## One

| id | level | requirement | shown by |
|---|---|---|---|
| a | MUST | Do. | `p::b t`<br>`p u` |
| b | MAY | Perhaps. | *Exception:* No need. |

## Two

| id | level | requirement | shown by |
|---|---|---|---|
| c | MUST | Do. *Decided:* This way. | `p u` |
";
        assert_eq!(page.strip_prefix(HEAD), Some(expected));
    }
}
