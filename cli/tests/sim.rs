//! `lote sim` as a user has it: another process, the same run.

use lote_simulations::{Scenario, run};
use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lote")).arg("sim").args(arguments).output().expect("it starts")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

const SMALL: [&str; 2] = ["--set", "job.tasks=600"];

#[test]
fn another_process_sees_the_same_run() {
    let mut scenario = Scenario::first_light();
    scenario.job.tasks = 600;
    let here = run(&scenario, 11);
    let there = sim(&[&["run", "first-light", "--seed", "11", "--output", "json"], &SMALL[..]].concat());
    assert!(there.status.success(), "{there:?}");
    let there = json(&there);
    assert_eq!(there["trace"], here.hash.to_string());
    assert_eq!(there["events"], here.events);
}

#[test]
fn a_sweep_stops_at_a_planted_bug_and_says_how_to_see_it_again() {
    let found =
        sim(&["sweep", "storm", "--seeds", "40", "--plant", "AcknowledgeBeforeDurable", "--output", "json"]);
    assert!(!found.status.success(), "{found:?}");
    let found = json(&found);
    assert_eq!(found["found"]["violations"][0]["invariant"], "no_acknowledged_write_lost");
    let replay = found["replay"].as_str().expect("a command");
    let words: Vec<&str> = replay.split(' ').skip(2).chain(["--trace"]).collect();
    let again = sim(&words);
    assert!(!again.status.success(), "{again:?}");
    let again = text(&again);
    assert!(again.contains("VIOLATION of no_acknowledged_write_lost"), "{again}");
    assert!(again.lines().count() > 100, "every event is a line");
}

#[test]
fn a_clean_sweep_a_page_and_a_part_of_a_run() {
    let swept = sim(&[&["sweep", "quiet", "--seeds", "3", "--output", "json"], &SMALL[..]].concat());
    assert!(swept.status.success(), "{swept:?}");
    assert_eq!(json(&swept)["runs"], 3);
    let page = std::env::temp_dir().join(format!("lote-sim-{}.html", std::process::id()));
    let path = page.to_str().expect("text");
    let ran = sim(&[&["run", "leader-storm", "--html", path], &SMALL[..]].concat());
    let written = std::fs::read_to_string(&page);
    let _ = std::fs::remove_file(&page);
    assert!(ran.status.success(), "{ran:?}");
    assert!(written.expect("a page").contains("coordinator-crash"));
    let part = text(&sim(&["replay", "first-light", "--seed", "2", "--until", "20s"]));
    assert!(part.contains("not finished after 20."), "{part}");
}

#[test]
fn what_cannot_be_run_is_said() {
    for (arguments, expected) in [
        (&["run", "no-such"][..], "is neither a file nor one of `lote sim list`"),
        (&["run", "quiet", "--set", "job.tusks=3"], "unknown field `tusks`"),
        (&["run", "quiet", "--set", "tasks"], "write it as PATH=VALUE"),
        (&["sweep", "quiet", "--plant", "Nothing"], "there is none; there are"),
    ] {
        let output = sim(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(expected), "{arguments:?}: {error}");
    }
}
