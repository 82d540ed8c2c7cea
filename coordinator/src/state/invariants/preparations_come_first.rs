//! A task of a job with a preparation that has to succeed first is given only to nodes where it did
//! (`task-execution.md` §11); what runs beside tasks belongs to a job, and runs on a node that is there.

use super::super::cluster::Cluster;
use super::super::records::{ChoreKind, ChorePlace, TaskPlace};
use super::{Before, ensure};
use lote_shared::model::{JobExtra, JobKey, NodeKey, TaskResult};
use std::collections::BTreeMap;

pub(super) fn check(_: &Before, cluster: &Cluster) -> Result<(), String> {
    let mut prepared: BTreeMap<(JobKey, NodeKey), ChorePlace> = BTreeMap::new();
    for chore in cluster.all_chores() {
        ensure(cluster.job(chore.job).is_some(), || format!("chore {} has no job", chore.key))?;
        ensure(!chore.is_open() || cluster.node(chore.node).is_some(), || {
            format!("chore {} is open on node {}, which is not there", chore.key, chore.node)
        })?;
        if chore.kind == ChoreKind::Preparation {
            prepared.insert((chore.job, chore.node), chore.place);
        }
    }
    for task in cluster.all_tasks() {
        let Some(preparation) = JobExtra::preparation(cluster.job_extras(task.job)) else { continue };
        let (TaskPlace::Assigned { node, .. }
        | TaskPlace::Running { node }
        | TaskPlace::Preparing { node, launched: true, .. }) = task.place
        else {
            continue;
        };
        let place = prepared.get(&(task.job, node));
        let succeeded = matches!(place, Some(ChorePlace::Completed { result: TaskResult::Success }));
        ensure(succeeded || !preparation.wait_for_success, || {
            format!("task {} is given to node {node}, whose preparation is {place:?}", task.key)
        })?;
    }
    Ok(())
}
