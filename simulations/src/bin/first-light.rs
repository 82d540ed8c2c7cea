//! Runs a scenario from some seeds and prints what became of it: `first-light [SCENARIO.toml] [--seed N]…`.
//! `--trace N` prints the last N events of each run, `--plant NAME` plants a bug of that name.

use lote_simulations::{Sabotage, Scenario, run_with};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, String> {
    let (mut scenario, mut seeds, mut lines) = (Scenario::first_light(), Vec::new(), 0_usize);
    let mut sabotage = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--plant" {
            let name = arguments.next().unwrap_or_default();
            let named = |sabotage: &Sabotage| format!("{sabotage:?}") == name;
            sabotage = Some(
                Sabotage::ALL.into_iter().find(named).ok_or_else(|| format!("no bug is called `{name}`"))?,
            );
            continue;
        }
        let mut number = || -> Result<u64, String> {
            let text = arguments.next().ok_or_else(|| format!("`{argument}` needs a number"))?;
            text.parse().map_err(|_| format!("`{text}` is no number"))
        };
        match argument.as_str() {
            "--seed" => seeds.push(number()?),
            "--seeds" => seeds.extend(1..=number()?),
            "--trace" => lines = number()? as usize,
            path => {
                let text = std::fs::read_to_string(path).map_err(|error| format!("`{path}`: {error}"))?;
                scenario = Scenario::parse(&text).map_err(|error| format!("`{path}`: {error}"))?;
            }
        }
    }
    if seeds.is_empty() {
        seeds.extend(1..=8);
    }
    let mut clean = true;
    for seed in seeds {
        let report = run_with(&scenario, seed, sabotage, lines);
        clean &= report.is_clean();
        if lines > 0 {
            report.last_lines.iter().for_each(|line| println!("{line}"));
        }
        println!("{report}");
    }
    Ok(clean)
}
