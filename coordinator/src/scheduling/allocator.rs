//! The allocator: hosts' capacity and pools' targets become nodes (`pools-and-nodes.md` §1, §5.2, §6.3, §6.4).
//!
//! One step looks at all pools, nodes and hosts: it runs when one of them changed or a resize timed out, never per
//! task. It remembers only its proposals in flight.

use super::catalogue::{Catalogue, Size};
use crate::state::{Cluster, HostState, NodeRecord, PoolRecord};
use lote_shared::model::{
    AllocationState, DeallocationOption, HostKey, NodeKey, NodeState, PoolKey, PoolState, ResizeError,
    Timestamp,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Decisions of one step.
const DECISIONS_MAX: usize = 1_000;

/// What the shell is to propose; each is answered with the method named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allocation {
    /// `NodeGrant`; [`Allocator::on_grant_result`].
    Grant { pool: PoolKey, host: HostKey, node_id: String, dedicated: bool },
    /// `NodeRevoke`; [`Allocator::on_revoke_result`].
    Revoke { node: NodeKey, option: DeallocationOption },
    /// `PoolSettled`; [`Allocator::on_settle_result`].
    Settle { pool: PoolKey, errors: Vec<ResizeError> },
}

#[derive(Debug, Default)]
pub struct Allocator {
    pub catalogue: Catalogue,
    granting: BTreeMap<(PoolKey, HostKey, bool), u32>,
    revoking: BTreeSet<NodeKey>,
    settling: BTreeSet<PoolKey>,
}

/// What a host has left.
#[derive(Debug, Clone, Copy)]
struct Free {
    cores: u32,
    memory_mib: u64,
}

impl Free {
    fn fits(self, size: Size) -> bool {
        self.cores >= size.cores && self.memory_mib >= size.memory_mib
    }

    fn take(&mut self, size: Size) {
        self.cores = self.cores.saturating_sub(size.cores);
        self.memory_mib = self.memory_mib.saturating_sub(size.memory_mib);
    }
}

/// Name of a pool's `number`th node: `tvm-<pool hash>_<number>-<utc compact>`. Keys are never used again, so neither
/// are names.
pub fn node_name(pool: &PoolRecord, number: u32, now: Timestamp) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pool.account.0.to_be_bytes());
    hasher.update(&pool.key.0.to_be_bytes());
    hasher.update(pool.id.folded().as_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    let hash = u32::from_be_bytes([a, b, c, d]);
    let time = now.to_string();
    let seconds = time.split(['.', 'Z']).next().unwrap_or_default();
    let compact: String = seconds.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("tvm-{hash}_{number}-{}z", compact.to_ascii_lowercase())
}

/// The name of a kind in messages.
fn kind(dedicated: bool) -> &'static str {
    if dedicated { "dedicated" } else { "low priority" }
}

fn target(pool: &PoolRecord, dedicated: bool) -> u32 {
    if dedicated { pool.target_dedicated } else { pool.target_low_priority }
}

/// When a resize gives up growing.
fn gives_up(pool: &PoolRecord) -> Option<Timestamp> {
    pool.resize_timeout.as_limit_ms().map(|ms| pool.allocation_changed.plus_ms(ms))
}

/// Order in which nodes leave (spec §6.3): the useless first, then the idle, then those that run least.
fn leaves_before(cluster: &Cluster, node: &NodeRecord) -> (u8, u32, Reverse<Timestamp>, Reverse<NodeKey>) {
    let rank = match node.state {
        NodeState::Preempted => 0,
        NodeState::Unusable => 1,
        NodeState::Unknown => 2,
        NodeState::StartTaskFailed => 3,
        NodeState::Creating
        | NodeState::Starting
        | NodeState::WaitingForStartTask
        | NodeState::Rebooting
        | NodeState::Reimaging => 4,
        NodeState::Offline => 5,
        NodeState::Idle => 6,
        NodeState::Running | NodeState::LeavingPool => 7,
    };
    (rank, cluster.node_load(node.key).slots(), Reverse(node.allocated), Reverse(node.key))
}

impl Allocator {
    pub fn new(catalogue: Catalogue) -> Allocator {
        Allocator { catalogue, ..Allocator::default() }
    }

    pub fn on_grant_result(&mut self, pool: PoolKey, host: HostKey, dedicated: bool) {
        if let Some(count) = self.granting.get_mut(&(pool, host, dedicated)) {
            *count -= 1;
            if *count == 0 {
                self.granting.remove(&(pool, host, dedicated));
            }
        }
    }

    pub fn on_revoke_result(&mut self, node: NodeKey) {
        self.revoking.remove(&node);
    }

    pub fn on_settle_result(&mut self, pool: PoolKey) {
        self.settling.remove(&pool);
    }

    /// When the next resize times out, so that the shell can come back then; `None` if none does after `now`.
    pub fn wake_at(&self, now: Timestamp, cluster: &Cluster) -> Option<Timestamp> {
        let resizing = cluster.all_pools().filter(|pool| pool.allocation == AllocationState::Resizing);
        resizing
            .filter(|pool| pool.state == PoolState::Active)
            .filter_map(gives_up)
            .filter(|at| *at > now)
            .min()
    }

    /// Decides what to propose now.
    pub fn plan(&mut self, now: Timestamp, cluster: &Cluster) -> Vec<Allocation> {
        let mut pools: Vec<_> = cluster
            .all_pools()
            .filter(|pool| pool.state == PoolState::Active && pool.allocation != AllocationState::Steady)
            .filter(|pool| !self.settling.contains(&pool.key))
            .collect();
        if pools.is_empty() {
            return Vec::new();
        }
        pools.sort_by_key(|pool| (pool.allocation_changed, pool.key));
        let mut out = Vec::new();
        let mut free = self.free_capacity(cluster);
        // Dedicated before low priority, then by request time.
        for dedicated in [true, false] {
            for pool in &pools {
                if pool.allocation == AllocationState::Resizing {
                    self.shrink(cluster, pool, dedicated, &mut out);
                    self.grow(now, cluster, pool, dedicated, &mut free, &mut out);
                }
            }
        }
        for pool in &pools {
            self.settle(now, cluster, pool, &mut out);
        }
        out
    }

    /// What joined hosts have left after their nodes and the grants in flight.
    fn free_capacity(&self, cluster: &Cluster) -> BTreeMap<HostKey, Free> {
        let joined = cluster.hosts().filter(|host| host.state == HostState::Joined);
        let joined = joined.filter(|host| !cluster.is_draining(host.key));
        let mut free: BTreeMap<_, _> = joined
            .map(|host| {
                let capacity = &host.capacity;
                (host.key, Free { cores: capacity.cores, memory_mib: capacity.memory_mib })
            })
            .collect();
        let size_of = |pool| cluster.pool(pool).map(|pool| self.catalogue.size(&pool.vm_size));
        for node in cluster.all_nodes() {
            if let (Some(free), Some(size)) = (free.get_mut(&node.host), size_of(node.pool)) {
                free.take(size);
            }
        }
        for ((pool, host, _), count) in &self.granting {
            if let (Some(free), Some(size)) = (free.get_mut(host), size_of(*pool)) {
                (0..*count).for_each(|_| free.take(size));
            }
        }
        free
    }

    /// Nodes of a kind that stay, and grants of that kind in flight.
    fn have(&self, cluster: &Cluster, pool: PoolKey, dedicated: bool) -> (u32, u32) {
        let total = cluster.node_counts(pool).total(dedicated);
        let staying = total.saturating_sub(cluster.nodes_leaving(pool, dedicated));
        let of_pool = (pool, HostKey(0), false)..=(pool, HostKey(u32::MAX), true);
        let granting = self.granting.range(of_pool).filter(|((_, _, kind), _)| *kind == dedicated);
        (staying, granting.map(|(_, count)| *count).sum())
    }

    fn grow(
        &mut self,
        now: Timestamp,
        cluster: &Cluster,
        pool: &PoolRecord,
        dedicated: bool,
        free: &mut BTreeMap<HostKey, Free>,
        out: &mut Vec<Allocation>,
    ) {
        if !pool.image_servable || gives_up(pool).is_some_and(|at| at <= now) {
            return;
        }
        let (staying, mut granting) = self.have(cluster, pool.key, dedicated);
        let missing = target(pool, dedicated).saturating_sub(staying.saturating_add(granting));
        if missing == 0 {
            return;
        }
        let size = self.catalogue.size(&pool.vm_size);
        let mut here: BTreeMap<HostKey, u32> = BTreeMap::new();
        for node in cluster.nodes_of(pool.key, None) {
            *here.entry(node.host).or_default() += 1;
        }
        for ((of, host, kind), count) in &self.granting {
            if *of == pool.key {
                *here.entry(*host).or_default() += count;
                granting += if *kind == dedicated { 0 } else { *count };
            }
        }
        for _ in 0..missing {
            if out.len() >= DECISIONS_MAX {
                return;
            }
            // Spread over hosts; nodes that talk to one another share as few as possible.
            let count = |host: &HostKey| here.get(host).copied().unwrap_or(0);
            let fitting = free.iter().filter(|(_, free)| free.fits(size));
            let host = if pool.inter_node_communication {
                fitting.min_by_key(|(host, free)| (Reverse(count(host)), Reverse(free.cores), **host))
            } else {
                fitting.min_by_key(|(host, free)| (count(host), Reverse(free.cores), **host))
            };
            let Some(host) = host.map(|(host, _)| *host) else { return };
            if let Some(free) = free.get_mut(&host) {
                free.take(size);
            }
            *here.entry(host).or_default() += 1;
            *self.granting.entry((pool.key, host, dedicated)).or_default() += 1;
            let node_id = node_name(pool, pool.next_node_number.saturating_add(granting), now);
            granting += 1;
            out.push(Allocation::Grant { pool: pool.key, host, node_id, dedicated });
        }
    }

    fn shrink(&mut self, cluster: &Cluster, pool: &PoolRecord, dedicated: bool, out: &mut Vec<Allocation>) {
        let (staying, _) = self.have(cluster, pool.key, dedicated);
        let staying_nodes =
            cluster.nodes_of(pool.key, None).filter(|n| n.dedicated == dedicated && n.leaving.is_none());
        let mut excess = staying.saturating_sub(target(pool, dedicated)) as usize;
        if excess == 0 {
            return;
        }
        let mut nodes: Vec<_> = staying_nodes.collect();
        excess -= excess.min(nodes.iter().filter(|node| self.revoking.contains(&node.key)).count());
        nodes.retain(|node| !self.revoking.contains(&node.key));
        nodes.sort_by_cached_key(|node| leaves_before(cluster, node));
        for node in nodes.into_iter().take(excess.min(DECISIONS_MAX.saturating_sub(out.len()))) {
            self.revoking.insert(node.key);
            out.push(Allocation::Revoke { node: node.key, option: pool.deallocation });
        }
    }

    /// Ends a resize that cannot go on: stopped, out of time, or impossible. One that reached its target is ended by
    /// the state itself.
    fn settle(&mut self, now: Timestamp, cluster: &Cluster, pool: &PoolRecord, out: &mut Vec<Allocation>) {
        let busy = [true, false].into_iter().any(|dedicated| {
            let (staying, granting) = self.have(cluster, pool.key, dedicated);
            let leaving = cluster.nodes_leaving(pool.key, dedicated);
            let shrinking = pool.allocation == AllocationState::Resizing && staying > target(pool, dedicated);
            leaving > 0 || granting > 0 || shrinking
        });
        if busy {
            return;
        }
        let mut errors = Vec::new();
        for dedicated in [true, false] {
            let (allocated, _) = self.have(cluster, pool.key, dedicated);
            let requested = target(pool, dedicated);
            if allocated == requested {
                continue;
            }
            let Some((code, reason)) = self.obstacle(now, cluster, pool) else { return };
            let message = format!("The resize of {} nodes ended: {reason}", kind(dedicated));
            let value = |name: &str, value: String| (name.to_owned(), value);
            errors.push(ResizeError {
                code: code.to_owned(),
                message,
                values: vec![
                    value("Reason", reason),
                    value("Requested", requested.to_string()),
                    value("Allocated", allocated.to_string()),
                ],
            });
        }
        self.settling.insert(pool.key);
        out.push(Allocation::Settle { pool: pool.key, errors });
    }

    /// Why a pool that is below its target gets no more nodes; `None` if it may yet.
    fn obstacle(
        &self,
        now: Timestamp,
        cluster: &Cluster,
        pool: &PoolRecord,
    ) -> Option<(&'static str, String)> {
        if pool.allocation == AllocationState::Stopping {
            return Some(("ResizeStopped", "the resize was stopped by request".to_owned()));
        }
        if !pool.image_servable {
            return Some(("AllocationFailed", "no host can serve the pool's image".to_owned()));
        }
        let size = self.catalogue.size(&pool.vm_size);
        let mut hosts = cluster.hosts().peekable();
        // A cluster whose hosts have not come yet is not one without capacity.
        let any = hosts.peek().is_some();
        let carries = |free: Free| free.fits(size);
        if any
            && !hosts.any(|host| {
                carries(Free { cores: host.capacity.cores, memory_mib: host.capacity.memory_mib })
            })
        {
            let reason = format!(
                "no host has the {} cores and {} MiB that size {} needs",
                size.cores, size.memory_mib, pool.vm_size
            );
            return Some(("AllocationFailed", reason));
        }
        let late = gives_up(pool).is_some_and(|at| at <= now);
        late.then(|| ("AllocationTimedout", "capacity was not free within the resize timeout".to_owned()))
    }
}

#[cfg(test)]
mod tests;
