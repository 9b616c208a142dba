//! `holdfast credential`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use holdfast_shared::ids::CommandId;
use holdfast_shared::sigv4::AccessKeyId;

use super::{OrderTerms, Patience, Target};

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
