//! The command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::config::{Config, ConfigError};
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
}

const AFTER_HELP: &str = "\
Configuration (defaults in parentheses; addresses are vsock://CID:PORT, unix:///PATH or hybrid:///PATH:PORT):
  listen                 TCP address for clients; port 0 takes a free one
  ready_listen           TCP address of GET /ready and GET /status
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
  [control] listen       where the enclave opens its control connection
  [egress] listen        where the enclave opens egress connections
  [egress] allow         host:port destinations that it may ask for, read again at SIGHUP ([])
  [egress] idle_timeout_ms  as above, for egress connections (300000)
  [egress] max_connections  egress connections at a time (2048)
  [aws] credentials      instance-role: those of the instance, for a share in AWS KMS (none)
  [aws] instance_metadata  where the role's credentials are fetched (169.254.169.254:80)

Signals:
  SIGTERM, SIGINT  drain and exit; a second one exits at once
  SIGHUP           look at the manifests now; read egress.allow again

Exit codes:
  0  ended as asked, after draining
  1  failed while running, or ended by a second signal
  2  wrong command line or configuration";

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
                StartError::Run(_) | StartError::Runtime(_) => FAILED,
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
}

fn start(arguments: &Arguments) -> Result<(), StartError> {
    let config = Config::load(&arguments.config)?;
    let static_configuration = config.load_static_configuration()?;
    if arguments.check_config {
        // The exit code is the answer; the line is for people.
        let _ = writeln!(std::io::stdout(), "holdfast-parent: configuration is valid");
        return Ok(());
    }
    crate::log::start(config.log_format, config.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::Runtime)?;
    let result = runtime.block_on(run(config, static_configuration));
    // A name that is being resolved must not hold the program up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(result?)
}
