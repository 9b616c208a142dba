//! `nitro-cli`: runs, describes and terminates enclaves.
//!
//! Guarantees: every call ends in a bounded time and reads a bounded output; a failure becomes one sentence that says what is
//! missing and what to do ([`failure`]); no enclave is run in debug mode. Assumes: the program is AWS's, and prints what it
//! documents; fields that it adds are ignored. Source: AWS Nitro Enclaves User Guide, "Nitro CLI".

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::NitroConfig;
use crate::limits::{NITRO_OUTPUT_MAX, NITRO_RUN_TIMEOUT, NITRO_TIMEOUT};

pub(crate) mod check;
pub(crate) mod failure;

/// Why `nitro-cli` did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// It cannot be started.
    #[error(
        "cannot start {}: {source}: install the package aws-nitro-enclaves-cli, or name the program in nitro.cli",
        program.display()
    )]
    Start { program: PathBuf, source: io::Error },
    /// It took too long, and was killed.
    #[error("nitro-cli {command} did not end within {} s", limit.as_secs())]
    Slow { command: &'static str, limit: Duration },
    /// Its output cannot be read.
    #[error("nitro-cli {command}: {source}")]
    Read { command: &'static str, source: io::Error },
    /// It failed.
    #[error("nitro-cli {command} failed: {reason}")]
    Failed { command: &'static str, reason: String },
    /// It printed something else.
    #[error("nitro-cli {command} printed something else than it documents: {source}")]
    Output { command: &'static str, source: serde_json::Error },
}

/// Registers of an image, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ImageMeasurements {
    #[serde(rename = "PCR0")]
    pub(crate) pcr0: String,
    #[serde(rename = "PCR1")]
    pub(crate) pcr1: String,
    #[serde(rename = "PCR2")]
    pub(crate) pcr2: String,
}

/// An enclave, as `run-enclave` and `describe-enclaves` print it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct EnclaveInfo {
    #[serde(rename = "EnclaveName", default)]
    pub(crate) name: Option<String>,
    #[serde(rename = "EnclaveID")]
    pub(crate) id: String,
    #[serde(rename = "EnclaveCID")]
    pub(crate) cid: u64,
    #[serde(rename = "NumberOfCPUs")]
    pub(crate) cpus: u64,
    #[serde(rename = "MemoryMiB")]
    pub(crate) memory_mib: u64,
    /// `RUNNING` or `TERMINATING`; not printed by `run-enclave`.
    #[serde(rename = "State", default)]
    pub(crate) state: Option<String>,
    /// `NONE` or `DEBUG_MODE`; not printed by `run-enclave`.
    #[serde(rename = "Flags", default)]
    pub(crate) flags: Option<String>,
    /// Not printed by `run-enclave`, nor by old releases.
    #[serde(rename = "Measurements", default)]
    pub(crate) measurements: Option<ImageMeasurements>,
}

impl EnclaveInfo {
    /// Whether it is there and not about to go.
    pub(crate) fn is_running(&self) -> bool {
        self.state.as_deref().is_some_and(|state| state.eq_ignore_ascii_case("RUNNING"))
    }

    /// Whether it is in debug mode, or may be.
    fn may_be_debugged(&self) -> bool {
        self.flags.as_deref().is_none_or(|flags| !flags.eq_ignore_ascii_case("NONE"))
    }
}

#[derive(Debug, Deserialize)]
struct ImageInfo {
    #[serde(rename = "Measurements")]
    measurements: ImageMeasurements,
}

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Cli {
    program: PathBuf,
}

impl Cli {
    pub(crate) fn new(program: &Path) -> Self {
        Self { program: program.to_owned() }
    }

    /// Runs an enclave. Returns once it has booted.
    pub(crate) async fn run_enclave(&self, config: &NitroConfig, cid: u32) -> Result<EnclaveInfo, CliError> {
        let output = self.call("run-enclave", run_arguments(config, cid), NITRO_RUN_TIMEOUT).await?;
        output.json("run-enclave")
    }

    /// Every enclave of the instance.
    pub(crate) async fn describe_enclaves(&self) -> Result<Vec<EnclaveInfo>, CliError> {
        self.call("describe-enclaves", Vec::new(), NITRO_TIMEOUT).await?.json("describe-enclaves")
    }

    /// Ends an enclave.
    pub(crate) async fn terminate_enclave(&self, id: &str) -> Result<(), CliError> {
        let arguments = vec!["--enclave-id".into(), id.into()];
        self.call("terminate-enclave", arguments, NITRO_TIMEOUT).await.map(|_| ())
    }

    /// The measurements of an image.
    pub(crate) async fn describe_eif(&self, eif: &Path) -> Result<ImageMeasurements, CliError> {
        let arguments = vec!["--eif-path".into(), eif.into()];
        let output = self.call("describe-eif", arguments, NITRO_TIMEOUT).await?;
        Ok(output.json::<ImageInfo>("describe-eif")?.measurements)
    }

    async fn call(&self, command: &'static str, arguments: Vec<OsString>, limit: Duration) -> Result<Output, CliError> {
        let mut child = Command::new(&self.program)
            .arg(command)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| CliError::Start { program: self.program.clone(), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let finished = async { tokio::try_join!(child.wait(), read(stdout), read(stderr)) };
        let (status, stdout, stderr) = timeout(limit, finished)
            .await
            .map_err(|_| CliError::Slow { command, limit })?
            .map_err(|source| CliError::Read { command, source })?;
        let output = Output { status, stdout, stderr };
        if output.status.success() { Ok(output) } else { Err(output.failure(command)) }
    }
}

/// There is no way to say `--debug-mode`.
fn run_arguments(config: &NitroConfig, cid: u32) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, value: &OsStr| arguments.extend([flag.into(), value.to_owned()]);
    add("--enclave-name", config.enclave_name(cid).as_ref());
    add("--enclave-cid", cid.to_string().as_ref());
    add("--eif-path", config.eif.as_ref());
    add("--memory", config.memory_mib.to_string().as_ref());
    if let Some(count) = config.cpu_count {
        add("--cpu-count", count.to_string().as_ref());
    }
    if let Some(ids) = &config.cpu_ids {
        arguments.push("--cpu-ids".into());
        arguments.extend(ids.iter().map(|id| id.to_string().into()));
    }
    arguments
}

/// What a call printed, cut at [`NITRO_OUTPUT_MAX`].
#[derive(Debug)]
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// Progress messages may come before the JSON text.
    fn json<T: DeserializeOwned>(&self, command: &'static str) -> Result<T, CliError> {
        let start = self.stdout.iter().position(|byte| matches!(byte, b'{' | b'[')).unwrap_or_default();
        let text = self.stdout.get(start..).unwrap_or_default();
        serde_json::from_slice(text).map_err(|source| CliError::Output { command, source })
    }

    fn failure(&self, command: &'static str) -> CliError {
        let text = String::from_utf8_lossy(&self.stderr);
        CliError::Failed { command, reason: failure::explain(&text, &self.status.to_string()) }
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let bound = u64::try_from(NITRO_OUTPUT_MAX).unwrap_or(u64::MAX);
        (&mut pipe).take(bound).read_to_end(&mut bytes).await?;
        // What is beyond is read as well, so that the program does not wait for us.
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// Whether an enclave that a parent before us left behind is the one that we would start. Where the image cannot be described, it could not be
/// started either: then an enclave that is otherwise as configured is better than none.
pub(crate) fn is_wanted(found: &EnclaveInfo, config: &NitroConfig, image: Option<&ImageMeasurements>) -> bool {
    found.is_running()
        && !found.may_be_debugged()
        && found.memory_mib == config.memory_mib
        && usize::try_from(found.cpus) == Ok(config.cpus())
        && image.is_none_or(|image| found.measurements.as_ref() == Some(image))
}

#[cfg(test)]
mod tests;
