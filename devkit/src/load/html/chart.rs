//! Charts as SVG. Colours come from the page's style sheet, so that they fit a dark screen and paper as well.

use std::fmt::Write as _;

use super::{escaped, latency};
use crate::load::measure::float;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 236.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 36.0;
/// Points of which each shows its numbers when it is pointed at.
const POINTS_SHOWN: usize = 150;
/// Of a page of bars.
const ROW: f64 = 30.0;
const BARS_WIDTH: f64 = 1000.0;
const NAMES: f64 = 128.0;
const VALUES: f64 = 170.0;

/// A line.
pub(super) struct Series {
    pub(super) name: String,
    /// `c1` to `c5`.
    pub(super) colour: &'static str,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) filled: bool,
}

/// One direction of a chart.
pub(super) struct Scale {
    from: f64,
    to: f64,
    logarithmic: bool,
    marks: Vec<(f64, String)>,
}

impl Scale {
    /// From nothing to a little above the highest.
    pub(super) fn counts(highest: f64) -> Self {
        let highest = highest.max(1.0);
        let step = round_step(highest / 4.0).max(1.0);
        let marks: Vec<_> =
            (0..8_u32).map(|number| f64::from(number) * step).take_while(|mark| *mark < highest + step).collect();
        let to = marks.last().copied().unwrap_or(1.0).max(f64::MIN_POSITIVE);
        let marks = marks.into_iter().map(|mark| (mark, short(mark))).collect();
        Self { from: 0.0, to, logarithmic: false, marks }
    }

    /// Latencies in microseconds.
    pub(super) fn latencies(values: impl Iterator<Item = f64> + Clone) -> Self {
        let lowest = values.clone().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let highest = values.fold(0.0, f64::max);
        let (lowest, highest) =
            if lowest < highest { (lowest, highest) } else { (highest.max(1.0) / 2.0, highest.max(1.0) * 2.0) };
        let (from, to) = (lowest / 1.25, highest * 1.25);
        let few = (to / from).log10() > 2.6;
        let first = decade(from);
        let marks = (0..12).flat_map(|number| [1.0, 2.0, 5.0].map(|part| part * first * 10_f64.powi(number)));
        let marks = marks.filter(|mark| (from..=to).contains(mark) && (!few || is_decade(*mark)));
        Self { from, to, logarithmic: true, marks: marks.map(|mark| (mark, latency(mark))).collect() }
    }

    /// Seconds.
    pub(super) fn seconds(last: f64) -> Self {
        let step = round_step((last / 6.0).max(1.0)).max(1.0);
        let marks = (0..12_u32).map(|number| f64::from(number) * step).take_while(|mark| *mark <= last);
        Self {
            from: 0.0,
            to: last.max(1.0),
            logarithmic: false,
            marks: marks.map(|mark| (mark, format!("{mark:.0} s"))).collect(),
        }
    }

    /// "One in so many" requests is slower: 1 in 1, 10, 100 …, as powers of ten.
    pub(super) fn nines(most: f64) -> Self {
        let names = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];
        let marks = names.iter().zip(0_u32..).map(|(name, power)| (f64::from(power), (*name).to_owned()));
        let half = (2_f64.log10(), "50 %".to_owned());
        let marks = marks.chain([half]).filter(|(mark, _)| *mark <= most);
        Self { from: 0.0, to: most.max(1.0), logarithmic: false, marks: marks.collect() }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = if self.logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        place.clamp(0.0, 1.0)
    }
}

/// The power of ten that is not above.
fn decade(value: f64) -> f64 {
    10_f64.powf(value.log10().floor())
}

fn is_decade(value: f64) -> bool {
    (value.log10() - value.log10().round()).abs() < 1e-6
}

/// A round number that is not much above.
fn round_step(value: f64) -> f64 {
    let unit = decade(value.max(1e-3));
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|part| part * unit).into_iter().find(|step| *step >= value).unwrap_or(unit * 10.0)
}

fn short(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.0}k", value / 1_000.0)
    } else if value >= 1_000.0 {
        format!("{:.1}k", value / 1_000.0)
    } else {
        format!("{value:.0}")
    }
}

/// A chart of lines with its legend. `shown` says what a point is.
pub(super) fn lines(
    title: &str,
    series: &[Series],
    x: &Scale,
    y: &Scale,
    shown: impl Fn(f64, f64) -> String,
) -> String {
    let mut out = legend(series.iter().map(|series| (series.name.as_str(), series.colour)));
    let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - BOTTOM - TOP);
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    // Writing into memory does not fail, here and below.
    let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(title));
    for (mark, name) in &y.marks {
        let at = up(*mark);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            LEFT - 7.0,
            at + 4.0
        );
    }
    for (mark, name) in &x.marks {
        let at = across(*mark);
        let anchor = if at > right - 20.0 { "end" } else { "middle" };
        let _ = write!(
            out,
            "<path class=\"axis\" d=\"M{at:.1} {bottom}v4\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>",
            bottom + 18.0
        );
    }
    let _ = write!(out, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>");
    for series in series {
        let path: Vec<String> = series.points.iter().map(|(x, y)| format!("{:.1} {:.1}", across(*x), up(*y))).collect();
        let (path, colour) = (path.join("L"), series.colour);
        if let (true, Some((first, _)), Some((last, _))) = (series.filled, series.points.first(), series.points.last())
        {
            let _ = write!(
                out,
                "<path class=\"f a {colour}\" d=\"M{:.1} {bottom}L{path}L{:.1} {bottom}Z\"/>",
                across(*first),
                across(*last)
            );
        }
        let _ = write!(out, "<path class=\"l {colour}\" d=\"M{path}\"/>");
        let every = series.points.len().div_ceil(POINTS_SHOWN).max(1);
        for (x, y) in series.points.iter().step_by(every) {
            let _ = write!(
                out,
                "<circle class=\"p f {colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}: {}</title></circle>",
                across(*x),
                up(*y),
                escaped(&series.name),
                shown(*x, *y)
            );
        }
    }
    out.push_str("</svg>");
    out
}

pub(super) fn legend<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = "<ul class=\"legend\">".to_owned();
    for (name, colour) in entries {
        let _ = write!(out, "<li><i class=\"{colour}\"></i>{}</li>", escaped(name));
    }
    out.push_str("</ul>");
    out
}

/// A bar of parts.
pub(super) struct Bar {
    pub(super) name: String,
    /// Name, colour and length of each.
    pub(super) parts: Vec<(String, &'static str, f64)>,
    /// What is written behind it.
    pub(super) value: String,
}

/// Bars below each other, all to one scale.
pub(super) fn bars(title: &str, bars: &[Bar], unit: &str) -> String {
    let length = |bar: &Bar| bar.parts.iter().map(|(_, _, length)| length).sum::<f64>();
    let longest = bars.iter().map(length).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (BARS_WIDTH - NAMES - VALUES) / longest;
    let height = ROW * float(u64::try_from(bars.len()).unwrap_or_default());
    let mut out = format!("<svg viewBox=\"0 0 {BARS_WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escaped(title));
    let mut top = 0.0;
    for bar in bars {
        let middle = top + ROW / 2.0 + 4.0;
        let _ = write!(
            out,
            "<text class=\"strong\" x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 12.0,
            escaped(&bar.name)
        );
        let mut left = NAMES;
        for (name, colour, part) in &bar.parts {
            let width = part * scale;
            let _ = write!(
                out,
                "<rect class=\"f {colour}\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" rx=\"2\"><title>{}: {part:.1} {unit}</title></rect>",
                top + 5.0,
                (width - 1.5).max(0.5),
                ROW - 10.0,
                escaped(name)
            );
            left += width;
        }
        let _ = write!(
            out,
            "<text class=\"strong\" x=\"{:.1}\" y=\"{middle:.1}\">{}</text>",
            left + 8.0,
            escaped(&bar.value)
        );
        top += ROW;
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_a_few_round_marks_within_them() {
        for highest in [0.0, 1.0, 7.0, 99.0, 1_800.0, 63_002.0] {
            let scale = Scale::counts(highest);
            assert!((2..=7).contains(&scale.marks.len()) && scale.to >= highest, "{highest}: {:?}", scale.marks);
        }
        for range in [[50.0, 90.0], [100.0, 30_000.0], [7.0, 7.0], [0.0, 0.0], [1.0, 5_000_000.0]] {
            let scale = Scale::latencies(range.into_iter());
            assert!((1..=9).contains(&scale.marks.len()), "{range:?}: {:?}", scale.marks);
            for value in range {
                assert!((0.0..=1.0).contains(&scale.place(value)));
            }
        }
        for last in [0.0, 1.0, 29.0, 600.0] {
            assert!((1..=8).contains(&Scale::seconds(last).marks.len()), "{last}");
        }
    }

    #[test]
    fn names_cannot_break_out() {
        let series = Series { name: "<b>&\"".to_owned(), colour: "c1", points: vec![(0.0, 1.0)], filled: true };
        let out = lines("t\"", &[series], &Scale::seconds(1.0), &Scale::counts(1.0), |_, _| String::new());
        assert!(!out.contains("<b>") && out.contains("&lt;b&gt;&amp;&quot;"), "{out}");
    }
}
