//! A program as a child that ends with its test.
//!
//! Guarantees: a child is ended by its own id, when it is dropped at the latest: asked first, made to when it does not listen.
//! Its output goes into a log; a failing test prints the log's end, and a log that speaks of a panic fails the test. Children
//! stay in the test's process group, so that a test runner that kills a test kills them too.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a log that a failing test prints.
const TAIL_LINES: usize = 40;

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    log_start: usize,
}

impl Process {
    /// Starts `command`; its output is added to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = open_log(log);
        let log_start = usize::try_from(out.metadata().unwrap().len()).unwrap();
        let err = out.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), log_start }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it logged since it was started.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal to this very process, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
            // The child has not been waited for, so the id is still its own.
            kill_process(pid, signal).unwrap();
        }
    }

    /// SIGTERM, and SIGKILL when that does not end it.
    pub fn terminate(mut self) -> ExitStatus {
        self.end()
    }

    /// SIGKILL: it gets no chance to put anything in order.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if started.elapsed() > patience {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        if let Some(status) = self.wait(PATIENCE) {
            return status;
        }
        // It ignores SIGTERM; `kill` is a no-op where it has ended meanwhile.
        let _ = self.child.kill();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            eprintln!("--- {} (process {}) logged at the end:\n{tail}\n---", self.name, self.id());
        } else {
            assert!(!log.contains("panicked"), "{} panicked:\n{log}", self.name);
        }
    }
}

/// Runs a program to its end. It gets `input` if there is any.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!complaints.contains("panicked"), "{command:?} panicked:\n{complaints}");
    output
}

fn open_log(log: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(log).unwrap()
}
