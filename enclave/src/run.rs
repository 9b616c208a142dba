//! From a platform to a served enclave.

use std::sync::Arc;
use std::time::Duration;

use holdfast_link::control::{KeyStoreState, Level, Status};
use holdfast_link::limits::STATUS_INTERVAL;
use holdfast_link::{Address, BindError, Listener};
use holdfast_shared::sigv4::{Region, Regions};
use tokio::sync::watch;

use crate::audit::{AuditLogs, keep_connected};
use crate::boot::{self, BootError, Ready, Unmeasured};
use crate::clock::Clock;
use crate::clock::attested::AttestedClock;
use crate::control::{self, Desk};
use crate::custody::{Enclave, Workshop};
use crate::directory::Directory;
use crate::files;
use crate::fleet::Fleet;
use crate::meter::{Gauges, Meter};
use crate::nsm::NsmDevice;
use crate::report::Reporter;
use crate::roster::{self, Authorities, AuthorityError, Roster};
use crate::server::{self, ServerContext};
use crate::tls::expiry::warn_of_expiry;
use crate::traces::Tracer;

/// What differs between a Nitro Enclave and a laptop.
pub struct Platform {
    /// The NSM.
    pub nsm: Box<dyn NsmDevice>,
    /// What feeds the kernel's randomness, for the log.
    pub generator: String,
    /// What the kernel tells time by between two documents of the NSM, for the log.
    pub clock_source: String,
    /// Where the parent serves the control connection.
    pub control: Address,
    /// Where the parent serves egress.
    pub egress: Address,
    /// Where the parent takes the audit logs.
    pub audit: Address,
    /// Where KMS's connections come in.
    pub ingress: Address,
}

/// Why the enclave stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not boot.
    #[error("boot failed: {0}")]
    Boot(#[from] BootError),
    /// A certificate authority of the static configuration cannot be used.
    #[error("static configuration: {0}")]
    Authority(#[from] AuthorityError),
    /// The ingress address cannot be listened on.
    #[error("ingress: {0}")]
    Ingress(#[from] BindError),
}

/// How often the clock is anchored anew (design, section 8).
const ANCHOR_INTERVAL: Duration = Duration::from_mins(1);
/// The same after it failed.
const ANCHOR_RETRY: Duration = Duration::from_secs(1);

/// Boots and serves until the parent orders a drain and the last connection is gone.
///
/// # Errors
/// [`RunError`] when it cannot boot, after the parent was told. Afterwards nothing ends it but the drain: what fails is
/// reported and tried again.
pub async fn run(platform: Platform) -> Result<(), RunError> {
    let parent = platform.control.clone();
    let served = serve(platform).await;
    if let Err(error) = &served {
        control::refuse(&parent, &error.to_string()).await;
    }
    served
}

async fn serve(platform: Platform) -> Result<(), RunError> {
    let booting = Unmeasured::start(platform.nsm)?;
    let connection = control::greet_patiently(&platform.control, booting.boot_id()).await;
    let ready = booting.measure(&connection.static_configuration).await?.anchor().await?;
    let authorities = Authorities::new(&ready.configuration.host_name_authorities())?;
    let listener = Listener::bind(&platform.ingress).await?;

    let (reporter, lines) = Reporter::new();
    reporter.log(Level::Info, &started(&ready, &platform.generator, &platform.clock_source));
    let clock: Arc<dyn Clock> = ready.clock.clone();
    let directory = Arc::new(Directory::new(Arc::clone(&clock)));
    let (drain, draining) = watch::channel(false);
    let (drained_sender, drained) = watch::channel(false);
    let (key_stores, mut wanted) = watch::channel(Vec::new());
    let (aws_credentials, credentials) = watch::channel(None);

    let provided = files::provide(ready.configuration.connections_max);
    let (connections, files) = (provided.connections, provided.files);
    let level = if connections < ready.configuration.connections_max { Level::Warn } else { Level::Info };
    reporter.log(level, &format!("taking {connections} connections at most, with {files} file descriptors"));
    let tracer = Arc::new(Tracer::new(reporter.clone(), Arc::clone(&clock)));
    let meter = Arc::new(Meter::new(reporter.clone(), Arc::clone(&tracer)));
    let mut context = ServerContext::new(Arc::clone(&directory), Arc::clone(&clock), &ready.nsm, connections);
    context.observer = meter.clone();
    let context = Arc::new(context);
    let regions = regions(&ready);
    let audit = Arc::new(AuditLogs::new(ready.audit_key, ready.boot_id, Arc::clone(&clock)));
    let gauges = Gauges {
        meter,
        directory: Arc::clone(&directory),
        clock: Arc::clone(&ready.clock),
        audit: Arc::clone(&audit),
        nsm: ready.nsm.clone(),
    };
    let desk = Desk {
        parent: platform.control,
        boot_id: ready.boot_id,
        reporter: reporter.clone(),
        lines,
        key_stores,
        aws_credentials,
        drain,
        tracer,
        status: status_of(&reporter, &ready.clock, &context, &audit),
        metrics: Arc::new(move || gauges.snapshot()),
        drained,
    };
    let desk = tokio::spawn(desk.run(connection));
    let supplying = tokio::spawn(keep_connected(Arc::clone(&audit), platform.audit, reporter.clone()));
    let expiry = tokio::spawn(warn_of_expiry(Arc::clone(&directory), Arc::clone(&clock), reporter.clone()));
    let anchoring = tokio::spawn(keep_anchored(reporter.clone(), ready.nsm.clone(), Arc::clone(&ready.clock)));

    let enclave = Enclave {
        nsm: ready.nsm.in_line(),
        clock,
        reporter: reporter.clone(),
        boot_id: ready.boot_id,
        audit: Arc::clone(&audit),
        workshop: Workshop::new(),
        aws_credentials: credentials,
    };
    let roster = Arc::new(Roster::new(directory, reporter, authorities));
    let enclave = Arc::new(enclave);
    let judging = tokio::spawn(roster::keep_judged(Arc::clone(&roster), Arc::clone(&enclave)));
    let mut fleet = Fleet::new(enclave, roster, regions, platform.egress);
    let following = async {
        while wanted.changed().await.is_ok() {
            let manifests = wanted.borrow_and_update().clone();
            fleet.follow(&manifests).await;
        }
    };
    tokio::select! {
        () = server::serve(listener, context, draining) => {}
        () = following => {}
    }
    // While custodians and the parent still hear it.
    fleet.hurry_tallies();
    audit.close().await;
    drained_sender.send_replace(true);
    // The desk tells the parent; the parent then ends us. Locally the process ends by itself a moment later.
    tokio::time::sleep(STATUS_INTERVAL).await;
    desk.abort();
    supplying.abort();
    anchoring.abort();
    judging.abort();
    expiry.abort();
    Ok(())
}

fn started(ready: &Ready, generator: &str, clock_source: &str) -> String {
    format!(
        "boot {}: configuration measured, clock anchored to the NSM and counted by {clock_source}, randomness from {generator}",
        ready.boot_id
    )
}

fn regions(ready: &Ready) -> Regions {
    Regions::Only(ready.configuration.regions.iter().filter_map(|region| Region::parse(region).ok()).collect())
}

fn status_of(
    reporter: &Reporter,
    clock: &Arc<AttestedClock>,
    context: &Arc<ServerContext>,
    audit: &Arc<AuditLogs>,
) -> Arc<dyn Fn() -> Status + Send + Sync> {
    let (reporter, clock, context, audit) =
        (reporter.clone(), Arc::clone(clock), Arc::clone(context), Arc::clone(audit));
    Arc::new(move || {
        let detail = reporter.states(clock.monotonic_ms());
        let serving = detail.iter().any(|store| store.state == KeyStoreState::Serving);
        let mut counters = context.counters();
        counters.insert("log_lines_dropped".to_owned(), reporter.dropped());
        counters.insert("traces_dropped".to_owned(), reporter.traces_dropped());
        counters.extend(audit.counters().map(|(name, value)| (name.to_owned(), value)));
        Status { ready: serving && clock.is_healthy(), detail, connections: context.connections(), counters }
    })
}

async fn keep_anchored(reporter: Reporter, nsm: crate::nsm::Nsm, clock: Arc<AttestedClock>) {
    let mut interval = ANCHOR_INTERVAL;
    loop {
        tokio::time::sleep(interval).await;
        interval = ANCHOR_INTERVAL;
        match boot::anchor_again(&nsm, &clock).await {
            Ok(_) if clock.is_healthy() => {}
            Ok(drift_ms) => {
                reporter.log(Level::Error, &format!("the clock drifted {drift_ms} ms from NSM time: not ready"));
            }
            Err(error) => {
                clock.doubt();
                // The NSM may only be busy, with many key stores that start at once.
                interval = ANCHOR_RETRY;
                reporter.log(Level::Error, &format!("the clock was not anchored: {error}: not ready"));
            }
        }
    }
}
