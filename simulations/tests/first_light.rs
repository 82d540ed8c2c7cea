//! One coordinator and 50 nodes finish 10 000 tasks while hosts, workers, connections and the coordinator fail; and
//! the same seed is the same run. (That another process sees the same is a test of `lote sim`.)

use lote_simulations::{Counts, Report, Scenario, run};

/// Something that has to have happened, and how often it did.
type Mark = (&'static str, fn(&Counts) -> u64);

fn check(seeds: impl Iterator<Item = u64>) {
    let scenario = Scenario::first_light();
    let reports: Vec<Report> = seeds.map(|seed| run(&scenario, seed)).collect();
    for report in &reports {
        println!("{report}");
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.tasks, 10_000);
    }
    // A run in which nothing goes wrong shows nothing: each of these happened somewhere.
    let marks: [Mark; 9] = [
        ("host crashes", |counts| counts.host_crashes),
        ("coordinator crashes", |counts| counts.coordinator_crashes),
        ("hosts lost", |counts| counts.hosts_lost),
        ("kills at the deadline", |counts| counts.deadline_kills),
        ("attempts adopted", |counts| counts.adopted),
        ("entries replayed", |counts| counts.entries_replayed),
        ("entries unheard of", |counts| counts.unheard_entries),
        ("retries", |counts| counts.retries),
        ("chunks sent again", |counts| counts.chunks_sent_again),
    ];
    for (name, count) in marks {
        assert!(reports.iter().any(|report| count(&report.counts) > 0), "no {name} in any seed");
    }
}

#[test]
fn seeds_1_to_4_finish_10_000_tasks() {
    check(1..=4);
}

#[test]
fn seeds_5_to_8_finish_10_000_tasks() {
    check(5..=8);
}

/// A smaller run with all the faults.
fn small() -> Scenario {
    let mut scenario = Scenario::first_light();
    scenario.job.tasks = 1_500;
    scenario
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_not() {
    let (first, again, other) = (run(&small(), 11), run(&small(), 11), run(&small(), 12));
    assert_eq!(first, again);
    assert_ne!(first.hash, other.hash);
    assert!(first.counts.faults > 0 && first.is_clean(), "{first}");
}

/// Seed 437: a node that saw a task of 0 ms asks for 200 slots' worth and is given long ones.
#[test]
fn what_one_node_hoards_goes_to_idle_nodes_and_does_not_come_and_go() {
    let scenario =
        Scenario::parse(include_str!("../scenarios/slow-log.toml")).expect("the scenario in the tree");
    let report = run(&scenario, 437);
    assert!(report.is_clean(), "{report}");
    let asked_back = report.counts.asked_back;
    assert!(asked_back > 0, "nothing was hoarded: {report}");
    assert!(asked_back < report.tasks, "tasks went to and fro: {report}");
}
