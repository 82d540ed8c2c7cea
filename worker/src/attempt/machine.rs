//! The life of one attempt on a node, as a pure state machine (`task-execution.md` §2, §7–§10).
//!
//! ```text
//! Preparing ─► Fetching ─► Running ─► Uploading ─► Done
//!     │            │          │           │
//!     └────────────┴──────────┴───────────┴──► Done   (failure, kill, wall clock, host stopping)
//! ```
//!
//! It owns the decision what comes next and what the outcome is. The shell (`attempt::actor`) carries the effects
//! out and feeds the results back; times are milliseconds of the host's boot clock. Nothing here survives a crash of
//! the worker; the keeper holds process and context, and [`AttemptMachine::adopt`] starts again from these.

use crate::keeper::wire::{Cause, SpawnError};
use lote_shared::model::{AttemptOutcome, FailureInfo, UploadCondition};
use lote_shared::protocol::host::KillReason;

/// Uploads have a limit of their own (`task-execution.md` §10).
pub const UPLOAD_LIMIT_MS: u64 = 3_600_000;

/// What the machine has to know of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub has_resource_files: bool,
    /// Conditions of the output files, in their order.
    pub uploads: Vec<UploadCondition>,
    /// From start to forced end; `None` = no limit.
    pub wall_clock_ms: Option<u64>,
    /// Whether a non-zero exit code is final.
    pub last_try: bool,
    /// Between SIGTERM and SIGKILL.
    pub grace_ms: u64,
}

/// How the process ended, or why there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEnd {
    Exited {
        exit_code: i32,
        cause: Cause,
        survivors: u32,
    },
    NotSpawned {
        error: SpawnError,
        message: String,
    },
    /// The keeper died, and the process with it.
    KeeperLost,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The directories are clean and there.
    Prepared(Result<(), FailureInfo>),
    /// All resource files are laid down.
    Fetched(Result<(), FailureInfo>),
    Process(ProcessEnd),
    /// All uploads were tried; the first failure.
    Uploaded(Option<FailureInfo>),
    Kill(KillReason),
    WallClock {
        wall_clock_ms: Option<u64>,
    },
    /// The worker shuts down: the attempt is to be run again elsewhere, uncounted.
    HostStopping {
        grace_ms: u64,
    },
    /// Time passed.
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Prepare,
    Fetch,
    /// Drop a running fetch or upload; no result is wanted.
    CancelTransfer,
    Launch,
    /// End the process tree; answered by [`Input::Process`].
    EndProcess {
        grace_ms: u64,
    },
    /// Upload these output files (indices); answered by [`Input::Uploaded`].
    Upload(Vec<usize>),
    /// The last effect.
    Finish {
        outcome: AttemptOutcome,
        survivors: u32,
    },
}

/// Why the attempt is being ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Killed,
    WallClock,
    HostStopping,
}

/// What is reported once the uploads are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Exited(i32),
    WallClock(Option<i32>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Preparing,
    Fetching,
    Running,
    Uploading { result: Ended, limit_ms: u64, survivors: u32 },
    Done,
}

#[derive(Debug)]
pub struct AttemptMachine {
    plan: Plan,
    started_ms: u64,
    step: Step,
    ending: Option<Ending>,
}

impl AttemptMachine {
    /// A new attempt; it starts now.
    pub fn start(plan: Plan, now_ms: u64) -> (AttemptMachine, Vec<Effect>) {
        let machine = AttemptMachine { plan, started_ms: now_ms, step: Step::Preparing, ending: None };
        (machine, vec![Effect::Prepare])
    }

    /// An attempt whose process the keeper has, found again after a restart of the worker.
    pub fn adopt(plan: Plan, started_ms: u64) -> AttemptMachine {
        AttemptMachine { plan, started_ms, step: Step::Running, ending: None }
    }

    /// When a [`Input::Tick`] is wanted.
    pub fn next_tick_ms(&self) -> Option<u64> {
        match self.step {
            Step::Done => None,
            Step::Uploading { limit_ms, .. } => Some(limit_ms),
            _ if self.ending.is_some() => None,
            _ => Some(self.started_ms.saturating_add(self.plan.wall_clock_ms?)),
        }
    }

    pub fn on(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        match (&self.step, input) {
            (Step::Done, _) => Vec::new(),
            (_, Input::WallClock { wall_clock_ms }) => {
                self.plan.wall_clock_ms = wall_clock_ms;
                self.tick(now_ms)
            }
            (_, Input::Tick) => self.tick(now_ms),
            (_, Input::Kill(reason)) => {
                // A fenced attempt may already run elsewhere: no time to lose.
                let grace_ms = if reason == KillReason::Fenced { 0 } else { self.plan.grace_ms };
                self.end(Ending::Killed, grace_ms)
            }
            (_, Input::HostStopping { grace_ms }) => self.end(Ending::HostStopping, grace_ms),
            (Step::Preparing, Input::Prepared(Err(failure))) => self.finish_early(failure),
            (Step::Preparing, Input::Prepared(Ok(()))) => match self.ending {
                Some(ending) => self.finish(outcome_of(ending, None), 0),
                None if self.plan.has_resource_files => {
                    self.step = Step::Fetching;
                    vec![Effect::Fetch]
                }
                None => self.launch(),
            },
            (Step::Fetching, Input::Fetched(Err(failure))) => self.finish_early(failure),
            (Step::Fetching, Input::Fetched(Ok(()))) => self.launch(),
            (Step::Running, Input::Process(end)) => self.process_ended(now_ms, end),
            (Step::Uploading { result, survivors, .. }, Input::Uploaded(failure)) => {
                let (outcome, survivors) = (uploaded(*result, failure), *survivors);
                self.finish(outcome, survivors)
            }
            // The answer to a step that was left meanwhile.
            (_, Input::Prepared(_) | Input::Fetched(_) | Input::Process(_) | Input::Uploaded(_)) => {
                Vec::new()
            }
        }
    }

    fn launch(&mut self) -> Vec<Effect> {
        self.step = Step::Running;
        vec![Effect::Launch]
    }

    /// A failure before the process was there. Somebody's wish to end the attempt goes first.
    fn finish_early(&mut self, failure: FailureInfo) -> Vec<Effect> {
        let outcome = match self.ending {
            Some(ending) => outcome_of(ending, None),
            None => AttemptOutcome::NotStarted(failure),
        };
        self.finish(outcome, 0)
    }

    fn finish(&mut self, outcome: AttemptOutcome, survivors: u32) -> Vec<Effect> {
        self.step = Step::Done;
        vec![Effect::Finish { outcome, survivors }]
    }

    fn tick(&mut self, now_ms: u64) -> Vec<Effect> {
        if self.next_tick_ms().is_none_or(|at| now_ms < at) {
            return Vec::new();
        }
        if let Step::Uploading { result, survivors, .. } = self.step {
            let failure = FailureInfo::server("FileUploadTimedOut", "the uploads took longer than an hour");
            let mut effects = vec![Effect::CancelTransfer];
            effects.extend(self.finish(uploaded(result, Some(failure)), survivors));
            return effects;
        }
        self.end(Ending::WallClock, self.plan.grace_ms)
    }

    /// Ends the attempt from outside. A kill beats a wall clock that has just run out, and so does the host's end.
    fn end(&mut self, ending: Ending, grace_ms: u64) -> Vec<Effect> {
        let before = self.ending.replace(ending);
        match self.step {
            // The directories are being made: their result ends it.
            Step::Preparing | Step::Done => Vec::new(),
            Step::Fetching => {
                let mut effects = vec![Effect::CancelTransfer];
                effects.extend(self.finish(outcome_of(ending, None), 0));
                effects
            }
            Step::Running if before == Some(ending) => Vec::new(),
            Step::Running => vec![Effect::EndProcess { grace_ms }],
            Step::Uploading { result, survivors, .. } => {
                let exit_code = match result {
                    Ended::Exited(exit_code) => Some(exit_code),
                    Ended::WallClock(exit_code) => exit_code,
                };
                let mut effects = vec![Effect::CancelTransfer];
                effects.extend(self.finish(outcome_of(ending, exit_code), survivors));
                effects
            }
        }
    }

    fn process_ended(&mut self, now_ms: u64, end: ProcessEnd) -> Vec<Effect> {
        let (exit_code, cause, survivors) = match end {
            ProcessEnd::Exited { exit_code, cause, survivors } => (exit_code, cause, survivors),
            ProcessEnd::NotSpawned { error: SpawnError::NotFound, message } => {
                return self.finish_early(FailureInfo::user("CommandProgramNotFound", message));
            }
            ProcessEnd::NotSpawned { error: SpawnError::Launch, message } => {
                return self.finish_early(FailureInfo::user("CommandLaunchFailed", message));
            }
            ProcessEnd::NotSpawned { error: SpawnError::Refused, message } => {
                return self.finish(lost(message), 0);
            }
            ProcessEnd::KeeperLost => return self.finish(lost("the keeper of the host died"), 0),
        };
        let result = match (cause, self.ending) {
            (_, Some(ending @ (Ending::Killed | Ending::HostStopping))) => {
                return self.finish(outcome_of(ending, Some(exit_code)), survivors);
            }
            (Cause::Deadline, _) => {
                return self.finish(lost("the host was out of contact for longer than its lease"), survivors);
            }
            (Cause::Asked, Some(Ending::WallClock)) => Ended::WallClock(Some(exit_code)),
            // The keeper was asked by its own operator.
            (Cause::Asked, None) => {
                return self.finish(lost("the keeper of the host was stopped"), survivors);
            }
            // It ended by itself, perhaps at the very moment its time ran out.
            (Cause::Itself, _) => Ended::Exited(exit_code),
        };
        let uploads = self.uploads(result);
        if uploads.is_empty() {
            return self.finish(uploaded(result, None), survivors);
        }
        self.step = Step::Uploading { result, limit_ms: now_ms.saturating_add(UPLOAD_LIMIT_MS), survivors };
        vec![Effect::Upload(uploads)]
    }

    /// Which output files are due: only on the attempt that is final, and by their condition.
    fn uploads(&self, result: Ended) -> Vec<usize> {
        let success = result == Ended::Exited(0);
        let is_final = success || self.plan.last_try || matches!(result, Ended::WallClock(_));
        let due = |condition: &UploadCondition| match condition {
            UploadCondition::TaskSuccess => success,
            UploadCondition::TaskFailure => !success,
            UploadCondition::TaskCompletion => true,
        };
        let all = self.plan.uploads.iter().enumerate();
        all.filter(|(_, condition)| is_final && due(condition)).map(|(index, _)| index).collect()
    }
}

fn uploaded(result: Ended, failure: Option<FailureInfo>) -> AttemptOutcome {
    match result {
        Ended::Exited(exit_code) => AttemptOutcome::Exited { exit_code, upload: failure },
        Ended::WallClock(exit_code) => AttemptOutcome::WallClock { exit_code },
    }
}

fn outcome_of(ending: Ending, exit_code: Option<i32>) -> AttemptOutcome {
    match ending {
        Ending::Killed => AttemptOutcome::Killed { exit_code },
        Ending::WallClock => AttemptOutcome::WallClock { exit_code },
        Ending::HostStopping => lost("host stopping"),
    }
}

fn lost(reason: impl Into<String>) -> AttemptOutcome {
    AttemptOutcome::Lost { reason: reason.into() }
}

#[cfg(test)]
mod tests;
