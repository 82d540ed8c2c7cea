//! The join port of a coordinator. Whoever leads, every coordinator answers: its engine carries the command there.

use super::authority::Authority;
use super::message::{
    Account, Answer, BODY_MAX, BUILD_HEADER, CLOCK_SKEW_MAX_MS, Member, PATH, Refused, Request,
};
use super::throttle::Throttle;
use super::token;
use crate::clock;
use crate::engine::{Engine, Unavailable};
use crate::members;
use crate::state::version::{self, Unsupported};
use crate::state::{Action, ClusterVersion, MembershipCode, Outcome, Refusal, RefusalCode, TokenClaim, keys};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lote_shared::model::MemberRole;
use lote_shared::network::identity;
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What the port needs.
#[derive(Debug, Clone)]
pub struct Doors {
    pub engine: Engine,
    pub authority: Arc<Authority>,
    /// `host:port` of the join port here.
    pub address: String,
}

impl Doors {
    /// The join ports there are, this one first: a token is good as long as one of them answers.
    pub fn addresses(&self) -> Vec<String> {
        let others = self.engine.read(|cluster| {
            let known = cluster.coordinators().filter_map(|member| member.endpoints.as_ref()?.join.clone());
            known.filter(|address| *address != self.address).collect::<Vec<_>>()
        });
        std::iter::once(self.address.clone()).chain(others).take(token::ADDRESSES_MAX).collect()
    }
}

/// Why somebody is sent away: status, code, sentence.
struct No(StatusCode, String, String);

fn no(status: StatusCode, code: &str, message: impl Into<String>) -> No {
    No(status, code.to_owned(), message.into())
}

/// Registers the one path there is.
pub fn service(config: &mut web::ServiceConfig, doors: Doors) {
    config
        .app_data(web::Data::new(doors))
        .app_data(web::Data::new(Mutex::new(Throttle::default())))
        .app_data(web::PayloadConfig::new(BODY_MAX))
        .route(PATH, web::post().to(join));
}

async fn join(
    request: HttpRequest,
    body: web::Bytes,
    doors: web::Data<Doors>,
    throttle: web::Data<Mutex<Throttle>>,
) -> HttpResponse {
    let caller = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
    let now_ms = clock::monotonic_ms();
    let wait_ms = throttle.lock().wait_ms(caller, now_ms);
    let outcome = match wait_ms {
        Some(wait_ms) => {
            let message = format!("too many failed tries from {caller}; wait {} s", wait_ms.div_ceil(1000));
            Err(no(StatusCode::TOO_MANY_REQUESTS, "TooManyTries", message))
        }
        None => {
            let build = request.headers().get(BUILD_HEADER).and_then(|text| text.to_str().ok());
            answer(&body, build, &doors).await
        }
    };
    match outcome {
        Ok(answer) => HttpResponse::Ok().json(answer),
        Err(No(status, code, message)) => {
            if wait_ms.is_none() && status.is_client_error() {
                throttle.lock().failed(caller, now_ms);
            }
            tracing::warn!(%caller, %code, message, "somebody did not join");
            HttpResponse::build(status).json(Refused { code, message })
        }
    }
}

/// `build`: what the newcomer's header says.
async fn answer(body: &[u8], build: Option<&str>, doors: &Doors) -> Result<Answer, No> {
    let malformed = |why: String| no(StatusCode::BAD_REQUEST, "InvalidRequest", why);
    let request: Request = serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
    let (token, secret, admission) = request.check().map_err(malformed)?;
    let internal = |why: String| no(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", why);
    let authority = doors.authority.fingerprint().map_err(|error| internal(error.to_string()))?;
    prove(&request, &authority)?;

    if admission.role == MemberRole::Coordinator {
        let judged = judge_build(build, doors.engine.version());
        judged.map_err(|why| no(StatusCode::CONFLICT, "VersionNotSupported", why.to_string()))?;
    }
    let claim = TokenClaim { token, secret_hash: token::hash(&secret) };
    let role = admission.role;
    let is_replacing = admission.replaces.is_some();
    let (token, admission) = (Some(claim), Box::new(admission));
    let unavailable =
        |error: Unavailable| no(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", format!("{error}; ask again"));
    let reply = if is_replacing {
        members::take_out(&doors.engine, Action::MemberReplace { token, admission }).await
    } else {
        doors.engine.propose(keys::CLUSTER, Action::MemberAdmit { token, admission }).await
    };
    let reply = reply.map_err(unavailable)?;
    let Outcome::MemberAdmitted { member } = reply.map_err(refused)? else {
        return Err(internal("the state answered something else".to_owned()));
    };
    doors.engine.read(|cluster| {
        let missing = || internal("this cluster has no settings".to_owned());
        let settings = cluster.settings().ok_or_else(missing)?;
        let is_coordinator = role == MemberRole::Coordinator;
        let account = cluster.accounts().next().filter(|_| is_coordinator).and_then(|(_, record)| {
            Some(Account { name: record.name.clone(), key: STANDARD.encode(record.keys.first()?) })
        });
        let members = cluster.coordinators().map(|member| Member {
            peer: member.peer.clone(),
            role: member.role,
            name: member.name.clone(),
            addresses: member.addresses.clone(),
            member: member.member,
        });
        Ok(Answer {
            cluster_id: settings.cluster_id.clone(),
            lease_ms: settings.lease_ms,
            ca_certificate: settings.ca_certificate.clone(),
            members: members.collect(),
            member,
            authority: is_coordinator.then(|| Authority::clone(&doors.authority)),
            account,
        })
    })
}

/// A coordinator applies what the others apply. Workers have a protocol of their own with coordinators.
pub(super) fn judge_build(build: Option<&str>, cluster: ClusterVersion) -> Result<(), Unsupported> {
    let told = build.and_then(version::parse_build_text);
    // The builds of before there were versions say nothing.
    let (software, supported) = told.unwrap_or_else(|| ("of this newcomer".to_owned(), version::UNTOLD));
    supported.check(&software, cluster)
}

/// The caller owns the peer id it names, and says so now.
fn prove(request: &Request, authority: &[u8; 32]) -> Result<(), No> {
    let now = clock::wall();
    if now.since_ms(request.date).max(request.date.since_ms(now)) > CLOCK_SKEW_MAX_MS {
        let message = format!("your clock says {}, ours {now}; set the one that is wrong", request.date);
        return Err(no(StatusCode::FORBIDDEN, "ClockSkew", message));
    }
    let proof = || {
        let peer = request.peer.parse().ok()?;
        let (key, signature) =
            (STANDARD.decode(&request.public_key).ok()?, STANDARD.decode(&request.signature).ok()?);
        let statement = request.statement(authority);
        Some(identity::verify(&peer, &key, statement.as_bytes(), &signature))
    };
    if proof() == Some(true) {
        return Ok(());
    }
    let message = format!("the request is not signed by {}, for whom it asks", request.peer);
    Err(no(StatusCode::FORBIDDEN, "IdentityNotProven", message))
}

fn refused(refusal: Refusal) -> No {
    let RefusalCode::Membership(code) = refusal.code else {
        return no(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", refusal.to_string());
    };
    let status = match code {
        MembershipCode::MemberQuotaReached | MembershipCode::MemberRoleMismatch => StatusCode::CONFLICT,
        MembershipCode::MemberNotFound => StatusCode::NOT_FOUND,
        _ if members::waits(refusal.code) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    };
    no(status, &format!("{code:?}"), refusal.detail)
}
