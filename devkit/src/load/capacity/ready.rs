//! From a custodian's grant to the first request that is answered.
//!
//! Everything of a local system is started again on what it left; a client asks, with a connection for each question, until it is answered.
//! The grant's moment is the custodian's own, from before it verified the evidence; the answer's is that of this process, on the same clock.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_cli::commands::status::status;
use holdfast_cli::home::Home;
use holdfast_cli::moment::now_ms;
use holdfast_cli::session::Session;
use serde::Deserialize;
use serde_json::json;

use super::findings::{Finding, Found, quantile};
use super::{Bench, ReadySettings, failed};
use crate::load::LoadError;
use crate::load::lane::{Lane, Work};
use crate::load::local::LocalSystem;
use crate::load::measure::float;
use crate::load::mix::{Mix, Operation};
use crate::load::prepare::{Manner, prepare};
use crate::load::request::{Judge, Sizes};
use crate::load::target::Target;
use crate::load::wire::{Http, Place, Reuse};

/// What is expected, in milliseconds.
const AT_MOST_MS: f64 = 300.0;
/// Pause between two questions, and how long one waits for its answer.
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_millis(250);
/// How long it may take until the first answer.
const LONGEST: Duration = Duration::from_mins(1);

pub(super) fn measure(bench: &Bench<'_>, settings: &ReadySettings) -> Result<Found, LoadError> {
    let mut system = LocalSystem::start(&[], bench.stop)?;
    let target = Target::from_files(&[system.state()])?;
    let manner = Manner {
        mix: Mix::only(Operation::Decrypt),
        sizes: Sizes { plaintext: 32, aad: 100, cdiv: true },
        http: Http::One,
        reuse: Reuse::New,
        patience: PATIENCE,
        retries: 0,
    };
    let work = bench.runtime.block_on(prepare(&target, &manner, 1))?;
    let mut took = Vec::new();
    for _ in 0..settings.times {
        let started_ms = now_ms();
        system.begin_again()?;
        let (door, answered_ms) = bench.runtime.block_on(first_answer(bench, &system.state(), &target, &work))?;
        system.wait(bench.stop)?;
        let granted_ms = bench.runtime.block_on(granted(&system.state(), started_ms))?;
        let ms = float(answered_ms.saturating_sub(granted_ms));
        bench.tell(&format!("{ms} ms from the grant to the first answer at {door}"));
        took.push(ms);
    }
    drop(system);
    let findings = vec![
        Finding::new("from the grant to the first answer, median", quantile(&took, 0.5), "ms").at_most(AT_MOST_MS),
        Finding::new("from the grant to the first answer, longest", quantile(&took, 1.0), "ms").at_most(AT_MOST_MS),
    ];
    Ok(Found { what: "ready", configuration: json!({ "times": settings.times }), findings, comparison: None })
}

/// Asks until it is answered, and says when that was.
async fn first_answer(
    bench: &Bench<'_>,
    state: &Path,
    target: &Target,
    work: &Work,
) -> Result<(String, u64), LoadError> {
    let started = Instant::now();
    let mut last = "the parent does not listen".to_owned();
    while started.elapsed() < LONGEST && !bench.stop.load(Ordering::Relaxed) {
        if let Some(listen) = listens(state) {
            let mut here = target.clone();
            here.door.place = Place::Tcp(listen.clone());
            let work = work.elsewhere(&here, Judge::Xks).map_err(|error| failed("a client", &error))?;
            let work = Arc::new(work);
            let template = work.of(Operation::Decrypt).first().ok_or_else(|| failed("a client", &"has no request"))?;
            match Lane::new(Arc::clone(&work), 1, 0, None).checked(template).await {
                Ok(()) => return Ok((listen, now_ms())),
                Err(error) => last = error,
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(failed("nothing is answered after a restart", &last))
}

/// Where the parent says that it listens.
fn listens(state: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Ports {
        listen: String,
    }
    let bytes = std::fs::read(state.join("parent/ports.json")).ok()?;
    serde_json::from_slice::<Ports>(&bytes).ok().map(|ports| ports.listen)
}

/// When the newest lease was granted.
async fn granted(state: &Path, since_ms: u64) -> Result<u64, LoadError> {
    let home = Home::at(state.join("home"));
    let session = Session::open(&home, None).map_err(|error| failed("the custodian's status", &error))?;
    let report = status(&session).await.map_err(|error| failed("the custodian's status", &error))?;
    let granted = report.leases.iter().map(|lease| lease.granted_ms).filter(|granted_ms| *granted_ms >= since_ms);
    granted.max().ok_or_else(|| failed("the custodian's status", &"there is no new lease"))
}
