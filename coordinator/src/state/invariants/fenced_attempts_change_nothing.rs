//! Attempt numbers only rise, one attempt belongs to one node, and an attempt that came back to the queue never runs
//! again under its number (`task-execution.md` §15.1, §15.3).
//!
//! Not a violation: an attempt whose lease ran out may still *complete* its task before the next one is given out.

use super::super::cluster::Cluster;
use super::super::records::TaskPlace;
use super::{Before, ensure};

pub(super) fn check(before: &Before, cluster: &Cluster) -> Result<(), String> {
    for (key, seen) in &before.tasks {
        let Some(task) = cluster.task(*key) else { continue };
        ensure(task.attempt >= seen.attempt, || {
            format!("task {key} went back from attempt {} to {}", seen.attempt, task.attempt)
        })?;
        if task.attempt != seen.attempt {
            continue;
        }
        ensure(task.last_node == seen.last_node, || {
            format!(
                "attempt {} of task {key} moved from {:?} to {:?}",
                task.attempt, seen.last_node, task.last_node
            )
        })?;
        let is_given = |place| {
            matches!(
                place,
                TaskPlace::Assigned { .. } | TaskPlace::Preparing { .. } | TaskPlace::Running { .. }
            )
        };
        let (was_out, is_out) = (is_given(seen.place), is_given(task.place));
        ensure(was_out || !is_out, || {
            format!(
                "attempt {} of task {key} came back from {:?} to {:?}",
                task.attempt, seen.place, task.place
            )
        })?;
    }
    Ok(())
}
