//! `holdfast-dev capacity`: how far one system goes: memory, key stores, processors, custodians.
//!
//! ```text
//! flags ─► a local system, or two ─► runs of `load`, or enclaves that are played ─► findings ─► text, JSON
//! ```
//!
//! Guarantees: everything goes through real processes, real connections and the real protocols; keys and key stores are made by signed
//! commands; whatever it starts ends with it. Assumes: what it says of processor time and memory is held against figures of the same
//! run. A finding that is not as expected does not change the exit code.

mod applicant;
mod cores;
mod custodian;
mod enlist;
mod findings;
mod memory;
mod ready;
mod stores;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_cli::moment::{format_ms, now_ms};
use serde_json::json;
use tokio::runtime::Runtime;

use self::findings::{Found, Report};
use super::compare::Rounds;
use super::cpu::{Machine, Watched};
use super::local::{LocalSystem, process_of};
use super::settings::ShapeSettings;
use super::{LoadError, raise_file_limit};

/// Flags of `holdfast-dev capacity`.
#[derive(Clone, Debug, Args)]
pub struct CapacitySettings {
    /// What is measured
    #[command(subcommand)]
    what: What,
    /// Print the report as JSON
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// No progress on standard error
    #[arg(long, global = true, help_heading = "Output")]
    quiet: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Memory of an enclave: idle, for each idle connection, and whether it grows with requests
    Memory(MemorySettings),
    /// Processor time of a request with many key stores and keys, beside that with one of each
    Stores(StoresSettings),
    /// Processor time of a request in an enclave with several processors, beside that with one
    Cores(ComparedSettings),
    /// From a custodian's grant to the first request that is answered, whenever an enclave starts
    Ready(ReadySettings),
    /// What a custodian needs to grant a lease, and how soon many enclaves that watch it see a block
    Custodian(CustodianSettings),
}

#[derive(Clone, Debug, Args)]
struct MemorySettings {
    #[command(flatten)]
    shape: ShapeSettings,
    /// Processors for everything that is started
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    server_core: Vec<usize>,
}

#[derive(Clone, Debug, Args)]
struct ComparedSettings {
    #[command(flatten)]
    shape: ShapeSettings,
    /// Rounds: in each, every system has its turn, and medians of the rounds' ratios are shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    repeat: u32,
    /// Processors for the servers; `cores` compares the first with all of them [default of `cores`: 0,1]
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    server_core: Vec<usize>,
    /// Processors for the client
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    client_core: Vec<usize>,
}

#[derive(Clone, Debug, Args)]
struct StoresSettings {
    #[command(flatten)]
    compared: ComparedSettings,
    /// Key stores, under one host name
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    stores: u32,
    /// Keys of each; each is made by a signed command of its own
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    keys: u32,
}

#[derive(Clone, Debug, Args)]
struct ReadySettings {
    /// Times that everything is started again
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    times: u32,
}

#[derive(Clone, Debug, Args)]
struct CustodianSettings {
    /// Enclaves that are played, 250 of each key store: a custodian grants no more than 256 leases of one
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    enclaves: u32,
}

/// What a measurement has at hand.
struct Bench<'a> {
    runtime: Runtime,
    stop: &'a Arc<AtomicBool>,
    quiet: bool,
}

impl Bench<'_> {
    fn rounds(&self, settings: &ComparedSettings) -> Rounds {
        Rounds { count: settings.repeat, threads: 1, client_cores: settings.client_core.clone(), quiet: self.quiet }
    }

    fn tell(&self, line: &str) {
        if !self.quiet {
            // Nobody may be looking.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}

impl ShapeSettings {
    /// Where no other duration is given.
    fn lasting(&self, seconds: u64) -> Self {
        Self { duration: self.duration.or(Some(Duration::from_secs(seconds))), ..self.clone() }
    }
}

/// A process of a local system, watched from now on.
fn watched(system: &LocalSystem, name: &str) -> Result<Watched, LoadError> {
    let pid = process_of(&system.state(), name)?;
    let failed = |error: io::Error| LoadError::Process { name: name.to_owned(), pid, reason: error.to_string() };
    Watched::begin(name, pid).map_err(failed)
}

fn failed(step: &str, error: &dyn core::fmt::Display) -> LoadError {
    LoadError::Local { reason: format!("{step}: {error}") }
}

/// Runs until the measurement is over or `stop` is set; prints what was found.
///
/// # Errors
/// [`LoadError`].
pub fn run(settings: &CapacitySettings, stop: &Arc<AtomicBool>) -> Result<(), LoadError> {
    let started = format_ms(now_ms());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| LoadError::System(error.to_string()))?;
    let bench = Bench { runtime, stop, quiet: settings.quiet };
    if cfg!(debug_assertions) {
        bench.tell("not an optimised build: no figure says anything");
    }
    raise_file_limit(8_192);
    let found = match &settings.what {
        What::Memory(settings) => memory::measure(&bench, settings)?,
        What::Stores(settings) => stores::measure(&bench, settings)?,
        What::Cores(settings) => cores::measure(&bench, settings)?,
        What::Ready(settings) => ready::measure(&bench, settings)?,
        What::Custodian(settings) => custodian::measure(&bench, settings)?,
    };
    let Found { what, configuration, findings, comparison } = found;
    let tool = format!("holdfast-dev {}", env!("CARGO_PKG_VERSION"));
    let machine = Machine::this();
    let report = Report { format: 1, tool, started, machine, what, configuration, findings, comparison };
    let text = if settings.json { format!("{:#}\n", json!(report)) } else { report.to_string() };
    crate::up::report::say(&text);
    Ok(())
}
