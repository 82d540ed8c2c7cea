//! Attempts: given out, reported, taken back, lost (`task-execution.md` §2, §9, §15).
//!
//! Everything said about an attempt is fenced by three facts: the task, the attempt number, and the node it was given
//! to. What no longer fits is dropped without a trace. A task gets its next attempt only when the one before is known
//! to have ended: the node reported its end, gave it back unstarted, or its lease is over.

use super::chores::Readiness;
use super::cluster::{Cluster, Event};
use super::exits::{FinalEnd, consequence};
use super::records::{ChoreKind, Ending, PastOutcome, RecentTask, TaskPlace, TaskRecord};
use super::reply::{Outcome, Refusal, RefusalCode, Reply};
use super::step::{RECORDS_MAX, Step};
use lote_shared::model::{
    AttemptOutcome, AttemptRef, DependencyAction, ExitJobAction, FailureInfo, JobState, NodeKey, Producer,
    TaskKey, TaskResult, Timestamp,
};
use lote_shared::protocol::host::{AttemptEnd, AttemptReport, KillReason};
use std::collections::BTreeMap;

/// Consecutive internal faults of reachable nodes after which a task fails.
pub const INTERNAL_FAULTS_MAX: u8 = 10;
/// Age after which a task is not started any more.
pub const TASK_LIFETIME_MS: u64 = 180 * 86_400_000;
/// Tasks a node's record remembers.
const RECENT_MAX: usize = 10;
const BACKOFF_MAX_MS: u64 = 30_000;

/// Slots a node may hold at most, running and prefetched, whatever it asks for.
pub fn held_slots_max(slots: u16) -> u32 {
    u32::from(slots) * 64 + 256
}

/// Delay before the `n`th retry (from 1): none, then 1, 2, 4 … 30 s.
pub(super) fn backoff_ms(retry: u32) -> u64 {
    match retry {
        0 | 1 => 0,
        _ => 1_000_u64.checked_shl(retry - 2).filter(|ms| *ms > 0).unwrap_or(u64::MAX).min(BACKOFF_MAX_MS),
    }
}

/// Refuses commands that name more records than one apply may touch; what they name leaves that much less for
/// consequences.
fn check_size(step: &mut Step, len: usize) -> Result<(), Refusal> {
    if len <= RECORDS_MAX {
        step.budget = step.budget.saturating_sub(len);
        return Ok(());
    }
    let detail = format!("{len} entries in one command; the limit is {RECORDS_MAX}");
    Err(Refusal::new(RefusalCode::InvalidPropertyValue).because(detail))
}

fn clamp(time: Timestamp, from: Timestamp, to: Timestamp) -> Timestamp {
    time.max(from).min(to.max(from))
}

/// What an end means for the task.
enum Verdict {
    Complete {
        exit_code: Option<i32>,
        failure: Option<FailureInfo>,
    },
    Retry,
    /// Back to the queue; `requeued` = on somebody's request.
    Again {
        requeued: bool,
        fault: bool,
    },
}

/// The end of a task's life in the queue.
struct Completion {
    at: Timestamp,
    exit_code: Option<i32>,
    failure: Option<FailureInfo>,
    ending: Option<Ending>,
    end: FinalEnd,
}

fn judge(task: &TaskRecord, end: &AttemptEnd, started: bool) -> Verdict {
    let requeued = task.ending == Some(Ending::Requeue) && started;
    match &end.outcome {
        AttemptOutcome::Exited { exit_code: 0, upload } => {
            Verdict::Complete { exit_code: Some(0), failure: upload.clone() }
        }
        AttemptOutcome::Exited { exit_code, .. } => {
            let left =
                u32::try_from(task.constraints.max_retry_count).map_or(true, |max| task.retry_count < max);
            if left {
                return Verdict::Retry;
            }
            let failure = Some(FailureInfo::exit_code(*exit_code));
            Verdict::Complete { exit_code: Some(*exit_code), failure }
        }
        AttemptOutcome::NotStarted(failure) => {
            Verdict::Complete { exit_code: None, failure: Some(failure.clone()) }
        }
        AttemptOutcome::WallClock { exit_code } => {
            Verdict::Complete { exit_code: *exit_code, failure: Some(FailureInfo::wall_clock()) }
        }
        AttemptOutcome::Killed { .. } => Verdict::Again { requeued, fault: false },
        AttemptOutcome::Lost { reason } => {
            let fault = task.ending.is_none();
            if fault && task.internal_faults.saturating_add(1) >= INTERNAL_FAULTS_MAX {
                let message = "The task could not be run because of repeated internal faults";
                let failure = FailureInfo::server("MaxInternalRetryCountReached", message)
                    .with("Message", reason.clone());
                return Verdict::Complete { exit_code: None, failure: Some(failure) };
            }
            Verdict::Again { requeued, fault }
        }
    }
}

impl Cluster {
    /// Gives tasks to a node; what does not fit (any more) is left out, the rest is answered.
    pub(super) fn assign(&mut self, step: &mut Step, node: NodeKey, tasks: &[TaskKey]) -> Reply {
        check_size(step, tasks.len())?;
        let mut given = Vec::with_capacity(tasks.len());
        for task in tasks {
            given.extend(self.assign_one(step, node, *task));
        }
        Ok(Outcome::Assigned(given))
    }

    fn assign_one(&mut self, step: &mut Step, node_key: NodeKey, key: TaskKey) -> Option<AttemptRef> {
        let node = self.nodes.get(&node_key).filter(|node| self.accepts(node))?;
        let task = self.tasks.get(key)?;
        let job = self.jobs.get(&task.job)?;
        let pool = &self.pools.get(&node.record.pool)?.record;
        let needs = job.needs(task);
        let readiness = self.readiness(job, node);
        // What waits for a preparation is not prefetched.
        let most = match readiness {
            Readiness::Ready => held_slots_max(node.record.slots),
            _ => u32::from(node.record.slots),
        };
        let room = most.saturating_sub(node.load.slots());
        let slots = needs.slots(node.record.slots);
        let fits = task.place == TaskPlace::Ready
            && task.ending != Some(Ending::Closed)
            && job.record.state == JobState::Active
            && job.below_parallel_limit(0)
            && job.offers(key)
            && job.record.account == node.record.account
            && job.record.pool == pool.id
            && needs.allows(node.record.dedicated, node.load)
            && readiness != Readiness::Barred
            && slots <= node.record.slots
            && u32::from(slots) <= room;
        if !fits {
            return None;
        }
        if step.now.since_ms(task.created) > TASK_LIFETIME_MS {
            // Too old to start: it keeps its state but leaves the queue (spec §1.2).
            self.change_task(step, key, |task| task.place = TaskPlace::Waiting { until: Timestamp::MAX });
            return None;
        }
        let job_key = task.job;
        let now = step.now;
        let attempt = task.attempt.next();
        let place = match readiness {
            Readiness::Underway | Readiness::Needed { waits: true } => {
                TaskPlace::Preparing { node: node_key, at: now, launched: false }
            }
            Readiness::Ready | Readiness::Needed { waits: false } | Readiness::Barred => {
                TaskPlace::Assigned { node: node_key, at: now }
            }
        };
        self.change_task(step, key, |task| {
            task.attempt = attempt;
            task.ending = None;
            task.last_node = Some(node_key);
            task.slots = slots;
            task.move_to(place, now);
        });
        if matches!(readiness, Readiness::Needed { .. }) {
            self.give_chore(step, job_key, node_key, ChoreKind::Preparation);
        }
        self.turns += 1;
        if let Some(job) = self.jobs.get_mut(&job_key) {
            job.turn = self.turns;
        }
        Some(AttemptRef { task: key, attempt })
    }

    /// Attempts a node gave back unstarted: as if they had never been given out.
    pub(super) fn recalled(&mut self, step: &mut Step, node: NodeKey, attempts: &[AttemptRef]) -> Reply {
        check_size(step, attempts.len())?;
        for attempt in attempts {
            let Some(task) = self.tasks.get(attempt.task).filter(|task| task.attempt == attempt.attempt)
            else {
                continue;
            };
            match task.place {
                TaskPlace::Assigned { node: holder, .. }
                | TaskPlace::Preparing { node: holder, launched: true, .. }
                    if holder == node =>
                {
                    self.give_back(step, attempt.task, None, false, |_| ());
                }
                _ if task.ending == Some(Ending::Closed) && task.last_node == Some(node) => {
                    self.change_task(step, attempt.task, |task| task.ending = None);
                }
                _ => {}
            }
        }
        Ok(Outcome::Done)
    }

    /// Whether this attempt may still write: its end would count, and it is that host which tells of it.
    pub(super) fn check_producer(&self, producer: &Producer, peer: &str) -> Result<(), Refusal> {
        let node = self.nodes.get(&producer.node);
        let host = node.and_then(|node| self.hosts.get(&node.record.host));
        let task = self.tasks.get(producer.attempt.task);
        let is_latest = |task: &&TaskRecord| {
            task.attempt == producer.attempt.attempt && task.last_node == Some(producer.node)
        };
        let counts = |task: &TaskRecord| match (task.place, task.ending) {
            (_, Some(Ending::Closed)) | (TaskPlace::Completed { .. }, _) => false,
            (
                TaskPlace::Assigned { .. }
                | TaskPlace::Preparing { launched: true, .. }
                | TaskPlace::Running { .. },
                _,
            ) => true,
            (
                TaskPlace::Ready
                | TaskPlace::Waiting { .. }
                | TaskPlace::Dependent
                | TaskPlace::Preparing { launched: false, .. },
                ending,
            ) => ending == Some(Ending::Lost),
        };
        let is_its_host = host.is_some_and(|host| host.record.peer == peer);
        match is_its_host && task.filter(is_latest).is_some_and(counts) {
            true => Ok(()),
            false => Err(RefusalCode::Fenced.into()),
        }
    }

    pub(super) fn report(&mut self, step: &mut Step, node: NodeKey, reports: &[AttemptReport]) -> Reply {
        check_size(step, reports.len())?;
        if !self.nodes.contains_key(&node) {
            return Err(RefusalCode::NodeNotFound.into());
        }
        // Ends first: a slot that was used again within one report is free before it is taken. A start told apart from
        // its end in the same report goes with it.
        let (ends, starts): (Vec<_>, Vec<_>) = reports.iter().partition(|report| report.end.is_some());
        let started: BTreeMap<_, _> = starts
            .iter()
            .filter(|_| !ends.is_empty())
            .map(|report| (report.attempt, report.started))
            .collect();
        for report in ends {
            let began = report.started.or_else(|| started.get(&report.attempt).copied().flatten());
            self.report_one(step, node, report, began);
        }
        for report in starts {
            self.report_one(step, node, report, report.started);
        }
        Ok(Outcome::Done)
    }

    fn report_one(
        &mut self,
        step: &mut Step,
        node: NodeKey,
        report: &AttemptReport,
        began: Option<Timestamp>,
    ) {
        if self.report_chore(step, node, report) {
            return;
        }
        let Some(task) = self.tasks.get(report.attempt.task) else { return };
        if task.attempt != report.attempt.attempt || task.last_node != Some(node) {
            return;
        }
        let key = task.key;
        match (task.place, task.ending, &report.end) {
            (_, Some(Ending::Closed), Some(_)) => self.change_task(step, key, |task| task.ending = None),
            (_, Some(Ending::Closed), None) => {}
            // Already asked back: it will be reported as ended.
            (
                TaskPlace::Assigned { .. } | TaskPlace::Preparing { .. },
                Some(Ending::Requeue | Ending::Recover),
                None,
            ) => {}
            (TaskPlace::Assigned { at, .. } | TaskPlace::Preparing { at, launched: true, .. }, _, None) => {
                self.attempt_started(step, key, node, at, began);
            }
            (
                TaskPlace::Assigned { at, .. } | TaskPlace::Preparing { at, launched: true, .. },
                _,
                Some(end),
            ) => {
                let from = clamp(began.unwrap_or(end.at), at, step.now);
                // An attempt whose work never began ends where it stands.
                let began = report.started.is_some() || matches!(end.outcome, AttemptOutcome::Exited { .. });
                self.attempt_ended(step, key, node, began.then_some(from), end);
            }
            (TaskPlace::Running { .. }, _, Some(end)) => self.attempt_ended(step, key, node, None, end),
            (TaskPlace::Ready | TaskPlace::Waiting { .. }, Some(Ending::Lost), Some(end)) => {
                let own = !matches!(end.outcome, AttemptOutcome::Killed { .. } | AttemptOutcome::Lost { .. });
                if own {
                    let from = task.started.filter(|_| began.is_none());
                    let from = from.unwrap_or(began.unwrap_or(end.at).min(step.now));
                    self.attempt_ended(step, key, node, Some(from.max(task.created)), end);
                }
            }
            _ => {}
        }
    }

    fn attempt_started(
        &mut self,
        step: &mut Step,
        key: TaskKey,
        node_key: NodeKey,
        assigned: Timestamp,
        started: Option<Timestamp>,
    ) {
        let slots = self.tasks.get(key).map_or(0, |task| u32::from(task.slots));
        let Some(node) = self.nodes.get_mut(&node_key) else { return };
        if node.load.running_slots.saturating_add(slots) > u32::from(node.record.slots) {
            // A node that runs more than its slots is not believed; the end will be.
            return;
        }
        note_start(node, key);
        step.node_rows.insert(node_key);
        let now = step.now;
        let started = clamp(started.unwrap_or(now), assigned, now);
        self.change_task(step, key, |task| {
            task.move_to(TaskPlace::Running { node: node_key }, now);
            task.started = Some(started);
            if task.ending == Some(Ending::Recall) {
                task.ending = None;
            }
        });
    }

    /// `began` = when it started, if that was not reported before.
    fn attempt_ended(
        &mut self,
        step: &mut Step,
        key: TaskKey,
        node_key: NodeKey,
        began: Option<Timestamp>,
        end: &AttemptEnd,
    ) {
        let Some(task) = self.tasks.get(key) else { return };
        let started = began.is_some() || matches!(task.place, TaskPlace::Running { .. });
        // A late result of a lost attempt was counted when it started.
        let newly = began.is_some() && task.ending != Some(Ending::Lost);
        let verdict = judge(task, end, started);
        let succeeded = matches!(verdict, Verdict::Complete { failure: None, .. });
        if let Some(node) = self.nodes.get_mut(&node_key) {
            if newly {
                note_start(node, key);
            }
            node.record.tasks_succeeded = node.record.tasks_succeeded.saturating_add(u32::from(succeeded));
            step.node_rows.insert(node_key);
        }
        if !matches!(verdict, Verdict::Complete { .. })
            && let Some(outcome) = PastOutcome::of(&end.outcome)
        {
            let ended = end.at.min(step.now);
            self.note_past(step, key, node_key, began, ended, outcome);
        }
        match verdict {
            Verdict::Complete { exit_code, failure } => {
                let how = FinalEnd::from(&end.outcome);
                let done = Completion { at: end.at, exit_code, failure, ending: None, end: how };
                self.complete(step, key, began, done);
            }
            Verdict::Retry => self.retry(step, key, began),
            Verdict::Again { requeued, fault } => {
                self.give_back(step, key, began, requeued, |task| {
                    task.internal_faults = task.internal_faults.saturating_add(u8::from(fault));
                });
            }
        }
    }

    fn retry(&mut self, step: &mut Step, key: TaskKey, began: Option<Timestamp>) {
        let now = step.now;
        let retry = self.tasks.get(key).map_or(0, |task| task.retry_count.saturating_add(1));
        let until = now.plus_ms(backoff_ms(retry));
        self.change_task(step, key, |task| {
            task.pass_through_running(began);
            let place = if until > now { TaskPlace::Waiting { until } } else { TaskPlace::Ready };
            task.move_to(place, now);
            task.retry_count = retry;
            task.last_retry = Some(until);
            task.internal_faults = 0;
            task.ending = None;
        });
        if until > now {
            step.event(Event::RetryAt { task: key, at: until });
        }
    }

    /// Puts a task back in the queue, where it keeps its place; nothing of the attempt stays open.
    pub(super) fn give_back(
        &mut self,
        step: &mut Step,
        key: TaskKey,
        began: Option<Timestamp>,
        requeued: bool,
        more: impl FnOnce(&mut TaskRecord),
    ) {
        let now = step.now;
        self.change_task(step, key, |task| {
            task.pass_through_running(began);
            task.move_to(TaskPlace::Ready, now);
            task.ending = None;
            if requeued {
                task.requeue_count = task.requeue_count.saturating_add(1);
                task.last_requeue = Some(now);
            }
            more(task);
        });
    }

    /// Completes a task, and has its job and those that depend on it hear of it.
    fn complete(&mut self, step: &mut Step, key: TaskKey, began: Option<Timestamp>, done: Completion) {
        let now = step.now;
        let result = if done.failure.is_none() { TaskResult::Success } else { TaskResult::Failure };
        let Some(job) = self.tasks.get(key).map(|task| task.job) else { return };
        self.manager_ends(step, job, key, done.end);
        self.change_task(step, key, |task| {
            task.pass_through_running(began);
            task.move_to(TaskPlace::Completed { result }, now);
            task.ended = Some(clamp(done.at, task.started.unwrap_or(task.created), now));
            task.exit_code = done.exit_code;
            task.failure = done.failure.map(Box::new);
            task.internal_faults = 0;
            task.ending = done.ending;
        });
        let ties = self.jobs.get(&job).and_then(|job| job.dependencies.ties(key));
        let conditions = ties.and_then(|ties| ties.exit_conditions.as_ref());
        let follows = consequence(conditions, done.end);
        if follows.job > ExitJobAction::None {
            let action = step.exits.entry(job).or_insert(follows.job);
            *action = follows.job.max(*action);
        }
        if follows.dependency == DependencyAction::Satisfy {
            self.satisfy(step, job, key);
        }
    }

    /// Ends a task for good because somebody asked. An attempt on a node is closed: the record is final at once, and
    /// no other attempt is given out until the node confirmed.
    pub(super) fn end_task(&mut self, step: &mut Step, key: TaskKey, end: FinalEnd) {
        let Some(task) = self.tasks.get(key) else { return };
        let (node, attempt) = (task.held_by(), task.attempt_ref());
        let was_closed = task.ending == Some(Ending::Closed);
        let done = Completion {
            at: step.now,
            exit_code: None,
            failure: Some(FailureInfo::ended_by_user()),
            ending: node.map(|_| Ending::Closed),
            end,
        };
        self.complete(step, key, None, done);
        if let Some(node) = node.filter(|_| !was_closed) {
            step.event(Event::Kill { node, attempt, reason: KillReason::Ended });
        }
    }

    /// Asks a node to give an attempt back, started or not; the task is queued again when the node says it ended.
    pub(super) fn want_back(&mut self, step: &mut Step, key: TaskKey, ending: Ending) {
        let Some(task) = self.tasks.get(key) else { return };
        if matches!(task.place, TaskPlace::Preparing { launched: false, .. }) {
            self.give_back(step, key, None, false, |_| ());
            return;
        }
        let (TaskPlace::Assigned { node, .. }
        | TaskPlace::Preparing { node, .. }
        | TaskPlace::Running { node }) = task.place
        else {
            return;
        };
        if matches!(task.ending, Some(Ending::Requeue)) || task.ending == Some(ending) {
            return;
        }
        let attempt = task.attempt_ref();
        self.change_task(step, key, |task| task.ending = Some(ending));
        step.event(Event::Kill { node, attempt, reason: KillReason::Requeued });
    }

    /// Asks a node to give an attempt back if it has not started it.
    pub(super) fn recall_task(&mut self, step: &mut Step, key: TaskKey) {
        let Some(task) = self.tasks.get(key) else { return };
        if matches!(task.place, TaskPlace::Preparing { launched: false, .. }) {
            self.give_back(step, key, None, false, |_| ());
            return;
        }
        let (TaskPlace::Assigned { node, .. } | TaskPlace::Preparing { node, .. }) = task.place else {
            return;
        };
        if task.ending.is_some() {
            return;
        }
        let attempt = task.attempt_ref();
        self.change_task(step, key, |task| task.ending = Some(Ending::Recall));
        step.event(Event::Recall { node, attempt });
    }

    /// An attempt that surely runs no more: the task goes back to the queue, or its end counts as confirmed.
    /// `asked` = a user asked for the node; `late` = a result may still come (the lease ran out).
    pub(super) fn attempt_is_dead(&mut self, step: &mut Step, key: TaskKey, asked: bool, late: bool) {
        let Some(task) = self.tasks.get(key) else { return };
        if task.ending == Some(Ending::Closed) {
            self.change_task(step, key, |task| task.ending = None);
            return;
        }
        let running = matches!(task.place, TaskPlace::Running { .. });
        let requeued = running && (asked || task.ending == Some(Ending::Requeue));
        if let Some(node) = task.held_by() {
            let outcome = if asked { PastOutcome::Killed } else { PastOutcome::HostLost };
            self.note_past(step, key, node, None, step.now, outcome);
        }
        self.give_back(step, key, None, requeued, |task| task.ending = late.then_some(Ending::Lost));
    }

    /// Tasks whose back-off is over.
    pub(super) fn retry_due(&mut self, step: &mut Step, tasks: &[TaskKey]) -> Reply {
        check_size(step, tasks.len())?;
        for key in tasks {
            let place = self.tasks.get(*key).map(|task| task.place);
            self.chore_again(step, *key);
            if matches!(place, Some(TaskPlace::Waiting { until }) if until <= step.now && until < Timestamp::MAX)
            {
                self.change_task(step, *key, |task| task.place = TaskPlace::Ready);
            }
        }
        Ok(Outcome::Done)
    }
}

fn note_start(node: &mut super::index::Node, task: TaskKey) {
    node.record.tasks_run = node.record.tasks_run.saturating_add(1);
    node.record.recent.push_front(RecentTask { task });
    node.record.recent.truncate(RECENT_MAX);
}
