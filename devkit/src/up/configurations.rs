//! The configuration files of the processes that `up` starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use holdfast_shared::attestation::{Measurements, pcr_of_content};
use holdfast_shared::ids::AdministratorId;
use serde::Serialize;

use super::layout::{Layout, LayoutError};
use super::settings::Remembered;

/// What the emulator says was measured into a register: invented, and the same on every machine.
#[must_use]
pub fn measured_content(index: u8) -> String {
    format!("holdfast-dev: PCR {index} of a local enclave, which nothing measured")
}

/// The static configuration, as the parent hands it over and the enclave measures it.
#[must_use]
pub fn static_configuration(remembered: &Remembered) -> String {
    serde_json::json!({ "regions": remembered.regions }).to_string()
}

/// What the manifest accepts: the invented registers, and the measurement of the static configuration.
#[must_use]
pub fn measurements(static_configuration: &str) -> Measurements {
    let invented = |index| pcr_of_content(measured_content(index).as_bytes());
    Measurements {
        pcr0: invented(0),
        pcr1: invented(1),
        pcr2: invented(2),
        pcr16: pcr_of_content(static_configuration.as_bytes()),
        pcr3: None,
        pcr4: None,
        pcr8: None,
    }
}

/// Which the custodian writes once it listens.
pub const CUSTODIAN_PORTS: &str = "custodian/ports.json";

#[derive(Serialize)]
struct CustodianConfig {
    name: &'static str,
    listen: String,
    address: String,
    state: PathBuf,
    administrators: Vec<AdministratorId>,
    ports_file: PathBuf,
    emulated_root: PathBuf,
}

/// Writes the custodian's configuration.
///
/// # Errors
/// [`LayoutError`].
pub fn write_custodian(layout: &Layout, port: u16, administrator: AdministratorId) -> Result<PathBuf, LayoutError> {
    let config = CustodianConfig {
        name: "local custodian",
        listen: format!("127.0.0.1:{port}"),
        address: custodian_address(port),
        state: layout.path("custodian/state"),
        administrators: vec![administrator],
        ports_file: layout.path(CUSTODIAN_PORTS),
        emulated_root: layout.path("nsm/root.pem"),
    };
    write_toml(layout, "custodian/custodian.toml", &config)
}

/// Under which the manifest knows the custodian.
#[must_use]
pub fn custodian_address(port: u16) -> String {
    format!("localhost:{port}")
}

#[derive(Serialize)]
struct ParentConfig {
    listen: SocketAddr,
    ready_listen: &'static str,
    static_configuration: PathBuf,
    key_stores: PathBuf,
    ports_file: PathBuf,
    drain_timeout_ms: u64,
    enclave: EnclaveSection,
    control: ControlSection,
    egress: EgressSection,
    audit: AuditSection,
}

#[derive(Serialize)]
struct EnclaveSection {
    ingress: String,
}

#[derive(Serialize)]
struct ControlSection {
    listen: String,
}

#[derive(Serialize)]
struct EgressSection {
    listen: String,
    allow: Vec<String>,
}

#[derive(Serialize)]
struct AuditSection {
    listen: String,
    folder: PathBuf,
}

/// Writes the parent's configuration.
///
/// # Errors
/// [`LayoutError`].
pub fn write_parent(layout: &Layout, listen: SocketAddr, custodian_port: u16) -> Result<PathBuf, LayoutError> {
    let config = ParentConfig {
        listen,
        ready_listen: "127.0.0.1:0",
        static_configuration: layout.path("parent/static.json"),
        key_stores: layout.path("parent/key-stores"),
        ports_file: layout.path("parent/ports.json"),
        drain_timeout_ms: 1000,
        enclave: EnclaveSection { ingress: layout.socket_address("ingress") },
        control: ControlSection { listen: layout.socket_address("control") },
        egress: EgressSection {
            listen: layout.socket_address("egress"),
            allow: vec![custodian_address(custodian_port)],
        },
        audit: AuditSection { listen: layout.socket_address("audit"), folder: layout.path("parent/audit") },
    };
    write_toml(layout, "parent/parent.toml", &config)
}

fn write_toml(layout: &Layout, name: &str, config: &impl Serialize) -> Result<PathBuf, LayoutError> {
    let text = toml::to_string(config)
        .map_err(|error| LayoutError::Io { path: layout.path(name), source: std::io::Error::other(error) })?;
    layout.write(name, text.as_bytes(), 0o644)
}
