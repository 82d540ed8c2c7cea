//! Turns committed assignments into what a host is sent: task chunks and node grants.
//!
//! Hot parts come from the state, cold parts (commands, files, environments) from the store; what several tasks
//! share is sent once. A resource file that names a container of the account's own storage gets a URL with a SAS
//! here, so nodes never hold an account key.

use crate::api::auth::blob::sas::{self, ContainerSas};
use crate::engine::Engine;
use crate::scheduling::Catalogue;
use crate::state::{Cluster, ROW_VERSION, keys};
use lote_shared::model::{
    AccountId, AttemptRef, JobKey, NodeKey, ResourceFile, ResourceSource, StartTask, TaskSpec, Timestamp,
};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{JobPart, LeaderMessage, NodeGrant, TaskChunk, TaskLaunch};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a SAS made for a node is good: longer than any sensible wait in the node's queue.
const SAS_VALID_MS: u64 = 24 * 3_600_000;

#[derive(Debug)]
struct Endpoints {
    /// Batch endpoint as nodes are told it, without a final slash.
    batch: String,
    /// Blob endpoint without the account and without a final slash.
    blob: String,
    catalogue: Catalogue,
}

/// Makes messages for hosts; clone freely.
#[derive(Debug, Clone)]
pub struct ChunkBuilder(Arc<Endpoints>);

/// A task's hot part, copied out under the read lock.
struct Hot {
    launch: AttemptRef,
    account: AccountId,
    job: JobKey,
    slots: u16,
    wall_clock_ms: Option<u64>,
    retention_ms: Option<u64>,
    last_try: bool,
}

impl ChunkBuilder {
    pub fn new(batch_endpoint: &str, blob_endpoint: &str) -> ChunkBuilder {
        let trim = |text: &str| text.trim_end_matches('/').to_owned();
        ChunkBuilder(Arc::new(Endpoints {
            batch: trim(batch_endpoint),
            blob: trim(blob_endpoint),
            catalogue: Catalogue::default(),
        }))
    }

    /// The chunk for attempts that were just assigned to `node`; `None` if none of them stands any more. Reads the
    /// store, so it runs on a blocking thread.
    pub async fn build(
        &self,
        engine: &Engine,
        node: NodeKey,
        attempts: Vec<AttemptRef>,
    ) -> Option<LeaderMessage> {
        let (this, engine) = (self.clone(), engine.clone());
        let chunk = tokio::task::spawn_blocking(move || this.chunk(&engine, node, &attempts)).await.ok()?;
        (!chunk.tasks.is_empty()).then_some(LeaderMessage::Chunk(chunk))
    }

    /// As [`ChunkBuilder::build`], on this thread.
    pub fn chunk(&self, engine: &Engine, node: NodeKey, attempts: &[AttemptRef]) -> TaskChunk {
        let (hot, mut parts) = engine.read(|cluster| {
            let hot: Vec<Hot> = attempts.iter().filter_map(|attempt| hot(cluster, *attempt)).collect();
            let jobs: BTreeSet<JobKey> = hot.iter().map(|task| task.job).collect();
            let part = |job: JobKey| {
                let job_id = cluster.job(job)?.id.to_string();
                Some((job, JobPart { job_id, environment: cluster.job_cold(job)?.environment.clone() }))
            };
            let parts: BTreeMap<JobKey, JobPart> = jobs.into_iter().filter_map(part).collect();
            (hot, parts)
        });
        let mut chunk = TaskChunk { node, jobs: Vec::new(), tasks: Vec::new() };
        let mut job_index: BTreeMap<JobKey, u32> = BTreeMap::new();
        for task in hot {
            let Some(mut spec) =
                read_cold::<TaskSpec>(engine, &keys::task_cold(task.account, task.launch.task))
            else {
                tracing::error!(task = %task.launch, "the task's specification cannot be read; it stays assigned");
                continue;
            };
            self.sign_auto_storage(engine, task.account, &mut spec.resource_files);
            if let Some(part) = parts.remove(&task.job) {
                job_index.insert(task.job, chunk.jobs.len() as u32);
                chunk.jobs.push(part);
            }
            let Some(job) = job_index.get(&task.job).copied() else { continue };
            chunk.tasks.push(TaskLaunch {
                attempt: task.launch,
                job,
                slots: task.slots,
                wall_clock_ms: task.wall_clock_ms,
                retention_ms: task.retention_ms,
                last_try: task.last_try,
                spec,
            });
        }
        chunk
    }

    /// What the host of `node` is told to carry; `None` once the node is gone.
    pub fn grant(&self, engine: &Engine, node: NodeKey) -> Option<NodeGrant> {
        let (record, pool_id, account_name, cores, start_task) = engine.read(|cluster| {
            let node = cluster.node(node)?.clone();
            let pool = cluster.pool(node.pool)?;
            let account = cluster.account(node.account)?.name.clone();
            let cores = self.0.catalogue.size(&pool.vm_size).cores;
            let start_task = cluster.pool_cold(node.pool)?.start_task.clone();
            Some((node, pool.id.to_string(), account, cores, start_task))
        })?;
        let start_task = start_task.map(|mut start: StartTask| {
            self.sign_auto_storage(engine, record.account, &mut start.resource_files);
            start
        });
        Some(NodeGrant {
            node,
            node_id: record.id,
            pool_id,
            account: record.account,
            account_url: self.0.batch.clone(),
            account_name,
            dedicated: record.dedicated,
            slots: record.slots,
            cores,
            start_task,
        })
    }

    /// The prefixes of the URLs of every account's storage at every coordinator, as hosts are told them.
    pub fn storage_endpoints(&self, engine: &Engine) -> Vec<String> {
        engine.read(|cluster| {
            let told =
                cluster.coordinators().filter_map(|member| Some(member.endpoints.as_ref()?.blob.clone()));
            let bases: BTreeSet<String> = told.chain([self.0.blob.clone()]).collect();
            let accounts = cluster.accounts().map(|(_, record)| &record.name);
            accounts.flat_map(|name| bases.iter().map(move |base| format!("{base}/{name}"))).collect()
        })
    }

    fn sign_auto_storage(&self, engine: &Engine, account: AccountId, files: &mut [ResourceFile]) {
        for file in files {
            if let ResourceSource::AutoStorage { container, prefix } = &file.source {
                let now = crate::clock::wall();
                let url = self.container_url(engine, account, container, now);
                file.source = ResourceSource::ContainerUrl { url, prefix: prefix.clone() };
            }
        }
    }

    /// A URL of a container of the account's own storage that may be read and listed.
    fn container_url(&self, engine: &Engine, account: AccountId, container: &str, now: Timestamp) -> String {
        let record = engine.read(|cluster| cluster.account(account).cloned());
        let (name, key) = record
            .map(|record| (record.name, record.keys.into_iter().next().unwrap_or_default()))
            .unwrap_or_default();
        let query = sas::sign_container(&ContainerSas {
            account: &name,
            key: &key,
            container,
            permissions: "rl",
            expiry: now.plus_ms(SAS_VALID_MS),
            protocol: None,
        });
        format!("{}/{name}/{container}?{query}", self.0.blob)
    }
}

fn hot(cluster: &Cluster, attempt: AttemptRef) -> Option<Hot> {
    let task = cluster.task(attempt.task).filter(|task| task.attempt == attempt.attempt)?;
    let retries = task.constraints.max_retry_count;
    Some(Hot {
        launch: attempt,
        account: task.account,
        job: task.job,
        slots: task.slots,
        wall_clock_ms: task.constraints.max_wall_clock.as_limit_ms(),
        retention_ms: task.constraints.retention.as_limit_ms(),
        last_try: retries >= 0 && task.retry_count >= retries.unsigned_abs(),
    })
}

/// Reads a cold row; a row that is missing or damaged is `None` and logged by whoever needs it.
pub fn read_cold<T: serde::de::DeserializeOwned>(engine: &Engine, key: &[u8]) -> Option<T> {
    let bytes = engine.cold(key).ok()??;
    codec::decode(ROW_VERSION, &bytes, codec::LIMIT_DEFAULT).ok()
}
