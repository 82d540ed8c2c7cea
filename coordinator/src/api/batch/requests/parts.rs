//! Parts that several requests share: names, metadata, environments, identities, files.

use super::Members;
use crate::api::batch::errors::{Code, Error};
use lote_shared::model::{
    ApplicationId, AutoUserScope, ContainerDestination, ElevationLevel, EnvironmentSetting, InvalidName,
    MetadataItem, OutputFile, PackageReference, PackageVersion, ResourceFile, ResourceSource, Span,
    StartTask, UploadCondition, UserIdentity,
};

/// Summed over names and values (`pools-and-nodes.md` §2.1).
const METADATA_BYTES_MAX: usize = 32 * 1024;
const DISPLAY_NAME_MAX: usize = 1_024;
/// Of a start task as JSON (`pools-and-nodes.md` §2.2).
const START_TASK_CHARACTERS_MAX: usize = 32_768;
/// Headers that an upload may set (`files-and-storage.md` §5).
const UPLOAD_HEADERS: [&str; 5] = [
    "x-ms-blob-content-type",
    "x-ms-blob-content-encoding",
    "x-ms-blob-content-language",
    "x-ms-blob-content-disposition",
    "x-ms-blob-cache-control",
];

/// A pool's, job's or task's name.
pub fn name<T>(
    members: &mut Members,
    member: &str,
    new: impl Fn(&str) -> Result<T, InvalidName>,
) -> Result<T, Error> {
    let text = members.text(member).ok_or_else(|| Error::missing(&members.path(member)))?;
    new(&text).map_err(|error| Error::property(&members.path(member), &text, error.to_string()))
}

pub fn display_name(members: &mut Members) -> Result<Option<String>, Error> {
    let Some(text) = members.text("displayName") else { return Ok(None) };
    if text.chars().count() > DISPLAY_NAME_MAX {
        let reason = format!("it has more than {DISPLAY_NAME_MAX} characters");
        return Err(Error::property(&members.path("displayName"), &text, reason));
    }
    Ok(Some(text))
}

pub fn metadata(members: &mut Members) -> Result<Vec<MetadataItem>, Error> {
    let mut items = Vec::new();
    let mut bytes = 0;
    for mut item in members.objects("metadata") {
        let name = item.text("name").unwrap_or_default();
        let value = item.text("value").unwrap_or_default();
        if name.is_empty() {
            return Err(Error::new(Code::EmptyMetadataKey).with("PropertyName", item.path("name")));
        }
        bytes += name.len() + value.len();
        if bytes > METADATA_BYTES_MAX {
            return Err(Error::new(Code::MetadataTooLarge).with("PropertyName", item.path("name")));
        }
        items.push(MetadataItem { name, value });
    }
    Ok(items)
}

pub fn environment(members: &mut Members, member: &str) -> Result<Vec<EnvironmentSetting>, Error> {
    let mut settings = Vec::new();
    for mut item in members.objects(member) {
        let name = item.required_text("name")?;
        if name.contains('=') {
            return Err(Error::property(&item.path("name"), &name, "it contains `=`"));
        }
        let value = item.text("value").unwrap_or_default();
        let value = item.without_nul("value", value)?;
        settings.push(EnvironmentSetting { name, value });
    }
    Ok(settings)
}

/// Exactly one of `username` and `autoUser`; absent = the default identity.
pub fn user_identity(members: &mut Members) -> Result<UserIdentity, Error> {
    let Some(mut identity) = members.object("userIdentity") else { return Ok(UserIdentity::default()) };
    if identity.has("username") == identity.has("autoUser") {
        let reason = "exactly one of username and autoUser must be given";
        return Err(Error::property(&members.path("userIdentity"), "", reason));
    }
    identity.refuse_unbuilt(&["username"])?;
    let mut auto = identity.object("autoUser").ok_or_else(|| Error::missing(&identity.path("autoUser")))?;
    let scope = match auto.text("scope").as_deref() {
        Some("task") => AutoUserScope::Task,
        _ => AutoUserScope::Pool,
    };
    let elevation = match auto.text("elevationLevel").as_deref() {
        Some("admin") => ElevationLevel::Admin,
        _ => ElevationLevel::NonAdmin,
    };
    Ok(UserIdentity::AutoUser { scope, elevation })
}

pub fn resource_files(members: &mut Members) -> Result<Vec<ResourceFile>, Error> {
    members.objects("resourceFiles").into_iter().map(resource_file).collect()
}

fn resource_file(mut file: Members) -> Result<ResourceFile, Error> {
    file.refuse_unbuilt(&["identityReference"])?;
    let url = file.text("httpUrl");
    let container_url = file.text("storageContainerUrl");
    let container = file.text("autoStorageContainerName");
    let prefix = file.text("blobPrefix");
    let path = file.text("filePath").unwrap_or_default();
    let mode = file_mode(&mut file)?;
    let whole = |reason: &str| Error::property(&file.path, "", reason);
    let source = match (url, container_url, container) {
        (Some(_), None, None) if path.is_empty() => return Err(whole("httpUrl needs a filePath")),
        (Some(_), None, None) if prefix.is_some() => return Err(whole("blobPrefix cannot go with httpUrl")),
        (Some(url), None, None) if !url.is_empty() => ResourceSource::HttpUrl(url),
        (None, Some(url), None) if !url.is_empty() => {
            ResourceSource::ContainerUrl { url, prefix: prefix.unwrap_or_default() }
        }
        (None, None, Some(container)) if !container.is_empty() => {
            ResourceSource::AutoStorage { container, prefix: prefix.unwrap_or_default() }
        }
        _ => {
            let reason =
                "exactly one of httpUrl, storageContainerUrl and autoStorageContainerName must be given";
            return Err(whole(reason));
        }
    };
    if !stays_inside(&path) {
        return Err(Error::property(
            &file.path("filePath"),
            &path,
            "it must be a relative path without `..`",
        ));
    }
    Ok(ResourceFile { source, file_path: path, file_mode: mode })
}

/// `applicationPackageReferences`.
pub fn packages(members: &mut Members) -> Result<Vec<PackageReference>, Error> {
    let references = members.objects("applicationPackageReferences").into_iter().map(|mut reference| {
        let application = name(&mut reference, "applicationId", ApplicationId::new)?;
        let version = match reference.has("version") {
            true => Some(name(&mut reference, "version", PackageVersion::new)?),
            false => None,
        };
        Ok(PackageReference { application, version })
    });
    references.collect()
}

fn file_mode(file: &mut Members) -> Result<u32, Error> {
    let Some(text) = file.text("fileMode") else { return Ok(ResourceFile::DEFAULT_MODE) };
    let digits = text.trim_start_matches("0o");
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| Error::property(&file.path("fileMode"), &text, "it is not an octal file mode"))
}

/// Whether a path stays below the directory it is relative to, whichever way its parts are divided.
pub fn stays_inside(path: &str) -> bool {
    let absolute = path.starts_with(['/', '\\']);
    !absolute && !path.contains('\0') && !path.split(['/', '\\']).any(|part| part == "..")
}

pub fn output_files(members: &mut Members) -> Result<Vec<OutputFile>, Error> {
    members.objects("outputFiles").into_iter().map(output_file).collect()
}

fn output_file(mut file: Members) -> Result<OutputFile, Error> {
    let pattern = file.required_text("filePattern")?;
    let condition = file.object("uploadOptions").and_then(|mut options| options.text("uploadCondition"));
    let condition = match condition.as_deref() {
        Some("tasksuccess") => UploadCondition::TaskSuccess,
        Some("taskfailure") => UploadCondition::TaskFailure,
        _ => UploadCondition::TaskCompletion,
    };
    let mut destination =
        file.object("destination").ok_or_else(|| Error::missing(&file.path("destination")))?;
    let container = destination.object("container");
    let mut container = container.ok_or_else(|| Error::missing(&destination.path("container")))?;
    container.refuse_unbuilt(&["identityReference"])?;
    let url = container.required_text("containerUrl")?;
    let path = container.text("path").unwrap_or_default();
    let mut headers = Vec::new();
    for mut header in container.objects("uploadHeaders") {
        let name = header.text("name").unwrap_or_default();
        let value = header.text("value").unwrap_or_default();
        if !UPLOAD_HEADERS.iter().any(|allowed| allowed.eq_ignore_ascii_case(&name)) {
            let reason = format!("an upload may only set {}", UPLOAD_HEADERS.join(", "));
            return Err(Error::property(&header.path("name"), &name, reason));
        }
        if value.chars().any(char::is_control) {
            return Err(Error::property(&header.path("value"), &value, "it contains a control character"));
        }
        headers.push((name, value));
    }
    Ok(OutputFile { pattern, destination: ContainerDestination { url, path, headers }, condition })
}

/// The task that prepares each node (`pools-and-nodes.md` §9.2).
pub fn start_task(members: &mut Members) -> Result<Option<StartTask>, Error> {
    let size = members.peek("startTask").map_or(0, |value| value.to_string().chars().count());
    if size > START_TASK_CHARACTERS_MAX {
        let reason = format!("it has {size} characters; at most {START_TASK_CHARACTERS_MAX} are allowed");
        return Err(Error::property("startTask", "", reason));
    }
    let Some(mut task) = members.object("startTask") else { return Ok(None) };
    task.refuse_unbuilt(&["containerSettings"])?;
    let max_retry_count = retry_count(&mut task)?.unwrap_or(0);
    Ok(Some(StartTask {
        command_line: task.required_text("commandLine")?,
        resource_files: resource_files(&mut task)?,
        environment: environment(&mut task, "environmentSettings")?,
        user_identity: user_identity(&mut task)?,
        max_retry_count,
        wait_for_success: task.boolean("waitForSuccess").unwrap_or(true),
    }))
}

/// `maxTaskRetryCount`: −1 or more.
pub fn retry_count(members: &mut Members) -> Result<Option<i32>, Error> {
    let Some(count) = members.integer("maxTaskRetryCount") else { return Ok(None) };
    let count = i32::try_from(count).ok().filter(|count| *count >= -1);
    match count {
        Some(count) => Ok(Some(count)),
        None => Err(constraint(members, "maxTaskRetryCount", "it must be -1 or more")),
    }
}

/// `maxWallClockTime`: longer than nothing; absent = without limit.
pub fn wall_clock(members: &mut Members) -> Result<Span, Error> {
    let span = members.span("maxWallClockTime").unwrap_or(Span::UNLIMITED);
    if span <= Span::default() {
        return Err(constraint(members, "maxWallClockTime", "it must be longer than nothing"));
    }
    Ok(span)
}

/// A constraint out of its range.
pub fn constraint(members: &Members, name: &str, reason: &str) -> Error {
    Error::of_property(Code::InvalidConstraintValue, &members.path(name), "", reason)
}
