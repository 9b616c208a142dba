//! What was found, for programs and as text.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::load::compare::Comparison;
use crate::load::cpu::Machine;

/// A figure that stands for itself.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    /// What is expected.
    pub(super) at_most: Option<f64>,
}

impl Finding {
    pub(super) fn new(name: &str, value: f64, unit: &'static str) -> Self {
        Self { name: name.to_owned(), value, unit, at_most: None }
    }

    pub(super) fn at_most(self, most: f64) -> Self {
        Self { at_most: Some(most), ..self }
    }

    /// Whether it is what was expected, where something was.
    fn met(&self) -> Option<bool> {
        self.at_most.map(|most| self.value <= most)
    }
}

/// What one measurement found.
pub(super) struct Found {
    pub(super) what: &'static str,
    /// With which flags.
    pub(super) configuration: Value,
    pub(super) findings: Vec<Finding>,
    /// Where systems were compared.
    pub(super) comparison: Option<Comparison>,
}

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Version of this form.
    pub(super) format: u32,
    pub(super) tool: String,
    pub(super) started: String,
    pub(super) machine: Machine,
    pub(super) what: &'static str,
    pub(super) configuration: Value,
    pub(super) findings: Vec<Finding>,
    pub(super) comparison: Option<Comparison>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", self.what, self.configuration)?;
        if let Some(comparison) = &self.comparison {
            comparison.fmt(f)?;
        }
        for finding in &self.findings {
            let expected = match (finding.at_most, finding.met()) {
                (Some(most), Some(true)) => format!("  (at most {most} expected)"),
                (Some(most), _) => format!("  (ABOVE the {most} expected)"),
                (None, _) => String::new(),
            };
            writeln!(f, "  {:<58} {:>10.2} {}{expected}", finding.name, finding.value, finding.unit)?;
        }
        Ok(())
    }
}

/// The value below which so many of them are; 0 where there are none.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    // The nearest rank: `share` is within 0 and 1, and ranks are far below 2⁵³.
    let rank = (0..=last).find(|rank| fraction(*rank, last) >= share).unwrap_or(last);
    values.get(rank).copied().unwrap_or_default()
}

fn fraction(part: usize, whole: usize) -> f64 {
    let float = |number: usize| crate::load::measure::float(u64::try_from(number).unwrap_or(u64::MAX));
    if whole == 0 { 1.0 } else { float(part) / float(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let hundred: Vec<f64> = (0..=100_u32).rev().map(f64::from).collect();
        let table = [
            (hundred.as_slice(), 0.5, 50.0),
            (&hundred, 0.99, 99.0),
            (&hundred, 1.0, 100.0),
            (&hundred, 0.0, 0.0),
            (&[3.0], 0.5, 3.0),
            (&[], 0.5, 0.0),
        ];
        for (values, share, expected) in table {
            let found = quantile(values, share);
            assert!((found - expected).abs() < 1e-9, "{share} of {} values: {found}", values.len());
        }
    }

    #[test]
    fn what_is_above_is_said_to_be() {
        let finding = |value| Finding::new("memory", value, "MiB").at_most(24.0);
        assert_eq!((finding(24.0).met(), finding(24.1).met()), (Some(true), Some(false)));
        assert_eq!(Finding::new("memory", 1.0, "MiB").met(), None);
        let report = Report {
            format: 1,
            tool: String::new(),
            started: String::new(),
            machine: Machine::this(),
            what: "memory",
            configuration: serde_json::json!({}),
            findings: vec![finding(1.0), finding(30.0)],
            comparison: None,
        };
        let text = report.to_string();
        assert!(text.contains("at most 24 expected") && text.contains("ABOVE the 24 expected"), "{text}");
    }
}
