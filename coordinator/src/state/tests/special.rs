//! Scenarios of `jobs-and-tasks.md` §13.4 and §13.5 on managers and auto pools, as far as the core decides them.

use crate::state::command::{Action, Condition, JobPatch, ScheduleChange};
use crate::state::testing::*;
use crate::state::{POOLS_MAX, RefusalCode, Reply, TaskPlace};
use lote_shared::model::*;

fn manager(kill_job: bool) -> ManagerTask {
    let task = task_add("manager");
    ManagerTask {
        spec: task.spec,
        slots: 1,
        max_wall_clock: task.max_wall_clock,
        retention: task.retention,
        max_retry_count: None,
        kill_job_on_completion: kill_job,
        run_exclusive: false,
        allow_low_priority_node: true,
        extras: Vec::new(),
    }
}

fn add(w: &mut World, spec: JobSpec, extras: Vec<JobExtra>) -> Reply {
    w.act(Action::JobAddWith { spec: Box::new(spec), extras })
}

fn managed(w: &mut World, manager: ManagerTask) -> TaskKey {
    add(w, job_spec("j", "p"), vec![JobExtra::Manager(Box::new(manager))]).unwrap();
    w.task_named("j", "manager").key
}

/// What a coordinator that starts anew makes of the rows is what this one has.
fn reloads(w: &World) {
    let reloaded = w.reload();
    assert_eq!(reloaded.digest(), w.cluster.digest());
    for job in w.cluster.all_jobs() {
        assert_eq!(reloaded.job_extras(job.key), w.cluster.job_extras(job.key));
    }
    for task in w.cluster.all_tasks() {
        assert_eq!(reloaded.explain_task(task.key), w.cluster.explain_task(task.key));
    }
}

#[test]
fn only_the_manager_may_start_first() {
    let mut w = World::new();
    w.pool("p", 2, 4);
    let nodes = w.nodes("p");
    let key = managed(&mut w, manager(true));
    let a = w.task("j", "a");
    assert!(w.assign(nodes[0], &[a]).is_empty());
    assert!(w.cluster.explain_task(a).unwrap().to_string().contains("manager"));
    let view = w.cluster.pool_ready(w.pool_key("p")).unwrap();
    let job = w.job_record("j").key;
    assert_eq!(view.manager(job).map(|(task, _)| task), Some(key));
    assert_eq!(view.tasks(job).count(), 0);
    reloads(&w);
    let given = w.assign(nodes[0], &[key]);
    assert!(w.assign(nodes[0], &[a]).is_empty(), "it is given, not started");
    w.report(nodes[0], given[0], true, None);
    reloads(&w);
    w.run(nodes[0], a);
    assert_eq!(w.job_record("j").counts.running, 2);
}

#[test]
fn spec_j_s6_an_exclusive_manager_is_alone_on_its_node() {
    let mut w = World::new();
    w.pool("p", 2, 4);
    let nodes = w.nodes("p");
    w.job("other", "p");
    let (a, b) = (w.task("other", "a"), w.task("other", "b"));
    w.run(nodes[0], a);
    let key = managed(&mut w, ManagerTask { run_exclusive: true, ..manager(true) });
    assert!(w.assign(nodes[0], &[key]).is_empty(), "another task runs there");
    w.run(nodes[1], key);
    assert_eq!(w.cluster.node_load(nodes[1]).slots(), 4);
    // It may queue there, and does not run beside it.
    let queued = w.assign(nodes[1], &[b]);
    w.report(nodes[1], queued[0], true, None);
    assert_eq!(
        w.record(b).state(),
        TaskState::Active,
        "a node that runs more than its slots is not believed"
    );
    reloads(&w);
}

#[test]
fn a_manager_may_be_kept_from_nodes_of_low_priority() {
    let mut w = World::new();
    w.pool_with(PoolSpec { target_dedicated: 1, target_low_priority: 1, ..pool_spec("p", 1, 1) });
    let key = managed(&mut w, ManagerTask { allow_low_priority_node: false, ..manager(true) });
    let nodes = w.nodes("p");
    let (dedicated, low): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| w.node(*node).dedicated);
    assert!(w.assign(low[0], &[key]).is_empty());
    w.run(dedicated[0], key);
}

#[test]
fn spec_j_s7_the_job_ends_with_its_manager() {
    let mut w = World::new();
    w.pool("p", 2, 1);
    let nodes = w.nodes("p");
    let key = managed(&mut w, manager(true));
    let run = w.run(nodes[0], key);
    let a = w.task("j", "a");
    w.run(nodes[1], a);
    w.exit(nodes[0], run, 0);
    assert_eq!(w.job_record("j").state, JobState::Terminating);
    w.obey();
    let job = w.job_record("j");
    assert_eq!((job.state, job.terminate_reason.as_deref()), (JobState::Completed, Some("JMComplete")));
    assert_eq!(w.record(a).failure.as_ref().unwrap().code, "TaskEnded");
}

#[test]
fn spec_j_s8_a_manager_is_retried_like_any_task() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    let key = managed(&mut w, ManagerTask { max_retry_count: Some(1), ..manager(true) });
    let a = w.task("j", "a");
    let run = w.run(node, key);
    w.exit(node, run, 1);
    assert_eq!(w.job_record("j").state, JobState::Active);
    assert!(w.assign(node, &[a]).is_empty(), "the manager has the first claim on its way back");
    let run = w.run(node, key);
    w.exit(node, run, 0);
    w.obey();
    assert_eq!(w.job_record("j").terminate_reason.as_deref(), Some("JMComplete"));
}

#[test]
fn spec_j_s9_a_manager_that_does_not_end_its_job() {
    let mut w = World::new();
    w.pool("p", 1, 1);
    let node = w.nodes("p")[0];
    let spec = JobSpec { on_all_tasks_complete: AllTasksAction::TerminateJob, ..job_spec("j", "p") };
    add(&mut w, spec, vec![JobExtra::Manager(Box::new(manager(false)))]).unwrap();
    let key = w.task_named("j", "manager").key;
    let run = w.run(node, key);
    let a = w.task("j", "a");
    w.exit(node, run, 0);
    assert_eq!(w.job_record("j").state, JobState::Active);
    let run = w.run(node, a);
    w.exit(node, run, 0);
    w.obey();
    assert_eq!(w.job_record("j").terminate_reason.as_deref(), Some("AllTasksComplete"));
}

#[test]
fn a_manager_that_is_ended_or_deleted_by_hand_ends_its_job_and_one_that_is_disabled_does_not() {
    for delete in [false, true] {
        let mut w = World::new();
        w.pool("p", 1, 1);
        managed(&mut w, manager(true));
        if delete {
            let (job, task, condition) = (job_id("j"), task_id("manager"), Condition::default());
            w.ok(Action::TaskDelete { job, task, condition });
        } else {
            w.terminate_task("j", "manager").unwrap();
        }
        w.obey();
        assert_eq!(w.job_record("j").terminate_reason.as_deref(), Some("JMComplete"));
        reloads(&w);
    }
    let mut w = World::new();
    w.pool("p", 1, 1);
    let key = managed(&mut w, manager(true));
    w.run(w.nodes("p")[0], key);
    w.disable("j", DisableTasks::Terminate).unwrap();
    w.obey();
    assert_eq!(w.job_record("j").state, JobState::Disabled);
}

fn auto(lifetime: PoolLifetime, keep_alive: bool) -> AutoPool {
    AutoPool {
        prefix: "x".into(),
        lifetime,
        keep_alive,
        pool: pool_spec("placeholder", 0, 1),
        extras: Vec::new(),
    }
}

fn with_pool(w: &mut World, id: &str, auto: AutoPool) -> Reply {
    add(w, job_spec(id, "placeholder"), vec![JobExtra::AutoPool(Box::new(auto))])
}

fn pool_of(w: &World, job: &str) -> PoolId {
    w.job_record(job).pool.clone()
}

#[test]
fn spec_j_s10_s11_a_pool_lives_as_long_as_its_job_unless_it_is_kept() {
    for keep in [false, true] {
        let mut w = World::new();
        with_pool(&mut w, "j", auto(PoolLifetime::Job, keep)).unwrap();
        let pool = pool_of(&w, "j");
        let guid = pool.as_str().strip_prefix("x_").expect("the prefix");
        assert!(guid.len() == 36 && guid.to_uppercase() == guid, "{guid}");
        assert!(w.cluster.pool_by_id(ACCOUNT, &pool).is_some());
        with_pool(&mut w, "k", auto(PoolLifetime::Job, keep)).unwrap();
        assert_ne!(pool_of(&w, "k"), pool);
        reloads(&w);
        w.terminate("j").unwrap();
        w.obey();
        assert_eq!(w.job_record("j").state, JobState::Completed);
        assert_eq!(w.cluster.pool_by_id(ACCOUNT, &pool).is_some(), keep);
        w.delete("j").unwrap();
        w.obey();
        assert_eq!(w.cluster.pool_by_id(ACCOUNT, &pool).is_some(), keep);
        // One that was never terminated.
        let other = pool_of(&w, "k");
        w.delete("k").unwrap();
        w.obey();
        assert_eq!(w.cluster.pool_by_id(ACCOUNT, &other).is_some(), keep);
    }
}

#[test]
fn spec_j_s13_a_job_whose_pool_cannot_be_made_is_completed_and_says_why() {
    let mut w = World::new();
    for n in 0..POOLS_MAX {
        w.ok(Action::PoolAdd { spec: Box::new(pool_spec(&format!("p{n}"), 0, 1)) });
    }
    let extras = vec![
        JobExtra::AutoPool(Box::new(auto(PoolLifetime::Job, false))),
        JobExtra::Manager(Box::new(manager(true))),
    ];
    add(&mut w, job_spec("j", "placeholder"), extras).unwrap();
    let job = w.job_record("j");
    assert_eq!((job.state, job.ended), (JobState::Completed, Some(w.now)));
    let error = JobExtra::scheduling_error(w.cluster.job_extras(job.key)).unwrap();
    assert_eq!(error.code, "AutoPoolCreationFailedWithQuotaReached");
    assert_eq!(w.cluster.task_count(job.key), 0);
    reloads(&w);
}

#[test]
fn of_an_auto_pool_only_keep_alive_changes_and_only_if_it_is_the_jobs_own() {
    let mut w = World::new();
    with_pool(&mut w, "j", auto(PoolLifetime::Job, false)).unwrap();
    let mut change = |auto: AutoPool| {
        w.act(Action::JobPatchWith {
            job: job_id("j"),
            condition: Condition::default(),
            patch: Box::new(JobPatch { priority: Some(7), ..JobPatch::default() }),
            auto_pool: Box::new(auto),
        })
    };
    change(auto(PoolLifetime::Job, false)).unwrap();
    let other = AutoPool { prefix: "y".into(), ..auto(PoolLifetime::Job, false) };
    assert_eq!(code(change(other)), RefusalCode::OperationInvalidForCurrentState);
    change(auto(PoolLifetime::Job, true)).unwrap();
    assert_eq!(w.job_record("j").priority, 7);
    reloads(&w);
    let pool = pool_of(&w, "j");
    w.terminate("j").unwrap();
    w.obey();
    assert!(w.cluster.pool_by_id(ACCOUNT, &pool).is_some(), "it is kept now");
    // A job in a pool that others made cannot get one.
    w.job("k", "p");
    let refused = w.act(Action::JobPatchWith {
        job: job_id("k"),
        condition: Condition::default(),
        patch: Box::default(),
        auto_pool: Box::new(auto(PoolLifetime::Job, false)),
    });
    assert_eq!(code(refused), RefusalCode::OperationInvalidForCurrentState);
}

fn schedule(w: &mut World, auto: AutoPool) -> ScheduleId {
    let id = ScheduleId::new("s").unwrap();
    let recurrence = Recurrence { interval: Some(Span::from_secs(600)), ..Recurrence::default() };
    let cold = ScheduleCold { display_name: None, metadata: Vec::new(), job: job_spec("job", "placeholder") };
    let spec = Box::new(ScheduleSpec { id: id.clone(), recurrence, cold });
    w.ok(Action::ScheduleAddWith { spec, extras: vec![JobExtra::AutoPool(Box::new(auto))] });
    id
}

fn next_job(w: &mut World, id: &ScheduleId, ended: &str) {
    w.terminate(ended).unwrap();
    w.obey();
    w.pass_ms(600_000);
    let schedule = w.cluster.schedule_by_id(ACCOUNT, id).unwrap();
    w.ok(Action::ScheduleCheck { schedule });
}

#[test]
fn spec_j_r11_jobs_of_a_schedule_share_a_pool_that_goes_with_it() {
    let mut w = World::new();
    let id = schedule(&mut w, auto(PoolLifetime::JobSchedule, false));
    let pool = pool_of(&w, "s:job-1");
    next_job(&mut w, &id, "s:job-1");
    assert_eq!(pool_of(&w, "s:job-2"), pool);
    assert!(w.cluster.pool_by_id(ACCOUNT, &pool).is_some());
    reloads(&w);
    let change = ScheduleChange::Terminate { force: false };
    w.ok(Action::ScheduleChange { schedule: id, condition: Condition::default(), change });
    w.obey();
    assert!(w.cluster.pool_by_id(ACCOUNT, &pool).is_none());
    reloads(&w);
}

#[test]
fn each_job_of_a_schedule_may_have_a_pool_of_its_own() {
    let mut w = World::new();
    let id = schedule(&mut w, auto(PoolLifetime::Job, false));
    let pool = pool_of(&w, "s:job-1");
    next_job(&mut w, &id, "s:job-1");
    assert_ne!(pool_of(&w, "s:job-2"), pool);
    assert!(w.cluster.pool_by_id(ACCOUNT, &pool).is_none());
}

#[test]
fn a_schedule_with_another_pool_makes_a_new_one_for_its_next_job() {
    let mut w = World::new();
    let id = schedule(&mut w, auto(PoolLifetime::JobSchedule, false));
    let pool = pool_of(&w, "s:job-1");
    let other = AutoPool { prefix: "y".into(), ..auto(PoolLifetime::JobSchedule, true) };
    w.ok(Action::SchedulePatchWith {
        schedule: id.clone(),
        condition: Condition::default(),
        patch: Box::new(crate::state::command::SchedulePatch {
            job: Some(job_spec("job", "placeholder")),
            ..Default::default()
        }),
        extras: vec![JobExtra::AutoPool(Box::new(other))],
    });
    w.obey();
    assert!(w.cluster.pool_by_id(ACCOUNT, &pool).is_none(), "the old one was not to stay");
    next_job(&mut w, &id, "s:job-1");
    assert!(pool_of(&w, "s:job-2").as_str().starts_with("y_"));
    reloads(&w);
}

#[test]
fn a_deleted_schedule_takes_its_pool_along() {
    let mut w = World::new();
    let id = schedule(&mut w, auto(PoolLifetime::JobSchedule, false));
    let pool = pool_of(&w, "s:job-1");
    w.ok(Action::ScheduleChange {
        schedule: id.clone(),
        condition: Condition::default(),
        change: ScheduleChange::Delete,
    });
    w.obey();
    assert!(w.cluster.schedule_by_id(ACCOUNT, &id).is_none());
    assert!(w.cluster.pool_by_id(ACCOUNT, &pool).is_none());
    reloads(&w);
}

#[test]
fn a_task_that_has_more_is_kept_with_it() {
    let mut w = World::new();
    w.job("j", "p");
    let task = (task_add("t"), TaskTies::default(), vec![TaskExtra::Token]);
    w.ok(Action::TasksAddWith { job: job_id("j"), tasks: vec![task] });
    let key = w.task_named("j", "t").key;
    assert!(w.rows.contains_key(&crate::state::keys::task_extras(ACCOUNT, key)));
    assert_eq!(w.record(key).place, TaskPlace::Ready);
    let (job, task, condition) = (job_id("j"), task_id("t"), Condition::default());
    w.ok(Action::TaskDelete { job, task, condition });
    assert!(!w.rows.contains_key(&crate::state::keys::task_extras(ACCOUNT, key)));
}
