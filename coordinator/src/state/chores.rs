//! Preparation and release of jobs on nodes (`task-execution.md` §11, §12).
//!
//! A chore is bound to its node, takes no slot, and is fenced like a task by its attempt number. A job's preparation
//! begins on a node when the first of its tasks is given to that node; the task is *preparing*, holds its slots, and
//! leaves for the host when the preparation has succeeded. Where it failed for good, the node is barred for the job and
//! its tasks go back to the queue. A preparation that succeeded *owes* a release, which the job gives out when it ends
//! and its tasks have ended; the job is completed, or removed, once no release is owed or open.

use super::attempts::backoff_ms;
use super::cluster::{Cluster, Event, LoadError};
use super::command::CursorKey;
use super::cursors::{CursorRecord, Work};
use super::index::{Deadline, Job, Node};
use super::keys;
use super::records::{ChoreKind, ChorePlace, ChoreRecord, HostState, TaskPlace};
use super::step::Step;
use lote_shared::model::{
    Attempt, AttemptOutcome, FailureInfo, JobExtra, JobKey, NodeKey, TaskKey, TaskResult, Timestamp,
};
use lote_shared::protocol::host::{AttemptReport, KillReason, TaskDirectory};
use std::ops::Bound;

/// How far a node is for the tasks of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// They may start.
    Ready,
    /// They wait for what is under way.
    Underway,
    /// The preparation has to run first; `waits`: and they wait for it.
    Needed { waits: bool },
    /// The preparation failed there.
    Barred,
}

impl Cluster {
    /// How far the node is for the tasks of the job.
    pub(super) fn readiness(&self, job: &Job, node: &Node) -> Readiness {
        let Some(preparation) = JobExtra::preparation(&job.extras) else { return Readiness::Ready };
        let waits = preparation.wait_for_success;
        let chore = job.chores.get(&(ChoreKind::Preparation, node.record.key));
        let Some(chore) = chore.and_then(|key| self.chores.get(key)) else {
            return Readiness::Needed { waits };
        };
        let same_boot = self.hosts.get(&node.record.host).is_some_and(|host| host.record.boot == chore.boot);
        match chore.place {
            ChorePlace::Gone => Readiness::Needed { waits },
            _ if chore.is_open() && waits => Readiness::Underway,
            ChorePlace::Completed { result: TaskResult::Success }
                if !same_boot && preparation.rerun_on_reboot =>
            {
                Readiness::Needed { waits }
            }
            ChorePlace::Completed { result: TaskResult::Failure } if !same_boot => {
                Readiness::Needed { waits }
            }
            ChorePlace::Completed { result: TaskResult::Failure } if waits => Readiness::Barred,
            _ => Readiness::Ready,
        }
    }

    /// Gives out the next attempt of a chore, which need not be there yet, with no retry of it behind it.
    pub(super) fn give_chore(&mut self, step: &mut Step, job: JobKey, node: NodeKey, kind: ChoreKind) {
        self.give_chore_again(step, (job, node, kind), (0, None));
    }

    fn give_chore_again(
        &mut self,
        step: &mut Step,
        (job, node, kind): (JobKey, NodeKey, ChoreKind),
        (retry_count, last_retry): (u32, Option<Timestamp>),
    ) {
        let known = self.jobs.get(&job).and_then(|job| job.chores.get(&(kind, node))).copied();
        let Some(place) = self.nodes.get(&node) else { return };
        let Some(boot) = self.hosts.get(&place.record.host).map(|host| host.record.boot) else { return };
        let Some(pool) = self.pools.get(&place.record.pool).map(|pool| pool.record.id.clone()) else {
            return;
        };
        let (account, node_id) = (place.record.account, place.record.id.clone());
        let attempt = known.and_then(|key| self.chores.get(&key)).map_or(Attempt(0), |chore| chore.attempt);
        let key = known.unwrap_or_else(|| {
            self.meta.last_task = self.meta.last_task.next();
            self.meta.last_task
        });
        let record = ChoreRecord {
            key,
            account,
            job,
            node,
            kind,
            pool,
            node_id,
            boot,
            place: ChorePlace::Assigned,
            attempt: Attempt(attempt.0.saturating_add(1)),
            retry_count,
            last_retry,
            given: step.now,
            started: None,
            ended: None,
            exit_code: None,
            failure: None,
            owes_release: false,
        };
        let launch = record.attempt_ref();
        self.keep_chore(step, record);
        step.event(Event::Launch { node, attempts: vec![launch] });
    }

    /// Writes a chore and moves its index entries.
    fn keep_chore(&mut self, step: &mut Step, record: ChoreRecord) {
        step.put(keys::chore(record.account, record.key), &record);
        let (job, node) = (record.job, record.node);
        self.enter_chore(record);
        step.jobs.insert(job);
        step.nodes.insert(node);
    }

    fn change_chore(&mut self, step: &mut Step, key: TaskKey, change: impl FnOnce(&mut ChoreRecord)) {
        let Some(mut record) = self.chores.get(&key).cloned() else { return };
        change(&mut record);
        self.keep_chore(step, record);
    }

    /// Enters a chore into the indexes, over an earlier state of it.
    fn enter_chore(&mut self, record: ChoreRecord) {
        let (key, kind, node) = (record.key, record.kind, record.node);
        let retry = |chore: &ChoreRecord| match chore.place {
            ChorePlace::Waiting { until } => Some((until, Deadline::Retry(chore.key))),
            _ => None,
        };
        if let Some(earlier) = self.chores.get(&key).and_then(retry) {
            self.deadlines.remove(&earlier);
        }
        self.deadlines.extend(retry(&record));
        if let Some(job) = self.jobs.get_mut(&record.job) {
            job.chores.insert((kind, node), key);
            set(&mut job.open_chores, key, record.is_open());
            set(&mut job.owed_releases, node, record.owes_release);
        }
        if let Some(node) = self.nodes.get_mut(&node) {
            set(&mut node.open_chores, key, record.is_open());
        }
        self.chores.insert(key, record);
    }

    /// Takes a chore back into memory.
    pub(super) fn load_chore(&mut self, record: ChoreRecord) -> Result<(), LoadError> {
        if !self.jobs.contains_key(&record.job) {
            let what = format!("chore {} belongs to job {}, which is missing", record.key, record.job);
            return Err(LoadError::Inconsistent(what));
        }
        self.enter_chore(record);
        Ok(())
    }

    /// What a node says of an attempt; false if it is none of a chore.
    pub(super) fn report_chore(&mut self, step: &mut Step, node: NodeKey, report: &AttemptReport) -> bool {
        let Some(chore) = self.chores.get(&report.attempt.task) else { return false };
        let fits = chore.attempt == report.attempt.attempt && chore.node == node && chore.is_out();
        if !fits {
            return true;
        }
        let (key, now) = (chore.key, step.now);
        let started = report.started.map(|at| at.max(chore.given).min(now)).or(chore.started);
        let Some(end) = &report.end else {
            self.change_chore(step, key, |chore| {
                chore.place = ChorePlace::Running;
                chore.started = started.or(Some(now));
            });
            return true;
        };
        self.change_chore(step, key, |chore| chore.started = started);
        match &end.outcome {
            AttemptOutcome::Exited { exit_code: 0, .. } => self.complete_chore(step, key, Some(0), None),
            AttemptOutcome::Exited { exit_code, .. } => self.chore_failed(step, key, *exit_code),
            AttemptOutcome::NotStarted(failure) => {
                self.complete_chore(step, key, None, Some(failure.clone()));
            }
            AttemptOutcome::WallClock { exit_code } => {
                self.complete_chore(step, key, *exit_code, Some(FailureInfo::wall_clock()));
            }
            AttemptOutcome::Killed { .. } | AttemptOutcome::Lost { .. } => self.chore_gone(step, key),
        }
        true
    }

    fn chore_failed(&mut self, step: &mut Step, key: TaskKey, exit_code: i32) {
        let Some(chore) = self.chores.get(&key) else { return };
        let preparation = self.jobs.get(&chore.job).and_then(|job| JobExtra::preparation(&job.extras));
        let retries = match chore.kind {
            ChoreKind::Preparation => preparation.map_or(0, |task| task.constraints.max_retry_count),
            ChoreKind::Release => 0,
        };
        let retry = chore.retry_count.saturating_add(1);
        if u32::try_from(retries).is_ok_and(|max| chore.retry_count >= max) {
            self.complete_chore(step, key, Some(exit_code), Some(FailureInfo::exit_code(exit_code)));
            return;
        }
        let until = step.now.plus_ms(backoff_ms(retry));
        self.change_chore(step, key, |chore| {
            chore.retry_count = retry;
            chore.last_retry = Some(until);
            chore.place = ChorePlace::Waiting { until };
        });
        if until <= step.now {
            self.chore_again(step, key);
        } else {
            step.event(Event::RetryAt { task: key, at: until });
        }
    }

    /// The next attempt of a chore whose back-off is over.
    pub(super) fn chore_again(&mut self, step: &mut Step, key: TaskKey) {
        let now = step.now;
        let due = |chore: &&ChoreRecord| matches!(chore.place, ChorePlace::Waiting { until } if until <= now);
        let Some(chore) = self.chores.get(&key).filter(due) else { return };
        let whose = (chore.job, chore.node, chore.kind);
        let retries = (chore.retry_count, chore.last_retry);
        self.give_chore_again(step, whose, retries);
    }

    fn complete_chore(
        &mut self,
        step: &mut Step,
        key: TaskKey,
        exit_code: Option<i32>,
        failure: Option<FailureInfo>,
    ) {
        let Some(chore) = self.chores.get(&key) else { return };
        let (job, node, kind) = (chore.job, chore.node, chore.kind);
        let extras = self.jobs.get(&job).map(|job| job.extras.as_slice()).unwrap_or_default();
        let waits = JobExtra::preparation(extras).is_some_and(|task| task.wait_for_success);
        let succeeded = failure.is_none();
        // Where tasks may have run.
        let owes =
            kind == ChoreKind::Preparation && JobExtra::release(extras).is_some() && (succeeded || !waits);
        let now = step.now;
        self.change_chore(step, key, |chore| {
            let result = if succeeded { TaskResult::Success } else { TaskResult::Failure };
            chore.place = ChorePlace::Completed { result };
            chore.ended = Some(now);
            chore.exit_code = exit_code;
            chore.failure = failure.map(Box::new);
            chore.owes_release = owes;
        });
        if kind == ChoreKind::Preparation {
            self.prepared(step, job, node, succeeded || !waits);
        }
    }

    /// The node of a chore was lost, or ended it without being asked to: a preparation counts as not run, a release
    /// runs again if the node can still be given something.
    fn chore_gone(&mut self, step: &mut Step, key: TaskKey) {
        let Some(chore) = self.chores.get(&key).filter(|chore| chore.is_open()) else { return };
        let (job, node, kind) = (chore.job, chore.node, chore.kind);
        self.change_chore(step, key, |chore| chore.place = ChorePlace::Gone);
        if kind == ChoreKind::Preparation {
            self.prepared(step, job, node, false);
        }
    }

    /// The tasks that waited for a preparation leave for the host, or go back to the queue.
    fn prepared(&mut self, step: &mut Step, job: JobKey, node: NodeKey, ready: bool) {
        let Some(place) = self.nodes.get(&node) else { return };
        let held: Vec<TaskKey> = place.held.iter().copied().collect();
        let mut launched = Vec::new();
        for key in held {
            let Some(task) = self.tasks.get(key).filter(|task| task.job == job) else { continue };
            let TaskPlace::Preparing { at, launched: false, .. } = task.place else { continue };
            if ready {
                launched.push(task.attempt_ref());
                self.change_task(step, key, |task| {
                    task.place = TaskPlace::Preparing { node, at, launched: true };
                });
            } else {
                self.give_back(step, key, None, false, |_| ());
            }
        }
        if !launched.is_empty() {
            step.event(Event::Launch { node, attempts: launched });
        }
    }

    /// What becomes of the chores that a node runs when it leaves, cannot work, was lost or started anew.
    pub(super) fn end_chores_of(&mut self, step: &mut Step, node: NodeKey, rebooted: bool) -> bool {
        let Some(open) = self.nodes.get(&node).map(|node| &node.open_chores) else { return true };
        let open: Vec<TaskKey> = open.iter().take(step.budget.saturating_add(1)).copied().collect();
        for key in open {
            if !step.spend() {
                return false;
            }
            let Some(chore) = self.chores.get(&key) else { continue };
            let (job, kind) = (chore.job, chore.kind);
            self.chore_gone(step, key);
            if rebooted && kind == ChoreKind::Release {
                self.give_chore(step, job, node, kind);
            }
        }
        true
    }

    /// Ends the preparations of a job that ends; false if the budget was over before.
    pub(super) fn end_preparations(&mut self, step: &mut Step, job: JobKey) -> bool {
        let Some(open) = self.jobs.get(&job).map(|job| job.open_chores.clone()) else { return true };
        for key in open {
            let Some(chore) = self.chores.get(&key) else { continue };
            if chore.kind != ChoreKind::Preparation {
                continue;
            }
            if !step.spend() {
                return false;
            }
            let (node, attempt, is_out) = (chore.node, chore.attempt_ref(), chore.is_out());
            let now = step.now;
            self.change_chore(step, key, |chore| {
                chore.place = ChorePlace::Completed { result: TaskResult::Failure };
                chore.ended = Some(now);
                chore.failure = Some(Box::new(FailureInfo::ended_by_user()));
            });
            if is_out {
                step.event(Event::Kill { node, attempt, reason: KillReason::Ended });
            }
        }
        true
    }

    /// Whether the end of a job has to wait for releases.
    pub(super) fn has_releases(&self, job: &Job) -> bool {
        !job.owed_releases.is_empty() || !job.open_chores.is_empty()
    }

    /// Gives out the releases that a job owes, once its tasks have ended.
    pub(super) fn begin_releases(&mut self, step: &mut Step, job: JobKey) {
        let key = CursorKey::Releases(job);
        let owed = self.jobs.get(&job).is_some_and(|job| !job.owed_releases.is_empty());
        if owed && !self.cursors.contains_key(&key) {
            self.advance(step, CursorRecord { key, position: 0, work: Work::Release });
        }
    }

    pub(super) fn release_slice(&mut self, step: &mut Step, key: JobKey) -> bool {
        while let Some(job) = self.jobs.get(&key) {
            let Some(node) = job.owed_releases.first().copied() else { return true };
            if !step.spend() {
                return false;
            }
            let Some(chore) = job.chores.get(&(ChoreKind::Preparation, node)).copied() else { return true };
            let may_run = self.may_release(node);
            self.change_chore(step, chore, |chore| chore.owes_release = false);
            if may_run {
                self.give_chore(step, key, node, ChoreKind::Release);
            }
        }
        true
    }

    /// A release runs where the node is still there.
    fn may_release(&self, node: NodeKey) -> bool {
        let Some(node) = self.nodes.get(&node).filter(|node| node.record.leaving.is_none()) else {
            return false;
        };
        self.hosts.get(&node.record.host).is_some_and(|host| host.record.state != HostState::Lost)
    }

    /// Removes the chores of a job that is removed; false if the budget was over before.
    pub(super) fn forget_chores(&mut self, step: &mut Step, key: JobKey) -> bool {
        while let Some(job) = self.jobs.get_mut(&key) {
            let Some(first) = job.chores.first_entry() else { return true };
            if !step.spend() {
                return false;
            }
            let chore = first.remove();
            job.open_chores.remove(&chore);
            let job_id = job.record.id.clone();
            let extras = &job.extras;
            let Some(record) = self.chores.remove(&chore) else { continue };
            let task_id = match record.kind {
                ChoreKind::Preparation => JobExtra::preparation(extras).map(|task| &task.spec.id),
                ChoreKind::Release => JobExtra::release(extras).map(|task| &task.spec.id),
            };
            let directory = task_id.map(|task_id| TaskDirectory {
                job_id: job_id.as_str().to_owned(),
                task_id: task_id.as_str().to_owned(),
                task: chore,
            });
            if let Some(node) = self.nodes.get_mut(&record.node) {
                node.open_chores.remove(&chore);
                step.nodes.insert(record.node);
                if record.is_out() {
                    let (node, attempt) = (record.node, record.attempt_ref());
                    step.event(Event::Kill { node, attempt, reason: KillReason::Fenced });
                }
                if let Some(directory) = directory {
                    step.event(Event::Clean { node: record.node, directory });
                }
            }
            if let ChorePlace::Waiting { until } = record.place {
                self.deadlines.remove(&(until, Deadline::Retry(chore)));
            }
            step.delete(keys::chore(record.account, chore));
        }
        true
    }

    /// A chore by its key.
    pub fn chore(&self, key: TaskKey) -> Option<&ChoreRecord> {
        self.chores.get(&key)
    }

    /// All of them, in the order in which they were first given out.
    pub fn all_chores(&self) -> impl Iterator<Item = &ChoreRecord> {
        self.chores.values()
    }

    /// The preparation of a job on each node that got one, with its release there, by node; the position is the last
    /// node.
    pub fn prepared_nodes(
        &self,
        job: JobKey,
        position: Option<NodeKey>,
    ) -> impl Iterator<Item = (&ChoreRecord, Option<&ChoreRecord>)> + use<'_> {
        let kind = ChoreKind::Preparation;
        let after =
            position.map_or(Bound::Included((kind, NodeKey(0))), |node| Bound::Excluded((kind, node)));
        let range = (after, Bound::Excluded((ChoreKind::Release, NodeKey(0))));
        let job = self.jobs.get(&job);
        let preparations = job.map(|job| job.chores.range(range)).into_iter().flatten();
        preparations.filter_map(move |((_, node), key)| {
            let release = job.and_then(|job| job.chores.get(&(ChoreKind::Release, *node)));
            Some((self.chores.get(key)?, release.and_then(|key| self.chores.get(key))))
        })
    }
}

fn set<K: Ord>(set: &mut std::collections::BTreeSet<K>, key: K, is_in: bool) {
    if is_in {
        set.insert(key);
    } else {
        set.remove(&key);
    }
}
