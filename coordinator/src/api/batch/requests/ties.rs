//! What ties a task to others: `dependsOn` and `exitConditions` (`jobs-and-tasks.md` §6).

use super::Members;
use crate::api::batch::errors::{Code, Error};
use lote_shared::model::{
    DependencyAction, DependsOn, ExitCodeRange, ExitConditions, ExitJobAction, ExitOptions, TaskId,
    TaskIdRange, TaskTies,
};

/// Characters of all listed ids together.
const ID_CHARACTERS_MAX: usize = 64_000;
const RANGES_MAX: usize = 1_000;

/// Takes both members out of a task.
pub fn ties(task: &mut Members, id: &TaskId) -> Result<TaskTies, Error> {
    let ties = TaskTies { depends_on: depends_on(task)?, exit_conditions: exit_conditions(task)? };
    if ties.depends_on.names(id) {
        return Err(Error::property("dependsOn", id.as_str(), "a task cannot depend on itself"));
    }
    Ok(ties)
}

fn depends_on(task: &mut Members) -> Result<DependsOn, Error> {
    let Some(mut list) = task.object("dependsOn") else { return Ok(DependsOn::default()) };
    let path = list.path("taskIds");
    let ids = list.texts("taskIds");
    if ids.iter().map(String::len).sum::<usize>() > ID_CHARACTERS_MAX {
        return Err(Error::of_property(
            Code::TaskDependencyListTooLong,
            &path,
            "",
            format!(
                "the ids together may have {ID_CHARACTERS_MAX} characters; ranges of integers are shorter"
            ),
        ));
    }
    let parse =
        |text: &String| TaskId::new(text).map_err(|error| Error::property(&path, text, error.to_string()));
    let ids = ids.iter().map(parse).collect::<Result<_, _>>()?;
    let ranges = list.objects("taskIdRanges");
    if ranges.len() > RANGES_MAX {
        return Err(Error::of_property(
            Code::TaskDependencyRangesTooLong,
            &list.path("taskIdRanges"),
            &ranges.len().to_string(),
            format!("there may be {RANGES_MAX} ranges"),
        ));
    }
    let range = |mut range: Members| {
        let (start, end) = bounds(&mut range)?;
        Ok(TaskIdRange { start, end })
    };
    Ok(DependsOn { ids, ranges: ranges.into_iter().map(range).collect::<Result<_, Error>>()? })
}

/// `start` and `end`, both included.
fn bounds(range: &mut Members) -> Result<(i32, i32), Error> {
    let (start, end) = (code(range, "start")?, code(range, "end")?);
    if start > end {
        let reason = format!("it begins behind its end, {end}");
        return Err(Error::property(&range.path("start"), &start.to_string(), reason));
    }
    Ok((start, end))
}

fn code(members: &mut Members, name: &str) -> Result<i32, Error> {
    let number = members.within(name, i32::MIN.into(), i32::MAX.into())?;
    let number = number.and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| Error::missing(&members.path(name)))
}

fn exit_conditions(task: &mut Members) -> Result<Option<ExitConditions>, Error> {
    let Some(mut given) = task.object("exitConditions") else { return Ok(None) };
    let mut conditions = ExitConditions::default();
    for mut mapping in given.objects("exitCodes") {
        let code = code(&mut mapping, "code")?;
        conditions.codes.push((code, required_options(&mut mapping)?));
    }
    for mut mapping in given.objects("exitCodeRanges") {
        let (start, end) = bounds(&mut mapping)?;
        let options = required_options(&mut mapping)?;
        conditions.ranges.push(ExitCodeRange { start, end, options });
    }
    conditions.pre_processing_error = options(&mut given, "preProcessingError");
    conditions.file_upload_error = options(&mut given, "fileUploadError");
    conditions.default = options(&mut given, "default");
    Ok(Some(conditions).filter(|conditions| *conditions != ExitConditions::default()))
}

fn required_options(mapping: &mut Members) -> Result<ExitOptions, Error> {
    options(mapping, "exitOptions").ok_or_else(|| Error::missing(&mapping.path("exitOptions")))
}

fn options(members: &mut Members, name: &str) -> Option<ExitOptions> {
    let mut given = members.object(name)?;
    let job = given.text("jobAction").and_then(|text| match text.as_str() {
        "none" => Some(ExitJobAction::None),
        "disable" => Some(ExitJobAction::Disable),
        "terminate" => Some(ExitJobAction::Terminate),
        _ => None,
    });
    let dependency = given.text("dependencyAction").and_then(|text| match text.as_str() {
        "satisfy" => Some(DependencyAction::Satisfy),
        "block" => Some(DependencyAction::Block),
        _ => None,
    });
    Some(ExitOptions { job, dependency })
}
