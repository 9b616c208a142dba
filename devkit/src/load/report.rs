//! What was found, for programs and as text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use super::cpu::Machine;
use super::measure::{Counts, Latencies, float};
use super::mix::Operation;
use super::profile::Shape;
use super::run::{GroupResult, RunResult};

/// Failures of a comparison with what was encrypted that are shown.
const WRONG_SHOWN: usize = 5;

/// See the module.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// What made it.
    pub tool: String,
    /// When it began.
    pub started: String,
    /// On what.
    pub machine: Machine,
    /// With which load.
    pub configuration: Configuration,
    /// What ran, in order.
    pub runs: Vec<Run>,
    /// Ratios, where baselines were measured.
    pub comparison: Vec<super::compare::Comparison>,
    /// Cryptography alone, in the same run.
    pub primitives: Vec<super::primitives::Primitive>,
    /// Whether every request was answered well.
    pub passed: bool,
}

/// How it was measured.
#[derive(Debug, Serialize)]
pub struct Configuration {
    /// What was asked.
    pub target: String,
    /// How connections reached it.
    pub connect: String,
    /// Key stores and keys.
    pub key_stores: usize,
    /// See above.
    pub keys: usize,
    /// The load.
    pub load: Shape,
    /// The cases, where a local system was compared; they set what is asked, its size and its pace.
    pub cases: Vec<super::cases::Case>,
    /// Threads of the client.
    pub client_threads: u32,
    /// Processors of the client; empty if it was not pinned.
    pub client_cores: Vec<usize>,
    /// Processors of the servers; empty if they were not pinned.
    pub server_cores: Vec<usize>,
    /// Rounds of a comparison.
    pub rounds: u32,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// What was asked.
    pub name: String,
    /// Seconds.
    pub seconds: f64,
    /// Answers in that time.
    pub answers: u64,
    /// Groups of clients; the first is the one that is measured.
    pub groups: Vec<Group>,
    /// Processes of the server.
    pub servers: Vec<Server>,
    /// The client itself.
    pub client: Client,
    /// Of all processors, the share of the time in which they did something else than this client and these servers.
    pub others_share: f64,
}

/// A group of clients.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// What it is called.
    pub name: String,
    /// Outcomes.
    #[serde(flatten)]
    pub counts: Counts,
    /// Answered well per second.
    pub per_second: f64,
    /// Of all requests.
    pub latency: Latency,
    /// Of those that were answered well, by operation.
    pub operations: BTreeMap<Operation, Latency>,
    /// What failed, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Connections that were opened.
    pub connections: u64,
    /// Of these, how many resumed a TLS session.
    pub resumed: u64,
    /// Answers to Encrypt that were decrypted after the measurement.
    pub verified: u64,
    /// What was wrong with them.
    pub wrong: Vec<String>,
    /// Idle connections that still answered at the end, and that did not.
    pub idle_alive: u64,
    /// See above.
    pub idle_lost: u64,
    /// Second by second.
    pub timeline: Vec<Moment>,
    /// Percentiles, from the half upwards.
    pub curve: Vec<(f64, f64)>,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Half are below.
    pub p50_us: f64,
    /// Nine in ten.
    pub p90_us: f64,
    /// 99 in a hundred.
    pub p99_us: f64,
    /// 999 in a thousand.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// The mean.
    pub mean_us: f64,
}

/// One second.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    /// Since the measurement began.
    pub second: u64,
    /// Answered well.
    pub ok: u64,
    /// All others.
    pub failed: u64,
    /// Latencies in microseconds.
    pub p50_us: f64,
    /// See above.
    pub p99_us: f64,
    /// See above.
    pub max_us: f64,
}

/// A process of the server.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// What it is called.
    pub name: String,
    /// Processor time for each answer, in microseconds.
    pub cpu_us: f64,
    /// Processors that it kept busy.
    pub busy: f64,
    /// Memory before anybody connected, in KiB.
    pub rss_before_kib: Option<u64>,
    /// With all connections open, the idle ones among them.
    pub rss_connected_kib: Option<u64>,
    /// At the end.
    pub rss_after_kib: Option<u64>,
    /// For each connection that was open before the measurement, in KiB.
    pub rss_per_connection_kib: Option<f64>,
}

/// The client.
#[derive(Clone, Debug, Serialize)]
pub struct Client {
    /// Processor time for each answer, in microseconds.
    pub cpu_us: f64,
    /// Of its busiest thread: the share of the time that it computed. Above 0.8 or so it measures itself.
    pub busy: f64,
}

impl Latency {
    pub(super) fn of(latencies: &Latencies) -> Self {
        Self {
            count: latencies.count(),
            p50_us: latencies.at(0.5),
            p90_us: latencies.at(0.9),
            p99_us: latencies.at(0.99),
            p999_us: latencies.at(0.999),
            max_us: latencies.max(),
            mean_us: latencies.mean(),
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl Group {
    fn of(result: &GroupResult, wall: f64) -> Self {
        let moment = |(number, second): (&u64, &super::measure::Second)| Moment {
            second: *number,
            ok: second.counts.ok,
            failed: second.counts.failed,
            p50_us: second.latencies.at(0.5),
            p99_us: second.latencies.at(0.99),
            max_us: second.latencies.max(),
        };
        Self {
            name: result.name.clone(),
            counts: result.total.counts.clone(),
            per_second: ratio(float(result.within), wall),
            latency: Latency::of(&result.total.latencies),
            operations: result.operations.iter().map(|(name, latencies)| (*name, Latency::of(latencies))).collect(),
            failures: result.total.failures.clone(),
            connections: result.opened.connections,
            resumed: result.opened.resumed,
            verified: result.verified.good,
            wrong: result.verified.wrong.iter().take(WRONG_SHOWN).cloned().collect(),
            idle_alive: result.idle.0,
            idle_lost: result.idle.1,
            timeline: result.seconds.iter().map(moment).collect(),
            curve: curve(&result.total.latencies),
        }
    }

    /// Whether all was answered, and well.
    pub fn passed(&self) -> bool {
        self.counts.failed == 0 && self.wrong.is_empty() && self.idle_lost == 0 && self.counts.ok > 0
    }
}

/// Percentiles at equal distances of "one in so many": up to the last that the count can show.
fn curve(latencies: &Latencies) -> Vec<(f64, f64)> {
    let most = float(latencies.count()).log10();
    let steps = (1..=60).map(|step: u32| f64::from(step) / 10.0).take_while(|nines| *nines <= most);
    let shares = core::iter::once(0.0).chain(steps).map(|nines| 1.0 - 10_f64.powf(-nines));
    shares.map(|share| (share, latencies.at(share))).collect()
}

impl Run {
    pub(super) fn of(result: &RunResult) -> Self {
        let answers: u64 = result.groups.iter().map(|group| group.within).sum();
        let each = |nanoseconds: u64| ratio(float(nanoseconds) / 1_000.0, float(answers));
        let share = |nanoseconds: u64| ratio(float(nanoseconds) / 1e9, result.wall);
        let open = result.open;
        let servers: Vec<Server> = result
            .servers
            .iter()
            .map(|(watched, memory)| Server {
                name: watched.name().to_owned(),
                cpu_us: each(watched.spent_ns()),
                busy: share(watched.spent_ns()),
                rss_before_kib: memory.before.map(|memory| memory.resident_kib),
                rss_connected_kib: memory.connected.map(|memory| memory.resident_kib),
                rss_after_kib: memory.after.map(|memory| memory.resident_kib),
                rss_per_connection_kib: memory.before.zip(memory.connected).filter(|_| open > 0).map(
                    |(before, connected)| {
                        ratio(float(connected.resident_kib.saturating_sub(before.resident_kib)), float(open))
                    },
                ),
            })
            .collect();
        let client: u64 = result.client_ns.iter().sum();
        let ours = share(client) + servers.iter().map(|server| server.busy).sum::<f64>();
        let machine = ratio(float(result.machine_ticks) / 100.0, result.wall);
        let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processors = processors.lines().filter(|line| line.starts_with("processor")).count().max(1);
        Self {
            name: result.name.clone(),
            seconds: result.wall,
            answers,
            groups: result.groups.iter().map(|group| Group::of(group, result.wall)).collect(),
            servers,
            client: Client {
                cpu_us: each(client),
                busy: share(result.client_ns.iter().copied().max().unwrap_or_default()),
            },
            others_share: ((machine - ours) / float(u64::try_from(processors).unwrap_or(1))).max(0.0),
        }
    }

    /// The measured group.
    pub fn main(&self) -> Option<&Group> {
        self.groups.first()
    }

    /// Processor time of all servers for each answer, in microseconds.
    pub fn servers_us(&self) -> f64 {
        self.servers.iter().map(|server| server.cpu_us).sum()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({:.1} s)", self.name, self.seconds)?;
        for group in &self.groups {
            let (counts, latency) = (&group.counts, &group.latency);
            writeln!(
                f,
                "  {:<10} {:>9.0}/s  {} answered, {} failed, {} sent again, {} without an answer in time",
                group.name, group.per_second, counts.ok, counts.failed, counts.retries, counts.timeouts
            )?;
            writeln!(
                f,
                "  {:<10} p50 {:.0} µs, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
                "latency", latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us
            )?;
            if group.verified > 0 || !group.wrong.is_empty() {
                writeln!(f, "  {:<10} {} answers to Encrypt were decrypted afterwards", "verified", group.verified)?;
            }
            if group.idle_alive + group.idle_lost > 0 {
                writeln!(
                    f,
                    "  {:<10} {} connections answered at the end, {} did not",
                    "idle", group.idle_alive, group.idle_lost
                )?;
            }
            for (kind, count) in &group.failures {
                writeln!(f, "  {count:>9} × {kind}")?;
            }
            for wrong in &group.wrong {
                writeln!(f, "  wrong      {wrong}")?;
            }
        }
        for server in &self.servers {
            let mut line = format!(
                "  {:<10} {:.1} µs of processor time for each answer, {:.2} processors busy",
                server.name, server.cpu_us, server.busy
            );
            if let (Some(before), Some(connected), Some(after)) =
                (server.rss_before_kib, server.rss_connected_kib, server.rss_after_kib)
            {
                write!(line, "; memory {before} KiB, {connected} connected, {after} at the end")?;
            }
            if let Some(each) = server.rss_per_connection_kib {
                write!(line, "; {each:.1} KiB for each connection")?;
            }
            writeln!(f, "{line}")?;
        }
        writeln!(
            f,
            "  {:<10} {:.1} µs of processor time for each answer, {:.0} % busy",
            "client",
            self.client.cpu_us,
            100.0 * self.client.busy
        )?;
        if self.others_share > 0.1 {
            writeln!(f, "  {:<10} other processes had {:.0} % of the machine", "noise", 100.0 * self.others_share)?;
        }
        Ok(())
    }
}
