//! `holdfast audit upload` and `holdfast audit download`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::{AppError, success_if};
use crate::arguments::{DownloadArguments, ReachArguments, UploadArguments};
use crate::audit::store::download::{self, Wanted};
use crate::audit::store::place::Reach;
use crate::audit::store::upload::{Pace, Uploader};
use crate::audit::store::watch::{LAST_ROUND_MAX, Pauses};
use crate::audit::store::{Downloaded, StoreError, Summary, Uploaded};
use crate::output::{Printer, tell};

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Place(reason) => Self::Usage(reason),
            error => Self::Audit(error.to_string()),
        }
    }
}

impl From<ReachArguments> for Reach {
    fn from(ReachArguments { endpoint, region, roots }: ReachArguments) -> Self {
        Self { endpoint, region, roots }
    }
}

fn say(line: &str) {
    tell(&format!("holdfast: {line}"));
}

pub(super) async fn upload(arguments: UploadArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let UploadArguments { folder, to, watch, state, reach } = arguments;
    let state = match state {
        Some(state) => state,
        None => beside(&folder)?,
    };
    let mut uploader = Uploader::open(&folder, (&to, &reach.into()), &state, &say)?;
    let (summary, is_whole) =
        if watch { watch_over(&mut uploader).await? } else { (uploader.round(Pace::All).await?, true) };
    printer.print(&Uploaded::from(summary))?;
    Ok(success_if(is_whole && summary.failed == 0))
}

/// The file beside the folder.
fn beside(folder: &Path) -> Result<PathBuf, AppError> {
    let name = folder.file_name().ok_or_else(|| AppError::Usage("give a file with --state".to_owned()))?;
    let mut name = name.to_owned();
    name.push(".uploaded.json");
    Ok(folder.with_file_name(name))
}

/// What asks the program to end.
struct Ends {
    terminated: Signal,
    interrupted: Signal,
}

impl Ends {
    fn watch() -> Result<Self, AppError> {
        Ok(Self { terminated: signal(SignalKind::terminate())?, interrupted: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminated.recv() => {}
            _ = self.interrupted.recv() => {}
        }
    }
}

/// Round after round, until the program is to end and one last round is done. False where that was not to be.
async fn watch_over(uploader: &mut Uploader<'_>) -> Result<(Summary, bool), AppError> {
    let (mut ends, mut pauses, mut summary) = (Ends::watch()?, Pauses::default(), Summary::default());
    // One time for all that is still to be done, whenever the program was told to end.
    let mut end = None;
    loop {
        let is_last = end.is_some();
        let pace = if is_last { Pace::All } else { Pace::Paced };
        let round = tokio::select! {
            round = uploader.round(pace) => round,
            () = overdue(&mut ends, &mut end) => {
                say("ends in the middle of a round: not everything was uploaded");
                return Ok((summary, false));
            }
        };
        let is_done = round.is_ok();
        let (pause, line) = pauses.after(&round);
        if let Some(line) = line {
            say(&line);
        }
        if let Ok(round) = round {
            summary = summary.then(round);
        }
        if is_last {
            return Ok((summary, is_done));
        }
        if end.is_none() {
            tokio::select! {
                () = sleep(pause) => {}
                () = ends.asked() => end = Some(Instant::now() + LAST_ROUND_MAX),
            }
        }
    }
}

/// Returns when the program was told to end and its time for that is over.
async fn overdue(ends: &mut Ends, end: &mut Option<Instant>) {
    if end.is_none() {
        ends.asked().await;
    }
    sleep_until(*end.get_or_insert_with(|| Instant::now() + LAST_ROUND_MAX)).await;
}

pub(super) async fn download(arguments: DownloadArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let DownloadArguments { from, folder, key_store, boot, reach } = arguments;
    let wanted = Wanted { key_store_id: key_store, boot_id: boot };
    let summary = download::download((&from, &reach.into()), &folder, wanted, &say).await?;
    printer.print(&Downloaded::from(summary))?;
    Ok(success_if(summary.failed == 0))
}
