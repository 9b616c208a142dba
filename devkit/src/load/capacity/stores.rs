//! Many key stores and keys beside one key store with one key: what a request costs the enclave.

use std::sync::Arc;

use serde_json::json;

use super::enlist::{Wanted as WantedStores, enlist};
use super::findings::{Finding, Found};
use super::{Bench, StoresSettings, watched};
use crate::load::LoadError;
use crate::load::compare::{Contender, Contest, Kind, Share, Wanted, contest};
use crate::load::local::{LocalSystem, processes_of};
use crate::load::measure::float;
use crate::load::prepare::prepare;
use crate::load::profile::Shape;
use crate::load::target::Target;

const FEW: &str = "1 store, 1 key";
const MANY: &str = "many";
const AT_MOST: f64 = 1.05;

pub(super) fn measure(bench: &Bench<'_>, settings: &StoresSettings) -> Result<Found, LoadError> {
    let compared = &settings.compared;
    let shape = Shape::from_settings(&compared.shape.lasting(3));
    let few = LocalSystem::start(&compared.server_core, bench.stop)?;
    let many = LocalSystem::start(&compared.server_core, bench.stop)?;
    let before = watched(&many, "enclave")?.memory();
    let wanted = WantedStores { stores: settings.stores, keys: settings.keys };
    let enlisted = bench.runtime.block_on(enlist(bench, &many, wanted))?;
    let after = watched(&many, "enclave")?.memory();
    let mut contenders = Vec::new();
    for (name, system) in [(FEW, &few), (MANY, &many)] {
        let mut target = Target::from_files(&[system.state()])?;
        if name == MANY {
            target.sites = enlisted.iter().map(|store| store.site.clone()).collect();
        }
        let work = bench.runtime.block_on(prepare(&target, &shape.manner(), shape.seed))?;
        contenders.push(Contender { name, work: Arc::new(work), watched: processes_of(&system.state()) });
    }
    let ratio = |name: &str, process, at_most| Wanted {
        name: format!("processor time, {name}, {} × {} : 1 × 1", settings.stores, settings.keys),
        of: Share { contender: MANY, process },
        to: Some(Share { contender: FEW, process }),
        kind: Kind::Processor,
        at_most,
    };
    let wanted = vec![ratio("enclave", Some("enclave"), Some(AT_MOST)), ratio("parent+enclave", None, None)];
    let arena = Contest { case: shape.mix.to_string(), shape: &shape, contenders, wanted };
    let comparison = contest(&arena, &bench.rounds(compared), bench.stop, &mut Vec::new())?;
    let taken = |(before, after): (crate::load::cpu::Memory, crate::load::cpu::Memory)| {
        float(after.anonymous_kib.saturating_sub(before.anonymous_kib)) / 1024.0
    };
    let findings = before.zip(after).map(|both| Finding::new("memory that these key stores took", taken(both), "MiB"));
    let configuration =
        json!({ "stores": settings.stores, "keys": settings.keys, "rounds": compared.repeat, "load": shape });
    let findings = findings.into_iter().collect();
    Ok(Found { what: "stores", configuration, findings, comparison: Some(comparison) })
}
