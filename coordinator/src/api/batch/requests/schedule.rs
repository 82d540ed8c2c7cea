//! Job schedules: add, patch, put (`jobs-and-tasks.md` §10).

use super::job::NewJob;
use super::parts::{display_name, metadata, name};
use super::{Members, body, job};
use crate::api::batch::errors::Error;
use crate::state::command::SchedulePatch;
use lote_shared::model::{JobExtra, JobId, Recurrence, ScheduleCold, ScheduleId, ScheduleSpec, Span};

/// Shortest window and interval.
const SHORTEST: Span = Span::from_secs(60);

/// `POST /jobschedules`.
pub fn add(bytes: &[u8]) -> Result<(ScheduleSpec, Vec<JobExtra>), Error> {
    let mut schedule = body(bytes, "BatchJobScheduleCreateOptions")?;
    let id = name(&mut schedule, "id", ScheduleId::new)?;
    let (job, extras) = specification(&mut schedule)?.ok_or_else(|| Error::missing("jobSpecification"))?;
    let spec = ScheduleSpec {
        recurrence: recurrence(&mut schedule)?.unwrap_or_default(),
        cold: ScheduleCold {
            display_name: display_name(&mut schedule)?,
            metadata: metadata(&mut schedule)?,
            job,
        },
        id,
    };
    Ok((spec, extras))
}

/// What is to change, and what the jobs to come have beyond their spec, if that is among it.
pub type Patch = (SchedulePatch, Vec<JobExtra>);

/// `PATCH /jobschedules/{id}`: of what is named, each element whole.
pub fn patch(bytes: &[u8]) -> Result<Patch, Error> {
    let mut schedule = body(bytes, "BatchJobScheduleUpdateOptions")?;
    let new_metadata = schedule.has("metadata");
    let items = metadata(&mut schedule)?;
    let (job, extras) = specification(&mut schedule)?.unzip();
    let patch = SchedulePatch {
        recurrence: recurrence(&mut schedule)?,
        job,
        metadata: new_metadata.then_some(items),
    };
    Ok((patch, extras.unwrap_or_default()))
}

/// `PUT /jobschedules/{id}`: everything that can be updated is replaced. Newer clients send the whole schedule as they
/// read it; what cannot be updated is passed over.
pub fn put(bytes: &[u8]) -> Result<Patch, Error> {
    let mut schedule = body(bytes, "BatchJobSchedule")?;
    let (job, extras) = specification(&mut schedule)?.ok_or_else(|| Error::missing("jobSpecification"))?;
    let patch = SchedulePatch {
        recurrence: Some(recurrence(&mut schedule)?.unwrap_or_default()),
        job: Some(job),
        metadata: Some(metadata(&mut schedule)?),
    };
    Ok((patch, extras))
}

fn specification(schedule: &mut Members) -> Result<Option<NewJob>, Error> {
    let Some(mut members) = schedule.object("jobSpecification") else { return Ok(None) };
    // Each job gets its own name when it is made.
    let placeholder = JobId::new("job").map_err(|error| Error::property("id", "job", error.to_string()))?;
    job::spec(&mut members, placeholder).map(Some)
}

fn recurrence(schedule: &mut Members) -> Result<Option<Recurrence>, Error> {
    let Some(mut times) = schedule.object("schedule") else { return Ok(None) };
    let recurrence = Recurrence {
        not_before: times.time("doNotRunUntil"),
        not_after: times.time("doNotRunAfter"),
        start_window: at_least_a_minute(&mut times, "startWindow")?,
        interval: at_least_a_minute(&mut times, "recurrenceInterval")?,
    };
    if let Some((before, after)) = recurrence.not_before.zip(recurrence.not_after)
        && after <= before
    {
        let reason = format!("it is not after doNotRunUntil, {before}");
        return Err(Error::property(&times.path("doNotRunAfter"), &after.to_string(), reason));
    }
    Ok(Some(recurrence))
}

fn at_least_a_minute(times: &mut Members, name: &str) -> Result<Option<Span>, Error> {
    let Some(span) = times.span(name).filter(|span| !span.is_unlimited()) else { return Ok(None) };
    if span >= SHORTEST {
        return Ok(Some(span));
    }
    Err(Error::property(&times.path(name), &span.to_string(), "it must be a minute or more"))
}
