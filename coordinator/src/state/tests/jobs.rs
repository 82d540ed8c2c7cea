//! Scenarios of `jobs-and-tasks.md` §13.1 as far as the core decides them.

use crate::state::command::{Action, Condition, JobPatch};
use crate::state::testing::*;
use crate::state::{EMPTY_GRACE_MS, Ending, RefusalCode, TaskPlace};
use lote_shared::model::*;

fn patch(world: &mut World, job: &str, patch: JobPatch) -> crate::state::Reply {
    world.act(Action::JobPatch { job: job_id(job), condition: Condition::default(), patch: Box::new(patch) })
}

fn automatic(id: &str) -> JobSpec {
    JobSpec { on_all_tasks_complete: AllTasksAction::TerminateJob, ..job_spec(id, "p") }
}

#[test]
fn spec_j_j1_tasks_wait_for_a_pool_of_that_name() {
    let mut w = World::new();
    w.job("j", "P");
    let a = w.task("j", "a");
    assert_eq!(w.cluster.explain_task(a).unwrap().to_string(), "there is no pool `P`");
    w.pool("p", 1, 1);
    let view = w.cluster.pool_ready(w.pool_key("p")).unwrap();
    assert_eq!(view.jobs_by_use().count(), 1);
    let node = w.nodes("p")[0];
    let attempt = w.run(node, a);
    w.exit(node, attempt, 0);
    assert_eq!(w.record(a).state(), TaskState::Completed);
}

#[test]
fn spec_j_j2_ids_are_compared_without_case() {
    let mut w = World::new();
    w.job("j", "p");
    let again = w.act(Action::JobAdd { spec: Box::new(job_spec("J", "p")) });
    assert_eq!(code(again), RefusalCode::JobExists);
}

#[test]
fn spec_j_j5_disable_requeue_and_enable() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let (a, _b) = (w.task("j", "a"), w.task("j", "b"));
    w.run(node, a);
    w.disable("j", DisableTasks::Requeue).unwrap();
    assert_eq!(w.job_record("j").state, JobState::Disabling, "the run has not ended yet");
    assert_eq!(w.record(a).state(), TaskState::Running);
    w.pass_ms(3_000);
    w.obey();
    let job = w.job_record("j");
    assert_eq!(job.state, JobState::Disabled);
    assert_eq!(job.previous_state.unwrap().0, JobState::Active);
    let task = w.record(a);
    assert_eq!((task.state(), task.requeue_count, task.retry_count), (TaskState::Active, 1, 0));
    assert!(task.failure.is_none() && task.exit_code.is_none());
    let first = task.started.unwrap();
    assert!(w.assign(node, &[a]).is_empty(), "nothing starts in a disabled job");
    w.enable("j").unwrap();
    assert_eq!(w.job_record("j").previous_state.unwrap().0, JobState::Disabled);
    w.pass_ms(1);
    w.run(node, a);
    assert!(w.record(a).started.unwrap() > first);
}

#[test]
fn spec_j_j6_disable_terminate_ends_running_tasks_for_good() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let a = w.task("j", "a");
    w.run(node, a);
    w.disable("j", DisableTasks::Terminate).unwrap();
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Disabled);
    assert_eq!(w.record(a).place, TaskPlace::Completed { result: TaskResult::Failure });
    assert_eq!(w.record(a).failure.as_ref().unwrap().code, "TaskEnded");
    w.enable("j").unwrap();
    assert!(w.assign(node, &[a]).is_empty());
    w.reactivate("j", "a").unwrap();
    w.run(node, a);
    assert_eq!(w.record(a).state(), TaskState::Running);
}

#[test]
fn spec_j_j7_disable_wait_lets_running_tasks_finish() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let (a, b) = (w.task("j", "a"), w.task("j", "b"));
    let run = w.run(node, a);
    // B was prefetched; it must be given back.
    w.assign(node, &[b]);
    w.disable("j", DisableTasks::Wait).unwrap();
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Disabling);
    assert_eq!(w.record(b).place, TaskPlace::Ready);
    assert_eq!(w.record(b).requeue_count, 0);
    w.exit(node, run, 3);
    assert_eq!(w.job_record("j").state, JobState::Disabled);
    assert_eq!(w.record(a).exit_code, Some(3));
    w.enable("j").unwrap();
    w.run(node, b);
}

#[test]
fn a_stronger_disable_wins_and_a_weaker_one_does_not() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let a = w.task("j", "a");
    w.run(node, a);
    w.disable("j", DisableTasks::Requeue).unwrap();
    w.disable("j", DisableTasks::Wait).unwrap();
    assert_eq!(w.job_record("j").disable_tasks, Some(DisableTasks::Requeue));
    w.disable("j", DisableTasks::Terminate).unwrap();
    assert_eq!(w.record(a).state(), TaskState::Completed);
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Disabled);
    let before = w.job_record("j").version;
    w.disable("j", DisableTasks::Terminate).unwrap();
    assert_eq!(w.job_record("j").version, before, "disabling a disabled job changes nothing");
}

#[test]
fn spec_j_j8_enable_cancels_a_disable() {
    let mut w = World::new();
    w.pool("p", 1, 2);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let (a, b) = (w.task("j", "a"), w.task("j", "b"));
    w.run(node, a);
    w.disable("j", DisableTasks::Wait).unwrap();
    w.enable("j").unwrap();
    assert_eq!(w.job_record("j").state, JobState::Active);
    assert_eq!(w.record(a).state(), TaskState::Running);
    w.run(node, b);
}

#[test]
fn spec_j_j9_j10_pool_changes_only_while_disabled() {
    let mut w = World::new();
    w.pool("q", 1, 1);
    w.job("j", "p");
    let a = w.task("j", "a");
    let to = |id: &str| JobPatch { pool: Some(pool_id(id)), ..JobPatch::default() };
    assert_eq!(code(patch(&mut w, "j", to("q"))), RefusalCode::OperationInvalidForCurrentState);
    patch(&mut w, "j", to("P")).unwrap();
    w.disable("j", DisableTasks::Requeue).unwrap();
    patch(&mut w, "j", to("q")).unwrap();
    w.enable("j").unwrap();
    let node = w.nodes("q")[0];
    w.run(node, a);
}

#[test]
fn spec_j_j11_constraints_are_replaced_whole_and_only_for_later_tasks() {
    let mut w = World::new();
    let constraints = JobConstraints { max_wall_clock: Span::from_secs(3_600), max_task_retry_count: 3 };
    w.job_with(JobSpec { constraints, ..job_spec("j", "p") });
    let a = w.task("j", "a");
    let constraints = JobConstraints { max_wall_clock: Span::from_secs(7_200), max_task_retry_count: 0 };
    patch(&mut w, "j", JobPatch { constraints: Some(constraints), ..JobPatch::default() }).unwrap();
    assert_eq!(w.job_record("j").constraints, constraints);
    assert_eq!(w.record(a).constraints.max_retry_count, 3);
}

#[test]
fn spec_j_j12_terminatejob_is_one_way() {
    let mut w = World::new();
    w.job_with(automatic("j"));
    w.task("j", "a");
    let before = w.job_record("j").clone();
    let back = JobPatch {
        priority: Some(7),
        on_all_tasks_complete: Some(AllTasksAction::NoAction),
        ..JobPatch::default()
    };
    assert_eq!(code(patch(&mut w, "j", back)), RefusalCode::InvalidPropertyValue);
    assert_eq!(w.job_record("j"), &before);
}

#[test]
fn spec_j_j13_terminate_ends_running_tasks_and_leaves_active_ones() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let (a, b) = (w.task("j", "a"), w.task("j", "b"));
    w.run(node, a);
    w.assign(node, &[b]);
    w.terminate("j").unwrap();
    let job = w.job_record("j");
    assert_eq!((job.state, job.ended), (JobState::Terminating, None));
    assert_eq!(job.terminate_reason.as_deref(), Some("UserTerminate"));
    w.obey();
    let job = w.job_record("j");
    assert_eq!(job.state, JobState::Completed);
    assert_eq!(job.previous_state.unwrap().0, JobState::Active);
    assert!(job.ended.is_some());
    assert_eq!((job.counts.active, job.counts.failed, job.counts.running), (1, 1, 0));
    assert_eq!(w.record(a).failure.as_ref().unwrap().code, "TaskEnded");
    assert_eq!(w.record(b).state(), TaskState::Active);
    assert_eq!(w.record(b).previous_state, None);
}

#[test]
fn force_does_not_wait_for_nodes() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let a = w.task("j", "a");
    w.run(node, a);
    let condition = Condition::default();
    let reason = Some("enough".to_owned());
    w.ok(Action::JobTerminate { job: job_id("j"), condition, reason, force: true });
    assert_eq!(w.job_record("j").state, JobState::Completed);
    assert_eq!(w.job_record("j").terminate_reason.as_deref(), Some("enough"));
}

#[test]
fn spec_j_j14_a_completed_job_only_takes_a_delete() {
    let mut w = World::new();
    w.job("j", "p");
    w.task("j", "a");
    w.terminate_task("j", "a").unwrap();
    w.terminate("j").unwrap();
    assert_eq!(w.job_record("j").state, JobState::Completed);
    assert_eq!(code(w.terminate("j")), RefusalCode::JobCompleted);
    assert_eq!(code(w.disable("j", DisableTasks::Wait)), RefusalCode::JobCompleted);
    assert_eq!(code(w.enable("j")), RefusalCode::JobCompleted);
    assert_eq!(code(w.reactivate("j", "a")), RefusalCode::JobCompleted);
    let add = Action::TasksAdd { job: job_id("j"), tasks: vec![task_add("b")] };
    assert_eq!(code(w.act(add)), RefusalCode::JobCompleted);
    assert_eq!(code(patch(&mut w, "j", JobPatch::default())), RefusalCode::JobCompleted);
    w.delete("j").unwrap();
    assert_eq!(code(w.delete("j")), RefusalCode::JobNotFound);
    w.job("j", "p");
    assert_eq!(w.cluster.task_count(w.job_record("j").key), 0);
}

#[test]
fn spec_j_j17_the_wall_clock_counts_from_creation() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    let constraints = JobConstraints { max_wall_clock: Span::from_secs(60), max_task_retry_count: 0 };
    let job = w.job_with(JobSpec { constraints, ..job_spec("j", "p") });
    let a = w.task("j", "a");
    w.run(node, a);
    let due = w.cluster.deadlines().next().unwrap();
    assert_eq!(due.0, START.plus_ms(60_000));
    w.pass_ms(59_999);
    assert_eq!(code(w.act(Action::JobExpire { job })), RefusalCode::Fenced);
    w.pass_ms(1);
    w.ok(Action::JobExpire { job });
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Completed);
    assert_eq!(w.job_record("j").terminate_reason.as_deref(), Some("MaxWallClockTimeExpiry"));
    assert_eq!(w.record(a).place, TaskPlace::Completed { result: TaskResult::Failure });
    assert_eq!(w.cluster.deadlines().count(), 0);
}

#[test]
fn a_patched_wall_clock_that_is_over_ends_the_job_at_once() {
    let mut w = World::new();
    w.job("j", "p");
    w.disable("j", DisableTasks::Wait).unwrap();
    w.pass_ms(10_000);
    let constraints = JobConstraints { max_wall_clock: Span::from_secs(5), max_task_retry_count: 0 };
    patch(&mut w, "j", JobPatch { constraints: Some(constraints), ..JobPatch::default() }).unwrap();
    assert_eq!(w.job_record("j").state, JobState::Completed);
}

#[test]
fn spec_j_j18_patching_an_empty_job_to_terminatejob_ends_it() {
    let mut w = World::new();
    w.job("j", "p");
    let on = JobPatch { on_all_tasks_complete: Some(AllTasksAction::TerminateJob), ..JobPatch::default() };
    patch(&mut w, "j", on).unwrap();
    let job = w.job_record("j");
    assert_eq!(job.state, JobState::Completed);
    assert_eq!(job.terminate_reason.as_deref(), Some("AllTasksComplete"));
}

#[test]
fn spec_j_j19_a_new_job_waits_for_its_first_task() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    let job = w.job_with(automatic("j"));
    assert_eq!(code(w.act(Action::JobCheckComplete { job })), RefusalCode::Fenced);
    let a = w.task("j", "a");
    assert_eq!(w.cluster.deadlines().count(), 0);
    let attempt = w.run(node, a);
    assert_eq!(w.job_record("j").state, JobState::Active);
    w.exit(node, attempt, 0);
    assert_eq!(w.job_record("j").state, JobState::Completed);
    let empty = w.job_with(automatic("empty"));
    w.pass_ms(EMPTY_GRACE_MS);
    w.ok(Action::JobCheckComplete { job: empty });
    assert_eq!(w.job_record("empty").state, JobState::Completed);
}

#[test]
fn spec_j_j20_a_task_that_waits_for_ever_keeps_the_job() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job_with(automatic("j"));
    let a = w.task("j", "a");
    let b = w.task_with("j", crate::state::command::TaskAdd { slots: 9, ..task_add("b") });
    let attempt = w.run(node, a);
    w.exit(node, attempt, 1);
    let job = w.job_record("j");
    assert_eq!((job.state, job.counts.active, job.counts.failed), (JobState::Active, 1, 1));
    let condition = Condition::default();
    w.ok(Action::TaskDelete { job: job_id("j"), task: task_id("b"), condition });
    assert!(w.cluster.task(b).is_none());
    assert_eq!(w.job_record("j").state, JobState::Completed, "deleting the last open task fires the check");
}

#[test]
fn spec_j_j22_an_old_etag_changes_nothing() {
    let mut w = World::new();
    w.job("j", "p");
    let old = w.job_record("j").version.etag_text();
    patch(&mut w, "j", JobPatch { priority: Some(1), ..JobPatch::default() }).unwrap();
    let before = w.job_record("j").clone();
    let condition = Condition { if_match: Some(vec![old]), ..Condition::default() };
    let job = job_id("j");
    for action in [
        Action::JobPatch { job: job.clone(), condition: condition.clone(), patch: Box::default() },
        Action::JobTerminate { job: job.clone(), condition: condition.clone(), reason: None, force: false },
        Action::JobDelete { job: job.clone(), condition: condition.clone(), force: false },
        Action::JobDisable { job: job.clone(), condition: condition.clone(), tasks: DisableTasks::Wait },
        Action::JobEnable { job: job.clone(), condition: condition.clone() },
    ] {
        assert_eq!(code(w.act(action)), RefusalCode::ConditionNotMet);
    }
    assert_eq!(w.job_record("j"), &before);
}

#[test]
fn spec_j_j23_running_changes_no_etag() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    let a = w.task("j", "a");
    let (job, task) = (w.job_record("j").version, w.record(a).version);
    let attempt = w.run(node, a);
    w.exit(node, attempt, 0);
    assert_eq!((w.job_record("j").version, w.record(a).version), (job, task));
    assert_eq!(w.record(a).previous_state.unwrap().0, TaskState::Running);
}

#[test]
fn spec_j_j24_tasks_added_to_a_disabled_job_wait() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    w.disable("j", DisableTasks::Requeue).unwrap();
    let c = w.task("j", "c");
    assert!(w.assign(node, &[c]).is_empty());
    assert_eq!(w.cluster.explain_task(c).unwrap().to_string(), "its job is disabled");
    w.enable("j").unwrap();
    w.run(node, c);
}

#[test]
fn a_large_job_is_deleted_in_slices() {
    let mut w = World::new();
    w.job("j", "p");
    w.tasks("j", 2_500);
    w.delete("j").unwrap();
    assert_eq!(w.job_record("j").state, JobState::Deleting);
    assert_eq!(
        code(w.act(Action::JobAdd { spec: Box::new(job_spec("j", "p")) })),
        RefusalCode::JobBeingDeleted
    );
    assert_eq!(w.cluster.all_tasks_count(), 1_500);
    w.obey();
    assert_eq!(w.cluster.all_tasks_count(), 0);
    assert!(w.cluster.job_by_id(ACCOUNT, &job_id("j")).is_none());
    assert!(!w.rows.keys().any(|key| key[4] == crate::state::keys::Table::TaskCold as u8));
}

#[test]
fn a_disable_walks_through_thousands_of_tasks_that_stay_where_they_are() {
    let mut w = World::new();
    w.pool("p", 1, 64);
    let node = w.nodes("p")[0];
    w.job("j", "p");
    for chunk in w.tasks("j", 2_500).chunks(500) {
        w.assign(node, chunk);
    }
    w.disable("j", DisableTasks::Wait).unwrap();
    let asked = |w: &World| w.cluster.all_tasks().filter(|task| task.ending == Some(Ending::Recall)).count();
    let cursor = w.cluster.cursors().next().unwrap();
    for (count, more) in [(1_000, true), (2_000, true), (2_500, false)] {
        assert_eq!(asked(&w), count);
        assert_eq!(w.cluster.cursors().count() == 1, more);
        // The cursor goes on where it was, on a replica that was rebuilt too.
        w.cluster = w.reload();
        w.ok(Action::Continue { cursor });
    }
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Disabled);
}

#[test]
fn spec_j_d11_a_failing_task_ends_a_job_that_opted_in() {
    let mut w = World::new();
    w.pool("p", 1, 2);
    let node = w.nodes("p")[0];
    let opted = TaskFailureAction::PerformExitOptionsJobAction;
    w.job_with(JobSpec { on_task_failure: opted, ..job_spec("j", "p") });
    let (a, b, c) = (w.task("j", "a"), w.task("j", "b"), w.task("j", "c"));
    let (first, _) = (w.run(node, a), w.run(node, b));
    w.terminate_task("j", "c").unwrap();
    assert_eq!(w.job_record("j").state, JobState::Active, "ended by the user: {:?}", w.record(c).failure);
    w.exit(node, first, 2);
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Completed);
    assert_eq!(w.job_record("j").terminate_reason.as_deref(), Some("TaskFailed"));
    assert_eq!(w.record(b).failure.as_ref().unwrap().code, "TaskEnded");
}

#[test]
fn the_quota_counts_jobs_that_are_not_over() {
    let mut w = World::new();
    for n in 0..crate::state::JOBS_ACTIVE_MAX {
        w.job(&format!("j{n}"), "p");
    }
    let one_more = || Action::JobAdd { spec: Box::new(job_spec("more", "p")) };
    assert_eq!(code(w.act(one_more())), RefusalCode::ActiveJobAndScheduleQuotaReached);
    w.disable("j0", DisableTasks::Wait).unwrap();
    assert_eq!(code(w.act(one_more())), RefusalCode::ActiveJobAndScheduleQuotaReached);
    w.terminate("j0").unwrap();
    w.ok(one_more());
}
