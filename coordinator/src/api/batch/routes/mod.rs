//! The handlers: one function per operation, a file per resource.

mod applications;
mod files;
mod jobs;
mod nodes;
mod pools;
mod schedules;
mod tasks;

use super::call::Call;
use super::errors::Error;
use super::json::{Object, Select};
use super::lookup::Slice;
use super::operations::Operation;
use super::response::{Answer, row};
use crate::api::odata::{Field, Kind, Operators, page};
use crate::clock;
use crate::state::{Cluster, Outcome};
use std::time::Duration;

/// Most items of a page.
const PAGE_MAX: usize = 1_000;
/// After so long a page goes out with what it has.
const PAGE_WAIT: Duration = Duration::from_secs(10);

/// Does what was asked. `success` is the status of the table.
pub async fn run(operation: Operation, call: &Call<'_>, success: u16) -> Result<Answer, Error> {
    let done = match operation {
        Operation::ApplicationList => applications::list(call).await,
        Operation::ApplicationGet => applications::get(call).await,
        Operation::PoolAdd => pools::add(call).await,
        Operation::PoolList => pools::list(call).await,
        Operation::PoolDelete => pools::delete(call).await,
        Operation::PoolExists => pools::exists(call).await,
        Operation::PoolGet => pools::get(call).await,
        Operation::PoolPatch => pools::patch(call).await,
        Operation::PoolResize => pools::resize(call).await,
        Operation::PoolStopResize => pools::stop_resize(call).await,
        Operation::PoolUpdateProperties => pools::update_properties(call).await,
        Operation::SupportedImages => pools::supported_images(call),
        Operation::NodeCounts => nodes::counts(call).await,
        Operation::NodeGet => nodes::get(call).await,
        Operation::NodeList => nodes::list(call).await,
        Operation::JobAdd => jobs::add(call).await,
        Operation::JobList => jobs::list(call).await,
        Operation::JobDelete => jobs::delete(call).await,
        Operation::JobGet => jobs::get(call).await,
        Operation::JobPatch => jobs::patch(call).await,
        Operation::JobPut => jobs::put(call).await,
        Operation::JobDisable => jobs::disable(call).await,
        Operation::JobEnable => jobs::enable(call).await,
        Operation::JobTerminate => jobs::terminate(call).await,
        Operation::JobTaskCounts => jobs::task_counts(call).await,
        Operation::JobPreparationStatus => jobs::preparation_status(call).await,
        Operation::ScheduleAdd => schedules::add(call).await,
        Operation::ScheduleList => schedules::list(call).await,
        Operation::ScheduleGet => schedules::get(call).await,
        Operation::ScheduleExists => schedules::exists(call).await,
        Operation::SchedulePatch => schedules::patch(call).await,
        Operation::SchedulePut => schedules::put(call).await,
        Operation::ScheduleDisable => schedules::disable(call).await,
        Operation::ScheduleEnable => schedules::enable(call).await,
        Operation::ScheduleTerminate => schedules::terminate(call).await,
        Operation::ScheduleDelete => schedules::delete(call).await,
        Operation::ScheduleJobs => schedules::jobs(call).await,
        Operation::TaskAdd => tasks::add(call).await,
        Operation::TaskList => tasks::list(call).await,
        Operation::TaskAddCollection => tasks::add_collection(call).await,
        Operation::TaskDelete => tasks::delete(call).await,
        Operation::TaskGet => tasks::get(call).await,
        Operation::TaskPut => tasks::put(call).await,
        Operation::TaskSubtasks => tasks::subtasks(call).await,
        Operation::TaskTerminate => tasks::terminate(call).await,
        Operation::TaskReactivate => tasks::reactivate(call).await,
        Operation::NodeFileDelete => files::delete(call, &files::of_node(call).await?).await,
        Operation::NodeFileGet => files::get(call, &files::of_node(call).await?).await,
        Operation::NodeFileProperties => files::properties(call, &files::of_node(call).await?).await,
        Operation::NodeFileList => files::list(call, &files::of_node(call).await?).await,
        Operation::TaskFileDelete => files::delete(call, &files::of_task(call).await?).await,
        Operation::TaskFileGet => files::get(call, &files::of_task(call).await?).await,
        Operation::TaskFileProperties => files::properties(call, &files::of_task(call).await?).await,
        Operation::TaskFileList => files::list(call, &files::of_task(call).await?).await,
    };
    let mut answer = done?;
    answer.status = success;
    Ok(answer)
}

/// A member that a list can be filtered by.
const fn field(path: &'static str, kind: Kind, operators: Operators) -> Field {
    Field { path, kind, operators }
}

/// The answer to a write: versions where the state gave one, and which resource it was.
fn written(outcome: &Outcome, resource: String) -> Answer {
    let answer = Answer::empty(200).header("dataserviceid", resource);
    match outcome {
        Outcome::Record(version) => answer.version(*version),
        _ => answer,
    }
}

/// The answer to a write that made a resource.
fn created(outcome: &Outcome, resource: String) -> Answer {
    written(outcome, resource.clone()).header("location", resource)
}

/// One resource as an answer.
fn element(call: &Call, fragment: &str, fill: impl FnOnce(&mut Object)) -> Answer {
    let select = call.query.select();
    Answer::json(
        200,
        row(select.as_ref(), |object| {
            object.text("odata.metadata", &format!("{}/$metadata#{fragment}", call.base));
            fill(object);
        }),
    )
}

/// Items of a list, and the position behind them if there may be more.
type Page<T> = (Vec<T>, Option<String>);

/// Fills a page, slice by slice.
async fn collect<T>(
    call: &Call<'_>,
    most: usize,
    take: impl Fn(&Cluster, Option<&str>, usize) -> Result<Slice<T>, Error>,
) -> Result<Page<T>, Error> {
    let wanted = call.query.max_results(most)?;
    let mut after = call.query.after()?;
    call.query.check_expand()?;
    call.api.engine.linearize().await?;
    let began = clock::monotonic();
    let mut items = Vec::new();
    loop {
        let slice = call.api.engine.read(|cluster| take(cluster, after.as_deref(), wanted - items.len()))?;
        items.extend(slice.items);
        after = slice.next;
        if after.is_none() || items.len() >= wanted || clock::monotonic().saturating_sub(began) > PAGE_WAIT {
            return Ok((items, after));
        }
        // Others on this thread get their turn, and so does whoever waits to apply.
        tokio::task::yield_now().await;
    }
}

/// A page as an answer.
fn page_answer<T>(
    call: &Call,
    fragment: &str,
    (items, next): Page<T>,
    write: impl Fn(&mut Object, &T),
) -> Answer {
    let select = call.query.select();
    let rows: Vec<Vec<u8>> =
        items.iter().map(|item| row(select.as_ref(), |object| write(object, item))).collect();
    list_answer(call, fragment, &rows, next)
}

fn list_answer(call: &Call, fragment: &str, rows: &[Vec<u8>], next: Option<String>) -> Answer {
    Answer::json(
        200,
        super::json::object(None::<&Select>, |object| {
            object.text("odata.metadata", &format!("{}/$metadata#{fragment}", call.base));
            object.rows("value", rows);
            if let Some(position) = next {
                object.text("odata.nextLink", &page::next_link(&call.address, &call.query.0, &position));
            }
        }),
    )
}
