//! The processes that `up` starts: each logs into a file, none outlives it.
//!
//! Guarantees: on [`Processes::stop`] and on drop every child is ended: asked first (SIGTERM), made to (SIGKILL) when it does not
//! listen. They are in process groups of their own, so that Ctrl-C reaches `up` alone and they end in order. What an `up` that
//! was killed left behind is ended by the next one on the same state, which knows it by process id and command line.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often children are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Bytes of a log's end that an error shows.
const TAIL: u64 = 1500;

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not there.
    #[error("{program} is missing beside this program ({folder}); build it with: cargo build -p {package}", folder = folder.display())]
    Missing {
        /// Its name.
        program: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
        /// The package that makes it.
        package: &'static str,
    },
    /// It cannot be started, or its log cannot be written.
    #[error("cannot start {name}: {source}")]
    Start {
        /// Which.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{name} ended ({status}); its log is {log}{tail}", log = log.display())]
    Ended {
        /// Which.
        name: &'static str,
        /// How.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
}

struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// The children, in the order in which they were started.
pub struct Processes {
    running: Mutex<Vec<Running>>,
    record: PathBuf,
}

impl Processes {
    /// None yet. `record` is the file that names them while they run; those that it still names, and whose command line names
    /// `folder`, are ended first.
    #[must_use]
    pub fn new(record: PathBuf, folder: &Path) -> Self {
        for pid in
            std::fs::read_to_string(&record).unwrap_or_default().lines().rev().filter_map(|line| line.parse().ok())
        {
            end_leftover(pid, folder);
        }
        let _ = std::fs::remove_file(&record);
        Self { running: Mutex::default(), record }
    }

    /// Starts `command` with its output in `log`.
    ///
    /// # Errors
    /// [`ProcessError::Start`].
    pub fn start(&self, name: &'static str, mut command: Command, log: PathBuf) -> Result<(), ProcessError> {
        let child = open_log(&log)
            .and_then(|(out, err)| command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn())
            .map_err(|source| ProcessError::Start { name, source })?;
        let pid = child.id();
        self.lock().push(Running { name, child, log });
        let mut record = OpenOptions::new();
        record
            .create(true)
            .append(true)
            .open(&self.record)
            .and_then(|mut record| writeln!(record, "{pid}"))
            .map_err(|source| ProcessError::Start { name, source })
    }

    /// Runs `command` to its end, its output in `log`.
    ///
    /// # Errors
    /// [`ProcessError::Start`], or [`ProcessError::Ended`] when it fails.
    pub fn run(name: &'static str, mut command: Command, log: PathBuf) -> Result<(), ProcessError> {
        let status = open_log(&log)
            .and_then(|(out, err)| command.stdin(Stdio::null()).stdout(out).stderr(err).status())
            .map_err(|source| ProcessError::Start { name, source })?;
        if status.success() { Ok(()) } else { Err(end_error(name, status, log)) }
    }

    /// Waits until one of them ends by itself.
    pub async fn first_end(&self) -> ProcessError {
        loop {
            if let Some(error) = self.ended() {
                return error;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The first of them that has ended by itself, if one has.
    pub fn ended(&self) -> Option<ProcessError> {
        self.lock().iter_mut().find_map(|running| {
            let status = running.child.try_wait().ok().flatten()?;
            Some(end_error(running.name, status, running.log.clone()))
        })
    }

    /// Ends all, last started first.
    pub fn stop(&self) {
        let mut running = self.lock();
        while let Some(mut last) = running.pop() {
            end(&mut last.child);
        }
        // Where it stays, the next run finds that nobody of that name runs.
        let _ = std::fs::remove_file(&self.record);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}

fn end(child: &mut Child) {
    let started = Instant::now();
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // The child has not been waited for, so the id is still its own; it may have ended, which is as good.
        let _ = kill_process(pid, Signal::TERM);
    }
    while started.elapsed() < PATIENCE {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(TICK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Ends a process of an earlier run, if it still is that process.
fn end_leftover(pid: i32, folder: &Path) {
    let is_ours = || {
        let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command_line).contains(&*folder.to_string_lossy())
    };
    let Some(id) = Pid::from_raw(pid).filter(|_| is_ours()) else { return };
    let started = Instant::now();
    let _ = kill_process(id, Signal::TERM);
    while is_ours() {
        if started.elapsed() > PATIENCE {
            let _ = kill_process(id, Signal::KILL);
            return;
        }
        std::thread::sleep(TICK);
    }
}

fn end_error(name: &'static str, status: ExitStatus, log: PathBuf) -> ProcessError {
    let tail = tail(&log).map(|tail| format!(", which ends:\n{tail}")).unwrap_or_default();
    ProcessError::Ended { name, status, log, tail }
}

fn tail(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

fn open_log(log: &Path) -> io::Result<(File, File)> {
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    let twin = file.try_clone()?;
    Ok((file, twin))
}

/// Finds a program of ours beside the one that is running.
///
/// # Errors
/// [`ProcessError::Missing`].
pub fn beside(program: &'static str, package: &'static str) -> Result<PathBuf, ProcessError> {
    let folder = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned)).unwrap_or_default();
    let path = folder.join(program);
    if path.is_file() { Ok(path) } else { Err(ProcessError::Missing { program, folder, package }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_reported_with_the_end_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let processes = Processes::new(folder.path().join("pids"), folder.path());
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 3"]);
        processes.start("shell", command, folder.path().join("shell.log")).unwrap();
        let error = processes.first_end().await.to_string();
        assert!(error.contains("shell ended") && error.contains("the reason"), "{error}");
    }

    #[test]
    fn stopping_ends_those_that_listen() {
        let folder = tempfile::tempdir().unwrap();
        let processes = Processes::new(folder.path().join("pids"), folder.path());
        let mut command = Command::new("sleep");
        command.arg("600");
        processes.start("sleep", command, folder.path().join("sleep.log")).unwrap();
        let pid = processes.lock()[0].child.id();
        processes.stop();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!folder.path().join("pids").exists());
    }

    #[test]
    fn leftovers_are_ended_and_strangers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("pids");
        let marker = folder.path().join("state");
        let mut ours =
            Command::new("sh").arg("-c").arg("read line").arg(&marker).stdin(Stdio::piped()).spawn().unwrap();
        let mut stranger = Command::new("sh").arg("-c").arg("read line").stdin(Stdio::piped()).spawn().unwrap();
        std::fs::write(&record, format!("{}\n{}\nnot a number\n", stranger.id(), ours.id())).unwrap();
        let waiting = std::thread::spawn(move || ours.wait().unwrap());
        drop(Processes::new(record, &marker));
        assert!(!waiting.join().unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
