//! `holdfast tls …`

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

use super::{OrderTerms, Target, Whole};

/// `holdfast tls`
#[derive(Debug, Subcommand)]
pub enum TlsCommand {
    /// Get a certificate signing request for the key that the enclave made
    ///
    /// The key stays in the enclave. Any CA can sign the request; with an ACME client, control over the host name is best shown by
    /// DNS-01, which needs no way to the proxy.
    #[command(
        after_long_help = "Example:\n  holdfast tls csr --out csr.pem\n  lego --csr csr.pem --email ops@example.com --dns route53 run"
    )]
    Csr {
        /// New file for the request, PKCS #10 in PEM; without it, it is printed
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: Option<PathBuf>,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Install a certificate chain; it is served from the next handshake on
    #[command(after_long_help = "Example:\n  holdfast tls install chain.pem")]
    Install {
        /// The chain in PEM, leaf first, without the root
        #[arg(value_hint = ValueHint::FilePath)]
        chain: PathBuf,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Show host name, key and certificate, and when its renewal is due
    #[command(after_long_help = "Example:\n  holdfast tls show --json | jq -r .certificate.renew_from")]
    Show(Whole),
}
