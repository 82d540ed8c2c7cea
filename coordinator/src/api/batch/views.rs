//! What an answer is written from: copies of records, taken under the read lock and written out after it.

use crate::state::{ChoreRecord, JobRecord, NodeRecord, PoolRecord, ScheduleRecord, TaskRecord};
use lote_shared::model::{
    JobCold, JobExtra, JobId, NodeKey, PoolCold, PoolExtra, PoolId, ScheduleCold, StartTask, TaskId,
    TaskSpec, TaskState, TaskTies, Timestamp,
};
use std::sync::Arc;

/// A pool as lists and reads show it.
#[derive(Debug, Clone)]
pub struct PoolView {
    pub record: PoolRecord,
    pub cold: PoolCold,
    pub extras: Vec<PoolExtra>,
    pub current_dedicated: u32,
    /// Preempted nodes included.
    pub current_low_priority: u32,
}

#[derive(Debug, Clone)]
pub struct JobView {
    pub record: JobRecord,
    pub cold: JobCold,
    pub extras: Vec<JobExtra>,
}

/// A preparation or release on a node.
#[derive(Debug, Clone)]
pub struct ChoreView {
    pub record: ChoreRecord,
    pub task: TaskId,
}

/// What a job ran on a node beside its tasks.
#[derive(Debug, Clone)]
pub struct PreparedView {
    pub job: JobId,
    pub preparation: ChoreView,
    pub release: Option<ChoreView>,
}

#[derive(Debug, Clone)]
pub struct ScheduleView {
    pub record: ScheduleRecord,
    pub cold: ScheduleCold,
    pub extras: Vec<JobExtra>,
    pub next_run: Option<Timestamp>,
}

/// Where a task ran last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub pool: PoolId,
    pub node: String,
    /// `None` once the node is gone.
    pub key: Option<NodeKey>,
}

/// A task without its cold part.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// The job's id as its user wrote it.
    pub job: JobId,
    pub record: TaskRecord,
    pub place: Option<Place>,
    /// What it depends on, and what its end means.
    pub ties: Option<Arc<TaskTies>>,
}

/// A task with everything a user wrote; the cold part is absent where no selected member needs it.
#[derive(Debug, Clone)]
pub struct WholeTask {
    pub task: TaskView,
    pub spec: Option<TaskSpec>,
}

/// One line of a node's recent tasks.
#[derive(Debug, Clone)]
pub struct RecentView {
    pub job: JobId,
    pub record: TaskRecord,
}

#[derive(Debug, Clone)]
pub struct NodeView {
    pub record: NodeRecord,
    pub pool: PoolId,
    pub vm_size: String,
    pub start_task: Option<StartTask>,
    /// `imageReference` of the pool as JSON text; empty if it has none.
    pub pool_echo: String,
    pub running: u32,
    pub running_slots: u32,
    pub recent: Vec<RecentView>,
    /// Of its host.
    pub address: String,
    pub software: String,
}

impl TaskView {
    pub fn state(&self) -> TaskState {
        self.record.state()
    }
}
