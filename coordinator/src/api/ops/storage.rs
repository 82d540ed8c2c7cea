//! `/lote/storage`: how the chunks of all coordinators are kept, and `/lote/storage/verify` and `/repair`, which have every
//! one of them begin such a pass. Signed like a Batch request.

use crate::api::batch::{self, BatchApi};
use crate::data::repair;
use crate::data::replicas::Others;
use crate::data::upkeep::Upkeep;
use crate::data::upkeep::asking;
use crate::engine::Engine;
use crate::state::blobs::Blobs;
use actix_web::{HttpRequest, HttpResponse, web};
use futures::future::join_all;
use lote_shared::model::Timestamp;
use lote_shared::network::{Network, PeerId};
use lote_shared::protocol::storage::{Pass, Request, Response, Status, Work};
use serde_json::{Value, json};
use std::time::Duration;

/// A coordinator that takes longer is shown as silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Whom the pages ask.
#[derive(Clone)]
pub struct Stores {
    pub engine: Engine,
    pub network: Network,
    pub others: Others,
    pub upkeep: Upkeep,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

/// Registers the pages; before anything that takes every path.
pub fn service(config: &mut web::ServiceConfig, stores: Stores) {
    config
        .app_data(web::Data::new(stores))
        .route("/lote/storage", web::get().to(status))
        .route("/lote/storage/verify", web::post().to(verify))
        .route("/lote/storage/repair", web::post().to(repair));
}

async fn status(request: HttpRequest, stores: web::Data<Stores>, api: web::Data<BatchApi>) -> HttpResponse {
    if let Err(refusal) = batch::admit(&request, &api) {
        return *refusal;
    }
    HttpResponse::Ok().json(shown(&stores).await)
}

async fn verify(request: HttpRequest, stores: web::Data<Stores>, api: web::Data<BatchApi>) -> HttpResponse {
    begin(&request, &stores, &api, Work::Verify).await
}

async fn repair(request: HttpRequest, stores: web::Data<Stores>, api: web::Data<BatchApi>) -> HttpResponse {
    begin(&request, &stores, &api, Work::Repair).await
}

/// Answers with the state of things from before it began.
async fn begin(request: &HttpRequest, stores: &Stores, api: &BatchApi, work: Work) -> HttpResponse {
    if let Err(refusal) = batch::admit(request, api) {
        return *refusal;
    }
    let before = shown(stores).await;
    stores.upkeep.begin(work);
    let others = (stores.others)();
    join_all(others.iter().map(|peer| ask(&stores.network, *peer, Request::Begin(work)))).await;
    HttpResponse::Accepted().json(before)
}

async fn ask(network: &Network, peer: PeerId, request: Request) -> Option<Response> {
    let asked = tokio::time::timeout(ANSWER_WITHIN, asking::ask(network, peer, &request)).await;
    asked
        .ok()?
        .inspect_err(|error| tracing::debug!(%peer, %error, "a coordinator does not speak of its storage"))
        .ok()
}

async fn shown(stores: &Stores) -> Value {
    let own = stores.network.peer();
    let others = (stores.others)();
    let answers = join_all(others.iter().map(|peer| ask(&stores.network, *peer, Request::Status))).await;
    let mut all = vec![(own, Some(stores.upkeep.status()))];
    all.extend(others.iter().zip(answers).map(|(peer, answer)| match answer {
        Some(Response::Status(status)) => (*peer, Some(*status)),
        _ => (*peer, None),
    }));
    let (files, bytes) = stores.engine.read(|cluster| files(cluster.blobs()));
    let name = |peer: &PeerId| {
        let peer = peer.to_string();
        stores.engine.read(|cluster| cluster.member(&peer).map(|member| member.name.clone()))
    };
    let known: Vec<&Status> = all.iter().filter_map(|(_, status)| status.as_ref()).collect();
    // Everyone counts all references; whoever did so last knows best.
    let newest = known.iter().max_by_key(|status| status.repair.finished_ms);
    let ratio = newest.filter(|status| status.sampled_distinct > 0).map(|status| {
        // With two digits.
        (status.sampled * 100 / status.sampled_distinct) as f64 / 100.0
    });
    let sum = |of: fn(&Status) -> u64| known.iter().map(|status| of(status)).sum::<u64>();
    let most = |of: fn(&Status) -> u64| known.iter().map(|status| of(status)).max();
    json!({
        "files": files,
        "fileBytes": bytes,
        "copies": repair::copies(all.len()),
        "chunks": sum(|status| status.chunks),
        "bytes": sum(|status| status.bytes),
        "unreferencedChunks": sum(|status| status.unreferenced),
        "unreferencedBytes": sum(|status| status.unreferenced_bytes),
        "underReplicated": most(|status| status.under_replicated),
        "lost": most(|status| status.lost),
        "damaged": sum(|status| status.damaged),
        "deduplicationRatio": ratio,
        "coordinators": all.iter().map(|(peer, status)| json!({
            "name": name(peer),
            "peer": peer.to_string(),
            "storage": status.as_ref().map(one),
        })).collect::<Vec<_>>(),
    })
}

/// Blobs and their bytes, whatever they share.
fn files(blobs: &Blobs) -> (usize, u64) {
    (blobs.counts().1, blobs.bytes())
}

fn one(status: &Status) -> Value {
    json!({
        "chunks": status.chunks,
        "bytes": status.bytes,
        "unreferencedChunks": status.unreferenced,
        "unreferencedBytes": status.unreferenced_bytes,
        "collectedChunks": status.collected,
        "collectedBytes": status.collected_bytes,
        "references": status.references,
        "underReplicated": status.under_replicated,
        "lost": status.lost,
        "repaired": status.repaired,
        "damaged": status.damaged,
        "collection": pass(&status.collection),
        "repair": pass(&status.repair),
        "verification": pass(&status.verification),
    })
}

fn pass(pass: &Pass) -> Value {
    let time = |ms: Option<u64>| ms.map(|ms| Timestamp(ms.min(Timestamp::MAX.0)).to_string());
    json!({
        "running": pass.running,
        "started": time(pass.started_ms),
        "finished": time(pass.finished_ms),
        "done": pass.done,
        "total": pass.total,
        "trouble": pass.trouble,
    })
}
