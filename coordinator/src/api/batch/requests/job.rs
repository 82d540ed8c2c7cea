//! Jobs: add, patch, put, disable, terminate (`jobs-and-tasks.md` §2, §3).

use super::parts::{display_name, environment, metadata, name, retry_count, wall_clock};
use super::{Members, body, optional_body, pool, special};
use crate::api::batch::errors::{Code, Error};
use crate::state::command::JobPatch;
use lote_shared::model::{
    AllTasksAction, AutoPool, DisableTasks, JobCold, JobConstraints, JobExtra, JobId, JobSpec, PoolId,
    PoolLifetime, TaskFailureAction,
};
use serde_json::Value;

const TERMINATE_REASON_MAX: usize = 1_024;
/// Of `autoPoolIdPrefix`.
const PREFIX_MAX: usize = 20;

/// A job, and what it has beyond its spec.
pub type NewJob = (JobSpec, Vec<JobExtra>);

/// `POST /jobs`.
pub fn add(bytes: &[u8]) -> Result<NewJob, Error> {
    let mut job = body(bytes, "BatchJobCreateOptions")?;
    let id = name(&mut job, "id", new_id)?;
    let (spec, extras) = spec(&mut job, id)?;
    if JobExtra::auto_pool(&extras).is_some_and(|auto| auto.lifetime == PoolLifetime::JobSchedule) {
        let reason = "a pool for all jobs of a schedule can be made by a schedule only";
        let path = "poolInfo.autoPoolSpecification.poolLifetimeOption";
        return Err(Error::property(path, "jobschedule", reason));
    }
    Ok((spec, extras))
}

/// What a job is beside its name; a schedule's `jobSpecification` has the same members.
pub fn spec(job: &mut Members, id: JobId) -> Result<NewJob, Error> {
    let mut extras = special::extras(job)?;
    let pool = match pool_info(job)?.ok_or_else(|| Error::missing(&job.path("poolInfo")))? {
        PoolInfo::Named(pool) => pool,
        PoolInfo::Auto(auto) => {
            // The one that is made has another.
            let placeholder = auto.pool.id.clone();
            extras.push(JobExtra::AutoPool(auto));
            placeholder
        }
    };
    check_network(job)?;
    let spec = JobSpec {
        id,
        pool,
        priority: priority(job)?.unwrap_or(0),
        max_parallel_tasks: max_parallel_tasks(job)?.unwrap_or(-1),
        constraints: constraints(job)?.unwrap_or_default(),
        on_all_tasks_complete: on_all_tasks_complete(job).unwrap_or(AllTasksAction::NoAction),
        on_task_failure: match job.text("onTaskFailure").as_deref() {
            Some("performexitoptionsjobaction") => TaskFailureAction::PerformExitOptionsJobAction,
            _ => TaskFailureAction::NoAction,
        },
        uses_task_dependencies: job.boolean("usesTaskDependencies").unwrap_or(false),
        allow_task_preemption: job.boolean("allowTaskPreemption").unwrap_or(false),
        cold: JobCold {
            display_name: display_name(job)?,
            environment: environment(job, "commonEnvironmentSettings")?,
            metadata: metadata(job)?,
            echo: job.echo(&["networkConfiguration"]),
        },
    };
    Ok((spec, extras))
}

/// Users cannot make ids of the form that schedules make.
fn new_id(text: &str) -> Result<JobId, lote_shared::model::InvalidName> {
    if text.contains(':') {
        let name = text.to_owned();
        return Err(lote_shared::model::InvalidName::Character { name, character: ':' });
    }
    JobId::new(text)
}

/// `PATCH /jobs/{id}`: only what is named changes.
pub fn patch(bytes: &[u8]) -> Result<Patch, Error> {
    let mut job = body(bytes, "BatchJobUpdateOptions")?;
    check_network(&job)?;
    let new_metadata = job.has("metadata");
    let items = metadata(&mut job)?;
    let echo = job.echo(&["networkConfiguration"]);
    let (pool, auto_pool) = split(pool_info(&mut job)?);
    let patch = JobPatch {
        priority: priority(&mut job)?,
        max_parallel_tasks: max_parallel_tasks(&mut job)?,
        allow_task_preemption: job.boolean("allowTaskPreemption"),
        constraints: constraints(&mut job)?,
        pool,
        on_all_tasks_complete: on_all_tasks_complete(&mut job),
        metadata: new_metadata.then_some(items),
        echo: (!echo.is_empty()).then_some(echo),
    };
    Ok((patch, auto_pool))
}

/// What is to change, and the pool that is made for the job as it is to be, if it has one.
pub type Patch = (JobPatch, Option<Box<AutoPool>>);

/// `PUT /jobs/{id}`: everything that can be updated is replaced. Newer clients send the whole job as they read it;
/// what cannot be updated is passed over.
pub fn put(bytes: &[u8]) -> Result<Patch, Error> {
    let mut job = body(bytes, "BatchJob")?;
    let pool = pool_info(&mut job)?.ok_or_else(|| Error::missing("poolInfo"))?;
    let (pool, auto_pool) = split(Some(pool));
    let patch = JobPatch {
        priority: Some(priority(&mut job)?.unwrap_or(0)),
        max_parallel_tasks: Some(max_parallel_tasks(&mut job)?.unwrap_or(-1)),
        allow_task_preemption: Some(job.boolean("allowTaskPreemption").unwrap_or(false)),
        constraints: Some(constraints(&mut job)?.unwrap_or_default()),
        pool,
        on_all_tasks_complete: Some(on_all_tasks_complete(&mut job).unwrap_or(AllTasksAction::NoAction)),
        metadata: Some(metadata(&mut job)?),
        echo: None,
    };
    Ok((patch, auto_pool))
}

/// `POST /jobs/{id}/disable`.
pub fn disable(bytes: &[u8]) -> Result<DisableTasks, Error> {
    let mut disable = body(bytes, "BatchJobDisableOptions")?;
    match disable.text("disableTasks").as_deref() {
        Some("requeue") => Ok(DisableTasks::Requeue),
        Some("terminate") => Ok(DisableTasks::Terminate),
        Some("wait") => Ok(DisableTasks::Wait),
        _ => Err(Error::missing("disableTasks")),
    }
}

/// `POST /jobs/{id}/terminate`: the reason, if one was given.
pub fn terminate(bytes: &[u8]) -> Result<Option<String>, Error> {
    let mut terminate = optional_body(bytes, "BatchJobTerminateOptions")?;
    let reason = terminate.text("terminateReason").filter(|reason| !reason.is_empty());
    match reason {
        Some(text) if text.chars().count() > TERMINATE_REASON_MAX => {
            let reason = format!("it has more than {TERMINATE_REASON_MAX} characters");
            Err(Error::property("terminateReason", &text, reason))
        }
        reason => Ok(reason),
    }
}

/// Where a job's tasks are to run.
enum PoolInfo {
    Named(PoolId),
    Auto(Box<AutoPool>),
}

fn split(info: Option<PoolInfo>) -> (Option<PoolId>, Option<Box<AutoPool>>) {
    match info {
        None => (None, None),
        Some(PoolInfo::Named(pool)) => (Some(pool), None),
        Some(PoolInfo::Auto(auto)) => (None, Some(auto)),
    }
}

/// A pool that is made for jobs (`jobs-and-tasks.md` §8).
fn auto_pool(mut auto: Members) -> Result<AutoPool, Error> {
    let prefix = auto.text("autoPoolIdPrefix").unwrap_or_default();
    if prefix.chars().count() > PREFIX_MAX {
        let reason = format!("it has more than {PREFIX_MAX} characters");
        return Err(Error::property(&auto.path("autoPoolIdPrefix"), &prefix, reason));
    }
    // The name of the pool begins with it.
    let id = PoolId::new(&format!("{prefix}_"));
    let id =
        id.map_err(|error| Error::property(&auto.path("autoPoolIdPrefix"), &prefix, error.to_string()))?;
    let lifetime = match auto.text("poolLifetimeOption").as_deref() {
        Some("job") => PoolLifetime::Job,
        Some("jobschedule") => PoolLifetime::JobSchedule,
        _ => return Err(Error::missing(&auto.path("poolLifetimeOption"))),
    };
    let keep_alive = auto.boolean("keepAlive").unwrap_or(false);
    let mut pool = auto.object("pool").ok_or_else(|| Error::missing(&auto.path("pool")))?;
    let (pool, extras) = pool::spec(&mut pool, id)?;
    Ok(AutoPool { prefix, lifetime, keep_alive, pool, extras })
}

/// Exactly one of `poolId` and `autoPoolSpecification`.
fn pool_info(job: &mut Members) -> Result<Option<PoolInfo>, Error> {
    let Some(mut info) = job.object("poolInfo") else { return Ok(None) };
    if info.has("poolId") == info.has("autoPoolSpecification") {
        let reason = "exactly one of poolId and autoPoolSpecification must be given";
        return Err(Error::property(&job.path("poolInfo"), "", reason));
    }
    if let Some(auto) = info.object("autoPoolSpecification") {
        return Ok(Some(PoolInfo::Auto(Box::new(auto_pool(auto)?))));
    }
    name(&mut info, "poolId", PoolId::new).map(|id| Some(PoolInfo::Named(id)))
}

fn priority(job: &mut Members) -> Result<Option<i16>, Error> {
    let Some(number) = job.integer("priority") else { return Ok(None) };
    let priority = i16::try_from(number).ok().filter(|priority| (-1000..=1000).contains(priority));
    let refused = || {
        let reason = "it must be from -1000 to 1000";
        Error::of_property(Code::OutOfRangePriority, &job.path("priority"), &number.to_string(), reason)
    };
    priority.map(Some).ok_or_else(refused)
}

fn max_parallel_tasks(job: &mut Members) -> Result<Option<i32>, Error> {
    let Some(number) = job.integer("maxParallelTasks") else { return Ok(None) };
    let count = i32::try_from(number).ok().filter(|count| *count == -1 || *count >= 1);
    let refused =
        || Error::property(&job.path("maxParallelTasks"), &number.to_string(), "it must be -1, or 1 or more");
    count.map(Some).ok_or_else(refused)
}

fn constraints(job: &mut Members) -> Result<Option<JobConstraints>, Error> {
    let Some(mut constraints) = job.object("constraints") else { return Ok(None) };
    Ok(Some(JobConstraints {
        max_wall_clock: wall_clock(&mut constraints)?,
        max_task_retry_count: retry_count(&mut constraints)?.unwrap_or(0),
    }))
}

fn on_all_tasks_complete(job: &mut Members) -> Option<AllTasksAction> {
    match job.text("onAllTasksComplete")?.as_str() {
        "terminatejob" => Some(AllTasksAction::TerminateJob),
        _ => Some(AllTasksAction::NoAction),
    }
}

/// A subnet that names a resource of a cloud account cannot be joined; any other text is kept and means nothing.
fn check_network(job: &Members) -> Result<(), Error> {
    let subnet = job.peek("networkConfiguration").and_then(|network| network.get("subnetId"));
    match subnet.and_then(Value::as_str) {
        Some(id) if id.to_ascii_lowercase().starts_with("/subscriptions/") => {
            let reason = "subnets of a cloud account are not available here";
            Err(Error::property(&job.path("networkConfiguration.subnetId"), id, reason))
        }
        _ => Ok(()),
    }
}
