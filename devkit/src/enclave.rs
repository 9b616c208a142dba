//! `holdfast-dev enclave`: the enclave's own library as a local process.
//!
//! Guarantees: the same code as in the image, given Unix sockets and the emulated NSM; nothing is turned off. Assumes: whoever can
//! reach the sockets is the developer. The memory of this process is protected from nobody.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use holdfast_enclave::{Platform, RunError, run};
use holdfast_link::Address;

use crate::nsm::EmulatedNsm;

/// Flags of `holdfast-dev enclave`.
#[derive(Clone, Debug, Args)]
pub struct EnclaveSettings {
    /// Socket of `holdfast-dev nsm`
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub nsm_socket: PathBuf,
    /// Where the parent serves the control connection: unix, vsock or hybrid, as in the parent's configuration
    #[arg(long, value_name = "ADDRESS")]
    pub control: Address,
    /// Where the parent serves egress
    #[arg(long, value_name = "ADDRESS")]
    pub egress: Address,
    /// Where the parent takes the audit logs
    #[arg(long, value_name = "ADDRESS")]
    pub audit: Address,
    /// Where clients' connections come in
    #[arg(long, value_name = "ADDRESS")]
    pub ingress: Address,
}

/// Why the local enclave ended.
#[derive(Debug, thiserror::Error)]
pub enum EnclaveError {
    /// No emulator.
    #[error("cannot connect to the NSM emulator at {path}: {source}; start it with: holdfast-dev nsm --socket {path}", path = path.display())]
    Nsm {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The enclave stopped.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs until the parent orders a drain.
///
/// # Errors
/// [`EnclaveError`].
pub async fn serve(settings: EnclaveSettings) -> Result<(), EnclaveError> {
    let nsm = EmulatedNsm::connect(&settings.nsm_socket)
        .map_err(|source| EnclaveError::Nsm { path: settings.nsm_socket.clone(), source })?;
    let platform = Platform {
        nsm: Box::new(nsm),
        generator: "this host".to_owned(),
        clock_source: "the clock of this host".to_owned(),
        control: settings.control,
        egress: settings.egress,
        audit: settings.audit,
        ingress: settings.ingress,
    };
    Ok(run(platform).await?)
}
