//! Scenarios of `task-execution.md` §19.3 as far as the core decides them.

use crate::state::command::{Action, Condition};
use crate::state::testing::*;
use crate::state::{ChoreKind, ChorePlace, ChoreRecord, Event, RefusalCode, TaskPlace};
use lote_shared::model::*;

fn preparation() -> PreparationTask {
    PreparationTask {
        spec: task_add("jobpreparation").spec,
        constraints: TaskConstraints::default(),
        wait_for_success: true,
        rerun_on_reboot: true,
    }
}

fn release() -> ReleaseTask {
    ReleaseTask {
        spec: task_add("jobrelease").spec,
        max_wall_clock: Span::from_secs(900),
        retention: Span::from_secs(60),
    }
}

fn job_of(w: &mut World, preparation: PreparationTask) {
    let extras = vec![JobExtra::Preparation(Box::new(preparation)), JobExtra::Release(Box::new(release()))];
    w.ok(Action::JobAddWith { spec: Box::new(job_spec("j", "p")), extras });
}

/// A pool of so many nodes, and a job on it that prepares them and releases them.
fn world(nodes: u32, slots: u16) -> (World, Vec<NodeKey>) {
    let mut w = World::new();
    w.pool("p", nodes, slots);
    job_of(&mut w, preparation());
    let nodes = w.nodes("p");
    (w, nodes)
}

/// A node with the preparation of the job for its one task, which is preparing.
fn preparing_world() -> (World, NodeKey, TaskKey) {
    let (mut w, nodes) = world(1, 1);
    let a = w.task("j", "a");
    w.assign(nodes[0], &[a]);
    (w, nodes[0], a)
}

/// The same once the preparation has succeeded.
fn prepared_world() -> (World, NodeKey, TaskKey) {
    let (mut w, node, a) = preparing_world();
    prepare(&mut w, node, 0);
    (w, node, a)
}

/// The same once the job was terminated and its release is out.
fn releasing_world() -> (World, NodeKey) {
    let (mut w, node, _) = prepared_world();
    w.terminate("j").unwrap();
    w.obey();
    (w, node)
}

fn find(w: &World, node: NodeKey, kind: ChoreKind) -> Option<ChoreRecord> {
    w.cluster.all_chores().find(|chore| chore.node == node && chore.kind == kind).cloned()
}

fn prepared(w: &World, node: NodeKey) -> ChoreRecord {
    find(w, node, ChoreKind::Preparation).expect("a preparation")
}

fn released(w: &World, node: NodeKey) -> ChoreRecord {
    find(w, node, ChoreKind::Release).expect("a release")
}

/// Has a chore's latest attempt run and end.
fn end_chore(w: &mut World, chore: &ChoreRecord, outcome: AttemptOutcome) {
    w.report(chore.node, chore.attempt_ref(), true, Some(outcome));
}

fn prepare(w: &mut World, node: NodeKey, exit_code: i32) {
    let chore = prepared(w, node);
    end_chore(w, &chore, exited(exit_code));
}

/// Attempts that hosts are told to start, since the last look.
fn launched(w: &mut World) -> Vec<AttemptRef> {
    let events = w.take_events();
    let attempts = events.into_iter().filter_map(|event| match event {
        Event::Launch { attempts, .. } => Some(attempts),
        _ => None,
    });
    attempts.flatten().collect()
}

fn reloads(w: &World) {
    let reloaded = w.reload();
    assert_eq!(reloaded.digest(), w.cluster.digest());
    for node in w.cluster.all_nodes() {
        let held: Vec<_> = w.cluster.attempts_on(node.key).collect();
        assert_eq!(reloaded.attempts_on(node.key).collect::<Vec<_>>(), held);
        assert_eq!(reloaded.node_load(node.key), w.cluster.node_load(node.key));
    }
    for task in w.cluster.all_tasks() {
        assert_eq!(reloaded.explain_task(task.key), w.cluster.explain_task(task.key));
    }
}

#[test]
fn spec_e_pr1_preparation_and_release_run_where_tasks_do() {
    let (mut w, nodes) = world(3, 1);
    let tasks = [w.task("j", "a"), w.task("j", "b")];
    for (node, task) in nodes.iter().zip(tasks) {
        w.assign(*node, &[task]);
        prepare(&mut w, *node, 0);
        w.report(*node, w.record(task).attempt_ref(), true, None);
        assert_eq!(w.record(task).state(), TaskState::Running);
    }
    reloads(&w);
    w.terminate("j").unwrap();
    assert!(find(&w, nodes[0], ChoreKind::Release).is_none(), "the tasks end first");
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Terminating);
    assert_eq!(w.cluster.prepared_nodes(w.job_record("j").key, None).count(), 2);
    for node in &nodes[..2] {
        reloads(&w);
        let chore = released(&w, *node);
        end_chore(&mut w, &chore, exited(0));
    }
    assert_eq!(w.job_record("j").state, JobState::Completed);
    assert!(find(&w, nodes[2], ChoreKind::Preparation).is_none());
    assert!(find(&w, nodes[2], ChoreKind::Release).is_none());
    reloads(&w);
}

#[test]
fn spec_e_pr2_tasks_wait_in_preparing_for_one_run() {
    let (mut w, nodes) = world(1, 4);
    let tasks = w.tasks("j", 5);
    let given = w.assign(nodes[0], &tasks);
    assert_eq!(given.len(), 4, "what waits for a preparation is not prefetched");
    let launches = launched(&mut w);
    assert_eq!(launches, vec![prepared(&w, nodes[0]).attempt_ref()]);
    for task in &tasks[..4] {
        assert_eq!(w.record(*task).state(), TaskState::Preparing);
    }
    let counts = w.job_record("j").counts;
    assert_eq!((counts.running, counts.active), (4, 1));
    let held: Vec<_> = w.cluster.attempts_on(nodes[0]).map(|held| held.attempt).collect();
    assert_eq!(held, launches, "the host is to have the preparation alone");
    reloads(&w);
    prepare(&mut w, nodes[0], 0);
    assert_eq!(launched(&mut w), given);
    for (task, attempt) in tasks.iter().zip(&given) {
        assert_eq!(w.record(*task).state(), TaskState::Preparing, "it has not started yet");
        w.report(nodes[0], *attempt, true, None);
        assert_eq!(w.record(*task).previous_state.unwrap().0, TaskState::Preparing);
    }
    w.exit(nodes[0], given[0], 0);
    w.run(nodes[0], tasks[4]);
    assert_eq!(prepared(&w, nodes[0]).attempt, Attempt(1), "it ran once");
}

#[test]
fn spec_e_pr3_pr4_a_node_where_it_failed_is_barred_for_the_job_alone() {
    let (mut w, nodes) = world(2, 1);
    let a = w.task("j", "a");
    w.assign(nodes[0], &[a]);
    prepare(&mut w, nodes[0], 1);
    assert_eq!(w.record(a).place, TaskPlace::Ready);
    assert_eq!(w.record(a).retry_count, 0);
    assert!(w.assign(nodes[0], &[a]).is_empty());
    reloads(&w);
    w.job("other", "p");
    let b = w.task("other", "b");
    w.run(nodes[0], b);
    w.assign(nodes[1], &[a]);
    prepare(&mut w, nodes[1], 1);
    let why = w.cluster.explain_task(a).unwrap().to_string();
    assert!(why.contains("preparation task failed on all 2 nodes"), "{why}");
    assert_eq!(w.job_record("j").state, JobState::Active);
    // A node that comes later helps.
    let host = w.host("new", 4);
    let node = {
        let pool = w.pool_key("p");
        w.resize("p", 3, DeallocationOption::Requeue).unwrap();
        w.grant(pool, host, true)
    };
    w.ready(node);
    w.assign(node, &[a]);
    prepare(&mut w, node, 0);
    w.report(node, w.record(a).attempt_ref(), true, None);
    assert_eq!(w.record(a).state(), TaskState::Running);
}

#[test]
fn a_preparation_is_retried_as_often_as_it_says() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let constraints = TaskConstraints { max_retry_count: 2, ..TaskConstraints::default() };
    job_of(&mut w, PreparationTask { constraints, ..preparation() });
    let node = w.nodes("p")[0];
    let a = w.task("j", "a");
    w.assign(node, &[a]);
    prepare(&mut w, node, 1);
    let chore = prepared(&w, node);
    assert_eq!((chore.attempt, chore.retry_count, chore.place), (Attempt(2), 1, ChorePlace::Assigned));
    prepare(&mut w, node, 1);
    assert!(matches!(prepared(&w, node).place, ChorePlace::Waiting { .. }), "the second retry waits");
    reloads(&w);
    w.pass_ms(1_000);
    w.ok(Action::RetryDue { tasks: vec![prepared(&w, node).key] });
    prepare(&mut w, node, 0);
    assert_eq!(launched(&mut w).last(), Some(&w.record(a).attempt_ref()));
    assert_eq!(prepared(&w, node).retry_count, 2);
}

#[test]
fn spec_e_pr5_tasks_need_not_wait() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    job_of(&mut w, PreparationTask { wait_for_success: false, ..preparation() });
    let node = w.nodes("p")[0];
    let a = w.task("j", "a");
    let run = w.run(node, a);
    assert_eq!(prepared(&w, node).place, ChorePlace::Assigned);
    prepare(&mut w, node, 3);
    assert_eq!(w.record(a).state(), TaskState::Running);
    w.exit(node, run, 0);
    w.terminate("j").unwrap();
    assert!(released(&w, node).is_open(), "tasks could run there");
}

#[test]
fn spec_e_pr6_a_reboot_has_it_run_again_if_so_wished() {
    for rerun in [false, true] {
        let mut w = World::new();
        w.pool("p", 1, 1);
        job_of(&mut w, PreparationTask { rerun_on_reboot: rerun, ..preparation() });
        let node = w.nodes("p")[0];
        let a = w.task("j", "a");
        w.assign(node, &[a]);
        prepare(&mut w, node, 0);
        w.join("p-host-0", 4, 2);
        w.ready(node);
        assert_eq!(w.record(a).place, TaskPlace::Ready);
        w.assign(node, &[a]);
        assert_eq!(prepared(&w, node).attempt, Attempt(if rerun { 2 } else { 1 }));
        assert_eq!(matches!(w.record(a).place, TaskPlace::Preparing { .. }), rerun);
        reloads(&w);
    }
}

#[test]
fn a_reboot_lifts_the_bar() {
    let (mut w, node, a) = preparing_world();
    prepare(&mut w, node, 1);
    w.join("p-host-0", 4, 2);
    w.ready(node);
    w.assign(node, &[a]);
    assert_eq!(prepared(&w, node).place, ChorePlace::Assigned);
}

#[test]
fn a_lost_node_gives_back_what_waited_for_its_preparation() {
    let (mut w, node, a) = preparing_world();
    let host = w.node(node).host;
    w.ok(Action::HostLost { host });
    w.obey();
    assert_eq!(w.record(a).place, TaskPlace::Ready);
    assert_eq!(prepared(&w, node).place, ChorePlace::Gone);
    // What it says later of the old attempt changes nothing.
    let old = prepared(&w, node);
    end_chore(&mut w, &old, exited(0));
    assert_eq!(prepared(&w, node).place, ChorePlace::Gone);
    reloads(&w);
}

#[test]
fn an_older_attempt_of_a_preparation_changes_nothing() {
    let (mut w, node, a) = preparing_world();
    let first = prepared(&w, node);
    w.join("p-host-0", 4, 2);
    w.ready(node);
    w.assign(node, &[a]);
    end_chore(&mut w, &first, exited(0));
    assert!(matches!(w.record(a).place, TaskPlace::Preparing { launched: false, .. }));
}

#[test]
fn spec_e_pr9_pr10_how_a_release_ends_does_not_matter_to_its_job() {
    for outcome in [exited(1), AttemptOutcome::WallClock { exit_code: Some(143) }] {
        let (mut w, node) = releasing_world();
        let chore = released(&w, node);
        end_chore(&mut w, &chore, outcome);
        let job = w.job_record("j");
        assert_eq!(
            (job.state, job.terminate_reason.as_deref()),
            (JobState::Completed, Some("UserTerminate"))
        );
        assert_eq!(released(&w, node).place, ChorePlace::Completed { result: TaskResult::Failure });
    }
}

#[test]
fn spec_e_pr11_disable_runs_no_release_and_keeps_what_is_prepared() {
    let (mut w, node, a) = preparing_world();
    w.disable("j", DisableTasks::Requeue).unwrap();
    assert_eq!(w.record(a).place, TaskPlace::Ready, "what has not been sent is back at once");
    assert_eq!(w.job_record("j").state, JobState::Disabled);
    prepare(&mut w, node, 0);
    assert!(launched(&mut w).iter().all(|attempt| attempt.task != a));
    w.enable("j").unwrap();
    w.run(node, a);
    assert_eq!(prepared(&w, node).attempt, Attempt(1));
    assert!(find(&w, node, ChoreKind::Release).is_none());
}

#[test]
fn spec_e_pr12_a_node_that_went_is_not_released_and_still_listed() {
    let (mut w, node, _) = prepared_world();
    w.ok(Action::NodeRevoke { node, option: DeallocationOption::Requeue });
    w.obey();
    assert!(w.cluster.node(node).is_none());
    w.terminate("j").unwrap();
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Completed);
    let listed: Vec<_> = w.cluster.prepared_nodes(w.job_record("j").key, None).collect();
    assert_eq!((listed.len(), listed[0].1), (1, None));
    reloads(&w);
}

#[test]
fn spec_e_pr13_j16_a_job_that_is_deleted_runs_its_release_once_and_takes_everything_along() {
    for terminated in [false, true] {
        let (mut w, node, a) = prepared_world();
        w.report(node, w.record(a).attempt_ref(), true, None);
        if terminated {
            w.terminate("j").unwrap();
            w.obey();
            let chore = released(&w, node);
            end_chore(&mut w, &chore, exited(0));
            assert_eq!(w.job_record("j").state, JobState::Completed);
        }
        w.delete("j").unwrap();
        w.obey();
        if !terminated {
            assert_eq!(w.job_record("j").state, JobState::Deleting);
            assert_eq!(released(&w, node).attempt, Attempt(1));
            reloads(&w);
            let chore = released(&w, node);
            end_chore(&mut w, &chore, exited(0));
            w.obey();
        }
        assert!(w.cluster.job_by_id(ACCOUNT, &job_id("j")).is_none());
        assert_eq!((w.cluster.all_chores().count(), w.cluster.all_tasks_count()), (0, 0));
        reloads(&w);
    }
}

#[test]
fn spec_j_j15_a_job_deleted_while_it_releases_does_not_release_twice() {
    let (mut w, node) = releasing_world();
    let add = w.act(Action::TasksAdd { job: job_id("j"), tasks: vec![task_add("late")] });
    assert_eq!(code(add), RefusalCode::JobBeingTerminated);
    w.delete("j").unwrap();
    w.obey();
    let chore = released(&w, node);
    assert_eq!(chore.attempt, Attempt(1));
    end_chore(&mut w, &chore, exited(0));
    w.obey();
    assert!(w.cluster.job_by_id(ACCOUNT, &job_id("j")).is_none());
}

#[test]
fn spec_e_pr15_a_release_runs_again_on_a_node_that_was_started_anew() {
    let (mut w, node) = releasing_world();
    w.join("p-host-0", 4, 2);
    let chore = released(&w, node);
    assert_eq!((chore.attempt, chore.place), (Attempt(2), ChorePlace::Assigned));
    end_chore(&mut w, &chore, exited(0));
    assert_eq!(w.job_record("j").state, JobState::Completed);
}

#[test]
fn a_release_is_given_up_with_the_lease_of_its_host() {
    let (mut w, node) = releasing_world();
    let host = w.node(node).host;
    w.ok(Action::HostLost { host });
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Completed);
}

#[test]
fn a_job_that_ends_ends_its_preparations_and_does_not_release_there() {
    let (mut w, node, _) = preparing_world();
    w.terminate("j").unwrap();
    let kills: Vec<_> =
        w.events.iter().filter(|event| matches!(event, Event::Kill { .. })).cloned().collect();
    assert_eq!(kills.len(), 1, "the preparation, and not the task that never left: {kills:?}");
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Completed);
    assert_eq!(prepared(&w, node).failure.unwrap().code, "TaskEnded");
    assert!(find(&w, node, ChoreKind::Release).is_none());
}

#[test]
fn a_forced_end_does_not_wait_for_releases() {
    let (mut w, node, _) = prepared_world();
    let condition = Condition::default();
    w.ok(Action::JobTerminate { job: job_id("j"), condition, reason: None, force: true });
    assert_eq!(w.job_record("j").state, JobState::Completed);
    assert!(released(&w, node).is_open(), "it runs all the same");
}

#[test]
fn spec_j_t16_no_task_has_the_id_of_a_preparation_or_release() {
    let (mut w, _) = world(1, 1);
    for (id, expected) in [
        ("jobpreparation", RefusalCode::TaskIdSameAsJobPreparationTask),
        ("JobRelease", RefusalCode::TaskIdSameAsJobReleaseTask),
    ] {
        match w.ok(Action::TasksAdd { job: job_id("j"), tasks: vec![task_add(id)] }) {
            crate::state::Outcome::TasksAdded(results) => {
                assert_eq!(results[0].1.as_ref().unwrap_err().code, expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn many_nodes_are_released_in_slices() {
    let nodes = 1_500;
    let mut w = World::new();
    w.ok(Action::PoolAdd { spec: Box::new(pool_spec("p", nodes, 1)) });
    job_of(&mut w, preparation());
    let pool = w.pool_key("p");
    let host = w.host("big", 64);
    let tasks = w.tasks("j", nodes as usize);
    let keys: Vec<NodeKey> = (0..nodes).map(|_| w.grant(pool, host, true)).collect();
    for (node, task) in keys.iter().zip(&tasks) {
        w.ready(*node);
        w.assign(*node, &[*task]);
        prepare(&mut w, *node, 0);
    }
    w.delete("j").unwrap();
    w.obey();
    let open = w.cluster.all_chores().filter(|chore| chore.kind == ChoreKind::Release && chore.is_open());
    assert_eq!(open.count(), nodes as usize);
    reloads(&w);
    for node in &keys {
        let chore = released(&w, *node);
        end_chore(&mut w, &chore, exited(0));
    }
    w.obey();
    assert!(w.cluster.job_by_id(ACCOUNT, &job_id("j")).is_none());
    assert_eq!(w.cluster.all_chores().count(), 0);
}
