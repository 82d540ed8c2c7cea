//! Tasks: add one, add many, update (`jobs-and-tasks.md` §5).

use super::parts::{
    constraint, display_name, environment, name, output_files, packages, resource_files, retry_count,
    user_identity, wall_clock,
};
use super::ties::ties;
use super::{Members, body, json};
use crate::api::batch::errors::{Code, Error};
use crate::state::command::TaskAdd;
use lote_shared::model::{PackageReference, Span, TaskConstraints, TaskExtra, TaskId, TaskSpec, TaskTies};
use serde_json::Value;

/// Tasks in one `addtaskcollection`.
pub const COLLECTION_MAX: usize = 100;

/// `POST /jobs/{id}/tasks`.
pub fn add(bytes: &[u8]) -> Result<NewTask, Error> {
    build(body(bytes, "BatchTaskCreateOptions")?)
}

/// One item of a collection: its id as sent, and the task or why it is none.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    pub id: String,
    pub task: Result<NewTask, Error>,
}

/// A task, what ties it to others, and what it has beyond its spec.
pub type NewTask = (TaskAdd, TaskTies, Vec<TaskExtra>);

/// `POST /jobs/{id}/addtaskcollection`. What is wrong with one task concerns that task alone; a body that cannot be
/// read, an unknown member or too many tasks concern the request (`jobs-and-tasks.md` §5.5).
pub fn collection(bytes: &[u8]) -> Result<Vec<Item>, Error> {
    let Value::Object(mut body) = json(bytes)? else {
        return Err(Error::new(Code::InvalidRequestBody).because("The body must be an object."));
    };
    body.retain(|name, value| !value.is_null() && !name.starts_with("odata."));
    let items = body.remove("value").ok_or_else(|| Error::missing("value"))?;
    if let Some(name) = body.keys().next() {
        return Err(Error::new(Code::UnsupportedProperty).with("PropertyName", name));
    }
    let Value::Array(items) = items else {
        return Err(Error::new(Code::InvalidRequestBody).because("`value` must be a list."));
    };
    if items.len() > COLLECTION_MAX {
        let reason = format!("at most {COLLECTION_MAX} tasks can be added in one request");
        return Err(Error::property("value", &items.len().to_string(), reason));
    }
    items.into_iter().map(item).collect()
}

fn item(value: Value) -> Result<Item, Error> {
    let id = value.get("id").and_then(Value::as_str).map(str::to_owned);
    let task = Members::of("BatchTaskCreateOptions", value).and_then(build);
    match (id, task) {
        (Some(id), Err(error)) if !concerns_the_request(error.code) => Ok(Item { id, task: Err(error) }),
        (Some(id), Ok(task)) => Ok(Item { id, task: Ok(task) }),
        (_, Err(error)) => Err(error),
        (None, Ok(_)) => Err(Error::missing("value.id")),
    }
}

fn concerns_the_request(code: Code) -> bool {
    matches!(code, Code::UnsupportedProperty | Code::InvalidRequestBody | Code::InternalError)
}

fn build(mut task: Members) -> Result<NewTask, Error> {
    task.refuse_unbuilt(&["multiInstanceSettings", "containerSettings"])?;
    let (extras, echo) = extras(&mut task)?;
    let id = name(&mut task, "id", TaskId::new)?;
    let (max_wall_clock, retention, max_retry_count) = constraints(&mut task)?;
    let slots = task.within("requiredSlots", 1, u16::MAX.into())?;
    let affinity = task.object("affinityInfo").and_then(|mut affinity| affinity.text("affinityId"));
    let ties = ties(&mut task, &id)?;
    let add = TaskAdd {
        slots: slots.and_then(|slots| u16::try_from(slots).ok()).unwrap_or(1),
        max_wall_clock,
        retention,
        max_retry_count,
        spec: TaskSpec {
            id,
            display_name: display_name(&mut task)?,
            command_line: task.required_text("commandLine")?,
            resource_files: resource_files(&mut task)?,
            output_files: output_files(&mut task)?,
            environment: environment(&mut task, "environmentSettings")?,
            user_identity: user_identity(&mut task)?,
            affinity_id: affinity.unwrap_or_default(),
            echo,
        },
    };
    Ok((add, ties, extras))
}

/// What the task has beyond its spec, and what reads are to show of that.
pub fn extras(task: &mut Members) -> Result<(Vec<TaskExtra>, String), Error> {
    let packages = packages(task)?;
    let (mut extras, token) = token(task)?;
    let mut shown = serde_json::Map::new();
    if !packages.is_empty() {
        let references: Vec<Value> = packages.iter().map(shown_package).collect();
        shown.insert("applicationPackageReferences".into(), Value::Array(references));
        extras.push(TaskExtra::Packages(packages));
    }
    shown.extend(token);
    let echo = if shown.is_empty() { String::new() } else { Value::Object(shown).to_string() };
    Ok((extras, echo))
}

fn shown_package(reference: &PackageReference) -> Value {
    let mut shown = serde_json::json!({ "applicationId": reference.application.as_str() });
    if let Some(version) = &reference.version {
        shown["version"] = version.as_str().into();
    }
    shown
}

/// The extra, and the member that shows it.
type Token = (Vec<TaskExtra>, Option<(String, Value)>);

fn token(task: &mut Members) -> Result<Token, Error> {
    const NAME: &str = "authenticationTokenSettings";
    let mut settings = task.object(NAME);
    let access = settings.as_mut().map(|settings| settings.texts("access")).unwrap_or_default();
    if access.is_empty() {
        return Ok((Vec::new(), None));
    }
    let echo = (NAME.to_owned(), serde_json::json!({ "access": ["job"] }));
    match access.iter().find(|access| *access != "job") {
        None => Ok((vec![TaskExtra::Token], Some(echo))),
        Some(other) => {
            let path = format!("{}.access", task.path(NAME));
            Err(Error::property(&path, other, "access can be given to the job alone"))
        }
    }
}

/// Wall clock, retention, retry count.
pub type Constraints = (Span, Span, Option<i32>);

/// `PUT /jobs/{id}/tasks/{id}`: the constraints, absent ones filled in. Newer clients send the whole task as they
/// read it; what cannot be updated is passed over.
pub fn put(bytes: &[u8]) -> Result<Constraints, Error> {
    constraints(&mut body(bytes, "BatchTask")?)
}

pub fn constraints(task: &mut Members) -> Result<Constraints, Error> {
    let Some(mut constraints) = task.object("constraints") else {
        return Ok((Span::UNLIMITED, TaskConstraints::DEFAULT_RETENTION, None));
    };
    let max_wall_clock = wall_clock(&mut constraints)?;
    let retention = constraints.span("retentionTime").unwrap_or(TaskConstraints::DEFAULT_RETENTION);
    if retention < Span::default() {
        return Err(constraint(&constraints, "retentionTime", "it must not be negative"));
    }
    let max_retry_count = retry_count(&mut constraints)?;
    Ok((max_wall_clock, retention, max_retry_count))
}
