//! From a checkout to `holdfast.eif` and `measurements.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_shared::attestation::{
    ImageFile, ImageFormat, ImageKernel, ImageMeasurements, ImageSource, ImageToolchain,
};
use holdfast_shared::sha256;

use crate::cpio::Archive;
use crate::image::Image;
use crate::kernel::{self, Kernel, KernelError};
use crate::program::{self, Program, ProgramError};
use crate::registers::Registers;
use crate::signature::{SignatureError, Signer};
use crate::tool::{Tool, ToolError};

/// The longest image that is built. A host reserves memory for it beside the enclave's own; a kernel and one program need no more.
pub const IMAGE_MAX: usize = 12 << 20;
/// The image's file in the output folder.
pub const IMAGE_FILE: &str = "holdfast.eif";
/// The measurements' file in the output folder.
pub const MEASUREMENTS_FILE: &str = "measurements.json";

/// The kernel's command line, measured in PCR 0 and 1.
///
/// - `reboot=t panic=-1`: an end of any kind is a triple fault at once, which the hypervisor takes for the enclave's end; there
///   is no firmware to ask. A panic does not linger.
/// - `no_timer_check`: the timer of a virtual machine is not put to the test, in which a machine that gets little of a processor
///   fails; on KVM the kernel decides so by itself.
/// - `pci=off`: nothing of that kind is there to look for.
/// - `console=ttyS0 loglevel=4 printk.console_no_auto_verbose=1`: errors and worse, and no registers of the program when it is its
///   end that ends the machine.
/// - `random.trust_cpu=off random.trust_bootloader=off`: no randomness is credited to the processor or the hypervisor's word.
pub const COMMAND_LINE: &str = "reboot=t panic=-1 no_timer_check pci=off console=ttyS0 loglevel=4 printk.console_no_auto_verbose=1 random.trust_cpu=off random.trust_bootloader=off";

/// What to build, and from what.
#[derive(Debug)]
pub struct Order {
    /// The checkout.
    pub workspace: PathBuf,
    /// Where the results go.
    pub out: PathBuf,
    /// The kernel.
    pub kernel: KernelOrder,
    /// The target of the program, or what can be had.
    pub target: Option<String>,
    /// Build all anew in a temporary folder and keep none of it.
    pub fresh: bool,
    /// Where kernels are kept.
    pub cache: PathBuf,
    /// Signs the image.
    pub signer: Option<Signer>,
}

/// Where the kernel comes from.
#[derive(Debug)]
pub enum KernelOrder {
    /// Built from this archive.
    Source(PathBuf),
    /// A finished kernel and, where it has the NSM's driver as a module, that module.
    Finished {
        /// bzImage.
        image: PathBuf,
        /// `nsm.ko`.
        module: Option<PathBuf>,
    },
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No kernel.
    #[error("kernel: {0}")]
    Kernel(#[from] KernelError),
    /// No program.
    #[error("program: {0}")]
    Program(#[from] ProgramError),
    /// No signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// What the source is cannot be said.
    #[error("the revision of the source cannot be told: {0}")]
    Revision(ToolError),
    /// The commit has another form.
    #[error("the revision of the source is not a SHA-1 commit: {0}")]
    Commit(String),
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The image is too long.
    #[error("the image has {0} bytes, and at most {IMAGE_MAX} are allowed")]
    TooLong(usize),
    /// The measurements cannot be written as JSON.
    #[error("measurements: {0}")]
    Json(#[from] serde_json::Error),
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> BuildError + '_ {
    |error| BuildError::File { path: path.to_owned(), error }
}

/// Builds the image and writes it with its measurements. `say` is told what takes long.
///
/// # Errors
/// [`BuildError`]; nothing is written then.
pub fn build(order: &Order, say: &mut dyn FnMut(&str)) -> Result<ImageMeasurements, BuildError> {
    let work =
        tempfile::Builder::new().prefix("holdfast-eif.").tempdir().map_err(file(Path::new("temporary folder")))?;
    let source = source(&order.workspace)?;
    let (kernel, module) = kernel_of(order, work.path(), say)?;
    let program = program_of(order, work.path(), say)?;
    let mut image = assemble(&kernel, module, program.bytes.clone(), &source.version);
    let mut registers = Registers::of(&image)?;
    if let Some(signer) = &order.signer {
        image.signature = Some(signer.sign(&registers.pcr0)?);
        registers = Registers::of(&image)?;
    }
    let bytes = image.to_bytes();
    if bytes.len() > IMAGE_MAX {
        return Err(BuildError::TooLong(bytes.len()));
    }
    let measurements = describe(&registers, &bytes, source, &kernel, &program);
    fs::create_dir_all(&order.out).map_err(file(&order.out))?;
    write(&order.out.join(IMAGE_FILE), &bytes)?;
    let mut json = serde_json::to_vec_pretty(&measurements)?;
    json.push(b'\n');
    write(&order.out.join(MEASUREMENTS_FILE), &json)?;
    Ok(measurements)
}

fn kernel_of(order: &Order, work: &Path, say: &mut dyn FnMut(&str)) -> Result<(Kernel, Option<Vec<u8>>), BuildError> {
    match &order.kernel {
        KernelOrder::Source(source) => {
            let cache = (!order.fresh).then_some(order.cache.as_path());
            let path = order.workspace.join(kernel::FRAGMENT);
            let fragment = fs::read_to_string(&path).map_err(file(&path))?;
            Ok((kernel::build(source, &fragment, cache, work, say)?, None))
        }
        KernelOrder::Finished { image, module } => {
            let module = module.as_deref().map(|path| fs::read(path).map_err(file(path))).transpose()?;
            Ok((kernel::finished(image)?, module))
        }
    }
}

fn program_of(order: &Order, work: &Path, say: &mut dyn FnMut(&str)) -> Result<Program, BuildError> {
    let target = match &order.target {
        Some(target) => target.as_str(),
        None => program::choose_target(&order.workspace, say)?,
    };
    let folder = if order.fresh { work.join("program") } else { order.out.join("program") };
    fs::create_dir_all(&folder).map_err(file(&folder))?;
    let folder = fs::canonicalize(&folder).map_err(file(&folder))?;
    Ok(program::build(&order.workspace, target, &folder, say)?)
}

/// The first ramdisk has what a boot needs, the second the application, so that PCR 1 is of the first alone and PCR 2 of the second.
fn assemble(kernel: &Kernel, module: Option<Vec<u8>>, program: Vec<u8>, version: &str) -> Image {
    let boot = Archive::new()
        .folder("dev")
        .folder("proc")
        .folder("sys")
        // The kernel opens it for the first program's standard streams, before that program can mount anything.
        .character_device("dev/console", 5, 1);
    let boot = match module {
        Some(module) => boot.file("nsm.ko", module),
        None => boot,
    };
    let application = Archive::new().program("init", program);
    Image {
        kernel: kernel.image.clone(),
        command_line: COMMAND_LINE.to_owned(),
        ramdisks: vec![boot.to_bytes(), application.to_bytes()],
        metadata: metadata(kernel, version),
        signature: None,
    }
}

/// The fields that `nitro-cli describe-eif` shows. The time is fixed, as everything else.
fn metadata(kernel: &Kernel, version: &str) -> Vec<u8> {
    serde_json::json!({
        "ImageName": "holdfast",
        "ImageVersion": version,
        "BuildMetadata": {
            "BuildTime": "1970-01-01T00:00:01+00:00",
            "BuildTool": env!("CARGO_PKG_NAME"),
            "BuildToolVersion": env!("CARGO_PKG_VERSION"),
            "OperatingSystem": "Linux",
            "KernelVersion": kernel.source,
        },
        "DockerInfo": {},
        "CustomMetadata": {},
    })
    .to_string()
    .into_bytes()
}

/// What the checkout is.
fn source(workspace: &Path) -> Result<ImageSource, BuildError> {
    let git = || Tool::new("git").within(workspace);
    let commit = git().arguments(["rev-parse", "HEAD"]).line().map_err(BuildError::Revision)?;
    let mut revision = [0; 20];
    hex::decode_to_slice(&commit, &mut revision).map_err(|_| BuildError::Commit(commit))?;
    let changes = git().arguments(["status", "--porcelain"]).line().map_err(BuildError::Revision)?;
    Ok(ImageSource { version: env!("CARGO_PKG_VERSION").to_owned(), revision, modified: !changes.is_empty() })
}

fn describe(
    registers: &Registers,
    image: &[u8],
    source: ImageSource,
    kernel: &Kernel,
    program: &Program,
) -> ImageMeasurements {
    ImageMeasurements {
        format: ImageFormat::V1,
        pcr0: registers.pcr0,
        pcr1: registers.pcr1,
        pcr2: registers.pcr2,
        pcr8: registers.pcr8,
        image: ImageFile { sha256: sha256(&[image]), bytes: u64::try_from(image.len()).unwrap_or(u64::MAX) },
        source,
        toolchain: ImageToolchain { rustc: program.rustc.clone(), target: program.target.clone() },
        kernel: ImageKernel {
            source: kernel.source.clone(),
            sha256: sha256(&[&kernel.image]),
            build: kernel.build.clone(),
        },
        command_line: COMMAND_LINE.to_owned(),
    }
}

/// Written beside its place and renamed, so that nobody boots half an image.
fn write(path: &Path, content: &[u8]) -> Result<(), BuildError> {
    let staging = path.with_extension("new");
    fs::write(&staging, content).map_err(file(&staging))?;
    fs::rename(&staging, path).map_err(file(path))
}
