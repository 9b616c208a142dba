//! The report as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere.

mod chart;

use std::fmt::Write as _;

use self::chart::{Bar, Scale, Series, bars, legend, lines};
use super::compare::{Comparison, Figure};
use super::measure::float;
use super::report::{Configuration, Group, Report, Run};

const STYLE: &str = include_str!("html/style.css");

/// The page.
#[must_use]
pub(super) fn page(report: &Report) -> String {
    let mut out = String::with_capacity(64 * 1024);
    out.push_str("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    let title = title(report);
    // Writing into memory does not fail, here and below.
    let _ = write!(out, "<title>{}</title><style>{STYLE}</style></head><body><main>", escaped(&title));
    header(&mut out, report, &title);
    if report.comparison.is_empty() {
        for run in &report.runs {
            single(&mut out, run);
        }
    } else {
        expectations(&mut out, report);
        for comparison in &report.comparison {
            compared(&mut out, report, comparison);
        }
        primitives(&mut out, report);
    }
    facts(&mut out, report);
    out.push_str("</main></body></html>\n");
    out
}

fn title(report: &Report) -> String {
    if report.comparison.is_empty() {
        let profile = report.configuration.load.profile.map_or("load", super::profile::Profile::name);
        format!("Load: {profile}")
    } else {
        "Load: Holdfast beside a server that does nothing".to_owned()
    }
}

fn header(out: &mut String, report: &Report, title: &str) {
    let (class, verdict) =
        if report.passed { ("good", "every request answered well") } else { ("bad", "requests failed") };
    let _ = write!(
        out,
        "<header><h1>{}</h1><span class=\"chip {class}\">{verdict}</span><p>{} · {} · {}</p></header>",
        escaped(title),
        escaped(&report.configuration.target),
        escaped(&report.started),
        escaped(&report.tool)
    );
}

fn tile(out: &mut String, value: &str, name: &str) {
    let _ = write!(out, "<div class=\"tile\"><b>{}</b><span>{}</span></div>", escaped(value), escaped(name));
}

fn single(out: &mut String, run: &Run) {
    for (number, group) in run.groups.iter().enumerate() {
        if run.groups.len() > 1 {
            let note = if number == 0 { "measured" } else { "the neighbour who floods; its failures do not count" };
            let _ = write!(out, "<h2>{} <small class=\"note\">{note}</small></h2>", escaped(&group.name));
        }
        tiles(out, group, (number == 0).then_some(run));
        out.push_str("<div class=\"pair\">");
        card(out, "How long the slowest wait", &curves(&[("all requests".to_owned(), "c1", group)]));
        card(out, "Latency over time", &latency_over_time(group));
        card(out, "Answers each second", &throughput(group));
        card(out, "By operation", &operations(group));
        out.push_str("</div>");
        failures(out, group);
    }
    servers(out, run);
}

fn tiles(out: &mut String, group: &Group, run: Option<&Run>) {
    out.push_str("<div class=\"tiles\">");
    tile(out, &format!("{:.0}", group.per_second), "answers per second");
    tile(out, &group.counts.ok.to_string(), "answered well");
    tile(out, &group.counts.failed.to_string(), "failed");
    tile(out, &latency(group.latency.p50_us), "half are faster (p50)");
    tile(out, &latency(group.latency.p99_us), "99 in 100 are faster");
    tile(out, &latency(group.latency.p999_us), "999 in 1,000 are faster");
    if let Some(run) = run {
        if !run.servers.is_empty() {
            tile(out, &latency(run.servers_us()), "servers' processor time each");
        }
        tile(out, &format!("{:.0} %", 100.0 * run.client.busy), "client busy");
    }
    out.push_str("</div>");
}

fn card(out: &mut String, title: &str, inside: &str) {
    let _ = write!(out, "<section class=\"card\"><h3>{}</h3>{inside}</section>", escaped(title));
}

/// Percentiles of one or several, with equal room for each nine.
fn curves(groups: &[(String, &'static str, &Group)]) -> String {
    let nines = |share: f64| -(1.0 - share).max(1e-9).log10();
    let series: Vec<Series> = groups
        .iter()
        .map(|(name, colour, group)| Series {
            name: name.clone(),
            colour,
            points: group.curve.iter().map(|(share, value)| (nines(*share), *value)).collect(),
            filled: false,
        })
        .collect();
    let points = || series.iter().flat_map(|series| series.points.iter());
    let most = points().map(|(nines, _)| *nines).fold(1.0, f64::max);
    let scale = Scale::latencies(points().map(|(_, value)| *value));
    let shown = |nines: f64, value: f64| {
        let decimals = if nines < 2.0 {
            0
        } else if nines < 3.0 {
            1
        } else {
            3
        };
        format!("{:.decimals$} % within {}", 100.0 * (1.0 - 10_f64.powf(-nines)), latency(value))
    };
    lines("percentiles of latency", &series, &Scale::nines(most), &scale, shown)
}

fn last_second(group: &Group) -> f64 {
    group.timeline.last().map_or(1.0, |moment| float(moment.second))
}

fn latency_over_time(group: &Group) -> String {
    let series = |name: &str, colour, of: fn(&super::report::Moment) -> f64| Series {
        name: name.to_owned(),
        colour,
        points: group.timeline.iter().map(|moment| (float(moment.second), of(moment))).collect(),
        filled: false,
    };
    let series = [
        series("longest", "c5", |moment| moment.max_us),
        series("p99", "c2", |moment| moment.p99_us),
        series("p50", "c1", |moment| moment.p50_us),
    ];
    let scale = Scale::latencies(series.iter().flat_map(|series| series.points.iter().map(|(_, value)| *value)));
    let shown = |second: f64, value: f64| format!("{} in second {second:.0}", latency(value));
    lines("latency over time", &series, &Scale::seconds(last_second(group)), &scale, shown)
}

fn throughput(group: &Group) -> String {
    let points = |of: fn(&super::report::Moment) -> u64| {
        group.timeline.iter().map(|moment| (float(moment.second), float(of(moment)))).collect()
    };
    let mut series = vec![Series {
        name: "answered well".to_owned(),
        colour: "c3",
        points: points(|moment| moment.ok),
        filled: true,
    }];
    if group.counts.failed > 0 {
        series.push(Series {
            name: "failed".to_owned(),
            colour: "c2",
            points: points(|moment| moment.failed),
            filled: false,
        });
    }
    let highest = series.iter().flat_map(|series| series.points.iter().map(|(_, value)| *value)).fold(0.0, f64::max);
    let shown = |second: f64, value: f64| format!("{value:.0} in second {second:.0}");
    lines("answers each second", &series, &Scale::seconds(last_second(group)), &Scale::counts(highest), shown)
}

fn operations(group: &Group) -> String {
    let mut out = "<div class=\"wide\"><table><tr><th>operation</th><th class=\"n\">answers</th><th class=\"n\">p50</th><th class=\"n\">p99</th><th class=\"n\">p99.9</th><th class=\"n\">longest</th></tr>".to_owned();
    for (operation, found) in &group.operations {
        let _ = write!(out, "<tr><td>{}</td><td class=\"n\">{}</td>", operation.name(), found.count);
        for value in [found.p50_us, found.p99_us, found.p999_us, found.max_us] {
            let _ = write!(out, "<td class=\"n\">{}</td>", latency(value));
        }
        out.push_str("</tr>");
    }
    out.push_str("</table></div>");
    let notes = [
        (group.counts.retries, "sent again"),
        (group.counts.timeouts, "attempts without an answer in time"),
        (group.counts.unsent, "never sent"),
        (group.connections, "connections opened"),
        (group.resumed, "of them resumed a TLS session"),
        (group.verified, "answers to Encrypt decrypted afterwards"),
        (group.idle_alive, "idle connections answered at the end"),
        (group.idle_lost, "idle connections were lost"),
    ];
    let notes: Vec<_> =
        notes.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let _ = write!(out, "<p class=\"note\" style=\"margin:10px 0 0\">{}</p>", notes.join(" · "));
    out
}

fn failures(out: &mut String, group: &Group) {
    if group.failures.is_empty() && group.wrong.is_empty() {
        return;
    }
    let mut table = "<table><tr><th>what failed</th><th class=\"n\">how often</th></tr>".to_owned();
    for (kind, count) in &group.failures {
        let _ = write!(table, "<tr><td>{}</td><td class=\"n\">{count}</td></tr>", escaped(kind));
    }
    for wrong in &group.wrong {
        let _ = write!(table, "<tr><td>{}</td><td class=\"n\"></td></tr>", escaped(wrong));
    }
    table.push_str("</table>");
    card(out, "Failures", &table);
}

fn servers(out: &mut String, run: &Run) {
    if run.servers.is_empty() {
        return;
    }
    let mut table = "<div class=\"wide\"><table><tr><th>process</th><th class=\"n\">processor time each</th><th class=\"n\">processors busy</th><th class=\"n\">memory before</th><th class=\"n\">connected</th><th class=\"n\">at the end</th><th class=\"n\">each connection</th></tr>".to_owned();
    for server in &run.servers {
        let _ = write!(
            table,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{:.2}</td>",
            escaped(&server.name),
            latency(server.cpu_us),
            server.busy
        );
        for memory in [server.rss_before_kib, server.rss_connected_kib, server.rss_after_kib] {
            let shown = memory.map(|kib| format!("{:.1} MiB", float(kib) / 1_024.0)).unwrap_or_default();
            let _ = write!(table, "<td class=\"n\">{shown}</td>");
        }
        let each = server.rss_per_connection_kib.map(|kib| format!("{kib:.1} KiB")).unwrap_or_default();
        let _ = write!(table, "<td class=\"n\">{each}</td></tr>");
    }
    table.push_str("</table></div>");
    card(out, "Servers", &table);
}

/// All figures of which something is expected, in one table.
fn expectations(out: &mut String, report: &Report) {
    let figures = || {
        report
            .comparison
            .iter()
            .flat_map(|comparison| comparison.figures.iter().map(move |figure| (comparison, figure)))
    };
    let expected: Vec<_> =
        figures().filter_map(|(comparison, figure)| Some((comparison, figure, figure.met()?))).collect();
    if expected.is_empty() {
        return;
    }
    let mut table = "<div class=\"wide\"><table><tr><th>case</th><th>figure</th><th class=\"n\">median</th><th class=\"n\">rounds</th><th class=\"n\">expected</th><th class=\"n\"></th></tr>".to_owned();
    for (comparison, figure, met) in expected {
        let (class, word) = if met { ("good", "met") } else { ("bad", "above") };
        let _ = write!(
            table,
            "<tr><td class=\"w\">{}</td><td>{}</td><td class=\"n\"><b>{}</b></td><td class=\"n\">{}</td><td class=\"n\">≤ {}</td><td class=\"n\"><span class=\"chip {class}\">{word}</span></td></tr>",
            escaped(&comparison.case),
            escaped(&figure.name),
            value(figure, figure.median),
            range(figure),
            figure.at_most.map(|most| value(figure, most)).unwrap_or_default()
        );
    }
    table.push_str("</table></div>");
    let _ = write!(
        out,
        "<p class=\"note\">Rounds: {}; in each, every server had its turn. A ratio compares two servers of one round; what is shown is the median of the rounds.</p>",
        report.configuration.rounds
    );
    card(out, "What is expected", &table);
}

fn value(figure: &Figure, value: f64) -> String {
    if figure.unit == "ratio" { format!("{value:.2} ×") } else { latency(value) }
}

fn range(figure: &Figure) -> String {
    let (low, high) = figure.range;
    format!("{} – {}", value(figure, low).trim_end_matches(" ×"), value(figure, high))
}

/// The same process has the same colour everywhere.
fn process_colour(name: &str) -> &'static str {
    match name {
        "bare" => "c5",
        "enclave" => "c1",
        "relay" => "c2",
        "parent" => "c3",
        _ => "c4",
    }
}

fn server_colour(name: &str) -> &'static str {
    match name {
        "ceiling" => "c5",
        "relay+ceiling" => "c2",
        "relay+enclave" => "c4",
        "parent+enclave" => "c3",
        _ => "c1",
    }
}

fn compared(out: &mut String, report: &Report, comparison: &Comparison) {
    let _ = write!(out, "<h2>{}</h2>", escaped(&comparison.case));
    let ceiling = comparison.rows.first().map_or(0.0, super::compare::Row::processor_us);
    let bar = |row: &super::compare::Row| Bar {
        name: row.server.clone(),
        parts: row.processes.iter().map(|(name, spent)| (name.clone(), process_colour(name), *spent)).collect(),
        value: match row.processor_us() {
            spent if spent > 0.0 && ceiling > 0.0 => format!("{spent:.1} µs · {:.2} ×", spent / ceiling),
            _ => "not measured".to_owned(),
        },
    };
    let rows: Vec<Bar> = comparison.rows.iter().map(bar).collect();
    let mut names: Vec<&str> =
        comparison.rows.iter().flat_map(|row| row.processes.iter().map(|(name, _)| name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let legend = legend(names.into_iter().map(|name| (name, process_colour(name))));
    card(out, "Processor time of the servers for each answer", &(legend + &bars("processor time", &rows, "µs")));
    out.push_str("<div class=\"pair\">");
    let first = |row: &super::compare::Row| {
        let name = format!("{} {} 1", comparison.case, row.server);
        report.runs.iter().find(|run| run.name == name).and_then(Run::main)
    };
    let groups: Vec<_> = comparison
        .rows
        .iter()
        .filter_map(|row| Some((row.server.clone(), server_colour(&row.server), first(row)?)))
        .collect();
    card(out, "How long the slowest wait (first round)", &curves(&groups));
    card(out, "Medians of the rounds", &rows_table(comparison));
    out.push_str("</div>");
}

fn rows_table(comparison: &Comparison) -> String {
    let mut out = "<div class=\"wide\"><table><tr><th>server</th><th class=\"n\">answers/s</th><th class=\"n\">p50</th><th class=\"n\">p99</th><th class=\"n\">p99.9</th><th class=\"n\">client</th></tr>".to_owned();
    for row in &comparison.rows {
        let _ = write!(out, "<tr><td>{}</td><td class=\"n\">{:.0}</td>", escaped(&row.server), row.per_second);
        for value in [row.p50_us, row.p99_us, row.p999_us] {
            let _ = write!(out, "<td class=\"n\">{}</td>", latency(value));
        }
        let _ = write!(out, "<td class=\"n\">{:.0} %</td></tr>", 100.0 * row.client_busy);
        if row.failed > 0 {
            let _ = write!(
                out,
                "<tr><td colspan=\"6\"><span class=\"chip bad\">{} requests failed</span></td></tr>",
                row.failed
            );
        }
    }
    out.push_str("</table><table style=\"margin-top:12px\">");
    for figure in comparison.figures.iter().filter(|figure| figure.at_most.is_none()) {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td></tr>",
            escaped(&figure.name),
            value(figure, figure.median)
        );
    }
    out.push_str("</table></div>");
    out
}

fn primitives(out: &mut String, report: &Report) {
    if report.primitives.is_empty() {
        return;
    }
    let mut table = "<table>".to_owned();
    for primitive in &report.primitives {
        let _ =
            write!(table, "<tr><td>{}</td><td class=\"n\">{:.0} ns</td></tr>", escaped(&primitive.name), primitive.ns);
    }
    table.push_str("</table>");
    out.push_str("<h2>Cryptography alone</h2>");
    card(out, "ring, on the client's processor, in the same run", &table);
}

fn facts(out: &mut String, report: &Report) {
    let machine = &report.machine;
    let cores = |cores: &[usize]| {
        let names: Vec<_> = cores.iter().map(ToString::to_string).collect();
        if names.is_empty() { "not pinned".to_owned() } else { format!("processor {}", names.join(", ")) }
    };
    let configuration = &report.configuration;
    let mut rows = load_facts(configuration);
    rows.extend([
        ("Client", format!("{} thread(s), {}", configuration.client_threads, cores(&configuration.client_cores))),
        ("Servers", cores(&configuration.server_cores)),
        ("Processors", format!("{} × {}", machine.processors, machine.processor)),
        ("Memory, kernel", format!("{} MiB, {}", machine.memory_mib, machine.kernel)),
        (
            "Build",
            if machine.optimised {
                "optimised".to_owned()
            } else {
                "NOT optimised: its figures say nothing".to_owned()
            },
        ),
    ]);
    let others = report.runs.iter().map(|run| run.others_share).fold(0.0, f64::max);
    rows.push(("Other processes", format!("had at most {:.0} % of the machine in a run", 100.0 * others)));
    let mut table = "<table class=\"facts\">".to_owned();
    for (name, value) in rows {
        let _ = write!(table, "<tr><td>{name}</td><td>{}</td></tr>", escaped(&value));
    }
    table.push_str("</table>");
    out.push_str("<h2>How it was measured</h2>");
    card(out, "Configuration and machine", &table);
    out.push_str("<footer>Latencies count from the moment at which a request was meant to be sent. Figures of one machine and one run compare with each other, and with nothing else.</footer>");
}

fn load_facts(configuration: &Configuration) -> Vec<(&'static str, String)> {
    let load = &configuration.load;
    let pace = if load.phases.is_empty() {
        "as soon as answers come (closed loop)".to_owned()
    } else {
        let phases: Vec<_> =
            load.phases.iter().map(|phase| format!("{:.0}/s for {:.0} s", phase.rate, phase.seconds)).collect();
        format!("{} (open loop)", phases.join(", then "))
    };
    let sizes = &load.sizes;
    let http = if load.http == super::wire::Http::Two { "HTTP/2" } else { "HTTP/1.1" };
    let mut facts = vec![
        ("Connected to", configuration.connect.clone()),
        ("Keys", format!("{} in {} key store(s)", configuration.keys, configuration.key_stores)),
    ];
    if configuration.cases.is_empty() {
        facts.extend([
            ("Requests", load.mix.to_string()),
            (
                "Sizes",
                format!(
                    "{} bytes of plaintext, {} of AAD, CDIV {}",
                    sizes.plaintext,
                    sizes.aad,
                    if sizes.cdiv { "on" } else { "off" }
                ),
            ),
            ("Pace", pace),
        ]);
    }
    let streams = if load.streams > 1 { format!(", {} streams each", load.streams) } else { String::new() };
    let how = if configuration.cases.is_empty() {
        format!("{http}, {}", load.reuse.name())
    } else {
        "as the cases say".to_owned()
    };
    facts.push(("Connections", format!("{}{streams}, {how}, and {} idle", load.connections, load.idle)));
    facts.push((
        "Time",
        format!("{:.0} s measured after {:.1} s of warm-up, seed {}", load.duration_s, load.warm_up_s, load.seed),
    ));
    let again = if load.kms { ", then tried once more" } else { "" };
    facts.push(("Patience", format!("{} ms{again}", load.patience_ms)));
    facts
}

/// Microseconds in the unit that fits.
fn latency(us: f64) -> String {
    if us.abs() < 10.0 {
        format!("{us:.1} µs")
    } else if us.abs() < 1_000.0 {
        format!("{us:.0} µs")
    } else if us < 100_000.0 {
        format!("{} ms", plain(us / 1_000.0))
    } else if us < 1_000_000.0 {
        format!("{:.0} ms", us / 1_000.0)
    } else {
        format!("{} s", plain(us / 1e6))
    }
}

/// One digit behind the point, unless it is a zero.
fn plain(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_units_that_people_read() {
        for (us, expected) in [
            (0.0, "0.0 µs"),
            (6.34, "6.3 µs"),
            (850.4, "850 µs"),
            (1_000.0, "1 ms"),
            (12_340.0, "12.3 ms"),
            (250_000.0, "250 ms"),
            (2_500_000.0, "2.5 s"),
        ] {
            assert_eq!(latency(us), expected);
        }
    }
}
