//! Flags of `holdfast-dev load`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueHint};
use holdfast_cli::moment::parse_duration;

use super::cpu::parse_watched;
use super::mix::Mix;
use super::pace::Spacing;
use super::profile::Profile;
use super::target::parse_place;
use super::wire::{Http, Place, Reuse};

const URL_HELP: &str = "Any XKS proxy: https://HOST[:PORT][/PREFIX]";
const CREDENTIAL_HELP: &str = "JSON file with access_key_id and secret_access_key [default: the endpoint's; for --url, HOLDFAST_ACCESS_KEY_ID and HOLDFAST_SECRET_ACCESS_KEY]";
const CONNECT_HELP: &str = "Connect here instead: HOST:PORT, or unix:///PATH for an enclave without its parent";
const MIX_HELP: &str =
    "Operations and their weights, such as decrypt=85,encrypt=10,metadata=5 [default: the profile's, or decrypt]";

/// See the module.
#[derive(Clone, Debug, Args)]
pub struct LoadSettings {
    /// The proxy.
    #[command(flatten)]
    pub target: TargetSettings,
    /// The requests.
    #[command(flatten)]
    pub shape: ShapeSettings,
    /// What is measured beside them.
    #[command(flatten)]
    pub measuring: MeasuringSettings,
    /// Print the report as JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Write the report as a page of HTML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub html: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,
}

/// Which proxy is asked.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Target")]
pub struct TargetSettings {
    /// State folder of `holdfast-dev up`, or an endpoint.json; several key stores of one host may be given [default: .holdfast]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, conflicts_with = "url")]
    pub endpoint: Vec<PathBuf>,
    /// Any XKS proxy.
    #[arg(long, value_name = "URL", requires = "key", help = URL_HELP)]
    pub url: Option<String>,
    /// External key to use; may be given more than once
    #[arg(long, value_name = "ID")]
    pub key: Vec<String>,
    /// The credential.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help = CREDENTIAL_HELP)]
    pub credential: Option<PathBuf>,
    /// Region in whose name requests are signed [default: the endpoint's; for --url, us-east-1]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Certificates to trust, in PEM [default: the endpoint's; for --url, those of this system]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,
    /// Name for the TLS handshake and Host, where it is another than that of the URL
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Where to connect instead.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_place, help = CONNECT_HELP)]
    pub connect: Option<Place>,
    /// Start a system of its own: NSM emulator, custodian, parent and enclave; they end with the run
    #[arg(long, conflicts_with_all = ["endpoint", "url", "connect", "credential"])]
    pub local: bool,
    /// Endpoint of the neighbour who floods, for the profile noisy-neighbour
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub neighbour: Option<PathBuf>,
}

/// What is asked, and how often.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct ShapeSettings {
    /// What the load is like; the flags below override it
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub profile: Option<Profile>,
    /// Operations and their weights.
    #[arg(long, value_name = "MIX", help = MIX_HELP)]
    pub mix: Option<Mix>,
    /// Bytes of plaintext [default: 32]
    #[arg(long, value_name = "BYTES")]
    pub plaintext: Option<usize>,
    /// Bytes of additional authenticated data; 0 sends none [default: 100]
    #[arg(long, value_name = "BYTES")]
    pub aad: Option<usize>,
    /// Whether Encrypt asks for the integrity value (CDIV) [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub cdiv: Option<bool>,
    /// Version of HTTP [default: 1.1]
    #[arg(long, value_enum, value_name = "VERSION")]
    pub http: Option<Http>,
    /// How long a connection is used [default: the profile's, or kept]
    #[arg(long, value_enum, value_name = "USE")]
    pub reuse: Option<Reuse>,
    /// Connections; with --reuse new, resumed or held: requests at once [default: the profile's, or 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub connections: Option<u32>,
    /// Requests at once over each connection of HTTP/2 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub streams: Option<u32>,
    /// Requests per second, whether or not they are answered (open loop); 0 sends as soon as answers come (closed loop) [default: the profile's, or 0]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// How the moments of a rate lie [default: even]
    #[arg(long, value_enum, value_name = "SPACING")]
    pub spacing: Option<Spacing>,
    /// How long is measured [default: the profile's, or 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// How long is sent before that [default: the profile's, or 1s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub warm_up: Option<Duration>,
    /// End after so many requests, those of the warm-up among them, if that comes first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Connections beside these that stay idle [default: the profile's, or 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub idle: Option<u32>,
    /// Behave as KMS does: give up after 250 ms, and try once more
    #[arg(long)]
    pub kms: bool,
    /// How long an answer is waited for without --kms
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Seed of what is random: operations, keys, Poisson's moments
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

/// What is measured beside the answers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Measuring")]
pub struct MeasuringSettings {
    /// Measure in the same run what a server can do at best: a bare one, one behind a plain relay, and the cryptography alone
    #[arg(long)]
    pub baselines: bool,
    /// With --local --baselines: which cases are compared [default: all]
    #[arg(long, value_enum, value_name = "CASE", requires = "local", requires = "baselines")]
    pub case: Vec<super::cases::Case>,
    /// Rounds of a comparison: in each, every server has its turn, and medians of the rounds' ratios are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeat: u32,
    /// Process whose processor time is counted; may be given more than once [default: those of the endpoint's state folder]
    #[arg(long, value_name = "NAME=PID", value_parser = parse_watched)]
    pub server_pid: Vec<(String, u32)>,
    /// Processor for the servers: those that are started, and those of --server-pid; may be given more than once
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    pub server_core: Vec<usize>,
    /// Processor for the client; may be given more than once
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    pub client_core: Vec<usize>,
    /// Threads of the client
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected requests per second".to_owned())?;
    if (0.0..=10_000_000.0).contains(&rate) { Ok(rate) } else { Err("expected a rate from 0 to 10,000,000".to_owned()) }
}
