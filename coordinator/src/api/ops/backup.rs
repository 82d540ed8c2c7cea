//! `/lote/backup/…`: what `lote backup` takes from a running coordinator; signed like a Batch request.
//!
//! The snapshot comes first, then the chunks that its manifests name: a chunk is on disk before its manifest is
//! proposed, and none is collected on any coordinator while a backup asks for some, so whatever the snapshot refers to is
//! there. Everything verifies itself: the
//! snapshot has a hash at its end, a chunk is named by its content.

use super::status::Watch;
use crate::api::batch::{self, BatchApi};
use crate::data::upkeep::Upkeep;
use crate::replication::recover::newest_snapshot;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use lote_shared::chunks::{ChunkId, ChunkStore};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// Asked again after so long, should Raft have been busy with another snapshot.
const ASK_AGAIN_AFTER: u32 = 50;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a snapshot may take.
const LOOKS_MAX: u32 = 30_000;
const PIECE: usize = 256 * 1024;

/// Where the data lie.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The coordinator's folder.
    pub folder: PathBuf,
    /// With those of the other coordinators behind it: each has only a part of them.
    pub chunks: ChunkStore,
    /// Removes nothing meanwhile.
    pub upkeep: Upkeep,
}

/// Registers the pages; the data of [`super::status::service`] must be there too.
pub fn service(config: &mut web::ServiceConfig, sources: Sources) {
    config
        .app_data(web::Data::new(sources))
        .route("/lote/backup/snapshot", web::get().to(snapshot))
        .route("/lote/backup/chunks/{id}", web::get().to(chunk));
}

fn failed(why: impl std::fmt::Display) -> HttpResponse {
    let body = serde_json::json!({ "code": "BackupFailed", "message": { "value": why.to_string() } });
    HttpResponse::ServiceUnavailable().json(body)
}

/// A snapshot with everything that was acknowledged before the call.
async fn snapshot(
    request: HttpRequest,
    watch: web::Data<Watch>,
    sources: web::Data<Sources>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    if let Err(refusal) = batch::admit(&request, &api) {
        return *refusal;
    }
    sources.upkeep.defer().await;
    if let Err(error) = watch.engine.linearize().await {
        return failed(error);
    }
    let wanted = watch.replica.status().applied;
    for look in 0..LOOKS_MAX {
        let status = watch.replica.status();
        if let Some(why) = status.stopped {
            return failed(why);
        }
        if status.snapshot >= wanted {
            let Some(path) = newest_snapshot(&sources.folder) else { continue };
            // A newer one may have taken its place meanwhile; then that is the newest.
            let Ok(file) = std::fs::File::open(&path) else { continue };
            return HttpResponse::Ok().content_type("application/octet-stream").streaming(pieces(file));
        }
        if let Some(why) = status.snapshot_trouble {
            return failed(why);
        }
        if look % ASK_AGAIN_AFTER == 0
            && let Err(error) = watch.replica.snapshot().await
        {
            return failed(error);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    failed("no snapshot was made in time")
}

/// The content of a file, read on threads for blocking work. An open file outlives its name.
fn pieces(file: std::fs::File) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::try_unfold(file, |mut file| async move {
        let read = move || {
            let mut piece = vec![0; PIECE];
            let length = file.read(&mut piece)?;
            piece.truncate(length);
            Ok::<_, std::io::Error>((piece, file))
        };
        let (piece, file) = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)??;
        Ok((!piece.is_empty()).then(|| (Bytes::from(piece), file)))
    })
}

/// A chunk as its file has it, trailer included.
async fn chunk(
    request: HttpRequest,
    path: web::Path<String>,
    sources: web::Data<Sources>,
    api: web::Data<BatchApi>,
) -> HttpResponse {
    if let Err(refusal) = batch::admit(&request, &api) {
        return *refusal;
    }
    let Ok(id) = path.parse::<ChunkId>() else {
        return HttpResponse::BadRequest().content_type("text/plain").body("not the name of a chunk\n");
    };
    sources.upkeep.defer().await;
    // It may lie on other coordinators only, or be damaged here.
    let store = sources.chunks.clone();
    match tokio::task::spawn_blocking(move || store.read(id)).await {
        Ok(Ok((mut bytes, seal))) => {
            bytes.extend_from_slice(&seal.encode());
            HttpResponse::Ok().content_type("application/octet-stream").body(bytes)
        }
        Ok(Err(error)) => failed(format!("chunk {id}: {error}")),
        Err(error) => failed(error),
    }
}
