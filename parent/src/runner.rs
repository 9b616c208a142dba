//! What an enclave is run by: a command of its own, or `nitro-cli`.
//!
//! Guarantees: whatever was started is watched until it is gone, and told to end before it is made to; an enclave of `nitro-cli` that
//! runs although nobody was told so is ended before and after each start in its place. Assumes: a command stays in the foreground; an
//! enclave of `nitro-cli` goes on by itself, also without us.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::config::{Config, NitroConfig, Places, Slot, with_cid};
use crate::limits::{ENCLAVE_STOP_TIMEOUT, NITRO_CLEAR_ATTEMPTS, NITRO_POLL};
use crate::nitro::{Cli, CliError, EnclaveInfo, is_wanted};

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runner {
    /// A program and its arguments.
    Command(Vec<String>),
    /// An image.
    Nitro(NitroConfig),
}

/// What to run, and the file that it is in: another file at the same path is another image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) runner: Runner,
    /// Device, inode, length, time of the last change (seconds, nanoseconds).
    file: Option<(u64, u64, u64, i64, i64)>,
}

impl Image {
    /// What the configuration says to run, if anything.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let runner = match (&config.nitro, &config.enclave.command) {
            (Some(nitro), _) => Runner::Nitro(nitro.clone()),
            (None, Some(command)) => Runner::Command(command.clone()),
            (None, None) => return None,
        };
        let found = match &runner {
            Runner::Nitro(nitro) => std::fs::metadata(&nitro.eif).ok(),
            Runner::Command(_) => None,
        };
        let file = found.map(|found| (found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec()));
        Some(Self { runner, file })
    }
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot start the enclave's process {program}: {source}")]
    Process { program: String, source: io::Error },
    #[error(transparent)]
    Nitro(#[from] CliError),
    #[error("nitro-cli gave the enclave the context id {given} instead of {asked}; it was terminated")]
    Cid { given: u64, asked: u32 },
    #[error("nitro-cli needs a context id for the enclave")]
    NoCid,
}

/// Something that runs.
#[derive(Debug)]
pub(crate) enum Running {
    /// A child of ours.
    Process(Child),
    /// An enclave, by its id.
    Enclave { cli: Cli, id: String },
}

impl Runner {
    /// Starts it.
    pub(crate) async fn start(&self, cid: Option<u32>) -> Result<Running, StartError> {
        match self {
            Self::Command(command) => {
                let child = start_process(command, cid).map_err(|source| StartError::Process {
                    program: command.first().cloned().unwrap_or_default(),
                    source,
                })?;
                tracing::info!(pid = child.id(), cid, "the enclave's process was started");
                Ok(Running::Process(child))
            }
            Self::Nitro(config) => start_enclave(config, cid.ok_or(StartError::NoCid)?).await,
        }
    }

    /// What a parent before us left running. Asks until there is an answer: nothing may be started beside what cannot be seen.
    pub(crate) async fn left_running(&self) -> Vec<EnclaveInfo> {
        let Self::Nitro(config) = self else { return Vec::new() };
        let cli = Cli::new(&config.cli);
        let mut failing = false;
        loop {
            match cli.describe_enclaves().await {
                Ok(found) => return found.into_iter().filter(|enclave| is_ours(enclave, config)).collect(),
                Err(error) => {
                    if !failing {
                        tracing::error!(
                            %error,
                            "cannot see whether enclaves of ours were left running; asking again; --check-instance says what this instance \
                             lacks"
                        );
                    }
                    failing = true;
                }
            }
            sleep(NITRO_POLL).await;
        }
    }

    /// Of what was left running, the one that is like what we would start is taken over; the others are ended.
    pub(crate) async fn recover(&self, left: Vec<EnclaveInfo>, places: &Places) -> Option<(Slot, Running)> {
        let Self::Nitro(config) = self else { return None };
        let cli = Cli::new(&config.cli);
        let image = cli.describe_eif(&config.eif).await.ok();
        let mut adopted = None;
        for enclave in left {
            let slot = slot_of(&enclave, places).filter(|_| adopted.is_none());
            let (id, cid) = (enclave.id.clone(), enclave.cid);
            let running = Running::Enclave { cli: cli.clone(), id: id.clone() };
            if let Some(slot) = slot.filter(|_| is_wanted(&enclave, config, image.as_ref())) {
                tracing::warn!(id, cid, "an enclave that was left running is taken over");
                adopted = Some((slot, running));
            } else {
                tracing::warn!(id, cid, "an enclave that was left running is ended");
                self.clear(u32::try_from(cid).ok()).await;
            }
        }
        adopted
    }

    /// Makes sure that nothing is left at this context id, once nothing is to run there any more.
    pub(crate) async fn clear(&self, cid: Option<u32>) {
        let (Self::Nitro(config), Some(cid)) = (self, cid) else { return };
        let cli = Cli::new(&config.cli);
        for attempt in 1..=NITRO_CLEAR_ATTEMPTS {
            let Err(error) = clear(&cli, config, cid).await else { return };
            tracing::error!(cid, attempt, %error, "cannot make sure that no enclave of ours is left");
            if attempt < NITRO_CLEAR_ATTEMPTS {
                sleep(NITRO_POLL).await;
            }
        }
    }
}

/// Ends what has the name of our enclave at this context id, and nobody watches.
async fn clear(cli: &Cli, config: &NitroConfig, cid: u32) -> Result<(), CliError> {
    let name = config.enclave_name(cid);
    let found = cli.describe_enclaves().await?;
    for enclave in found.iter().filter(|enclave| enclave.name.as_ref() == Some(&name)) {
        tracing::warn!(id = enclave.id, cid, "an enclave of ours that nothing watches is ended");
        cli.terminate_enclave(&enclave.id).await?;
    }
    Ok(())
}

/// By its name: ours begin with `nitro.name` and end with the context id.
fn is_ours(enclave: &EnclaveInfo, config: &NitroConfig) -> bool {
    let name = enclave.name.as_deref().unwrap_or_default();
    u32::try_from(enclave.cid).is_ok_and(|cid| name == config.enclave_name(cid))
}

fn slot_of(enclave: &EnclaveInfo, places: &Places) -> Option<Slot> {
    let cid = u32::try_from(enclave.cid).ok()?;
    [Slot::First, Slot::Second].into_iter().find(|slot| places.at(*slot).is_some_and(|place| place.cid == Some(cid)))
}

/// The process gets a group of its own: a terminal's Ctrl-C must not end it before its connections are drained.
fn start_process(command: &[String], cid: Option<u32>) -> io::Result<Child> {
    let word = |word: &String| cid.map_or_else(|| word.clone(), |cid| with_cid(word, cid));
    let mut words = command.iter().map(word);
    let program = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program).args(words).stdin(Stdio::null()).process_group(0).kill_on_drop(true).spawn()
}

async fn start_enclave(config: &NitroConfig, cid: u32) -> Result<Running, StartError> {
    let cli = Cli::new(&config.cli);
    match cli.describe_eif(&config.eif).await {
        Ok(image) => tracing::info!(
            eif = %config.eif.display(), pcr0 = image.pcr0, pcr1 = image.pcr1, pcr2 = image.pcr2, "starting an enclave"
        ),
        // Running it says more.
        Err(error) => tracing::warn!(%error, "the image cannot be described"),
    }
    clear(&cli, config, cid).await?;
    let enclave = match cli.run_enclave(config, cid).await {
        Ok(enclave) => enclave,
        Err(error) => {
            // It may run all the same: `nitro-cli` leaves it to a process of its own, which does not end with the call.
            if let Err(error) = clear(&cli, config, cid).await {
                tracing::error!(cid, %error, "cannot see whether the enclave runs all the same; looking again before the next start");
            }
            return Err(error.into());
        }
    };
    let running = Running::Enclave { cli, id: enclave.id.clone() };
    if enclave.cid != u64::from(cid) {
        running.stop().await;
        return Err(StartError::Cid { given: enclave.cid, asked: cid });
    }
    tracing::info!(
        id = enclave.id,
        cid,
        memory_mib = enclave.memory_mib,
        cpus = enclave.cpus,
        "an enclave was started"
    );
    Ok(running)
}

impl Running {
    /// Returns, with the reason, once it is gone.
    pub(crate) async fn ended(&mut self) -> String {
        match self {
            Self::Process(child) => match child.wait().await {
                Ok(status) => format!("the enclave's process ended: {status}"),
                Err(error) => format!("the enclave's process cannot be watched: {error}"),
            },
            Self::Enclave { cli, id } => gone(cli, id).await,
        }
    }

    /// Tells it to end, and makes sure that it does.
    pub(crate) async fn stop(self) {
        match self {
            Self::Process(child) => end_process(child).await,
            Self::Enclave { cli, id } => match cli.terminate_enclave(&id).await {
                Ok(()) => tracing::info!(id, "an enclave was terminated"),
                Err(error) => tracing::error!(id, %error, "an enclave was not terminated"),
            },
        }
    }
}

/// Asks again and again. An answer that cannot be had says nothing about the enclave.
async fn gone(cli: &Cli, id: &str) -> String {
    let mut failing = false;
    loop {
        sleep(NITRO_POLL).await;
        match cli.describe_enclaves().await {
            Ok(enclaves) => {
                failing = false;
                match enclaves.iter().find(|enclave| enclave.id == id) {
                    Some(enclave) if enclave.is_running() => {}
                    Some(_) => return format!("the enclave {id} is terminating"),
                    None => return format!("the enclave {id} is gone"),
                }
            }
            Err(error) => {
                if !failing {
                    tracing::error!(id, %error, "cannot see whether the enclave runs; asking again");
                }
                failing = true;
            }
        }
    }
}

async fn end_process(mut child: Child) {
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
