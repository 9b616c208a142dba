//! The command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser};

use crate::config::{Config, ConfigError};
use crate::nitro::check::{Verdict, check};
use crate::run::{RunError, run};

/// Exit code of a failure at run time.
const FAILED: u8 = 1;
/// Exit code of a wrong command line or configuration; clap uses the same.
const USAGE: u8 = 2;

/// The untrusted relay beside the enclave: carries clients' connections to the enclave and the enclave's own to its
/// custodians, and hands the enclave its configuration and key store list. It reads none of the traffic.
#[derive(Debug, Parser)]
#[command(name = "holdfast-parent", version, after_long_help = AFTER_HELP)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and the files that it names, then exit.
    #[arg(long)]
    check_config: bool,
    /// Check whether this instance can run the enclave of section nitro: driver, nitro-cli, CPUs, hugepages, image; then exit.
    #[arg(long, conflicts_with = "check_config")]
    check_instance: bool,
}

const AFTER_HELP: &str = "\
Configuration (defaults in parentheses; addresses are vsock://CID:PORT, unix:///PATH or hybrid:///PATH:PORT):
  listen                 TCP address for clients; port 0 takes a free one
  ready_listen           TCP address of GET /ready, GET /status and GET /metrics
  static_configuration   JSON file that the enclave gets byte for byte
  key_stores             folder of NAME.manifest files, watched each second and at SIGHUP
  max_connections        client connections at a time, more than the enclave takes (8192)
  first_byte_timeout_ms  time for a client's first byte (5000)
  idle_timeout_ms        time without movement before a connection is closed (300000)
  connect_timeout_ms     time to connect to the enclave or an egress destination (5000)
  drain_grace_ms         at SIGTERM: time to go on accepting while not ready (0)
  drain_timeout_ms       at SIGTERM: time for connections to end (30000)
  ports_file             file to write the chosen addresses to, as JSON (none)
  log_format             text or json (text)
  log_level              error, warn, info or debug (info)
  [enclave] ingress      where the enclave takes clients' connections
  [enclave] command      program to start and watch as the enclave, with arguments (none)
  [enclave] cids         context ids of the enclaves that are started, one or two: {cid} in addresses and in
                         the command; with two, a new image starts beside the old ([16, 17] with [nitro])
  [enclave] ready_timeout_ms  time for a new image to serve what the old one serves (300000)
  [nitro] eif            image that nitro-cli runs, instead of a command
  [nitro] cpu_count      CPUs of each enclave; or cpu_ids, a list, where there is one of cids
  [nitro] memory_mib     memory of each enclave
  [nitro] name           what the enclaves' names begin with (holdfast)
  [nitro] cli            the program (/usr/bin/nitro-cli)
  [control] listen       where the enclave opens its control connection
  [egress] listen        where the enclave opens egress connections
  [egress] allow         host:port destinations that it may ask for, read again at SIGHUP ([])
  [egress] idle_timeout_ms  as above, for egress connections (300000)
  [egress] max_connections  egress connections at a time, two for each key store and custodian (12288)
  [audit] listen         where the enclave opens its audit connection
  [audit] folder         folder that holds the audit logs, this program's alone; made if missing
  [audit] rotate_bytes   bytes of a file of entries after which the next one begins (16777216)
  [audit] keep_days      days after its last entry when the log of an enclave that is gone is deleted (never)
  [aws] credentials      instance-role: those of the instance, for a share in AWS KMS (none)
  [aws] instance_metadata  where the role's credentials are fetched (169.254.169.254:80)
  [tracing] collector    OpenTelemetry collector that gets traces: http://ADDRESS:PORT, near, or unix:///PATH (none)
  [tracing] one_in       one of so many requests is traced (1000)
  [tracing] per_second   requests traced each second at most, 1 to 100 (10)
  [tracing] slow_ms      from so long on, and when refused, a request is traced in any case (100)
  [tracing] timeout_ms   time for the collector to take one batch (5000)

Signals:
  SIGTERM, SIGINT  drain and exit; a second one exits at once
  SIGHUP           look at the manifests now; read egress.allow, command and [nitro] again; another command
                   or image takes over from the running one, which then finishes and ends

Exit codes:
  0  ended as asked, after draining
  1  failed while running, or ended by a second signal; with --check-instance: something is missing
  2  wrong command line or configuration";

/// The command line, for those who look at it: tests of what documents say.
#[must_use]
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// Reads the command line and runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the only place for this; if it is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "holdfast-parent: {error}");
            ExitCode::from(match error {
                StartError::Config(_) => USAGE,
                StartError::Run(_) | StartError::Runtime(_) | StartError::Instance => FAILED,
            })
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("this instance cannot run the enclave")]
    Instance,
}

fn start(arguments: &Arguments) -> Result<(), StartError> {
    let config = Config::load(&arguments.config)?;
    let static_configuration = config.load_static_configuration()?;
    if arguments.check_config {
        // The exit code is the answer; the line is for people.
        let _ = writeln!(std::io::stdout(), "holdfast-parent: configuration is valid");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::Runtime)?;
    if arguments.check_instance {
        return runtime.block_on(check_instance(&config));
    }
    crate::log::start(config.log_format, config.log_level);
    let result = runtime.block_on(run(config, static_configuration));
    // A name that is being resolved must not hold the program up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(result?)
}

/// Prints the table.
async fn check_instance(config: &Config) -> Result<(), StartError> {
    let findings = check(config, Path::new("/")).await;
    for finding in &findings {
        // The exit code is the answer; the lines are for people.
        let _ = writeln!(std::io::stdout(), "{}", finding.line());
    }
    if findings.iter().any(|finding| finding.verdict == Verdict::Bad) { Err(StartError::Instance) } else { Ok(()) }
}
