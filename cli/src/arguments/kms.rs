//! `holdfast kms`

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::CommandId;

use super::{Patience, Target};

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
