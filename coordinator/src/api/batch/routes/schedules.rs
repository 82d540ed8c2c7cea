//! Job schedules (`jobs-and-tasks.md` §10).

use super::{collect, created, element, field, page_answer, written};
use crate::api::batch::answers::{job as job_answers, schedule as answers};
use crate::api::batch::call::Call;
use crate::api::batch::errors::{Code, Error};
use crate::api::batch::lookup;
use crate::api::batch::requests::schedule as requests;
use crate::api::batch::response::Answer;
use crate::api::odata::{Field, Kind, Operators};
use crate::state::command::ScheduleChange;
use crate::state::{Action, Cluster};
use lote_shared::model::ScheduleId;

const FIELDS: [Field; 5] = [
    field("id", Kind::Text, Operators::OrderedAndPrefix),
    field("state", Kind::Text, Operators::Equality),
    field("stateTransitionTime", Kind::Time, Operators::Ordered),
    field("creationTime", Kind::Time, Operators::Ordered),
    field("lastModified", Kind::Time, Operators::Ordered),
];

/// The schedule that the path names; what cannot be a name names nothing.
fn named(call: &Call) -> Result<ScheduleId, Error> {
    Ok(ScheduleId::new(call.parameter(0)).map_err(|_| Code::JobScheduleNotFound)?)
}

pub async fn add(call: &Call<'_>) -> Result<Answer, Error> {
    let (spec, extras) = requests::add(&call.body)?;
    let resource = answers::url(&call.base, spec.id.as_str());
    let spec = Box::new(spec);
    let action = match extras.is_empty() {
        true => Action::ScheduleAdd { spec },
        false => Action::ScheduleAddWith { spec, extras },
    };
    let outcome = call.propose(action).await?;
    Ok(created(&outcome, resource))
}

pub async fn list(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&FIELDS)?;
    let page = collect(call, super::PAGE_MAX, |cluster, after, most| {
        lookup::schedules(cluster, call.account, after, most, filter.as_ref())
    });
    let page = page.await?;
    Ok(page_answer(call, "jobschedules", page, |object, item| answers::write(object, &call.base, item)))
}

pub async fn get(call: &Call<'_>) -> Result<Answer, Error> {
    call.query.check_expand()?;
    let look = |cluster: &Cluster| lookup::schedule(cluster, call.account, call.parameter(0));
    let schedule = call.read(look).await??;
    call.check_read(schedule.record.version)?;
    let answer =
        element(call, "jobschedules/@Element", |object| answers::write(object, &call.base, &schedule));
    Ok(answer.version(schedule.record.version))
}

pub async fn exists(call: &Call<'_>) -> Result<Answer, Error> {
    let look = |cluster: &Cluster| lookup::schedule(cluster, call.account, call.parameter(0));
    let version = call.read(look).await??.record.version;
    call.check_read(version)?;
    Ok(Answer::empty(200).version(version))
}

async fn change(call: &Call<'_>, change: ScheduleChange) -> Result<Answer, Error> {
    let (schedule, condition) = (named(call)?, call.condition()?);
    let outcome = call.propose(Action::ScheduleChange { schedule, condition, change }).await?;
    Ok(written(&outcome, call.address.clone()))
}

async fn change_whole(call: &Call<'_>, (patch, extras): requests::Patch) -> Result<Answer, Error> {
    let patch = Box::new(patch);
    if extras.is_empty() {
        return change(call, ScheduleChange::Patch(patch)).await;
    }
    let (schedule, condition) = (named(call)?, call.condition()?);
    let outcome = call.propose(Action::SchedulePatchWith { schedule, condition, patch, extras }).await?;
    Ok(written(&outcome, call.address.clone()))
}

pub async fn patch(call: &Call<'_>) -> Result<Answer, Error> {
    change_whole(call, requests::patch(&call.body)?).await
}

pub async fn put(call: &Call<'_>) -> Result<Answer, Error> {
    change_whole(call, requests::put(&call.body)?).await
}

pub async fn disable(call: &Call<'_>) -> Result<Answer, Error> {
    change(call, ScheduleChange::Disable).await
}

pub async fn enable(call: &Call<'_>) -> Result<Answer, Error> {
    change(call, ScheduleChange::Enable).await
}

pub async fn terminate(call: &Call<'_>) -> Result<Answer, Error> {
    let force = call.query.boolean("force")?;
    change(call, ScheduleChange::Terminate { force }).await
}

pub async fn delete(call: &Call<'_>) -> Result<Answer, Error> {
    call.query.boolean("force")?;
    change(call, ScheduleChange::Delete).await?;
    Ok(Answer::empty(202))
}

/// The jobs that it made, in the order of making.
pub async fn jobs(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&super::jobs::FIELDS)?;
    let page = collect(call, super::PAGE_MAX, |cluster, after, most| {
        lookup::jobs_of_schedule(cluster, call.account, call.parameter(0), after, most, filter.as_ref())
    });
    let page = page.await?;
    Ok(page_answer(call, "jobs", page, |object, job| job_answers::write(object, &call.base, job)))
}
