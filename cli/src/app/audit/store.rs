//! `holdfast audit upload` and `holdfast audit download`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::super::{AppError, success_if};
use crate::arguments::{DownloadArguments, ReachArguments, UploadArguments};
use crate::audit::store::download::{self, Wanted};
use crate::audit::store::place::Reach;
use crate::audit::store::upload::{Pace, Uploader};
use crate::audit::store::{Downloaded, StoreError, Uploaded, watch};
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
    let UploadArguments { folder, to, watch: goes_on, state, reach } = arguments;
    let state = match state {
        Some(state) => state,
        None => beside(&folder)?,
    };
    let mut uploader = Uploader::open(&folder, (&to, &reach.into()), &state, &say)?;
    let (summary, is_whole) = if goes_on {
        watch::watch(async |pace| uploader.round(pace).await, ends()?, &say).await
    } else {
        (uploader.round(Pace::All).await?, true)
    };
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

/// Is over when the program is asked to end.
fn ends() -> Result<impl Future<Output = ()>, AppError> {
    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    })
}

pub(super) async fn download(arguments: DownloadArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let DownloadArguments { from, folder, key_store, boot, reach } = arguments;
    let wanted = Wanted { key_store_id: key_store, boot_id: boot };
    let summary = download::download((&from, &reach.into()), &folder, wanted, &say).await?;
    printer.print(&Downloaded::from(summary))?;
    Ok(success_if(summary.failed == 0))
}
