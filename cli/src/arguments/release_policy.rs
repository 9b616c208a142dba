//! `holdfast release-policy …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use holdfast_shared::manifest::ReleaseWindow;

use super::Target;
use crate::commands::release_policy::parse_window;
use crate::moment::{parse_duration, parse_ms};

/// `holdfast release-policy`
#[derive(Debug, Subcommand)]
pub enum ReleasePolicyCommand {
    /// Show the policy in force, and which custodians have it
    #[command(after_long_help = "Example:\n  holdfast release-policy show --json | jq .images")]
    Show(Target),
    /// Change several things at once
    #[command(after_long_help = "Example:\n  holdfast release-policy set --lease 12h --approvals 1 --leases 8")]
    Set(Box<SetReleasePolicyArguments>),
    /// Accept an image, besides those that are accepted
    #[command(
        name = "accept-image",
        after_long_help = "Example:\n  holdfast release-policy accept-image measurements.json --configuration static.json\n  holdfast release-policy accept-image registers.json --name 2026.11\n  holdfast release-policy sunset 2026.10 --at 2026-12-01T00:00:00Z"
    )]
    AcceptImage(ImageArguments),
    /// Give an accepted image an end: from then on it gets neither releases nor renewals
    #[command(
        after_long_help = "Example:\n  holdfast release-policy sunset 2026.10 --at 2026-12-01T00:00:00Z\n  holdfast release-policy sunset 2026.10 --never"
    )]
    Sunset {
        /// Its name, or the beginning of its PCR 0, eight digits at least
        image: String,
        /// RFC 3339 or milliseconds since 1970 [default: now]
        #[arg(long, value_name = "TIME", value_parser = parse_ms)]
        at: Option<u64>,
        /// Take its end away
        #[arg(long, conflicts_with = "at")]
        never: bool,
        /// How it is sent.
        #[command(flatten)]
        order: ReleasePolicyOrder,
    },
    /// Have administrators approve each boot before it gets a share; 0 for none
    #[command(name = "require-approvals", after_long_help = "Example:\n  holdfast release-policy require-approvals 2")]
    RequireApprovals {
        /// How many
        approvals: u8,
        /// How it is sent.
        #[command(flatten)]
        order: ReleasePolicyOrder,
    },
    /// Release shares only at certain hours (UTC); renewals are not bound to them
    #[command(
        after_long_help = "Example:\n  holdfast release-policy window \"mon-fri 08:00 10h\"\n  holdfast release-policy window always"
    )]
    Window {
        /// Days, opening time and length: "mon-fri 08:00 10h"; or always
        #[arg(value_parser = parse_window_or_always)]
        window: OptionalWindow,
        /// How it is sent.
        #[command(flatten)]
        order: ReleasePolicyOrder,
    },
    /// How many boots may hold leases at once; 0 for as many as custodians keep
    #[command(after_long_help = "Example:\n  holdfast release-policy leases 8")]
    Leases {
        /// How many
        most: u32,
        /// How it is sent.
        #[command(flatten)]
        order: ReleasePolicyOrder,
    },
    /// Send the newest policy once more, for custodians that missed it
    #[command(after_long_help = "Example:\n  holdfast release-policy repeat")]
    Repeat {
        /// How long custodians that cannot be reached are tried: a number and ms, s, m, h or d
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
        timeout: Duration,
        /// Which key store.
        #[command(flatten)]
        target: Target,
    },
}

/// A window, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalWindow(pub Option<ReleaseWindow>);

fn parse_window_or_always(text: &str) -> Result<OptionalWindow, String> {
    if text == "always" {
        Ok(OptionalWindow(None))
    } else {
        parse_window(text).map(|window| OptionalWindow(Some(window)))
    }
}

/// How a policy is sent.
#[derive(Debug, Args)]
pub struct ReleasePolicyOrder {
    /// Write the signed policy into a new file instead of sending it: for other administrators to sign, then holdfast send
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Show the policy and the signatures that it needs; send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long custodians that cannot be reached are tried: a number and ms, s, m, h or d
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Which key store.
    #[command(flatten)]
    pub target: Target,
}

/// `holdfast release-policy accept-image`
#[derive(Debug, Args)]
pub struct ImageArguments {
    /// Measurements: what a build of the image wrote; or registers (PCR 0, 1, 2 and 16, optionally 3, 4 and 8), one set or a list
    #[arg(value_hint = ValueHint::FilePath)]
    pub measurements: PathBuf,
    /// The static configuration that parents hand to enclaves of the image: PCR 16, where the file is what a build of the image wrote
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub configuration: Option<PathBuf>,
    /// For people: 1 to 64 printable ASCII characters [default: the image's version and commit, where the file says them]
    #[arg(long)]
    pub name: Option<String>,
    /// From then on it is not accepted any more: RFC 3339 or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub sunset: Option<u64>,
    /// How it is sent.
    #[command(flatten)]
    pub order: ReleasePolicyOrder,
}

/// `holdfast release-policy set`
#[derive(Debug, Args)]
pub struct SetReleasePolicyArguments {
    /// Accept these images instead of all others
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub measurements: Option<PathBuf>,
    /// The static configuration that parents hand to enclaves of the image: PCR 16, where the file is what a build of the image wrote
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "measurements")]
    pub configuration: Option<PathBuf>,
    /// Length of a lease: longest life of a blocked or revoked key behind a cut wire, and longest custodian outage survived, unless
    /// the audit log's max-unwitnessed ends service before
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub lease: Option<Duration>,
    /// Approvals that a boot needs; 0 for none
    #[arg(long, value_name = "N")]
    pub approvals: Option<u8>,
    /// When shares are released: "mon-fri 08:00 10h", or always
    #[arg(long, value_name = "WINDOW", value_parser = parse_window_or_always)]
    pub window: Option<OptionalWindow>,
    /// How many boots may hold leases at once; 0 for as many as custodians keep
    #[arg(long, value_name = "N")]
    pub leases: Option<u32>,
    /// How it is sent.
    #[command(flatten)]
    pub order: ReleasePolicyOrder,
}
