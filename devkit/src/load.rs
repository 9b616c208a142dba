//! `holdfast-dev load`: load as AWS KMS brings it, and what a server does under it.
//!
//! ```text
//! flags ─► Shape (profile and overrides) ─► prepare: requests, ciphertexts, one try ─► run ─► Report ─► text, JSON, HTML
//!                                                                                       └─ or rounds of several servers ─► ratios
//! ```
//!
//! Guarantees: every request is signed freshly and has an id of its own; every answer is looked at; latencies of the open loop count
//! from the moment of the schedule. Whatever it starts ends with it. Assumes: figures of one run are held against each other, never
//! against those of another machine or another day. Refuses: to measure a target whose requests fail before the measurement.

pub mod capacity;
pub mod cases;
pub mod compare;
pub mod cpu;
pub mod mix;
pub mod pace;
pub mod primitives;
pub mod profile;
pub mod report;
pub mod request;
pub mod server;
pub mod settings;
pub mod target;
pub mod wire;

mod baselines;
mod child;
mod html;
mod lane;
mod line;
mod local;
mod measure;
mod prepare;
mod progress;
mod run;
mod sign;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use holdfast_cli::moment::{format_ms, now_ms};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use self::baselines::Ring;
use self::cases::Case;
use self::cpu::{Machine, Watched, pin_process};
use self::lane::Work;
use self::local::{LocalSystem, processes_of};
use self::prepare::{Manner, PrepareError, prepare};
use self::primitives::Primitive;
use self::profile::{Profile, Shape};
use self::report::{Configuration, Report, Run};
use self::request::{Sizes, encrypt_bytes};
use self::run::{GroupJob, Job, Load, execute};
use self::settings::LoadSettings;
use self::target::{Target, TargetError};
use self::wire::Place;

/// Requests at once of the neighbour who floods.
const FLOOD: usize = 64;
/// File descriptors for everything but connections.
const FILES_SPARE: u64 = 128;

/// Why there are no figures, or bad ones.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It fails before the measurement.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The run.
    #[error("{name}: {reason}")]
    Run {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// A process that is to be watched.
    #[error("process {name}={pid} cannot be watched: {reason}")]
    Process {
        /// What it is called.
        name: String,
        /// Its id.
        pid: u32,
        /// Why.
        reason: String,
    },
    /// The system that was to be started.
    #[error("{reason}")]
    Local {
        /// Why.
        reason: String,
    },
    /// A server to compare with.
    #[error("a server to compare with: {reason}")]
    Baseline {
        /// Why.
        reason: String,
    },
    /// What the system does not give.
    #[error("{0}")]
    System(String),
    /// A file that cannot be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The run went through, and requests failed.
    #[error("{failed} requests failed or were answered wrongly, {ok} were answered well")]
    Requests {
        /// How many.
        failed: u64,
        /// And how many not.
        ok: u64,
    },
    /// Ended by a signal.
    #[error("ended before the measurement was over")]
    Interrupted,
}

/// Runs until the measurement is over or `stop` is set; prints what was found.
///
/// # Errors
/// [`LoadError`]; [`LoadError::Requests`] after the report was printed.
pub fn run(settings: &LoadSettings, stop: &Arc<AtomicBool>) -> Result<(), LoadError> {
    let started = format_ms(now_ms());
    if cfg!(debug_assertions) && !settings.quiet {
        // As with progress, nobody may be looking.
        let _ = writeln!(io::stderr(), "not an optimised build: what is counted holds, and no figure says anything");
    }
    let shape = Shape::from_settings(&settings.shape);
    raise_file_limit(shape.files());
    // Better to learn now that it cannot be written than after the measurement.
    if let Some(path) = &settings.html {
        std::fs::write(path, "").map_err(|source| LoadError::Write { path: path.clone(), source })?;
    }
    let cores = &settings.measuring.server_core;
    let system = if settings.target.local { Some(LocalSystem::start(cores, stop)?) } else { None };
    let mut target_settings = settings.target.clone();
    target_settings.endpoint.extend(system.as_ref().map(LocalSystem::state));
    let target = Target::from_settings(&target_settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| LoadError::System(error.to_string()))?;
    let configuration = Configuration::of(settings, &target, &shape);
    let ring = Ring { settings, runtime: &runtime, stop };
    let (mut runs, mut comparison) = (Vec::new(), Vec::new());
    let mut primitives = Vec::new();
    match &system {
        Some(system) if settings.measuring.baselines => {
            let cases = settings.cases();
            for case in cases {
                let found = baselines::of_local(&ring, system, &target, *case, &shape, &mut runs)?;
                say(settings, &found.to_string());
                comparison.push(found);
            }
            primitives = primitives_of(&target, cases.iter().map(|case| case.shape(&shape).sizes));
        }
        _ => {
            let work = runtime.block_on(prepare(&target, &shape.manner(), shape.seed))?;
            let watched = watched(settings, &target)?;
            if settings.measuring.baselines {
                primitives = primitives_of(&target, core::iter::once(shape.sizes));
                let found = baselines::of_target(&ring, work, &shape, watched, &mut runs)?;
                say(settings, &found.to_string());
                comparison.push(found);
            } else {
                runs.push(single(settings, &runtime, work, &shape, &watched, stop)?);
                say(settings, &runs.iter().map(ToString::to_string).collect::<String>());
            }
        }
    }
    for primitive in &primitives {
        say(settings, &format!("{:<52} {:>9.0} ns\n", primitive.name, primitive.ns));
    }
    drop(system);
    let report = Report::new(started, configuration, runs, comparison, primitives);
    publish(settings, &report)?;
    report.verdict()
}

/// Cryptography alone, for each size of requests.
fn primitives_of(target: &Target, sizes: impl Iterator<Item = Sizes>) -> Vec<Primitive> {
    let mut different: Vec<Sizes> = Vec::new();
    for sizes in sizes {
        if !different.contains(&sizes) {
            different.push(sizes);
        }
    }
    let body = |sizes| target.sites.first().map_or(0, |site| encrypt_bytes(site, sizes));
    let mut found: Vec<Primitive> =
        different.into_iter().flat_map(|sizes| primitives::measure(sizes, body(sizes))).collect();
    found.push(primitives::signature());
    found
}

/// One load against one target, and a neighbour's beside it.
fn single(
    settings: &LoadSettings,
    runtime: &Runtime,
    work: Work,
    shape: &Shape,
    watched: &[(String, u32)],
    stop: &Arc<AtomicBool>,
) -> Result<Run, LoadError> {
    let mut groups = vec![GroupJob {
        name: "requests".to_owned(),
        work: Arc::new(work),
        connections: shape.connections,
        streams: shape.streams,
        load: Load::of(shape),
        idle: shape.idle,
    }];
    if shape.profile == Some(Profile::NoisyNeighbour) {
        let missing = || TargetError::Flags("the profile noisy-neighbour needs --neighbour: whoever floods".to_owned());
        let endpoint = settings.target.neighbour.clone().ok_or_else(missing)?;
        let neighbour = Target::from_files(&[endpoint])?;
        let work = runtime.block_on(prepare(&neighbour, &shape.manner(), shape.seed))?;
        groups.push(GroupJob {
            name: "neighbour".to_owned(),
            work: Arc::new(work),
            connections: FLOOD,
            streams: 1,
            load: Load::Closed,
            idle: 0,
        });
    }
    let begin = |(name, pid): &(String, u32)| {
        let failed = |error: io::Error| LoadError::Process { name: name.clone(), pid: *pid, reason: error.to_string() };
        Watched::begin(name, *pid).map_err(failed)
    };
    let profile = settings.shape.profile.map_or("load", Profile::name);
    let job = Job {
        name: profile.to_owned(),
        groups,
        warm_up: Duration::from_secs_f64(shape.warm_up_s),
        duration: Duration::from_secs_f64(shape.duration_s),
        requests: shape.requests,
        threads: usize::try_from(settings.measuring.threads).unwrap_or(1),
        client_cores: settings.measuring.client_core.clone(),
        watched: watched.iter().map(begin).collect::<Result<_, _>>()?,
        seed: shape.seed,
        quiet: settings.quiet,
        stop: Arc::clone(stop),
    };
    Ok(Run::of(&execute(job)?))
}

/// The processes that are watched, on the processors that are theirs.
fn watched(settings: &LoadSettings, target: &Target) -> Result<Vec<(String, u32)>, LoadError> {
    let mut watched = settings.measuring.server_pid.clone();
    if watched.is_empty() {
        watched = target.state.as_deref().map(processes_of).unwrap_or_default();
        // The parent has no part in what goes past it.
        if matches!(target.door.place, Place::Link(_)) {
            watched.retain(|(name, _)| name != "parent");
        }
    }
    for (name, pid) in &watched {
        pin_process(*pid, &settings.measuring.server_core).map_err(|error| LoadError::Process {
            name: name.clone(),
            pid: *pid,
            reason: error.to_string(),
        })?;
    }
    Ok(watched)
}

impl Shape {
    fn manner(&self) -> Manner {
        Manner {
            mix: self.mix.clone(),
            sizes: self.sizes,
            http: self.http,
            reuse: self.reuse,
            patience: Duration::from_millis(self.patience_ms),
            retries: u32::from(self.kms),
        }
    }
}

impl LoadSettings {
    /// Those that are compared.
    fn cases(&self) -> &[Case] {
        match self.measuring.case.as_slice() {
            _ if !(self.target.local && self.measuring.baselines) => &[],
            [] => &Case::ALL,
            chosen => chosen,
        }
    }
}

impl Load {
    fn of(shape: &Shape) -> Self {
        if shape.phases.is_empty() {
            Self::Closed
        } else {
            Self::Open { phases: shape.phases.clone(), spacing: shape.spacing }
        }
    }
}

impl Configuration {
    fn of(settings: &LoadSettings, target: &Target, shape: &Shape) -> Self {
        Self {
            target: if settings.target.local { "a local system".to_owned() } else { target.name.clone() },
            connect: target.door.place.to_string(),
            key_stores: target.sites.len(),
            keys: target.keys(),
            load: shape.clone(),
            cases: settings.cases().to_vec(),
            client_threads: settings.measuring.threads,
            client_cores: settings.measuring.client_core.clone(),
            server_cores: settings.measuring.server_core.clone(),
            rounds: settings.measuring.repeat,
        }
    }
}

impl Report {
    fn new(
        started: String,
        configuration: Configuration,
        runs: Vec<Run>,
        comparison: Vec<compare::Comparison>,
        primitives: Vec<Primitive>,
    ) -> Self {
        let passed = runs.iter().filter_map(Run::main).all(report::Group::passed);
        let tool = format!("holdfast-dev {}", env!("CARGO_PKG_VERSION"));
        Self { format: 1, tool, started, machine: Machine::this(), configuration, runs, comparison, primitives, passed }
    }

    /// Whether all requests were answered well: of the group that is measured, since a neighbour who floods is refused at times.
    fn verdict(&self) -> Result<(), LoadError> {
        if self.passed {
            return Ok(());
        }
        let groups = || self.runs.iter().filter_map(Run::main);
        let wrong = |group: &report::Group| u64::try_from(group.wrong.len()).unwrap_or(u64::MAX);
        let failed = groups().map(|group| group.counts.failed + group.idle_lost + wrong(group)).sum();
        Err(LoadError::Requests { failed, ok: groups().map(|group| group.counts.ok).sum() })
    }
}

/// A reader that has gone is no reason to stop.
fn say(settings: &LoadSettings, text: &str) {
    if !settings.json {
        crate::up::report::say(text);
    }
}

fn publish(settings: &LoadSettings, report: &Report) -> Result<(), LoadError> {
    if settings.json {
        let text = serde_json::to_string_pretty(report).map_err(|error| LoadError::System(error.to_string()))?;
        let mut out = io::stdout().lock();
        // As above.
        let _ = writeln!(out, "{text}");
    }
    if let Some(path) = &settings.html {
        std::fs::write(path, html::page(report)).map_err(|source| LoadError::Write { path: path.clone(), source })?;
    }
    Ok(())
}

/// Each connection needs a file descriptor; without enough of them connecting says so.
fn raise_file_limit(connections: u64) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections + FILES_SPARE;
    if limit.current.is_some_and(|current| current < wanted) {
        let allowed = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum });
    }
}
