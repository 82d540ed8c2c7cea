//! Once a job is terminating, completed or being deleted, no task of it is given out or starts (`jobs-and-tasks.md`
//! §3.1); nor while it is disabled.

use super::super::cluster::Cluster;
use super::super::records::TaskPlace;
use super::{Before, ensure};
use lote_shared::model::JobState;

pub(super) fn check(before: &Before, cluster: &Cluster) -> Result<(), String> {
    for (key, seen) in &before.tasks {
        let Some(task) = cluster.task(*key) else { continue };
        let state = before.jobs.get(&task.job).copied();
        let ended = matches!(state, Some(JobState::Terminating | JobState::Completed | JobState::Deleting));
        let stopped = before.every_step && state == Some(JobState::Disabled);
        if !(ended || stopped) {
            continue;
        }
        let running = |place| matches!(place, TaskPlace::Running { .. });
        let started = task.attempt != seen.attempt || (running(task.place) && !running(seen.place));
        ensure(!started, || format!("task {key} started although its job {} was {state:?}", task.job))?;
    }
    Ok(())
}
