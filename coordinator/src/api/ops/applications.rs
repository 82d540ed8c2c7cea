//! `/lote/applications`: packages of applications, for the operator's commands; the Batch interface only shows them. Signed
//! like a Batch request. The zip is a blob that is written before its package is activated here.

use crate::api::batch::errors::{Code, Error};
use crate::api::batch::{self, BatchApi};
use crate::state::command::PackageChange;
use crate::state::{Action, ApplicationRecord};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use lote_shared::model::{AccountId, ApplicationId, PackageVersion};
use serde::Deserialize;
use serde_json::{Value, json};

/// The container with the zips of all packages.
pub const CONTAINER: &str = "lote-applications";

/// The blob with the zip of a package.
pub fn blob_name(application: &ApplicationId, version: &PackageVersion) -> String {
    format!("{}/{}.zip", application.folded(), version.folded())
}

/// Registers the pages; before anything that takes every path.
pub fn service(config: &mut web::ServiceConfig) {
    config
        .route("/lote/applications", web::get().to(list))
        .route("/lote/applications/{id}", web::post().to(settings))
        .route("/lote/applications/{id}", web::delete().to(remove))
        .route("/lote/applications/{id}/versions/{version}", web::post().to(activate))
        .route("/lote/applications/{id}/versions/{version}", web::delete().to(delete));
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Activation {
    #[serde(default)]
    is_default: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    display_name: Option<String>,
    allow_updates: Option<bool>,
    default_version: Option<String>,
}

fn refuse(error: &Error) -> HttpResponse {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = format!("{} {}", error.code.sentence(), error.detail);
    HttpResponse::build(status)
        .json(json!({ "code": error.code.as_str(), "message": { "lang": "en-US", "value": message.trim() } }))
}

fn named(text: &str) -> Result<ApplicationId, Error> {
    ApplicationId::new(text).map_err(|error| Error::property("id", text, error.to_string()))
}

fn version(text: &str) -> Result<PackageVersion, Error> {
    PackageVersion::new(text).map_err(|error| Error::property("version", text, error.to_string()))
}

fn shown(record: &ApplicationRecord) -> Value {
    let package = |package: &crate::state::PackageRecord| json!({ "version": package.version.as_str(), "lastActivationTime": package.activated.to_string() });
    json!({
        "id": record.id.as_str(),
        "displayName": record.display_name,
        "allowUpdates": record.allow_updates,
        "defaultVersion": record.default_version.as_ref().map(|version| version.as_str()),
        "packages": record.packages.iter().map(package).collect::<Vec<_>>(),
    })
}

async fn list(request: HttpRequest, api: web::Data<BatchApi>) -> HttpResponse {
    let account = match batch::admit(&request, &api) {
        Ok(account) => account,
        Err(refusal) => return *refusal,
    };
    let all: Vec<Value> = api.engine.read(|cluster| cluster.applications(account).map(shown).collect());
    HttpResponse::Ok().json(json!({ "applications": all }))
}

async fn change(
    request: &HttpRequest,
    api: &BatchApi,
    id: &str,
    make: impl FnOnce(AccountId, &ApplicationId) -> Result<PackageChange, Error>,
) -> HttpResponse {
    let account = match batch::admit(request, api) {
        Ok(account) => account,
        Err(refusal) => return *refusal,
    };
    let made = named(id).and_then(|application| Ok((make(account, &application)?, application)));
    let (change, application) = match made {
        Ok(made) => made,
        Err(error) => return refuse(&error),
    };
    match api.engine.propose(account, Action::ApplicationChange { application, change }).await {
        Ok(Ok(_)) => HttpResponse::Ok().json(json!({})),
        Ok(Err(refusal)) => refuse(&refusal.into()),
        Err(error) => refuse(&error.into()),
    }
}

async fn activate(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    body: web::Json<Activation>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    let (id, text) = path.into_inner();
    change(&request, &api, &id, |account, application| {
        let version = version(&text)?;
        let blob = blob_name(application, &version);
        let is_there =
            api.engine.read(|cluster| cluster.blobs().blob(account, CONTAINER, &blob).is_ok());
        if !is_there {
            let why = format!("Its zip has to be blob `{blob}` of container `{CONTAINER}` first; `lote app package add` uploads it.");
            return Err(Error::new(Code::OperationInvalidForCurrentState).because(why));
        }
        Ok(PackageChange::Activate { version, container: CONTAINER.to_owned(), blob, is_default: body.is_default })
    })
    .await
}

async fn delete(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    let (id, text) = path.into_inner();
    change(&request, &api, &id, |_, _| Ok(PackageChange::Delete { version: version(&text)? })).await
}

async fn settings(
    request: HttpRequest,
    path: web::Path<String>,
    body: web::Json<Settings>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    let body = body.into_inner();
    change(&request, &api, &path, |_, _| {
        Ok(PackageChange::Settings {
            display_name: body.display_name.map(Some),
            allow_updates: body.allow_updates,
            default_version: body.default_version.as_deref().map(version).transpose()?.map(Some),
        })
    })
    .await
}

async fn remove(request: HttpRequest, path: web::Path<String>, api: web::Data<BatchApi>) -> HttpResponse {
    change(&request, &api, &path, |_, _| Ok(PackageChange::Remove)).await
}
