//! `holdfast-spec-coverage`: writes docs/spec-coverage.md, and checks it and the tests behind it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use holdfast_spec_coverage::check::problems;
use holdfast_spec_coverage::page::render;
use holdfast_spec_coverage::requirements::Requirements;
use holdfast_spec_coverage::runs::{Inventory, Runs};

const REQUIREMENTS: &str = "tests/spec/requirements.toml";
const PAGE: &str = "docs/spec-coverage.md";

/// Holds the requirements of the XKS Proxy API specification against the tests that ran. To be started in the repository's root.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write docs/spec-coverage.md from tests/spec/requirements.toml.
    Write,
    /// Fail unless each requirement's tests exist, ran and passed, and docs/spec-coverage.md is up to date.
    Check {
        /// What `cargo nextest list --message-format json` printed.
        #[arg(long)]
        list: PathBuf,
        /// A `JUnit` report of this run.
        #[arg(long, required = true)]
        junit: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Write => write(),
        Verb::Check { list, junit } => check(&list, &junit),
    };
    match done {
        Ok(said) => {
            eprintln!("{said}");
            ExitCode::SUCCESS
        }
        Err(complaint) => {
            eprintln!("{complaint}");
            ExitCode::FAILURE
        }
    }
}

fn write() -> Result<String, String> {
    let requirements = requirements()?;
    std::fs::write(PAGE, render(&requirements)).map_err(|error| format!("{PAGE}: {error}"))?;
    Ok(format!("{PAGE}: {} requirements", requirements.all().len()))
}

fn check(list: &Path, reports: &[PathBuf]) -> Result<String, String> {
    let requirements = requirements()?;
    let inventory = Inventory::read(&read(list)?).map_err(|error| format!("{}: {error}", list.display()))?;
    let mut runs = Runs::default();
    for path in reports {
        runs.add(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let mut complaints: Vec<_> =
        problems(&requirements, &inventory, &runs).iter().map(|problem| format!("{REQUIREMENTS}: {problem}")).collect();
    if read(Path::new(PAGE))? != render(&requirements) {
        complaints.push(format!("{PAGE} is out of date: cargo run -p holdfast-spec-coverage -- write"));
    }
    if !complaints.is_empty() {
        return Err(complaints.join("\n"));
    }
    let count = requirements.all().len();
    Ok(format!("{count} requirements, each with an exception or shown by tests of the {} that ran", runs.count()))
}

fn requirements() -> Result<Requirements, String> {
    Requirements::read(&read(Path::new(REQUIREMENTS))?).map_err(|error| format!("{REQUIREMENTS}: {error}"))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
