//! The Azure Batch REST interface.
//!
//! ```text
//! request ─► signature ─► api-version ─► operation ─► body ─► handler ─► answer
//!            (auth)       (call)         (operations)         (routes/)
//!                                                 requests/: body → domain type → Action → engine
//!                                    lookup, views, answers/: state → copies → JSON
//! ```
//! One handler takes every path, because the signature covers the raw path and file paths carry encoded slashes; the
//! table of operations does the routing. Nothing is kept here: all state is the engine's. A request that was
//! acknowledged survives whatever the cluster survives; one that was not may have been applied all the same, and
//! every write can be repeated safely.

pub mod answers;
pub mod call;
pub mod errors;
pub mod files;
pub mod json;
pub mod lookup;
pub mod operations;
pub mod requests;
pub mod response;
mod routes;
pub mod schema;
pub mod views;

use super::auth::batch as auth;
use super::auth::token::JobToken;
use super::ops::Metrics;
use crate::clock;
use crate::engine::Engine;
use actix_web::{HttpRequest, HttpResponse, dev, web};
use bytes::{Bytes, BytesMut};
use call::{Call, Query};
use errors::{Code, Error};
use files::NodeFiles;
use futures::StreamExt;
use lote_shared::model::{AccountId, JobId, JobKey, Timestamp};
use operations::Match;
use response::Answer;
use std::sync::Arc;
use std::time::Duration;

/// Largest request body (WIRE.md §13).
pub const BODY_MAX: usize = 1024 * 1024;
/// How much of a refused body is still read, so that the client sees the answer and not a broken connection.
const DRAIN_MAX: usize = 16 * 1024 * 1024;
const DRAIN_WAIT: Duration = Duration::from_secs(5);
/// Longest time a request is worked on (WIRE.md §8: the default and the cap of `timeout`).
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// What the interface needs; clone freely.
#[derive(Clone)]
pub struct BatchApi {
    pub engine: Engine,
    pub files: Arc<dyn NodeFiles>,
    pub metrics: Arc<Metrics>,
    /// Wall-clock time, for the age of signatures and the times in errors; never for anything that is stored.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl std::fmt::Debug for BatchApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BatchApi")
    }
}

impl BatchApi {
    /// With the system's clock.
    pub fn new(engine: Engine, files: Arc<dyn NodeFiles>, metrics: Arc<Metrics>) -> BatchApi {
        BatchApi { engine, files, metrics, clock: Arc::new(clock::wall) }
    }
}

/// Serves every path that nothing before took.
pub fn service(config: &mut web::ServiceConfig, state: BatchApi) {
    config.app_data(web::Data::new(state)).default_service(web::to(handle));
}

async fn handle(request: HttpRequest, payload: web::Payload, api: web::Data<BatchApi>) -> HttpResponse {
    let began = clock::monotonic();
    let mut payload = payload.into_inner();
    let base = base(&request);
    let mut operation = "none";
    let result = answer(&request, &mut payload, &api, &base, &mut operation).await;
    if result.is_err() {
        drain(&mut payload).await;
    }
    let stamp = response::Stamp { base: &base, request: &request, now: (api.clock)() };
    let response = match result {
        Ok(answer) => stamp.answer(answer),
        Err(error) => stamp.refuse(&error),
    };
    api.metrics.answered(operation, response.status().as_u16(), clock::monotonic().saturating_sub(began));
    response
}

async fn answer(
    request: &HttpRequest,
    payload: &mut dev::Payload,
    api: &BatchApi,
    base: &str,
    operation: &mut &'static str,
) -> Result<Answer, Error> {
    let now = (api.clock)();
    let raw_path = request.uri().path();
    let Caller { account, name: account_name, job: own_job } = authenticate(request, api, now)?;
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let version = query.version()?;
    let (route, parameters, prefix) = route(request.method().as_str(), raw_path, &account_name)?;
    *operation = route.name;
    if let Some(job) = own_job {
        check_own_job(api, account, job, raw_path, prefix, &parameters)?;
    }
    let Some(wanted) = route.operation else {
        let detail = format!("The operation `{}` is not implemented by this service.", route.name);
        return Err(Error::new(Code::NotImplemented).because(detail).with("Operation", route.name));
    };
    let body = read_body(request, payload).await?;
    let call = Call {
        api,
        account,
        base: format!("{base}{prefix}"),
        address: format!("{base}{raw_path}"),
        query,
        version,
        headers: request.headers(),
        parameters,
        body,
        now,
    };
    let busy = || Error::new(Code::ServerBusy).because("The request was not done in time.");
    tokio::time::timeout(ANSWER_WAIT, routes::run(wanted, &call, route.success)).await.map_err(|_| busy())?
}

/// The answer to a request that must be signed but is none of the Batch interface; `Ok` is the account.
pub(crate) fn admit(request: &HttpRequest, api: &BatchApi) -> Result<AccountId, Box<HttpResponse>> {
    let now = (api.clock)();
    let caller = authenticate(request, api, now).and_then(|caller| match caller.job {
        None => Ok(caller.account),
        Some(_) => Err(Error::new(Code::InsufficientAccountPermissions)),
    });
    caller.map_err(|error| {
        let base = base(request);
        Box::new(response::Stamp { base: &base, request, now }.refuse(&error))
    })
}

/// Who is behind a request.
struct Caller {
    account: AccountId,
    /// The account's name as written.
    name: String,
    /// Somebody with a task's token, which is good for this job alone.
    job: Option<JobKey>,
}

/// Whoever comes with a task's token may do everything with the task's own job, its tasks and their files, and nothing
/// else (`jobs-and-tasks.md` §9).
fn check_own_job(
    api: &BatchApi,
    account: AccountId,
    own: JobKey,
    path: &str,
    prefix: &str,
    parameters: &[String],
) -> Result<(), Error> {
    let below_jobs = path.strip_prefix(prefix).is_some_and(|path| path.starts_with("/jobs/"));
    let named = parameters.first().filter(|_| below_jobs).and_then(|id| JobId::new(id).ok());
    let is_own = named.is_some_and(|id| {
        api.engine.read(|cluster| cluster.job_by_id(account, &id).is_some_and(|job| job.key == own))
    });
    if is_own { Ok(()) } else { Err(Error::new(Code::InsufficientAccountPermissions)) }
}

fn authenticate(request: &HttpRequest, api: &BatchApi, now: Timestamp) -> Result<Caller, Error> {
    let signed = auth::Request {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or(""),
        headers: request.headers(),
    };
    let refused = |error: auth::Error| match error {
        auth::Error::Malformed(reason) => Error::new(Code::InvalidAuthenticationInfo).with("Reason", reason),
        auth::Error::Failed(detail) => {
            Error::new(Code::AuthenticationFailed).with("AuthenticationErrorDetail", detail)
        }
    };
    if let Some(token) = auth::bearer(&signed)
        && let Some(caller) = api.engine.read(|cluster| {
            let token = JobToken::check(token, cluster)?;
            let name = cluster.account(token.account)?.name.clone();
            Some(Caller { account: token.account, name, job: Some(token.job) })
        })
    {
        return Ok(caller);
    }
    let claim = auth::claim(&signed).map_err(refused)?;
    let account = api.engine.read(|cluster| lookup::account(cluster, claim.account));
    let Some((account, keys)) = account else {
        let detail = "The account in the Authorization header does not exist";
        return Err(refused(auth::Error::Failed(detail.into())));
    };
    auth::verify(&signed, &claim, &keys, now).map_err(refused)?;
    Ok(Caller { account, name: claim.account.to_owned(), job: None })
}

/// The operation, its parameters, and the prefix of the path, which may be the account's name (WIRE.md §2).
fn route<'p>(
    method: &str,
    path: &'p str,
    account: &str,
) -> Result<(&'static operations::Route, Vec<String>, &'p str), Error> {
    let wrong_method = || Error::new(Code::UnsupportedHttpVerb).with("HttpVerb", method);
    match operations::find(method, path) {
        Match::Found(route, parameters) => return Ok((route, parameters, "")),
        Match::WrongMethod => return Err(wrong_method()),
        Match::Nothing => {}
    }
    let nothing = || Error::new(Code::InvalidUri);
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    if !first.eq_ignore_ascii_case(account) {
        return Err(nothing());
    }
    let (prefix, rest) = path.split_at_checked(1 + first.len()).ok_or_else(nothing)?;
    match operations::find(method, rest) {
        Match::Found(route, parameters) => Ok((route, parameters, prefix)),
        Match::WrongMethod => Err(wrong_method()),
        Match::Nothing => Err(nothing()),
    }
}

/// Scheme, host and port as the client used them. A host that is none is not repeated to anybody.
fn base(request: &HttpRequest) -> String {
    let scheme = if request.app_config().secure() { "https" } else { "http" };
    let host = request.headers().get("host").and_then(|host| host.to_str().ok());
    let good = |host: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b);
        !host.is_empty() && host.len() <= 255 && host.bytes().all(allowed)
    };
    format!("{scheme}://{}", host.filter(good).unwrap_or("localhost"))
}

async fn read_body(request: &HttpRequest, payload: &mut dev::Payload) -> Result<Bytes, Error> {
    let too_large = || Error::new(Code::RequestBodyTooLarge).with("MaxLimit", BODY_MAX.to_string());
    let announced = request.headers().get("content-length").and_then(|length| length.to_str().ok());
    let announced = announced.and_then(|length| length.parse::<u64>().ok()).unwrap_or(0);
    if announced > BODY_MAX as u64 {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(part) = payload.next().await {
        let broken = |error: actix_web::error::PayloadError| {
            Error::new(Code::InvalidRequestBody).with("Reason", error.to_string())
        };
        let part = part.map_err(broken)?;
        if body.len() + part.len() > BODY_MAX {
            return Err(too_large());
        }
        if body.is_empty() {
            body.reserve(usize::try_from(announced).unwrap_or(0));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// Takes what a client is still sending off the connection.
async fn drain(payload: &mut dev::Payload) {
    let all = async {
        let mut taken = 0;
        while let Some(Ok(part)) = payload.next().await {
            taken += part.len();
            if taken > DRAIN_MAX {
                break;
            }
        }
    };
    // Whoever sends slower than that loses the connection, which is no harm.
    let _ = tokio::time::timeout(DRAIN_WAIT, all).await;
}

#[cfg(test)]
mod tests;
