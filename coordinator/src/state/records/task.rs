//! A task as apply sees it.

use super::super::reply::Version;
use lote_shared::model::{
    AccountId, Attempt, FailureInfo, JobKey, NodeKey, TaskConstraints, TaskId, TaskKey, TaskResult,
    TaskState, Timestamp,
};
use serde::{Deserialize, Serialize};

/// Where a task stands inside; finer than what the API shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskPlace {
    /// In the queue.
    Ready,
    /// In the queue, but not before this time (back-off of a retry).
    Waiting {
        until: Timestamp,
    },
    /// Given to a node, not reported as started. Shown as `active`; counts in maxParallelTasks, not in the counts.
    Assigned {
        node: NodeKey,
        at: Timestamp,
    },
    /// Reported as started.
    Running {
        node: NodeKey,
    },
    Completed {
        result: TaskResult,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub key: TaskKey,
    pub account: AccountId,
    pub job: JobKey,
    pub id: TaskId,
    pub version: Version,
    pub created: Timestamp,
    pub place: TaskPlace,
    pub state_changed: Timestamp,
    pub previous_state: Option<(TaskState, Timestamp)>,
    pub slots: u16,
    pub constraints: TaskConstraints,
    /// The latest attempt given out; rises for ever.
    pub attempt: Attempt,
    pub retry_count: u32,
    pub last_retry: Option<Timestamp>,
    pub requeue_count: u32,
    pub last_requeue: Option<Timestamp>,
    /// Consecutive internal faults on reachable nodes.
    pub internal_faults: u8,
    /// The node of the latest attempt, kept after its end for `nodeInfo`.
    pub last_node: Option<NodeKey>,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub failure: Option<Box<FailureInfo>>,
}

impl TaskRecord {
    /// What the API shows.
    pub fn state(&self) -> TaskState {
        match self.place {
            TaskPlace::Ready | TaskPlace::Waiting { .. } | TaskPlace::Assigned { .. } => TaskState::Active,
            TaskPlace::Running { .. } => TaskState::Running,
            TaskPlace::Completed { .. } => TaskState::Completed,
        }
    }
}
