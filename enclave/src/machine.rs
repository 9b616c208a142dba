//! The enclave as a machine: what the first and only process owes the kernel, and what it asks of it before it serves.
//!
//! ```text
//! FirstProcess::take ─▶ mounts, NSM module, core dumps off ─▶ heartbeat ─▶ Machine (generator and clock source read) ─▶ run
//!        │ not process 1: refused, nothing touched                 any end, panic or refusal ─▶ the machine ends
//! ```
//!
//! Guarantees: nothing of this runs but as process 1. A panic says where, never what, and ends the machine. Whatever
//! is wrong before the parent can be told goes to the console, which shows no secret: this module knows none. Assumes:
//! Linux 6.x with the settings of `eif/kernel`; the command line `reboot=t`, by which a restart is the machine's end. Refuses:
//! a kernel whose randomness comes from elsewhere than the NSM.

use std::fs;
use std::io;
use std::time::Duration;

use holdfast_link::{Address, ConnectError, connect};
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, WaitOptions, getpid, set_dumpable_behavior, setrlimit, wait,
};
use rustix::system::{RebootCommand, finit_module, reboot};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

/// What Nitro expects of an enclave that has booted, and answers: one byte each way, to the parent's port 9000. Source: the
/// init of `aws-nitro-enclaves-sdk-bootstrap`.
const HEARTBEAT: u8 = 0xb7;
/// How long the answer may take. `nitro-cli` listens before it starts an enclave.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before the heartbeat is tried again.
const HEARTBEAT_PAUSE: Duration = Duration::from_millis(100);
/// Which generator feeds the kernel.
const RNG_CURRENT: &str = "/sys/class/misc/hw_random/rng_current";
/// The one that may.
const RNG_WANTED: &str = "nsm-hwrng";
/// What the kernel tells time by between the NSM's documents.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// The NSM's driver, where the kernel of the image has it as a module.
const MODULE: &str = "/nsm.ko";

/// Why the machine is not fit to serve.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// This is some other process.
    #[error(
        "this program runs in a Nitro Enclave only, as its first process; on any other machine `holdfast-dev up` runs the same library"
    )]
    NotFirst,
    /// A file system is not there.
    #[error("{target} cannot be mounted: {error}")]
    Mount {
        /// Where.
        target: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The NSM's module was refused.
    #[error("{MODULE} cannot be loaded: {0}")]
    Module(io::Error),
    /// Core dumps stay possible.
    #[error("core dumps cannot be turned off: {0}")]
    CoreDumps(io::Error),
    /// The parent did not answer the heartbeat.
    #[error("heartbeat: {0}")]
    Heartbeat(String),
    /// A fact about the machine cannot be read.
    #[error("{path} cannot be read: {error}")]
    Unreadable {
        /// Where it stands.
        path: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The kernel's randomness comes from elsewhere.
    #[error("the kernel's randomness comes from {0:?}, not from {RNG_WANTED}")]
    Generator(String),
}

/// Proof that this is process 1.
#[derive(Debug)]
pub struct FirstProcess(());

impl FirstProcess {
    /// Makes sure that this is process 1; from then on a panic ends the machine.
    ///
    /// # Errors
    /// [`MachineError::NotFirst`]; nothing was done then.
    pub fn take() -> Result<Self, MachineError> {
        if getpid() != Pid::INIT {
            return Err(MachineError::NotFirst);
        }
        std::panic::set_hook(Box::new(|panic| end(&last_line(panic.location()))));
        Ok(Self(()))
    }

    /// Gives the process its surroundings: file systems, the NSM's device, no core dumps.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn settle(&self) -> Result<(), MachineError> {
        let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
        let mounts = [
            ("proc", "/proc", quiet | MountFlags::NODEV),
            ("sysfs", "/sys", quiet | MountFlags::NODEV | MountFlags::RDONLY),
            ("devtmpfs", "/dev", quiet),
        ];
        for (kind, target, flags) in mounts {
            mount(kind, target, kind, flags, None)
                .map_err(|error| MachineError::Mount { target, error: error.into() })?;
        }
        load_module().map_err(MachineError::Module)?;
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(Resource::Core, none).map_err(|error| MachineError::CoreDumps(error.into()))?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| MachineError::CoreDumps(error.into()))
    }

    /// Ends the machine.
    pub fn end(self, last: &str) -> ! {
        end(last)
    }
}

fn load_module() -> io::Result<()> {
    let module = match rustix::fs::open(MODULE, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty()) {
        Ok(module) => module,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    Ok(finit_module(module, c"", 0)?)
}

/// Where a panic was, and nothing of its message, which may hold anything.
fn last_line(location: Option<&std::panic::Location<'_>>) -> String {
    location.map_or_else(
        || "it panicked".to_owned(),
        |location| format!("it panicked at {}:{}", location.file(), location.line()),
    )
}

/// Says a last line on the console and ends the machine.
#[expect(clippy::print_stderr, reason = "the console is all that is left")]
fn end(last: &str) -> ! {
    eprintln!("holdfast-enclave: {last}");
    loop {
        // With `reboot=t` this is a triple fault, for which the hypervisor ends the enclave. It returns only when it was refused.
        let _ = reboot(RebootCommand::Restart);
        std::thread::sleep(HEARTBEAT_PAUSE);
    }
}

/// Tells the hypervisor's side that the enclave has booted, and hears that it was heard.
///
/// # Errors
/// [`MachineError::Heartbeat`]: no right answer in time.
pub async fn heartbeat(parent: &Address) -> Result<(), MachineError> {
    let beat = async {
        loop {
            // A listener that is not there yet is no fault, an answer that is not ours is one.
            let Ok(mut stream) = connect(parent).await.map_err(|_: ConnectError| ()) else {
                tokio::time::sleep(HEARTBEAT_PAUSE).await;
                continue;
            };
            stream.write_all(&[HEARTBEAT]).await.map_err(|error| MachineError::Heartbeat(error.to_string()))?;
            let mut answer = [0];
            stream.read_exact(&mut answer).await.map_err(|error| MachineError::Heartbeat(error.to_string()))?;
            return if answer == [HEARTBEAT] {
                Ok(())
            } else {
                Err(MachineError::Heartbeat(format!("the parent answered {:#04x}, not {HEARTBEAT:#04x}", answer[0])))
            };
        }
    };
    let late = Err(MachineError::Heartbeat(format!("no answer within {} s", HEARTBEAT_TIMEOUT.as_secs())));
    tokio::time::timeout(HEARTBEAT_TIMEOUT, beat).await.unwrap_or(late)
}

/// The generator that feeds the kernel's randomness: the NSM's, and no other.
///
/// # Errors
/// [`MachineError`].
pub fn generator() -> Result<String, MachineError> {
    judge_generator(read(RNG_CURRENT)?)
}

fn judge_generator(current: String) -> Result<String, MachineError> {
    if current == RNG_WANTED { Ok(current) } else { Err(MachineError::Generator(current)) }
}

/// What the kernel tells time by: `kvm-clock` or `tsc` on Nitro. It counts between two documents of the NSM, and says nothing about
/// the date.
///
/// # Errors
/// [`MachineError::Unreadable`].
pub fn clock_source() -> Result<String, MachineError> {
    read(CLOCK_SOURCE)
}

/// The first 64 bytes of a line that the kernel tells.
fn read(path: &'static str) -> Result<String, MachineError> {
    let said = fs::read_to_string(path).map_err(|error| MachineError::Unreadable { path, error })?;
    Ok(said.trim().chars().take(64).collect())
}

/// Takes leave of every process that ends as a child of this one. The program starts none; what the kernel may hand to process 1 must
/// not fill its table of processes.
///
/// Returns only when no word of children can be had any more.
pub async fn reap() -> io::Error {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => return error,
    };
    loop {
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        if ended.recv().await.is_none() {
            return io::ErrorKind::BrokenPipe.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_link::Listener;

    #[test]
    fn another_process_is_refused_and_nothing_is_touched() {
        let error = FirstProcess::take().unwrap_err();
        assert!(matches!(error, MachineError::NotFirst));
        assert!(error.to_string().contains("Nitro Enclave"));
    }

    #[test]
    fn no_generator_but_the_nsm_will_do() {
        assert_eq!(judge_generator("nsm-hwrng".to_owned()).unwrap(), "nsm-hwrng");
        for other in ["", "none", "virtio_rng.0", "nsm-hwrng2", "tpm-rng-0"] {
            let error = judge_generator(other.to_owned()).unwrap_err().to_string();
            assert!(error.contains("not from nsm-hwrng"), "{error}");
        }
    }

    #[test]
    fn a_panic_says_where_and_never_what() {
        let line = last_line(Some(std::panic::Location::caller()));
        assert!(line.starts_with("it panicked at ") && line.contains("machine.rs:"), "{line}");
        assert_eq!(last_line(None), "it panicked");
    }

    /// A parent that answers with these bytes, after it refused nothing and read one byte.
    async fn answer_with(answer: &'static [u8]) -> (tempfile::TempDir, Result<(), MachineError>, u8) {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::unix(&folder.path().join("9000")).unwrap();
        let listener = Listener::bind(&address).await.unwrap();
        let parent = tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap();
            let mut heard = [0];
            stream.read_exact(&mut heard).await.unwrap();
            stream.write_all(answer).await.unwrap();
            heard[0]
        });
        let said = heartbeat(&address).await;
        (folder, said, parent.await.unwrap())
    }

    #[tokio::test]
    async fn the_heartbeat_wants_its_own_byte_back() {
        let (_folder, said, heard) = answer_with(&[0xb7]).await;
        assert!(said.is_ok());
        assert_eq!(heard, 0xb7);
        let (_folder, said, _) = answer_with(&[0xb8]).await;
        assert!(said.unwrap_err().to_string().contains("0xb8"));
        let (_folder, said, _) = answer_with(&[]).await;
        assert!(said.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_that_never_listens_ends_the_boot() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::unix(&folder.path().join("9000")).unwrap();
        assert!(heartbeat(&address).await.unwrap_err().to_string().contains("within 30 s"));
    }

    #[tokio::test]
    async fn children_that_ended_are_gone_from_the_table() {
        let reaping = tokio::spawn(reap());
        let children: Vec<u32> = (0..3)
            .map(|_| std::process::Command::new("true").spawn().expect("every machine of ours has it").id())
            .collect();
        for child in children {
            let entry = format!("/proc/{child}");
            while fs::exists(&entry).unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        reaping.abort();
    }
}
