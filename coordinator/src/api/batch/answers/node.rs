//! A node, and the counts of nodes, as clients read them (`pools-and-nodes.md` §15).

use super::{failure_info, result_text, start_task, task};
use crate::api::batch::json::{Object, name_value};
use crate::api::batch::views::{NodeView, RecentView};
use lote_shared::model::{NodeState, SchedulingState, StartTaskInfo, StartTaskState};
use serde_json::Value;

pub fn url(base: &str, pool: &str, node: &str) -> String {
    format!("{base}/pools/{pool}/nodes/{node}")
}

/// What tasks name to be placed on a node.
pub fn affinity_id(node: &str) -> String {
    format!("TVM:{node}")
}

pub fn write(object: &mut Object, base: &str, node: &NodeView) {
    let record = &node.record;
    object.text("id", &record.id);
    object.text("url", &url(base, node.pool.as_str(), &record.id));
    object.text("state", record.state.as_str());
    object.text(
        "schedulingState",
        match record.scheduling {
            SchedulingState::Enabled => "enabled",
            SchedulingState::Disabled => "disabled",
        },
    );
    object.time("stateTransitionTime", record.state_changed);
    object.time("lastBootTime", record.booted.unwrap_or(record.allocated));
    object.time("allocationTime", record.allocated);
    object.text("ipAddress", &node.address);
    object.text("ipv6Address", "");
    object.text("affinityId", &affinity_id(&record.id));
    object.text("vmSize", &node.vm_size);
    object.count("totalTasksRun", record.tasks_run.into());
    object.count("runningTasksCount", node.running.into());
    object.count("runningTaskSlotsCount", node.running_slots.into());
    object.count("totalTasksSucceeded", record.tasks_succeeded.into());
    object.list("recentTasks", &node.recent, |object, recent| write_recent(object, base, recent));
    if let Some(task) = &node.start_task {
        start_task(object, task);
    }
    if let Some(info) = &record.start_task {
        object.object("startTaskInfo", |object| start_task_info(object, info));
    }
    object.list("errors", &record.errors, |object, error| {
        object.text("code", &error.code);
        object.text("message", &error.message);
        object.list("errorDetails", &error.details, name_value);
    });
    object.boolean("isDedicated", record.dedicated);
    object.object("nodeAgentInfo", |object| {
        object.text("version", &node.software);
        object.time("lastUpdateTime", record.booted.unwrap_or(record.allocated));
    });
    object.object("virtualMachineInfo", |object| {
        if let Some(image) = image_reference(&node.pool_echo) {
            object.echo(&image);
        }
    });
}

/// The pool's `imageReference`, as an object with that one member.
fn image_reference(pool_echo: &str) -> Option<String> {
    let echo: Value = serde_json::from_str(pool_echo).ok()?;
    let image = echo.get("virtualMachineConfiguration")?.get("imageReference")?;
    Some(serde_json::json!({ "imageReference": image }).to_string())
}

fn write_recent(object: &mut Object, base: &str, recent: &RecentView) {
    let (job, id) = (recent.job.as_str(), recent.record.id.as_str());
    object.text("taskUrl", &task::url(base, job, id));
    object.text("jobId", job);
    object.text("taskId", id);
    object.text("taskState", recent.record.state().as_str());
    object.object("executionInfo", |object| task::execution_info(object, &recent.record));
}

/// The exact value on the wire.
pub fn start_task_state(info: &StartTaskInfo) -> &'static str {
    match info.state {
        StartTaskState::Running => "running",
        StartTaskState::Completed => "completed",
    }
}

fn start_task_info(object: &mut Object, info: &StartTaskInfo) {
    object.text("state", start_task_state(info));
    object.time("startTime", info.start_time);
    object.maybe_time("endTime", info.end_time);
    object.maybe_number("exitCode", info.exit_code.map(i64::from));
    failure_info(object, info.failure.as_ref());
    object.count("retryCount", info.retry_count.into());
    object.maybe_time("lastRetryTime", info.last_retry_time);
    object.maybe_text("result", info.result.map(result_text));
}

/// States that a node here is never in; newer clients require their counts.
const STATES_NOT_OURS: [&str; 3] = ["upgradingOS", "deallocated", "deallocating"];

/// The counts of one kind of node; members are in camel case, other than the states themselves.
pub fn write_counts(object: &mut Object, count: impl Fn(NodeState) -> u32) {
    let mut total = 0;
    for state in NodeState::ALL {
        let name = match state {
            NodeState::StartTaskFailed => "startTaskFailed",
            NodeState::LeavingPool => "leavingPool",
            NodeState::WaitingForStartTask => "waitingForStartTask",
            other => other.as_str(),
        };
        let nodes = u64::from(count(state));
        object.count(name, nodes);
        total += nodes;
    }
    for name in STATES_NOT_OURS {
        object.count(name, 0);
    }
    object.count("total", total);
}
