//! The power of the checks: each planted bug is found within a few seeds, and without it the same seeds are clean.

use lote_simulations::{Sabotage, Scenario, run, run_sabotaged};

/// Seeds tried for each bug.
const SEEDS: u64 = 40;

fn storm() -> Scenario {
    Scenario::parse(include_str!("../scenarios/storm.toml")).expect("the scenario in the tree")
}

/// The first seed that finds the bug, and what was violated.
fn find(sabotage: Sabotage) -> Option<(u64, &'static str)> {
    let scenario = storm();
    (1..=SEEDS).find_map(|seed| {
        let report = run_sabotaged(&scenario, seed, sabotage);
        report.violations.first().map(|violation| (seed, violation.invariant))
    })
}

fn check(sabotage: Sabotage, expected: &[&str]) {
    let Some((seed, invariant)) = find(sabotage) else {
        panic!("{sabotage:?} was not found in {SEEDS} seeds")
    };
    println!("{sabotage:?} found by seed {seed}: {invariant}");
    assert!(expected.contains(&invariant), "{sabotage:?} violated {invariant} with seed {seed}");
}

#[test]
fn the_same_seeds_are_clean_without_a_bug() {
    let scenario = storm();
    for seed in 1..=SEEDS {
        let report = run(&scenario, seed);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_host_loss_that_is_forgotten() {
    check(Sabotage::ForgetHostLoss, &["everything_finishes"]);
}

#[test]
fn reports_that_are_not_fenced() {
    check(Sabotage::SkipFence, &["results_are_true"]);
}

#[test]
fn reports_acknowledged_before_they_are_durable() {
    check(Sabotage::AcknowledgeBeforeDurable, &["no_acknowledged_write_lost"]);
}

#[test]
fn an_inventory_compared_too_early() {
    check(Sabotage::ReconcileTooEarly, &["everything_finishes"]);
}

#[test]
fn a_keeper_that_ignores_its_deadline() {
    check(Sabotage::IgnoreDeadline, &["one_live_attempt_per_task"]);
}

#[test]
fn a_log_that_is_not_replayed() {
    check(
        Sabotage::ForgetLog,
        &["no_acknowledged_write_lost", "replicas_identical_at_same_index", "results_are_true"],
    );
}

#[test]
fn reports_that_are_not_said_again() {
    check(Sabotage::ForgetReports, &["everything_finishes"]);
}
