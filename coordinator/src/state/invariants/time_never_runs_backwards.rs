//! The clock of the state never goes back, no record is younger than it, a task's `stateTransitionTime` only rises
//! (`jobs-and-tasks.md` §11), and nothing ends before it starts.

use super::super::cluster::Cluster;
use super::{Before, ensure};

pub(super) fn check(before: &Before, cluster: &Cluster) -> Result<(), String> {
    let now = cluster.clock();
    ensure(now >= before.clock, || format!("the clock went back from {} to {now}", before.clock))?;
    for task in cluster.all_tasks() {
        let key = task.key;
        let known =
            [Some(task.created), Some(task.state_changed), task.started, task.ended, task.last_requeue];
        for time in known.into_iter().flatten() {
            ensure(time <= now, || format!("task {key} knows {time}, the clock says {now}"))?;
            ensure(time >= task.created, || format!("task {key} knows {time}, made {}", task.created))?;
        }
        if let (Some(started), Some(ended)) = (task.started, task.ended) {
            ensure(started <= ended, || format!("task {key} ended {ended} before it started {started}"))?;
        }
        if let Some((state, since)) = task.previous_state {
            ensure(since <= task.state_changed, || {
                format!("task {key} was {state:?} since {since}, later than now")
            })?;
        }
        if let Some(seen) = before.tasks.get(&key) {
            ensure(task.state_changed >= seen.state_changed, || format!("task {key} changed backwards"))?;
        }
    }
    for job in cluster.all_jobs() {
        let times = [Some(job.created), Some(job.state_changed), job.ended];
        ensure(times.into_iter().flatten().all(|time| time <= now), || format!("job {} is ahead", job.key))?;
    }
    for node in cluster.all_nodes() {
        ensure(node.state_changed <= now && node.allocated <= now, || format!("node {} is ahead", node.key))?;
    }
    Ok(())
}
