//! Accounts stay within their quotas of pools and active jobs, jobs within `maxParallelTasks`, and what is remembered
//! stays bounded.
//!
//! Not a violation: more tasks out than `maxParallelTasks` after it was lowered; then nothing more is given out.

use super::super::cluster::Cluster;
use super::super::idempotency::ANSWERS_MAX;
use super::super::jobs::JOBS_ACTIVE_MAX;
use super::super::nodes::DEPARTED_MAX;
use super::super::pools::POOLS_MAX;
use super::{Before, ensure};

pub(super) fn check(before: &Before, cluster: &Cluster) -> Result<(), String> {
    for (id, account) in &cluster.accounts {
        let pools = account.pools.len();
        ensure(pools <= POOLS_MAX, || format!("account {id} has {pools} pools"))?;
        let active = account.jobs_active;
        ensure(active <= JOBS_ACTIVE_MAX, || format!("account {id} has {active} active jobs"))?;
    }
    for (key, job) in &cluster.jobs {
        let Ok(max) = u64::try_from(job.record.max_parallel_tasks) else { continue };
        let given = job.held.iter().filter(|task| {
            let attempt = cluster.task(**task).map(|task| task.attempt);
            before.every_step && before.tasks.get(task).map(|seen| seen.attempt) != attempt
        });
        let given = given.count();
        ensure(given == 0 || job.live <= max, || {
            format!("job {key} got {given} tasks more and has {} of {max}", job.live)
        })?;
    }
    let answers = cluster.answers_remembered();
    ensure(answers <= ANSWERS_MAX, || format!("{answers} answers are remembered"))?;
    let departed = cluster.departed.len();
    ensure(departed <= DEPARTED_MAX, || format!("{departed} departed nodes are remembered"))
}
