//! `/lote/upgrade/hold` and `/lote/upgrade/release`, and how the cluster version is shown. Signed like a Batch request.

use super::members::{Admin, change};
use crate::api::batch::{self, BatchApi};
use crate::engine::Engine;
use crate::state::version::{Prospect, Supported};
use crate::state::{Action, Cluster};
use crate::versions::Versions;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

/// Registers the pages, which work on the [`Admin`] of members.
pub fn service(config: &mut web::ServiceConfig) {
    config
        .route("/lote/upgrade/hold", web::post().to(hold))
        .route("/lote/upgrade/release", web::post().to(release));
}

async fn hold(request: HttpRequest, admin: web::Data<Admin>, api: web::Data<BatchApi>) -> HttpResponse {
    order(&request, &admin, &api, Action::VersionHold).await
}

async fn release(request: HttpRequest, admin: web::Data<Admin>, api: web::Data<BatchApi>) -> HttpResponse {
    order(&request, &admin, &api, Action::VersionRelease).await
}

async fn order(request: &HttpRequest, admin: &Admin, api: &BatchApi, action: Action) -> HttpResponse {
    if let Err(refusal) = batch::admit(request, api) {
        return *refusal;
    }
    change(admin, action, || admin.engine.read(facts)).await
}

/// What is replicated.
fn facts(cluster: &Cluster) -> Value {
    json!({
        "cluster": cluster.version().0,
        "heldSince": cluster.version_held().map(|since| since.to_string()),
        "rehearsed": cluster.rehearsed(),
    })
}

/// The version, whether it is held, and what it comes to by what the coordinators say.
pub fn shown(engine: &Engine, versions: &Versions) -> Value {
    let mut shown = engine.read(facts);
    let (next, waits) = match versions.prospect() {
        Prospect::Newest => (None, Vec::new()),
        Prospect::Held(to) | Prospect::Raise { to, .. } => (Some(to), Vec::new()),
        Prospect::Waits { to, until } => (Some(to), until),
    };
    let name = |peer: &str| engine.read(|cluster| cluster.member(peer).map(|member| member.name.clone()));
    let waits = waits.iter().map(|(peer, supported)| {
        json!({ "name": name(peer), "peer": peer, "supports": supported.as_ref().map(range) })
    });
    shown["next"] = json!(next.map(|next| next.0));
    shown["waitsFor"] = waits.collect();
    shown
}

/// A range of versions.
pub fn range(supported: &Supported) -> Value {
    json!({ "oldest": supported.oldest.0, "newest": supported.newest.0 })
}
