//! What jobs are made with beyond their specs: a pool of their own and a manager task (`jobs-and-tasks.md` §8, §9).
//! Preparation and release are in `chores`.

use super::cluster::{Cluster, Event};
use super::command::{Condition, JobPatch, TaskAdd};
use super::exits::FinalEnd;
use super::index::{Job, Manager};
use super::keys;
use super::records::{TaskPlace, TaskRecord};
use super::reply::{Refusal, RefusalCode, Reply};
use super::step::Step;
use lote_shared::model::{
    AccountId, AutoPool, FailureInfo, JobExtra, JobId, JobKey, JobState, ManagerTask, PoolId, PoolLifetime,
    PoolState, ScheduleKey, TaskExtra, TaskId, TaskKey,
};

const REASON_MANAGER: &str = "JMComplete";

/// The pool that the jobs of a schedule share.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct ScheduleExtras {
    pub extras: Vec<JobExtra>,
    /// The pool, once the first job made it.
    pub pool: Option<PoolId>,
}

impl ScheduleExtras {
    pub fn is_empty(&self) -> bool {
        self.extras.is_empty() && self.pool.is_none()
    }
}

impl Job {
    /// Notes that the task of this id, with this key, is the manager, if it is.
    pub fn note_manager(&mut self, id: &TaskId, key: TaskKey) {
        if JobExtra::manager(&self.extras).is_some_and(|manager| manager.spec.id == *id) {
            self.manager = Some(Manager::new(key));
        }
    }

    /// Refuses ids of tasks that the preparation or the release has.
    pub fn check_task_id(&self, id: &TaskId) -> Result<(), Refusal> {
        if JobExtra::preparation(&self.extras).is_some_and(|task| task.spec.id == *id) {
            return Err(RefusalCode::TaskIdSameAsJobPreparationTask.into());
        }
        if JobExtra::release(&self.extras).is_some_and(|task| task.spec.id == *id) {
            return Err(RefusalCode::TaskIdSameAsJobReleaseTask.into());
        }
        Ok(())
    }
}

/// The id of a pool that is made for a job or schedule: as unique as these are, and the same on every coordinator.
fn auto_pool_id(prefix: &str, parts: [u64; 3]) -> Option<PoolId> {
    let mut hasher = blake3::Hasher::new_derive_key("lote auto pool id 1");
    for part in parts {
        hasher.update(&part.to_be_bytes());
    }
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    let guid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
    let guid = guid.hyphenated().to_string().to_uppercase();
    PoolId::new(&if prefix.is_empty() { guid } else { format!("{prefix}_{guid}") }).ok()
}

/// Managers.
impl Cluster {
    /// Refuses a manager with packages that are not there.
    pub(super) fn check_manager(&self, account: AccountId, extras: &[JobExtra]) -> Result<(), Refusal> {
        let packages = JobExtra::manager(extras).map(|manager| TaskExtra::packages(&manager.extras));
        self.check_packages(account, packages.unwrap_or_default())
    }

    /// Adds the manager of a job that was just made.
    pub(super) fn add_manager(&mut self, step: &mut Step, job: JobKey, manager: &ManagerTask) {
        let add = TaskAdd {
            spec: manager.spec.clone(),
            slots: manager.slots,
            max_wall_clock: manager.max_wall_clock,
            retention: manager.retention,
            max_retry_count: manager.max_retry_count,
        };
        // The job has no other task yet, the edge saw to it that the ids differ, and packages were looked for.
        if let Err(refusal) = self.add_task(step, job, &add, None, &manager.extras) {
            debug_assert!(false, "the manager of a new job is refused: {refusal}");
        }
        self.change_job(step, job, |record| record.empty_grace_until = None);
    }

    /// A task is about to complete; if it is the manager its job may end with it. One that was stopped because the job
    /// is disabled does not end it (spec §3.5).
    pub(super) fn manager_ends(&self, step: &mut Step, job: JobKey, task: TaskKey, end: FinalEnd) {
        let Some(record) = self.jobs.get(&job).filter(|record| record.ends_with(task)) else { return };
        if end != FinalEnd::Stopped || record.record.state != JobState::Disabling {
            step.managers.insert(job);
        }
    }

    /// A task is about to be removed: for a manager that counts as its completion.
    pub(super) fn manager_removed(&mut self, step: &mut Step, task: &TaskRecord) {
        let Some(job) = self.jobs.get_mut(&task.job) else { return };
        let is_manager = job.manager.is_some_and(|manager| manager.task == task.key);
        if !matches!(task.place, TaskPlace::Completed { .. }) && job.ends_with(task.key) {
            step.managers.insert(task.job);
        }
        if is_manager {
            job.manager = None;
        }
    }

    pub(super) fn manager_ended(&mut self, step: &mut Step, key: JobKey) {
        let state = self.jobs.get(&key).map(|job| job.record.state);
        if matches!(state, Some(JobState::Active | JobState::Disabling | JobState::Disabled)) {
            self.begin_terminate(step, key, REASON_MANAGER, false);
        }
    }
}

impl Job {
    /// Whether the job ends with this task.
    fn ends_with(&self, task: TaskKey) -> bool {
        self.manager.is_some_and(|manager| manager.task == task)
            && JobExtra::manager(&self.extras).is_some_and(|manager| manager.kill_job_on_completion)
    }
}

/// Auto pools.
impl Cluster {
    /// The pool of a job that is about to be made, which it names; with why it could not be made, if so.
    pub(super) fn make_auto_pool(
        &mut self,
        step: &mut Step,
        account: AccountId,
        auto: &AutoPool,
        job: JobKey,
        schedule: Option<ScheduleKey>,
    ) -> (Option<PoolId>, Option<FailureInfo>) {
        let shared = schedule.filter(|_| auto.lifetime == PoolLifetime::JobSchedule);
        if let Some(pool) = shared.and_then(|schedule| self.shared_pool(account, schedule)) {
            return (Some(pool), None);
        }
        let parts = match shared {
            Some(schedule) => [u64::from(account.0), 1 << 32 | u64::from(schedule.0), u64::from(job.0)],
            None => [u64::from(account.0), 0, u64::from(job.0)],
        };
        let Some(id) = auto_pool_id(&auto.prefix, parts) else {
            let error = FailureInfo::user("InvalidAutoPoolSettings", "The prefix makes no name of a pool");
            return (None, Some(error));
        };
        let mut spec = auto.pool.clone();
        spec.id = id.clone();
        let failure = match self.insert_pool(step, account, &spec, &auto.extras) {
            Ok(_) => None,
            Err(refusal) if refusal.code == RefusalCode::PoolQuotaReached => Some(FailureInfo::user(
                "AutoPoolCreationFailedWithQuotaReached",
                "The account has as many pools as it may have",
            )),
            Err(refusal) if refusal.code == RefusalCode::InvalidApplicationPackageReferences => {
                Some(FailureInfo::user("InvalidApplicationPackageReferencesInAutoPool", refusal.detail))
            }
            Err(refusal) => Some(FailureInfo::server("Unknown", refusal.to_string())),
        };
        if failure.is_none()
            && let Some(schedule) = shared
        {
            self.note_shared_pool(step, schedule, Some(id.clone()));
        }
        (Some(id), failure)
    }

    /// The pool that jobs of a schedule share, while it is there.
    fn shared_pool(&self, account: AccountId, schedule: ScheduleKey) -> Option<PoolId> {
        let id = self.schedules.get(&schedule)?.extras.pool.clone()?;
        self.pool_by_id(account, &id).filter(|pool| pool.state == PoolState::Active).map(|_| id)
    }

    fn note_shared_pool(&mut self, step: &mut Step, key: ScheduleKey, pool: Option<PoolId>) {
        let Some(schedule) = self.schedules.get_mut(&key) else { return };
        schedule.extras.pool = pool;
        step.put(keys::schedule_extras(schedule.record.account, key), &schedule.extras);
    }

    /// The pool of a job goes with it, if it was made for it alone and is not to stay.
    pub(super) fn drop_job_pool(&mut self, step: &mut Step, key: JobKey) {
        let Some(job) = self.jobs.get(&key) else { return };
        let goes = JobExtra::auto_pool(&job.extras)
            .is_some_and(|auto| auto.lifetime == PoolLifetime::Job && !auto.keep_alive);
        if goes {
            let (account, pool) = (job.record.account, job.record.pool.clone());
            self.begin_pool_delete(step, account, &pool);
        }
    }

    /// The pool that the jobs of a schedule shared goes with it, if it is not to stay.
    pub(super) fn drop_schedule_pool(&mut self, step: &mut Step, key: ScheduleKey) {
        let Some(schedule) = self.schedules.get(&key) else { return };
        let goes = JobExtra::auto_pool(&schedule.extras.extras).is_some_and(|auto| !auto.keep_alive);
        let Some(pool) = schedule.extras.pool.clone().filter(|_| goes) else { return };
        let account = schedule.record.account;
        self.note_shared_pool(step, key, None);
        self.begin_pool_delete(step, account, &pool);
    }

    /// Gives the jobs of a schedule that are to come other extras; a shared pool of other settings goes.
    pub(super) fn patch_schedule_extras(&mut self, step: &mut Step, key: ScheduleKey, extras: &[JobExtra]) {
        let Some(schedule) = self.schedules.get(&key) else { return };
        let settings = |auto: &AutoPool| AutoPool { keep_alive: false, ..auto.clone() };
        let old = JobExtra::auto_pool(&schedule.extras.extras).map(settings);
        if old != JobExtra::auto_pool(extras).map(settings) {
            self.drop_schedule_pool(step, key);
            // One that stays is no longer the schedule's.
            self.note_shared_pool(step, key, None);
        }
        let Some(schedule) = self.schedules.get_mut(&key) else { return };
        schedule.extras.extras = extras.to_vec();
        step.put(keys::schedule_extras(schedule.record.account, key), &schedule.extras);
    }

    /// A patch of a job with an auto pool: of that only `keepAlive` can change, and only if it is the job's own (§3.4).
    pub(super) fn patch_job_with(
        &mut self,
        step: &mut Step,
        id: &JobId,
        condition: &Condition,
        patch: &JobPatch,
        wanted: &AutoPool,
    ) -> Reply {
        let job = self.job_named(step, id)?;
        let refused =
            |why: &str| Err(Refusal::new(RefusalCode::OperationInvalidForCurrentState).because(why));
        let key = job.record.key;
        let Some(auto) = JobExtra::auto_pool(&job.extras) else {
            return refused("the job has a pool that was not made for it, and cannot get one");
        };
        let keeps = AutoPool { keep_alive: auto.keep_alive, ..wanted.clone() };
        let mut expected = auto.clone();
        expected.pool.id = keeps.pool.id.clone();
        let changes = wanted.keep_alive != auto.keep_alive;
        if keeps != expected || (changes && auto.lifetime != PoolLifetime::Job) {
            return refused(
                "of the pool that is made for a job only keepAlive can change, while it is the job's own",
            );
        }
        let reply = self.patch_job(step, id, condition, patch)?;
        let Some(job) = self.jobs.get_mut(&key).filter(|_| changes) else { return Ok(reply) };
        for extra in &mut job.extras {
            if let JobExtra::AutoPool(auto) = extra {
                auto.keep_alive = wanted.keep_alive;
            }
        }
        step.put(keys::job_extras(job.record.account, key), &job.extras);
        step.event(Event::JobChanged(key));
        Ok(reply)
    }

    /// What a job has beyond its spec.
    pub fn job_extras(&self, key: JobKey) -> &[JobExtra] {
        self.jobs.get(&key).map(|job| job.extras.as_slice()).unwrap_or_default()
    }

    /// What the jobs of a schedule have beyond their spec.
    pub fn schedule_extras(&self, key: ScheduleKey) -> &[JobExtra] {
        self.schedules.get(&key).map(|schedule| schedule.extras.extras.as_slice()).unwrap_or_default()
    }
}
