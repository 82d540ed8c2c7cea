//! A pool as clients read it (`pools-and-nodes.md` §4).

use super::{metadata, packages, start_task};
use crate::api::batch::json::{Object, name_value};
use crate::api::batch::views::PoolView;
use lote_shared::model::{AllocationState, FillType, JobOrder, PoolExtra, PoolSpec};

/// Versions before this one call slots `maxTasksPerNode`.
const SLOTS_RENAMED: &str = "2021-06-01";

pub fn write(object: &mut Object, base: &str, version: &str, pool: &PoolView) {
    let record = &pool.record;
    object.text("id", record.id.as_str());
    object.maybe_text("displayName", pool.cold.display_name.as_deref());
    object.text("url", &format!("{base}/pools/{}", record.id));
    object.text("eTag", &record.version.etag_text());
    object.time("lastModified", record.version.modified);
    object.time("creationTime", record.created);
    object.text("state", record.state.as_str());
    object.time("stateTransitionTime", record.state_changed);
    object.text("allocationState", record.allocation.as_str());
    object.time("allocationStateTransitionTime", record.allocation_changed);
    object.text("vmSize", &record.vm_size);
    object.span("resizeTimeout", record.resize_timeout);
    // Only while steady (§4.3).
    if record.allocation == AllocationState::Steady {
        object.list("resizeErrors", &record.resize_errors, |object, error| {
            object.text("code", &error.code);
            object.text("message", &error.message);
            object.list("values", &error.values, name_value);
        });
    }
    object.count("currentDedicatedNodes", pool.current_dedicated.into());
    object.count("currentLowPriorityNodes", pool.current_low_priority.into());
    object.count("targetDedicatedNodes", record.target_dedicated.into());
    object.count("targetLowPriorityNodes", record.target_low_priority.into());
    object.boolean("enableAutoScale", false);
    object.boolean("enableInterNodeCommunication", record.inter_node_communication);
    if let Some(task) = &pool.cold.start_task {
        start_task(object, task);
    }
    let slots_name = if version < SLOTS_RENAMED { "maxTasksPerNode" } else { "taskSlotsPerNode" };
    object.count(slots_name, record.slots_per_node.into());
    object.object("taskSchedulingPolicy", |object| {
        object.text("nodeFillType", fill_type_text(record.fill_type));
        object.text("jobDefaultOrder", job_order_text(record.job_order));
    });
    packages(object, PoolExtra::packages(&pool.extras));
    metadata(object, &pool.cold.metadata);
    object.echo(&pool.cold.echo);
}

/// What a pool that is made for jobs will be: a pool without what only one that is there has.
pub fn write_spec(object: &mut Object, spec: &PoolSpec, extras: &[PoolExtra]) {
    object.maybe_text("displayName", spec.cold.display_name.as_deref());
    object.text("vmSize", &spec.vm_size);
    object.span("resizeTimeout", spec.resize_timeout);
    object.count("targetDedicatedNodes", spec.target_dedicated.into());
    object.count("targetLowPriorityNodes", spec.target_low_priority.into());
    object.boolean("enableAutoScale", false);
    object.boolean("enableInterNodeCommunication", spec.inter_node_communication);
    if let Some(task) = &spec.cold.start_task {
        start_task(object, task);
    }
    object.count("taskSlotsPerNode", spec.task_slots_per_node.into());
    object.object("taskSchedulingPolicy", |object| {
        object.text("nodeFillType", fill_type_text(spec.fill_type));
        object.text("jobDefaultOrder", job_order_text(spec.job_order));
    });
    packages(object, PoolExtra::packages(extras));
    metadata(object, &spec.cold.metadata);
    object.echo(&spec.cold.echo);
}

fn fill_type_text(fill_type: FillType) -> &'static str {
    match fill_type {
        FillType::Spread => "spread",
        FillType::Pack => "pack",
    }
}

fn job_order_text(order: JobOrder) -> &'static str {
    match order {
        JobOrder::None => "none",
        JobOrder::CreationTime => "creationtime",
    }
}
