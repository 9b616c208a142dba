//! `holdfast admin`

use clap::Subcommand;

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
