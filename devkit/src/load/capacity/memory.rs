//! Memory of an enclave's process.
//!
//! Two systems, one after the other, since what was freed hides what is taken after it: one for requests, one for idle connections.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::findings::{Finding, Found};
use super::{Bench, MemorySettings, watched};
use crate::load::LoadError;
use crate::load::cpu::Memory;
use crate::load::lane::Work;
use crate::load::local::LocalSystem;
use crate::load::measure::float;
use crate::load::prepare::prepare;
use crate::load::profile::Shape;
use crate::load::report::{Group, Run};
use crate::load::run::{GroupJob, Job, Load, RunResult, execute};
use crate::load::target::Target;

/// What is expected.
const IDLE_AT_MOST_MIB: f64 = 24.0;
const CONNECTION_AT_MOST_KIB: f64 = 24.0;
const GROWTH_AT_MOST: f64 = 1.05;

/// Requests, and idle connections, unless told otherwise.
const REQUESTS: u64 = 100_000;
const CONNECTIONS: usize = 1_000;
/// How long a run may take that ends by its number of requests.
const LONGEST: Duration = Duration::from_mins(30);

pub(super) fn measure(bench: &Bench<'_>, settings: &MemorySettings) -> Result<Found, LoadError> {
    let shape = Shape::from_settings(&settings.shape);
    let requests = shape.requests.unwrap_or(REQUESTS).max(10);
    let connections = settings.shape.idle.map_or(CONNECTIONS, |_| shape.idle).max(1);
    let mut findings = Vec::new();
    let mut add = |name: &str, value: f64, unit: &'static str, at_most: Option<f64>| {
        findings.push(Finding { at_most, ..Finding::new(name, value, unit) });
    };

    let (system, work) = start(bench, settings, &shape)?;
    let idle = memory(&system)?;
    add("idle: resident, the program's file among it", mib(idle.resident_kib), "MiB", Some(IDLE_AT_MOST_MIB));
    add("idle: anonymous, what it allocated", mib(idle.anonymous_kib), "MiB", None);
    let tenth = requests / 10;
    let mut after = Vec::new();
    for (name, count) in [("the first tenth", tenth), ("the others", requests - tenth)] {
        let job = job(bench, &shape, name, &work, (shape.connections, 0, count), &system)?;
        pass(&execute(job)?)?;
        after.push(memory(&system)?.anonymous_kib);
    }
    drop(system);
    if let [tenth_kib, all_kib] = after.as_slice() {
        add(&format!("anonymous after {tenth} requests"), mib(*tenth_kib), "MiB", None);
        add(&format!("anonymous after {requests} requests"), mib(*all_kib), "MiB", None);
        add("growth between these", float(*all_kib) / float((*tenth_kib).max(1)), "×", Some(GROWTH_AT_MOST));
    }

    let (system, work) = start(bench, settings, &shape)?;
    let job = job(bench, &shape, "idle connections", &work, (1, connections, 1), &system)?;
    let result = execute(job)?;
    pass(&result)?;
    let taken = |of: fn(&Memory) -> u64| {
        let (_, at) = result.servers.first()?;
        let taken = of(&at.connected?).saturating_sub(of(&at.before?));
        Some(float(taken) / float(result.open.max(1)))
    };
    let of = format!("each of {connections} idle connections");
    add(
        &format!("{of}: anonymous"),
        taken(|at| at.anonymous_kib).unwrap_or_default(),
        "KiB",
        Some(CONNECTION_AT_MOST_KIB),
    );
    add(&format!("{of}: resident"), taken(|at| at.resident_kib).unwrap_or_default(), "KiB", None);
    let configuration = json!({ "requests": requests, "idle_connections": connections, "load": shape });
    Ok(Found { what: "memory", configuration, findings, comparison: None })
}

fn mib(kib: u64) -> f64 {
    float(kib) / 1024.0
}

fn start(bench: &Bench<'_>, settings: &MemorySettings, shape: &Shape) -> Result<(LocalSystem, Arc<Work>), LoadError> {
    let system = LocalSystem::start(&settings.server_core, bench.stop)?;
    let target = Target::from_files(&[system.state()])?;
    let work = bench.runtime.block_on(prepare(&target, &shape.manner(), shape.seed))?;
    Ok((system, Arc::new(work)))
}

fn memory(system: &LocalSystem) -> Result<Memory, LoadError> {
    let enclave = watched(system, "enclave")?;
    enclave.memory().ok_or_else(|| LoadError::System("the enclave's memory cannot be read in /proc".to_owned()))
}

fn job(
    bench: &Bench<'_>,
    shape: &Shape,
    name: &str,
    work: &Arc<Work>,
    (connections, idle, requests): (usize, usize, u64),
    system: &LocalSystem,
) -> Result<Job, LoadError> {
    let streams = shape.streams;
    let work = Arc::clone(work);
    let group = GroupJob { name: "requests".to_owned(), work, connections, streams, load: Load::Closed, idle };
    Ok(Job {
        name: name.to_owned(),
        groups: vec![group],
        warm_up: Duration::ZERO,
        duration: LONGEST,
        requests: Some(requests),
        threads: 1,
        client_cores: Vec::new(),
        watched: vec![watched(system, "enclave")?],
        seed: shape.seed,
        quiet: bench.quiet,
        stop: Arc::clone(bench.stop),
    })
}

/// Refuses figures of requests that failed, or of connections that were lost.
fn pass(result: &RunResult) -> Result<(), LoadError> {
    let run = Run::of(result);
    match run.main() {
        Some(group) if Group::passed(group) => Ok(()),
        group => Err(LoadError::Requests {
            failed: group.map_or(0, |group| group.counts.failed + group.idle_lost),
            ok: group.map_or(0, |group| group.counts.ok),
        }),
    }
}
