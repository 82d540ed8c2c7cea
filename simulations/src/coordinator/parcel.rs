//! Builds what hosts are sent from hot state and cold rows, as the real shell does: task chunks and node grants.

use super::disk::Disk;
use lote_coordinator::scheduling::Parcel;
use lote_coordinator::state::{Cluster, keys};
use lote_shared::model::{AttemptRef, NodeKey, TaskSpec};
use lote_shared::protocol::codec;
use lote_shared::protocol::host::{NodeGrant, TaskChunk};

/// Encoding of cold rows.
const COLD_VERSION: u8 = 1;

/// The chunk for attempts given to a node; attempts that no longer stand are left out.
pub fn chunk(cluster: &Cluster, disk: &Disk, node: NodeKey, attempts: &[AttemptRef]) -> Option<TaskChunk> {
    let chunk = Parcel::of(cluster, attempts).into_chunk(node, |one| {
        let cold = || disk.get(&keys::task_cold(one.account, one.launch.task));
        let read = |bytes: &[u8]| codec::decode::<TaskSpec>(COLD_VERSION, bytes, codec::LIMIT_DEFAULT).ok();
        one.spec.clone().or_else(|| read(cold()?))
    });
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
