//! From arguments to exit code.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use holdfast_shared::attestation::TrustRoot;
use holdfast_shared::command::Outcome;
use holdfast_shared::keystore::Quota;
use holdfast_shared::limits;
use holdfast_shared::manifest::Thresholds;
use holdfast_shared::secrets::SecretBytes;

use crate::arguments::{
    AdminCommand, Arguments, AttestationCommand, CertificateCommand, ClientAuthCommand, Command, CreateArguments,
    CredentialCommand, ImportKeyArguments, KeyCommand, KmsCommand, ManifestCommand, OrderCommand, Patience,
    QuotaCommand, ScopeArguments, SecretOutput, Target, Whole,
};
use crate::commands::Done;
use crate::commands::explain_signature::{self, Question, secret::SecretError};
use crate::commands::manifest::{CreateError, ManifestReport};
use crate::commands::{
    admin, attestation, block, certificate, client_auth, credential, key, kms, manifest, quota, status,
};
use crate::files::{self, FILE_MAX, FileError};
use crate::home::{self, Home, HomeError};
use crate::moment;
use crate::output::{EMULATED_WARNING, Printer, tell};
use crate::session::{Completed, Session, SessionError, Wait};

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
    /// A flag that is not what it should be.
    #[error("{0}")]
    Usage(String),
    /// The tool's own surroundings.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl AppError {
    /// 1 refused or failed, 2 usage, 3 timeout while waiting for an enclave.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Session(SessionError::Timeout { .. } | SessionError::NoCeremony { .. }) => 3,
            Self::Usage(_) => 2,
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
    match runtime.block_on(run(arguments)) {
        Ok(code) => code,
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
        Command::Manifest(command) => run_manifest(&home?, command, printer).await?,
        Command::Key(command) => run_key(&home?, command, printer).await?,
        Command::Credential(command) => run_credential(&home?, command, printer).await?,
        Command::Certificate(command) => run_certificate(&home?, command, printer).await?,
        Command::Quota(command) => run_quota(&home?, command, printer).await?,
        Command::ClientAuth(command) => run_client_auth(&home?, command, printer).await?,
        Command::Order(OrderCommand::Result { command_id, target, patience }) => {
            let completed = session(&home?, &target)?.result_of(command_id, wait(patience)).await?;
            print_completed(completed, printer)?;
        }
        Command::Block(arguments) => run_block(&home?, arguments, true, printer).await?,
        Command::Unblock(arguments) => run_block(&home?, arguments, false, printer).await?,
        Command::Status(target) => printer.print(&status::status(&session(&home?, &target)?).await?)?,
        Command::Attestation(AttestationCommand::Inspect { file, at, root }) => {
            return inspect(&file, at, root.as_deref(), printer);
        }
        Command::Kms(command) => run_kms(&home?, command, printer).await?,
        Command::ExplainSignature(arguments) => {
            let explanation = explain_signature::explain(&Question::read(arguments)?);
            printer.print(&explanation)?;
            return Ok(if explanation.accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
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

fn print_completed(completed: Completed, printer: Printer) -> Result<(), AppError> {
    let Completed { command_id, evidence, .. } = &completed;
    let done = match &completed.outcome {
        Outcome::Keys { .. } => return Ok(printer.print(&key::KeyList::new(completed)?)?),
        Outcome::CertificateRequest { .. } => return Ok(printer.print(&certificate::SigningRequest::new(completed)?)?),
        Outcome::Credential { .. } => format!("done; see it with: holdfast credential show --command-id {command_id}"),
        Outcome::Settings { .. } => "done; see it with: holdfast quota show, holdfast client-auth show".to_owned(),
        Outcome::Done | Outcome::Refused { .. } => "done".to_owned(),
    };
    Ok(printer.print(&Done { done, command_id: *command_id, evidence: evidence.clone() })?)
}

fn session(home: &Home, target: &Target) -> Result<Session, SessionError> {
    Session::open(home, target.key_store.as_deref())
}

fn wait(patience: Patience) -> Wait<'static> {
    Wait { timeout: patience.timeout, progress: &|line| tell(&format!("holdfast: {line}")) }
}

async fn run_manifest(home: &Home, command: ManifestCommand, printer: Printer) -> Result<(), AppError> {
    let (report, emulated) = match command {
        ManifestCommand::Create(arguments) => create_manifest(home, *arguments)?,
        ManifestCommand::Show { file } => {
            let report = ManifestReport::from(&home::read_manifest(&file)?);
            (report, false)
        }
        ManifestCommand::Add { file, trust_root } => {
            let store = manifest::add(home, &file, trust_root.as_deref())?;
            (ManifestReport::from(&store.manifest), !store.trust_root.is_aws())
        }
        ManifestCommand::Enrol { file } => {
            let manifest = home::read_manifest(&file)?;
            let session = Session::open(home, Some(&manifest.id().to_string()))?;
            session.enrol().await?;
            tell(&format!("holdfast: {} holds the manifest", session.custodian().name));
            (ManifestReport::from(&manifest), false)
        }
    };
    if emulated {
        tell(EMULATED_WARNING);
    }
    Ok(printer.print(&report)?)
}

fn create_manifest(home: &Home, arguments: CreateArguments) -> Result<(ManifestReport, bool), AppError> {
    if !arguments.administrator.is_empty() {
        return Err(CreateError::OnlyOne("administrator").into());
    }
    if arguments.custodian.len() > 1 {
        return Err(CreateError::OnlyOne("custodian").into());
    }
    let mut thresholds = Thresholds::ONE;
    for text in &arguments.threshold {
        manifest::set_threshold(&mut thresholds, text)
            .map_err(|error| AppError::Usage(format!("--threshold {text}: {error}")))?;
    }
    let lease_ms = u64::try_from(arguments.lease.as_millis()).unwrap_or(u64::MAX);
    files::check_new(&arguments.out)?;
    let settings = manifest::Settings {
        name: arguments.name,
        custodians: arguments.custodian.iter().map(|path| manifest::read_custodian(path)).collect::<Result<_, _>>()?,
        host_name: arguments.host_name,
        path_prefix: arguments.path_prefix,
        measurements: manifest::read_measurements(&arguments.measurements)?,
        emulated_root: (arguments.trust_root.as_os_str() != "aws").then_some(arguments.trust_root),
        lease_ms,
        thresholds,
    };
    let store = manifest::create(home, settings)?;
    files::write_new(&arguments.out, store.manifest.signed_bytes())?;
    Ok(((&store.manifest).into(), !store.trust_root.is_aws()))
}

async fn run_key(home: &Home, command: KeyCommand, printer: Printer) -> Result<(), AppError> {
    let done = match command {
        KeyCommand::List { target, patience } => {
            return Ok(printer.print(&key::list(&session(home, &target)?, wait(patience)).await?)?);
        }
        KeyCommand::Create { id, usage, target, patience } => {
            key::create(&session(home, &target)?, id, usage, wait(patience)).await?
        }
        KeyCommand::Import(arguments) => import_key(home, arguments).await?,
        KeyCommand::Rotate(one) => key::rotate(&session(home, &one.target)?, one.id, wait(one.patience)).await?,
        KeyCommand::DestroyVersion { id, number, confirm, target, patience } => {
            if confirm != format!("{id}:{number}") {
                let text = format!(
                    "--confirm {confirm}: to destroy version {number} of key {id}, give --confirm {id}:{number}"
                );
                return Err(AppError::Usage(text));
            }
            key::destroy_version(&session(home, &target)?, id, number, wait(patience)).await?
        }
        KeyCommand::Enable(one) => key::enable(&session(home, &one.target)?, one.id, wait(one.patience)).await?,
        KeyCommand::Disable(one) => key::disable(&session(home, &one.target)?, one.id, wait(one.patience)).await?,
    };
    Ok(printer.print(&done)?)
}

async fn import_key(home: &Home, arguments: ImportKeyArguments) -> Result<Done, AppError> {
    let ImportKeyArguments { id, material_file, legacy, usage, target, patience } = arguments;
    let file = read_secret(&material_file, key::MATERIAL_FILE_MAX)?;
    let material = key::parse_material(&file)
        .map_err(|reason| AppError::Input { path: material_file, reason: reason.to_owned() })?;
    Ok(key::import(&session(home, &target)?, id, usage, &material, legacy, wait(patience)).await?)
}

async fn run_quota(home: &Home, command: QuotaCommand, printer: Printer) -> Result<(), AppError> {
    let (quota, target, patience) = match command {
        QuotaCommand::Show(Whole { target, patience }) => {
            return Ok(printer.print(&quota::show(&session(home, &target)?, wait(patience)).await?)?);
        }
        QuotaCommand::Set { requests_per_second, burst, target, patience } => {
            (Some(Quota { requests_per_second, burst }), target, patience)
        }
        QuotaCommand::Clear(Whole { target, patience }) => (None, target, patience),
    };
    Ok(printer.print(&quota::set(&session(home, &target)?, quota, wait(patience)).await?)?)
}

async fn run_client_auth(home: &Home, command: ClientAuthCommand, printer: Printer) -> Result<(), AppError> {
    let (settings, target, patience) = match command {
        ClientAuthCommand::Show(Whole { target, patience }) => {
            return Ok(printer.print(&client_auth::show(&session(home, &target)?, wait(patience)).await?)?);
        }
        ClientAuthCommand::Set { ca: path, common_name, target, patience } => {
            let authorities = client_auth::parse_authorities(&files::read(&path, FILE_MAX)?)
                .map_err(|error| AppError::Input { path, reason: error.to_string() })?;
            tell(&format!("holdfast: {}", client_auth::DEPRECATED));
            let settings = client_auth::settings(authorities, common_name).map_err(AppError::Usage)?;
            (Some(settings), target, patience)
        }
        ClientAuthCommand::Clear(Whole { target, patience }) => (None, target, patience),
    };
    Ok(printer.print(&client_auth::set(&session(home, &target)?, settings, wait(patience)).await?)?)
}

async fn run_credential(home: &Home, command: CredentialCommand, printer: Printer) -> Result<(), AppError> {
    match command {
        CredentialCommand::Show { command_id, secret, target, patience } => {
            secret.out.as_deref().map_or(Ok(()), files::check_new)?;
            let issued = credential::show(&session(home, &target)?, command_id, wait(patience)).await?;
            print_credential(issued, &secret, printer)
        }
        CredentialCommand::Create { secret, target, patience } => {
            // A credential whose secret finds no place would be made all the same.
            secret.out.as_deref().map_or(Ok(()), files::check_new)?;
            let issued = credential::create(&session(home, &target)?, wait(patience)).await?;
            print_credential(issued, &secret, printer)
        }
        CredentialCommand::Import { access_key_id, secret_access_key_file, target, patience } => {
            let secret = read_secret_access_key(&secret_access_key_file)?;
            let session = session(home, &target)?;
            Ok(printer.print(&credential::import(&session, access_key_id, secret, wait(patience)).await?)?)
        }
        CredentialCommand::Remove { access_key_id, target, patience } => {
            let session = session(home, &target)?;
            Ok(printer.print(&credential::remove(&session, access_key_id, wait(patience)).await?)?)
        }
    }
}

fn print_credential(issued: credential::Issued, output: &SecretOutput, printer: Printer) -> Result<(), AppError> {
    if let Some(path) = &output.out {
        credential::write(&issued, path)?;
        tell(&format!("holdfast: the credential is in {}", path.display()));
    }
    Ok(printer.print(&issued.into_report(output.show_secret))?)
}

/// A secret from a file that only its owner can read, or from standard input.
fn read_secret(path: &Path, max: usize) -> Result<SecretBytes, FileError> {
    if path.as_os_str() == "-" { Ok(SecretBytes::new(files::read(path, max)?)) } else { files::read_secret(path, max) }
}

/// The secret in a file, without the line end that an editor or `echo` leaves.
fn read_secret_access_key(path: &Path) -> Result<SecretBytes, AppError> {
    let max = limits::SECRET_ACCESS_KEY_LEN.end().saturating_add(2);
    let bytes = read_secret(path, max)?;
    let trimmed = bytes.expose().trim_ascii_end();
    if limits::SECRET_ACCESS_KEY_LEN.contains(&trimmed.len()) {
        Ok(SecretBytes::new(trimmed.to_vec()))
    } else {
        Err(AppError::Input { path: path.to_owned(), reason: "a secret access key has 43 to 64 characters".to_owned() })
    }
}

async fn run_certificate(home: &Home, command: CertificateCommand, printer: Printer) -> Result<(), AppError> {
    match command {
        CertificateCommand::Request { out, target, patience } => {
            out.as_deref().map_or(Ok(()), files::check_new)?;
            let request = certificate::request(&session(home, &target)?, wait(patience)).await?;
            if let Some(path) = &out {
                files::write_new(path, request.pem.as_bytes())?;
                tell(&format!("holdfast: the request is in {}; {}", path.display(), request.evidence.summary()));
                return Ok(());
            }
            Ok(printer.print(&request)?)
        }
        CertificateCommand::Install { chain: path, target, patience } => {
            let chain = certificate::parse_chain(&files::read(&path, FILE_MAX)?)
                .map_err(|error| AppError::Input { path, reason: error.to_string() })?;
            let session = session(home, &target)?;
            Ok(printer.print(&certificate::install(&session, chain, wait(patience)).await?)?)
        }
    }
}

async fn run_block(home: &Home, arguments: ScopeArguments, add: bool, printer: Printer) -> Result<(), AppError> {
    let session = session(home, &arguments.target)?;
    let scope = block::Scope { store: arguments.scope.store, keys: arguments.scope.key };
    let report = if add { block::block(&session, &scope).await? } else { block::unblock(&session, &scope).await? };
    Ok(printer.print(&report)?)
}

fn inspect(file: &Path, at: Option<u64>, root: Option<&Path>, printer: Printer) -> Result<ExitCode, AppError> {
    let root = root.map_or_else(|| Ok(TrustRoot::aws()), home::read_trust_root)?;
    let document = files::read(file, FILE_MAX)?;
    let report = attestation::inspect(&document, &root, at.unwrap_or_else(moment::now_ms));
    printer.print(&report)?;
    Ok(if report.0.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_kms(home: &Home, command: KmsCommand, printer: Printer) -> Result<(), AppError> {
    let KmsCommand::Config { region, key, out, show_secret, command_id, target, patience } = command;
    let session = session(home, &target)?;
    let issued = credential::show(&session, command_id, wait(patience)).await?;
    let keys = key.iter().map(ToString::to_string).collect();
    let options = kms::KmsOptions { region, keys, show_secret };
    Ok(printer.print(&kms::configure(session.store(), &issued, &out, &options)?)?)
}
