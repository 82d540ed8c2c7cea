//! Tasks that a job is made with: manager, preparation, release (`jobs-and-tasks.md` §9, `task-execution.md` §11, §12).

use super::Members;
use super::parts::{display_name, environment, name, output_files, resource_files, user_identity};
use super::task::{Constraints, constraints, extras as task_extras};
use crate::api::batch::errors::{Code, Error};
use lote_shared::model::{
    JobExtra, ManagerTask, PreparationTask, ReleaseTask, Span, TaskConstraints, TaskId, TaskSpec,
};

/// Longest release, and its default.
const RELEASE_MOST: Span = Span::from_secs(15 * 60);

/// Those that a job, or the jobs of a schedule, are to have.
pub fn extras(job: &mut Members) -> Result<Vec<JobExtra>, Error> {
    let mut extras = Vec::new();
    let manager = job.object("jobManagerTask").map(manager).transpose()?;
    let preparation = job.object("jobPreparationTask").map(preparation).transpose()?;
    let release = job.object("jobReleaseTask").map(release).transpose()?;
    if release.is_some() && preparation.is_none() {
        let reason = "a job with a release task needs a preparation task";
        return Err(Error::property(&job.path("jobReleaseTask"), "", reason));
    }
    let manages = manager.as_ref().map(|task| &task.spec.id);
    let prepares = preparation.as_ref().map(|task| &task.spec.id);
    let releases = release.as_ref().map(|task| &task.spec.id);
    if prepares.is_some() && prepares == manages {
        return Err(Code::TaskIdSameAsJobPreparationTask.into());
    }
    if releases.is_some() && (releases == manages || releases == prepares) {
        return Err(Code::TaskIdSameAsJobReleaseTask.into());
    }
    extras.extend(manager.map(|task| JobExtra::Manager(Box::new(task))));
    extras.extend(preparation.map(|task| JobExtra::Preparation(Box::new(task))));
    extras.extend(release.map(|task| JobExtra::Release(Box::new(task))));
    Ok(extras)
}

fn manager(mut task: Members) -> Result<ManagerTask, Error> {
    task.refuse_unbuilt(&["containerSettings"])?;
    let id = name(&mut task, "id", TaskId::new)?;
    let (max_wall_clock, retention, max_retry_count) = constraints(&mut task)?;
    let slots = task.within("requiredSlots", 1, u16::MAX.into())?;
    let (extras, echo) = task_extras(&mut task)?;
    let spec = TaskSpec { output_files: output_files(&mut task)?, echo, ..spec(&mut task, id)? };
    Ok(ManagerTask {
        spec,
        slots: slots.and_then(|slots| u16::try_from(slots).ok()).unwrap_or(1),
        max_wall_clock,
        retention,
        max_retry_count,
        kill_job_on_completion: task.boolean("killJobOnCompletion").unwrap_or(true),
        run_exclusive: task.boolean("runExclusive").unwrap_or(true),
        allow_low_priority_node: task.boolean("allowLowPriorityNode").unwrap_or(true),
        extras,
    })
}

fn preparation(mut task: Members) -> Result<PreparationTask, Error> {
    task.refuse_unbuilt(&["containerSettings"])?;
    let id = id_or(&mut task, "jobpreparation")?;
    let (max_wall_clock, retention, retries): Constraints = constraints(&mut task)?;
    let max_retry_count = retries.unwrap_or(0);
    Ok(PreparationTask {
        spec: spec(&mut task, id)?,
        constraints: TaskConstraints { max_wall_clock, retention, max_retry_count },
        wait_for_success: task.boolean("waitForSuccess").unwrap_or(true),
        rerun_on_reboot: task.boolean("rerunOnNodeRebootAfterSuccess").unwrap_or(true),
    })
}

fn release(mut task: Members) -> Result<ReleaseTask, Error> {
    task.refuse_unbuilt(&["containerSettings"])?;
    let id = id_or(&mut task, "jobrelease")?;
    let max_wall_clock = task.span("maxWallClockTime").unwrap_or(RELEASE_MOST);
    if max_wall_clock <= Span::default() || max_wall_clock > RELEASE_MOST {
        let reason = format!("it must be longer than nothing, and {RELEASE_MOST} at most");
        return Err(Error::property(&task.path("maxWallClockTime"), &max_wall_clock.to_string(), reason));
    }
    let retention = task.span("retentionTime").unwrap_or(TaskConstraints::DEFAULT_RETENTION);
    if retention < Span::default() {
        return Err(Error::property(&task.path("retentionTime"), &retention.to_string(), "it is negative"));
    }
    Ok(ReleaseTask { spec: spec(&mut task, id)?, max_wall_clock, retention })
}

fn id_or(task: &mut Members, default: &str) -> Result<TaskId, Error> {
    task.set_default("id", default.into());
    name(task, "id", TaskId::new)
}

/// What every task has.
fn spec(task: &mut Members, id: TaskId) -> Result<TaskSpec, Error> {
    Ok(TaskSpec {
        id,
        display_name: display_name(task)?,
        command_line: task.required_text("commandLine")?,
        resource_files: resource_files(task)?,
        output_files: Vec::new(),
        environment: environment(task, "environmentSettings")?,
        user_identity: user_identity(task)?,
        affinity_id: String::new(),
        echo: String::new(),
    })
}

#[cfg(test)]
mod tests;
