//! An enclave with several processors beside one with one: what a request costs, and what it costs a bare server.
//!
//! With a client on the same machine no throughput can be told apart from the client's. What can be told is whether a request takes more
//! processor time where several threads serve: where it takes g times as much, n processors serve n / g times as many, unless threads
//! wait for each other asleep, which costs nothing here and shows in the latencies of a machine with processors to spare.

use std::sync::Arc;

use serde_json::json;

use super::findings::Found;
use super::{Bench, ComparedSettings};
use crate::load::LoadError;
use crate::load::baselines::started;
use crate::load::child::ServerChild;
use crate::load::compare::{Contender, Contest, Kind, Share, Wanted, contest};
use crate::load::local::{LocalSystem, process_of};
use crate::load::prepare::prepare;
use crate::load::profile::Shape;
use crate::load::request::Judge;
use crate::load::target::Target;
use crate::load::wire::Place;

const ONE: [&str; 2] = ["ceiling, 1 core", "enclave, 1 core"];
const ALL: [&str; 2] = ["ceiling, all", "enclave, all"];
/// Two processors are to serve 1.8 times as much as one.
const AT_MOST: f64 = 2.0 / 1.8;

pub(super) fn measure(bench: &Bench<'_>, settings: &ComparedSettings) -> Result<Found, LoadError> {
    let all = if settings.server_core.is_empty() { vec![0, 1] } else { settings.server_core.clone() };
    let first: Vec<usize> = all.iter().copied().take(1).collect();
    let shape = Shape::from_settings(&settings.shape.lasting(3));
    let (mut systems, mut children, mut contenders) = (Vec::new(), Vec::new(), Vec::new());
    for (cores, [ceiling, enclave]) in [(&first, ONE), (&all, ALL)] {
        let system = LocalSystem::start(cores, bench.stop)?;
        let mut target = Target::from_files(&[system.state()])?;
        target.door.place = Place::Link(system.ingress()?);
        let work = bench.runtime.block_on(prepare(&target, &shape.manner(), shape.seed))?;
        let bare =
            ServerChild::bare(&Place::Link(system.socket("bare.sock")?), work.answer_bytes, cores).map_err(started)?;
        let direct = work.elsewhere(&bare.target(ceiling, &bare.place).map_err(started)?, Judge::Status);
        let direct = direct.map_err(|error| LoadError::Baseline { reason: error.to_string() })?;
        let pid = process_of(&system.state(), "enclave")?;
        contenders.extend([
            Contender { name: ceiling, work: Arc::new(direct), watched: vec![("bare".to_owned(), bare.pid())] },
            Contender { name: enclave, work: Arc::new(work), watched: vec![("enclave".to_owned(), pid)] },
        ]);
        systems.push(system);
        children.push(bare);
    }
    let all_of = |contender| Share { contender, process: None };
    let growth = |server: &str, place: usize, at_most| Wanted {
        name: format!("processor time, {server}, {} cores : 1", all.len()),
        of: all_of(ALL.get(place).copied().unwrap_or_default()),
        to: Some(all_of(ONE.get(place).copied().unwrap_or_default())),
        kind: Kind::Processor,
        at_most,
    };
    let wanted = vec![growth("enclave", 1, Some(AT_MOST)), growth("ceiling", 0, None)];
    let arena = Contest { case: shape.mix.to_string(), shape: &shape, contenders, wanted };
    let comparison = contest(&arena, &bench.rounds(settings), bench.stop, &mut Vec::new())?;
    drop((children, systems));
    let configuration =
        json!({ "server_cores": all, "client_cores": settings.client_core, "rounds": settings.repeat, "load": shape });
    Ok(Found { what: "cores", configuration, findings: Vec::new(), comparison: Some(comparison) })
}
