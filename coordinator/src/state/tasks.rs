//! Tasks as users handle them: add, update, terminate, reactivate, delete (`jobs-and-tasks.md` §5).
//! What nodes do with them is in `attempts`.

use super::cluster::{Cluster, Event};
use super::command::{Condition, TaskAdd};
use super::exits::FinalEnd;
use super::index::Standing;
use super::keys;
use super::records::{JobRecord, TaskPlace, TaskRecord};
use super::reply::{Outcome, Refusal, RefusalCode, Reply, Version};
use super::step::Step;
use super::version::ClusterVersion;
use lote_shared::model::{
    Attempt, ExitOptions, JobId, JobKey, JobState, NodeKey, Span, TaskConstraints, TaskExtra,
    TaskFailureAction, TaskId, TaskKey, TaskResult, TaskTies,
};
use lote_shared::protocol::host::{KillReason, TaskDirectory};

/// Tasks of one add.
pub const TASKS_PER_ADD_MAX: usize = 100;
/// What `affinityId` of a node looks like before its id.
const AFFINITY_PREFIX: &str = "TVM:";

impl Cluster {
    pub(super) fn add_tasks<'a>(
        &mut self,
        step: &mut Step,
        job: &JobId,
        tasks: impl ExactSizeIterator<Item = (&'a TaskAdd, Option<&'a TaskTies>, &'a [TaskExtra])>,
    ) -> Reply {
        if tasks.len() > TASKS_PER_ADD_MAX {
            let detail = format!("{} tasks in one add; the limit is {TASKS_PER_ADD_MAX}", tasks.len());
            return Err(Refusal::new(RefusalCode::InvalidPropertyValue).because(detail));
        }
        let key = self.job_takes_tasks(step, job)?;
        let mut results = Vec::with_capacity(tasks.len());
        for (task, ties, extras) in tasks {
            let result = self.add_task(step, key, task, ties, extras);
            results.push((task.spec.id.clone(), result));
        }
        let graced = self.jobs.get(&key).is_some_and(|job| job.record.empty_grace_until.is_some());
        if graced && results.iter().any(|(_, result)| result.is_ok()) {
            self.change_job(step, key, |record| record.empty_grace_until = None);
        }
        Ok(Outcome::TasksAdded(results))
    }

    /// Whether the job can take such a task.
    fn check_task(
        &self,
        job: JobKey,
        task: &TaskAdd,
        ties: Option<&TaskTies>,
        extras: &[TaskExtra],
    ) -> Result<(), Refusal> {
        let job = self.jobs.get(&job).ok_or_else(|| Refusal::new(RefusalCode::JobNotFound))?;
        if job.tasks.contains_key(&task.spec.id) {
            return Err(RefusalCode::TaskExists.into());
        }
        job.check_task_id(&task.spec.id)?;
        self.check_packages(job.record.account, TaskExtra::packages(extras))?;
        ties.map_or(Ok(()), |ties| check_ties(&job.record, ties))
    }

    pub(super) fn add_task(
        &mut self,
        step: &mut Step,
        job_key: JobKey,
        task: &TaskAdd,
        ties: Option<&TaskTies>,
        extras: &[TaskExtra],
    ) -> Result<Version, Refusal> {
        let affinity = self.named_node(job_key, &task.spec.affinity_id);
        self.check_task(job_key, task, ties, extras)?;
        let job = self.jobs.get_mut(&job_key).ok_or_else(|| Refusal::new(RefusalCode::JobNotFound))?;
        let account = job.record.account;
        let constraints = task.constraints(&job.record.constraints);
        self.meta.last_task = self.meta.last_task.next();
        let key = self.meta.last_task;
        job.tasks.insert(task.spec.id.clone(), key);
        job.note_manager(&task.spec.id, key);
        let version = self.next_version(step);
        let place = self.tie_task(step, job_key, key, ties);
        let record = TaskRecord {
            key,
            account,
            job: job_key,
            id: task.spec.id.clone(),
            version,
            created: step.now,
            place,
            state_changed: step.now,
            previous_state: None,
            slots: task.slots.max(1),
            constraints,
            attempt: Attempt(0),
            retry_count: 0,
            last_retry: None,
            requeue_count: 0,
            last_requeue: None,
            internal_faults: 0,
            last_node: None,
            started: None,
            ended: None,
            exit_code: None,
            failure: None,
            ending: None,
            affinity,
        };
        step.put(keys::task(account, key), &record);
        step.put(keys::task_cold(account, key), &task.spec);
        if !extras.is_empty() {
            step.put(keys::task_extras(account, key), &extras);
        }
        self.move_standing(key, job_key, None, Some(Standing::of(&record)));
        self.tasks.insert(record);
        step.jobs.insert(job_key);
        Ok(version)
    }

    /// The node an affinity id names, if it is one of the job's pool now.
    fn named_node(&self, job: JobKey, affinity: &str) -> Option<NodeKey> {
        let id = affinity.strip_prefix(AFFINITY_PREFIX).unwrap_or(affinity);
        if id.is_empty() {
            return None;
        }
        let job = &self.jobs.get(&job)?.record;
        let pool = self.pool_by_id(job.account, &job.pool)?;
        self.pools.get(&pool.key)?.by_name.get(id).copied()
    }

    /// The task of that name, if its job allows changes of tasks and the condition holds.
    fn task_to_change(
        &mut self,
        step: &Step,
        job: &JobId,
        task: &TaskId,
        condition: &Condition,
    ) -> Result<&TaskRecord, Refusal> {
        let missing = || Refusal::new(RefusalCode::TaskNotFound);
        let job = self.job_named(step, job)?;
        let state = job.record.state;
        let key = job.tasks.get(task).copied();
        if state == JobState::Deleting {
            return Err(RefusalCode::JobBeingDeleted.into());
        }
        let task = self.tasks.get(key.ok_or_else(missing)?).ok_or_else(missing)?;
        condition.check(task.version)?;
        Ok(task)
    }

    pub(super) fn put_task(
        &mut self,
        step: &mut Step,
        job: &JobId,
        task: &TaskId,
        condition: &Condition,
        (max_wall_clock, retention, retries): (Span, Span, Option<i32>),
    ) -> Reply {
        let task = self.task_to_change(step, job, task, condition)?;
        if matches!(task.place, TaskPlace::Completed { .. }) {
            return Err(RefusalCode::TaskCompleted.into());
        }
        let (key, job, attempt) = (task.key, task.job, task.attempt_ref());
        let node = task.held_by().filter(|_| task.constraints.max_wall_clock != max_wall_clock);
        let default = self.jobs.get(&job).map_or(0, |job| job.record.constraints.max_task_retry_count);
        let version = self.next_version(step);
        self.change_task(step, key, |task| {
            task.version = version;
            task.constraints =
                TaskConstraints { max_wall_clock, retention, max_retry_count: retries.unwrap_or(default) };
        });
        if let Some(node) = node {
            let wall_clock_ms = max_wall_clock.as_limit_ms();
            step.event(Event::WallClock { node, attempt, wall_clock_ms });
        }
        Ok(Outcome::Record(version))
    }

    pub(super) fn terminate_task(
        &mut self,
        step: &mut Step,
        job: &JobId,
        task: &TaskId,
        condition: &Condition,
    ) -> Reply {
        let task = self.task_to_change(step, job, task, condition)?;
        if matches!(task.place, TaskPlace::Completed { .. }) {
            return Err(RefusalCode::TaskCompleted.into());
        }
        let key = task.key;
        let version = self.next_version(step);
        self.change_task(step, key, |task| task.version = version);
        self.end_task(step, key, FinalEnd::Ended);
        Ok(Outcome::Record(version))
    }

    pub(super) fn reactivate_task(
        &mut self,
        step: &mut Step,
        job: &JobId,
        task: &TaskId,
        condition: &Condition,
    ) -> Reply {
        self.job_takes_tasks(step, job)?;
        let task = self.task_to_change(step, job, task, condition)?;
        match task.place {
            TaskPlace::Completed { result: TaskResult::Failure } => {}
            TaskPlace::Completed { result: TaskResult::Success } => {
                return Err(RefusalCode::TaskSucceeded.into());
            }
            _ => return Err(RefusalCode::TaskNotCompleted.into()),
        }
        let (key, job) = (task.key, task.job);
        let version = self.next_version(step);
        let now = step.now;
        // One that was ended while it waited waits again.
        let place = self.place_by_dependencies(job, key);
        self.change_task(step, key, |task| {
            task.version = version;
            task.move_to(place, now);
            task.retry_count = 0;
            task.last_retry = None;
            task.internal_faults = 0;
            task.exit_code = None;
            task.failure = None;
            task.ended = None;
        });
        Ok(Outcome::Record(version))
    }

    pub(super) fn delete_task(
        &mut self,
        step: &mut Step,
        job: &JobId,
        task: &TaskId,
        condition: &Condition,
    ) -> Reply {
        let key = self.task_to_change(step, job, task, condition)?.key;
        self.remove_task(step, key);
        Ok(Outcome::Done)
    }

    /// Removes a task; its node ends what runs and wipes the directory.
    pub(super) fn remove_task(&mut self, step: &mut Step, key: TaskKey) {
        let Some(task) = self.tasks.remove(key) else { return };
        let held = task.held_by();
        self.manager_removed(step, &task);
        self.move_standing(key, task.job, Some(Standing::of(&task)), None);
        if let Some(node) = held {
            step.event(Event::Kill { node, attempt: task.attempt_ref(), reason: KillReason::Fenced });
        }
        if let Some(job) = self.jobs.get_mut(&task.job) {
            job.tasks.remove(&task.id);
            if let Some(node) = task.last_node.filter(|node| self.nodes.contains_key(node)) {
                let directory = TaskDirectory {
                    job_id: job.record.id.as_str().to_owned(),
                    task_id: task.id.as_str().to_owned(),
                    task: key,
                };
                step.event(Event::Clean { node, directory });
            }
        }
        self.untie_task(step, task.job, task.account, key);
        step.delete(keys::task(task.account, key));
        step.delete(keys::task_cold(task.account, key));
        if self.version() >= ClusterVersion::V3 {
            step.delete(keys::task_extras(task.account, key));
        }
        super::past::forget(step, task.account, key, task.attempt.0);
        let place = match task.place {
            TaskPlace::Preparing { node, .. } => Some(node),
            _ => held,
        };
        self.touch_around(step, task.job, place, None);
    }
}

/// Refuses what the job does not opt in to (spec §5.4).
fn check_ties(job: &JobRecord, ties: &TaskTies) -> Result<(), Refusal> {
    if !job.uses_task_dependencies && !ties.depends_on.is_empty() {
        return Err(RefusalCode::TaskDependenciesNotSpecifiedOnJob.into());
    }
    let says = |what: fn(&ExitOptions) -> bool| {
        ties.exit_conditions.as_ref().is_some_and(|conditions| conditions.options().any(what))
    };
    let invalid = |detail: &str| Err(Refusal::new(RefusalCode::InvalidPropertyValue).because(detail));
    if !job.uses_task_dependencies && says(|options| options.dependency.is_some()) {
        return invalid("exitConditions with a dependencyAction need usesTaskDependencies = true on the job");
    }
    if job.on_task_failure == TaskFailureAction::NoAction && says(|options| options.job.is_some()) {
        return invalid(
            "exitConditions with a jobAction need onTaskFailure = performexitoptionsjobaction on the job",
        );
    }
    Ok(())
}
