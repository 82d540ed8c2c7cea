//! Domain types, one concept a file. Everything here is plain data: no clock, no randomness, no I/O.
//!
//! Specs (`TaskSpec`, `StartTask`, …) describe what a user asked for; records of what became of it live in the
//! coordinator's replicated state. Types that are replicated or sent derive serde for bincode; the JSON of the
//! REST interface has its own types at the edge (`coordinator::api`).

pub mod application;
pub mod dependency;
pub mod duration;
pub mod extra;
pub mod file;
pub mod ids;
pub mod job;
pub mod member;
pub mod node;
pub mod pool;
pub mod schedule;
pub mod task;
pub mod time;

pub use application::{PackageReference, package_directory};
pub use dependency::{
    DependencyAction, DependsOn, ExitCodeRange, ExitConditions, ExitJobAction, ExitOptions, TaskIdRange,
    TaskTies,
};
pub use duration::Span;
pub use extra::{
    AutoPool, JobExtra, ManagerTask, PoolExtra, PoolLifetime, PreparationTask, ReleaseTask, TaskExtra,
};
pub use file::{
    ContainerDestination, OutputFile, PACKAGES_LABEL, ResourceFile, ResourceSource, UploadCondition,
};
pub use ids::*;
pub use job::{AllTasksAction, DisableTasks, JobCold, JobConstraints, JobSpec, JobState, TaskFailureAction};
pub use member::{MemberRole, TokenId};
pub use node::{
    HostCapacity, NodeError, NodeState, SchedulingState, StartTask, StartTaskInfo, StartTaskState,
};
pub use pool::{
    AllocationState, DeallocationOption, FillType, JobOrder, PoolCold, PoolSpec, PoolState, ResizeError,
};
pub use schedule::{Recurrence, ScheduleCold, ScheduleSpec, ScheduleState};
pub use task::{
    AttemptOutcome, AutoUserScope, ElevationLevel, EnvironmentSetting, FailureCategory, FailureInfo,
    MetadataItem, TaskConstraints, TaskResult, TaskSpec, TaskState, UserIdentity, task_directory,
};
pub use time::Timestamp;
