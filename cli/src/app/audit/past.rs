//! Logs of the past: held against another policy, and against CloudTrail.

use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_guard::Policy;
use holdfast_shared::hpke::PrivateKey;

use super::{believed, read_heads_of, readers, size};
use crate::app::{AppError, millis, success_if};
use crate::arguments::{PastArguments, ReconcileArguments};
use crate::audit::cloudtrail::{self, CloudTrail, CloudTrailError};
use crate::audit::folder::Folder;
use crate::audit::heads::{Heads, voucher};
use crate::audit::reconcile::{Reconcile, Terms};
use crate::audit::records::{Line, Unopened, cursors};
use crate::audit::replay::{Replay, ReplayReport};
use crate::audit::standing::Standing;
use crate::home::Home;
use crate::output::Printer;
use crate::progress::Progress;

/// Calls around the asked-for time that are kept, since KMS and enclave note different moments of one call: an hour.
const AROUND_MS: u64 = 3_600_000;

impl From<CloudTrailError> for AppError {
    fn from(error: CloudTrailError) -> Self {
        Self::Audit(error.to_string())
    }
}

/// A log that was verified, as far as that goes.
struct Past {
    folder: Folder,
    readers: Vec<PrivateKey>,
    standing: Standing,
}

impl Past {
    fn open(home: &Home, arguments: &PastArguments) -> Result<Self, AppError> {
        let PastArguments { heads, source, .. } = arguments;
        let store = home.key_store(source.target.key_store.as_deref())?;
        let id = store.manifest.id();
        let readers = readers(home, source.key_file.as_deref())?;
        let folder = Folder::open(&source.log, id)?;
        let heads = match heads {
            Some(path) => Heads::prove(&read_heads_of(path, id)?, id, believed(&store), &voucher(&store)),
            None => (Heads::default(), Vec::new()),
        };
        let progress = Progress::of("verifying the log", size(&folder));
        let standing = Standing::of(&folder, heads, &readers, &|bytes| progress.add(bytes));
        Ok(Self { folder, readers, standing })
    }

    /// Every record that opens. Returns what does not.
    fn each(&self, take: &mut dyn FnMut(Line)) -> Result<Unopened, AppError> {
        let progress = Progress::of("reading the log", size(&self.folder));
        let mut unopened = Unopened::default();
        for mut cursor in cursors(&self.folder) {
            cursor.read_with(&self.readers, &|bytes| progress.add(bytes), take)?;
            unopened.add(cursor.into_unopened()?);
        }
        Ok(unopened)
    }
}

/// Has a policy decide anew.
pub(in crate::app) fn replay(
    home: &Home,
    policy: &Policy,
    arguments: &PastArguments,
) -> Result<ReplayReport, AppError> {
    let past = Past::open(home, arguments)?;
    let (since, until) = (arguments.since.unwrap_or(0), arguments.until.unwrap_or(u64::MAX));
    let mut replay = Replay::of(policy, past.standing.clone());
    let unopened = past.each(&mut |line| {
        if (since..until).contains(&line.record.at_ms) {
            replay.take(&line);
        }
    })?;
    Ok(replay.finish(unopened.records))
}

/// Compares with CloudTrail.
pub(super) fn reconcile(home: &Home, arguments: ReconcileArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let ReconcileArguments { cloudtrail, window, custom_key_store: custom_key_stores, past } = arguments;
    let (since_ms, until_ms) = (past.since.unwrap_or(0), past.until.unwrap_or(u64::MAX));
    let trail = read_trail(&cloudtrail, since_ms.saturating_sub(AROUND_MS), until_ms.saturating_add(AROUND_MS))?;
    let past = Past::open(home, &past)?;
    let terms = Terms { since_ms, until_ms, window_ms: millis(window), custom_key_stores };
    let mut reconcile = Reconcile::with(trail, terms, past.standing.clone());
    let unopened = past.each(&mut |line| reconcile.take(&line))?;
    let report = reconcile.finish(&unopened);
    printer.print(&report)?;
    Ok(success_if(report.reconciled))
}

fn read_trail(paths: &[PathBuf], since_ms: u64, until_ms: u64) -> Result<CloudTrail, AppError> {
    let sources = cloudtrail::sources(paths)?;
    let all = sources.iter().map(|source| source.size).fold(0, u64::saturating_add);
    let progress = Progress::of("reading CloudTrail's files", all);
    let mut trail = CloudTrail::default();
    for source in &sources {
        trail.read(source, since_ms, until_ms)?;
        progress.add(source.size);
    }
    Ok(trail)
}
