//! What orders have in common, and `holdfast command`

use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_shared::external_key::KeyState;
use holdfast_shared::ids::CommandId;

use crate::moment::parse_duration;
use crate::words::parse_state;

/// Which key store.
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
