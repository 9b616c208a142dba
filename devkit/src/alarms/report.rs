//! What the simulation found, as tables.

use core::fmt;
use std::collections::BTreeMap;

use serde::Serialize;

use super::attacks::{Attack, Detection};

/// What became of one attack in all runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttackLine {
    /// Which.
    pub attack: Attack,
    /// The same for people.
    pub text: &'static str,
    /// How often it was played.
    pub runs: u32,
    /// How often an alarm led to it.
    pub detected: u32,
    /// Half of those that were detected were after so long, in milliseconds, rounded up to a tally.
    pub median_ms: Option<u64>,
    /// 95 of 100 of those that were detected were after so long, in milliseconds.
    pub percentile_95_ms: Option<u64>,
    /// The kinds of the first alarm, or of those of the same tally.
    pub kinds: BTreeMap<&'static str, u32>,
}

/// Alarms without an attack.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FalseLine {
    /// Their kind, and of which sort.
    pub what: &'static str,
    /// In all weeks together.
    pub alarms: u32,
    /// In a week and a key store.
    pub per_week: f64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The seed of the first run; each further one has the next number.
    pub seed: u64,
    /// Weeks before the attacks.
    pub weeks: u32,
    /// Worlds.
    pub runs: u32,
    /// The attacks.
    pub attacks: Vec<AttackLine>,
    /// Alarms before the attacks, from the second week on.
    pub without_attack: Vec<FalseLine>,
    /// How it is printed.
    #[serde(skip)]
    pub is_markdown: bool,
}

impl AttackLine {
    pub(super) fn new(attack: Attack, results: &[Option<Detection>]) -> Self {
        let mut times: Vec<u64> = results.iter().flatten().map(|detection| detection.after_ms).collect();
        times.sort_unstable();
        let mut kinds = BTreeMap::new();
        for kind in results.iter().flatten().flat_map(|detection| &detection.kinds) {
            *kinds.entry(kind.name()).or_default() += 1;
        }
        Self {
            attack,
            text: attack.text(),
            runs: u32::try_from(results.len()).unwrap_or(u32::MAX),
            detected: u32::try_from(times.len()).unwrap_or(u32::MAX),
            median_ms: percentile(&times, 50),
            percentile_95_ms: percentile(&times, 95),
            kinds,
        }
    }

    fn cells(&self) -> [String; 6] {
        let kinds: Vec<&str> = self.kinds.keys().copied().collect();
        let percent = u64::from(self.detected) * 100 / u64::from(self.runs.max(1));
        [
            self.text.to_owned(),
            self.runs.to_string(),
            format!("{percent} %"),
            shown_time(self.median_ms),
            shown_time(self.percentile_95_ms),
            kinds.join(", "),
        ]
    }
}

/// The smallest of sorted times that so many of a hundred do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let place = sorted.len().checked_mul(percent)?.div_ceil(100).checked_sub(1)?;
    sorted.get(place).copied()
}

fn shown_time(time_ms: Option<u64>) -> String {
    match time_ms.map(|time_ms| time_ms / 1_000) {
        None => "–".to_owned(),
        Some(seconds @ 0..120) => format!("{seconds} s"),
        Some(seconds @ 120..7_200) => format!("{} min", seconds.div_ceil(60)),
        Some(seconds @ 7_200..172_800) => format!("{} h", seconds.div_ceil(3_600)),
        Some(seconds) => format!("{} days", seconds.div_ceil(86_400)),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A simulation with made-up traffic: {} key stores of {} weeks each, default rules, seed {}.\n",
            self.runs, self.weeks, self.seed
        )?;
        let heads = ["attack", "runs", "detected", "median", "95 of 100", "by"].map(str::to_owned);
        let attacks: Vec<_> = self.attacks.iter().map(AttackLine::cells).collect();
        table(f, &heads, &attacks, self.is_markdown)?;
        writeln!(f)?;
        let heads = ["alarms without an attack", "in a week and a key store"].map(str::to_owned);
        let without: Vec<_> =
            self.without_attack.iter().map(|line| [line.what.to_owned(), format!("{:.2}", line.per_week)]).collect();
        table(f, &heads, &without, self.is_markdown)
    }
}

fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    heads: &[String; N],
    rows: &[[String; N]],
    is_markdown: bool,
) -> fmt::Result {
    if is_markdown {
        writeln!(f, "| {} |\n|{}", heads.join(" | "), "---|".repeat(N))?;
        return rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")));
    }
    let mut widths = [0_usize; N];
    for row in core::iter::once(heads).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    core::iter::once(heads).chain(rows).try_for_each(|row| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(f, "{}", cells.join("  ").trim_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_came_to_pass() {
        for (sorted, percent, expected) in
            [(&[][..], 50, None), (&[7], 95, Some(7)), (&[1, 2, 3, 4], 50, Some(2)), (&[1, 2, 3, 4], 95, Some(4))]
        {
            assert_eq!(percentile(sorted, percent), expected);
        }
    }

    #[test]
    fn times_are_rounded_up() {
        for (time_ms, expected) in [
            (None, "–"),
            (Some(10_000), "10 s"),
            (Some(121_000), "3 min"),
            (Some(7_200_000), "2 h"),
            (Some(15 * 86_400_000), "15 days"),
        ] {
            assert_eq!(shown_time(time_ms), expected);
        }
    }
}
