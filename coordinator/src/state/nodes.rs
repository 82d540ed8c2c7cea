//! Nodes: granted, reported, revoked, gone (`pools-and-nodes.md` §6.2, §7).

use super::cluster::{Cluster, DepartedNode, Event, LoadError};
use super::command::CursorKey;
use super::cursors::NodeWork;
use super::index::{Node, NodeLoad};
use super::keys;
use super::records::{HostState, NodeRecord};
use super::reply::{Outcome, Refusal, RefusalCode, Reply};
use super::step::Step;
use lote_shared::model::{
    AllocationState, DeallocationOption, HostKey, NodeError, NodeKey, NodeState, PoolKey, PoolState,
    SchedulingState, StartTaskInfo,
};
use lote_shared::protocol::host::NodePhase;
use std::collections::VecDeque;

/// Departed nodes whose names stay known.
pub const DEPARTED_MAX: usize = 10_000;

/// Whether a node that leaves waits for its running tasks.
fn waits(option: DeallocationOption) -> bool {
    matches!(option, DeallocationOption::TaskCompletion | DeallocationOption::RetainedData)
}

fn strength(option: DeallocationOption) -> u8 {
    match option {
        DeallocationOption::RetainedData => 0,
        DeallocationOption::TaskCompletion => 1,
        DeallocationOption::Requeue => 2,
        DeallocationOption::Terminate => 3,
    }
}

/// What the API shows, from everything that decides it.
pub(super) fn derive_state(node: &NodeRecord, host: HostState, load: NodeLoad) -> NodeState {
    if wants_revoke(node, load) {
        return NodeState::LeavingPool;
    }
    match (host, node.phase) {
        (HostState::Lost, _) => NodeState::Unusable,
        (HostState::Unknown, _) => NodeState::Unknown,
        (HostState::Joined, None) => NodeState::Creating,
        (HostState::Joined, Some(NodePhase::Starting)) => NodeState::Starting,
        (HostState::Joined, Some(NodePhase::WaitingForStartTask)) => NodeState::WaitingForStartTask,
        (HostState::Joined, Some(NodePhase::StartTaskFailed)) => NodeState::StartTaskFailed,
        (HostState::Joined, Some(NodePhase::Unusable)) => NodeState::Unusable,
        (HostState::Joined, Some(NodePhase::Ready)) if load.tasks() > 0 => NodeState::Running,
        (HostState::Joined, Some(NodePhase::Ready)) if node.scheduling == SchedulingState::Disabled => {
            NodeState::Offline
        }
        (HostState::Joined, Some(NodePhase::Ready)) => NodeState::Idle,
    }
}

/// Whether the host is to give the node up now: it leaves, and nothing it should wait for runs there.
pub(super) fn wants_revoke(node: &NodeRecord, load: NodeLoad) -> bool {
    node.leaving.is_some_and(|option| !waits(option) || load.tasks() == 0)
}

impl Cluster {
    /// A node of a pool on a host. Refused quietly if the pool has enough of its kind by now or the host is away.
    pub(super) fn grant_node(
        &mut self,
        step: &mut Step,
        pool_key: PoolKey,
        host_key: HostKey,
        node_id: &str,
        dedicated: bool,
    ) -> Reply {
        let fenced = || Refusal::new(RefusalCode::Fenced);
        let is_draining = self.is_draining(host_key);
        let host = self.hosts.get_mut(&host_key).ok_or_else(fenced)?;
        let pool = self.pools.get_mut(&pool_key).ok_or_else(fenced)?;
        let staying = pool.current(dedicated).saturating_sub(pool.leaving(dedicated));
        let wanted = pool.record.state == PoolState::Active
            && pool.record.allocation == AllocationState::Resizing
            && staying < pool.target(dedicated)
            && host.record.state == HostState::Joined
            && !is_draining
            && !pool.by_name.contains_key(node_id);
        if !wanted {
            return Err(fenced());
        }
        self.meta.last_node = self.meta.last_node.next();
        let key = self.meta.last_node;
        let record = NodeRecord {
            key,
            account: pool.record.account,
            id: node_id.to_owned(),
            pool: pool_key,
            host: host_key,
            dedicated,
            slots: pool.record.slots_per_node,
            state: NodeState::Creating,
            state_changed: step.now,
            phase: None,
            scheduling: SchedulingState::Enabled,
            leaving: None,
            allocated: step.now,
            booted: None,
            start_task: None,
            errors: Vec::new(),
            tasks_run: 0,
            tasks_succeeded: 0,
            recent: VecDeque::new(),
        };
        pool.record.next_node_number = pool.record.next_node_number.saturating_add(1);
        step.put(keys::pool(pool.record.account, pool_key), &pool.record);
        step.put(keys::node(record.account, key), &record);
        self.nodes.insert(key, Node::new(record));
        // Its host and pool were found above.
        let _ = self.enter_node(key);
        step.pools.insert(pool_key);
        step.event(Event::NodeGranted(key));
        Ok(Outcome::NodeGranted(key))
    }

    /// Enters a node into the indexes of its pool and host.
    pub(super) fn enter_node(&mut self, key: NodeKey) -> Result<(), LoadError> {
        let missing = || LoadError::Inconsistent(format!("node {key} has no pool or no host"));
        let node = &self.nodes.get(&key).ok_or_else(missing)?.record;
        let host = self.hosts.get_mut(&node.host).ok_or_else(missing)?;
        let pool = self.pools.get_mut(&node.pool).ok_or_else(missing)?;
        host.nodes.insert(key);
        pool.nodes.insert(key);
        pool.by_name.insert(node.id.clone(), key);
        pool.in_order.insert((node.allocated, node.id.clone()), key);
        pool.counts.shift(node.dedicated, node.state, 1);
        pool.leaving[usize::from(!node.dedicated)] += u32::from(node.leaving.is_some());
        Ok(())
    }

    pub(super) fn revoke_node(&mut self, step: &mut Step, key: NodeKey, option: DeallocationOption) -> Reply {
        let node = self.nodes.get_mut(&key).ok_or_else(|| Refusal::new(RefusalCode::NodeNotFound))?;
        let old = node.record.leaving;
        if old.is_some_and(|old| strength(old) >= strength(option)) {
            return Ok(Outcome::Done);
        }
        node.record.leaving = Some(option);
        if old.is_none()
            && let Some(pool) = self.pools.get_mut(&node.record.pool)
        {
            pool.leaving[usize::from(!node.record.dedicated)] += 1;
        }
        step.node_rows.insert(key);
        step.nodes.insert(key);
        self.end_attempts_of(step, key, NodeWork::Leaving);
        Ok(Outcome::Done)
    }

    /// A node that still waits for its tasks stays after all (`stopresize`).
    pub(super) fn keep_node(&mut self, step: &mut Step, key: NodeKey) {
        let Some(node) = self.nodes.get_mut(&key) else { return };
        if node.record.leaving.is_none() || wants_revoke(&node.record, node.load) {
            return;
        }
        node.record.leaving = None;
        if let Some(pool) = self.pools.get_mut(&node.record.pool) {
            let leaving = &mut pool.leaving[usize::from(!node.record.dedicated)];
            *leaving = leaving.saturating_sub(1);
            step.freed.insert(key, node.record.pool);
        }
        self.drop_cursor(step, CursorKey::Node(key));
        step.node_rows.insert(key);
        step.nodes.insert(key);
    }

    /// Its host wiped it; whatever it still held has ended.
    pub(super) fn node_gone(&mut self, step: &mut Step, key: NodeKey) -> Reply {
        if !self.nodes.contains_key(&key) {
            return Err(RefusalCode::NodeNotFound.into());
        }
        self.end_attempts_of(step, key, NodeWork::Gone);
        Ok(Outcome::Done)
    }

    pub(super) fn remove_node(&mut self, step: &mut Step, key: NodeKey) {
        self.drop_cursor(step, CursorKey::Node(key));
        let Some(node) = self.nodes.remove(&key) else { return };
        let record = node.record;
        if let Some(host) = self.hosts.get_mut(&record.host) {
            host.nodes.remove(&key);
        }
        if let Some(pool) = self.pools.get_mut(&record.pool) {
            pool.nodes.remove(&key);
            pool.by_name.remove(&record.id);
            pool.in_order.remove(&(record.allocated, record.id.clone()));
            pool.counts.shift(record.dedicated, record.state, -1);
            let leaving = &mut pool.leaving[usize::from(!record.dedicated)];
            *leaving = leaving.saturating_sub(u32::from(record.leaving.is_some()));
            let departed = DepartedNode { pool: pool.record.id.clone(), id: record.id };
            step.put(keys::departed(key), &departed);
            self.departed.insert(key, departed);
        }
        if self.departed.len() > DEPARTED_MAX
            && let Some((oldest, _)) = self.departed.pop_first()
        {
            step.delete(keys::departed(oldest));
        }
        step.delete(keys::node(record.account, key));
        step.node_rows.remove(&key);
        step.nodes.remove(&key);
        step.freed.remove(&key);
        step.pools.insert(record.pool);
        step.event(Event::NodeRemoved { pool: record.pool, node: key });
        step.event(Event::HostsChanged);
        self.after_node(step, record.host);
    }

    pub(super) fn report_node(
        &mut self,
        step: &mut Step,
        key: NodeKey,
        phase: NodePhase,
        start_task: Option<&StartTaskInfo>,
        errors: &[NodeError],
    ) -> Reply {
        let node = self.nodes.get_mut(&key).ok_or_else(|| Refusal::new(RefusalCode::NodeNotFound))?;
        let became_ready = phase == NodePhase::Ready && node.record.phase != Some(NodePhase::Ready);
        let broke = phase == NodePhase::Unusable && node.record.phase != Some(NodePhase::Unusable);
        if node.record.phase.is_none() || phase == NodePhase::Starting {
            node.record.booted.get_or_insert(step.now);
        }
        node.record.phase = Some(phase);
        node.record.start_task = start_task.cloned();
        node.record.errors = errors.to_vec();
        let pool = node.record.pool;
        step.node_rows.insert(key);
        step.nodes.insert(key);
        if became_ready {
            step.freed.insert(key, pool);
        }
        if broke {
            self.end_attempts_of(step, key, NodeWork::Unusable);
        }
        Ok(Outcome::Done)
    }

    /// Whether new tasks may be given to the node.
    pub(super) fn accepts(&self, node: &Node) -> bool {
        matches!(node.record.state, NodeState::Idle | NodeState::Running)
            && node.record.leaving.is_none()
            && node.record.scheduling == SchedulingState::Enabled
            && !self.cursors.contains_key(&CursorKey::Node(node.record.key))
    }

    /// Brings the visible state up to date; a node that nothing keeps any more leaves.
    pub(super) fn settle_node(&mut self, step: &mut Step, key: NodeKey) {
        let Some(node) = self.nodes.get(&key) else { return };
        let host = self.hosts.get(&node.record.host).map_or(HostState::Lost, |host| host.record.state);
        let state = derive_state(&node.record, host, node.load);
        let busy = self.cursors.contains_key(&CursorKey::Node(key));
        if state == NodeState::LeavingPool && host == HostState::Lost && !busy {
            // Nobody will say that it is wiped; the host hears it when it returns.
            self.end_attempts_of(step, key, NodeWork::Gone);
            return;
        }
        let old = node.record.state;
        if state == old {
            return;
        }
        let Some(node) = self.nodes.get_mut(&key) else { return };
        node.record.state = state;
        node.record.state_changed = step.now;
        step.node_rows.insert(key);
        let record = &node.record;
        let pool_key = record.pool;
        if let Some(pool) = self.pools.get_mut(&pool_key) {
            pool.counts.shift(record.dedicated, old, -1);
            pool.counts.shift(record.dedicated, state, 1);
        }
        match state {
            NodeState::LeavingPool => step.event(Event::NodeLeaving(key)),
            NodeState::Idle => {
                step.freed.insert(key, pool_key);
            }
            NodeState::Running if !matches!(old, NodeState::Idle) => {
                step.freed.insert(key, pool_key);
            }
            _ => {}
        }
    }
}
