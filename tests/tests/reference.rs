//! The pages of docs/reference, made from the schemas and from what the programs say of themselves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use core::fmt::Write as _;
use std::process::Command;

use holdfast_tests::programs::program;
use holdfast_tests::reference::{self, assert_current, configuration_page};
use serde_json::Value;

const CONFIGURATION_HEAD: &str = "\
# Configuration files

Every field of every configuration file. This page and the JSON schemas beside it are made from the types that read the files, and a test
holds them against what the programs take. `holdfast config check FILE` says all that is wrong with a file, `holdfast config schema KIND`
prints a schema for an editor, `holdfast config example KIND` a file with every option explained.

The programs' commands and flags are in [commands.md](commands.md).
";

const COMMANDS_HEAD: &str = "\
# Commands

What each program says of itself with `--help`, command by command. `holdfast man --out DIR` writes the same of the operator's tool as
manual pages, `holdfast completions SHELL` completions. The fields of configuration files are in [configuration.md](configuration.md).
";

/// The programs with a command line, in the order in which a reader meets them. The enclave's takes no arguments.
const PROGRAMS: [&str; 5] = ["holdfast", "holdfast-parent", "holdfast-custodian", "holdfast-eif", "holdfast-dev"];

#[test]
fn the_page_of_configuration_files_is_current() {
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(reference::path(name)).unwrap()).unwrap()
    };
    let names = ["parent.schema.json", "custodian.schema.json", "static.schema.json"];
    let schemas = names.map(|name| (name, read(name)));
    let files = schemas.each_ref().map(|(name, schema)| (*name, schema));
    assert_current("configuration.md", &configuration_page(CONFIGURATION_HEAD, &files));
}

#[test]
fn the_page_of_commands_is_current() {
    let mut page = COMMANDS_HEAD.to_owned();
    for name in PROGRAMS {
        let _ = write!(page, "\n## {name}\n");
        describe(&mut page, name, &[]);
    }
    assert_current("commands.md", &page);
}

/// What a command says of itself, and each of its own commands.
fn describe(page: &mut String, name: &str, words: &[String]) {
    let help = help(name, words);
    if !words.is_empty() {
        let _ = write!(page, "\n### {name} {}\n", words.join(" "));
    }
    let _ = write!(page, "\n```text\n{help}\n```\n");
    for command in commands(&help) {
        describe(page, name, &[words, &[command]].concat());
    }
}

fn help(name: &str, words: &[String]) -> String {
    let output = Command::new(program(name)).args(words).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success(), "{name} {words:?} --help: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Names under `Commands:`.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // Continued descriptions are indented further.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}
