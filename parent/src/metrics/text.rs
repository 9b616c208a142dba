//! The text format of Prometheus, version 0.0.4.
//!
//! Guarantees: the samples of one family stand together, whatever order they came in; numbers are written exactly. Assumes: the values
//! of labels are bounded.

use core::fmt::{self, Display, Write as _};
use std::collections::BTreeMap;

use holdfast_link::control::{BOUNDS_US, Histogram};

use super::families::{Family, Kind};

/// A page in the making.
#[derive(Debug, Default)]
pub(super) struct Text {
    samples: BTreeMap<&'static str, String>,
}

/// A number of milliseconds, in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Milliseconds(pub(super) u64);

/// A number of microseconds, in seconds.
#[derive(Debug, Clone, Copy)]
struct Microseconds(u64);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

impl Display for Microseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Text {
    /// A sample; the values are those of the family's labels, in their order.
    pub(super) fn add(&mut self, family: &Family, values: &[&str], value: impl Display) {
        self.line(family, "", values, None, value);
    }

    /// All samples of a histogram.
    pub(super) fn add_histogram(&mut self, family: &Family, values: &[&str], histogram: &Histogram) {
        let mut count: u64 = 0;
        for (bound, bucket) in BOUNDS_US.iter().zip(histogram.buckets) {
            count = count.saturating_add(bucket);
            self.line(family, "_bucket", values, Some(&Microseconds(*bound).to_string()), count);
        }
        count = count.saturating_add(histogram.above);
        self.line(family, "_bucket", values, Some("+Inf"), count);
        self.line(family, "_sum", values, None, Microseconds(histogram.sum_us));
        self.line(family, "_count", values, None, count);
    }

    fn line(&mut self, family: &Family, suffix: &str, values: &[&str], bound: Option<&str>, value: impl Display) {
        let text = self.samples.entry(family.name).or_default();
        let labels = family.labels.iter().copied().zip(values.iter().copied()).chain(bound.map(|bound| ("le", bound)));
        let labels: Vec<_> = labels.map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to memory does not fail.
        let _ = writeln!(text, "{}{suffix}{labels} {value}", family.name);
    }

    /// The page: these families, those without a sample left out.
    pub(super) fn page(&self, families: impl Iterator<Item = Family>) -> String {
        let mut page = String::new();
        for Family { name, kind, help, .. } in families {
            if let Some(samples) = self.samples.get(name) {
                page.push_str(&head(name, kind, help));
                page.push_str(samples);
            }
        }
        page
    }
}

fn head(name: &str, kind: Kind, help: &str) -> String {
    format!("# HELP {name} {}\n# TYPE {name} {}\n", help.trim(), kind.as_str())
}

/// "backslash, double-quote and line feed" are escaped in a label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HITS: Family = Family { name: "hits_total", kind: Kind::Counter, labels: &["who"], help: " Hits." };
    const TOOK: Family = Family { name: "took_seconds", kind: Kind::Histogram, labels: &[], help: " Took." };
    const NONE: Family = Family { name: "none", kind: Kind::Gauge, labels: &[], help: " None." };

    #[test]
    fn samples_of_a_family_stand_together_and_labels_are_escaped() {
        let mut text = Text::default();
        let mut histogram = Histogram { above: 1, sum_us: 2_500_000, ..Histogram::default() };
        histogram.buckets[0] = 2;
        histogram.buckets[15] = 3;
        text.add(&HITS, &["a"], 1);
        text.add_histogram(&TOOK, &[], &histogram);
        text.add(&HITS, &["b\"\\\n"], u64::MAX);
        let page = text.page([HITS, NONE, TOOK].into_iter());
        let lines: Vec<_> = page.lines().collect();
        assert_eq!(
            lines[..6],
            [
                "# HELP hits_total Hits.",
                "# TYPE hits_total counter",
                "hits_total{who=\"a\"} 1",
                "hits_total{who=\"b\\\"\\\\\\n\"} 18446744073709551615",
                "# HELP took_seconds Took.",
                "# TYPE took_seconds histogram",
            ]
        );
        assert_eq!(lines[6], "took_seconds_bucket{le=\"0.00005\"} 2");
        assert_eq!(
            lines[lines.len() - 4..],
            [
                "took_seconds_bucket{le=\"1\"} 5",
                "took_seconds_bucket{le=\"+Inf\"} 6",
                "took_seconds_sum 2.5",
                "took_seconds_count 6",
            ]
        );
        assert!(!page.contains("none"));
        assert_eq!(Milliseconds(1_002).to_string(), "1.002");
    }
}
