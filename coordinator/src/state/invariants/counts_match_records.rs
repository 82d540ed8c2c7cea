//! Every count and index equals what a walk over the records gives: task counts and queues of jobs, loads of nodes,
//! node counts of pools, active jobs of accounts, deadlines of retries.

use super::super::cluster::Cluster;
use super::super::index::{Deadline, Hold, Manager, NodeCounts, NodeLoad, Shown, Standing};
use super::super::jobs::counts_as_active;
use super::super::records::{ChoreKind, ChorePlace, TaskCounts};
use super::{Before, ensure};
use lote_shared::model::{AccountId, JobKey, NodeKey, PoolKey, TaskKey};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default, PartialEq, Eq)]
struct OfJob {
    counts: TaskCounts,
    tasks: BTreeSet<TaskKey>,
    ready: BTreeMap<u16, BTreeSet<TaskKey>>,
    held: BTreeSet<TaskKey>,
    live: u64,
    used_slots: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct OfChores {
    chores: BTreeMap<(ChoreKind, NodeKey), TaskKey>,
    open: BTreeSet<TaskKey>,
    owed: BTreeSet<NodeKey>,
}

pub(super) fn check(_: &Before, cluster: &Cluster) -> Result<(), String> {
    let mut jobs: BTreeMap<JobKey, OfJob> = BTreeMap::new();
    let mut loads: BTreeMap<NodeKey, (NodeLoad, BTreeSet<TaskKey>)> = BTreeMap::new();
    let mut due = BTreeSet::new();
    let mut total = 0;
    for task in cluster.all_tasks() {
        total += 1;
        let standing = Standing::of(task);
        let job = jobs.entry(task.job).or_default();
        count(&mut job.counts, &standing);
        job.tasks.insert(task.key);
        let manager = cluster.jobs.get(&task.job).and_then(|job| job.manager);
        if let Some(manager) = manager.filter(|manager| manager.task == task.key) {
            let expected = Manager { task: task.key, ready: standing.ready, began: standing.began };
            ensure(manager == expected, || format!("job {} has {manager:?}, not {expected:?}", task.job))?;
        } else if standing.ready {
            job.ready.entry(task.slots).or_default().insert(task.key);
        }
        due.extend(standing.due.map(|at| (at, Deadline::Retry(task.key))));
        let Some((node, hold)) = standing.held else { continue };
        job.held.insert(task.key);
        let (load, held) = loads.entry(node).or_default();
        held.insert(task.key);
        let slots = u32::from(task.slots);
        match hold {
            Hold::Assigned => {
                (load.assigned, load.assigned_slots) = (load.assigned + 1, load.assigned_slots + slots)
            }
            Hold::Running => {
                (load.running, load.running_slots) = (load.running + 1, load.running_slots + slots)
            }
            Hold::Closing => load.closing += 1,
        }
        if hold != Hold::Closing {
            job.live += 1;
            job.used_slots += u64::from(task.slots);
        }
    }
    ensure(total == cluster.tasks.len(), || format!("{total} tasks, counted {}", cluster.tasks.len()))?;
    for (key, job) in &cluster.jobs {
        let expected = jobs.remove(key).unwrap_or_default();
        let found = OfJob {
            counts: job.record.counts,
            tasks: job.tasks.values().copied().collect(),
            ready: job.ready.clone(),
            held: job.held.clone(),
            live: job.live,
            used_slots: job.used_slots,
        };
        ensure(found == expected, || format!("job {key} has {found:?}, its tasks give {expected:?}"))?;
        ensure(job.queued == job.queue_entry(), || format!("job {key} is queued as {:?}", job.queued))?;
    }
    ensure(jobs.is_empty(), || format!("tasks of jobs that do not exist: {jobs:?}"))?;
    for (key, node) in &cluster.nodes {
        let expected = loads.remove(key).unwrap_or_default();
        let found = (node.load, node.held.clone());
        ensure(found == expected, || format!("node {key} has {found:?}, tasks give {expected:?}"))?;
    }
    ensure(loads.is_empty(), || format!("tasks held by nodes that do not exist: {loads:?}"))?;
    due.extend(cluster.all_chores().filter_map(|chore| match chore.place {
        ChorePlace::Waiting { until } => Some((until, Deadline::Retry(chore.key))),
        _ => None,
    }));
    check_chores(cluster)?;
    let retries: BTreeSet<_> =
        cluster.deadlines.iter().filter(|(_, what)| matches!(what, Deadline::Retry(_))).copied().collect();
    ensure(retries == due, || format!("retries due {retries:?}, tasks give {due:?}"))?;
    check_nodes(cluster)?;
    check_quota_counts(cluster)
}

/// What jobs and nodes know of preparations and releases.
fn check_chores(cluster: &Cluster) -> Result<(), String> {
    let mut of_jobs: BTreeMap<JobKey, OfChores> = BTreeMap::new();
    let mut of_nodes: BTreeMap<NodeKey, BTreeSet<TaskKey>> = BTreeMap::new();
    for chore in cluster.all_chores() {
        let job = of_jobs.entry(chore.job).or_default();
        job.chores.insert((chore.kind, chore.node), chore.key);
        if chore.owes_release {
            job.owed.insert(chore.node);
        }
        if chore.is_open() {
            job.open.insert(chore.key);
            of_nodes.entry(chore.node).or_default().insert(chore.key);
        }
    }
    for (key, job) in &cluster.jobs {
        let (chores, open) = (job.chores.clone(), job.open_chores.clone());
        let found = OfChores { chores, open, owed: job.owed_releases.clone() };
        let expected = of_jobs.remove(key).unwrap_or_default();
        ensure(found == expected, || format!("job {key} has {found:?}, its chores give {expected:?}"))?;
    }
    ensure(of_jobs.is_empty(), || format!("chores of jobs that do not exist: {of_jobs:?}"))?;
    for (key, node) in &cluster.nodes {
        let expected = of_nodes.remove(key).unwrap_or_default();
        ensure(node.open_chores == expected, || {
            format!("node {key} has {:?}, chores give {expected:?}", node.open_chores)
        })?;
    }
    ensure(of_nodes.is_empty(), || format!("chores open on nodes that do not exist: {of_nodes:?}"))
}

fn count(counts: &mut TaskCounts, standing: &Standing) {
    let slots = u64::from(standing.slots);
    let (tasks, needs) = match standing.shown {
        Shown::Active => (&mut counts.active, &mut counts.active_slots),
        Shown::Running => (&mut counts.running, &mut counts.running_slots),
        Shown::Succeeded => (&mut counts.succeeded, &mut counts.succeeded_slots),
        Shown::Failed => (&mut counts.failed, &mut counts.failed_slots),
    };
    *tasks += 1;
    *needs += slots;
}

fn check_nodes(cluster: &Cluster) -> Result<(), String> {
    let mut pools: BTreeMap<PoolKey, (NodeCounts, [u32; 2], BTreeSet<NodeKey>)> = BTreeMap::new();
    for node in cluster.all_nodes() {
        let (counts, leaving, nodes) = pools.entry(node.pool).or_default();
        counts.shift(node.dedicated, node.state, 1);
        leaving[usize::from(!node.dedicated)] += u32::from(node.leaving.is_some());
        nodes.insert(node.key);
    }
    for (key, pool) in &cluster.pools {
        let expected = pools.remove(key).unwrap_or_default();
        let found = (pool.counts, pool.leaving, pool.nodes.clone());
        ensure(found == expected, || format!("pool {key} has {found:?}, its nodes give {expected:?}"))?;
        let listed: BTreeSet<_> = pool.in_order.values().copied().collect();
        ensure(listed == pool.nodes, || format!("pool {key} lists {listed:?} of {:?}", pool.nodes))?;
    }
    ensure(pools.is_empty(), || format!("nodes of pools that do not exist: {pools:?}"))
}

fn check_quota_counts(cluster: &Cluster) -> Result<(), String> {
    let mut active: BTreeMap<AccountId, u32> = BTreeMap::new();
    for job in cluster.all_jobs().filter(|job| counts_as_active(job)) {
        *active.entry(job.account).or_default() += 1;
    }
    for schedule in cluster.schedules.values().filter(|schedule| schedule.record.is_counted()) {
        *active.entry(schedule.record.account).or_default() += 1;
    }
    for (id, account) in &cluster.accounts {
        let expected = active.remove(id).unwrap_or_default();
        let found = account.jobs_active;
        ensure(found == expected, || format!("account {id} counts {found} active jobs, has {expected}"))?;
    }
    Ok(())
}
