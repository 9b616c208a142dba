//! The command line. Every default stands here and in `--help`.

mod alarms;
mod attest;
mod audit;
mod custody;
mod doctor;
mod key;
mod manifest;
mod policy;
mod release_policy;
mod settings;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use holdfast_shared::external_key::{ExternalKeyId, KeyState};
use holdfast_shared::ids::CommandId;
use holdfast_shared::sigv4::AccessKeyId;

pub use self::alarms::AlarmsArguments;
pub use self::attest::{AttestArguments, HttpsUrl, Resolution};
pub use self::audit::{
    AuditCommand, DownloadArguments, LogSource, ModeArgument, PastArguments, QueryArguments, ReachArguments,
    ReconcileArguments, SetAuditArguments, UploadArguments, VerifyAuditArguments,
};
pub use self::custody::{
    ApproveArguments, HistoryArguments, KillArguments, ProvenanceCommand, RecordsArguments, ReleaseCommand,
    RootKeyCommand, ScopeArguments, ScopeGroup, SendArguments, SignArguments, StatusArguments,
};
pub use self::doctor::{DoctorArguments, ExpectedEnclave, ExplainArguments};
pub use self::key::{ImportKeyArguments, KeyCommand, OneKey};
pub use self::manifest::{AdoptArguments, CreateArguments, ManifestCommand, SucceedArguments};
pub use self::policy::{BudgetCommand, LimitCommand, PolicyCommand, PolicySource, PresetArguments};
pub use self::release_policy::{ImageArguments, ReleasePolicyCommand, ReleasePolicyOrder, SetReleasePolicyArguments};
pub use self::settings::{ClientAuthCommand, QuotaCommand, Whole};
pub use self::tls::TlsCommand;
use crate::commands::explain_signature::ExplainSignatureArguments;
use crate::moment::{parse_duration, parse_ms};
use crate::words::parse_state;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed; one line on standard error says what was wrong, where, and what to do
  2  the command line is wrong
  3  no enclave has carried out the command in time, and it stays queued; or there was no ceremony yet
  4  begun and not complete: other administrators must sign, or too few custodians have it; what is missing was printed";

/// Orders changes to a Holdfast key store, and checks what its enclaves prove.
///
/// Everything is signed with the administrator's keys in the home folder, sent to the key store's custodian, carried out inside
/// an attested enclave, and shown only after the enclave's attestation was verified.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_help = EXIT_CODES, after_long_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Arguments {
    /// Folder of the administrator's keys and manifests [default: ~/.holdfast]
    #[arg(long, env = "HOLDFAST_HOME", global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub home: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which key store, and how long to wait.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Name or id of the key store; needed where more than one is known
    #[arg(long, value_name = "NAME|ID")]
    pub key_store: Option<String>,
}

/// How long to wait for an enclave.
#[derive(Clone, Copy, Debug, Args)]
pub struct Patience {
    /// How long to wait for an enclave: a number and ms, s, m, h or d
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Under which conditions an order is given, and how long to wait for an enclave.
#[derive(Clone, Copy, Debug, Args)]
pub struct OrderTerms {
    /// How long.
    #[command(flatten)]
    pub patience: Patience,
    /// Carry it out only if the key store is at this version then (see holdfast status)
    #[arg(long, value_name = "N", conflicts_with = "if_state")]
    pub if_version: Option<u64>,
    /// Carry it out only if the key is then enabled, disabled, pending-destruction or destroyed
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    pub if_state: Option<KeyState>,
    /// Show the order, the signatures that it needs and what would happen; send nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The groups of commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// An administrator's keys
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Who owns a key store, who holds its shares, what may run it
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// External keys, as --xks-key-id names them
    #[command(subcommand)]
    Key(KeyCommand),
    /// The credentials with which KMS signs its requests
    #[command(subcommand)]
    Credential(CredentialCommand),
    /// TLS key and certificate of the key store's host name
    #[command(subcommand)]
    Tls(TlsCommand),
    /// How often the key store's keys may be used
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// How often each key and each principal may come
    #[command(subcommand)]
    Limit(LimitCommand),
    /// How many uses keys have in an hour and in a day, in all enclaves together
    #[command(subcommand)]
    Budget(BudgetCommand),
    /// Who may use the keys for what: a policy in Cedar that the enclave keeps to
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Which client certificates are accepted (mTLS); off by default
    ///
    /// AWS deprecated mTLS for external key stores in March 2026. Every request is authenticated by its signature in any case.
    #[command(subcommand, name = "client-auth")]
    ClientAuth(ClientAuthCommand),
    /// What the home custodian found unusual about the use of keys, newest first
    ///
    /// docs/alarms.md says what raises each kind of alarm, what is missed, and what to do. Nothing is refused because of an alarm.
    #[command(
        after_long_help = "Example:\n  holdfast alarms --kind first-seen --kind unusual-rate\n  holdfast alarms --watch --json | jq -r .text"
    )]
    Alarms(AlarmsArguments),
    /// The record of every use of the keys: who reads it, whether it is whole, what it says
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Results of commands
    #[command(subcommand, name = "command")]
    Order(OrderCommand),
    /// Orders that wait at the home custodian, for approvals or for an enclave
    #[command(
        after_long_help = "Example:\n  holdfast pending\n  holdfast pending --json | jq -r .pending[].command_id"
    )]
    Pending(Target),
    /// Sign an order that waits for approvals
    ///
    /// It is fetched, verified and shown in full before it is signed. The last approval that it needs has an enclave carry it out.
    #[command(after_long_help = "Example:\n  holdfast approve 7f3c90aa\n  holdfast approve 7f3c90aa --yes")]
    Approve(ApproveArguments),
    /// Sign a manifest, block overlay or release policy that another administrator wrote with --out
    ///
    /// It is verified and shown in full before it is signed. The file is replaced by one with the further signature.
    #[command(
        after_long_help = "Example:\n  holdfast sign unblock.signed\n  holdfast sign payments.manifest --merge from-carol.manifest"
    )]
    Sign(SignArguments),
    /// Send a block overlay or release policy that has all its signatures to every custodian
    #[command(after_long_help = "Example:\n  holdfast send unblock.signed")]
    Send(SendArguments),
    /// Block keys or whole key stores, in every enclave within a second
    ///
    /// A block is signed here and sent to every custodian; any one of them delivers it. It is in force for sure once as many have
    /// acknowledged it as a change needs. It needs no enclave to be running. Without a scope it is refused.
    #[command(
        after_long_help = "Example:\n  holdfast block --key payments-1\n  holdfast block --store\n  holdfast block --all"
    )]
    Block(ScopeArguments),
    /// Stop use now: show what it hits, block, and measure until the last enclave stopped
    ///
    /// With --log, the parent's audit folder, it shows who used the keys lately; in any case what keeps working for a while. It asks
    /// before it blocks. Exit code 0: every enclave that holds a lease said that it stopped; 4: one did not, and is named.
    #[command(
        after_long_help = "Example:\n  holdfast kill --key payments-1 --log /var/lib/holdfast/audit\n  holdfast kill --store --yes --json | jq .enclaves.last_after_ms"
    )]
    Kill(KillArguments),
    /// Lift blocks
    ///
    /// Names exactly the blocks to lift; the others stay. Where that needs several signatures, it goes through a file.
    #[command(
        after_long_help = "Example:\n  holdfast unblock --key payments-1\n  holdfast unblock --store --out unblock.signed\n  holdfast sign unblock.signed      # another administrator\n  holdfast send unblock.signed"
    )]
    Unblock(ScopeArguments),
    /// What the custodians know: version, leases, waiting orders, blocks, policy; and where they differ
    ///
    /// The evidence behind each lease is verified here again, under the manifest's trust root and the release policy. The highest
    /// version of each custodian is noted; one that offers less than before is a warning, and the exit code is 1. The home custodian
    /// adds what is debited of budgets and the latest alarms, which change no exit code.
    #[command(
        after_long_help = "Example:\n  holdfast status\n  holdfast status --json | jq .leases[].expires_ms\n  holdfast status --watch"
    )]
    Status(StatusArguments),
    /// To which enclaves custodians release their shares
    #[command(subcommand, name = "release-policy")]
    ReleasePolicy(ReleasePolicyCommand),
    /// Boots that wait for an administrator's approval
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// What a custodian released and refused, with the reasons
    #[command(
        after_long_help = "Example:\n  holdfast releases --limit 20\n  holdfast releases --custodian vault-2 --json"
    )]
    Releases(RecordsArguments),
    /// The key store's root key
    #[command(subcommand, name = "root-key")]
    RootKey(RootKeyCommand),
    /// The key store's versions: who ordered what, and which enclave attested it
    ///
    /// Each entry's signature, its link to the one before and the attestation document of the enclave that made it are verified here.
    /// What is missing or broken is named, and the exit code is 1.
    #[command(after_long_help = "Example:\n  holdfast history\n  holdfast history --from 12 --json")]
    History(HistoryArguments),
    /// The whole chain from the ceremony on, in one file that anybody can verify
    #[command(subcommand)]
    Provenance(ProvenanceCommand),
    /// Check from outside that a TLS connection ends inside the published image, which holds a key store
    ///
    /// For whoever entrusts keys to a service: nothing of it is needed but the id of the key store and the measurements, which its
    /// owner and the image's publisher make known by another way. The document is verified under the root of AWS Nitro Enclaves, and
    /// over the TLS key of the one connection over which it came. Exit code 0: every check holds; 1: one does not, and the first
    /// that does not is named. What it does not prove is in docs/attest.md.
    #[command(
        after_long_help = "Example:\n  holdfast attest https://xks.example.com --measurements measurements.json --configuration static.json \\\n    --key-store 3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855a"
    )]
    Attest(Box<AttestArguments>),
    /// Attestation documents
    #[command(subcommand)]
    Attestation(AttestationCommand),
    /// What AWS KMS must be told
    #[command(subcommand)]
    Kms(KmsCommand),
    /// Show why a request's signature is refused
    ///
    /// The proxy answers 401 for every cause and logs no more. This takes the request as captured and the secret, computes
    /// what the proxy computes, and says what the client signed instead. Nothing is sent anywhere; the secret, the signing key
    /// and the right signature are not printed. Exit code 0: the signature is accepted; 1: it is not.
    #[command(
        after_long_help = "Example:\n  holdfast explain-signature request.txt --secret-access-key-file credential.json --region us-east-1\n  curl -v … 2>&1 | holdfast explain-signature - --body body.json"
    )]
    ExplainSignature(ExplainSignatureArguments),
    /// Look at an external key store proxy from outside, in the order in which KMS would fail with it
    ///
    /// Any proxy that keeps to the XKS proxy API, not Holdfast alone: DNS, CAA, TCP, TLS and its cipher suites, certificate, HTTP/1.1,
    /// clock, signatures, each operation, what must be refused and how, time. Each finding says what KMS would report, why, and what to
    /// do. With --key it encrypts and decrypts random bytes with that key; the proxy records these requests like others. docs/doctor.md
    /// says what is looked at.
    #[command(after_long_help = doctor::EXAMPLES_AND_EXIT_CODES)]
    Doctor(Box<DoctorArguments>),
    /// Say what a code, an exception or a message of KMS or CloudWatch about an external key store means, and what to do
    ///
    /// It knows the codes of `DescribeCustomKeyStores`, the exceptions and messages of AWS KMS about external key stores, the errors of
    /// the XKS proxy API, CloudWatch's metrics, and the findings of `holdfast doctor`. Nothing is sent anywhere. Exit code 0: the text
    /// is known; 1: it is not.
    #[command(
        after_long_help = "Example:\n  holdfast explain XKS_PROXY_INVALID_TLS_CONFIGURATION\n  aws kms create-key … 2>&1 | holdfast explain -"
    )]
    Explain(ExplainArguments),
    /// Print a shell's completions
    #[command(after_long_help = "Example:\n  holdfast completions bash > /etc/bash_completion.d/holdfast")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(after_long_help = "Example:\n  holdfast man --out /usr/local/share/man/man1")]
    Man {
        /// Folder for the pages; it is made if it is missing
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        out: PathBuf,
    },
}

/// `holdfast admin`
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Make an administrator's keys and print his id
    ///
    /// One administrator to a home folder. Keys are never replaced. Keep a copy of the folder: whoever loses the keys of enough
    /// administrators can no longer change the key store.
    #[command(after_long_help = "Example:\n  holdfast admin init --name alice")]
    Init {
        /// For people: 1 to 64 printable ASCII characters
        #[arg(long)]
        name: String,
    },
    /// Show the public part of the keys
    ///
    /// With --json, the form that custodians and other administrators take.
    #[command(after_long_help = "Example:\n  holdfast admin show --json > alice.json")]
    Show,
}

/// Where a secret goes.
#[derive(Debug, Args)]
pub struct SecretOutput {
    /// Print the secret access key
    #[arg(long)]
    pub show_secret: bool,
    /// Write the credential into a new file (0600), as the AWS CLI's --xks-proxy-authentication-credential takes it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
}

/// `holdfast credential`
#[derive(Debug, Subcommand)]
pub enum CredentialCommand {
    /// Open the credential that the ceremony made, or an earlier command
    #[command(after_long_help = "Example:\n  holdfast credential show --show-secret")]
    Show {
        /// The command that made it, where it was not the ceremony
        #[arg(long, value_name = "ID")]
        command_id: Option<CommandId>,
        /// Where the secret goes.
        #[command(flatten)]
        secret: SecretOutput,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// How long.
        #[command(flatten)]
        patience: Patience,
    },
    /// Have another credential made in the enclave
    #[command(after_long_help = "Example:\n  holdfast credential create --out second.json")]
    Create {
        /// Where the secret goes.
        #[command(flatten)]
        secret: SecretOutput,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Bring in a credential of one's own
    ///
    /// It is encrypted to a key that an accepted enclave was attested to hold; nobody else can read it.
    #[command(
        after_long_help = "Example:\n  (umask 077; openssl rand -base64 32 | tr -d '\\n' > secret)\n  holdfast credential import --access-key-id AKIAI2SFODNN7EXAMPLE --secret-access-key-file secret"
    )]
    Import {
        /// 20 to 30 characters of A-Z 2-7
        #[arg(long, value_name = "ID")]
        access_key_id: AccessKeyId,
        /// File with the secret access key, 43 to 64 characters of A-Z a-z 0-9 / + =; - for standard input
        #[arg(long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
        secret_access_key_file: PathBuf,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Have a credential removed
    #[command(after_long_help = "Example:\n  holdfast credential remove AKIAI2SFODNN7EXAMPLE")]
    Remove {
        /// Its access key id
        access_key_id: AccessKeyId,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
}

/// `holdfast command`
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Look again at a command that was not carried out in time
    #[command(after_long_help = "Example:\n  holdfast command result 0123456789abcdef0123456789abcdef")]
    Result {
        /// The id that the timeout named
        command_id: CommandId,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// How long.
        #[command(flatten)]
        patience: Patience,
    },
}

/// `holdfast attestation`
#[derive(Debug, Subcommand)]
pub enum AttestationCommand {
    /// Print what a document proves, or the first rule that it breaks (exit code 1)
    ///
    /// The document is the binary file that the Nitro Security Module returns. Verified are its shape, the certificate path
    /// from the pinned root, and the signature, at the given time; what its nonce and measurements ought to be, only the one who
    /// asked for the document knows.
    #[command(after_long_help = "Example:\n  holdfast attestation inspect document.cbor --at 2024-12-13T07:37:58Z")]
    Inspect {
        /// The document; - for standard input
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The time at which to verify: RFC 3339 or milliseconds since 1970 [default: now]
        #[arg(long, value_name = "TIME", value_parser = parse_ms)]
        at: Option<u64>,
        /// PEM file of another root than that of AWS Nitro Enclaves
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        root: Option<PathBuf>,
    },
}

/// `holdfast kms`
#[derive(Debug, Subcommand)]
pub enum KmsCommand {
    /// Write the files that KMS takes and print the AWS CLI lines
    ///
    /// FILE.json is for the console's upload, FILE.credential.json for the AWS CLI; both are readable by their owner only.
    #[command(
        after_long_help = "Example:\n  holdfast kms config --region eu-central-1 --key payments-1 --out payments.json"
    )]
    Config {
        /// Region of the KMS key store
        #[arg(long, default_value = "us-east-1")]
        region: String,
        /// A key for which a create-key line is wanted; may be given more than once
        #[arg(long, value_name = "ID")]
        key: Vec<ExternalKeyId>,
        /// New file for the console
        #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
        out: PathBuf,
        /// Put the secret into the printed line instead of a reference to the file
        #[arg(long)]
        show_secret: bool,
        /// The command that made the credential, where it was not the ceremony
        #[arg(long, value_name = "ID")]
        command_id: Option<CommandId>,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// How long.
        #[command(flatten)]
        patience: Patience,
    },
}
