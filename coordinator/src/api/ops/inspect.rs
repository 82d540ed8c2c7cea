//! `/lote/inspect/…`: why a task waits or what became of its attempts, how a pool's group is doing, what a node holds.
//! For `lote inspect`; signed like a Batch request.
//!
//! The reasons are the state's ([`Cluster::explain_task`]); here they only get the names that people know.

use super::status::Watch;
use crate::api::batch::{self, BatchApi};
use crate::state::query::WaitReason;
use crate::state::{
    Cluster, Ending, PAST_ATTEMPTS_MAX, PastAttempt, PastOutcome, ROW_VERSION, TaskPlace, TaskRecord, keys,
};
use actix_web::{HttpRequest, HttpResponse, web};
use lote_shared::model::{AccountId, Attempt, JobId, NodeKey, PoolId, TaskId, TaskResult};
use lote_shared::protocol::codec;
use serde_json::{Value, json};

/// Attempts of a node that are shown.
const HELD_MAX: usize = 100;
/// Longest row of a past attempt that is believed.
const PAST_BYTES_MAX: u64 = 64 * 1024;

/// Registers the pages; the data of [`super::status::service`] must be there too.
pub fn service(config: &mut web::ServiceConfig) {
    config
        .route("/lote/inspect/tasks/{job}/{task}", web::get().to(task))
        .route("/lote/inspect/pools/{pool}", web::get().to(pool))
        .route("/lote/inspect/nodes/{pool}/{node}", web::get().to(node));
}

fn not_found(what: &str, name: &str) -> HttpResponse {
    let message = format!("there is no {what} `{name}`");
    HttpResponse::NotFound().json(json!({ "code": "NotFound", "message": { "value": message } }))
}

async fn task(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    watch: web::Data<Watch>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    let account = match batch::admit(&request, &api) {
        Ok(account) => account,
        Err(refusal) => return *refusal,
    };
    let (job, task) = path.into_inner();
    let found = watch.engine.read(|cluster| {
        let job = cluster.job_by_id(account, &JobId::new(&job).ok()?)?;
        let task = cluster.task_by_id(job.key, &TaskId::new(&task).ok()?)?;
        Some((of_task(cluster, task), latest(cluster, task), task.key, task.attempt))
    });
    let Some((mut body, latest, key, attempt)) = found else {
        return not_found("task", &format!("{job}/{task}"));
    };
    let first = attempt.0.saturating_sub(PAST_ATTEMPTS_MAX).max(1);
    let mut attempts = Vec::new();
    for number in first..attempt.0 {
        // An attempt that was asked back unstarted has no row, and one that is being overwritten has another's.
        let row = match watch.engine.cold(&keys::past_attempt(account, key, Attempt(number))) {
            Ok(row) => row,
            Err(error) => {
                return HttpResponse::InternalServerError()
                    .content_type("text/plain")
                    .body(format!("{error}\n"));
            }
        };
        let past = row.and_then(|row| codec::decode::<PastAttempt>(ROW_VERSION, &row, PAST_BYTES_MAX).ok());
        attempts.extend(past.filter(|past| past.attempt.0 == number).map(|past| of_past(&past)));
    }
    attempts.extend(latest);
    body["attempts"] = json!(attempts);
    body["attemptsGiven"] = json!(attempt.0);
    HttpResponse::Ok().json(body)
}

fn node_name(cluster: &Cluster, key: NodeKey) -> String {
    let here = cluster.node(key).map(|node| node.id.clone());
    here.or_else(|| cluster.departed_node(key).map(|node| node.id.clone())).unwrap_or_else(|| key.to_string())
}

/// The reason with the node's name in place of its number.
fn reason(cluster: &Cluster, reason: &WaitReason) -> String {
    match reason {
        WaitReason::Assigned { node } => {
            format!("node {} has it and will start it", node_name(cluster, *node))
        }
        WaitReason::PreviousRunEnding { node } => {
            let node = node_name(cluster, *node);
            format!("node {node} has not confirmed that its previous run has ended")
        }
        other => other.to_string(),
    }
}

fn of_task(cluster: &Cluster, task: &TaskRecord) -> Value {
    let job = cluster.job(task.job);
    json!({
        "job": job.map(|job| job.id.to_string()),
        "jobState": job.map(|job| job.state.as_str()),
        "pool": job.map(|job| job.pool.to_string()),
        "task": task.id.to_string(),
        "state": task.state().as_str(),
        "waitsBecause": cluster.explain_task(task.key).map(|why| reason(cluster, &why)),
        "requiredSlots": task.slots,
        "created": task.created.to_string(),
        "stateChanged": task.state_changed.to_string(),
        "retries": task.retry_count,
        "requeues": task.requeue_count,
        "failure": task.failure.as_ref().map(|failure| format!("{}: {}", failure.code, failure.message)),
    })
}

/// The latest attempt as far as it is open or ended the task; what ended otherwise has a row.
fn latest(cluster: &Cluster, task: &TaskRecord) -> Option<Value> {
    let outcome = match (task.place, task.ending) {
        (TaskPlace::Ready | TaskPlace::Waiting { .. } | TaskPlace::Dependent, Some(Ending::Closed)) => {
            "its end is not confirmed"
        }
        (TaskPlace::Ready | TaskPlace::Waiting { .. } | TaskPlace::Dependent, _) => return None,
        (TaskPlace::Assigned { .. } | TaskPlace::Preparing { launched: true, .. }, _) => {
            "given to the node, not started"
        }
        (TaskPlace::Preparing { .. }, _) => "waits for the job's preparation on the node",
        (TaskPlace::Running { .. }, None) => "running",
        (TaskPlace::Running { .. }, Some(_)) => "running, asked to end",
        (TaskPlace::Completed { result: TaskResult::Success }, _) => "success",
        (TaskPlace::Completed { result: TaskResult::Failure }, _) => "failure",
    };
    let node = task.last_node?;
    let started = !matches!(task.place, TaskPlace::Assigned { .. } | TaskPlace::Preparing { .. });
    Some(json!({
        "attempt": task.attempt.0,
        "node": node_name(cluster, node),
        "started": task.started.filter(|_| started).map(|at| at.to_string()),
        "ended": task.ended.filter(|_| started).map(|at| at.to_string()),
        "outcome": outcome,
        "exitCode": task.exit_code,
    }))
}

fn of_past(past: &PastAttempt) -> Value {
    let (outcome, exit_code) = match &past.outcome {
        PastOutcome::Exited { exit_code } => ("ended by itself, retried".to_owned(), Some(*exit_code)),
        PastOutcome::Killed => ("ended on request, given out again".to_owned(), None),
        PastOutcome::Lost { reason } => (format!("lost by its node: {reason}"), None),
        PastOutcome::HostLost => ("its host was lost or restarted".to_owned(), None),
    };
    json!({
        "attempt": past.attempt.0,
        "node": past.node,
        "started": past.started.map(|at| at.to_string()),
        "ended": past.ended.to_string(),
        "outcome": outcome,
        "exitCode": exit_code,
    })
}

async fn pool(
    request: HttpRequest,
    path: web::Path<String>,
    watch: web::Data<Watch>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    let account = match batch::admit(&request, &api) {
        Ok(account) => account,
        Err(refusal) => return *refusal,
    };
    let groups = watch.tree.inspect().await;
    let found = watch.engine.read(|cluster| {
        let pool = cluster.pool_by_id(account, &PoolId::new(&path).ok()?)?;
        let group = groups.iter().find(|group| group.pool == pool.key.0);
        Some((of_pool(cluster, pool), group.cloned()))
    });
    let Some((mut body, group)) = found else { return not_found("pool", &path) };
    body["group"] = json!(group.map(|group| json!({
        "generation": group.generation,
        "restartsLastMinute": group.restarts,
        "lastFailure": group.last_failure,
        "waitsForBackOff": group.waiting,
        "nodesAsking": group.dispatcher.as_ref().map(|status| status.nodes),
        "proposalsInFlight": group.dispatcher.as_ref().map(|status| status.proposals_in_flight),
        "assignedByThisGeneration": group.dispatcher.as_ref().map(|status| status.assigned),
    })));
    HttpResponse::Ok().json(body)
}

fn of_pool(cluster: &Cluster, pool: &crate::state::PoolRecord) -> Value {
    let nodes = cluster.nodes_of(pool.key, None).map(|node| {
        let load = cluster.node_load(node.key);
        json!({
            "node": node.id,
            "state": node.state.as_str(),
            "host": cluster.host(node.host).map(|host| host.name.clone()),
            "slots": node.slots,
            "running": load.running,
            "runningSlots": load.running_slots,
            "notStarted": load.assigned,
            "notStartedSlots": load.assigned_slots,
            "ending": load.closing,
            "takesTasks": cluster.node_accepts(node.key),
        })
    });
    let ready = cluster.pool_ready(pool.key);
    let ready = ready.map(|view| {
        view.jobs_by_use().flat_map(|job| view.tasks(job.job).map(|(_, tasks)| tasks.len())).sum::<usize>()
    });
    json!({
        "pool": pool.id.to_string(),
        "state": pool.state.as_str(),
        "allocation": pool.allocation.as_str(),
        "target": pool.target_dedicated.saturating_add(pool.target_low_priority),
        "resizeErrors": pool.resize_errors.iter().map(|error| format!("{error:?}")).collect::<Vec<_>>(),
        "tasksReady": ready,
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

async fn node(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    watch: web::Data<Watch>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    let account = match batch::admit(&request, &api) {
        Ok(account) => account,
        Err(refusal) => return *refusal,
    };
    let (pool, name) = path.into_inner();
    match watch.engine.read(|cluster| of_node(cluster, account, &pool, &name)) {
        Some(body) => HttpResponse::Ok().json(body),
        None => not_found("node", &format!("{pool}/{name}")),
    }
}

fn of_node(cluster: &Cluster, account: AccountId, pool: &str, name: &str) -> Option<Value> {
    let pool = cluster.pool_by_id(account, &PoolId::new(pool).ok()?)?;
    let node = cluster.node_by_id(pool.key, name)?;
    let host = cluster.host(node.host);
    let held = cluster.attempts_on(node.key).take(HELD_MAX).filter_map(|held| {
        let task = cluster.task(held.attempt.task)?;
        Some(json!({
            "job": cluster.job(task.job).map(|job| job.id.to_string()),
            "task": task.id.to_string(),
            "attempt": held.attempt.attempt.0,
            "slots": held.slots,
            "started": held.started,
            "ending": held.ending.map(|ending| format!("{ending:?}").to_lowercase()),
        }))
    });
    Some(json!({
        "pool": pool.id.to_string(),
        "node": node.id,
        "state": node.state.as_str(),
        "stateChanged": node.state_changed.to_string(),
        "host": host.map(|host| host.name.clone()),
        "peer": host.map(|host| host.peer.clone()),
        "slots": node.slots,
        "takesTasks": cluster.node_accepts(node.key),
        "leaving": node.leaving.is_some(),
        "errors": node.errors.iter().map(|error| format!("{}: {}", error.code, error.message)).collect::<Vec<_>>(),
        "tasksRun": node.tasks_run,
        "tasksSucceeded": node.tasks_succeeded,
        "holds": held.collect::<Vec<_>>(),
    }))
}
