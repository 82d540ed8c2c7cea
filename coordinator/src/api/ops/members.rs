//! `/lote/tokens` and `/lote/members`: who may join and who has, for the operator's commands. Signed like a Batch
//! request: whoever holds the account's key operates the cluster.

use crate::api::batch::{self, BatchApi};
use crate::clock;
use crate::engine::{Engine, Unavailable};
use crate::join::server::Doors;
use crate::join::token::{self, Token};
use crate::members;
use crate::state::{Action, Cluster, ClusterVersion, HostState, MembershipCode, Refusal, RefusalCode, keys};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use lote_shared::model::{MemberRole, TokenId};
use rand::RngCore;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

const BODY_MAX: usize = 4 * 1024;
const USES_MAX: u32 = 10_000;
const LIFETIME_MAX_SECONDS: u64 = 366 * 24 * 60 * 60;
const NOTE_MAX: usize = 200;
/// How long the answer waits for a coordinator to be out; it goes on its way after that as well.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What the pages work on; `doors` is absent in an embedded cluster.
#[derive(Debug, Clone)]
pub struct Admin {
    pub engine: Engine,
    pub doors: Option<Doors>,
    /// This coordinator's own.
    pub peer: String,
}

/// Registers the pages; before anything that takes every path.
pub fn service(config: &mut web::ServiceConfig, admin: Admin) {
    config
        .app_data(web::Data::new(admin))
        .app_data(web::PayloadConfig::new(BODY_MAX))
        .route("/lote/tokens", web::get().to(list_tokens))
        .route("/lote/tokens", web::post().to(create_token))
        .route("/lote/tokens/{token}", web::delete().to(revoke_token))
        .route("/lote/members", web::get().to(list_members))
        .route("/lote/members/{peer}", web::delete().to(remove_member));
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewToken {
    role: MemberRole,
    uses: u32,
    expires_seconds: u64,
    #[serde(default)]
    note: String,
}

/// In the form of the Batch interface's errors, which our client reads.
fn refuse(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status)
        .json(json!({ "code": code, "message": { "lang": "en-US", "value": message } }))
}

fn unavailable(error: &Unavailable) -> HttpResponse {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", &error.to_string())
}

/// Proposes, and makes of a refusal an answer.
pub(super) async fn change(admin: &Admin, action: Action, good: impl FnOnce() -> Value) -> HttpResponse {
    match admin.engine.propose(keys::CLUSTER, action).await {
        Ok(Ok(_)) => HttpResponse::Ok().json(good()),
        Ok(Err(refusal)) => refused(&refusal),
        Err(error) => unavailable(&error),
    }
}

fn refused(refusal: &Refusal) -> HttpResponse {
    let (status, code) = match refusal.code {
        RefusalCode::Membership(code @ (MembershipCode::TokenNotFound | MembershipCode::MemberNotFound)) => {
            (StatusCode::NOT_FOUND, format!("{code:?}"))
        }
        RefusalCode::Membership(_) if members::waits(refusal.code) => {
            (StatusCode::SERVICE_UNAVAILABLE, "ServerBusy".to_owned())
        }
        RefusalCode::Membership(code) => (StatusCode::CONFLICT, format!("{code:?}")),
        code => (StatusCode::INTERNAL_SERVER_ERROR, format!("{code:?}")),
    };
    refuse(status, &code, &refusal.detail)
}

async fn create_token(
    request: HttpRequest,
    body: web::Bytes,
    admin: web::Data<Admin>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    if let Err(refusal) = batch::admit(&request, &api) {
        return *refusal;
    }
    let Some(doors) = &admin.doors else {
        let message =
            "an embedded cluster (`lote up`) has no join port; make one that can grow with `lote init`";
        return refuse(StatusCode::CONFLICT, "NotJoinable", message);
    };
    let wanted: NewToken = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, "InvalidRequestBody", &error.to_string()),
    };
    let good = (1..=USES_MAX).contains(&wanted.uses)
        && (1..=LIFETIME_MAX_SECONDS).contains(&wanted.expires_seconds)
        && wanted.note.len() <= NOTE_MAX;
    if !good {
        let message = format!(
            "uses must be 1 to {USES_MAX}, expiry 1 s to a year, the note at most {NOTE_MAX} bytes; got {wanted:?}"
        );
        return refuse(StatusCode::BAD_REQUEST, "InvalidPropertyValue", &message);
    }
    let authority = match doors.authority.fingerprint() {
        Ok(authority) => authority,
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &error.to_string()),
    };
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    let id = TokenId(rand::rng().next_u64());
    let made = Token { id, role: wanted.role, secret, authority, addresses: doors.addresses() };
    let text = match made.text() {
        Ok(text) => text,
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &error.to_string()),
    };
    let expires = clock::wall().plus_ms(wanted.expires_seconds.saturating_mul(1000));
    let action = Action::TokenAdd {
        token: id,
        secret_hash: token::hash(&secret),
        role: wanted.role,
        expires,
        uses: wanted.uses,
        note: wanted.note,
    };
    let shown = json!({
        "id": id.to_string(),
        "token": text,
        "role": wanted.role,
        "uses": wanted.uses,
        "expires": expires.to_string(),
    });
    change(&admin, action, || shown).await
}

async fn list_tokens(
    request: HttpRequest,
    admin: web::Data<Admin>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    list(&request, &admin, &api, |cluster| json!({ "tokens": tokens(cluster) })).await
}

async fn list_members(
    request: HttpRequest,
    admin: web::Data<Admin>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    list(&request, &admin, &api, |cluster| json!({ "members": members_of(cluster) })).await
}

/// What the state says, every acknowledged change included.
async fn list(
    request: &HttpRequest,
    admin: &Admin,
    api: &BatchApi,
    look: impl FnOnce(&Cluster) -> Value,
) -> HttpResponse {
    if let Err(refusal) = batch::admit(request, api) {
        return *refusal;
    }
    match admin.engine.linearize().await {
        Ok(()) => HttpResponse::Ok().json(admin.engine.read(look)),
        Err(error) => unavailable(&error),
    }
}

fn tokens(cluster: &Cluster) -> Vec<Value> {
    // Cluster time moves with commands; where none came for a while, the clock on the wall knows better.
    let now = cluster.clock().max(clock::wall());
    let state = |token: &crate::state::TokenRecord| match token {
        token if token.revoked => "revoked",
        token if now >= token.expires => "expired",
        token if token.uses_left == 0 => "used",
        _ => "valid",
    };
    let shown = cluster.tokens().map(|token| {
        json!({
            "id": token.id.to_string(),
            "role": token.role,
            "state": state(token),
            "usesLeft": token.uses_left,
            "made": token.made.to_string(),
            "expires": token.expires.to_string(),
            "note": token.note,
        })
    });
    shown.collect()
}

async fn revoke_token(
    request: HttpRequest,
    path: web::Path<String>,
    admin: web::Data<Admin>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    if let Err(refusal) = batch::admit(&request, &api) {
        return *refusal;
    }
    match path.parse::<TokenId>() {
        Ok(token) => {
            change(&admin, Action::TokenRevoke { token }, || json!({ "revoked": token.to_string() })).await
        }
        Err(error) => refuse(StatusCode::NOT_FOUND, "TokenNotFound", &error.to_string()),
    }
}

fn members_of(cluster: &Cluster) -> Vec<Value> {
    let shown = cluster.members().map(|member| {
        let host = cluster.host_by_peer(&member.peer);
        let state = host.map(|host| match host.state {
            HostState::Joined => "joined",
            HostState::Unknown => "unknown",
            HostState::Lost => "lost",
        });
        json!({
            "peer": member.peer,
            "role": member.role,
            "name": member.name,
            "addresses": member.addresses,
            "endpoints": member.endpoints,
            "member": member.member,
            "admitted": member.admitted.to_string(),
            "token": member.token.map(|token| token.to_string()),
            "state": match host {
                _ if cluster.is_leaving(&member.peer) => Some("leaving"),
                Some(host) if host.state == HostState::Joined && cluster.is_draining(host.key) => Some("draining"),
                _ => state,
            },
            "cores": host.map(|host| host.capacity.cores),
            "nodes": host.map(|host| cluster.nodes_on_host(host.key).count()),
        })
    });
    shown.collect()
}

async fn remove_member(
    request: HttpRequest,
    path: web::Path<String>,
    admin: web::Data<Admin>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    if let Err(refusal) = batch::admit(&request, &api) {
        return *refusal;
    }
    let peer = path.into_inner();
    let forced = match request.query_string().split('&').find(|part| !part.starts_with("api-version=")) {
        None | Some("" | "force=false") => false,
        Some("force=true") => true,
        Some(other) => {
            let message = format!("`{other}` is no parameter of this; there is `force=true`");
            return refuse(StatusCode::BAD_REQUEST, "InvalidQueryParameterValue", &message);
        }
    };
    let role = admin.engine.read(|cluster| cluster.member(&peer).map(|member| member.role));
    if forced && role == Some(MemberRole::Coordinator) {
        let message = "a coordinator is not drained and cannot be forced: it leaves as soon as the others can do without";
        return refuse(StatusCode::BAD_REQUEST, "InvalidQueryParameterValue", message);
    }
    if role == Some(MemberRole::Coordinator) {
        return remove_coordinator(&admin, peer).await;
    }
    remove_worker(&admin, peer, forced).await
}

/// Begins to drain it; the rest is up to its host and to the state, whether or not anybody looks on.
async fn remove_worker(admin: &Admin, peer: String, forced: bool) -> HttpResponse {
    let drain = if admin.engine.version() >= ClusterVersion::V2 {
        Action::HostDrain { peer: peer.clone(), forced }
    } else {
        // Beside a build that knows no draining it goes at once.
        Action::MemberRemove { peer: peer.clone() }
    };
    match admin.engine.propose(keys::CLUSTER, drain).await {
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => return refused(&refusal),
        Err(error) => return unavailable(&error),
    }
    let (is_member, nodes) = admin.engine.read(|cluster| {
        let host = cluster.host_by_peer(&peer);
        (cluster.member(&peer).is_some(), host.map_or(0, |host| cluster.nodes_on_host(host.key).count()))
    });
    if is_member {
        return HttpResponse::Accepted().json(json!({ "draining": peer, "nodes": nodes }));
    }
    HttpResponse::Ok().json(json!({ "removed": peer, "nodesUntilLeaseEnds": nodes }))
}

/// In two steps; the second is the leader's, and comes whether or not anybody waits for it here.
async fn remove_coordinator(admin: &Admin, peer: String) -> HttpResponse {
    let leave = Action::CoordinatorLeave { peer: peer.clone() };
    match members::take_out(&admin.engine, leave).await {
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => return refused(&refusal),
        Err(error) => return unavailable(&error),
    }
    // Whoever is out is told nothing any more, not even that.
    let is_own = peer == admin.peer;
    let is_gone = |cluster: &Cluster| cluster.member(&peer).is_none();
    let is_removed = !is_own && members::until(&admin.engine, GONE_WITHIN, is_gone).await;
    let status = if is_removed { StatusCode::OK } else { StatusCode::ACCEPTED };
    let what = if is_removed { "removed" } else { "leaving" };
    HttpResponse::build(status).json(json!({ what: peer }))
}
