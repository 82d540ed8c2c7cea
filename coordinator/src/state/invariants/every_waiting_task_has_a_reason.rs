//! Every active task can say why it does not run, no other task claims to wait, and a task that only waits for its
//! dispatcher is really in the queue the dispatcher reads.

use super::super::cluster::Cluster;
use super::super::query::WaitReason;
use super::{Before, ensure};
use lote_shared::model::TaskState;
use std::collections::BTreeSet;

pub(super) fn check(_: &Before, cluster: &Cluster) -> Result<(), String> {
    let mut queued = BTreeSet::new();
    for pool in cluster.all_pools() {
        let Some(view) = cluster.pool_ready(pool.key) else { continue };
        for job in view.jobs_by_use() {
            queued.extend(view.tasks(job.job).flat_map(|(_, tasks)| tasks.iter().copied()));
            queued.extend(view.manager(job.job).map(|(task, _)| task));
        }
    }
    for task in cluster.all_tasks() {
        let reason = cluster.explain_task(task.key);
        let waits = matches!(task.state(), TaskState::Active | TaskState::Preparing);
        ensure(reason.is_some() == waits, || {
            format!("task {} is {} and waits because of {reason:?}", task.key, task.state().as_str())
        })?;
        if reason == Some(WaitReason::Dispatching) {
            ensure(queued.contains(&task.key), || format!("task {} is in no queue", task.key))?;
        }
    }
    Ok(())
}
