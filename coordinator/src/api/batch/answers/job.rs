//! A job and its counts as clients read them (`jobs-and-tasks.md` §2, §4).

use super::{environment, metadata, special};
use crate::api::batch::json::Object;
use crate::api::batch::views::JobView;
use crate::state::{JobRecord, TaskCounts};
use lote_shared::model::{
    AllTasksAction, EnvironmentSetting, JobCold, JobConstraints, JobExtra, JobSpec, PoolId, TaskFailureAction,
};

pub fn write(object: &mut Object, base: &str, job: &JobView) {
    let record = &job.record;
    object.text("id", record.id.as_str());
    object.maybe_text("displayName", job.cold.display_name.as_deref());
    object.text("url", &format!("{base}/jobs/{}", record.id));
    object.text("eTag", &record.version.etag_text());
    object.time("lastModified", record.version.modified);
    object.time("creationTime", record.created);
    object.text("state", record.state.as_str());
    object.time("stateTransitionTime", record.state_changed);
    if let Some((state, at)) = record.previous_state {
        object.text("previousState", state.as_str());
        object.time("previousStateTransitionTime", at);
    }
    settings(object, &Settings::of_record(record, &job.cold, &job.extras));
    metadata(object, &job.cold.metadata);
    object.object("executionInfo", |object| {
        object.time("startTime", record.created);
        object.maybe_time("endTime", record.ended);
        object.text("poolId", record.pool.as_str());
        special::scheduling_error(object, JobExtra::scheduling_error(&job.extras));
        object.maybe_text("terminateReason", record.terminate_reason.as_deref());
    });
    object.echo(&job.cold.echo);
}

/// What jobs and the plans for them have in common.
struct Settings<'a> {
    uses_task_dependencies: bool,
    priority: i16,
    allow_task_preemption: bool,
    max_parallel_tasks: i32,
    constraints: JobConstraints,
    environment: &'a [EnvironmentSetting],
    pool: &'a PoolId,
    extras: &'a [JobExtra],
    on_all_tasks_complete: AllTasksAction,
    on_task_failure: TaskFailureAction,
}

macro_rules! settings_of {
    ($from:expr, $cold:expr, $extras:expr) => {
        Settings {
            uses_task_dependencies: $from.uses_task_dependencies,
            priority: $from.priority,
            allow_task_preemption: $from.allow_task_preemption,
            max_parallel_tasks: $from.max_parallel_tasks,
            constraints: $from.constraints,
            environment: &$cold.environment,
            pool: &$from.pool,
            extras: $extras,
            on_all_tasks_complete: $from.on_all_tasks_complete,
            on_task_failure: $from.on_task_failure,
        }
    };
}

impl Settings<'_> {
    fn of_record<'a>(record: &'a JobRecord, cold: &'a JobCold, extras: &'a [JobExtra]) -> Settings<'a> {
        settings_of!(record, cold, extras)
    }

    fn of_spec<'a>(spec: &'a JobSpec, extras: &'a [JobExtra]) -> Settings<'a> {
        settings_of!(spec, spec.cold, extras)
    }
}

fn settings(object: &mut Object, settings: &Settings) {
    object.boolean("usesTaskDependencies", settings.uses_task_dependencies);
    object.number("priority", settings.priority.into());
    object.boolean("allowTaskPreemption", settings.allow_task_preemption);
    object.number("maxParallelTasks", settings.max_parallel_tasks.into());
    object.object("constraints", |object| {
        object.span("maxWallClockTime", settings.constraints.max_wall_clock);
        object.number("maxTaskRetryCount", settings.constraints.max_task_retry_count.into());
    });
    environment(object, "commonEnvironmentSettings", settings.environment);
    special::write(object, settings.extras);
    special::pool_info(object, settings.pool, settings.extras);
    object.text(
        "onAllTasksComplete",
        match settings.on_all_tasks_complete {
            AllTasksAction::NoAction => "noaction",
            AllTasksAction::TerminateJob => "terminatejob",
        },
    );
    object.text(
        "onTaskFailure",
        match settings.on_task_failure {
            TaskFailureAction::NoAction => "noaction",
            TaskFailureAction::PerformExitOptionsJobAction => "performexitoptionsjobaction",
        },
    );
}

/// What the jobs of a schedule will be: a job without what only one that is there has.
pub fn write_spec(object: &mut Object, spec: &JobSpec, extras: &[JobExtra]) {
    object.maybe_text("displayName", spec.cold.display_name.as_deref());
    settings(object, &Settings::of_spec(spec, extras));
    metadata(object, &spec.cold.metadata);
    object.echo(&spec.cold.echo);
}

/// Tasks by state, and the slots they need.
pub fn write_counts(object: &mut Object, counts: &TaskCounts) {
    object.object("taskCounts", |object| {
        object.count("active", counts.active);
        object.count("running", counts.running);
        object.count("completed", counts.succeeded + counts.failed);
        object.count("succeeded", counts.succeeded);
        object.count("failed", counts.failed);
    });
    object.object("taskSlotCounts", |object| {
        object.count("active", counts.active_slots);
        object.count("running", counts.running_slots);
        object.count("completed", counts.succeeded_slots + counts.failed_slots);
        object.count("succeeded", counts.succeeded_slots);
        object.count("failed", counts.failed_slots);
    });
}
