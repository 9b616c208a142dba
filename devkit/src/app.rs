//! The command line of `holdfast-dev`, and from errors to exit codes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand, ValueHint};

use crate::alarms::{self, AlarmsSettings};
use crate::enclave::{self, EnclaveError, EnclaveSettings};
use crate::kms::{self, KmsError, KmsSettings};
use crate::kms_share::{self, KmsShareError, KmsShareSettings};
use crate::load::capacity::{self, CapacitySettings};
use crate::load::server::ServerSettings;
use crate::load::settings::LoadSettings;
use crate::load::{self, LoadError};
use crate::nsm::{self, Fault, NsmConfig, NsmError, PcrSource, Settings};
use crate::up::settings::UpSettings;
use crate::up::{self, UpError};
use crate::vsock::{self, VsockError, VsockSettings};

const FAULT_HELP: &str = "Something that goes wrong: \"flip_signature_bit\", \"wrong_root\", \"foreign_nonce\", \"no_digest\", \"unsigned\", \"drop_response\", {\"stale_timestamp\": MS}, {\"future_timestamp\": MS} or {\"error\": NAME}; may be given more than once";

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or ended as asked
  1  failed; standard error says what was wrong, where, and what to do
  2  the command line is wrong";

/// Exit code of a load that went through with failures.
const REQUESTS_FAILED: u8 = 3;

const LOAD_EXIT_CODES: &str = "\
Examples:
  holdfast-dev load --profile steady
  holdfast-dev load --local --baselines --server-core 0 --client-core 1
  holdfast-dev load --url https://xks.example.com/payments --key payments --credential credential.json --rate 500 --kms

Exit codes:
  0  every request was answered well
  1  there was no measurement; standard error says why
  2  the command line is wrong
  3  requests failed, were answered wrongly or were never sent; the report says which";

/// Runs Holdfast without AWS. Nothing that it starts protects a key from the machine it is on.
#[derive(Debug, Parser)]
#[command(name = "holdfast-dev", version, after_help = EXIT_CODES, after_long_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole system in one command: NSM emulator, custodian, parent and enclave, each its own process
    ///
    /// Runs the ceremony, creates keys, makes a signed Encrypt and Decrypt through the parent, prints step by step what was
    /// proven and how to reach the proxy, and stays up until Ctrl-C. On a state that exists it unseals again and decrypts what the
    /// first run encrypted.
    #[command(
        after_long_help = "Example:\n  holdfast-dev up --check\n  holdfast-dev up --key payments --key archive:decrypt --path-prefix /tests"
    )]
    Up(Box<UpSettings>),
    /// The NSM emulator as a process
    ///
    /// One connection to the socket is one enclave that has just booted. Registers that are not set are zero, which release
    /// policies refuse (PCR 0, 1 and 2).
    #[command(
        after_long_help = "Example:\n  holdfast-dev nsm --socket /tmp/nsm.sock --state nsm --pcr-content 0=image --pcr-content 1=kernel --pcr-content 2=application"
    )]
    Nsm(NsmArguments),
    /// The enclave's library as a local process
    #[command(
        after_long_help = "Example:\n  holdfast-dev enclave --nsm-socket /tmp/nsm.sock --control unix:///tmp/control.sock \\\n    --egress unix:///tmp/egress.sock --audit unix:///tmp/audit.sock --ingress unix:///tmp/ingress.sock"
    )]
    Enclave(EnclaveSettings),
    /// AWS KMS, as far as external key stores reach
    ///
    /// Takes custom key stores, keys, aliases and cryptographic operations from AWS's own clients, and asks XKS proxies as KMS does. Requests
    /// must be signed with the credential of the file that it names when it is up. See docs/kms.md.
    #[command(
        after_long_help = "Example:\n  holdfast-dev kms --proxy-ca .holdfast/tls/ca.pem --connect localhost=127.0.0.1:8443\n  export AWS_CONFIG_FILE=.holdfast-kms/aws-config AWS_PROFILE=holdfast\n  aws kms create-custom-key-store …"
    )]
    Kms(KmsSettings),
    /// A double of AWS KMS that keeps a share of a key store
    ///
    /// Speaks Encrypt and Decrypt for one key, checks signatures, attestation documents and the key's policy as KMS does, and
    /// encrypts what it decrypts to the key in the document.
    #[command(
        after_long_help = "Example:\n  holdfast-dev kms-share --state kms --policy policy.json --nsm-root nsm/root.pem \\\n    --key-arn arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab \\\n    --access-key-id ASIAIOSFODNN7EXAMPLE --secret-access-key-file secret"
    )]
    KmsShare(KmsShareSettings),
    /// A vsock for a virtual machine
    ///
    /// The device as a process of its own, to which QEMU connects by vhost-user. Clients of the host reach port P of the guest
    /// through the socket PATH of --guest (`CONNECT P`, a line feed; the answer is `OK` and a port once the guest accepted); the
    /// guest's connections to port P of context id 2 or 3 go to the socket `PATH_P`. One virtual machine after the other is served.
    #[command(
        after_long_help = "Example:\n  holdfast-dev vsock --socket /tmp/vhost.sock --guest /tmp/vm.sock --cid 16\n  qemu-system-x86_64 -M nitro-enclave,vsock=c,id=test -chardev socket,id=c,path=/tmp/vhost.sock -kernel image.eif …"
    )]
    Vsock(VsockSettings),
    /// What alarms find and miss: a simulation
    ///
    /// Made-up traffic of weeks and six attacks are judged by the rules of a custodian's alarms, as they are by default. Nothing is
    /// started, and nothing of a real key store is read. The same seed gives the same figures.
    #[command(
        after_long_help = "Example:\n  holdfast-dev alarms\n  holdfast-dev alarms --weeks 12 --runs 500 --seed 7 --json"
    )]
    Alarms(AlarmsSettings),
    /// Load as KMS brings it, and what a server does under it
    ///
    /// Asks any XKS proxy, or a local system that it starts; checks every answer; tells latencies, failures, and the processor time
    /// of the servers for each request. See docs/load.md.
    #[command(
        after_help = LOAD_EXIT_CODES, after_long_help = LOAD_EXIT_CODES,
    )]
    Load(Box<LoadSettings>),
    /// How far a system goes: memory, many key stores, several processors, custodians with many enclaves
    ///
    /// Starts local systems, which end with it. See docs/load.md.
    #[command(
        after_long_help = "Example:\n  holdfast-dev capacity memory --requests 1000000\n  holdfast-dev capacity stores --stores 100 --keys 100 --json"
    )]
    Capacity(Box<CapacitySettings>),
    /// A server that `load` starts to compare with
    #[command(hide = true)]
    LoadServer(ServerSettings),
}

/// Flags of `holdfast-dev nsm`.
#[derive(Clone, Debug, Args)]
pub struct NsmArguments {
    /// Socket for enclaves
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Socket for changing the settings while it runs: lines of JSON
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub control_socket: Option<PathBuf>,
    /// Socket at which virtual machines of QEMU get their unsigned documents signed
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub signer_socket: Option<PathBuf>,
    /// Folder for the emulator's root: root.pem is what verifiers must name
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state: PathBuf,
    /// Register 0, 1, 2, 3, 4 or 8 as 96 hexadecimal digits; may be given more than once
    #[arg(long, value_name = "INDEX=HEX", value_parser = parse_indexed)]
    pub pcr: Vec<(u8, String)>,
    /// Register as the measurement of a text; may be given more than once
    #[arg(long, value_name = "INDEX=TEXT", value_parser = parse_indexed)]
    pub pcr_content: Vec<(u8, String)>,
    /// Name of the enclave [default: one like AWS's]
    #[arg(long, value_name = "TEXT")]
    pub module_id: Option<String>,
    /// Show every register as zero, as enclaves in debug mode do
    #[arg(long)]
    pub debug_mode: bool,
    /// Distance of the emulator's clock from the system's
    #[arg(long, value_name = "MS", default_value_t = 0, allow_negative_numbers = true)]
    pub time_offset_ms: i64,
    /// Something that goes wrong.
    #[arg(long, value_name = "JSON", value_parser = parse_fault, help = FAULT_HELP)]
    pub fault: Vec<Fault>,
}

fn parse_indexed(text: &str) -> Result<(u8, String), String> {
    let (index, value) = text.split_once('=').ok_or("expected INDEX=VALUE")?;
    let index = index.parse().map_err(|_| "expected a register's number before the equals sign")?;
    Ok((index, value.to_owned()))
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl NsmArguments {
    fn into_config(self) -> NsmConfig {
        let hex = self.pcr.into_iter().map(|(index, value)| (index, PcrSource::Hex(value)));
        let content = self.pcr_content.into_iter().map(|(index, value)| (index, PcrSource::Content(value)));
        let pcrs: BTreeMap<_, _> = hex.chain(content).collect();
        let defaults = Settings::default();
        NsmConfig {
            socket: self.socket,
            control_socket: self.control_socket,
            signer_socket: self.signer_socket,
            state_folder: self.state,
            settings: Settings {
                pcrs,
                debug_mode: self.debug_mode,
                module_id: self.module_id.unwrap_or(defaults.module_id),
                time_offset_ms: self.time_offset_ms,
                faults: self.fault,
            },
        }
    }
}

/// Why the program stopped.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error(transparent)]
    Up(#[from] UpError),
    #[error("NSM emulator: {0}")]
    Nsm(#[from] NsmError),
    #[error("enclave: {0}")]
    Enclave(#[from] EnclaveError),
    #[error("KMS: {0}")]
    Kms(#[from] KmsError),
    #[error("double of KMS: {0}")]
    KmsShare(#[from] KmsShareError),
    #[error("vsock: {0}")]
    Vsock(#[from] VsockError),
    #[error("load: {0}")]
    Load(#[from] LoadError),
    #[error("cannot print: {0}")]
    Print(std::io::Error),
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Runs the program.
#[must_use]
pub fn main(arguments: Arguments) -> ExitCode {
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit code tells even where standard error is closed.
            let _ = writeln!(std::io::stderr(), "holdfast-dev: {error}");
            match error {
                AppError::Load(LoadError::Requests { .. }) => ExitCode::from(REQUESTS_FAILED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn start(arguments: Arguments) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Up(settings) => up::run(&settings).await?,
            Command::Nsm(arguments) => nsm::serve(arguments.into_config(), up::asked_to_end()).await?,
            Command::Enclave(settings) => enclave::serve(settings).await?,
            Command::Kms(settings) => kms::serve(settings, up::asked_to_end()).await?,
            Command::KmsShare(settings) => kms_share::serve(settings, up::asked_to_end()).await?,
            Command::Vsock(settings) => vsock::serve(settings, up::asked_to_end()).await?,
            Command::Alarms(settings) => alarms::run(settings).map_err(AppError::Print)?,
            Command::Load(settings) => measure_until_asked_to_end(move |stop| load::run(&settings, stop)).await?,
            Command::Capacity(settings) => {
                measure_until_asked_to_end(move |stop| capacity::run(&settings, stop)).await?;
            }
            Command::LoadServer(settings) => load::server::serve(settings).await?,
        }
        Ok(())
    })
}

/// On a thread of its own, which starts those that measure: what it started has ended when this returns.
async fn measure_until_asked_to_end(
    measure: impl FnOnce(&Arc<AtomicBool>) -> Result<(), LoadError> + Send + 'static,
) -> Result<(), AppError> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let mut measured = tokio::task::spawn_blocking(move || measure(&told));
    let result = tokio::select! {
        result = &mut measured => result,
        () = up::asked_to_end() => {
            stop.store(true, Ordering::Relaxed);
            measured.await
        }
    };
    Ok(result.map_err(std::io::Error::other)??)
}
