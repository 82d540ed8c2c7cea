//! A task as apply sees it.

use super::super::reply::Version;
use lote_shared::model::{
    AccountId, Attempt, AttemptRef, FailureInfo, JobKey, NodeKey, TaskConstraints, TaskId, TaskKey,
    TaskResult, TaskState, Timestamp,
};
use serde::{Deserialize, Serialize};

/// Where a task stands inside; finer than what the API shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskPlace {
    /// In the queue.
    Ready,
    /// In the queue, but not before this time (back-off of a retry).
    Waiting {
        until: Timestamp,
    },
    /// Given to a node, not reported as started. Shown as `active`; counts in maxParallelTasks, not in the counts.
    Assigned {
        node: NodeKey,
        at: Timestamp,
    },
    /// Reported as started.
    Running {
        node: NodeKey,
    },
    Completed {
        result: TaskResult,
    },
    /// In the queue, but not before the tasks it depends on have satisfied.
    Dependent,
    /// Given to a node that its job's preparation makes ready first, and not reported as started; `launched`: that is
    /// done, and the attempt is on its way.
    Preparing {
        node: NodeKey,
        at: Timestamp,
        launched: bool,
    },
}

/// What is still open about the latest attempt (number [`TaskRecord::attempt`], on [`TaskRecord::last_node`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Wanted back if it has not started; once it starts it may go on.
    Recall,
    /// The node is to end it, then the task goes back to the queue; counted in `requeue_count` if it had started.
    Requeue,
    /// As `Requeue` but never counted: no user asked for it.
    Recover,
    /// The record is closed (or even reactivated) but the node has not confirmed that the processes are gone. Until
    /// it does, no other attempt is given out.
    Closed,
    /// The lease of its host ran out, so the task may run elsewhere; should the host return with a result before
    /// that happened, it is taken (`task-execution.md` §15.6).
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub key: TaskKey,
    pub account: AccountId,
    pub job: JobKey,
    pub id: TaskId,
    pub version: Version,
    pub created: Timestamp,
    pub place: TaskPlace,
    pub state_changed: Timestamp,
    pub previous_state: Option<(TaskState, Timestamp)>,
    pub slots: u16,
    pub constraints: TaskConstraints,
    /// The latest attempt given out; rises for ever.
    pub attempt: Attempt,
    pub retry_count: u32,
    pub last_retry: Option<Timestamp>,
    pub requeue_count: u32,
    pub last_requeue: Option<Timestamp>,
    /// Consecutive internal faults on reachable nodes.
    pub internal_faults: u8,
    /// The node of the latest attempt, kept after its end for `nodeInfo`.
    pub last_node: Option<NodeKey>,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub failure: Option<Box<FailureInfo>>,
    /// What is still open about the latest attempt.
    pub ending: Option<Ending>,
    /// The node its affinity id named when it was added; a wish only.
    pub affinity: Option<NodeKey>,
}

impl TaskRecord {
    /// What the API shows.
    pub fn state(&self) -> TaskState {
        match self.place {
            TaskPlace::Ready
            | TaskPlace::Waiting { .. }
            | TaskPlace::Dependent
            | TaskPlace::Assigned { .. } => TaskState::Active,
            TaskPlace::Preparing { .. } => TaskState::Preparing,
            TaskPlace::Running { .. } => TaskState::Running,
            TaskPlace::Completed { .. } => TaskState::Completed,
        }
    }

    /// The latest attempt by name.
    pub fn attempt_ref(&self) -> AttemptRef {
        AttemptRef { task: self.key, attempt: self.attempt }
    }

    /// The node where the latest attempt is held: given to it and not known to have ended there. One that waits for a
    /// preparation was not given yet.
    pub fn held_by(&self) -> Option<NodeKey> {
        match self.place {
            TaskPlace::Assigned { node, .. }
            | TaskPlace::Preparing { node, launched: true, .. }
            | TaskPlace::Running { node } => Some(node),
            _ if self.ending == Some(Ending::Closed) => self.last_node,
            _ => None,
        }
    }

    /// The node it would like: where it ran before if this is a retry, else its affinity.
    pub fn wish(&self) -> Option<NodeKey> {
        if self.retry_count > 0 { self.last_node } else { self.affinity }
    }

    /// Moves the task; the times of its visible state follow only if that changes.
    pub(in crate::state) fn move_to(&mut self, place: TaskPlace, now: Timestamp) {
        let old = self.state();
        self.place = place;
        if self.state() != old {
            self.previous_state = Some((old, self.state_changed));
            self.state_changed = now.max(self.state_changed);
        }
    }

    /// Notes that the latest attempt ran from then on, where its start is told together with its end.
    pub(in crate::state) fn pass_through_running(&mut self, began: Option<Timestamp>) {
        if let (Some(began), Some(node)) = (began, self.last_node) {
            self.move_to(TaskPlace::Running { node }, began);
            self.started = Some(began);
        }
    }
}
