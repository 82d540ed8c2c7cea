//! A job schedule as clients read it (`jobs-and-tasks.md` §10.1).

use super::{job, metadata};
use crate::api::batch::json::Object;
use crate::api::batch::views::ScheduleView;
use lote_shared::model::Recurrence;

pub fn url(base: &str, id: &str) -> String {
    format!("{base}/jobschedules/{id}")
}

pub fn write(object: &mut Object, base: &str, schedule: &ScheduleView) {
    let record = &schedule.record;
    object.text("id", record.id.as_str());
    object.maybe_text("displayName", schedule.cold.display_name.as_deref());
    object.text("url", &url(base, record.id.as_str()));
    object.text("eTag", &record.version.etag_text());
    object.time("lastModified", record.version.modified);
    object.time("creationTime", record.created);
    object.text("state", record.state.as_str());
    object.time("stateTransitionTime", record.state_changed);
    if let Some((state, at)) = record.previous_state {
        object.text("previousState", state.as_str());
        object.time("previousStateTransitionTime", at);
    }
    object.object("schedule", |object| recurrence(object, &record.recurrence));
    object.object("jobSpecification", |object| job::write_spec(object, &schedule.cold.job, &schedule.extras));
    object.object("executionInfo", |object| {
        object.maybe_time("nextRunTime", schedule.next_run);
        if let Some((_, id)) = &record.latest {
            object.object("recentJob", |object| {
                object.text("id", id.as_str());
                object.text("url", &format!("{base}/jobs/{id}"));
            });
        }
        object.maybe_time("endTime", record.ended);
    });
    metadata(object, &schedule.cold.metadata);
}

fn recurrence(object: &mut Object, recurrence: &Recurrence) {
    object.maybe_time("doNotRunUntil", recurrence.not_before);
    object.maybe_time("doNotRunAfter", recurrence.not_after);
    if let Some(window) = recurrence.start_window {
        object.span("startWindow", window);
    }
    if let Some(interval) = recurrence.interval {
        object.span("recurrenceInterval", interval);
    }
}
