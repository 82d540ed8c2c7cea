//! The power of the checks: each planted bug is found within some seeds, and without it the same seeds are clean.

use lote_simulations::{Options, Sabotage, Scenario, run, run_with};

fn storm() -> Scenario {
    Scenario::parse(include_str!("../scenarios/storm.toml")).expect("the scenario in the tree")
}

fn slow_log() -> Scenario {
    Scenario::parse(include_str!("../scenarios/slow-log.toml")).expect("the scenario in the tree")
}

/// Finds the bug in one of so many seeds, by the invariant it breaks.
fn check(sabotage: Sabotage, scenario: &Scenario, seeds: u64, expected: &[&str]) {
    let found = (1..=seeds).find_map(|seed| {
        let report = run_with(scenario, seed, Options { sabotage: Some(sabotage), ..Options::default() });
        report.violations.first().map(|violation| (seed, violation.invariant))
    });
    let Some((seed, invariant)) = found else { panic!("{sabotage:?} was not found in {seeds} seeds") };
    println!("{sabotage:?} found by seed {seed} of {}: {invariant}", scenario.name);
    assert!(expected.contains(&invariant), "{sabotage:?} violated {invariant} with seed {seed}");
}

fn check_clean(scenario: &Scenario, seeds: u64) {
    for seed in 1..=seeds {
        let report = run(scenario, seed);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn storms_without_a_bug_are_clean() {
    check_clean(&storm(), 40);
}

#[test]
fn a_slow_log_without_a_bug_is_clean() {
    check_clean(&slow_log(), 30);
}

#[test]
fn a_host_loss_that_is_forgotten() {
    check(Sabotage::ForgetHostLoss, &storm(), 40, &["everything_finishes"]);
}

#[test]
fn reports_that_are_not_fenced() {
    check(Sabotage::SkipFence, &storm(), 100, &["results_are_true"]);
}

#[test]
fn reports_acknowledged_before_they_are_durable() {
    check(Sabotage::AcknowledgeBeforeDurable, &storm(), 20, &["no_acknowledged_write_lost"]);
}

#[test]
fn an_inventory_compared_too_early() {
    check(Sabotage::ReconcileTooEarly, &slow_log(), 60, &["everything_finishes"]);
}

#[test]
fn a_host_that_is_lost_while_it_joins() {
    check(Sabotage::LoseWhoJoins, &slow_log(), 60, &["one_live_attempt_per_task"]);
}

#[test]
fn a_keeper_that_ignores_its_deadline() {
    check(Sabotage::IgnoreDeadline, &storm(), 20, &["one_live_attempt_per_task"]);
}

#[test]
fn a_log_that_is_not_replayed() {
    let expected = ["no_acknowledged_write_lost", "replicas_identical_at_same_index", "results_are_true"];
    check(Sabotage::ForgetLog, &storm(), 20, &expected);
}

#[test]
fn reports_that_are_not_said_again() {
    check(Sabotage::ForgetReports, &storm(), 20, &["everything_finishes"]);
}
