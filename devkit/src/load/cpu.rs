//! Processor time and memory of processes, and on which processors they run.
//!
//! Guarantees: processor time is the kernel's own count of nanoseconds on a processor (`/proc/PID/task/TID/schedstat`), summed up over
//! threads. Assumes: a thread that ends is seen once in the second before; what it used after that is not counted.

use std::collections::BTreeMap;
use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it that is in RAM: the program's file, too, as far as it was read.
    pub resident_kib: u64,
    /// What it allocated, and what it changed of its file.
    pub anonymous_kib: u64,
}

impl Memory {
    fn parse(rollup: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Some(Self { resident_kib: field("Rss:")?, anonymous_kib: field("Anonymous:")? })
    }
}

/// A process of the server.
#[derive(Clone, Debug)]
pub struct Watched {
    name: String,
    pid: u32,
    /// By thread: what was there when watching began, and what was there last.
    threads: BTreeMap<u32, (u64, u64)>,
}

impl Watched {
    /// Watches from now on. There must be such a process.
    ///
    /// # Errors
    /// If there is none, or it may not be looked at.
    pub fn begin(name: &str, pid: u32) -> io::Result<Self> {
        let threads = threads_of(pid)?.into_iter().map(|(thread, spent)| (thread, (spent, spent))).collect();
        Ok(Self { name: name.to_owned(), pid, threads })
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        self.sample();
        for (first, last) in self.threads.values_mut() {
            *first = *last;
        }
    }

    /// Looks again.
    pub fn sample(&mut self) {
        // A process that has ended keeps what it had.
        for (thread, spent) in threads_of(self.pid).unwrap_or_default() {
            self.threads.entry(thread).or_insert((0, 0)).1 = spent;
        }
    }

    /// Nanoseconds on a processor so far.
    #[must_use]
    pub fn spent_ns(&self) -> u64 {
        self.threads.values().map(|(first, last)| last.saturating_sub(*first)).sum()
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Memory that it has in RAM (`/proc/PID/smaps_rollup`).
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        Memory::parse(&std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?)
    }
}

fn threads_of(pid: u32) -> io::Result<Vec<(u32, u64)>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // It may have ended since.
        let Ok(line) = std::fs::read_to_string(entry.path().join("schedstat")) else { continue };
        let spent = line.split_whitespace().next().and_then(|spent| spent.parse().ok());
        threads.extend(thread.zip(spent));
    }
    Ok(threads)
}

/// Processor time of the thread that asks, in nanoseconds.
#[must_use]
pub fn own_thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec.unsigned_abs())
}

/// Keeps a process, or the thread that asks, on these processors. Nothing happens where there are none.
///
/// # Errors
/// If there is no such processor, or it may not be used.
pub fn pin(pid: Option<u32>, cores: &[usize]) -> io::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for core in cores {
        if *core >= CpuSet::MAX_CPU {
            return Err(io::Error::other(format!("there is no processor {core}")));
        }
        set.set(*core);
    }
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    Ok(sched_setaffinity(pid, &set)?)
}

/// Keeps all threads of a process on these processors; those that it starts later inherit it.
///
/// # Errors
/// If there is no such process or processor, or it may not be used.
pub fn pin_process(pid: u32, cores: &[usize]) -> io::Result<()> {
    for (thread, _) in threads_of(pid)? {
        pin(Some(thread), cores)?;
    }
    Ok(())
}

/// Does something on these processors, as everything does that it starts, and goes back.
///
/// # Errors
/// If there is no such processor, or it may not be used.
pub fn pinned<T>(cores: &[usize], work: impl FnOnce() -> T) -> io::Result<T> {
    let before = sched_getaffinity(None)?;
    pin(None, cores)?;
    let result = work();
    sched_setaffinity(None, &before)?;
    Ok(result)
}

/// What the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the processors.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// The kernel.
    pub kernel: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Whether the client is a build with optimisation.
    pub optimised: bool,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let (cpuinfo, meminfo) = (text("/proc/cpuinfo"), text("/proc/meminfo"));
        let memory = field(&meminfo, "MemTotal").and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
        let release = text("/proc/sys/kernel/osrelease");
        Self {
            processor: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            processors: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: format!("Linux {}", release.trim()),
            memory_mib: memory.unwrap_or_default() / 1024,
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// Time that all processors of the machine were busy, in hundredths of a second (`/proc/stat`).
#[must_use]
pub fn machine_busy_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let fields = line.split_whitespace().skip(1).take(8).enumerate();
    fields.filter(|(number, _)| ![3, 4].contains(number)).filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum()
}

/// Reads `NAME=PID` or `PID`.
///
/// # Errors
/// What the text should have been.
pub fn parse_watched(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').unwrap_or(("server", text));
    let pid = pid.parse().map_err(|_| "expected NAME=PID".to_owned())?;
    Ok((name.to_owned(), pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_to_work() {
        let mut watched = Watched::begin("self", std::process::id()).unwrap();
        let before = own_thread_ns();
        let mut sum = 0_u64;
        while own_thread_ns() < before + 20_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        watched.sample();
        assert!(watched.spent_ns() >= 10_000_000, "{}", watched.spent_ns());
        let memory = watched.memory().unwrap();
        assert!(memory.resident_kib >= memory.anonymous_kib && memory.anonymous_kib > 0, "{memory:?}");
        watched.reset();
        assert_eq!(watched.spent_ns(), 0);
        assert!(Watched::begin("none", u32::MAX).is_err());
    }

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let rollup = "559f8e000-7ffd3000 ---p 00000000 00:00 0    [rollup]\nRss:               21308 kB\nPss:    1 kB\nAnonymous:          8764 kB\nAnonHugePages: 2 kB\n";
        assert_eq!(Memory::parse(rollup), Some(Memory { resident_kib: 21_308, anonymous_kib: 8_764 }));
        assert_eq!(Memory::parse("Rss: 1 kB\n"), None);
    }

    #[test]
    fn pinning_ends_where_it_should() {
        let before = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|core| before.is_set(*core)).unwrap();
        let inside = pinned(&[core], || sched_getaffinity(None).unwrap().count()).unwrap();
        assert_eq!((inside, sched_getaffinity(None).unwrap()), (1, before));
        assert!(pin(None, &[usize::MAX]).is_err());
    }

    #[test]
    fn watched_processes_have_names() {
        for (text, expected) in
            [("enclave=12", Some(("enclave", 12))), ("7", Some(("server", 7))), ("x=", None), ("=x", None)]
        {
            let expected = expected.map(|(name, pid): (&str, u32)| (name.to_owned(), pid));
            assert_eq!(parse_watched(text).ok(), expected, "{text:?}");
        }
    }
}
