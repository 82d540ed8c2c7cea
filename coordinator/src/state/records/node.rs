//! A node as apply sees it.

use lote_shared::model::{
    AccountId, DeallocationOption, HostKey, NodeError, NodeKey, NodeState, PoolKey, SchedulingState,
    StartTaskInfo, TaskKey, Timestamp,
};
use lote_shared::protocol::host::NodePhase;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A task that was on the node lately (newest first in the record, at most 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentTask {
    pub task: TaskKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub key: NodeKey,
    pub account: AccountId,
    /// `tvm-…`
    pub id: String,
    pub pool: PoolKey,
    pub host: HostKey,
    pub dedicated: bool,
    pub slots: u16,
    /// What the API shows; derived on every change from `phase`, the host's state, scheduling and what runs.
    pub state: NodeState,
    pub state_changed: Timestamp,
    pub phase: Option<NodePhase>,
    pub scheduling: SchedulingState,
    /// Set once the node is to go, with what happens to its tasks.
    pub leaving: Option<DeallocationOption>,
    pub allocated: Timestamp,
    pub booted: Option<Timestamp>,
    pub start_task: Option<StartTaskInfo>,
    pub errors: Vec<NodeError>,
    /// Attempts that started here.
    pub tasks_run: u32,
    pub tasks_succeeded: u32,
    pub recent: VecDeque<RecentTask>,
}
