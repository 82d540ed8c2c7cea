//! Jobs (`spec/jobs-and-tasks.md` §2, §3).

use super::duration::Span;
use super::ids::{JobId, PoolId};
use super::task::{EnvironmentSetting, MetadataItem};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobState {
    Active,
    Disabling,
    Disabled,
    Enabling,
    Terminating,
    Completed,
    Deleting,
}

impl JobState {
    /// The exact value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Active => "active",
            JobState::Disabling => "disabling",
            JobState::Disabled => "disabled",
            JobState::Enabling => "enabling",
            JobState::Terminating => "terminating",
            JobState::Completed => "completed",
            JobState::Deleting => "deleting",
        }
    }
}

/// What a disable does to running tasks; the stronger wins when two meet (spec §3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DisableTasks {
    Wait,
    Requeue,
    Terminate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllTasksAction {
    NoAction,
    TerminateJob,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskFailureAction {
    NoAction,
    PerformExitOptionsJobAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobConstraints {
    /// From creation of the job.
    pub max_wall_clock: Span,
    /// Default for tasks added later.
    pub max_task_retry_count: i32,
}

impl Default for JobConstraints {
    fn default() -> Self {
        JobConstraints { max_wall_clock: Span::UNLIMITED, max_task_retry_count: 0 }
    }
}

/// What a user asks for. The hot part is copied into the record on apply; `environment`, `metadata`,
/// `display_name` and `echo` are cold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    pub id: JobId,
    pub pool: PoolId,
    /// −1000 … 1000.
    pub priority: i16,
    /// −1 = without limit.
    pub max_parallel_tasks: i32,
    pub constraints: JobConstraints,
    pub on_all_tasks_complete: AllTasksAction,
    pub on_task_failure: TaskFailureAction,
    pub uses_task_dependencies: bool,
    pub allow_task_preemption: bool,
    pub cold: JobCold,
}

/// The members of a job that no decision reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCold {
    pub display_name: Option<String>,
    /// `commonEnvironmentSettings`.
    pub environment: Vec<EnvironmentSetting>,
    pub metadata: Vec<MetadataItem>,
    /// Members that reads must echo and nothing uses: a JSON object as text, empty = none.
    pub echo: String,
}
