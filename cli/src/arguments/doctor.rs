//! `holdfast doctor` and `holdfast explain`

use core::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::sigv4::Region;

use super::attest::{Pcr, Resolution, parse_pcr};
use crate::doctor::endpoint::Endpoint;
use crate::moment::parse_duration;

pub(super) const EXAMPLES_AND_EXIT_CODES: &str = "\
Example:
  holdfast doctor https://xks.example.com/payments --credential credential.json --key payments-1 --region eu-central-1
  holdfast doctor https://xks.example.com --json | jq -r '.findings[] | select(.cause) | .cause.id'

Exit codes:
  0  all is well
  1  KMS will refuse something, or keys are in danger
  2  the command line is wrong, or a file that it names; nothing was looked at
  3  warnings alone";

/// `holdfast doctor`
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// The proxy: `XksProxyUriEndpoint` with the path prefix, `https://HOST/PREFIX`; /kms/xks/v1 may stand at its end
    #[arg(value_name = "URL")]
    pub url: Endpoint,
    /// Credential file, as `credential create --out` and `kms config` write it, or `-`; may be given more than once
    #[arg(long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub credential: Vec<PathBuf>,
    /// Region in the scope of signatures
    #[arg(long, default_value = "us-east-1", value_name = "REGION")]
    pub region: Region,
    /// External key to try, as `XksKeyId` names it; may be given more than once
    #[arg(long, value_name = "ID")]
    pub key: Vec<ExternalKeyId>,
    /// PEM file of more certificate authorities: for development; what KMS would refuse of name, port and authority is then a warning
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,
    /// Connect to this address instead of what the DNS says
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    pub resolve: Option<Resolution>,
    /// DNS resolver to ask [default: this system's]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub resolver: Option<SocketAddr>,
    /// Longest time for a connection, a handshake or a request; KMS itself gives up after 250 ms
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Duration,
    /// What the endpoint should prove of its enclave.
    #[command(flatten)]
    pub attestation: ExpectedEnclave,
}

/// What an endpoint should prove, as for `holdfast attest`.
#[derive(Debug, Args)]
pub struct ExpectedEnclave {
    /// Id of the key store that should be held there: looks at the attestation too
    #[arg(long, value_name = "ID", requires = "measurements")]
    pub key_store: Option<KeyStoreId>,
    /// Measurements that are accepted, as for `holdfast attest`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "key_store")]
    pub measurements: Option<PathBuf>,
    /// The static configuration that the enclave should have
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "key_store")]
    pub configuration: Option<PathBuf>,
    /// PCR 16 itself, instead of the static configuration
    #[arg(long, value_name = "HEX", conflicts_with = "configuration", requires = "key_store", value_parser = parse_pcr)]
    pub pcr16: Option<Pcr>,
    /// PEM file of an emulator's attestation root
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "key_store")]
    pub trust_root: Option<PathBuf>,
}

/// `holdfast explain`
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// A `ConnectionErrorCode`, the name of an exception or of a finding, or a whole message; - for standard input
    #[arg(value_name = "MESSAGE")]
    pub message: String,
}
