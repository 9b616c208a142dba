//! A local system for one run, in a folder that goes with it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_link::Address;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::{Pid, Signal, kill_process};

use super::LoadError;
use super::cpu::pinned;

/// How long it may take to come up, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long it may take to end.
const END_PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(50);
/// What `up` says when all is there.
const UP: &str = "Up until Ctrl-C";
/// What its custodian is called here.
const CUSTODIAN: &str = "custodian";
/// Where it says so, in the folder.
const LOG: &str = "up.log";

/// `holdfast-dev up` as a process of ours. It ends with this value.
pub(super) struct LocalSystem {
    folder: PathBuf,
    up: Child,
}

impl LocalSystem {
    /// Starts one, with everything in it on these processors, and waits until it serves.
    pub(super) fn start(cores: &[usize], stop: &AtomicBool) -> Result<Self, LoadError> {
        let folder = temporary_folder().map_err(|error| failed(&error))?;
        let up = spawn(&folder, cores).map_err(|error| failed(&error))?;
        let mut system = Self { folder, up };
        system.wait(stop)?;
        Ok(system)
    }

    /// Ends everything and starts it again on what it left, on all processors; [`Self::wait`] says when it serves.
    pub(super) fn begin_again(&mut self) -> Result<(), LoadError> {
        self.end();
        // Of the run before: whoever looks for it would take it for this one's.
        let _ = fs::remove_file(self.state().join("parent/ports.json"));
        self.up = spawn(&self.folder, &[]).map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Waits until it serves.
    pub(super) fn wait(&mut self, stop: &AtomicBool) -> Result<(), LoadError> {
        let started = Instant::now();
        loop {
            let said = fs::read_to_string(self.folder.join(LOG)).unwrap_or_default();
            if said.contains(UP) {
                return Ok(());
            }
            let ended = !matches!(self.up.try_wait(), Ok(None));
            if ended || started.elapsed() > PATIENCE {
                return Err(LoadError::Local {
                    reason: format!("the local system does not come up:\n{}", said.trim_end()),
                });
            }
            if stop.load(Ordering::Relaxed) {
                return Err(LoadError::Interrupted);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Its state folder.
    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Where the enclave itself takes connections.
    pub(super) fn ingress(&self) -> Result<Address, LoadError> {
        Address::unix(&self.state().join("run/ingress.sock")).map_err(|error| failed(&error))
    }

    /// A socket in its folder.
    pub(super) fn socket(&self, name: &str) -> Result<Address, LoadError> {
        Address::unix(&self.folder.join(name)).map_err(|error| failed(&error))
    }
}

impl LocalSystem {
    fn end(&mut self) {
        if let Some(pid) = i32::try_from(self.up.id()).ok().and_then(Pid::from_raw) {
            // It has not been waited for, so the id is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        let started = Instant::now();
        while started.elapsed() < END_PATIENCE && matches!(self.up.try_wait(), Ok(None)) {
            std::thread::sleep(TICK);
        }
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}

impl Drop for LocalSystem {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &Path, cores: &[usize]) -> io::Result<Child> {
    let spawn = || {
        let out = File::create(folder.join(LOG))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("up").arg("--state").arg(folder.join("state")).args(["--listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()
    };
    pinned(cores, spawn).and_then(core::convert::identity)
}

fn failed(error: &dyn core::fmt::Display) -> LoadError {
    LoadError::Local { reason: format!("cannot start a local system: {error}") }
}

/// Nobody else can guess its name, and it must be new.
fn temporary_folder() -> io::Result<PathBuf> {
    let mut random = [0; 6];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
    let folder = std::env::temp_dir().join(format!("hf-load-{}", hex::encode(random)));
    DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Enclave and parent of a state folder of `holdfast-dev up`, where it is up.
pub(super) fn processes_of(state: &Path) -> Vec<(String, u32)> {
    let mut processes = all_processes_of(state);
    processes.retain(|(name, _)| name != CUSTODIAN);
    processes
}

/// One of its processes: `enclave`, `parent` or `custodian`.
pub(super) fn process_of(state: &Path, name: &str) -> Result<u32, LoadError> {
    let found = all_processes_of(state).into_iter().find(|(found, _)| found == name);
    found.map(|(_, pid)| pid).ok_or_else(|| LoadError::Local { reason: format!("the {name} does not run") })
}

fn all_processes_of(state: &Path) -> Vec<(String, u32)> {
    let pids = fs::read_to_string(state.join("pids")).unwrap_or_default();
    let kind = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next()?;
        let verb = words.next()?;
        let name = if program.ends_with(b"holdfast-parent") {
            "parent"
        } else if program.ends_with(b"holdfast-dev") && verb == b"enclave" {
            "enclave"
        } else if program.ends_with(b"holdfast-custodian") {
            CUSTODIAN
        } else {
            return None;
        };
        Some((name.to_owned(), pid))
    };
    let mut processes: Vec<_> = pids.lines().filter_map(|line| kind(line.parse().ok()?)).collect();
    processes.sort();
    processes
}
