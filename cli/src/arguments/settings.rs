//! `holdfast quota …`, `holdfast client-auth …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{OrderTerms, Target};

/// `holdfast quota`
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Limit Encrypt and Decrypt of all keys together; beyond it, KMS is told to come back later
    ///
    /// Each enclave applies the quota for itself. Health checks and key metadata are never throttled.
    #[command(after_long_help = "Example:\n  holdfast quota set --requests-per-second 100 --burst 200")]
    Set {
        /// Sustained rate: 1 to 1000000
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        requests_per_second: u32,
        /// How many may come at once after a pause: 1 to 1000000
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        burst: u32,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Lift the limit
    #[command(after_long_help = "Example:\n  holdfast quota clear")]
    Clear(Whole),
    /// Show the limit in force
    #[command(after_long_help = "Example:\n  holdfast quota show --json | jq .quota")]
    Show(Whole),
}

/// `holdfast client-auth`
#[derive(Debug, Subcommand)]
pub enum ClientAuthCommand {
    /// Accept only clients with a certificate from these authorities for one of these names
    #[command(
        after_long_help = "Example:\n  holdfast client-auth set --ca TrustedCertificateAuthorities \\\n    --common-name cks.kms.eu-central-1.amazonaws.com"
    )]
    Set {
        /// PEM file with the authorities' certificates: 1 to 8 of them
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        ca: PathBuf,
        /// A subject common name that is accepted; may be given up to 8 times
        #[arg(long, value_name = "NAME", required = true)]
        common_name: Vec<String>,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Ask clients for no certificate
    #[command(after_long_help = "Example:\n  holdfast client-auth clear")]
    Clear(Whole),
    /// Show what is asked for
    #[command(after_long_help = "Example:\n  holdfast client-auth show")]
    Show(Whole),
}

/// A whole key store.
#[derive(Debug, Args)]
pub struct Whole {
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
    /// Under which conditions.
    #[command(flatten)]
    pub terms: OrderTerms,
}
