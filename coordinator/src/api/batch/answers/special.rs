//! What a job is made with beyond its spec, and what became of its preparation and release, as clients read it
//! (`jobs-and-tasks.md` §4, §8, §9).

use super::{environment, failure_info, pool, resource_files, result_text, task, user_identity};
use crate::api::batch::json::Object;
use crate::api::batch::views::{ChoreView, PreparedView};
use crate::state::{ChorePlace, ChoreRecord};
use lote_shared::model::{
    AutoPool, FailureInfo, JobExtra, ManagerTask, PoolId, PoolLifetime, PreparationTask, ReleaseTask,
    TaskConstraints, TaskResult, TaskSpec, task_directory,
};

/// The tasks among them.
pub fn write(object: &mut Object, extras: &[JobExtra]) {
    if let Some(task) = JobExtra::manager(extras) {
        object.object("jobManagerTask", |object| manager(object, task));
    }
    if let Some(task) = JobExtra::preparation(extras) {
        object.object("jobPreparationTask", |object| preparation(object, task));
    }
    if let Some(task) = JobExtra::release(extras) {
        object.object("jobReleaseTask", |object| release(object, task));
    }
}

/// Where tasks run: in the pool of this name, or in one that is made for them.
pub fn pool_info(object: &mut Object, pool: &PoolId, extras: &[JobExtra]) {
    object.object("poolInfo", |object| match JobExtra::auto_pool(extras) {
        None => object.text("poolId", pool.as_str()),
        Some(auto) => object.object("autoPoolSpecification", |object| auto_pool(object, auto)),
    });
}

fn auto_pool(object: &mut Object, auto: &AutoPool) {
    object.filled_text("autoPoolIdPrefix", &auto.prefix);
    object.text(
        "poolLifetimeOption",
        match auto.lifetime {
            PoolLifetime::Job => "job",
            PoolLifetime::JobSchedule => "jobschedule",
        },
    );
    object.boolean("keepAlive", auto.keep_alive);
    object.object("pool", |object| pool::write_spec(object, &auto.pool, &auto.extras));
}

fn spec(object: &mut Object, spec: &TaskSpec) {
    object.text("id", spec.id.as_str());
    object.maybe_text("displayName", spec.display_name.as_deref());
    object.text("commandLine", &spec.command_line);
    resource_files(object, &spec.resource_files);
    environment(object, "environmentSettings", &spec.environment);
    user_identity(object, &spec.user_identity);
    object.echo(&spec.echo);
}

fn constraints(object: &mut Object, constraints: &TaskConstraints) {
    object.object("constraints", |object| {
        object.span("maxWallClockTime", constraints.max_wall_clock);
        object.span("retentionTime", constraints.retention);
        object.number("maxTaskRetryCount", constraints.max_retry_count.into());
    });
}

fn manager(object: &mut Object, manager: &ManagerTask) {
    spec(object, &manager.spec);
    object.list("outputFiles", &manager.spec.output_files, task::output_file);
    object.object("constraints", |object| {
        object.span("maxWallClockTime", manager.max_wall_clock);
        object.span("retentionTime", manager.retention);
        object.maybe_number("maxTaskRetryCount", manager.max_retry_count.map(i64::from));
    });
    object.count("requiredSlots", manager.slots.into());
    object.boolean("killJobOnCompletion", manager.kill_job_on_completion);
    object.boolean("runExclusive", manager.run_exclusive);
    object.boolean("allowLowPriorityNode", manager.allow_low_priority_node);
}

fn preparation(object: &mut Object, task: &PreparationTask) {
    spec(object, &task.spec);
    constraints(object, &task.constraints);
    object.boolean("waitForSuccess", task.wait_for_success);
    object.boolean("rerunOnNodeRebootAfterSuccess", task.rerun_on_reboot);
}

fn release(object: &mut Object, task: &ReleaseTask) {
    spec(object, &task.spec);
    object.span("maxWallClockTime", task.max_wall_clock);
    object.span("retentionTime", task.retention);
}

/// Why a job could not be started at all.
pub fn scheduling_error(object: &mut Object, error: Option<&FailureInfo>) {
    super::failure(object, "schedulingError", error);
}

/// What became of preparation and release on a node.
pub fn write_prepared(object: &mut Object, base: &str, prepared: &PreparedView) {
    let chore = &prepared.preparation.record;
    let node_url = super::node::url(base, chore.pool.as_str(), &chore.node_id);
    object.text("poolId", chore.pool.as_str());
    object.text("nodeId", &chore.node_id);
    object.text("nodeUrl", &node_url);
    object.object("jobPreparationTaskExecutionInfo", |object| {
        execution(object, prepared, &prepared.preparation, &node_url);
        object.count("retryCount", chore.retry_count.into());
        object.maybe_time("lastRetryTime", chore.last_retry);
    });
    if let Some(release) = &prepared.release {
        object
            .object("jobReleaseTaskExecutionInfo", |object| execution(object, prepared, release, &node_url));
    }
}

fn execution(object: &mut Object, prepared: &PreparedView, chore: &ChoreView, node_url: &str) {
    let ChoreView { record, task } = chore;
    object.time("startTime", record.started.unwrap_or(record.given));
    object.maybe_time("endTime", record.ended);
    object.text("state", if record.is_open() { "running" } else { "completed" });
    let directory = task_directory(&prepared.job, task);
    object.text("taskRootDirectory", &directory);
    object.text("taskRootDirectoryUrl", &format!("{node_url}/files/{directory}"));
    object.maybe_number("exitCode", record.exit_code.map(i64::from));
    failure_info(object, record.failure.as_deref());
    object.maybe_text("result", result(record).map(result_text));
}

fn result(record: &ChoreRecord) -> Option<TaskResult> {
    match record.place {
        ChorePlace::Completed { result } => Some(result),
        _ => None,
    }
}
