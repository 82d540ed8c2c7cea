//! A job schedule as apply sees it.

use super::super::reply::Version;
use lote_shared::model::{
    AccountId, JobId, JobKey, Recurrence, ScheduleId, ScheduleKey, ScheduleState, Timestamp,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    pub key: ScheduleKey,
    pub account: AccountId,
    pub id: ScheduleId,
    pub version: Version,
    pub created: Timestamp,
    pub state: ScheduleState,
    pub state_changed: Timestamp,
    pub previous_state: Option<(ScheduleState, Timestamp)>,
    pub ended: Option<Timestamp>,
    pub recurrence: Recurrence,
    pub jobs_made: u32,
    /// The slot of the latest job.
    pub served: Option<Timestamp>,
    /// The latest job: its key while it is there, its name for ever.
    pub latest: Option<(JobKey, JobId)>,
    /// When the time alone may change something.
    pub wake: Option<Timestamp>,
}
