//! The enclave as a virtual machine: the real image in QEMU's machine `nitro-enclave`, which measures it, under software
//! emulation.
//!
//! Guarantees: the machine's vsock and its parent's side of the heartbeat last as long as the surroundings; each start is another
//! boot of the same bytes. Documents are signed under the emulator's root by the machine's NSM ([`holdfast_devkit::nsm::signer`]),
//! or by whom a test names. Assumes: the programs that `scripts/boot-test` builds, which it names in the environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_devkit::up::layout::Layout;
use holdfast_devkit::vsock::listener_path;
use holdfast_link::ports;
use holdfast_shared::attestation::{ImageMeasurements, Measurements};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::process::Process;
use crate::programs::program;
use crate::wait::until;

/// The byte of the heartbeat.
pub const HEARTBEAT: u8 = 0xb7;
/// As a machine's CID: any above those with a meaning.
const CID: &str = "16";

/// An image and what its builder says that it measures.
#[derive(Clone, Debug)]
pub struct Image {
    /// The enclave image file.
    pub file: PathBuf,
    /// `measurements.json`.
    pub measurements: PathBuf,
}

impl Image {
    /// The image that was built for this test run.
    #[must_use]
    pub fn built() -> Self {
        let folder = PathBuf::from(named("HOLDFAST_IMAGE"));
        Self { file: folder.join("holdfast.eif"), measurements: folder.join("measurements.json") }
    }

    /// What its builder says.
    #[must_use]
    pub fn described(&self) -> ImageMeasurements {
        ImageMeasurements::parse(&std::fs::read(&self.measurements).unwrap()).unwrap()
    }

    /// What an enclave of it shows with this static configuration.
    #[must_use]
    pub fn measured_with(&self, configuration: &str) -> Measurements {
        self.described().with_configuration(configuration.as_bytes())
    }
}

fn named(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run scripts/boot-test"))
}

/// Who signs a machine's documents.
#[derive(Clone, Debug, Default)]
pub enum Signer {
    /// The NSM emulator's root.
    #[default]
    Emulator,
    /// Nobody: QEMU as it is.
    Nobody,
    /// Whoever listens there.
    At(PathBuf),
}

/// What machines of one host share.
#[derive(Debug)]
pub struct Surroundings {
    image: Image,
    signer: Signer,
    _vsock: Process,
    heartbeat: JoinHandle<()>,
}

impl Surroundings {
    /// Starts the vsock, and answers heartbeats with `answer`.
    pub(super) async fn start(layout: &Layout, image: Image, answer: u8) -> Self {
        let mut command = Command::new(program("holdfast-dev"));
        command.arg("vsock").arg("--socket").arg(layout.socket("vhost")).arg("--guest").arg(layout.socket("vm"));
        command.args(["--cid", CID]);
        let vsock = Process::start("the vsock", &mut command, &layout.log("vsock"));
        until("the vsock listens", || async { UnixStream::connect(layout.socket("vm")).await.ok() }).await;
        let listener = UnixListener::bind(listener_path(&layout.socket("vm"), ports::HEARTBEAT)).unwrap();
        let heartbeat = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut heard = [0];
                if stream.read_exact(&mut heard).await.is_ok() && heard == [HEARTBEAT] {
                    // A machine that ended meanwhile boots again.
                    let _ = stream.write_all(&[answer]).await;
                }
            }
        });
        Self { image, signer: Signer::default(), _vsock: vsock, heartbeat }
    }

    /// The next boot is of this image.
    pub fn set_image(&mut self, image: Image) {
        self.image = image;
    }

    /// The next boot's documents are signed by these.
    pub fn set_signer(&mut self, signer: Signer) {
        self.signer = signer;
    }

    /// Boots. The log of the process is the machine's console.
    pub(super) fn boot(&self, layout: &Layout) -> Process {
        let mut command = Command::new(named("HOLDFAST_QEMU"));
        command.args(["-M", "nitro-enclave,vsock=c,id=i-0123456789abcdef0-enc0123456789abcdef"]);
        // Never by hardware: whether a machine that is shared can is not to be seen from inside.
        command.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512M", "-nographic", "-no-reboot"]);
        command.args(["-L", "/usr/share/qemu", "-global", "virtio-mmio.ioeventfd=off", "-kernel"]);
        command.arg(&self.image.file);
        command.arg("-chardev").arg(format!("socket,id=c,path={}", layout.socket("vhost").display()));
        match &self.signer {
            Signer::Emulator => command.env("HOLDFAST_NSM_SIGNER", layout.socket("nsm-signer")),
            Signer::Nobody => command.env_remove("HOLDFAST_NSM_SIGNER"),
            Signer::At(socket) => command.env("HOLDFAST_NSM_SIGNER", socket),
        };
        Process::start("the machine", &mut command, &layout.log("console"))
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// Where the parent meets a machine: ingress, control, egress, audit.
pub(super) fn addresses(layout: &Layout) -> [String; 4] {
    let guest = layout.socket("vm");
    [ports::INGRESS, ports::CONTROL, ports::EGRESS, ports::AUDIT].map(|port| hybrid(&guest, port))
}

fn hybrid(path: &Path, port: u32) -> String {
    format!("hybrid://{}:{port}", path.display())
}
