//! `holdfast doctor` and `holdfast explain`.

use std::path::Path;
use std::process::ExitCode;

use holdfast_shared::sigv4::Credential;

use super::{AppError, attest_question, success_if};
use crate::arguments::{AttestArguments, DoctorArguments, ExplainArguments, HttpsUrl};
use crate::commands::attest::{self, AttestError, Authorities};
use crate::commands::explain_signature::secret;
use crate::doctor::explain::{self, MESSAGE_MAX};
use crate::doctor::{self, Question};
use crate::files;
use crate::output::{Printer, tell};

pub(super) async fn run(arguments: DoctorArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let question = read(arguments).map_err(|error| AppError::Undone(Box::new(error)))?;
    tell(&format!("holdfast: looking at {}", question.endpoint));
    let report = doctor::examine(&question).await?;
    printer.print(&report)?;
    Ok(ExitCode::from(report.exit_code()))
}

/// Reads the files that the arguments name.
fn read(arguments: DoctorArguments) -> Result<Question, AppError> {
    let attestation = expected_enclave(&arguments)?;
    let asked = arguments.url.address();
    let resolution = match arguments.resolve {
        Some(resolution) if resolution.asked != asked => {
            return Err(AttestError::OtherAddress { asked: resolution.asked, url: asked }.into());
        }
        resolution => resolution.map(|resolution| resolution.address),
    };
    let mut credentials = Vec::new();
    for path in &arguments.credential {
        credentials.push(read_credential(path)?);
    }
    Ok(Question {
        endpoint: arguments.url,
        credentials,
        region: arguments.region,
        keys: arguments.key,
        authorities: arguments.ca.as_deref().map(Authorities::read).transpose()?,
        resolution,
        resolver: arguments.resolver,
        timeout: arguments.timeout,
        attestation,
    })
}

fn read_credential(path: &Path) -> Result<Credential, AppError> {
    let input = |reason: String| AppError::Input { path: path.to_owned(), reason };
    let known = secret::read(Some(path), false)?;
    let id = known.access_key_id.ok_or_else(|| input("holds a secret without its access key id".to_owned()))?;
    Credential::new(id, known.secret).map_err(|error| input(error.to_string()))
}

fn expected_enclave(arguments: &DoctorArguments) -> Result<Option<attest::Question>, AppError> {
    let expected = &arguments.attestation;
    let (Some(key_store), Some(measurements)) = (expected.key_store, expected.measurements.clone()) else {
        return Ok(None);
    };
    let url = format!("https://{}", arguments.url.address());
    let url: HttpsUrl = url.parse().map_err(AppError::Usage)?;
    attest_question(AttestArguments {
        url,
        key_store,
        measurements,
        configuration: expected.configuration.clone(),
        pcr16: expected.pcr16,
        ca: arguments.ca.clone(),
        resolve: arguments.resolve.clone(),
        trust_root: expected.trust_root.clone(),
    })
    .map(Some)
}

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
