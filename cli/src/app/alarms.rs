//! `holdfast alarms`.

use std::io::{self, Write as _};

use super::kill::EVERY_MIN;
use super::{AppError, session};
use crate::arguments::AlarmsArguments;
use crate::commands::alarms::{AlarmLine, after, alarms};
use crate::home::Home;
use crate::output::{Printer, tell};

pub(super) async fn run(home: &Home, arguments: AlarmsArguments, printer: Printer) -> Result<(), AppError> {
    if !arguments.watch {
        let session = session(home, &arguments.target)?;
        return Ok(printer.print(&alarms(&session, &arguments.kind, arguments.limit).await?)?);
    }
    let newest = alarms(&session(home, &arguments.target)?, &[], 1).await?;
    let mut last = newest.alarms.first().map_or(0, |alarm| alarm.id);
    let mut is_failing = false;
    loop {
        tokio::time::sleep(arguments.every.max(EVERY_MIN)).await;
        // Opened anew each time: what was learned of the key store meanwhile counts.
        match after(&session(home, &arguments.target)?, last).await {
            Ok(raised) => {
                is_failing = false;
                last = raised.last().map_or(last, |raised| raised.id);
                let meant = raised
                    .into_iter()
                    .filter(|it| arguments.kind.is_empty() || arguments.kind.contains(&it.alarm.kind));
                for line in meant.map(AlarmLine::from) {
                    show(&line, printer)?;
                }
            }
            // That nobody answers is no end of watching.
            Err(error) => {
                if !is_failing {
                    tell(&format!("holdfast: {error}; trying again"));
                }
                is_failing = true;
            }
        }
    }
}

fn show(line: &AlarmLine, printer: Printer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if printer.json {
        writeln!(out, "{}", serde_json::to_string(line)?)?;
    } else {
        writeln!(out, "{line}")?;
    }
    out.flush()
}
