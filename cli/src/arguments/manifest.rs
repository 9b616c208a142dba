//! `holdfast manifest …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use holdfast_shared::xks::{HostName, PathPrefix};

use super::{OrderTerms, Patience, SignArguments, Target};
use crate::moment::parse_duration;

/// `holdfast manifest`
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Make and sign a manifest and print the key store's id
    ///
    /// The id is the SHA-256 of the manifest: nobody can put another custodian, administrator or policy under it.
    #[command(
        after_long_help = "Example:\n  holdfast manifest create --name payments --custodian vault-1.json --custodian vault-2.json \\\n    --custodian vault-3.json --shares-needed 2 --administrator bob.json --threshold custody=2 \\\n    --host-name xks.example.com --path-prefix /payments \\\n    --measurements measurements.json --configuration static.json --trust-root aws --lease 24h --out payments.manifest\n\nWhere it names several administrators, each of them signs the file: holdfast manifest sign payments.manifest"
    )]
    Create(Box<CreateArguments>),
    /// Verify a manifest and show what it says
    #[command(after_long_help = "Example:\n  holdfast manifest show payments.manifest")]
    Show {
        /// The signed manifest
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Take over a manifest that was made elsewhere
    #[command(after_long_help = "Example:\n  holdfast manifest add payments.manifest")]
    Add {
        /// The signed manifest
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// PEM file of the attestation root, where the manifest trusts another than AWS's
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        trust_root: Option<PathBuf>,
    },
    /// Sign a manifest that another administrator made; the file is replaced by one with the further signature
    #[command(
        after_long_help = "Example:\n  holdfast manifest sign payments.manifest\n  holdfast manifest sign payments.manifest --merge from-carol.manifest"
    )]
    Sign(SignArguments),
    /// Send a manifest to its custodians, which then accept the key store's ceremony
    #[command(after_long_help = "Example:\n  holdfast manifest enrol payments.manifest")]
    Enrol {
        /// The signed manifest; it must be known here (create, add)
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// How long.
        #[command(flatten)]
        patience: Patience,
    },
    /// Make a successor: other administrators, thresholds, custodians or host name
    ///
    /// The key store and its id stay. A successor is signed by as many administrators of its predecessor as custody needs, then put in
    /// force with: holdfast manifest adopt. Where custodians or numbers change, the root key changes, too, and is shared anew.
    #[command(
        after_long_help = "Example:\n  holdfast manifest succeed --add-administrator dave.json --remove-administrator bob --out next.manifest\n  holdfast manifest succeed --remove-custodian vault-2 --add-custodian vault-4.json --out next.manifest\n  holdfast manifest sign next.manifest      # other administrators\n  holdfast manifest adopt next.manifest"
    )]
    Succeed(Box<SucceedArguments>),
    /// Put a successor in force
    ///
    /// It is staged at all custodians, old and new, then an enclave is ordered to adopt it.
    #[command(after_long_help = "Example:\n  holdfast manifest adopt next.manifest --chain-out payments.manifest")]
    Adopt(Box<AdoptArguments>),
}

/// `holdfast manifest create`
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// For people: 1 to 64 printable ASCII characters
    #[arg(long)]
    pub name: String,
    /// A custodian's public description, as holdfast-custodian writes it; once for each. The first is the home custodian, which
    /// orders changes and cannot be exchanged later
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub custodian: Vec<PathBuf>,
    /// Custodians whose shares bring the root key back; fewer of them learn nothing [default: more than half]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..=17))]
    pub shares_needed: Option<u8>,
    /// Custodians that may be hostile without rolling the key store back
    #[arg(long, value_name = "F", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=15))]
    pub hostile: u8,
    /// ARN of an AWS KMS key that keeps one more share, which only an attested enclave gets back; it counts as one of the shares
    /// needed, and is never enough alone
    #[arg(long, value_name = "ARN", requires = "kms_root")]
    pub kms_key_arn: Option<String>,
    /// PEM file of the certificates to which the KMS endpoint's certificate chains
    #[arg(long, value_name = "FILE", requires = "kms_key_arn", value_hint = ValueHint::FilePath)]
    pub kms_root: Option<PathBuf>,
    /// The KMS endpoint [default: kms.REGION.amazonaws.com:443]
    #[arg(long, value_name = "HOST:PORT", requires = "kms_key_arn")]
    pub kms_address: Option<String>,
    /// A further administrator's `admin show --json`; once for each
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub administrator: Vec<PathBuf>,
    /// The DNS name that KMS calls
    #[arg(long, value_name = "NAME")]
    pub host_name: HostName,
    /// The path before /kms/xks/v1, such as /payments
    #[arg(long, value_name = "PATH", default_value = "")]
    pub path_prefix: PathPrefix,
    /// Accepted measurements: what a build of the image wrote; or registers (PCR 0, 1, 2 and 16, optionally 3, 4 and 8), one set
    /// or a list
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub measurements: PathBuf,
    /// The static configuration that parents hand to enclaves of the image: PCR 16, where the file is what a build of the image wrote
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub configuration: Option<PathBuf>,
    /// Root of the attestation evidence: aws, or the PEM file of an emulator's
    #[arg(long, value_name = "aws|FILE", value_hint = ValueHint::FilePath)]
    pub trust_root: PathBuf,
    /// Longest life of a blocked or revoked key behind a cut wire, and longest custodian outage survived, unless the audit log's
    /// max-unwitnessed ends service before
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    pub lease: Duration,
    /// Signatures that a kind of order needs: keys, credentials, identity, block, unblock or custody [default: 1 each]
    #[arg(long, value_name = "KIND=N")]
    pub threshold: Vec<String>,
    /// The signed manifest, for the custodian and the parents
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
}

/// `holdfast manifest succeed`
#[derive(Debug, Args)]
pub struct SucceedArguments {
    /// A new administrator's `admin show --json`; once for each
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub add_administrator: Vec<PathBuf>,
    /// An administrator who has no say any more: the name, or the beginning of the id
    #[arg(long, value_name = "NAME")]
    pub remove_administrator: Vec<String>,
    /// A new custodian's public description; once for each
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub add_custodian: Vec<PathBuf>,
    /// A custodian whose share is deleted: the name, or the beginning of the id. The home custodian stays
    #[arg(long, value_name = "NAME")]
    pub remove_custodian: Vec<String>,
    /// Signatures that a kind of order needs: keys, credentials, identity, block, unblock or custody
    #[arg(long, value_name = "KIND=N")]
    pub threshold: Vec<String>,
    /// Custodians whose shares bring the root key back
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..=17))]
    pub shares_needed: Option<u8>,
    /// Custodians that may be hostile without rolling the key store back
    #[arg(long, value_name = "F", value_parser = clap::value_parser!(u8).range(0..=15))]
    pub hostile: Option<u8>,
    /// The DNS name that KMS calls
    #[arg(long, value_name = "NAME")]
    pub host_name: Option<HostName>,
    /// The successor, for others to sign
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}

/// `holdfast manifest adopt`
#[derive(Debug, Args)]
pub struct AdoptArguments {
    /// The successor with all its signatures
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Also write the first manifest and its successors into a new file, for new administrators; parents keep the first one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub chain_out: Option<PathBuf>,
    /// Under which conditions.
    #[command(flatten)]
    pub terms: OrderTerms,
}
