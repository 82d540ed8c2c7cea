//! What pools, jobs, schedules and tasks have beyond their specs (`jobs-and-tasks.md` §8, §9, `task-execution.md` §11, §12).
//!
//! Specs are stored and never change shape, so what came later is a list of these beside them. The enums grow only at
//! the end.

use super::application::PackageReference;
use super::duration::Span;
use super::pool::PoolSpec;
use super::task::{FailureInfo, TaskConstraints, TaskSpec};
use serde::{Deserialize, Serialize};

/// Of a job, or of the jobs of a schedule; at most one of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobExtra {
    AutoPool(Box<AutoPool>),
    Manager(Box<ManagerTask>),
    Preparation(Box<PreparationTask>),
    Release(Box<ReleaseTask>),
    /// Why the job could not be started at all; set by the state machine alone.
    SchedulingError(Box<FailureInfo>),
}

/// A pool that is made for jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoPool {
    /// At most 20 characters; may be empty.
    pub prefix: String,
    pub lifetime: PoolLifetime,
    /// Whether the pool stays when what it was made for is over.
    pub keep_alive: bool,
    /// The id in it means nothing.
    pub pool: PoolSpec,
    pub extras: Vec<PoolExtra>,
}

/// What an auto pool is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolLifetime {
    Job,
    JobSchedule,
}

/// The task that a job is made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerTask {
    pub spec: TaskSpec,
    /// Matters only if it does not run exclusively.
    pub slots: u16,
    pub max_wall_clock: Span,
    pub retention: Span,
    /// `None`: the job's.
    pub max_retry_count: Option<i32>,
    /// Whether its completion, however it went, ends the job.
    pub kill_job_on_completion: bool,
    /// Whether it runs on a node without any other task.
    pub run_exclusive: bool,
    pub allow_low_priority_node: bool,
    pub extras: Vec<TaskExtra>,
}

/// What runs on a node before the first task of the job there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparationTask {
    pub spec: TaskSpec,
    pub constraints: TaskConstraints,
    /// Whether tasks wait for it, and go elsewhere if it fails.
    pub wait_for_success: bool,
    /// Whether it runs again on a node that was started anew, though it had succeeded.
    pub rerun_on_reboot: bool,
}

/// What runs, when the job ends, on every node that was prepared for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseTask {
    pub spec: TaskSpec,
    pub max_wall_clock: Span,
    pub retention: Span,
}

/// Of a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskExtra {
    /// Its process gets a token for its job (`authenticationTokenSettings`).
    Token,
    Packages(Vec<PackageReference>),
}

/// Of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PoolExtra {
    Packages(Vec<PackageReference>),
}

impl TaskExtra {
    pub fn packages(extras: &[TaskExtra]) -> &[PackageReference] {
        let found = extras.iter().find_map(|extra| match extra {
            TaskExtra::Packages(packages) => Some(packages.as_slice()),
            TaskExtra::Token => None,
        });
        found.unwrap_or_default()
    }
}

impl PoolExtra {
    pub fn packages(extras: &[PoolExtra]) -> &[PackageReference] {
        let found = extras.iter().map(|PoolExtra::Packages(packages)| packages.as_slice()).next();
        found.unwrap_or_default()
    }
}

impl JobExtra {
    pub fn auto_pool(extras: &[JobExtra]) -> Option<&AutoPool> {
        extras.iter().find_map(|extra| match extra {
            JobExtra::AutoPool(pool) => Some(&**pool),
            _ => None,
        })
    }

    pub fn manager(extras: &[JobExtra]) -> Option<&ManagerTask> {
        extras.iter().find_map(|extra| match extra {
            JobExtra::Manager(task) => Some(&**task),
            _ => None,
        })
    }

    pub fn preparation(extras: &[JobExtra]) -> Option<&PreparationTask> {
        extras.iter().find_map(|extra| match extra {
            JobExtra::Preparation(task) => Some(&**task),
            _ => None,
        })
    }

    pub fn release(extras: &[JobExtra]) -> Option<&ReleaseTask> {
        extras.iter().find_map(|extra| match extra {
            JobExtra::Release(task) => Some(&**task),
            _ => None,
        })
    }

    pub fn scheduling_error(extras: &[JobExtra]) -> Option<&FailureInfo> {
        extras.iter().find_map(|extra| match extra {
            JobExtra::SchedulingError(error) => Some(&**error),
            _ => None,
        })
    }
}
