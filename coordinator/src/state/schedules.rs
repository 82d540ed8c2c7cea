//! Job schedules: their states, the operations on them, and the jobs they make (`jobs-and-tasks.md` §10).
//!
//! When a job may be made is the [`Timetable`]'s to say. [`Cluster::settle_schedule`] asks it whenever something may have
//! changed: the schedule itself, a job of it that ended or went, or the time ([`Deadline::Schedule`]).

use super::cluster::{Cluster, Event, LoadError};
use super::command::{Condition, CursorKey, ScheduleChange, SchedulePatch};
use super::cursors::{CursorRecord, Work};
use super::extras::ScheduleExtras;
use super::index::{Deadline, Schedule};
use super::jobs::JOBS_ACTIVE_MAX;
use super::keys;
use super::records::ScheduleRecord;
use super::reply::{Outcome, Refusal, RefusalCode, Reply};
use super::step::Step;
use super::timetable::Timetable;
use lote_shared::model::{
    AccountId, JobExtra, JobId, JobKey, JobState, ScheduleCold, ScheduleId, ScheduleKey, ScheduleSpec,
    ScheduleState, Timestamp,
};
use std::ops::Bound;

const REASON_SCHEDULE: &str = "TerminateJobSchedule";

/// The refusal with which a schedule in its last states answers most operations.
fn ended(state: ScheduleState) -> Result<(), Refusal> {
    match state {
        ScheduleState::Terminating => Err(RefusalCode::JobScheduleBeingTerminated.into()),
        ScheduleState::Completed => Err(RefusalCode::JobScheduleCompleted.into()),
        ScheduleState::Deleting => Err(RefusalCode::JobScheduleBeingDeleted.into()),
        ScheduleState::Active | ScheduleState::Disabled => Ok(()),
    }
}

fn deadline(record: &ScheduleRecord) -> Option<(Timestamp, Deadline)> {
    let wake = record.wake.filter(|_| ended(record.state).is_ok())?;
    Some((wake, Deadline::Schedule(record.key)))
}

impl ScheduleRecord {
    /// Whether it counts for the quota.
    pub(super) fn is_counted(&self) -> bool {
        !matches!(self.state, ScheduleState::Completed | ScheduleState::Deleting)
    }

    fn timetable(&self) -> Timetable {
        Timetable { recurrence: self.recurrence, created: self.created, served: self.served }
    }

    /// The next time at which it will make a job, if nothing stops it.
    pub fn next_run(&self, now: Timestamp) -> Option<Timestamp> {
        ended(self.state).ok()?;
        self.timetable().next_run(now)
    }

    fn move_to(&mut self, state: ScheduleState, now: Timestamp) {
        if self.state == state {
            return;
        }
        if matches!(self.state, ScheduleState::Active | ScheduleState::Disabled | ScheduleState::Completed) {
            self.previous_state = Some((self.state, self.state_changed));
        }
        self.state = state;
        self.state_changed = now;
    }
}

impl Cluster {
    pub(super) fn add_schedule(
        &mut self,
        step: &mut Step,
        spec: &ScheduleSpec,
        extras: &[JobExtra],
    ) -> Reply {
        let account = self.account_mut(step.account)?;
        if let Some(existing) = account.schedules.get(&spec.id).copied() {
            let deleting = self
                .schedules
                .get(&existing)
                .is_some_and(|schedule| schedule.record.state == ScheduleState::Deleting);
            let code =
                if deleting { RefusalCode::JobScheduleBeingDeleted } else { RefusalCode::JobScheduleExists };
            return Err(code.into());
        }
        let taken = JobId::new(spec.id.as_str()).is_ok_and(|id| account.jobs.contains_key(&id));
        if taken {
            return Err(RefusalCode::JobWithSameIdExists.into());
        }
        if account.jobs_active >= JOBS_ACTIVE_MAX {
            return Err(RefusalCode::ActiveJobAndScheduleQuotaReached.into());
        }
        self.last_schedule = self.last_schedule.next();
        step.put(keys::last_schedule(), &self.last_schedule);
        let version = self.next_version(step);
        let record = ScheduleRecord {
            key: self.last_schedule,
            account: step.account,
            id: spec.id.clone(),
            version,
            created: step.now,
            state: ScheduleState::Active,
            state_changed: step.now,
            previous_state: None,
            ended: None,
            recurrence: spec.recurrence,
            jobs_made: 0,
            served: None,
            latest: None,
            wake: None,
        };
        let key = record.key;
        step.put(keys::schedule(step.account, key), &record);
        step.put(keys::schedule_cold(step.account, key), &spec.cold);
        let extras = ScheduleExtras { extras: extras.to_vec(), pool: None };
        if !extras.extras.is_empty() {
            step.put(keys::schedule_extras(step.account, key), &extras);
        }
        // The account was found above.
        let _ = self.enter_schedule(record, spec.cold.clone(), extras);
        step.schedules.insert(key);
        Ok(Outcome::Record(version))
    }

    /// Enters a schedule into the indexes of its account.
    pub(super) fn enter_schedule(
        &mut self,
        record: ScheduleRecord,
        cold: ScheduleCold,
        extras: ScheduleExtras,
    ) -> Result<(), LoadError> {
        let account = self.accounts.get_mut(&record.account);
        let account = account
            .ok_or_else(|| LoadError::Inconsistent(format!("schedule {} has no account", record.key)))?;
        account.schedules.insert(record.id.clone(), record.key);
        account.jobs_active += u32::from(record.is_counted());
        self.deadlines.extend(deadline(&record));
        self.schedules.insert(record.key, Schedule { record, cold, extras, jobs: Default::default() });
        Ok(())
    }

    fn change_schedule(
        &mut self,
        step: &mut Step,
        key: ScheduleKey,
        change: impl FnOnce(&mut ScheduleRecord),
    ) {
        let Some(schedule) = self.schedules.get_mut(&key) else { return };
        let record = &mut schedule.record;
        let before = (deadline(record), record.is_counted());
        change(record);
        let after = (deadline(record), record.is_counted());
        step.put(keys::schedule(record.account, key), record);
        if before.0 != after.0 {
            if let Some(deadline) = before.0 {
                self.deadlines.remove(&deadline);
            }
            self.deadlines.extend(after.0);
        }
        if before.1 != after.1
            && let Some(account) = self.accounts.get_mut(&record.account)
        {
            let active = &mut account.jobs_active;
            *active = if after.1 { active.saturating_add(1) } else { active.saturating_sub(1) };
        }
        // Whoever sleeps until the next deadline looks again.
        step.event(Event::ScheduleChanged(key));
    }

    pub(super) fn change_schedule_named(
        &mut self,
        step: &mut Step,
        id: &ScheduleId,
        condition: &Condition,
        change: &ScheduleChange,
        extras: &[JobExtra],
    ) -> Reply {
        let missing = || Refusal::new(RefusalCode::JobScheduleNotFound);
        let key = self.account_mut(step.account)?.schedules.get(id).copied().ok_or_else(missing)?;
        let record = &self.schedules.get(&key).ok_or_else(missing)?.record;
        condition.check(record.version)?;
        match change {
            ScheduleChange::Delete if record.state == ScheduleState::Deleting => {
                return Err(RefusalCode::JobScheduleBeingDeleted.into());
            }
            ScheduleChange::Delete => {}
            _ => ended(record.state)?,
        }
        let (old, state) = (record.version, record.state);
        let target = match change {
            ScheduleChange::Patch(_) => None,
            ScheduleChange::Disable => Some(ScheduleState::Disabled),
            ScheduleChange::Enable => Some(ScheduleState::Active),
            ScheduleChange::Terminate { .. } => Some(ScheduleState::Terminating),
            ScheduleChange::Delete => Some(ScheduleState::Deleting),
        };
        if target == Some(state) {
            return Ok(Outcome::Record(old));
        }
        let version = self.next_version(step);
        let now = step.now;
        self.change_schedule(step, key, |record| {
            record.version = version;
            if let Some(target) = target {
                record.move_to(target, now);
            }
        });
        match change {
            ScheduleChange::Patch(patch) => {
                self.patch_schedule(step, key, patch);
                let had = self.schedules.get(&key).is_some_and(|schedule| !schedule.extras.is_empty());
                if patch.job.is_some() && (had || !extras.is_empty()) {
                    self.patch_schedule_extras(step, key, extras);
                }
            }
            ScheduleChange::Terminate { force } => {
                if let Some(job) = self.unfinished_job(key) {
                    self.begin_terminate(step, job, REASON_SCHEDULE, *force);
                }
            }
            ScheduleChange::Delete => {
                let cursor = CursorKey::Schedule(key);
                self.advance(step, CursorRecord { key: cursor, position: 0, work: Work::ScheduleDelete });
            }
            ScheduleChange::Disable | ScheduleChange::Enable => {}
        }
        step.schedules.insert(key);
        Ok(Outcome::Record(version))
    }

    /// Jobs to come are other ones; those that are there stay as they are.
    fn patch_schedule(&mut self, step: &mut Step, key: ScheduleKey, patch: &SchedulePatch) {
        if let Some(recurrence) = patch.recurrence {
            self.change_schedule(step, key, |record| record.recurrence = recurrence);
        }
        let Some(schedule) = self.schedules.get_mut(&key) else { return };
        if let Some(job) = &patch.job {
            schedule.cold.job = job.clone();
        }
        if let Some(metadata) = &patch.metadata {
            schedule.cold.metadata.clone_from(metadata);
        }
        step.put(keys::schedule_cold(schedule.record.account, key), &schedule.cold);
    }

    /// The job that is not completed, if any; there is at most one.
    fn unfinished_job(&self, key: ScheduleKey) -> Option<JobKey> {
        let (job, _) = self.schedules.get(&key)?.record.latest.as_ref()?;
        self.jobs.get(job).filter(|job| job.record.state != JobState::Completed).map(|job| job.record.key)
    }

    /// The schedule that made a job, if it is still there.
    pub(super) fn schedule_of(&self, account: AccountId, job: &JobId) -> Option<ScheduleKey> {
        self.accounts.get(&account)?.schedules.get(&job.schedule()?).copied()
    }

    /// The time has come to look at a schedule; refused quietly if it has not.
    pub(super) fn check_schedule(&mut self, step: &mut Step, key: ScheduleKey) -> Reply {
        let due = self.schedules.get(&key).and_then(|schedule| deadline(&schedule.record));
        if due.is_none_or(|(at, _)| at > step.now) {
            return Err(RefusalCode::Fenced.into());
        }
        step.schedules.insert(key);
        Ok(Outcome::Done)
    }

    /// Draws the consequences of whatever happened to a schedule, its jobs, or the time.
    pub(super) fn settle_schedule(&mut self, step: &mut Step, key: ScheduleKey) {
        let Some(schedule) = self.schedules.get(&key) else { return };
        let unfinished = self.unfinished_job(key).is_some();
        match schedule.record.state {
            ScheduleState::Active | ScheduleState::Disabled => {
                let mut moment = schedule.record.timetable().at(step.now);
                let may_make = schedule.record.state == ScheduleState::Active && !unfinished;
                let made = moment.due.filter(|_| may_make);
                if let Some(slot) = made {
                    self.make_job(step, key, slot);
                    let Some(schedule) = self.schedules.get(&key) else { return };
                    moment = schedule.record.timetable().at(step.now);
                }
                if moment.is_over() && !unfinished && made.is_none() {
                    self.complete_schedule(step, key);
                } else if self.schedules.get(&key).is_some_and(|s| s.record.wake != moment.next) {
                    self.change_schedule(step, key, |record| record.wake = moment.next);
                }
            }
            ScheduleState::Terminating if !unfinished => self.complete_schedule(step, key),
            ScheduleState::Deleting
                if schedule.jobs.is_empty() && !self.cursors.contains_key(&CursorKey::Schedule(key)) =>
            {
                self.remove_schedule(step, key);
            }
            _ => {}
        }
    }

    fn make_job(&mut self, step: &mut Step, key: ScheduleKey, slot: Timestamp) {
        let Some(schedule) = self.schedules.get(&key) else { return };
        let (record, mut spec) = (&schedule.record, schedule.cold.job.clone());
        let number = record.jobs_made.saturating_add(1);
        spec.id = JobId::of_schedule(&record.id, number);
        let (account, id) = (record.account, spec.id.clone());
        let extras = schedule.extras.extras.clone();
        let (job, _) = self.insert_job(step, account, &spec, &extras, Some(key));
        self.change_schedule(step, key, |record| {
            record.jobs_made = number;
            record.served = Some(slot);
            record.latest = Some((job, id));
        });
    }

    fn complete_schedule(&mut self, step: &mut Step, key: ScheduleKey) {
        self.drop_schedule_pool(step, key);
        let version = self.next_version(step);
        let now = step.now;
        self.change_schedule(step, key, |record| {
            record.version = version;
            record.ended = Some(now);
            record.wake = None;
            record.move_to(ScheduleState::Completed, now);
        });
    }

    fn remove_schedule(&mut self, step: &mut Step, key: ScheduleKey) {
        self.drop_schedule_pool(step, key);
        let Some(schedule) = self.schedules.remove(&key) else { return };
        if !schedule.extras.is_empty() {
            step.delete(keys::schedule_extras(schedule.record.account, key));
        }
        let record = schedule.record;
        if let Some(account) = self.accounts.get_mut(&record.account) {
            account.schedules.remove(&record.id);
        }
        step.delete(keys::schedule(record.account, key));
        step.delete(keys::schedule_cold(record.account, key));
    }

    /// Begins the deletion of a schedule's jobs.
    pub(super) fn schedule_slice(&mut self, step: &mut Step, key: ScheduleKey, position: &mut u64) -> bool {
        let Some(schedule) = self.schedules.get(&key) else { return true };
        let after = u32::try_from(*position).map_or(JobKey(u32::MAX), JobKey);
        let rest = schedule.jobs.range((Bound::Excluded(after), Bound::Unbounded));
        let jobs: Vec<_> = rest.take(step.budget.saturating_add(1)).copied().collect();
        for job in jobs {
            if !step.spend() {
                return false;
            }
            // An empty job goes at once: its rows, and its place here.
            step.budget = step.budget.saturating_sub(3);
            if self.jobs.get(&job).is_some_and(|job| job.record.state != JobState::Deleting) {
                self.begin_delete(step, job);
            }
            *position = u64::from(job.0);
        }
        true
    }
}
