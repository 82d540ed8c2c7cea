//! Scenarios of `jobs-and-tasks.md` §13.3 as far as the core decides them, and the fan-outs it must bear.

use crate::state::command::{Action, Condition, CursorKey};
use crate::state::testing::*;
use crate::state::{Cluster, Outcome, RECORDS_MAX, RefusalCode, TaskPlace};
use lote_shared::model::*;

/// A pool `p` of one node with that many slots, and a job `j` that uses dependencies and may end by its tasks.
fn world(slots: u16) -> (World, NodeKey) {
    let mut w = World::new();
    w.pool("p", 1, slots);
    let node = w.nodes("p")[0];
    let mut spec = job_spec("j", "p");
    spec.uses_task_dependencies = true;
    w.job_with(spec);
    (w, node)
}

fn on(ids: &[&str], ranges: &[(i32, i32)]) -> TaskTies {
    let ids = ids.iter().map(|id| task_id(id)).collect();
    let ranges = ranges.iter().map(|(start, end)| TaskIdRange { start: *start, end: *end }).collect();
    TaskTies { depends_on: DependsOn { ids, ranges }, exit_conditions: None }
}

fn when(exit_conditions: ExitConditions) -> TaskTies {
    TaskTies { exit_conditions: Some(exit_conditions), ..TaskTies::default() }
}

fn options(job: Option<ExitJobAction>, dependency: Option<DependencyAction>) -> ExitOptions {
    ExitOptions { job, dependency }
}

fn add(w: &mut World, id: &str, ties: TaskTies) -> TaskKey {
    w.ok(Action::TiedTasksAdd { job: job_id("j"), tasks: vec![(task_add(id), ties)] });
    w.task_named("j", id).key
}

fn place(w: &World, task: TaskKey) -> TaskPlace {
    w.record(task).place
}

fn run(w: &mut World, node: NodeKey, task: TaskKey, exit_code: i32) {
    let attempt = w.run(node, task);
    w.exit(node, attempt, exit_code);
}

fn delete(w: &mut World, id: &str) {
    w.ok(Action::TaskDelete { job: job_id("j"), task: task_id(id), condition: Condition::default() });
}

#[test]
fn spec_j_d1_d17_what_the_job_did_not_opt_in_to() {
    let mut w = World::new();
    w.job("j", "p");
    let satisfy = options(None, Some(DependencyAction::Satisfy));
    let none = options(Some(ExitJobAction::None), None);
    let cases = [
        (on(&["a"], &[]), RefusalCode::TaskDependenciesNotSpecifiedOnJob),
        (on(&[], &[(1, 2)]), RefusalCode::TaskDependenciesNotSpecifiedOnJob),
        (
            when(ExitConditions { codes: vec![(1, satisfy)], ..ExitConditions::default() }),
            RefusalCode::InvalidPropertyValue,
        ),
        (
            when(ExitConditions { default: Some(none), ..ExitConditions::default() }),
            RefusalCode::InvalidPropertyValue,
        ),
    ];
    for (ties, expected) in cases {
        let tasks = vec![(task_add("b"), ties.clone()), (task_add("c"), TaskTies::default())];
        let Outcome::TasksAdded(results) = w.ok(Action::TiedTasksAdd { job: job_id("j"), tasks }) else {
            panic!("another outcome");
        };
        assert_eq!(results[0].1.as_ref().unwrap_err().code, expected, "{ties:?}");
        assert!(results[1].1.is_ok());
        delete(&mut w, "c");
    }
    assert_eq!(w.cluster.all_tasks_count(), 0);
}

#[test]
fn spec_j_d2_a_parent_that_comes_later() {
    let (mut w, node) = world(2);
    let b = add(&mut w, "b", on(&["A"], &[]));
    assert_eq!(place(&w, b), TaskPlace::Dependent);
    assert!(w.assign(node, &[b]).is_empty(), "it is not given out");
    let reason = |w: &World| w.cluster.explain_task(b).unwrap().to_string();
    assert_eq!(reason(&w), "it depends on task `A`, which is not there");
    let a = w.task("j", "a");
    let attempt = w.run(node, a);
    assert_eq!(reason(&w), "it depends on task `A`, which is running");
    w.exit(node, attempt, 0);
    run(&mut w, node, b, 0);
}

#[test]
fn spec_j_d3_d4_a_range_needs_every_number() {
    let (mut w, node) = world(2);
    let b = add(&mut w, "b", on(&[], &[(1, 3)]));
    for id in ["1", "003"] {
        let task = w.task("j", id);
        run(&mut w, node, task, 0);
        assert_eq!(place(&w, b), TaskPlace::Dependent, "after {id}");
    }
    let other = w.task("j", "x2");
    run(&mut w, node, other, 0);
    assert_eq!(place(&w, b), TaskPlace::Dependent);
    let two = w.task("j", "02");
    run(&mut w, node, two, 0);
    assert_eq!(place(&w, b), TaskPlace::Ready);
    // Once more when all are satisfied already.
    let late = add(&mut w, "late", on(&[], &[(2, 3), (1, 1)]));
    assert_eq!(place(&w, late), TaskPlace::Ready);
    let exact = add(&mut w, "exact", on(&["2"], &[]));
    assert_eq!(place(&w, exact), TaskPlace::Dependent, "ids are exact where ranges are not");
}

#[test]
fn spec_j_d5_the_first_of_several_forms_is_enough() {
    let (mut w, node) = world(3);
    let b = add(&mut w, "b", on(&[], &[(4, 4)]));
    let (four, other) = (w.task("j", "4"), w.task("j", "04"));
    w.run(node, four);
    run(&mut w, node, other, 0);
    assert_eq!(place(&w, b), TaskPlace::Ready);
    let negative = add(&mut w, "n", on(&[], &[(-4, -4)]));
    let minus = w.task("j", "-4");
    run(&mut w, node, minus, 0);
    assert_eq!(place(&w, negative), TaskPlace::Ready);
}

#[test]
fn spec_j_d6_d7_d8_what_an_exit_code_says_to_dependents() {
    let satisfy = options(None, Some(DependencyAction::Satisfy));
    let block = options(None, Some(DependencyAction::Block));
    let codes = |codes| when(ExitConditions { codes, ..ExitConditions::default() });
    let both =
        ExitConditions { codes: vec![(0, block)], default: Some(satisfy), ..ExitConditions::default() };
    for (ties, exit_code, result, released) in [
        (TaskTies::default(), 1, TaskResult::Failure, false),
        (codes(vec![(1, satisfy)]), 1, TaskResult::Failure, true),
        (codes(vec![(1, satisfy)]), 2, TaskResult::Failure, false),
        (when(both.clone()), 0, TaskResult::Success, false),
        (when(both), 9, TaskResult::Failure, true),
    ] {
        let (mut w, node) = world(2);
        let a = add(&mut w, "a", ties.clone());
        let b = add(&mut w, "b", on(&["a"], &[]));
        run(&mut w, node, a, exit_code);
        assert_eq!(place(&w, a), TaskPlace::Completed { result }, "{ties:?}");
        assert_eq!(place(&w, b) == TaskPlace::Ready, released, "{ties:?} {exit_code}");
    }
}

#[test]
fn spec_j_d6_a_blocked_task_is_released_by_a_reactivated_parent() {
    let (mut w, node) = world(2);
    let a = w.task("j", "a");
    let b = add(&mut w, "b", on(&["a"], &[]));
    run(&mut w, node, a, 1);
    let reason = w.cluster.explain_task(b).unwrap().to_string();
    assert_eq!(reason, "it depends on task `a`, whose end does not satisfy what depends on it");
    w.reactivate("j", "a").unwrap();
    run(&mut w, node, a, 0);
    assert_eq!(place(&w, b), TaskPlace::Ready);
}

#[test]
fn spec_j_d9_satisfaction_is_sticky() {
    let (mut w, node) = world(2);
    let a = w.task("j", "a");
    run(&mut w, node, a, 0);
    delete(&mut w, "a");
    let again = w.task("j", "a");
    run(&mut w, node, again, 1);
    let b = add(&mut w, "b", on(&["a"], &[]));
    run(&mut w, node, b, 0);
    // One that was deleted before it satisfied is waited for by name.
    let c = add(&mut w, "c", on(&["p1"], &[]));
    let parent = w.task("j", "p1");
    let attempt = w.run(node, parent);
    delete(&mut w, "p1");
    w.exit(node, attempt, 0);
    assert_eq!(place(&w, c), TaskPlace::Dependent);
}

#[test]
fn spec_j_d10_a_retry_neither_blocks_nor_releases() {
    let (mut w, node) = world(2);
    let retried = crate::state::command::TaskAdd { max_retry_count: Some(1), ..task_add("a") };
    let a = w.task_with("j", retried);
    let b = add(&mut w, "b", on(&["a"], &[]));
    run(&mut w, node, a, 1);
    assert_eq!((place(&w, a), place(&w, b)), (TaskPlace::Ready, TaskPlace::Dependent));
    run(&mut w, node, a, 0);
    assert_eq!(place(&w, b), TaskPlace::Ready);
}

#[test]
fn spec_j_d11_to_d16_what_an_end_says_to_the_job() {
    let upload = || Some(FailureInfo::user("FileUploadAccessDenied", "no"));
    let uploaded = |exit_code, upload| AttemptOutcome::Exited { exit_code, upload };
    let job = |action| options(Some(action), None);
    let (none, disable, terminate) = (ExitJobAction::None, ExitJobAction::Disable, ExitJobAction::Terminate);
    let range = ExitCodeRange { start: 10, end: 20, options: job(none) };
    let d14 = ExitConditions {
        ranges: vec![range],
        file_upload_error: Some(job(terminate)),
        ..ExitConditions::default()
    };
    let d15 = ExitConditions {
        file_upload_error: Some(job(none)),
        default: Some(job(terminate)),
        ..ExitConditions::default()
    };
    let satisfied = options(None, Some(DependencyAction::Satisfy));
    let d12 = ExitConditions { codes: vec![(3, satisfied)], ..ExitConditions::default() };
    let stops = ExitConditions { default: Some(job(disable)), ..ExitConditions::default() };
    let missing = AttemptOutcome::NotStarted(FailureInfo::user("BlobNotFound", "gone"));
    let wall_clock = AttemptOutcome::WallClock { exit_code: Some(137) };
    for (row, conditions, end, expected) in [
        ("D11", None, exited(1), JobState::Terminating),
        ("D12", Some(d12.clone()), exited(3), JobState::Terminating),
        ("D13", Some(stops.clone()), exited(9), JobState::Disabling),
        ("D14", Some(d14.clone()), uploaded(15, upload()), JobState::Active),
        ("D14", Some(d14), uploaded(9, upload()), JobState::Terminating),
        ("D15", Some(d15.clone()), uploaded(0, upload()), JobState::Active),
        ("D15", Some(d15), exited(1), JobState::Terminating),
        ("D16", Some(stops.clone()), missing.clone(), JobState::Disabling),
        ("D16", None, missing, JobState::Terminating),
        ("wall clock", Some(stops), wall_clock, JobState::Disabling),
        ("success", None, exited(0), JobState::Active),
    ] {
        let mut w = World::new();
        w.pool("p", 1, 2);
        let node = w.nodes("p")[0];
        let mut spec = job_spec("j", "p");
        spec.uses_task_dependencies = true;
        spec.on_task_failure = TaskFailureAction::PerformExitOptionsJobAction;
        w.job_with(spec);
        let a = add(&mut w, "a", TaskTies { exit_conditions: conditions, ..TaskTies::default() });
        let c = w.task("j", "c");
        w.run(node, c);
        let attempt = w.run(node, a);
        w.end(node, attempt, end);
        assert_eq!(w.job_record("j").state, expected, "{row}");
        w.obey();
        match expected {
            JobState::Disabling => {
                assert_eq!(w.job_record("j").state, JobState::Disabled, "{row}");
                assert_eq!((place(&w, c), w.record(c).requeue_count), (TaskPlace::Ready, 1), "{row}");
                w.enable("j").unwrap();
                run(&mut w, node, c, 0);
            }
            JobState::Terminating => {
                let job = w.job_record("j");
                assert_eq!(job.terminate_reason.as_deref(), Some("TaskFailed"), "{row}");
                assert_eq!(job.state, JobState::Completed, "{row}");
            }
            _ => assert!(matches!(place(&w, c), TaskPlace::Running { .. }), "{row}"),
        }
    }
}

#[test]
fn spec_j_d18_a_circle_waits_for_ever() {
    let (mut w, _) = world(1);
    let (a, b) = (add(&mut w, "a", on(&["b"], &[])), add(&mut w, "b", on(&["a"], &[])));
    assert_eq!((place(&w, a), place(&w, b)), (TaskPlace::Dependent, TaskPlace::Dependent));
    let counts = w.job_record("j").counts;
    assert_eq!((counts.active, counts.running), (2, 0));
}

#[test]
fn spec_j_j20_j21_a_dependent_keeps_its_job_alive() {
    let mut w = World::new();
    w.pool("p", 1, 2);
    let node = w.nodes("p")[0];
    let mut spec = job_spec("j", "p");
    spec.uses_task_dependencies = true;
    spec.on_all_tasks_complete = AllTasksAction::TerminateJob;
    w.job_with(spec);
    let a = w.task("j", "a");
    let b = add(&mut w, "b", on(&["a"], &[]));
    run(&mut w, node, a, 1);
    let job = w.job_record("j");
    assert_eq!((job.state, job.counts.active, job.counts.failed), (JobState::Active, 1, 1));
    w.reactivate("j", "a").unwrap();
    run(&mut w, node, a, 0);
    run(&mut w, node, b, 0);
    assert_eq!(w.job_record("j").state, JobState::Completed);
}

#[test]
fn a_task_ended_while_it_waited_waits_again_when_it_is_reactivated() {
    let (mut w, node) = world(1);
    let b = add(&mut w, "b", on(&["a"], &[]));
    w.terminate_task("j", "b").unwrap();
    assert_eq!(place(&w, b), TaskPlace::Completed { result: TaskResult::Failure });
    w.reactivate("j", "b").unwrap();
    assert_eq!(place(&w, b), TaskPlace::Dependent);
    let a = w.task("j", "a");
    run(&mut w, node, a, 0);
    run(&mut w, node, b, 0);
    assert_eq!(w.reload().digest(), w.cluster.digest());
}

/// Adds `count` tasks `c0` … that depend on the same.
fn fan_out(w: &mut World, count: usize, ties: &TaskTies) -> Vec<TaskKey> {
    let tasks: Vec<_> = (0..count).map(|n| (task_add(&format!("c{n}")), ties.clone())).collect();
    for part in tasks.chunks(100) {
        w.ok(Action::TiedTasksAdd { job: job_id("j"), tasks: part.to_vec() });
    }
    (0..count).map(|n| w.task_named("j", &format!("c{n}")).key).collect()
}

fn ready(cluster: &Cluster, tasks: &[TaskKey]) -> usize {
    tasks.iter().filter(|task| cluster.task(**task).unwrap().place == TaskPlace::Ready).count()
}

#[test]
fn many_dependents_are_released_in_slices_that_survive_a_restart() {
    let count = RECORDS_MAX * 5 / 2;
    let (mut w, node) = world(1);
    let children = fan_out(&mut w, count, &on(&["a"], &[]));
    let a = w.task("j", "a");
    run(&mut w, node, a, 0);
    let first = ready(&w.cluster, &children);
    assert!(first > 0 && first <= RECORDS_MAX, "{first} released by one apply");
    // One that comes meanwhile is released with the others, and a second satisfaction waits for its turn.
    let late = add(&mut w, "late", on(&["a"], &[]));
    let tail = fan_out_named(&mut w, "d", 3, &on(&["late"], &[]));
    run_if_ready(&mut w, node, late);
    let continued = |w: &mut World| {
        let cursor = w.cluster.cursors().next();
        cursor.map(|cursor| {
            assert!(matches!(cursor, CursorKey::Deliveries(_)), "{cursor:?}");
            w.ok(Action::Continue { cursor });
        })
    };
    let mut slices = 0;
    loop {
        // Whoever starts from the rows at this point goes on in the same way.
        assert_eq!(w.reload().digest(), w.cluster.digest(), "after {slices} slices");
        let before = ready(&w.cluster, &children);
        if continued(&mut w).is_none() {
            break;
        }
        slices += 1;
        assert!(ready(&w.cluster, &children) - before <= RECORDS_MAX);
    }
    assert!(slices >= 2, "{slices}");
    assert_eq!(ready(&w.cluster, &children), count);
    run_if_ready(&mut w, node, late);
    w.obey();
    assert_eq!(ready(&w.cluster, &tail), 3);
    assert_eq!(w.reload().digest(), w.cluster.digest());
}

fn fan_out_named(w: &mut World, name: &str, count: usize, ties: &TaskTies) -> Vec<TaskKey> {
    (0..count).map(|n| add(w, &format!("{name}{n}"), ties.clone())).collect()
}

fn run_if_ready(w: &mut World, node: NodeKey, task: TaskKey) {
    if place(w, task) == TaskPlace::Ready {
        run(w, node, task, 0);
    }
}

#[test]
fn a_range_of_many_costs_one_watch_and_goes_with_its_job() {
    let (mut w, node) = world(4);
    let children = fan_out(&mut w, 50, &on(&["x", "y"], &[(1, 1_000_000)]));
    assert!(children.iter().all(|child| place(&w, *child) == TaskPlace::Dependent));
    for id in ["x", "Y", "7", "08", "1000000", "999999"] {
        let task = w.task("j", id);
        run(&mut w, node, task, 0);
    }
    assert_eq!(
        w.cluster.explain_task(children[0]).unwrap().to_string(),
        "it depends on task 999998, which is not there"
    );
    assert_eq!(w.reload().digest(), w.cluster.digest());
    w.delete("j").unwrap();
    w.obey();
    assert!(w.cluster.job_by_id(ACCOUNT, &job_id("j")).is_none());
    let left = w.rows.keys().filter_map(|key| crate::state::keys::split(key));
    use crate::state::keys::Table;
    let tables =
        [Table::Task, Table::TaskCold, Table::TaskTies, Table::Satisfied, Table::Delivery, Table::Cursor];
    let left: Vec<_> = left.filter(|(_, table, _)| tables.contains(table)).collect();
    assert!(left.is_empty(), "{left:?}");
}
