//! `holdfast-dev up`: the whole system in one command.
//!
//! ```text
//! NSM emulator ─▶ administrator ─▶ custodian ─▶ manifest ─▶ parent, enclave ─▶ ceremony ─▶ certificate ─▶ keys ─▶ round trip
//! ```
//!
//! Guarantees: every process that it starts ends with it, also when it fails or its terminal is closed; what a killed one left is
//! ended by the next on the same state; every step that it prints was carried out through the operator's tool's own functions,
//! which verify what they show; a second run on the same state repeats no ceremony. Assumes: one `up` to a state folder.
//! Refuses: a state folder in use, flags that contradict the state, an address that is taken.

pub mod authority;
pub mod configurations;
pub mod kms;
pub mod layout;
pub mod offer;
pub mod processes;
pub mod proof;
pub mod report;
pub mod settings;
pub mod system;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_cli::commands::manifest::CreateError;
use holdfast_cli::home::HomeError;
use holdfast_cli::session::SessionError;
use holdfast_link::remedy;
use tokio::signal::unix::{SignalKind, signal};

use self::authority::AuthorityError;
use self::layout::{Layout, LayoutError};
use self::processes::{ProcessError, Processes};
use self::proof::ProofError;
use self::report::{Steps, say};
use self::settings::{Contradiction, UpSettings};
use crate::aws_json::client::AwsError;
use crate::xks_client::XksClientError;

/// Why `up` ended.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The state folder.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A flag that contradicts the state.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// The address for clients is taken.
    #[error(
        "cannot listen at {address}: {source}{}; choose another address with --listen, or with --kms=ADDR for KMS",
        remedy::of_listening(*address, source)
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A process that does not come up.
    #[error("{name} is not up after {seconds} s")]
    NotUp {
        /// Which.
        name: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The administrator's folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] CreateError),
    /// An order or a question.
    #[error("{step}: {source}")]
    Session {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: SessionError,
    },
    /// The development authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The client.
    #[error(transparent)]
    Client(#[from] XksClientError),
    /// The round trip.
    #[error("the round trip failed: {0}")]
    Proof(#[from] ProofError),
    /// KMS.
    #[error("KMS: {0}")]
    Kms(#[from] AwsError),
    /// KMS could not connect its key store.
    #[error("KMS could not connect its key store: {code}; `holdfast explain {code}` says what that means")]
    NotConnected {
        /// `ConnectionErrorCode`.
        code: String,
    },
    /// Something else came back.
    #[error("KMS: Decrypt gave back something else than what was encrypted")]
    KmsRoundTrip,
    /// A key that is there, but not as it is wanted.
    #[error("key {id} is there with usage {found}, not {wanted}; name another key, or the usage that it has")]
    KeyUsage {
        /// The key.
        id: String,
        /// What it may be used for.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A file that a process or an earlier run wrote.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Ended by a signal before everything was up.
    #[error("ended before everything was up")]
    Interrupted,
    /// Any of the above, with the place of the logs.
    #[error("{source}\nthe processes' logs are in {logs}", logs = logs.display())]
    WithLogs {
        /// What went wrong.
        source: Box<Self>,
        /// Where the logs are.
        logs: PathBuf,
    },
}

/// Runs until Ctrl-C, SIGTERM or the end of its terminal, or with `--check` until the round trip is over.
///
/// # Errors
/// [`UpError`]; a process that ends by itself is one.
pub async fn run(settings: &UpSettings) -> Result<(), UpError> {
    let layout = Layout::prepare(&settings.state)?;
    let processes = Processes::new(layout.path("pids"), layout.root());
    for address in [Some(settings.listen), settings.kms].into_iter().flatten() {
        check_free(address)?;
    }
    let is_up = AtomicBool::new(false);
    let work = async {
        let steps = Steps::default();
        let offer = system::bring_up(settings, &layout, &processes, &steps).await?;
        say(&offer.to_string());
        is_up.store(true, Ordering::Relaxed);
        if settings.check {
            return Ok(());
        }
        say("\nUp until Ctrl-C.\n");
        std::future::pending().await
    };
    let result = tokio::select! {
        result = work => result,
        ended = processes.first_end() => Err(ended.into()),
        () = asked_to_end() => if is_up.load(Ordering::Relaxed) { Ok(()) } else { Err(UpError::Interrupted) },
    };
    // Where a process has ended, that is why the step failed.
    let result = result.map_err(|error| match (&error, processes.ended()) {
        (UpError::Process(_), _) | (_, None) => error,
        (_, Some(ended)) => ended.into(),
    });
    processes.stop();
    result.map_err(|error| match error {
        error @ (UpError::Process(_) | UpError::Interrupted | UpError::Contradiction(_)) => error,
        error => UpError::WithLogs { source: Box::new(error), logs: layout.path("logs") },
    })
}

/// Ctrl-C, SIGTERM, or the end of the terminal (SIGHUP), unless that was to be ignored (`nohup`).
pub async fn asked_to_end() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    let mut hangup = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    let hung_up = async {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hung_up => {}
    }
}

/// Whether whoever started this process has it ignore SIGHUP, which is signal 1: the lowest bit of the mask (proc(5)).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// The parent would say the same, but only after everything else has started.
fn check_free(address: SocketAddr) -> Result<(), UpError> {
    TcpListener::bind(address).map(drop).map_err(|source| UpError::Listen { address, source })
}
