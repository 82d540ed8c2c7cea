//! What a host is sent of attempts that were given to one of its nodes: shared parts once, the rest attempt by attempt.
//! Pure; whoever has the store adds the cold parts of tasks.

use crate::state::{ChoreKind, Cluster, TaskPlace, TaskRecord};
use lote_shared::model::{
    AccountId, AttemptRef, EnvironmentSetting, JobExtra, JobKey, NodeKey, Span, TaskSpec, task_directory,
};
use lote_shared::protocol::host::{JobPart, TaskChunk, TaskLaunch};
use std::collections::{BTreeMap, BTreeSet};

/// What attempts of one job share; its preparation's apart.
type Part = (JobKey, bool);

/// What stands in the state of one attempt, copied out under the read lock.
#[derive(Debug)]
pub struct Hot {
    pub launch: AttemptRef,
    pub account: AccountId,
    pub job: JobKey,
    /// Whether it is the job's preparation: that does not see where it itself lies.
    is_preparation: bool,
    slots: u16,
    wall_clock_ms: Option<u64>,
    retention_ms: Option<u64>,
    last_try: bool,
    /// Of a preparation or release; a task's is cold.
    pub spec: Option<TaskSpec>,
}

/// Attempts for one node, without the cold parts of tasks.
#[derive(Debug)]
pub struct Parcel {
    hot: Vec<Hot>,
    parts: BTreeMap<Part, JobPart>,
}

impl Parcel {
    /// Attempts that no longer stand, or may not start yet, are left out.
    pub fn of(cluster: &Cluster, attempts: &[AttemptRef]) -> Parcel {
        let hot: Vec<Hot> = attempts.iter().filter_map(|attempt| hot(cluster, *attempt)).collect();
        let jobs: BTreeSet<Part> = hot.iter().map(|one| (one.job, one.is_preparation)).collect();
        let part = |key: Part| Some((key, part(cluster, key.0, key.1)?));
        Parcel { hot, parts: jobs.into_iter().filter_map(part).collect() }
    }

    /// `spec` gives what is to be run; an attempt of which that is not known is left out.
    pub fn into_chunk(mut self, node: NodeKey, mut spec: impl FnMut(&Hot) -> Option<TaskSpec>) -> TaskChunk {
        let mut chunk = TaskChunk { node, jobs: Vec::new(), tasks: Vec::new() };
        let mut index: BTreeMap<Part, u32> = BTreeMap::new();
        for one in self.hot {
            let Some(spec) = spec(&one) else { continue };
            let part = (one.job, one.is_preparation);
            if let Some(job) = self.parts.remove(&part) {
                index.insert(part, chunk.jobs.len() as u32);
                chunk.jobs.push(job);
            }
            let Some(job) = index.get(&part).copied() else { continue };
            chunk.tasks.push(TaskLaunch {
                attempt: one.launch,
                job,
                slots: one.slots,
                wall_clock_ms: one.wall_clock_ms,
                retention_ms: one.retention_ms,
                last_try: one.last_try,
                spec,
            });
        }
        chunk
    }
}

/// What the attempts of a job share.
fn part(cluster: &Cluster, job: JobKey, is_preparation: bool) -> Option<JobPart> {
    let id = &cluster.job(job)?.id;
    let mut environment = cluster.job_cold(job)?.environment.clone();
    if let Some(preparation) = JobExtra::preparation(cluster.job_extras(job)).filter(|_| !is_preparation) {
        // The node knows where its root is, and puts it in.
        let directory = format!("$AZ_BATCH_NODE_ROOT_DIR/{}", task_directory(id, &preparation.spec.id));
        let working = format!("{directory}/wd");
        let names = ["AZ_BATCH_JOB_PREP_DIR", "AZ_BATCH_JOB_PREP_WORKING_DIR"];
        environment.retain(|setting| !names.contains(&setting.name.as_str()));
        let settings = names.into_iter().zip([directory, working]);
        environment.extend(settings.map(|(name, value)| EnvironmentSetting { name: name.to_owned(), value }));
    }
    Some(JobPart { job_id: id.to_string(), environment })
}

fn hot(cluster: &Cluster, attempt: AttemptRef) -> Option<Hot> {
    match cluster.task(attempt.task) {
        Some(task) => hot_task(task, attempt),
        None => hot_chore(cluster, attempt),
    }
}

fn hot_task(task: &TaskRecord, attempt: AttemptRef) -> Option<Hot> {
    let is_given =
        matches!(task.place, TaskPlace::Assigned { .. } | TaskPlace::Preparing { launched: true, .. });
    if task.attempt != attempt.attempt || !is_given {
        return None;
    }
    let retries = task.constraints.max_retry_count;
    Some(Hot {
        launch: attempt,
        account: task.account,
        job: task.job,
        is_preparation: false,
        slots: task.slots,
        wall_clock_ms: task.constraints.max_wall_clock.as_limit_ms(),
        retention_ms: task.constraints.retention.as_limit_ms(),
        last_try: retries >= 0 && task.retry_count >= retries.unsigned_abs(),
        spec: None,
    })
}

fn hot_chore(cluster: &Cluster, attempt: AttemptRef) -> Option<Hot> {
    let chore =
        cluster.chore(attempt.task).filter(|chore| chore.attempt == attempt.attempt && chore.is_out())?;
    let extras = cluster.job_extras(chore.job);
    let (spec, wall_clock, retention) = match chore.kind {
        // Tasks and the release may use what it left until the job is gone.
        ChoreKind::Preparation => {
            let task = JobExtra::preparation(extras)?;
            (task.spec.clone(), task.constraints.max_wall_clock, Span::UNLIMITED)
        }
        ChoreKind::Release => {
            let task = JobExtra::release(extras)?;
            (task.spec.clone(), task.max_wall_clock, task.retention)
        }
    };
    Some(Hot {
        launch: attempt,
        account: chore.account,
        job: chore.job,
        is_preparation: chore.kind == ChoreKind::Preparation,
        slots: 0,
        wall_clock_ms: wall_clock.as_limit_ms(),
        retention_ms: retention.as_limit_ms(),
        last_try: true,
        spec: Some(spec),
    })
}
