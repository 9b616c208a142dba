//! The policy of use, limits and budgets.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_guard::{Policy, PresetError, PresetSettings};
use holdfast_shared::limits::USE_POLICY_MAX;

use super::audit::past;
use super::{AppError, success_if, under, wait};
use crate::arguments::{
    BudgetCommand, LimitCommand, PastArguments, PolicyCommand, PolicySource, PresetArguments, Whole,
};
use crate::commands::policy::{self, ProblemLine, TextReport};
use crate::commands::{budget, limit};
use crate::files;
use crate::home::{Home, HomeError};
use crate::output::{Printer, tell};

/// Bytes of a file of cases: some ten thousand of them.
const CASES_MAX: usize = 4 * 1024 * 1024;

impl From<PresetError> for AppError {
    fn from(error: PresetError) -> Self {
        Self::Usage(error.to_string())
    }
}

pub(super) async fn run_policy(
    home: Result<Home, HomeError>,
    command: PolicyCommand,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    match command {
        PolicyCommand::Set { source, target, terms } => {
            let text = text_of(source)?;
            let session = under(&home?, &target, terms)?;
            printer.print(&policy::set(&session, text, wait(terms.patience)).await?)?;
        }
        PolicyCommand::Show(Whole { target, terms }) => {
            let session = under(&home?, &target, terms)?;
            printer.print(&policy::show(&session, wait(terms.patience)).await?)?;
        }
        PolicyCommand::Check { file } => {
            let report = policy::check(&file, &read(&file)?);
            printer.print(&report)?;
            return Ok(success_if(report.valid));
        }
        PolicyCommand::Test { cases: path, policy: file } => return test(&path, file, printer),
        PolicyCommand::Replay { policy: file, past } => {
            return replay(&home?, &file, &past, printer).map_err(|error| AppError::Undone(Box::new(error)));
        }
        PolicyCommand::Schema => printer.print(&TextReport { text: holdfast_guard::SCHEMA.to_owned() })?,
        PolicyCommand::Presets { name: None, settings } => {
            unused(settings)?;
            printer.print(&policy::presets())?;
        }
        PolicyCommand::Presets { name: Some(preset), settings } => {
            printer.print(&TextReport { text: preset.text(&settings.into())? })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The text to set, if there is to be one. It is checked first: a signature under what no enclave takes is of no use.
fn text_of(source: PolicySource) -> Result<Option<String>, AppError> {
    let PolicySource { file, preset, none: _, settings } = source;
    if let Some(preset) = preset {
        let text = preset.text(&settings.into())?;
        // Settings without end make a text that no enclave takes.
        let refused = |invalid| AppError::Usage(format!("the preset {}: {invalid}", preset.name()));
        Policy::parse(&text).map_err(refused)?;
        return Ok(Some(text));
    }
    unused(settings)?;
    let Some(path) = file else { return Ok(None) };
    let text = read(&path)?;
    let policy = parse(&path, &text)?;
    for warning in policy.warnings() {
        tell(&format!("holdfast: warning: {}", ProblemLine::from(warning).in_file(&path.display().to_string())));
    }
    Ok(Some(text))
}

/// Settings of a preset where there is none would be thought to count.
fn unused(settings: PresetArguments) -> Result<(), AppError> {
    if PresetSettings::from(settings) == PresetSettings::default() {
        return Ok(());
    }
    Err(AppError::Usage("--region, --account, --service and --hours are settings of a preset; name one".to_owned()))
}

fn read(path: &Path) -> Result<String, AppError> {
    let bytes = files::read(path, USE_POLICY_MAX)?;
    String::from_utf8(bytes).map_err(|error| AppError::Input { path: path.to_owned(), reason: error.to_string() })
}

fn parse(path: &Path, text: &str) -> Result<Policy, AppError> {
    Policy::parse(text).map_err(|invalid| AppError::Input { path: path.to_owned(), reason: invalid.to_string() })
}

fn test(path: &Path, file: Option<PathBuf>, printer: Printer) -> Result<ExitCode, AppError> {
    let bytes = files::read(path, CASES_MAX)?;
    let failed = |reason: String| AppError::Input { path: path.to_owned(), reason };
    let cases = policy::Cases::read(path, &bytes).map_err(failed)?;
    let beside = cases.policy.as_ref().map(|name| path.with_file_name(name));
    let file =
        file.or(beside).ok_or_else(|| AppError::Usage("policy test: name the policy with --policy FILE".to_owned()))?;
    let report = policy::test(&parse(&file, &read(&file)?)?, &cases).map_err(failed)?;
    printer.print(&report)?;
    Ok(success_if(report.all_passed()))
}

fn replay(home: &Home, file: &Path, past: &PastArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let policy = parse(file, &read(file)?)?;
    let report = past::replay(home, &policy, past)?;
    printer.print(&report)?;
    Ok(success_if(report.is_same()))
}

pub(super) async fn run_limit(home: &Home, command: LimitCommand, printer: Printer) -> Result<(), AppError> {
    let (limits, target, terms) = match command {
        LimitCommand::Show(Whole { target, terms }) => {
            return Ok(printer.print(&limit::show(&under(home, &target, terms)?, wait(terms.patience)).await?)?);
        }
        LimitCommand::Set { per_key, key, per_principal, target, terms } => {
            let limits = limit::limits(per_key, key, per_principal);
            (Some(limits.map_err(|reason| AppError::Usage(reason.to_owned()))?), target, terms)
        }
        LimitCommand::Clear(Whole { target, terms }) => (None, target, terms),
    };
    Ok(printer.print(&limit::set(&under(home, &target, terms)?, limits, wait(terms.patience)).await?)?)
}

pub(super) async fn run_budget(home: &Home, command: BudgetCommand, printer: Printer) -> Result<(), AppError> {
    let (budgets, target, terms) = match command {
        BudgetCommand::Show(Whole { target, terms }) => {
            return Ok(printer.print(&budget::show(&under(home, &target, terms)?, wait(terms.patience)).await?)?);
        }
        BudgetCommand::Set { key, every_key, target, terms } => {
            let budgets = budget::budgets(every_key, key).map_err(|reason| AppError::Usage(reason.to_owned()))?;
            (Some(budgets), target, terms)
        }
        BudgetCommand::Clear(Whole { target, terms }) => (None, target, terms),
    };
    Ok(printer.print(&budget::set(&under(home, &target, terms)?, budgets, wait(terms.patience)).await?)?)
}

#[cfg(test)]
mod tests {
    use holdfast_guard::Preset;

    use super::*;

    #[test]
    fn a_preset_that_no_enclave_takes_is_refused_before_anybody_signs_it() {
        let of = |service: Vec<String>| PolicySource {
            file: None,
            preset: Some(Preset::Services),
            none: false,
            settings: PresetArguments { region: Vec::new(), account: Vec::new(), service, hours: None },
        };
        assert!(text_of(of(vec!["s3".to_owned(), "s3".to_owned()])).unwrap().is_some());
        let many = (0..1_000).map(|number| format!("s{number}")).collect();
        assert!(matches!(text_of(of(many)), Err(AppError::Usage(_))));
    }
}
