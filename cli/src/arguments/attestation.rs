//! `holdfast attestation`

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

use crate::moment::parse_ms;

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
