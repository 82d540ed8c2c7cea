//! Scenarios of `jobs-and-tasks.md` §13.2 and §13.4 as far as the core decides them.

use crate::state::command::{Action, Condition, TaskAdd};
use crate::state::testing::*;
use crate::state::{Event, Outcome, RefusalCode, TaskPlace};
use lote_shared::model::*;
use lote_shared::protocol::host::KillReason;

const FAILED: TaskPlace = TaskPlace::Completed { result: TaskResult::Failure };

/// A pool `p` of one node with that many slots, and a job `j`.
fn one_node(slots: u16) -> (World, NodeKey) {
    let mut w = World::new();
    w.pool("p", 1, slots);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    (w, node)
}

fn retries(id: &str, count: i32) -> TaskAdd {
    TaskAdd { max_retry_count: Some(count), ..task_add(id) }
}

/// Runs a task with that exit code, waiting for its back-off first.
fn attempt(w: &mut World, node: NodeKey, task: TaskKey, exit_code: i32) {
    if let TaskPlace::Waiting { until } = w.record(task).place {
        w.now = until;
        w.ok(Action::RetryDue { tasks: vec![task] });
    }
    let run = w.run(node, task);
    w.exit(node, run, exit_code);
}

#[test]
fn spec_j_t1_terminating_a_task_that_never_ran() {
    let (mut w, _) = one_node(1);
    let a = w.task("j", "a");
    let before = w.record(a).version;
    w.terminate_task("j", "a").unwrap();
    let task = w.record(a);
    assert_eq!(task.place, FAILED);
    assert_eq!(task.previous_state.unwrap().0, TaskState::Active);
    assert_eq!(task.failure.as_ref().unwrap(), &Box::new(FailureInfo::ended_by_user()));
    assert_eq!((task.started, task.exit_code, task.retry_count), (None, None, 0));
    assert!(task.ended.is_some() && task.version > before);
}

#[test]
fn spec_j_t2_t3_t4_operations_that_do_not_fit_the_state() {
    let (mut w, node) = one_node(1);
    let a = w.task("j", "a");
    assert_eq!(code(w.reactivate("j", "a")), RefusalCode::TaskNotCompleted);
    let run = w.run(node, a);
    assert_eq!(code(w.reactivate("j", "a")), RefusalCode::TaskNotCompleted);
    w.exit(node, run, 0);
    assert_eq!(code(w.terminate_task("j", "a")), RefusalCode::TaskCompleted);
    assert_eq!(code(w.reactivate("j", "a")), RefusalCode::TaskSucceeded);
    assert_eq!(code(w.terminate_task("j", "z")), RefusalCode::TaskNotFound);
    assert_eq!(code(w.terminate_task("k", "a")), RefusalCode::JobNotFound);
}

#[test]
fn spec_j_t5_t6_retries_are_counted_and_reactivation_grants_them_anew() {
    let (mut w, node) = one_node(1);
    let a = w.task_with("j", retries("a", 2));
    for round in 1..=2_u32 {
        for _ in 0..3 {
            assert_eq!(w.record(a).state(), TaskState::Active);
            attempt(&mut w, node, a, 1);
        }
        let task = w.record(a);
        assert_eq!((task.place, task.retry_count, task.exit_code), (FAILED, 2, Some(1)));
        assert_eq!(task.failure.as_ref().unwrap().code, "FailureExitCode");
        assert_eq!(task.attempt, Attempt(3 * round));
        if round == 1 {
            w.reactivate("j", "a").unwrap();
            let task = w.record(a);
            assert_eq!((task.retry_count, task.exit_code, &task.failure), (0, None, &None));
        }
    }
}

#[test]
fn retries_back_off_up_to_half_a_minute() {
    let (mut w, node) = one_node(1);
    let a = w.task_with("j", retries("a", -1));
    let mut waits = Vec::new();
    for _ in 0..8 {
        attempt(&mut w, node, a, 1);
        waits.push(match w.record(a).place {
            TaskPlace::Waiting { until } => until.since_ms(w.now),
            _ => 0,
        });
    }
    assert_eq!(waits, [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    assert!(w.assign(node, &[a]).is_empty(), "it holds no slot while it waits");
    w.ok(Action::RetryDue { tasks: vec![a] });
    assert!(matches!(w.record(a).place, TaskPlace::Waiting { .. }), "not due yet");
}

#[test]
fn spec_j_t7_tasks_capture_the_retry_count_of_their_job() {
    let mut w = World::new();
    let constraints = JobConstraints { max_task_retry_count: 1, ..JobConstraints::default() };
    w.job_with(JobSpec { constraints, ..job_spec("j", "p") });
    let a = w.task("j", "a");
    let constraints = JobConstraints { max_task_retry_count: 5, ..JobConstraints::default() };
    let patch = crate::state::command::JobPatch { constraints: Some(constraints), ..Default::default() };
    w.ok(Action::JobPatch { job: job_id("j"), condition: Condition::default(), patch: Box::new(patch) });
    let b = w.task("j", "b");
    let count = |task| w.record(task).constraints.max_retry_count;
    assert_eq!((count(a), count(b)), (1, 5));
}

#[test]
fn spec_j_t8_t10_each_task_of_a_collection_stands_alone() {
    let mut w = World::new();
    w.job("j", "p");
    w.task("j", "B");
    let add = Action::TasksAdd { job: job_id("j"), tasks: vec![task_add("a"), task_add("b"), task_add("A")] };
    let Outcome::TasksAdded(results) = w.ok(add.clone()) else { panic!("no results") };
    let codes = |results: Vec<(TaskId, Result<_, crate::state::Refusal>)>| {
        results.into_iter().map(|(_, result)| result.err().map(|r| r.code)).collect::<Vec<_>>()
    };
    let exists = Some(RefusalCode::TaskExists);
    assert_eq!(codes(results), [None, exists, exists]);
    let Outcome::TasksAdded(results) = w.ok(add) else { panic!("no results") };
    assert_eq!(codes(results), [exists, exists, exists]);
    assert_eq!(w.cluster.task_count(w.job_record("j").key), 2);
}

#[test]
fn spec_j_t9_more_than_a_hundred_add_nothing() {
    let mut w = World::new();
    w.job("j", "p");
    let tasks = (0..101).map(|n| task_add(&format!("t{n}"))).collect();
    let reply = w.act(Action::TasksAdd { job: job_id("j"), tasks });
    assert_eq!(code(reply), RefusalCode::InvalidPropertyValue);
    assert_eq!(w.cluster.all_tasks_count(), 0);
}

#[test]
fn spec_j_t11_a_task_too_large_for_any_node_waits_and_harms_nobody() {
    let (mut w, node) = one_node(2);
    let a = w.task_with("j", TaskAdd { slots: 3, ..task_add("a") });
    let b = w.task("j", "b");
    assert_eq!(w.assign(node, &[a, b]).len(), 1);
    assert_eq!(w.record(a).place, TaskPlace::Ready);
    assert_eq!(w.cluster.explain_task(a).unwrap().to_string(), "needs 3 slots, the largest node has 2");
}

#[test]
fn spec_j_t12_slots_are_counted() {
    let (mut w, node) = one_node(4);
    let wide = |id: &str, slots| TaskAdd { slots, ..task_add(id) };
    let (a, b) = (w.task_with("j", wide("a", 2)), w.task_with("j", wide("b", 2)));
    let c = w.task_with("j", wide("c", 1));
    w.run(node, a);
    w.run(node, b);
    let counts = w.job_record("j").counts;
    assert_eq!((counts.running, counts.running_slots, counts.active_slots), (2, 4, 1));
    // A node that claims more than its slots is not believed.
    let third = w.assign(node, &[c]);
    w.report(node, third[0], true, None);
    assert_eq!(w.job_record("j").counts.running_slots, 4);
    w.exit(node, third[0], 0);
    assert_eq!(w.job_record("j").counts.succeeded, 1, "its end is");
}

#[test]
fn spec_j_t14_deleting_a_running_task() {
    let (mut w, node) = one_node(1);
    let a = w.task("j", "a");
    let run = w.run(node, a);
    w.take_events();
    let condition = Condition::default();
    w.ok(Action::TaskDelete { job: job_id("j"), task: task_id("A"), condition });
    assert!(w.cluster.task(a).is_none());
    let events = w.take_events();
    assert!(events.contains(&Event::Kill { node, attempt: run, reason: KillReason::Fenced }));
    assert!(events.iter().any(|e| matches!(e, Event::Clean { directory, .. } if directory.task_id == "a")));
    w.exit(node, run, 0);
    assert!(w.cluster.task(a).is_none());
    let b = w.task("j", "a");
    assert!(b > a);
    w.run(node, b);
}

#[test]
fn spec_j_t15_put_replaces_all_constraints() {
    let (mut w, node) = one_node(1);
    let mut add = retries("a", 4);
    add.max_wall_clock = Span::from_secs(100);
    let a = w.task_with("j", add);
    let run = w.run(node, a);
    w.take_events();
    let put = |w: &mut World| {
        w.act(Action::TaskPut {
            job: job_id("j"),
            task: task_id("a"),
            condition: Condition::default(),
            max_wall_clock: Span::UNLIMITED,
            retention: Span::from_secs(3_600),
            max_retry_count: None,
        })
    };
    put(&mut w).unwrap();
    let limits = w.record(a).constraints;
    assert_eq!(limits.retention, Span::from_secs(3_600));
    assert_eq!((limits.max_wall_clock, limits.max_retry_count), (Span::UNLIMITED, 0));
    assert!(w.take_events().contains(&Event::WallClock { node, attempt: run, wall_clock_ms: None }));
    w.exit(node, run, 1);
    assert_eq!(w.record(a).place, FAILED, "the lowered retry count decides");
    assert_eq!(code(put(&mut w)), RefusalCode::TaskCompleted);
}

#[test]
fn spec_j_s3_max_parallel_tasks_counts_what_was_given_out() {
    let (mut w, node) = one_node(10);
    let spec = JobSpec { max_parallel_tasks: 2, ..job_spec("few", "p") };
    w.job_with(spec);
    let tasks = w.tasks("few", 5);
    let given = w.assign(node, &tasks);
    assert_eq!(given.len(), 2);
    let limit = w.cluster.explain_task(tasks[4]).unwrap().to_string();
    assert_eq!(limit, "its job runs maxParallelTasks = 2 already");
    w.report(node, given[0], true, Some(exited(0)));
    assert_eq!(w.assign(node, &tasks).len(), 1);
}

#[test]
fn every_reason_to_wait_is_told() {
    let (mut w, node) = one_node(1);
    let (a, b) = (w.task("j", "a"), w.task_with("j", retries("b", 5)));
    let why =
        |w: &World, task| w.cluster.explain_task(task).map(|reason| reason.to_string()).unwrap_or_default();
    assert_eq!(why(&w, a), "it is about to be given to a node");
    let given = w.assign(node, &[a]);
    assert_eq!(why(&w, a), format!("node {node} has it and will start it"));
    assert_eq!(why(&w, b), "needs 1 slots, largest free node has 0");
    w.report(node, given[0], true, None);
    assert_eq!(why(&w, a), "");
    w.terminate_task("j", "a").unwrap();
    w.reactivate("j", "a").unwrap();
    assert_eq!(why(&w, a), format!("node {node} has not confirmed that its previous run has ended"));
    w.obey();
    attempt(&mut w, node, b, 1);
    attempt(&mut w, node, b, 1);
    assert_eq!(why(&w, b), format!("its retry is due at {}", w.now.plus_ms(1_000)));
    w.phase(node, lote_shared::protocol::host::NodePhase::Unusable);
    assert_eq!(why(&w, a), "none of the 1 nodes of its pool takes tasks");
}

#[test]
fn a_task_older_than_half_a_year_leaves_the_queue() {
    let (mut w, node) = one_node(1);
    let a = w.task("j", "a");
    w.pass_ms(crate::state::TASK_LIFETIME_MS + 1);
    assert!(w.assign(node, &[a]).is_empty());
    assert_eq!(w.cluster.explain_task(a).unwrap().to_string(), "it was added more than 180 days ago");
    assert!(w.cluster.pool_ready(w.pool_key("p")).unwrap().is_empty());
    assert_eq!(w.record(a).state(), TaskState::Active);
}

#[test]
fn affinity_names_a_node_or_nothing() {
    let (mut w, node) = one_node(1);
    let id = w.node(node).id.clone();
    let add = |name: &str, affinity: &str| {
        let mut add = task_add(name);
        add.spec.affinity_id = affinity.to_owned();
        add
    };
    let a = w.task_with("j", add("a", &format!("TVM:{id}")));
    let b = w.task_with("j", add("b", "TVM:tvm-unknown"));
    assert_eq!((w.record(a).wish(), w.record(b).wish()), (Some(node), None));
}
