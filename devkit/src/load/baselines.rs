//! What is compared with what: a target with a bare server, or a local system's parts with theirs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::runtime::Runtime;

use super::LoadError;
use super::cases::Case;
use super::child::{ServerChild, any_port};
use super::compare::{Comparison, Contender, Contest, Kind, Rounds, Share, Wanted, contest};
use super::lane::Work;
use super::local::{LocalSystem, processes_of};
use super::prepare::prepare;
use super::profile::Shape;
use super::report::Run;
use super::request::Judge;
use super::settings::LoadSettings;
use super::target::Target;
use super::wire::Place;

const CEILING: &str = "ceiling";
const RELAYED: &str = "relay+ceiling";
const ENCLAVE: &str = "enclave";
const RELAYED_ENCLAVE: &str = "relay+enclave";
const PARENT: &str = "parent+enclave";
const TARGET: &str = "target";

/// How much of a plain relay's processor time the parent may take, and how many microseconds it may add to the median.
const PARENT_AT_MOST: f64 = 0.8;
const PARENT_ADDS_AT_MOST_US: f64 = 25.0;

/// What a comparison needs beside its servers.
pub(super) struct Ring<'a> {
    pub(super) settings: &'a LoadSettings,
    pub(super) runtime: &'a Runtime,
    pub(super) stop: &'a Arc<AtomicBool>,
}

fn all(contender: &'static str) -> Share {
    Share { contender, process: None }
}

fn wanted(name: &str, of: Share, to: Share, kind: Kind, at_most: Option<f64>) -> Wanted {
    Wanted { name: name.to_owned(), of, to: Some(to), kind, at_most }
}

fn latencies(of: &'static str, to: &'static str) -> Vec<Wanted> {
    [("p50", Kind::Median), ("p99", Kind::Percentile99), ("p99.9", Kind::Permille999)]
        .map(|(name, kind)| wanted(&format!("{name}, {of} : {to}"), all(of), all(to), kind, None))
        .into()
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
pub(super) fn started(error: std::io::Error) -> LoadError {
    LoadError::Baseline { reason: error.to_string() }
}

fn against(work: &Work, target: &Target, judge: Judge) -> Result<Arc<Work>, LoadError> {
    Ok(Arc::new(work.elsewhere(target, judge).map_err(|error| LoadError::Baseline { reason: error.to_string() })?))
}

/// A target beside a bare server, one behind a plain relay, both on this machine.
pub(super) fn of_target(
    ring: &Ring<'_>,
    work: Work,
    shape: &Shape,
    watched: Vec<(String, u32)>,
    runs: &mut Vec<Run>,
) -> Result<Comparison, LoadError> {
    let cores = &ring.settings.measuring.server_core;
    let bare = ServerChild::bare(&any_port(), work.answer_bytes, cores).map_err(started)?;
    let relay = ServerChild::relay(&bare.place, cores).map_err(started)?;
    let direct = against(&work, &bare.target(CEILING, &bare.place).map_err(started)?, Judge::Status)?;
    let relayed = against(&work, &bare.target(RELAYED, &relay.place).map_err(started)?, Judge::Status)?;
    let process = |name: &str, child: &ServerChild| (name.to_owned(), child.pid());
    let mut figures = Vec::new();
    if !watched.is_empty() {
        figures.push(wanted("processor time, target : ceiling", all(TARGET), all(CEILING), Kind::Processor, None));
    }
    figures.extend(latencies(TARGET, CEILING));
    let contenders = vec![
        Contender { name: CEILING, work: direct, watched: vec![process("bare", &bare)] },
        Contender { name: RELAYED, work: relayed, watched: vec![process("bare", &bare), process("relay", &relay)] },
        Contender { name: TARGET, work: Arc::new(work), watched },
    ];
    let arena = Contest { case: shape.mix.to_string(), shape, contenders, wanted: figures };
    contest(&arena, &Rounds::of(ring.settings), ring.stop, runs)
}

/// The parts of a local system beside theirs, for one case.
pub(super) fn of_local(
    ring: &Ring<'_>,
    system: &LocalSystem,
    target: &Target,
    case: Case,
    common: &Shape,
    runs: &mut Vec<Run>,
) -> Result<Comparison, LoadError> {
    let shape = case.shape(common);
    let cores = &ring.settings.measuring.server_core;
    let work = ring.runtime.block_on(prepare(target, &shape.manner(), shape.seed))?;
    let enclave_place = Place::Link(system.ingress()?);
    let bare =
        ServerChild::bare(&Place::Link(system.socket("bare.sock")?), work.answer_bytes, cores).map_err(started)?;
    let relay = ServerChild::relay(&bare.place, cores).map_err(started)?;
    let enclave_relay = ServerChild::relay(&enclave_place, cores).map_err(started)?;
    let through = |place: &Place| {
        let mut target = target.clone();
        target.door.place = place.clone();
        against(&work, &target, Judge::Xks)
    };
    let to_bare =
        |name: &str, place: &Place| against(&work, &bare.target(name, place).map_err(started)?, Judge::Status);
    let process = |name: &str, pid: u32| (name.to_owned(), pid);
    let parts = processes_of(&system.state());
    let enclave: Vec<_> = parts.iter().filter(|(name, _)| name == "enclave").cloned().collect();
    let with_relay = enclave.iter().cloned().chain([process("relay", enclave_relay.pid())]).collect();
    let contenders = vec![
        Contender { name: CEILING, work: to_bare(CEILING, &bare.place)?, watched: vec![process("bare", bare.pid())] },
        Contender { name: ENCLAVE, work: through(&enclave_place)?, watched: enclave },
        Contender {
            name: RELAYED,
            work: to_bare(RELAYED, &relay.place)?,
            watched: vec![process("bare", bare.pid()), process("relay", relay.pid())],
        },
        Contender { name: RELAYED_ENCLAVE, work: through(&enclave_relay.place)?, watched: with_relay },
        Contender { name: PARENT, work: through(&target.door.place)?, watched: parts },
    ];
    let arena = Contest { case: case.name().to_owned(), shape: &shape, contenders, wanted: local_figures(case) };
    contest(&arena, &Rounds::of(ring.settings), ring.stop, runs)
}

fn local_figures(case: Case) -> Vec<Wanted> {
    let process = |contender, process| Share { contender, process: Some(process) };
    let most = case.processor_at_most();
    let mut figures =
        vec![wanted("processor time, enclave : ceiling", all(ENCLAVE), all(CEILING), Kind::Processor, most)];
    figures.extend(latencies(ENCLAVE, CEILING));
    let relay_most = most.is_some().then_some(PARENT_AT_MOST);
    figures.extend([
        wanted(
            "processor time, parent : plain relay",
            process(PARENT, "parent"),
            process(RELAYED_ENCLAVE, "relay"),
            Kind::Processor,
            relay_most,
        ),
        wanted("processor time, parent+enclave : relay+ceiling", all(PARENT), all(RELAYED), Kind::Processor, None),
    ]);
    // What a hop adds shows only where nothing waits for anything else.
    if case.rate().is_some() {
        let most = (case == Case::Rate1800).then_some(PARENT_ADDS_AT_MOST_US);
        figures.extend([
            wanted("the parent adds to the median", all(PARENT), all(ENCLAVE), Kind::Added, most),
            wanted("a plain relay adds to the median", all(RELAYED_ENCLAVE), all(ENCLAVE), Kind::Added, None),
        ]);
    }
    for (name, kind, at_most) in case.latencies_at_most() {
        let name = format!("{name}, parent+enclave");
        figures.push(Wanted { name, of: all(PARENT), to: None, kind, at_most: Some(at_most) });
    }
    figures
}
