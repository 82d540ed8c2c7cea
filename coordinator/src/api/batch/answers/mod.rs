//! From records to what clients read: exact names and values, defaults filled in, what is absent left out.

pub mod file;
pub mod job;
pub mod node;
pub mod pool;
pub mod schedule;
pub mod special;
pub mod task;
mod ties;

use super::json::Object;
pub(crate) use super::json::name_value;
use lote_shared::model::{
    AutoUserScope, ElevationLevel, EnvironmentSetting, FailureCategory, FailureInfo, MetadataItem,
    PackageReference, ResourceFile, ResourceSource, StartTask, TaskResult, UserIdentity,
};

fn metadata(object: &mut Object, items: &[MetadataItem]) {
    object.list("metadata", items, |object, item| {
        object.text("name", &item.name);
        object.text("value", &item.value);
    });
}

fn environment(object: &mut Object, name: &str, settings: &[EnvironmentSetting]) {
    object.list(name, settings, |object, setting| {
        object.text("name", &setting.name);
        object.text("value", &setting.value);
    });
}

fn user_identity(object: &mut Object, identity: &UserIdentity) {
    object.object("userIdentity", |object| match identity {
        UserIdentity::UserName(name) => object.text("username", name),
        UserIdentity::AutoUser { scope, elevation } => object.object("autoUser", |object| {
            object.text(
                "scope",
                match scope {
                    AutoUserScope::Task => "task",
                    AutoUserScope::Pool => "pool",
                },
            );
            object.text(
                "elevationLevel",
                match elevation {
                    ElevationLevel::NonAdmin => "nonadmin",
                    ElevationLevel::Admin => "admin",
                },
            );
        }),
    });
}

fn resource_files(object: &mut Object, files: &[ResourceFile]) {
    object.list("resourceFiles", files, |object, file| {
        let prefix = match &file.source {
            ResourceSource::HttpUrl(url) => {
                object.text("httpUrl", url);
                ""
            }
            ResourceSource::ContainerUrl { url, prefix } => {
                object.text("storageContainerUrl", url);
                prefix
            }
            ResourceSource::AutoStorage { container, prefix } => {
                object.text("autoStorageContainerName", container);
                prefix
            }
            // Only hosts are sent these.
            ResourceSource::Package { .. } | ResourceSource::NoPackage { .. } => "",
        };
        object.filled_text("blobPrefix", prefix);
        object.filled_text("filePath", &file.file_path);
        object.text("fileMode", &format!("{:04o}", file.file_mode));
    });
}

fn packages(object: &mut Object, references: &[PackageReference]) {
    object.list("applicationPackageReferences", references, |object, reference| {
        object.text("applicationId", reference.application.as_str());
        object.maybe_text("version", reference.version.as_ref().map(|version| version.as_str()));
    });
}

fn start_task(object: &mut Object, task: &StartTask) {
    object.object("startTask", |object| {
        object.text("commandLine", &task.command_line);
        resource_files(object, &task.resource_files);
        environment(object, "environmentSettings", &task.environment);
        user_identity(object, &task.user_identity);
        object.number("maxTaskRetryCount", task.max_retry_count.into());
        object.boolean("waitForSuccess", task.wait_for_success);
    });
}

fn failure_info(object: &mut Object, info: Option<&FailureInfo>) {
    failure(object, "failureInfo", info);
}

fn failure(object: &mut Object, name: &str, failure: Option<&FailureInfo>) {
    let Some(failure) = failure else { return };
    object.object(name, |object| {
        object.text(
            "category",
            match failure.category {
                FailureCategory::UserError => "usererror",
                FailureCategory::ServerError => "servererror",
            },
        );
        object.text("code", &failure.code);
        object.text("message", &failure.message);
        object.list("details", &failure.details, name_value);
    });
}

/// The exact value on the wire.
pub fn result_text(result: TaskResult) -> &'static str {
    match result {
        TaskResult::Success => "success",
        TaskResult::Failure => "failure",
    }
}
