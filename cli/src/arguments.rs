//! The command line: the groups of commands, and a module for what each takes. Every default stands there and in `--help`.

mod admin;
mod alarms;
mod attest;
mod attestation;
mod audit;
mod config;
mod credential;
mod custody;
mod doctor;
mod key;
mod kms;
mod manifest;
mod order;
mod policy;
mod release_policy;
mod settings;
mod tls;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueHint};
use clap_complete::Shell;

pub use self::admin::AdminCommand;
pub use self::alarms::AlarmsArguments;
pub use self::attest::{AttestArguments, HttpsUrl, Resolution};
pub use self::attestation::AttestationCommand;
pub use self::audit::{
    AuditCommand, DownloadArguments, LogSource, ModeArgument, PastArguments, QueryArguments, ReachArguments,
    ReconcileArguments, SetAuditArguments, UploadArguments, VerifyAuditArguments,
};
pub use self::config::{CheckConfigArguments, ConfigCommand, FileKind};
pub use self::credential::{CredentialCommand, SecretOutput};
pub use self::custody::{
    ApproveArguments, HistoryArguments, KillArguments, ProvenanceCommand, RecordsArguments, ReleaseCommand,
    RootKeyCommand, ScopeArguments, ScopeGroup, SendArguments, SignArguments, StatusArguments,
};
pub use self::doctor::{DoctorArguments, ExpectedEnclave, ExplainArguments};
pub use self::key::{ImportKeyArguments, KeyCommand, OneKey};
pub use self::kms::KmsCommand;
pub use self::manifest::{AdoptArguments, CreateArguments, ManifestCommand, SucceedArguments};
pub use self::order::{OrderCommand, OrderTerms, Patience, Target};
pub use self::policy::{BudgetCommand, LimitCommand, PolicyCommand, PolicySource, PresetArguments};
pub use self::release_policy::{ImageArguments, ReleasePolicyCommand, ReleasePolicyOrder, SetReleasePolicyArguments};
pub use self::settings::{ClientAuthCommand, QuotaCommand, Whole};
pub use self::tls::TlsCommand;
use crate::commands::explain_signature::ExplainSignatureArguments;

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
    /// Configuration files of parent, custodian and enclave: what is wrong with them, their schemas, examples
    #[command(subcommand)]
    Config(ConfigCommand),
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
