//! A report as one self-contained page: pictures over virtual time, all on the same axis, and the numbers beside them.

use crate::report::Report;
use crate::scenario::Scenario;
use crate::series::{Mark, Sample};
use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: u64 = 1_000;
const HEIGHT: u64 = 160;
/// Height of the lane of one kind of fault.
const LANE: u64 = 14;
/// Links shown in the table of bytes.
const LINKS_MAX: usize = 12;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2733;--faint:#8894a1;--grid:#d9dfe5;--a:#1769aa;--b:#c4461c;--paper:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--faint:#8d99a5;--grid:#34404c;--a:#63b0ee;--b:#f08a5d;--paper:#161c22}}\
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1060px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem}svg{width:100%;height:auto;display:block;overflow:visible}\
svg text{font:11px system-ui,sans-serif;fill:var(--faint)}table{border-collapse:collapse}td,th{padding:.15rem .9rem .15rem 0;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:var(--b);font-weight:600}.a{color:var(--a)}.b{color:var(--b)}\
pre{overflow:auto;border:1px solid var(--grid);padding:.6rem;font-size:12px}.grid{stroke:var(--grid)}\
.la{fill:none;stroke:var(--a);stroke-width:1.5}.lb{fill:none;stroke:var(--b);stroke-width:1.5}.fa{fill:var(--a);opacity:.15}";

/// The page.
pub fn page(scenario: &Scenario, report: &Report) -> String {
    let end_ms = report.series.samples.last().map_or(1, |last| last.at_ms).max(1);
    let mut out = String::new();
    let title = format!("{}, seed {}", escape(&report.scenario), report.seed);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
    );
    head(&mut out, report);
    let samples = &report.series.samples;
    let axis = Axis { end_ms };
    let chart = |out: &mut String, name: &str, lines: [(&str, Vec<(u64, u64)>); 2]| {
        axis.chart(out, name, &lines);
    };
    let of = |value: fn(&Sample) -> u64| samples.iter().map(|sample| (sample.at_ms, value(sample))).collect();
    let slots = [("slots of nodes that take tasks", of(|it| it.slots)), ("processes", of(|it| it.processes))];
    chart(&mut out, "Utilisation", slots);
    let tasks = [("waiting", of(|it| it.queued)), ("completed", of(|it| it.completed))];
    chart(&mut out, "Tasks", tasks);
    let rate = |pair: &[Sample]| {
        let ms = pair[1].at_ms.saturating_sub(pair[0].at_ms).max(1);
        (pair[1].at_ms, pair[1].bytes.saturating_sub(pair[0].bytes) * 1_000 / ms)
    };
    let leader = of(|it| u64::from(!it.has_leader));
    chart(
        &mut out,
        "Bytes a second on all links",
        [("bytes/s", samples.windows(2).map(rate).collect()), ("", Vec::new())],
    );
    axis.faults(&mut out, &report.series.marks, &leader);
    numbers(&mut out, report);
    links(&mut out, report);
    let text = toml::to_string(scenario).unwrap_or_default();
    let _ = write!(out, "<h2>Scenario</h2><pre>{}</pre></html>", escape(&text));
    out
}

fn head(out: &mut String, report: &Report) {
    let seconds = |ms: u64| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100);
    let _ = match report.finished_at_ms {
        Some(at_ms) => write!(out, "<p>{} tasks finished after {}", report.tasks, seconds(at_ms)),
        None => write!(
            out,
            "<p class=\"bad\">{} tasks, not finished after {}",
            report.tasks,
            seconds(report.virtual_ms)
        ),
    };
    if let Some(bottleneck) = report.bottleneck() {
        let _ = write!(out, ". Bottleneck: {}", escape(&bottleneck.to_string()));
    }
    let _ = write!(out, ".<br>Trace {} of {} events.</p>", report.hash, report.events);
    for violation in &report.violations {
        let _ = write!(out, "<p class=\"bad\">Violation {}</p>", escape(&violation.to_string()));
    }
}

/// The axis of time that all pictures share.
struct Axis {
    end_ms: u64,
}

impl Axis {
    fn x(&self, at_ms: u64) -> u64 {
        at_ms.min(self.end_ms) * WIDTH / self.end_ms
    }

    fn chart(&self, out: &mut String, name: &str, lines: &[(&str, Vec<(u64, u64)>)]) {
        let top =
            lines.iter().flat_map(|(_, points)| points).map(|(_, value)| *value).max().unwrap_or(0).max(1);
        let y = |value: u64| HEIGHT - value * HEIGHT / top;
        let legend: Vec<String> = lines
            .iter()
            .zip(["a", "b"])
            .filter(|((name, _), _)| !name.is_empty())
            .map(|((name, _), class)| format!("<span class=\"{class}\">━ {}</span>", escape(name)))
            .collect();
        let _ = write!(
            out,
            "<h2>{} <small>{}</small></h2><svg viewBox=\"-60 -8 {} {}\" role=\"img\" aria-label=\"{}\">",
            escape(name),
            legend.join(" "),
            WIDTH + 80,
            HEIGHT + 30,
            escape(name)
        );
        for quarter in 0..=4 {
            let value = top * quarter / 4;
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M0 {0}H{WIDTH}\"/><text x=\"-6\" y=\"{1}\" text-anchor=\"end\">{2}</text>",
                y(value),
                y(value) + 4,
                short(value)
            );
        }
        for tenth in 0..=10 {
            let at_ms = self.end_ms * tenth / 10;
            let _ = write!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{} s</text>",
                self.x(at_ms),
                HEIGHT + 16,
                at_ms / 1_000
            );
        }
        for ((_, points), class) in lines.iter().zip(["la", "lb"]) {
            if points.is_empty() {
                continue;
            }
            let path: Vec<String> =
                points.iter().map(|(at_ms, value)| format!("{} {}", self.x(*at_ms), y(*value))).collect();
            let _ = write!(out, "<polyline class=\"{class}\" points=\"{}\"/>", path.join(","));
        }
        out.push_str("</svg>");
    }

    /// A lane for each kind of fault, and one for the times without a leader.
    fn faults(&self, out: &mut String, marks: &[Mark], leaderless: &[(u64, u64)]) {
        let mut lanes: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for mark in marks {
            lanes.entry(mark.kind).or_default().push((mark.at_ms, mark.outage_ms));
        }
        for pair in leaderless.windows(2).filter(|pair| pair[0].1 > 0) {
            lanes.entry("no leader").or_default().push((pair[0].0, pair[1].0 - pair[0].0));
        }
        if lanes.is_empty() {
            return;
        }
        let height = lanes.len() as u64 * LANE;
        let _ = write!(
            out,
            "<h2>Faults</h2><svg viewBox=\"-110 -4 {} {}\" role=\"img\" aria-label=\"Faults\">",
            WIDTH + 130,
            height + 8
        );
        for (number, (kind, faults)) in lanes.iter().enumerate() {
            let y = number as u64 * LANE;
            let _ = write!(
                out,
                "<text x=\"-6\" y=\"{}\" text-anchor=\"end\">{} {}</text>",
                y + LANE - 4,
                escape(kind),
                faults.len()
            );
            for (at_ms, outage_ms) in faults {
                let (from, to) = (self.x(*at_ms), self.x(at_ms + outage_ms));
                let _ = write!(
                    out,
                    "<rect class=\"fa\" x=\"{from}\" y=\"{y}\" width=\"{}\" height=\"{}\"/><path class=\"lb\" d=\"M{from} {y}v{}\"/>",
                    (to - from).max(1),
                    LANE - 3,
                    LANE - 3
                );
            }
        }
        out.push_str("</svg>");
    }
}

fn numbers(out: &mut String, report: &Report) {
    out.push_str("<h2>Task latency in ms</h2><table><tr><th></th><th>p50</th><th>p90</th><th>p99</th><th>max</th></tr>");
    for (name, of) in [("added → started", report.series.waited), ("added → ended", report.series.took)] {
        let _ = write!(
            out,
            "<tr><td>{name}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            of.p50, of.p90, of.p99, of.max
        );
    }
    out.push_str("</table><h2>What happened</h2><table>");
    for (name, count) in report.counts.named() {
        let _ = write!(out, "<tr><td>{name}</td><td class=\"n\">{count}</td></tr>");
    }
    out.push_str("</table>");
}

fn links(out: &mut String, report: &Report) {
    let mut links: Vec<(&u32, &[u64; 2])> = report.series.link_bytes.iter().collect();
    links.sort_by_key(|(host, bytes)| (std::cmp::Reverse(bytes.iter().sum::<u64>()), **host));
    let _ = write!(
        out,
        "<h2>Bytes by link</h2><p>The busiest of {}.</p><table><tr><th>host</th><th>to it</th><th>from it</th></tr>",
        links.len()
    );
    for (host, [to, from]) in links.into_iter().take(LINKS_MAX) {
        let _ = write!(out, "<tr><td>{host}</td><td class=\"n\">{to}</td><td class=\"n\">{from}</td></tr>");
    }
    out.push_str("</table>");
}

/// A number in few characters.
fn short(value: u64) -> String {
    match value {
        0..10_000 => value.to_string(),
        10_000..10_000_000 => format!("{} k", value / 1_000),
        _ => format!("{} M", value / 1_000_000),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, run_with};

    #[test]
    fn a_page_stands_alone_and_says_what_is_on_it() {
        let mut scenario = Scenario::first_light();
        scenario.name = "<script>".to_owned();
        scenario.job.tasks = 5_000;
        let report = run_with(&scenario, 3, Options { until_ms: Some(30_000), ..Options::default() });
        assert!(report.cut_short && report.finished_at_ms.is_none());
        let page = page(&scenario, &report);
        assert!(page.contains("&lt;script&gt;, seed 3") && !page.contains("<script"), "names are text");
        assert!(!page.contains("http:") && !page.contains("https:"), "nothing is loaded from elsewhere");
        for part in [
            "Utilisation",
            "Tasks",
            "Bytes a second",
            "Faults",
            "disconnect",
            "Task latency",
            "Bytes by link",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }
}
