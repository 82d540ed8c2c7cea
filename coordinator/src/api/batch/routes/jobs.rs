//! Jobs (`jobs-and-tasks.md` §2–§4).

use super::{collect, created, element, field, page_answer, written};
use crate::api::batch::answers::{job as answers, special};
use crate::api::batch::call::Call;
use crate::api::batch::errors::{Code, Error};
use crate::api::batch::lookup;
use crate::api::batch::requests::job as requests;
use crate::api::batch::response::Answer;
use crate::api::odata::{Field, Kind, Operators};
use crate::state::{Action, Cluster};
use lote_shared::model::JobId;

pub(super) const FIELDS: [Field; 8] = [
    field("id", Kind::Text, Operators::OrderedAndPrefix),
    field("state", Kind::Text, Operators::Equality),
    field("stateTransitionTime", Kind::Time, Operators::Ordered),
    field("creationTime", Kind::Time, Operators::Ordered),
    field("lastModified", Kind::Time, Operators::Ordered),
    field("executionInfo/startTime", Kind::Time, Operators::Ordered),
    field("executionInfo/endTime", Kind::Time, Operators::Ordered),
    field("executionInfo/poolId", Kind::Text, Operators::OrderedAndPrefix),
];

const PREPARED_FIELDS: [Field; 12] = [
    field("poolId", Kind::Text, Operators::OrderedAndPrefix),
    field("nodeId", Kind::Text, Operators::OrderedAndPrefix),
    field("jobPreparationTaskExecutionInfo/state", Kind::Text, Operators::Equality),
    field("jobPreparationTaskExecutionInfo/startTime", Kind::Time, Operators::Ordered),
    field("jobPreparationTaskExecutionInfo/endTime", Kind::Time, Operators::Ordered),
    field("jobPreparationTaskExecutionInfo/exitCode", Kind::Number, Operators::Ordered),
    field("jobPreparationTaskExecutionInfo/result", Kind::Text, Operators::Equality),
    field("jobReleaseTaskExecutionInfo/state", Kind::Text, Operators::Equality),
    field("jobReleaseTaskExecutionInfo/startTime", Kind::Time, Operators::Ordered),
    field("jobReleaseTaskExecutionInfo/endTime", Kind::Time, Operators::Ordered),
    field("jobReleaseTaskExecutionInfo/exitCode", Kind::Number, Operators::Ordered),
    field("jobReleaseTaskExecutionInfo/result", Kind::Text, Operators::Equality),
];

/// The job that the path names; what cannot be a name names nothing.
pub(super) fn named(call: &Call) -> Result<JobId, Error> {
    Ok(JobId::new(call.parameter(0)).map_err(|_| Code::JobNotFound)?)
}

pub async fn add(call: &Call<'_>) -> Result<Answer, Error> {
    let (spec, extras) = requests::add(&call.body)?;
    let resource = format!("{}/jobs/{}", call.base, spec.id);
    let spec = Box::new(spec);
    let action = match extras.is_empty() {
        true => Action::JobAdd { spec },
        false => Action::JobAddWith { spec, extras },
    };
    let outcome = call.propose(action).await?;
    Ok(created(&outcome, resource))
}

pub async fn list(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&FIELDS)?;
    let page = collect(call, super::PAGE_MAX, |cluster, after, most| {
        lookup::jobs(cluster, call.account, after, most, filter.as_ref())
    });
    Ok(page_answer(call, "jobs", page.await?, |object, job| answers::write(object, &call.base, job)))
}

pub async fn get(call: &Call<'_>) -> Result<Answer, Error> {
    call.query.check_expand()?;
    let job = call.read(|cluster| lookup::job(cluster, call.account, call.parameter(0))).await??;
    call.check_read(job.record.version)?;
    let answer = element(call, "jobs/@Element", |object| answers::write(object, &call.base, &job));
    Ok(answer.version(job.record.version))
}

pub async fn patch(call: &Call<'_>) -> Result<Answer, Error> {
    change(call, requests::patch(&call.body)?).await
}

pub async fn put(call: &Call<'_>) -> Result<Answer, Error> {
    change(call, requests::put(&call.body)?).await
}

async fn change(call: &Call<'_>, (patch, auto_pool): requests::Patch) -> Result<Answer, Error> {
    let (job, condition, patch) = (named(call)?, call.condition()?, Box::new(patch));
    let action = match auto_pool {
        None => Action::JobPatch { job, condition, patch },
        Some(auto_pool) => Action::JobPatchWith { job, condition, patch, auto_pool },
    };
    let outcome = call.propose(action).await?;
    Ok(written(&outcome, call.address.clone()))
}

/// What the job's preparation and release did, by node.
pub async fn preparation_status(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&PREPARED_FIELDS)?;
    let page = collect(call, super::PAGE_MAX, |cluster, after, most| {
        lookup::prepared(cluster, call.account, call.parameter(0), after, most, filter.as_ref())
    });
    let fragment = "jobpreparationandreleasetaskstatuslist";
    Ok(page_answer(call, fragment, page.await?, |object, one| {
        special::write_prepared(object, &call.base, one);
    }))
}

pub async fn disable(call: &Call<'_>) -> Result<Answer, Error> {
    let tasks = requests::disable(&call.body)?;
    let (job, condition) = (named(call)?, call.condition()?);
    let outcome = call.propose(Action::JobDisable { job, condition, tasks }).await?;
    Ok(written(&outcome, call.address.clone()))
}

pub async fn enable(call: &Call<'_>) -> Result<Answer, Error> {
    let (job, condition) = (named(call)?, call.condition()?);
    let outcome = call.propose(Action::JobEnable { job, condition }).await?;
    Ok(written(&outcome, call.address.clone()))
}

pub async fn terminate(call: &Call<'_>) -> Result<Answer, Error> {
    let reason = requests::terminate(&call.body)?;
    let force = call.query.boolean("force")?;
    let (job, condition) = (named(call)?, call.condition()?);
    let outcome = call.propose(Action::JobTerminate { job, condition, reason, force }).await?;
    Ok(written(&outcome, call.address.clone()))
}

pub async fn delete(call: &Call<'_>) -> Result<Answer, Error> {
    let force = call.query.boolean("force")?;
    let (job, condition) = (named(call)?, call.condition()?);
    call.propose(Action::JobDelete { job, condition, force }).await?;
    Ok(Answer::empty(202))
}

pub async fn task_counts(call: &Call<'_>) -> Result<Answer, Error> {
    let look = |cluster: &Cluster| {
        lookup::job_record(cluster, call.account, call.parameter(0)).map(|record| record.counts)
    };
    let counts = call.read(look).await??;
    Ok(element(call, "taskcounts/@Element", |object| answers::write_counts(object, &counts)))
}
