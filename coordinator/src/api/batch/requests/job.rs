//! Jobs: add, patch, put, disable, terminate (`jobs-and-tasks.md` §2, §3).

use super::parts::{display_name, environment, metadata, name, retry_count, wall_clock};
use super::{Members, body, optional_body};
use crate::api::batch::errors::{Code, Error};
use crate::state::command::JobPatch;
use lote_shared::model::{
    AllTasksAction, DisableTasks, JobCold, JobConstraints, JobId, JobSpec, PoolId, TaskFailureAction,
};
use serde_json::Value;

const TERMINATE_REASON_MAX: usize = 1_024;

/// `POST /jobs`.
pub fn add(bytes: &[u8]) -> Result<JobSpec, Error> {
    let mut job = body(bytes, "BatchJobCreateOptions")?;
    let id = name(&mut job, "id", new_id)?;
    spec(&mut job, id)
}

/// What a job is beside its name; a schedule's `jobSpecification` has the same members.
pub fn spec(job: &mut Members, id: JobId) -> Result<JobSpec, Error> {
    job.refuse_unbuilt(&["jobManagerTask", "jobPreparationTask", "jobReleaseTask"])?;
    let pool = pool_info(job)?.ok_or_else(|| Error::missing(&job.path("poolInfo")))?;
    check_network(job)?;
    Ok(JobSpec {
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
    })
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
pub fn patch(bytes: &[u8]) -> Result<JobPatch, Error> {
    let mut job = body(bytes, "BatchJobUpdateOptions")?;
    check_network(&job)?;
    let new_metadata = job.has("metadata");
    let items = metadata(&mut job)?;
    let echo = job.echo(&["networkConfiguration"]);
    Ok(JobPatch {
        priority: priority(&mut job)?,
        max_parallel_tasks: max_parallel_tasks(&mut job)?,
        allow_task_preemption: job.boolean("allowTaskPreemption"),
        constraints: constraints(&mut job)?,
        pool: pool_info(&mut job)?,
        on_all_tasks_complete: on_all_tasks_complete(&mut job),
        metadata: new_metadata.then_some(items),
        echo: (!echo.is_empty()).then_some(echo),
    })
}

/// `PUT /jobs/{id}`: everything that can be updated is replaced. Newer clients send the whole job as they read it;
/// what cannot be updated is passed over.
pub fn put(bytes: &[u8]) -> Result<JobPatch, Error> {
    let mut job = body(bytes, "BatchJob")?;
    let pool = pool_info(&mut job)?.ok_or_else(|| Error::missing("poolInfo"))?;
    Ok(JobPatch {
        priority: Some(priority(&mut job)?.unwrap_or(0)),
        max_parallel_tasks: Some(max_parallel_tasks(&mut job)?.unwrap_or(-1)),
        allow_task_preemption: Some(job.boolean("allowTaskPreemption").unwrap_or(false)),
        constraints: Some(constraints(&mut job)?.unwrap_or_default()),
        pool: Some(pool),
        on_all_tasks_complete: Some(on_all_tasks_complete(&mut job).unwrap_or(AllTasksAction::NoAction)),
        metadata: Some(metadata(&mut job)?),
        echo: None,
    })
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

/// Exactly one of `poolId` and `autoPoolSpecification`.
fn pool_info(job: &mut Members) -> Result<Option<PoolId>, Error> {
    let Some(mut info) = job.object("poolInfo") else { return Ok(None) };
    if info.has("poolId") == info.has("autoPoolSpecification") {
        let reason = "exactly one of poolId and autoPoolSpecification must be given";
        return Err(Error::property(&job.path("poolInfo"), "", reason));
    }
    if info.has("autoPoolSpecification") {
        return Err(Error::not_built(&info.path("autoPoolSpecification")));
    }
    name(&mut info, "poolId", PoolId::new).map(Some)
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
