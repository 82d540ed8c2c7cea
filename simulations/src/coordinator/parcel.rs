//! Builds what hosts are sent from hot state and cold rows, as the real shell does: task chunks and node grants.

use super::disk::Disk;
use lote_coordinator::state::{Cluster, keys};
use lote_shared::model::{AttemptRef, JobKey, NodeKey, TaskSpec};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{JobPart, NodeGrant, TaskChunk, TaskLaunch};
use std::collections::BTreeMap;

/// Encoding of cold rows.
const COLD_VERSION: u8 = 1;

/// The chunk for attempts given to a node; attempts that no longer stand are left out.
pub fn chunk(cluster: &Cluster, disk: &Disk, node: NodeKey, attempts: &[AttemptRef]) -> Option<TaskChunk> {
    let mut chunk = TaskChunk { node, jobs: Vec::new(), tasks: Vec::new() };
    let mut job_index: BTreeMap<JobKey, u32> = BTreeMap::new();
    for attempt in attempts {
        let Some(task) = cluster.task(attempt.task).filter(|task| task.attempt == attempt.attempt) else {
            continue;
        };
        let spec = disk.get(&keys::task_cold(task.account, task.key));
        let Some(spec) =
            spec.and_then(|bytes| codec::decode::<TaskSpec>(COLD_VERSION, bytes, codec::LIMIT_DEFAULT).ok())
        else {
            continue;
        };
        let Some(job) = cluster.job(task.job) else { continue };
        let environment = cluster.job_cold(task.job).map(|cold| cold.environment.clone()).unwrap_or_default();
        let jobs = &mut chunk.jobs;
        let job = *job_index.entry(task.job).or_insert_with(|| {
            jobs.push(JobPart { job_id: job.id.to_string(), environment });
            jobs.len() as u32 - 1
        });
        let retries = task.constraints.max_retry_count;
        chunk.tasks.push(TaskLaunch {
            attempt: *attempt,
            job,
            slots: task.slots,
            wall_clock_ms: task.constraints.max_wall_clock.as_limit_ms(),
            retention_ms: task.constraints.retention.as_limit_ms(),
            last_try: retries >= 0 && task.retry_count >= retries.unsigned_abs(),
            spec,
        });
    }
    (!chunk.tasks.is_empty()).then_some(chunk)
}

/// What the host of a node is told to carry.
pub fn grant(cluster: &Cluster, node: NodeKey) -> Option<NodeGrant> {
    let record = cluster.node(node)?;
    let pool = cluster.pool(record.pool)?;
    Some(NodeGrant {
        node,
        node_id: record.id.clone(),
        pool_id: pool.id.to_string(),
        account: record.account,
        account_name: cluster.account(record.account)?.name.clone(),
        account_url: "http://simulated".to_owned(),
        dedicated: record.dedicated,
        slots: record.slots,
        cores: 1,
        start_task: cluster.pool_cold(record.pool).and_then(|cold| cold.start_task.clone()),
    })
}
