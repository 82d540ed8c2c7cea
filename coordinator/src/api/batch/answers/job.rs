//! A job and its counts as clients read them (`jobs-and-tasks.md` §2, §4).

use super::{environment, metadata};
use crate::api::batch::json::Object;
use crate::api::batch::views::JobView;
use crate::state::TaskCounts;
use lote_shared::model::{AllTasksAction, TaskFailureAction};

pub fn write(object: &mut Object, base: &str, job: &JobView) {
    let record = &job.record;
    object.text("id", record.id.as_str());
    object.maybe_text("displayName", job.cold.display_name.as_deref());
    object.boolean("usesTaskDependencies", record.uses_task_dependencies);
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
    object.number("priority", record.priority.into());
    object.boolean("allowTaskPreemption", record.allow_task_preemption);
    object.number("maxParallelTasks", record.max_parallel_tasks.into());
    object.object("constraints", |object| {
        object.span("maxWallClockTime", record.constraints.max_wall_clock);
        object.number("maxTaskRetryCount", record.constraints.max_task_retry_count.into());
    });
    environment(object, "commonEnvironmentSettings", &job.cold.environment);
    object.object("poolInfo", |object| object.text("poolId", record.pool.as_str()));
    object.text(
        "onAllTasksComplete",
        match record.on_all_tasks_complete {
            AllTasksAction::NoAction => "noaction",
            AllTasksAction::TerminateJob => "terminatejob",
        },
    );
    object.text(
        "onTaskFailure",
        match record.on_task_failure {
            TaskFailureAction::NoAction => "noaction",
            TaskFailureAction::PerformExitOptionsJobAction => "performexitoptionsjobaction",
        },
    );
    metadata(object, &job.cold.metadata);
    object.object("executionInfo", |object| {
        object.time("startTime", record.created);
        object.maybe_time("endTime", record.ended);
        object.text("poolId", record.pool.as_str());
        object.maybe_text("terminateReason", record.terminate_reason.as_deref());
    });
    object.echo(&job.cold.echo);
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
