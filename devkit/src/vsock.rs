//! A vsock for virtual machines: the device (virtio 1.2, section 5.10) as a process of its own, to which QEMU connects by
//! vhost-user. It needs no kernel module and no privilege on the host.
//!
//! ```text
//! QEMU ─vhost-user→ VsockServer ─starts→ Device
//! guest's rings ←→ rings ←→ Multiplexer (no I/O) ←→ Sockets ←→ Unix sockets of the host
//! ```
//!
//! A client of the host connects to the Unix socket `PATH`, writes `CONNECT port\n` and reads `OK port\n` once the guest has
//! accepted. A guest's connection to port P of context id 2 (the host) or 3 (the parent, as Nitro Enclaves number it) goes to the
//! Unix socket `PATH_P`. That is the hybrid protocol of Firecracker, and the `hybrid://` addresses of `holdfast-link` speak it.
//!
//! Guarantees: bytes arrive in order and whole, whatever packets and descriptors they lie in; either end may end its direction
//! alone; who cannot be reached is refused at once; buffers and connections are bounded, and a guest that breaks the protocol
//! harms its own connections only. Assumes: whoever reaches the sockets' files may talk to the guest.

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::unix_socket::BindError;

mod connection;
mod device;
pub mod limits;
pub mod mux;
pub mod packet;
mod rings;
mod server;
mod sockets;

pub use server::VsockServer;
pub use sockets::listener_path;

/// Settings of `holdfast-dev vsock`.
#[derive(Clone, Debug, Args)]
pub struct VsockSettings {
    /// Socket for the virtual machine monitor (vhost-user)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Socket for clients of the guest; connections of the guest to port P go to `PATH_P`
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub guest: PathBuf,
    /// Context id of the guest; 0 to 3 mean others
    #[arg(long, value_name = "CID", value_parser = clap::value_parser!(u32).range(4..=i64::from(u32::MAX - 1)))]
    pub cid: u32,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// A socket's path.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system refused something else.
    #[error("the system refused: {0}")]
    System(std::io::Error),
    /// The framework could not start the device.
    #[error("cannot start the device: {0}")]
    Device(vhost_user_backend::Error),
}

/// Runs a device until `shutdown` is ready, for one virtual machine after the other.
///
/// # Errors
/// It could not start, or the system refused what a device needs.
pub async fn serve(settings: VsockSettings, shutdown: impl Future<Output = ()> + Send) -> Result<(), VsockError> {
    allow_descriptors();
    VsockServer::bind(settings)?.run(shutdown).await
}

/// One connection is one file descriptor, and the usual limit of a process is their number alone.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without more, the last connections are refused.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A line on standard error. That it is closed is no reason to stop.
fn log(line: &str) {
    let _ = writeln!(std::io::stderr(), "holdfast-dev vsock: {line}");
}
