//! What ties a task to others, as clients read it.

use crate::api::batch::json::Object;
use lote_shared::model::{DependsOn, ExitCodeRange, ExitConditions, ExitOptions, TaskTies};

pub fn write(object: &mut Object, ties: &TaskTies) {
    if !ties.depends_on.is_empty() {
        object.object("dependsOn", |object| depends_on(object, &ties.depends_on));
    }
    if let Some(conditions) = &ties.exit_conditions {
        object.object("exitConditions", |object| exit_conditions(object, conditions));
    }
}

fn depends_on(object: &mut Object, list: &DependsOn) {
    object.texts("taskIds", list.ids.iter().map(|id| id.as_str()));
    object.list("taskIdRanges", &list.ranges, |object, range| {
        object.number("start", range.start.into());
        object.number("end", range.end.into());
    });
}

fn exit_conditions(object: &mut Object, conditions: &ExitConditions) {
    object.list("exitCodes", &conditions.codes, |object, (code, of_code)| {
        object.number("code", (*code).into());
        object.object("exitOptions", |object| options(object, of_code));
    });
    object.list("exitCodeRanges", &conditions.ranges, |object, range: &ExitCodeRange| {
        object.number("start", range.start.into());
        object.number("end", range.end.into());
        object.object("exitOptions", |object| options(object, &range.options));
    });
    let single = [
        ("preProcessingError", &conditions.pre_processing_error),
        ("fileUploadError", &conditions.file_upload_error),
        ("default", &conditions.default),
    ];
    for (name, given) in single {
        if let Some(given) = given {
            object.object(name, |object| options(object, given));
        }
    }
}

fn options(object: &mut Object, given: &ExitOptions) {
    object.maybe_text("jobAction", given.job.map(|action| action.as_str()));
    object.maybe_text("dependencyAction", given.dependency.map(|action| action.as_str()));
}
