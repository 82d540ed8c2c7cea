//! Looking things up in the state for answers: under the read lock, copying no more than a page.
//!
//! Lists come in slices. A slice ends when it has what was asked for, or when it has looked at [`SCAN_MAX`] records,
//! so that a filter that hardly anything passes never holds the lock for long.

use super::errors::{Code, Error};
use super::views::{
    ChoreView, JobView, NodeView, Place, PoolView, PreparedView, RecentView, ScheduleView, TaskView,
};
use crate::api::odata::{Filter, Value};
use crate::state::{
    ApplicationRecord, ChorePlace, ChoreRecord, Cluster, JobRecord, NodeCounts, NodeRecord, PoolRecord,
    ScheduleRecord, TaskPlace, TaskRecord,
};
use lote_shared::model::{
    AccountId, ApplicationId, JobExtra, JobId, JobKey, NodeKey, PoolId, PoolKey, ScheduleId, ScheduleKey,
    TaskId, TaskKey, Timestamp,
};

/// Records looked at under one lock.
pub const SCAN_MAX: usize = 4_096;

/// Part of a list, and how it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice<T> {
    pub items: Vec<T>,
    /// Position of the last record looked at, if there may be more behind it.
    pub next: Option<String>,
}

impl<T> Slice<T> {
    pub fn empty() -> Slice<T> {
        Slice { items: Vec::new(), next: None }
    }
}

/// Takes records one by one until enough passed or enough were looked at.
fn slice<'a, R: 'a, T>(
    records: impl Iterator<Item = &'a R>,
    most: usize,
    passes: impl Fn(&R) -> bool,
    position: impl Fn(&R) -> String,
    mut view: impl FnMut(&R) -> Option<T>,
) -> Slice<T> {
    let mut items = Vec::new();
    let mut last: Option<&R> = None;
    let mut records = records.peekable();
    let mut looked_at = 0;
    while items.len() < most && looked_at < SCAN_MAX {
        let Some(record) = records.next() else { break };
        looked_at += 1;
        last = Some(record);
        if passes(record) {
            items.extend(view(record));
        }
    }
    let next = if records.peek().is_some() { last.map(position) } else { None };
    Slice { items, next }
}

/// The account of a name, without regard to case, and its keys.
pub fn account(cluster: &Cluster, name: &str) -> Option<(AccountId, Vec<Vec<u8>>)> {
    let (id, record) = cluster.account_by_name(&name.to_ascii_lowercase())?;
    Some((id, record.keys.clone()))
}

pub fn pool_record<'c>(cluster: &'c Cluster, account: AccountId, id: &str) -> Result<&'c PoolRecord, Error> {
    // What cannot be a name names nothing.
    let id = PoolId::new(id).map_err(|_| Code::PoolNotFound)?;
    Ok(cluster.pool_by_id(account, &id).ok_or(Code::PoolNotFound)?)
}

fn pool_view(cluster: &Cluster, record: &PoolRecord) -> PoolView {
    let counts = cluster.node_counts(record.key);
    PoolView {
        record: record.clone(),
        cold: cluster.pool_cold(record.key).cloned().unwrap_or_default(),
        extras: cluster.pool_extras(record.key).to_vec(),
        current_dedicated: counts.total(true),
        current_low_priority: counts.total(false),
    }
}

pub fn pool(cluster: &Cluster, account: AccountId, id: &str) -> Result<PoolView, Error> {
    Ok(pool_view(cluster, pool_record(cluster, account, id)?))
}

fn pool_member<'a>(record: &'a PoolRecord, path: &str) -> Value<'a> {
    match path {
        "id" => Value::Text(record.id.as_str()),
        "state" => Value::Text(record.state.as_str()),
        "stateTransitionTime" => Value::Time(record.state_changed),
        "allocationState" => Value::Text(record.allocation.as_str()),
        "allocationStateTransitionTime" => Value::Time(record.allocation_changed),
        "creationTime" => Value::Time(record.created),
        "lastModified" => Value::Time(record.version.modified),
        "enableAutoScale" => Value::Boolean(false),
        "vmSize" => Value::Text(&record.vm_size),
        "enableInterNodeCommunication" => Value::Boolean(record.inter_node_communication),
        _ => Value::Absent,
    }
}

/// Where in a list of pools; `Err` if the text is none of our positions.
fn pool_position(after: Option<&str>) -> Result<Option<PoolKey>, Error> {
    after.map(|text| text.parse().map(PoolKey).map_err(|_| foreign_token())).transpose()
}

/// Applications with a package, by id.
pub fn applications(
    cluster: &Cluster,
    account: AccountId,
    after: Option<&str>,
    most: usize,
) -> Result<Slice<ApplicationRecord>, Error> {
    let after = after.map(|text| ApplicationId::new(text).map_err(|_| foreign_token())).transpose()?;
    let rest =
        cluster.applications(account).filter(|record| after.as_ref().is_none_or(|after| record.id > *after));
    let usable = rest.filter(|record| !record.packages.is_empty());
    Ok(slice(usable, most, |_| true, |record| record.id.to_string(), |record| Some(record.clone())))
}

pub fn application(cluster: &Cluster, account: AccountId, id: &str) -> Result<ApplicationRecord, Error> {
    let id = ApplicationId::new(id).map_err(|_| Code::ApplicationNotFound)?;
    let record = cluster.application(account, &id).filter(|record| !record.packages.is_empty());
    Ok(record.cloned().ok_or(Code::ApplicationNotFound)?)
}

fn foreign_token() -> Error {
    Error::query(Code::InvalidQueryParameterValue, "$skiptoken", "", "it was not made by this service")
}

/// Pools in the order of creation.
pub fn pools(
    cluster: &Cluster,
    account: AccountId,
    after: Option<&str>,
    most: usize,
    filter: Option<&Filter>,
) -> Result<Slice<PoolView>, Error> {
    let after = pool_position(after)?;
    Ok(slice(
        cluster.pools(account, after),
        most,
        |record| filter.is_none_or(|filter| filter.matches(&|path: &str| pool_member(record, path))),
        |record| record.key.to_string(),
        |record| Some(pool_view(cluster, record)),
    ))
}

/// Counts of nodes by pool, in the order of creation.
pub fn node_counts(
    cluster: &Cluster,
    account: AccountId,
    after: Option<&str>,
    most: usize,
    filter: Option<&Filter>,
) -> Result<Slice<(PoolId, NodeCounts)>, Error> {
    let after = pool_position(after)?;
    let member = |record: &PoolRecord, filter: &Filter| {
        filter.matches(&|path: &str| match path {
            "poolId" => Value::Text(record.id.as_str()),
            _ => Value::Absent,
        })
    };
    Ok(slice(
        cluster.pools(account, after),
        most,
        |record| filter.is_none_or(|filter| member(record, filter)),
        |record| record.key.to_string(),
        |record| Some((record.id.clone(), cluster.node_counts(record.key))),
    ))
}

pub fn node_record<'c>(
    cluster: &'c Cluster,
    account: AccountId,
    pool: &str,
    id: &str,
) -> Result<(&'c PoolRecord, &'c NodeRecord), Error> {
    let pool = pool_record(cluster, account, pool)?;
    Ok((pool, cluster.node_by_id(pool.key, id).ok_or(Code::NodeNotFound)?))
}

fn node_view(cluster: &Cluster, pool: &PoolRecord, record: &NodeRecord) -> NodeView {
    let load = cluster.node_load(record.key);
    let cold = cluster.pool_cold(pool.key);
    let host = cluster.host(record.host);
    let recent = record.recent.iter().filter_map(|recent| {
        let task = cluster.task(recent.task)?;
        Some(RecentView { job: cluster.job(task.job)?.id.clone(), record: task.clone() })
    });
    NodeView {
        record: record.clone(),
        pool: pool.id.clone(),
        vm_size: pool.vm_size.clone(),
        start_task: cold.and_then(|cold| cold.start_task.clone()),
        pool_echo: cold.map(|cold| cold.echo.clone()).unwrap_or_default(),
        running: load.running,
        running_slots: load.running_slots,
        recent: recent.collect(),
        address: host.map(|host| ip_address(&host.address)).unwrap_or_default(),
        software: host.map(|host| host.software.clone()).unwrap_or_default(),
    }
}

/// The address out of a host's, which may be written `address:port` or as a multiaddress.
fn ip_address(address: &str) -> String {
    if let Some(rest) = address.strip_prefix("/ip4/").or_else(|| address.strip_prefix("/ip6/")) {
        return rest.split('/').next().unwrap_or_default().to_owned();
    }
    match address.parse::<std::net::SocketAddr>() {
        Ok(socket) => socket.ip().to_string(),
        Err(_) => address.to_owned(),
    }
}

pub fn node(cluster: &Cluster, account: AccountId, pool: &str, id: &str) -> Result<NodeView, Error> {
    let (pool, record) = node_record(cluster, account, pool, id)?;
    Ok(node_view(cluster, pool, record))
}

fn node_member<'a>(record: &'a NodeRecord, path: &str) -> Value<'a> {
    let start = record.start_task.as_ref();
    match path {
        "state" => Value::Text(record.state.as_str()),
        "stateTransitionTime" => Value::Time(record.state_changed),
        "lastBootTime" => Value::Time(record.booted.unwrap_or(record.allocated)),
        "allocationTime" => Value::Time(record.allocated),
        "startTaskInfo/state" => Value::text(start.map(super::answers::node::start_task_state)),
        "startTaskInfo/startTime" => Value::time(start.map(|info| info.start_time)),
        "startTaskInfo/endTime" => Value::time(start.and_then(|info| info.end_time)),
        "startTaskInfo/exitCode" => Value::number(start.and_then(|info| info.exit_code)),
        "startTaskInfo/result" => {
            Value::text(start.and_then(|info| info.result).map(super::answers::result_text))
        }
        _ => Value::Absent,
    }
}

/// Nodes by allocation time, then id.
pub fn nodes(
    cluster: &Cluster,
    account: AccountId,
    pool: &str,
    after: Option<&str>,
    most: usize,
    filter: Option<&Filter>,
) -> Result<Slice<NodeView>, Error> {
    let pool = pool_record(cluster, account, pool)?;
    let position = |text: &str| {
        let (time, id) = text.split_once('/')?;
        Some((Timestamp(time.parse().ok()?), id.to_owned()))
    };
    let after = after.map(|text| position(text).ok_or_else(foreign_token)).transpose()?;
    Ok(slice(
        cluster.nodes_of(pool.key, after),
        most,
        |record| filter.is_none_or(|filter| filter.matches(&|path: &str| node_member(record, path))),
        |record| format!("{}/{}", record.allocated.0, record.id),
        |record| Some(node_view(cluster, pool, record)),
    ))
}

pub fn job_record<'c>(cluster: &'c Cluster, account: AccountId, id: &str) -> Result<&'c JobRecord, Error> {
    let id = JobId::new(id).map_err(|_| Code::JobNotFound)?;
    Ok(cluster.job_by_id(account, &id).ok_or(Code::JobNotFound)?)
}

fn job_view(cluster: &Cluster, record: &JobRecord) -> JobView {
    JobView {
        record: record.clone(),
        cold: cluster.job_cold(record.key).cloned().unwrap_or_default(),
        extras: cluster.job_extras(record.key).to_vec(),
    }
}

pub fn job(cluster: &Cluster, account: AccountId, id: &str) -> Result<JobView, Error> {
    Ok(job_view(cluster, job_record(cluster, account, id)?))
}

fn job_member<'a>(record: &'a JobRecord, path: &str) -> Value<'a> {
    match path {
        "id" => Value::Text(record.id.as_str()),
        "state" => Value::Text(record.state.as_str()),
        "stateTransitionTime" => Value::Time(record.state_changed),
        "creationTime" | "executionInfo/startTime" => Value::Time(record.created),
        "lastModified" => Value::Time(record.version.modified),
        "executionInfo/endTime" => Value::time(record.ended),
        "executionInfo/poolId" => Value::Text(record.pool.as_str()),
        _ => Value::Absent,
    }
}

/// Jobs by id.
pub fn jobs(
    cluster: &Cluster,
    account: AccountId,
    after: Option<&str>,
    most: usize,
    filter: Option<&Filter>,
) -> Result<Slice<JobView>, Error> {
    let after = after.map(|text| JobId::new(text).map_err(|_| foreign_token())).transpose()?;
    Ok(slice(
        cluster.jobs(account, after.as_ref()),
        most,
        |record| filter.is_none_or(|filter| filter.matches(&|path: &str| job_member(record, path))),
        |record| record.id.to_string(),
        |record| Some(job_view(cluster, record)),
    ))
}

/// Jobs of a schedule, in the order of making.
pub fn jobs_of_schedule(
    cluster: &Cluster,
    account: AccountId,
    schedule: &str,
    after: Option<&str>,
    most: usize,
    filter: Option<&Filter>,
) -> Result<Slice<JobView>, Error> {
    let key = self::schedule(cluster, account, schedule)?.record.key;
    let after = after.map(|text| text.parse().map(JobKey).map_err(|_| foreign_token())).transpose()?;
    Ok(slice(
        cluster.jobs_of_schedule(key, after),
        most,
        |record| filter.is_none_or(|filter| filter.matches(&|path: &str| job_member(record, path))),
        |record| record.key.to_string(),
        |record| Some(job_view(cluster, record)),
    ))
}

/// What a job's preparation and release did, by node.
pub fn prepared(
    cluster: &Cluster,
    account: AccountId,
    id: &str,
    after: Option<&str>,
    most: usize,
    filter: Option<&Filter>,
) -> Result<Slice<PreparedView>, Error> {
    let job = job_record(cluster, account, id)?;
    let extras = cluster.job_extras(job.key);
    let preparation = JobExtra::preparation(extras).ok_or(Code::JobPreparationTaskNotSpecified)?;
    let release = JobExtra::release(extras);
    let after = after.map(|text| text.parse().map(NodeKey).map_err(|_| foreign_token())).transpose()?;
    let view = |record: &ChoreRecord, task: &TaskId| ChoreView { record: record.clone(), task: task.clone() };
    let all: Vec<PreparedView> = cluster
        .prepared_nodes(job.key, after)
        .take(SCAN_MAX)
        .map(|(prepared, released)| PreparedView {
            job: job.id.clone(),
            preparation: view(prepared, &preparation.spec.id),
            release: released.zip(release).map(|(record, task)| view(record, &task.spec.id)),
        })
        .collect();
    Ok(slice(
        all.iter(),
        most,
        |one| filter.is_none_or(|filter| filter.matches(&|path: &str| prepared_member(one, path))),
        |one| one.preparation.record.node.to_string(),
        |one| Some(one.clone()),
    ))
}

fn prepared_member<'a>(prepared: &'a PreparedView, path: &str) -> Value<'a> {
    let record = &prepared.preparation.record;
    let (chore, member) = match path.split_once('/') {
        Some(("jobPreparationTaskExecutionInfo", member)) => (Some(record), member),
        Some(("jobReleaseTaskExecutionInfo", member)) => {
            (prepared.release.as_ref().map(|release| &release.record), member)
        }
        _ => (None, path),
    };
    match (member, chore) {
        ("poolId", None) => Value::Text(record.pool.as_str()),
        ("nodeId", None) => Value::Text(&record.node_id),
        ("state", Some(chore)) => Value::Text(if chore.is_open() { "running" } else { "completed" }),
        ("startTime", Some(chore)) => Value::Time(chore.started.unwrap_or(chore.given)),
        ("endTime", Some(chore)) => Value::time(chore.ended),
        ("exitCode", Some(chore)) => Value::number(chore.exit_code),
        ("result", Some(chore)) => Value::text(match chore.place {
            ChorePlace::Completed { result } => Some(super::answers::result_text(result)),
            _ => None,
        }),
        _ => Value::Absent,
    }
}

fn schedule_view(cluster: &Cluster, key: ScheduleKey) -> Option<ScheduleView> {
    let (record, cold) = cluster.schedule(key)?;
    let next_run = record.next_run(cluster.clock());
    let extras = cluster.schedule_extras(key).to_vec();
    Some(ScheduleView { record: record.clone(), cold: cold.clone(), extras, next_run })
}

pub fn schedule(cluster: &Cluster, account: AccountId, id: &str) -> Result<ScheduleView, Error> {
    let id = ScheduleId::new(id).map_err(|_| Code::JobScheduleNotFound)?;
    let key = cluster.schedule_by_id(account, &id).ok_or(Code::JobScheduleNotFound)?;
    Ok(schedule_view(cluster, key).ok_or(Code::JobScheduleNotFound)?)
}

fn schedule_member<'a>(record: &'a ScheduleRecord, path: &str) -> Value<'a> {
    match path {
        "id" => Value::Text(record.id.as_str()),
        "state" => Value::Text(record.state.as_str()),
        "stateTransitionTime" => Value::Time(record.state_changed),
        "creationTime" => Value::Time(record.created),
        "lastModified" => Value::Time(record.version.modified),
        _ => Value::Absent,
    }
}

/// Schedules by id.
pub fn schedules(
    cluster: &Cluster,
    account: AccountId,
    after: Option<&str>,
    most: usize,
    filter: Option<&Filter>,
) -> Result<Slice<ScheduleView>, Error> {
    let after = after.map(|text| ScheduleId::new(text).map_err(|_| foreign_token())).transpose()?;
    Ok(slice(
        cluster.schedules(account, after.as_ref()),
        most,
        |record| filter.is_none_or(|filter| filter.matches(&|path: &str| schedule_member(record, path))),
        |record| record.id.to_string(),
        |record| schedule_view(cluster, record.key),
    ))
}

fn task_view(cluster: &Cluster, job: &JobRecord, record: &TaskRecord) -> TaskView {
    TaskView {
        job: job.id.clone(),
        record: record.clone(),
        place: task_place(cluster, record),
        ties: cluster.task_ties(record).cloned(),
    }
}

/// Where the latest attempt runs or ran. A task that was never started has no place, even if a node has it.
fn task_place(cluster: &Cluster, record: &TaskRecord) -> Option<Place> {
    let key = record.last_node?;
    let never_started = record.started.is_none()
        && matches!(record.place, TaskPlace::Assigned { .. } | TaskPlace::Preparing { .. });
    if never_started {
        return None;
    }
    if let Some(node) = cluster.node(key) {
        let pool = cluster.pool(node.pool)?.id.clone();
        return Some(Place { pool, node: node.id.clone(), key: Some(key) });
    }
    let gone = cluster.departed_node(key)?;
    Some(Place { pool: gone.pool.clone(), node: gone.id.clone(), key: None })
}

pub fn task(cluster: &Cluster, account: AccountId, job: &str, id: &str) -> Result<TaskView, Error> {
    let job = job_record(cluster, account, job)?;
    let id = TaskId::new(id).map_err(|_| Code::TaskNotFound)?;
    let record = cluster.task_by_id(job.key, &id).ok_or(Code::TaskNotFound)?;
    Ok(task_view(cluster, job, record))
}

fn task_member<'a>(record: &'a TaskRecord, path: &str) -> Value<'a> {
    match path {
        "id" => Value::Text(record.id.as_str()),
        "state" => Value::Text(record.state().as_str()),
        "stateTransitionTime" => Value::Time(record.state_changed),
        "creationTime" => Value::Time(record.created),
        "lastModified" | "lastModifiedTime" => Value::Time(record.version.modified),
        "executionInfo/startTime" => Value::time(record.started),
        "executionInfo/endTime" => Value::time(record.ended),
        "executionInfo/exitCode" => Value::number(record.exit_code),
        "executionInfo/result" => {
            Value::text(super::answers::task::result(record).map(super::answers::result_text))
        }
        _ => Value::Absent,
    }
}

/// Whether the counts of a job say already that no task can pass the filter.
fn nothing_can_pass(job: &JobRecord, filter: &Filter) -> bool {
    let Some(states) = filter.pinned("state") else { return false };
    let counts = &job.counts;
    !states.iter().any(|state| match state.as_str() {
        "active" => counts.active > 0,
        // `preparing` counts as running.
        "running" | "preparing" => counts.running > 0,
        "completed" => counts.succeeded + counts.failed > 0,
        _ => false,
    })
}

/// Tasks of a job by id. The keys are for reading the cold parts.
pub fn tasks(
    cluster: &Cluster,
    account: AccountId,
    job: &str,
    after: Option<&str>,
    most: usize,
    filter: Option<&Filter>,
) -> Result<Slice<TaskView>, Error> {
    let job = job_record(cluster, account, job)?;
    let after = after.map(|text| TaskId::new(text).map_err(|_| foreign_token())).transpose()?;
    if filter.is_some_and(|filter| nothing_can_pass(job, filter)) {
        return Ok(Slice::empty());
    }
    Ok(slice(
        cluster.tasks_of(job.key, after.as_ref()),
        most,
        |record| filter.is_none_or(|filter| filter.matches(&|path: &str| task_member(record, path))),
        |record| record.id.to_string(),
        |record| Some(task_view(cluster, job, record)),
    ))
}

/// Tasks of the whole cluster by state: active, running, succeeded, failed.
pub fn task_totals(cluster: &Cluster) -> [u64; 4] {
    let mut totals = [0; 4];
    for job in cluster.all_jobs() {
        let counts = &job.counts;
        let parts = [counts.active, counts.running, counts.succeeded, counts.failed];
        totals.iter_mut().zip(parts).for_each(|(total, part)| *total += part);
    }
    totals
}

/// Keys by which the state names things inside; for callers that need nothing else.
pub fn job_key(cluster: &Cluster, account: AccountId, id: &str) -> Result<JobKey, Error> {
    Ok(job_record(cluster, account, id)?.key)
}

/// The key of a task's cold row.
pub fn cold_key(account: AccountId, task: TaskKey) -> Vec<u8> {
    crate::state::keys::task_cold(account, task)
}
