//! A job as apply sees it.

use super::super::reply::Version;
use lote_shared::model::{
    AccountId, AllTasksAction, DisableTasks, JobConstraints, JobId, JobKey, JobState, PoolId,
    TaskFailureAction, Timestamp,
};
use serde::{Deserialize, Serialize};

/// Tasks of a job by state, and the slots they need; `completed` = `succeeded` + `failed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    pub active: u64,
    /// Preparing and running.
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub active_slots: u64,
    pub running_slots: u64,
    pub succeeded_slots: u64,
    pub failed_slots: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    pub key: JobKey,
    pub account: AccountId,
    pub id: JobId,
    pub version: Version,
    pub created: Timestamp,
    pub state: JobState,
    pub state_changed: Timestamp,
    /// Never a transitional state (spec §1.3).
    pub previous_state: Option<(JobState, Timestamp)>,
    pub ended: Option<Timestamp>,
    pub terminate_reason: Option<String>,
    pub pool: PoolId,
    pub priority: i16,
    pub max_parallel_tasks: i32,
    pub constraints: JobConstraints,
    pub on_all_tasks_complete: AllTasksAction,
    pub on_task_failure: TaskFailureAction,
    pub uses_task_dependencies: bool,
    pub allow_task_preemption: bool,
    /// While disabling: what happens to running tasks.
    pub disable_tasks: Option<DisableTasks>,
    /// While an empty job made with `terminatejob` has its grace time.
    pub empty_grace_until: Option<Timestamp>,
    /// Derived from the tasks; not stored in the job's row but rebuilt on load.
    #[serde(skip)]
    pub counts: TaskCounts,
}
