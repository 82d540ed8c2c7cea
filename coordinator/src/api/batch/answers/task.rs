//! A task as clients read it (`jobs-and-tasks.md` §5.1).

use super::{environment, failure_info, resource_files, result_text, ties, user_identity};
use crate::api::batch::json::{Object, Select};
use crate::api::batch::views::{Place, WholeTask};
use crate::state::{TaskPlace, TaskRecord};
use lote_shared::model::{OutputFile, TaskResult, TaskSpec, UploadCondition, task_directory};

/// Members that only the cold part of a task has.
const COLD: [&str; 7] = [
    "displayName",
    "commandLine",
    "resourceFiles",
    "outputFiles",
    "environmentSettings",
    "affinityInfo",
    "userIdentity",
];

/// Whether the cold part is needed for what the client selected.
pub fn needs_cold(select: Option<&Select>) -> bool {
    select.is_none_or(|select| COLD.iter().any(|name| select.wants(name)))
}

pub fn url(base: &str, job: &str, task: &str) -> String {
    format!("{base}/jobs/{job}/tasks/{task}")
}

pub fn write(object: &mut Object, base: &str, whole: &WholeTask) {
    let record = &whole.task.record;
    object.text("id", record.id.as_str());
    object.text("url", &url(base, whole.task.job.as_str(), record.id.as_str()));
    object.text("eTag", &record.version.etag_text());
    object.time("lastModified", record.version.modified);
    object.time("creationTime", record.created);
    object.text("state", record.state().as_str());
    object.time("stateTransitionTime", record.state_changed);
    if let Some((state, at)) = record.previous_state {
        object.text("previousState", state.as_str());
        object.time("previousStateTransitionTime", at);
    }
    if let Some(spec) = &whole.spec {
        write_spec(object, spec);
    }
    if let Some(given) = &whole.task.ties {
        ties::write(object, given);
    }
    object.object("constraints", |object| {
        object.span("maxWallClockTime", record.constraints.max_wall_clock);
        object.span("retentionTime", record.constraints.retention);
        object.number("maxTaskRetryCount", record.constraints.max_retry_count.into());
    });
    object.count("requiredSlots", record.slots.into());
    object.object("executionInfo", |object| execution_info(object, record));
    object.object("nodeInfo", |object| {
        if let Some(place) = &whole.task.place {
            let directory = task_directory(&whole.task.job, &record.id);
            node_info(object, base, place, &directory);
        }
    });
}

fn write_spec(object: &mut Object, spec: &TaskSpec) {
    object.maybe_text("displayName", spec.display_name.as_deref());
    object.text("commandLine", &spec.command_line);
    resource_files(object, &spec.resource_files);
    object.list("outputFiles", &spec.output_files, output_file);
    environment(object, "environmentSettings", &spec.environment);
    if !spec.affinity_id.is_empty() {
        object.object("affinityInfo", |object| object.text("affinityId", &spec.affinity_id));
    }
    user_identity(object, &spec.user_identity);
    object.echo(&spec.echo);
}

pub(super) fn output_file(object: &mut Object, file: &OutputFile) {
    object.text("filePattern", &file.pattern);
    object.object("destination", |object| {
        object.object("container", |object| {
            object.filled_text("path", &file.destination.path);
            object.text("containerUrl", &file.destination.url);
            object.list("uploadHeaders", &file.destination.headers, super::name_value);
        });
    });
    object.object("uploadOptions", |object| {
        object.text(
            "uploadCondition",
            match file.condition {
                UploadCondition::TaskSuccess => "tasksuccess",
                UploadCondition::TaskFailure => "taskfailure",
                UploadCondition::TaskCompletion => "taskcompletion",
            },
        );
    });
}

/// The result, once the task is completed.
pub fn result(record: &TaskRecord) -> Option<TaskResult> {
    match record.place {
        TaskPlace::Completed { result } => Some(result),
        _ => None,
    }
}

pub fn execution_info(object: &mut Object, record: &TaskRecord) {
    object.maybe_time("startTime", record.started);
    object.maybe_time("endTime", record.ended);
    object.maybe_number("exitCode", record.exit_code.map(i64::from));
    failure_info(object, record.failure.as_deref());
    object.count("retryCount", record.retry_count.into());
    object.maybe_time("lastRetryTime", record.last_retry);
    object.count("requeueCount", record.requeue_count.into());
    object.maybe_time("lastRequeueTime", record.last_requeue);
    object.maybe_text("result", result(record).map(result_text));
}

fn node_info(object: &mut Object, base: &str, place: &Place, directory: &str) {
    let node_url = super::node::url(base, place.pool.as_str(), &place.node);
    object.text("affinityId", &super::node::affinity_id(&place.node));
    object.text("nodeUrl", &node_url);
    object.text("poolId", place.pool.as_str());
    object.text("nodeId", &place.node);
    object.text("taskRootDirectory", directory);
    object.text("taskRootDirectoryUrl", &format!("{node_url}/files/{directory}"));
}
