//! `holdfast audit`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use holdfast_shared::audit::{AuditMode, AuditSettings, MaxUnwitnessed};
use holdfast_shared::hpke::PrivateKey;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::quorum::Quorum;
use holdfast_shared::secrets::Secret;

use super::{AppError, session, success_if, under, wait};
use crate::arguments::{
    AuditCommand, LogSource, ModeArgument, QueryArguments, SetAuditArguments, VerifyAuditArguments, Whole,
};
use crate::audit::folder::{Folder, FolderError, LogFile};
use crate::audit::heads::{HEADS_FILE_MAX, Heads, HeadsFile, Voucher, voucher};
use crate::audit::prove::{self, ProveError};
use crate::audit::records::{Cursor, Filter, Line, Newest, cursors};
use crate::audit::verify::{Against, verify};
use crate::commands::audit::{self, AuditorFile};
use crate::files::{self, FILE_MAX, FileError};
use crate::home::{self, Home, HomeError, KeyStore};
use crate::output::{Printer, tell};
use crate::progress::Progress;

pub(super) mod past;
mod store;

/// How long `tail --follow` waits before it looks again.
const FOLLOW_PAUSE: Duration = Duration::from_millis(500);
/// Bytes of an auditor's private key.
const KEY_LEN: usize = 48;

impl From<FolderError> for AppError {
    fn from(error: FolderError) -> Self {
        Self::Audit(error.to_string())
    }
}

impl From<ProveError> for AppError {
    fn from(error: ProveError) -> Self {
        Self::Audit(error.to_string())
    }
}

pub(super) async fn run(
    home: Result<Home, HomeError>,
    command: AuditCommand,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    match command {
        // Ciphertext from here to there: nobody's home is needed.
        AuditCommand::Upload(arguments) => return store::upload(*arguments, printer).await,
        AuditCommand::Download(arguments) => return store::download(*arguments, printer).await,
        AuditCommand::Set(arguments) => {
            let (target, terms) = (arguments.target.clone(), arguments.terms);
            let settings = Some(settings(arguments)?);
            printer.print(&audit::set(&under(&home?, &target, terms)?, settings, wait(terms.patience)).await?)?;
        }
        AuditCommand::Clear(Whole { target, terms }) => {
            printer.print(&audit::set(&under(&home?, &target, terms)?, None, wait(terms.patience)).await?)?;
        }
        AuditCommand::Show(Whole { target, terms }) => {
            printer.print(&audit::show(&under(&home?, &target, terms)?, wait(terms.patience)).await?)?;
        }
        AuditCommand::Key { name, out } => printer.print(&make_key(name, &out)?)?,
        AuditCommand::Heads { out, target } => {
            files::check_new(&out)?;
            let heads = ask(&home?, target.key_store.as_deref()).await?;
            files::write_new(&out, home::to_json(&heads).as_bytes())?;
            let boots: usize = heads.custodians.iter().map(|custodian| custodian.heads.len()).sum();
            tell(&format!("holdfast: {boots} heads of {} custodians", heads.custodians.len()));
        }
        AuditCommand::Verify(arguments) => return run_verify(&home?, arguments, printer).await,
        AuditCommand::Tail { lines, follow, source } => tail(&home?, lines, follow, source, printer).await?,
        AuditCommand::Query(arguments) => query(&home?, *arguments, printer)?,
        AuditCommand::Reconcile(arguments) => return past::reconcile(&home?, *arguments, printer),
        AuditCommand::Prove { boot, index, out, heads, log, target } => {
            files::check_new(&out)?;
            let store = home?.key_store(target.key_store.as_deref())?;
            let folder = Folder::open(&log, store.manifest.id())?;
            let found = folder.boots.iter().find(|folder| folder.boot_id == boot);
            let found = found.ok_or_else(|| AppError::Audit(format!("there is no log of boot {boot}")))?;
            let heads = heads.map(|path| read_heads_of(&path, store.manifest.id())).transpose()?;
            let vouch: &Voucher<'_> = &voucher(&store);
            let heads = heads.as_ref().map(|heads| (heads, vouch));
            let proof = prove::prove(found, store.manifest.id(), index, heads)?;
            files::write_new(&out, home::to_json(&proof).as_bytes())?;
            tell(&format!("holdfast: {proof}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn settings(arguments: SetAuditArguments) -> Result<AuditSettings, AppError> {
    let auditor = |path: PathBuf| {
        let bytes = files::read(&path, FILE_MAX)?;
        serde_json::from_slice::<AuditorFile>(&bytes)
            .map(Into::into)
            .map_err(|error| AppError::Input { path, reason: error.to_string() })
    };
    let settings = AuditSettings {
        auditors: arguments.auditor.into_iter().map(auditor).collect::<Result<_, AppError>>()?,
        administrators_read: arguments.administrators,
        mode: match arguments.mode {
            ModeArgument::Relaxed => AuditMode::Relaxed,
            ModeArgument::Strict => AuditMode::Strict,
        },
        max_unwitnessed: MaxUnwitnessed {
            seconds: arguments.max_unwitnessed_seconds,
            records: arguments.max_unwitnessed_records,
        },
    };
    audit::settings(settings).map_err(AppError::Usage)
}

fn make_key(name: String, out: &Path) -> Result<AuditorFile, AppError> {
    let failed = |error: holdfast_shared::hpke::HpkeError| AppError::Audit(error.to_string());
    let key = PrivateKey::generate().map_err(failed)?;
    let public = AuditorFile { name, encryption_key: *key.public_key() };
    let checked = AuditSettings { auditors: vec![public.clone().into()], ..AuditSettings::default() };
    audit::settings(checked).map_err(AppError::Usage)?;
    files::write_new_secret(out, key.to_bytes().map_err(failed)?.expose())?;
    Ok(public)
}

/// The reader's keys: the given one, or the administrator's.
fn readers(home: &Home, key: Option<&Path>) -> Result<Vec<PrivateKey>, AppError> {
    let Some(path) = key else { return Ok(vec![home.administrator()?.encryption_key]) };
    let bytes = files::read_secret(path, KEY_LEN)?;
    let bad = || AppError::Input { path: path.to_owned(), reason: "is no private key of an auditor".to_owned() };
    let key = Secret::fill_with(|own: &mut [u8; KEY_LEN]| {
        (bytes.expose().len() == own.len()).then(|| own.copy_from_slice(bytes.expose())).ok_or(())
    });
    Ok(vec![PrivateKey::from_bytes(&key.map_err(|()| bad())?).map_err(|_| bad())?])
}

async fn ask(home: &Home, key_store: Option<&str>) -> Result<HeadsFile, AppError> {
    let target = crate::arguments::Target { key_store: key_store.map(str::to_owned) };
    let session = session(home, &target)?.refresh().await?;
    Ok(audit::heads(&session, &|failure| tell(&format!("holdfast: {failure}"))).await?)
}

fn read_heads_of(path: &Path, key_store_id: KeyStoreId) -> Result<HeadsFile, AppError> {
    let size = std::fs::metadata(path).map(|metadata| metadata.len());
    let size = size.map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    // Room is taken for as much as may be read.
    let max = usize::try_from(size).unwrap_or(HEADS_FILE_MAX).min(HEADS_FILE_MAX);
    let heads: HeadsFile = serde_json::from_slice(&files::read(path, max)?)
        .map_err(|error| AppError::Input { path: path.to_owned(), reason: error.to_string() })?;
    if heads.key_store_id == Some(key_store_id) {
        return Ok(heads);
    }
    Err(AppError::Input { path: path.to_owned(), reason: "has heads of another key store".to_owned() })
}

/// So many custodians that one of them is honest.
fn believed(store: &KeyStore) -> usize {
    Quorum::of(store.manifest.manifest()).believed()
}

async fn run_verify(home: &Home, arguments: VerifyAuditArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let VerifyAuditArguments { heads, source } = arguments;
    let LogSource { log, key_file, target } = source;
    // Before the files: what is witnessed afterwards is no reason to miss entries.
    let heads = match heads {
        Some(path) => read_heads_of(&path, home.key_store(target.key_store.as_deref())?.manifest.id())?,
        None => ask(home, target.key_store.as_deref()).await?,
    };
    let readers = match readers(home, key_file.as_deref()) {
        // Who has no key verifies as well, and hears less of what was done.
        Err(AppError::Home(HomeError::NoAdministrator { .. })) => Vec::new(),
        readers => readers?,
    };
    // Asking may have brought newer release policies.
    let store = home.key_store(target.key_store.as_deref())?;
    let folder = Folder::open(&log, store.manifest.id())?;
    let proven = Heads::prove(&heads, store.manifest.id(), believed(&store), &voucher(&store));
    let progress = Progress::of("verifying", size(&folder));
    let against = Against { heads: proven, readers: &readers, progress: &|bytes| progress.add(bytes) };
    let report = verify(&folder, against);
    drop(progress);
    printer.print(&report)?;
    Ok(success_if(report.verified))
}

/// One record a line, in JSON too.
fn print(line: &Line, printer: Printer) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if printer.json {
        serde_json::to_writer(&mut stdout, line)?;
        return stdout.write_all(b"\n");
    }
    writeln!(stdout, "{line}")
}

fn query(home: &Home, arguments: QueryArguments, printer: Printer) -> Result<(), AppError> {
    let QueryArguments { principal, key, operation, outcome, since, until, source } = arguments;
    let filter = Filter { principal, key, operation, outcome, since_ms: since, until_ms: until };
    let (folder, readers) = open(home, &source)?;
    let (mut failed, mut unopened) = (None, 0_u64);
    for mut cursor in cursors(&folder) {
        cursor.read(&readers, &mut |line| {
            if failed.is_none() && filter.takes(&line.record) {
                failed = print(&line, printer).err();
            }
        })?;
        unopened = unopened.saturating_add(cursor.unopened);
    }
    tell_unopened(unopened);
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Bytes of a key store's logs on disk.
fn size(folder: &Folder) -> u64 {
    folder.boots.iter().flat_map(|boot| &boot.files).map(LogFile::size).fold(0, u64::saturating_add)
}

fn open(home: &Home, source: &LogSource) -> Result<(Folder, Vec<PrivateKey>), AppError> {
    let store = home.key_store(source.target.key_store.as_deref())?;
    Ok((Folder::open(&source.log, store.manifest.id())?, readers(home, source.key_file.as_deref())?))
}

/// Every record of a log that opens, verified or not. Returns how many do not open.
pub(super) fn each_record(home: &Home, source: &LogSource, take: &mut dyn FnMut(Line)) -> Result<u64, AppError> {
    let (folder, readers) = open(home, source)?;
    let progress = Progress::of("reading the log", size(&folder));
    let mut unopened = 0_u64;
    for mut cursor in cursors(&folder) {
        cursor.read_with(&readers, &|bytes| progress.add(bytes), take)?;
        unopened = unopened.saturating_add(cursor.unopened);
    }
    Ok(unopened)
}

fn tell_unopened(count: u64) {
    if count > 0 {
        tell(&format!(
            "holdfast: {count} records do not open with this key at their places; run: holdfast audit verify"
        ));
    }
}

async fn tail(home: &Home, lines: usize, follow: bool, source: LogSource, printer: Printer) -> Result<(), AppError> {
    let (folder, readers) = open(home, &source)?;
    let mut cursors = cursors(&folder);
    let mut newest = Newest::of(lines);
    for cursor in &mut cursors {
        cursor.read(&readers, &mut |line| newest.take(line))?;
    }
    newest.into_lines().try_for_each(|line| print(&line, printer))?;
    tell_unopened(cursors.iter().map(|cursor| cursor.unopened).sum());
    if !follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(FOLLOW_PAUSE).await;
        cursors.extend(unknown(&source, &folder, &cursors)?);
        let mut failed = None;
        for cursor in &mut cursors {
            cursor.read(&readers, &mut |line| failed = failed.take().or(print(&line, printer).err()))?;
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
}

/// Logs that came since.
fn unknown(source: &LogSource, folder: &Folder, known: &[Cursor]) -> Result<Vec<Cursor>, AppError> {
    let now = cursors(&Folder::open(&source.log, folder.key_store_id)?);
    Ok(now.into_iter().filter(|cursor| known.iter().all(|other| other.log() != cursor.log())).collect())
}
