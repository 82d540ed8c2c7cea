//! Tasks: what a user asks for, and how an attempt can end (`spec/jobs-and-tasks.md` §5, `task-execution.md`).

use super::duration::Span;
use super::file::{OutputFile, ResourceFile};
use super::ids::{JobId, TaskId};
use serde::{Deserialize, Serialize};

/// Directory of a task below its node's root (`files-and-storage.md` §1). Jobs of a schedule lie under its id.
pub fn task_directory(job: &JobId, task: &TaskId) -> String {
    match job.as_str().split_once(':') {
        Some((schedule, run)) => format!("workitems/{schedule}/{run}/{task}"),
        None => format!("workitems/{job}/job-1/{task}"),
    }
}

/// A name and its value in a process environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentSetting {
    pub name: String,
    pub value: String,
}

/// A name and a value that mean nothing to the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataItem {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AutoUserScope {
    Task,
    Pool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElevationLevel {
    NonAdmin,
    Admin,
}

/// Who a process runs as (`pools-and-nodes.md` §12.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserIdentity {
    AutoUser { scope: AutoUserScope, elevation: ElevationLevel },
    UserName(String),
}

impl Default for UserIdentity {
    fn default() -> Self {
        UserIdentity::AutoUser { scope: AutoUserScope::Pool, elevation: ElevationLevel::NonAdmin }
    }
}

/// Limits of a task. Held hot: apply decides retries by them, the node wall clock and retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskConstraints {
    /// From the start of an attempt to its end, downloads included.
    pub max_wall_clock: Span,
    /// How long the task directory is kept after completion.
    pub retention: Span,
    /// Further attempts after a non-zero exit code; −1 = without limit.
    pub max_retry_count: i32,
}

impl TaskConstraints {
    /// Seven days (`files-and-storage.md` §6).
    pub const DEFAULT_RETENTION: Span = Span::from_secs(7 * 86_400);
}

impl Default for TaskConstraints {
    fn default() -> Self {
        TaskConstraints {
            max_wall_clock: Span::UNLIMITED,
            retention: Self::DEFAULT_RETENTION,
            max_retry_count: 0,
        }
    }
}

/// What a user asks to be run. Cold: stored once, read by the API and sent to the node; apply never looks inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub id: TaskId,
    pub display_name: Option<String>,
    pub command_line: String,
    pub resource_files: Vec<ResourceFile>,
    pub output_files: Vec<OutputFile>,
    pub environment: Vec<EnvironmentSetting>,
    pub user_identity: UserIdentity,
    /// Opaque wish for a node; empty = none.
    pub affinity_id: String,
    /// The members of the request exactly as sent that reads must echo and nothing else uses: a JSON object as
    /// text, empty = none.
    pub echo: String,
}

/// State of a task as the API shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskState {
    Active,
    Preparing,
    Running,
    Completed,
}

impl TaskState {
    /// The exact value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Active => "active",
            TaskState::Preparing => "preparing",
            TaskState::Running => "running",
            TaskState::Completed => "completed",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskResult {
    Success,
    Failure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureCategory {
    UserError,
    ServerError,
}

/// Why something failed, in the terms of `task-execution.md` §8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureInfo {
    pub category: FailureCategory,
    /// A code of the table in `task-execution.md` §8, e.g. `FailureExitCode`.
    pub code: String,
    pub message: String,
    /// Name and value; never a secret, never a URL's query part.
    pub details: Vec<(String, String)>,
}

impl FailureInfo {
    pub fn user(code: &str, message: impl Into<String>) -> FailureInfo {
        Self::new(FailureCategory::UserError, code, message)
    }

    pub fn server(code: &str, message: impl Into<String>) -> FailureInfo {
        Self::new(FailureCategory::ServerError, code, message)
    }

    fn new(category: FailureCategory, code: &str, message: impl Into<String>) -> FailureInfo {
        FailureInfo { category, code: code.to_owned(), message: message.into(), details: Vec::new() }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> FailureInfo {
        self.details.push((name.to_owned(), value.into()));
        self
    }

    /// The process ended with a code other than 0 and no retry is left.
    pub fn exit_code(code: i32) -> FailureInfo {
        let message = "The task exited with an exit code representing a failure";
        FailureInfo::user("FailureExitCode", message)
            .with("Message", message)
            .with("AdditionalErrorCode", format!("FailureExitCode: {code}"))
    }

    /// Ended on somebody's request.
    pub fn ended_by_user() -> FailureInfo {
        FailureInfo::user("TaskEnded", "Task Was Ended by User Request")
    }

    /// The wall clock ran out.
    pub fn wall_clock() -> FailureInfo {
        let message = "The maximum execution time configured on the task was exceeded";
        FailureInfo::user("TaskEnded", message).with("Message", message)
    }
}

/// How an attempt ended, as the node found it. What follows (final, retry, recovery) is decided on apply by the
/// table of `task-execution.md` §9.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptOutcome {
    /// The process ran and ended by itself. `upload` is what went wrong with the output files, if anything.
    Exited { exit_code: i32, upload: Option<FailureInfo> },
    /// It never started: directory, files, launch.
    NotStarted(FailureInfo),
    /// Its wall clock ran out and it was ended; the collected exit code decides nothing.
    WallClock { exit_code: Option<i32> },
    /// It was ended because a coordinator asked for it.
    Killed { exit_code: Option<i32> },
    /// The node lost it through no fault of the task (node restart, keeper gone, fault of node software).
    Lost { reason: String },
}
