//! The start task of a node (`pools-and-nodes.md` §9.3): runs, retries with back-off, and what is told about it.

use lote_shared::model::{
    AttemptOutcome, FailureInfo, StartTask, StartTaskInfo, StartTaskState, TaskResult, Timestamp,
};

const BACK_OFF_FIRST_MS: u64 = 1_000;
const BACK_OFF_MAX_MS: u64 = 60_000;

/// What follows the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Succeeded,
    Failed,
    /// Run again after so long.
    Again {
        delay_ms: u64,
    },
}

#[derive(Debug)]
pub struct StartProgress {
    pub task: StartTask,
    pub info: StartTaskInfo,
    /// Counts runs of all kinds; makes their keys differ.
    pub run: u32,
    pub active: bool,
}

impl StartProgress {
    pub fn new(task: StartTask, now: Timestamp) -> StartProgress {
        let info = StartTaskInfo {
            state: StartTaskState::Running,
            start_time: now,
            end_time: None,
            exit_code: None,
            failure: None,
            retry_count: 0,
            last_retry_time: None,
            result: None,
        };
        StartProgress { task, info, run: 0, active: false }
    }

    /// A run begins now.
    pub fn begin(&mut self, now: Timestamp) -> u32 {
        self.run += 1;
        self.active = true;
        self.info.state = StartTaskState::Running;
        self.info.start_time = now;
        self.info.end_time = None;
        self.info.exit_code = None;
        self.info.failure = None;
        self.info.result = None;
        self.run
    }

    /// The run ended. `None` if it was ended on our own demand and nothing follows.
    pub fn end(&mut self, now: Timestamp, outcome: AttemptOutcome) -> Option<Verdict> {
        self.active = false;
        let (exit_code, failure) = match outcome {
            AttemptOutcome::Exited { exit_code: 0, .. } => (Some(0), None),
            AttemptOutcome::Exited { exit_code, .. } => {
                let limit = self.task.max_retry_count;
                if limit < 0 || self.info.retry_count < limit.unsigned_abs() {
                    let delay_ms = back_off_ms(self.info.retry_count);
                    self.info.retry_count += 1;
                    self.info.last_retry_time = Some(now);
                    self.info.exit_code = Some(exit_code);
                    return Some(Verdict::Again { delay_ms });
                }
                (Some(exit_code), Some(FailureInfo::exit_code(exit_code)))
            }
            // Errors before the command are never retried.
            AttemptOutcome::NotStarted(failure) => (None, Some(failure)),
            // No fault of the task: again, uncounted.
            AttemptOutcome::Lost { .. } => return Some(Verdict::Again { delay_ms: BACK_OFF_FIRST_MS }),
            AttemptOutcome::Killed { .. } | AttemptOutcome::WallClock { .. } => return None,
        };
        let result = if failure.is_none() { TaskResult::Success } else { TaskResult::Failure };
        self.info.state = StartTaskState::Completed;
        self.info.end_time = Some(now);
        self.info.exit_code = exit_code;
        self.info.failure = failure;
        self.info.result = Some(result);
        Some(if result == TaskResult::Success { Verdict::Succeeded } else { Verdict::Failed })
    }

    pub fn is_completed(&self) -> bool {
        self.info.state == StartTaskState::Completed
    }
}

fn back_off_ms(retries: u32) -> u64 {
    BACK_OFF_FIRST_MS.checked_shl(retries.min(16)).unwrap_or(BACK_OFF_MAX_MS).min(BACK_OFF_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_to_a_minute() {
        let delays: Vec<u64> = [0, 1, 2, 5, 6, 7, 40, u32::MAX].map(back_off_ms).to_vec();
        assert_eq!(delays, [1_000, 2_000, 4_000, 32_000, 60_000, 60_000, 60_000, 60_000]);
    }
}
