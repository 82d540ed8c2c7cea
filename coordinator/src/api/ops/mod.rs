//! Health and metrics, for people and programs that run the service: `/healthz`, `/readyz`, `/metrics`. Nothing here
//! needs a signature and nothing here names a job or a file.

pub mod applications;
pub mod backup;
pub mod inspect;
pub mod members;
pub mod status;
pub mod storage;
pub mod upgrade;

use super::batch::lookup;
use crate::engine::Engine;
use crate::leadership::Leadership;
use actix_web::{HttpResponse, web};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long `/readyz` waits for a quorum.
const READY_WAIT: Duration = Duration::from_secs(2);
/// Bounds of the request histogram, in seconds: half a millisecond to sixteen seconds.
const SECONDS: [f64; 8] = [0.000_5, 0.002, 0.008, 0.032, 0.128, 0.512, 2.0, 16.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProposalLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    state: &'static str,
}

/// What is counted. One per process, shared by the interfaces.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    proposals: Family<ProposalLabels, Counter>,
    tasks: Family<TaskLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("lote");
        let requests = Family::default();
        let seconds = Histogram::new(SECONDS);
        let proposals = Family::default();
        let tasks = Family::default();
        registry.register("batch_requests", "Batch requests by operation and status", requests.clone());
        registry.register("batch_request_seconds", "Time to answer a Batch request", seconds.clone());
        registry.register("proposals", "Commands proposed for Batch requests, by result", proposals.clone());
        registry.register("tasks", "Tasks of all jobs by state", tasks.clone());
        Metrics { registry, requests, seconds, proposals, tasks }
    }
}

impl Metrics {
    /// A Batch request was answered. `operation` is a name of the table, so that labels stay few.
    pub fn answered(&self, operation: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { operation, status }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A command was proposed, and applied or not.
    pub fn proposed(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.proposals.get_or_create(&ProposalLabels { result }).inc();
    }

    fn text(&self, engine: &Engine) -> Result<String, std::fmt::Error> {
        let totals = engine.read(lookup::task_totals);
        for (state, total) in ["active", "running", "succeeded", "failed"].into_iter().zip(totals) {
            let total = i64::try_from(total).unwrap_or(i64::MAX);
            self.tasks.get_or_create(&TaskLabels { state }).set(total);
        }
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// What these pages show.
#[derive(Debug, Clone)]
pub struct Ops {
    pub engine: Engine,
    pub metrics: Arc<Metrics>,
    pub leadership: watch::Receiver<Leadership>,
}

/// Registers the pages; before anything that takes every path.
pub fn service(config: &mut web::ServiceConfig, ops: Ops) {
    config
        .app_data(web::Data::new(ops))
        .route("/healthz", web::get().to(healthz))
        .route("/readyz", web::get().to(readyz))
        .route("/metrics", web::get().to(metrics));
}

/// The process lives and answers.
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("ok\n")
}

/// Whether writes and reads will be served here: somebody leads, a quorum says so now, and this coordinator applies
/// what the leader has committed by now in a short time.
async fn readyz(ops: web::Data<Ops>) -> HttpResponse {
    let Leadership { term, leader, is_ours } = ops.leadership.borrow().clone();
    if !is_ours && leader.is_none() {
        let why = format!("no leader is known (term {term})\n");
        return HttpResponse::ServiceUnavailable().content_type("text/plain").body(why);
    }
    match tokio::time::timeout(READY_WAIT, ops.engine.linearize()).await {
        Ok(Ok(())) => {
            let role = if is_ours { "leads" } else { "follows" };
            HttpResponse::Ok().content_type("text/plain").body(format!("ready, {role}\n"))
        }
        Ok(Err(error)) => {
            HttpResponse::ServiceUnavailable().content_type("text/plain").body(format!("{error}\n"))
        }
        Err(_) => {
            let why = "no quorum answered in time, or this coordinator is far behind the leader\n";
            HttpResponse::ServiceUnavailable().content_type("text/plain").body(why)
        }
    }
}

async fn metrics(ops: web::Data<Ops>) -> HttpResponse {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match ops.metrics.text(&ops.engine) {
        Ok(text) => HttpResponse::Ok().content_type(TYPE).body(text),
        Err(error) => {
            HttpResponse::InternalServerError().content_type("text/plain").body(format!("{error}\n"))
        }
    }
}
