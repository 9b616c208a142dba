//! Starts the enclave as a child process and starts it again when it ends.
//!
//! Guarantees: pauses between starts grow from the shortest to the longest of [`RESTART_PAUSE`], so that a broken command
//! does not burn the machine; the process is told to end, and then killed, before this program ends.
//! Assumes: the command stays in the foreground.

use core::future::Future;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::limits::{ENCLAVE_STOP_TIMEOUT, RESTART_HEALTHY, RESTART_PAUSE};
use crate::state::State;

/// Keeps the command running until `stop` is ready, then ends it.
pub(crate) async fn keep_running(command: Vec<String>, state: Arc<State>, stop: impl Future<Output = ()>) {
    let mut stop = core::pin::pin!(stop);
    let mut pause = *RESTART_PAUSE.start();
    loop {
        let started = Instant::now();
        match start(&command) {
            Ok(mut child) => {
                state.counters.enclave_started.increment();
                tracing::info!(pid = child.id(), "the enclave's process was started");
                tokio::select! {
                    ended = child.wait() => report(&ended),
                    () = &mut stop => return end(child).await,
                }
            }
            Err(error) => tracing::error!(%error, program = command.first(), "cannot start the enclave's process"),
        }
        pause = next_pause(pause, started.elapsed());
        tokio::select! {
            () = sleep(pause) => {}
            () = &mut stop => return,
        }
    }
}

fn report(ended: &io::Result<ExitStatus>) {
    match ended {
        Ok(status) => tracing::error!(%status, "the enclave's process ended"),
        Err(error) => tracing::error!(%error, "the enclave's process cannot be watched"),
    }
}

/// Twice the last pause, or the shortest after a healthy run.
fn next_pause(last: Duration, ran: Duration) -> Duration {
    if ran >= RESTART_HEALTHY { *RESTART_PAUSE.start() } else { (last * 2).min(*RESTART_PAUSE.end()) }
}

/// The process gets a group of its own: a terminal's Ctrl-C must not end it before its connections are drained.
fn start(command: &[String]) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).kill_on_drop(true).spawn()
}

async fn end(mut child: Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::debug!(%error, "cannot signal the enclave's process");
    }
    if timeout(ENCLAVE_STOP_TIMEOUT, child.wait()).await.is_err() {
        tracing::warn!("the enclave's process did not end in time and is killed");
        if let Err(error) = child.kill().await {
            tracing::error!(%error, "cannot kill the enclave's process");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_a_healthy_run_resets_them() {
        let mut pause = *RESTART_PAUSE.start();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pause = next_pause(pause, Duration::ZERO);
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(next_pause(pause, RESTART_HEALTHY), *RESTART_PAUSE.start());
    }
}
