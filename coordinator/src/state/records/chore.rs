//! What runs on a node for a job beside its tasks: preparation and release (`task-execution.md` §11, §12).

use lote_shared::model::{
    AccountId, Attempt, AttemptRef, BootId, FailureInfo, JobKey, NodeKey, PoolId, TaskKey, TaskResult,
    Timestamp,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChoreKind {
    Preparation,
    Release,
}

/// Where a chore stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChorePlace {
    /// Given to its node, not reported as started.
    Assigned,
    Running,
    /// Runs again then.
    Waiting {
        until: Timestamp,
    },
    Completed {
        result: TaskResult,
    },
    /// Its node was lost or given up before it ended: as if it had not run.
    Gone,
}

/// One run of a job's preparation or release on one node. Its key is out of the numbers of tasks, so that its attempts
/// go to hosts and come back as those of tasks do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoreRecord {
    pub key: TaskKey,
    pub account: AccountId,
    pub job: JobKey,
    pub node: NodeKey,
    pub kind: ChoreKind,
    /// Names of the node, which may go before the job does.
    pub pool: PoolId,
    pub node_id: String,
    /// The boot of its host under which the latest attempt was given out.
    pub boot: BootId,
    pub place: ChorePlace,
    pub attempt: Attempt,
    pub retry_count: u32,
    pub last_retry: Option<Timestamp>,
    pub given: Timestamp,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub failure: Option<Box<FailureInfo>>,
    /// A preparation after which the job's release has to run here.
    pub owes_release: bool,
}

impl ChoreRecord {
    pub fn attempt_ref(&self) -> AttemptRef {
        AttemptRef { task: self.key, attempt: self.attempt }
    }

    /// Whether it runs or is to run.
    pub fn is_open(&self) -> bool {
        !matches!(self.place, ChorePlace::Completed { .. } | ChorePlace::Gone)
    }

    /// Whether its node has an attempt of it, or is to get one now.
    pub fn is_out(&self) -> bool {
        matches!(self.place, ChorePlace::Assigned | ChorePlace::Running)
    }
}
