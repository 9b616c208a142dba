//! The program of the enclave image: process 1, `/dev/nsm`, vsock, and nothing else. It takes no arguments and reads no
//! environment.

use std::process::ExitCode;

use holdfast_enclave::machine::{FirstProcess, MachineError, clock_source, generator, heartbeat, reap};
use holdfast_enclave::nsm::device::NitroDevice;
use holdfast_enclave::{Platform, refuse, run};
use holdfast_link::{Address, ports};

type Failure = Box<dyn std::error::Error>;

#[expect(clippy::print_stderr, reason = "outside an enclave a terminal is all there is")]
fn main() -> ExitCode {
    let process = match FirstProcess::take() {
        Ok(process) => process,
        Err(error) => {
            eprintln!("holdfast-enclave: {error}");
            return ExitCode::FAILURE;
        }
    };
    let served = serve(process.settle());
    process.end(&served.map_or_else(|error| error.to_string(), |()| "drained".to_owned()))
}

/// Whatever is wrong with the machine is told the parent, whom a vsock reaches without any of it.
fn serve(settled: Result<(), MachineError>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        heartbeat(&Address::vsock(ports::PARENT_CID, ports::HEARTBEAT)?).await?;
        match settled.map_err(Failure::from).and_then(|()| platform()) {
            Ok(platform) => tokio::select! {
                served = run(platform) => Ok(served?),
                failed = reap() => Err(failed.into()),
            },
            Err(error) => {
                refuse(&control()?, &error.to_string()).await;
                Err(error)
            }
        }
    });
    // The machine ends next; nothing that still computes is waited for.
    runtime.shutdown_background();
    served
}

fn platform() -> Result<Platform, Failure> {
    Ok(Platform {
        nsm: Box::new(NitroDevice::open()?),
        generator: generator()?,
        clock_source: clock_source()?,
        control: control()?,
        egress: Address::vsock(ports::PARENT_CID, ports::EGRESS)?,
        audit: Address::vsock(ports::PARENT_CID, ports::AUDIT)?,
        ingress: Address::vsock(ports::ANY_CID, ports::INGRESS)?,
    })
}

fn control() -> Result<Address, Failure> {
    Ok(Address::vsock(ports::PARENT_CID, ports::CONTROL)?)
}
