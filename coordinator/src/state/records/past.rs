//! An attempt that was not a task's last one: a cold row, for `lote inspect task`.

use lote_shared::model::{Attempt, Timestamp};
use serde::{Deserialize, Serialize};

/// Rows kept of one task; a later attempt takes the place of the one that many before it.
pub const PAST_ATTEMPTS_MAX: u32 = 8;

/// What became of it, so that the task went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PastOutcome {
    /// It ended by itself and is retried.
    Exited { exit_code: i32 },
    /// It was ended on request (of a user, or because its node had to go).
    Killed,
    /// Its node lost it through no fault of the task.
    Lost { reason: String },
    /// Its host was not heard of until its lease ran out, or came back without it.
    HostLost,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastAttempt {
    pub attempt: Attempt,
    /// The node's name, which outlives the node.
    pub node: String,
    /// `None`: it was given to the node and never started.
    pub started: Option<Timestamp>,
    pub ended: Timestamp,
    pub outcome: PastOutcome,
}
