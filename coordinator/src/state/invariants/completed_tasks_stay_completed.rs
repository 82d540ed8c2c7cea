//! A completed task stays as it is until somebody reactivates or deletes it, which shows in its version
//! (`task-execution.md` §15.5): no late report, lost node or cursor reopens a closed record.

use super::super::cluster::Cluster;
use super::super::records::TaskPlace;
use super::{Before, ensure};

pub(super) fn check(before: &Before, cluster: &Cluster) -> Result<(), String> {
    for (key, seen) in &before.tasks {
        let (TaskPlace::Completed { .. }, Some(task)) = (seen.place, cluster.task(*key)) else { continue };
        let kept = task.place == seen.place && task.state_changed == seen.state_changed;
        ensure(kept || task.version != seen.version, || {
            format!("task {key} was {:?} and is {:?} without having been reactivated", seen.place, task.place)
        })?;
    }
    Ok(())
}
