//! `holdfast config`.

use std::process::ExitCode;

use super::{AppError, success_if};
use crate::arguments::{CheckConfigArguments, ConfigCommand};
use crate::commands::config::Check;
use crate::output::{self, Printer};

pub(super) async fn run(command: ConfigCommand, printer: Printer) -> Result<ExitCode, AppError> {
    match command {
        ConfigCommand::Check(CheckConfigArguments { files, kind, programs, schema_only }) => {
            let check = Check { kind, programs: programs.as_deref(), schema_only };
            let report = check.all(&files).await.map_err(|error| AppError::Undone(Box::new(error.into())))?;
            printer.print(&report)?;
            Ok(success_if(report.is_valid()))
        }
        ConfigCommand::Schema { kind } => {
            output::print_as_is(kind.schema())?;
            Ok(ExitCode::SUCCESS)
        }
        ConfigCommand::Example { kind } => {
            output::print_as_is(kind.example())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
