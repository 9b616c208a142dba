//! `holdfast block …`, `holdfast approve …` and what else concerns several administrators and custodians.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use holdfast_shared::external_key::ExternalKeyId;

use super::{OrderTerms, Patience, Target};
use crate::moment::parse_duration;

/// `holdfast block`, `holdfast unblock`
#[derive(Debug, Args)]
pub struct ScopeArguments {
    /// What.
    #[command(flatten)]
    pub scope: ScopeGroup,
    /// Write the signed overlay into a new file instead of sending it: for other administrators to sign, then holdfast send
    #[arg(long, value_name = "FILE", conflicts_with = "all", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Show what would be signed, and how many signatures it needs; send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long custodians that cannot be reached are tried: a number and ms, s, m, h or d
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}

/// Keys, the key store, or both.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct ScopeGroup {
    /// A key; may be given more than once. It need not exist
    #[arg(long, value_name = "ID")]
    pub key: Vec<ExternalKeyId>,
    /// The whole key store
    #[arg(long)]
    pub store: bool,
    /// Every key store that is known in this folder, as a whole
    #[arg(long, conflicts_with_all = ["key", "store", "key_store"])]
    pub all: bool,
}

/// `holdfast kill`
#[derive(Debug, Args)]
pub struct KillArguments {
    /// A key; may be given more than once
    #[arg(long, value_name = "ID", required_unless_present = "store")]
    pub key: Vec<ExternalKeyId>,
    /// The whole key store
    #[arg(long, conflicts_with = "key")]
    pub store: bool,
    /// Audit folder of the parent: who used the keys lately
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub log: Option<PathBuf>,
    /// An auditor's private key for it; without it, the administrator's
    #[arg(long = "key-file", value_name = "FILE", value_hint = ValueHint::FilePath, requires = "log")]
    pub key_file: Option<PathBuf>,
    /// How far back: a number and ms, s, m, h or d
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = parse_duration, requires = "log")]
    pub within: Duration,
    /// Show what it would hit; block nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Block without asking
    #[arg(long)]
    pub yes: bool,
    /// How long custodians, and then enclaves, are waited for
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}

/// `holdfast status`
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Show it again and again until interrupted; on a terminal, in its place. With --json, a line for each look
    #[arg(long)]
    pub watch: bool,
    /// How long between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration, requires = "watch")]
    pub every: Duration,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}

/// `holdfast approve`
#[derive(Debug, Args)]
pub struct ApproveArguments {
    /// The beginning of the command's id, four digits at least
    #[arg(value_name = "ID-PREFIX")]
    pub id: String,
    /// Sign without asking
    #[arg(long)]
    pub yes: bool,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
    /// How long.
    #[command(flatten)]
    pub patience: Patience,
}

/// `holdfast sign`, `holdfast manifest sign`
#[derive(Debug, Args)]
pub struct SignArguments {
    /// The statement
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Another copy, whose signatures are taken over
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub merge: Vec<PathBuf>,
    /// Sign without asking
    #[arg(long)]
    pub yes: bool,
    /// Show what it says and who signed it; sign nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `holdfast send`
#[derive(Debug, Args)]
pub struct SendArguments {
    /// The statement with all its signatures
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// How long custodians that cannot be reached are tried: a number and ms, s, m, h or d
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// `holdfast release`
#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Boots that satisfy the release policy and lack approvals
    #[command(after_long_help = "Example:\n  holdfast release list")]
    List(Target),
    /// Approve a boot, at every custodian
    ///
    /// Its attestation document is verified here first. The approval holds for this boot until it ends; renewals of a lease need none.
    #[command(after_long_help = "Example:\n  holdfast release approve 3f9a01bb --for 8h")]
    Approve {
        /// The beginning of the boot's id, four digits at least
        #[arg(value_name = "BOOT-PREFIX")]
        boot: String,
        /// How long the boot may obtain releases: at most 31d
        #[arg(long = "for", value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
        life: Duration,
        /// Approve without asking
        #[arg(long)]
        yes: bool,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// How long.
        #[command(flatten)]
        patience: Patience,
    },
}

/// `holdfast releases`
#[derive(Debug, Args)]
pub struct RecordsArguments {
    /// Whose record: a name in the manifest; the home custodian's without it
    #[arg(long, value_name = "NAME")]
    pub custodian: Option<String>,
    /// At most so many entries, newest first
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}

/// `holdfast root-key`
#[derive(Debug, Subcommand)]
pub enum RootKeyCommand {
    /// Change the root key: custodians get new shares and delete the old ones
    ///
    /// Sealed key stores of before stay closed for good once fewer old shares are left than are needed.
    #[command(after_long_help = "Example:\n  holdfast root-key rotate")]
    Rotate {
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
}

/// `holdfast history`
#[derive(Debug, Args)]
pub struct HistoryArguments {
    /// The first version to show
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub from: u64,
    /// Whose record: a name in the manifest; the home custodian's without it
    #[arg(long, value_name = "NAME")]
    pub custodian: Option<String>,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}

/// `holdfast provenance`
#[derive(Debug, Subcommand)]
pub enum ProvenanceCommand {
    /// Write manifests, policies, share sets, versions, evidence and commands into a file
    #[command(after_long_help = "Example:\n  holdfast provenance export --out payments.provenance.json")]
    Export {
        /// New file
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: PathBuf,
        /// Which key store.
        #[command(flatten)]
        target: Target,
    },
    /// Verify such a file, from the ceremony on; needs no network and no keys
    ///
    /// Each break of the chain is named. Exit code 0: every link holds; 1: one does not.
    #[command(
        after_long_help = "Example:\n  holdfast provenance verify payments.provenance.json --key-store 6ca9…\n  holdfast provenance verify local.provenance.json --trust-root nsm/root.pem --json"
    )]
    Verify {
        /// The file; - for standard input
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// PEM file of another root than that of AWS Nitro Enclaves
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        trust_root: Option<PathBuf>,
        /// The id that the key store must have
        #[arg(long, value_name = "ID")]
        key_store: Option<holdfast_shared::ids::KeyStoreId>,
    },
}
