//! `holdfast audit …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand, ValueEnum, ValueHint};
use holdfast_shared::audit::Operation;
use holdfast_shared::ids::{BootId, KeyStoreId};

use super::{OrderTerms, Target, Whole};
use crate::audit::records::{Outcome, parse_operation};
use crate::audit::store::place::Place;
use crate::moment::{parse_duration, parse_ms};

/// `holdfast audit`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Change who reads the audit log and under which terms it is kept
    ///
    /// What is not given gets its default. Needs as many signatures as changes of custody do: whoever could switch readers alone could
    /// hide from the others what is done with the keys.
    #[command(
        after_long_help = "Example:\n  holdfast audit set --mode strict --auditor auditor.json\n  holdfast audit set --max-unwitnessed-seconds 60 --max-unwitnessed-records 100000"
    )]
    Set(SetAuditArguments),
    /// Go back to the log of a key store without settings: every administrator reads, relaxed, 86400 seconds, 10000000 records
    #[command(after_long_help = "Example:\n  holdfast audit clear")]
    Clear(Whole),
    /// Show who reads the audit log and under which terms it is kept
    #[command(after_long_help = "Example:\n  holdfast audit show --json")]
    Show(Whole),
    /// Make an auditor's keys: one who reads and orders nothing
    #[command(
        after_long_help = "Example:\n  holdfast audit key --name internal-audit --out auditor.key > auditor.json"
    )]
    Key {
        /// For people: 1 to 64 printable ASCII characters
        #[arg(long)]
        name: String,
        /// New file for the private key (0600); the public part is printed
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: PathBuf,
    },
    /// Ask every custodian how far the logs have come, and write it into a file
    ///
    /// With it, verification needs no network, and whoever has no administrator's keys can verify, too.
    #[command(after_long_help = "Example:\n  holdfast audit heads --out heads.json")]
    Heads {
        /// New file
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: PathBuf,
        /// Which key store.
        #[command(flatten)]
        target: Target,
    },
    /// Verify the logs of all boots, and name what is missing, changed or contradicted
    ///
    /// Every Merkle tree is computed anew and held against the checkpoints that the boots signed, as the parent keeps them and as the
    /// custodians witnessed them; and what each log says of those before it is held against these. Exit code 0: nothing is wrong; 1:
    /// something is, and each finding was named. docs/audit.md says what each finding means.
    #[command(
        after_long_help = "Example:\n  holdfast audit verify --log /var/lib/holdfast/audit\n  holdfast audit verify --log audit --heads heads.json --json | jq -r .findings[].kind"
    )]
    Verify(VerifyAuditArguments),
    /// Send the logs to object storage as they grow
    ///
    /// Files that are finished are sent once, the newest of each log and its checkpoints again when they grew. An object is never replaced by
    /// less or by other content, and nothing is deleted. Credentials come from the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, or those of a web identity or container) or from the machine's role. Exit code 0: everything is
    /// there; 1: something is not, and was named.
    #[command(
        after_long_help = "Example:\n  holdfast audit upload --folder /var/lib/holdfast/audit --to s3://audit-logs/fleet-1 --region eu-central-1 --watch\n  holdfast audit upload --folder /var/lib/holdfast/audit --to file:///mnt/worm/audit --json | jq .failed"
    )]
    Upload(Box<UploadArguments>),
    /// Bring logs back from object storage, into a folder that audit verify reads
    ///
    /// Exit code 0: everything is here; 1: something is not, and was named.
    #[command(
        after_long_help = "Example:\n  holdfast audit download --from s3://audit-logs/fleet-1 --region eu-central-1 --folder audit\n  holdfast audit verify --log audit"
    )]
    Download(Box<DownloadArguments>),
    /// Show the newest records
    #[command(after_long_help = "Example:\n  holdfast audit tail --log /var/lib/holdfast/audit --follow")]
    Tail {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20)]
        lines: usize,
        /// Go on with those that come
        #[arg(long)]
        follow: bool,
        /// Where the log is, and who reads.
        #[command(flatten)]
        source: LogSource,
    },
    /// Search the records
    ///
    /// One record a line; with --json, one JSON object a line.
    #[command(
        after_long_help = "Example:\n  holdfast audit query --log audit --principal 'arn:aws:iam::*:role/payments-*' --outcome refused\n  holdfast audit query --log audit --key payments-1 --since 2026-11-01T00:00:00Z --json"
    )]
    Query(Box<QueryArguments>),
    /// Hold the log against CloudTrail's files, both ways
    ///
    /// A record and an event belong together by the request id of KMS. Named are: calls that succeeded by CloudTrail and that no enclave
    /// answered (an impostor did: critical), answered requests that CloudTrail does not know, and calls of which the two say different
    /// things. Nothing is asked over the network. Exit code 0: nothing is wrong; 1: something is, or nothing could be compared.
    #[command(
        after_long_help = "Example:\n  aws s3 sync s3://my-trail/AWSLogs/111122223333/CloudTrail/eu-central-1/2026/11/22 trail\n  holdfast audit reconcile --cloudtrail trail --log /var/lib/holdfast/audit --heads heads.json\n  holdfast audit reconcile --cloudtrail trail --log audit --custom-key-store cks-9876543210fedcba9 --json | jq .totals"
    )]
    Reconcile(Box<ReconcileArguments>),
    /// Write a proof that one entry stands in the log, for whoever has neither the log nor this tool
    #[command(
        after_long_help = "Example:\n  holdfast audit prove --log audit --heads heads.json --boot 0123456789abcdef0123456789abcdef --index 4711 --out proof.json"
    )]
    Prove {
        /// The boot
        #[arg(long, value_name = "ID")]
        boot: BootId,
        /// The entry, as query and tail show it
        #[arg(long, value_name = "N")]
        index: u64,
        /// New file
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: PathBuf,
        /// What custodians say, so that the proof holds the attestation document that vouches for the boot's key
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        heads: Option<PathBuf>,
        /// Audit folder of the parent
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        log: PathBuf,
        /// Which key store.
        #[command(flatten)]
        target: Target,
    },
}

/// `holdfast audit set`
#[derive(Debug, Args)]
pub struct SetAuditArguments {
    /// File of an auditor's public key, as `holdfast audit key` prints it; may be given up to 8 times
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub auditor: Vec<PathBuf>,
    /// Whether administrators read, too
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub administrators: bool,
    /// When a request is answered
    #[arg(long, value_enum, default_value_t = ModeArgument::Relaxed)]
    pub mode: ModeArgument,
    /// Age of the oldest record that too few custodians witnessed at which the key store is no longer served: 2 to 86400
    #[arg(long, value_name = "N", default_value_t = 86_400)]
    pub max_unwitnessed_seconds: u32,
    /// Number of such records: 10 to 100000000
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub max_unwitnessed_records: u64,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
    /// Under which conditions.
    #[command(flatten)]
    pub terms: OrderTerms,
}

/// When a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArgument {
    /// Its record is in the enclave's tree
    Relaxed,
    /// Its record is on the parent's disk, too
    Strict,
}

/// How a bucket is reached.
#[derive(Debug, Args)]
pub struct ReachArguments {
    /// URL of a service of S3's kind, where it is not AWS's; http:// only on this machine
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub endpoint: Option<String>,
    /// The bucket's region [default: `AWS_REGION`]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// PEM file of the certificate authorities for the service [default: those of this system]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub roots: Option<PathBuf>,
}

/// `holdfast audit upload`
#[derive(Debug, Args)]
pub struct UploadArguments {
    /// Audit folder of the parent
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub folder: PathBuf,
    /// `s3://BUCKET/PREFIX`, or `file:///DIR`
    #[arg(long, value_name = "PLACE")]
    pub to: Place,
    /// Go on each 10 seconds, until SIGTERM or SIGINT
    #[arg(long)]
    pub watch: bool,
    /// File in which is noted what was sent; it saves questions only [default: DIR.uploaded.json]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub state: Option<PathBuf>,
    /// How.
    #[command(flatten)]
    pub reach: ReachArguments,
}

/// `holdfast audit download`
#[derive(Debug, Args)]
pub struct DownloadArguments {
    /// `s3://BUCKET/PREFIX`, or `file:///DIR`
    #[arg(long, value_name = "PLACE")]
    pub from: Place,
    /// Where the logs are written; made if it is missing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub folder: PathBuf,
    /// Only the logs of this key store
    #[arg(long, value_name = "ID")]
    pub key_store: Option<KeyStoreId>,
    /// Only the logs of this boot
    #[arg(long, value_name = "ID")]
    pub boot: Option<BootId>,
    /// How.
    #[command(flatten)]
    pub reach: ReachArguments,
}

/// Where the log is, and who reads.
#[derive(Debug, Args)]
pub struct LogSource {
    /// Audit folder of the parent
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub log: PathBuf,
    /// An auditor's private key; without it, the administrator's
    #[arg(long = "key-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key_file: Option<PathBuf>,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}

/// `holdfast audit verify`
#[derive(Debug, Args)]
pub struct VerifyAuditArguments {
    /// What custodians say, as `holdfast audit heads` wrote it; without it they are asked
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub heads: Option<PathBuf>,
    /// Where the log is, and who reads.
    #[command(flatten)]
    pub source: LogSource,
}

/// A log of the past: which part of it, and what it is held against.
#[derive(Debug, Args)]
pub struct PastArguments {
    /// Only from this moment on: RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub since: Option<u64>,
    /// Only before this moment
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub until: Option<u64>,
    /// What custodians say, as `holdfast audit heads` wrote it; without it the log is verified against its own checkpoints alone
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub heads: Option<PathBuf>,
    /// Where the log is, and who reads.
    #[command(flatten)]
    pub source: LogSource,
}

/// `holdfast audit reconcile`
#[derive(Debug, Args)]
pub struct ReconcileArguments {
    /// CloudTrail's files, .json or .json.gz, or folders of them; may be given more than once
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, required = true, num_args = 1..)]
    pub cloudtrail: Vec<PathBuf>,
    /// How late CloudTrail's files may be: what is nearer to their edges is not compared; a number and ms, s, m, h or d
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = parse_duration)]
    pub window: Duration,
    /// This key store, as KMS names it (cks-…); without it, all external key stores in the files are taken for this one. May be given
    /// more than once
    #[arg(long, value_name = "ID")]
    pub custom_key_store: Vec<String>,
    /// Which part of the log.
    #[command(flatten)]
    pub past: PastArguments,
}

/// `holdfast audit query`
#[derive(Debug, Args)]
pub struct QueryArguments {
    /// Only requests of this principal; * stands for any characters
    #[arg(long, value_name = "PATTERN")]
    pub principal: Option<String>,
    /// Only requests for this external key
    #[arg(long, value_name = "ID")]
    pub key: Option<String>,
    /// Only this operation, by its name in the specification: Decrypt, for example
    #[arg(long, value_name = "NAME", value_parser = parse_operation)]
    pub operation: Option<Operation>,
    /// Only requests with this outcome: success, refused, or the name of an error
    #[arg(long, value_name = "OUTCOME")]
    pub outcome: Option<Outcome>,
    /// Only records from this moment on: RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub since: Option<u64>,
    /// Only records before this moment
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub until: Option<u64>,
    /// Where the log is, and who reads.
    #[command(flatten)]
    pub source: LogSource,
}
