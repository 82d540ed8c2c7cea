//! At most one node holds a task, a preparation or a release, and the next attempt is given out only when nobody holds the one before
//! (`task-execution.md` §15.2). What is said here of records the simulator says of processes.
//!
//! Not a violation: an attempt of a *deleted* task that its node has not ended yet; a task added under the same name is
//! another task.

use super::super::cluster::Cluster;
use super::{Before, ensure};
use lote_shared::model::{NodeKey, TaskKey};
use std::collections::BTreeMap;

pub(super) fn check(before: &Before, cluster: &Cluster) -> Result<(), String> {
    let mut holders: BTreeMap<TaskKey, NodeKey> = BTreeMap::new();
    for node in cluster.all_nodes() {
        for held in cluster.attempts_on(node.key) {
            let task = held.attempt.task;
            if let Some(other) = holders.insert(task, node.key) {
                return Err(format!("task {task} is held by nodes {other} and {}", node.key));
            }
        }
    }
    for task in cluster.all_tasks() {
        let holder = holders.remove(&task.key);
        ensure(holder == task.held_by(), || {
            format!("task {} says {:?} holds it, the nodes say {holder:?}", task.key, task.held_by())
        })?;
        let seen = before.tasks.get(&task.key).filter(|_| before.every_step);
        if let Some(seen) = seen.filter(|seen| seen.attempt != task.attempt) {
            ensure(seen.held_by.is_none(), || {
                format!(
                    "task {} got attempt {} while {:?} held {}",
                    task.key, task.attempt, seen.held_by, seen.attempt
                )
            })?;
        }
    }
    for chore in cluster.all_chores().filter(|chore| chore.is_out()) {
        let holder = holders.remove(&chore.key);
        ensure(holder == Some(chore.node), || {
            format!("chore {} is out on node {}, the nodes say {holder:?}", chore.key, chore.node)
        })?;
    }
    ensure(holders.is_empty(), || format!("nodes hold tasks that do not exist: {holders:?}"))
}
