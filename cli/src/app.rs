//! From arguments to exit code.

mod alarms;
mod audit;
mod config;
mod custody;
mod doctor;
mod kill;
mod orders;
mod policy;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use holdfast_shared::attestation::TrustRoot;

use crate::arguments::{
    AdminCommand, Arguments, AttestArguments, AttestationCommand, Command, OrderCommand, OrderTerms, Patience, Target,
};
use crate::commands::attest::{self, AttestError};
use crate::commands::config::ConfigError;
use crate::commands::document::DocumentError;
use crate::commands::explain_signature::{self, Question, secret::SecretError};
use crate::commands::manifest::CreateError;
use crate::commands::measurements::{self, Configuration, MeasurementsError};
use crate::commands::release_policy::ReleasePolicyError;
use crate::commands::succession::SuccessionError;
use crate::commands::{admin, attestation, orders as waiting};
use crate::files::{self, FILE_MAX, FileError};
use crate::home::{self, Home, HomeError};
use crate::moment;
use crate::output::{Printer, tell};
use crate::session::{Session, SessionError, Terms, Wait};

/// Exit code for what was begun and is not complete.
const INCOMPLETE: u8 = 4;

/// Why the tool stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The home folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The conversation with the custodian.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A manifest could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Measurements could not be read.
    #[error(transparent)]
    Measurements(#[from] MeasurementsError),
    /// Nothing could be asked.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// A successor could not be made.
    #[error(transparent)]
    Succession(SuccessionError),
    /// A statement could not be signed or sent.
    #[error(transparent)]
    Document(DocumentError),
    /// A release policy could not be changed.
    #[error("{0}")]
    Policy(String),
    /// An audit log.
    #[error("{0}")]
    Audit(String),
    /// A file that is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The secret of a signature to explain.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A configuration file that was not checked.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A comparison that could not be made: 1 says that there are differences.
    #[error(transparent)]
    Undone(Box<AppError>),
    /// A flag that is not what it should be.
    #[error("{0}")]
    Usage(String),
    /// The tool's own surroundings.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl From<ReleasePolicyError> for AppError {
    fn from(error: ReleasePolicyError) -> Self {
        match error {
            ReleasePolicyError::Session(error) => error.into(),
            ReleasePolicyError::Edit(reason) => Self::Policy(reason),
        }
    }
}

impl From<DocumentError> for AppError {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::Session(error) => error.into(),
            error => Self::Document(error),
        }
    }
}

impl From<SuccessionError> for AppError {
    fn from(error: SuccessionError) -> Self {
        match error {
            SuccessionError::Session(error) => error.into(),
            error => Self::Succession(error),
        }
    }
}

impl AppError {
    /// 1 refused or failed, 2 usage, 3 timeout while waiting for an enclave, 4 begun and not complete.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Session(SessionError::Timeout { .. } | SessionError::NoCeremony { .. }) => 3,
            Self::Session(SessionError::Awaits(_)) => INCOMPLETE,
            Self::Usage(_) | Self::Undone(_) => 2,
            _ => 1,
        }
    }
}

/// Runs the tool.
#[must_use]
pub fn main(arguments: Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&error.into()),
    };
    let printer = Printer { json: arguments.json };
    match runtime.block_on(run(arguments)) {
        Ok(code) => code,
        Err(AppError::Session(SessionError::DryRun(order))) => match printer.print(&*order) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => report(&error.into()),
        },
        Err(AppError::Session(SessionError::Awaits(order))) => {
            // A program reads the order, a person what is missing.
            let shown = if printer.json { printer.print(&*order) } else { Ok(()) };
            tell(&format!("holdfast: {}: it {}", order.order, order.what_is_missing()));
            shown.map_or_else(|error| report(&error.into()), |()| ExitCode::from(INCOMPLETE))
        }
        Err(error) => report(&error),
    }
}

fn report(error: &AppError) -> ExitCode {
    // Output that nobody reads any more (`holdfast key list | head -1`) is no failure.
    if let AppError::System(source) = error
        && source.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    tell(&format!("holdfast: {error}"));
    ExitCode::from(error.exit_code())
}

async fn run(arguments: Arguments) -> Result<ExitCode, AppError> {
    let printer = Printer { json: arguments.json };
    let home = Home::choose(arguments.home);
    match arguments.command {
        Command::Admin(AdminCommand::Init { name }) => printer.print(&admin::init(&home?, &name)?)?,
        Command::Admin(AdminCommand::Show) => printer.print(&admin::show(&home?)?)?,
        Command::Manifest(command) => return custody::run_manifest(&home?, command, printer).await,
        Command::Key(command) => return orders::run_key(&home?, command, printer).await,
        Command::RootKey(command) => return orders::run_root_key(&home?, command, printer).await,
        Command::Credential(command) => orders::run_credential(&home?, command, printer).await?,
        Command::Tls(command) => orders::run_tls(&home?, command, printer).await?,
        Command::Quota(command) => orders::run_quota(&home?, command, printer).await?,
        Command::Budget(command) => policy::run_budget(&home?, command, printer).await?,
        Command::Limit(command) => policy::run_limit(&home?, command, printer).await?,
        Command::Policy(command) => return policy::run_policy(home, command, printer).await,
        Command::ClientAuth(command) => orders::run_client_auth(&home?, command, printer).await?,
        Command::Alarms(arguments) => alarms::run(&home?, arguments, printer).await?,
        Command::Audit(command) => return audit::run(home, command, printer).await,
        Command::Order(OrderCommand::Result { command_id, target, patience }) => {
            let completed = session(&home?, &target)?.result_of(command_id, wait(patience)).await?;
            orders::print_completed(completed, printer)?;
        }
        Command::Pending(target) => printer.print(&waiting::pending(&session(&home?, &target)?).await?)?,
        Command::Approve(arguments) => custody::run_approve(&home?, arguments, printer).await?,
        Command::Sign(arguments) => custody::run_sign(&home?, &arguments, printer)?,
        Command::Send(arguments) => return custody::run_send(&home?, arguments, printer).await,
        Command::Block(arguments) => return custody::run_block(&home?, arguments, true, printer).await,
        Command::Unblock(arguments) => return custody::run_block(&home?, arguments, false, printer).await,
        Command::Kill(arguments) => return kill::run(&home?, arguments, printer).await,
        Command::Status(arguments) => return kill::run_status(&home?, arguments, printer).await,
        Command::ReleasePolicy(command) => return custody::run_release_policy(&home?, command, printer).await,
        Command::Release(command) => return custody::run_release(&home?, command, printer).await,
        Command::Releases(arguments) => custody::run_records(&home?, arguments, printer).await?,
        Command::History(arguments) => return custody::run_history(&home?, arguments, printer).await,
        Command::Provenance(command) => return custody::run_provenance(home, command, printer).await,
        Command::Attest(arguments) => return run_attest(*arguments, printer).await,
        Command::Attestation(AttestationCommand::Inspect { file, at, root }) => {
            return inspect(&file, at, root.as_deref(), printer);
        }
        Command::Kms(command) => orders::run_kms(&home?, command, printer).await?,
        Command::ExplainSignature(arguments) => {
            let explanation = explain_signature::explain(&Question::read(arguments)?);
            printer.print(&explanation)?;
            return Ok(success_if(explanation.accepted));
        }
        Command::Doctor(arguments) => return doctor::run(*arguments, printer).await,
        Command::Explain(arguments) => return doctor::run_explain(&arguments, printer),
        Command::Config(command) => return config::run(command, printer).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "holdfast", &mut io::stdout());
        }
        Command::Man { out } => {
            std::fs::create_dir_all(&out)?;
            clap_mangen::generate_to(Arguments::command(), &out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn success_if(holds: bool) -> ExitCode {
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn session(home: &Home, target: &Target) -> Result<Session, SessionError> {
    Session::open(home, target.key_store.as_deref())
}

fn under(home: &Home, target: &Target, terms: OrderTerms) -> Result<Session, SessionError> {
    let OrderTerms { if_version: version, if_state: key_state, dry_run, .. } = terms;
    Ok(session(home, target)?.under(Terms { version, key_state, dry_run }))
}

fn wait(patience: Patience) -> Wait<'static> {
    wait_for(patience.timeout)
}

fn wait_for(timeout: Duration) -> Wait<'static> {
    Wait { timeout, progress: &|line| tell(&format!("holdfast: {line}")) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn run_attest(arguments: AttestArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let report = attest::attest(&attest_question(arguments)?).await?;
    printer.print(&report)?;
    Ok(success_if(report.verified))
}

/// Reads the files that the arguments name, and warns of an emulator's root.
fn attest_question(arguments: AttestArguments) -> Result<attest::Question, AppError> {
    let configuration =
        arguments.configuration.map(Configuration::File).or(arguments.pcr16.map(|pcr| Configuration::Pcr16(pcr.0)));
    let roots = match &arguments.ca {
        Some(path) => attest::Authorities::read(path)?,
        None => attest::Authorities::of_this_system()?,
    };
    let trust_root = arguments.trust_root.as_deref().map_or_else(|| Ok(TrustRoot::aws()), home::read_trust_root)?;
    let question = attest::Question {
        url: arguments.url,
        key_store_id: arguments.key_store,
        accepted: measurements::read(&arguments.measurements, configuration.as_ref())?,
        authorities: roots,
        resolution: arguments.resolve,
        trust_root,
    };
    if !question.trust_root.is_aws() {
        tell(attest::EMULATED_WARNING);
    }
    Ok(question)
}

fn inspect(file: &Path, at: Option<u64>, root: Option<&Path>, printer: Printer) -> Result<ExitCode, AppError> {
    let root = root.map_or_else(|| Ok(TrustRoot::aws()), home::read_trust_root)?;
    let document = files::read(file, FILE_MAX)?;
    let report = attestation::inspect(&document, &root, at.unwrap_or_else(moment::now_ms));
    printer.print(&report)?;
    Ok(success_if(report.0.verified))
}
