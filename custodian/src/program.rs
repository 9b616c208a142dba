//! The command line of `holdfast-custodian`.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use holdfast_link::remedy;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::alarms::{ReceiverError, Receivers};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ConfigError, KeyPlaceConfig, LogFormat};
use crate::init::{self, InitError, KeyState};
use crate::kek::{Kek, KekError};
use crate::service::{self, Custodian, ServiceError, StartError};
use crate::state::{self, StateDirectory, StateError};
use crate::store::{Store, StoreError};
use crate::tls::TlsError;
use crate::{http_api, server, tls};

/// Time that calls on blocking threads have left once the program ends.
const LAST_CALLS: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "\
Exit codes:
  0  success
  1  it failed while running
  2  the command line or the configuration is wrong

Configuration file (TOML; relative paths are relative to it):
  name            for people; 1 to 64 characters                                required
  listen          IP address and port; port 0 lets the system choose            required
  address         host:port under which others reach it; goes into manifests    required
  state           directory for keys and the database                           required
  administrators  list of ids that may enrol manifests here                     required
  ports_file      receives {\"listen\": \"IP:PORT\", \"port\": PORT} once it listens  default: none
  emulated_root   PEM file of an emulator's root to trust as well: development  default: none
  log             \"text\" or \"json\", to standard error                           default: text
  tls.names       names and IP addresses in its own certificate                 default: host of address
  tls.certificate, tls.private_key, tls.roots
                  PEM files to use instead of its own authority                 default: none
  database.host, .port, .name, .user, .password_file, .roots, .certificate, .private_key
                  a PostgreSQL server for the tables                            default: a file in state
  key_encryption_key.timeout
                  time for one call to the key that wraps the shares            default: \"5s\"
  key_encryption_key.pkcs11, .transit, .kmip
                  where that key is                                             default: a file
  alarms.learn_days, .factor, .least_uses, .refused_burst, .hours, .clock_drift_seconds, .quiet_hours
                  when alarms are raised; also for one key store: alarms.key_store
                                                                                default: 7, 3, 100, 50, none, 30, 6
  alarms.webhook, alarms.syslog
                  where alarms are delivered to                                 default: nowhere

Environment:
  RUST_LOG        which log lines are written; default: info";

/// The external key custodian of Holdfast: releases shares of root keys to attested enclaves.
#[derive(Debug, Parser)]
#[command(name = "holdfast-custodian", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make keys, TLS authority and database in the state directory, and custodian.json for manifests.
    ///
    /// Refuses a state directory that is not empty. Prints the path of custodian.json.
    Init {
        #[command(flatten)]
        with: WithConfig,
        /// Make the key-encryption key in its PKCS #11 token if the token has none of the configured label.
        #[arg(long)]
        create_key: bool,
    },
    /// Run the service until SIGTERM or Ctrl-C.
    Serve {
        #[command(flatten)]
        with: WithConfig,
        /// Check the configuration and the files it names, then exit.
        #[arg(long)]
        check_config: bool,
    },
    /// Copy the database, as it is at one moment, to a new file; the service may be running.
    ///
    /// The copy holds what the database holds: shares wrapped by the key-encryption key, sealed key stores, the register. The
    /// keys in the state directory are not in it. A PostgreSQL server has tools of its own for this.
    Backup {
        #[command(flatten)]
        with: WithConfig,
        /// The file to make, with mode 0600. It must not exist.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Look after the delivery of alarms.
    Alarms {
        #[command(subcommand)]
        command: AlarmsCommand,
    },
}

#[derive(Debug, Subcommand)]
enum AlarmsCommand {
    /// Send a test to each webhook and syslog receiver of the configuration, and print what came of it.
    ///
    /// The service may be running. Fails when one of them did not take it, or there is none.
    Test {
        #[command(flatten)]
        with: WithConfig,
    },
}

#[derive(Debug, Args)]
struct WithConfig {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Why the program ends early.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Kek(#[from] KekError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    #[error("{failed} of {all} receivers of alarms did not take the test")]
    Undelivered { failed: usize, all: usize },
    #[error("the configuration names no receiver of alarms; add [[alarms.webhook]] or [[alarms.syslog]]")]
    NoReceivers,
    #[error("cannot listen at listen = {listen}: {source}{}", remedy::of_listening(*listen, source))]
    Listen { listen: SocketAddr, source: io::Error },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl ProgramError {
    /// Whether the command line or the configuration is to blame.
    const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::Receiver(_)
                | Self::Kek(KekError::Misconfigured { .. } | KekError::File(_))
                | Self::Tls(TlsError::File { .. } | TlsError::PrivateKey(_))
                | Self::Init(
                    InitError::Kek(KekError::Misconfigured { .. })
                        | InitError::Tls(TlsError::File { .. } | TlsError::PrivateKey(_))
                        | InitError::Store(StoreError::File(_))
                )
                | Self::Start(
                    StartError::EmulatedRoot { .. }
                        | StartError::Kek(KekError::Misconfigured { .. })
                        | StartError::Store(StoreError::File(_))
                )
        )
    }
}

/// The content of the ports file.
#[derive(Serialize)]
struct Ports {
    listen: SocketAddr,
    port: u16,
}

/// The command line, for those who look at it: tests of what documents say.
#[must_use]
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// Runs the program with the arguments of the process.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let result = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ProgramError::from).and_then(
        |runtime| {
            let result = runtime.block_on(execute(arguments.command));
            // A PKCS #11 module that hangs keeps its thread; the program ends all the same.
            runtime.shutdown_timeout(LAST_CALLS);
            result
        },
    );
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "holdfast-custodian: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

async fn execute(command: Command) -> Result<(), ProgramError> {
    match command {
        Command::Init { with, create_key } => {
            let config = Config::load(&with.config)?;
            if init::prepare_key(&config, create_key).await? == KeyState::Made {
                writeln!(io::stderr(), "made the key-encryption key in its token")?;
            }
            let record = init::init(&config, &SystemClock).await?;
            let path = StateDirectory::new(config.state).public_record();
            writeln!(io::stderr(), "made custodian {}; for manifests:", record.id())?;
            writeln!(io::stdout(), "{}", path.display())?;
            Ok(())
        }
        Command::Backup { with, to } => {
            let config = Config::load(&with.config)?;
            back_up(&config, &to).await
        }
        Command::Alarms { command: AlarmsCommand::Test { with } } => test_alarms(&Config::load(&with.config)?).await,
        Command::Serve { with, check_config } => {
            let config = Config::load(&with.config)?;
            if check_config {
                return check(&config);
            }
            start_log(config.log);
            serve(&config).await
        }
    }
}

/// Looks at everything that the configuration names, short of starting.
fn check(config: &Config) -> Result<(), ProgramError> {
    let emulated = service::read_emulated_root(config)?.is_some();
    tls::check_files(config)?;
    Receivers::open(config)?;
    if config.key_encryption_key.place != KeyPlaceConfig::File {
        Kek::open(&config.key_encryption_key, &StateDirectory::new(config.state.clone()))?;
    }
    let warning = if emulated { "; WARNING: it trusts an emulated root" } else { "" };
    writeln!(io::stderr(), "{}: the configuration is good{warning}", config.file.display())?;
    Ok(())
}

/// Sends a test to each receiver of alarms, and says on standard output what came of it.
async fn test_alarms(config: &Config) -> Result<(), ProgramError> {
    let receivers = Receivers::open(config)?;
    let results = receivers.test(SystemClock.now_ms()).await;
    for (receiver, result) in &results {
        match result {
            Ok(()) => writeln!(io::stdout(), "sent: {receiver}")?,
            Err(error) => writeln!(io::stdout(), "FAILED: {receiver}: {error}")?,
        }
    }
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    match results.len() {
        0 => Err(ProgramError::NoReceivers),
        _ if failed == 0 => Ok(()),
        all => Err(ProgramError::Undelivered { failed, all }),
    }
}

/// Copies the database to a file that only its owner can read, and that is on disk when this returns.
async fn back_up(config: &Config, to: &Path) -> Result<(), ProgramError> {
    let state = StateDirectory::new(config.state.clone());
    state.check()?;
    let store = Store::configured(config, &state).await?;
    state::write_private(to, &[])?;
    let copied = store.back_up(to).await;
    store.close().await;
    if let Err(error) = copied {
        // A file that looks like a copy and is none would be found out too late.
        let _ = fs::remove_file(to);
        return Err(error.into());
    }
    File::open(to)?.sync_all()?;
    writeln!(io::stderr(), "copied the database to {}", to.display())?;
    Ok(())
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn serve(config: &Config) -> Result<(), ProgramError> {
    let state = StateDirectory::new(config.state.clone());
    state.check()?;
    let claim = state.claim()?;
    // The file of an earlier run would name a port that is no longer ours.
    if let Some(file) = &config.ports_file
        && let Err(error) = fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(StateError::Io { file: file.clone(), source: error }.into());
    }
    let receivers = Receivers::open(config)?;
    let custodian = Custodian::open(config, Arc::new(SystemClock)).await?;
    let tls = tls::server_config(config, &state, custodian.id(), SystemClock.now_ms())?;
    let failed = |source| ProgramError::Listen { listen: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let listen = listener.local_addr().map_err(failed)?;
    custodian.announce().await?;
    tracing::info!(%listen, address = config.address, "listening");
    let stopped = on_signal()?;
    if let Some(file) = &config.ports_file {
        let ports = serde_json::to_string(&Ports { listen, port: listen.port() })?;
        state::replace_public(file, format!("{ports}\n").as_bytes())?;
    }
    let watch = {
        let custodian = Arc::clone(&custodian);
        tokio::spawn(async move { custodian.watch_key_encryption_key().await })
    };
    let couriers = tokio::spawn(receivers.deliver(Arc::clone(custodian.store()), Arc::new(SystemClock)));
    server::serve(listener, tls, http_api::router(Arc::clone(&custodian)), Arc::clone(&custodian), stopped).await;
    watch.abort();
    couriers.abort();
    custodian.close().await;
    drop(claim);
    tracing::info!("stopped");
    Ok(())
}

/// Becomes true at the first SIGTERM or Ctrl-C.
fn on_signal() -> Result<watch::Receiver<bool>, ProgramError> {
    let stop = watch::Sender::new(false);
    let stopped = stop.subscribe();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        tracing::info!("stopping");
        stop.send_replace(true);
    });
    Ok(stopped)
}
