//! `holdfast kill`, and `holdfast status` with its view that goes on.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::custody::{complete_if, confirm};
use super::{AppError, audit, millis, session, success_if, wait_for};
use crate::arguments::{KillArguments, LogSource, StatusArguments};
use crate::audit::usage::{Counting, Usage};
use crate::commands::block::{self, Scope};
use crate::commands::kill::{self, BlastRadius, KillReport};
use crate::commands::status::{self, StatusReport};
use crate::home::Home;
use crate::moment::{format_ms, now_ms};
use crate::output::{Printer, tell};
use crate::session::SessionError;

/// Puts the cursor into the corner and takes away what stands there (ECMA-48, CUP and ED).
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// Custodians are not asked more often than this.
pub(super) const EVERY_MIN: Duration = Duration::from_millis(500);

pub(super) async fn run(home: &Home, arguments: KillArguments, printer: Printer) -> Result<ExitCode, AppError> {
    let session = session(home, &arguments.target)?;
    let scope = Scope { store: arguments.store, keys: arguments.key.clone() };
    let change = block::blocking(&session, &scope).await?;
    if change.needed > 1 {
        let text = format!("blocking needs {} signatures here: begin with holdfast block --out FILE", change.needed);
        return Err(AppError::Usage(text));
    }
    let mut radius = BlastRadius::of(&session, described(&scope)).await?;
    // Whoever says yes beforehand wants it to stop; who used it can be read afterwards.
    if arguments.dry_run || !arguments.yes {
        radius.used_by(usage(home, &arguments)?);
    }
    if arguments.dry_run {
        printer.print(&radius)?;
        return Ok(ExitCode::SUCCESS);
    }
    tell(&radius.to_string());
    confirm(arguments.yes, "Block it?")?;
    let sent = Instant::now();
    let report = block::send(&session, &change, wait_for(arguments.timeout)).await?;
    let enclaves = kill::stopped(&session, &change.overlay, sent, wait_for(arguments.timeout)).await;
    if arguments.yes {
        radius.used_by(usage(home, &arguments)?);
    }
    let report = KillReport { radius, block: report, enclaves };
    printer.print(&report)?;
    Ok(complete_if(report.is_complete()))
}

fn described(scope: &Scope) -> String {
    if scope.store {
        return "every key".to_owned();
    }
    let keys: Vec<_> = scope.keys.iter().map(ToString::to_string).collect();
    format!("{} {}", if keys.len() == 1 { "key" } else { "keys" }, keys.join(", "))
}

/// Who used the keys, where a log was given. A log that cannot be read stops no kill.
fn usage(home: &Home, arguments: &KillArguments) -> Result<Option<Usage>, AppError> {
    let Some(log) = arguments.log.clone() else { return Ok(None) };
    let source = LogSource { log, key_file: arguments.key_file.clone(), target: arguments.target.clone() };
    let since_ms = now_ms().saturating_sub(millis(arguments.within));
    let mut counting = Counting::of(arguments.key.clone(), since_ms);
    match audit::each_record(home, &source, &mut |line| counting.take(&line)) {
        Ok(unopened) => Ok(Some(counting.finish(unopened))),
        Err(error) if arguments.dry_run => Err(error),
        Err(error) => {
            tell(&format!("holdfast: {error}; going on without it"));
            Ok(None)
        }
    }
}

/// Shows the status, once or again and again.
pub(super) async fn run_status(
    home: &Home,
    arguments: StatusArguments,
    printer: Printer,
) -> Result<ExitCode, AppError> {
    if !arguments.watch {
        let report = status::status(&session(home, &arguments.target)?).await?;
        printer.print(&report)?;
        return Ok(success_if(is_well(&report)));
    }
    loop {
        // Opened anew each time: what was learned of the key store meanwhile counts.
        let report = status::status(&session(home, &arguments.target)?).await;
        show(&report, printer)?;
        tokio::time::sleep(arguments.every.max(EVERY_MIN)).await;
    }
}

fn is_well(report: &StatusReport) -> bool {
    !report.warnings.iter().any(|warning| warning.severe)
}

/// One look. That custodians do not answer is what somebody watches for, and so no end.
fn show(report: &Result<StatusReport, SessionError>, printer: Printer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if printer.json {
        let line = match report {
            Ok(report) => serde_json::to_string(report),
            Err(error) => serde_json::to_string(&serde_json::json!({ "error": error.to_string() })),
        };
        writeln!(out, "{}", line.unwrap_or_default())?;
    } else {
        let clear = if out.is_terminal() { CLEAR } else { "" };
        let (now, text) = (format_ms(now_ms()), report.as_ref().map_or_else(ToString::to_string, ToString::to_string));
        writeln!(out, "{clear}{now}\n{text}\n")?;
    }
    out.flush()
}
