//! `holdfast tls …`

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

use super::{OrderTerms, Target, Whole};
use crate::moment::parse_ms;

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
    /// Have enclaves get and renew certificates themselves, by a standing order; for addresses that the authority can reach
    ///
    /// By ACME with TLS-ALPN-01: the authority connects to port 443 of the host name, and any enclave of the key store answers. The
    /// order is signed once and counts until --until; a further one takes its place. The parent must allow the directory's address.
    #[command(
        after_long_help = "Example:\n  holdfast tls auto --directory https://acme-v02.api.letsencrypt.org/directory \\\n    --directory-ca ISRG_Root_X1.pem --issuer-ca ISRG_Root_X1.pem --contact mailto:ops@example.com \\\n    --until 2027-12-31T00:00:00Z\n  holdfast tls auto --off"
    )]
    Auto {
        /// URL of the authority's directory
        #[arg(long, value_name = "URL", required_unless_present = "off", value_hint = ValueHint::Url)]
        directory: Option<String>,
        /// PEM file with the roots of the directory's own HTTPS certificate: 1 to 4 of them
        #[arg(long, value_name = "FILE", required_unless_present = "off", value_hint = ValueHint::FilePath)]
        directory_ca: Option<PathBuf>,
        /// PEM file with the roots to which the certificates that it gives must lead: 1 to 4 of them
        #[arg(long, value_name = "FILE", required_unless_present = "off", value_hint = ValueHint::FilePath)]
        issuer_ca: Option<PathBuf>,
        /// Whom the authority may write to, a mailto: URL; may be given up to 4 times
        #[arg(long, value_name = "URL", conflicts_with = "off")]
        contact: Vec<String>,
        /// When the order ends: RFC 3339, or milliseconds since 1970; at most 731 days from now
        #[arg(long, value_name = "TIME", required_unless_present = "off", value_parser = parse_ms)]
        until: Option<u64>,
        /// Withdraw the standing order; the certificate that is installed stays
        #[arg(long, conflicts_with_all = ["directory", "directory_ca", "issuer_ca", "until"])]
        off: bool,
        /// Which key store.
        #[command(flatten)]
        target: Target,
        /// Under which conditions.
        #[command(flatten)]
        terms: OrderTerms,
    },
    /// Show host name, key and certificate, when its renewal is due, and the standing order
    #[command(after_long_help = "Example:\n  holdfast tls show --json | jq -r .certificate.renew_from")]
    Show(Whole),
}
