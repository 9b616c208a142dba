//! What concerns several administrators and custodians.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use holdfast_shared::attestation::TrustRoot;
use holdfast_shared::cbor;
use holdfast_shared::manifest::{AcceptedImage, Thresholds, VerifiedManifest};

use super::{AppError, INCOMPLETE, millis, session, success_if, under, wait, wait_for};
use crate::arguments::{
    AdoptArguments, ApproveArguments, CreateArguments, HistoryArguments, ImageArguments, ManifestCommand,
    ProvenanceCommand, RecordsArguments, ReleaseCommand, ReleasePolicyCommand, ReleasePolicyOrder, ScopeArguments,
    SendArguments, SetReleasePolicyArguments, SignArguments, SucceedArguments,
};
use crate::commands::block::{self, Scope, SpreadReport};
use crate::commands::document::{self, Statement};
use crate::commands::manifest::{self, ManifestReport};
use crate::commands::measurements::{self, AcceptedSets, Configuration, MeasurementsError};
use crate::commands::release_policy::{self, Edit, PolicyLines};
use crate::commands::{history, orders, provenance, release, succession};
use crate::files;
use crate::home::{self, Home, HomeError};
use crate::moment;
use crate::output::{EMULATED_WARNING, Printer, printable, tell};
use crate::session::{Session, SessionError};

pub(super) async fn run_manifest(
    home: &Home,
    command: ManifestCommand,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    match command {
        ManifestCommand::Create(arguments) => create_manifest(home, *arguments, printer)?,
        ManifestCommand::Show { file } => printer.print(&ManifestReport::from(&home::read_manifest(&file)?))?,
        ManifestCommand::Add { file, trust_root } => add_manifest(home, &file, trust_root.as_deref(), printer)?,
        ManifestCommand::Sign(arguments) => run_sign(home, &arguments, printer)?,
        ManifestCommand::Enrol { file, patience } => return enrol(home, &file, patience.timeout, printer).await,
        ManifestCommand::Succeed(arguments) => succeed(home, *arguments, printer).await?,
        ManifestCommand::Adopt(arguments) => return adopt(home, *arguments, printer).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn add_manifest(home: &Home, file: &Path, trust_root: Option<&Path>, printer: Printer) -> Result<(), AppError> {
    let store = manifest::add(home, file, trust_root)?;
    if !store.trust_root.is_aws() {
        tell(EMULATED_WARNING);
    }
    Ok(printer.print(&ManifestReport::from(&store.manifest))?)
}

fn create_manifest(home: &Home, arguments: CreateArguments, printer: Printer) -> Result<(), AppError> {
    let custodians =
        arguments.custodian.iter().map(|path| manifest::read_custodian(path)).collect::<Result<Vec<_>, _>>()?;
    let kms_share = match (&arguments.kms_key_arn, &arguments.kms_root) {
        (Some(arn), Some(root)) => Some(manifest::read_kms_share(arn, arguments.kms_address.as_deref(), root)?),
        _ => None,
    };
    let majority = custodians.len().checked_div(2).unwrap_or(0).saturating_add(1);
    let majority = majority.saturating_add(usize::from(kms_share.is_some()));
    files::check_new(&arguments.out)?;
    let settings = manifest::Settings {
        name: arguments.name,
        administrators: read_administrators(&arguments.administrator)?,
        shares_needed: arguments.shares_needed.unwrap_or_else(|| u8::try_from(majority).unwrap_or(u8::MAX)),
        hostile_tolerated: arguments.hostile,
        kms_share,
        custodians,
        host_name: arguments.host_name,
        path_prefix: arguments.path_prefix,
        measurements: accepted(&arguments.measurements, arguments.configuration)?.sets,
        emulated_root: (arguments.trust_root.as_os_str() != "aws").then_some(arguments.trust_root),
        lease_ms: millis(arguments.lease),
        thresholds: thresholds(Thresholds::ONE, &arguments.threshold)?,
    };
    let draft = manifest::draft(home, &settings)?;
    let others: Vec<_> = draft.manifest.administrators.iter().skip(1).map(|other| other.name.clone()).collect();
    let signed = cbor::encode(&draft.envelope);
    if settings.emulated_root.is_some() {
        tell(EMULATED_WARNING);
    }
    if others.is_empty() {
        let verified = VerifiedManifest::verify(&signed).map_err(manifest::CreateError::from)?;
        let store = home.add_key_store(verified, settings.emulated_root.as_deref())?;
        files::write_new(&arguments.out, &signed)?;
        return Ok(printer.print(&ManifestReport::from(&store.manifest))?);
    }
    files::write_new(&arguments.out, &signed)?;
    let report = document::read(home, &arguments.out)?.report(&arguments.out);
    Ok(printer.print(&report)?)
}

fn read_administrators(paths: &[PathBuf]) -> Result<Vec<holdfast_shared::manifest::Administrator>, HomeError> {
    paths.iter().map(|path| home::read_administrator(path)).collect()
}

fn thresholds(mut thresholds: Thresholds, texts: &[String]) -> Result<Thresholds, AppError> {
    for text in texts {
        manifest::set_threshold(&mut thresholds, text)
            .map_err(|error| AppError::Usage(format!("--threshold {text}: {error}")))?;
    }
    Ok(thresholds)
}

async fn enrol(home: &Home, file: &Path, timeout: Duration, printer: Printer) -> Result<ExitCode, AppError> {
    let manifest = home::read_manifest(file)?;
    let session = Session::open(home, Some(&manifest.id().to_string()))?;
    let all = session.contacts().len();
    let spread = session.enrol_with(all, wait_for(timeout)).await?;
    for one in &spread.custodians {
        match &one.error {
            None => tell(&format!("holdfast: {} holds the manifest", printable(&one.custodian))),
            Some(error) => tell(&format!(
                "holdfast: {} DOES NOT hold the manifest: {}",
                printable(&one.custodian),
                printable(error)
            )),
        }
    }
    printer.print(&ManifestReport::from(&session.store().manifest))?;
    Ok(complete_if(spread.complete))
}

pub(super) fn complete_if(complete: bool) -> ExitCode {
    if complete { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) }
}

async fn succeed(home: &Home, arguments: SucceedArguments, printer: Printer) -> Result<(), AppError> {
    files::check_new(&arguments.out)?;
    let session = session(home, &arguments.target)?.refresh().await?;
    let own = session.store().manifest.manifest().thresholds;
    let changes = succession::Changes {
        add_administrators: read_administrators(&arguments.add_administrator)?,
        remove_administrators: arguments.remove_administrator,
        add_custodians: arguments
            .add_custodian
            .iter()
            .map(|path| manifest::read_custodian(path))
            .collect::<Result<_, _>>()?,
        remove_custodians: arguments.remove_custodian,
        thresholds: Some(thresholds(own, &arguments.threshold)?),
        shares_needed: arguments.shares_needed,
        hostile_tolerated: arguments.hostile,
        host_name: arguments.host_name,
    };
    let draft = succession::succeed(&session, &changes).await?;
    document::write(&arguments.out, &draft.envelope)?;
    let report = document::read(home, &arguments.out)?.report(&arguments.out);
    tell(&format!("holdfast: {}", manifest::explain_numbers(&draft.manifest)));
    Ok(printer.print(&report)?)
}

async fn adopt(home: &Home, arguments: AdoptArguments, printer: Printer) -> Result<ExitCode, AppError> {
    arguments.chain_out.as_deref().map_or(Ok(()), files::check_new)?;
    let document = document::read(home, &arguments.file)?;
    let (Statement::Successor(next), Some(store)) = (&document.statement, &document.store) else {
        let reason = "is not a successor manifest".to_owned();
        return Err(AppError::Input { path: arguments.file, reason });
    };
    tell(&format!("holdfast: {}", manifest::explain_numbers(next)));
    let signed = cbor::encode(&document.envelope).to_vec();
    let target = crate::arguments::Target { key_store: Some(store.manifest.id().to_string()) };
    let session = under(home, &target, arguments.terms)?.refresh().await?;
    let (manifest, adopted) = succession::adopt(&session, &signed, wait(arguments.terms.patience)).await?;
    if let Some(path) = &arguments.chain_out {
        files::write_new(path, &cbor::encode(&home::chain(&manifest)))?;
        tell(&format!("holdfast: the manifest and its successors are in {}", path.display()));
    }
    printer.print(&adopted)?;
    Ok(complete_if(adopted.staged.complete && adopted.behind.is_empty()))
}

/// Asks a person, unless that was not wanted.
pub(super) fn confirm(yes: bool, question: &str) -> Result<(), SessionError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(SessionError::NotConfirmed("there is nobody to ask; give --yes after reading what it says"));
    }
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(SessionError::NotConfirmed("the answer was not yes"))
    }
}

pub(super) async fn run_approve(home: &Home, arguments: ApproveArguments, printer: Printer) -> Result<(), AppError> {
    let session = session(home, &arguments.target)?;
    let pending = orders::find(&session, &arguments.id).await?;
    tell(&pending.report.to_string());
    confirm(arguments.yes, "Sign this order?")?;
    Ok(printer.print(&orders::approve(&session, &pending, wait(arguments.patience)).await?)?)
}

pub(super) fn run_sign(home: &Home, arguments: &SignArguments, printer: Printer) -> Result<(), AppError> {
    let mut document = document::read(home, &arguments.file)?;
    for path in &arguments.merge {
        let other = document::read(home, path)?;
        if !document.merge(&other) {
            let reason = format!("is no copy of {}", arguments.file.display());
            return Err(AppError::Input { path: path.clone(), reason });
        }
    }
    if arguments.dry_run {
        return Ok(printer.print(&document.report(&arguments.file))?);
    }
    tell(&document.report(&arguments.file).to_string());
    confirm(arguments.yes, "Sign this?")?;
    document.sign(home)?;
    document::rewrite(&arguments.file, &document.envelope)?;
    Ok(printer.print(&document.report(&arguments.file))?)
}

pub(super) async fn run_send(home: &Home, arguments: SendArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let SendArguments { file, timeout } = arguments;
    let document = document::read(home, &file)?;
    let refused = |reason: &str| AppError::Input { path: file.clone(), reason: reason.to_owned() };
    let Some(store) = document.store.clone() else {
        return Err(refused("is a manifest; send it with: holdfast manifest enrol"));
    };
    if !document.is_complete() {
        return Err(refused(&document.report(&file).next));
    }
    let session = Session::about(home, store)?;
    let signed = cbor::encode(&document.envelope).to_vec();
    let complete = match &document.statement {
        Statement::Overlay(overlay) => {
            let report = block::send_signed(&session, overlay, None, signed, wait_for(timeout)).await?;
            printer.print(&report)?;
            report.spread.complete
        }
        Statement::Policy(_) => {
            let report = release_policy::send(&session, &document.envelope, wait_for(timeout)).await?;
            printer.print(&report)?;
            report.spread.complete
        }
        Statement::Manifest(_) | Statement::Successor(_) => {
            return Err(refused("is a manifest; put it in force with: holdfast manifest adopt"));
        }
    };
    Ok(complete_if(complete))
}

pub(super) async fn run_block(
    home: &Home,
    arguments: ScopeArguments,
    add: bool,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    if arguments.scope.all {
        return block_all(home, &arguments, add, printer).await;
    }
    let session = session(home, &arguments.target)?;
    let scope = Scope { store: arguments.scope.store, keys: arguments.scope.key };
    let change = next_block(&session, &scope, add).await?;
    let envelope = session.sign_overlay(&change.overlay)?;
    if let Some(path) = &arguments.out {
        document::write(path, &envelope)?;
        printer.print(&document::read(home, path)?.report(path))?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.dry_run {
        printer.print(&document::of(home, envelope)?.report(Path::new("FILE")))?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = block::send(&session, &change, wait_for(arguments.timeout)).await?;
    printer.print(&report)?;
    Ok(complete_if(report.spread.complete))
}

async fn next_block(session: &Session, scope: &Scope, add: bool) -> Result<block::Change, SessionError> {
    if add { block::blocking(session, scope).await } else { block::unblocking(session, scope).await }
}

/// Every key store of the folder; one that cannot be blocked does not keep the others.
async fn block_all(home: &Home, arguments: &ScopeArguments, add: bool, printer: Printer) -> Result<ExitCode, AppError> {
    let stores = home.key_stores()?;
    if stores.is_empty() {
        return Err(HomeError::NoKeyStore.into());
    }
    let (mut reports, mut errors) = (Vec::new(), Vec::new());
    let scope = Scope { store: true, keys: Vec::new() };
    for store in stores {
        let name = store.manifest.manifest().name.clone();
        match block_one(home, store, &scope, add, arguments).await {
            Ok(report) => reports.push(report),
            Err(error) => {
                tell(&format!("holdfast: {}: {error}", printable(&name)));
                errors.push(error);
            }
        }
    }
    let complete = errors.is_empty() && reports.iter().all(|report| report.spread.complete);
    let any = reports.iter().any(|report| report.spread.complete);
    printer.print(&AllBlocks(reports))?;
    Ok(if complete {
        ExitCode::SUCCESS
    } else if any {
        ExitCode::from(INCOMPLETE)
    } else {
        ExitCode::FAILURE
    })
}

async fn block_one(
    home: &Home,
    store: home::KeyStore,
    scope: &Scope,
    add: bool,
    arguments: &ScopeArguments,
) -> Result<SpreadReport, SessionError> {
    let session = Session::about(home, store)?;
    let change = next_block(&session, scope, add).await?;
    block::send(&session, &change, wait_for(arguments.timeout)).await
}

/// One report for each key store.
#[derive(serde::Serialize)]
#[serde(transparent)]
struct AllBlocks(Vec<SpreadReport>);

impl core::fmt::Display for AllBlocks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (place, report) in self.0.iter().enumerate() {
            let end = if place == 0 { "" } else { "\n\n" };
            write!(f, "{end}{}:\n{report}", printable(&report.key_store))?;
        }
        Ok(())
    }
}

pub(super) async fn run_release_policy(
    home: &Home,
    command: ReleasePolicyCommand,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    let (edit, order) = match command {
        ReleasePolicyCommand::Show(target) => {
            printer.print(&release_policy::show(&session(home, &target)?).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        ReleasePolicyCommand::Repeat { timeout, target } => {
            let report = release_policy::repeat(&session(home, &target)?, wait_for(timeout)).await?;
            printer.print(&report)?;
            return Ok(complete_if(report.spread.complete));
        }
        ReleasePolicyCommand::Set(arguments) => set_release_policy(*arguments)?,
        ReleasePolicyCommand::AcceptImage(ImageArguments { measurements, configuration, name, sunset, order }) => {
            let accepted = accepted(&measurements, configuration)?;
            (Edit { accept: images(accepted, name, sunset), ..Edit::default() }, order)
        }
        ReleasePolicyCommand::Sunset { image, at, never, order } => {
            let at = if never { None } else { Some(at.unwrap_or_else(moment::now_ms)) };
            (Edit { sunset: vec![(image, at)], ..Edit::default() }, order)
        }
        ReleasePolicyCommand::RequireApprovals { approvals, order } => {
            (Edit { approvals: Some(approvals), ..Edit::default() }, order)
        }
        ReleasePolicyCommand::Window { window, order } => (Edit { window: Some(window.0), ..Edit::default() }, order),
        ReleasePolicyCommand::Leases { most, order } => {
            (Edit { leases_max: Some(core::num::NonZeroU32::new(most)), ..Edit::default() }, order)
        }
    };
    change_release_policy(home, &edit, order, printer).await
}

fn set_release_policy(arguments: SetReleasePolicyArguments) -> Result<(Edit, ReleasePolicyOrder), AppError> {
    let accepted = arguments.measurements.map(|path| accepted(&path, arguments.configuration)).transpose()?;
    let edit = Edit {
        images: accepted.map(|accepted| images(accepted, None, None)),
        lease_ms: arguments.lease.map(millis),
        approvals: arguments.approvals,
        window: arguments.window.map(|window| window.0),
        leases_max: arguments.leases.map(core::num::NonZeroU32::new),
        ..Edit::default()
    };
    if edit == Edit::default() {
        return Err(AppError::Usage(
            "release-policy set: say what to change; see holdfast release-policy set --help".to_owned(),
        ));
    }
    Ok((edit, arguments.order))
}

fn accepted(path: &Path, configuration: Option<PathBuf>) -> Result<AcceptedSets, MeasurementsError> {
    measurements::read(path, configuration.map(Configuration::File).as_ref())
}

/// Under the name that was asked for, or else the image's own.
fn images(accepted: AcceptedSets, name: Option<String>, sunset_ms: Option<u64>) -> Vec<AcceptedImage> {
    let name = name.or(accepted.name);
    let image = |measurements| AcceptedImage { measurements, name: name.clone(), sunset_ms };
    accepted.sets.into_iter().map(image).collect()
}

async fn change_release_policy(
    home: &Home,
    edit: &Edit,
    order: ReleasePolicyOrder,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    let session = session(home, &order.target)?;
    let signed = release_policy::change(&session, edit).await?;
    if order.dry_run {
        printer.print(&PolicyLines::from(&signed.update.policy))?;
        tell(&format!("holdfast: needs {} signatures (custody); nothing was sent", signed.needed));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &order.out {
        document::write(path, &signed.envelope)?;
        printer.print(&document::read(home, path)?.report(path))?;
        return Ok(ExitCode::SUCCESS);
    }
    if signed.needed > 1 {
        return Err(SessionError::MoreSignatures { what: "a release policy", needed: signed.needed }.into());
    }
    let report = release_policy::send(&session, &signed.envelope, wait_for(order.timeout)).await?;
    printer.print(&report)?;
    Ok(complete_if(report.spread.complete))
}

pub(super) async fn run_release(home: &Home, command: ReleaseCommand, printer: Printer) -> Result<ExitCode, AppError> {
    match command {
        ReleaseCommand::List(target) => printer.print(&release::waiting(&session(home, &target)?).await?)?,
        ReleaseCommand::Approve { boot, life, yes, target, patience } => {
            let session = session(home, &target)?;
            let waiting = release::waiting(&session).await?;
            let boot = release::find(&waiting, &boot).map_err(AppError::Policy)?;
            tell(&boot.to_string());
            confirm(yes, "Approve this boot?")?;
            let report = release::approve(&session, boot.boot_id, millis(life), wait(patience)).await?;
            printer.print(&report)?;
            return Ok(complete_if(report.spread.complete));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run_records(home: &Home, arguments: RecordsArguments, printer: Printer) -> Result<(), AppError> {
    let session = session(home, &arguments.target)?;
    Ok(printer.print(&release::records(&session, arguments.custodian.as_deref(), arguments.limit).await?)?)
}

pub(super) async fn run_history(
    home: &Home,
    arguments: HistoryArguments,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    let session = session(home, &arguments.target)?;
    let report = history::history(&session, arguments.custodian.as_deref(), arguments.from).await?;
    printer.print(&report)?;
    Ok(success_if(report.verified))
}

pub(super) async fn run_provenance(
    home: Result<Home, HomeError>,
    command: ProvenanceCommand,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    match command {
        ProvenanceCommand::Export { out, target } => {
            files::check_new(&out)?;
            let file = provenance::export(&session(&home?, &target)?).await?;
            files::write_new(&out, home::to_json(&file).as_bytes())?;
            tell(&format!("holdfast: {} versions are in {}", file.versions.len(), out.display()));
            Ok(ExitCode::SUCCESS)
        }
        ProvenanceCommand::Verify { file, trust_root, key_store } => {
            let root = trust_root.as_deref().map_or_else(|| Ok(TrustRoot::aws()), home::read_trust_root)?;
            let report = provenance::verify(&files::read(&file, provenance::PROVENANCE_MAX)?, &root, key_store);
            printer.print(&report)?;
            Ok(success_if(report.verified))
        }
    }
}
