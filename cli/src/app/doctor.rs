//! `holdfast doctor` and `holdfast explain`.

use std::path::Path;
use std::process::ExitCode;

use super::{AppError, success_if};
use crate::arguments::ExplainArguments;
use crate::doctor::explain::{self, MESSAGE_MAX};
use crate::files;
use crate::output::Printer;

pub(super) fn run_explain(arguments: &ExplainArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let message = match arguments.message.as_str() {
        "-" => String::from_utf8_lossy(&files::read(Path::new("-"), MESSAGE_MAX)?).into_owned(),
        text if text.len() > MESSAGE_MAX => return Err(AppError::Usage(format!("over {MESSAGE_MAX} bytes of text"))),
        text => text.to_owned(),
    };
    let explanation = explain::explain(&message);
    printer.print(&explanation)?;
    Ok(success_if(explanation.is_found()))
}
