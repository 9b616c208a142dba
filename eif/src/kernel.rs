//! The kernel: Debian's source, `tinyconfig` and our fragment, or a finished one from elsewhere.
//!
//! Guarantees: every setting of the fragment is in the finished configuration, or the build fails; the kernel's own time, user,
//! host and build number are fixed. A kernel that was built once is kept in a folder outside the tree, under the hash of all
//! that it was made from. Assumes: a gcc and binutils of the same version make the same kernel; their names are hashed, too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_shared::attestation::ImageKernelBuild;
use holdfast_shared::sha256;

use crate::tool::{Tool, ToolError, joined};

/// What `make tinyconfig` is changed by, within a checkout.
pub const FRAGMENT: &str = "eif/kernel/config.x86_64";
/// Changes when the steps below do, so that a kept kernel is never taken for one of other steps.
const RECIPE: &str = "holdfast kernel 2";
/// Where Debian's package `linux-source-6.12` puts the source.
pub const DEBIAN_SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// A finished kernel.
#[derive(Debug)]
pub struct Kernel {
    /// bzImage.
    pub image: Vec<u8>,
    /// What it is: `linux 6.12.57`, or a file's name.
    pub source: String,
    /// How it was made, where it was built here.
    pub build: Option<ImageKernelBuild>,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The source is missing.
    #[error("{0} is missing: install Debian's package linux-source-6.12, or name another source or a finished kernel")]
    NoSource(PathBuf),
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The archive has not one folder of source.
    #[error("{0} does not hold one folder with a kernel's source")]
    Archive(PathBuf),
    /// The kernel does not know a setting, or something else it has demands another.
    #[error("the kernel's configuration dropped: {0}")]
    Settings(String),
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> KernelError + '_ {
    |error| KernelError::File { path: path.to_owned(), error }
}

/// A kernel that somebody else built: AWS's from `/usr/share/nitro_enclaves/blobs`, say.
///
/// # Errors
/// It cannot be read.
pub fn finished(path: &Path) -> Result<Kernel, KernelError> {
    let image = fs::read(path).map_err(file(path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Kernel { source: format!("finished kernel {name}"), image, build: None })
}

/// Builds a kernel, or takes the one that was kept of an earlier build.
///
/// `fragment`: the text of [`FRAGMENT`]. `cache`: where kernels are kept, or `None` to build anew and keep nothing. `work`: a folder for the build alone.
/// `say` is told what takes long.
///
/// # Errors
/// [`KernelError`].
pub fn build(
    source: &Path,
    fragment: &str,
    cache: Option<&Path>,
    work: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Kernel, KernelError> {
    if !source.exists() {
        return Err(KernelError::NoSource(source.to_owned()));
    }
    let archive = fs::read(source).map_err(file(source))?;
    let archive_sha256 = sha256(&[&archive]);
    drop(archive);
    let compiler = Tool::new("gcc").argument("--version").line()?;
    let linker = Tool::new("ld").argument("--version").line()?;
    let packer = Tool::new("xz").argument("--version").line()?;
    let tools = format!("{compiler}, {linker}, {packer}");
    let made_from = [RECIPE.as_bytes(), fragment.as_bytes(), &archive_sha256, tools.as_bytes()];
    let kept = cache.map(|cache| cache.join(format!("kernel-{}", hex::encode(key(&made_from)))));

    let finished = if let Some(found) = kept.as_deref().and_then(Built::kept_in) {
        found
    } else {
        say("building the kernel (about 4 minutes on two cores)");
        let built = compile(source, fragment, work)?;
        if let Some(kept) = &kept {
            built.keep(kept)?;
        }
        built
    };
    let made = ImageKernelBuild {
        source_sha256: archive_sha256,
        config_sha256: sha256(&[finished.configuration.as_bytes()]),
        tools,
    };
    Ok(Kernel { source: format!("linux {}", finished.version), build: Some(made), image: finished.image })
}

/// SHA-256 over the parts, each with its length before it.
fn key(parts: &[&[u8]]) -> [u8; 32] {
    let lengths: Vec<[u8; 8]> =
        parts.iter().map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes()).collect();
    let framed: Vec<&[u8]> = parts.iter().zip(&lengths).flat_map(|(part, length)| [length.as_slice(), *part]).collect();
    sha256(&framed)
}

/// What a build leaves.
struct Built {
    image: Vec<u8>,
    configuration: String,
    version: String,
}

impl Built {
    const IMAGE: &str = "bzImage";
    const CONFIGURATION: &str = "config";
    const VERSION: &str = "version";

    const CHECK: &str = "sha256";

    /// What was kept, if all of it is there and as it was: a file that was cut or exchanged is built anew.
    fn kept_in(folder: &Path) -> Option<Self> {
        let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let image = fs::read(folder.join(Self::IMAGE)).ok()?;
        let kept = Self { image, configuration: text(Self::CONFIGURATION)?, version: text(Self::VERSION)? };
        (text(Self::CHECK)? == kept.check()).then_some(kept)
    }

    fn check(&self) -> String {
        hex::encode(key(&[&self.image, self.configuration.as_bytes(), self.version.as_bytes()]))
    }

    /// Written beside its place and renamed: another build at the same time finds all of it or nothing.
    fn keep(&self, folder: &Path) -> Result<(), KernelError> {
        let parent = folder.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(file(parent))?;
        let staging = tempfile::tempdir_in(parent).map_err(file(parent))?;
        let check = self.check();
        let contents = [
            (Self::CHECK, check.as_bytes()),
            (Self::IMAGE, self.image.as_slice()),
            (Self::CONFIGURATION, self.configuration.as_bytes()),
            (Self::VERSION, self.version.as_bytes()),
        ];
        for (name, content) in contents {
            let path = staging.path().join(name);
            fs::write(&path, content).map_err(file(&path))?;
        }
        if Self::kept_in(folder).is_some() {
            // Another build was quicker; its kernel is the same.
            return Ok(());
        }
        // What lies there is damaged.
        let _ = fs::remove_dir_all(folder);
        fs::rename(staging.keep(), folder).map_err(file(folder))
    }
}

fn compile(archive: &Path, fragment: &str, work: &Path) -> Result<Built, KernelError> {
    let unpacked = work.join("source");
    let output = work.join("kernel");
    for folder in [&unpacked, &output] {
        fs::create_dir_all(folder).map_err(file(folder))?;
    }
    let into = ["--directory".as_ref(), unpacked.as_os_str()];
    Tool::new("tar").argument("--extract").argument(joined("--file=", archive)).arguments(into).run()?;
    let source = only_entry(&unpacked)?.ok_or_else(|| KernelError::Archive(archive.to_owned()))?;

    let make = |target: &str| {
        Tool::new("make")
            .within(&source)
            .argument("--silent")
            .argument(format!("--jobs={}", std::thread::available_parallelism().map_or(1, usize::from)))
            .argument(joined("O=", &output))
            .variable("KBUILD_BUILD_TIMESTAMP", "@1")
            .variable("KBUILD_BUILD_USER", "holdfast")
            .variable("KBUILD_BUILD_HOST", "holdfast")
            .variable("KBUILD_BUILD_VERSION", "1")
            // Their versions would stand in the configuration, and nothing of them in the kernel.
            .arguments(["RUSTC=false", "BINDGEN=false", "PAHOLE=false"])
            .argument(target)
            .run()
    };
    let configuration = output.join(".config");
    make("tinyconfig")?;
    // Of two lines about one setting, the later one counts.
    let tiny = fs::read_to_string(&configuration).map_err(file(&configuration))?;
    fs::write(&configuration, tiny + fragment).map_err(file(&configuration))?;
    make("olddefconfig")?;
    let finished = fs::read_to_string(&configuration).map_err(file(&configuration))?;
    let dropped = dropped_settings(fragment, &finished);
    if !dropped.is_empty() {
        return Err(KernelError::Settings(dropped.join(", ")));
    }
    make("bzImage")?;
    let image = output.join("arch/x86/boot/bzImage");
    let version = make("kernelversion")?;
    Ok(Built {
        image: fs::read(&image).map_err(file(&image))?,
        configuration: finished,
        version: String::from_utf8_lossy(&version).trim().to_owned(),
    })
}

fn only_entry(folder: &Path) -> Result<Option<PathBuf>, KernelError> {
    let mut entries = fs::read_dir(folder).map_err(file(folder))?;
    let first = entries.next().transpose().map_err(file(folder))?;
    Ok(first.filter(|_| entries.next().is_none()).map(|entry| entry.path()))
}

/// Lines of the fragment that do not hold in the finished configuration.
fn dropped_settings(fragment: &str, finished: &str) -> Vec<String> {
    let is_set = |name: &str| finished.lines().any(|line| line.split_once('=').is_some_and(|(set, _)| set == name));
    fragment
        .lines()
        .filter(|line| match line.strip_prefix("# CONFIG_").and_then(|rest| rest.strip_suffix(" is not set")) {
            Some(name) => is_set(&format!("CONFIG_{name}")),
            None => line.starts_with("CONFIG_") && !finished.lines().any(|other| other == *line),
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_the_kernel_drops_is_named() {
        let finished = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=\"x\"\nCONFIG_EE=y\n";
        let table: [(&str, &[&str]); 6] = [
            ("# a comment\n\nCONFIG_A=y\n# CONFIG_B is not set\n", &[]),
            ("# CONFIG_C is not set\n# CONFIG_E is not set\n", &[]),
            ("CONFIG_C=y\n", &["CONFIG_C=y"]),
            ("CONFIG_A=m\n", &["CONFIG_A=m"]),
            ("# CONFIG_A is not set\n", &["# CONFIG_A is not set"]),
            ("CONFIG_D=\"y\"\n", &["CONFIG_D=\"y\""]),
        ];
        for (fragment, expected) in table {
            assert_eq!(dropped_settings(fragment, finished), expected, "{fragment}");
        }
    }

    #[test]
    fn no_setting_is_named_twice() {
        let fragment = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FRAGMENT)).unwrap();
        let mut names: Vec<&str> = fragment
            .lines()
            .filter_map(|line| line.strip_prefix("# CONFIG_").or_else(|| line.strip_prefix("CONFIG_")))
            .filter_map(|rest| rest.split(['=', ' ']).next())
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(all > 80, "{all}");
    }

    #[test]
    fn what_moves_between_parts_changes_the_key() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
    }

    #[test]
    fn a_kernel_is_kept_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kernel-1");
        let built = || Built { image: vec![1], configuration: "c".into(), version: "6.12".into() };
        assert!(Built::kept_in(&kept).is_none());
        built().keep(&kept).unwrap();
        built().keep(&kept).unwrap();
        assert_eq!(Built::kept_in(&kept).unwrap().image, [1]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for name in [Built::IMAGE, Built::CONFIGURATION, Built::VERSION, Built::CHECK] {
            fs::write(kept.join(name), "other").unwrap();
            assert!(Built::kept_in(&kept).is_none(), "{name} was exchanged");
            built().keep(&kept).unwrap();
            assert!(Built::kept_in(&kept).is_some(), "{name} was mended");
        }
    }
}
