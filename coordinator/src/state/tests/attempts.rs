//! Scenarios of `task-execution.md` §19 and its tables §9.1, §15 as far as the core decides them.

use crate::state::command::{Action, TaskAdd};
use crate::state::testing::*;
use crate::state::{
    Ending, Event, INTERNAL_FAULTS_MAX, PastAttempt, PastOutcome, ROW_VERSION, RefusalCode, TaskPlace,
    held_slots_max, keys,
};
use lote_shared::model::*;
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{AttemptEnd, AttemptReport, KillReason};

const FAILED: TaskPlace = TaskPlace::Completed { result: TaskResult::Failure };
const SUCCEEDED: TaskPlace = TaskPlace::Completed { result: TaskResult::Success };

fn two_nodes() -> (World, NodeKey, NodeKey) {
    let mut w = World::new();
    w.pool("p", 2, 1);
    let nodes = w.nodes("p");
    w.job("j", "p");
    (w, nodes[0], nodes[1])
}

fn lose_host_of(w: &mut World, node: NodeKey) {
    let host = w.node(node).host;
    w.ok(Action::HostUnknown { host });
    assert_eq!(w.node(node).state, NodeState::Unknown);
    w.ok(Action::HostLost { host });
    assert_eq!(w.node(node).state, NodeState::Unusable);
}

#[test]
fn the_end_of_an_attempt_decides_by_table_9_1() {
    let upload = || Some(FailureInfo::server("FileUploadMiscError", "no"));
    let missing = FailureInfo::user("BlobNotFound", "gone");
    let cases = [
        // outcome, retries, place, exit code, failure code
        (exited(0), 0, SUCCEEDED, Some(0), None),
        (
            AttemptOutcome::Exited { exit_code: 0, upload: upload() },
            5,
            FAILED,
            Some(0),
            Some("FileUploadMiscError"),
        ),
        (exited(7), 1, TaskPlace::Ready, None, None),
        (exited(7), -1, TaskPlace::Ready, None, None),
        (exited(7), 0, FAILED, Some(7), Some("FailureExitCode")),
        (
            AttemptOutcome::Exited { exit_code: 7, upload: upload() },
            0,
            FAILED,
            Some(7),
            Some("FailureExitCode"),
        ),
        (AttemptOutcome::NotStarted(missing), 5, FAILED, None, Some("BlobNotFound")),
        (AttemptOutcome::WallClock { exit_code: Some(143) }, 5, FAILED, Some(143), Some("TaskEnded")),
        (killed(), 0, TaskPlace::Ready, None, None),
        (AttemptOutcome::Lost { reason: "keeper".to_owned() }, 0, TaskPlace::Ready, None, None),
    ];
    for (outcome, retries, place, exit_code, failure) in cases {
        let (mut w, node, _) = two_nodes();
        let a = w.task_with("j", TaskAdd { max_retry_count: Some(retries), ..task_add("a") });
        let run = w.run(node, a);
        let shown = format!("{outcome:?} with {retries} retries");
        let retried =
            u32::from(matches!(&outcome, AttemptOutcome::Exited { .. }) && place == TaskPlace::Ready);
        w.end(node, run, outcome);
        let task = w.record(a);
        assert_eq!((task.place, task.exit_code), (place, exit_code), "{shown}");
        assert_eq!(task.failure.as_ref().map(|f| f.code.as_str()), failure, "{shown}");
        assert_eq!((task.retry_count, task.requeue_count), (retried, 0), "{shown}");
    }
}

#[test]
fn a_short_attempt_is_told_in_one_report() {
    let (mut w, node, _) = two_nodes();
    let a = w.task("j", "a");
    let given = w.assign(node, &[a])[0];
    let assigned = w.now;
    w.pass_ms(100);
    // Times outside [assigned, now] are brought inside.
    let end = AttemptEnd { at: w.now.plus_ms(5_000), outcome: exited(0) };
    let report = AttemptReport { attempt: given, started: Some(Timestamp(5)), end: Some(end) };
    w.ok(Action::Report { node, attempts: vec![report] });
    let task = w.record(a);
    assert_eq!(task.place, SUCCEEDED);
    assert_eq!((task.started, task.ended), (Some(assigned), Some(w.now)));
    assert_eq!(task.previous_state, Some((TaskState::Running, assigned)));
    let node = w.node(node);
    assert_eq!((node.tasks_run, node.tasks_succeeded, node.recent.len()), (1, 1, 1));
}

#[test]
fn a_start_and_an_end_told_apart_in_one_report_belong_together() {
    let (mut w, node, _) = two_nodes();
    let (a, b) = (w.task("j", "a"), w.task("j", "b"));
    let given = w.assign(node, &[a, b]);
    w.pass_ms(1_000);
    let began = START.plus_ms(400);
    let start = |attempt| AttemptReport { attempt, started: Some(began), end: None };
    let end = AttemptReport {
        attempt: given[0],
        started: None,
        end: Some(AttemptEnd { at: w.now, outcome: exited(0) }),
    };
    // The slot of the first is used by the second within the same report, in whatever order they are told.
    w.ok(Action::Report { node, attempts: vec![start(given[0]), start(given[1]), end] });
    assert_eq!((w.record(a).place, w.record(a).started), (SUCCEEDED, Some(began)));
    assert_eq!(w.record(b).place, TaskPlace::Running { node });
}

#[test]
fn duplicates_and_strangers_change_nothing() {
    let (mut w, node, other) = two_nodes();
    let a = w.task("j", "a");
    let run = w.run(node, a);
    let running = w.record(a).clone();
    let old = AttemptRef { attempt: Attempt(run.attempt.0 - 1), ..run };
    let next = AttemptRef { attempt: run.attempt.next(), ..run };
    let nobody = AttemptRef { task: TaskKey(999), ..run };
    w.pass_ms(10);
    for (who, attempt) in [(other, run), (node, old), (node, next), (node, nobody)] {
        w.exit(who, attempt, 0);
        w.ok(Action::Recalled { node: who, attempts: vec![attempt] });
        w.report(who, attempt, true, None);
    }
    w.report(node, run, true, None);
    w.ok(Action::Recalled { node, attempts: vec![run] });
    assert_eq!(w.record(a), &running);
    w.exit(node, run, 0);
    let done = w.record(a).clone();
    w.exit(node, run, 1);
    w.report(node, run, true, None);
    assert_eq!(w.record(a), &done);
}

#[test]
fn spec_e_f1_a_lost_host_recovers_without_counting() {
    let (mut w, node, other) = two_nodes();
    let (a, b) = (w.task("j", "a"), w.task("j", "b"));
    let run = w.run(node, a);
    w.assign(node, &[b]);
    lose_host_of(&mut w, node);
    for task in [a, b] {
        let task = w.record(task);
        assert_eq!((task.place, task.retry_count, task.requeue_count), (TaskPlace::Ready, 0, 0));
    }
    let again = w.run(other, a);
    assert!(again.attempt > run.attempt);
    assert!(w.assign(node, &[b]).is_empty(), "an unusable node takes nothing");
    // The host is back with the old result: fenced.
    let host = w.node(node).host;
    w.join("p-host-0", 4, 1);
    assert_eq!(w.cluster.host(host).unwrap().state, crate::state::HostState::Joined);
    assert_eq!(w.node(node).state, NodeState::Idle);
    w.exit(node, run, 0);
    assert_eq!(w.record(a).state(), TaskState::Running);
}

#[test]
fn a_result_that_comes_before_the_next_attempt_is_taken() {
    let (mut w, node, _) = two_nodes();
    let a = w.task("j", "a");
    let run = w.run(node, a);
    lose_host_of(&mut w, node);
    w.join("p-host-0", 4, 1);
    w.end(node, run, killed());
    assert_eq!(w.record(a).place, TaskPlace::Ready, "it says nothing");
    w.exit(node, run, 0);
    assert_eq!(w.record(a).place, SUCCEEDED);
}

#[test]
fn spec_e_f2_nodes_that_leave() {
    for (option, place, requeues) in [
        (DeallocationOption::Requeue, TaskPlace::Ready, 1),
        (DeallocationOption::Terminate, FAILED, 0),
        (DeallocationOption::TaskCompletion, SUCCEEDED, 0),
    ] {
        let (mut w, node, _) = two_nodes();
        let (a, b) = (w.task("j", "a"), w.task("j", "b"));
        let run = w.run(node, a);
        w.assign(node, &[b]);
        w.ok(Action::NodeRevoke { node, option });
        let waits = option == DeallocationOption::TaskCompletion;
        assert_eq!(w.node(node).state == NodeState::LeavingPool, !waits, "{option:?}");
        assert!(w.assign(node, &[b]).is_empty());
        if waits {
            w.obey();
            assert_eq!(w.node(node).state, NodeState::Running);
            w.exit(node, run, 0);
        }
        w.obey();
        assert!(w.cluster.node(node).is_none(), "{option:?}");
        assert_eq!(w.cluster.departed_node(node).unwrap().pool, pool_id("p"));
        assert_eq!((w.record(a).place, w.record(a).requeue_count), (place, requeues), "{option:?}");
        assert_eq!((w.record(b).place, w.record(b).requeue_count), (TaskPlace::Ready, 0), "{option:?}");
    }
}

#[test]
fn spec_e_f7_recoveries_do_not_use_up_retries() {
    let (mut w, node, _) = two_nodes();
    let a = w.task_with("j", TaskAdd { max_retry_count: Some(2), ..task_add("a") });
    let run = w.run(node, a);
    w.exit(node, run, 1);
    w.run(node, a);
    // The host restarts by itself.
    w.join("p-host-0", 4, 2);
    assert_eq!(w.node(node).state, NodeState::Creating);
    assert_eq!((w.record(a).place, w.record(a).retry_count), (TaskPlace::Ready, 1));
    w.ready(node);
    let run = w.run(node, a);
    w.exit(node, run, 1);
    assert_eq!(w.record(a).retry_count, 2);
    w.pass_ms(1_000);
    w.ok(Action::RetryDue { tasks: vec![a] });
    let run = w.run(node, a);
    w.exit(node, run, 1);
    assert_eq!(w.record(a).place, FAILED);
}

#[test]
fn spec_e_f8_a_terminate_wins_over_a_later_success() {
    let (mut w, node, other) = two_nodes();
    let a = w.task("j", "a");
    let run = w.run(node, a);
    w.terminate_task("j", "a").unwrap();
    let closed = w.record(a).clone();
    assert_eq!(closed.ending, Some(Ending::Closed));
    assert!(w.events.contains(&Event::Kill { node, attempt: run, reason: KillReason::Ended }));
    w.reactivate("j", "a").unwrap();
    assert!(w.assign(other, &[a]).is_empty(), "the old run may still live");
    w.exit(node, run, 0);
    assert_eq!(w.record(a).place, TaskPlace::Ready);
    w.run(other, a);
}

#[test]
fn spec_e_f9_lost_nodes_never_reach_the_internal_limit_but_faults_do() {
    let (mut w, node, _) = two_nodes();
    let a = w.task("j", "a");
    for boot in 2..22 {
        w.run(node, a);
        w.join("p-host-0", 4, boot);
        w.ready(node);
    }
    assert_eq!((w.record(a).place, w.record(a).retry_count), (TaskPlace::Ready, 0));
    for fault in 1..=INTERNAL_FAULTS_MAX {
        let run = w.run(node, a);
        w.end(node, run, AttemptOutcome::Lost { reason: "worker restarted".to_owned() });
        assert_eq!(w.record(a).place == FAILED, fault == INTERNAL_FAULTS_MAX);
    }
    assert_eq!(w.record(a).failure.as_ref().unwrap().code, "MaxInternalRetryCountReached");
}

#[test]
fn a_node_that_breaks_gives_its_tasks_back_uncounted() {
    let (mut w, node, other) = two_nodes();
    let a = w.task("j", "a");
    w.run(node, a);
    w.phase(node, lote_shared::protocol::host::NodePhase::Unusable);
    assert!(w.assign(other, &[a]).is_empty(), "until its end is known");
    w.obey();
    assert_eq!((w.record(a).place, w.record(a).requeue_count), (TaskPlace::Ready, 0));
    w.run(other, a);
}

#[test]
fn prefetch_is_bounded_whatever_is_asked() {
    let (mut w, node, _) = two_nodes();
    let tasks = w.tasks("j", 500);
    let given = w.assign(node, &tasks);
    assert_eq!(given.len(), held_slots_max(1) as usize);
    let tasks: Vec<_> = (0..1_001).map(TaskKey).collect();
    assert_eq!(code(w.act(Action::Assign { node, tasks })), RefusalCode::InvalidPropertyValue);
}

#[test]
fn a_node_with_thousands_of_attempts_is_cleared_in_slices() {
    let mut w = World::new();
    w.pool("p", 1, 64);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let tasks = w.tasks("j", 2_500);
    for chunk in tasks.chunks(500) {
        w.assign(node, chunk);
    }
    assert_eq!(w.cluster.node_load(node).assigned, 2_500);
    w.join("p-host-0", 4, 2);
    assert_eq!(w.cluster.node_load(node).assigned, 1_500);
    assert_eq!(w.cluster.cursors().count(), 1);
    w.ready(node);
    assert!(!w.cluster.node_accepts(node), "its past is not cleared yet");
    w.obey();
    assert_eq!(w.cluster.node_load(node).assigned, 0);
    assert!(w.cluster.node_accepts(node));
}

#[test]
fn what_became_of_earlier_attempts_is_kept_for_a_while() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    w.job("j", "p");
    let once = w.task("j", "once");
    let node = w.nodes("p")[0];
    let attempt = w.run(node, once);
    w.exit(node, attempt, 0);
    let rows = |w: &World| {
        let rows = w.rows.iter().filter(|(key, _)| key[4] == keys::Table::PastAttempt as u8);
        let decode = |value| codec::decode::<PastAttempt>(ROW_VERSION, value, 10_000).unwrap();
        let mut rows: Vec<PastAttempt> = rows.map(|(_, value)| decode(value)).collect();
        rows.sort_by_key(|past| past.attempt);
        rows
    };
    assert_eq!(rows(&w), [], "a task that ran once costs nothing");
    let often = w.task_with("j", TaskAdd { max_retry_count: Some(20), ..task_add("often") });
    let mut started = Vec::new();
    for exit_code in 1..=11 {
        w.pass_ms(60_000);
        w.ok(Action::RetryDue { tasks: vec![often] });
        let attempt = w.run(node, often);
        started.push(w.record(often).started.unwrap());
        w.pass_ms(5);
        w.exit(node, attempt, exit_code);
    }
    let kept = rows(&w);
    let attempts: Vec<u32> = kept.iter().map(|past| past.attempt.0).collect();
    assert_eq!(attempts, [4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(kept[0].outcome, PastOutcome::Exited { exit_code: 4 });
    assert_eq!((kept[7].started, &kept[7].node), (Some(started[10]), &w.node(node).id));
    assert!(kept[7].ended >= started[10]);
    w.delete("j").unwrap();
    w.obey();
    assert_eq!(rows(&w), [], "they go with their task");
}
