//! The program from start to end: bind, serve, drain.
//!
//! Guarantees: everything is bound before anything is served; at the first SIGTERM or SIGINT the program stops being
//! ready, goes on accepting for the grace, then lets connections end; at the second it ends at once.

use core::sync::atomic::AtomicBool;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_link::BindError;
use holdfast_link::remedy;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::audit::{self, Sink, SinkError};
use crate::config::{Config, Places, Slot, TracingConfig};
use crate::control::Control;
use crate::door::Door;
use crate::egress::Egress;
use crate::ingress::Ingress;
use crate::limits::{FILES_SPARE, LISTEN_BACKLOG};
use crate::manifests::{Folder, Manifests};
use crate::ready_page::ReadyPage;
use crate::relay::Relays;
use crate::runner::Image;
use crate::state::{Phase, State};
use crate::supervisor::{Plan, Supervisor};
use crate::{control, egress, ingress, instance_role, manifests, ready_page, reload, traces};

/// Why the program failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A TCP address cannot be listened at.
    #[error("cannot listen at {field} = {address}: {source}{}", remedy::of_listening(*address, source))]
    Listen {
        /// The configuration's field.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// An address of the link cannot be listened at.
    #[error("{field}: {source}")]
    Bind {
        /// The configuration's field.
        field: &'static str,
        /// Why.
        source: BindError,
    },
    /// The manifests cannot be read.
    #[error("cannot list the folder key_stores = {}: {source}", folder.display())]
    Manifests {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Audit logs cannot be kept.
    #[error(transparent)]
    Audit(#[from] SinkError),
    /// The file of chosen addresses cannot be written.
    #[error("cannot write ports_file = {}: {source}", file.display())]
    PortsFile {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Fields of the configuration do not go together; loading it says so first.
    #[error("configuration: {0}")]
    Places(String),
    /// There are no threads that relay.
    #[error("cannot start to relay: {0}")]
    Relays(io::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
    /// A part ended that never should.
    #[error("a part of the program ended unexpectedly")]
    PartEnded,
    /// A second signal came while connections were draining.
    #[error("ended by a second signal before all connections had ended")]
    Interrupted,
}

/// The addresses that were chosen, as `ports_file` holds them.
#[derive(Debug, Serialize)]
struct Ports {
    listen: SocketAddr,
    ready_listen: SocketAddr,
}

/// Everything that was bound.
struct Bound {
    client: TcpListener,
    ready: TcpListener,
    control: Vec<Door>,
    egress: Vec<Door>,
    audit: Vec<Door>,
    ports: Ports,
}

/// Serves until a signal ends it.
///
/// # Errors
/// When something cannot be bound, read or written at the start, or a second signal comes.
pub async fn run(config: Config, static_configuration: String) -> Result<(), RunError> {
    let mut stop = Stop::new()?;
    let hang_up = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let max_connections = provide_files(&config);
    let mut folder = Folder::new(config.key_stores.clone());
    let first = folder
        .read()
        .map_err(|source| RunError::Manifests { folder: config.key_stores.clone(), source })?
        .unwrap_or_default();
    if let Some(needed) = config.egress.needed_for(first.len()) {
        tracing::warn!(
            max_connections = config.egress.max_connections,
            key_stores = first.len(),
            "egress.max_connections is too low: with one custodian each these key stores need {needed}, and more with several"
        );
    }
    let (published, manifests) = watch::channel::<Manifests>(Arc::new(first));
    let places = config.places().map_err(RunError::Places)?;
    let bound = bind(&config, &places).await?;
    let state = Arc::new(State::new(max_connections, config.egress.max_connections));
    let sink = Arc::new(Sink::open(&config.audit, Arc::clone(&state))?);
    announce(&config, &bound.ports)?;

    let mut parts = JoinSet::new();
    parts.spawn(manifests::watch(folder, hang_up, published, Arc::clone(&state)));
    let page = ReadyPage { state: Arc::clone(&state), manifests: manifests.clone() };
    parts.spawn(ready_page::serve(bound.ready, page));
    let (handed, credentials) = watch::channel(None);
    parts.spawn(instance_role::keep(config.aws.clone(), instance_role::Pauses::default(), handed));
    let static_configuration = static_configuration.into();
    let tracing = config.tracing.as_ref().map(TracingConfig::order);
    let control = Control { static_configuration, manifests, credentials, tracing, state: Arc::clone(&state) };
    parts.spawn(traces::export(config.tracing.clone(), traces::Pauses::default(), Arc::clone(&state)));
    for door in bound.control {
        parts.spawn(control::serve(door, control.clone()));
    }
    let (allowed, allow) = watch::channel(config.egress.allow.iter().cloned().collect());
    let hang_up = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let image = Image::of(&config);
    let (wanted, images) = watch::channel(image.clone());
    parts.spawn(reload::watch(config.file.clone(), hang_up, allowed, wanted));
    let (relays, relays_ended) = Relays::start().map_err(RunError::Relays)?;
    parts.spawn(relays_ended.any());
    let way_out = Egress {
        relays: relays.clone(),
        allow,
        idle_timeout: config.egress.idle_timeout,
        connect_timeout: config.connect_timeout,
    };
    for door in bound.egress {
        parts.spawn(egress::serve(door, way_out.clone(), Arc::clone(&state)));
    }
    for door in bound.audit {
        parts.spawn(audit::serve(door, Arc::clone(&sink)));
    }
    parts.spawn(audit::care(Arc::clone(&sink)));
    let way_in = Ingress {
        relays,
        places: places.clone(),
        first_byte_timeout: config.first_byte_timeout,
        idle_timeout: config.idle_timeout,
        connect_timeout: config.connect_timeout,
        unreachable: AtomicBool::new(false),
    };
    // This one is meant to end: when the program drains.
    let accepting = tokio::spawn(ingress::serve(bound.client, way_in, Arc::clone(&state)));
    let plan = Plan { places, ready_timeout: config.enclave.ready_timeout, state: Arc::clone(&state) };
    let supervisor = image.map(|image| Supervisor::start(plan, image, images));

    let result = tokio::select! {
        () = stop.requested() => drain(&config, &state, accepting, &mut stop).await,
        _ = parts.join_next() => Err(RunError::PartEnded),
    };
    if let (Some(supervisor), Ok(())) = (supervisor, &result) {
        supervisor.end().await;
    }
    // Whatever enclaves said to their end is with the sink by now.
    sink.end().await;
    result
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Self, RunError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(RunError::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(RunError::Signals)?,
        })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn drain(config: &Config, state: &State, accepting: JoinHandle<()>, stop: &mut Stop) -> Result<(), RunError> {
    state.phase.send_replace(Phase::Leaving);
    tracing::info!(connections = state.ingress.taken(), "told to end: not ready from now on");
    let ending = async {
        sleep(config.drain_grace).await;
        state.phase.send_replace(Phase::Draining);
        // Whether it returned or failed, it accepts no more.
        let _ = accepting.await;
        tracing::info!(connections = state.ingress.taken(), "accepting no more: waiting for connections to end");
        // The enclave hears of the end even where there is nothing to wait for, and is waited for, too.
        let ended = async {
            state.ingress.all_returned().await;
            state.seat(Slot::First).finished().await;
            state.seat(Slot::Second).finished().await;
        };
        if timeout(config.drain_timeout, ended).await.is_err() {
            tracing::warn!(connections = state.ingress.taken(), "what did not end in time is closed");
        }
    };
    tokio::select! {
        () = ending => Ok(()),
        () = stop.requested() => Err(RunError::Interrupted),
    }
}

async fn bind(config: &Config, places: &Places) -> Result<Bound, RunError> {
    let listen = |field, address| async move {
        let failed = |source| RunError::Listen { field, address, source };
        let listener = listen_at(address).map_err(failed)?;
        let chosen = listener.local_addr().map_err(failed)?;
        Ok::<_, RunError>((listener, chosen))
    };
    let failed = |field| move |source| RunError::Bind { field, source };
    let control = Door::open(places, |place| &place.control).await.map_err(failed("control.listen"))?;
    let egress = Door::open(places, |place| &place.egress).await.map_err(failed("egress.listen"))?;
    let audit = Door::open(places, |place| &place.audit).await.map_err(failed("audit.listen"))?;
    let (ready, ready_listen) = listen("ready_listen", config.ready_listen).await?;
    let (client, listen) = listen("listen", config.listen).await?;
    Ok(Bound { client, ready, control, egress, audit, ports: Ports { listen, ready_listen } })
}

/// As `TcpListener::bind`, with a longer queue.
fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Tells people on standard output, and programs in `ports_file`, what listens where.
fn announce(config: &Config, ports: &Ports) -> Result<(), RunError> {
    if let Some(file) = &config.ports_file {
        write_ports(file, ports).map_err(|source| RunError::PortsFile { file: file.clone(), source })?;
    }
    let Ports { listen, ready_listen } = ports;
    let (ingress, control, egress) = (&config.enclave.ingress, &config.control.listen, &config.egress.listen);
    let audit = &config.audit.listen;
    let line = format!(
        "holdfast-parent: listen={listen} ready_listen={ready_listen} ingress={ingress} control={control} egress={egress} audit={audit}"
    );
    // Serving matters more than a standard output that is closed.
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
    Ok(())
}

/// Renames the file into place, so that whoever waits for it never reads half of it.
fn write_ports(file: &Path, ports: &Ports) -> io::Result<()> {
    let text = serde_json::to_string(ports)?;
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".tmp");
    std::fs::write(&temporary, text + "\n")?;
    std::fs::rename(&temporary, file)
}

/// Each connection takes two file descriptors; many systems allow 1,024 unless a process asks for more. Gives how many
/// client connections what we get is enough for: a listener without file descriptors would refuse good clients and bad alike.
fn provide_files(config: &Config) -> u32 {
    let egress = 2 * u64::from(config.egress.max_connections);
    let needed = 2 * u64::from(config.max_connections) + egress + FILES_SPARE;
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < needed) else {
        return config.max_connections;
    };
    let wanted = limit.maximum.map_or(needed, |maximum| needed.min(maximum));
    let allowed = match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
        Ok(()) => wanted,
        Err(_) => current,
    };
    if allowed == needed {
        return config.max_connections;
    }
    let taking = clients_within(allowed, egress).min(config.max_connections);
    tracing::warn!(
        needed,
        allowed,
        taking,
        "too few file descriptors for max_connections: taking fewer (see ulimit -n)"
    );
    taking
}

/// Client connections for which so many file descriptors are enough, if the enclave's own take at most a third.
fn clients_within(files: u64, egress: u64) -> u32 {
    let rest = files.saturating_sub(FILES_SPARE.min(files / 4)).saturating_sub(egress.min(files / 3));
    u32::try_from(rest / 2).unwrap_or(u32::MAX).max(1)
}
