//! What ties a task to others: what it waits for, and what its end means for those that wait and for its job
//! (`spec/jobs-and-tasks.md` §6).

use super::ids::TaskId;
use serde::{Deserialize, Serialize};

/// Tasks whose id is the decimal form of an integer, leading zeros aside; both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskIdRange {
    pub start: i32,
    pub end: i32,
}

/// `dependsOn`: all of it must be satisfied before the task may start.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DependsOn {
    pub ids: Vec<TaskId>,
    pub ranges: Vec<TaskIdRange>,
}

impl DependsOn {
    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.ranges.is_empty()
    }

    /// Whether a task of this id would wait for itself.
    pub fn names(&self, id: &TaskId) -> bool {
        let number = id.number();
        let in_range = |range: &TaskIdRange| number.is_some_and(|n| range.start <= n && n <= range.end);
        self.ids.contains(id) || self.ranges.iter().any(in_range)
    }
}

/// What the end of a task does to those that depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DependencyAction {
    Satisfy,
    Block,
}

impl DependencyAction {
    /// The exact value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            DependencyAction::Satisfy => "satisfy",
            DependencyAction::Block => "block",
        }
    }
}

/// What the end of a task does to its job; where two meet, the later in this order wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExitJobAction {
    None,
    Disable,
    Terminate,
}

impl ExitJobAction {
    /// The exact value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ExitJobAction::None => "none",
            ExitJobAction::Disable => "disable",
            ExitJobAction::Terminate => "terminate",
        }
    }
}

/// Absent members fall back to what §6.2 says of the kind of end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExitOptions {
    pub job: Option<ExitJobAction>,
    pub dependency: Option<DependencyAction>,
}

/// Exit codes and what they mean, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExitCodeRange {
    pub start: i32,
    pub end: i32,
    pub options: ExitOptions,
}

/// `exitConditions`, in the order of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExitConditions {
    pub codes: Vec<(i32, ExitOptions)>,
    pub ranges: Vec<ExitCodeRange>,
    pub pre_processing_error: Option<ExitOptions>,
    pub file_upload_error: Option<ExitOptions>,
    pub default: Option<ExitOptions>,
}

impl ExitConditions {
    /// Every options member there is.
    pub fn options(&self) -> impl Iterator<Item = &ExitOptions> {
        let codes = self.codes.iter().map(|(_, options)| options);
        let ranges = self.ranges.iter().map(|range| &range.options);
        let single = [&self.pre_processing_error, &self.file_upload_error, &self.default];
        codes.chain(ranges).chain(single.into_iter().flatten())
    }
}

/// Both, as they are stored: apply decides by them, reads show them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskTies {
    pub depends_on: DependsOn,
    pub exit_conditions: Option<ExitConditions>,
}

impl TaskTies {
    /// Whether the task is like any other.
    pub fn is_empty(&self) -> bool {
        self.depends_on.is_empty() && self.exit_conditions.is_none()
    }
}
