//! Job schedules: what a user asks for (`spec/jobs-and-tasks.md` §10).

use super::duration::Span;
use super::ids::ScheduleId;
use super::job::JobSpec;
use super::task::MetadataItem;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ScheduleState {
    Active,
    Completed,
    Disabled,
    Terminating,
    Deleting,
}

impl ScheduleState {
    /// The exact value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ScheduleState::Active => "active",
            ScheduleState::Completed => "completed",
            ScheduleState::Disabled => "disabled",
            ScheduleState::Terminating => "terminating",
            ScheduleState::Deleting => "deleting",
        }
    }
}

/// When jobs are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurrence {
    /// The first time; absent = the creation of the schedule.
    pub not_before: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
    /// How long after its time a job may still be made; absent = until the next time.
    pub start_window: Option<Span>,
    /// From one time to the next; absent = there is one.
    pub interval: Option<Span>,
}

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    pub id: ScheduleId,
    pub recurrence: Recurrence,
    pub cold: ScheduleCold,
}

/// The part that no rule of time reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleCold {
    pub display_name: Option<String>,
    pub metadata: Vec<MetadataItem>,
    /// What each job is made of; its id is replaced.
    pub job: JobSpec,
}
