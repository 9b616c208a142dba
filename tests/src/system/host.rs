//! A host: an NSM, a parent and an enclave, in a folder of their own. A system has one, and may get more that serve the same key store.
//!
//! Guarantees: the NSM of a further host has the first one's root, so that one release policy accepts the enclaves of both;
//! every socket and port is the host's own. Assumes: the custodians' addresses are those of the system that it is added to.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_devkit::nsm::root::{ROOT_FILE, ROOT_KEY_FILE};
use holdfast_devkit::up::configurations::measured_content;
use holdfast_devkit::up::layout::Layout;
use holdfast_shared::ids::KeyStoreId;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{Caller, Options, System, Taps, machine};
use crate::process::Process;
use crate::programs::program;
use crate::tap::Tap;
use crate::wait::{soon, until};

/// See the module.
pub struct Host {
    /// The emulated NSM.
    pub nsm: Option<Process>,
    /// The enclave.
    pub enclave: Option<Process>,
    /// The parent.
    pub parent: Option<Process>,
    /// Between parent and enclave, where there are any.
    pub taps: Option<Taps>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The parent's pages.
    pub ready_listen: SocketAddr,
    /// Names of files and sockets.
    pub layout: Layout,
    key_store_id: KeyStoreId,
}

impl Host {
    /// Adds a destination to the parent's list while it runs.
    pub fn allow_now(&mut self, address: &str) {
        super::tenant::allow_now(&self.layout, self.parent.as_mut(), address);
    }

    /// SIGKILL for the enclave. Returns once the parent knows.
    pub async fn kill_enclave(&mut self) {
        if let Some(enclave) = self.enclave.take() {
            enclave.kill();
        }
        if self.parent.is_some() {
            forgets_the_enclave(self.ready_listen).await;
        }
    }

    /// Starts an enclave in place of the one before, which is killed if it still runs.
    pub async fn start_enclave(&mut self) {
        self.kill_enclave().await;
        self.enclave = Some(start_enclave(&self.layout, self.taps.is_some()));
    }

    /// Starts a parent in place of the one before, if there was one.
    pub async fn start_parent(&mut self) {
        drop(self.parent.take());
        let started = start_parent(&self.layout).await;
        (self.parent, self.listen, self.ready_listen) = (Some(started.process), started.listen, started.ready_listen);
    }

    /// Starts an NSM in place of the one before.
    pub async fn start_nsm(&mut self) {
        drop(self.nsm.take());
        self.nsm = Some(start_nsm(&self.layout).await);
    }

    /// How clients of the system's key store call this host.
    #[must_use]
    pub fn caller(&self, system: &System) -> Caller {
        Caller { address: self.listen, ..system.caller() }
    }

    /// Waits until the enclave says through the parent that the key store is in `state`, for a reason that contains `reason`.
    pub async fn reports(&self, state: &str, reason: &str) -> String {
        reports(self.ready_listen, self.key_store_id, state, reason).await
    }
}

impl System {
    /// One more host that serves the key store.
    pub async fn add_host(&mut self) -> Host {
        self.hosts_added += 1;
        let layout = Layout::prepare(&self.layout.path(&format!("h/{}", self.hosts_added))).unwrap();
        for file in [ROOT_FILE, ROOT_KEY_FILE] {
            std::fs::copy(self.layout.path("nsm").join(file), layout.path("nsm").join(file)).unwrap();
        }
        for file in ["parent/static.json", "parent/key-stores/store.manifest"] {
            layout.write(file, &self.layout.read(file).unwrap().unwrap(), 0o644).unwrap();
        }
        let taps = self.taps.is_some().then(|| start_taps(&layout));
        write_parent_configuration(&layout, self.between(), &self.destinations(), &self.options);
        let nsm = start_nsm(&layout).await;
        let parent = start_parent(&layout).await;
        let enclave = start_enclave(&layout, taps.is_some());
        Host {
            nsm: Some(nsm),
            enclave: Some(enclave),
            parent: Some(parent.process),
            taps,
            listen: parent.listen,
            ready_listen: parent.ready_listen,
            layout,
            key_store_id: self.key_store_id(),
        }
    }
}

pub(super) async fn start_nsm(layout: &Layout) -> Process {
    let socket = layout.socket("nsm");
    let mut command = Command::new(program("holdfast-dev"));
    command.arg("nsm").arg("--socket").arg(&socket).arg("--state").arg(layout.path("nsm"));
    command.arg("--control-socket").arg(layout.socket("nsm-control"));
    command.arg("--signer-socket").arg(layout.socket("nsm-signer"));
    for index in [0, 1, 2] {
        command.arg("--pcr-content").arg(format!("{index}={}", measured_content(index)));
    }
    let process = Process::start("the NSM emulator", &mut command, &layout.log("nsm"));
    until("the NSM emulator listens", || async { UnixStream::connect(&socket).await.ok() }).await;
    process
}

pub(super) fn start_enclave(layout: &Layout, tapped: bool) -> Process {
    let mut command = Command::new(program("holdfast-dev"));
    command.arg("enclave").arg("--nsm-socket").arg(layout.socket("nsm"));
    for name in ["control", "egress", "audit", "ingress"] {
        let socket = if tapped && matches!(name, "control" | "egress" | "audit") {
            format!("{name}-tap")
        } else {
            name.to_owned()
        };
        command.arg(format!("--{name}")).arg(layout.socket_address(&socket));
    }
    Process::start("the enclave", &mut command, &layout.log("enclave"))
}

/// A parent that listens.
pub(super) struct StartedParent {
    pub(super) process: Process,
    pub(super) listen: SocketAddr,
    pub(super) ready_listen: SocketAddr,
}

pub(super) async fn start_parent(layout: &Layout) -> StartedParent {
    let ports = layout.path("parent/ports.json");
    let _ = std::fs::remove_file(&ports);
    let mut command = Command::new(program("holdfast-parent"));
    command.arg("--config").arg(layout.path("parent/parent.toml"));
    let process = Process::start("the parent", &mut command, &layout.log("parent"));
    let ports: Value =
        until("the parent listens", || async { serde_json::from_slice(&std::fs::read(&ports).ok()?).ok() }).await;
    let address = |name: &str| ports[name].as_str().unwrap().parse().unwrap();
    StartedParent { process, listen: address("listen"), ready_listen: address("ready_listen") }
}

/// What is between parent and enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    /// Sockets of this host.
    Sockets,
    /// The same, with taps.
    Taps,
    /// A virtual machine's vsock.
    Vsock,
}

impl Between {
    /// Ingress, control, egress and audit, as the parent's configuration names them.
    fn addresses(self, layout: &Layout) -> [String; 4] {
        match self {
            Self::Sockets => ["ingress", "control", "egress", "audit"].map(|name| layout.socket_address(name)),
            Self::Taps => ["ingress-tap", "control", "egress", "audit"].map(|name| layout.socket_address(name)),
            Self::Vsock => machine::addresses(layout),
        }
    }
}

pub(super) fn write_parent_configuration(
    layout: &Layout,
    between: Between,
    destinations: &[String],
    options: &Options,
) {
    let kms = options.kms.as_ref();
    let [ingress, control, egress, audit] = between.addresses(layout);
    let allowed: Vec<_> = destinations.iter().map(|address| format!("\"{address}\"")).collect();
    let mut text = format!(
        "listen = \"127.0.0.1:0\"\nready_listen = \"127.0.0.1:0\"\nstatic_configuration = \"static.json\"\n\
         key_stores = \"key-stores\"\nports_file = \"ports.json\"\nlog_level = \"debug\"\ndrain_timeout_ms = {}\n\
         [enclave]\ningress = \"{ingress}\"\n[control]\nlisten = \"{control}\"\n[egress]\nlisten = \"{egress}\"\nallow = [{}]\n\
         [audit]\nlisten = \"{audit}\"\nfolder = \"audit\"\n",
        options.drain_timeout_ms,
        allowed.join(", "),
    );
    if let Some(kms) = kms {
        let metadata = kms.instance_metadata;
        writeln!(text, "[aws]\ncredentials = \"instance-role\"\ninstance_metadata = \"{metadata}\"").unwrap();
    }
    if let Some(tracing) = &options.tracing {
        writeln!(text, "[tracing]\n{tracing}").unwrap();
    }
    layout.write("parent/parent.toml", text.as_bytes(), 0o644).unwrap();
}

pub(super) fn start_taps(layout: &Layout) -> Taps {
    Taps {
        control: Tap::unix("control", &layout.socket("control-tap"), &layout.socket("control")),
        egress: Tap::unix("egress", &layout.socket("egress-tap"), &layout.socket("egress")),
        audit: Tap::unix("audit", &layout.socket("audit-tap"), &layout.socket("audit")),
        ingress: Tap::unix("ingress", &layout.socket("ingress-tap"), &layout.socket("ingress")),
    }
}

/// The status page of the parent whose pages are at `ready_listen`.
pub(super) async fn status_page(ready_listen: SocketAddr) -> Value {
    serde_json::from_str(&page(ready_listen, "/status").await).unwrap_or(Value::Null)
}

/// The body of a page at an address of loopback; empty if nobody answers there.
pub(super) async fn page(address: SocketAddr, path: &str) -> String {
    soon(path, async {
        let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())
    })
    .await
}

pub(super) async fn reports(ready_listen: SocketAddr, id: KeyStoreId, state: &str, reason: &str) -> String {
    let id = id.to_string();
    until(&format!("the enclave reports {state} ({reason:?})"), || async {
        let status = status_page(ready_listen).await;
        let stores = status["enclave"]["status"]["detail"].as_array().cloned().unwrap_or_default();
        let store = stores.into_iter().find(|store| store["key_store_id"] == json!(id))?;
        let said = store["reason"].as_str().unwrap_or_default().to_owned();
        (store["state"] == json!(state) && said.contains(reason)).then_some(said)
    })
    .await
}

/// Waits until the parent has lost its enclave.
pub(super) async fn forgets_the_enclave(ready_listen: SocketAddr) {
    until("the parent has lost the enclave", || async {
        status_page(ready_listen).await["enclave"].is_null().then_some(())
    })
    .await;
}

/// Everything that the processes that log into this folder have logged.
pub(super) fn logs(folder: &Path) -> Vec<(String, String)> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: &PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let mut logs: Vec<_> = paths.map(|path| (path.display().to_string(), text(&path))).collect();
    logs.sort();
    logs
}
