//! `holdfast-eif`: builds the enclave image file, and measures any.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueHint};
use holdfast_eif::build::{IMAGE_FILE, KernelOrder, MEASUREMENTS_FILE, Order, build};
use holdfast_eif::image::{IMAGE_MAX, Image};
use holdfast_eif::kernel::DEBIAN_SOURCE;
use holdfast_eif::registers::Registers;
use holdfast_eif::signature::Signer;
use serde::Serialize;

/// Builds the enclave image file so that anyone gets the same bytes, and measures any
#[derive(Debug, Parser)]
#[command(name = "holdfast-eif", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the image and its measurements from this checkout
    #[command(
        after_long_help = "Examples:\n  holdfast-eif build\n  holdfast-eif build --fresh --out /tmp/again\n  holdfast-eif build --kernel /usr/share/nitro_enclaves/blobs/bzImage --module /usr/share/nitro_enclaves/blobs/nsm.ko\n\nExit codes: 0 built, 1 not built, 2 wrong usage."
    )]
    Build(Box<BuildArguments>),
    /// Compute PCR 0, 1, 2 and 8 of an image, and verify its checksum and signature
    #[command(after_long_help = "Example:\n  holdfast-eif measure holdfast.eif --json | jq -r .pcr0")]
    Measure {
        /// An x86-64 image of version 4, unsigned or signed with ES384, made by any tool
        #[arg(value_hint = ValueHint::FilePath)]
        image: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct BuildArguments {
    /// The checkout to build [default: the one that this program was built from]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    checkout: Option<PathBuf>,
    /// Folder for holdfast.eif and measurements.json [default: eif in the target folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// The kernel's source, an archive of one folder
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = DEBIAN_SOURCE)]
    kernel_source: PathBuf,
    /// Take this finished kernel (bzImage) instead of building one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "kernel_source")]
    kernel: Option<PathBuf>,
    /// The finished kernel's driver of the NSM, where that is a module (nsm.ko)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "kernel")]
    module: Option<PathBuf>,
    /// Target of the program [default: x86_64-unknown-linux-musl, or static glibc where that cannot be had]
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Build all anew, in a temporary folder, and keep none of it
    #[arg(long)]
    fresh: bool,
    /// Where finished kernels are kept [default: `HOLDFAST_CACHE` of the environment, or holdfast in the user's cache folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    cache: Option<PathBuf>,
    /// Sign the image: its certificate (PEM), measured in PCR 8
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "signing_key")]
    signing_certificate: Option<PathBuf>,
    /// The certificate's P-384 key (PEM, PKCS #8)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "signing_certificate")]
    signing_key: Option<PathBuf>,
    /// Print measurements.json to standard output, too
    #[arg(long)]
    json: bool,
}

type Failure = Box<dyn std::error::Error>;

#[expect(clippy::print_stderr, reason = "this is where the program speaks")]
fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Action::Build(arguments) => build_image(&arguments),
        Action::Measure { image, json } => measure(&image, json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-eif: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "progress")]
fn build_image(arguments: &BuildArguments) -> Result<(), Failure> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("this program was built outside a workspace")?;
    let workspace = arguments.checkout.as_deref().unwrap_or(own);
    let workspace = workspace.canonicalize().map_err(|error| format!("{}: {error}", workspace.display()))?;
    let out = arguments.out.clone().unwrap_or_else(|| target_folder(&workspace).join("eif"));
    let order = Order {
        workspace,
        out: out.clone(),
        kernel: match &arguments.kernel {
            Some(image) => KernelOrder::Finished { image: image.clone(), module: arguments.module.clone() },
            None => KernelOrder::Source(arguments.kernel_source.clone()),
        },
        target: arguments.target.clone(),
        fresh: arguments.fresh,
        cache: arguments.cache.clone().map_or_else(cache_folder, Ok)?,
        signer: signer(arguments)?,
    };
    let measurements = build(&order, &mut |line| eprintln!("==> {line}"))?;
    let file = out.join(IMAGE_FILE);
    eprintln!("==> {}: {} bytes", file.display(), measurements.image.bytes);
    eprintln!("==> {}", out.join(MEASUREMENTS_FILE).display());
    if measurements.source.modified {
        eprintln!("==> the checkout has changes that are not committed: nobody else can build this image");
    }
    if arguments.json {
        return print(&serde_json::to_string_pretty(&measurements)?);
    }
    let registers = Registers {
        pcr0: measurements.pcr0,
        pcr1: measurements.pcr1,
        pcr2: measurements.pcr2,
        pcr8: measurements.pcr8,
    };
    print(&table(&registers))
}

fn signer(arguments: &BuildArguments) -> Result<Option<Signer>, Failure> {
    let (Some(certificate), Some(key)) = (&arguments.signing_certificate, &arguments.signing_key) else {
        return Ok(None);
    };
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    Ok(Some(Signer::new(&read(certificate)?, &read(key)?)?))
}

fn target_folder(workspace: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
}

fn cache_folder() -> Result<PathBuf, Failure> {
    let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let usual = || named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    let folder = named("HOLDFAST_CACHE").or_else(|| Some(usual()?.join("holdfast")));
    folder
        .ok_or_else(|| "neither HOME nor HOLDFAST_CACHE is set: name a folder for finished kernels with --cache".into())
}

/// The registers of an image, in hexadecimal.
#[derive(Debug, Serialize)]
struct Measured {
    pcr0: String,
    pcr1: String,
    pcr2: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcr8: Option<String>,
    command_line: String,
    bytes: usize,
}

fn measure(path: &Path, json: bool) -> Result<(), Failure> {
    let named = |error: &dyn core::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| named(&error))?;
    let mut bytes = Vec::new();
    file.take(IMAGE_MAX + 1).read_to_end(&mut bytes).map_err(|error| named(&error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > IMAGE_MAX) {
        return Err(named(&"longer than 1 GiB").into());
    }
    let image = Image::parse(&bytes).map_err(|error| named(&error))?;
    let registers = Registers::of(&image).map_err(|error| named(&error))?;
    if !json {
        return print(&table(&registers));
    }
    let measured = Measured {
        pcr0: hex::encode(registers.pcr0),
        pcr1: hex::encode(registers.pcr1),
        pcr2: hex::encode(registers.pcr2),
        pcr8: registers.pcr8.map(hex::encode),
        command_line: image.command_line,
        bytes: bytes.len(),
    };
    print(&serde_json::to_string_pretty(&measured)?)
}

fn table(registers: &Registers) -> String {
    let known = [(0, Some(registers.pcr0)), (1, Some(registers.pcr1)), (2, Some(registers.pcr2)), (8, registers.pcr8)];
    let lines = known.iter().filter_map(|(index, value)| Some(format!("PCR{index} {}", hex::encode((*value)?))));
    lines.collect::<Vec<_>>().join("\n")
}

fn print(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Into::into)
}
