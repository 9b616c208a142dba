//! `holdfast-dev alarms`: what the rules of alarms find and miss, in a simulation.
//!
//! Guarantees: judged by `holdfast_shared::alarm::judge` with the default rules, and by what a custodian remembers; the same seed gives the
//! same figures. Assumes: nothing about real traffic, which is made up here: the figures compare attacks, and foretell nothing. Normal
//! traffic is told each ten minutes, and an attack each ten seconds as an enclave does (the slow one each ten minutes); times are rounded
//! up to the tally.

mod attacks;
mod memory;
pub(crate) mod random;
mod report;
mod traffic;

use std::io::{self, Write as _};

use clap::Args;
use holdfast_shared::alarm::{Alarm, AlarmKind, Rules};

use attacks::{Detection, play};
use memory::Memory;
use random::Random;
use traffic::{COARSE_MS, DAY_MS, Events, World};

pub use attacks::Attack;
pub use report::{AttackLine, FalseLine, Report};

const WEEK_MS: u64 = 7 * DAY_MS;

/// Flags of `holdfast-dev alarms`.
#[derive(Clone, Copy, Debug, Args)]
pub struct AlarmsSettings {
    /// Weeks of normal traffic before the attacks
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=52))]
    pub weeks: u32,
    /// Key stores, each with every attack
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,
    /// Seed of the first run; each further run has the next number
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Print tables in Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// Simulates and prints.
///
/// # Errors
/// Standard output is closed.
pub fn run(settings: AlarmsSettings) -> io::Result<()> {
    let AlarmsSettings { weeks, runs, seed, .. } = settings;
    writeln!(io::stderr(), "holdfast-dev: simulating {runs} key stores of {weeks} weeks, seed {seed}")?;
    let report = simulate(settings);
    let mut out = io::stdout().lock();
    if settings.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()
}

/// Simulates.
#[must_use]
pub fn simulate(settings: AlarmsSettings) -> Report {
    let AlarmsSettings { weeks, runs, seed, markdown, .. } = settings;
    let rules = Rules::default();
    let mut counted = Counted::default();
    let mut results = Attack::ALL.map(|attack| (attack, Vec::<Option<Detection>>::new()));
    for run in 0..runs {
        let seed = seed.wrapping_add(run.into());
        let (world, memory) = live(seed, weeks, Events::ALL, &rules, &mut counted);
        for (number, (attack, detections)) in (0_u64..).zip(&mut results) {
            let mut random = Random::of(seed, u64::MAX, number);
            detections.push(play(*attack, &world, &memory, &rules, &mut random));
        }
    }
    let attacks = results.iter().map(|(attack, detections)| AttackLine::new(*attack, detections)).collect();
    // Nothing is counted in the week of learning.
    let weeks_counted = runs.saturating_mul(weeks.saturating_sub(1));
    Report { seed, weeks, runs, attacks, without_attack: counted.lines(weeks_counted), is_markdown: markdown }
}

/// Weeks without an attack, whose alarms are counted from the second one on.
fn live(seed: u64, weeks: u32, events: Events, rules: &Rules, counted: &mut Counted) -> (World, Memory) {
    let (mut world, mut memory) = (World::new(seed, events), Memory::default());
    let start_ms = world.now_ms;
    for _ in 0..u64::from(weeks) * WEEK_MS / COARSE_MS {
        let tally = world.tally(COARSE_MS);
        for alarm in memory.take(&tally, rules) {
            if tally.at_ms >= start_ms + WEEK_MS {
                counted.add(&alarm, &world);
            }
        }
    }
    (world, memory)
}

/// Alarms without an attack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    newcomers: u32,
    by_kind: [u32; AlarmKind::ALL.len()],
}

impl Counted {
    fn add(&mut self, alarm: &Alarm, world: &World) {
        if alarm.kind == AlarmKind::FirstSeen && world.newcomers.contains(&alarm.who) {
            self.newcomers += 1;
        } else if let Some(count) = self.by_kind.get_mut(alarm.kind.number()) {
            *count += 1;
        }
    }

    /// What these rules raise by default, and what traffic alone can cause.
    fn lines(&self, weeks: u32) -> Vec<FalseLine> {
        let line = |what, alarms| FalseLine { what, alarms, per_week: f64::from(alarms) / f64::from(weeks.max(1)) };
        let falsely = [AlarmKind::FirstSeen, AlarmKind::UnusualRate, AlarmKind::RefusedBurst].map(|kind| {
            let what = match kind {
                AlarmKind::FirstSeen => "false: first-seen",
                AlarmKind::UnusualRate => "false: unusual-rate",
                _ => "false: refused-burst",
            };
            line(what, self.by_kind.get(kind.number()).copied().unwrap_or(0))
        });
        core::iter::once(line("expected: first-seen of a new role", self.newcomers)).chain(falsely).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: AlarmsSettings = AlarmsSettings { weeks: 2, runs: 2, seed: 1, json: false, markdown: false };

    #[test]
    fn attacks_are_found_and_missed_as_the_rules_say() {
        let report = simulate(SETTINGS);
        let of = |attack| report.attacks.iter().find(|line| line.attack == attack).unwrap();
        let mass = of(Attack::MassDecrypt);
        assert_eq!(mass.detected, mass.runs);
        assert!(mass.percentile_95_ms < Some(3_600_000), "{mass:?}");
        assert!(mass.kinds.contains_key("unusual-rate"));
        for attack in [Attack::StolenNewVpc, Attack::NewPrincipal] {
            let line = of(attack);
            assert_eq!((line.detected, line.kinds.get("first-seen")), (line.runs, Some(&line.runs)), "{line:?}");
            assert_eq!(line.percentile_95_ms, Some(holdfast_shared::limits::TALLY_INTERVAL_MS));
        }
        let slow = of(Attack::SlowExfiltration);
        assert!(slow.detected * 2 < slow.runs, "{slow:?}");
        for (is_markdown, head) in [(true, "| attack | runs | detected |"), (false, "attack   ")] {
            let text = Report { is_markdown, ..report.clone() }.to_string();
            assert!(text.contains("seed 1.") && text.contains(head), "{text}");
        }
    }

    #[test]
    fn a_quiet_world_has_hardly_a_false_alarm() {
        let mut counted = Counted::default();
        let quiet = Events { month_ends: false, new_roles: false, mistakes: false };
        for seed in 0..2 {
            live(seed, 3, quiet, &Rules::default(), &mut counted);
        }
        // In six weeks, of which each key store learns in the first.
        assert_eq!(counted.newcomers, 0);
        assert!(counted.by_kind.iter().sum::<u32>() <= 1, "{counted:?}");
    }
}
