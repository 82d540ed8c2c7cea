//! Jobs: their states and the operations on them (`jobs-and-tasks.md` §2, §3).
//!
//! Transitional states end in [`Cluster::settle_job`]: disabling when no task has an attempt on a node any more,
//! terminating when every node confirmed the ends, deleting when the last task is removed. `enabling` is never seen.

use super::cluster::{Cluster, Event, LoadError};
use super::command::{Condition, CursorKey, JobPatch};
use super::index::{Deadline, Job};
use super::keys;
use super::pools::merge_echo;
use super::records::JobRecord;
use super::reply::{Outcome, Refusal, RefusalCode, Reply, Version};
use super::step::Step;
use super::version::ClusterVersion;
use lote_shared::model::{
    AccountId, AllTasksAction, DisableTasks, ExitJobAction, JobExtra, JobId, JobKey, JobSpec, JobState,
    ScheduleId, ScheduleKey, TaskFailureAction, Timestamp,
};

/// Jobs of one account that are neither completed nor being deleted.
pub const JOBS_ACTIVE_MAX: u32 = 1_000;
/// How long a job made empty with `terminatejob` waits for its first task (spec §3.9).
pub const EMPTY_GRACE_MS: u64 = 60_000;

const REASON_USER: &str = "UserTerminate";
const REASON_WALL_CLOCK: &str = "MaxWallClockTimeExpiry";
const REASON_ALL_COMPLETE: &str = "AllTasksComplete";
const REASON_TASK_FAILED: &str = "TaskFailed";

/// Whether a job counts for the quota. One that a schedule made does not: the schedule does.
pub(super) fn counts_as_active(record: &JobRecord) -> bool {
    !matches!(record.state, JobState::Completed | JobState::Deleting) && record.id.schedule().is_none()
}

/// The refusal with which a job in its last states answers most operations.
fn ended(state: JobState) -> Result<(), Refusal> {
    match state {
        JobState::Terminating => Err(RefusalCode::JobBeingTerminated.into()),
        JobState::Completed => Err(RefusalCode::JobCompleted.into()),
        JobState::Deleting => Err(RefusalCode::JobBeingDeleted.into()),
        JobState::Active | JobState::Disabling | JobState::Disabled | JobState::Enabling => Ok(()),
    }
}

/// When the job's own times are up.
fn deadlines(record: &JobRecord) -> [Option<(Timestamp, Deadline)>; 2] {
    let limit = record.constraints.max_wall_clock.as_limit_ms();
    let wall_clock = limit.filter(|_| ended(record.state).is_ok()).map(|ms| record.created.plus_ms(ms));
    [
        wall_clock.map(|at| (at, Deadline::JobWallClock(record.key))),
        record.empty_grace_until.map(|at| (at, Deadline::JobEmptyGrace(record.key))),
    ]
}

impl JobRecord {
    /// Moves to another state; `previous_state` only ever shows one that lasts.
    fn move_to(&mut self, state: JobState, now: Timestamp) {
        if self.state == state {
            return;
        }
        if matches!(self.state, JobState::Active | JobState::Disabled | JobState::Completed) {
            self.previous_state = Some((self.state, self.state_changed));
        }
        self.state = state;
        self.state_changed = now;
    }
}

impl Cluster {
    pub(super) fn add_job(&mut self, step: &mut Step, spec: &JobSpec, extras: &[JobExtra]) -> Reply {
        if self.version() >= ClusterVersion::V2 && spec.id.schedule().is_some() {
            return Err(Refusal::new(RefusalCode::InvalidPropertyValue)
                .because(format!("`{}` is a name that only a job schedule gives", spec.id)));
        }
        let account = self.account_mut(step.account)?;
        if let Some(existing) = account.jobs.get(&spec.id).copied() {
            let deleting = self.jobs.get(&existing).is_some_and(|job| job.record.state == JobState::Deleting);
            let code = if deleting { RefusalCode::JobBeingDeleted } else { RefusalCode::JobExists };
            return Err(code.into());
        }
        let taken = ScheduleId::new(spec.id.as_str()).is_ok_and(|id| account.schedules.contains_key(&id));
        if taken {
            return Err(RefusalCode::JobScheduleWithSameIdExists.into());
        }
        if account.jobs_active >= JOBS_ACTIVE_MAX {
            return Err(RefusalCode::ActiveJobAndScheduleQuotaReached.into());
        }
        self.check_manager(step.account, extras)?;
        let (_, version) = self.insert_job(step, step.account, spec, extras, None);
        Ok(Outcome::Record(version))
    }

    /// Makes a job whose name is free.
    pub(super) fn insert_job(
        &mut self,
        step: &mut Step,
        account: AccountId,
        spec: &JobSpec,
        extras: &[JobExtra],
        schedule: Option<ScheduleKey>,
    ) -> (JobKey, Version) {
        self.meta.last_job = self.meta.last_job.next();
        let key = self.meta.last_job;
        let mut extras = extras.to_vec();
        let auto = JobExtra::auto_pool(&extras).cloned();
        let made = auto.map(|auto| self.make_auto_pool(step, account, &auto, key, schedule));
        let (pool, failure) = made.unwrap_or_default();
        extras.extend(failure.clone().map(|failure| JobExtra::SchedulingError(Box::new(failure))));
        let version = self.next_version(step);
        let grace = spec.on_all_tasks_complete == AllTasksAction::TerminateJob;
        let record = JobRecord {
            key,
            account,
            id: spec.id.clone(),
            version,
            created: step.now,
            state: JobState::Active,
            state_changed: step.now,
            previous_state: None,
            ended: None,
            terminate_reason: None,
            pool: pool.unwrap_or_else(|| spec.pool.clone()),
            priority: spec.priority,
            max_parallel_tasks: spec.max_parallel_tasks,
            constraints: spec.constraints,
            on_all_tasks_complete: spec.on_all_tasks_complete,
            on_task_failure: spec.on_task_failure,
            uses_task_dependencies: spec.uses_task_dependencies,
            allow_task_preemption: spec.allow_task_preemption,
            disable_tasks: None,
            empty_grace_until: grace.then(|| step.now.plus_ms(EMPTY_GRACE_MS)),
            counts: Default::default(),
        };
        step.put(keys::job(account, key), &record);
        step.put(keys::job_cold(account, key), &spec.cold);
        if !extras.is_empty() {
            step.put(keys::job_extras(account, key), &extras);
        }
        let manager = JobExtra::manager(&extras).filter(|_| failure.is_none()).cloned();
        // The account was found above.
        let _ = self.enter_job(Job::new(record, spec.cold.clone(), extras));
        if let Some(manager) = manager {
            self.add_manager(step, key, &manager);
        }
        if failure.is_some() {
            let now = step.now;
            self.change_job(step, key, |record| {
                record.ended = Some(now);
                record.empty_grace_until = None;
                record.move_to(JobState::Completed, now);
            });
        }
        step.event(Event::JobChanged(key));
        (key, version)
    }

    /// Enters a job into the indexes of its account.
    pub(super) fn enter_job(&mut self, job: Job) -> Result<(), LoadError> {
        let record = &job.record;
        let account = self.accounts.get_mut(&record.account);
        let account =
            account.ok_or_else(|| LoadError::Inconsistent(format!("job {} has no account", record.key)))?;
        account.jobs.insert(record.id.clone(), record.key);
        account.jobs_active += u32::from(counts_as_active(record));
        self.deadlines.extend(deadlines(record).into_iter().flatten());
        if let Some(schedule) = self.schedule_of(record.account, &record.id)
            && let Some(schedule) = self.schedules.get_mut(&schedule)
        {
            schedule.jobs.insert(record.key);
        }
        self.jobs.insert(record.key, job);
        Ok(())
    }

    /// Changes a job's record: writes the row and keeps deadlines and quota in step. The version is the caller's.
    pub(super) fn change_job(&mut self, step: &mut Step, key: JobKey, change: impl FnOnce(&mut JobRecord)) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let record = &mut job.record;
        let before = (deadlines(record), counts_as_active(record), record.state);
        change(record);
        let after = (deadlines(record), counts_as_active(record), record.state);
        step.put(keys::job(record.account, key), record);
        if before.0 != after.0 {
            for deadline in before.0.into_iter().flatten() {
                self.deadlines.remove(&deadline);
            }
            self.deadlines.extend(after.0.into_iter().flatten());
        }
        if before.1 != after.1
            && let Some(account) = self.accounts.get_mut(&record.account)
        {
            let active = &mut account.jobs_active;
            *active = if after.1 { active.saturating_add(1) } else { active.saturating_sub(1) };
        }
        if before.2 != after.2 {
            // A schedule has one job at a time: the end of one may be the beginning of the next.
            let (account, id) = (record.account, record.id.clone());
            step.schedules.extend(self.schedule_of(account, &id));
        }
        step.jobs.insert(key);
        step.event(Event::JobChanged(key));
    }

    /// The job of that name in the step's account.
    pub(super) fn job_named(&mut self, step: &Step, id: &JobId) -> Result<&Job, Refusal> {
        let missing = || Refusal::new(RefusalCode::JobNotFound);
        let key = self.account_mut(step.account)?.jobs.get(id).copied().ok_or_else(missing)?;
        self.jobs.get(&key).ok_or_else(missing)
    }

    /// The job of that name if it is not in its last states and the condition holds.
    fn job_to_change(
        &mut self,
        step: &Step,
        id: &JobId,
        condition: &Condition,
    ) -> Result<&JobRecord, Refusal> {
        let record = &self.job_named(step, id)?.record;
        condition.check(record.version)?;
        ended(record.state)?;
        Ok(record)
    }

    pub(super) fn patch_job(
        &mut self,
        step: &mut Step,
        id: &JobId,
        condition: &Condition,
        patch: &JobPatch,
    ) -> Reply {
        let record = self.job_to_change(step, id, condition)?;
        let moves = patch.pool.as_ref().is_some_and(|pool| *pool != record.pool);
        if moves && record.state != JobState::Disabled {
            return Err(Refusal::new(RefusalCode::OperationInvalidForCurrentState)
                .because("only a disabled job can move to another pool"));
        }
        let automatic = record.on_all_tasks_complete == AllTasksAction::TerminateJob;
        if automatic && patch.on_all_tasks_complete == Some(AllTasksAction::NoAction) {
            return Err(Refusal::new(RefusalCode::InvalidPropertyValue)
                .because("onAllTasksComplete cannot go back from terminatejob to noaction"));
        }
        let key = record.key;
        let version = self.next_version(step);
        let becomes_automatic = patch.on_all_tasks_complete == Some(AllTasksAction::TerminateJob);
        self.change_job(step, key, |record| {
            record.version = version;
            record.priority = patch.priority.unwrap_or(record.priority);
            record.max_parallel_tasks = patch.max_parallel_tasks.unwrap_or(record.max_parallel_tasks);
            record.allow_task_preemption =
                patch.allow_task_preemption.unwrap_or(record.allow_task_preemption);
            record.constraints = patch.constraints.unwrap_or(record.constraints);
            record.on_all_tasks_complete =
                patch.on_all_tasks_complete.unwrap_or(record.on_all_tasks_complete);
            if let Some(pool) = patch.pool.as_ref().filter(|_| moves) {
                record.pool = pool.clone();
            }
            if becomes_automatic && !automatic {
                // On an update there is no grace.
                record.empty_grace_until = None;
            }
        });
        if patch.metadata.is_some() || patch.echo.is_some() {
            self.patch_cold(step, key, patch);
        }
        if patch.constraints.is_some() {
            self.end_expired(step, key);
        }
        Ok(Outcome::Record(version))
    }

    fn patch_cold(&mut self, step: &mut Step, key: JobKey, patch: &JobPatch) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if let Some(metadata) = &patch.metadata {
            job.cold.metadata.clone_from(metadata);
        }
        if let Some(echo) = &patch.echo {
            job.cold.echo = merge_echo(&job.cold.echo, echo);
        }
        step.put(keys::job_cold(job.record.account, key), &job.cold);
    }

    pub(super) fn disable_job(
        &mut self,
        step: &mut Step,
        id: &JobId,
        condition: &Condition,
        tasks: DisableTasks,
    ) -> Reply {
        let record = self.job_to_change(step, id, condition)?;
        let key = record.key;
        let option = match record.state {
            JobState::Disabled => return Ok(Outcome::Record(record.version)),
            JobState::Enabling => return Err(RefusalCode::OperationInvalidForCurrentState.into()),
            // The stronger wish wins and applies to what still runs.
            JobState::Disabling => record.disable_tasks.map_or(tasks, |old| old.max(tasks)),
            _ => tasks,
        };
        Ok(Outcome::Record(self.begin_disable(step, key, option)))
    }

    fn begin_disable(&mut self, step: &mut Step, key: JobKey, option: DisableTasks) -> Version {
        let version = self.next_version(step);
        let now = step.now;
        self.change_job(step, key, |record| {
            record.version = version;
            record.disable_tasks = Some(option);
            record.move_to(JobState::Disabling, now);
        });
        self.start_job_cursor(step, key, false);
        version
    }

    pub(super) fn enable_job(&mut self, step: &mut Step, id: &JobId, condition: &Condition) -> Reply {
        let record = self.job_to_change(step, id, condition)?;
        if matches!(record.state, JobState::Active | JobState::Enabling) {
            return Ok(Outcome::Record(record.version));
        }
        let key = record.key;
        let version = self.next_version(step);
        let now = step.now;
        self.drop_cursor(step, CursorKey::Job(key));
        self.change_job(step, key, |record| {
            record.version = version;
            record.disable_tasks = None;
            record.move_to(JobState::Active, now);
        });
        Ok(Outcome::Record(version))
    }

    pub(super) fn terminate_job(
        &mut self,
        step: &mut Step,
        id: &JobId,
        condition: &Condition,
        reason: Option<&str>,
        force: bool,
    ) -> Reply {
        let key = self.job_to_change(step, id, condition)?.key;
        let version = self.begin_terminate(step, key, reason.unwrap_or(REASON_USER), force);
        Ok(Outcome::Record(version))
    }

    pub(super) fn begin_terminate(
        &mut self,
        step: &mut Step,
        key: JobKey,
        reason: &str,
        force: bool,
    ) -> Version {
        let version = self.next_version(step);
        let now = step.now;
        self.change_job(step, key, |record| {
            record.version = version;
            record.terminate_reason.get_or_insert_with(|| reason.to_owned());
            record.disable_tasks = None;
            record.empty_grace_until = None;
            record.move_to(JobState::Terminating, now);
        });
        self.start_job_cursor(step, key, force);
        version
    }

    pub(super) fn delete_job(&mut self, step: &mut Step, id: &JobId, condition: &Condition) -> Reply {
        let record = &self.job_named(step, id)?.record;
        condition.check(record.version)?;
        if record.state == JobState::Deleting {
            return Err(RefusalCode::JobBeingDeleted.into());
        }
        let key = record.key;
        Ok(Outcome::Record(self.begin_delete(step, key)))
    }

    pub(super) fn begin_delete(&mut self, step: &mut Step, key: JobKey) -> Version {
        let version = self.next_version(step);
        let now = step.now;
        self.change_job(step, key, |record| {
            record.version = version;
            record.disable_tasks = None;
            record.empty_grace_until = None;
            record.move_to(JobState::Deleting, now);
        });
        self.requeue_job(key);
        self.start_job_cursor(step, key, true);
        version
    }

    pub(super) fn expire_job(&mut self, step: &mut Step, key: JobKey) -> Reply {
        if self.end_expired(step, key) { Ok(Outcome::Done) } else { Err(RefusalCode::Fenced.into()) }
    }

    /// Ends a job whose wall clock ran out.
    fn end_expired(&mut self, step: &mut Step, key: JobKey) -> bool {
        let Some(job) = self.jobs.get(&key) else { return false };
        let due = deadlines(&job.record)[0].is_some_and(|(at, _)| at <= step.now);
        if due {
            self.begin_terminate(step, key, REASON_WALL_CLOCK, false);
        }
        due
    }

    /// The grace time of a job made empty with `terminatejob` is over.
    pub(super) fn check_empty_job(&mut self, step: &mut Step, key: JobKey) -> Reply {
        let over = self.jobs.get(&key).and_then(|job| job.record.empty_grace_until);
        if over.is_none_or(|until| until > step.now) {
            return Err(RefusalCode::Fenced.into());
        }
        self.change_job(step, key, |record| record.empty_grace_until = None);
        Ok(Outcome::Done)
    }

    /// A task ended in a way that is to end or stop its job, if that opted in (spec §6.2).
    pub(super) fn exit_job(&mut self, step: &mut Step, key: JobKey, action: ExitJobAction) {
        let Some(job) = self.jobs.get(&key) else { return };
        let opted_in = job.record.on_task_failure == TaskFailureAction::PerformExitOptionsJobAction;
        if !opted_in || ended(job.record.state).is_err() {
            return;
        }
        match action {
            ExitJobAction::None => {}
            ExitJobAction::Terminate => {
                self.begin_terminate(step, key, REASON_TASK_FAILED, false);
            }
            // What disables or is disabled already goes on by its own option.
            ExitJobAction::Disable if job.record.state == JobState::Active => {
                self.begin_disable(step, key, DisableTasks::Requeue);
            }
            ExitJobAction::Disable => {}
        }
    }

    /// Draws the consequences of whatever happened to a job or its tasks.
    pub(super) fn settle_job(&mut self, step: &mut Step, key: JobKey) {
        let Some(job) = self.jobs.get(&key) else { return };
        let working = self.cursors.contains_key(&CursorKey::Job(key));
        let record = &job.record;
        match record.state {
            JobState::Active => {
                let counts = record.counts;
                let complete = record.on_all_tasks_complete == AllTasksAction::TerminateJob
                    && record.empty_grace_until.is_none()
                    && counts.active == 0
                    && counts.running == 0;
                if complete {
                    self.begin_terminate(step, key, REASON_ALL_COMPLETE, false);
                    return;
                }
            }
            JobState::Disabling if !working && job.held.is_empty() => {
                let version = self.next_version(step);
                let now = step.now;
                self.change_job(step, key, |record| {
                    record.version = version;
                    record.disable_tasks = None;
                    record.move_to(JobState::Disabled, now);
                });
                return;
            }
            JobState::Terminating if !working && job.held.is_empty() => {
                if self.has_releases(job) {
                    // Meanwhile nothing of it is offered.
                    self.requeue_job(key);
                    self.begin_releases(step, key);
                } else {
                    self.complete_terminating(step, key);
                }
                return;
            }
            JobState::Deleting if !working => {
                let is_empty = job.tasks.is_empty() && job.chores.is_empty();
                if self.has_releases(job) {
                    if job.held.is_empty() {
                        self.begin_releases(step, key);
                    }
                } else if is_empty {
                    self.remove_job(step, key);
                } else {
                    self.start_job_cursor(step, key, true);
                }
                return;
            }
            _ => {}
        }
        self.requeue_job(key);
        let Some(job) = self.jobs.get(&key) else { return };
        if job.queued.is_some()
            && let Some(pool) = self.pool_by_id(job.record.account, &job.record.pool)
        {
            step.dispatch.insert(pool.key);
        }
    }

    /// A terminating job whose nodes have confirmed, or need not, is completed.
    pub(super) fn complete_terminating(&mut self, step: &mut Step, key: JobKey) {
        if self.jobs.get(&key).is_none_or(|job| job.record.state != JobState::Terminating) {
            return;
        }
        let version = self.next_version(step);
        let now = step.now;
        self.change_job(step, key, |record| {
            record.version = version;
            record.ended = Some(now);
            record.move_to(JobState::Completed, now);
        });
        // They are not waited for, and come before the pool goes all the same.
        self.begin_releases(step, key);
        self.drop_job_pool(step, key);
    }

    fn remove_job(&mut self, step: &mut Step, key: JobKey) {
        self.drop_cursor(step, CursorKey::Job(key));
        self.drop_cursor(step, CursorKey::Deliveries(key));
        self.drop_job_pool(step, key);
        let Some(job) = self.jobs.remove(&key) else { return };
        let record = job.record;
        for deadline in deadlines(&record).into_iter().flatten() {
            self.deadlines.remove(&deadline);
        }
        if let Some(account) = self.accounts.get_mut(&record.account) {
            account.jobs.remove(&record.id);
            account.leave_queue(key, job.queued);
        }
        if let Some(schedule) = self.schedule_of(record.account, &record.id) {
            if let Some(schedule) = self.schedules.get_mut(&schedule) {
                schedule.jobs.remove(&key);
            }
            step.schedules.insert(schedule);
        }
        step.delete(keys::job(record.account, key));
        step.delete(keys::job_cold(record.account, key));
        if !job.extras.is_empty() {
            step.delete(keys::job_extras(record.account, key));
        }
        step.event(Event::JobChanged(key));
    }

    /// Refuses what adds or revives tasks in a job that ends.
    pub(super) fn job_takes_tasks(&mut self, step: &Step, id: &JobId) -> Result<JobKey, Refusal> {
        let record = &self.job_named(step, id)?.record;
        ended(record.state)?;
        Ok(record.key)
    }
}
