//! A task that waits for others is waiting for something, and one that is given out is waiting for nothing.

use super::{Before, Cluster, TaskPlace, ensure};

pub(super) fn check(_: &Before, cluster: &Cluster) -> Result<(), String> {
    for task in cluster.all_tasks() {
        let Some(job) = cluster.jobs.get(&task.job) else { continue };
        let open = job.dependencies.open_by_definition(task.key);
        let key = task.key;
        match task.place {
            TaskPlace::Dependent => {
                ensure(open, || format!("task {key} waits for others, all of which satisfied"))?;
                let watched = job.dependencies.watched(key);
                ensure(watched.is_some(), || format!("task {key} waits for others and watches none"))?;
            }
            // One that was ended while it waited never ran.
            TaskPlace::Completed { .. } if task.started.is_none() => {}
            _ => ensure(!open, || format!("task {key} is {:?} while it depends on others", task.place))?,
        }
    }
    Ok(())
}
