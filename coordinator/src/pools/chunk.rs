//! Turns committed assignments into what a host is sent: task chunks and node grants.
//!
//! Hot parts come from the state, cold parts (commands, files, environments) from the store; what several tasks
//! share is sent once. A resource file that names a container of the account's own storage gets a URL with a SAS
//! here, so nodes never hold an account key.

use super::packages;
use crate::api::auth::blob::sas::{self, ContainerSas};
use crate::api::auth::token::{self, JobToken};
use crate::engine::Engine;
use crate::scheduling::{Catalogue, Parcel};
use crate::state::{ROW_VERSION, keys};
use lote_shared::model::{
    AccountId, AttemptRef, EnvironmentSetting, JobKey, NodeKey, ResourceFile, ResourceSource, StartTask,
    TaskExtra, TaskSpec, Timestamp,
};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{LeaderMessage, NodeGrant, TaskChunk};
use std::collections::BTreeSet;
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
        let parcel = engine.read(|cluster| Parcel::of(cluster, attempts));
        parcel.into_chunk(node, |one| {
            let cold = match &one.spec {
                Some(spec) => Some((spec.clone(), Vec::new())),
                None => task_spec(engine, one.account, one.launch, one.job),
            };
            let Some((mut spec, extras)) = cold else {
                tracing::error!(task = %one.launch, "the task's specification cannot be read; it stays assigned");
                return None;
            };
            self.sign_auto_storage(engine, one.account, &mut spec.resource_files);
            let packages = TaskExtra::packages(&extras);
            let Some(packages) = engine.read(|cluster| packages::meant(cluster, node, packages)) else {
                tracing::warn!(
                    task = %one.launch, %node,
                    "the node's host is of a build without application packages; the task waits for its upgrade"
                );
                return None;
            };
            let url = |container: &str, blob: &str| self.blob_url(engine, one.account, container, blob);
            packages::add(packages, &mut spec.resource_files, &mut spec.environment, url);
            Some(spec)
        })
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
            match engine.read(|cluster| packages::meant(cluster, node, &[])) {
                Some(packages) => {
                    let url =
                        |container: &str, blob: &str| self.blob_url(engine, record.account, container, blob);
                    packages::add(packages, &mut start.resource_files, &mut start.environment, url);
                }
                None => tracing::warn!(%node, "the node's host is of a build without application packages"),
            }
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

    /// A URL of a blob of the account's own storage that may be read.
    fn blob_url(&self, engine: &Engine, account: AccountId, container: &str, blob: &str) -> String {
        let url = self.container_url(engine, account, container, crate::clock::wall());
        url.replacen('?', &format!("/{blob}?"), 1)
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

/// A task's cold part, with a token for its job if it is to have one, and what it has beyond its spec.
fn task_spec(
    engine: &Engine,
    account: AccountId,
    attempt: AttemptRef,
    job: JobKey,
) -> Option<(TaskSpec, Vec<TaskExtra>)> {
    let mut spec = read_cold::<TaskSpec>(engine, &keys::task_cold(account, attempt.task))?;
    let extras: Vec<TaskExtra> =
        read_cold(engine, &keys::task_extras(account, attempt.task)).unwrap_or_default();
    if extras.contains(&TaskExtra::Token) {
        let key = engine.read(|cluster| cluster.account(account)?.keys.first().cloned())?;
        let value = JobToken { account, job, attempt }.sign(&key);
        spec.environment.retain(|setting| setting.name != token::VARIABLE);
        spec.environment.push(EnvironmentSetting { name: token::VARIABLE.to_owned(), value });
    }
    Some((spec, extras))
}

/// Reads a cold row; a row that is missing or damaged is `None` and logged by whoever needs it.
pub fn read_cold<T: serde::de::DeserializeOwned>(engine: &Engine, key: &[u8]) -> Option<T> {
    let bytes = engine.cold(key).ok()??;
    codec::decode(ROW_VERSION, &bytes, codec::LIMIT_DEFAULT).ok()
}
