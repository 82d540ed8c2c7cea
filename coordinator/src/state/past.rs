//! Notes of attempts that were not their task's last one. A task that ran once has none and costs nothing.

use super::cluster::Cluster;
use super::keys;
use super::records::{PAST_ATTEMPTS_MAX, PastAttempt, PastOutcome, TaskPlace};
use super::step::Step;
use lote_shared::model::{AttemptOutcome, NodeKey, TaskKey, Timestamp};

impl PastOutcome {
    /// `None` for what ends a task for good.
    pub(super) fn of(outcome: &AttemptOutcome) -> Option<PastOutcome> {
        match outcome {
            AttemptOutcome::Exited { exit_code, .. } => Some(PastOutcome::Exited { exit_code: *exit_code }),
            AttemptOutcome::Killed { .. } => Some(PastOutcome::Killed),
            AttemptOutcome::Lost { reason } => Some(PastOutcome::Lost { reason: reason.clone() }),
            AttemptOutcome::NotStarted(_) | AttemptOutcome::WallClock { .. } => None,
        }
    }
}

impl Cluster {
    /// Notes the end of a task's latest attempt, after which the task goes on. To be called before the task changes;
    /// `began` = when it started, if that was not reported before.
    pub(super) fn note_past(
        &self,
        step: &mut Step,
        key: TaskKey,
        node: NodeKey,
        began: Option<Timestamp>,
        ended: Timestamp,
        outcome: PastOutcome,
    ) {
        let Some(task) = self.tasks.get(key) else { return };
        let reported = matches!(task.place, TaskPlace::Running { .. }).then_some(task.started).flatten();
        let started = began.or(reported);
        let name = self.nodes.get(&node).map(|node| node.record.id.clone());
        let past = PastAttempt {
            attempt: task.attempt,
            node: name.unwrap_or_else(|| node.to_string()),
            started,
            ended: ended.max(started.unwrap_or(ended)),
            outcome,
        };
        step.put(keys::past_attempt(task.account, key, task.attempt), &past);
    }
}

/// The rows a task with so many attempts may have.
pub(super) fn forget(step: &mut Step, account: lote_shared::model::AccountId, key: TaskKey, attempts: u32) {
    for attempt in 1..attempts.min(PAST_ATTEMPTS_MAX + 1) {
        step.delete(keys::past_attempt(account, key, lote_shared::model::Attempt(attempt)));
    }
}
