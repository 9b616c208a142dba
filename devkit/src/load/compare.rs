//! Servers held against each other: each has its turn in every round, and what is shown are medians over the rounds of ratios within a
//! round. A machine that is slower for a while is slower for all.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;

use super::LoadError;
use super::cpu::Watched;
use super::lane::Work;
use super::profile::Shape;
use super::report::{Latency, Run};
use super::run::{GroupJob, Job, Load, execute};
use super::settings::LoadSettings;

/// A server that takes part.
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) work: Arc<Work>,
    pub(super) watched: Vec<(String, u32)>,
}

/// A figure that is drawn from the rounds.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) of: Share,
    /// None where the figure stands for itself.
    pub(super) to: Option<Share>,
    pub(super) kind: Kind,
    pub(super) at_most: Option<f64>,
}

/// Whose measurement.
#[derive(Clone)]
pub(super) struct Share {
    pub(super) contender: &'static str,
    /// One of its processes; all where there is none.
    pub(super) process: Option<&'static str>,
}

/// What of it, and how the two are held against each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ratio of processor times for each answer.
    Processor,
    /// Ratio of medians.
    Median,
    /// Ratio of 99th percentiles.
    Percentile99,
    /// Ratio of 999th permilles.
    Permille999,
    /// Microseconds by which the median is higher.
    Added,
}

impl Kind {
    /// What becomes of two measurements, or of one.
    fn of(self, value: f64, to: Option<f64>) -> Option<f64> {
        match (self, to) {
            (_, None) => Some(value),
            (Self::Added, Some(to)) => Some(value - to),
            (_, Some(to)) => (to > 0.0).then(|| value / to),
        }
    }
}

/// How often every server has its turn, and how the client runs meanwhile.
pub(super) struct Rounds {
    pub(super) count: u32,
    pub(super) threads: u32,
    pub(super) client_cores: Vec<usize>,
    pub(super) quiet: bool,
}

impl Rounds {
    pub(super) fn of(settings: &LoadSettings) -> Self {
        let measuring = &settings.measuring;
        Self {
            count: measuring.repeat,
            threads: measuring.threads,
            client_cores: measuring.client_core.clone(),
            quiet: settings.quiet,
        }
    }
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What was asked.
    pub case: String,
    /// What each server did: medians over the rounds.
    pub rows: Vec<Row>,
    /// How they compare.
    pub figures: Vec<Figure>,
}

/// What a server did.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub server: String,
    /// Processor time for each answer, in microseconds: of each process.
    pub processes: Vec<(String, f64)>,
    /// Answers per second.
    pub per_second: f64,
    /// Latencies in microseconds.
    pub p50_us: f64,
    /// See above.
    pub p99_us: f64,
    /// See above.
    pub p999_us: f64,
    /// How busy the client was.
    pub client_busy: f64,
    /// Answers in all rounds.
    pub answers: u64,
    /// Failures in all rounds.
    pub failed: u64,
}

/// A ratio or a difference.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it says.
    pub name: String,
    /// `ratio`, or `µs`.
    pub unit: &'static str,
    /// Over the rounds.
    pub median: f64,
    /// The lowest and the highest of the rounds.
    pub range: (f64, f64),
    /// What is expected.
    pub at_most: Option<f64>,
}

/// A case with its servers.
pub(super) struct Contest<'a> {
    pub(super) case: String,
    pub(super) shape: &'a Shape,
    pub(super) contenders: Vec<Contender>,
    pub(super) wanted: Vec<Wanted>,
}

/// Runs all rounds of a case; adds its runs to `runs`.
pub(super) fn contest(
    contest: &Contest<'_>,
    settings: &Rounds,
    stop: &Arc<AtomicBool>,
    runs: &mut Vec<Run>,
) -> Result<Comparison, LoadError> {
    let rounds = usize::try_from(settings.count).unwrap_or(1);
    let mut found: Vec<Vec<Run>> = contest.contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        // Every other round goes backwards, so that whoever comes first is not always the same.
        let count = contest.contenders.len();
        for place in 0..count {
            let place = if round % 2 == 0 { place } else { count - 1 - place };
            let (Some(contender), Some(found)) = (contest.contenders.get(place), found.get_mut(place)) else {
                continue;
            };
            let job = job(contest, contender, settings, stop, round)?;
            let run = Run::of(&execute(job)?);
            runs.push(run.clone());
            found.push(run);
        }
    }
    let rows = contest.contenders.iter().zip(&found).map(|(contender, runs)| Row::of(contender.name, runs)).collect();
    let figures = contest.wanted.iter().map(|wanted| figure(contest, wanted, &found, rounds)).collect();
    Ok(Comparison { case: contest.case.clone(), rows, figures })
}

fn job(
    contest: &Contest<'_>,
    contender: &Contender,
    settings: &Rounds,
    stop: &Arc<AtomicBool>,
    round: usize,
) -> Result<Job, LoadError> {
    let shape = contest.shape;
    let watched = contender.watched.iter().map(|(name, pid)| {
        Watched::begin(name, *pid).map_err(|error| LoadError::Process {
            name: name.clone(),
            pid: *pid,
            reason: error.to_string(),
        })
    });
    let group = GroupJob {
        name: "requests".to_owned(),
        work: Arc::clone(&contender.work),
        connections: shape.connections,
        streams: shape.streams,
        load: Load::of(shape),
        idle: 0,
    };
    Ok(Job {
        name: format!("{} {} {}", contest.case, contender.name, round + 1),
        groups: vec![group],
        warm_up: Duration::from_secs_f64(shape.warm_up_s),
        duration: Duration::from_secs_f64(shape.duration_s),
        requests: shape.requests,
        threads: usize::try_from(settings.threads).unwrap_or(1),
        client_cores: settings.client_cores.clone(),
        watched: watched.collect::<Result<_, _>>()?,
        seed: shape.seed.wrapping_add(u64::try_from(round).unwrap_or_default()),
        quiet: settings.quiet,
        stop: Arc::clone(stop),
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = |at: usize| values.get(at).copied().unwrap_or_default();
    let half = values.len() / 2;
    if values.len() % 2 == 1 { middle(half) } else { f64::midpoint(middle(half.saturating_sub(1)), middle(half)) }
}

impl Row {
    fn of(server: &str, runs: &[Run]) -> Self {
        let latency =
            |of: fn(&Latency) -> f64| median(runs.iter().filter_map(Run::main).map(|group| of(&group.latency)));
        let names = runs.first().map(|run| run.servers.iter().map(|server| server.name.clone()).collect::<Vec<_>>());
        let processes = names.unwrap_or_default().into_iter().map(|name| {
            let spent = median(runs.iter().filter_map(|run| process_us(run, &name)));
            (name, spent)
        });
        Self {
            server: server.to_owned(),
            processes: processes.collect(),
            per_second: median(runs.iter().filter_map(Run::main).map(|group| group.per_second)),
            p50_us: latency(|latency| latency.p50_us),
            p99_us: latency(|latency| latency.p99_us),
            p999_us: latency(|latency| latency.p999_us),
            client_busy: median(runs.iter().map(|run| run.client.busy)),
            answers: runs.iter().map(|run| run.answers).sum(),
            failed: runs.iter().filter_map(Run::main).map(|group| group.counts.failed).sum(),
        }
    }

    /// Processor time of all its processes.
    #[must_use]
    pub fn processor_us(&self) -> f64 {
        self.processes.iter().map(|(_, spent)| spent).sum()
    }
}

fn process_us(run: &Run, name: &str) -> Option<f64> {
    run.servers.iter().find(|server| server.name == name).map(|server| server.cpu_us)
}

fn measured(run: &Run, share: &Share, kind: Kind) -> Option<f64> {
    let latency = &run.main()?.latency;
    match kind {
        Kind::Processor => share.process.map_or_else(|| Some(run.servers_us()), |name| process_us(run, name)),
        Kind::Median | Kind::Added => Some(latency.p50_us),
        Kind::Percentile99 => Some(latency.p99_us),
        Kind::Permille999 => Some(latency.p999_us),
    }
}

fn figure(contest: &Contest<'_>, wanted: &Wanted, found: &[Vec<Run>], rounds: usize) -> Figure {
    let of_round = |share: &Share, round: usize| {
        let place = contest.contenders.iter().position(|contender| contender.name == share.contender)?;
        measured(found.get(place)?.get(round)?, share, wanted.kind)
    };
    let values: Vec<f64> = (0..rounds)
        .filter_map(|round| {
            let to = wanted.to.as_ref().map(|share| of_round(share, round).ok_or(())).transpose().ok()?;
            wanted.kind.of(of_round(&wanted.of, round)?, to)
        })
        .collect();
    let lowest = values.iter().copied().reduce(f64::min).unwrap_or_default();
    let highest = values.iter().copied().reduce(f64::max).unwrap_or_default();
    Figure {
        name: wanted.name.clone(),
        unit: if wanted.kind == Kind::Added || wanted.to.is_none() { "µs" } else { "ratio" },
        median: median(values.into_iter()),
        range: (lowest, highest),
        at_most: wanted.at_most,
    }
}

impl Figure {
    /// Whether it is what was expected, where something was.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        self.at_most.map(|most| self.median <= most)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.case)?;
        writeln!(
            f,
            "  {:<16} {:>10} {:>9} {:>9} {:>9} {:>10} {:>7}  processor time by process",
            "server", "CPU µs", "p50 µs", "p99 µs", "p99.9 µs", "answers/s", "client"
        )?;
        for row in &self.rows {
            let processes: Vec<_> = row.processes.iter().map(|(name, spent)| format!("{name} {spent:.1}")).collect();
            writeln!(
                f,
                "  {:<16} {:>10.1} {:>9.0} {:>9.0} {:>9.0} {:>10.0} {:>5.0} %  {}",
                row.server,
                row.processor_us(),
                row.p50_us,
                row.p99_us,
                row.p999_us,
                row.per_second,
                100.0 * row.client_busy,
                processes.join(", ")
            )?;
            if row.failed > 0 {
                writeln!(f, "  {:<16} {} requests FAILED", "", row.failed)?;
            }
        }
        for figure in &self.figures {
            let expected = match (figure.at_most, figure.met()) {
                (Some(most), Some(true)) => format!(", at most {most} expected"),
                (Some(most), _) => format!(", ABOVE the {most} expected"),
                (None, _) => String::new(),
            };
            let unit = if figure.unit == "ratio" { "×" } else { "µs" };
            let (low, high) = figure.range;
            writeln!(f, "  {:<52} {:>7.2} {unit:<2} ({low:.2} to {high:.2}{expected})", figure.name, figure.median)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_differences() {
        let kinds = [
            (Kind::Median, Some(2.0), Some(4.0)),
            (Kind::Added, Some(2.0), Some(6.0)),
            (Kind::Median, None, Some(8.0)),
            (Kind::Processor, Some(0.0), None),
        ];
        for (kind, to, expected) in kinds {
            assert_eq!(kind.of(8.0, to), expected, "{to:?}");
        }
        for (values, expected) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0], 2.5), (&[7.0], 7.0), (&[], 0.0)] {
            assert!((median(values.iter().copied()) - expected).abs() < 1e-9, "{values:?}");
        }
    }
}
