//! The program of the enclave image: `/dev/nsm`, vsock, and nothing else. It takes no arguments and reads no environment.

use std::process::ExitCode;

use holdfast_enclave::nsm::device::NitroDevice;
use holdfast_enclave::{Platform, run};
use holdfast_link::Address;

/// The parent's CID, fixed by Nitro.
const PARENT_CID: u32 = 3;
/// Any CID: where a listener listens.
const ANY_CID: u32 = u32::MAX;
/// Where the parent serves the control connection.
const CONTROL_PORT: u32 = 9001;
/// Where the parent serves egress.
const EGRESS_PORT: u32 = 9002;
/// Where the enclave takes KMS's connections.
const INGRESS_PORT: u32 = 8443;
/// Which generator feeds the kernel.
const RNG_CURRENT: &str = "/sys/class/misc/hw_random/rng_current";

#[expect(clippy::print_stderr, reason = "the console is all there is before the parent listens")]
fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-enclave: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn std::error::Error>> {
    let generator = std::fs::read_to_string(RNG_CURRENT)
        .map_err(|error| format!("{RNG_CURRENT}: {error}: this program runs in a Nitro Enclave only"))?;
    if generator.trim() != "nsm-hwrng" {
        return Err(format!("the kernel's randomness comes from {}, not from nsm-hwrng", generator.trim()).into());
    }
    let platform = Platform {
        nsm: Box::new(NitroDevice::open()?),
        control: Address::vsock(PARENT_CID, CONTROL_PORT)?,
        egress: Address::vsock(PARENT_CID, EGRESS_PORT)?,
        ingress: Address::vsock(ANY_CID, INGRESS_PORT)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(platform))?;
    Ok(())
}
