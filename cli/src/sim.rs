//! `lote sim`: runs of the simulator. One run with its report, many seeds until the first violation, one run again with
//! every event in words.

use crate::duration::Seconds;
use crate::output::{Output, table};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lote_simulations::scenario::BUILT_IN;
use lote_simulations::{Counts, Options, Report, Sabotage, Scenario, html, run, run_with};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

#[derive(Debug, clap::Subcommand)]
pub enum Sim {
    /// Run a scenario once: what became of it, how long the work took and what it waited for.
    Run {
        #[command(flatten)]
        what: What,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Write a page with pictures here
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Run a scenario from many seeds and stop at the first violation.
    Sweep {
        #[command(flatten)]
        what: What,
        /// How many seeds
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first of them
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Runs at the same time
        #[arg(long, default_value_t = 2)]
        jobs: u64,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Run one seed again.
    Replay {
        #[command(flatten)]
        what: What,
        #[arg(long)]
        seed: u64,
        /// Stop at this time of the run, e.g. `90s`
        #[arg(long, value_name = "TIME")]
        until: Option<Seconds>,
        /// Print every event in words
        #[arg(long)]
        trace: bool,
    },
    /// The scenarios that come with Lote.
    List,
}

#[derive(Debug, clap::Args)]
pub struct What {
    /// The name of a scenario that comes with Lote (`lote sim list`), or a TOML file
    scenario: String,
    /// Change one value of it, e.g. `--set job.tasks=50000 --set 'job.run_time_ms={ fixed = 800 }'`
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = change)]
    changes: Vec<(String, String)>,
    /// Plant a bug of this name, to see that it is found
    #[arg(long, value_parser = planted)]
    plant: Option<Sabotage>,
}

fn change(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("write it as PATH=VALUE")?;
    Ok((path.trim().to_owned(), value.trim().to_owned()))
}

fn planted(name: &str) -> Result<Sabotage, String> {
    let named = |bug: &Sabotage| format!("{bug:?}").eq_ignore_ascii_case(&name.replace('-', ""));
    Sabotage::ALL
        .into_iter()
        .find(named)
        .ok_or_else(|| format!("there is none; there are {:?}", Sabotage::ALL))
}

impl What {
    fn read(&self) -> anyhow::Result<Scenario> {
        let named = BUILT_IN.iter().find(|(name, _)| *name == self.scenario);
        let text = match named {
            Some((_, text)) => (*text).to_owned(),
            None if Path::new(&self.scenario).exists() => std::fs::read_to_string(&self.scenario)
                .with_context(|| format!("could not read `{}`", self.scenario))?,
            None => bail!("`{}` is neither a file nor one of `lote sim list`", self.scenario),
        };
        Scenario::parse_with(&text, &self.changes).with_context(|| format!("`{}`", self.scenario))
    }

    /// The command that does the same with one seed.
    fn replay(&self, seed: u64) -> String {
        let mut text = format!("lote sim replay {} --seed {seed}", self.scenario);
        for (path, value) in &self.changes {
            text.push_str(&format!(" --set '{path}={value}'"));
        }
        if let Some(bug) = self.plant {
            text.push_str(&format!(" --plant {bug:?}"));
        }
        text
    }

    fn options(&self) -> Options {
        Options { sabotage: self.plant, ..Options::default() }
    }
}

pub fn main(command: Sim) -> anyhow::Result<ExitCode> {
    match command {
        Sim::Run { what, seed, html, output } => once(&what, seed, html.as_deref(), output),
        Sim::Sweep { what, seeds, first, jobs, output } => {
            sweep(&what, first, seeds, jobs.clamp(1, 64), output)
        }
        Sim::Replay { what, seed, until, trace } => replay(&what, seed, until, trace),
        Sim::List => {
            let comment = |text: &str| {
                let lines = text.lines().map_while(|line| line.strip_prefix("# "));
                lines.collect::<Vec<_>>().join(" ")
            };
            let rows: Vec<_> =
                BUILT_IN.iter().map(|(name, text)| vec![(*name).to_owned(), comment(text)]).collect();
            println!("{}", table(&["SCENARIO", "WHAT IT SHOWS"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn verdict(is_clean: bool) -> ExitCode {
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn once(what: &What, seed: u64, page: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let scenario = what.read()?;
    let report = run_with(&scenario, seed, what.options());
    if let Some(path) = page {
        std::fs::write(path, html::page(&scenario, &report))
            .with_context(|| format!("could not write `{}`", path.display()))?;
    }
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&as_json(&report))?),
        Output::Text => print(what, &report),
    }
    Ok(verdict(report.is_clean()))
}

fn print(what: &What, report: &Report) {
    println!("{report}");
    let latency = [("added → started", report.series.waited), ("added → ended", report.series.took)];
    let rows = latency.map(|(name, of)| {
        let numbers =
            [of.p50, of.p90, of.p99, of.max].map(|ms| format!("{}.{:03} s", ms / 1_000, ms % 1_000));
        [vec![name.to_owned()], numbers.to_vec()].concat()
    });
    println!("{}", table(&["TASKS", "P50", "P90", "P99", "MAX"], &rows));
    if let Some(bottleneck) = report.bottleneck() {
        println!("bottleneck: {bottleneck}");
    }
    if !report.is_clean() {
        println!("to see it again: {} --trace", what.replay(report.seed));
    }
}

fn as_json(report: &Report) -> Value {
    let violation = |it: &lote_simulations::Violation| json!({ "atMs": it.at_ms, "invariant": it.invariant, "what": it.what });
    let counts: serde_json::Map<String, Value> = report
        .counts
        .named()
        .map(|(name, count)| (name.replace(' ', "-"), json!(count)))
        .into_iter()
        .collect();
    json!({
        "scenario": report.scenario, "seed": report.seed, "tasks": report.tasks, "virtualMs": report.virtual_ms,
        "finishedAtMs": report.finished_at_ms, "events": report.events, "trace": report.hash.to_string(),
        "clean": report.is_clean(), "bottleneck": report.bottleneck().map(|it| it.to_string()),
        "waitedMs": report.series.waited, "tookMs": report.series.took, "counts": counts,
        "violations": report.violations.iter().map(violation).collect::<Vec<_>>(),
    })
}

fn replay(what: &What, seed: u64, until: Option<Seconds>, trace: bool) -> anyhow::Result<ExitCode> {
    let scenario = what.read()?;
    let mut options = what.options();
    options.until_ms = until.map(|until| until.0.saturating_mul(1_000));
    if trace {
        options.listener = Some(Box::new(|line| println!("{line}")));
    }
    let report = run_with(&scenario, seed, options);
    print(what, &report);
    Ok(verdict(report.is_clean()))
}

/// What a sweep comes to.
#[derive(Default)]
struct Tally {
    runs: u64,
    virtual_ms: u64,
    events: u64,
    counts: Vec<(&'static str, u64)>,
    found: Option<Report>,
}

impl Tally {
    /// Simulated seconds for one of the CPU's.
    fn rate(&self, cpu: f64) -> f64 {
        self.virtual_ms as f64 / 1_000.0 / cpu.max(0.01)
    }

    fn add(&mut self, report: Report) {
        self.runs += 1;
        self.virtual_ms += report.virtual_ms;
        self.events += report.events;
        if self.counts.is_empty() {
            self.counts = Counts::default().named().to_vec();
        }
        for ((_, sum), (_, count)) in self.counts.iter_mut().zip(report.counts.named()) {
            *sum += count;
        }
        // The least seed, whichever run was the quicker.
        let is_earlier = self.found.as_ref().is_none_or(|found| report.seed < found.seed);
        if !report.is_clean() && is_earlier {
            self.found = Some(report);
        }
    }
}

fn sweep(what: &What, first: u64, seeds: u64, jobs: u64, output: Output) -> anyhow::Result<ExitCode> {
    let scenario = what.read()?;
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (tell, told) = mpsc::sync_channel(64);
    let bar = if output == Output::Json { ProgressBar::hidden() } else { ProgressBar::new(seeds) };
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} seeds  {per_sec}  {eta} left")?);
    let used_before = cpu_seconds();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (tell, next, stop, scenario) = (tell.clone(), &next, &stop, &scenario);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let report = match what.plant {
                        None => run(scenario, first + number),
                        Some(_) => run_with(scenario, first + number, what.options()),
                    };
                    if tell.send(report).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for report in told {
            tally.add(report);
            bar.inc(1);
            if tally.found.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    bar.finish_and_clear();
    let cpu = cpu_seconds() - used_before;
    let found = tally.found.as_ref();
    match output {
        Output::Json => {
            let counts: serde_json::Map<String, Value> =
                tally.counts.iter().map(|(name, sum)| (name.replace(' ', "-"), json!(sum))).collect();
            let value = json!({
                "scenario": scenario.name, "runs": tally.runs, "virtualSeconds": tally.virtual_ms / 1_000,
                "cpuSeconds": cpu, "virtualSecondsPerCpuSecond": tally.rate(cpu),
                "events": tally.events, "counts": counts, "found": found.map(as_json),
                "replay": found.map(|report| what.replay(report.seed)),
            });
            println!("{}", serde_json::to_string_pretty(&value)?);
        }
        Output::Text => {
            println!(
                "{}: {} runs from seed {first} on, {} simulated seconds in {cpu:.1} s of CPU ({:.0} each), {} events",
                scenario.name,
                tally.runs,
                tally.virtual_ms / 1_000,
                tally.rate(cpu),
                tally.events
            );
            let rows: Vec<_> =
                tally.counts.iter().map(|(name, sum)| vec![(*name).to_owned(), sum.to_string()]).collect();
            println!("{}", table(&["WHAT HAPPENED", "TIMES"], &rows));
            match found {
                None => println!("no violation"),
                Some(report) => {
                    println!("{report}\nto see it again: {} --trace", what.replay(report.seed));
                }
            }
        }
    }
    Ok(verdict(found.is_none()))
}

/// CPU time of this process in seconds, to a hundredth; 0 where the system does not say.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in brackets, which may have any characters: the 12th and 13th are ticks of 10 ms.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() as f64 / 100.0
}
