//! A custodian with many enclaves: what a grant costs it, and how soon all of them see a block.
//!
//! Enclaves are played: each obtains a lease with a document of the emulated NSM, watches over a connection of its own, verifies what it
//! is told, and tells that it obeys. Every key store has an enclave of the local system as well, which served it first.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_cli::commands::block::{self, Scope};
use holdfast_cli::session::Wait;
use holdfast_shared::limits;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::applicant::{Applicant, Lease};
use super::enlist::{Enlisted, Wanted, enlist};
use super::findings::{Finding, Found, quantile};
use super::{Bench, CustodianSettings, failed, watched};
use crate::load::LoadError;
use crate::load::local::LocalSystem;
use crate::load::measure::float;

/// Enclaves of one key store: its enclave of the local system has a lease, too, and some are left.
const OF_A_STORE: u32 = 250;
/// Between two releases that are asked for: a custodian verifies so many documents a second, and no more.
const PACE: Duration = match Duration::from_millis(1_100).checked_div(limits::VERIFICATIONS_PER_SECOND) {
    Some(pace) => pace,
    None => Duration::ZERO,
};
/// From the last watch to the block: news of versions have been told by then.
const SETTLE: Duration = Duration::from_millis(2 * limits::COMMIT_WAIT_MS);
/// How long a block may take to be seen by all.
const LONGEST: Duration = Duration::from_mins(1);
/// What is expected, in milliseconds.
const AT_MOST_MS: f64 = 1_000.0;

pub(super) fn measure(bench: &Bench<'_>, settings: &CustodianSettings) -> Result<Found, LoadError> {
    let system = LocalSystem::start(&[], bench.stop)?;
    let stores = settings.enclaves.div_ceil(OF_A_STORE);
    let enlisted = bench.runtime.block_on(enlist(bench, &system, Wanted { stores, keys: 1 }))?;
    let mut custodian = watched(&system, "custodian")?;

    custodian.reset();
    let begun = Instant::now();
    let leases = bench.runtime.block_on(obtain(bench, &system, &enlisted, settings.enclaves))?;
    let took = begun.elapsed().as_secs_f64();
    custodian.sample();
    let granted = float(u64::from(settings.enclaves));
    let each_ms = float(custodian.spent_ns()) / 1e6 / granted;

    let seen = bench.runtime.block_on(blocked(bench, &enlisted, leases))?;
    drop(enlisted);
    drop(system);
    let mut findings = vec![
        Finding::new("processor time of a grant, TLS and database among it", each_ms, "ms"),
        Finding::new("grants a second of one processor, by that", 1e3 / each_ms, "/s"),
        Finding::new("grants a second, as many as were asked for", granted / took, "/s"),
    ];
    let names = [("half", 0.5), ("99 in a hundred", 0.99), ("all", 1.0)];
    findings.extend(names.map(|(name, share)| {
        let name = format!("from a block's order until {name} of {} enclaves saw it", seen.len());
        Finding::new(&name, quantile(&seen, share), "ms").at_most(AT_MOST_MS)
    }));
    let configuration = json!({ "enclaves": settings.enclaves, "key_stores": stores });
    Ok(Found { what: "custodian", configuration, findings, comparison: None })
}

/// A lease for each, at the pace that a custodian allows.
async fn obtain(
    bench: &Bench<'_>,
    system: &LocalSystem,
    enlisted: &[Enlisted],
    enclaves: u32,
) -> Result<Vec<(usize, Lease)>, LoadError> {
    let state = system.state();
    let configuration = std::fs::read(state.join("parent/static.json"));
    let configuration = configuration.map_err(|error| failed("parent/static.json", &error))?;
    let mut applicant = Applicant::boot(&state.join("run/nsm.sock"), &configuration)?;
    let mut leases = Vec::new();
    let mut next = tokio::time::interval(PACE);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for (place, enlisted) in (0..enlisted.len()).cycle().zip(enlisted.iter().cycle()).take(count(enclaves)) {
        next.tick().await;
        if bench.stop.load(Ordering::Relaxed) {
            return Err(LoadError::Interrupted);
        }
        let session = &enlisted.session;
        leases.push((place, applicant.obtain(session.custodian(), &session.store().manifest).await?));
        if leases.len() % 100 == 0 {
            bench.tell(&format!("{} leases of {enclaves}", leases.len()));
        }
    }
    Ok(leases)
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Blocks every key store while all watch; returns after how many milliseconds each saw it.
async fn blocked(bench: &Bench<'_>, enlisted: &[Enlisted], leases: Vec<(usize, Lease)>) -> Result<Vec<f64>, LoadError> {
    let count = leases.len();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut watching = JoinSet::new();
    for (place, mut lease) in leases {
        let sender = sender.clone();
        watching.spawn(async move {
            loop {
                let saw = lease.watch().await.map(|blocked| blocked.then(|| (place, Instant::now())));
                let told = match saw {
                    Ok(None) => continue,
                    Ok(Some(seen)) => sender.send(Ok(seen)),
                    Err(error) => return sender.send(Err(error)),
                };
                // As an enclave does: it tells that it obeys, and waits for the end of the block.
                if told.is_err() || lease.watch().await.is_err() {
                    return Ok(());
                }
            }
        });
    }
    tokio::time::sleep(SETTLE).await;
    bench.tell(&format!("{count} enclaves watch; all key stores are blocked"));
    let mut ordered = Vec::new();
    for store in enlisted {
        let scope = Scope { store: true, keys: Vec::new() };
        let change = block::blocking(&store.session, &scope).await.map_err(|error| failed("the block", &error))?;
        ordered.push((Instant::now(), change));
    }
    let mut orders = JoinSet::new();
    for ((at, change), store) in ordered.iter_mut().zip(enlisted) {
        let (session, change) = (store.session.clone(), change.clone());
        *at = Instant::now();
        orders.spawn(async move { block::send(&session, &change, Wait::silent(LONGEST)).await.map(drop) });
    }
    let mut took = Vec::new();
    while took.len() < count {
        let next = tokio::time::timeout(LONGEST, receiver.recv()).await;
        let next = next.map_err(|_| failed("the block", &format!("{} of {count} saw it", took.len())))?;
        let (place, seen) = next.ok_or_else(|| failed("the block", &"nobody watches"))??;
        if let Some((at, _)) = ordered.get(place) {
            took.push(seen.saturating_duration_since(*at).as_secs_f64() * 1e3);
        }
    }
    while let Some(sent) = orders.join_next().await {
        sent.map_err(|error| failed("the block", &error))?.map_err(|error| failed("the block", &error))?;
    }
    Ok(took)
}
