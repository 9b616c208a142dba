//! The one program of the image: `holdfast-enclave`, linked statically, in the release profile.
//!
//! Guarantees: no path of the machine is in it, and none of the caller's variables reaches the compilers (`tool.rs`). Files that
//! configure cargo for the user are not ours to ignore; each is named. Assumes: the toolchain of `rust-toolchain.toml`, whose name goes into `measurements.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::tool::{Tool, ToolError};

/// The target whose standard library is made for static programs.
pub const MUSL: &str = "x86_64-unknown-linux-musl";
/// Where that cannot be had: the C library of Debian, linked statically.
pub const GLIBC: &str = "x86_64-unknown-linux-gnu";
/// The program's name.
const PROGRAM: &str = "holdfast-enclave";

/// A finished program.
#[derive(Debug)]
pub struct Program {
    /// The ELF file.
    pub bytes: Vec<u8>,
    /// `rustc 1.95.0 (…)`.
    pub rustc: String,
    /// The target it was built for.
    pub target: String,
}

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Nobody knows where cargo keeps the sources of libraries.
    #[error("neither CARGO_HOME nor HOME is set")]
    NoHome,
    /// It is not a static program.
    #[error("{0} was built, and wants a dynamic linker: the image has none")]
    Dynamic(String),
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> ProgramError + '_ {
    |error| ProgramError::File { path: path.to_owned(), error }
}

/// Musl where its standard library is there or can be fetched, else static glibc, which is said.
///
/// # Errors
/// [`ProgramError`].
pub fn choose_target(workspace: &Path, say: &mut dyn FnMut(&str)) -> Result<&'static str, ProgramError> {
    let sysroot = Tool::new("rustc").within(workspace).arguments(["--print", "sysroot"]).line()?;
    let installed = Path::new(&sysroot).join("lib/rustlib").join(MUSL).join("lib");
    // *ring* has a few files of C, for which Rust brings no compiler.
    let compilers = ["x86_64-linux-musl-gcc", "musl-gcc"];
    if !compilers.into_iter().any(|name| Tool::new(name).argument("--version").run().is_ok()) {
        say(&format!(
            "no musl-gcc (Debian: musl-tools): linking {GLIBC} statically. The measurements differ from those of {MUSL}"
        ));
        return Ok(GLIBC);
    }
    if installed.exists() {
        return Ok(MUSL);
    }
    say(&format!("fetching the standard library of {MUSL}"));
    let fetched = Tool::new("rustup").within(workspace).arguments(["target", "add", MUSL]).run();
    // Another build may have fetched it at the same time, which rustup reports as a failure.
    if installed.exists() {
        return Ok(MUSL);
    }
    if let Err(error) = fetched {
        say(&error.to_string());
    }
    say(&format!(
        "{MUSL} cannot be had here: linking {GLIBC} statically. The measurements differ from those of {MUSL}"
    ));
    Ok(GLIBC)
}

/// Builds the program. `target_folder` is for this build alone.
///
/// # Errors
/// [`ProgramError`].
pub fn build(
    workspace: &Path,
    target: &str,
    target_folder: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Program, ProgramError> {
    let rustc = Tool::new("rustc").within(workspace).argument("--version").line()?;
    say(&format!("building {PROGRAM} for {target} with {rustc} (some minutes)"));
    let home = cargo_home().ok_or(ProgramError::NoHome)?;
    for configuration in configurations(workspace, &home) {
        say(&format!("cargo is configured by {}: the program may differ from others'", configuration.display()));
    }
    let places = [(workspace.to_owned(), "/holdfast"), (home, "/cargo"), (target_folder.to_owned(), "/target")];
    let remapped = |option: &str| -> Vec<String> {
        places.iter().map(|(from, to)| format!("{option}={}={to}", from.display())).collect()
    };
    let mut flags = remapped("--remap-path-prefix");
    flags.extend(
        ["-Ctarget-feature=+crt-static", "-Crelocation-model=pie", "-Clink-arg=-Wl,--build-id=none"].map(str::to_owned),
    );
    Tool::new("cargo")
        .within(workspace)
        .arguments(["build", "--quiet", "--locked", "--release", "--package", PROGRAM, "--bin", PROGRAM])
        .arguments(["--target", target])
        .variable("CARGO_TARGET_DIR", target_folder)
        .variable("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .variable("CARGO_INCREMENTAL", "0")
        // In quotes, for folders with a space.
        .variable("CC_SHELL_ESCAPED_FLAGS", "1")
        .variable(
            "CFLAGS",
            remapped("-ffile-prefix-map").iter().map(|flag| format!("'{flag}'")).collect::<Vec<_>>().join(" "),
        )
        .variable("RUSTC_WRAPPER", "")
        .variable("RUSTC_WORKSPACE_WRAPPER", "")
        .variable("SOURCE_DATE_EPOCH", "1")
        .run()?;
    let path = target_folder.join(target).join("release").join(PROGRAM);
    let bytes = fs::read(&path).map_err(file(&path))?;
    if wants_an_interpreter(&bytes) {
        return Err(ProgramError::Dynamic(target.to_owned()));
    }
    Ok(Program { bytes, rustc, target: target.to_owned() })
}

/// Where cargo keeps the sources of libraries.
fn cargo_home() -> Option<PathBuf> {
    let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    named("CARGO_HOME").or_else(|| Some(named("HOME")?.join(".cargo")))
}

/// Files in which cargo finds settings for a build in `workspace` (The Cargo Book, "Hierarchical structure").
fn configurations(workspace: &Path, home: &Path) -> Vec<PathBuf> {
    let folders = workspace.ancestors().map(|folder| folder.join(".cargo")).chain([home.to_owned()]);
    let files = folders.flat_map(|folder| ["config.toml", "config"].map(|name| folder.join(name)));
    let mut found: Vec<_> = files.filter(|path| path.exists()).collect();
    found.sort();
    found.dedup();
    found
}

/// Whether a 64-bit ELF file has a program header `PT_INTERP`, which names a dynamic linker (ELF specification, chapter 5).
fn wants_an_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0_usize, |value, byte| (value << 8) | usize::from(*byte)))
    };
    let (Some(table), Some(entry), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else { return true };
    (0..count).any(|index| {
        let at = index.saturating_mul(entry).saturating_add(table);
        elf.get(at..at.saturating_add(4)).is_none_or(|kind| kind == PT_INTERP)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test program itself is linked dynamically; what is no ELF file is not taken for a static one.
    #[test]
    fn a_dynamic_program_is_recognised() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(wants_an_interpreter(&own));
        assert!(wants_an_interpreter(b""));
        // A header without program headers: nothing to load, and no interpreter.
        let mut header = vec![0; 64];
        header[54] = 56;
        assert!(!wants_an_interpreter(&header));
        // One program header, PT_LOAD, then PT_INTERP.
        header[32] = 64;
        header[56] = 1;
        header.extend([1, 0, 0, 0]);
        assert!(!wants_an_interpreter(&header));
        header[64] = 3;
        assert!(wants_an_interpreter(&header));
    }
}
