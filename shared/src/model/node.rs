//! Nodes, hosts and start tasks (`spec/pools-and-nodes.md` §1, §7, §9).

use super::file::ResourceFile;
use super::task::{EnvironmentSetting, FailureInfo, TaskResult, UserIdentity};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// State of a node as the API shows it (spec §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeState {
    Creating,
    Starting,
    WaitingForStartTask,
    StartTaskFailed,
    Idle,
    Running,
    Offline,
    Rebooting,
    Reimaging,
    Unusable,
    Unknown,
    LeavingPool,
    Preempted,
}

impl NodeState {
    /// Every state, in the order of the spec's table.
    pub const ALL: [NodeState; 13] = [
        NodeState::Creating,
        NodeState::Starting,
        NodeState::WaitingForStartTask,
        NodeState::StartTaskFailed,
        NodeState::Idle,
        NodeState::Running,
        NodeState::Offline,
        NodeState::Rebooting,
        NodeState::Reimaging,
        NodeState::Unusable,
        NodeState::Unknown,
        NodeState::LeavingPool,
        NodeState::Preempted,
    ];

    /// The exact value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Creating => "creating",
            NodeState::Starting => "starting",
            NodeState::WaitingForStartTask => "waitingforstarttask",
            NodeState::StartTaskFailed => "starttaskfailed",
            NodeState::Idle => "idle",
            NodeState::Running => "running",
            NodeState::Offline => "offline",
            NodeState::Rebooting => "rebooting",
            NodeState::Reimaging => "reimaging",
            NodeState::Unusable => "unusable",
            NodeState::Unknown => "unknown",
            NodeState::LeavingPool => "leavingpool",
            NodeState::Preempted => "preempted",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulingState {
    Enabled,
    Disabled,
}

/// What a host offers for carving nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCapacity {
    pub cores: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
    /// `zone`, `rack`, free labels; sorted by name.
    pub labels: Vec<(String, String)>,
}

/// Something that keeps a node from working.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeError {
    pub code: String,
    pub message: String,
    pub details: Vec<(String, String)>,
}

/// The task that prepares each node of a pool (spec §9.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTask {
    pub command_line: String,
    pub resource_files: Vec<ResourceFile>,
    pub environment: Vec<EnvironmentSetting>,
    pub user_identity: UserIdentity,
    /// −1 = without limit.
    pub max_retry_count: i32,
    pub wait_for_success: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartTaskState {
    Running,
    Completed,
}

/// What became of a start task on one node (spec §9.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTaskInfo {
    pub state: StartTaskState,
    pub start_time: Timestamp,
    pub end_time: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub failure: Option<FailureInfo>,
    pub retry_count: u32,
    pub last_retry_time: Option<Timestamp>,
    pub result: Option<TaskResult>,
}
