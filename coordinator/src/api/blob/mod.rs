//! The Azure Blob interface (blob WIRE.md): containers and block blobs.
//!
//! ```text
//!   request ─► address (account, container, blob) ─► operation ─► credentials ─► handler ─► response
//!                                                                                 │  bytes: chunk store
//!                                                                                 └─ records: engine
//! ```
//!
//! Nothing is owned here. A write is acknowledged when its chunks are on stable storage, on two coordinators if there
//! are so many, and its action is committed; a request that breaks off before leaves chunks that nothing refers to,
//! for the collector. Bodies are streamed both ways: an upload holds about three chunks in memory, a download one. All
//! uploads together hold at most [`ROOM_MIB`]; one more waits, and is told to come back if that takes too long.
//!
//! Not implemented, answered with 501 `NotImplemented`: page blobs, snapshots and versions, leases, tags, tiers, queries,
//! setting service properties, statistics, user delegation keys, keys of customers. Ignored: access
//! tiers and encryption scopes of writes, origins of browsers.

pub(crate) mod address;
mod append;
mod backend;
mod batch;
mod blobs;
mod blocks;
mod body;
mod call;
mod containers;
mod copy;
pub(crate) mod error;
pub(crate) mod named;
pub(crate) mod operation;
mod policies;
mod range;
mod respond;
mod structured;
mod sums;
mod xml;

pub use backend::{AccountAccess, Backend};

use crate::data::replicas::{self, Replicas};
use crate::engine::Unavailable;
use crate::state::blobs::{AccessPolicy, Blobs};
use actix_web::web::{Data, Payload, ServiceConfig, to};
use actix_web::{HttpRequest, HttpResponse};
use call::Call;
pub(crate) use call::Head;
use error::Error;
use lote_shared::chunks::{ChunkStore, Manifest};
use lote_shared::model::{AccountId, Timestamp};
use lote_shared::turns::Turns;
use operation::Operation;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What the interface works with; clone freely.
#[derive(Clone)]
pub struct BlobApi {
    pub backend: Arc<dyn Backend>,
    pub chunks: ChunkStore,
    /// The account of requests that name none.
    pub default_account: String,
    /// The time by which dates and expiries of requests are judged.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// The other coordinators' stores; `None` where there is only this one.
    replicas: Option<Replicas>,
    /// Memory of bodies that are being stored, in MiB; who finds none waits.
    room: Arc<Semaphore>,
    /// Whose turn it is to append to a blob.
    appending: Arc<Turns<(AccountId, String, String)>>,
}

/// Most memory for bodies that are being stored, over all requests.
const ROOM_MIB: usize = 256;

impl BlobApi {
    pub fn new(
        backend: Arc<dyn Backend>,
        chunks: ChunkStore,
        default_account: &str,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> BlobApi {
        BlobApi {
            backend,
            chunks,
            default_account: default_account.to_owned(),
            clock: Arc::new(clock),
            replicas: None,
            room: Arc::new(Semaphore::new(ROOM_MIB)),
            appending: Arc::default(),
        }
    }

    /// With other coordinators: content is copied to one of them before it is committed, and what is missing here is
    /// read from them.
    #[must_use]
    pub fn with_replicas(self, replicas: Replicas) -> BlobApi {
        let chunks = self.chunks.with_elsewhere(Arc::new(replicas.clone()));
        BlobApi { chunks, replicas: Some(replicas), ..self }
    }

    /// The stored access policy of this name ([`crate::api::auth::blob::named_policy`]), if the container has it.
    pub async fn policy(
        &self,
        account: AccountId,
        container: Option<&str>,
        name: Option<String>,
    ) -> Result<Option<AccessPolicy>, Unavailable> {
        let (Some(container), Some(name)) = (container, name) else { return Ok(None) };
        // One that was taken away is good nowhere any more.
        self.backend.linearize().await?;
        let find = |blobs: &Blobs| {
            let policies = &blobs.container(account, container).ok()?.policies;
            policies.iter().find(|policy| policy.id == name).cloned()
        };
        Ok(self.backend.read(find).flatten())
    }

    /// Returns once the content, which is durable here, is so on as many coordinators as the cluster promises.
    pub async fn secure(&self, content: &Manifest) -> Result<(), replicas::Error> {
        match &self.replicas {
            Some(replicas) => replicas.secure(&self.chunks, content).await,
            None => Ok(()),
        }
    }
}

/// Makes every path of this application a blob path.
pub fn service(cfg: &mut ServiceConfig, state: BlobApi) {
    cfg.app_data(Data::new(state)).default_service(to(handle));
}

async fn handle(request: HttpRequest, payload: Payload, api: Data<BlobApi>) -> HttpResponse {
    let mut body = body::Body::new(payload);
    let common = respond::Common::of(&request);
    let result = respond_to(&request, &mut body, &api).await;
    match result {
        Ok(response) => common.finish(response),
        Err(error) => {
            // A client that is still sending would otherwise see a broken connection instead of the answer.
            body.drain().await;
            common.refuse(&request, &error, (api.clock)())
        }
    }
}

async fn respond_to(
    request: &HttpRequest,
    body: &mut body::Body,
    api: &BlobApi,
) -> Result<HttpResponse, Error> {
    let (operation, call) = Call::open(Head::of(request), api).await?;
    let is_structured = call.is_structured(operation)?;
    if is_structured && operation != Operation::GetBlob {
        body.decode();
    }
    // What a write stores or finds here already stays until the state knows of it, or never will.
    let _hold = (!request.method().is_safe()).then(|| api.chunks.hold());
    let mut response = match operation {
        Operation::ListContainers => containers::list(&call).await,
        Operation::AccountInfo => containers::account_info(),
        Operation::CreateContainer => containers::create(&call).await,
        Operation::DeleteContainer => containers::delete(&call).await,
        Operation::ContainerProperties => containers::properties(&call).await,
        Operation::SetContainerMetadata => containers::set_metadata(&call).await,
        Operation::ListBlobs => containers::list_blobs(&call).await,
        Operation::PutBlob => blobs::put(&call, body).await,
        Operation::GetBlob => blobs::get(&call).await,
        Operation::BlobProperties => blobs::properties(&call).await,
        Operation::DeleteBlob => blobs::delete(&call).await,
        Operation::SetBlobMetadata => blobs::set_metadata(&call).await,
        Operation::SetBlobProperties => blobs::set_properties(&call).await,
        Operation::PutBlock => blocks::put(&call, body).await,
        Operation::PutBlockList => blocks::commit(&call, body).await,
        Operation::GetBlockList => blocks::list(&call).await,
        Operation::PutAppendBlob => append::create(&call, body).await,
        Operation::AppendBlock => append::append(&call, body).await,
        Operation::AppendBlockFromUrl => append::append_from_url(&call).await,
        Operation::CopyBlob | Operation::CopyBlobFromUrl => copy::copy(&call).await,
        Operation::AbortCopy => Err(error::Code::NoPendingCopyOperation.into()),
        Operation::PutBlobFromUrl => copy::put(&call).await,
        Operation::PutBlockFromUrl => blocks::put_from_url(&call).await,
        Operation::ServiceProperties => containers::service_properties(),
        Operation::GetContainerAcl => policies::get(&call).await,
        Operation::SetContainerAcl => policies::set(&call, body).await,
        Operation::Batch => batch::run(&call, body).await,
    }?;
    if is_structured {
        respond::set(response.headers_mut(), structured::HEADER, structured::VALUE);
    }
    Ok(response)
}

#[cfg(test)]
pub(crate) use tests::rig as test_rig;

#[cfg(test)]
mod tests;
