//! Tasks (`jobs-and-tasks.md` §5).

use super::jobs::named as named_job;
use super::{collect, created, element, field, list_answer, page_answer, written};
use crate::api::batch::answers::task as answers;
use crate::api::batch::call::Call;
use crate::api::batch::errors::{Code, Error};
use crate::api::batch::json::Object;
use crate::api::batch::lookup;
use crate::api::batch::requests::task::{self as requests, NewTask};
use crate::api::batch::response::Answer;
use crate::api::batch::views::{TaskView, WholeTask};
use crate::api::odata::{Field, Kind, Operators};
use crate::state::command::{self, SIZE_MAX};
use crate::state::reply::Version;
use crate::state::{Action, Cluster, Outcome, ROW_VERSION};
use lote_shared::model::{JobId, TaskId, TaskSpec};
use lote_shared::protocol::codec;

const FIELDS: [Field; 10] = [
    field("id", Kind::Text, Operators::OrderedAndPrefix),
    field("state", Kind::Text, Operators::Equality),
    field("stateTransitionTime", Kind::Time, Operators::Ordered),
    field("creationTime", Kind::Time, Operators::Ordered),
    field("lastModified", Kind::Time, Operators::Ordered),
    field("lastModifiedTime", Kind::Time, Operators::Ordered),
    field("executionInfo/startTime", Kind::Time, Operators::Ordered),
    field("executionInfo/endTime", Kind::Time, Operators::Ordered),
    field("executionInfo/exitCode", Kind::Number, Operators::Ordered),
    field("executionInfo/result", Kind::Text, Operators::Equality),
];

/// Room in a command beside its tasks: account, key, job, lengths.
const COMMAND_OVERHEAD: u64 = 256;

/// The task that the path names; what cannot be a name names nothing.
fn named(call: &Call) -> Result<TaskId, Error> {
    Ok(TaskId::new(call.parameter(1)).map_err(|_| Code::TaskNotFound)?)
}

fn url(call: &Call, task: &str) -> String {
    answers::url(&call.base, call.parameter(0), task)
}

pub async fn add(call: &Call<'_>) -> Result<Answer, Error> {
    let task = requests::add(&call.body)?;
    let resource = url(call, task.0.spec.id.as_str());
    let action = adding(named_job(call)?, vec![task]);
    match call.propose(action).await? {
        Outcome::TasksAdded(results) => match results.into_iter().next() {
            Some((_, Ok(version))) => Ok(created(&Outcome::Record(version), resource)),
            Some((_, Err(refusal))) => Err(refusal.into()),
            None => Err(Code::InternalError.into()),
        },
        _ => Err(Code::InternalError.into()),
    }
}

/// Tasks without ties are most of them, and need no room for any; fewer still have more.
fn adding(job: JobId, tasks: Vec<NewTask>) -> Action {
    if tasks.iter().any(|(_, _, extras)| !extras.is_empty()) {
        return Action::TasksAddWith { job, tasks };
    }
    if tasks.iter().any(|(_, ties, _)| !ties.is_empty()) {
        let tasks = tasks.into_iter().map(|(task, ties, _)| (task, ties)).collect();
        return Action::TiedTasksAdd { job, tasks };
    }
    Action::TasksAdd { job, tasks: tasks.into_iter().map(|(task, ..)| task).collect() }
}

/// What became of one item of a collection.
type ItemResult = (String, Result<Version, Error>);

/// Adds up to a hundred tasks. Items that are wrong in themselves are answered here; the rest is proposed in as few
/// commands as it fits, in order, all under way at once.
pub async fn add_collection(call: &Call<'_>) -> Result<Answer, Error> {
    let job = named_job(call)?;
    let items = requests::collection(&call.body)?;
    let mut results: Vec<Option<ItemResult>> = Vec::with_capacity(items.len());
    let mut tasks = Vec::with_capacity(items.len());
    for item in items {
        match item.task {
            Ok(task) => {
                tasks.push((results.len(), task));
                results.push(None);
            }
            Err(error) => results.push(Some((item.id, Err(error)))),
        }
    }
    if tasks.is_empty() {
        // Nothing to propose; the job must exist all the same.
        call.read(|cluster| lookup::job_key(cluster, call.account, call.parameter(0))).await??;
    }
    let proposals = split(tasks, call.body.len() as u64).into_iter().map(|part| {
        let (places, part): (Vec<usize>, Vec<NewTask>) = part.into_iter().unzip();
        let ids: Vec<String> = part.iter().map(|(task, ..)| task.spec.id.to_string()).collect();
        let action = adding(job.clone(), part);
        async move { (places, ids, call.propose(action).await) }
    });
    for (places, ids, outcome) in futures::future::join_all(proposals).await {
        let outcomes = each(outcome, ids.len())?;
        for ((place, id), outcome) in places.into_iter().zip(ids).zip(outcomes) {
            if let Some(result) = results.get_mut(place) {
                *result = Some((id, outcome));
            }
        }
    }
    let rows: Vec<Vec<u8>> = results
        .iter()
        .flatten()
        .map(|result| super::row(None, |object| item_result(object, call, result)))
        .collect();
    Ok(list_answer(call, "taskaddresult", &rows, None))
}

/// What one command's answer means for each of its tasks. Too large concerns these tasks alone, so that the rest of
/// the request stands; anything else concerns the request.
fn each(outcome: Result<Outcome, Error>, count: usize) -> Result<Vec<Result<Version, Error>>, Error> {
    match outcome {
        Ok(Outcome::TasksAdded(results)) => {
            Ok(results.into_iter().map(|(_, result)| result.map_err(Error::from)).collect())
        }
        Ok(_) => Err(Code::InternalError.into()),
        Err(error) if error.code == Code::RequestBodyTooLarge => Ok(vec![Err(error); count]),
        Err(error) => Err(error),
    }
}

/// Parts that fit into a command each. Encoded tasks are never larger than their JSON by more than a few bytes, so a
/// small body needs no look at every task.
fn split<T>(tasks: Vec<(T, NewTask)>, body_bytes: u64) -> Vec<Vec<(T, NewTask)>> {
    const PER_TASK: u64 = 128;
    let room = SIZE_MAX - COMMAND_OVERHEAD;
    if tasks.is_empty() {
        return Vec::new();
    }
    if body_bytes + PER_TASK * tasks.len() as u64 <= room {
        return vec![tasks];
    }
    let mut parts = vec![Vec::new()];
    let mut used = 0;
    for (place, task) in tasks {
        let size = codec::encode(command::VERSION, &task).map_or(room, |bytes| bytes.len() as u64);
        if used + size > room && used > 0 {
            parts.push(Vec::new());
            used = 0;
        }
        used += size;
        if let Some(part) = parts.last_mut() {
            part.push((place, task));
        }
    }
    parts
}

fn item_result(object: &mut Object, call: &Call, (id, result): &ItemResult) {
    let status = match result {
        Ok(_) => "success",
        Err(error) if error.code.status() >= 500 && error.code != Code::NotImplemented => "servererror",
        Err(_) => "clienterror",
    };
    object.text("status", status);
    object.text("taskId", id);
    match result {
        Ok(version) => {
            object.text("eTag", &version.etag_text());
            object.time("lastModified", version.modified);
            object.text("location", &url(call, id));
        }
        Err(error) => object.object("error", |object| error.write(object, "", call.now)),
    }
}

pub async fn list(call: &Call<'_>) -> Result<Answer, Error> {
    let filter = call.query.filter(&FIELDS)?;
    let page = collect(call, super::PAGE_MAX, |cluster, after, most| {
        lookup::tasks(cluster, call.account, call.parameter(0), after, most, filter.as_ref())
    });
    let (tasks, next) = page.await?;
    let cold = answers::needs_cold(call.query.select().as_ref());
    let mut whole = Vec::with_capacity(tasks.len());
    for task in tasks {
        let spec = if cold { read_cold(call, &task)? } else { None };
        // Without its cold row a task was deleted a moment ago, or is not acknowledged yet.
        if spec.is_some() || !cold {
            whole.push(WholeTask { task, spec });
        }
    }
    Ok(page_answer(call, "tasks", (whole, next), |object, task| answers::write(object, &call.base, task)))
}

fn read_cold(call: &Call, task: &TaskView) -> Result<Option<TaskSpec>, Error> {
    let Some(row) = call.api.engine.cold(&lookup::cold_key(call.account, task.record.key))? else {
        return Ok(None);
    };
    codec::decode(ROW_VERSION, &row, codec::LIMIT_DEFAULT).map(Some).map_err(|error| {
        tracing::error!(%error, task = %task.record.key, "a stored task cannot be read");
        Error::new(Code::InternalError)
    })
}

async fn read_task(call: &Call<'_>) -> Result<TaskView, Error> {
    let look = |cluster: &Cluster| lookup::task(cluster, call.account, call.parameter(0), call.parameter(1));
    call.read(look).await?
}

pub async fn get(call: &Call<'_>) -> Result<Answer, Error> {
    call.query.check_expand()?;
    let task = read_task(call).await?;
    let version = task.record.version;
    call.check_read(version)?;
    let spec = if answers::needs_cold(call.query.select().as_ref()) {
        Some(read_cold(call, &task)?.ok_or(Code::TaskNotFound)?)
    } else {
        None
    };
    let whole = WholeTask { task, spec };
    let answer = element(call, "tasks/@Element", |object| answers::write(object, &call.base, &whole));
    Ok(answer.version(version))
}

/// No task here has subtasks yet; the list of a task that exists is empty.
pub async fn subtasks(call: &Call<'_>) -> Result<Answer, Error> {
    read_task(call).await?;
    Ok(list_answer(call, "subtasks", &[], None))
}

pub async fn put(call: &Call<'_>) -> Result<Answer, Error> {
    let (max_wall_clock, retention, max_retry_count) = requests::put(&call.body)?;
    let (job, task, condition) = (named_job(call)?, named(call)?, call.condition()?);
    let action = Action::TaskPut { job, task, condition, max_wall_clock, retention, max_retry_count };
    Ok(written(&call.propose(action).await?, call.address.clone()))
}

pub async fn terminate(call: &Call<'_>) -> Result<Answer, Error> {
    let (job, task, condition) = (named_job(call)?, named(call)?, call.condition()?);
    let outcome = call.propose(Action::TaskTerminate { job, task, condition }).await?;
    Ok(written(&outcome, call.address.clone()))
}

pub async fn reactivate(call: &Call<'_>) -> Result<Answer, Error> {
    let (job, task, condition) = (named_job(call)?, named(call)?, call.condition()?);
    let outcome = call.propose(Action::TaskReactivate { job, task, condition }).await?;
    Ok(written(&outcome, call.address.clone()))
}

pub async fn delete(call: &Call<'_>) -> Result<Answer, Error> {
    let (job, task, condition) = (named_job(call)?, named(call)?, call.condition()?);
    call.propose(Action::TaskDelete { job, task, condition }).await?;
    Ok(Answer::empty(200))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lote_shared::model::Span;

    fn task(command_bytes: usize) -> NewTask {
        let body = serde_json::json!({"id": "t", "commandLine": "x".repeat(command_bytes)});
        let add = requests::add(body.to_string().as_bytes()).unwrap();
        assert_eq!(add.0.max_wall_clock, Span::UNLIMITED);
        add
    }

    #[test]
    fn parts_keep_their_order_and_fit_into_commands() {
        let check = |sizes: &[usize], expected: &[usize]| {
            let tasks: Vec<_> = sizes.iter().map(|size| task(*size)).enumerate().collect();
            let parts = split(tasks, sizes.iter().sum::<usize>() as u64);
            assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), expected, "{sizes:?}");
            let order: Vec<usize> = parts.iter().flatten().map(|(place, _)| *place).collect();
            assert_eq!(order, (0..sizes.len()).collect::<Vec<_>>());
            for part in parts {
                let tasks: Vec<NewTask> = part.into_iter().map(|(_, task)| task).collect();
                let fits = codec::encode(1, &tasks).unwrap().len() as u64 + COMMAND_OVERHEAD <= SIZE_MAX;
                assert!(fits || tasks.len() == 1);
            }
        };
        check(&[], &[]);
        check(&[10; 100], &[100]);
        check(&[2_000; 100], &[100]);
        check(&[10_000; 100], &[26, 26, 26, 22]);
        check(&[300_000, 10, 300_000], &[1, 1, 1]);
        check(&[10, 300_000, 10], &[1, 1, 1]);
    }
}
