//! Orders that an enclave carries out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_shared::command::Outcome;
use holdfast_shared::keystore::Quota;
use holdfast_shared::limits;
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::secrets::SecretBytes;

use super::{AppError, INCOMPLETE, millis, session, under, wait};
use crate::arguments::{
    ClientAuthCommand, CredentialCommand, ImportKeyArguments, KeyCommand, KmsCommand, QuotaCommand, RootKeyCommand,
    SecretOutput, TlsCommand, Whole,
};
use crate::commands::{Done, client_auth, credential, key, key_end, kms, policy, quota, tls};
use crate::files::{self, FILE_MAX, FileError};
use crate::home::Home;
use crate::output::{Printer, tell};
use crate::session::Completed;

pub(super) fn print_completed(completed: Completed, printer: Printer) -> Result<(), AppError> {
    let Completed { command_id, evidence, .. } = &completed;
    let done = match &completed.outcome {
        Outcome::Keys { .. } => return Ok(printer.print(&key::KeyList::new(completed)?)?),
        Outcome::CertificateRequest { .. } => return Ok(printer.print(&tls::SigningRequest::new(completed)?)?),
        Outcome::Tls { .. } => return Ok(printer.print(&tls::TlsReport::new(completed)?)?),
        Outcome::Credential { .. } => format!("done; see it with: holdfast credential show --command-id {command_id}"),
        Outcome::Policy { .. } => return Ok(printer.print(&policy::PolicyReport::new(completed)?)?),
        Outcome::Settings { .. } => {
            "done; see it with: holdfast quota show, holdfast limit show, holdfast budget show, holdfast client-auth show, holdfast audit show".to_owned()
        }
        Outcome::Done | Outcome::Refused { .. } => "done".to_owned(),
    };
    Ok(printer.print(&Done { done, command_id: *command_id, evidence: evidence.clone() })?)
}

pub(super) async fn run_key(home: &Home, command: KeyCommand, printer: Printer) -> Result<ExitCode, AppError> {
    let done = match command {
        KeyCommand::List { target, terms } => {
            printer.print(&key::list(&under(home, &target, terms)?, wait(terms.patience)).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        KeyCommand::Create { id, usage, target, terms } => {
            key::create(&under(home, &target, terms)?, id, usage, wait(terms.patience)).await?
        }
        KeyCommand::Import(arguments) => import_key(home, arguments).await?,
        KeyCommand::Rotate(one) => {
            key::rotate(&under(home, &one.target, one.terms)?, one.id, wait(one.terms.patience)).await?
        }
        KeyCommand::DestroyVersion { id, number, confirm, target, terms } => {
            if confirm != format!("{id}:{number}") {
                let text = format!(
                    "--confirm {confirm}: to destroy version {number} of key {id}, give --confirm {id}:{number}"
                );
                return Err(AppError::Usage(text));
            }
            key::destroy_version(&under(home, &target, terms)?, id, number, wait(terms.patience)).await?
        }
        KeyCommand::ScheduleDestruction { id, waiting, target, terms } => {
            key_end::schedule(&under(home, &target, terms)?, id, millis(waiting), wait(terms.patience)).await?
        }
        KeyCommand::CancelDestruction(one) => {
            key_end::cancel(&under(home, &one.target, one.terms)?, one.id, wait(one.terms.patience)).await?
        }
        KeyCommand::Destroy { id, confirm, target, terms } => {
            if confirm != id {
                let text = format!("--confirm {confirm}: to destroy key {id}, give --confirm {id}");
                return Err(AppError::Usage(text));
            }
            let end = key_end::destroy(&under(home, &target, terms)?, id, wait(terms.patience)).await?;
            return print_end(&end, printer);
        }
        KeyCommand::Enable(one) => {
            key::enable(&under(home, &one.target, one.terms)?, one.id, wait(one.terms.patience)).await?
        }
        KeyCommand::Disable(one) => {
            key::disable(&under(home, &one.target, one.terms)?, one.id, wait(one.terms.patience)).await?
        }
    };
    printer.print(&done)?;
    Ok(ExitCode::SUCCESS)
}

fn print_end(end: &key_end::End, printer: Printer) -> Result<ExitCode, AppError> {
    printer.print(end)?;
    Ok(if end.destroyed { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) })
}

pub(super) async fn run_root_key(home: &Home, command: RootKeyCommand, printer: Printer) -> Result<ExitCode, AppError> {
    let RootKeyCommand::Rotate { target, terms } = command;
    let end = key_end::rotate_root(&under(home, &target, terms)?, wait(terms.patience)).await?;
    print_end(&end, printer)
}

async fn import_key(home: &Home, arguments: ImportKeyArguments) -> Result<Done, AppError> {
    let ImportKeyArguments { id, material_file, legacy, usage, target, terms } = arguments;
    let file = read_secret(&material_file, key::MATERIAL_FILE_MAX)?;
    let material = key::parse_material(&file)
        .map_err(|reason| AppError::Input { path: material_file, reason: reason.to_owned() })?;
    Ok(key::import(&under(home, &target, terms)?, id, usage, &material, legacy, wait(terms.patience)).await?)
}

pub(super) async fn run_quota(home: &Home, command: QuotaCommand, printer: Printer) -> Result<(), AppError> {
    let (quota, target, terms) = match command {
        QuotaCommand::Show(Whole { target, terms }) => {
            return Ok(printer.print(&quota::show(&under(home, &target, terms)?, wait(terms.patience)).await?)?);
        }
        QuotaCommand::Set { requests_per_second, burst, target, terms } => {
            (Some(Quota { requests_per_second, burst }), target, terms)
        }
        QuotaCommand::Clear(Whole { target, terms }) => (None, target, terms),
    };
    Ok(printer.print(&quota::set(&under(home, &target, terms)?, quota, wait(terms.patience)).await?)?)
}

pub(super) async fn run_client_auth(home: &Home, command: ClientAuthCommand, printer: Printer) -> Result<(), AppError> {
    let (settings, target, terms) = match command {
        ClientAuthCommand::Show(Whole { target, terms }) => {
            return Ok(printer.print(&client_auth::show(&under(home, &target, terms)?, wait(terms.patience)).await?)?);
        }
        ClientAuthCommand::Set { ca: path, common_name, target, terms } => {
            let authorities = client_auth::parse_authorities(&files::read(&path, FILE_MAX)?)
                .map_err(|error| AppError::Input { path, reason: error.to_string() })?;
            tell(&format!("holdfast: {}", client_auth::DEPRECATED));
            let settings = client_auth::settings(authorities, common_name).map_err(AppError::Usage)?;
            (Some(settings), target, terms)
        }
        ClientAuthCommand::Clear(Whole { target, terms }) => (None, target, terms),
    };
    Ok(printer.print(&client_auth::set(&under(home, &target, terms)?, settings, wait(terms.patience)).await?)?)
}

pub(super) async fn run_credential(home: &Home, command: CredentialCommand, printer: Printer) -> Result<(), AppError> {
    match command {
        CredentialCommand::Show { command_id, secret, target, patience } => {
            secret.out.as_deref().map_or(Ok(()), files::check_new)?;
            let issued = credential::show(&session(home, &target)?, command_id, wait(patience)).await?;
            print_credential(issued, &secret, printer)
        }
        CredentialCommand::Create { secret, target, terms } => {
            // A credential whose secret finds no place would be made all the same.
            secret.out.as_deref().map_or(Ok(()), files::check_new)?;
            let issued = credential::create(&under(home, &target, terms)?, wait(terms.patience)).await?;
            print_credential(issued, &secret, printer)
        }
        CredentialCommand::Import { access_key_id, secret_access_key_file, target, terms } => {
            let secret = read_secret_access_key(&secret_access_key_file)?;
            let session = under(home, &target, terms)?;
            Ok(printer.print(&credential::import(&session, access_key_id, secret, wait(terms.patience)).await?)?)
        }
        CredentialCommand::Remove { access_key_id, target, terms } => {
            let session = under(home, &target, terms)?;
            Ok(printer.print(&credential::remove(&session, access_key_id, wait(terms.patience)).await?)?)
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

/// Reads certificates in PEM.
fn certificates(path: PathBuf) -> Result<Vec<DerCertificate>, AppError> {
    tls::parse_chain(&files::read(&path, FILE_MAX)?)
        .map_err(|error| AppError::Input { path, reason: error.to_string() })
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

pub(super) async fn run_tls(home: &Home, command: TlsCommand, printer: Printer) -> Result<(), AppError> {
    match command {
        TlsCommand::Csr { out, target, terms } => {
            out.as_deref().map_or(Ok(()), files::check_new)?;
            let request = tls::request(&under(home, &target, terms)?, wait(terms.patience)).await?;
            if let Some(path) = &out {
                files::write_new(path, request.pem.as_bytes())?;
                tell(&format!("holdfast: the request is in {}; {}", path.display(), request.evidence.summary()));
                return Ok(());
            }
            Ok(printer.print(&request)?)
        }
        TlsCommand::Install { chain: path, target, terms } => {
            let chain = certificates(path)?;
            let session = under(home, &target, terms)?;
            Ok(printer.print(&tls::install(&session, chain, wait(terms.patience)).await?)?)
        }
        TlsCommand::Auto { directory, directory_ca, issuer_ca, contact, until, off: _, target, terms } => {
            let order = match (directory, directory_ca, issuer_ca, until) {
                (Some(directory), Some(path), Some(issuer_path), Some(until_ms)) => {
                    let roots = (certificates(path.clone())?, certificates(issuer_path)?);
                    let order = tls::standing_order(directory, roots, contact, until_ms);
                    Some(order.map_err(|reason| AppError::Input { path, reason })?)
                }
                // The command line takes all of them, or --off.
                _ => None,
            };
            let session = under(home, &target, terms)?;
            Ok(printer.print(&tls::set_renewal(&session, order, wait(terms.patience)).await?)?)
        }
        TlsCommand::Show(Whole { target, terms }) => {
            let session = under(home, &target, terms)?;
            Ok(printer.print(&tls::show(&session, wait(terms.patience)).await?)?)
        }
    }
}

pub(super) async fn run_kms(home: &Home, command: KmsCommand, printer: Printer) -> Result<(), AppError> {
    let KmsCommand::Config { region, key, out, show_secret, command_id, target, patience } = command;
    let session = session(home, &target)?;
    let issued = credential::show(&session, command_id, wait(patience)).await?;
    let keys = key.iter().map(ToString::to_string).collect();
    let options = kms::KmsOptions { region, keys, show_secret };
    Ok(printer.print(&kms::configure(session.store(), &issued, &out, &options)?)?)
}
